"""Weights of less than 16 bits: the linear layers are replaced when the checkpoint is loaded.

`Quantize` is what a device offers for a precision; loading calls it for each part of the model as
soon as that part is filled, so that the weights are never all in memory in two forms.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from predictor.model.model import Model

Quantize = Callable[[nn.Module], None]  # one part of `Model.parts()`, in place


def quantizer(precision: str, device: torch.device) -> Quantize:
    """What quantizes a part of a model; ValueError where this machine cannot run the result."""
    if (precision, device.type) == ("int8", "cpu"):
        from predictor.model import quantized_cpu

        quantized_cpu.check_machine()
        return quantized_cpu.quantize_part
    if device.type == "cuda":
        from predictor.model.cuda import quantized as quantized_cuda

        refusal = quantized_cuda.refusal_on(device, precision)
        if refusal:
            raise ValueError(refusal)
        return quantized_cuda.part_quantizer(precision)
    raise ValueError(f"precision {precision!r} has no quantization on {device.type}")


def check_quantized(model: Model, precision: str) -> None:
    """ValueError where the device's products of quantized weights are wrong."""
    if model.device.type == "cuda":
        from predictor.model.cuda import quantized as quantized_cuda

        quantized_cuda.require_right(model, precision)


def quantize(model: Model, precision: str) -> None:
    """Quantize a model that is all loaded, in place; `load_model` does it with less memory.

    ValueError like `quantizer` and `check_quantized`.
    """
    quantize_part = quantizer(precision, model.device)
    for part, tensors in model.parts():
        tensors.clear()  # no view may keep what is replaced
        quantize_part(part)
    check_quantized(model, precision)
