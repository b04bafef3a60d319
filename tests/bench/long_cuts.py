"""Whether a cut ever divides a word: the pieces of hour-long joins beside the words' true times.

    python -m tests.bench.long_cuts          (some minutes of one processor)

The synthesizer says when each word of the evaluation set begins and ends. A word is whole when it
lies in one piece from its beginning to its end; the model hears nothing but pieces, so a word that
is whole in none cannot be heard right. Writes the part `cuts` of tests/bench/results/long-cpu.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from predictor.audio.cut import Cut, Cutter
from predictor.audio.limits import CutOptions
from predictor.types import SAMPLE_RATE_HZ, Samples
from tests.bench.environment import describe
from tests.bench.long_recordings import clips, joined_at

RESULTS = Path(__file__).parent / "results" / "long-cpu.json"
BLOCK = 5 * SAMPLE_RATE_HZ
EDGE = SAMPLE_RATE_HZ // 100  # 10 ms: the synthesizer's times are frames of so much


def pieces_of(samples: Samples) -> list[Cut]:
    """As the decoder process cuts."""
    cutter = Cutter(CutOptions())
    found = []
    for begin in range(0, len(samples), BLOCK):
        found += cutter.feed(samples[begin : begin + BLOCK])
    return [*found, *cutter.finish()]


def num_whole(words: Sequence[tuple[int, int]], pieces: Sequence[Cut]) -> int:
    """Words that lie in one piece."""
    spans = [(piece.start - EDGE, piece.start + len(piece.samples) + EDGE) for piece in pieces]
    found, first = 0, 0
    for begin, end in words:
        while first < len(spans) and spans[first][1] < begin:
            first += 1
        found += any(start <= begin and end <= last for start, last in spans[first : first + 3])
    return found


def rows(length_s: float) -> Iterator[dict[str, Any]]:
    for language in ("English", "Chinese"):
        for name, most_s in (("pauses of 0 to 2 s", 2.0), ("no pause", 0.0)):
            spoken = most_s == 0
            samples, _, words = joined_at(clips(language), length_s, most_s, spoken=spoken, seed=5)
            pieces = pieces_of(samples)
            yield {
                "set": f"{language}, {name}",
                "audio_s": round(len(samples) / SAMPLE_RATE_HZ, 1),
                "words": len(words),
                "whole": num_whole(words, pieces),
                "pieces": len(pieces),
                "cut without a pause": sum(piece.continues for piece in pieces),
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--length_s", type=float, default=3600.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    found: list[dict[str, Any]] = []
    result["cuts"] = {"environment": describe(), "rows": found}
    for row in rows(arguments.length_s):
        found.append(row)
        print(json.dumps(row), flush=True)
        text = json.dumps(result, indent=1, ensure_ascii=False)
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
