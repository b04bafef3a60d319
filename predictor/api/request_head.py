"""Heads of requests before they are parsed: offers that are ignored, and what nobody may guess.

Proxies and servers that read a head differently see different requests in it.
"""

from __future__ import annotations

import re
from typing import Final

from predictor.errors import InvalidInput

END_OF_HEAD: Final = b"\r\n\r\n"
# Offers to speak HTTP/2 or TLS from here on, which a server may ignore (RFC 9110, 7.8).
_UPGRADE: Final = re.compile(rb"(?im)^upgrade(?=[ \t]*:(?![ \t]*websocket[ \t]*\r?$))")
# A handshake of WebSocket is a GET without a body; elsewhere that offer is ignored as well.
_ANY_UPGRADE: Final = re.compile(rb"(?im)^upgrade(?=[ \t]*:)")
_BODY: Final = re.compile(rb"(?im)^(transfer-encoding[ \t]*:|content-length[ \t]*:[ \t]*0*[^0\s])")
# Headers of which one may say another thing than the other.
_ONCE: Final = re.compile(
    rb"(?im)^(host|content-type|content-encoding|authorization|x-api-key"
    rb"|inference-header-content-length):"
)
_CODING: Final = re.compile(rb"(?im)^transfer-encoding:(?![ \t]*chunked[ \t]*\r?$)")


def without_offers(head: bytes) -> bytes:
    """The head with no upgrade but to WebSocket, where there can be one."""
    may_upgrade = head.startswith(b"GET ") and not _BODY.search(head)
    return (_UPGRADE if may_upgrade else _ANY_UPGRADE).sub(b"x-ignored-upgrade", head)


def check_head(head: bytes) -> None:
    """Raises InvalidInput for what the parser would pass on, or drop without a word."""
    if head.startswith(b"CONNECT "):
        raise InvalidInput("CONNECT: this server is no proxy")
    if _CODING.search(head):
        raise InvalidInput(
            "transfer-encoding: nothing but chunked is read",
            field="transfer-encoding",
            limit="chunked",
        )
    names = [name.lower() for name in _ONCE.findall(head)]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"{name.decode()}: given twice", field=name.decode())
