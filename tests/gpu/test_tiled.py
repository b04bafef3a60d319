"""Decode steps of 2 to 16 sequences on a GPU: their kernels against the plain operators in the
published shapes, and again and again. Needs a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch

from predictor.engine.start.warm_up import stand_in
from predictor.model.attention import FP8
from predictor.model.checkpoint.published import PUBLISHED
from predictor.model.cuda import quantized, tiled
from predictor.model.cuda.trial import StepTrial
from predictor.model.decoder import DecoderLayer
from predictor.model.model import Model
from predictor.model.quantized import quantize

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")


def model_of(shape: str, precision: str = "bf16") -> Model:
    """One layer of each kind; skips where the device has not what the kernels need."""
    model = stand_in(PUBLISHED[shape], CUDA, torch.bfloat16)
    if not tiled.fits(model.decoder):
        pytest.skip("the kernels are for bf16 on compute capabilities 9.0 and 10.0")
    if precision != "bf16":
        if refusal := quantized.refusal_on(CUDA, precision):
            pytest.skip(refusal)
        quantize(model, precision)
    return model


@pytest.mark.parametrize("kv_dtype", [torch.bfloat16, FP8], ids=str)
@pytest.mark.parametrize("precision", ["bf16", "fp8", "int8"])
@pytest.mark.parametrize("shape", PUBLISHED)
@torch.inference_mode()
def test_layers_equal_the_plain_ones(shape: str, precision: str, kv_dtype: torch.dtype) -> None:
    """Weights in 8 bits are multiplied with activations in 16: the plain layer's are rounded too,
    which is what the larger bound is for."""
    decoder = model_of(shape, precision).decoder
    error = max(tiled.tiled_difference(decoder, kv_dtype, n) for n in (2, 8, 16))
    print(f"{shape} {precision} {kv_dtype}: {error:.1e}")
    assert error <= (2e-2 if precision == "bf16" and kv_dtype != FP8 else 5e-2)


@pytest.mark.parametrize("num_rows", [2, 3, 4, 8, 11, 16])
@torch.inference_mode()
def test_the_same_step_gives_the_same_a_thousand_times(num_rows: int) -> None:
    """Whichever split of a sequence ends last merges them: in the same order each time."""
    decoder = model_of("1.7B").decoder
    layer = decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    trial = StepTrial(decoder, torch.bfloat16, num_rows)
    made = tiled.TiledDecoder(decoder, trial.no_cache, trial.table)
    cache = (trial.cache[0], trial.cache[1])

    def step() -> torch.Tensor:
        x = trial.x.clone()
        rows = tiled._kernels().Rows(x, layer.attention_norm.weight)
        made.run_layer(layer, rows, trial.where, cache, decoder.norm.weight)
        return x

    expected = step()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps = torch.stack([step() for _ in range(20)])
    for _ in range(50):
        steps.zero_()
        graph.replay()
        assert (steps == expected).all()
    assert not made._arrived.any()
