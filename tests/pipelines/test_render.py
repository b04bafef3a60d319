"""Reports and comparisons as pages and Markdown."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.lib.compare import compare_reports
from pipelines.lib.evaluation import Report, build_report
from pipelines.lib.gate import GateLimits, decide, judge_reports
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip
from pipelines.lib.render import comparison_html, comparison_markdown, report_html, report_markdown
from tests.pipelines.made_up import CLIPS, LOOSE, OPTIONS, RECORDS, made_up_report, systems


@pytest.fixture
def report() -> Report:
    return made_up_report()


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
