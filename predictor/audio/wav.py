"""Finds the samples of a plain WAV file (integer or float PCM), believing its header only so far.

Compressed and exotic WAV files (ADPCM, A-law, RF64, ...) are left to a codec: None is returned.
"""

from __future__ import annotations

import struct
from typing import Final

from predictor.audio.pcm import Encoding, PcmLayout

_MAX_CHUNKS: Final = 2_000  # looked at; a sound has a handful
_INTEGER, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_GUID_TAIL: Final = bytes.fromhex("000000001000800000aa00389b71")
_ENCODINGS: Final[dict[tuple[int, int], Encoding]] = {
    (_INTEGER, 8): "u8",
    (_INTEGER, 16): "s16le",
    (_INTEGER, 24): "s24le",
    (_INTEGER, 32): "s32le",
    (_FLOAT, 32): "f32le",
    (_FLOAT, 64): "f64le",
}


def plain_wav(data: memoryview) -> list[tuple[PcmLayout, memoryview]] | None:
    """Layouts and samples of a RIFF WAV file, cut to whole samples; None when it is not plain.

    One for each `data` chunk, and for those of files that were appended to it. A data size of 0 or
    past the end of the file (a writer that streamed, or died) means all of it.
    """
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"WAVE":
        return None
    is_whole = struct.unpack_from("<I", data, 4)[0] + 8 == len(data)
    layout: PcmLayout | None = None
    parts: list[tuple[PcmLayout, memoryview]] = []
    position = 12
    for _ in range(_MAX_CHUNKS):
        if position + 8 > len(data):
            break
        name = bytes(data[position : position + 4])
        (size,) = struct.unpack_from("<I", data, position + 4)
        position += 8
        if name == b"RIFF" and bytes(data[position : position + 4]) == b"WAVE":
            position += 4  # another file, with chunks of its own
            continue
        if name == b"fmt ":
            layout = _layout(data[position : position + size])
            if layout is None:
                return None
        elif name == b"data":
            if size == 0 and not is_whole and not parts:
                size = len(data)
            if layout is None:
                return None
            parts.append((layout, _whole(data[position:][:size], layout)))
        position += size + size % 2
    return parts or None


def _whole(samples: memoryview, layout: PcmLayout) -> memoryview:
    bytes_per_frame = layout.bytes_per_value * layout.num_channels
    return samples[: len(samples) // bytes_per_frame * bytes_per_frame]


def _layout(chunk: memoryview) -> PcmLayout | None:
    if len(chunk) < 16:
        return None
    tag, channels, rate_hz, _, bytes_per_frame, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _EXTENSIBLE:
        # [size u16][valid bits u16][speakers u32][GUID: tag u16 and 14 fixed bytes]
        if len(chunk) < 40 or bytes(chunk[26:40]) != _GUID_TAIL:
            return None
        (tag,) = struct.unpack_from("<H", chunk, 24)
    encoding = _ENCODINGS.get((tag, bits))
    if encoding is None or channels == 0 or bytes_per_frame != channels * bits // 8:
        return None
    return PcmLayout(sample_rate_hz=rate_hz, num_channels=channels, encoding=encoding)
