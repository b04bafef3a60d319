"""Content types and encodings of bodies: what is taken, and one clear line for the rest."""

from __future__ import annotations

from typing import Final

from predictor.errors import InvalidInput, UnsupportedMedia

_MAX_CHARS: Final = 256
_PLAIN_ENCODINGS: Final = ("", "identity")
_GZIP_MAGIC: Final = b"\x1f\x8b"


def media_type(content_type: str | None) -> str:
    """`audio/pcm` of `audio/PCM; rate=8000`; "" for None."""
    return (content_type or "").split(";", 1)[0].strip().lower()


def checked_content_type(content_type: str | None) -> str | None:
    """A content type fit to be handed on. Raises InvalidInput for one that is none."""
    if content_type is None:
        return None
    if len(content_type) > _MAX_CHARS or not content_type.isprintable() or "*=" in content_type:
        raise InvalidInput(
            f"content-type: must be of at most {_MAX_CHARS} printable characters, its parameters "
            "as name=value",
            field="content-type",
            limit=_MAX_CHARS,
        )
    return content_type


def refuse_encoded(content_encoding: str) -> None:
    """Raises UnsupportedMedia for a body that is compressed: a small one may be a huge one."""
    if content_encoding.strip().lower() not in _PLAIN_ENCODINGS:
        shown = content_encoding[:60]
        raise UnsupportedMedia(
            f"content-encoding: {shown!r} is not accepted, send the body as it is",
            field="content-encoding",
            value=shown,
            limit=["identity"],
        )


def refuse_gzip(body: bytes | bytearray | memoryview, what: str) -> None:
    """Raises UnsupportedMedia for JSON that came compressed and does not say so."""
    if bytes(body[:2]) == _GZIP_MAGIC:
        raise UnsupportedMedia(
            f"{what}: is compressed with gzip, send the JSON as it is", field=what
        )
