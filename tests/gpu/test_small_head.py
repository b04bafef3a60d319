"""The head of 8-bit rows on the device, at the models' sizes: the tokens of the 16-bit kernel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from predictor.model.cuda.small_head import SmallHead

pytestmark = pytest.mark.gpu

VOCAB, EPS = 151_936, 1e-6


def by_16_bits(head: SmallHead, x: Tensor) -> tuple[Tensor, Tensor]:
    from predictor.model.cuda.kernels import decoder as kernels
    from predictor.model.cuda.kernels import small_batch

    return kernels.choose_parts(*small_batch.head_parts(x, head.norm, head.weight, EPS))


def logprob_of(head: SmallHead, x: Tensor, token: Tensor) -> Tensor:
    """In float64, of logits that are not rounded."""
    normed = torch.nn.functional.rms_norm(x, x.shape[1:], head.norm, EPS).double()
    logprobs = [part.double() @ normed.T for part in head.weight.split(8192)]
    return torch.cat(logprobs).log_softmax(0).gather(0, token[None])[0]


@pytest.mark.parametrize("hidden", [2048, 1024])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_its_tokens_are_those_of_16_bits(hidden: int, dtype: torch.dtype) -> None:
    """Where no token stands out, where one does, and where rows are equal."""
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    weight = (0.02 * normal(VOCAB, hidden)).to(dtype)
    weight[[77, 70_000, VOCAB - 1]] = weight[9].clone()
    head = SmallHead.of_weight(weight, (1 + 0.1 * normal(hidden)).to(dtype), EPS)
    assert head is not None
    for i in range(60):
        lean = 10.0 * (i % 3)
        towards = weight[[9 if i % 2 else 7919 * i % VOCAB]].float()
        x = (normal(1, hidden) + lean * towards).to(dtype)
        token, logprob = head.choose(x)
        expected, _ = by_16_bits(head, x)
        assert token == expected
        # A logit is rounded to bf16, by 0.03 at most below 16.
        assert float((logprob - logprob_of(head, x, token)).abs()) < 5e-2
        pair = torch.cat([x, normal(1, hidden).to(dtype)])
        tokens, logprobs = head.choose(pair)
        assert tokens[0] == token[0]
        assert float((logprobs[0] - logprob[0]).abs()) < 1e-5
    pair[1, 5] = float("nan")
    tokens, logprobs = head.choose(pair)
    assert tokens[0] == token[0]
    assert logprobs.isnan().tolist() == [False, True]
    assert 0 <= int(tokens[1]) < VOCAB
