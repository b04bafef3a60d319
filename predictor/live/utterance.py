"""One utterance of a live session while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from predictor.growing_samples import GrowingSamples
from predictor.live.hypothesis import Hypothesis
from predictor.live.options import SessionConfig
from predictor.live.steps import Outcome
from predictor.text.prompt import Prompt


@dataclass(slots=True)
class Utterance:
    """What runs between two pauses; positions are samples of the session's clock."""

    number: int
    begin: int
    speech_start: int
    config: SessionConfig  # as it was when it began
    prompt: Prompt
    hypothesis: Hypothesis
    next_step: int  # where the model looks again
    audio: GrowingSamples  # from `begin` on
    num_heard: int = 0  # samples that the last step had
    last: Outcome | None = None  # of the last step
    goes_on: bool = False  # it was cut while somebody spoke
    ends_item: bool = False
    is_resumed: bool = False  # its context has what was said before the session

    @property
    def is_redone(self) -> bool:
        """Whether its last step forces nothing."""
        return self.config.final_redecode
