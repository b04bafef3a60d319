"""The command line itself: help, versions, exit codes, and what it must not import."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.cli.main import COMMANDS, run
from predictor.cli.progress import Progress

HEAVY = {"torch", "numpy", "kserve", "fastapi", "av", "soundfile", "transformers", "tokenizers"}


def loaded_by(*arguments: str) -> set[str]:
    """Modules that a command line loads, in a process of its own."""
    script = (
        "import sys\nfrom predictor.cli.main import run\n"
        "try: run(sys.argv[1:])\nexcept SystemExit: pass\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_help_and_version_load_nothing() -> None:
    for arguments in (["--help"], ["--version"], ["help"]):
        loaded = loaded_by(*arguments)
        assert not loaded & HEAVY
        assert not {name for name in loaded if name.startswith("predictor.")} - {
            "predictor.cli", "predictor.cli.main", "predictor.cli.errors",
        }  # fmt: skip


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "serve"])
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    assert not loaded_by(command, "--help") & HEAVY


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run([command, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out
    assert run(["--help"]) == 0
    assert f"  {command} " in capsys.readouterr().out


def test_settings_files_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"batch_size": 8, "vad": "energy"}))
    assert run(["settings", "--check", str(file)]) == 0
    assert "valid, 2 settings" in capsys.readouterr().out
    file.write_text(json.dumps({"batch_size": 0, "vid": "energy"}))
    assert run(["settings", "--check", str(file)]) == 2
    error = capsys.readouterr().err
    assert "max_num_seqs=0" in error
    assert "did you mean 'vad'?" in error


def test_progress_tells_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    now_s = 100.0
    progress = Progress(4, 4000, clock=lambda: now_s)
    now_s = 110.0
    progress.add(1000, 50.0)
    progress.add(1000, 0.0, failed=True)
    said = "2/4 recordings, 5.0x real time, 1 failed"
    assert progress.line() == f"[{'#' * 10}{' ' * 10}] {said}, 00:00:10 left"
    assert capsys.readouterr().err == ""  # no terminal
    progress.close()
    assert capsys.readouterr().err == f"{said}; 50.0 s of audio in 10.0 s\n"


class Terminal(io.StringIO):
    """One that keeps what was drawn."""

    def isatty(self) -> bool:
        return True


def test_a_long_recordings_progress_shows_while_it_runs() -> None:
    terminal = Terminal()
    now_s = 0.0
    progress = Progress(1, 3600, terminal, clock=lambda: now_s)
    progress.begin()
    now_s = 10.0
    progress.heard("podcast", 3600, 900.0, 3600.0)
    said = "0/1 recordings, 90.0x real time, 00:00:30 left"
    assert terminal.getvalue().split("\r")[-1] == f"[{'#' * 5}{' ' * 15}] {said}\x1b[K"
    now_s = 20.0
    progress.heard("podcast", 3600, 1800.0, None)  # it does not say how long it is
    assert progress.line().endswith("0/1 recordings, 90.0x real time")
    progress.add(3600, 3600.0, key="podcast")
    assert progress.line() == f"[{'#' * 20}] 1/1 recordings, 180.0x real time"
