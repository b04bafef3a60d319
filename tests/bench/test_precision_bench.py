"""The benchmark of precisions runs, on a small shape and the CPU's twins, and writes every row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRECISIONS = ("int8", "bf16+kv_fp8")
ROWS = ("start", "decode steps", "prefill step", "offline 2 s", "errors", "products")


@pytest.mark.parametrize(
    "precisions",
    [PRECISIONS[:1], pytest.param(PRECISIONS, marks=pytest.mark.soak)],
    ids=",".join,
)
def test_every_row_is_measured(tmp_path: Path, precisions: tuple[str, ...]) -> None:
    output = tmp_path / "precision.json"
    command = [sys.executable, "-m", "tests.bench.precision", "--shapes", "tiny", "--device", "cpu"]
    command += ["--precisions", ",".join(precisions), "--budget_s", "600", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result["environment"]["torch"]
    expected = [f"tiny {p} {row}" for p in precisions for row in ROWS]
    expected = [row for row in expected if row != "tiny bf16+kv_fp8 products"]
    assert list(result["rows"]) == expected
    for name, row in result["rows"].items():
        assert "error" not in row, f"{name}: {row}"
        assert "value" in row, name
        assert name in done.stdout
    products = result["rows"]["tiny int8 products"]["products"]
    assert len(products) == 8
    assert all(product["us"] > 0 for product in products.values())
    halves = result["rows"]["tiny int8 start"]
    assert halves["weights_gb"] < halves["weights_gb_before"]
    fit = [result["rows"][f"tiny {p} start"]["slots_that_fit"] for p in precisions]
    # Of float32 here, unless other processes take what is free.
    assert all(2 * fit[0] < small for small in fit[1:])
