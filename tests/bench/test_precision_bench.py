"""The benchmark of precisions runs, on a small shape and the CPU's twins, and writes every row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.bench.precision_errors import difference

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


def test_errors_are_counted_clip_by_clip(tmp_path: Path) -> None:
    evaluation, clips = ROOT / "tests" / "data" / "eval", tmp_path / "clips"
    lines = (evaluation / "manifest.jsonl").read_text(encoding="utf-8").splitlines()[107:113]
    clips.mkdir()
    (clips / "manifest.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for line in lines:
        (clips / json.loads(line)["audio"]).symlink_to(evaluation / json.loads(line)["audio"])
    output = tmp_path / "errors.json"
    command = [sys.executable, "-m", "tests.bench.precision_errors", "--clips", str(clips)]
    command += ["--device", "cpu", "--precisions", "fp32,fp8,bf16+kv_fp8,fp8 in blocks"]
    command += ["--at_once", "3", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert list(rows) == ["fp32", "fp8", "bf16+kv_fp8", "fp8 in blocks"]
    for precision, row in rows.items():
        assert row["clips"] == 6
        assert {"English", "Chinese"} < set(row)
        assert row["value"] < 20, precision
        assert ("difference" in row) == (precision != "fp32")


def test_what_chance_makes_of_a_difference() -> None:
    """One clip in a hundred has an error more; a third of all draws miss a single such clip."""
    base = np.column_stack([np.zeros(100, np.int64), np.full(100, 10)])
    ours = base.copy()
    ours[7, 0] = 1
    found = difference(ours, base)
    assert found["difference"] == 0.1
    assert found["interval"] == [0.0, 0.3]
    assert found["clips with other errors"] == 1
    assert difference(base, base)["interval"] == [0.0, 0.0]
