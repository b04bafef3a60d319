"""One session at work: bytes in, the detector and the engine asked, events out.

All of it happens in the order of the audio, one thing after another, so that a slow consumer or a
busy engine slows the reading down and nothing piles up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import numpy as np

from predictor import tracing
from predictor.audio.vad import VadState
from predictor.errors import AsrError, Overloaded
from predictor.live.events import Completed, Event, Failed, Partial, UtteranceEnded, Word
from predictor.live.intake import Intake
from predictor.live.options import LiveOptions, SessionConfig
from predictor.live.session import LiveSession
from predictor.live.speech_batch import MAX_FRAMES, SpeechBatch
from predictor.live.steps import Step, StepEngine
from predictor.live.word_times import FindWords, timed_words
from predictor.metrics import Metrics
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import Samples

_RETRY_S = 0.05
_MAX_RETRIES = 100
_BLOCK_BYTES = 8192  # resampled at once, at some 200 times their size in memory

Emit = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LiveParts:
    """What sessions share once the model is loaded."""

    prompts: PromptBuilder
    tokenizer: TextTokenizer
    new_steps: Callable[[], StepEngine]
    speech: SpeechBatch
    options: LiveOptions
    metrics: Metrics
    find_words: FindWords | None = None  # of an aligner, if one is loaded


class Listener:
    """Runs a LiveSession. Its methods are awaited one after another."""

    def __init__(self, parts: LiveParts, intake: Intake, config: SessionConfig, emit: Emit) -> None:
        """Raises InvalidInput for a context that is too long."""
        self.session = LiveSession(parts.prompts, parts.tokenizer, parts.options, config)
        self._speech = parts.speech
        self._engine = parts.new_steps()
        self._metrics = parts.metrics
        self._emit = emit
        self._intake = intake
        self._vad = VadState.new()
        self._probability = 0.0  # of the last frame
        self._said: dict[int, str] = {}
        self._find_words = parts.find_words
        self._timed: list[Word] = []  # of the item that runs

    def set_intake(self, intake: Intake) -> None:
        """Other bytes from now on."""
        self._intake = intake

    async def hear(self, data: bytes | memoryview, arrived_s: float | None = None) -> None:
        """Take audio bytes, which arrived at `arrived_s` of time.monotonic()."""
        arrived_s = time.monotonic() if arrived_s is None else arrived_s
        if len(data) <= _BLOCK_BYTES:
            await self._hear_frames(self._intake.feed(bytes(data)), arrived_s)
            return
        blocks: list[Samples] = []
        for start in range(0, len(data), _BLOCK_BYTES):
            blocks.append(self._intake.feed(bytes(data[start : start + _BLOCK_BYTES])))
            if sum(map(len, blocks)) >= MAX_FRAMES or start + _BLOCK_BYTES >= len(data):
                await self._hear_frames(np.concatenate(blocks), arrived_s)
                blocks.clear()
            else:
                await asyncio.sleep(0)  # a large message does not hold the loop

    async def _hear_frames(self, frames: Samples, arrived_s: float) -> None:
        for start in range(0, len(frames), MAX_FRAMES):
            block = frames[start : start + MAX_FRAMES]
            probabilities, self._vad = await self._speech.hear(block, self._vad)
            for frame, probability in zip(block, probabilities.tolist(), strict=True):
                self._probability = probability
                step = self.session.hear(frame, probability)
                if step is not None or self.session.has_events:  # one frame in ten, or fewer
                    await self._answer(step, arrived_s)
        self._metrics.live_audio_seconds.inc(frames.size / 16_000)

    async def commit(self) -> bool:
        """End the item that runs; False when there was nothing to end."""
        if len(rest := self._intake.flush()):
            await self._answer(self.session.hear(rest, self._probability), time.monotonic())
        had_any = self.session.has_item or (
            self.session.config.is_manual and self.session.turn_s > 0
        )
        await self._answer(self.session.commit(), time.monotonic())
        return had_any

    async def clear(self) -> None:
        """Forget the audio of the item that runs."""
        self._intake.clear()
        self.session.clear()
        await self._tell()

    def close(self) -> None:
        """Give up what the engine keeps for the session."""
        self._engine.close()

    async def _answer(self, step: Step | None, arrived_s: float) -> None:
        if step is not None:
            kind = "final" if step.is_final else "partial"
            with tracing.span("live_step", kind=kind):
                await self._run(step)
            self._metrics.live_step_seconds.labels(kind=kind).observe(time.monotonic() - arrived_s)
        await self._tell()

    async def _run(self, step: Step) -> None:
        for _ in range(_MAX_RETRIES):
            try:
                outcome = await self._engine.step(step)
            except Overloaded as error:
                if not step.is_final:
                    self._metrics.live_steps_skipped.inc()
                    self.session.skip()
                    return
                refused: AsrError = error
                await asyncio.sleep(_RETRY_S)
            except AsrError as error:
                self.session.fail(error)
                return
            else:
                tokens = self._metrics.live_tokens
                tokens.labels(kind="heard").inc(outcome.num_prompt_tokens + len(step.forced))
                tokens.labels(kind="accepted").inc(outcome.num_accepted)
                tokens.labels(kind="decoded").inc(len(outcome.tokens) - outcome.num_accepted)
                self.session.take(outcome)
                return
        self.session.fail(refused)

    async def _tell(self) -> None:
        for event in self.session.take_events():
            if isinstance(event, UtteranceEnded):
                if self._find_words is not None:
                    self._timed += await timed_words(event, self._find_words)
                continue
            if isinstance(event, Partial):
                self._said[event.item] = self._said.get(event.item, "") + event.delta
            elif isinstance(event, Completed):
                said = self._said.pop(event.item, "")
                if not event.text.startswith(said):
                    self._metrics.live_taken_back.inc()
            if isinstance(event, Completed | Failed):
                self._said.pop(event.item, None)
                timed, self._timed = tuple(self._timed), []
                if isinstance(event, Completed) and timed:
                    event = replace(event, words=timed)
            await self._emit(event)
