"""Kernels compiled ahead, without a GPU, and found by a start; and a folder that cannot be used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.bench.environment import ROOT

kernel_cache = pytest.importorskip("predictor.model.cuda.kernel_cache", reason="needs Triton")
precompile = pytest.importorskip("predictor.engine.start.precompile", reason="needs Triton")
needs_compiler = pytest.mark.skipif(
    precompile.missing_compiler() is not None, reason=precompile.missing_compiler() or ""
)

TINY = ROOT / "predictor" / "checkpoints" / "tiny"
ARCH = 90


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: others of this run interpret the same kernels."""
    command = [sys.executable, "-m", *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TRITON_")}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kernels of the embedded checkpoint, and not where they were made."""
    made = tmp_path_factory.mktemp("made") / "kernels"
    done = run(
        "predictor.engine.start.precompile", "--models", TINY, "--archs", ARCH, "--output", made
    )
    assert done.returncode == 0, done.stderr
    assert f"sm_{ARCH}: " in done.stderr
    moved = tmp_path_factory.mktemp("moved") / "kernels"
    shutil.move(made, moved)
    return moved


def start(shipped: Path, own: Path, arch: int = ARCH, *precisions: str) -> tuple[int, int]:
    """Kernels found and kernels compiled."""
    done = run("tests.engine.precompiled_start", TINY, arch, shipped, own, *precisions)
    assert done.returncode == 0, done.stderr
    found, compiled = map(int, done.stdout.split())
    return found, compiled


@needs_compiler
def test_a_start_finds_every_shipped_kernel_and_writes_nothing(
    shipped: Path, tmp_path: Path
) -> None:
    before = sorted(shipped.rglob("*"))
    found, compiled = start(shipped, tmp_path)
    assert found > 20
    assert compiled == 0
    kernels = {file.stem for file in shipped.rglob("*.cubin")}
    assert kernels >= {"_enter_kernel", "_leave_kernel", "_stream_kernel", "_candidates_kernel"}
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(shipped.rglob("*")) == before


@needs_compiler
def test_what_is_missing_is_compiled_and_kept(shipped: Path, tmp_path: Path) -> None:
    fewer, own = tmp_path / "shipped", tmp_path / "own"
    shutil.copytree(shipped, fewer)
    gone = sorted((fewer / f"sm_{ARCH}").glob("*/*.cubin"))[:3]
    for kernel in gone:
        shutil.rmtree(kernel.parent)
    found, compiled = start(fewer, own)
    assert compiled == len([k for k in gone if list(own.rglob(k.name))]) > 0
    assert start(fewer, own) == (found + compiled, 0)


@needs_compiler
def test_kernels_of_another_kind_of_device_are_not_taken(shipped: Path, tmp_path: Path) -> None:
    found, compiled = start(shipped, tmp_path, 80, "bf16")
    assert found == 0
    assert compiled > 10


@needs_compiler
@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--models", "1.7B,none", "argument --models: none/config.json: no such file"),
        ("--archs", "90,75", "argument --archs: '90,75': numbers from 80 on"),
        ("--archs", "9.0", "argument --archs: '9.0': numbers from 80 on"),
        ("--archs", "999", "argument --archs: the compiler ended at 999"),
        ("--models", "3B", "3B/config.json: no such file; 1.7B, 0.6B or folders"),
        ("--output", "/proc/none", "argument --output: [Errno 2]"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, flag: str, value: str, message: str) -> None:
    given = {"--models": TINY, "--archs": ARCH, "--output": tmp_path} | {flag: value}
    done = run(
        "predictor.engine.start.precompile", *(part for pair in given.items() for part in pair)
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_compiler_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", str(tmp_path / "cc"))
    done = run("predictor.engine.start.precompile", "--models", TINY, "--output", tmp_path)
    assert done.returncode == 2
    assert f"a C compiler is needed: no {tmp_path / 'cc'} here" in done.stderr


def test_a_folder_that_cannot_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "new" / "kernels"))
    kernel_cache.ensure_writable()
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "new" / "kernels")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "kernels"))
    kernel_cache.ensure_writable()
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_dir()
    assert f"{tmp_path / 'file' / 'kernels'} is not used" in caplog.text


def test_nor_need_the_home_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "file"))
    kernel_cache.ensure_writable()
    assert Path(os.environ.pop("TRITON_CACHE_DIR")).is_dir()
