"""An engine's process as whoever starts it holds it: loaded, watched, started again once, ended.

Servers reach it through a Unix socket. The listener is ours, so it outlives the process: whoever
connects while the engine starts again waits in line.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from predictor.engine.link.channel import Inbox
from predictor.engine.link.wire import EngineSpec, Loaded, LoadFailed, encode
from predictor.model.config import CheckpointError
from predictor.processes import ChildProcess, environment

logger = logging.getLogger(__name__)

WORKER: Final = "predictor.engine.link.worker"
_EXIT_S: Final = 5.0  # for a process that closed its end, or that could not load
_LOAD_ERRORS: Final = {"CheckpointError": CheckpointError, "ValueError": ValueError}


class CoreProcess:
    """One engine on one device. `address` is where servers connect to it."""

    def __init__(
        self,
        *,
        address: Path | None = None,
        on_lost: Callable[[], None] = lambda: None,
        worker: str = WORKER,
    ) -> None:
        """From now on servers may connect, and wait. `worker` is the module that the process runs.

        `address` is the socket's path, in a folder that only we may look into; a new one if None.

        `on_lost` is called from a thread when the engine has gone for good.
        """
        self._spec: EngineSpec
        self._process: ChildProcess
        self._socket: socket.socket | None = None  # to the process, once there is one
        self._worker = worker
        self._on_lost = on_lost
        self._folder = None
        if address is None:
            self._folder = tempfile.TemporaryDirectory(prefix="asr-")
            address = Path(self._folder.name) / "engine"
        self.address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.address))
        self._listener.listen()
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="engine-watch", daemon=True)

    @property
    def pid(self) -> int:
        """The process id, for whoever looks after the machine."""
        return self._process.pid

    def load(self, spec: EngineSpec) -> Loaded:
        """`spawn` and `wait_loaded`."""
        self.spawn(spec)
        return self.wait_loaded()

    def spawn(self, spec: EngineSpec) -> None:
        """Start the process."""
        self._spec = spec
        self._spawn()

    def _spawn(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, theirs = socket.socketpair()
        with theirs:
            fds = (theirs.fileno(), self._listener.fileno())
            self._process = ChildProcess(self._worker, fds, fds, environment())

    def wait_loaded(self) -> Loaded:
        """Wait until the process takes requests; from then on it is watched.

        Raises CheckpointError, ValueError or RuntimeError with the message of the process.
        """
        try:
            loaded = self._loaded()
        except BaseException:
            self.stop(_EXIT_S)
            raise
        self._watcher.start()
        return loaded

    def _loaded(self) -> Loaded:
        assert self._socket is not None
        with suppress(BrokenPipeError, ConnectionResetError):  # said below
            self._socket.sendall(encode(self._spec))
        inbox = Inbox(self._socket)
        while (messages := inbox.read()) is not None:
            for message in messages:
                if isinstance(message, LoadFailed):
                    raise _load_error(message)
                assert isinstance(message, Loaded), message
                return message
        code = self._process.exit_code(_EXIT_S)
        raise RuntimeError(f"the engine's process ended with {code} while loading")

    def _watch(self) -> None:
        """One new start mends a device that is confused; one that fails again needs another pod."""
        self._wait_for_end()
        if not self._ending.is_set():
            logger.info("the engine starts again")
            self._spawn()
            try:
                self._loaded()
                logger.info("the engine is back")
                self._wait_for_end()
            except Exception:
                logger.exception("the engine did not start again")
        if not self._ending.is_set():
            self._listener.close()  # so that nobody waits for it any more
            self._on_lost()

    def _wait_for_end(self) -> None:
        assert self._socket is not None
        with suppress(OSError):
            self._socket.recv(1)
        code = self._process.exit_code(None if self._ending.is_set() else _EXIT_S)
        if not self._ending.is_set():
            logger.error("the engine's process ended with %d", code)

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process after its current step. Harmless to call twice."""
        self._ending.set()
        if self._socket is not None:
            with suppress(OSError):  # it has gone already
                self._socket.shutdown(socket.SHUT_WR)
            self._process.exit_code(timeout_s)
            if self._watcher.is_alive():
                self._watcher.join()
            self._socket.close()
        self._listener.close()
        if self._folder is not None:
            self._folder.cleanup()


def _load_error(failed: LoadFailed) -> Exception:
    kind = _LOAD_ERRORS.get(failed.error)
    return (
        RuntimeError(f"{failed.error}: {failed.message}") if kind is None else kind(failed.message)
    )
