"""A recording as 16 kHz samples, without the limits that strangers' recordings need."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from predictor.cli.audio import pcm16
from predictor.cli.errors import CliError
from predictor.types import SAMPLE_RATE_HZ, Samples


def waveform(path: Path, seconds: float) -> Samples:
    """[num_samples] float32, mono, the first `seconds`. Raises CliError."""
    wanted = round(seconds * SAMPLE_RATE_HZ) * 2
    data = bytearray()
    for piece in pcm16(str(path), rate_hz=SAMPLE_RATE_HZ):
        data += piece
        if len(data) >= wanted:
            break
    if not data:
        raise CliError(f"{path}: holds no audio")
    samples: Samples = np.divide(
        np.frombuffer(bytes(data[:wanted]), "<i2"), 32_768, dtype=np.float32
    )
    return samples
