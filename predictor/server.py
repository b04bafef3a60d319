"""The only place that wires: settings in, a running server out.

KServe's ModelServer keeps the registry and the data plane; starting and ending are ours, because
the model loads beside a server that already answers its probes, and leaves in an orderly way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc  # type: ignore[import-untyped]
import uvicorn
from kserve import ModelServer
from prometheus_client import REGISTRY, CollectorRegistry

from predictor import __version__
from predictor.align.client import AlignerClient
from predictor.align.process import AlignerProcess
from predictor.api.app import AppOptions, create_admin_app, create_app
from predictor.api.auth import KeyRing
from predictor.api.client_secrets import ClientSecrets
from predictor.api.connections import ConnectionLimits, Connections, fit_to_descriptors
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.give_back import give_back_memory
from predictor.api.grpc_server import AsrServicer, GrpcLimits, create_grpc_server
from predictor.api.held_bytes import HeldBytes
from predictor.api.jobs import JobDoor
from predictor.api.key_file import KeyFile
from predictor.api.realtime import LiveDoor
from predictor.api.spool import Spool
from predictor.api.tls import Certificate
from predictor.audio.cut import split
from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions, CutOptions
from predictor.audio.limits import channel_of
from predictor.audio.vad import load_detector
from predictor.book import Book
from predictor.engine import StepStats
from predictor.jobs.announcer import Announcer
from predictor.jobs.outbound import Outbound, OutboundOptions
from predictor.jobs.runner import JobRunner
from predictor.jobs.store import JobLimits, JobStore
from predictor.live.engine_steps import KeptSteps
from predictor.live.hub import LiveHub
from predictor.live.listener import LiveParts
from predictor.live.options import LiveOptions
from predictor.live.speech_batch import SpeechBatch
from predictor.metrics import Metrics
from predictor.model.checkpoint.identity import ready_text
from predictor.ports import listen
from predictor.processes import num_cpus
from predictor.service.admission import Admission
from predictor.service.aligner import aligner_spec, check_pieces
from predictor.service.loading import Loading
from predictor.service.model import AsrModel, Loaded, ModelOptions
from predictor.service.ready_clip import ready_clip, through_decoder
from predictor.service.transcriber import (
    MAX_SEGMENTS_AT_ONCE,
    Transcriber,
    TranscriberOptions,
)
from predictor.service.word_times import WordTimes
from predictor.settings.preflight import port_problem
from predictor.settings.read import Settings
from predictor.text.cue_lines import SubtitleOptions
from predictor.text.languages import parse_language
from predictor.text.prompt import PromptBuilder

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 65  # longer than the proxies in front, so that they close first
_PING_TIMEOUT_S = 60  # a client's answer may stand behind audio that is not read yet


@dataclass(frozen=True, slots=True)
class Jobs:
    """What works on jobs: none of it is there when no folder is set for them."""

    store: JobStore
    decoder: AudioDecoder
    runner: JobRunner
    sources: Outbound
    webhooks: Outbound
    announcer: Announcer | None


class AsrServer(ModelServer):  # type: ignore[misc]  # KServe is untyped
    """Serves one AsrModel over HTTP and gRPC until SIGTERM or SIGINT."""

    def __init__(
        self,
        settings: Settings,
        model: AsrModel,
        decoder: AudioDecoder,
        metrics: Metrics,
        live: LiveHub,
        engine_lost: Future[None],
        place: PodPlace | None,
        aligner: AlignerProcess | None = None,
        jobs: Jobs | None = None,
    ) -> None:
        """`engine_lost` is done once the engine has gone for good.

        `aligner` is ended with the server.
        """
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            workers=1,
            enable_grpc=settings.enable_grpc,
            grace_period=round(settings.shutdown_grace_s),
        )
        self.settings = settings
        self.model = model
        self.decoder = decoder
        self.metrics = metrics
        self.engine_lost = engine_lost
        self.place = place
        self.jobs = jobs
        self.aligner = aligner
        for name in settings.served_names:
            self.register_model(model, name)
        self.dataplane = AsrDataPlane(self.registered_models, settings.max_items, _cues(settings))
        self.model_repository_extension = ClosedRepository(self.registered_models)
        self.keys = KeyRing(settings.api_keys, _key_file(settings))
        self.live = live
        self.held = HeldBytes(settings.max_pending_bytes)
        self.door = LiveDoor(
            dataplane=self.dataplane,
            hub=live,
            keys=self.keys,
            secrets=ClientSecrets(self.keys),
            max_session_s=settings.max_live_session_s,
            default_language=parse_language(settings.language),
        )
        self.app = create_app(
            self.dataplane,
            self.model_repository_extension,
            metrics,
            self.keys,
            self.door,
            self.held,
            AppOptions(
                max_body_bytes=settings.max_body_bytes,
                request_timeout_s=settings.request_timeout_s,
                client_timeout_s=settings.client_timeout_s,
                cors_origins=settings.cors_origins,
                has_metrics=settings.admin_port is None,
                has_page=settings.enable_page,
                recognize_details=settings.output_format == "json",
            ),
            _spool(settings, place),
            None
            if jobs is None
            else JobDoor(jobs.store, jobs.runner, self.keys, jobs.sources, jobs.webhooks),
        )
        self.certificate = _certificate(settings)
        connections = Connections(
            ConnectionLimits(
                max_connections=fit_to_descriptors(settings.max_connections),
                client_timeout_s=settings.client_timeout_s,
                idle_timeout_s=_KEEP_ALIVE_S,
            )
        )
        self.rest = _RestServer(
            uvicorn.Config(
                self.app,
                http=cast(Any, connections.protocol),
                log_config=None,
                access_log=False,
                lifespan="on",  # where FastAPI sets up tracing, if the environment asks
                timeout_keep_alive=_KEEP_ALIVE_S,
                ws_ping_timeout=_PING_TIMEOUT_S,
                timeout_graceful_shutdown=round(settings.shutdown_grace_s),
            )
        )

        if self.certificate is not None:
            self.rest.config.load()
            self.rest.config.ssl = self.certificate.context
        self.admin = _RestServer(
            uvicorn.Config(
                create_admin_app(self.dataplane, metrics),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )

    def start(self, models: list[AsrModel] | None = None) -> None:
        """Serve until told to stop. Raises what kept the model from loading."""
        with asyncio.Runner(loop_factory=self.rest.config.get_loop_factory()) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        if self.place is not None and self.place.is_late:
            await self._load()
        shared = self.place is not None
        listener = listen(self.settings.host, self.settings.http_port, shared=shared)
        serving = asyncio.create_task(self.rest.serve(sockets=[listener]))
        stop_grpc, grpc_port = await self._start_grpc()
        ports = {"http_port": listener.getsockname()[1], "grpc_port": grpc_port}
        beside = [asyncio.create_task(give_back_memory())]
        if self.settings.admin_port is not None:
            port = self.settings.admin_port
            admin = listen(self.settings.host, port, shared=shared, setting="admin_port")
            ports["admin_port"] = admin.getsockname()[1]
            beside.append(asyncio.create_task(self.admin.serve(sockets=[admin])))
        if self.certificate is not None:
            beside.append(asyncio.create_task(self.certificate.keep_fresh()))
        if self.place is None:
            logger.info("listening", extra={"fields": ports})
        else:
            self.place.tell("listening")
            self.place.when_orphaned(stop.set)
        loading = asyncio.create_task(self._load())
        stopping = asyncio.create_task(stop.wait())
        lost = asyncio.ensure_future(asyncio.wrap_future(self.engine_lost))
        working = asyncio.create_task(self._work_on_jobs(loading))
        try:
            await asyncio.wait({loading, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done():
                loading.result()
                if self.place is None:
                    logger.info("ready")
                else:
                    self.place.book.is_ready()
                    self.place.tell("ready")
                ends: set[asyncio.Future[Any]] = {stopping, serving, lost}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
            await self._end(serving, stop_grpc)
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            if not loading.done():
                # A thread cannot be stopped while it reads weights, and nothing would be lost.
                logger.info("stopped while loading")
                os._exit(0)
            if lost.done():
                raise RuntimeError("the engine has gone and did not come back")

    async def _load(self) -> None:
        if self.model.loaded is not None:  # before it listened
            return
        for decoder in self._decoders():
            await asyncio.to_thread(decoder.start)
        self.model.ready_clip = await through_decoder(self.decoder, self.model.ready_clip)
        await asyncio.to_thread(self.model.load)

    async def _start_grpc(self) -> tuple[Callable[[], asyncio.Future[None]], int | None]:
        if not self.settings.enable_grpc:
            return _nothing, None
        server = self.grpc_server()
        port = self._grpc_port(server)
        await server.start()
        grace_s = self.settings.shutdown_grace_s
        return lambda: asyncio.ensure_future(server.stop(grace_s)), port

    def _grpc_port(self, server: grpc.aio.Server) -> int:
        """Raises OSError that names the setting."""
        host, port = self.settings.host, self.settings.grpc_port
        try:
            if self.certificate is None:
                return int(server.add_insecure_port(f"{host}:{port}"))
            credentials = self.certificate.grpc_credentials()
            return int(server.add_secure_port(f"{host}:{port}", credentials))
        except RuntimeError as error:
            said = port_problem(host, "grpc_port", port) or f"grpc_port={port}: {error}"
            raise OSError(said) from None

    def grpc_server(self) -> grpc.aio.Server:
        """V2 over gRPC, without a port yet."""
        servicer = AsrServicer(
            self.dataplane, self.model_repository_extension, self.metrics, self.door
        )
        limits = GrpcLimits(
            max_message_bytes=self.settings.max_body_bytes,
            client_timeout_s=self.settings.client_timeout_s,
            request_timeout_s=self.settings.request_timeout_s,
            shares_port=self.place is not None,
        )
        return create_grpc_server(servicer, self.held, limits)

    async def _end(
        self, serving: asyncio.Task[None], stop_grpc: Callable[[], asyncio.Future[None]]
    ) -> None:
        """Probes first, then the doors, then what is in flight, then the engine."""
        logger.info("shutting down")
        self.model.drain()
        if self.model.is_serving():
            await asyncio.sleep(self.settings.shutdown_delay_s)
        await self.live.drain(self.settings.shutdown_grace_s)
        self.rest.should_exit = True
        await asyncio.gather(serving, stop_grpc())
        if self.model.loaded is not None:
            await asyncio.to_thread(self.model.stop)
        if self.aligner is not None:
            await asyncio.to_thread(self.aligner.stop)
        for decoder in self._decoders():
            decoder.close()
        if self.jobs is not None:
            self.jobs.store.close()
        logger.info("stopped")

    def _decoders(self) -> list[AudioDecoder]:
        return [self.decoder, *([] if self.jobs is None else [self.jobs.decoder])]

    async def _work_on_jobs(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait({loading})
        if self.jobs is None or self.model.loaded is None:
            return
        transcriber = self.model.loaded.transcriber
        runner, announcer = self.jobs.runner, self.jobs.announcer
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(runner.run(transcriber, lambda a: self.model.count("openai", [a])))
            if announcer is not None:
                tasks.create_task(announcer.run())


class _RestServer(uvicorn.Server):
    """Leaves signals to us: one handler decides the order in which things end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _nothing() -> asyncio.Future[None]:
    return asyncio.ensure_future(asyncio.sleep(0))


@dataclass(frozen=True, slots=True)
class PodPlace:
    """This server as one of several fronts."""

    book: Book
    num_fronts: int
    parent: socket.socket  # the pod, which hears how far we are
    is_late: bool  # the others serve already: listen when ready, not before
    aligner: Path  # where the pod's aligner is reached, if it has one

    def tell(self, what: str) -> None:
        """One line to the pod; if it has gone, `when_orphaned` says so."""
        with contextlib.suppress(OSError):
            self.parent.sendall(what.encode() + b"\n")

    def when_orphaned(self, stop: Callable[[], None]) -> None:
        """Have `stop` called in this event loop if the pod goes without a word."""
        loop = asyncio.get_running_loop()

        def gone() -> None:
            loop.remove_reader(self.parent)
            stop()

        loop.add_reader(self.parent, gone)

    def share(self, whole: int) -> int:
        """This front's part of what the whole pod may have, 1 at least."""
        return max(1, math.ceil(whole / self.num_fronts))


def build_server(
    settings: Settings,
    registry: CollectorRegistry = REGISTRY,
    loading: Loading | None = None,
    place: PodPlace | None = None,
) -> AsrServer:
    """Everything wired, nothing started but `loading`, which otherwise begins with the server.

    KServe's own metrics are in the default `registry`; another one is for tests. `place` is that
    of one front among several.
    """
    metrics = Metrics(registry, is_shared=place is not None)
    engine_lost: Future[None] = Future()
    book = None if place is None else place.book
    share: Callable[[int], int] = (lambda whole: whole) if place is None else place.share
    hub = LiveHub(settings.max_live_sessions, metrics, book)
    num_workers = share(settings.num_decode_workers or max(2, num_cpus() // 2))
    decoder = _decoder(settings, num_workers, settings.max_long_recordings)
    aligner = AlignerProcess() if settings.has_aligner and place is None else None

    def load() -> Loaded:
        begun = loading or Loading(settings)
        if aligner is not None:
            aligner.spawn(aligner_spec(settings))

        def word_times() -> WordTimes | None:
            if not settings.has_aligner:
                return None
            return _word_times(settings, aligner if place is None else place.aligner)

        return _load(settings, metrics, begun, hub, engine_lost, book, word_times)

    model = AsrModel(
        settings.model_name,
        load,
        decoder,
        ready_clip(),
        metrics,
        ModelOptions(settings.request_timeout_s, parse_language(settings.language)),
        is_pod_ready=(lambda: True) if book is None else book.nobody_starts,
    )
    return AsrServer(
        settings, model, decoder, metrics, hub, engine_lost, place, aligner, _jobs(settings)
    )


def _spool(settings: Settings, place: PodPlace | None) -> Spool | None:
    if settings.spool_dir is None:
        return None
    num_bytes = settings.max_spool_bytes
    num_bytes = num_bytes if place is None else place.share(num_bytes)
    return Spool(settings.spool_dir, num_bytes, settings.max_body_bytes)


def _cues(settings: Settings) -> SubtitleOptions:
    return SubtitleOptions(
        max_columns=settings.cue_max_columns,
        max_wide_columns=2 * settings.cue_max_wide_chars,
        max_lines=settings.cue_max_lines,
        min_s=settings.cue_min_s,
        max_s=max(settings.cue_min_s, settings.cue_max_s),
    )


def _decoder(settings: Settings, num_workers: int, num_long: int) -> AudioDecoder:
    return AudioDecoder(
        _audio_limits(settings),
        num_workers=num_workers,
        options=AudioOptions(
            channel=channel_of(settings.audio_channel),
            high_pass_hz=settings.high_pass_hz,
            loudness_lufs=settings.loudness_lufs,
        ),
        cuts=_cut_options(settings),
        num_long=num_long,
        window_s=MAX_SEGMENTS_AT_ONCE * settings.segment_s,
    )


def _jobs(settings: Settings) -> Jobs | None:
    """With a decoder of their own, so that no request waits for a job's recording."""
    if settings.jobs_dir is None:
        return None
    limits = JobLimits(
        settings.max_jobs, settings.max_jobs_bytes, settings.job_ttl_s, settings.job_lease_s
    )
    store, decoder = JobStore(settings.jobs_dir, limits), _decoder(settings, 1, 1)
    sources, webhooks = (
        Outbound(
            OutboundOptions(prefixes, settings.job_private_addresses, settings.job_fetch_timeout_s)
        )
        for prefixes in (settings.job_url_prefixes, settings.job_webhook_prefixes)
    )
    secret = settings.job_webhook_secret
    announcer = Announcer(store, webhooks, secret) if secret else None
    return Jobs(store, decoder, JobRunner(store, decoder, sources), sources, webhooks, announcer)


def _key_file(settings: Settings) -> KeyFile | None:
    return None if settings.api_keys_file is None else KeyFile(settings.api_keys_file)


def _certificate(settings: Settings) -> Certificate | None:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    return Certificate(settings.tls_cert_file, settings.tls_key_file)


def _cut_options(settings: Settings) -> CutOptions:
    return CutOptions(
        segment_s=settings.segment_s,
        vad=settings.vad,  # type: ignore[arg-type]  # one of the setting's choices
        threshold=settings.vad_threshold,
        margin_s=settings.vad_margin_s,
        min_speech_s=settings.vad_min_speech_s,
        min_silence_s=settings.vad_min_silence_s,
    )


def _max_recording_bytes(settings: Settings) -> int:
    on_disk = 0 if settings.spool_dir is None else settings.max_spool_bytes
    return max(settings.max_body_bytes, on_disk)


def _audio_limits(settings: Settings) -> AudioLimits:
    return AudioLimits(
        max_bytes=_max_recording_bytes(settings),
        max_duration_s=settings.max_audio_s,
        max_channels=settings.max_channels,
        max_decoded_values=settings.max_decoded_values,
        decode_timeout_s=settings.decode_timeout_s,
        max_pending_bytes=settings.max_pending_bytes,
    )


def _observer(metrics: Metrics) -> Callable[[StepStats], None]:
    """Called in the engine's thread after each step."""

    def observe(step: StepStats) -> None:
        if step.phase == "decode":
            metrics.batch_size.observe(step.num_seqs)
        for waited_s in step.queue_s:
            metrics.queue_seconds.observe(waited_s)

    return observe


def _load(
    settings: Settings,
    metrics: Metrics,
    loading: Loading,
    hub: LiveHub,
    engine_lost: Future[None],
    book: Book | None,
    word_times: Callable[[], WordTimes | None],
) -> Loaded:
    """Wait for the checkpoint and build what transcribes with it. Slow; runs in a thread."""
    checkpoint = loading.result(_observer(metrics))
    loading.lost.add_done_callback(lambda _: engine_lost.set_result(None))
    tokenizer, engine = checkpoint.tokenizer, checkpoint.made.client
    prompts = PromptBuilder(tokenizer, settings.max_context_tokens)
    options = TranscriberOptions(segment_s=settings.segment_s, word_times=word_times())
    admission = Admission(settings.max_held_audio_s, metrics, book)
    transcriber = Transcriber(engine.submit, split, tokenizer, prompts, options, admission, metrics)
    live = LiveParts(
        prompts=prompts,
        tokenizer=tokenizer,
        new_steps=lambda: KeptSteps(engine.extend, engine.close),
        speech=SpeechBatch(load_detector("silero")),
        options=LiveOptions(),
        metrics=metrics,
    )
    metrics.watch(
        engine.cores,
        lambda: admission.pod_held_audio_s,
        settings.max_held_audio_s,
        lambda: hub.share,
    )
    metrics.model_info.labels(
        model_name=settings.model_name,
        version=__version__,
        checkpoint=_checkpoint_name(settings, checkpoint.folder),
        device=checkpoint.made.device,
        dtype=checkpoint.made.dtype,
        identity=checkpoint.identity.digest,
    ).set(1)
    return Loaded(
        engine,
        transcriber,
        prompts,
        live,
        checkpoint.identity,
        ready_text(checkpoint.folder),
        loading.has_real_weights and settings.check_ready_clip,
        loading.began_s,
    )


def _word_times(settings: Settings, aligner: AlignerProcess | Path | None) -> WordTimes:
    """Wait for the aligner, which is ours or reached at its address.

    Raises RuntimeError and ValueError.
    """
    assert aligner is not None
    if isinstance(aligner, AlignerProcess):
        aligner.wait_loaded()
        aligner = aligner.address
    client = AlignerClient(aligner)
    info = client.wait_ready()
    check_pieces(settings, info)
    return WordTimes(client.times, info.languages, info.max_audio_s)


def _checkpoint_name(settings: Settings, folder: Path) -> str:
    if settings.model_id is None:
        return folder.name
    return f"{settings.model_id}@{settings.model_revision or 'main'}"
