"""The precisions a model can run in: one name for what weights and activations are, and one for
what the key/value cache holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from predictor.model.attention import FP8
from predictor.settings.devices import FP8_CAPABILITY

AUTO = "auto"
_FLOATS = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}  # as the setting has it
# What a device runs, the first of them for "auto". float16 is for CUDA, but runs on a CPU too.
_BY_DEVICE = {
    "cpu": ("float32", "bfloat16", "float16", "int8"),
    "cuda": ("bfloat16", "float16", "float32", "fp8", "int8"),
}


@dataclass(frozen=True, slots=True)
class Precision:
    """How a model is held in memory and computed."""

    name: str  # the dtype's, or the quantization's
    dtype: torch.dtype  # of activations, and of the weights that are not quantized
    is_quantized: bool = False  # the linear layers' weights are what the name says


def choose_precision(name: str | torch.dtype, device: torch.device) -> Precision:
    """`name` is "auto", a precision of the device or a torch dtype; ValueError for others."""
    name = str(name).removeprefix("torch.")
    known = _BY_DEVICE[device.type]
    if name == AUTO:
        name = known[0]
    if name not in known:
        raise ValueError(
            f"precision on {device.type} must be auto or one of "
            f"{', '.join(_SHORT.get(each, each) for each in known)}, is {name!r}"
        )
    if name in _FLOATS:
        return Precision(name, _FLOATS[name])
    beside = "float32" if device.type == "cpu" else "bfloat16"
    return Precision(name, _FLOATS[beside], is_quantized=True)


def choose_kv_dtype(name: str, precision: Precision, device: torch.device) -> torch.dtype:
    """What the cache holds: "auto" is what activations are, "fp8" 8-bit floats.

    ValueError where 8 bits cannot be read, and beside float32.
    """
    if name == AUTO:
        return precision.dtype
    if name != "fp8":
        raise ValueError(f"kv_precision must be auto or fp8, is {name!r}")
    if device.type != "cuda":
        raise ValueError(f"kv_precision 'fp8' needs a CUDA device, not {str(device)!r}")
    if precision.dtype == torch.float32:
        raise ValueError("kv_precision 'fp8' needs a precision of 16 bits or less, not fp32")
    capability, has = capability_of(device)
    if capability < FP8_CAPABILITY:
        raise ValueError(
            f"kv_precision 'fp8' needs compute capability 8.9 or higher, {has}: use kv_precision "
            "'auto'"
        )
    return FP8


def capability_of(device: torch.device) -> tuple[tuple[int, int], str]:
    """A CUDA device's compute capability, and a sentence that says so by the device's name."""
    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    return capability, f"{name} has compute capability {'.'.join(map(str, capability))}"
