"""A program: the kernels of the quantized layers, interpreted on the CPU, against plain torch.

Ends with an error when one differs. The interpreter rounds to 8-bit floats in a way of its own,
so of those only the scales are compared exactly; the rest is for a GPU.
"""

from __future__ import annotations

# isort: off
import tests.model.interpreted  # noqa: F401  before Triton is imported
# isort: on

from pathlib import Path

import torch

from predictor.engine.cuda import parity
from predictor.engine.cuda.parity import TOLERANCE, difference
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion, plain_add_rms_norm
from predictor.model.cuda.kernels import quantized as kernels
from predictor.model.cuda.quantized import quantize_fp8_rows, quantize_int8

TINY = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
# Rows, channels, width: every tile, with and without parts of one, divided and not.
SHAPES = ((1, 96, 96), (5, 256, 640), (20, 512, 1024), (48, 64, 512), (70, 128, 160))
MANY = (130, 64, 2048)


def check_int8(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    num_rows, num_channels, width = shape
    weight, scale = quantize_int8(torch.randn(num_channels, width))
    x = torch.randn(num_rows, width + 16).to(dtype)[:, 8 : width + 8]  # rows do not adjoin
    counts = torch.zeros(kernels.FULL_DEVICE, dtype=torch.int32)
    expected = x.double() @ weight.double().T * scale
    for _ in range(2):  # the counters serve again
        ours = kernels.int8_linear(x, weight, scale, counts)
        error = difference(ours, expected)
        if not error <= TOLERANCE[dtype] or counts.any():
            raise SystemExit(f"int8 {dtype} {shape}: {error:.1e}, counters {counts.unique()}")
    spoilt = x.clone()
    spoilt[0] = float("nan")
    after = kernels.int8_linear(spoilt, weight, scale, counts)
    if not after[0].isnan().all() or not torch.equal(after[1:], ours[1:]):
        raise SystemExit(f"int8 {dtype} {shape}: one row's NaN is not in that row alone")


def check_rows(width: int) -> None:
    x = torch.randn(6, width).to(torch.bfloat16)
    x[1], x[2], x[3] = 0.0, x[2] * 1e20, x[3] * 1e-20
    values, scale = kernels.quantize_rows(x)
    twin, twin_scale = quantize_fp8_rows(x)
    if not torch.equal(scale, twin_scale):
        raise SystemExit(f"scales {scale} instead of {twin_scale}")
    error = difference(values.float(), twin.float())
    if not error <= 0.1:  # one step of 8-bit floats is up to 1/8 of the value
        raise SystemExit(f"rows of {width}: relative difference {error:.1e}")


def check_on_the_way() -> None:
    """Norm and SwiGLU that quantize: the scales of plain torch, and rows as near as may be."""
    model = load_model(TINY, device="cpu", dtype=torch.float32)
    error = parity._rows(Fusion(), model.decoder)
    if not error <= 0.1:
        raise SystemExit(f"rows quantized on the way: relative difference {error:.1e}")
    x, norm = torch.randn(4, 256), model.decoder.norm.weight
    scale = kernels.add_rms_norm_quantized(x, None, norm, 1e-6)[1]
    twin = quantize_fp8_rows(plain_add_rms_norm(x, None, norm, 1e-6))[1]
    if not difference(scale, twin) <= 1e-5:
        raise SystemExit(f"scales after the norm {scale} instead of {twin}")


def check_dequantize() -> None:
    weight, scale = quantize_int8(torch.randn(32, 640))
    ours = kernels.dequantize(weight, scale, torch.float16)
    if not torch.equal(ours, (weight.float() * scale[:, None]).half()):
        raise SystemExit("weights come back with another rounding")


def check_splits() -> None:
    """Every block belongs to one program, and no program has none."""
    for num_tiles in (1, 16, 32, 64, 192, 500):
        for num_blocks in range(1, 100):
            splits = kernels.int8_splits(num_tiles, num_blocks)
            share = -(-num_blocks // splits)
            if not (1 <= splits <= kernels.MAX_SPLITS and (splits - 1) * share < num_blocks):
                raise SystemExit(f"{num_tiles} tiles, {num_blocks} blocks: {splits} splits")
            if splits > 1 and num_tiles > kernels.FULL_DEVICE:
                raise SystemExit(f"{num_tiles} tiles have more counters than there are")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.float16):  # it multiplies bfloat16 matrices as integers
        for shape in SHAPES:
            check_int8(dtype, shape)
    check_int8(torch.float16, MANY)
    for width in (96, 640, 6144):
        check_rows(width)
    check_on_the_way()
    check_dequantize()
    check_splits()


if __name__ == "__main__":
    main()
