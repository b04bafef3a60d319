"""The matched-pairs test against NIST's own: figures recorded, and computed anew where it is there.

sclite's mean is of (first - second), ours of (second - first), as every difference here.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.lib.mapsswe import compare_gaps, matched_pairs, segments

RECORDED = json.loads(Path(__file__).with_name("sclite_mapsswe.json").read_text(encoding="utf-8"))
SCTK = shutil.which("sctk")


def pairs(first: list[str], second: list[str]) -> list[tuple[dict[str, str], dict[str, str]]]:
    return [({"operations": a}, {"operations": b}) for a, b in zip(first, second, strict=True)]


def test_agrees_with_sclite_as_recorded() -> None:
    found = matched_pairs(pairs(RECORDED["first"], RECORDED["second"]))
    assert found.num_segments == RECORDED["num_segments"]
    assert -found.mean == pytest.approx(RECORDED["mean"], abs=5e-4)
    assert found.std == pytest.approx(RECORDED["std_dev"], abs=5e-4)
    assert found.z is not None
    assert -found.z == pytest.approx(RECORDED["z"], abs=5e-4)
    assert found.p == pytest.approx(1.3e-5, rel=0.01)


@pytest.mark.skipif(SCTK is None, reason="needs NIST's sctk (Debian: apt install sctk)")
def test_agrees_with_sclite_itself(tmp_path: Path) -> None:
    rng = random.Random(11)
    reference = [
        [f"w{rng.randrange(90):02d}x" for _ in range(rng.randint(4, 20))] for _ in range(80)
    ]

    def heard(words: list[str], rate: float) -> list[str]:
        out: list[str] = []
        for i, word in enumerate(words):
            chance = rng.random()
            out += ["zz" + word] if chance < rate else [] if chance < 1.6 * rate else [word]
            # sclite forgets words that only the second system adds at the very end
            if rng.random() < rate / 3 and i < len(words) - 2:
                out.append("yy" + word)
        return out or ["zz"]

    texts = {"ref": reference}
    texts |= {name: [heard(words, rate) for words in reference]
              for name, rate in (("h1", 0.08), ("h2", 0.12))}  # fmt: skip
    for name, utterances in texts.items():
        lines = [f"{' '.join(u)} (s{i % 7}_{i:03d})\n" for i, u in enumerate(utterances)]
        (tmp_path / f"{name}.trn").write_text("".join(lines))
    piped = ""
    for name in ("h1", "h2"):
        piped += run(tmp_path, "sclite", "-r", "ref.trn", "trn", "-h", f"{name}.trn", "trn",
                     "-i", "rm", "-o", "sgml", "stdout")  # fmt: skip
    said = run(tmp_path, "sc_stats", "-p", "-t", "mapsswe", "-v", "-n", "-", stdin=piped)
    line = next(line for line in said.splitlines() if line.startswith("MTCH_PR_RESULTS"))
    number, mean, deviation, z = (
        float(re.search(rf"{name}: *(-?[\d.]+)", line)[1])  # type: ignore[index]
        for name in ("# segs", "mean", "std dev", "Z Stat")
    )
    systems = re.findall(r"<SYSTEM .*?</SYSTEM>", piped, re.S)
    first, second = (
        ["".join(re.findall(r"(?:^|:)([CSDI]),", body))
         for body in re.findall(r"<PATH .*?>\n(.*?)\n</PATH>", system, re.S)]
        for system in systems
    )  # fmt: skip
    found = matched_pairs(pairs(first, second))
    assert found.num_segments == number
    assert found.z is not None
    assert (-found.mean, found.std, -found.z) == pytest.approx((mean, deviation, z), abs=6e-4)


def run(folder: Path, *command: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["sctk", *command], cwd=folder, input=stdin, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_segments_by_hand() -> None:
    assert segments("CCCC", "CCCC") == []
    assert segments("CSCCCC", "CCCCDC") == [(1, 0), (0, 1)]
    assert segments("CSCSCC", "CCCCCC") == [(2, 0)]  # one word right does not end a segment
    assert segments("ICC", "CC") == [(1, 0)]
    assert segments("CCII", "CC") == [(2, 0)]
    assert segments("CC", "CCI") == [(0, 1)]


def test_what_cannot_be_tested() -> None:
    assert compare_gaps([]).p is None
    assert compare_gaps([2]).p is None
    assert compare_gaps([1, 1, 1]).z is None
