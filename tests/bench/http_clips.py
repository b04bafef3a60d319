"""What the HTTP benchmark posts: somebody who talks without a pause, in formats that people send.

Each clip is one piece, whatever finds speech in it, and no two are the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import soundfile

from predictor.types import SAMPLE_RATE_HZ, Samples
from tests.bench.environment import ROOT

VOICE = ROOT / "predictor" / "recordings" / "demo-en-3.flac"
SPOKEN = slice(2_000, 28_000)  # of it, without a pause
MEDIA = ("wav", "flac", "opus", "mp3")
TYPES = {"wav": "audio/wav", "flac": "audio/flac", "opus": "audio/ogg", "mp3": "audio/mpeg"}


def talk(duration_s: float, seed: int = 0) -> Samples:
    """[num_samples] at 16 kHz: the voice over and over, from some place on, and a little noise."""
    rng = np.random.default_rng(seed)
    spoken, _ = soundfile.read(VOICE, dtype="float32")
    voice = np.roll(spoken[SPOKEN], int(rng.integers(26_000)))
    samples = np.resize(voice, round(duration_s * SAMPLE_RATE_HZ))
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    louder: Samples = np.float32(rng.uniform(0.5, 1.0)) * samples + 1e-3 * noise
    return louder.astype(np.float32)


def wav(samples: Samples) -> bytes:
    """16 kHz, one channel, 16 bits."""
    return _by_soundfile(samples, "WAV")


def _by_soundfile(samples: Samples, kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format=kind, subtype="PCM_16")
    return buffer.getvalue()


def _by_av(samples: Samples, codec: str, container: str, layout: str) -> bytes:
    """At 48 kHz."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48_000)
        stream.layout = layout  # type: ignore[union-attr]
        resampler = av.AudioResampler(
            format=stream.codec_context.format.name,  # type: ignore[union-attr]
            layout=layout,
            rate=48_000,
            frame_size=stream.codec_context.frame_size or None,  # type: ignore[union-attr]
        )
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        for resampled in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(resampled))  # type: ignore[union-attr]
        output.mux(stream.encode(None))  # type: ignore[union-attr]
    return buffer.getvalue()


_ENCODERS: dict[str, Callable[[Samples], bytes]] = {
    "wav": wav,
    "flac": lambda samples: _by_soundfile(samples, "FLAC"),
    "opus": lambda samples: _by_av(samples, "libopus", "ogg", "mono"),
    "mp3": lambda samples: _by_av(samples, "libmp3lame", "mp3", "stereo"),
}


def write(folder: Path, duration_s: float, media: str, count: int) -> list[Path]:
    """`count` different clips as files in `folder`; those that are there already are kept."""
    paths = [folder / f"{duration_s:g}-{number}.{media}" for number in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            path.write_bytes(_ENCODERS[media](talk(duration_s, number)))
    return paths
