"""A program: the head of 8-bit rows, interpreted on the CPU, against the kernel that reads 16 bits.

Ends with an error where a token differs, or a bound does not hold; `--whole`: on more weights.
"""

from __future__ import annotations

# isort: off
import tests.model.interpreted  # noqa: F401  before Triton is imported
# isort: on

import sys
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from predictor.model.cuda.kernels import decoder as kernels
from predictor.model.cuda.kernels import small_batch as twin
from predictor.model.cuda.kernels import small_head as small_head_kernels
from predictor.model.cuda.small_head import SmallHead

IS_WHOLE = sys.argv[1:] == ["--whole"]
EPS = 1e-6
N, K = 300, 96  # neither a multiple of a program's rows, nor a power of two
BF16, HALF = torch.bfloat16, torch.float16


def require(condition: object, message: str) -> None:
    if not condition:
        raise SystemExit(message)


def head_of(weight: Tensor, norm: Tensor | None = None) -> SmallHead:
    norm = torch.ones(weight.shape[1], dtype=weight.dtype) if norm is None else norm
    head = SmallHead.of_weight(weight, norm, EPS)
    assert head is not None
    return head


def twin_of(head: SmallHead, x: Tensor) -> tuple[Tensor, Tensor]:
    return kernels.choose_parts(*twin.head_parts(x, head.norm, head.weight, EPS))


def agreed(head: SmallHead, x: Tensor, what: str) -> tuple[int, float]:
    """What both heads say after x [1, K]; an error where they do not say the same."""
    token, logprob = head.choose(x)
    expected, expected_logprob = twin_of(head, x)
    require(token == expected, f"{what}: token {int(token)} instead of {int(expected)}")
    off = float((logprob - expected_logprob).abs())
    require(off <= 2e-2, f"{what}: log-probability {float(logprob)}, off by {off:.1e}")
    return int(token), float(logprob)


def unit(x: Tensor) -> Tensor:
    """x [K] as the norm leaves it, in float32."""
    return x.float() * torch.rsqrt(x.float().square().mean() + EPS)


def check_random() -> None:
    for dtype, n, k in ((BF16, N, K), (HALF, N, K), (BF16, 128, 1100), (BF16, 700, 256)):
        for _ in range(20 if IS_WHOLE else 3):
            weight = (torch.randn(n, k) * torch.rand(n, 1)).to(dtype)
            x, norm = torch.randn(1, k).to(dtype), (0.5 + torch.rand(k)).to(dtype)
            agreed(head_of(weight, norm), x, f"random {dtype} [{n}, {k}]")


def check_bounds() -> None:
    """Rows of all kinds are not farther from their 8-bit form than said, and hardly nearer."""
    weight = torch.randn(N, K) * torch.logspace(-12, 4, N)[:, None]
    weight[3] = 0.0
    weight[4] = 1e-38
    weight[5, 7] = 1e4  # the others are nothing beside it
    weight = weight.to(BF16)
    head = head_of(weight)
    scale, error, length = head.known[:, :N].double()
    near = head.words[:N, :K].double() * scale[:, None]
    off = (weight.double() - near).norm(dim=1)
    require((off <= error).all(), "a row is farther off than said")
    require((near.norm(dim=1) <= length).all(), "a row is longer than said")
    slack = 1e-4 * weight.double().norm(dim=1) + 1e-16
    require((error <= 1.01 * off + slack).all(), "rows are nearer than said")
    require(head.words[N:].count_nonzero() == 0, "what fills up is not zero")
    require(head.words[:, K:].count_nonzero() == 0, "what fills up is not zero")


def check_ties() -> None:
    """Of rows that are equal, and of those whose logits are once rounded, the first one wins."""
    weight, x = torch.randn(N, K).to(BF16), torch.randn(1, K).to(BF16)
    best = (2.0 * unit(x[0])).to(BF16)
    for places in ((5, 130, 299), (131, 132), (299,)):
        tied = weight.clone()
        tied[list(places)] = best
        token, _ = agreed(head_of(tied), x, f"equal rows {places}")
        require(token == places[0], f"of the equal rows {places} it was {token}")
    first = []
    for step in range(8):  # the second row is ahead by less than a logit's rounding, then by more
        near = weight.clone()
        near[5], near[130] = best, best
        near[130, : 12 * step] *= 1.0 + 2.0**-6
        first.append(agreed(head_of(near), x, f"rows apart by {12 * step} weights")[0] == 5)
    require(len(set(first)) == 2, "no step is below, or none above, a logit's rounding")
    equal = best.expand(N, K).contiguous()
    token, logprob = agreed(head_of(equal), x, "every row the same")
    require(token == 0 and abs(logprob + np.log(N)) <= 1e-4, f"of equal rows {token}, {logprob}")


def check_errors_as_large_as_can_be() -> None:
    """The best row is off by half a step in every weight, to the side that hides it."""
    x = torch.randn(1, K).to(BF16)
    normed = unit(x[0])
    hidden = 0.49 * normed.sign()  # of a step: in 8 bits nothing is left of them
    hidden[normed.abs().argmin()] = 127.0
    weight = 0.001 * torch.randn(N, K)
    weight[200] = hidden
    weight[7] = normed * float(0.3 * normed.abs().mean())  # in between what 200 is and seems to be
    weight = weight.to(BF16)
    head = head_of(weight)
    about = (head.words[:N, :K].float() * head.known[0, :N, None]) @ normed
    require(about.argmax() == 7, "the 8-bit rows alone are not misled")
    token, _ = agreed(head, x, "a hidden row")
    require(token == 200, f"the hidden row is 200, not {token}")


def check_extremes() -> None:
    weight, x = torch.randn(N, K).to(BF16), torch.randn(1, K).to(BF16)
    zeros = -(unit(x[0]) * (0.1 + torch.rand(N, 1))).to(BF16)
    zeros[[150, 20]] = 0.0  # all others' logits are below
    require(
        agreed(head_of(zeros), x, "rows of zeros")[0] == 20, "the rows of zeros are not the best"
    )
    token, logprob = agreed(head_of(torch.zeros_like(weight)), x, "nothing but zeros")
    require(token == 0 and abs(logprob + np.log(N)) <= 1e-4, f"of zeros {token}, {logprob}")
    require(agreed(head_of(weight), torch.zeros_like(x), "x of zeros")[0] == 0, "x of zeros")
    spike = torch.randn(1, K)
    spike[0, 17] = 1e4
    agreed(head_of(weight), spike.to(BF16), "one large value")
    # The integers of a long row come as near to 2**31 as they can.
    long = torch.full((8, 2048), -1.0)
    long[5] = 1.0
    ones = torch.ones(1, 2048).to(BF16)
    require(agreed(head_of(long.to(BF16)), ones, "the largest sums")[0] == 5, "the largest sums")


def check_what_is_no_number() -> None:
    weight, norm = torch.randn(N, K).to(BF16), torch.ones(K).to(BF16)
    head = head_of(weight)
    for value in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(2, K).to(BF16)
        x[1, 3] = value
        token, logprob = head.choose(x)
        expected, expected_logprob = twin_of(head, x)
        require(expected_logprob[1].isnan(), f"the twin takes {value} for a number")
        require(logprob[1].isnan() and 0 <= token[1] < N, f"{value}: {token[1]}, {logprob[1]}")
        require(logprob[0].isfinite() and token[0] == expected[0], f"{value} spoils the other row")
        spoilt = weight.clone()
        spoilt[77, 9] = value
        require(SmallHead.of_weight(spoilt, norm, EPS) is None, f"a row with {value} has no bound")
    require(SmallHead.of_weight(weight.float(), norm, EPS) is None, "32 bits need no copy")


def check_a_stretch_of_nothing() -> None:
    """More rows of zeros than fill the last program's share change nothing."""
    head = head_of(torch.randn(N, K).to(BF16))
    words, known = torch.empty(1024, 512, dtype=torch.int8), torch.zeros(3, 1024)
    small_head_kernels.quantize(head.weight, words, known)
    longer = replace(head, words=words, known=known)
    x = torch.randn(1, K).to(BF16)
    (token, logprob), expected = longer.choose(x), head.choose(x)
    require(token == expected[0], f"with rows of nothing {token}, {expected[0]} without")
    require((logprob - expected[1]).abs() <= 1e-5, f"with rows of nothing {logprob}, {expected[1]}")


def check_two_rows() -> None:
    """Each is what it is alone."""
    head = head_of(torch.randn(N, K).to(BF16), (0.5 + torch.rand(K)).to(BF16))
    x = torch.randn(2, K).to(BF16)
    together, alone = head.choose(x), [head.choose(row[None]) for row in x]
    for i, part in enumerate(together):
        require(torch.equal(part, torch.cat([each[i] for each in alone])), f"{together}, {alone}")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check_random()
    check_bounds()
    check_ties()
    check_errors_as_large_as_can_be()
    check_extremes()
    check_two_rows()
    check_a_stretch_of_nothing()
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy's, of what is no number
        check_what_is_no_number()


if __name__ == "__main__":
    main()
