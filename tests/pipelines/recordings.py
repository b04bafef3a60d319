"""A small part of the evaluation set, and recordings in which nobody speaks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import soundfile

from pipelines.lib.manifest import Clip, read_manifest, write_manifest

EVALUATION_SET = Path(__file__).parents[1] / "data" / "eval" / "manifest.jsonl"
MAX_DURATION_S = 4.0


def write_small_set(folder: Path, *, per_language: int, non_speech: int) -> Path:
    """A manifest of so many short recordings of each language, and of silence and faint noise."""
    short = [c for c in read_manifest(EVALUATION_SET) if (c.duration_s or 0) < MAX_DURATION_S]
    chosen: list[Clip] = []
    for language in ("English", "Chinese"):
        spoken = (clip for clip in short if clip.language == language)
        chosen += itertools.islice(spoken, per_language)
    rng = np.random.default_rng(0)
    for i in range(non_speech):
        path = folder / f"nobody-{i}.wav"
        samples = rng.normal(0, 0.002 * (i % 2), 24_000)
        soundfile.write(path, samples, 16_000)
        chosen.append(Clip(path.name, str(path), "", None, duration_s=1.5))
    write_manifest(folder / "small.jsonl", chosen)
    return folder / "small.jsonl"
