"""A guard against one known invention: hot words read back when nobody speaks.

Both must hold before a text is dropped: the audio never rises above a level at which speech could
be understood, and every letter of the text stands in the context in the same order.
"""

from __future__ import annotations

import numpy as np

from predictor.shared_samples import as_float
from predictor.types import SAMPLE_RATE_HZ, AnySamples

QUIET_DBFS = -50.0  # of the loudest 30 ms; a whisper close to a microphone is near -40
_FRAME = SAMPLE_RATE_HZ * 30 // 1000


def is_quiet(samples: AnySamples) -> bool:
    """Whether no 30 ms of `samples` ([n], 16 kHz) are louder than QUIET_DBFS (RMS)."""
    whole = samples[: len(samples) // _FRAME * _FRAME] if len(samples) >= _FRAME else samples
    if len(whole) == 0:
        return True
    frames = as_float(whole).reshape(-1, min(_FRAME, len(whole)))
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return bool(power.max() < 10.0 ** (QUIET_DBFS / 10.0))


def is_echo(text: str, context: str) -> bool:
    """Whether the letters and digits of `text` stand in `context` in one piece."""
    said = _letters(text)
    return bool(said) and said in _letters(context)


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())
