"""Linear layers in int8 on the CPU: weights quantized once, what goes in at each call.

A weight has a scale for each output channel and an input one for each row. Scales for a whole
batch, as torch's own dynamic layers have, would make a sequence's numbers depend on what shares
its batch. Sums of int8 products are exact, so a row's result is the same bits in any batch.
The audio encoder's convolutions are bf16 where the processor multiplies that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.decoder import Decoder, DecoderLayer
from predictor.model.encoder import AudioEncoder, EncoderLayer

ENGINE = "fbgemm"  # the one whose operator takes float rows and gives float rows
DECODER_LINEARS = ("qkv", "attention_out", "gate_up", "ffn_out")
ENCODER_LINEARS = ("qkv", "attention_out", "ffn_in", "ffn_out")
WEIGHT_MAX = 127
LEAST_PEAK = 1e-30  # of a row: one of zeros has a scale, too
CHUNK_ROWS = 4096  # of a weight that are quantized at once: bounds the copies


def check_machine() -> None:
    """ValueError where torch has no int8 product for this processor."""
    if ENGINE not in torch.backends.quantized.supported_engines:
        raise ValueError(
            f"precision 'int8' needs torch's {ENGINE} (x86-64 with AVX2), which this machine "
            "lacks: use fp32"
        )


def quantize_part(part: nn.Module) -> None:
    """Replace the linear layers of one part of `Model.parts()`; the others stay as they are."""
    if isinstance(part, DecoderLayer):
        _replace(part, DECODER_LINEARS)
    elif isinstance(part, EncoderLayer):
        _replace(part, ENCODER_LINEARS)
    elif isinstance(part, Decoder):
        # A tied head reads all of the embedding for each token, a lookup one row: only the head
        # gains by int8, and the rows stay as exact as the checkpoint has them.
        weight = part.embedding.weight if part.head is None else part.head.weight
        part.head = Int8Linear(weight, None)  # type: ignore[assignment]  # called, not looked into
        part.embedding = HalfEmbedding(part.embedding.weight)
    elif isinstance(part, AudioEncoder) and multiplies_bf16():
        # In float32 they are half of the time to a first token.
        for conv in (part.conv1, part.conv2, part.conv3):
            conv.bfloat16()
    give_back_memory()


def _replace(layer: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        linear = layer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(layer, name, Int8Linear(linear.weight, linear.bias))


class Int8Linear(nn.Module):
    """y = x W' + b with both x and W rounded to int8; float32 in and out."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Quantizes `weight` [N, K] of any float type."""
        super().__init__()
        self.size = tuple(weight.shape)
        values, scale = quantize_rows(weight, WEIGHT_MAX)
        self._packed = _packed(values, scale)
        self._bias = None if bias is None else bias.detach().float()
        most = input_max()
        self._step, self._zero_point = 1 / most, most + 1

    def forward(self, x: Tensor) -> Tensor:
        """[T, K] -> [T, N]"""
        # The operator knows one scale for all of x: with rows brought to a peak of one it is right
        # for every row.
        peak = x.abs().amax(-1, keepdim=True).clamp_min_(LEAST_PEAK)  # [T, 1]
        y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / peak, self._step, self._zero_point, self._packed
        )
        y *= peak
        return y if self._bias is None else y.add_(self._bias)

    def extra_repr(self) -> str:
        return f"{self.size[1]}, {self.size[0]}, bias={self._bias is not None}"


class HalfEmbedding(nn.Embedding):
    """An embedding held in 16 bits whose rows come out in float32."""

    def __init__(self, weight: Tensor) -> None:
        rows, width = weight.shape
        super().__init__(rows, width, _weight=weight.detach().bfloat16(), _freeze=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """[T] -> [T, hidden]"""
        return F.embedding(tokens, self.weight).float()


def give_back_memory() -> None:
    """Have the C library return freed pages to the system, where it can.

    It keeps those of blocks below 32 MB, as most float weights are: in the server, whose loading
    thread has a heap of its own, 1.3 GB of 0.6B's.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
    if trim is not None:
        trim(0)


def multiplies_bf16() -> bool:
    """Whether this processor multiplies bf16 itself; elsewhere float32 is the faster."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def input_max() -> int:
    """Steps from zero to a row's peak.

    Without VNNI the products of two neighbours are added in 16 bits, where two of eight bits
    overflow. Inputs are unsigned there, about a zero point of one more than this: with one bit
    less 127 is the largest, and 2 x 127 x 127 fits.
    """
    return 127 if torch.cpu._is_vnni_supported() else 63


def quantize_rows(weight: Tensor, peak: int) -> tuple[Tensor, Tensor]:
    """[N, K] -> int8 [N, K] whose rows reach from -peak to peak, and their scales [N]."""
    values = torch.empty(weight.shape, dtype=torch.int8)
    scale = torch.empty(len(weight))
    for first in range(0, len(weight), CHUNK_ROWS):
        chunk = slice(first, first + CHUNK_ROWS)
        rows = weight.detach()[chunk].float()
        scale[chunk] = rows.abs().amax(1).clamp_min_(LEAST_PEAK) / peak
        values[chunk] = (rows / scale[chunk, None]).round_()
    return values, scale


def _packed(values: Tensor, scale: Tensor) -> torch.ScriptObject:
    """The weights in the order in which the product's kernel reads them."""
    zeros = torch.zeros(len(scale), dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
    with _engine(ENGINE):
        packed = torch.ops.quantized.linear_prepack(weight, None)
    assert isinstance(packed, torch.ScriptObject)
    return packed


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """Torch's choice of library is global, and read only when weights are packed."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
