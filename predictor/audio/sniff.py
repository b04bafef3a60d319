"""Which container the first bytes announce. One demuxer is chosen by name, none probed."""

from __future__ import annotations

from typing import Final, Literal

Container = Literal["wav", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "mp4", "webm", "amr"]

FORMATS: Final = "WAV, FLAC, OGG (Opus, Vorbis), MP3, M4A/MP4, AAC, WebM, AMR, AIFF, AU, CAF"

_MAGIC: Final[tuple[tuple[bytes, Container], ...]] = (
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1a\x45\xdf\xa3", "webm"),
    (b"#!AMR", "amr"),
    (b".snd", "au"),
    (b"caff", "caf"),
)
_RIFF_IDS: Final = (b"RIFF", b"RIFX", b"RF64")
_MP4_BOXES: Final = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")


def sniff(data: memoryview) -> Container | None:
    """The container of `data`, or None when it is none that we decode."""
    head = bytes(data[:12])
    if head[:4] in _RIFF_IDS and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "aiff"
    for magic, container in _MAGIC:
        if head.startswith(magic):
            return container
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    return _sniff_mpeg(data)


def _sniff_mpeg(data: memoryview) -> Container | None:
    """MP3 or ADTS AAC by the sync word of the first frame, behind an ID3v2 tag if there is one."""
    frame = bytes(data[_id3_bytes(data) :][:2])
    if len(frame) == 2 and frame[0] == 0xFF and frame[1] & 0xE0 == 0xE0:
        layer = frame[1] >> 1 & 0b11
        if layer == 0 and frame[1] & 0xF0 == 0xF0:
            return "aac"
        if layer != 0:
            return "mp3"
    # A tag whose stated size is wrong: the demuxer looks for the first frame by itself.
    return "mp3" if bytes(data[:3]) == b"ID3" else None


def _id3_bytes(data: memoryview) -> int:
    """Bytes of the ID3v2 tag at the start, 0 without one (its size is stored 7 bits to a byte)."""
    head = bytes(data[:10])
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size
