"""Every format to 16 kHz mono: the same sound, the same length, from whatever container."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from predictor.audio.decode import AudioDecoder, AudioOptions
from predictor.errors import AudioError, InvalidInput
from predictor.types import Samples

FORMATS = [
    "opus.ogg", "vorbis.ogg", "flac.ogg", "mp3", "low.mp3", "m4a", "alac.m4a", "mp4", "aac", "webm",
    "pcm.mkv", "amr", "3gp", "flac", "stereo.flac", "wav", "adpcm.wav", "rf64.wav", "aiff", "au",
    "caf",
]  # fmt: skip
EXACT = {"flac.ogg", "alac.m4a", "pcm.mkv", "flac", "stereo.flac", "wav", "rf64.wav", "aiff", "au",
         "caf"}  # fmt: skip


def likeness(samples: Samples, original: Samples) -> float:
    """Largest correlation coefficient over shifts: codecs delay by a few ms."""
    size = len(samples) + len(original)
    cross = np.fft.irfft(np.fft.rfft(samples, size) * np.conj(np.fft.rfft(original, size)), size)
    return float(cross.max() / np.sqrt(np.square(samples).sum() * np.square(original).sum()))


def spectrum(samples: Samples) -> Samples:
    """Mean magnitude in bands of 62.5 Hz over frames of 16 ms."""
    frames = samples[: len(samples) // 256 * 256].reshape(-1, 256)
    magnitude: Samples = np.abs(np.fft.rfft(frames * np.hanning(256))).mean(axis=0)
    return magnitude.astype(np.float32)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_sound(
    name: str, files: dict[str, bytes], decode: Callable[..., Samples], make_speech: Any
) -> None:
    samples = decode(files[name])
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    original = make_speech(2.0, 16_000)
    if name in EXACT:
        assert len(samples) == len(original)
        # The ends aside: there the resampler's kernel reaches past the sound.
        assert np.abs(samples - original)[200:-200].max() < 1e-3
    else:
        assert 2.0 <= len(samples) / 16_000 < 2.2
        if name in ("amr", "3gp"):  # a speech codec keeps the spectrum, not the wave
            assert likeness(spectrum(samples), spectrum(original)) > 0.95
        else:
            assert likeness(samples, original) > 0.98


def test_wide_band_amr(files: dict[str, bytes], decode: Callable[..., Samples]) -> None:
    """Half a second of 1 kHz, written by vo-amrwbenc at 12.65 kbit/s: PyAV has no such encoder."""
    samples = decode(files["awb"])
    assert len(samples) == 8000
    spectrum = np.abs(np.fft.rfft(samples[2000:6000]))
    assert np.argmax(spectrum) * 4 == 1000  # Hz


@pytest.mark.parametrize(
    ("subtype", "tolerance"),
    [
        ("PCM_U8", 0.01), ("PCM_16", 1e-4), ("PCM_24", 1e-6), ("PCM_32", 1e-7), ("FLOAT", 1e-7),
        ("DOUBLE", 1e-7), ("ULAW", 0.02), ("ALAW", 0.02),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["WAV", "WAVEX"])
def test_wav_sample_types(
    kind: str,
    subtype: str,
    tolerance: float,
    decode: Callable[..., Samples],
    make_speech: Any,
    make_sndfile: Any,
) -> None:
    audio = make_speech(0.3, 16_000)
    samples = decode(make_sndfile(audio, 16_000, kind, subtype))
    assert len(samples) == len(audio)
    assert np.abs(samples - audio).max() <= tolerance


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 32_000, 44_056, 48_000, 192_000])
def test_sample_rates(
    rate: int, decode: Callable[..., Samples], make_speech: Any, make_sndfile: Any
) -> None:
    samples = decode(make_sndfile(make_speech(0.5, rate), rate, "WAV", "FLOAT"))
    assert len(samples) == 8000
    assert np.abs(samples - make_speech(0.5, 16_000))[300:-300].max() < 2e-3


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16")])
def test_channels_are_mixed_down_or_one_is_chosen(
    kind: str,
    subtype: str,
    start_decoder: Callable[..., AudioDecoder],
    decode: Callable[..., Samples],
    make_sndfile: Any,
) -> None:
    levels = np.array([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.1], dtype=np.float32)
    eight = make_sndfile(np.tile(levels, (1600, 1)), 16_000, kind, subtype)
    mono = make_sndfile(np.full(1600, 0.25, dtype=np.float32), 16_000, kind, subtype)
    assert decode(eight) == pytest.approx(levels.mean(), abs=1e-4)

    chosen = start_decoder(options=AudioOptions(channel=5))
    assert asyncio.run(chosen.decode(eight)) == pytest.approx(0.5, abs=1e-4)
    assert asyncio.run(chosen.decode(mono)) == pytest.approx(0.25, abs=1e-4)
    stereo = make_sndfile(np.zeros((1600, 2), dtype=np.float32), 16_000, kind, subtype)
    with pytest.raises(InvalidInput, match="channel 5 was asked for, the audio has 2 channels"):
        asyncio.run(chosen.decode(stereo))


def test_a_wav_that_was_streamed_or_cut_off_is_read_to_its_end(
    files: dict[str, bytes], decode: Callable[..., Samples]
) -> None:
    whole = decode(files["wav"])
    at = files["wav"].index(b"data") + 4
    for riff, size in ((0, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFFE)):
        lying = bytearray(files["wav"])
        lying[4:8] = struct.pack("<I", riff)
        lying[at : at + 4] = struct.pack("<I", size)
        assert np.array_equal(decode(bytes(lying)), whole)
    half = decode(files["wav"][: len(files["wav"]) // 2])
    assert abs(len(half) - len(whole) // 2) <= 16
    assert half[:-100] == pytest.approx(whole[: len(half) - 100], abs=1e-6)


def test_a_wav_whose_fmt_chunk_is_odd_or_missing(decode: Callable[..., Samples]) -> None:
    for body in (b"", b"fmt \x02\x00\x00\x00\x01\x00", b"data\x04\x00\x00\x00abcd"):
        with pytest.raises(AudioError):
            decode(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)


def test_recordings_may_be_memoryviews(
    decode: Callable[..., Samples], files: dict[str, bytes]
) -> None:
    for name in ("wav", "mp3"):
        view = memoryview(bytearray(b"??" + files[name]))[2:]
        assert np.array_equal(decode(view), decode(files[name]))


def test_an_mp3_behind_a_tag_with_a_picture(
    decode: Callable[..., Samples], files: dict[str, bytes]
) -> None:
    size = 300_000
    bits = bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    picture = b"APIC" + struct.pack(">I", size - 10) + b"\0\0" + b"\0image/png\0\3\0"
    tagged = b"ID3\3\0\0" + bits + picture.ljust(size, b"\xff") + files["mp3"][45:]
    assert len(decode(tagged)) / 16_000 == pytest.approx(2.0, abs=0.2)
