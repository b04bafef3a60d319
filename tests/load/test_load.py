"""The objectives by hand, and the load test itself for a few seconds against a real predictor."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.lib.capacity import read_benchmark
from pipelines.local_service import LocalService
from tests.load.corpus import FORMATS, load_corpus
from tests.load.slo import Counted, Slo, violations

ROOT = Path(__file__).parents[2]
SLO = Slo(max_failure_ratio=0.01, max_shed_ratio=0.05, max_p95_s=1, max_p95_first_text_s=0.5)


def counted(name: str = "v2 short English", **values: Any) -> Counted:
    known = {"num_requests": 100, "num_failures": 0, "num_shed": 0, "p95_s": 0.4}
    return Counted(name, **{**known, **values})


@pytest.mark.parametrize(
    ("entries", "sentences"),
    [
        ([counted()], []),
        ([counted(num_failures=1)], []),
        ([counted(num_failures=2)], ["2 of 100 failed, at most 1.0% may"]),
        ([counted(num_failures=5, num_shed=5)], []),
        ([counted(num_failures=6, num_shed=6)], ["6 of 100 were shed, at most 5.0% may be"]),
        ([counted(p95_s=1.2)], ["v2 short English: p95 is 1.200 s, at most 1 s is allowed"]),
        ([counted("v2 long English", p95_s=9)], []),
        (
            [counted(), counted("first text short English", p95_s=0.6)],
            ["first text short English: p95 is 0.600 s, at most 0.5 s is allowed"],
        ),
        ([counted(num_requests=19)], ["19 requests, at least 20 are needed to judge"]),
    ],
)
def test_objectives_by_hand(entries: list[Counted], sentences: list[str]) -> None:
    assert violations(entries, SLO) == sentences


def test_the_corpus_has_lengths_languages_and_formats() -> None:
    corpus = load_corpus(ROOT / "tests/data/eval/manifest.jsonl")
    assert {recording.suffix for recording in corpus} == {"opus", *FORMATS}
    assert {recording.language for recording in corpus} == {"English", "Chinese"}
    assert {recording.name.split()[0] for recording in corpus} == {"short", "long"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    checkpoint = ROOT / "predictor" / "checkpoints" / "tiny"
    with LocalService(checkpoint, flags=("--device=cpu",)) as service:
        yield service.url


@pytest.mark.parametrize(
    ("objectives", "code", "missed"),
    [
        (["--max-p95-s=60", "--max-p95-first-text-s=60"], 0, None),
        (["--max-p95-s=0.0001", "--max-p95-first-text-s=60"], 1, "p95 is"),
    ],
)
def test_a_few_seconds_of_load(
    tmp_path: Path, url: str, objectives: list[str], code: int, missed: str | None
) -> None:
    report = tmp_path / "load.json"
    for run_s in (5, 30, 120):  # until there are enough answers, however busy the machine is
        command = [
            sys.executable, "-m", "locust", "-f", "tests/load/locustfile.py", "--headless",
            f"--host={url}", "--users=2", "--spawn-rate=2", "--rate=6", f"--run-time={run_s}s",
            "--stop-timeout=60", "--only-summary", "--min-requests=8", f"--slo-report={report}",
            *objectives,
        ]  # fmt: skip
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
        if "are needed to judge" not in found.stdout + found.stderr:
            break
    assert found.returncode == code, found.stdout + found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    verdict = json.loads(report.read_text())
    rates = verdict["achieved"]
    assert rates["offered_per_s"] == 6
    assert 0 < rates["achieved_per_s"] <= 12
    assert rates["rtfx"] == pytest.approx(
        rates["achieved_per_s"] * rates["mean_duration_s"], rel=0.01
    )
    assert read_benchmark(report).rtfx == rates["rtfx"]
    assert sum(entry["num_failures"] for entry in verdict["counted"]) == 0, verdict
    assert len({entry["name"].split()[0] for entry in verdict["counted"]}) >= 3
    if missed is None:
        assert verdict["violations"] == []
    else:
        assert missed in verdict["violations"][0]
        assert "objective missed" in found.stdout
