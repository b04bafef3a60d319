"""OpenAI's API with OpenAI's SDK."""

from __future__ import annotations

import base64
import math
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile

MODEL = "qwen3-asr"
RECORDINGS = Path(__file__).parents[2] / "predictor" / "recordings"


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
    assert result.language == "english"
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
        ({"temperature": -0.5}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"response_format": "diarized_json"}, "response_format"),
        (
            {"timestamp_granularities": ["word"], "response_format": "verbose_json"},
            "timestamp_granularities[]",
        ),
        ({"timestamp_granularities": ["segment"]}, "timestamp_granularities[]"),
        ({"language": "klingon"}, "language"),
        ({"include": ["usage"]}, "include[]"),
        ({"include": ["logprobs"] * 5}, "include[]"),
        ({"include": ["logprobs"], "response_format": "text"}, "include[]"),
        ({"chunking_strategy": "fixed"}, "chunking_strategy"),
        ({"chunking_strategy": {"type": "client_vad"}}, "chunking_strategy"),
        ({"extra_body": {"seed": "1"}}, "seed"),
        ({"extra_body": {"prompt[0]": "hot words"}}, "prompt[0]"),
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


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"temperature": 0.5}, "temperature"),
        ({"temperature": "0"}, None),
        ({"response_format": "", "language": "", "prompt": "", "temperature": ""}, None),
        ({"chunking_strategy": "auto"}, None),
        ({"chunking_strategy": '{"type": "server_vad"}'}, None),
        ({"chunking_strategy[type]": "server_vad", "chunking_strategy[threshold]": "0.5"},
         "chunking_strategy"),
        ({"timestamp_granularities": "segment", "response_format": "verbose_json"}, None),
        ({"timestamp_granularities": '["segment"]', "response_format": "verbose_json"}, None),
        ({"timestamp_granularities[]": "segment", "response_format": "verbose_json"}, None),
        ({"timestamp_granularities[0]": "segment", "response_format": "verbose_json"}, None),
        ({"include[0]": "logprobs"}, None),
        ({"include": "logprobs"}, None),
        ({"stream": "0"}, None),
    ],
)  # fmt: skip
def test_forms_as_clients_send_them(
    server: Any,
    speech: bytes,
    said: list[dict[str, Any]],
    fields: dict[str, str],
    ignored: str | None,
) -> None:
    url = server.url + "/v1/audio/transcriptions"
    response = httpx.post(url, files={"file": speech}, data={"model": MODEL, **fields}, timeout=60)
    assert response.json()["text"] == said[0]["text"]
    assert response.headers.get("x-ignored-fields") == ignored


@pytest.mark.parametrize("stream", ["1", "TRUE", "true"])
def test_streams_are_not_held_back_by_proxies(server: Any, speech: bytes, stream: str) -> None:
    url, data = server.url + "/v1/audio/transcriptions", {"model": MODEL, "stream": stream}
    response = httpx.post(url, files={"file": speech}, data=data, timeout=60)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-accel-buffering"] == "no"
    assert response.headers["cache-control"] == "no-cache"


def test_logprobs_are_those_of_the_texts_tokens(
    client: openai.OpenAI, speech: bytes, said: list[dict[str, Any]]
) -> None:
    result = client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), include=["logprobs"]
    )
    assert result.logprobs
    spelled = b"".join(bytes(int(byte) for byte in token.bytes or []) for token in result.logprobs)
    assert spelled.decode().strip() == result.text == said[0]["text"]
    scores = [token.logprob or 0.0 for token in result.logprobs]
    mean = math.exp(sum(scores) / len(scores))
    assert mean == pytest.approx(said[0]["confidence"], rel=0.05)
    stream = client.audio.transcriptions.create(
        model=MODEL, file=("a.flac", speech), include=["logprobs"], stream=True
    )
    *_, done = stream
    assert done.logprobs is not None
    assert len(done.logprobs) == len(result.logprobs)


def test_every_number_of_the_schema_is_a_number(
    client: openai.OpenAI, recordings: list[bytes]
) -> None:
    """Held by the SDK's own types, which it does not check unless asked."""
    for data in recordings:
        result = client.audio.transcriptions.create(
            model=MODEL, file=("a.flac", data), response_format="verbose_json"
        )
        type(result).model_validate(result.model_dump(), strict=True)
        for segment in result.segments or []:
            numbers = (segment.no_speech_prob, segment.avg_logprob, segment.compression_ratio)
            assert all(isinstance(number, float) for number in numbers)


def test_each_segment_says_its_language(client: openai.OpenAI, wav: Callable[..., bytes]) -> None:
    english, chinese = (
        soundfile.read(RECORDINGS / name, dtype="float32")[0]
        for name in ("demo-en-1.flac", "demo-zh-5.flac")
    )
    both = np.concatenate([chinese, np.zeros(32_000, np.float32), english, english])
    result = client.audio.transcriptions.create(
        model=MODEL, file=("a.wav", wav(both)), response_format="verbose_json"
    )
    languages = [segment.language for segment in result.segments or []]  # type: ignore[attr-defined]
    assert languages[0] == "chinese"
    assert set(languages[1:]) == {"english"}
    assert result.language == "english"  # that of most speech


@pytest.mark.parametrize("kind", ["input_audio", "audio_url"])
def test_chat_completions_with_audio(
    client: openai.OpenAI, speech: bytes, said: list[dict[str, Any]], kind: str
) -> None:
    b64 = base64.b64encode(speech).decode()
    parts: dict[str, dict[str, str]] = {
        "input_audio": {"data": b64, "format": "wav"},
        "audio_url": {"url": "data:audio/flac;base64," + b64},
    }
    messages: Any = [{"role": "user", "content": [{"type": kind, kind: parts[kind]}]}]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    assert answer.choices[0].message.content == said[0]["text"]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    stream = client.chat.completions.create(
        model=MODEL, messages=messages, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == said[0]["text"]
    assert chunks[-1].usage == answer.usage


def test_chat_completions_take_the_context_and_say_what_they_ignore(
    server: Any, speech: bytes
) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(speech).decode()}}
    user = {"role": "user", "content": [audio, {"type": "text", "text": "Transcribe this."}]}
    plain = {"model": MODEL, "messages": [user], "temperature": 0.7, "seed": 1}
    url = server.url + "/v1/chat/completions"
    first = httpx.post(url, json=plain, timeout=60)
    assert first.headers["x-ignored-fields"] == "seed, temperature, messages.text"
    system = {"role": "system", "content": "Zorvek, Katrin"}
    second = httpx.post(url, json={**plain, "messages": [system, user]}, timeout=60)
    num_tokens = [r.json()["usage"]["prompt_tokens"] for r in (first, second)]
    assert num_tokens[1] > num_tokens[0]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": "x"}, "messages"),
        ({"n": 2}, "n"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": []}, "tools"),
        ({"stream": "yes"}, "stream"),
        ({"language": "klingon"}, "language"),
        ({"temperature": 3}, "temperature"),
        ({"model": None}, "model"),
    ],
)
def test_chat_requests_that_are_refused(
    server: Any, speech: bytes, change: dict[str, Any], param: str
) -> None:
    audio = {"type": "input_audio", "input_audio": {"data": base64.b64encode(speech).decode()}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [audio]}], **change}
    response = httpx.post(server.url + "/v1/chat/completions", json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


def test_audio_urls_are_never_fetched(server: Any) -> None:
    part = {"type": "audio_url", "audio_url": {"url": server.url + "/healthz"}}
    body = {"model": MODEL, "messages": [{"role": "user", "content": [part]}]}
    response = httpx.post(server.url + "/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "audio_url")


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
