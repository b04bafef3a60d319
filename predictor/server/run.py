"""A server's life: load beside the probes, serve, and end in order.

KServe's ModelServer keeps the registry and the data plane; starting and ending are ours, because
the model loads beside a server that already answers its probes, and leaves in an orderly way.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import grpc  # type: ignore[import-untyped]
from kserve import ModelServer

from predictor.align.process import AlignerProcess
from predictor.api.dataplane import AsrDataPlane, ClosedRepository
from predictor.api.spool import Spool
from predictor.audio.decode import AudioDecoder
from predictor.live.hub import LiveHub
from predictor.metrics import Metrics
from predictor.server import queue_proxy
from predictor.server.doors import Behind, Doors
from predictor.server.jobs import Jobs
from predictor.server.place import PodPlace
from predictor.service.model import AsrModel
from predictor.service.ready_clip import through_decoder
from predictor.settings.fields import Settings
from predictor.text.cue_lines import SubtitleOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of; all of it ends with the server."""

    model: AsrModel
    decoder: AudioDecoder
    metrics: Metrics
    live: LiveHub
    engine_lost: Future[None]  # done once the engine has gone for good
    place: PodPlace | None  # among the fronts of a pod
    aligner: AlignerProcess | None
    jobs: Jobs | None
    spool: Spool | None
    cues: SubtitleOptions  # of subtitles for which no others are asked


class AsrServer(ModelServer):  # type: ignore[misc]  # KServe is untyped
    """Serves one AsrModel over HTTP and gRPC until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(
            http_port=settings.http_port,
            grpc_port=settings.grpc_port,
            workers=1,
            enable_grpc=settings.enable_grpc,
            grace_period=round(settings.shutdown_grace_s),
        )
        self.settings = settings
        self.model = parts.model
        self.decoder = parts.decoder
        self.place = parts.place
        self._parts = parts
        for name in settings.served_names:
            self.register_model(parts.model, name)
        self.dataplane = AsrDataPlane(self.registered_models, settings.max_items, parts.cues)
        self.model_repository_extension = ClosedRepository(self.registered_models)
        behind = Behind(
            self.dataplane,
            self.model_repository_extension,
            parts.metrics,
            parts.live,
            parts.jobs,
            parts.spool,
        )
        self.doors = Doors(settings, behind, shares_ports=parts.place is not None)
        self.app = self.doors.app

    def grpc_server(self) -> grpc.aio.Server:
        """V2 over gRPC, without a port yet."""
        return self.doors.grpc_server()

    def start(self, models: list[AsrModel] | None = None) -> None:
        """Serve until told to stop. Raises what kept the model from loading."""
        with asyncio.Runner(loop_factory=self.doors.new_loop()) as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop.set)
        if self.place is not None and self.place.is_late:
            await self._load()
        ports = await self.doors.open()
        if self.place is None:
            logger.info("listening", extra={"fields": ports})
        else:
            self.place.tell("listening")
            self.place.when_orphaned(stop.set)
        loading = asyncio.create_task(self._load())
        working = asyncio.create_task(self._work_on_jobs(loading))
        watching = asyncio.create_task(self._end_live_sessions_in_time())
        lost = asyncio.ensure_future(asyncio.wrap_future(self._parts.engine_lost))
        try:
            await self._serve(loading, asyncio.create_task(stop.wait()), lost)
        finally:
            working.cancel()
            watching.cancel()
            await asyncio.gather(working, watching, return_exceptions=True)
            await self._end()
            if not loading.done():
                # A thread cannot be stopped while it reads weights, and nothing would be lost.
                logger.info("stopped while loading")
                os._exit(0)
            if lost.done():
                raise RuntimeError("the engine has gone and did not come back")

    async def _serve(
        self, loading: asyncio.Task[None], stopping: asyncio.Task[Any], lost: asyncio.Future[None]
    ) -> None:
        """Until it is time to end. Raises what kept the model from loading."""
        serving = self.doors.serving
        await asyncio.wait({loading, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            return
        loading.result()
        if self.place is None:
            logger.info("ready")
        else:
            self.place.book.is_ready()
            self.place.tell("ready")
        ends: set[asyncio.Future[Any]] = {stopping, serving, lost}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)

    async def _load(self) -> None:
        if self.model.loaded is not None:  # before it listened
            return
        began_s = time.monotonic()
        for decoder in self._decoders():
            await asyncio.to_thread(decoder.start)
        self._parts.metrics.start_seconds.labels(phase="decoders").set(time.monotonic() - began_s)
        self.model.ready_clip = await through_decoder(self.decoder, self.model.ready_clip)
        await asyncio.to_thread(self.model.load)
        self.model.read_in(asyncio.get_running_loop())

    async def _end(self) -> None:
        """Probes first, then the doors, then what is in flight, then the engine."""
        parts, settings = self._parts, self.settings
        logger.info("shutting down")
        self.model.drain()
        if self.model.is_serving():
            await asyncio.sleep(settings.shutdown_delay_s)
        await parts.live.drain(settings.shutdown_grace_s)
        await self.doors.close()
        if self.model.loaded is not None:
            await asyncio.to_thread(self.model.stop)
        if parts.aligner is not None:
            await asyncio.to_thread(parts.aligner.stop)
        for decoder in self._decoders():
            decoder.close()
        if parts.jobs is not None:
            parts.jobs.store.close()
        logger.info("stopped")
        await self.doors.close_admin()

    async def _end_live_sessions_in_time(self) -> None:
        """Knative's queue-proxy would cut them before we are told to stop."""
        port = queue_proxy.port_beside_us(os.environ)
        if port is None:
            return
        live = self._parts.live
        await queue_proxy.until_draining(port, lambda: live.num_sessions > 0)
        logger.info("live sessions end: Knative's queue-proxy drains")
        await live.drain(self.settings.shutdown_grace_s)

    def _decoders(self) -> list[AudioDecoder]:
        jobs = self._parts.jobs
        return [self.decoder, *([] if jobs is None else [jobs.decoder])]

    async def _work_on_jobs(self, loading: asyncio.Task[None]) -> None:
        await asyncio.wait({loading})
        jobs = self._parts.jobs
        if jobs is None or self.model.loaded is None:
            return
        transcriber = self.model.loaded.transcriber
        async with asyncio.TaskGroup() as tasks:
            run = jobs.runner.run(transcriber, lambda a: self.model.count("openai", [a]))
            tasks.create_task(run)
            if jobs.announcer is not None:
                tasks.create_task(jobs.announcer.run())
