"""Small files that keep a decoder busy do so where long recordings do, not among the short ones."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

import pytest

from predictor.audio.decode import AudioDecoder, AudioLimits
from predictor.audio.pool import PoolObserver
from predictor.errors import AudioError


class Everything:
    """Credit without a bound."""

    async def grow(self, audio_s: float, kept_s: float) -> None:
        pass

    def release(self, audio_s: float) -> None:
        pass


def _crc(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc


def _page(serial: int, number: int, flags: int, position: int, *packets: bytes) -> bytes:
    sizes = bytes(len(packet) for packet in packets)
    head = b"OggS\0" + struct.pack("<BqII", flags, position, serial, number)
    rest = bytes([len(sizes)]) + sizes + b"".join(packets)
    return head + struct.pack("<I", _crc(head + bytes(4) + rest)) + rest


def chain(num_links: int) -> bytes:
    """An Ogg file of so many Opus streams, each of 33 ms: 126 bytes a link."""
    about = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 312, 48_000, 0, 0)
    return b"".join(
        _page(serial, 0, 2, 0, about)
        + _page(serial, 1, 0, 0, b"OpusTags" + bytes(8))
        + _page(serial, 2, 4, 1920, b"\xf8\xff\xfe", b"\xf8\xff\xfe")
        for serial in range(num_links)
    )


async def seconds(decoder: AudioDecoder, data: bytes) -> float:
    """How much sound was found in it."""
    found = [piece async for piece in decoder.pieces(decoder.source(data), Everything())]
    duration_s: float = found[-1].duration_s  # type: ignore[union-attr]
    return duration_s


async def test_short_recordings_do_not_wait_for_what_keeps_a_decoder_busy(
    start_decoder: Callable[..., AudioDecoder], make_sndfile: Any, make_speech: Any
) -> None:
    """One decoder for the short: it was busy with all of the chain, half a minute and more."""
    lanes: list[tuple[str, int]] = []
    observer = PoolObserver(lambda *each: lanes.append(each))
    decoder = start_decoder(AudioLimits(decode_timeout_s=300), observer=observer)
    busy = asyncio.create_task(seconds(decoder, chain(20_000)))
    while ("long", 1) not in lanes:  # the test's time limit ends it
        await asyncio.sleep(0.02)
    clip = make_sndfile(make_speech(2.0, 16_000), 16_000, "WAV", "PCM_16")
    assert await seconds(decoder, clip) == pytest.approx(2.0)
    assert not busy.done()
    busy.cancel()
    with pytest.raises(asyncio.CancelledError):
        await busy


async def test_a_chain_of_a_few_is_heard_where_it_is(
    start_decoder: Callable[..., AudioDecoder],
) -> None:
    assert await seconds(start_decoder(), chain(8)) == pytest.approx(8 * 0.0335, abs=0.05)


def test_a_stream_of_nothing_but_damage_is_given_up(decoder: AudioDecoder) -> None:
    """100,000 packets of AMR, each of them a mode that there is none of."""
    with pytest.raises(AudioError, match="2000 of 2000 packets"):
        asyncio.run(decoder.decode(b"#!AMR\n" + b"\x7c" * 100_000))
