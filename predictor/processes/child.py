"""A child process of ours: decoders, engines, the aligner and fronts are all started here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from predictor.settings.fields import ENV_PREFIX

_ROOT: Final = str(Path(__file__).resolve().parents[2])
_BARE: Final = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


class ChildProcess:
    """`python -m module arguments` with some of our open files, in a session of its own.

    So Ctrl-C in a terminal is the parent's to handle. A child that shall end with its parent reads
    one of the files, a socket whose other end the parent holds.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[object],
        fds: Sequence[int],
        environment: Mapping[str, str],
    ) -> None:
        """`fds` keep their numbers; `environment` is all that the child knows of ours."""
        self._process = subprocess.Popen(  # noqa: S603  # our own module, no input in it
            [sys.executable, "-m", module, *map(str, arguments)],
            pass_fds=tuple(fds),
            stdin=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def exit_code(self, timeout_s: float | None = None) -> int:
        """Wait for the end; negative for a signal. Killed when it takes longer than the time."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def signal(self, signum: int) -> None:
        """Send one, if the process is still there."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signum)

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()
        self._process.wait()


def environment(**more: str) -> dict[str, str]:
    """Ours, for libraries and drivers, but for our own settings: API keys are among them."""
    passed_on = {name: v for name, v in os.environ.items() if not name.startswith(ENV_PREFIX)}
    paths = [_ROOT, *filter(None, [passed_on.get("PYTHONPATH")])]
    return {**passed_on, "PYTHONPATH": os.pathsep.join(paths), **more}


def bare_environment(**more: str) -> dict[str, str]:
    """Only what Python needs to start: a process that reads strangers' bytes holds no secrets."""
    passed_on = {name: os.environ[name] for name in _BARE if name in os.environ}
    return {**passed_on, "PYTHONPATH": _ROOT, **more}


def connected_child(
    module: str,
    environment: Mapping[str, str],
    *,
    kind: socket.SocketKind = socket.SOCK_STREAM,
    fds: Sequence[int] = (),
) -> tuple[ChildProcess, socket.socket]:
    """A child and our end of a socket between us, which is closed when either of us ends.

    The child's arguments are the numbers of its files: its end of the socket, then `fds`.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with theirs:
        files = (theirs.fileno(), *fds)
        try:
            return ChildProcess(module, files, files, environment), ours
        except BaseException:
            ours.close()
            raise
