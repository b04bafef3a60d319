"""The error table, row by row, through every protocol; the application runs in this process."""

from __future__ import annotations

import asyncio
import logging
import re
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kserve import errors as kserve_errors
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from prometheus_client import CollectorRegistry

from predictor import api, errors
from predictor.api.errors import error_body, error_response, to_asr_error
from predictor.errors import AsrError
from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings
from tests.api.every_protocol import CHECKPOINT, MODEL, Answer, Build, building, local_to

pytestmark = pytest.mark.asyncio(loop_scope="module")


def _all_rows() -> set[type[AsrError]]:
    rows, todo = set(), [AsrError]
    while todo:
        row = todo.pop()
        todo.extend(row.__subclasses__())
        rows.add(row)
    return rows - {AsrError, errors.RetryableError}  # those two are never raised themselves


@pytest.fixture(scope="module")
def build() -> Iterator[Build]:
    with building() as make:
        yield make


@pytest.fixture(scope="module")
def loaded(build: Build) -> AsrServer:
    return build()


TRIED: set[str] = set()  # codes that came out of the application below


def _expect(answers: list[Answer], row: type[AsrError], *, retry: bool = False) -> None:
    assert [a.protocol for a in answers] == ["recognize", "v1", "v2", "openai", "grpc"]
    for answer in answers:
        assert answer.code == row.spec.code, answer
        if answer.protocol == "grpc":
            assert answer.status is getattr(grpc.StatusCode, row.spec.grpc_code)
        else:
            assert answer.status == row.spec.http_status
        assert (answer.retry_after is not None) == retry
        assert answer.retry_after is None or int(answer.retry_after) >= 1
        assert "Traceback" not in answer.message
    TRIED.add(row.spec.code)


async def test_invalid_input(loaded: AsrServer, speech: bytes) -> None:
    async with local_to(loaded) as local:
        _expect(await local.everywhere(speech, language="klingon"), errors.InvalidInput)


@pytest.mark.parametrize("audio", [b"", b"RIFF", b"this is no audio at all" * 50])
async def test_invalid_audio(loaded: AsrServer, audio: bytes) -> None:
    async with local_to(loaded) as local:
        _expect(await local.everywhere(audio), errors.AudioError)


async def test_audio_too_long(loaded: AsrServer, wav: Any, talk: Any) -> None:
    async with local_to(loaded) as local:
        answers = await local.everywhere(wav(talk(6.0)))
        _expect(answers, errors.AudioTooLong)
        assert all("5" in answer.message for answer in answers)


async def test_payload_too_large(loaded: AsrServer) -> None:
    async with local_to(loaded) as local:
        rest = await local.http.post("/api/v1/recognize", files={"audio": bytes(5_000_000)})
        assert (rest.status_code, rest.json()["code"]) == (413, "payload_too_large")
        assert rest.json()["limit"] == 4_000_000
        openai = await local.http.post("/v1/audio/transcriptions", content=bytes(5_000_000))
        assert openai.json()["error"]["code"] == "payload_too_large"
    TRIED.add("payload_too_large")


async def test_overloaded(build: Build, speech: bytes) -> None:
    server = await asyncio.to_thread(build, "--max_held_audio_s=1")
    async with local_to(server) as local:
        transcriber = server.model.loaded.transcriber
        with transcriber.admission.hold(1.0):
            _expect(await local.everywhere(speech), errors.Overloaded, retry=True)
        assert (await local.http.post("/api/v1/recognize", files={"audio": speech})).is_success


async def test_not_ready(build: Build, speech: bytes) -> None:
    server = await asyncio.to_thread(build, load=False)
    async with local_to(server) as local:
        _expect(await local.everywhere(speech), errors.NotReady, retry=True)
        get = local.http.get
        for path in ("/v2/health/ready", f"/v2/models/{MODEL}/ready", f"/v1/models/{MODEL}"):
            assert (await get(path)).status_code == 503
        for path in ("/", "/healthz", "/v2/health/live", f"/v2/models/{MODEL}", "/v1/models"):
            assert (await get(path)).status_code == 200, path
        await asyncio.to_thread(server.model.load)
        assert (await get("/v2/health/ready")).json() == {"ready": True}
        server.model.drain()  # about to end: no new traffic, but what comes is answered
        assert (await get("/v2/health/ready")).status_code == 503
        assert (await local.http.post("/api/v1/recognize", files={"audio": speech})).is_success
        server.model.stop()
        _expect(await local.everywhere(speech), errors.NotReady, retry=True)
        assert server.model.load() is False  # what ended is not loaded again


async def test_a_dead_engine_is_neither_alive_nor_ready(build: Build, speech: bytes) -> None:
    server = await asyncio.to_thread(build)
    async with local_to(server) as local:
        server.model.loaded.engine.stop()
        for path in ("/", "/healthz", "/v2/health/live", "/v2/health/ready"):
            assert (await local.http.get(path)).status_code == 503, path
        _expect(await local.everywhere(speech), errors.NotReady, retry=True)


async def test_deadline_exceeded(build: Build, wav: Any, talk: Any) -> None:
    server = await asyncio.to_thread(build, "--request_timeout_s=1")
    transcriber = server.model.loaded.transcriber

    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    transcriber.transcribe_pieces = never
    async with local_to(server) as local:
        _expect(await local.everywhere(wav(talk(1.0))), errors.DeadlineExceeded)


async def test_internal_errors_say_a_request_id_and_nothing_else(
    build: Build, speech: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.to_thread(build)

    async def broken(*_: object, **__: object) -> Any:
        raise RuntimeError("the password is /etc/shadow")
        yield

    server.decoder.pieces = broken  # type: ignore[method-assign]
    async with local_to(server) as local:
        with caplog.at_level(logging.ERROR):
            answers = await local.everywhere(speech)
        _expect(answers, errors.InternalError)
        for answer in answers:
            assert answer.message.startswith("internal error, request id ")
        assert caplog.text.count("the password is /etc/shadow") >= len(answers)
        given = await local.http.post(
            "/api/v1/recognize", files={"audio": speech}, headers={"x-request-id": "mine"}
        )
        assert given.json()["error"] == "internal error, request id mine"


async def test_routes_and_names_that_are_not_there(loaded: AsrServer, speech: bytes) -> None:
    async with local_to(loaded) as local:
        files = {"audio": speech}
        for response in (
            await local.http.get("/nowhere"),
            await local.http.post("/v2/models/other/infer", json={}),
            await local.http.post("/v1/models/other:predict", json={}),
            await local.http.get(f"/v1/models/{MODEL}/explain"),
            await local.http.post("/v2/models/other/versions/2/infer", json={}),
            await local.http.get("/v2/models/other"),
            await local.http.get("/v2/models/other/ready"),
            await local.http.get("/v1/models/other"),
            await local.http.post("/api/v1/recognise", files=files),
        ):
            assert (response.status_code, response.json()["code"]) == (404, "not_found")
        openai = await local.http.get("/openai/v1/nowhere")
        assert openai.json()["error"]["code"] == "not_found"
        wrong = await local.http.put("/api/v1/recognize")
        assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"
        closed = await local.http.post(f"/v2/repository/models/{MODEL}/load")
        assert (closed.status_code, closed.json()["code"]) == (403, "closed")
    TRIED.update({"not_found", "method_not_allowed", "closed"})


async def test_media_types_that_are_not_accepted(loaded: AsrServer) -> None:
    async with local_to(loaded) as local:
        for path in (
            "/api/v1/recognize",
            "/v1/audio/transcriptions",
            f"/v1/models/{MODEL}:predict",
        ):
            response = await local.http.post(path, content=b"x", headers={"content-type": "a/b"})
            assert response.status_code == 415
            assert "unsupported_media_type" in response.text
    TRIED.add("unsupported_media_type")


async def test_api_keys(build: Build, speech: bytes) -> None:
    argv = [f"--model_dir={CHECKPOINT}", "--device=cpu"]
    settings = load_settings(argv, {"QWEN3_ASR_API_KEYS": "key-one,schlüssel-zwei"})
    server = build_server(settings, CollectorRegistry())
    server.decoder.start()
    await asyncio.to_thread(server.model.load)
    try:
        async with local_to(server) as local:
            _expect(await local.everywhere(speech), errors.Unauthorized)
            never = asyncio.Event()

            async def unsent() -> AsyncIterator[bytes]:
                await never.wait()
                yield b""

            path = "/inference.GRPCInferenceService/ModelInfer"
            with pytest.raises(grpc.RpcError) as caught:  # before any byte of the message
                await local.channel.stream_unary(path)(unsent())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            post, get = local.http.post, local.http.get
            path, files = "/api/v1/recognize", {"audio": speech}
            for headers in (
                {"authorization": "Bearer key-one"},
                {"authorization": "bearer key-one"},
                {"x-api-key": "key-one"},
            ):
                assert (await post(path, files=files, headers=headers)).is_success
            for headers in (
                {"authorization": "Bearer key-on"},
                {"authorization": "Basic key-one"},
                {"authorization": "Bearer "},
                {"x-api-key": ""},
            ):
                refused = await post(path, files=files, headers=headers)
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"] == "Bearer"
                assert "key-one" not in refused.text
            for path in ("/healthz", "/v2/health/ready", "/metrics", f"/v2/models/{MODEL}"):
                assert (await get(path)).status_code == 200
    finally:
        server.model.stop()
        server.decoder.close()


async def test_requests_that_come_in_too_slowly(build: Build) -> None:
    server = await asyncio.to_thread(build, "--client_timeout_s=1")
    may_end = asyncio.Event()

    async def stalled_body() -> AsyncIterator[bytes]:
        yield bytes(1000)
        await may_end.wait()

    async with local_to(server) as local:
        path, headers = f"/v1/models/{MODEL}:predict", {"content-type": "audio/wav"}
        stalled = await local.http.post(path, content=stalled_body(), headers=headers)
        assert (stalled.status_code, stalled.json()["code"]) == (408, "request_timeout")
        assert stalled.headers["connection"] == "close"

        async def silent() -> AsyncIterator[bytes]:
            await may_end.wait()
            yield b""

        call = local.channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")(silent())
        with pytest.raises(grpc.RpcError) as caught:
            await call
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert dict(error.trailing_metadata())["error-code"] == "request_timeout"
    TRIED.add("request_timeout")


async def test_every_row_of_the_table_has_been_tried() -> None:
    before_routing = {"head_too_large"}  # tests/chaos/test_connections.py
    of_jobs = {"job_not_done"}  # tests/jobs/test_routes.py
    assert {row.spec.code for row in _all_rows()} == TRIED | before_routing | of_jobs


async def test_the_readme_has_every_row() -> None:
    text = (Path(api.__path__[0], "README.md")).read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (\w*) ?\| `(\w+)` \|", text, re.MULTILINE)
    specs = [row.spec for row in _all_rows()]
    codes = {(str(spec.http_status), spec.grpc_code, spec.code) for spec in specs}
    over_http_alone = {("405", "UNIMPLEMENTED", "method_not_allowed")}
    assert set(rows) - {("405", "", "method_not_allowed")} == codes - over_http_alone


@pytest.mark.parametrize("row", sorted(_all_rows(), key=lambda row: row.__name__))
async def test_every_row_has_a_status_a_code_and_both_bodies(row: type[AsrError]) -> None:
    error = row("x")
    assert 400 <= row.spec.http_status < 600
    assert isinstance(getattr(grpc.StatusCode, row.spec.grpc_code), grpc.StatusCode)
    assert error_body(error, openai=False)["code"] == row.spec.code
    for openai in (True, False):
        assert error_response(error, openai=openai).status_code == row.spec.http_status


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (kserve_errors.InvalidInput("x"), "invalid_input"),
        (kserve_errors.ModelNotFound("x"), "not_found"),
        (kserve_errors.ModelNotReady("x"), "not_ready"),
        (kserve_errors.ServerNotReady(), "not_ready"),
        (ValueError("x"), "internal_error"),
        (errors.Overloaded("x"), "overloaded"),
    ],
)
async def test_exceptions_of_others_find_their_row(exc: Exception, code: str) -> None:
    assert to_asr_error(exc).spec.code == code


async def test_bodies_of_all_requests_together_are_bounded(build: Build, speech: bytes) -> None:
    server = await asyncio.to_thread(build, "--max_pending_bytes=1048576")
    may_end = asyncio.Event()
    is_sent = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        yield bytes(1_000_000)
        is_sent.set()
        await may_end.wait()

    async with local_to(server) as local:
        headers = {"content-type": "audio/wav"}
        path = f"/v1/models/{MODEL}:predict"
        slow = asyncio.create_task(local.http.post(path, content=slow_body(), headers=headers))
        await is_sent.wait()
        refused = await local.http.post(path, content=bytes(100_000), headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        may_end.set()
        assert (await slow).status_code == 400
        assert (await local.http.post("/api/v1/recognize", files={"audio": speech})).is_success


async def test_grpc_request_ids(loaded: AsrServer, speech: bytes) -> None:
    async with local_to(loaded) as local:
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(speech)) + speech)
        call = local.stub.ModelInfer(request, metadata=(("x-request-id", "rpc-1"),))
        assert dict(await call.initial_metadata())["x-request-id"] == "rpc-1"
        await call
        made = local.stub.ModelInfer(request)
        assert len(dict(await made.initial_metadata())["x-request-id"]) == 32
        await made
