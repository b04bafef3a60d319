"""Steps of live sessions as a real checkpoint would have them, on random weights.

Random weights agree with no draft. So the engine is given what a draft's accepted part would be as
forced tokens, which costs the same prefill (only the head over the draft's places is missing, about
1 us each), and decodes as many tokens as such a step would: the text that is new at 3.5 tokens a
second, and in DISAGREE of the steps REDONE tokens more. The embedded checkpoint's steps accept
98.8 % of their drafts (tests/live/results/cpu.json).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from predictor.live.engine_steps import KeptSteps, _outcome, _Sent
from predictor.live.steps import Outcome, Step
from predictor.text.tokenizer import TextTokenizer
from predictor.types import SAMPLE_RATE_HZ, ExtendRequest

TOKENS_PER_S = 3.5
DISAGREE = 0.15  # three times what the embedded checkpoint's steps do
REDONE = 4
CHECKPOINT = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
_TEXT = "The train to the station in the garden leaves at nine and the red bird is singing there. "


class PlannedSteps(KeptSteps):
    """Asks the engine for a step of planned lengths; the text of the outcome is made up."""

    plan: tuple[int, ...] = ()

    def __init__(self, extend: Any, close: Any) -> None:
        super().__init__(extend, close)
        self._random = random.Random(self._id)
        if not PlannedSteps.plan:
            PlannedSteps.plan = planned_tokens()

    async def step(self, step: Step) -> Outcome:
        """See StepEngine."""
        self._num_steps += 1
        num_text = 3 + int(len(step.samples) / SAMPLE_RATE_HZ * TOKENS_PER_S)
        answer = self.plan[len(step.forced) : max(num_text, len(step.forced))]
        num_accepted = min(len(step.draft), len(answer))
        if self._disagrees():
            num_accepted = max(0, num_accepted - REDONE)
        is_known = self._sent.utterance == step.utterance
        stream = self._extend(
            ExtendRequest(
                request_id=f"{self._id}:{self._num_steps}",
                sequence_id=self._id,
                samples=step.samples[self._sent.num_samples if is_known else 0 :],
                tokens_before=step.prompt.tokens_before,
                tokens_after=step.prompt.tokens_after,
                max_new_tokens=max(1, len(answer) - num_accepted),
                forced=(*step.forced, *answer[:num_accepted]),
                starts_anew=not is_known,
            )
        )
        self._sent = _Sent(0, 0)
        outcome = await _outcome(stream, step)
        self._sent = _Sent(step.utterance, len(step.samples))
        return Outcome(
            tokens=answer,
            logprobs=(-0.05,) * len(answer),
            finish="stop",
            num_accepted=num_accepted,
            num_audio_tokens=outcome.num_audio_tokens,
            num_prompt_tokens=outcome.num_prompt_tokens,
        )

    def _disagrees(self) -> bool:
        """Whether the draft of the step that begins is wrong at its end."""
        return self._random.random() < DISAGREE


def planned_tokens() -> tuple[int, ...]:
    """A header and half a minute of text."""
    tokenizer = TextTokenizer.load(CHECKPOINT)
    header = [*tokenizer.encode_plain("language English")][:2]
    return (*header, tokenizer.asr_text, *tokenizer.encode_plain(_TEXT * 10))


def plan_the_servers_steps() -> None:
    """The server's sessions take planned steps."""
    from predictor.server import load

    load.KeptSteps = PlannedSteps  # type: ignore[misc]
