"""The numbers of the READMEs are those of the benchmark's result file."""

from __future__ import annotations

import json

import pytest

from tests.bench.environment import ROOT
from tests.bench.readme import FILES, RESULTS, shown, table


@pytest.mark.parametrize(("language", "name"), list(enumerate(FILES)))
def test_the_readme_has_the_table_of_the_results(language: int, name: str) -> None:
    results = json.loads(RESULTS.read_text())
    written = shown((ROOT / name).read_text("utf-8"))
    assert written == table(results, language), "run: python -m tests.bench.readme"
