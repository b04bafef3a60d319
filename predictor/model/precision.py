"""The precisions a model can run in: one name for what the weights, activations and cache are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

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
    dtype: torch.dtype  # of activations and cache, and of the weights that are not quantized
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
