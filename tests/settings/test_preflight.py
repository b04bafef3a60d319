"""What an operator gets wrong is said in a line each, before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.settings import preflight
from predictor.settings.read import load_settings

ROOT = Path(__file__).parents[2]
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
