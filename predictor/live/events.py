"""What a live session tells: plain data, which each protocol says in its own words.

An item is what a client sees as one message: an utterance, or all utterances of a manual turn.
Times are seconds of the session's audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from predictor.errors import AsrError
from predictor.types import Samples


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it stands in the text, with the space before it, and how sure the model is."""

    text: str
    confidence: float  # 0..1, geometric mean over its tokens
    start_s: float | None = None  # None where no aligner told
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the text; `data` may be a part of a character."""

    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody begins to speak."""

    item: int
    at_s: float


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    """A pause, or the longest utterance, ended it."""

    item: int
    at_s: float


@dataclass(frozen=True, slots=True)
class Committed:
    """The item's audio is complete; its text follows."""

    item: int


@dataclass(frozen=True, slots=True)
class Partial:
    """What one step added to the text that stays, and the text behind it that may still change."""

    item: int
    delta: str  # never taken back; may be empty
    tokens: tuple[ScoredToken, ...]  # of the delta
    delta_words: tuple[Word, ...]
    tail: str
    tail_words: tuple[Word, ...]
    language: str | None  # as it is now
    at_s: float  # the audio that was heard for it ends here


@dataclass(frozen=True, slots=True)
class Completed:
    """All of an item's text: the deltas joined, unless `final_redecode` is set."""

    item: int
    text: str
    language: str | None
    confidence: float
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    num_audio_tokens: int
    num_prompt_tokens: int  # text only
    num_completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The item ends without the rest of its text."""

    item: int
    error: AsrError


@dataclass(frozen=True, slots=True)
class UtteranceEnded:
    """For whoever wants more of an utterance than its text; no client is told."""

    item: int
    samples: Samples  # [n] 16 kHz, as the model heard it
    start_s: float
    text: str
    language: str | None
    words: tuple[Word, ...]  # of the text, in order


Event: TypeAlias = SpeechStarted | SpeechStopped | Committed | Partial | Completed | Failed
