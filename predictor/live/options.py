"""What can be set about a live session, and why each default is what it is.

The defaults are those of a study with the evaluation set: see the README's section on live speech.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from predictor.errors import InvalidInput

FRAME_SAMPLES = 512  # of the speech detector, 32 ms at 16 kHz: the grain of the session's clock


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What holds for all sessions of a server. Seconds are seconds of audio."""

    header_s: float = 1.0  # of speech before a detected language is committed
    first_step_s: float = 0.5  # of speech before the first look
    detector_warm_up_s: float = (
        0.5  # of a session: who speaks at once is noticed late, so all counts
    )
    max_silence_s: float = 0.3  # after speech, given to the model: more makes it forget
    shrink_from_s: float = 6.0  # of utterance, from where shorter and shorter pauses end it
    shrink_to_s: float = 16.0  # of utterance, from where `min_pause_s` ends it
    min_pause_s: float = 0.1
    max_utterance_s: float = 24.0  # cut here if there was no pause at all
    max_tokens_per_audio_s: float = 16.0


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """When an utterance begins and ends, by the probability of speech in 32 ms frames."""

    threshold: float = 0.5  # speech begins at or above it, and ends 0.15 below
    lead_in_s: float = 0.2  # of audio before the first frame of speech
    pause_s: float = 0.5  # of silence that ends an utterance

    def __post_init__(self) -> None:
        """Raises InvalidInput naming OpenAI's fields."""
        _within("turn_detection.threshold", self.threshold, 0.0, 1.0)
        _within("turn_detection.prefix_padding_ms", self.lead_in_s * 1000, 0, 2000)
        _within("turn_detection.silence_duration_ms", self.pause_s * 1000, 100, 5000)


def _within(field: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(
            f"{field}: {value:g} is not within {low:g} and {high:g}",
            field=field,
            value=value,
            limit=[low, high],
        )


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """What a client may change while the session runs; holds from the next utterance on."""

    language: str | None = None  # canonical name; None = detected for each utterance
    context: str = ""  # hot words, or any text that helps
    turns: TurnDetection = field(default_factory=TurnDetection)
    is_manual: bool = False  # an item ends when the client says so, and not at a pause
    step_s: float = 0.5  # of speech between two looks
    agreement_s: float = 0.5  # hypotheses this far apart must agree on what is committed
    # The text of a finished utterance may differ from what was committed, by being decoded anew.
    final_redecode: bool = False
    resumed_text: str = ""  # what was said just before the session's first utterance

    @property
    def num_agreeing(self) -> int:
        """Hypotheses in a row that must share a token before it is committed."""
        return 1 + math.ceil(round(self.agreement_s / self.step_s, 6))
