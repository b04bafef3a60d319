"""The document against the routes, and real answers against the document."""

from __future__ import annotations

import base64
import re
from typing import Any

import httpx
import jsonschema
import pytest

MODEL = "qwen3-asr"


@pytest.fixture(scope="module")
def document(server: Any) -> dict[str, Any]:
    answer: dict[str, Any] = httpx.get(server.url + "/openapi.json").json()
    return answer


def _operations(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, item in document["paths"].items() for method in item}


EXPECTED = {
    ("GET", "/"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/v2"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v2/models"),
    ("GET", "/v2/models/{model_name}"),
    ("GET", "/v2/models/{model_name}/ready"),
    ("POST", "/v2/models/{model_name}/infer"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}"),
    ("GET", "/v2/models/{model_name}/versions/{model_version}/ready"),
    ("POST", "/v2/models/{model_name}/versions/{model_version}/infer"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/openai/v1/chat/completions"),
    ("POST", "/v2/repository/models/{model_name}/load"),
    ("POST", "/v2/repository/models/{model_name}/unload"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_name}"),
    ("POST", "/v1/models/{model_name}:predict"),
    ("POST", "/api/v1/recognize"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/openai/v1/audio/transcriptions"),
    ("POST", "/v1/audio/alignments"),
    ("POST", "/openai/v1/audio/alignments"),
    ("POST", "/v1/realtime/client_secrets"),
    ("POST", "/v1/realtime/transcription_sessions"),
    ("POST", "/openai/v1/realtime/client_secrets"),
    ("POST", "/openai/v1/realtime/transcription_sessions"),
    ("GET", "/openai/v1/models"),
    ("GET", "/openai/v1/models/{model_name}"),
}


def test_the_document_has_every_route_and_no_other(document: dict[str, Any]) -> None:
    assert _operations(document) == EXPECTED
    assert document["openapi"].startswith("3.1")


def _filled(path: str) -> str:
    return path.replace("{model_name}", MODEL).replace("{model_version}", "1")


def test_every_documented_route_is_there(server: Any, document: dict[str, Any]) -> None:
    for method, path in sorted(_operations(document)):
        url = server.url + _filled(path)
        status = httpx.request(method, url).status_code
        assert status not in (404, 405, 500), (method, path)
        other = "DELETE"
        assert httpx.request(other, url).status_code == 405, path


def test_without_a_folder_there_are_no_jobs(server: Any) -> None:
    assert httpx.get(server.url + "/v1/jobs").status_code == 404
    assert httpx.post(server.url + "/v1/jobs", data={"model": MODEL}).status_code == 404


def test_every_operation_says_what_it_takes_and_gives(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], path
            assert operation["responses"]["200"]["content"], path
            assert "422" not in operation["responses"], path
            in_path = re.findall(r"{(\w+)}", path)
            named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "path"]
            assert named == in_path
            takes_body = method == "post" and "repository" not in path
            assert ("requestBody" in operation) == takes_body, path


def _schema(document: dict[str, Any], method: str, path: str, status: str) -> dict[str, Any]:
    responses = document["paths"][path][method.lower()]["responses"]
    content = responses.get(status, responses.get("default"))["content"]
    schema: dict[str, Any] = content["application/json"]["schema"]
    return schema


def test_real_answers_fit_the_document(
    server: Any, document: dict[str, Any], speech: bytes
) -> None:
    b64 = base64.b64encode(speech).decode()
    tensor = {"name": "audio", "shape": [1], "datatype": "BYTES", "data": [b64]}
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/v2/models/{model_name}/infer", {"json": {"inputs": [tensor]}}),
        ("POST", "/v2/models/{model_name}/infer", {"json": {"inputs": []}}),
        (
            "POST",
            "/v1/models/{model_name}:predict",
            {"json": {"instances": [{"audio": {"b64": b64}}]}},
        ),
        ("POST", "/v1/models/{model_name}:predict", {"json": {"instances": [{}]}}),
        ("POST", "/api/v1/recognize", {"files": {"audio": speech}}),
        ("POST", "/api/v1/recognize", {"files": {"audio": b""}}),
        (
            "POST",
            "/v1/audio/transcriptions",
            {"files": {"file": speech}, "data": {"model": MODEL}},
        ),
        ("POST", "/v1/audio/transcriptions", {"files": {"file": speech}}),
        ("POST", "/v1/realtime/client_secrets", {"json": {}}),
        ("POST", "/v1/realtime/client_secrets", {"json": {"session": {"type": "x"}}}),
        (
            "POST",
            "/v1/realtime/client_secrets",
            {"json": {"expires_after": {"anchor": "created_at", "seconds": 60}}},
        ),
        ("POST", "/v1/realtime/transcription_sessions", {"json": {}}),
        *[
            (method, path, {})
            for method, path in sorted(EXPECTED)
            if method == "GET" and path != "/metrics"
        ],
        ("GET", "/v2/models/nobody", {}),
    ]
    statuses = []
    for method, path, options in requests:
        url = server.url + _filled(path)
        response = httpx.request(method, url, timeout=60, **options)
        known = "/v2/models/{model_name}" if path == "/v2/models/nobody" else path
        schema = _schema(document, method, known, str(response.status_code))
        jsonschema.validate(response.json(), schema, jsonschema.Draft202012Validator)
        statuses.append(response.status_code)
    assert set(statuses) == {200, 400, 404}
