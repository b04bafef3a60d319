"""What a session asks of the engine, and what it gets back; plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from predictor.text.prompt import Prompt
from predictor.types import EngineFinish, Samples


@dataclass(frozen=True, slots=True)
class Step:
    """One look at an utterance: all of its audio so far, and its text so far."""

    utterance: int  # number within the session; another one means other audio
    samples: Samples  # [n] 16 kHz, of the whole utterance
    num_heard: int  # of `samples`, that an earlier step of the utterance had already
    prompt: Prompt
    forced: tuple[int, ...]  # committed tokens
    draft: tuple[int, ...]  # expected to follow; the outcome does not depend on it
    max_new_tokens: int  # after `forced`
    is_final: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """The greedy answer behind the forced tokens."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: EngineFinish
    num_accepted: int = 0  # of the draft
    num_audio_tokens: int = 0
    num_prompt_tokens: int = 0  # audio included, without forced tokens


class StepEngine(Protocol):
    """Runs the steps of one session, one at a time."""

    async def step(self, step: Step) -> Outcome:
        """Raises an AsrError: Overloaded, NotReady, InternalError."""
        ...

    def close(self) -> None:
        """Give up what is kept for the session. Harmless to call twice."""
        ...
