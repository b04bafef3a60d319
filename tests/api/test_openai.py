"""OpenAI's API with OpenAI's SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest

MODEL = "qwen3-asr"


@pytest.fixture(params=["/v1", "/openai/v1"])
def client(server: Any, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    base_url = server.url + request.param
    with openai.OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(server: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    url = server.url + "/v1"
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_json(client: openai.OpenAI, recordings: list[bytes], said: list[dict[str, Any]]) -> None:
    for data, answer in zip(recordings, said, strict=True):
        result = client.audio.transcriptions.create(model=MODEL, file=("a.flac", data))
        assert result.text == answer["text"]
        assert result.usage is not None
        assert result.usage.type == "tokens"
        assert result.usage.total_tokens == result.usage.input_tokens + result.usage.output_tokens


def test_text(client: openai.OpenAI, speech: bytes, said: list[dict[str, Any]]) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), response_format="text", temperature=0
    )
    assert result == said[0]["text"] + "\n"


def test_verbose_json(client: openai.OpenAI, speech: bytes, said: list[dict[str, Any]]) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL,
        file=("a.flac", speech),
        response_format="verbose_json",
        timestamp_granularities=["segment"],
        language="en",
        prompt="hot words",
    )
    assert result.language == "English"
    assert result.duration == pytest.approx(said[0]["duration"])
    assert result.segments is not None
    if result.text:
        [segment] = result.segments
        assert 0 <= segment.start < 0.3  # where speech is
        assert segment.end == pytest.approx(said[0]["duration"], abs=0.3)
        assert segment.text == result.text
        assert segment.avg_logprob <= 0
        assert segment.tokens


@pytest.mark.parametrize(("response_format", "first"), [("srt", "1\n"), ("vtt", "WEBVTT\n")])
def test_subtitles(
    client: openai.OpenAI,
    speech: bytes,
    said: list[dict[str, Any]],
    response_format: Any,
    first: str,
) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), response_format=response_format
    )
    if said[0]["text"]:
        assert result.startswith(first)
        assert " --> " in result


def test_stream(client: openai.OpenAI, speech: bytes, said: list[dict[str, Any]]) -> None:
    stream = client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), stream=True, response_format="json"
    )
    *deltas, done = list(stream)
    assert {e.type for e in deltas} <= {"transcript.text.delta", "transcript.text.segment"}
    assert done.type == "transcript.text.done"
    texts = [event.delta for event in deltas if event.type == "transcript.text.delta"]
    assert "".join(texts) == done.text == said[0]["text"]
    segments = [event for event in deltas if event.type == "transcript.text.segment"]
    assert [segment.text for segment in segments] == ([done.text] if done.text else [])
    assert done.usage is not None


async def test_async_stream(
    async_client: openai.AsyncOpenAI, speech: bytes, said: list[dict[str, Any]]
) -> None:
    stream = await async_client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), stream=True
    )
    events = [event async for event in stream]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == said[0]["text"]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.object) == (MODEL, "model")


def test_kserves_model_list_shares_the_route(server: Any) -> None:
    answer = httpx.get(server.url + "/v1/models").json()
    assert answer["models"] == [MODEL]
    assert answer["data"][0]["id"] == MODEL
    assert httpx.get(server.url + f"/v1/models/{MODEL}").json()["ready"] is True


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"response_format": "diarized_json"}, "response_format"),
        (
            {"timestamp_granularities": ["word"], "response_format": "verbose_json"},
            "timestamp_granularities[]",
        ),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities[]"),
        ({"language": "klingon"}, "language"),
        ({"include": ["logprobs"]}, "include[]"),
        ({"chunking_strategy": "auto"}, "chunking_strategy"),
        ({"extra_body": {"seed": "1"}}, "seed"),
        ({"stream": True, "response_format": "srt"}, "stream"),
        ({"prompt": "kettle " * 10_000}, "prompt"),
    ],
)
def test_what_is_not_supported_is_refused(
    client: openai.OpenAI, speech: bytes, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.audio.transcriptions.create(model=MODEL, file=("a.flac", speech), **fields)
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param
    assert param.removesuffix("[]") in caught.value.message


def test_another_model_is_not_found(client: openai.OpenAI, speech: bytes) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.audio.transcriptions.create(model="whisper-1", file=("a.flac", speech))
    assert caught.value.code == "not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("whisper-1")


def test_a_missing_file_and_model_are_named(server: Any, speech: bytes) -> None:
    url = server.url + "/v1/audio/transcriptions"
    answer = httpx.post(url, files={"file": speech}).json()
    assert answer["error"]["param"] == "model"
    answer = httpx.post(url, data={"model": MODEL}, files={"model2": b""}).json()
    assert answer["error"]["param"] == "model2"
    answer = httpx.post(url, data={"model": MODEL})
    assert answer.status_code == 415
    assert answer.json()["error"]["code"] == "unsupported_media_type"
