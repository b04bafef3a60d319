"""What an operator gets wrong is said in a line each, before anything heavy is imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from predictor.settings import devices, folders, limits, preflight
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


def test_8_bits_where_no_gpu_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["--precision=fp8", "--kv_precision=fp8", "--devices=0,1"]
    settings = load_settings([*given, "--http_port=0", "--grpc_port=0"], {})
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    said = devices.precision_problem(settings)
    assert said is not None
    assert said.startswith("precision=fp8 and kv_precision=fp8: is for CUDA")
    assert said in preflight.problems(settings)
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 2)
    monkeypatch.setattr(devices, "compute_capability", lambda index: ((9, 0), (8, 6))[index])
    said = devices.precision_problem(settings)
    assert said is not None
    assert "GPU 1 has 8.6; set precision and kv_precision to auto" in said
    monkeypatch.setattr(devices, "compute_capability", lambda index: (8, 9))
    assert devices.precision_problem(settings) is None


def test_an_aligner_in_8_bits_asks_for_the_first_gpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aligner = f"--aligner_dir={CHECKPOINTS / 'tiny-aligner'}"
    given = ["--aligner_precision=fp8", "--devices=1,0", "--http_port=0", "--grpc_port=0"]
    settings = load_settings([*given, aligner], {})
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    said = devices.precision_problem(settings)
    assert said is not None
    assert said.startswith("aligner_precision=fp8: is for CUDA")
    assert devices.precision_problem(load_settings(given, {})) is None  # there is no aligner
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 2)
    monkeypatch.setattr(devices, "compute_capability", lambda index: ((9, 0), (8, 6))[index])
    said = devices.precision_problem(settings)
    assert said is not None
    assert "GPU 1 has 8.6; set aligner_precision to auto" in said
    monkeypatch.setattr(devices, "compute_capability", lambda index: ((8, 0), (8, 9))[index])
    assert devices.precision_problem(settings) is None


def test_a_recogniser_and_an_aligner_in_each_others_place() -> None:
    """Both load far enough to fail late, after imports."""
    said = checkpoint_problem(CHECKPOINTS / "tiny", "aligner_dir")
    assert said is not None
    assert "is a recogniser" in said
    said = checkpoint_problem(CHECKPOINTS / "tiny-aligner")
    assert said is not None
    assert "it goes into aligner_dir" in said
    assert checkpoint_problem(CHECKPOINTS / "tiny-aligner", "aligner_dir") is None


def test_a_gpu_that_is_asked_for_and_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(["--device=cuda", "--http_port=0", "--grpc_port=0"], {})
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    [said] = [each for each in preflight.problems(settings) if "cuda" in each]
    assert "docker run --gpus all" in said
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 0)
    [said] = [each for each in preflight.problems(settings) if "cuda" in each]
    assert "finds no GPU" in said
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 1)
    assert not [each for each in preflight.problems(settings) if "cuda" in each]


def test_gpus_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(chosen: str, count: int, *more: str) -> str | None:
        settings = load_settings([f"--devices={chosen}", *more], {})
        return devices.count_problem(settings, count)

    assert said("0,1", 2) is None
    assert said("0,1", 0) is None  # `auto` serves on the CPU
    problem = said("0,2,3", 2) or ""
    assert problem.startswith("devices=0,2,3: there is no GPU 2, 3, the driver knows 0 to 1; ")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert "knows 0 (CUDA_VISIBLE_DEVICES=3); " in (said("3", 1, "--device=cuda") or "")


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


@pytest.mark.parametrize("name", ["tiny", "tiny-early"])
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
    for host, what in {
        "no.such.host.invalid": "",
        "192.0.2.1": "is no address of this machine",  # RFC 5737: for documents only
        ":::": "",
    }.items():
        [said] = found(f"--host={host}", "--admin_port=0")
        assert said.startswith(f"host={host}: {what}")
        assert said.endswith(
            "set host to 0.0.0.0 or :: for all addresses, 127.0.0.1 for this machine alone"
        )
        assert "\n" not in said
        assert "attempting" not in said


@pytest.mark.parametrize("folder", ["/proc/jobs", "/sys/jobs", "/proc"])
def test_a_folder_where_even_root_cannot_write(folder: str) -> None:
    """The kernel's own: permissions say yes to root."""
    said = folders.folder_problem("jobs_dir", Path(folder), is_made=True) or ""
    assert said.startswith(f"jobs_dir {folder}: ")
    assert said.endswith("; mount a folder that is writable, or set jobs_dir to off")


def test_a_disk_with_less_room_than_the_settings_promise(tmp_path: Path) -> None:
    flags = [f"--model_dir={CHECKPOINTS / 'tiny'}", f"--jobs_dir={tmp_path / 'a' / 'b'}"]
    [note] = preflight.notes(load_settings([*flags, f"--max_jobs_bytes={1 << 44}"], {}))
    assert note.startswith(f"jobs_dir {tmp_path}: ")
    assert "GiB are free of max_jobs_bytes=17592186044416 (16384.0 GiB)" in note
    assert preflight.notes(load_settings([*flags, "--max_jobs_bytes=1048576"], {})) == []


def _said(script: str, folder: Path) -> str:
    """What `script` prints in a process of its own, whose limits are its own."""
    command = ["sh", "-c", script.format(python=sys.executable, folder=folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    [said] = [line["message"] for line in lines if line["level"] == "critical"]
    return str(said)


def test_no_temporary_folder_and_too_few_descriptors(tmp_path: Path) -> None:
    serve = "exec {{python}} -m predictor --model_dir={tiny} --http_port=0 --grpc_port=0 {more}"
    tiny = CHECKPOINTS / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
        Path(tmp_path / ("long" * 20)).mkdir()
        said = _said(serve.format(tiny=tiny, more="--engine_process=true"), tmp_path)
    assert "TMPDIR=" in said
    assert "shorter" in said
    said = _said("ulimit -n 300; " + serve.format(tiny=tiny, more=""), tmp_path)
    assert "ulimit -n: the hard limit of 300 descriptors is too low" in said


def test_a_temporary_folder_that_is_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even root cannot write below /proc; others of the list are taken away."""
    monkeypatch.setattr(folders.tempfile, "tempdir", None)
    monkeypatch.setattr(folders.tempfile, "_candidate_tempdir_list", lambda: ["/proc", "/sys"])
    monkeypatch.setenv("TMPDIR", "/proc")
    said = folders.temporary_problem() or ""
    assert said.startswith("TMPDIR=/proc: no temporary folder is writable")
    assert "set TMPDIR" in said


def test_few_descriptors_are_only_the_hard_limit() -> None:
    assert limits.descriptor_problem() is None
