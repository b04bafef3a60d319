"""A way to addresses inside a cluster, for commands that run outside of it.

In Standard mode `promote` asks each version at its own Service, which no route leads to while it
has no traffic. This is an HTTP proxy on this machine: what is for a Service goes through a
`kubectl port-forward`, made at the first call, everything else to the gateway.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import IO

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.cluster.answers import Entry

LOCAL = ".svc.cluster.local"
HOP_BY_HOP = frozenset({"connection", "transfer-encoding", "content-length", "content-encoding"})
Forward = Callable[[str, str], str]  # Service, namespace -> an address here


class PortForwards:
    """One `kubectl port-forward` for each Service, for as long as the block lasts."""

    def __init__(self, kubeconfig: str) -> None:
        self._kubeconfig = kubeconfig
        self._running: dict[tuple[str, str], tuple[subprocess.Popen[str], str]] = {}

    def __call__(self, service: str, namespace: str) -> str:
        """The address of a Service's port 80. Raises ConnectionError while it has no pod."""
        running = self._running.get((service, namespace))
        if running is not None and running[0].poll() is None:
            return running[1]
        command = ["kubectl", "--kubeconfig", self._kubeconfig, "port-forward"]
        process = subprocess.Popen(
            [*command, "--namespace", namespace, f"service/{service}", ":80"],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        if found is None:
            process.kill()
            raise ConnectionError(f"{service}: {said}")
        # It says a line for each connection: unread, they would fill the pipe, and it would wait.
        threading.Thread(target=_read_on, args=(process.stdout,), daemon=True).start()
        address = f"http://127.0.0.1:{found[1]}"
        self._running[service, namespace] = process, address
        return address

    def close(self) -> None:
        for process, _ in self._running.values():
            process.kill()
            process.wait()


def _read_on(lines: IO[str]) -> None:
    with lines:
        for _ in lines:
            pass


def proxy(gateway: Entry, forward: Forward) -> Starlette:
    """The proxy as an application. `gateway` must have an address."""
    client = httpx.Client(verify=False, timeout=300)  # certificates of a test cluster are its own

    @asynccontextmanager
    async def closing(_: Starlette) -> AsyncIterator[None]:
        yield
        client.close()

    def send(request: Request, body: bytes) -> Response:
        host = request.headers["host"]
        name = host.split(":")[0]
        try:
            if name.endswith(LOCAL):
                service, namespace = name.removesuffix(LOCAL).split(".")[:2]
                address, named = forward(service, namespace), {}
            else:
                address, named = str(gateway.address), gateway.named(name)
            headers = {k: v for k, v in request.headers.items() if k not in HOP_BY_HOP}
            url = address.rstrip("/") + request.url.path
            answer = client.request(
                request.method,
                url,
                params=request.url.query,
                headers=headers,
                content=body,
                extensions=named,
            )
        except (httpx.HTTPError, ConnectionError) as error:
            return PlainTextResponse(str(error), 503)
        kept = {k: v for k, v in answer.headers.items() if k not in HOP_BY_HOP}
        return Response(answer.content, answer.status_code, kept)

    async def handle(request: Request) -> Response:
        return await run_in_threadpool(send, request, await request.body())

    routes = [Route("/{path:path}", handle, methods=["GET", "POST"])]
    return Starlette(routes=routes, lifespan=closing)


@contextmanager
def port_forwards(kubeconfig: str) -> Iterator[PortForwards]:
    made = PortForwards(kubeconfig)
    try:
        yield made
    finally:
        made.close()
