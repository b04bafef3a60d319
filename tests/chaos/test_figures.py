"""What predictor/api/README.md says of an overload is what tests/chaos/overload.py measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "predictor" / "api" / "README.md"


def of(protocols: list[dict[str, Any]]) -> tuple[str, str]:
    """Answers of those at capacity, in percent; the slowest round's 95th percentile, ms."""
    shares = sorted(round(100 * each["goodput_share"]) for each in protocols)
    rounds = [each["ten_times"] for protocol in protocols for each in protocol["rounds"]]
    assert all(each["decoded"] == each["answered"] for each in rounds)
    assert all(each["others"] == 0 for each in rounds)
    return (
        f"{shares[0]} to {shares[-1]} %" if len(shares) > 1 else f"{shares[0]} %",
        f"{max(each['refusal_p95_ms'] for each in rounds):.0f} ms",
    )


def test_the_readme_says_what_was_measured() -> None:
    measured = json.loads((FOLDER / "results" / "overload.json").read_text())["protocols"]
    grpc = measured.pop("grpc")
    text = README.read_text(encoding="utf-8")
    goodput, p95 = of(list(measured.values()))
    goodput_grpc, p95_grpc = of([grpc])
    assert f"HTTP {goodput} of the answers, refusals within {p95} (p95)" in text
    assert f"gRPC {goodput_grpc} and {p95_grpc}" in text
