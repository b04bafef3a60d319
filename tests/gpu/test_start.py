"""What a start does on CUDA: weights through pinned buffers, beside kernels that are compiled.

Needs a CUDA device: `pytest -m gpu`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from predictor.engine import EngineOptions
from predictor.engine.runner import TorchRunner
from predictor.engine.start import build
from predictor.engine.start import warm_up as rehearsal
from predictor.model.checkpoint import reading
from predictor.model.checkpoint.weights import load_model
from predictor.model.config import ModelConfig
from predictor.model.precision import choose_precision
from tests.bench import start
from tests.bench.checkpoint import write_checkpoint
from tests.bench.environment import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("random"), "tiny", max_shard_bytes=300_000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("piece_bytes", [1000, 2**20])
def test_weights_on_the_device_are_those_of_the_files(
    folder: Path, dtype: torch.dtype, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", piece_bytes)  # buffers are used again and again
    stored = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    model = load_model(folder, device=CUDA, dtype=dtype)
    tensors = model.tensors()
    assert tensors.keys() == stored.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor.cpu(), stored[name].to(dtype)), name


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"),
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float8_e4m3fn),
        (torch.float32, torch.float32),
    ],
)
def test_a_rehearsal_leaves_nothing_to_compile_and_no_memory(
    folder: Path,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    config = ModelConfig.from_folder(folder)
    precision = choose_precision(dtype, CUDA)
    build.rehearse(config, CUDA, precision, kv_dtype)
    after = torch.cuda.memory_allocated()
    build.rehearse(config, CUDA, precision, kv_dtype)
    assert torch.cuda.memory_allocated() == after
    compiled: list[str] = []

    def note(*args: object, **kwargs: object) -> None:
        compiled.append(str(kwargs.get("repr", args)))

    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", note)
    model = load_model(folder, device=CUDA, dtype=dtype)
    runner = build.make_runner(
        model,
        num_slots=32,
        max_model_len=768,
        max_prefill_audio_s=120.0,
        max_prefill_tokens=8192,
        kv_dtype=kv_dtype,
    )
    rehearse_again(runner)
    assert not compiled


@pytest.mark.parametrize(
    ("precision", "kv_precision"),
    [("bfloat16", "auto"), ("fp8", "auto"), ("int8", "auto"), ("bfloat16", "fp8"), ("fp8", "fp8")],
)
def test_kernels_compiled_without_a_device_are_all_that_a_start_needs(
    folder: Path, tmp_path: Path, precision: str, kv_precision: str, shipped: Path
) -> None:
    """In a process of its own, which has compiled nothing yet; its own folder stays empty."""
    own = tmp_path / "own"
    code = f"""
import logging
from pathlib import Path
from predictor.engine import EngineOptions
from predictor.engine.start import build
from predictor.model.cuda import kernel_cache
from predictor.logs import configure_logging
configure_logging("json", "info")
kernel_cache.SHIPPED = Path({str(shipped)!r})
options = EngineOptions(max_num_seqs=8, kv_precision={kv_precision!r})
build.build_runner(Path({str(folder)!r}), "cuda", {precision!r}, options)
import sys
print("torch._dynamo" in sys.modules)
"""
    environment = os.environ | {"TRITON_CACHE_DIR": str(own)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [ready] = [json.loads(x) for x in done.stderr.splitlines() if '"kernels ready"' in x]
    assert not [file.name for file in own.rglob("*") if file.is_file()]
    assert ready["compiled"] == 0
    assert ready["found"] > 15
    assert done.stdout.split() == ["False"]  # torch's compiler takes seconds to import


@pytest.fixture(scope="module")
def shipped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image would hold for this device, made where the device cannot be seen."""
    major, minor = torch.cuda.get_device_capability()
    output = tmp_path_factory.mktemp("shipped")
    command = [sys.executable, "-m", "predictor.engine.start.precompile", "--models", str(folder)]
    command += ["--archs", str(10 * major + minor), "--output", str(output)]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return output


def rehearse_again(runner: TorchRunner) -> None:
    sequences = [rehearsal._sequence(runner, 0)]
    for step in (runner.prefill, runner.decode):
        for sequence, tokens in zip(sequences, step(sequences).tokens, strict=True):
            sequence.tokens += tokens


def test_a_rehearsal_beside_reading_gives_the_same_weights_and_answers(folder: Path) -> None:
    options = EngineOptions(max_num_seqs=8, max_model_len=512)
    runner = build.build_runner(folder, "cuda", "bfloat16", options)
    alone = load_model(folder, device=CUDA, dtype=torch.bfloat16)
    for name, tensor in runner._model.tensors().items():
        assert torch.equal(tensor, alone.tensors()[name]), name


def test_a_rehearsal_that_fails_is_no_more_than_a_log_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(rehearsal, "rehearse", fail)
    build.build_runner(folder, "cuda", "bfloat16", EngineOptions(max_num_seqs=8, max_model_len=512))
    assert "the rehearsal failed" in caplog.text


@pytest.mark.parametrize("cache", ["empty", "filled"])
def test_the_server_starts_on_a_checkpoint_of_a_published_shape(
    folder: Path, tmp_path: Path, cache: str
) -> None:
    kernels = tmp_path / "kernels"
    for _ in range(2 if cache == "filled" else 1):
        measured = start.measure(folder, kernels, 120, ["--device", "cuda"])
    stages = measured["stages_s"]
    assert stages["kernels ready"] < stages["first graphs captured"] < stages["ready"]
    assert not [line for line in stages if "is not used" in line or "failed" in line]
