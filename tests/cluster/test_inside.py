"""The proxy between commands outside and Services inside, over two real HTTP servers."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.cluster.answers import Entry
from tests.cluster.conftest import serving
from tests.cluster.inside import proxy


def echo(name: str) -> Starlette:
    async def answer(request: Request) -> Response:
        said = {"server": name, "host": request.headers["host"], "bytes": len(await request.body())}
        return JSONResponse({**said, "url": request.url.path, "query": request.url.query})

    return Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])])


def test_services_are_reached_by_their_name_and_all_else_by_the_gateway() -> None:
    asked = []
    with serving(echo("gateway")) as gateway, serving(echo("pod")) as pod:

        def forward(service: str, namespace: str) -> str:
            asked.append((service, namespace))
            if service == "not-there":
                raise ConnectionError("no pod")
            return pod

        with serving(proxy(Entry(gateway), forward)) as address, httpx.Client() as http:

            def ask(host: str) -> httpx.Response:
                url = f"{address}/v2/models/m?a=1"
                return http.post(url, headers={"Host": host}, content=b"abc")

            inner = "asr-candidate-predictor.speech.svc.cluster.local"
            said = ask(inner).json()
            assert said == {
                "server": "pod",
                "host": inner,
                "bytes": 3,
                "url": "/v2/models/m",
                "query": "a=1",
            }
            assert ask("asr-speech.example.com").json()["server"] == "gateway"
            assert ask("not-there.speech.svc.cluster.local").status_code == 503
    assert asked[0] == ("asr-candidate-predictor", "speech")


@pytest.mark.parametrize("host", ["x.y.svc.cluster.local"])
def test_a_pod_that_closes_is_a_503(host: str) -> None:
    with serving(proxy(Entry("http://127.0.0.1:1"), lambda *_: "http://127.0.0.1:1")) as address:
        assert httpx.get(f"{address}/", headers={"Host": host}).status_code == 503
