"""The head of a small decode step from rows of 8 bits, with the token that those of 16 bits give.

A row w of the head is kept as s * q, q in 8 bits, and what is normed, x, in every step as t * p, p
in two signed bytes. With e = w - s * q and d = x - t * p,

    |x . w - s * t * p . q| <= |x| |e| + |d| |s * q|

(Cauchy and Schwarz). p . q is an exact sum of integers, so this is a range that the logit is in.
|e| and |s * q| are computed with the rows, |x| and |d| in every step, all rounded up; to |e| comes
a share of |w|, 2 (K + 64) * 2^-24, for roundings of float32 sums in any order. Rows whose range,
rounded as logits are, reaches the highest lower end are candidates. The best logit is among them,
and all that are rounded to the same. The candidates' logits are computed from 16 bits. Any number
of them is right, and many are slow: of 151,936 random rows about 20 are, and one where a row stands
out as it does if a model is sure.

In the log-probability the terms of candidates are exact, those of others come from 8 bits. Errors
of such logits are a part of the bound, like |x| |e| / sqrt(K): less than 0.01 of the logits' own
spread, where rounding logits of 8 or more to bf16 moves them by up to 0.03.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from predictor.model.cuda.decoder import plain_choose
from predictor.model.decoder import Decoder

MAX_ROWS = 2


@dataclass(frozen=True, slots=True)
class SmallHead:
    """A final norm and a head, and the head's 8-bit rows, filled up with zeros."""

    norm: Tensor  # [K]
    eps: float
    weight: Tensor  # [N, K] in 16 bits
    words: Tensor  # [N', K'] int8
    known: Tensor  # [3, N'] float32: scale, error and length of each row

    @classmethod
    def of(cls, decoder: Decoder) -> SmallHead | None:
        """None where nothing can be gained, or no bound be given: see `of_weight`."""
        head = decoder.head
        weight = decoder.embedding.weight if head is None else head.weight
        return cls.of_weight(weight, decoder.norm.weight, decoder.config.rms_norm_eps)

    @classmethod
    def of_weight(cls, weight: Tensor, norm: Tensor, eps: float) -> SmallHead | None:
        """None if weights are not of 16 bits, or not all finite."""
        if weight.dtype not in (torch.bfloat16, torch.float16):
            return None
        kernels = _kernels()
        num_rows, width = (
            -(-size // step) * step
            for size, step in zip(weight.shape, (kernels.STRETCH, 4 * kernels.CHUNK), strict=True)
        )
        words = torch.empty(num_rows, width, dtype=torch.int8, device=weight.device)
        known = torch.zeros(3, num_rows, device=weight.device)
        kernels.quantize(weight, words, known)
        return cls(norm, eps, weight, words, known) if bool(known.isfinite().all()) else None

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token after hidden states x [B, K], before the final norm, and its
        log-probability: [B] int64, [B] float32. B is at most MAX_ROWS; a NaN in x gives NaN."""
        from predictor.model.cuda.kernels import decoder as kernels

        return kernels.choose_parts(*self.parts(x))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `choose` chooses from, as of `step.Parts`."""
        return _kernels().head_parts(  # type: ignore[no-any-return]
            x, self.norm, self.weight, self.eps, self.words, self.known
        )


def small_head_difference(decoder: Decoder) -> float:
    """Relative distance from the plain twin on random inputs: of log-probabilities, and of the
    chosen tokens' logits from the best."""
    head, norm = SmallHead.of(decoder), decoder.norm.weight
    if head is None:
        return 0.0
    pairs = []
    for num_rows in (1, 2):
        x = torch.randn(num_rows, len(norm), device=norm.device).to(norm.dtype)
        token, logprob = head.choose(x)
        logits = decoder.logits(x).to(norm.dtype)
        _, expected = plain_choose(logits)
        # A sum in another order may decide between two that are as likely.
        chosen = logits.gather(1, token[:, None])[:, 0]
        pairs += [(logprob, expected), (chosen, logits.amax(1))]
    distances = [(a.double() - b.double()).norm() / b.double().norm() for a, b in pairs]
    return float(torch.stack(distances).max())  # NaN where one is


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import small_head as small_head_kernels

    return small_head_kernels
