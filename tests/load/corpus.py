"""What a load test sends: recordings of several lengths and languages in the formats people use."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from pathlib import Path

import soundfile

from pipelines.lib.manifest import Clip, read_manifest
from tests.load.slo import SHORT

SHORT_S = 5.0  # shorter recordings are "short"
MAX_CLIPS = 40  # held in memory, in each format
# name and subtype of libsndfile, file ending
FORMATS = {"wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "mp3": ("MP3", None)}


@dataclass(frozen=True, slots=True)
class Recording:
    """One encoded recording; `name` is what its statistics are kept under."""

    name: str  # such as "short en"
    language: str
    suffix: str
    data: bytes
    duration_s: float = 0.0


def load_corpus(manifest: Path, seed: int = 0) -> list[Recording]:
    """A sample of the manifest's recordings, each in its own format and in those of FORMATS."""
    clips = read_manifest(manifest)
    chosen = random.Random(seed).sample(clips, min(MAX_CLIPS, len(clips)))
    return [recording for clip in chosen for recording in _encodings(clip)]


def _encodings(clip: Clip) -> list[Recording]:
    data = Path(clip.audio).read_bytes()
    samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32")
    short = len(samples) < SHORT_S * rate_hz
    language = clip.language or "none"
    name = f"{SHORT if short else 'long'} {language}"
    own = Path(clip.audio).suffix.removeprefix(".")
    seconds = len(samples) / rate_hz
    encodings = [Recording(name, language, own, data, seconds)]
    for suffix, (kind, subtype) in FORMATS.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype)
        encodings.append(Recording(name, language, suffix, buffer.getvalue(), seconds))
    return encodings
