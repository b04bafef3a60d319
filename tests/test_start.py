"""What a start costs: packages that it must not import, and a checkpoint read beside the others."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from predictor.model.checkpoint import readahead
from predictor.model.checkpoint.readahead import read_ahead
from predictor.model.config import CheckpointError
from predictor.service import engines
from predictor.service.loading import Loading
from predictor.settings.read import load_settings

ROOT = Path(__file__).parents[1]
TINY = ROOT / "predictor" / "checkpoints" / "tiny"
UNWANTED = (
    "transformers", "matplotlib", "sympy", "torch._dynamo", "torch._inductor", "torch.onnx",
    "huggingface_hub", "scipy", "sklearn", "openai", "tests",
)  # fmt: skip
SCRIPT = f"""
import sys
from predictor.settings.read import load_settings
settings = load_settings(["--model_dir", {str(TINY)!r}, "--device", "cpu"], {{}})
from predictor.service.loading import Loading
loading = Loading(settings)
web = {{"kserve", "fastapi", "uvicorn", "grpc", "av"}} & set(sys.modules)
from predictor.server import build_server
server = build_server(settings, loading=loading)
assert server.model.load()
server.model.stop()
print("early:", *sorted(web))
print("unwanted:", *[name for name in {UNWANTED!r} if name in sys.modules])
"""


def test_serving_a_checkpoint_imports_no_more_than_it_needs() -> None:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stderr
    # The thread reads while the web's packages are imported: none may be there before.
    assert run.stdout.splitlines()[-2:] == ["early:", "unwanted:"]


def test_the_server_needs_no_torch_before_it_listens() -> None:
    """Where the engine has a process of its own, that one imports it meanwhile."""
    code = "import sys, predictor.service.loading, predictor.server; print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr


def test_errors_of_the_thread_are_raised_where_it_is_waited_for(tmp_path: Path) -> None:
    interval_s = sys.getswitchinterval()
    absent = Loading(load_settings(["--model_dir", str(tmp_path / "absent")], {}))
    with pytest.raises(CheckpointError, match="no such folder"):
        absent.result()
    assert absent.done()
    for thread in threading.enumerate():
        if thread.name == "loading":
            thread.join()
    assert sys.getswitchinterval() == interval_s


def test_reading_ahead_fails_silently(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    for folder in (tmp_path, tmp_path / "absent", TINY):
        for thread in read_ahead(folder):
            thread.join()


def test_reading_ahead_takes_what_the_loader_will_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    monkeypatch.setattr(
        readahead, "_fetch", lambda pieces: fetched.extend(file.name for file, _ in pieces)
    )
    for name in ("a.safetensors", "b.safetensors", "model.safetensors", "other.safetensors"):
        (tmp_path / name).write_bytes(bytes(1000))

    def read() -> list[str]:
        fetched.clear()
        for thread in read_ahead(tmp_path):
            thread.join()
        return sorted(fetched)

    assert read() == ["model.safetensors"]
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    assert read() == ["a.safetensors", "b.safetensors"]
    monkeypatch.setattr(readahead, "free_host_bytes", lambda root: 2500)
    assert read() == []
    index.write_text("[]")
    assert read() == []


def test_reading_ahead_brings_the_whole_file_into_memory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(os.urandom(20 * 2**20 + 5))
    with file.open("rb") as opened:
        os.fsync(opened.fileno())
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if in_memory(opened.fileno()) == 1.0:
            pytest.skip("this file system keeps what it is told to forget")
        for thread in read_ahead(tmp_path):
            thread.join()
        assert in_memory(opened.fileno()) == 1.0


def in_memory(descriptor: int) -> float:
    """The share of a file's bytes, a sample from each 64 KiB, that is in the page cache."""
    offsets = range(0, os.fstat(descriptor).st_size, 2**16)
    found = 0
    for offset in offsets:
        try:
            found += os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        except OSError:  # the file system cannot say
            return 1.0
    return found / len(offsets)


@pytest.mark.parametrize(
    "flags",
    [
        ["--http_port", "{port}"],
        ["--grpc_port", "{port}", "--enable_grpc", "true"],
        ["--model_dir", "absent"],
    ],
)
def test_a_start_that_cannot_go_on_ends_with_1(flags: list[str]) -> None:
    """While the checkpoint is being read, too."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "predictor", "--model_dir", str(TINY), "--enable_grpc"]
        command += ["false", "--host", "127.0.0.1", "--http_port", "0"]
        command += [flag.replace("{port}", port) for flag in flags]
        run = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ}
        )
    assert run.returncode == 1, run.stderr
    [line] = [line for line in run.stderr.splitlines() if "the server cannot go on" in line]
    assert any(name in line for name in ("http_port", "grpc_port", "model_dir"))
    assert "Traceback" not in run.stderr
    assert "loading" not in run.stderr  # nothing was begun


@pytest.mark.parametrize(
    ("flags", "has_cuda", "expected"),
    [
        ([], True, True),
        ([], False, False),
        (["--device=cpu"], True, False),
        (["--device=cuda", "--engine_process=false"], True, False),
        (["--device=cpu", "--engine_process=true"], False, True),
    ],
)
def test_the_engine_has_a_process_of_its_own_on_cuda_or_where_asked(
    flags: list[str], has_cuda: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "num_cuda_devices", lambda: int(has_cuda))
    assert engines.has_own_process(load_settings(flags, {})) is expected


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_no_cuda() -> None:
    assert engines.has_cuda() is False


def test_what_is_imported_before_loading_is_there() -> None:
    """Also what only machines with CUDA import; Triton itself may be missing here."""
    from predictor import startup

    for name in (*startup._ENGINE, *startup._ENGINE_ON_CUDA):
        assert importlib.util.find_spec(name) is not None, name


def test_memory_of_a_request_is_kept_for_the_next() -> None:
    """Buffers of a request's size cost no page faults once there were some."""
    script = (
        "import resource, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import numpy as np\n"
        "from predictor.processes.heap import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "def request():\n"
        "    body = bytearray()\n"
        "    for _ in range(16): body += bytes(65_536)\n"
        "    return np.frombuffer(body, np.int16).astype(np.float32) / 32_768\n"
        "pool = ThreadPoolExecutor(2)\n"
        "def requests(count):\n"
        "    for _ in range(count): pool.submit(request).result()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "requests(12)\n"
        "before = faults()\n"
        "requests(40)\n"
        "print(faults() - before)\n"
    )

    def faults(how: str) -> int:
        command = [sys.executable, "-c", script, how]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(run.stdout)

    given_back, kept = faults("given back"), faults("kept")
    if given_back < 1000:
        pytest.skip("this C library gives nothing back")
    assert kept < given_back / 10
