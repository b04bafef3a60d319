"""The command line as a user and as a CI job meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import build_parser, main
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_promote import FEW, NUM_CLIPS, answers, write_clips

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "evaluate",
    "transcribe",
    "rescore",
    "compare",
    "trend",
    "plan",
    "promote",
    "rollback",
    "abort",
    "pause",
    "resume",
    "status",
    "compile",
    "submit",
)
HEAVY = {"numpy", "scipy", "httpx", "kubernetes", "kfp", "jinja2", "jiwer", "soundfile", "torch"}


def evaluate(url: str, data: Path, out: Path, *more: str) -> int:
    fixed = [f"--url={url}", f"--data={data}", f"--out={out}", "--quiet", "--resamples=200"]
    return main(["evaluate", *fixed, *more])


def test_evaluate_and_compare_decide_by_exit_code(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path)
    good, bad = (serve_app(Service(answers(n)).app()) for n in (2, 20))
    assert evaluate(good, data, tmp_path / "good", "--title=good one") == 0
    printed = capsys.readouterr()
    assert "# good one" in printed.out
    assert "| WER | 1.67 %" in printed.out
    assert str(tmp_path / "good/report.html") in printed.err
    assert evaluate(bad, data, tmp_path / "bad", "--json") == 0
    assert json.loads(capsys.readouterr().out)["summary"]["num_clips"] == NUM_CLIPS
    reports = [str(tmp_path / name / "report.json") for name in ("bad", "good")]
    assert main(["compare", *reports, *FEW, f"--out={tmp_path / 'c'}"]) == 0
    assert "**Accepted**" in capsys.readouterr().out
    assert (tmp_path / "c/comparison.html").exists()
    assert main(["compare", *reversed(reports), *FEW, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["decision"]["accepted"] is False


def test_evaluate_says_when_it_continues(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path)
    service = Service(answers(0))
    url = serve_app(service.app())
    assert evaluate(url, data, tmp_path / "out", "--limit=5") == 0
    assert "continuing" not in capsys.readouterr().err
    assert evaluate(url, data, tmp_path / "out", "--limit=5") == 0
    assert "continuing" in capsys.readouterr().err
    assert len(service.asked) == 5


def test_no_answer_at_all_is_no_success(tmp_path: Path, unused_tcp_port: int) -> None:
    data = write_clips(tmp_path)
    url = f"http://127.0.0.1:{unused_tcp_port}"
    assert evaluate(url, data, tmp_path / "out", "--attempts=1", "--limit=2") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=nothing.jsonl"], "nothing.jsonl"),
        (["--limit=0"], "limit: 0 is below 1"),
        (["--concurrency=0"], "concurrency: 0 is not within 1..1024"),
        (["--url=asr:8080"], "url: 'asr:8080' does not start with http"),
        (["--cluster-by=room"], "cluster_by: 'room'"),
        (["--resamples=1"], "num_resamples 1 is below"),
    ],
)
def test_mistakes_are_named_on_standard_error(
    tmp_path: Path,
    serve_app: Serve,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    url = serve_app(Service().app())
    assert evaluate(url, write_clips(tmp_path), tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("error: ")
    assert message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([command, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m pipelines {command}" in said.replace("usage: ", "")
    assert said.count(f"python -m pipelines {command}") >= 2  # usage, and an example


def test_help_loads_nothing_heavy() -> None:
    """Of the whole and of each command, in a process of its own."""
    script = (
        "import sys\nfrom pipelines.cli import main\n"
        "for command in sys.argv[1:]:\n"
        "    try: main([*command.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "", *COMMANDS],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    assert found.stdout.count("usage:") == 1 + len(COMMANDS)
    assert not set(found.stderr.split()) & HEAVY


def test_runs_as_a_module() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "pipelines", "compare", "a.json", "b.json"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("error: a.json: is no report")


@pytest.mark.parametrize("command", [*COMMANDS, "evaluat", ""])
def test_a_mistake_in_the_call_is_one_line(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*command.split(), "--nonsense"])
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m pipelines")
    assert line.endswith("--help says more)")
