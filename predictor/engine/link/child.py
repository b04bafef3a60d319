"""The engine's process as the server holds it: started, loaded, spoken to, ended.

The samples of a request pass through an anonymous file in memory (memfd), as the decoders' do:
nothing lies in /dev/shm, and nothing is left behind however a process ends. Linux only.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from predictor.engine.link.wire import (
    EngineSpec,
    Frames,
    Loaded,
    LoadFailed,
    Message,
    Submit,
    encode,
)
from predictor.model.config import CheckpointError
from predictor.settings.fields import ENV_PREFIX
from predictor.types import EngineRequest

logger = logging.getLogger(__name__)

_MAX_READ_BYTES: Final = 1 << 18
_EXIT_S: Final = 5.0  # for a process that closed its end, or that could not load
_LOAD_ERRORS: Final = {"CheckpointError": CheckpointError, "ValueError": ValueError}


class Child:
    """One process and the socket to it. One thread may send while another receives."""

    def __init__(self, worker: str) -> None:
        """Start `python -m worker`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # our own module, no input in it
                [sys.executable, "-m", worker, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # Ctrl-C in a terminal is the server's to handle
            )
        self._socket = ours
        self._frames = Frames()

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(self, spec: EngineSpec) -> Loaded:
        """Wait until the engine is loaded; the process is ended when it cannot be.

        Raises CheckpointError, ValueError or RuntimeError with the message of the process.
        """
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # said below
                self.send(spec)
            while (messages := self.receive()) is not None:
                for message in messages:
                    if isinstance(message, LoadFailed):
                        raise _load_error(message)
                    assert isinstance(message, Loaded), message
                    return message
            raise RuntimeError(f"the engine's process ended with {self.exit_code()} while loading")
        except BaseException:
            self.end(_EXIT_S)
            self.close()
            raise

    def send(self, message: Message) -> None:
        """Raises BrokenPipeError or ConnectionResetError when the process has gone."""
        self._socket.sendall(encode(message))

    def send_request(self, number: int, request: EngineRequest) -> None:
        """A request with its samples. Raises like `send`, OSError when there is no memory."""
        samples = np.ascontiguousarray(request.samples, dtype=np.float32)
        message = Submit(
            number=number,
            request_id=request.request_id,
            num_samples=len(samples),
            tokens_before=request.tokens_before,
            tokens_after=request.tokens_after,
            max_new_tokens=request.max_new_tokens,
            is_streamed=request.is_streamed,
        )
        frame = encode(message)
        with open(os.memfd_create("samples"), "r+b", buffering=0) as file:
            rest = samples.data.cast("B")
            while rest:
                rest = rest[file.write(rest) :]
            num_sent = socket.send_fds(self._socket, [frame], [file.fileno()])
        if num_sent < len(frame):
            self._socket.sendall(frame[num_sent:])

    def receive(self) -> list[Message] | None:
        """What has arrived, waiting for something if need be; None when the process has gone."""
        try:
            data = self._socket.recv(_MAX_READ_BYTES)
        except ConnectionResetError:
            return None
        return self._frames.feed(data) if data else None

    def exit_code(self) -> int:
        """Of a process that has closed its end; negative for a signal."""
        try:
            return self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def end(self, timeout_s: float) -> None:
        """Close our direction, which tells the process to stop, and see that it does."""
        with suppress(OSError):  # it has gone already
            self._socket.shutdown(socket.SHUT_WR)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.error("the engine's process did not end within %.1f s", timeout_s)
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """Free the socket; no thread may be using it."""
        self._socket.close()


def _load_error(failed: LoadFailed) -> Exception:
    kind = _LOAD_ERRORS.get(failed.error)
    return (
        RuntimeError(f"{failed.error}: {failed.message}") if kind is None else kind(failed.message)
    )


def _environment() -> dict[str, str]:
    """Ours, for libraries and drivers, but for our own settings: API keys are among them."""
    passed_on = {name: v for name, v in os.environ.items() if not name.startswith(ENV_PREFIX)}
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *filter(None, [passed_on.get("PYTHONPATH")])]
    return {**passed_on, "PYTHONPATH": os.pathsep.join(paths)}
