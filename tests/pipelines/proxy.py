"""The network in front of the fake cluster: splits requests by Host as the cluster says."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.pipelines.fake_cluster import FakeCluster

TLS = ssl.create_default_context()  # for all: each new one reads the certificates for 25 ms
HOP_HEADERS = ("host", "content-length", "transfer-encoding", "connection")


@dataclass
class Proxy:
    """`backends` is where each storage URI is served; `sent` counts recordings by it, `order` says
    in which order they came."""

    cluster: FakeCluster
    backends: dict[str, str]
    sent: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    owed: dict[str, float] = field(default_factory=dict)

    def app(self) -> Starlette:
        route = Route("/{path:path}", self.forward, methods=["GET", "POST"])
        return Starlette(routes=[route])

    async def forward(self, request: Request) -> Response:
        shares = self.cluster.backends(request.headers["host"])
        if not shares:
            return PlainTextResponse(f"no route for {request.headers['host']}", 404)
        uri = self._pick(shares)
        if request.method == "POST":  # not those that ask who answers
            self.sent[uri] = self.sent.get(uri, 0) + 1
            self.order.append(uri)
        headers = {k: v for k, v in request.headers.items() if k not in HOP_HEADERS}
        async with httpx.AsyncClient(base_url=self.backends[uri], timeout=60, verify=TLS) as client:
            answer = await client.request(
                request.method,
                request.url.path,
                params=dict(request.query_params),
                content=await request.body(),
                headers=headers,
            )
        kept = {k: v for k, v in answer.headers.items() if k not in HOP_HEADERS}
        return Response(answer.content, answer.status_code, kept)

    def _pick(self, shares: dict[str, int]) -> str:
        """Whoever is furthest behind its share: exact shares without any chance."""
        for uri, percent in shares.items():
            self.owed[uri] = self.owed.get(uri, 0.0) + percent / 100
        chosen = max(shares, key=lambda uri: self.owed[uri])
        self.owed[chosen] -= 1
        return chosen
