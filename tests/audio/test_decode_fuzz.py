"""Damaged files of every format: samples or a typed error, never a crash, never a hang."""

from __future__ import annotations

import asyncio
import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predictor.audio.decode import AudioDecoder
from predictor.errors import InvalidInput

CONTENT_TYPES = [None, "audio/pcm", "audio/pcm; channels=3; encoding=s24le", "audio/wav", ";;=", ""]
KINDS = ["mp3", "m4a", "aac", "webm", "opus.ogg", "vorbis.ogg", "flac", "wav", "amr", "awb",
         "adpcm.wav", "rf64.wav", "aiff", "caf", "au", "alac.m4a"]  # fmt: skip


def check(decoder: AudioDecoder, data: bytes, content_type: str | None = None) -> None:
    [result] = asyncio.run(attempt(decoder, data, content_type))
    if isinstance(result, InvalidInput):
        assert result.field is not None
        assert result.limit is not None
    else:
        assert isinstance(result, np.ndarray), repr(result)
        assert result.dtype == np.float32
        assert len(result) > 0
        assert np.abs(result).max() <= 1


async def attempt(decoder: AudioDecoder, data: bytes, content_type: str | None) -> list[object]:
    decoding = decoder.decode(data, content_type=content_type)
    return list(await asyncio.gather(decoding, return_exceptions=True))


def damage(data: bytes, rng: random.Random) -> bytes:
    """Flip, overwrite, cut, double and splice; headers more often than the rest."""
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 12)):
        end = min(len(broken), 300) if rng.random() < 0.7 else len(broken)
        at = rng.randrange(max(end, 1))
        size = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(5):
            case 0:
                broken[at : at + size] = rng.randbytes(size)
            case 1:
                broken[at : at + size] = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * size
            case 2:
                del broken[at : at + size]
            case 3:
                broken[at:at] = broken[at : at + size * 8]
            case 4 if rng.random() < 0.2:
                del broken[at:]
    return bytes(broken)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind: str, files: dict[str, bytes], decoder: AudioDecoder) -> None:
    rng = random.Random(kind)
    pids = decoder.worker_pids
    for _ in range(60):
        check(decoder, damage(files[kind], rng))
    assert decoder.worker_pids == pids  # no worker died of it


@given(data=st.binary(max_size=300), content_type=st.sampled_from(CONTENT_TYPES))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes(data: bytes, content_type: str | None, decoder: AudioDecoder) -> None:
    check(decoder, data, content_type)


@given(
    magic=st.sampled_from([b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"#!AMR\n", b".snd", b"caff",
                           b"RIFF\0\0\0\0WAVEfmt ", b"\0\0\0\x18ftypM4A ", b"ID3", b"\xff\xfb\x90",
                           b"\xff\xf1\x50", b"FORM\0\0\0\0AIFF"]),
    data=st.binary(max_size=200),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_any_bytes_behind_a_magic_number(magic: bytes, data: bytes, decoder: AudioDecoder) -> None:
    check(decoder, magic + data)
