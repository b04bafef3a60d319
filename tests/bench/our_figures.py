"""Writes what `qwen3-asr bench` shows beside a user's own rows, from the engine's results.

python -m tests.bench.our_figures
"""

from __future__ import annotations

import json
from typing import Any

from tests.bench.environment import ROOT
from tests.bench.readme import FOLDER, SPEED_ROWS

FILE = ROOT / "predictor" / "cli" / "our_figures.json"
ROWS = ("offline 30 s", "offline 10 s", "one 10 s clip", "one 30 s clip, first token")


def our_figures() -> dict[str, Any]:
    """Values of the standard rows by the model's size."""
    rows: dict[str, dict[str, float]] = {"1.7B": {}, "0.6B": {}}
    for file, key, _ in SPEED_ROWS:
        size, _, name = key.partition(" ")
        if name in ROWS:
            results = json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))
            rows[size][name] = results["rows"][key]["value"]
    forced = results["tokens_per_audio_s"]
    return {
        "gpu": results["environment"]["gpu"],
        "method": f"{results['dtype']}, random weights, {forced} tokens a second of audio",
        "rows": rows,
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(our_figures(), indent=1) + "\n", encoding="utf-8")
