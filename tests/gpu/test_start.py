"""What a start does on CUDA: weights through pinned buffers, beside kernels that are compiled.

Needs a CUDA device: `pytest -m gpu`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from predictor.model import reading
from predictor.model.weights import load_model
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
