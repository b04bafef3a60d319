"""Steps on the engine: on a sequence that it keeps alive, or each a request of its own."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from predictor.errors import NotReady
from predictor.live.steps import Outcome, Step
from predictor.types import EngineRequest, ExtendRequest, TokenChunk


class TokenStream(Protocol):
    """What the engine gives for one request; leaving it early frees the sequence's place."""

    def __aiter__(self) -> AsyncIterator[TokenChunk]: ...
    async def aclose(self) -> None: ...


Submit = Callable[[EngineRequest], TokenStream]
Extend = Callable[[ExtendRequest], TokenStream]


class SubmittedSteps:
    """A StepEngine that keeps nothing: the whole utterance is encoded and prefilled anew."""

    def __init__(self, submit: Submit) -> None:
        self._submit = submit
        self._id = f"live:{uuid.uuid4().hex}"
        self._num_steps = 0

    async def step(self, step: Step) -> Outcome:
        """See StepEngine. Cancelling it frees the engine's place."""
        self._num_steps += 1
        stream = self._submit(
            EngineRequest(
                request_id=f"{self._id}:{self._num_steps}",
                samples=step.samples,
                tokens_before=step.prompt.tokens_before,
                tokens_after=step.prompt.tokens_after,
                max_new_tokens=step.max_new_tokens,
                is_streamed=False,
                forced=step.forced,
                draft=step.draft,
            )
        )
        return await _outcome(stream, step)

    def close(self) -> None:
        """Nothing is kept."""


class KeptSteps:
    """A StepEngine whose utterance stays in the engine, with the keys and values of its closed
    windows: a step sends and computes what is new."""

    def __init__(self, extend: Extend, close: Callable[[str], object]) -> None:
        """`close` forgets a kept sequence."""
        self._extend = extend
        self._close = close
        self._id = f"live:{uuid.uuid4().hex}"
        self._num_steps = 0
        self._sent = _Sent(0, 0)

    async def step(self, step: Step) -> Outcome:
        """See StepEngine. Cancelling it frees the engine's place."""
        self._num_steps += 1
        is_known = self._sent.utterance == step.utterance
        request = ExtendRequest(
            request_id=f"{self._id}:{self._num_steps}",
            sequence_id=self._id,
            samples=step.samples[self._sent.num_samples if is_known else 0 :],
            tokens_before=step.prompt.tokens_before,
            tokens_after=step.prompt.tokens_after,
            max_new_tokens=step.max_new_tokens,
            forced=step.forced,
            draft=step.draft,
            starts_anew=not is_known,
        )
        stream = self._extend(request)  # a step that is refused here leaves all as it was
        self._sent = _Sent(0, 0)  # unless the step ends well, the next one begins from scratch
        outcome = await _outcome(stream, step)
        self._sent = _Sent(step.utterance, len(step.samples))
        return outcome

    def close(self) -> None:
        """Forget the kept sequence, and abort a step of it that is under way."""
        self._close(self._id)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What the engine holds; utterances are numbered from 1."""

    utterance: int
    num_samples: int


async def _outcome(stream: TokenStream, step: Step) -> Outcome:
    """Read a step's stream to its end. Raises NotReady when the engine ends first."""
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
        num_accepted=last.num_draft_accepted,
        num_audio_tokens=last.num_audio_tokens,
        num_prompt_tokens=last.num_prompt_tokens,
    )
