"""A predictor on this machine for the length of a `with` block: a process of its own on free ports.

For a one-off evaluation on a node with a GPU, for notebooks and for tests. It knows the server by
its command line and its log only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Self

from pipelines.lib.errors import OptionError, PipelineError

MAX_LOG_LINES = 200  # kept for the message when it does not start
STOP_TIMEOUT_S = 60


class LocalService:
    """Starts `python -m predictor`; `url` and `grpc` answer once the block is entered."""

    def __init__(
        self, checkpoint: Path, *, flags: tuple[str, ...] = (), start_timeout_s: float = 900.0
    ) -> None:
        if not checkpoint.is_dir():
            raise OptionError(f"checkpoint: {checkpoint} is no folder")
        self.url = ""
        self.grpc = ""  # host:port
        self._flags = (f"--model_dir={checkpoint}", "--http_port=0", "--grpc_port=0", *flags)
        self._start_timeout_s = start_timeout_s
        self._started = False
        self._spawned = threading.Event()  # there is a process, or there will be none
        self._told = threading.Event()  # it is ready, or it ended
        self._log: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def __enter__(self) -> Self:
        # By a thread, where no signal is raised: one that came while a process is made would leave
        # that process to nobody.
        self._reader = threading.Thread(target=self._run, daemon=True)
        try:
            self._reader.start()
            in_time = self._told.wait(self._start_timeout_s)
        except BaseException:  # Ctrl-C or SIGTERM while it starts: __exit__ will not be called
            self.close()
            raise
        if not self._started:
            self.close()
            why = "ended" if in_time else f"was not ready within {self._start_timeout_s:g} s"
            raise PipelineError(f"the predictor {why}:\n{''.join(self._log)}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Ask the server to stop; kill it when it does not."""
        if self._reader is None or not self._spawned.wait(STOP_TIMEOUT_S) or self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _run(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and package
                [sys.executable, "-m", "predictor", "--host=127.0.0.1", *self._flags],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        except OSError as error:
            self._log.append(f"{error}\n")
        finally:
            self._spawned.set()
        self._read()

    def _read(self) -> None:
        """Follow the log: where it listens, and when it is ready."""
        for line in (self._process and self._process.stderr) or ():
            self._log.append(line)
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("message") == "listening":
                self.url = f"http://127.0.0.1:{entry['http_port']}"
                self.grpc = f"127.0.0.1:{entry['grpc_port']}"
            elif entry.get("message") == "ready":
                self._started = True
                self._told.set()
        self._told.set()
