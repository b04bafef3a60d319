"""An engine's process as whoever starts it holds it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from predictor.engine.link.channel import Inbox
from predictor.engine.link.wire import EngineSpec, Loaded, LoadFailed, encode, kill_after_s
from predictor.model.config import CheckpointError
from predictor.processes import Supervisor

WORKER: Final = "predictor.engine.link.worker"
_LOAD_ERRORS: Final = {"CheckpointError": CheckpointError, "ValueError": ValueError}


class CoreProcess(Supervisor[Loaded]):
    """One engine on one device. One whose device hangs is started again, as one that ended."""

    def __init__(
        self,
        *,
        address: Path | None = None,
        on_lost: Callable[[], None] = lambda: None,
        worker: str = WORKER,
    ) -> None:
        """As of Supervisor; `worker` is the module that the process runs."""
        super().__init__("engine", worker, _hear, address=address, on_lost=on_lost)

    def load(self, spec: EngineSpec) -> Loaded:
        """`spawn` and `wait_loaded`."""
        self.spawn(spec)
        return self.wait_loaded()

    def spawn(self, spec: EngineSpec) -> None:
        """Start the process. `wait_loaded` raises CheckpointError, ValueError or RuntimeError with
        the message of the process."""
        self.greet(encode(spec), kill_after_s(spec.options))


def _hear(channel: socket.socket) -> Loaded | None:
    inbox = Inbox(channel)
    while (messages := inbox.read()) is not None:
        for message in messages:
            if isinstance(message, LoadFailed):
                raise _load_error(message)
            assert isinstance(message, Loaded), message
            return message
    return None


def _load_error(failed: LoadFailed) -> Exception:
    kind = _LOAD_ERRORS.get(failed.error)
    return (
        RuntimeError(f"{failed.error}: {failed.message}") if kind is None else kind(failed.message)
    )
