"""What leaves this server on behalf of a job: a recording is fetched, the end of a job is told.

Only to addresses that the settings name. What a name resolves to is looked at when the connection
is made, so that no allowed name leads to a private address, now or a moment later; redirects are
followed only where the settings allow them as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urljoin

import httpcore

from predictor.errors import AudioError, InvalidInput, PayloadTooLarge, RetryableError
from predictor.settings.addresses import allowed_prefix, is_below, split_url

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # of an IPv4 address, in the last 32 bits
_LOCAL_NAT64: Final = ipaddress.ip_network("64:ff9b:1::/48")
_MAX_REDIRECTS: Final = 3
_CONNECT_S: Final = 10.0
_SILENCE_S: Final = 30.0  # without a byte
_MAX_ANSWER_BYTES: Final = 64 * 1024  # of a webhook's answer; nobody reads it
_WRITE_BYTES: Final = 1 << 20
_REDIRECTS: Final = (301, 302, 303, 307, 308)


Headers = dict[bytes | str, bytes | str]


class FetchError(AudioError):
    """The recording cannot be had from where it is said to be."""


class FetchLaterError(RetryableError):
    """It cannot be had now."""


@dataclass(frozen=True, slots=True)
class OutboundOptions:
    """Where to, and for how long."""

    prefixes: tuple[str, ...]  # of URLs; `https://store.example/recordings/`
    allow_private: bool = False  # addresses that are not on the public internet, and plain http
    timeout_s: float = 600.0  # of one recording


class Outbound:
    """A client that reaches what begins with one of the prefixes, and nothing else."""

    def __init__(self, options: OutboundOptions) -> None:
        """Raises ValueError for a prefix that is none."""
        self._options = options
        self._prefixes = [
            allowed_prefix(text, allow_private=options.allow_private) for text in options.prefixes
        ]

    def check(self, url: str, field: str, setting: str) -> None:
        """Raises InvalidInput, naming `field`, for a URL that may not be reached."""
        if not self._prefixes:
            raise InvalidInput(
                f"{field}: this server reaches no URL (setting {setting})", field=field
            )
        try:
            self._checked(url)
        except ValueError as error:
            raise InvalidInput(f"{field}: {error}", field=field) from error

    def _checked(self, url: str) -> SplitResult:
        parts = split_url(url)
        if not any(is_below(parts, prefix) for prefix in self._prefixes):
            raise ValueError("is not among the addresses that the settings allow")
        return parts

    async def fetch(self, url: str, path: Path, max_bytes: int) -> int:
        """The recording at `url` into a new file, whole on disk; its size in bytes.

        Raises InvalidInput (where a redirect leads away), FetchError, PayloadTooLarge, and
        FetchLaterError for what may be better another time.
        """
        try:
            async with asyncio.timeout(self._options.timeout_s):
                return await self._fetch(url, path, max_bytes)
        except TimeoutError as error:
            raise FetchLaterError("url: takes too long") from error
        except _NotPublicError as error:
            raise FetchError(f"url: {error}", field="url") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, OSError) as error:
            raise FetchLaterError(f"url: {type(error).__name__}") from error
        except (httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
            raise FetchError(f"url: {type(error).__name__}", field="url") from error

    async def _fetch(self, url: str, path: Path, max_bytes: int) -> int:
        async with self._pool() as pool:
            for _ in range(_MAX_REDIRECTS + 1):
                self.check(url, "url", "")
                async with pool.stream("GET", url, headers=_HEADERS, extensions=_TIMEOUTS) as said:
                    if said.status in _REDIRECTS:
                        url = urljoin(url, _header(said, b"location"))
                        continue
                    _check_status(said.status)
                    return await _store(said, path, max_bytes)
        raise FetchError(f"url: more than {_MAX_REDIRECTS} redirects", field="url")

    async def post(self, url: str, body: bytes, headers: Headers) -> int:
        """The status of the answer; redirects are none. Raises OSError when there is no answer."""
        try:
            self._checked(url)  # the settings of today
            async with asyncio.timeout(_SILENCE_S), self._pool() as pool:
                kind: Headers = {**_HEADERS, "content-type": "application/json", **headers}
                async with pool.stream(
                    "POST", url, headers=kind, content=body, extensions=_TIMEOUTS
                ) as said:
                    num_bytes = 0
                    async for chunk in said.aiter_stream():
                        num_bytes += len(chunk)
                        if num_bytes > _MAX_ANSWER_BYTES:
                            break
                    return int(said.status)
        except (ValueError, TimeoutError, _NotPublicError) as error:
            raise OSError(str(error) or "no answer in time") from error
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise OSError(type(error).__name__) from error

    def _pool(self) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(
            ssl_context=_tls(),
            network_backend=_Backend(self._options.allow_private),
            max_connections=1,
        )


_HEADERS: Final[Headers] = {"user-agent": "qwen3-asr-kserve", "accept-encoding": "identity"}
_TIMEOUTS: Final = {
    "timeout": {"connect": _CONNECT_S, "read": _SILENCE_S, "write": _SILENCE_S, "pool": 1.0}
}


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    """The machine's trust store, or SSL_CERT_FILE's."""
    return ssl.create_default_context()


class _NotPublicError(Exception):
    """A name leads to an address that is nobody's business."""


class _Backend(httpcore.AsyncNetworkBackend):
    """Connects to the address that was looked at, whatever the name says a moment later."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore calls it so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=1)
        addresses = [str(entry[4][0]) for entry in found]
        if not self._allow_private and not all(map(is_public, addresses)):
            raise _NotPublicError("leads to an address that is not public")
        return await self._inner.connect_tcp(
            addresses[0], port, timeout, local_address, socket_options
        )

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        raise _NotPublicError("leads to a socket of this machine")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    if ip in _NAT64:
        inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
    is_translated = ip in _LOCAL_NAT64
    is_inside = inner is not None and not inner.is_global
    return ip.is_global and not ip.is_multicast and not is_inside and not is_translated


def _check_status(status: int) -> None:
    if status == 429 or status >= 500:
        raise FetchLaterError(f"url: answered with {status}")
    if status != 200:
        raise FetchError(f"url: answered with {status}", field="url", value=status, limit=200)


async def _store(said: httpcore.Response, path: Path, max_bytes: int) -> int:
    """The body, whole under its name or not there."""
    stated = _header(said, b"content-length")
    if stated.isdigit() and int(stated[:19]) > max_bytes:
        raise _too_large(int(stated[:19]), max_bytes)
    part = path.with_suffix(".part")
    num_bytes, waiting = 0, bytearray()
    with part.open("wb") as file:
        async for chunk in said.aiter_stream():
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                part.unlink()
                raise _too_large(num_bytes, max_bytes)
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(file.write, bytes(waiting))
                waiting.clear()
        file.write(waiting)
        await asyncio.to_thread(_sync, file.flush, file.fileno())
    part.rename(path)
    return num_bytes


def _sync(flush: Callable[[], None], fd: int) -> None:
    flush()
    os.fsync(fd)


def _too_large(num_bytes: int, max_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"url: {num_bytes} bytes or more, the limit is {max_bytes}",
        field="url",
        value=num_bytes,
        limit=max_bytes,
    )


def _header(said: httpcore.Response, name: bytes) -> str:
    return next((v.decode("latin-1") for k, v in said.headers if k.lower() == name), "")
