"""Addresses and ports to listen on, and a line that names the setting for what is wrong."""

from __future__ import annotations

import errno
import os
import socket
from typing import Final

_ANY_PORT: Final = 0


def create_listener(
    host: str, port: int, *, backlog: int | None = None, shared: bool = False
) -> socket.socket:
    """A listening socket; `::` takes IPv4 as well, as gRPC's listener does. Raises OSError.

    `shared`: others may listen on the port, and the kernel deals connections out.
    """
    return socket.create_server(
        (host, port),
        family=family_of(host),
        backlog=backlog,
        reuse_port=shared,
        dualstack_ipv6=takes_both(host),
    )


def family_of(host: str) -> socket.AddressFamily:
    """IPv6 for what is written with colons."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def takes_both(host: str) -> bool:
    """Whether a listener there answers IPv4 as well as IPv6."""
    return host == "::" and socket.has_dualstack_ipv6()


def authority(host: str, port: int) -> str:
    """As URLs and gRPC write it, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_problem(host: str) -> str | None:
    """Why nobody could listen at this address, whatever the port."""
    try:
        with create_listener(host, _ANY_PORT):
            return None
    except OSError as error:
        return _no_such_host(host, error)


def port_problem(host: str, name: str, port: int) -> str | None:
    """Why nobody could listen there now; `name` is the setting's."""
    try:
        with create_listener(host, port):
            return None
    except OSError as error:
        return listen_problem(error, host, name, port)


def listen_problem(error: OSError, host: str, name: str, port: int) -> str:
    """Why nobody could listen there, by the error that it gave."""
    if error.errno == errno.EADDRINUSE:
        return f"{name}={port}: the port is taken; set {name} to another, 0 takes a free one"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{name}={port}: user {os.getuid()} may not listen there; take one above 1023"
    return _no_such_host(host, error)


def _no_such_host(host: str, error: OSError) -> str:
    what = {
        errno.EADDRNOTAVAIL: "is no address of this machine",
        errno.EAFNOSUPPORT: "this machine has no IPv6",
        errno.EINVAL: "is no address without a zone (fe80::1%eth0)",
    }.get(error.errno or 0)
    # `socket.create_server` says in brackets what it attempted.
    what = what or (error.strerror or "is no address").partition(" (while ")[0]
    return (
        f"host={host}: {what}; set host to 0.0.0.0 or :: for all addresses, 127.0.0.1 for this "
        "machine alone"
    )
