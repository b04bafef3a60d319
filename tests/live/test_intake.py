"""Bytes to frames: against ffmpeg's G.711 (through PyAV) and torchaudio's resampling."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import soundfile
import torch
import torchaudio.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.errors import InvalidInput
from predictor.live.intake import Intake, Resampler, WireFormat, decode


def _tone(rate: int, seconds: float, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype("f4")


@pytest.mark.parametrize(("encoding", "codec"), [("pcmu", "pcm_mulaw"), ("pcma", "pcm_alaw")])
def test_g711_is_what_ffmpeg_decodes(encoding: str, codec: str) -> None:
    every_byte = bytes(range(256))
    decoder = av.CodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    [frame] = decoder.decode(av.Packet(every_byte))
    assert (decode(every_byte, encoding) * 32768).tolist() == frame.to_ndarray()[0].tolist()


def test_pcm16_is_what_libsndfile_reads() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 1000).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="RAW", subtype="PCM_16", endian="LITTLE")
    read, _ = soundfile.read(
        io.BytesIO(file.getvalue()), format="RAW", subtype="PCM_16", endian="LITTLE",
        samplerate=16_000, channels=1, dtype="float32",
    )  # fmt: skip
    assert decode(file.getvalue(), "pcm16").tolist() == read.tolist()


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 24_000, 44_100, 44_056, 48_000, 96_000])
def test_resampling_is_torchaudios(rate: int) -> None:
    rng = np.random.default_rng(rate)
    noise = rng.normal(0, 0.1, rate).astype(np.float32)
    ours = Resampler(rate).feed(np.concatenate([noise, np.zeros(rate, np.float32)]))[:16_000]
    theirs = F.resample(
        torch.from_numpy(noise), rate, 16_000, lowpass_filter_width=32, rolloff=0.945,
        resampling_method="sinc_interp_kaiser", beta=10.0,
    ).numpy()  # fmt: skip
    inner = slice(200, 15_800)
    error = ours[inner] - theirs[:16_000][inner]
    assert np.sqrt(np.mean(error**2)) < 1e-3 * np.sqrt(np.mean(theirs**2))


def test_what_16_khz_cannot_hold_is_gone() -> None:
    heard = Resampler(48_000).feed(_tone(48_000, 1.0, hz=11_000))
    assert np.abs(heard[500:-500]).max() < 1e-3


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    rate=st.sampled_from([8_000, 16_000, 24_000, 44_100, 47_999]),
    encoding=st.sampled_from(["pcm16", "pcmu"]),
)
def test_the_same_samples_come_in_pieces_of_any_size(
    sizes: list[int], rate: int, encoding: str
) -> None:
    data = np.random.default_rng(1).bytes(30_000)
    one = Intake(WireFormat(encoding, rate)).feed(data)
    pieces = Intake(WireFormat(encoding, rate))
    found, at = [], 0
    for size in [*sizes, len(data)]:
        found.append(pieces.feed(data[at : at + size]))
        at += size
    assert np.concatenate(found).tolist() == one.tolist()


def test_positions_do_not_drift() -> None:
    resampler = Resampler(44_100)
    second = np.zeros(44_100, np.float32)
    total = sum(len(resampler.feed(second)) for _ in range(100))
    assert 100 * 16_000 - total < 50


@pytest.mark.parametrize(("encoding", "rate"), [("pcm16", 7_999), ("pcm16", 192_001), ("mp3", 1)])
def test_other_formats_are_refused(encoding: str, rate: int) -> None:
    with pytest.raises(InvalidInput):
        WireFormat(encoding, rate)
