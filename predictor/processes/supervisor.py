"""One process behind a Unix socket: started, watched, started again once, ended.

Engines and the aligner are held by it; decoders, which serve one caller at a time, are replaced by
their pool, and fronts by the pod. Servers reach the process at an address. The listener there is
ours, so it outlives the process: whoever connects while it starts again waits in line.
"""

from __future__ import annotations

import logging
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

from predictor.processes.child import ChildProcess, connected_child, environment

logger = logging.getLogger(__name__)

T = TypeVar("T")  # what the process says of itself once it is loaded
_BACKLOG: Final = 256
_EXIT_S: Final = 5.0  # for a process that closed its end, or that could not load
MIN_RELOAD_S: Final = 60.0  # that the second start may take, however quick the first one was
_LOOK_S: Final = 0.5  # between two looks at the level of the log, and at a silent process
_MAX_READ_BYTES: Final = 1 << 16
_RELOAD_FACTOR: Final = 4.0  # of what the first one took


class Supervisor(Generic[T]):
    """`address` is where servers connect to the process."""

    def __init__(
        self,
        name: str,
        module: str,
        hear: Callable[[socket.socket], T | None],
        *,
        kind: socket.SocketKind = socket.SOCK_STREAM,
        address: Path | None = None,
        on_lost: Callable[[], None] = lambda: None,
        min_reload_s: float = MIN_RELOAD_S,
    ) -> None:
        """From now on servers may connect, and wait.

        `module` is what the process runs: its arguments are the descriptors of a socket to us and
        of the listener. `hear` waits at that socket until the process is loaded and returns what
        it says, None if it has ended without a word, and raises what kept it from loading.

        `address` is the socket's path, in a folder that only we may look into; a new one if None.

        `on_lost` is called from a thread when the process has gone for good.
        """
        self.name = name
        self._module = module
        self._hear = hear
        self._kind = kind
        self._on_lost = on_lost
        self._greeting = b""
        self._max_silence_s: float | None = None
        self._reload_limit_s = min_reload_s
        self._began_s = 0.0
        self._usual_level = logging.getLogger().level  # that the process logs from when it starts
        self._its_level = self._usual_level
        self._process: ChildProcess
        self._socket: socket.socket | None = None  # to the process, once there is one
        self._folder = None
        if address is None:
            self._folder = tempfile.TemporaryDirectory(prefix="asr-")
            address = Path(self._folder.name) / name
        self.address = address
        self._listener = socket.socket(socket.AF_UNIX, kind)
        self._listener.bind(str(address))
        self._listener.listen(_BACKLOG)
        self._ending = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name=f"{name}-watch", daemon=True)

    @property
    def pid(self) -> int:
        """The process id, for whoever looks after the machine."""
        return self._process.pid

    def greet(self, greeting: bytes, max_silence_s: float | None = None) -> None:
        """Start the process and send it `greeting`, which tells it what to load.

        `max_silence_s`: a loaded process that says nothing for so long hangs, and is killed; None
        is for those that say nothing.
        """
        self._greeting = greeting
        self._max_silence_s = max_silence_s
        self._spawn()

    def wait_loaded(self) -> T:
        """Wait until the process takes requests; from then on it is watched.

        Raises what `hear` raises, RuntimeError for a process that ended.
        """
        try:
            loaded = self._loaded()
        except BaseException:
            self.stop(_EXIT_S)
            raise
        took_s = time.monotonic() - self._began_s
        self._reload_limit_s = max(self._reload_limit_s, _RELOAD_FACTOR * took_s)
        self._watcher.start()
        return loaded

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the process after its current work. Harmless to call twice."""
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
        self._began_s = time.monotonic()
        self._its_level = self._usual_level
        self._process, self._socket = connected_child(
            self._module, environment(), kind=self._kind, fds=(self._listener.fileno(),)
        )
        with suppress(BrokenPipeError, ConnectionResetError):  # said by _loaded
            self._socket.sendall(self._greeting)

    def _loaded(self) -> T:
        assert self._socket is not None
        try:
            loaded = self._hear(self._socket)
        except ConnectionResetError:
            loaded = None
        if loaded is None:
            code = self._process.exit_code(_EXIT_S)
            raise RuntimeError(f"the {self.name}'s process ended with {code} while loading")
        return loaded

    def _watch(self) -> None:
        """One new start mends a device that is confused; one that fails again needs another pod."""
        self._wait_for_end()
        if not self._ending.is_set():
            logger.info("the %s starts again", self.name)
            self._spawn()
            try:
                self._reloaded()
                logger.info("the %s is back", self.name)
                self._wait_for_end()
            except Exception:
                logger.exception("the %s did not start again", self.name)
        if not self._ending.is_set():
            logger.error("the %s has gone", self.name)
            self._listener.close()  # so that nobody waits for it any more
            self._on_lost()

    def _reloaded(self) -> None:
        """As `_loaded`, but a device that hangs meanwhile must not be waited for for ever."""
        process = self._process
        timer = threading.Timer(self._reload_limit_s, process.kill)
        timer.daemon = True
        timer.start()
        try:
            self._loaded()
        finally:
            timer.cancel()

    def _wait_for_end(self) -> None:
        """Returns when the process has ended; one that falls silent is ended."""
        assert self._socket is not None
        timeout_s: float | None = _EXIT_S
        with suppress(OSError):
            if self._falls_silent(self._socket):
                logger.error("the %s's process hangs", self.name)
                timeout_s = 0.0
        code = self._process.exit_code(None if self._ending.is_set() else timeout_s)
        if not self._ending.is_set():
            logger.error("the %s's process ended with %d", self.name, code)

    def _falls_silent(self, channel: socket.socket) -> bool:
        """Listen until the process ends (False) or says nothing for too long."""
        heard_s = time.monotonic()
        channel.settimeout(_LOOK_S)
        while True:
            try:
                if not channel.recv(_MAX_READ_BYTES):
                    return False
                heard_s = time.monotonic()
            except TimeoutError:
                silence_s = time.monotonic() - heard_s
                if self._max_silence_s is not None and silence_s > self._max_silence_s:
                    return True
            self._pass_level_on()

    def _pass_level_on(self) -> None:
        """The process logs from the level that this one does, which a signal may have changed."""
        if (level := logging.getLogger().level) != self._its_level:
            self._its_level = level
            self._process.signal(signal.SIGUSR1)
