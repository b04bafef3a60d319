"""Fixtures of the pipelines' tests: real sockets on free ports, nothing beyond 127.0.0.1."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.types import ASGIApp


class AppServer:
    """An ASGI app on a free port, in a thread of its own; started once `url` answers."""

    def __init__(self, app: ASGIApp) -> None:
        # asyncio switches Nagle's delay off only for sockets that say they are TCP
        self._socket = socket.socket(proto=socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._socket.listen(128)  # from here on connections wait instead of being refused
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True

    def join(self) -> None:
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))


Serve = Callable[[ASGIApp], str]


@pytest.fixture
def serve_app() -> Iterator[Serve]:
    """Serve an ASGI app for the length of a test; gives its URL."""
    servers: list[AppServer] = []

    def start(app: ASGIApp) -> str:
        servers.append(AppServer(app))
        return servers[-1].url

    yield start
    for server in servers:
        server.stop()  # all of them first: each looks at it ten times a second
    for server in servers:
        server.join()


@pytest.fixture
def kfp_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """KFP's local runner, with the steps' interpreter and package being ours."""
    from kfp import local

    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.setenv("PATH", f"{root / '.venv/bin'}{os.pathsep}{os.environ['PATH']}")
    outputs = tmp_path / "kfp"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KFP's own, about itself
        local.init(
            runner=local.SubprocessRunner(use_venv=False),
            pipeline_root=str(outputs),
            raise_on_error=True,
        )
        yield outputs
