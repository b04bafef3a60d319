"""Transcription in this process: the server's own parts without its doors."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from prometheus_client import CollectorRegistry

from predictor.cli.errors import FAILED, CliError
from predictor.cli.recognizer import RecordingError, Told
from predictor.errors import AsrError, Overloaded, PayloadTooLarge
from predictor.logs import configure_logging
from predictor.service.calls import Call, Recording
from predictor.settings.fields import Settings
from predictor.types import EngineRequest, Segment, Transcription

if TYPE_CHECKING:
    from predictor.engine import EngineClient
    from predictor.service.model import Loaded
    from predictor.text.cue_lines import SubtitleOptions
    from predictor.text.prompt import Prompt

T = TypeVar("T")


class LocalRecognizer:
    """Loads the checkpoint when it is entered. Raises CliError when that fails."""

    def __init__(
        self, settings: Settings, *, language: str | None, context: str, for_cues: bool = False
    ) -> None:
        """`language` is a canonical name or None; `for_cues`: the answers become subtitles."""
        configure_logging(settings.log_format, settings.log_level)
        self._settings = settings
        self._language = language
        self._for_cues = for_cues
        self._context = context
        # KServe parses sys.argv while it is imported.
        sys.argv[1:] = []
        from predictor.server import build_server

        self._server = build_server(settings, CollectorRegistry())
        self._loop = asyncio.new_event_loop()
        self._running: set[Future[Transcription]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="local", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._server.decoder.start()
            self._server.model.load()
        except Exception as error:
            logging.getLogger(__name__).debug("loading failed", exc_info=error)
            raise CliError(f"the checkpoint cannot be loaded: {error}", FAILED) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for running in list(self._running):  # after Ctrl-C, whoever waits for them must not go on
            running.cancel()
        self._server.model.stop()
        self._server.decoder.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def cues(self) -> SubtitleOptions:
        """As the settings have them."""
        from predictor.server.build import cue_options

        return cue_options(self._settings)

    def transcribe(self, data: bytes, name: str, told: Told | None = None) -> Transcription:
        """The answer for an encoded recording. Raises RecordingError."""
        recording = Recording(
            data=data,
            field=name,
            language=self._language,
            context=self._context,
            for_cues=self._for_cues,
        )
        call = Call("recognize", (recording,), lambda answers: answers[0])
        running = asyncio.run_coroutine_threadsafe(self._call(call, told), self._loop)
        self._running.add(running)
        try:
            return running.result()
        finally:
            self._running.discard(running)

    def answer(self, request: EngineRequest) -> tuple[list[int], list[float]]:
        """The engine's own answer: tokens and their log-probabilities. Raises AsrError."""
        return asyncio.run_coroutine_threadsafe(self._answer(request), self._loop).result()

    def with_engine(self, work: Callable[[EngineClient], Coroutine[Any, Any, T]]) -> T:
        """What `work` gives, which may send the engine many requests at once."""
        return asyncio.run_coroutine_threadsafe(work(self._engine()), self._loop).result()

    def prompt(self) -> Prompt:
        """That of a request without context and language."""
        return self._loaded().prompts.build()

    def _loaded(self) -> Loaded:
        loaded = self._server.model.loaded
        assert loaded is not None
        return loaded

    def _engine(self) -> EngineClient:
        return cast("EngineClient", self._loaded().engine)

    async def _answer(self, request: EngineRequest) -> tuple[list[int], list[float]]:
        engine = self._engine()
        tokens: list[int] = []
        logprobs: list[float] = []
        async for chunk in engine.submit(request):
            tokens += chunk.token_ids
            logprobs += chunk.logprobs
        return tokens, logprobs

    async def _call(self, call: Call, told: Told | None) -> Transcription:
        while True:
            try:
                return await self._heard(call, told)
            except Overloaded as error:  # by our own other recordings
                await asyncio.sleep(error.retry_after_s)
            except PayloadTooLarge as error:
                hint = "ffmpeg -i FILE -vn -ac 1 SMALLER.flac takes the sound alone"
                raise RecordingError(f"{error.message}; {hint}") from error
            except AsrError as error:
                raise RecordingError(error.message) from error

    async def _heard(self, call: Call, told: Told | None) -> Transcription:
        """Segment by segment, so that a long recording's progress shows. Raises AsrError."""
        model = self._server.model
        stated_s = model.task(call.recordings[0]).source.stated_s if told is not None else None
        async with aclosing(model.transcribe_stream(call)) as events:
            async for event in events:
                if isinstance(event, Transcription):
                    return event
                if isinstance(event, Segment) and told is not None:
                    told(event.end_s, stated_s)
        raise AssertionError("a stream ends with its transcription")
