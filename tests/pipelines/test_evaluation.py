"""Reports: numbers by hand on recordings made up for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluate import EvaluateOptions, evaluate
from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.evaluation import (
    Report,
    ScoringOptions,
    build_report,
    read_report,
    write_report,
)
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip
from pipelines.lib.render import report_html
from pipelines.lib.results import language_confusion, longest_loop, quantiles, speed
from pipelines.lib.slices import duration_bucket, fold
from tests.pipelines.conftest import Serve
from tests.pipelines.made_up import CLIPS, OPTIONS, RECORDS, clip, made_up_report, record
from tests.pipelines.service import Service


@pytest.fixture
def report() -> Report:
    return made_up_report()


def test_summary_by_hand(report: Report) -> None:
    summary = report["summary"]
    assert (summary["num_clips"], summary["num_speech"]) == (6, 3)
    errors = summary["by_metric"]["wer"]
    assert (errors["substitutions"], errors["deletions"], errors["insertions"]) == (1, 1, 0)
    assert errors["rate"] == 2 / 6
    assert errors["interval"] is None  # two clusters say nothing of how clusters vary
    assert summary["by_metric"]["cer"]["rate"] == 1 / 5
    assert summary["errors"]["rate"] is None  # words and characters are never added up
    assert summary["hallucination"] == {"count": 1, "of": 2, "rate": 0.5}
    assert summary["failures"] == {"count": 1, "of": 6, "rate": 1 / 6, "codes": {"overloaded": 1}}
    assert summary["language_accuracy"] == 1.0
    assert summary["calibration"]["num_clips"] == 3
    assert summary["calibration"]["auroc"] == 1.0  # the right one has the highest confidence


def test_a_stray_confidence_is_clipped_and_said() -> None:
    strays = [record(0, "the cat sat down", confidence=1.25), record(1, "good", confidence=-0.5)]
    found = build_report(CLIPS[:2], strays, OPTIONS, title="made up")
    assert found["summary"]["num_stray_confidences"] == 2
    assert [each["confidence"] for each in found["clips"]] == [1.0, 0.0]
    page = report_html(found, audio_budget_bytes=0)
    assert "2 confidences lay outside 0..1 and were clipped." in page


def test_slices_by_hand(report: Report) -> None:
    slices = report["slices"]
    assert set(slices) == {"language", "duration", "noise"}
    assert slices["language"]["Chinese"]["errors"]["rate"] == 1 / 5
    assert slices["noise"]["street"]["num_clips"] == 3
    assert slices["noise"]["none"]["errors"]["rate"] == 0
    assert slices["duration"]["02-05 s"]["num_clips"] == 3
    assert report["confusion"]["None"] == {"English": 1, "None": 1}


def test_speed_by_hand() -> None:
    records = [
        Record("a", "", duration_s=30.0, started_at=0.0, latency_s=2.0, ttft_s=0.5),
        Record("b", "", duration_s=30.0, started_at=1.0, latency_s=3.0),
    ]
    found = speed(records, price_per_hour=3.0)
    assert (found["audio_s"], found["wall_s"], found["rtfx"]) == (60.0, 4.0, 15.0)
    assert found["cost_per_audio_hour"] == 3.0 / 15.0
    assert found["latency_s"]["p50"] == 2.5
    assert found["ttft_s"]["max"] == 0.5
    assert quantiles([]) is None
    assert speed([], None)["rtfx"] is None


@pytest.mark.parametrize(
    ("words", "times"),
    [("a b c", 1), ("a a a", 3), ("x a b a b a b", 3), ("a a b b a a b b", 2), ("", 0), ("a", 1)],
)
def test_longest_loop(words: str, times: int) -> None:
    assert longest_loop(words.split()) == times


def test_looping_transcripts_are_counted_unless_it_was_said_so() -> None:
    clips = [clip(0, "go"), clip(1, "no no no no no no"), clip(2, "yes")]
    records = [
        record(0, "go go go go go go"),
        record(1, "no no no no no no"),
        record(2, "yes", finish_reason="repetition"),
    ]
    found = build_report(clips, records, OPTIONS)["summary"]["repetition"]
    assert found == {"count": 2, "of": 3, "rate": 2 / 3}


def test_duration_buckets_include_their_low_end() -> None:
    assert [duration_bucket(s) for s in (0, 1.99, 2, 60, 1e4, None)] == [
        "00-02 s", "00-02 s", "02-05 s", "60 s and more", "60 s and more", "unknown",
    ]  # fmt: skip


def test_small_slices_are_folded_into_ranges() -> None:
    values = {f"snr-{db}-db": [10 * db + i for i in range(5)] for db in range(1, 9)}
    found = fold({**values, "clean": list(range(900, 940))})
    assert sorted(found) == ["clean", "snr-1 to 3-db", "snr-4 to 8-db"]
    assert len(found["snr-1 to 3-db"]) == 15
    rooms = {name: [i, i + 50] for i, name in enumerate("abcdefgh")}
    assert sorted(fold({**rooms, "hall": list(range(100, 140))})) == ["hall", "others (8 values)"]
    large = {name: list(range(20)) for name in "ab"}
    assert fold(large) == large


def test_speakers_and_confused_words(report: Report) -> None:
    found = [(s["speaker"], s["metric"], s["num_clips"], s["rate"]) for s in report["speakers"]]
    assert found == [("s0", "wer", 1, 2 / 4), ("s0", "cer", 1, 1 / 5), ("s1", "wer", 1, 0)]
    assert report["confused"]["substituted"] == [["cat", "bat", 1], ["气", "汽", 1]]
    assert report["confused"]["deleted"] == [["down", 1]]


def test_confusion_leaves_failures_out() -> None:
    failed = Record("x", "", error="overloaded")
    assert language_confusion(["English"], [failed]) == {}


def test_clusters_are_speakers_or_tags_and_must_be_there() -> None:
    speakers = build_report(CLIPS, RECORDS, ScoringOptions("speaker", num_resamples=200))
    assert speakers["summary"]["num_clusters"] == 2
    with pytest.raises(OptionError, match="cluster_by: 'noise', but clip 'c5'"):
        build_report(CLIPS, RECORDS, ScoringOptions("noise", num_resamples=200))


def test_reports_are_read_back_and_nothing_else_is(tmp_path: Path, report: Report) -> None:
    write_report(tmp_path / "r.json", report)
    assert read_report(tmp_path / "r.json") == json.loads(json.dumps(report))
    (tmp_path / "x.json").write_text('{"version": 99}')
    with pytest.raises(ManifestError, match="is no report of version 2"):
        read_report(tmp_path / "x.json")


def test_evaluate_writes_everything(tmp_path: Path, serve_app: Serve) -> None:
    (tmp_path / "a.wav").write_bytes(b"hello there")
    clips = [Clip("a", str(tmp_path / "a.wav"), "hello there you", "English")]
    url = serve_app(Service().app())
    options = EvaluateOptions(scoring=OPTIONS)
    found = evaluate(clips, ServiceOptions(url, api_key="secret"), tmp_path / "out", options)
    assert found["summary"]["errors"]["rate"] == 1 / 3
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"journal.jsonl", "report.json", "report.md", "report.html"}
    for path in (tmp_path / "out").iterdir():
        assert "secret" not in path.read_text()
