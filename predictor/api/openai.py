"""OpenAI's audio transcription API: the request read strictly, the answer in every format.

What this server cannot do is refused with OpenAI's error body; nothing is accepted and ignored.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from starlette.requests import Request

from predictor.api.errors import error_body, to_asr_error
from predictor.api.forms import Form, read_form
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.words import words_json
from predictor.errors import InvalidInput, NotFound
from predictor.service.calls import Call, Recording
from predictor.text.languages import CODES, parse_language
from predictor.text.subtitles import to_srt, to_vtt
from predictor.types import Segment, Transcription

Event = str | Segment | Transcription  # of a stream: new text, a segment's end, the whole answer
ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt"]
FORMATS: tuple[ResponseFormat, ...] = ("json", "text", "verbose_json", "srt", "vtt")
FILE_FIELD = "file"
_GRANULARITIES = "timestamp_granularities[]"
FIELDS = (
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    _GRANULARITIES,
    "stream",
    *HEARING_FIELDS,
)
_TEXT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer's body and media type."""

    body: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """The call, and whether its answer is to be streamed."""

    call: Call
    stream: bool


async def openai_call(request: Request, served_names: Sequence[str]) -> OpenAICall:
    """Read a transcription request. Raises InvalidInput, NotFound, UnsupportedMedia."""
    form = await read_form(request, FILE_FIELD, FIELDS)
    _check_model(form.fields.get("model"), served_names)
    _check_temperature(form.fields.get("temperature"))
    response_format = _response_format(form.fields.get("response_format", "json"))
    granularities = _granularities(form, response_format)
    stream = _stream(form.fields.get("stream", "false"), response_format)
    hearing = read_hearing(form.fields)
    recording = Recording(
        data=form.data,
        content_type=form.content_type,
        field=FILE_FIELD,
        language=parse_language(form.fields.get("language")),
        context=form.fields.get("prompt", ""),
        context_field="prompt",
        channel=hearing.channel,
        track=hearing.track,
        vad=hearing.vad,
        with_words="word" in granularities,
        words_field=_GRANULARITIES,
    )
    render = _renderer(response_format, granularities)
    return OpenAICall(Call("openai", (recording,), render), stream)


def model_entry(model_name: str, created: int) -> dict[str, Any]:
    """A model as OpenAI lists it; `created` is in Unix seconds."""
    return {"id": model_name, "object": "model", "created": created, "owned_by": "qwen3-asr-kserve"}


async def sse_events(first: Event, rest: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """Server-sent events: `transcript.text.delta` as the text grows, then `.done`.

    An error after the first event can no longer be a status, so it is an event as well.
    """
    yield _event(first)
    try:
        async for item in rest:
            yield _event(item)
    except Exception as exc:  # noqa: BLE001  any error becomes an event from the table
        body = error_body(to_asr_error(exc), openai=True)
        yield b"data: " + orjson.dumps({"type": "error", **body}, default=str) + b"\n\n"


def _event(item: Event) -> bytes:
    event: dict[str, Any]
    if isinstance(item, str):
        event = {"type": "transcript.text.delta", "delta": item}
    elif isinstance(item, Segment):
        event = {
            "type": "transcript.text.segment",
            "id": f"seg_{item.id}",
            "start": item.start_s,
            "end": item.end_s,
            "text": item.text,
            "speaker": "" if item.channel is None else f"channel {item.channel}",
            "language": item.language,
            "confidence": item.confidence,
        }
    else:
        event = {"type": "transcript.text.done", "text": item.text, "usage": _token_usage(item)}
    return b"data: " + orjson.dumps(event) + b"\n\n"


def _check_model(given: str | None, served_names: Sequence[str]) -> None:
    if given is None:
        raise InvalidInput("model: this field is required", field="model", limit=list(served_names))
    if given not in served_names:
        raise NotFound(f"model: {given[:60]!r} is not served here, {served_names[0]!r} is")


def _check_temperature(given: str | None) -> None:
    # Decoding is greedy: any other temperature would be ignored, so it is refused.
    if given is None:
        return
    try:
        temperature = float(given)
    except ValueError as error:
        raise InvalidInput("temperature: must be a number", field="temperature") from error
    if temperature != 0.0:
        raise InvalidInput(
            "temperature: only 0 is supported, decoding is greedy",
            field="temperature",
            value=given[:60],
            limit=0,
        )


def _response_format(given: str) -> ResponseFormat:
    for known in FORMATS:
        if given == known:
            return known
    raise InvalidInput(
        f"response_format: {given[:60]!r} is not supported, choose one of {', '.join(FORMATS)}",
        field="response_format",
        value=given[:60],
        limit=list(FORMATS),
    )


def _granularities(form: Form, response_format: ResponseFormat) -> Sequence[str]:
    granularities = form.lists.get(_GRANULARITIES, [])
    for granularity in granularities:
        if granularity not in ("word", "segment"):
            raise InvalidInput(
                f"{_GRANULARITIES}: {granularity[:60]!r} is not supported, word and segment are",
                field=_GRANULARITIES,
                value=granularity[:60],
                limit=["word", "segment"],
            )
    if granularities and response_format != "verbose_json":
        raise InvalidInput(
            f"{_GRANULARITIES}: needs response_format verbose_json", field=_GRANULARITIES
        )
    return granularities


def _stream(given: str, response_format: ResponseFormat) -> bool:
    if given.lower() not in ("true", "false"):
        raise InvalidInput("stream: must be true or false", field="stream", value=given[:60])
    stream = given.lower() == "true"
    if stream and response_format not in ("json", "text"):
        raise InvalidInput(
            f"stream: works with response_format json and text, not {response_format}",
            field="stream",
            limit=["json", "text"],
        )
    return stream


def _renderer(
    response_format: ResponseFormat, granularities: Sequence[str]
) -> Callable[[list[Transcription]], Rendered]:
    def render(answers: list[Transcription]) -> Rendered:
        [answer] = answers
        if response_format == "json":
            body: dict[str, Any] = {"text": answer.text, "usage": _token_usage(answer)}
            return Rendered(orjson.dumps(body), "application/json")
        if response_format == "verbose_json":
            return Rendered(orjson.dumps(_verbose(answer, granularities)), "application/json")
        spoken = [segment for segment in answer.segments if segment.text]
        text = {
            "text": lambda: answer.text + "\n",
            "srt": lambda: to_srt(spoken),
            "vtt": lambda: to_vtt(spoken),
        }[response_format]()
        return Rendered(text.encode(), _TEXT_TYPES[response_format] + "; charset=utf-8")

    return render


def _token_usage(answer: Transcription) -> dict[str, Any]:
    usage = answer.usage
    return {
        "type": "tokens",
        "input_tokens": usage.num_prompt_tokens,
        "input_token_details": {
            "audio_tokens": usage.num_audio_tokens,
            "text_tokens": usage.num_prompt_tokens - usage.num_audio_tokens,
        },
        "output_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
    }


def _verbose(answer: Transcription, granularities: Sequence[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {}
    if answer.words is not None:
        parts["words"] = words_json(answer.words)
    if not granularities or "segment" in granularities:
        parts["segments"] = [_segment(segment) for segment in answer.segments if segment.text]
    return {
        "task": "transcribe",
        "language": answer.language or "",
        "duration": answer.duration_s,
        "text": answer.text,
        **parts,
        "usage": {"type": "duration", "seconds": answer.duration_s},
        "confidence": answer.confidence,
        "finish_reason": answer.finish_reason,
        "language_code": CODES.get(answer.language or ""),
    }


def _segment(segment: Segment) -> dict[str, Any]:
    encoded = segment.text.encode()
    return {
        "id": segment.id,
        "seek": round(segment.start_s * 100),
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": list(segment.token_ids),
        "temperature": 0.0,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": len(encoded) / len(zlib.compress(encoded)),
        "no_speech_prob": None,  # OpenAI's schema has the field; this model gives no such number
        "confidence": segment.confidence,
        "finish_reason": segment.finish_reason,
        **({} if segment.channel is None else {"channel": segment.channel}),
    }
