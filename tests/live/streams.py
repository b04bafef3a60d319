"""Streams of the evaluation set: clips one after another with pauses, as a conversation has them.

Every stream knows what is said when, so that errors and delays can be told.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

EVAL = Path(__file__).parents[1] / "data" / "eval"
RATE = 16_000
NOISE_DBFS = -62.0


@dataclass(frozen=True)
class Spoken:
    """A word, and when it ends, in seconds of its stream."""

    word: str
    end_s: float


@dataclass(frozen=True)
class Stream:
    """Audio and what is said in it."""

    name: str
    samples: np.ndarray
    parts: tuple[tuple[str, str], ...]  # language and text of each clip, in order
    words: tuple[Spoken, ...]

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE


@cache
def clips() -> dict[str, dict[str, Any]]:
    """Name -> row of the manifest with its words."""
    rows = {}
    for line in (EVAL / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        rows[Path(row["audio"]).stem] = row
    for line in (EVAL / "words.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        rows[Path(row["audio"]).stem]["words"] = row["words"]
    return rows


def audio(name: str) -> np.ndarray:
    """Samples of a clip at 16 kHz."""
    samples, rate = soundfile.read(EVAL / f"{name}.opus", dtype="float32")
    assert rate == RATE
    return samples


def alone(name: str, *, tail_s: float = 1.0) -> Stream:
    """One clip with silence behind it."""
    return join(name, [name], seed=0, pauses_s=(tail_s, tail_s), gain_db=0.0)


def join(
    name: str,
    names: list[str],
    seed: int,
    pauses_s: tuple[float, float] = (0.2, 1.5),
    gain_db: float = 6.0,
) -> Stream:
    """Clips with pauses between them on top of their own silence, on a floor of noise."""
    rng = np.random.default_rng(seed)
    parts: list[np.ndarray] = []
    texts: list[tuple[str, str]] = []
    words: list[Spoken] = []
    at = 0
    for clip in names:
        row = clips()[clip]
        gain = 10 ** (rng.uniform(-gain_db, gain_db) / 20)
        samples = np.clip(audio(clip) * gain, -1, 1)
        pause = np.zeros(round(rng.uniform(*pauses_s) * RATE), np.float32)
        texts.append((row["language"], row["text"]))
        words += [Spoken(w["word"], at / RATE + w["end_s"]) for w in row.get("words", ())]
        parts += [samples, pause]
        at += len(samples) + len(pause)
    joined = np.concatenate(parts)
    joined = joined + rng.normal(0, 10 ** (NOISE_DBFS / 20), len(joined)).astype(np.float32)
    return Stream(name, joined.astype(np.float32), tuple(texts), tuple(words))


def conversations(seconds: float = 222.0) -> list[Stream]:
    """Two English streams, one Chinese, one of both languages, of about `seconds` each."""
    english = sorted(n for n in clips() if n.startswith("en-short"))
    chinese = sorted(n for n in clips() if n.startswith("zh-short"))
    rng = np.random.default_rng(7)
    mixed = [str(n) for n in rng.permutation(english[-25:] + chinese[-25:])]
    plans = {"en1": english[:50], "en2": english[50:], "zh1": chinese, "mix1": mixed}
    streams = []
    for seed, (name, names) in enumerate(plans.items()):
        chosen, length_s = [], 0.0
        for clip in names:
            if length_s >= seconds:
                break
            chosen.append(clip)
            length_s += clips()[clip]["duration_s"] + 0.85
        streams.append(join(name, chosen, seed))
    return streams
