"""Where bytes come from and go to: the disk always, the network only when allowed.

http(s) goes through httpx; s3 and gs through fsspec with s3fs (extra `buckets`) or gcsfs, which are
asked for by name when they are needed and not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
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
    if scheme in HTTP_SCHEMES:
        return _download(audio)
    with object_store(audio, "audio ", "read") as (store, path):
        return bytes(store.cat_file(path))


@contextmanager
def object_store(url: str, what: str, doing: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system for a URL, and the path within it.

    Whatever goes wrong inside becomes a ManifestError that begins with `what` and the URL: stores
    raise errors of their packages' own, which are not known here.
    """
    scheme = urlsplit(url).scheme
    if scheme not in FSSPEC_PACKAGES:
        known = ", ".join(FSSPEC_PACKAGES)
        raise ManifestError(f"{what}{url}: scheme {scheme!r} is not one of {known}")
    try:
        yield import_module("fsspec").core.url_to_fs(url)
    except ImportError as error:
        package = FSSPEC_PACKAGES[scheme]
        raise ManifestError(f"{what}{url}: {scheme}:// needs the package {package}") from error
    except Exception as error:
        raise ManifestError(f"{what}{url}: cannot be {doing}: {error}") from error


def _download(url: str) -> bytes:
    try:
        response = httpx.get(url, timeout=DOWNLOAD_TIMEOUT_S, follow_redirects=True)
        response.raise_for_status()
    except httpx.HTTPError as error:
        raise ManifestError(f"audio {url}: download failed: {error}") from error
    return response.content
