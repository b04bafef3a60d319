"""The 8-bit layers on a GPU: kernels against their twins, batches against rows alone, and the
error rates of the embedded checkpoint. Needs a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.parity import difference, kernel_errors
from predictor.engine.options import EngineOptions
from predictor.engine.start.build import make_runner
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda import quantized
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.quantized import KINDS, Fp8Linear, Int8Linear, QuantizedLinear
from predictor.model.quantized import quantize
from tests.gpu.test_cuda import TINY, Spoken, answers, error_rate, recordings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")
# Channels and width: the four of 1.7B, 0.6B's and the embedded checkpoint's narrowest.
SHAPES = [(4096, 2048), (2048, 2048), (12288, 2048), (2048, 6144), (1024, 3072), (256, 640)]
ROWS = [1, 2, 7, 16, 17, 32, 50, 64, 65, 128, 200, 256, 257, 1000]
# Largest |difference| / |twin| over all elements. Inputs and weights are the same 8-bit numbers:
# int8 is off by the order of float32 sums, fp8 by Hopper's fast sums of about 13 bits too.
TOLERANCE = {"fp8": 2e-2, "int8": 4e-3}
TYPES = [torch.bfloat16, torch.float16]


@pytest.fixture(params=KINDS)
def precision(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    refusal = quantized.refusal_on(CUDA, name)
    if refusal:
        pytest.skip(refusal)
    return name


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator(CUDA).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=CUDA)


def layer_of(precision: str, shape: tuple[int, int]) -> Fp8Linear | Int8Linear:
    """A layer with channels of different sizes."""
    num_channels, width = shape
    sizes = torch.linspace(0.01, 2.0, num_channels, device=CUDA)[:, None]
    return KINDS[precision].of((normal(num_channels, width) * sizes).to(torch.bfloat16))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_layers_equal_their_twins(
    precision: str, shape: tuple[int, int], dtype: torch.dtype
) -> None:
    layer = layer_of(precision, shape)
    worst = 0.0
    for num_rows in ROWS:
        x = normal(num_rows, shape[1], seed=num_rows).to(dtype)
        ours = layer(x)
        assert ours.dtype == dtype
        assert ours.is_contiguous()
        error = difference(ours, layer.twin(x))
        worst = max(worst, error)
        assert error < TOLERANCE[precision], f"{num_rows} rows: relative difference {error:.1e}"
    print(f"{precision} {shape} {dtype}: relative difference {worst:.1e} at most")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_int8_is_the_same_by_both_ways(shape: tuple[int, int]) -> None:
    layer = layer_of("int8", shape)
    assert isinstance(layer, Int8Linear)
    for num_rows in (1, 40, 300, 2000):
        x = normal(num_rows, shape[1]).to(torch.bfloat16)
        twin = layer.twin(x)
        assert difference(layer.fused(x), twin) < TOLERANCE["int8"]
        assert difference(layer.dequantized(x), twin) < 1e-2
    assert not layer.counts.any()


@pytest.mark.parametrize("width", [256, 640, 1024, 2048, 3072, 6144])
@torch.inference_mode()
def test_rows_are_rounded_as_torch_rounds_them(width: int) -> None:
    from predictor.model.cuda.kernels import quantized as kernels

    x = normal(9, width).to(torch.bfloat16)
    x[1], x[2], x[3] = 0.0, x[2] * 1e20, x[3] * 1e-20
    x[8, 5] = float("nan")
    values, scale = kernels.quantize_rows(x)
    twin, twin_scale = quantized.quantize_fp8_rows(x)
    assert torch.equal(scale[:8], twin_scale[:8])
    assert torch.equal(values[:8].view(torch.uint8), twin[:8].view(torch.uint8))
    assert values[8].float().isnan().any()
    wider = torch.cat([x, x], dim=1)[:, 8 : width + 8]  # rows that do not adjoin
    values, scale = kernels.quantize_rows(wider)
    twin, twin_scale = quantized.quantize_fp8_rows(wider)
    assert torch.equal(values[:8].view(torch.uint8), twin[:8].view(torch.uint8))


@torch.inference_mode()
def test_rows_quantized_on_the_way_equal_those_quantized_apart() -> None:
    """In the norm and the SwiGLU of the embedded checkpoint, and of layers as wide as 1.7B's."""
    refusal = quantized.refusal_on(CUDA, "fp8")
    if refusal:
        pytest.skip(refusal)
    from predictor.model.cuda.kernels import decoder as kernels

    torch.manual_seed(0)
    model = load_model(TINY, device=CUDA, dtype=torch.bfloat16)
    quantize(model, "fp8")
    assert kernel_errors(Fusion(), model) == {}
    gate_up, ffn_out = layer_of("fp8", (12288, 2048)), layer_of("fp8", (2048, 6144))
    assert isinstance(gate_up, Fp8Linear)
    assert isinstance(ffn_out, Fp8Linear)
    norm = (1 + 0.1 * normal(2048)).to(torch.bfloat16)
    for num_rows in (1, 33, 256):
        x, add = (normal(num_rows, 2048, seed=i).to(torch.bfloat16) for i in range(2))
        twin = x.clone()
        ours = gate_up.after_norm(x, add, norm, 1e-6)
        theirs = gate_up(kernels.add_rms_norm(twin, add, norm, 1e-6))
        assert torch.equal(x, twin)
        assert difference(ours, theirs) < TOLERANCE["fp8"]
        assert (
            difference(ffn_out.after_swiglu(ours), ffn_out(kernels.swiglu(ours))) < TOLERANCE["fp8"]
        )


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
@torch.inference_mode()
def test_a_row_does_not_depend_on_its_batch_mates(precision: str, shape: tuple[int, int]) -> None:
    """To the bit whatever else is in a batch of one size; nearly in a batch of another size."""
    layer = layer_of(precision, shape)
    for num_rows in (8, 64, 256):
        x = normal(num_rows, shape[1]).to(torch.bfloat16)
        others = 100 * normal(num_rows, shape[1], seed=1).to(torch.bfloat16)
        others[0], others[-1] = x[0], float("nan")
        together = layer(x)
        among_others = layer(others)
        assert torch.equal(among_others[0], together[0])
        assert among_others[-1].isnan().all()
        assert among_others[:-1].isfinite().all()
        alone = layer(x[:1])
        assert difference(alone[0], together[0]) < TOLERANCE[precision]


@torch.inference_mode()
def test_a_graph_replays_the_same_numbers(precision: str) -> None:
    layers = [layer_of(precision, shape) for shape in SHAPES[:4]]
    inputs = [normal(32, shape[1]).to(torch.bfloat16) for shape in SHAPES[:4]]
    expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    for _ in range(50):
        graph.replay()
    for ours, theirs in zip(outputs, expected, strict=True):
        assert torch.equal(ours, theirs)
    for i, x in enumerate(inputs):
        x.copy_(normal(*x.shape, seed=9 + i))
    graph.replay()
    for layer, x, ours in zip(layers, inputs, outputs, strict=True):
        assert difference(ours, layer.twin(x)) < TOLERANCE[precision]


def test_a_quantized_model_holds_half_the_bytes(precision: str) -> None:
    model = load_model(TINY, device=CUDA, dtype=torch.bfloat16)
    layer = model.decoder.layers[0]
    before = sum(
        layer.get_submodule(name).get_parameter("weight").nbytes for name in quantized.LINEARS
    )
    quantize(model, precision)
    after = 0
    for name in quantized.LINEARS:
        linear = layer.get_submodule(name)
        assert isinstance(linear, QuantizedLinear)
        assert linear.weight.is_cuda
        assert linear.scale.is_cuda
        after += linear.weight.nbytes
    assert 2 * after == before
    exact = load_model(TINY, device=CUDA, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"precision '{precision}' needs dtype bfloat16"):
        quantize(exact, precision)


def heard(spoken: list[Spoken], precision: str | None) -> list[tuple[int, ...]]:
    """The embedded checkpoint's answers in bfloat16, quantized if asked for."""
    options = EngineOptions(max_num_seqs=32, max_model_len=1024)
    model = load_model(TINY, device=CUDA, dtype=torch.bfloat16)
    if precision:
        quantize(model, precision)
    engine = EngineClient(
        [
            EngineCore(
                make_runner(
                    model,
                    num_slots=32,
                    max_model_len=1024,
                    max_prefill_audio_s=120.0,
                    max_prefill_tokens=8192,
                ),
                options,
            )
        ]
    )
    engine.start()
    try:
        return answers(engine, [item.request for item in spoken], at_once=200)
    finally:
        engine.stop()


def test_recordings_are_heard_with_as_few_errors(precision: str) -> None:
    spoken = recordings()
    plain, ours = heard(spoken, None), heard(spoken, precision)
    plain_rate, our_rate = error_rate(spoken, plain), error_rate(spoken, ours)
    same = sum(a == b for a, b in zip(plain, ours, strict=True))
    print(
        f"{len(spoken)} recordings: errors {plain_rate:.2%} in bfloat16, {our_rate:.2%} in "
        f"{precision}; {same} token for token the same"
    )
    assert our_rate <= plain_rate + 0.005
