"""URLs that an operator allows: what is one, and what lies below it."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, urlsplit

_MAX_CHARS: Final = 2048


def allowed_prefix(text: str, *, allow_private: bool) -> SplitResult:
    """What an operator names. Raises ValueError."""
    parts = split_url(text)
    if parts.query:
        raise ValueError(f"{text!r}: an address that is allowed has no query")
    if parts.scheme != "https" and not allow_private:
        raise ValueError(f"{text!r}: only https is allowed on the public internet")
    return parts


def split_url(url: str) -> SplitResult:
    """Raises ValueError for what is no plain URL."""
    if len(url) > _MAX_CHARS or not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise ValueError(f"must be a URL of at most {_MAX_CHARS} ASCII characters, without spaces")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must begin with https:// and a host")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("must have neither a user nor a fragment")
    _ = parts.port  # raises ValueError
    decoded = parts.path.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/")
    if ".." in decoded.split("/"):
        raise ValueError("must not go up in its path")
    return parts


def is_below(parts: SplitResult, prefix: SplitResult) -> bool:
    """Whether a URL is the prefix, or lies in its folder."""
    if (parts.scheme, parts.hostname, _port(parts)) != (
        prefix.scheme,
        prefix.hostname,
        _port(prefix),
    ):
        return False
    folder = prefix.path if prefix.path.endswith("/") else f"{prefix.path}/"
    return parts.path == prefix.path or (parts.path or "/").startswith(folder)


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)
