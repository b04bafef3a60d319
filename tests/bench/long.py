"""Long recordings through the running server: what cutting costs in errors, in time and in memory.

    python -m tests.bench.long --parts joins quiet          (an hour and more on two cores)
    python -m tests.bench.long --parts hours --hours 10

Joins: the short clips of the evaluation set, over and over in random order with random pauses,
until an hour is full; also without any pause, where the cutting is compared with cuts that are
known to be right, so that what is left is the model's own share. Quiet: every kind of quiet before,
between and behind clips, whose text must stay what each clip's alone is. Hours: a recording of that
length, most of it quiet, and the memory of the server's processes while it goes through.

Writes tests/bench/results/long-cpu.json; parts that are not measured stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile
from rapidfuzz.distance import Levenshtein

from predictor.types import SAMPLE_RATE_HZ
from tests.bench.accuracy import server
from tests.bench.environment import describe
from tests.bench.long_client import ask_all, follow
from tests.bench.long_recordings import (
    KINDS,
    Clip,
    clips,
    flac,
    grouped,
    joined,
    reference,
    sounds,
    write_hours,
)
from tests.bench.resident import Memory
from tests.tiny.evaluate import units

RESULTS = Path(__file__).parent / "results" / "long-cpu.json"
QUIET_S = (1, 5, 20, 60)
UPLOADS_MB = (10, 10, 150, 300, 600)  # the first warms up
PLACES = ("before", "between", "after")


class Errors:
    """Words, or characters of Chinese, that are wrong."""

    def __init__(self) -> None:
        self.wrong = self.total = 0

    def add(self, reference: str, said: str, language: str) -> None:
        right = units(reference, language)
        self.wrong += Levenshtein.distance(right, units(said, language))
        self.total += len(right)

    def row(self) -> dict[str, Any]:
        percent = round(100 * self.wrong / max(1, self.total), 2)
        return {"error %": percent, "wrong": self.wrong, "units": self.total}


def joins(url: str, length_s: float, languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """With pauses up to 2 s."""
    for language in languages:
        chosen = clips(language)
        texts, _ = ask_all(url, [flac(clip.samples) for clip in chosen])
        alone = Errors()
        for clip, text in zip(chosen, texts, strict=True):
            alone.add(clip.text, text, language)
        yield {"set": f"{language}, single clips", **alone.row()}

        samples, used = joined(chosen, length_s, 2.0, spoken=False, seed=1)
        answer = follow(url, flac(samples), "audio/flac", lambda _: None)
        errors = Errors()
        errors.add(reference(used), answer.pop("text"), language)
        yield {
            "set": f"{language}, pauses of 0 to 2 s",
            "audio_s": round(len(samples) / SAMPLE_RATE_HZ, 1),
            "clips": len(used),
            **errors.row(),
            **answer,
        }


def no_pause(url: str, length_s: float, languages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Without any pause: how much of the errors is the cutting's."""
    for language in languages:
        yield from _without_pauses(url, clips(language), length_s, language)


def _without_pauses(
    url: str, chosen: Sequence[Clip], length_s: float, language: str
) -> Iterator[dict[str, Any]]:
    samples, used = joined(chosen, length_s, 0.0, spoken=True, seed=2)
    margin = np.zeros(SAMPLE_RATE_HZ // 5, np.float32)
    for name, groups in (
        ("each clip alone", [[clip] for clip in used]),
        ("two clips a piece", [list(used[i : i + 2]) for i in range(0, len(used), 2)]),
        ("right cuts, pieces up to 30 s", grouped(used, 30.0)),
    ):
        recordings = [
            flac(np.concatenate([margin, *(clip.spoken for clip in group), margin]))
            for group in groups
        ]
        texts, _ = ask_all(url, recordings, vad="off")
        errors = Errors()
        for group, text in zip(groups, texts, strict=True):
            errors.add(reference(group), text, language)
        yield {"set": f"{language}, no pause, {name}", "pieces": len(groups), **errors.row()}
    answer = follow(url, flac(samples), "audio/flac", lambda _: None)
    errors = Errors()
    errors.add(reference(used), answer.pop("text"), language)
    yield {"set": f"{language}, no pause, as the server cuts", **errors.row(), **answer}


def quiet(url: str, num_clips: int) -> Iterator[dict[str, Any]]:
    """Every kind, length and place; a cell is right when its text is that of the clips alone."""
    rng = np.random.default_rng(3)
    pairs = []
    for language in ("English", "Chinese"):
        chosen = clips(language)
        picked = rng.choice(len(chosen), 2 * num_clips, replace=False)
        pairs += [(chosen[i], chosen[j]) for i, j in picked.reshape(-1, 2)]
    alone, _ = ask_all(url, [flac(clip.samples) for pair in pairs for clip in pair])
    for kind in KINDS:
        for seconds in QUIET_S:
            for place in PLACES:
                recordings, expected = [], []
                for index, (first, second) in enumerate(pairs):
                    gap = sounds(kind, seconds * SAMPLE_RATE_HZ, rng)
                    said = [alone[2 * index]]
                    parts = [gap, first.samples]
                    if place == "after":
                        parts.reverse()
                    elif place == "between":
                        parts, said = [first.samples, gap, second.samples], alone[2 * index :][:2]
                    recordings.append(flac(np.concatenate(parts)))
                    expected.append((" " if first.language == "English" else "").join(said))
                texts, _ = ask_all(url, recordings)
                wrong = [(e, t) for e, t in zip(expected, texts, strict=True) if e != t]
                yield {
                    "set": f"{seconds} s of {kind} {place}",
                    "equal": len(texts) - len(wrong),
                    "of": len(texts),
                    **({"wrong": wrong} if wrong else {}),
                }


def hours(url: str, pid: int, length: float, every_s: float) -> Iterator[dict[str, Any]]:
    """One recording of so many hours, and what the server's processes hold meanwhile."""
    seen: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, Memory(pid) as memory:
        path = Path(folder) / "hours.flac"
        used = write_hours(path, length, every_s)
        size = path.stat().st_size
        with path.open("rb") as file:
            answer = follow(url, file, "audio/flac", lambda s: seen.append((time.monotonic(), s)))
    errors = Errors()
    errors.add(reference(used), answer.pop("text"), "English")
    last_s = length * 3600

    def at(second: float) -> float:
        return next((moment for moment, end_s in seen if end_s >= second), seen[-1][0])

    yield {
        "set": f"{length:g} h, somebody speaks every {every_s:g} s",
        "bytes": size,
        **errors.row(),
        **answer,
        "memory_mib": {
            "at minute 1": memory.most(at(0), at(60)),
            "first tenth": memory.most(at(0), at(last_s / 10)),
            "last tenth": memory.most(at(0.9 * last_s), at(last_s)),
            "most": memory.most(at(0), at(last_s)),
        },
    }


def uploads(url: str, pid: int) -> Iterator[dict[str, Any]]:
    """The same sentence in ever larger files: eight channels, and nothing behind it."""
    clip = clips("English")[0]
    with tempfile.TemporaryDirectory() as folder:
        for megabytes in UPLOADS_MB:
            path = Path(folder) / "large.wav"
            samples = np.zeros((megabytes * 1_000_000 // 32, 8), np.float32)
            samples[8_000:][: len(clip.samples)] = clip.samples[:, None]
            soundfile.write(path, samples, SAMPLE_RATE_HZ, subtype="FLOAT")
            del samples
            began_s = time.monotonic()
            with Memory(pid) as memory, path.open("rb") as file:
                answer = follow(url, file, "audio/wav", lambda _: None)
                ended_s = time.monotonic()
            yield {
                "set": f"{megabytes} MB",
                "text": answer["text"],
                "wall_s": answer["wall_s"],
                "most_mib": memory.most(began_s, ended_s),
            }


@contextmanager
def running(port: int, spool: Path) -> Iterator[tuple[str, int]]:
    """A server for long recordings; its URL and process id."""
    flags = ["--max_audio_s=86400", "--request_timeout_s=86400", f"--spool_dir={spool}"]
    flags += ["--decode_timeout_s=600"]  # of one window: other work may keep the decoder waiting
    with server("tiny", port, *flags) as url:
        [pid] = [
            child.pid for child in psutil.Process().children() if "predictor" in child.cmdline()
        ]
        yield url, pid


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["joins", "no pause", "quiet"])
    parser.add_argument("--port", type=int, default=18090)
    parser.add_argument("--length_s", type=float, default=3600.0, help="of a join")
    parser.add_argument("--languages", nargs="+", default=["English", "Chinese"], help="of joins")
    parser.add_argument("--clips", type=int, default=2, help="pairs of each language in a cell")
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--every_s", type=float, default=120.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    result = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    with (
        tempfile.TemporaryDirectory() as spool,
        running(arguments.port, Path(spool)) as (url, pid),
    ):
        runs: dict[str, Iterator[dict[str, Any]]] = {
            "joins": joins(url, arguments.length_s, arguments.languages),
            "no pause": no_pause(url, min(arguments.length_s, 300.0), arguments.languages),
            "quiet": quiet(url, arguments.clips),
            "uploads": uploads(url, pid),
            "hours": hours(url, pid, arguments.hours, arguments.every_s),
        }
        for part in arguments.parts:
            name = f"hours {arguments.hours:g}" if part == "hours" else part
            rows: list[dict[str, Any]] = []
            result[name] = {"environment": describe(), "rows": rows}
            result[name]["load_average"] = os.getloadavg()[0]
            for row in runs[part]:
                rows.append(row)
                print(json.dumps(row, ensure_ascii=False), flush=True)
                text = json.dumps(result, indent=1, ensure_ascii=False)
                arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
