"""What no engine can run, whatever its cache holds: refused by field, value and limit."""

from __future__ import annotations

import numpy as np

from predictor.errors import InvalidInput
from predictor.types import AnySamples, EngineRequest

# Beyond it a spectrum overflows float32, and a NaN would spread to whoever shares the batch.
MAX_AMPLITUDE = 1e4


def check_samples(samples: AnySamples, least: int = 1) -> None:
    """InvalidInput for what is no waveform of at least `least` samples."""
    if samples.ndim != 1 or samples.size < least:
        raise InvalidInput(
            f"audio must be one row of at least {least} samples, has shape {samples.shape}",
            field="audio",
            value=samples.shape,
            limit=f"[num_samples >= {least}]",
        )
    if not samples.size or samples.dtype == np.int16:  # which cannot be anything else
        return
    low, high = float(samples.min()), float(samples.max())
    if not (low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE):  # NaN fails both
        raise InvalidInput(
            f"audio samples must be finite and within ±{MAX_AMPLITUDE:g}, are {low:g} to {high:g}",
            field="audio",
            value=(low, high),
            limit=MAX_AMPLITUDE,
        )


def check_request(request: EngineRequest, vocab_size: int) -> None:
    """InvalidInput for prompts, answers and drafts that no model with so many tokens can take."""
    if not request.samples.size:
        check_samples(request.samples)
    if request.max_new_tokens < 1:
        raise InvalidInput(
            f"max_new_tokens is {request.max_new_tokens}; it must be at least 1",
            field="max_new_tokens",
            value=request.max_new_tokens,
            limit=1,
        )
    for tokens in (request.tokens_before, request.tokens_after, request.forced, request.draft):
        if tokens and not (min(tokens) >= 0 and max(tokens) < vocab_size):
            token = next(token for token in tokens if not 0 <= token < vocab_size)
            raise InvalidInput(
                f"prompt token {token} is not below {vocab_size}",
                field="prompt",
                value=token,
                limit=vocab_size,
            )
    if not request.tokens_after:
        raise InvalidInput(
            "the prompt must end with a text token", field="prompt", value=0, limit=1
        )
