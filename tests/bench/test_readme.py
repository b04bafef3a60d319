"""The numbers of the READMEs are those of the benchmarks' result files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.environment import ROOT
from tests.bench.readme import RESULTS, TABLES, Table, load_results, performance

PLACES = [
    pytest.param(table, language, name, id=f"{table.marker}-{name}")
    for table in TABLES
    for language, name in enumerate(table.files)
]


@pytest.mark.parametrize(("table", "language", "name"), PLACES)
def test_the_readme_has_the_table_of_the_results(table: Table, language: int, name: str) -> None:
    written = table.shown((ROOT / name).read_text("utf-8"))
    assert written == table.text(language), "run: python -m tests.bench.readme"


@pytest.mark.parametrize(("gpu", "is_shown"), [(None, True), ("another", False)])
def test_a_start_on_the_same_gpu_is_shown(tmp_path: Path, gpu: str | None, is_shown: bool) -> None:
    gpu = gpu or json.loads(RESULTS.read_text())["environment"]["gpu"]
    engine = tmp_path / RESULTS.name
    engine.write_text(RESULTS.read_text())
    start = {
        "environment": {"gpu": gpu},
        "rows": {
            "1.7B start, cold": {"value": 7.25, "unit": "s"},
            "1.7B start, warm": {"error": "none"},
            "0.6B start, cold": {"value": 5.0, "unit": "s"},
        },
    }
    (tmp_path / "start-some.json").write_text(json.dumps(start))
    for language in range(2):
        before = performance(json.loads(RESULTS.read_text()), language)
        lines = performance(load_results(engine), language).splitlines()
        assert lines[: len(before.splitlines())] == before.splitlines()
        added = [line for line in lines if line not in before.splitlines()]
        assert [line.endswith("| 7.25 s |  |") for line in added] == [True] * is_shown


def test_what_words_cost_is_what_was_measured() -> None:
    rows = json.loads((RESULTS.parent / "words-h200.json").read_text())["rows"]
    text = " ".join((ROOT / "predictor" / "README.md").read_text().split())
    for name in ("1.7B 256 x 30 s", "1.7B 256 x 10 s"):
        row = rows[name]
        assert f"{row['words_rtfx']:,.0f} " in text
        assert f"of {row['plain_rtfx']:,.0f}" in text
        assert f"{100 * row['value']:.0f} % of " in text
    assert f"The aligner alone did {rows['1.7B aligner alone, 256 x 30 s']['value']:,.0f}" in text


def test_what_8_bits_cost_word_times_is_what_was_measured() -> None:
    rows = json.loads((RESULTS.parent / "align-precision.json").read_text())["rows"]
    text = " ".join((ROOT / "predictor" / "README.md").read_text().split())
    english, chinese = (
        {
            name: (row[language]["start_median_ms"], row[language]["start_p95_ms"])
            for name, row in rows.items()
        }
        for language in ("English", "Chinese")
    )
    assert (
        "English words are off by {:.0f} ms in the median and by {:.0f} ms".format(*english["fp8"])
        in text
    )
    assert "in bf16 by {:.0f} and {:.0f}; those of".format(*english["bf16"]) in text
    assert "characters by {:.0f} and {:.0f}, in bf16".format(*chinese["fp8"]) in text
    assert "in bf16 by {:.0f} and {:.0f} (".format(*chinese["bf16"]) in text
