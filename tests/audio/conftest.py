"""Real recordings in every format, encoded on the spot, and one decoder for all tests."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions
from predictor.types import Samples

Audio = NDArray[np.float32]

DATA = Path(__file__).parent / "data"

# name -> (muxer, encoder, sample rate, channels)
LOSSY = {
    "opus.ogg": ("ogg", "libopus", 48_000, 2),
    "mp3": ("mp3", "libmp3lame", 44_100, 2),
    "low.mp3": ("mp3", "libmp3lame", 22_050, 1),
    "m4a": ("ipod", "aac", 44_100, 2),
    "mp4": ("mp4", "aac", 48_000, 1),
    "aac": ("adts", "aac", 32_000, 1),
    "webm": ("webm", "libopus", 48_000, 1),
    "amr": ("amr", "libopencore_amrnb", 8_000, 1),
    "3gp": ("3gp", "libopencore_amrnb", 8_000, 1),
}
LOSSLESS = {
    "flac": ("flac", "flac", 16_000, 1),
    "stereo.flac": ("flac", "flac", 96_000, 2),
    "flac.ogg": ("ogg", "flac", 48_000, 1),
    "alac.m4a": ("ipod", "alac", 44_100, 2),
    "pcm.mkv": ("matroska", "pcm_s16le", 48_000, 6),
}


def speech_like(duration_s: float, sample_rate_hz: int) -> Audio:
    """Harmonics of 150 Hz below 3 kHz, with syllables: survives every codec recognisably."""
    t = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    harmonics = sum(np.sin(2 * np.pi * 150 * k * t + k * k) / k for k in (1, 2, 3, 5, 8, 13, 19))
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t - np.pi / 2)
    return (0.2 * envelope * harmonics).astype(np.float32)


def encode(audio: Audio, sample_rate_hz: int, muxer: str, encoder: str, channels: int = 1) -> bytes:
    """`audio` [n] as a file, the same on all channels."""
    out = io.BytesIO()
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(out, "w", format=muxer) as container:
        stream = container.add_stream(encoder, rate=sample_rate_hz, layout=layout)
        if encoder == "libopencore_amrnb":
            stream.bit_rate = 12_200
        frame = av.AudioFrame.from_ndarray(np.stack([audio] * channels), "fltp", layout)
        frame.sample_rate = sample_rate_hz
        frame.pts = 0
        context = stream.codec_context
        context.open()
        resampler = av.AudioResampler(
            format=context.format,
            layout=layout,
            rate=sample_rate_hz,
            frame_size=context.frame_size or 1024,
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return out.getvalue()


def write_sndfile(audio: Audio, sample_rate_hz: int, kind: str, subtype: str) -> bytes:
    """`audio` [n] or [n, channels] as libsndfile writes it."""
    out = io.BytesIO()
    soundfile.write(out, audio, sample_rate_hz, format=kind, subtype=subtype)
    return out.getvalue()


@pytest.fixture(scope="session")
def make_speech() -> Callable[[float, int], Audio]:
    return speech_like


@pytest.fixture(scope="session")
def make_file() -> Callable[..., bytes]:
    return encode


@pytest.fixture(scope="session")
def make_sndfile() -> Callable[..., bytes]:
    return write_sndfile


@pytest.fixture(scope="session")
def files() -> dict[str, bytes]:
    """Two seconds of the same sound in every format that can be encoded here."""
    made = {
        name: encode(speech_like(2.0, rate), rate, muxer, encoder, channels)
        for name, (muxer, encoder, rate, channels) in (LOSSY | LOSSLESS).items()
    }
    audio = speech_like(2.0, 44_100)
    made["vorbis.ogg"] = write_sndfile(audio, 44_100, "OGG", "VORBIS")
    made["aiff"] = write_sndfile(audio, 44_100, "AIFF", "PCM_16")
    made["au"] = write_sndfile(audio, 44_100, "AU", "PCM_16")
    made["caf"] = write_sndfile(audio, 44_100, "CAF", "PCM_24")
    made["wav"] = write_sndfile(audio, 44_100, "WAV", "PCM_16")
    made["adpcm.wav"] = write_sndfile(audio, 44_100, "WAV", "IMA_ADPCM")
    made["rf64.wav"] = write_sndfile(audio, 44_100, "RF64", "PCM_16")
    made["awb"] = (DATA / "tone-1khz.awb").read_bytes()
    return made


@pytest.fixture(scope="session")
def decoder() -> Iterator[AudioDecoder]:
    decoder = AudioDecoder(AudioLimits(), num_workers=1, options=AudioOptions())
    decoder.start()
    yield decoder
    decoder.close()


@pytest.fixture(scope="session")
def decode(decoder: AudioDecoder) -> Callable[..., Samples]:
    def run(data: bytes, **options: Any) -> Samples:
        return asyncio.run(decoder.decode(data, **options))

    return run


@pytest.fixture
def start_decoder() -> Iterator[Callable[..., AudioDecoder]]:
    """Decoders with other limits or options, closed when the test ends."""
    started: list[AudioDecoder] = []

    def start(
        limits: AudioLimits | None = None,
        options: AudioOptions | None = None,
        num_workers: int = 1,
        **more: Any,
    ) -> AudioDecoder:
        decoder = AudioDecoder(
            limits or AudioLimits(),
            num_workers=num_workers,
            options=options or AudioOptions(),
            **more,
        )
        started.append(decoder)
        decoder.start()
        return decoder

    yield start
    for decoder in started:
        decoder.close()
