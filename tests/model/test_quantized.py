"""int8 on the CPU: near the float model, a row the same in any batch, and less in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from predictor.model import quantized_cpu
from predictor.model.checkpoint.weights import load_model
from predictor.model.model import Model
from predictor.model.quantized import quantize, quantizer
from predictor.model.quantized_cpu import HalfEmbedding, Int8Linear, quantize_rows
from tests.model.checkpoints import write_original
from tests.model.test_weights import logits

CPU = torch.device("cpu")
SIZES = [(96, 64), (1, 7), (37, 129), (256, 512)]  # outputs, inputs


def load(folder: Path) -> Model:
    return load_model(folder, device=CPU, dtype=torch.float32, quantize_part=quantizer("int8", CPU))


def random(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_layer_computes_what_its_rounded_inputs_and_weights_give(
    size: tuple[int, int], with_bias: bool
) -> None:
    """Against exact integers: a sum that saturates, as some processors' do, would show."""
    weight, x = random(*size), random(9, size[1], seed=1)
    bias = random(size[0], seed=2) if with_bias else None
    steps = quantized_cpu.input_max()
    weight_values, weight_scale = quantize_rows(weight, 127)
    x_scale = x.abs().amax(1, keepdim=True) / steps
    expected = (x / x_scale).round().double() @ weight_values.double().T
    expected = expected * x_scale * weight_scale + (0 if bias is None else bias)
    ours = Int8Linear(weight, bias)(x)
    # One step of one input may round the other way.
    slack = float(x_scale.max() * weight.abs().max()) * 1.5
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= slack
    assert relative(ours.double(), expected) < 0.003


def test_the_largest_sums_do_not_saturate() -> None:
    weight = torch.ones(8, 512)
    x = torch.cat([torch.ones(1, 512), -torch.ones(1, 512)])
    torch.testing.assert_close(Int8Linear(weight, None)(x), x @ weight.T, rtol=1e-5, atol=0)


@pytest.mark.parametrize("size", SIZES[2:])
def test_rounding_costs_about_one_percent(size: tuple[int, int]) -> None:
    weight, x = random(*size), random(50, size[1], seed=1)
    error = relative(Int8Linear(weight, None)(x), F.linear(x, weight))
    assert 0.001 < error < 0.02


@pytest.mark.parametrize("num_mates", [1, 3, 40, 200])
@pytest.mark.parametrize("loudest", [1.0, 1e4])
def test_a_row_is_the_same_bits_alone_and_in_a_batch(num_mates: int, loudest: float) -> None:
    layer = Int8Linear(random(96, 256), random(96, seed=3))
    row = random(1, 256, seed=1)
    mates = loudest * random(num_mates, 256, seed=2)
    assert torch.equal(layer(torch.cat([row, mates]))[:1], layer(row))
    assert torch.equal(layer(torch.cat([mates, row]))[-1:], layer(row))


def test_rows_of_zeros_and_rows_that_are_not_numbers_stay_by_themselves() -> None:
    layer = Int8Linear(random(16, 32), None)
    x = random(3, 32, seed=1)
    x[0], x[1, 5] = 0, float("nan")
    y = layer(x)
    assert torch.equal(y[0], torch.zeros(16))
    assert y[1].isnan().any()
    assert torch.equal(y[2:], layer(x[2:]))


def test_weights_are_rounded_to_the_nearest_of_their_rows_steps() -> None:
    weight = random(10_000, 8)
    weight[3] = 0
    values, scale = quantize_rows(weight, 127)
    assert values.dtype == torch.int8
    assert values.abs().max() == 127
    restored = values * scale[:, None]
    assert ((restored - weight).abs() <= scale[:, None] * 0.5001).all()
    assert not values[3].any()


def test_a_quantized_model_is_near_the_float_one(checkpoint: Path) -> None:
    """Of logits: shift and scale of a few percent, far from the 140 % of an unrelated model."""
    exact = logits(load_model(checkpoint, device=CPU, dtype=torch.float32))
    error = relative(logits(load(checkpoint)), exact)
    assert 0.0005 < error < 0.1


def test_every_large_matrix_of_layers_and_head_is_replaced(checkpoint: Path) -> None:
    model = load(checkpoint)
    kept = {name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert kept == {"encoder.conv_out", "encoder.project_in", "encoder.project_out"}
    assert isinstance(model.decoder.head, Int8Linear)
    assert isinstance(model.decoder.embedding, HalfEmbedding)
    assert model.decoder.embedding(torch.tensor([1])).dtype == model.dtype == torch.float32


@pytest.mark.skipif(not quantized_cpu.multiplies_bf16(), reason="needs AVX512-BF16 or AMX")
def test_bf16_convolutions_are_near_and_the_same_bits_alone_and_in_a_batch(
    checkpoint: Path,
) -> None:
    exact = load_model(checkpoint, device=CPU, dtype=torch.float32).encoder
    ours = load(checkpoint).encoder
    chunks = random(40, exact.config.num_mel_bins, 100)
    with torch.inference_mode():
        whole = ours._convolve(chunks)
        assert whole.dtype == torch.float32
        assert 1e-6 < relative(whole, exact._convolve(chunks)) < 0.01
        for part in (slice(0, 1), slice(3, 5), slice(39, 40)):
            assert torch.equal(ours._convolve(chunks[part]), whole[part])


def test_convolutions_stay_float32_where_the_processor_lacks_bf16(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized_cpu, "multiplies_bf16", lambda: False)
    assert load(checkpoint).encoder.conv2.weight.dtype == torch.float32


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("with_head", [False, True])
def test_the_original_layout_gives_the_same_logits_in_int8(
    checkpoint: Path, tmp_path: Path, num_shards: int, with_head: bool
) -> None:
    original = tmp_path / "original"
    write_original(checkpoint, original, num_shards=num_shards, with_head=with_head)
    assert torch.equal(logits(load(original)), logits(load(checkpoint)))


def test_quantizing_a_loaded_model_is_the_same(checkpoint: Path) -> None:
    model = load_model(checkpoint, device=CPU, dtype=torch.float32)
    quantize(model, "int8")
    assert torch.equal(logits(model), logits(load(checkpoint)))


@pytest.mark.parametrize(("precision", "device"), [("int4", "cpu"), ("fp8", "cpu")])
def test_what_a_device_does_not_have_is_refused(precision: str, device: str) -> None:
    with pytest.raises(
        ValueError, match=f"precision '{precision}' has no quantization on {device}"
    ):
        quantizer(precision, torch.device(device))
