"""The clip that the model must transcribe before it is called ready: one of the recordings."""

from __future__ import annotations

from pathlib import Path

import soundfile

from predictor.types import SAMPLE_RATE_HZ, Samples

CLIP = Path(__file__).parents[1] / "recordings" / "demo-en-1.flac"


def ready_clip() -> Samples:
    """[num_samples] at 16 kHz: three seconds of speech."""
    samples, rate_hz = soundfile.read(CLIP, dtype="float32")
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise RuntimeError(f"{CLIP.name} must be 16 kHz mono")
    clip: Samples = samples
    return clip
