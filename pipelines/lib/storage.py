"""Where the bytes of a recording come from: the disk always, the network only when allowed.

http(s) goes through httpx; s3 and gs through fsspec with s3fs or gcsfs, which are not installed
with this package and are asked for by name when a manifest needs them.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipelines.lib.errors import ManifestError
from pipelines.lib.manifest import is_url

FSSPEC_PACKAGES = {"s3": "s3fs", "gs": "gcsfs"}
HTTP_SCHEMES = ("http", "https")
DOWNLOAD_TIMEOUT_S = 60.0


def read_audio(audio: str, *, allow_remote: bool = False) -> bytes:
    """The bytes of a recording from a path or URL.

    Raises ManifestError for a missing file, an unknown scheme, a failed download, or a URL while
    `allow_remote` is off (a manifest from elsewhere must not make this machine fetch things).
    """
    if not is_url(audio):
        try:
            return Path(audio).read_bytes()
        except OSError as error:
            raise ManifestError(f"audio {audio}: cannot be read: {error.strerror}") from error
    scheme = urlsplit(audio).scheme
    if scheme not in (*HTTP_SCHEMES, *FSSPEC_PACKAGES):
        known = ", ".join((*HTTP_SCHEMES, *FSSPEC_PACKAGES))
        raise ManifestError(f"audio {audio}: scheme {scheme!r} is not one of {known}")
    if not allow_remote:
        raise ManifestError(f"audio {audio}: is remote, and remote audio was not allowed")
    return _download(audio) if scheme in HTTP_SCHEMES else _open_object(audio, scheme)


def _download(url: str) -> bytes:
    try:
        response = httpx.get(url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ManifestError(f"audio {url}: download failed: {error}") from error
    return response.content


def _open_object(url: str, scheme: str) -> bytes:
    try:
        with import_module("fsspec").open(url, "rb") as file:
            return bytes(file.read())
    except ImportError as error:
        package = FSSPEC_PACKAGES[scheme]
        raise ManifestError(f"audio {url}: {scheme}:// needs the package {package}") from error
    except OSError as error:
        raise ManifestError(f"audio {url}: cannot be read: {error}") from error
