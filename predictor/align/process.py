"""The aligner's process as whoever starts it holds it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from predictor.align.wire import MAX_MESSAGE_BYTES, AlignerSpec, to_json
from predictor.processes import Supervisor

READY: Final = b"ready"
_WORKER: Final = "predictor.align.worker"


class AlignerProcess(Supervisor[bytes]):
    """One aligner. When it has gone for good, word times are refused and all else goes on."""

    def __init__(self, address: Path | None = None) -> None:
        """As of Supervisor."""
        super().__init__("aligner", _WORKER, _hear, kind=socket.SOCK_SEQPACKET, address=address)

    def spawn(self, spec: AlignerSpec) -> None:
        """Start the process. `wait_loaded` raises RuntimeError with what kept it from loading."""
        self.greet(to_json(spec))


def _hear(channel: socket.socket) -> bytes | None:
    said = channel.recv(MAX_MESSAGE_BYTES)
    if said and said != READY:
        raise RuntimeError(f"the aligner cannot be loaded: {said.decode()}")
    return said or None
