"""Names, versions, methods and encodings of requests: what clients, monitors and browsers send."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from typing import Any

import httpx
import pytest
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from predictor.api.auth import KeyRing, RequireKey
from predictor.api.media import checked_content_type
from predictor.errors import InvalidInput
from predictor.logs import JsonFormatter, TextFormatter

MODEL = "qwen3-asr"
HUB_ID = "Qwen/Qwen3-ASR-0.6B"


@pytest.fixture(scope="module")
def named(start_server: Any) -> Any:
    """A server with aliases and pages from elsewhere."""
    return start_server(f"--model_aliases=whisper-1,{HUB_ID}", "--cors_origins=https://app.example")


@pytest.fixture(scope="module")
def plain(start_server: Any) -> Any:
    """A server without jobs and page, with its metrics on a port of their own."""
    return start_server("--admin_port=0")


@pytest.mark.parametrize("name", [MODEL, "whisper-1", HUB_ID, HUB_ID.replace("/", "%2F")])
def test_a_model_by_its_aliases(named: Any, speech: bytes, name: str) -> None:
    with httpx.Client(base_url=named.url, timeout=60) as http:
        plain = name.replace("%2F", "/")
        data, flac = {"model": plain}, {"content-type": "audio/flac"}
        answers = [
            http.post("/v1/audio/transcriptions", files={"file": speech}, data=data),
            http.post(f"/v1/models/{name}:predict", content=speech, headers=flac),
            http.get(f"/v1/models/{name}"),
            http.get(f"/openai/v1/models/{name}"),
            http.get(f"/v2/models/{name}"),
            http.get(f"/v2/models/{name}/ready"),
            http.get(f"/v2/models/{name}/versions/1"),
            http.get(f"/v2/models/{name}/versions/1/ready"),
        ]
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        listed = [entry["id"] for entry in http.get("/v1/models").json()["data"]]
        assert listed == [MODEL, "whisper-1", HUB_ID]


def test_versions_in_paths(server: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        tensor = {"name": "waveform", "shape": [16000], "datatype": "FP32", "data": [0.0] * 16000}
        body = {"inputs": [tensor], "parameters": {"sample_rate": 16000}}
        answer = http.post(f"/v2/models/{MODEL}/versions/3/infer", json=body).json()
        assert (answer["model_name"], answer["model_version"]) == (MODEL, "3")
        assert "model_version" not in http.post(f"/v2/models/{MODEL}/infer", json=body).json()
        assert http.get("/v2/models/other/versions/1/ready").status_code == 404


@pytest.mark.parametrize("path", ["/", "/healthz", "/v2/health/ready", "/metrics", "/v1/models"])
def test_head_is_get_without_its_body(server: Any, path: str) -> None:
    got, head = httpx.get(server.url + path), httpx.head(server.url + path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(server.url + "/nowhere").status_code == 404


def test_options_say_the_methods(server: Any) -> None:
    allowed = {
        "/healthz": "GET, HEAD, OPTIONS",
        "/api/v1/recognize": "OPTIONS, POST",
        f"/v1/models/{MODEL}:predict": "OPTIONS, POST",
    }
    for path, methods in allowed.items():
        response = httpx.options(server.url + path)
        assert (response.status_code, response.headers["allow"]) == (204, methods)
    assert httpx.options(server.url + "/nowhere").status_code == 404


def test_pages_of_named_origins_only(named: Any, server: Any, speech: bytes) -> None:
    path = "/v1/audio/transcriptions"
    ask = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    for origin, is_allowed in (("https://app.example", True), ("https://evil.example", False)):
        preflight = httpx.options(named.url + path, headers={"origin": origin, **ask})
        assert (preflight.status_code == 200) == is_allowed
        post = httpx.post(
            named.url + path,
            files={"file": speech},
            data={"model": MODEL},
            headers={"origin": origin},
            timeout=60,
        )
        given = post.headers.get("access-control-allow-origin")
        assert given == (origin if is_allowed else None)
    plain = httpx.options(server.url + path, headers={"origin": "https://app.example", **ask})
    assert "access-control-allow-origin" not in plain.headers


def test_compressed_bodies_are_named(server: Any) -> None:
    body = gzip.compress(json.dumps({"instances": []}).encode())
    url = f"{server.url}/v1/models/{MODEL}:predict"
    for headers in ({"content-encoding": "gzip"}, {}):
        response = httpx.post(url, content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (415, "unsupported_media_type")
        assert "gzip" in response.json()["error"]
    same = httpx.post(url, content=b'{"instances": []}', headers={"content-encoding": "identity"})
    assert same.json()["field"] == "instances"


def test_a_query_parameter_given_twice(server: Any, speech: bytes) -> None:
    response = httpx.post(
        f"{server.url}/v1/models/{MODEL}:predict?language=en&language=zh",
        content=speech,
        headers={"content-type": "audio/flac"},
    )
    assert (response.status_code, response.json()["field"]) == (400, "language")


@pytest.mark.parametrize(
    "content_type", ["audio/pcm; rate*=8000", "audio/pcm; " + "x" * 300, "audio/pcm\x1b[2J"]
)
def test_content_types_that_are_none(content_type: str) -> None:
    with pytest.raises(InvalidInput):
        checked_content_type(content_type)


@pytest.mark.parametrize("name", ["rate*", "rate*0*", "channels*", "encoding*", "x*"])
def test_a_parameter_in_another_charset(server: Any, name: str) -> None:
    """RFC 2231, over the wire: as the body's type, and as that of a form's part."""
    content_type = f"audio/pcm; {name}=utf-8''16000"
    raw = httpx.post(
        f"{server.url}/v1/models/{MODEL}:predict",
        content=bytes(100),
        headers={"content-type": content_type},
    )
    form = httpx.post(
        f"{server.url}/api/v1/recognize", files={"audio": ("a", bytes(100), content_type)}
    )
    assert (raw.status_code, form.status_code) == (400, 400)


def test_names_do_not_come_back_long(server: Any) -> None:
    tensor = {"name": "n" * 5_000_000, "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}
    bodies: list[dict[str, Any]] = [
        {"inputs": [tensor]},
        {"inputs": [{**tensor, "name": "n" * 5_000}]},
        {"inputs": [{**tensor, "name": "audio", "datatype": "n" * 5_000}]},
        {"inputs": [{**tensor, "name": "audio"}], "id": "n" * 5_000},
        {"inputs": [], "n" * 5_000: 1},
    ]
    for body in bodies:
        response = httpx.post(f"{server.url}/v2/models/{MODEL}/infer", json=body, timeout=60)
        assert response.status_code == 400
        assert len(response.content) < 600


def test_log_lines_cannot_be_forged() -> None:
    path = "/x\n2026-01-01 INFO forged\x1b[2J\u2028\x9b"
    made = logging.LogRecord("predictor.access", logging.INFO, "", 0, "request", (), None)
    made.fields = {"path": path}
    text, line = TextFormatter().format(made), JsonFormatter().format(made)
    assert text.isprintable()
    assert "\\n2026-01-01 INFO forged\\x1b[2J" in text
    assert "\n" not in line
    assert json.loads(line)["path"] == path


async def test_websockets_need_a_route(server: Any) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(server.url.replace("http", "ws") + "/v1/nowhere"):
            pass
    assert caught.value.response.status_code in (403, 404)


async def test_websockets_and_other_scopes_are_guarded() -> None:
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def endpoint(socket: Any) -> None: ...

    routes = [WebSocketRoute("/v1/realtime", endpoint)]
    guard = RequireKey(app, KeyRing(["key-one"]), routes)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/v1/nowhere", "headers": []}
    await guard(scope, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    sent.clear()
    await guard({**scope, "extensions": {"websocket.http.response": {}}}, receive, send)
    assert [message.get("status") for message in sent] == [404, None]
    assert reached == []
    await guard({**scope, "path": "/v1/realtime"}, receive, send)  # the route asks for the key
    await guard({"type": "lifespan"}, receive, send)
    assert reached == ["websocket", "lifespan"]
    with pytest.raises(RuntimeError):
        await guard({"type": "other", "path": "/", "headers": []}, receive, send)
    await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("method", "path", "setting"),
    [
        ("POST", "/v1/jobs", "jobs_dir"),
        ("GET", "/v1/jobs", "jobs_dir"),
        ("GET", "/v1/jobs/1/result", "jobs_dir"),
        ("DELETE", "/v1/jobs/1", "jobs_dir"),
        ("OPTIONS", "/v1/jobs", "jobs_dir"),
        ("GET", "/page/index.html", "enable_page"),
        ("GET", "/metrics", "admin_port"),
        ("GET", "/v1/jobsworth", None),
    ],
)
def test_a_route_that_a_setting_turns_on_says_which(
    plain: Any, method: str, path: str, setting: str | None
) -> None:
    response = httpx.request(method, plain.url + path)
    assert response.status_code == 404
    said = response.json()
    is_openai = path.startswith("/v1/jobs/") or path == "/v1/jobs"
    assert (said["error"] if is_openai else said)["code"] == "not_found"
    message = said["error"]["message"] if is_openai else said["error"]
    assert message.startswith("no such route")
    assert (setting is None) == (message == "no such route")
    assert setting is None or setting in message
