"""Which container the first bytes announce, and where it begins. No demuxer is probed.

Tags and zeros before the recording are passed over, and streams of frames that begin in the middle
of one are looked through for the first two that follow each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

Container = Literal[
    "wav", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "latm", "ac3", "mp4", "webm", "amr",
    "w64", "asf", "avi", "flv", "mpegts", "tta", "wavpack", "g722", "gsm",
]  # fmt: skip

FORMATS: Final = (
    "WAV, FLAC, OGG (Opus, Vorbis, FLAC, Speex), MP3, M4A/MP4, AAC (ADTS, LATM), WebM/MKV, AMR, "
    "AIFF, AU, CAF, W64, WMA, AVI, FLV, MPEG-TS, AC-3, TTA, WavPack"
)

_MAGIC: Final[tuple[tuple[bytes, Container], ...]] = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b"#!AMR", "amr"),
    (b".snd", "au"),
    (b"caff", "caf"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"FLV\x01", "flv"),
    (b"TTA1", "tta"),
    (b"wvpk", "wavpack"),
    (b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", "w64"),
)
_RIFF_IDS: Final = (b"RIFF", b"RIFX", b"RF64")
_MP4_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_ZEROS: Final = bytes(8)  # so many in a row: an MP4 box begins with a few
_MAX_ZEROS: Final = 1 << 20
_SEARCHED: Final = 1 << 16  # bytes in which the first frame is looked for
_MAX_CANDIDATES: Final = 1_000
_MAX_TAGS: Final = 32
_TS_PACKET: Final = 188


def sniff(data: memoryview) -> tuple[Container, int] | None:
    """The container of `data` and the byte at which it begins; None for none that we decode."""
    if (container := by_magic(data)) is not None:  # nearly always
        return container, 0
    tagged = _tag_bytes(data)
    begin = _zero_bytes(data, tagged)
    container = by_magic(data[begin:])
    if container is not None:
        return container, begin
    found = _first_frame(data, begin)
    # A tag whose stated size is wrong: the demuxer looks for the first frame by itself.
    return found or (("mp3", 0) if tagged else None)


def by_magic(data: memoryview) -> Container | None:
    """The container whose first bytes `data` has and nothing else would have by accident."""
    head = bytes(data[:16])
    if head[:4] in _RIFF_IDS and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    return "mp4" if head[4:8] in _MP4_BOXES else None


def _tag_bytes(data: memoryview) -> int:
    """Bytes of the ID3v2 and APE tags at the start, one behind the other."""
    position = 0
    for _ in range(_MAX_TAGS):
        head = bytes(data[position : position + 32])
        if len(head) >= 10 and head[:3] == b"ID3":
            size = 0
            for byte in head[6:10]:  # 7 bits to a byte
                size = size << 7 | byte & 0x7F
            position += 10 + size + (10 if head[5] & 0x10 else 0)
        elif len(head) == 32 and head[:8] == b"APETAGEX":
            position += 32 + int.from_bytes(head[12:16], "little")
        else:
            break
    return min(position, len(data))


def _zero_bytes(data: memoryview, begin: int) -> int:
    """The first byte from `begin` on that belongs to something."""
    if bytes(data[begin : begin + len(_ZEROS)]) != _ZEROS:
        return begin
    window = bytes(data[begin : begin + _MAX_ZEROS])
    return begin + len(window) - len(window.lstrip(b"\0"))


def _first_frame(data: memoryview, begin: int) -> tuple[Container, int] | None:
    """The first place where two frames of one kind follow each other, or the last stands alone."""
    window = bytes(data[begin : begin + _SEARCHED])
    kinds: tuple[tuple[bytes, Container, Callable[[bytes], int]], ...] = (
        (b"\xff", "mp3", _mp3_bytes),
        (b"\xff", "aac", _adts_bytes),
        (b"\x56", "latm", _loas_bytes),
        (b"\x0b\x77", "ac3", _ac3_bytes),
        (b"\x47", "mpegts", _ts_bytes),
    )
    best: tuple[int, Container] | None = None
    for mark, container, frame_bytes in kinds:
        at, tries = window.find(mark), 0
        while at >= 0 and tries < _MAX_CANDIDATES and (best is None or at < best[0]):
            size, tries = frame_bytes(window[at : at + 8]), tries + 1
            if size and _follows(data, begin + at, size, frame_bytes):
                best = at, container
                break
            at = window.find(mark, at + 1)
    return None if best is None else (best[1], begin + best[0])


def _follows(data: memoryview, at: int, size: int, frame_bytes: Callable[[bytes], int]) -> bool:
    """Whether another frame stands behind the one at `at`, or the data ends with it."""
    after = at + size
    if after >= len(data):
        return at == 0
    return frame_bytes(bytes(data[after : after + 8])) > 0


_MP3_KBIT: Final = {
    (3, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 1): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MP3_HZ: Final = (44_100, 48_000, 32_000)


def _mp3_bytes(head: bytes) -> int:
    """Size of the MPEG audio frame with this header; 0 for none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = (
        head[1] >> 3 & 3,
        head[1] >> 1 & 3,
    )  # 3, 2, 0: MPEG 1, 2, 2.5; 3, 2, 1: I to III
    rate_index, bits = head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or layer == 0 or rate_index == 3 or bits in (0, 15):
        return 0
    kbit = _MP3_KBIT[3 if version == 3 else 2, layer if version == 3 or layer == 3 else 1][bits]
    rate_hz = _MP3_HZ[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    padding = head[2] >> 1 & 1
    if layer == 3:
        return (12_000 * kbit // rate_hz + padding) * 4
    samples = 72 if layer == 1 and version != 3 else 144
    return samples * 1000 * kbit // rate_hz + padding


def _adts_bytes(head: bytes) -> int:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 15 > 12:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


def _loas_bytes(head: bytes) -> int:
    if len(head) < 3 or head[0] != 0x56 or head[1] & 0xE0 != 0xE0:
        return 0
    size = (head[1] & 0x1F) << 8 | head[2]
    return size + 3 if size else 0


_AC3_WORDS: Final = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896,
                     1024, 1152, 1280)  # fmt: skip


def _ac3_bytes(head: bytes) -> int:
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0
    if head[5] >> 3 > 10:  # E-AC-3 states its size
        return (((head[2] & 7) << 8 | head[3]) + 1) * 2
    rate, index = head[4] >> 6, head[4] & 0x3F
    if rate == 3 or index > 37:
        return 0
    words = _AC3_WORDS[index >> 1]  # of 16 bits at 48 kHz
    if rate == 0:
        return words * 2
    return words * 3 if rate == 2 else (words * 48_000 // 44_100 + (index & 1)) * 2


def _ts_bytes(head: bytes) -> int:
    return _TS_PACKET if head[:1] == b"\x47" and len(head) >= 4 and not head[1] & 0x80 else 0
