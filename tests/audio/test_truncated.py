"""A file that is cut off is decoded as far as it goes, and the answer's notes say so."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
import soundfile

from predictor.audio.decode import AudioDecoder, AudioLimits, AudioOptions
from predictor.types import AudioEnd


class NoBound:
    """Credit without a limit."""

    async def grow(self, audio_s: float, kept_s: float) -> None:
        """At once."""

    def release(self, audio_s: float) -> None:
        """Nothing is counted."""


@pytest_asyncio.fixture(loop_scope="function")
async def decoder() -> AsyncIterator[AudioDecoder]:
    made = AudioDecoder(AudioLimits(), num_workers=1, options=AudioOptions())
    made.start()
    yield made
    made.close()


def encoded(form: str) -> bytes:
    """Ten seconds of noise."""
    noise = np.random.default_rng(0).normal(0, 0.1, 160_000).astype(np.float32)
    buffer = io.BytesIO()
    soundfile.write(buffer, noise, 16_000, format=form, subtype="PCM_16")
    return buffer.getvalue()


async def notes(decoder: AudioDecoder, data: bytes) -> tuple[str, ...]:
    async for item in decoder.pieces(decoder.source(data), NoBound()):
        if isinstance(item, AudioEnd):
            return item.notes
    raise AssertionError("no end")


@pytest.mark.parametrize("form", ["WAV", "FLAC"])
async def test_what_is_missing_is_noted(decoder: AudioDecoder, form: str) -> None:
    data = encoded(form)
    assert await notes(decoder, data) == ()
    [note] = await notes(decoder, data[: len(data) // 2])
    assert note.startswith("the file is cut off: it states 10.0 s, ")


async def test_a_stream_whose_size_is_open_is_whole(decoder: AudioDecoder) -> None:
    data = bytearray(encoded("WAV"))
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"
    assert await notes(decoder, bytes(data)) == ()
