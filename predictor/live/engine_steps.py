"""Steps on the engine, each a request of its own: the whole utterance is encoded anew."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from predictor.errors import NotReady
from predictor.live.steps import Outcome, Step
from predictor.types import EngineRequest, TokenChunk


class TokenStream(Protocol):
    """What the engine gives for one request; leaving it early frees the sequence's place."""

    def __aiter__(self) -> AsyncIterator[TokenChunk]: ...
    async def aclose(self) -> None: ...


Submit = Callable[[EngineRequest], TokenStream]


class SubmittedSteps:
    """A StepEngine that keeps nothing between steps. One for each session."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._id = f"live:{uuid.uuid4().hex}"

    async def step(self, step: Step) -> Outcome:
        """See StepEngine. Cancelling it frees the engine's place."""
        stream = self._submit(
            EngineRequest(
                request_id=f"{self._id}:{uuid.uuid4().hex}",
                samples=step.samples,
                tokens_before=step.prompt.tokens_before,
                tokens_after=(*step.prompt.tokens_after, *step.forced),
                max_new_tokens=step.max_new_tokens,
                is_streamed=False,
            )
        )
        tokens: list[int] = []
        logprobs: list[float] = []
        last: TokenChunk | None = None
        try:
            async for chunk in stream:
                last = chunk
                tokens += chunk.token_ids
                logprobs += chunk.logprobs
        finally:
            await stream.aclose()
        if last is None or last.finish is None or last.finish == "abort":
            raise NotReady("the engine is shutting down")
        return Outcome(
            tokens=tuple(tokens),
            logprobs=tuple(logprobs),
            finish=last.finish,
            num_accepted=num_common(tokens, step.draft),
            num_audio_tokens=last.num_audio_tokens,
            num_prompt_tokens=last.num_prompt_tokens - len(step.forced),
        )

    def close(self) -> None:
        """Nothing is kept."""


def num_common(tokens: list[int], draft: tuple[int, ...]) -> int:
    """How many tokens of the draft the answer agrees with."""
    count = 0
    for token, expected in zip(tokens, draft, strict=False):
        if token != expected:
            break
        count += 1
    return count
