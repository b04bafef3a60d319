"""What the threads read is what safetensors itself reads, wherever the pieces' bounds fall."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from predictor.model.checkpoint import reading
from predictor.model.checkpoint.reading import Reader, Source, sources

CPU = torch.device("cpu")
STORED = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Tensors of every type, scalars and empty ones too, one of them of no use."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{dtype}.{i}": torch.randn(shape, generator=generator).to(dtype)
        for dtype in STORED
        for i, shape in enumerate([(7, 333), (1001,), (), (0, 3)])
    }
    tensors["counts"] = torch.arange(5)
    save_file(tensors, tmp_path / "some.safetensors", metadata={"dtype": "F32"})
    return tmp_path / "some.safetensors"


@pytest.mark.parametrize("piece_bytes", [8, 1000, 2**20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_are_those_that_safetensors_reads(
    file: Path, piece_bytes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PIECE_BYTES", piece_bytes)
    expected = load_file(file)
    places = sources(file)
    assert places.keys() == expected.keys() - {"counts"}
    read = {name: torch.full(expected[name].shape, 7.0, dtype=dtype) for name in places}
    with Reader(CPU) as reader:
        reader.read([(places[name], target) for name, target in read.items()])
    for name, tensor in read.items():
        assert torch.equal(tensor, expected[name].to(dtype)), name


def test_a_file_that_ends_early_is_an_error(file: Path) -> None:
    source = sources(file)["torch.float32.1"]
    behind = Source(file, file.stat().st_size - 2, source.dtype)
    with Reader(CPU) as reader, pytest.raises(EOFError, match="ends early"):
        reader.read([(behind, torch.empty(9))])


def test_an_error_leaves_no_thread_behind(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setattr(reading, "PIECE_BYTES", 8)
    before = threading.active_count()
    missing = Source(file.with_name("zzz"), 0, torch.float32)
    some = sources(file)["torch.float32.1"]
    with Reader(CPU) as reader, pytest.raises(FileNotFoundError):
        reader.read([(some, torch.empty(1001)), (missing, torch.empty(9))])
    assert threading.active_count() == before
