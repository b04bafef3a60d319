"""Quantized weights, rows and layers: their twins on the CPU; the kernels in the interpreter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.quantized import (
    INT8_MAX,
    KINDS,
    LINEARS,
    Fp8Linear,
    Int8Linear,
    QuantizedLinear,
    part_quantizer,
    quantize_fp8,
    quantize_fp8_rows,
    quantize_int8,
    refusal_on,
)
from tests.model.checkpoints import EMBEDDED

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def test_kernels_equal_plain_torch() -> None:
    """In Triton's interpreter, which must be chosen before Triton is imported."""
    pytest.importorskip("triton")
    subprocess.run(
        [sys.executable, "-m", "tests.model.quantized_parity"], cwd=ROOT, check=True, timeout=800
    )


@st.composite
def weights(draw: st.DrawFn) -> Tensor:
    """Channels of sizes from 1e-20 to 1e20, some with an outlier, some zero."""
    num_channels, width = draw(st.integers(1, 5)), draw(st.sampled_from([16, 48, 160]))
    seed = draw(st.integers(0, 2**31 - 1))
    weight = torch.randn(num_channels, width, generator=torch.Generator().manual_seed(seed))
    for channel in range(num_channels):
        weight[channel] *= 10.0 ** draw(st.integers(-20, 20))
        if draw(st.booleans()):
            weight[channel, 3] *= 1000
        if draw(st.integers(0, 4)) == 0:
            weight[channel] = 0
    return weight.to(torch.bfloat16)


@given(weights())
@settings(max_examples=60, deadline=None)
def test_int8_weights_are_off_by_half_a_step_of_their_channel_at_most(weight: Tensor) -> None:
    quantized, scale = quantize_int8(weight)
    assert quantized.dtype == torch.int8
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert int(quantized.min()) >= -127
    exact = weight.double()
    error = (quantized.double() * scale.double()[:, None] - exact).abs().amax(1)
    peak = exact.abs().amax(1)
    assert (error <= (0.5 + 1e-4) * peak / INT8_MAX).all()
    assert (quantized.abs().amax(1)[peak > 0] == 127).all()


@given(weights())
@settings(max_examples=60, deadline=None)
def test_fp8_weights_are_off_by_a_sixteenth_of_themselves_at_most(weight: Tensor) -> None:
    quantized, scale = quantize_fp8(weight)
    back = quantized.double() * scale.double()[:, None]
    exact = weight.double()
    assert back.isfinite().all()
    # Three bits after the leading one; below the least normal number, 2^-6, steps of 2^-9.
    bound = torch.maximum(exact.abs() / 16, scale.double()[:, None] * 2.0**-10)
    assert ((back - exact).abs() <= bound * (1 + 1e-5)).all()


@given(weights())
@settings(max_examples=40, deadline=None)
def test_a_row_is_quantized_the_same_alone_and_in_a_batch(x: Tensor) -> None:
    values, scale = quantize_fp8_rows(x)
    assert values.float().isfinite().all()
    for i in range(len(x)):
        one, one_scale = quantize_fp8_rows(x[i : i + 1])
        assert torch.equal(one.float(), values[i : i + 1].float())
        assert torch.equal(one_scale, scale[i : i + 1])


@given(st.integers(-60, 60), st.integers(0, 2**31 - 1))
@settings(max_examples=40, deadline=None)
def test_values_that_can_be_held_come_back_exactly(exponent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    step = 2.0**exponent
    every = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    every = every[every.isfinite()]
    order = torch.randperm(len(every), generator=generator)
    quantized, scale = quantize_fp8((every[order] * step)[None])
    assert scale.item() == step
    assert torch.equal(quantized[0].float(), every[order])
    integers = torch.arange(-127, 128).float()
    quantized, scale = quantize_int8((integers * step)[None])
    assert scale.item() == step
    assert torch.equal(quantized[0].float(), integers)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_layer_is_near_the_one_it_replaces(kind: type[Fp8Linear] | type[Int8Linear]) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(64, 160), torch.randn(9, 160)
    layer = kind.of(weight)
    assert layer.weight.shape == (64, 160)
    assert layer.weight.is_contiguous()
    assert layer.weight.itemsize == 1
    assert layer.scale.shape == (64,)
    assert layer.scale.dtype == torch.float32
    exact = x @ weight.T
    difference = ((layer(x) - exact).norm() / exact.norm()).item()
    # Uniform errors: a step of 1/127 of the peak for int8; for fp8 three bits on both sides.
    assert difference < (0.01 if kind is Int8Linear else 0.05)
    in_a_batch, alone = layer(x), torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(in_a_batch, alone, rtol=1e-5, atol=1e-5)


def test_fp8_keeps_a_spoilt_row_to_itself() -> None:
    torch.manual_seed(0)
    layer, x = Fp8Linear.of(torch.randn(32, 48)), torch.randn(3, 48)
    clean = layer(x)
    x[1, 5] = float("inf")
    spoilt = layer(x)
    assert spoilt[1].isnan().all()
    assert torch.equal(spoilt[::2], clean[::2])
    assert layer(torch.zeros(2, 48)).abs().max() == 0


@pytest.mark.parametrize("precision", KINDS)
def test_the_decoder_is_replaced_and_nothing_else(precision: str) -> None:
    model = load_model(EMBEDDED / "tiny", device="cpu", dtype=torch.bfloat16)
    names = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for part, tensors in model.parts():
        tensors.clear()
        part_quantizer(precision)(part)
    left = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    quantized = {
        name for name, module in model.named_modules() if isinstance(module, QuantizedLinear)
    }
    assert quantized == {
        f"decoder.layers.{i}.{name}" for i in range(len(model.decoder.layers)) for name in LINEARS
    }
    assert left == names - quantized
    assert model.dtype == torch.bfloat16
    x = torch.randn(3, model.config.text.hidden_size).to(torch.bfloat16)
    qkv = model.decoder.layers[0].get_submodule("qkv")
    assert qkv(x).dtype == torch.bfloat16


def test_what_cannot_run_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert "precision 'fp8' of this kind needs a CUDA device" in (refusal_on(cpu, "fp8") or "")
    assert "precision must be fp8 or int8" in (refusal_on(cpu, "int4") or "")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    cuda = torch.device("cuda")
    expected: dict[tuple[int, int], dict[str, str | None]] = {
        (7, 5): {"fp8": "needs compute capability 8.9", "int8": "needs compute capability 8.0"},
        (8, 0): {"fp8": "Card has compute capability 8.0: use precision 'int8'", "int8": None},
        (8, 9): {"fp8": None, "int8": None},
        (9, 0): {"fp8": None, "int8": None},
        (12, 0): {"fp8": None, "int8": None},
    }
    for capability, answers in expected.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        for precision, answer in answers.items():
            refusal = refusal_on(cuda, precision)
            assert (refusal is None) == (answer is None)
            assert (answer or "") in (refusal or "")


@pytest.mark.parametrize("shape", [(32, 40), (24, 32)])
def test_widths_and_types_that_do_not_fit_are_refused(shape: tuple[int, int]) -> None:
    model = load_model(EMBEDDED / "tiny", device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="precision 'int8' needs dtype bfloat16 or float16"):
        part_quantizer("int8")(model.decoder.layers[0])
    layer = load_model(EMBEDDED / "tiny", device="cpu", dtype=torch.bfloat16).decoder.layers[1]
    layer.ffn_out = torch.nn.Linear(shape[1], shape[0], bias=False)
    with pytest.raises(ValueError, match=rf"multiples of 16, ffn_out has {shape[0]} x {shape[1]}"):
        part_quantizer("fp8")(layer)
    assert isinstance(layer.get_submodule("qkv"), torch.nn.Linear)
