"""One request on its way through the engine: what it has so far and when it must end."""

from __future__ import annotations

import math
import time
from collections import abc
from dataclasses import dataclass
from typing import TypeAlias

from predictor.engine.checks import check_request, check_samples
from predictor.engine.options import EngineOptions
from predictor.engine.repetition import RepetitionGuard
from predictor.engine.utterance import Utterance
from predictor.errors import InvalidInput
from predictor.model.config import num_audio_tokens
from predictor.model.stretch import Stretch
from predictor.types import SAMPLE_RATE_HZ, EngineFinish, EngineRequest, EngineTimes, TokenChunk


@dataclass(frozen=True, slots=True)
class Limits:
    """What any request must fit in, known once the model is loaded."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]
    window_chunks: int = 8  # seconds of audio inside which the encoder attends


@dataclass(frozen=True, slots=True)
class Prefilled:
    """What a prefill found out about one sequence, beside its new tokens."""

    forced_logprobs: tuple[float, ...] = ()  # of each forced token
    num_accepted: int = 0  # draft tokens that greedy decoding agreed with
    loudest: tuple[float, ...] = ()  # log10 of the largest power up to each stretch's end


class Sequence:
    """The state of one request; owned by the engine's thread once it runs."""

    __slots__ = (
        "_draft",
        "_forced_logprobs",
        "_kept",
        "_num_accepted",
        "_repetition",
        "aborted",
        "audio_s",
        "batch_size",
        "began_s",
        "created_s",
        "eos_token_ids",
        "first_token_s",
        "is_prefilled",
        "max_new_tokens",
        "num_audio_tokens",
        "num_cached",
        "num_preempted",
        "num_prompt_tokens",
        "pages",
        "request",
        "slot",
        "step",
        "tokens",
        "utterance",
    )

    def __init__(
        self,
        request: EngineRequest,
        limits: Limits,
        options: EngineOptions,
        utterance: Utterance | None = None,
    ) -> None:
        """`utterance`: the kept sequence that this is a step of; the request has all its samples.

        Raises InvalidInput for a request that could never run.
        """
        if utterance is None:
            check_samples(request.samples)
        check_request(request, limits.vocab_size)
        self.request = request
        self.created_s = time.monotonic()
        self.began_s = 0.0  # its first prefill step, which had this number and size
        self.step = self.batch_size = 0
        self.first_token_s = 0.0
        self.audio_s = len(request.samples) / SAMPLE_RATE_HZ
        self.num_audio_tokens = num_audio_tokens(len(request.samples))
        text_tokens = len(request.tokens_before) + len(request.tokens_after)
        self.num_prompt_tokens = self.num_audio_tokens + text_tokens
        cap = max(options.min_token_cap, math.ceil(self.audio_s * options.max_tokens_per_audio_s))
        self.max_new_tokens = min(request.max_new_tokens, cap)
        self._draft = request.draft[: self.max_new_tokens - 1]
        self._check_length(limits.max_model_len)
        self.eos_token_ids = limits.eos_token_ids
        self.tokens: list[int] = []
        self._kept: list[TokenChunk] = []  # not handed out yet
        self.slot = -1  # none yet
        self.pages: list[int] = []  # of the cache, in the order of the tokens
        self.num_cached = 0  # tokens from the start that its prefill finds in the cache
        self.is_prefilled = False
        self.num_preempted = 0
        self.utterance = utterance
        self.aborted = False
        self._forced_logprobs: tuple[float, ...] = ()
        self._num_accepted = 0
        self._repetition = RepetitionGuard(options.max_repeat_period, options.max_repeats)
        self._repetition.begin(request.forced)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.num_prompt_tokens + len(self.request.forced) + len(self.tokens)

    @property
    def draft(self) -> abc.Sequence[int]:
        """Expected tokens that the next prefill verifies: no more than may be answered."""
        return () if self.tokens else self._draft

    @property
    def given(self) -> abc.Sequence[int]:
        """What a prefill appends to the prompt: forced tokens, the answer so far, or a draft."""
        return (*self.request.forced, *self.tokens, *self.draft)

    @property
    def reach(self) -> int:
        """Tokens that a prefill brings into the cache, those that are there already included."""
        return self.length + len(self.draft)

    @property
    def num_checks(self) -> int:
        """Places whose logits its prefill asks for."""
        if self.tokens:
            return 1
        num_scored = len(self.request.forced) if self.request.scores_forced else 0
        return 1 + num_scored + len(self._draft)

    @property
    def most_tokens(self) -> int:
        """What prompt and answer can come to."""
        return self.num_prompt_tokens + len(self.request.forced) + self.max_new_tokens

    @property
    def waiting_audio_s(self) -> float:
        """Seconds of audio that count while it waits; a kept sequence's are counted there."""
        return self.audio_s if self.utterance is None else 0.0

    def prefill_audio_s(self, num_cached: int) -> float:
        """Seconds of audio that a prefill encodes, where so many tokens are cached.

        Of a step whole ones, as the encoder takes them: a round of many steps has a graph if these
        are no more than a step may hold.
        """
        cached = max(0, num_cached - len(self.request.tokens_before))
        audio_s = self.audio_s * (1 - cached / self.num_audio_tokens)
        return audio_s if self.utterance is None else math.ceil(audio_s)

    def stretches(self) -> list[Stretch]:
        """The audio that the next prefill encodes."""
        if self.utterance is None:
            return [Stretch.whole(self.request.samples)]
        utterance = self.utterance
        return utterance.windows.stretches(
            self.request.samples, self._num_cached_windows, utterance.loudest
        )

    @property
    def _num_cached_windows(self) -> int:
        assert self.utterance is not None
        cached = self.num_cached - len(self.request.tokens_before)
        return max(0, cached) // self.utterance.windows.num_tokens

    @property
    def num_base_tokens(self) -> int:
        """Tokens from the start that no later step of the utterance can change."""
        assert self.utterance is not None
        windows = self.utterance.windows
        num_closed = windows.num_closed(len(self.request.samples))
        return len(self.request.tokens_before) + num_closed * windows.num_tokens

    def begin_again(self) -> None:
        """Nothing of it is in the cache any more."""
        self.num_cached = 0
        self.is_prefilled = False

    def begins(self, now_s: float, step: int, batch_size: int) -> None:
        """A prefill step takes it; the first one counts."""
        if not self.began_s:
            self.began_s, self.step, self.batch_size = now_s, step, batch_size

    def prefilled(self, found: Prefilled) -> None:
        """Take on what its first prefill found out."""
        self.is_prefilled = True
        if not self.tokens:
            self._forced_logprobs = found.forced_logprobs
            self._num_accepted = found.num_accepted
        if self.utterance is not None:
            windows, num_samples = self.utterance.windows, len(self.request.samples)
            first = windows.count(num_samples) - len(found.loudest)
            known = self.utterance.loudest[:first] + found.loudest
            self.utterance.loudest = known[: windows.num_closed(num_samples)]

    def extend(self, tokens: abc.Sequence[int], logprobs: abc.Sequence[float]) -> TokenChunk:
        """Take on what one step produced, up to where the sequence ends; the rest is dropped."""
        first = len(self.tokens)
        if not first:
            self.first_token_s = time.monotonic()
        finish: EngineFinish | None = None
        num_taken = 0
        for token in tokens:
            if token in self.eos_token_ids:
                finish = "stop"
                break
            num_taken += 1
            self.tokens.append(token)
            if self._repetition.add(token):
                finish = "repetition"
            elif len(self.tokens) >= self.max_new_tokens:
                finish = "length"
            if finish is not None:
                break
        return self._chunk(tuple(self.tokens[first:]), tuple(logprobs[:num_taken]), finish)

    def due(self, chunk: TokenChunk) -> TokenChunk | None:
        """What to hand out of a new chunk now; None = nothing yet, it is kept for later."""
        # Of a live step nobody can use the first tokens alone.
        is_first = len(self.tokens) == len(chunk.token_ids) and self.utterance is None
        if not (self.request.is_streamed or is_first or chunk.finish is not None):
            self._kept.append(chunk)
            return None
        kept, self._kept = self._kept, []
        return merged([*kept, chunk]) if kept else chunk

    def abort_chunk(self) -> TokenChunk:
        """The last chunk of a sequence that was aborted."""
        return self._chunk((), (), "abort")

    def _chunk(
        self, tokens: tuple[int, ...], logprobs: tuple[float, ...], finish: EngineFinish | None
    ) -> TokenChunk:
        if finish is None:
            return TokenChunk(tokens, logprobs)
        return TokenChunk(
            tokens,
            logprobs,
            finish,
            self.num_prompt_tokens,
            self.num_audio_tokens,
            min(self._num_accepted, len(self.tokens)),
            self._forced_logprobs,
            self._times(),
        )

    def _times(self) -> EngineTimes:
        return EngineTimes(
            queued_s=self.created_s,
            began_s=self.began_s,
            first_token_s=self.first_token_s,
            ended_s=time.monotonic(),
            step=self.step,
            batch_size=self.batch_size,
        )

    def _check_length(self, max_model_len: int) -> None:
        num_forced = len(self.request.forced)
        room = max_model_len - self.num_prompt_tokens - num_forced
        if room < 1:
            raise InvalidInput(
                f"{self.audio_s:.1f} s of audio with its prompt are {self.num_prompt_tokens} "
                f"tokens; the limit is {max_model_len - 1}",
                field="audio",
                value=self.num_prompt_tokens,
                limit=max_model_len - 1,
            )
        if self.max_new_tokens > room:
            raise InvalidInput(
                f"max_new_tokens is {self.max_new_tokens}; beside a prompt of "
                f"{self.num_prompt_tokens + num_forced} tokens the limit is {room}",
                field="max_new_tokens",
                value=self.max_new_tokens,
                limit=room,
            )


def merged(chunks: abc.Sequence[TokenChunk]) -> TokenChunk:
    """Chunks of one sequence, one after another, as one."""
    last = chunks[-1]
    if len(chunks) == 1:
        return last
    return TokenChunk(
        token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
        logprobs=tuple(logprob for chunk in chunks for logprob in chunk.logprobs),
        finish=last.finish,
        num_prompt_tokens=last.num_prompt_tokens,
        num_audio_tokens=last.num_audio_tokens,
        num_draft_accepted=last.num_draft_accepted,
        forced_logprobs=last.forced_logprobs,
        times=last.times,
    )


Batch: TypeAlias = abc.Sequence[Sequence]  # that go through one step together
