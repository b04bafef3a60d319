"""Listening sockets, alone on a port or one of several processes that share it."""

from __future__ import annotations

import socket
from typing import Final

from predictor.settings.listening import (
    create_listener,
    family_of,
    listen_problem,
    takes_both,
)

_BACKLOG: Final = 2048


def listen(
    host: str, port: int, *, shared: bool = False, setting: str = "http_port"
) -> socket.socket:
    """A listening socket. Raises OSError, which names the setting, when the port is taken.

    `shared`: other processes of this pod listen on it too, and the kernel deals connections out.
    """
    try:
        return create_listener(host, port, backlog=_BACKLOG, shared=shared)
    except OSError as error:
        raise OSError(listen_problem(error, host, setting, port)) from error


def reserve(host: str, port: int) -> socket.socket:
    """Make sure that a port, 0 for any, is this pod's alone to share. Raises OSError.

    The socket does not listen; as long as it is open nobody else can take the port.
    """
    if port:
        # Servers that share a port do not notice each other, so ask once as one that does not.
        with create_listener(host, port):
            pass
    reserved = socket.socket(family_of(host), socket.SOCK_STREAM)
    if reserved.family == socket.AF_INET6:
        reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not takes_both(host))
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((host, port))
    return reserved
