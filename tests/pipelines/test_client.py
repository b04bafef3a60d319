"""The client against services that answer well, late, badly and not at all."""

from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from pipelines.lib.client import Answer, AsrClient, Protocol, ServiceOptions
from pipelines.lib.errors import OptionError, ServiceError
from pipelines.lib.wire import parse_retry_after
from tests.pipelines.service import Service

FULL = {
    "text": "hello there",
    "language": "English",
    "confidence": 0.75,
    "duration": 1.5,
    "details": {"finish_reason": "stop", "num_repeats_removed": 3},
}


def client(service: Service, pauses: list[float] | None = None, **options: object) -> AsrClient:
    async def sleep(seconds: float) -> None:
        if pauses is not None:
            pauses.append(seconds)

    return AsrClient(
        ServiceOptions(url="http://asr.test", **options),  # type: ignore[arg-type]
        transport=httpx.ASGITransport(service.app()),
        sleep=sleep,
    )


async def test_v2_sends_raw_bytes_and_reads_all_outputs() -> None:
    service = Service(lambda _: FULL)
    async with client(service, host_header="asr.example.com", api_key="secret") as asr:
        answer = await asr.transcribe(b"\x00\xffRIFF", language="English", context="Qwen")
    (said,) = service.asked
    assert (said.audio, said.language, said.context) == (b"\x00\xffRIFF", "English", "Qwen")
    assert said.headers["host"] == "asr.example.com"
    assert said.headers["authorization"] == "Bearer secret"
    assert answer == Answer(
        text="hello there",
        language="English",
        confidence=0.75,
        duration_s=1.5,
        finish_reason="stop",
        num_repeats_removed=3,
        latency_s=answer.latency_s,
    )
    assert answer.latency_s > 0


@pytest.mark.parametrize("language", [None, "", "None"])
async def test_no_speech_is_no_language(language: str | None) -> None:
    async with client(Service(lambda _: {"text": "", "language": language})) as asr:
        assert (await asr.transcribe(b"x")).language is None


async def test_openai_reads_verbose_json() -> None:
    service = Service(lambda _: FULL)
    async with client(service, protocol="openai") as asr:
        answer = await asr.transcribe(b"x", language="English", context="Qwen")
    assert (service.asked[0].language, service.asked[0].context) == ("English", "Qwen")
    assert (answer.text, answer.language, answer.duration_s) == ("hello there", "English", 1.5)


async def test_a_stream_tells_the_time_to_the_first_text() -> None:
    async with client(Service(lambda _: FULL), protocol="openai-stream") as asr:
        answer = await asr.transcribe(b"x")
    assert answer.text == "hello there"
    assert answer.duration_s == 2.0
    assert answer.ttft_s is not None
    assert 0 < answer.ttft_s <= answer.latency_s


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"cut": True}, "stream_cut"),
        ({"error": {"code": "overloaded", "message": "full"}}, "overloaded"),
    ],
)
async def test_a_stream_that_breaks_off_is_an_error(said: dict[str, object], code: str) -> None:
    async with client(Service(lambda _: {**FULL, **said}), protocol="openai-stream") as asr:
        with pytest.raises(ServiceError) as caught:
            await asr.transcribe(b"x")
    assert caught.value.code == code


async def test_retry_after_is_obeyed_and_the_rest_backs_off() -> None:
    pauses: list[float] = []
    service = Service(
        lambda _: FULL,
        [
            Response(status_code=429, headers={"Retry-After": "7"}),
            Response(status_code=503, headers={"Retry-After": "900"}),
            Response(status_code=502),
            Response(status_code=504),
        ],
    )
    async with client(service, pauses) as asr:
        answer = await asr.transcribe(b"x")
    assert answer.num_attempts == len(service.asked) == 5
    assert pauses[:2] == [7.0, 593.0]  # the second is cut where patience ends
    assert 0.25 <= pauses[2] <= 0.5  # waiting as told is no attempt; up to half is jitter
    assert 0.5 <= pauses[3] <= 1.0


async def test_patience_ends() -> None:
    pauses: list[float] = []
    full = [Response(status_code=429, headers={"Retry-After": "40"}) for _ in range(9)]
    service = Service(failures=full)
    async with client(service, pauses, max_attempts=1, patience_s=100.0) as asr:
        with pytest.raises(ServiceError) as caught:
            await asr.transcribe(b"x")
    assert (pauses, caught.value.status) == ([40.0, 40.0, 20.0], 429)
    with pytest.raises(OptionError, match="patience: -1"):
        ServiceOptions(url="http://asr.test", patience_s=-1)


async def test_a_draft_is_a_second_tensor() -> None:
    service = Service(lambda _: FULL, inputs=("audio", "draft"))
    async with client(service) as asr:
        await asr.transcribe(b"x", draft="so it goes")
    assert (service.asked[0].audio, service.asked[0].draft) == (b"x", "so it goes")


async def test_a_service_says_who_it_is() -> None:
    async with client(Service(checkpoint="Qwen3-ASR-1.7B@main", inputs=("audio", "draft"))) as asr:
        found = await asr.identity()
    assert (found.model, found.checkpoint) == ("qwen3-asr", "Qwen3-ASR-1.7B@main")
    assert (found.details, found.inputs) == ({"device": "cpu"}, ("audio", "draft"))
    assert found.difference({**found.as_json(), "checkpoint": "other"}) == (
        "checkpoint 'other', now 'Qwen3-ASR-1.7B@main'"
    )
    assert found.difference({**found.as_json(), "details": {"device": "cuda"}}) is None
    async with client(Service()) as asr:
        assert not (await asr.identity()).known


async def test_attempts_end() -> None:
    body = {"error": "the queue is full", "code": "overloaded"}
    service = Service(failures=[JSONResponse(body, 429) for _ in range(9)])
    async with client(service, [], max_attempts=3) as asr:
        with pytest.raises(ServiceError, match="HTTP 429: the queue is full") as caught:
            await asr.transcribe(b"x")
    assert (len(service.asked), caught.value.status, caught.value.code) == (3, 429, "overloaded")
    assert caught.value.num_attempts == 3  # and that is what a report says of it


@pytest.mark.parametrize(
    ("response", "code", "message"),
    [
        (
            JSONResponse({"error": {"code": "invalid_audio", "message": "no"}}, 400),
            "invalid_audio",
            "no",
        ),
        (JSONResponse({"error": "bad thing"}, 400), "http_400", "bad thing"),
        (PlainTextResponse("proxy says no", 413), "http_413", "proxy says no"),
        (PlainTextResponse("", 500), "http_500", "HTTP 500"),
    ],
)
async def test_refusals_are_final_and_carry_the_code(
    response: Response, code: str, message: str
) -> None:
    service = Service(failures=[response])
    async with client(service, []) as asr:
        with pytest.raises(ServiceError, match=message) as caught:
            await asr.transcribe(b"x")
    assert caught.value.code == code
    assert len(service.asked) == 1


@pytest.mark.parametrize("protocol", ["v2", "openai"])
@pytest.mark.parametrize("body", ["<html>", "{}", "[]", '{"outputs": [{"name": "text"}]}'])
async def test_an_answer_of_another_shape_is_an_error(protocol: Protocol, body: str) -> None:
    async with client(Service(failures=[PlainTextResponse(body)]), protocol=protocol) as asr:
        with pytest.raises(ServiceError) as caught:
            await asr.transcribe(b"x")
    assert caught.value.code == "unreadable_answer"


async def test_no_connection_is_tried_again_and_then_named(unused_tcp_port: int) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    options = ServiceOptions(url=f"http://127.0.0.1:{unused_tcp_port}", max_attempts=3)
    async with AsrClient(options, sleep=sleep) as asr:
        with pytest.raises(ServiceError) as caught:
            await asr.transcribe(b"x")
    assert (caught.value.status, caught.value.code) == (None, "ConnectError")
    assert len(pauses) == 2


def test_retry_after_as_date_and_as_nonsense() -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert parse_retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now) == 30
    assert parse_retry_after("Thu, 01 Jan 2026 11:00:00 GMT", now) == 0
    assert parse_retry_after("soon", now) is None
    assert parse_retry_after(None) is None


def test_options_are_checked_and_the_key_is_not_shown() -> None:
    with pytest.raises(OptionError, match=r"url: 'asr\.test' does not start with http"):
        ServiceOptions(url="asr.test")
    with pytest.raises(OptionError, match="protocol: 'v1' is not one of v2, openai"):
        ServiceOptions(url="http://asr.test", protocol="v1")  # type: ignore[arg-type]
    assert "secret" not in repr(ServiceOptions(url="http://asr.test", api_key="secret"))
