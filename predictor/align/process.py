"""The aligner's process as whoever starts it holds it: watched, started again once, ended.

Servers reach it through a Unix socket. The listener is ours, so it outlives the process: whoever
connects while the aligner starts again waits in line.
"""

from __future__ import annotations

import logging
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from predictor.align.wire import MAX_MESSAGE_BYTES, AlignerSpec, to_json
from predictor.processes import ChildProcess, environment

logger = logging.getLogger(__name__)

READY: Final = b"ready"
_WORKER: Final = "predictor.align.worker"
_BACKLOG: Final = 256
_EXIT_S: Final = 5.0  # for a process that closed its end


class AlignerProcess:
    """One aligner. `address` is where servers connect to it."""

    def __init__(self, address: Path | None = None) -> None:
        """From now on servers may connect, and wait.

        `address` is the socket's path, in a folder that only we may look into; a new one if None.
        """
        self._spec: AlignerSpec
        self._process: ChildProcess
        self._socket: socket.socket | None = None  # to the process, once there is one
        self._folder = None
        if address is None:
            self._folder = tempfile.TemporaryDirectory(prefix="asr-")
            address = Path(self._folder.name) / "aligner"
        self.address = address
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(address))
        self._listener.listen(_BACKLOG)
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="aligner-watch", daemon=True)

    @property
    def pid(self) -> int:
        """The process id, for whoever looks after the machine."""
        return self._process.pid

    def spawn(self, spec: AlignerSpec) -> None:
        """Start the process."""
        self._spec = spec
        self._spawn()

    def wait_loaded(self) -> None:
        """Wait until the process takes requests; from then on it is watched.

        Raises RuntimeError with what kept it from loading.
        """
        try:
            self._wait_ready()
        except BaseException:
            self.stop(_EXIT_S)
            raise
        self._watcher.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process after its current batch. Harmless to call twice."""
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

    def _spawn(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = (theirs.fileno(), self._listener.fileno())
            self._process = ChildProcess(_WORKER, fds, fds, environment())
        with suppress(BrokenPipeError, ConnectionResetError):  # said by _wait_ready
            self._socket.send(to_json(self._spec))

    def _wait_ready(self) -> None:
        assert self._socket is not None
        try:
            said = self._socket.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            said = b""
        if said == READY:
            return
        if said:
            raise RuntimeError(f"the aligner cannot be loaded: {said.decode()}")
        code = self._process.exit_code(_EXIT_S)
        raise RuntimeError(f"the aligner's process ended with {code} while loading")

    def _watch(self) -> None:
        """One new start mends a device that is confused; the second end is for good."""
        self._wait_for_end()
        if not self._ending.is_set():
            logger.info("the aligner starts again")
            self._spawn()
            try:
                self._wait_ready()
                logger.info("the aligner is back")
                self._wait_for_end()
            except RuntimeError:
                logger.exception("the aligner did not start again")
        if not self._ending.is_set():
            logger.error("the aligner has gone: word times are refused from now on")
            self._listener.close()  # so that nobody waits for it any more

    def _wait_for_end(self) -> None:
        assert self._socket is not None
        with suppress(OSError):
            self._socket.recv(1)
        code = self._process.exit_code(None if self._ending.is_set() else _EXIT_S)
        if not self._ending.is_set():
            logger.error("the aligner's process ended with %d", code)
