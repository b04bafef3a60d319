"""The KServe Model: preprocess looks at the recordings, predict decodes and transcribes them while
they are decoded, postprocess renders the answer.

Routes of every protocol hand it a `Call`; how a call looks on the wire stays in `predictor.api`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from kserve import Model
from kserve.model import InferenceVerb

from predictor.audio.decode import AudioDecoder, AudioOptions, CutOptions, Source
from predictor.errors import InvalidInput, NotReady
from predictor.live.listener import LiveParts
from predictor.logs import note
from predictor.metrics import EngineGauges, Metrics
from predictor.model.checkpoint.identity import Identity
from predictor.service.answer_counts import AnswerCounts
from predictor.service.calls import Call, Recording
from predictor.service.deadline import Deadline
from predictor.service.hooks import Hooks
from predictor.service.ready_clip import check_ready
from predictor.service.recordings import RecordingRunner, Task
from predictor.service.transcriber import Transcriber
from predictor.text.prompt import PromptBuilder
from predictor.types import Samples, Segment, TextRequest, TranscribeRequest, Transcription

logger = logging.getLogger(__name__)


class EngineHandle(Protocol):
    """What the service asks of the engine besides tokens."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def read_in(self, loop: asyncio.AbstractEventLoop) -> None: ...
    def is_alive(self) -> bool: ...
    def is_serving(self) -> bool: ...
    def stats(self) -> EngineGauges: ...


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a checkpoint gives."""

    engine: EngineHandle
    transcriber: Transcriber
    prompts: PromptBuilder
    live: LiveParts
    identity: Identity
    ready_text: str | None  # what the model must say of the built-in clip, if the checkpoint tells
    has_real_weights: bool = True  # if not, anything may be said of it
    began_s: float | None = None  # time.monotonic(), where it began before `load` was called


@dataclass(frozen=True, slots=True)
class _Prepared:
    call: Call
    transcriber: Transcriber
    tasks: list[Task]
    deadline: Deadline


@dataclass(frozen=True, slots=True)
class _Answered:
    call: Call
    answers: list[Transcription]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What an operator may change about the model's answers."""

    request_timeout_s: float
    language: str | None = None  # forced when a request gives none; None = detect
    log_text: bool = False  # what was said goes into the request's line of the log


class AsrModel(Model):  # type: ignore[misc]  # KServe is untyped
    """Loads once, in a thread of the caller's; ready only after it transcribed `ready_clip`."""

    def __init__(
        self,
        name: str,
        load_engine: Callable[[], Loaded],
        decoder: AudioDecoder,
        ready_clip: Samples,
        metrics: Metrics,
        options: ModelOptions,
        is_pod_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """`is_pod_ready`: whether the other fronts of the pod, if there are any, are ready."""
        super().__init__(name)
        self._load_engine = load_engine
        self._decoder = decoder
        self._runner = RecordingRunner(decoder)
        self.ready_clip = ready_clip
        self._metrics = metrics
        self._hooks = Hooks(self)
        self._counts = AnswerCounts(metrics, with_text=options.log_text)
        self._options = options
        self._is_pod_ready = is_pod_ready
        self._load_lock = threading.Lock()
        self.loaded: Loaded | None = None  # set once the model is ready
        self._draining = False
        self._stopped = False

    def load(self) -> bool:
        """Load the checkpoint, start the engine, transcribe the built-in clip. Blocks; idempotent.

        Raises whatever keeps the model from working, RuntimeError for an answer that is no number.
        """
        with self._load_lock:
            if self.loaded is None and not self._stopped:
                began_s = time.monotonic()
                loaded = self._load_engine()
                began_s = began_s if loaded.began_s is None else loaded.began_s
                loaded.engine.start()
                clip_began_s = time.monotonic()
                try:
                    self._warm_up(loaded)
                except BaseException:
                    loaded.engine.stop()
                    raise
                self.loaded = loaded
                now_s = time.monotonic()
                self._metrics.start_seconds.labels(phase="clip").set(now_s - clip_began_s)
                self._metrics.model_load_seconds.set(now_s - began_s)
                self._metrics.engine_alive.set_function(lambda: float(self.alive()))
                self._metrics.model_ready.set_function(lambda: float(self.is_ready()))
                self.ready = True
        return bool(self.ready)

    def _warm_up(self, loaded: Loaded) -> None:
        request = TranscribeRequest(self.ready_clip)
        [answer] = asyncio.run(loaded.transcriber.transcribe([request]))
        if loaded.has_real_weights:
            check_ready(answer, loaded.ready_text)
        logger.info(
            "the built-in clip was transcribed",
            extra={"fields": {"finish_reason": answer.finish_reason}},
        )

    def read_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Once it is loaded: let the event loop that waits for the engine's tokens read them."""
        if self.loaded is not None:
            self.loaded.engine.read_in(loop)

    def start(self) -> None:
        """KServe's hook would call the model ready; it is ready when `load` says so."""

    def drain(self) -> None:
        """Tell the probes to send no more requests; those that still come are answered."""
        self._draining = True

    def stop(self) -> None:
        """Refuse new requests and stop the engine; requests in flight end with NotReady."""
        self._stopped = True
        self.ready = False
        with self._load_lock:
            if self.loaded is not None:
                self.loaded.engine.stop()

    @property
    def identity(self) -> Identity | None:
        """Which weights are served; None while they are loading."""
        return None if self.loaded is None else self.loaded.identity

    def is_serving(self) -> bool:
        """Whether a request would be taken now."""
        return bool(self.ready) and self.loaded is not None and self.loaded.engine.is_serving()

    def is_ready(self) -> bool:
        """Whether requests should be sent here: it serves, and is not about to end."""
        return self.is_serving() and not self._draining and self._is_pod_ready()

    async def healthy(self) -> bool:
        """KServe's readiness."""
        return self.is_ready()

    def alive(self) -> bool:
        """False once the engine cannot work again by itself; a model that is loading is alive."""
        return self._stopped or self.loaded is None or self.loaded.engine.is_alive()

    def check_room(self) -> None:
        """Before a request is read. Raises Overloaded when it would be refused anyway."""
        if self.loaded is not None:
            self.loaded.transcriber.admission.check_room()

    def token_bytes(self, token_id: int) -> bytes:
        """UTF-8 bytes of one token of an answer. Raises NotReady."""
        return self._serving().transcriber.token_bytes(token_id)

    async def __call__(
        self,
        body: Call,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[Any, dict[str, str]]:
        """The three hooks, one after the other. Raises what they raise."""
        if verb != InferenceVerb.PREDICT:
            raise NotImplementedError(verb)
        return await self._hooks.call(body, headers), {}

    async def preprocess(self, payload: Call, headers: dict[str, str] | None = None) -> _Prepared:
        """Look at every recording, decode none. Raises InvalidInput naming the first bad item."""
        loaded = self._serving()
        deadline = Deadline.of(headers, self._options.request_timeout_s)
        tasks = []
        for index, recording in enumerate(payload.recordings):
            try:
                tasks.append(self._task(loaded, recording))
            except InvalidInput as error:
                raise (error.at(index) if payload.indexed else error) from error
        return _Prepared(payload, loaded.transcriber, tasks, deadline)

    def task(self, recording: Recording) -> Task:
        """One recording, looked at as `preprocess` does. Raises InvalidInput, NotReady."""
        return self._task(self._serving(), recording)

    def asked(self, recording: Recording) -> tuple[TextRequest, AudioOptions, CutOptions]:
        """What is asked of a recording that is not there yet. Raises InvalidInput, NotReady."""
        return self._text(self._serving(), recording), *self._hearing(recording)

    def _task(self, loaded: Loaded, recording: Recording) -> Task:
        text = self._text(loaded, recording)
        return Task(self._source(recording), text)

    def _text(self, loaded: Loaded, recording: Recording) -> TextRequest:
        loaded.prompts.check_context(recording.context, field=recording.context_field)
        language = recording.language or self._options.language
        text = TextRequest(
            language,
            recording.context,
            with_words=recording.with_words,
            for_cues=recording.for_cues,
            said=recording.said,
            draft=recording.draft,
        )
        loaded.transcriber.check_words(text, field=recording.words_field)
        return text

    async def predict(
        self,
        payload: _Prepared,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> _Answered:
        """Decode and transcribe. Raises InvalidInput, Overloaded, NotReady, DeadlineExceeded."""
        try:
            began_s = time.monotonic()
            async with payload.deadline.kept():
                answers = await self._runner.run(payload.transcriber, payload.tasks)
        except InvalidInput as error:
            if payload.call.indexed:
                raise
            raise error.without_index() from error
        note(transcribe_s=round(time.monotonic() - began_s, 4))
        return _Answered(payload.call, answers)

    async def postprocess(
        self,
        result: _Answered,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> Any:
        """The answer as the call's protocol says it."""
        self._counts.note(result.answers)
        # The answer does not wait for the metrics: they count when this has given way to others.
        loop = asyncio.get_running_loop()
        loop.call_soon(self._counts.count, result.call.protocol, result.answers)
        return result.call.render(result.answers)

    async def transcribe_stream(
        self, call: Call, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[str | Segment | Transcription]:
        """Text as it becomes certain, each segment as it ends, then the whole answer, for a call of
        one recording.

        Raises like the hooks do, the first errors before the first item.
        """
        prepared = await self.preprocess(call, headers)
        [task] = prepared.tasks
        async with aclosing(self._runner.stream(prepared.transcriber, task)) as events:
            while True:
                try:
                    async with prepared.deadline.kept():
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                if isinstance(event, Transcription):
                    self.count(call.protocol, [event])
                yield event

    def _serving(self) -> Loaded:
        if self.loaded is None or not self.is_serving():
            state = "shutting down" if self._stopped else "loading"
            raise NotReady(f"model {self.name} is {state}, try again soon")
        return self.loaded

    def _hearing(self, recording: Recording) -> tuple[AudioOptions, CutOptions]:
        options = recording.hearing.options(self._decoder.options)
        cuts = recording.hearing.cuts(self._decoder.cuts)
        longest_s = self._decoder.cuts.segment_s
        if cuts.segment_s > longest_s:
            raise InvalidInput(
                f"segment_s: {cuts.segment_s:g} is more than this server's {longest_s:g}",
                field="segment_s",
                value=cuts.segment_s,
                limit=longest_s,
            )
        return options, cuts

    def _source(self, recording: Recording) -> Source:
        options, cuts = self._hearing(recording)
        if recording.waveform is not None:
            return self._decoder.waveform_source(
                recording.waveform,
                recording.sample_rate_hz,
                field=recording.field,
                options=options,
                cuts=cuts,
            )
        return self._decoder.source(
            recording.data or b"",
            content_type=recording.content_type,
            field=recording.field,
            options=options,
            cuts=cuts,
        )

    def count(self, protocol: str, answers: Sequence[Transcription]) -> None:
        """Answers that were given, for the metrics and the request's line of the log."""
        self._counts.note(answers)
        self._counts.count(protocol, answers)
