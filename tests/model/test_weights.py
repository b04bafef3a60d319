"""Loading: both layouts and sharding bit for bit, and a refusal that names what is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from predictor.model.attention import Packing
from predictor.model.checkpoint.source import resolve_model
from predictor.model.checkpoint.weights import INDEX_FILE, SINGLE_FILE, load_model
from predictor.model.config import CheckpointError
from predictor.model.model import Model
from tests.model.checkpoints import write_original, write_shards


def load(folder: Path) -> Model:
    return load_model(folder, device="cpu", dtype=torch.float32)


def logits(model: Model) -> torch.Tensor:
    """Logits after a second of noise and a few tokens, through every weight of the model."""
    chunks = torch.randn(1, 128, 100, generator=torch.Generator().manual_seed(0))
    audio = model.encoder(chunks.to(model.dtype), model.encoder.plan([100]))
    x = torch.cat([model.decoder.embedding(torch.tensor([1, 2])), audio])
    positions = torch.arange(len(x))
    packing = Packing.of([len(x)], device=model.device, dtype=model.dtype)
    cache = model.new_cache(1, len(x))
    return model.decoder.logits(model.decoder.prefill(x, positions, positions, packing, cache))


@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("with_head", [False, True])
def test_the_original_layout_gives_the_same_logits_bit_for_bit(
    checkpoint: Path, tmp_path: Path, num_shards: int, with_head: bool
) -> None:
    original = tmp_path / "original"
    write_original(checkpoint, original, num_shards=num_shards, with_head=with_head)
    assert torch.equal(logits(load(original)), logits(load(checkpoint)))


def test_a_sharded_native_checkpoint_gives_the_same_logits(native: Path, tmp_path: Path) -> None:
    folder = copied(native, tmp_path)
    (folder / SINGLE_FILE).unlink()
    write_shards(folder, load_file(native / SINGLE_FILE), num_shards=4)
    assert torch.equal(logits(load(folder)), logits(load(native)))


def test_other_dtypes_are_converted_while_reading(native: Path) -> None:
    model = load_model(native, device="cpu", dtype=torch.bfloat16)
    stored = load_file(native / SINGLE_FILE)
    for name, ours in model.tensors().items():
        assert torch.equal(ours, stored[name].bfloat16())
    assert logits(model).isfinite().all()


def copied(native: Path, folder: Path) -> Path:
    """Hard copies of a checkpoint's files, to be spoilt."""
    for file in native.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def spoilt(native: Path, folder: Path, changes: dict[str, torch.Tensor | None]) -> Path:
    """A copy of `native` with tensors replaced, added or (None) taken away."""
    copied(native, folder)
    tensors = load_file(native / SINGLE_FILE)
    for name, tensor in changes.items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / SINGLE_FILE)
    return folder


NORM = "model.language_model.norm.weight"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({NORM: None}, f"missing 1 tensors: {NORM}"),
        ({"model.extra.weight": torch.ones(2)}, "not part of this model: 1 tensors: model.extra"),
        ({NORM: torch.ones(95)}, rf"{NORM} has shape \[95\], config.json asks for \[96\]"),
        ({NORM: torch.ones(96, dtype=torch.int32)}, f"{NORM} is torch.int32"),
        ({"lm_head.weight": torch.ones(204, 96)}, "lm_head.weight differs from the embedding"),
        ({"lm_head.weight": torch.ones(3)}, "lm_head.weight differs from the embedding"),
        ({f"thinker.{NORM.removeprefix('model.')}": torch.ones(96)}, "is also"),
    ],
)
def test_a_wrong_tensor_is_named_and_refused(
    native: Path, tmp_path: Path, changes: dict[str, torch.Tensor | None], said: str
) -> None:
    with pytest.raises(CheckpointError, match=said):
        load(spoilt(native, tmp_path, changes))


def test_a_layer_too_many_is_refused(native: Path, tmp_path: Path) -> None:
    config = json.loads((copied(native, tmp_path) / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"not part of this model: 11 tensors: .*layers\.2\."):
        load(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "a\\b.safetensors",
     "..", "", "model.bin", "absent.safetensors", 7],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_refused(
    native: Path, tmp_path: Path, file: object
) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    copied(native, tmp_path)
    copied(native, folder)
    (folder / "model.bin").write_bytes(b"")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {NORM: file}}))
    with pytest.raises(CheckpointError, match="weight_map"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"weight_map": {}}', '{"weight_map": [1]}'])
def test_an_unreadable_index_is_named(native: Path, tmp_path: Path, content: str) -> None:
    (copied(native, tmp_path) / INDEX_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json: weight_map"):
        load(tmp_path)


def test_a_damaged_file_is_named(native: Path, tmp_path: Path) -> None:
    file = copied(native, tmp_path) / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not readable"):
        load(tmp_path)


def test_pickled_weights_are_not_looked_at(native: Path, tmp_path: Path) -> None:
    (copied(native, tmp_path) / SINGLE_FILE).unlink()
    torch.save(load_file(native / SINGLE_FILE), tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"holds neither model\.safetensors nor"):
        load(tmp_path)


def test_resolve_takes_a_folder_as_it_is(native: Path) -> None:
    assert resolve_model(model_dir=native) == native


def test_resolve_wants_one_source_that_exists(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="either"):
        resolve_model()
    with pytest.raises(CheckpointError, match="either"):
        resolve_model(model_dir=tmp_path, model_id="a/b")
    with pytest.raises(CheckpointError, match=r"absent: no such folder"):
        resolve_model(model_dir=tmp_path / "absent")


RESOLVE = """
import sys
from predictor.model.checkpoint.source import resolve_model
print(resolve_model(model_id="org/name", revision=sys.argv[1]))
"""


def test_resolve_finds_a_hub_id_at_its_revision(tmp_path: Path) -> None:
    # The hub's client reads its settings at import, hence a process of its own; being offline it
    # must find the revision in its cache.
    repo = tmp_path / "hub" / "models--org--name"
    snapshot = repo / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "v2").write_text("a" * 40)
    env = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    env.pop("HF_HUB_CACHE", None)
    run = subprocess.run(
        [sys.executable, "-c", RESOLVE, "v2"], env=env, capture_output=True, text=True, check=True
    )
    assert Path(run.stdout.strip()) == snapshot
