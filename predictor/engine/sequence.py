"""One request on its way through the engine: what it has so far and when it must end."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from predictor.engine.options import EngineOptions
from predictor.errors import InvalidInput
from predictor.model.config import num_audio_tokens, num_chunks, num_mel_frames
from predictor.types import SAMPLE_RATE_HZ, EngineFinish, EngineRequest, TokenChunk

# Beyond it a spectrum overflows float32, and a NaN would spread to whoever shares the batch.
MAX_AMPLITUDE = 1e4


@dataclass(frozen=True, slots=True)
class Limits:
    """What any request must fit in, known once the model is loaded."""

    max_model_len: int
    vocab_size: int
    eos_token_ids: frozenset[int]


class Sequence:
    """The state of one request; owned by the engine's thread once it runs."""

    __slots__ = (
        "_repetition",
        "aborted",
        "audio_s",
        "created_s",
        "eos_token_ids",
        "max_new_tokens",
        "num_audio_chunks",
        "num_audio_tokens",
        "num_prompt_tokens",
        "request",
        "slot",
        "tokens",
    )

    def __init__(self, request: EngineRequest, limits: Limits, options: EngineOptions) -> None:
        """Raises InvalidInput for a request that could never run."""
        _check_values(request, limits)
        self.request = request
        self.created_s = time.monotonic()
        self.audio_s = len(request.samples) / SAMPLE_RATE_HZ
        self.num_audio_tokens = num_audio_tokens(len(request.samples))
        self.num_audio_chunks = num_chunks(num_mel_frames(len(request.samples)))
        text_tokens = len(request.tokens_before) + len(request.tokens_after)
        self.num_prompt_tokens = self.num_audio_tokens + text_tokens
        cap = max(options.min_token_cap, math.ceil(self.audio_s * options.max_tokens_per_audio_s))
        self.max_new_tokens = min(request.max_new_tokens, cap)
        self._check_length(limits.max_model_len)
        self.eos_token_ids = limits.eos_token_ids
        self.tokens: list[int] = []
        self.slot = -1  # none yet
        self.aborted = False
        self._repetition = RepetitionGuard(options.max_repeat_period, options.max_repeats)

    @property
    def length(self) -> int:
        """Tokens of prompt and answer so far."""
        return self.num_prompt_tokens + len(self.tokens)

    def extend(self, tokens: Tokens[int], logprobs: Tokens[float]) -> TokenChunk:
        """Take on what one step produced, up to where the sequence ends; the rest is dropped."""
        first = len(self.tokens)
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

    def abort_chunk(self) -> TokenChunk:
        """The last chunk of a sequence that was aborted."""
        return self._chunk((), (), "abort")

    def _chunk(
        self, tokens: tuple[int, ...], logprobs: tuple[float, ...], finish: EngineFinish | None
    ) -> TokenChunk:
        if finish is None:
            return TokenChunk(tokens, logprobs)
        return TokenChunk(tokens, logprobs, finish, self.num_prompt_tokens, self.num_audio_tokens)

    def _check_length(self, max_model_len: int) -> None:
        room = max_model_len - self.num_prompt_tokens
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
                f"{self.num_prompt_tokens} tokens the limit is {room}",
                field="max_new_tokens",
                value=self.max_new_tokens,
                limit=room,
            )


def _check_values(request: EngineRequest, limits: Limits) -> None:
    if request.samples.ndim != 1 or not request.samples.size:
        raise InvalidInput(
            f"audio must be one row of at least one sample, has shape {request.samples.shape}",
            field="audio",
            value=request.samples.shape,
            limit="[num_samples >= 1]",
        )
    low, high = float(request.samples.min()), float(request.samples.max())
    if not (low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE):  # NaN fails both
        raise InvalidInput(
            f"audio samples must be finite and within ±{MAX_AMPLITUDE:g}, are {low:g} to {high:g}",
            field="audio",
            value=(low, high),
            limit=MAX_AMPLITUDE,
        )
    if request.max_new_tokens < 1:
        raise InvalidInput(
            f"max_new_tokens is {request.max_new_tokens}; it must be at least 1",
            field="max_new_tokens",
            value=request.max_new_tokens,
            limit=1,
        )
    for token in (*request.tokens_before, *request.tokens_after):
        if not 0 <= token < limits.vocab_size:
            raise InvalidInput(
                f"prompt token {token} is not below {limits.vocab_size}",
                field="prompt",
                value=token,
                limit=limits.vocab_size,
            )
    if not request.tokens_after:
        raise InvalidInput(
            "the prompt must end with a text token", field="prompt", value=0, limit=1
        )


class RepetitionGuard:
    """Notices a pattern of 1 to `max_period` tokens that recurs more than `max_repeats` times.

    For each period it counts how many tokens in a row equalled the one that far back: constant
    work a token, whatever the length of the sequence.
    """

    __slots__ = ("_max_repeats", "_recent", "_runs")

    def __init__(self, max_period: int, max_repeats: int) -> None:
        self._max_repeats = max_repeats
        self._recent: list[int] = []  # the last `max_period` tokens, newest first
        self._runs = [0] * max_period  # index = period - 1

    def add(self, token: int) -> bool:
        """True when the newest token completes one repeat too many."""
        recent, runs = self._recent, self._runs
        looped = False
        if token in recent:
            for i, earlier in enumerate(recent):
                if earlier == token:
                    runs[i] += 1
                    looped = looped or runs[i] >= self._max_repeats * (i + 1)
                else:
                    runs[i] = 0
        else:
            runs[:] = [0] * len(runs)
        recent.insert(0, token)
        del recent[len(runs) :]
        return looped
