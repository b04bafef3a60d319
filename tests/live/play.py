"""Plays audio into live sessions on a real engine, as fast as it goes; measures what they say."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from predictor.audio.silero import FRAME_SAMPLES
from predictor.audio.vad import SpeechDetector, VadState
from predictor.engine import EngineClient
from predictor.live.engine_steps import KeptSteps, SubmittedSteps
from predictor.live.events import Completed, Event, Partial, SpeechStopped
from predictor.live.options import LiveOptions, SessionConfig
from predictor.live.session import LiveSession
from predictor.live.steps import Outcome, Step, StepEngine
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from tests.live.streams import Stream


@dataclass(frozen=True)
class Ran:
    """One step, when it was asked for in seconds of the stream, and this process's time for it."""

    at_s: float
    step: Step
    outcome: Outcome
    cpu_s: float  # of all threads: only where no other stream runs beside it is it the step's own


@dataclass
class Played:
    """What a session told, each event with the stream's time, and the steps it took."""

    events: list[tuple[float, Event]] = field(default_factory=list)
    steps: list[Ran] = field(default_factory=list)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for _, event in self.events if isinstance(event, kind)]

    @property
    def text(self) -> str:
        return " ".join(event.text for event in self.of(Completed) if event.text)


@dataclass(frozen=True)
class Studio:
    """What a session needs around it."""

    prompts: PromptBuilder
    tokenizer: TextTokenizer
    detector: SpeechDetector


async def play(
    studio: Studio,
    engine: StepEngine,
    samples: np.ndarray,
    options: LiveOptions | None = None,
    config: SessionConfig | None = None,
) -> Played:
    """The whole of `samples`, then a commit of what is left."""
    options, config = options or LiveOptions(), config or SessionConfig()
    session = LiveSession(studio.prompts, studio.tokenizer, options, config)
    played = Played()
    whole = len(samples) // FRAME_SAMPLES * FRAME_SAMPLES
    frames = samples[:whole].reshape(-1, FRAME_SAMPLES)
    # A few seconds at once, which is faster; the probabilities are the same.
    state = VadState.new()
    probabilities: list[float] = []
    for start in range(0, len(frames), 128):
        heard, state = studio.detector.hear(frames[None, start : start + 128], state)
        probabilities += heard[0].tolist()
    for frame, probability in zip(frames, probabilities, strict=True):
        await answer(session, engine, session.hear(frame, probability), played)
    await answer(session, engine, session.commit(), played)
    return played


async def answer(
    session: LiveSession, engine: StepEngine, step: Step | None, played: Played
) -> None:
    """Run a step, if there is one, and note what came of it."""
    if step is not None:
        began_s = time.process_time()
        outcome = await engine.step(step)
        cpu_s = time.process_time() - began_s
        played.steps.append(Ran(session.now_s, step, outcome, cpu_s))
        session.take(outcome)
    played.events += [(session.now_s, event) for event in session.take_events()]


def play_all(
    studio: Studio,
    engine: EngineClient,
    streams: list[Stream],
    *,
    is_kept: bool = True,
    **more: Any,
) -> list[Played]:
    """Several streams beside each other; `is_kept`: their utterances stay in the engine."""

    async def run() -> list[Played]:
        gate = asyncio.Semaphore(16)

        async def one(stream: Stream) -> Played:
            async with gate:
                steps = (
                    KeptSteps(engine.extend, engine.close)
                    if is_kept
                    else SubmittedSteps(engine.submit)
                )
                try:
                    return await play(studio, steps, stream.samples, **more)
                finally:
                    steps.close()

        return list(await asyncio.gather(*map(one, streams)))

    return asyncio.run(run())


def delays_s(stream: Stream, played: Played, *, committed: bool) -> list[float]:
    """Seconds from each word's end until it stood in the shown, or committed, text.

    Words are matched in order by their letters; those that were never heard right do not count.
    """
    found: list[float] = []
    timeline = _timeline(played, committed=committed)
    position = 0
    for word in stream.words:
        letters = _letters(word.word)
        final = timeline[-1][1] if timeline else ""
        at = final.find(letters, position)
        if not letters or at < 0 or at - position > 40:
            continue
        position = at + len(letters)
        prefix = final[:position]
        when = next(time_s for time_s, text in timeline if text[: len(prefix)] == prefix)
        found.append(when - word.end_s)
    return found


def _timeline(played: Played, *, committed: bool) -> list[tuple[float, str]]:
    """The letters that could be read at each event."""
    lines: list[tuple[float, str]] = []
    said = ""
    for time_s, event in played.events:
        if isinstance(event, Partial):
            said += _letters(event.delta)
            lines.append((time_s, said if committed else said + _letters(event.tail)))
    return lines


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def erasure(played: Played) -> float:
    """Characters of the shown text that were taken back, over those of the final text."""
    erased, shown = 0, ""
    said: dict[int, str] = {}
    final = 0
    last_item = 0
    for event in played.of(Partial):
        said[event.item] = said.get(event.item, "") + event.delta
        text = said[event.item] + event.tail
        if event.item != last_item:
            shown, last_item = "", event.item
        common = 0
        while common < min(len(shown), len(text)) and shown[common] == text[common]:
            common += 1
        erased += len(shown) - common
        shown = text
    final = sum(map(len, said.values()))
    return erased / final if final else 0.0


def endpoint_delays_s(stream: Stream, played: Played) -> list[float]:
    """Seconds from the end of the last word before each cut until it was made."""
    ends = np.array([word.end_s for word in stream.words])
    found = []
    for time_s, event in played.events:
        if isinstance(event, SpeechStopped):
            before = ends[ends <= event.at_s + 0.25]
            if len(before):
                found.append(time_s - float(before[-1]))
    return found
