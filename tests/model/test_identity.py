"""Which weights are served, and that others never become ready."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from predictor.model.checkpoint.identity import SUMS_FILE, identify
from predictor.model.config import CheckpointError
from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings

CHECKPOINTS = Path(__file__).parents[2] / "predictor" / "checkpoints"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded checkpoint, to damage."""
    return Path(shutil.copytree(CHECKPOINTS / "tiny", tmp_path / "weights"))


def _identify(folder: Path, revision: str | None = None) -> object:
    return identify(folder, model_id=None, revision=revision)


def test_the_digest_is_of_configuration_and_index(folder: Path) -> None:
    first = identify(folder, model_id="a/b", revision=None)
    assert (len(first.digest), first.source, first.revision) == (64, "a/b", None)
    (folder / "README.md").write_text("another")
    assert identify(folder, model_id="a/b", revision=None) == first
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "x": 1}))
    assert identify(folder, model_id="a/b", revision=None).digest != first.digest


def test_a_list_of_digests_is_kept_to(folder: Path) -> None:
    """As `sha256sum` of coreutils writes it."""
    names = sorted(path.name for path in folder.iterdir())
    listed = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, check=True)
    (folder / SUMS_FILE).write_bytes(listed.stdout)
    _identify(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: SHA-256 is"):
        _identify(folder)
    weights.unlink()
    with pytest.raises(CheckpointError, match="not readable"):
        _identify(folder)


@pytest.mark.parametrize("line", ["nonsense", f"{'0' * 64}  ../x", f"{'0' * 64}  /etc/passwd"])
def test_a_list_of_digests_that_is_none(folder: Path, line: str) -> None:
    (folder / SUMS_FILE).write_text(line + "\n")
    with pytest.raises(CheckpointError, match=SUMS_FILE):
        _identify(folder)


def test_the_commit_is_the_one_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{COMMIT}\n{hashlib.sha1(b'').hexdigest()}\n0.0\n")
    assert identify(folder, model_id="a/b", revision=COMMIT).revision == COMMIT
    assert identify(folder, model_id="a/b", revision="main").revision == COMMIT
    with pytest.raises(CheckpointError, match=f"commit {COMMIT}"):
        _identify(folder, COMMIT[::-1])
    snapshot = tmp_path / "snapshots" / COMMIT
    shutil.copytree(CHECKPOINTS / "tiny", snapshot)
    assert identify(snapshot, model_id="a/b", revision=None).revision == COMMIT


def _server(folder: Path, *flags: str) -> AsrServer:
    settings = load_settings([f"--model_dir={folder}", "--device=cpu", *flags], {})
    return build_server(settings, CollectorRegistry())


def _shift_the_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    by_id = sorted(vocabulary, key=vocabulary.__getitem__)
    shifted = by_id[1:] + by_id[:1]
    content["model"]["vocab"] = {
        token: vocabulary[old] for token, old in zip(shifted, by_id, strict=True)
    }
    path.write_text(json.dumps(content), "utf-8")


def _invert_weights(folder: Path) -> None:
    """200 bytes of the exponents of the decoder's last norm and others, spread evenly."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    step = (len(data) - start) // 200
    for place in range(start + 1, len(data), step):
        data[place | 1] ^= 0xFF  # the high byte of a 16-bit number
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_shift_the_tokenizer, _invert_weights])
def test_damaged_checkpoints_never_become_ready(folder: Path, damage: object) -> None:
    assert callable(damage)
    damage(folder)
    server = _server(folder)
    with pytest.raises((RuntimeError, ValueError)):
        server.model.load()
    assert not server.model.is_ready()
    assert server.model.identity is None


def test_a_model_that_knows_no_english_may_become_ready(folder: Path) -> None:
    """What it says of the built-in clip is not looked at where the setting says so."""
    (folder / "ready_text.txt").write_text("Nobody ever said this.\n", "utf-8")
    with pytest.raises(RuntimeError, match="is expected"):
        _server(folder).model.load()
    server = _server(folder, "--check_ready_clip=false")
    assert server.model.load()
    server.model.stop()


@pytest.mark.parametrize("name", ["tiny", "tiny-early"])
def test_the_embedded_checkpoints_say_what_they_must(name: str) -> None:
    server = _server(CHECKPOINTS / name)
    try:
        assert server.model.load()
        assert server.model.identity is not None
        assert server.model.identity.source == name
    finally:
        server.model.stop()
