"""The numbers of the READMEs are those of the benchmarks' result files."""

from __future__ import annotations

import pytest

from tests.bench.environment import ROOT
from tests.bench.readme import FILES, TABLES, Table


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.marker)
@pytest.mark.parametrize(("language", "name"), list(enumerate(FILES)))
def test_the_readme_has_the_table_of_the_results(table: Table, language: int, name: str) -> None:
    written = table.shown((ROOT / name).read_text("utf-8"))
    assert written == table.text(language), "run: python -m tests.bench.readme"
