"""What an operator gets wrong is said in a line each, before anything heavy is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from predictor.settings import preflight
from predictor.settings.checkpoint_files import checkpoint_problem
from predictor.settings.read import load_settings

ROOT = Path(__file__).parents[2]
CHECKPOINTS = ROOT / "predictor" / "checkpoints"
SCRIPT = """
import sys
from predictor.__main__ import main
try:
    main()
finally:
    print(*sorted({"torch", "numpy", "fastapi", "kserve"} & set(sys.modules)))
"""


def test_every_mistake_has_a_line_and_nothing_heavy_was_loaded(tmp_path: Path) -> None:
    wrong = {"model_dir": "weights", "aligner_dir": "aligner", "api_keys_file": "keys"}
    flags = [f"--{name}={tmp_path / absent}" for name, absent in wrong.items()]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *flags, "--http_port=0", "--grpc_port=0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout.strip() == ""
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    said = [line["message"] for line in lines if line["level"] == "critical"]
    assert len(said) == len(wrong)
    for name, absent in wrong.items():
        assert any(f"{name} {tmp_path / absent}: " in each for each in said), name
    assert "traceback" not in done.stderr.lower()


def test_a_gpu_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(["--device=cuda", "--http_port=0", "--grpc_port=0"], {})
    monkeypatch.setattr(preflight, "has_driver", lambda: False)
    [said] = [each for each in preflight.problems(settings) if "cuda" in each]
    assert "docker run --gpus all" in said
    monkeypatch.setattr(preflight, "has_driver", lambda: True)
    assert not [each for each in preflight.problems(settings) if "cuda" in each]


@pytest.mark.parametrize("module", ["predictor", "predictor.cli"])
def test_the_version_is_said(module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("qwen3-asr 0.")


def _cut(file: Path, num_bytes: int) -> None:
    file.write_bytes(file.read_bytes()[:num_bytes])


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "half of a config.json": (lambda d: _cut(d / "config.json", 40), "config.json is not JSON"),
    "a list": (lambda d: (d / "config.json").write_text("[]"), "must hold a JSON object"),
    "another model": (
        lambda d: (d / "config.json").write_text('{"model_type": "whisper"}'),
        "not of a Qwen3-ASR (whisper",
    ),
    "half of the weights": (
        lambda d: _cut(d / "model.safetensors", 100_000),
        "model.safetensors has 100,000 of its ",
    ),
    "half of a header": (lambda d: _cut(d / "model.safetensors", 900), "header of"),
    "an empty file": (lambda d: _cut(d / "model.safetensors", 0), "no safetensors file"),
    "a pointer of Git LFS": (
        lambda d: (d / "model.safetensors").write_text(
            "version https://git-lfs.github.com/spec/v1"
        ),
        "git lfs pull",
    ),
    "no tokenizer": (
        lambda d: [(d / name).unlink() for name in ("merges.txt", "tokenizer.json")],
        "holds no tokenizer",
    ),
    "a shard is missing": (
        lambda d: (d / "model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}'
        ),
        "model-00002-of-00002.safetensors, which is not here",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_checkpoint_that_cannot_be_served_is_seen_by_its_files(
    mistake: str, tmp_path: Path
) -> None:
    """Each checkpoint of the package passes; one mistake in a copy is said, with the folder."""
    folder = tmp_path / "tiny"
    shutil.copytree(CHECKPOINTS / "tiny", folder)
    assert checkpoint_problem(folder) is None
    spoil, said = MISTAKES[mistake]
    spoil(folder)
    problem = checkpoint_problem(folder)
    assert problem is not None
    assert problem.startswith(f"model_dir {folder}: ")
    assert said in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", ["tiny", "tiny-early", "tiny-aligner"])
def test_a_whole_checkpoint_has_no_problem(name: str) -> None:
    assert checkpoint_problem(CHECKPOINTS / name) is None


def test_a_folder_for_jobs_that_cannot_be_made_and_a_host_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    flags = [f"--model_dir={CHECKPOINTS / 'tiny'}", "--http_port=0", "--grpc_port=0"]

    def found(*more: str) -> list[str]:
        return preflight.problems(load_settings([*flags, *more], {}))

    assert found(f"--jobs_dir={tmp_path / 'a' / 'b'}") == []  # it is made
    [said] = found(f"--jobs_dir={tmp_path / 'file' / 'b'}")
    assert said.startswith(f"jobs_dir {tmp_path / 'file' / 'b'}: is a file")
    [said] = found("--jobs_dir=/proc/sys/absent")  # of the kernel: even root makes nothing there
    assert said.startswith("jobs_dir /proc/sys/absent: ")
    [said] = found(f"--spool_dir={tmp_path / 'absent'}")
    assert said.startswith(f"spool_dir {tmp_path / 'absent'}: no such folder")
    said, _ = found("--host=no.such.host.invalid")
    assert said.startswith("host=no.such.host.invalid, http_port=0: ")
