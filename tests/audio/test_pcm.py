"""Raw samples by content type, and waveforms handed in as arrays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from predictor.audio.decode import AudioDecoder
from predictor.audio.limits import AudioLimits
from predictor.errors import AudioError, AudioTooLong, InvalidInput, PayloadTooLarge
from predictor.types import Samples

WAVE = (0.5 * np.sin(2 * np.pi * 440 * np.arange(1600) / 16_000)).astype(np.float32)


def to_24_bit(order: str) -> bytes:
    wide = np.round(WAVE * (1 << 23)).astype(np.int32)
    triples = wide.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    return bytes((triples if order == "<" else triples[:, ::-1]).tobytes())


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("audio/pcm", np.round(WAVE * 32768).astype("<i2").tobytes()),
        ("audio/L16; rate=16000; channels=1", np.round(WAVE * 32768).astype("<i2").tobytes()),
        ("audio/L16;endianness=big-endian", np.round(WAVE * 32768).astype(">i2").tobytes()),
        ("AUDIO/PCM; Rate=16000; encoding=s16be", np.round(WAVE * 32768).astype(">i2").tobytes()),
        ("audio/L24", to_24_bit("<")),
        ("audio/L24; endianness=big-endian", to_24_bit(">")),
        ("audio/pcm; encoding=s24le", to_24_bit("<")),
        ("audio/pcm; encoding=s32le", np.round(WAVE * 2**31).astype("<i4").tobytes()),
        ("audio/pcm; encoding=f32le", WAVE.astype("<f4").tobytes()),
        ("audio/raw; encoding=f64le", WAVE.astype("<f8").tobytes()),
        ("audio/pcm; channels=2", np.repeat(np.round(WAVE * 32768), 2).astype("<i2").tobytes()),
    ],
)
def test_raw_layouts(content_type: str, data: bytes, decode: Callable[..., Samples]) -> None:
    samples = decode(data, content_type=content_type)
    assert samples.shape == WAVE.shape
    assert np.abs(samples - WAVE).max() <= 1 / 32768


def test_unsigned_bytes(decode: Callable[..., Samples]) -> None:
    samples = decode(bytes([0, 64, 128, 192]), content_type="audio/pcm; encoding=u8")
    assert samples.tolist() == [-1.0, -0.5, 0.0, 0.5]


def test_the_rate_of_raw_samples_is_believed(decode: Callable[..., Samples]) -> None:
    assert len(decode(bytes(16_000), content_type="audio/pcm; rate=8000")) == 16_000
    assert len(decode(bytes(16_000), content_type="audio/pcm; rate=32000")) == 4_000


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ("rate=x", "audio.rate"),
        ("rate=0", "audio.rate"),
        ("rate=-8000", "audio.rate"),
        ("rate=99999999999", "audio.rate"),
        ("channels=0", "audio.channels"),
        ("channels=two", "audio.channels"),
        ("encoding=mp3", "audio.encoding"),
        ("endianness=middle", "audio.endianness"),
        ("encoding=f32le; endianness=big-endian", "audio.endianness"),
        ("sample_rate=8000", "audio.sample_rate"),
    ],
)
def test_bad_parameters_are_named(
    parameters: str, field: str, decode: Callable[..., Samples]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode(bytes(100), content_type=f"audio/pcm; {parameters}")
    assert caught.value.field == field
    assert caught.value.limit


@pytest.mark.parametrize("rate", [7_999, 192_001])
def test_rates_outside_the_limits(rate: int, decode: Callable[..., Samples]) -> None:
    with pytest.raises(InvalidInput, match=f"{rate} Hz is outside 8000 to 192000"):
        decode(bytes(100), content_type=f"audio/pcm; rate={rate}")


def test_a_length_that_ends_within_a_sample(decode: Callable[..., Samples]) -> None:
    with pytest.raises(AudioError, match="101 bytes are no whole number of 4-byte samples"):
        decode(bytes(101), content_type="audio/pcm; channels=2")


def test_no_bytes_at_all(decode: Callable[..., Samples]) -> None:
    with pytest.raises(AudioError, match="holds no samples"):
        decode(b"", content_type="audio/pcm")


def from_waveform(decoder: AudioDecoder, array: Any, rate: int = 16_000) -> Samples:
    return asyncio.run(decoder.from_waveform(array, rate))


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1), ("float64", 1), ("int16", 32768), ("int32", 2**31)]
)
def test_waveforms(dtype: str, scale: int, decoder: AudioDecoder) -> None:
    samples = from_waveform(decoder, (WAVE * scale).astype(dtype))
    assert samples.dtype == np.float32
    assert np.abs(samples - WAVE).max() <= 1 / 32768


def test_a_waveform_is_resampled_and_left_as_it_was(decoder: AudioDecoder) -> None:
    wave = (WAVE * 3).copy()
    before = wave.copy()
    samples = from_waveform(decoder, wave, 48_000)
    assert len(samples) == 534
    assert np.abs(samples).max() <= 1
    assert np.array_equal(wave, before)
    same_rate = from_waveform(decoder, wave)
    assert not np.shares_memory(same_rate, wave)


@pytest.mark.parametrize(
    ("array", "rate", "error", "words"),
    [
        (np.zeros((2, 5), np.float32), 16_000, InvalidInput, "2 dimensions"),
        (np.zeros(5, np.complex64), 16_000, InvalidInput, "complex64"),
        (np.zeros(5, np.bool_), 16_000, InvalidInput, "bool"),
        (np.zeros(5, np.float32), 4_000, InvalidInput, "4000 Hz is outside"),
        (np.zeros(0, np.float32), 16_000, AudioError, "no samples"),
        (np.array([0, np.nan], np.float32), 16_000, AudioError, "NaN or infinite"),
        (np.array([0, -np.inf], np.float32), 44_100, AudioError, "NaN or infinite"),
        (np.array([0, 1e300]), 16_000, AudioError, "NaN or infinite"),
    ],
)
def test_bad_waveforms(
    array: Any, rate: int, error: type[InvalidInput], words: str, decoder: AudioDecoder
) -> None:
    with pytest.raises(error, match=words) as caught:
        from_waveform(decoder, array, rate)
    assert caught.value.field == "waveform"


def test_waveforms_past_the_limits(start_decoder: Callable[..., AudioDecoder]) -> None:
    decoder = start_decoder(AudioLimits(max_duration_s=1.0, max_bytes=80_000))
    assert len(from_waveform(decoder, np.zeros(16_000, np.float32))) == 16_000
    with pytest.raises(AudioTooLong) as too_long:
        from_waveform(decoder, np.zeros(16_001, np.float32))
    assert (too_long.value.limit, too_long.value.field) == (1.0, "waveform")
    with pytest.raises(PayloadTooLarge) as too_large:
        from_waveform(decoder, np.zeros(20_001, np.float32), 48_000)
    assert (too_large.value.value, too_large.value.limit) == (80_004, 80_000)
