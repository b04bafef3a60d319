"""A recording from the microphone of the machine that this runs on, as WAV bytes."""

from __future__ import annotations

import io
import sys

import av
import numpy as np
import soundfile

RATE_HZ = 16_000
# FFmpeg's capture device and its default source on each platform
DEVICES = {"linux": ("default", "pulse"), "darwin": (":0", "avfoundation")}


def record_microphone(duration_s: float, device: tuple[str, str] | None = None) -> bytes | None:
    """So many seconds of sound, mono, 16 kHz; None where there is no microphone.

    `device` is FFmpeg's name of a source and its format, such as ("hw:1", "alsa").
    """
    source = device or DEVICES.get(sys.platform)
    if source is None:
        return None
    try:
        container = av.open(source[0], format=source[1])
    except (OSError, ValueError):  # FFmpeg's errors are OSErrors; an unknown format a ValueError
        return None
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE_HZ)
    blocks: list[np.ndarray] = []
    wanted = round(duration_s * RATE_HZ)
    with container:
        for frame in container.decode(audio=0):
            blocks += [block.to_ndarray().reshape(-1) for block in resampler.resample(frame)]
            if sum(map(len, blocks)) >= wanted:
                break
    buffer = io.BytesIO()
    soundfile.write(buffer, np.concatenate(blocks)[:wanted], RATE_HZ, format="WAV")
    return buffer.getvalue()
