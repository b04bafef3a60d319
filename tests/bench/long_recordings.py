"""Recordings for `tests.bench.long`: clips of the evaluation set, pauses and sounds about them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from predictor.types import SAMPLE_RATE_HZ, Samples
from tests.bench.environment import ROOT

EVAL = ROOT / "tests" / "data" / "eval"
EDGE_S = 0.02  # kept about a clip's words where no pause is left


@dataclass(frozen=True)
class Clip:
    """One clip of the evaluation set."""

    samples: Samples
    spoken: Samples  # from its first word to its last, without a pause about them
    text: str
    language: str
    words: tuple[tuple[int, int], ...]  # where each begins and ends in `samples`
    first: int  # where `spoken` begins there


def clips(language: str) -> list[Clip]:
    """The short ones."""
    rows = map(json.loads, (EVAL / "words.jsonl").read_text("utf-8").splitlines())
    words = {row["audio"]: row["words"] for row in rows}
    found = []
    for line in (EVAL / "manifest.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["language"] != language or "short" not in row["tags"]:
            continue
        samples, _ = soundfile.read(EVAL / row["audio"], dtype="float32")
        spans = tuple(
            (int(word["start_s"] * SAMPLE_RATE_HZ), int(word["end_s"] * SAMPLE_RATE_HZ))
            for word in words[row["audio"]]
        )
        edge = int(EDGE_S * SAMPLE_RATE_HZ)
        begin = max(0, spans[0][0] - edge)
        spoken = samples[begin : spans[-1][1] + edge]
        found.append(Clip(samples, spoken, row["text"], language, spans, begin))
    return found


def flac(samples: Samples) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def joined(
    chosen: Sequence[Clip], length_s: float, most_s: float, *, spoken: bool, seed: int
) -> tuple[Samples, list[Clip]]:
    """Clips in random order with pauses up to `most_s`, until `length_s` are full."""
    samples, used, _ = joined_at(chosen, length_s, most_s, spoken=spoken, seed=seed)
    return samples, used


def joined_at(
    chosen: Sequence[Clip], length_s: float, most_s: float, *, spoken: bool, seed: int
) -> tuple[Samples, list[Clip], list[tuple[int, int]]]:
    """The same, and where each word lies in it."""
    rng = np.random.default_rng(seed)
    parts: list[Samples] = []
    used: list[Clip] = []
    words: list[tuple[int, int]] = []
    num_samples = 0
    while num_samples < length_s * SAMPLE_RATE_HZ:
        for index in rng.permutation(len(chosen)):
            clip = chosen[index]
            pause = np.zeros(int(rng.uniform(0, most_s) * SAMPLE_RATE_HZ), np.float32)
            shift = num_samples - (clip.first if spoken else 0)
            words += [(shift + begin, shift + end) for begin, end in clip.words]
            parts += [clip.spoken if spoken else clip.samples, pause]
            used.append(clip)
            num_samples += len(parts[-2]) + len(pause)
            if num_samples >= length_s * SAMPLE_RATE_HZ:
                break
    return np.concatenate(parts), used, words


def grouped(used: Sequence[Clip], longest_s: float) -> list[list[Clip]]:
    """Clips in a row that fit into a piece: cuts between words, which only we can know."""
    groups: list[list[Clip]] = [[]]
    for clip in used:
        sum_s = sum(len(c.spoken) for c in groups[-1]) / SAMPLE_RATE_HZ
        if groups[-1] and sum_s + len(clip.spoken) / SAMPLE_RATE_HZ > longest_s:
            groups.append([])
        groups[-1].append(clip)
    return groups


def reference(used: Sequence[Clip]) -> str:
    return (" " if used[0].language == "English" else "").join(clip.text for clip in used)


def sounds(kind: str, num_samples: int, rng: np.random.Generator) -> Samples:
    """Quiet of a kind."""
    t = np.arange(num_samples) / SAMPLE_RATE_HZ
    if kind == "digital silence":
        values = np.zeros(num_samples)
    elif kind == "noise, -70 dBFS":
        values = rng.normal(0, 10 ** (-70 / 20), num_samples)
    elif kind == "hum":
        values = 0.02 * np.sin(2 * np.pi * 50 * t) + 0.01 * np.sin(2 * np.pi * 150 * t)
    else:  # music: chords of three with overtones, a new one every 0.6 s
        values = np.zeros(num_samples)
        length = int(0.6 * SAMPLE_RATE_HZ)
        for begin in range(0, num_samples, length):
            part = t[begin : begin + length] - t[begin]
            for step in rng.choice([0, 4, 7, 12, 16], 3, replace=False):
                tone = 220 * 2 ** (step / 12)
                for overtone in (1, 2, 3):
                    wave = np.sin(2 * np.pi * tone * overtone * part) / overtone
                    values[begin : begin + length] += 0.03 * wave * np.exp(-2 * part)
    return values.astype(np.float32)


KINDS = ("digital silence", "noise, -70 dBFS", "hum", "music")


def write_hours(path: Path, hours: float, every_s: float) -> list[Clip]:
    """A FLAC file in which somebody speaks every so often."""
    chosen, rng = clips("English"), np.random.default_rng(4)
    used = []
    with soundfile.SoundFile(path, "w", SAMPLE_RATE_HZ, 1, "PCM_16", format="FLAC") as file:
        num_samples = 0
        while num_samples < hours * 3600 * SAMPLE_RATE_HZ:
            clip = chosen[rng.integers(len(chosen))]
            block = rng.normal(0, 1e-4, int(every_s * SAMPLE_RATE_HZ)).astype(np.float32)
            block[SAMPLE_RATE_HZ:][: len(clip.samples)] += clip.samples
            file.write(block)
            used.append(clip)
            num_samples += len(block)
    return used
