"""Answers as OpenAI's schema has them: numbers where its clients demand numbers, names in its case.

The SDKs map `language` by lower-case English names and refuse null for a number.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from predictor.api.errors import error_body, to_asr_error
from predictor.api.words import words_json
from predictor.text.cue_lines import SubtitleOptions
from predictor.text.languages import CODES
from predictor.text.subtitles import to_srt, to_vtt
from predictor.types import Segment, Transcription

Event = str | Segment | Transcription  # of a stream: new text, a segment's end, the whole answer
ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt"]
TokenBytes = Callable[[int], bytes]
_TEXT_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


@dataclass(frozen=True, slots=True)
class Rendered:
    """An answer's body and media type."""

    body: bytes
    media_type: str


def model_entry(model_name: str, created: int) -> dict[str, Any]:
    """A model as OpenAI lists it; `created` is in Unix seconds."""
    return {"id": model_name, "object": "model", "created": created, "owned_by": "qwen3-asr-kserve"}


def renderer(
    response_format: ResponseFormat,
    token_bytes: TokenBytes | None,
    granularities: Sequence[str] = (),
    cues: SubtitleOptions | None = None,
) -> Callable[[list[Transcription]], Rendered]:
    """Says an answer in `response_format`; with `token_bytes`, the JSON has `logprobs` as well.

    `granularities` are what times are asked for in verbose JSON: of segments where it is empty.
    """

    def render(answers: list[Transcription]) -> Rendered:
        [answer] = answers
        if response_format == "json":
            body: dict[str, Any] = {"text": answer.text, "usage": token_usage(answer)}
            if token_bytes is not None:
                body["logprobs"] = logprobs(answer, token_bytes)
            return Rendered(
                orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE), "application/json"
            )
        if response_format == "verbose_json":
            verbose = _verbose(answer, granularities)
            body_bytes = orjson.dumps(verbose, option=orjson.OPT_APPEND_NEWLINE)
            return Rendered(body_bytes, "application/json")
        spoken = [segment for segment in answer.segments if segment.text]
        text = {
            "text": lambda: answer.text + "\n",
            "srt": lambda: to_srt(spoken, cues),
            "vtt": lambda: to_vtt(spoken, cues),
        }[response_format]()
        return Rendered(text.encode(), _TEXT_TYPES[response_format] + "; charset=utf-8")

    return render


async def sse_events(
    first: Event, rest: AsyncIterator[Event], token_bytes: TokenBytes | None
) -> AsyncIterator[bytes]:
    """Server-sent events: `transcript.text.delta` as the text grows, then `.done`.

    An error after the first event can no longer be a status, so it is an event as well.
    """
    yield _event(first, token_bytes)
    try:
        async for item in rest:
            yield _event(item, token_bytes)
    except Exception as exc:  # noqa: BLE001  any error becomes an event from the table
        yield error_event(exc)


def error_event(exc: BaseException) -> bytes:
    """An error as one server-sent event."""
    body = error_body(to_asr_error(exc), openai=True)
    return b"data: " + orjson.dumps({"type": "error", **body}, default=str) + b"\n\n"


def _event(item: Event, token_bytes: TokenBytes | None) -> bytes:
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
        event = {"type": "transcript.text.done", "text": item.text, "usage": token_usage(item)}
        if token_bytes is not None:
            event["logprobs"] = logprobs(item, token_bytes)
    return b"data: " + orjson.dumps(event) + b"\n\n"


def logprobs(answer: Transcription, token_bytes: TokenBytes) -> list[dict[str, Any]]:
    """The tokens of the text with their bytes and natural log-probabilities."""
    found = []
    for segment in answer.segments:
        pairs = zip(segment.token_ids, segment.token_logprobs, strict=True)
        for token_id, logprob in list(pairs)[segment.num_header_tokens :]:
            data = token_bytes(token_id)
            token = data.decode(errors="replace")
            found.append({"token": token, "bytes": list(data), "logprob": logprob})
    return found


def token_usage(answer: Transcription) -> dict[str, Any]:
    """Tokens in and out, as transcriptions count them."""
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
        "language": (answer.language or "").lower(),
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
        "no_speech_prob": 0.0,  # the schema demands a number; segments without speech are left out
        "language": (segment.language or "").lower(),  # as the answer's own is written here
        "confidence": segment.confidence,
        "finish_reason": segment.finish_reason,
        **({} if segment.channel is None else {"channel": segment.channel}),
    }
