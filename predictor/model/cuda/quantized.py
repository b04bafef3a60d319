"""The language model's linear layers in 8 bits on CUDA: `fp8` and weight-only `int8`.

Both keep one scale an output channel, y[n] = scale[n] * sum_k x[k] * weight[n, k]. fp8 also
quantizes what goes in, each row with a scale of its own, so a sequence's numbers do not depend on
what shares its batch. Off CUDA, and in the tests, the plain twins compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.decoder import DecoderLayer
from predictor.model.model import Model
from predictor.model.precision import capability_of
from predictor.settings.devices import FP8_CAPABILITY

LINEARS = ("qkv", "attention_out", "gate_up", "ffn_out")  # of every DecoderLayer
FP8_MAX = 448.0  # the largest float8_e4m3fn
INT8_MAX = 127.0
LEAST_PEAK = 1e-30  # of a row or channel: one of zeros has a scale, too
ALIGNMENT = 16  # what `torch._scaled_mm` wants both sides of a weight to be multiples of
# Up to so many rows int8 weights are widened in the product's registers; above, a 16-bit copy is
# made first (5 bytes of traffic a weight instead of 1) and the library's product used.
INT8_KERNEL_ROWS = 64
# Rows that the check at start runs with: every tile of the kernels, and the copy.
CHECK_ROWS = (1, 24, 48, INT8_KERNEL_ROWS + 1)
# Sum fp8 products in fewer bits (about 13 on Hopper), which is faster and loses less than fp8 does.
FAST_SUMS = True
# Largest |difference| / |twin| over all elements that passes the check at start.
TOLERANCE = 3e-2


class QuantizedLinear(nn.Module):
    """A linear layer without bias: `weight` [N, K] in 8 bits, row-major; `scale` [N] float32."""

    weight: Tensor
    scale: Tensor
    dtype: ClassVar[torch.dtype]

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__()
        assert weight.dtype == self.dtype
        assert weight.is_contiguous()
        assert scale.shape == weight.shape[:1]
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)

    def twin(self, x: Tensor) -> Tensor:
        """What `forward` computes, in plain torch and float32; rounded to x's dtype."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        num_channels, width = self.weight.shape
        return f"{width}, {num_channels}, {self.weight.dtype}"


class Fp8Linear(QuantizedLinear):
    """float8_e4m3fn weights and inputs, float32 sums."""

    dtype = torch.float8_e4m3fn

    @classmethod
    def of(cls, weight: Tensor) -> Fp8Linear:
        """Quantize [N, K]."""
        return cls(*quantize_fp8(weight))

    def forward(self, x: Tensor) -> Tensor:
        """[M, K] -> [M, N]"""
        if not x.is_cuda:
            return self.twin(x)
        rows, row_scale = _kernels().quantize_rows(x)
        return self.product(rows, row_scale, x.dtype)

    def after_norm(self, x: Tensor, add: Tensor | None, norm: Tensor, eps: float) -> Tensor:
        """x += add, in place; then this layer on the RMS norm of x, with weight `norm`."""
        rows, row_scale = _kernels().add_rms_norm_quantized(x, add, norm, eps)
        return self.product(rows, row_scale, x.dtype)

    def after_swiglu(self, gate_up: Tensor) -> Tensor:
        """This layer on silu(gate) * up, [M, 2 * K]."""
        rows, row_scale = _kernels().swiglu_quantized(gate_up)
        return self.product(rows, row_scale, gate_up.dtype)

    def product(
        self, rows: Tensor, row_scale: Tensor, dtype: torch.dtype, fast_sums: bool = FAST_SUMS
    ) -> Tensor:
        """Quantized rows [M, K] and their scales [M, 1] -> [M, N]; CUDA only."""
        product = torch._scaled_mm(
            rows,
            self.weight.t(),  # the layout it wants: the inner dimension adjoining on both sides
            scale_a=row_scale,
            scale_b=self.scale.unsqueeze(0),
            out_dtype=dtype,
            use_fast_accum=fast_sums,
        )
        assert isinstance(product, Tensor)
        return product

    def twin(self, x: Tensor) -> Tensor:
        rows, row_scale = quantize_fp8_rows(x)
        product = F.linear(rows.float(), self.weight.float())
        return (product * row_scale * self.scale).to(x.dtype)


class Int8Linear(QuantizedLinear):
    """int8 weights, inputs as they come; the products are exact, sums float32."""

    dtype = torch.int8
    counts: Tensor

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__(weight, scale)
        num_counts = 0
        if weight.is_cuda:
            num_counts = _kernels().FULL_DEVICE
        counts = torch.zeros(num_counts, dtype=torch.int32, device=weight.device)
        self.register_buffer("counts", counts)

    @classmethod
    def of(cls, weight: Tensor) -> Int8Linear:
        """Quantize [N, K]."""
        return cls(*quantize_int8(weight))

    def forward(self, x: Tensor) -> Tensor:
        """[M, K] -> [M, N]"""
        if not x.is_cuda:
            return self.twin(x)
        if len(x) > INT8_KERNEL_ROWS:
            return self.dequantized(x)
        return self.fused(x)

    def fused(self, x: Tensor) -> Tensor:
        """One kernel that reads the weights once, as they are."""
        return _kernels().int8_linear(x, self.weight, self.scale, self.counts)  # type: ignore[no-any-return]

    def dequantized(self, x: Tensor) -> Tensor:
        """Through a 16-bit copy of the weights: for many rows, which hide what it costs."""
        return F.linear(x, _kernels().dequantize(self.weight, self.scale, x.dtype))

    def twin(self, x: Tensor) -> Tensor:
        return (F.linear(x.float(), self.weight.float()) * self.scale).to(x.dtype)


KINDS: dict[str, type[Fp8Linear] | type[Int8Linear]] = {"fp8": Fp8Linear, "int8": Int8Linear}


def quantize_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] -> float8_e4m3fn [N, K] and the channels' scales [N]: peaks become FP8_MAX."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_min(LEAST_PEAK) / FP8_MAX
    # Beyond the range the conversion gives NaN, and the division may end a hair beyond it.
    quantized = (weight / scale[:, None]).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return quantized, scale


def quantize_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[N, K] -> int8 [N, K] and the channels' scales [N]: peaks become 127, none -128."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_min(LEAST_PEAK) / INT8_MAX
    quantized = (weight / scale[:, None]).round().clamp(-INT8_MAX, INT8_MAX).to(torch.int8)
    return quantized, scale


def quantize_fp8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The plain twin of `quantized_kernels.quantize_rows`: values [M, K], scales [M, 1]."""
    x = x.float()
    scale = x.abs().amax(1, keepdim=True).clamp_min(LEAST_PEAK) * (1.0 / FP8_MAX)
    return (x * scale.reciprocal()).to(torch.float8_e4m3fn), scale


def require_right(model: Model, precision: str) -> None:
    """ValueError where the device's results differ from the plain twins'."""
    error = check(model)
    if error:
        raise ValueError(
            f"precision {precision!r} is not served, since its results are wrong on "
            f"{torch.cuda.get_device_name(model.device)}: {error}"
        )


def refusal_on(device: torch.device, precision: str) -> str | None:
    """Why `precision` cannot run on this device, and what can; None where it can."""
    if precision not in KINDS:
        return f"precision must be {' or '.join(KINDS)} to quantize on CUDA, is {precision!r}"
    if device.type != "cuda":
        return f"precision {precision!r} of this kind needs a CUDA device, not {str(device)!r}"
    capability, has = capability_of(device)
    if precision == "fp8" and capability < FP8_CAPABILITY:
        return (
            f"precision 'fp8' needs compute capability 8.9 or higher, {has}: use precision "
            "'int8' or leave the weights in 16 bits"
        )
    if capability < (8, 0):
        return (
            f"precision {precision!r} needs compute capability 8.0 or higher, {has}: "
            "leave the weights in 16 bits"
        )
    return None


def _require_fit(layer: DecoderLayer, precision: str) -> None:
    """ValueError for what about a layer does not go with `precision`."""
    if layer.ffn_norm.weight.dtype not in (torch.bfloat16, torch.float16):
        dtype = str(layer.ffn_norm.weight.dtype).removeprefix("torch.")
        raise ValueError(
            f"precision {precision!r} needs dtype bfloat16 or float16 on CUDA, is {dtype}"
        )
    for name in LINEARS:
        shape = tuple(layer.get_submodule(name).get_parameter("weight").shape)
        if any(size % ALIGNMENT for size in shape):
            raise ValueError(
                f"precision {precision!r} needs widths that are multiples of {ALIGNMENT}, "
                f"{name} has {shape[0]} x {shape[1]}: leave the weights in 16 bits"
            )


def _layers(model: Model) -> Iterator[DecoderLayer]:
    for layer in model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        yield layer


@torch.no_grad()
def replace_linears(layer: DecoderLayer, precision: str) -> None:
    """Quantize one layer, matrix by matrix; on a CPU, too, where the plain twins run."""
    make = KINDS[precision].of
    for name in LINEARS:
        linear: Any = layer.get_submodule(name)
        setattr(layer, name, make(linear.weight))
        del linear


def part_quantizer(precision: str) -> Callable[[nn.Module], None]:
    """What replaces the linear layers of one DecoderLayer, and leaves other parts as they are.

    It raises ValueError, naming `precision`, where a layer's dtype or widths do not allow it.
    """

    def quantize_part(part: nn.Module) -> None:
        if not isinstance(part, DecoderLayer):
            return
        _require_fit(part, precision)
        replace_linears(part, precision)

    return quantize_part


@torch.no_grad()
def check(model: Model) -> str | None:
    """Compile every kernel, on the first layer, and compare with the twins: what is wrong."""
    for name, linear, x in trials(model):
        try:
            ours, twin = linear(x).float(), linear.twin(x).float()
        except Exception as error:  # noqa: BLE001  a compiler can fail in any way
            return f"{name}, {len(x)} rows: {type(error).__name__}: {error}"
        difference = float((ours - twin).norm() / twin.norm().clamp_min(LEAST_PEAK))
        if not difference <= TOLERANCE:  # NaN fails too
            return (
                f"{name}, {len(x)} rows: relative difference {difference:.1e}, "
                f"at most {TOLERANCE:.0e} is fine"
            )
    return None


def trials(model: Model) -> Iterator[tuple[str, QuantizedLinear, Tensor]]:
    """Inputs [rows, K] for the first layer's matrices, by name, that use every kernel there is."""
    layer = next(_layers(model))
    generator = torch.Generator(model.device).manual_seed(0)
    for name in LINEARS:
        linear = layer.get_submodule(name)
        assert isinstance(linear, QuantizedLinear)
        for num_rows in CHECK_ROWS:
            shape = (num_rows, linear.weight.shape[1])
            x = torch.randn(shape, generator=generator, device=model.device).to(model.dtype)
            yield name, linear, x


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import quantized as quantized_kernels

    return quantized_kernels
