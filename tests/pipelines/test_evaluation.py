"""Reports, comparisons and the gate: numbers by hand on recordings made up for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pipelines.evaluate import EvaluateOptions, evaluate
from pipelines.lib.client import ServiceOptions
from pipelines.lib.compare import compare_reports
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.evaluation import (
    Report,
    ScoringOptions,
    build_report,
    read_report,
    write_report,
)
from pipelines.lib.gate import Decision, GateLimits, Verdict, decide, judge_reports
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip
from pipelines.lib.render import comparison_html, comparison_markdown, report_html, report_markdown
from pipelines.lib.results import language_confusion, longest_loop, quantiles, speed
from pipelines.lib.slices import duration_bucket, fold
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service

OPTIONS = ScoringOptions("clip", num_resamples=500)


def clip(i: int, text: str, language: str | None = "English", **tags: str) -> Clip:
    return Clip(
        f"c{i}",
        f"/data/{i}.wav",
        text,
        language,
        duration_s=1.0 + i,
        speaker=f"s{i % 2}",
        tags={k: (v,) for k, v in tags.items()},
    )


def record(i: int, text: str, language: str | None = "English", **values: Any) -> Record:
    defaults: dict[str, Any] = {
        "confidence": 0.9,
        "duration_s": 1.0 + i,
        "latency_s": 0.1 + i / 100,
    }
    return Record(f"c{i}", text, language, **{**defaults, **values})


CLIPS = [
    clip(0, "the cat sat down", noise="street"),
    clip(1, "good morning", noise="none"),
    clip(2, "今天天气好", "Chinese", noise="street"),
    clip(3, "", None, noise="street"),
    clip(4, "", None),
    clip(5, "so it goes"),
]
RECORDS = [
    record(0, "the bat sat", confidence=0.5),
    record(1, "good morning"),
    record(2, "今天天汽好", "Chinese", confidence=0.4),
    record(3, "thank you", "English"),
    record(4, "", None, confidence=None),
    record(5, "", error="overloaded", error_message="full", latency_s=None, confidence=None),
]


@pytest.fixture
def report() -> Report:
    return build_report(
        CLIPS, RECORDS, ScoringOptions(num_resamples=500, price_per_hour=3.0), title="made up"
    )


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


def systems(bad: float, good: float, number: int = 120, **changes: Any) -> tuple[Report, Report]:
    """Two systems on the same recordings that get words wrong at these rates, and silence."""
    rng = np.random.default_rng(3)
    clips = [clip(i, " ".join(f"w{c}" for c in "klmnopqr")) for i in range(number)]
    clips += [clip(number + i, "", None) for i in range(20)]
    reports = []
    for rate, values in ((bad, {}), (good, changes)):
        records = []
        for c in clips:
            words = [f"x{w}" if rng.random() < rate else w for w in c.text.split()]
            text = " ".join(words) or values.get("silence", "")
            latency = rng.uniform(0.1, 0.2) * values.get("slower", 1.0)
            detected, sure = values.get("detected", "English"), values.get("confidence", 0.9)
            records.append(
                Record(
                    c.id, text, detected, sure, 3.0, latency_s=latency,
                    num_repeats_removed=values.get("repeats"),
                )
            )  # fmt: skip
        for i in range(values.get("failed", 0)):
            records[i] = Record(clips[i].id, "", error="overloaded")
        reports.append(build_report(clips, records, OPTIONS, title=f"{rate:.0%}"))
    return reports[0], reports[1]


# Limits that 120 recordings with speech and 20 without can decide on.
LOOSE: dict[str, Any] = {
    "hallucination_margin": 0.3,
    "repetition_margin": 0.05,
    "language_accuracy_margin": 0.05,
    "failure_margin": 0.05,
    "calibration_margin": 0.5,
}


def judged(stable: Report, candidate: Report, **limits: Any) -> Decision:
    return judge_reports(stable, candidate, GateLimits.from_mapping(limits))[1]


def failed_checks(stable: Report, candidate: Report, **limits: Any) -> list[str]:
    decision = judged(stable, candidate, **{**LOOSE, **limits})
    assert decision.accepted == (not [c for c in decision.checks if not c.passed])
    return [c.name for c in decision.checks if not c.passed]


def test_the_gate_accepts_better_and_equal_systems() -> None:
    better = systems(0.20, 0.08)
    assert failed_checks(*better) == []
    assert failed_checks(better[0], better[0], wer_margin=0.01) == []


def test_the_gate_refuses_worse_systems_and_says_why() -> None:
    stable, candidate = systems(0.08, 0.20)
    assert failed_checks(stable, candidate) == ["error rate in English"]
    assert failed_checks(stable, candidate, wer_margin=0.3) == []
    assert failed_checks(stable, candidate, wer_margin=0.3, max_wer=0.1) == [
        "absolute error rate in English"
    ]
    assert failed_checks(stable, candidate, wer_margin=0.3, language_margins={"en": 0.0}) == [
        "error rate in English"
    ]
    decision = judged(stable, candidate, calibration_margin=None)
    assert decision.verdict is Verdict.REFUSED
    (reason,) = decision.reasons
    assert re.fullmatch(
        r"error rate in English: candidate \d+\.\d\d %, stable \d+\.\d\d %; difference "
        r"\+\d+\.\d\d points with 95% interval \+\d+\.\d\d points to \+\d+\.\d\d points, beyond "
        r"the margin of \+0\.50 points",
        reason,
    )


def test_what_too_few_recordings_cannot_show_is_undecided_with_the_number_that_would() -> None:
    stable, candidate = systems(0.10, 0.10, number=40)
    decision = judged(stable, candidate, **LOOSE)
    assert decision.verdict is Verdict.UNDECIDED
    check = next(c for c in decision.checks if c.name == "error rate in English")
    assert check.clips_needed is None or check.clips_needed > 40
    assert "too close to the margin of +0.50 points to tell" in check.reason
    assert "clips" in failed_checks(stable, candidate, min_clips=41)


@pytest.mark.parametrize(
    ("changes", "limits", "check"),
    [
        ({"slower": 2.0}, {}, "p95 latency ratio"),
        ({"slower": 1.1}, {"max_p95_latency_s": 0.15}, "p95 latency"),
        ({"silence": "thank you"}, {}, "hallucination rate"),
        ({"failed": 3}, {"failure_margin": None}, "failure rate"),
        ({"detected": "German"}, {}, "language errors"),
        ({"confidence": 0.7}, {}, "confidence"),
        ({"repeats": 1}, {}, "looping"),
    ],
)
def test_the_gate_watches_more_than_words(
    changes: dict[str, Any], limits: dict[str, Any], check: str
) -> None:
    assert failed_checks(*systems(0.2, 0.05, **changes), **limits) == [check]


def test_gate_limits_are_checked() -> None:
    with pytest.raises(OptionError, match="gate: unknown limit 'wer'"):
        GateLimits.from_mapping({"wer": 1})
    with pytest.raises(OptionError, match="gate: wer_margin: expected a number or a share"):
        GateLimits.from_mapping({"wer_margin": "much"})
    with pytest.raises(OptionError, match="gate: min_clips: expected a number, found '1'"):
        GateLimits.from_mapping({"min_clips": "1"})
    with pytest.raises(OptionError, match=r"gate: language_margins: .*Klingon"):
        GateLimits.from_mapping({"language_margins": {"Klingon": 0.1}})
    with pytest.raises(OptionError, match="gate: wer_margin: -1 is below 0"):
        GateLimits.from_mapping({"wer_margin": -1})


def test_a_failure_of_one_version_counts_as_unheard_by_it() -> None:
    stable, candidate = systems(0.1, 0.1, failed=5)
    comparison = compare_reports(stable, candidate)
    assert (comparison["num_pairs"], comparison["num_failed_once"]) == (135, 5)
    found = comparison["by_language"]["English"]
    assert found["num_clips"] == 120
    rows = candidate["clips"]
    assert found["candidate"] == sum(r["errors"] for r in rows[:120]) / (8 * 120)
    assert all(row["errors"] == 8 for row in rows[:5])
    turned = compare_reports(candidate, stable)
    assert turned["failures"]["difference"] == -comparison["failures"]["difference"]


def test_recordings_that_both_failed_say_nothing() -> None:
    _, candidate = systems(0.1, 0.1, failed=5)
    both = compare_reports(candidate, candidate)
    assert (both["num_failed_twice"], both["by_language"]["English"]["num_clips"]) == (5, 115)


def test_reports_of_other_recordings_are_not_compared() -> None:
    stable, _ = systems(0.1, 0.1)
    other, _ = systems(0.1, 0.1, number=50)
    with pytest.raises(OptionError, match="different manifests"):
        compare_reports(stable, other)


def test_html_is_self_contained_escaped_and_plays(tmp_path: Path) -> None:
    sound = tmp_path / "a.wav"
    soundfile.write(sound, np.sin(np.arange(8000) / 10) * 0.1, 16_000)
    clips = [Clip("<b>", str(sound), "<script>alert(1)</script> good day", "English")]
    report = build_report(clips, [Record("<b>", "good night", "English", 0.5)], OPTIONS)
    html = report_html(report)
    assert "<script>alert" not in html
    assert "\\u003cscript>alert" in html  # inside the table's data
    assert "&lt;b&gt;" in html
    assert 'src="data:audio/mpeg;base64,' in html
    assert "<ins>night</ins>" in re.sub(r"\s+", " ", html)
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", html)
    assert 'src="data:' not in report_html(report, audio_budget_bytes=100)


def test_all_renderings_of_all_shapes_of_reports(report: Report) -> None:
    silent = build_report(CLIPS[3:5], RECORDS[3:5], OPTIONS)
    failed = build_report(CLIPS[5:], RECORDS[5:], OPTIONS)
    for each in (report, silent, failed):
        assert each["title"] in report_html(each)
        assert each["title"] in report_markdown(each)
    assert "33.33 %" in report_markdown(report)  # WER by hand above
    comparison, decision = judge_reports(*systems(0.2, 0.1), GateLimits.from_mapping(LOOSE))
    for text in (comparison_html(comparison, decision), comparison_markdown(comparison, decision)):
        assert "Accepted" in text
        assert decision.reasons[1].split(";")[0] in text
    quiet = compare_reports(silent, silent)
    assert "**Undecided**" in comparison_markdown(quiet, decide(quiet, GateLimits()))


def test_equal_reports_give_equal_bytes(report: Report) -> None:
    assert report_html(report) == report_html(report)


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
