"""The way in: requests and live sessions go to who really answers for a host name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.cluster.fake import server
from tests.cluster.fake.controllers import FakeService
from tests.cluster.fake.jobs import FakeJobs
from tests.cluster.fake.sessions import FakeSessions


class FakeIngress:
    """`services` are those that there are now, `keys` a namespace's Secret of API keys."""

    def __init__(
        self,
        services: Callable[[], Iterable[FakeService]],
        keys: Callable[[str], Mapping[str, str]],
    ) -> None:
        self._services, self._keys = services, keys
        self._random = random.Random(1)
        self._sessions, self._jobs = FakeSessions(), FakeJobs()

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                WebSocketRoute("/v1/realtime", self.talk),
                Route("/{path:path}", self.serve, methods=["GET", "POST"]),
            ]
        )

    async def serve(self, request: Request) -> Response:
        host = request.headers["host"].split(":")[0]
        for service in self._services():
            service.turn()
            if backends := service.backends(host):
                names, shares = zip(*backends, strict=True)
                [chosen] = self._random.choices(names, shares)
                workload = service.serving(chosen)
                if request.url.path.startswith("/v1/jobs"):
                    return self._jobs.answer(request, workload)
                body = await request.body()
                return server.answer(request, body, workload, self._keys(service.namespace))
        return PlainTextResponse("no route", 404)

    async def talk(self, socket: WebSocket) -> None:
        host = socket.headers["host"].split(":")[0]
        for service in self._services():
            service.turn()
            if backends := service.backends(host):
                workload = service.serving(max(backends, key=lambda each: each[1])[0])
                await self._sessions.run(socket, service, workload)
                return
        await socket.close()
