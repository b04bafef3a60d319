"""What a start does on CUDA: weights through pinned buffers, beside kernels that are compiled.

Needs a CUDA device: `pytest -m gpu`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from predictor.engine import EngineOptions, build, rehearsal
from predictor.engine.runner import TorchRunner
from predictor.model import reading
from predictor.model.config import ModelConfig
from predictor.model.precision import choose_precision
from predictor.model.weights import load_model
from tests.bench import start
from tests.bench.checkpoint import write_checkpoint

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_rehearsal_leaves_nothing_to_compile_and_no_memory(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from triton import knobs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    config = ModelConfig.from_folder(folder)
    precision = choose_precision(dtype, CUDA)
    build._rehearse(config, CUDA, precision)
    after = torch.cuda.memory_allocated()
    build._rehearse(config, CUDA, precision)
    assert torch.cuda.memory_allocated() == after
    compiled: list[str] = []

    def note(*args: object, **kwargs: object) -> None:
        compiled.append(str(kwargs.get("repr", args)))

    monkeypatch.setattr(knobs.runtime, "jit_post_compile_hook", note)
    model = load_model(folder, device=CUDA, dtype=dtype)
    runner = build.make_runner(model, num_slots=32, max_model_len=768, max_prefill_audio_s=120.0)
    rehearse_again(runner)
    assert not compiled


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
    assert stages["kernels compiled"] < stages["first graphs captured"] < stages["ready"]
    assert not [line for line in stages if "is not used" in line or "failed" in line]
