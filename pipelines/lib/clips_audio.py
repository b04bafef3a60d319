"""Recordings made small enough to lie inside a report, within a budget of bytes.

What browsers play and is small stays as it is, anything else becomes mono MP3.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import soundfile

from pipelines.lib.errors import ManifestError
from pipelines.lib.storage import read_audio

MAX_EMBEDDED_S = 120.0
SMALL_BYTES = 150_000
PLAYABLE = (
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
)


def embed_audio(
    audios: Sequence[str], budget_bytes: int, *, allow_remote: bool = False
) -> dict[str, str]:
    """Data URIs by audio path, in the order given until the budget is used up.

    What cannot be read or decoded here, and what no longer fits, is left out.
    """
    embedded: dict[str, str] = {}
    left = budget_bytes
    for audio in audios:
        try:
            uri = data_uri(read_audio(audio, allow_remote=allow_remote))
        except ManifestError:
            continue
        if uri is not None and len(uri) <= left:
            embedded[audio] = uri
            left -= len(uri)
    return embedded


def data_uri(data: bytes) -> str | None:
    """A recording as a data URI that browsers play; None when it cannot be made one."""
    kind = next((kind for magic, kind in PLAYABLE if data.startswith(magic)), None)
    if kind is None or len(data) > SMALL_BYTES:
        kind, data = "audio/mpeg", _as_mp3(data)
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if data else None


def _as_mp3(data: bytes) -> bytes:
    """Mono MP3; empty when it cannot be decoded here, or lasts too long to lie in a page."""
    try:
        samples, rate_hz = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        if not 0 < len(samples) <= MAX_EMBEDDED_S * rate_hz:
            return b""
        buffer = io.BytesIO()
        soundfile.write(buffer, samples.mean(axis=1), rate_hz, format="MP3")
    except soundfile.LibsndfileError:  # not audio, or a sample rate that MP3 does not know
        return b""
    return buffer.getvalue()
