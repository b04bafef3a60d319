"""The four products of each layer alone, in the ways that a precision has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from predictor.model.cuda.quantized import LINEARS, Fp8Linear, Int8Linear
from predictor.model.model import Model
from tests.bench.engine_bench import Bench
from tests.bench.parts import timed_ms

GEMM_ROWS = (1, 8, 16, 32, 64, 128, 256, 512, 8192)


@torch.inference_mode()
def products(bench: Bench, model: Model) -> dict[str, Any]:
    """The four products of all layers, so that no weight is still in a cache when read."""
    result: dict[str, Any] = {}
    rows = (1, 4) if bench.small else GEMM_ROWS
    for name in LINEARS:
        linears = [layer.get_submodule(name) for layer in model.decoder.layers]
        num_channels, width = linears[0].weight.shape  # type: ignore[misc,union-attr]
        for num_rows in rows:
            x = torch.randn(num_rows, int(width), device=bench.device)
            x = x.to(model.dtype)
            flops = 2.0 * num_rows * int(num_channels) * int(width)
            for way, run in _ways(linears, x).items():
                key = f"{name} {int(num_channels)}x{int(width)}, {num_rows} rows{way}"
                try:
                    ms = _each_ms(bench.device, run)
                    result[key] = {"us": 1e3 * ms, "tflops": 1e-9 * flops / ms}
                except Exception as error:  # noqa: BLE001  the others go on
                    result[key] = {"error": f"{type(error).__name__}: {error}"[:200]}
    many = [v for k, v in result.items() if k.endswith(f", {rows[-1]} rows") and "tflops" in v]
    best = max((v["tflops"] for v in many), default=0.0)
    note = f"at {rows[-1]} rows, the fastest of the four"
    return {"value": best, "unit": "TFLOP/s", "products": result, "note": note}


def _ways(linears: list[Any], x: torch.Tensor) -> dict[str, list[Callable[[], torch.Tensor]]]:
    """What a layer does, and its parts: name of the way -> one call a layer."""
    ways: dict[str, list[Callable[[], torch.Tensor]]] = {
        "": [lambda m=m: m(x) for m in linears]  # type: ignore[misc]
    }
    if x.is_cuda and isinstance(linears[0], Fp8Linear):
        from predictor.model.cuda.kernels.quantized import quantize_rows

        q, scale = quantize_rows(x)
        ways[", quantizing rows alone"] = [lambda: quantize_rows(x)[0] for _ in linears]
        for suffix, fast in (("product alone", True), ("product alone, exact sums", False)):
            ways[f", {suffix}"] = [
                lambda m=m, f=fast: m.product(q, scale, x.dtype, f)  # type: ignore[misc]
                for m in linears
            ]
    if x.is_cuda and isinstance(linears[0], Int8Linear):
        ways[", one kernel"] = [lambda m=m: m.fused(x) for m in linears]  # type: ignore[misc]
        ways[", through a copy"] = [
            lambda m=m: m.dequantized(x)  # type: ignore[misc]
            for m in linears
        ]
    return ways


def _each_ms(device: torch.device, calls: list[Callable[[], torch.Tensor]]) -> float:
    def run() -> None:
        for call in calls:
            call()

    run()
    if device.type != "cuda":
        return timed_ms(device, run) / len(calls)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return timed_ms(device, graph.replay) / len(calls)
