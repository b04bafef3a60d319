"""TLS for HTTP and gRPC from two files, which a new handshake finds as they are by then.

Whoever renews a certificate replaces two files, and not at the same moment: a pair that does not
fit is left aside, and looked at again.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc  # type: ignore[import-untyped]

from predictor.settings.secret_files import no_passphrase

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 5.0


class Certificate:
    """The pair of files. Raises OSError, ssl.SSLError when they cannot be used at the start."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._cert_file = cert_file
        self._key_file = key_file
        self._state = self._stat()
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(cert_file, key_file, no_passphrase)
        self._pair = key_file.read_bytes(), cert_file.read_bytes()

    def look(self) -> bool:
        """Take over what has changed; whether there was something."""
        state = self._stat()
        if state == self._state:
            return False
        try:
            # A context of its own first: one that fails half-way is of no use to anybody.
            trial = ssl.create_default_context()
            trial.load_cert_chain(self._cert_file, self._key_file, no_passphrase)
            pair = self._key_file.read_bytes(), self._cert_file.read_bytes()
            self.context.load_cert_chain(self._cert_file, self._key_file, no_passphrase)
        except OSError as error:  # SSLError is one
            logger.error("tls_cert_file %s is not taken over: %s", self._cert_file, error)
            return False
        self._pair, self._state = pair, state
        logger.info("a new certificate is used", extra={"fields": {"file": str(self._cert_file)}})
        return True

    async def keep_fresh(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.look)

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """Of a server whose handshakes ask for the pair that is current."""

        def configuration() -> Any:
            return grpc.ssl_server_certificate_configuration([self._pair])

        fetch: Callable[[], Any] = configuration
        return grpc.dynamic_ssl_server_credentials(configuration(), fetch, False)

    def _stat(self) -> tuple[tuple[int, int, int], ...] | None:
        """What changes when a file does, or the link to it; None while one is missing."""
        try:
            found = [file.stat() for file in (self._cert_file, self._key_file)]
        except OSError:
            return None
        return tuple((each.st_ino, each.st_mtime_ns, each.st_size) for each in found)
