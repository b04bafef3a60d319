"""The clip that the model must transcribe before it is called ready.

A second of a falling tone in noise: it takes the whole path, and no recording has to be shipped
for it. What is said about it does not matter, for any checkpoint in any language must pass.
"""

from __future__ import annotations

import numpy as np

from predictor.types import SAMPLE_RATE_HZ, Samples

_SECONDS = 1.0


def ready_clip() -> Samples:
    """[16000] samples, the same each time."""
    time_s = np.arange(round(_SECONDS * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = 0.1 * np.sin(2 * np.pi * (300.0 * time_s - 50.0 * np.square(time_s)))
    noise = np.random.default_rng(0).normal(0.0, 0.01, len(time_s))
    clip: Samples = (tone + noise).astype(np.float32)
    return clip
