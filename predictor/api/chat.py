"""OpenAI's chat completions with audio, as the model's authors serve it: a transcript answers.

One recording in the messages, as `input_audio` or as `audio_url` with a data URL; system messages
are the context. Fields that steer sampling are taken, since clients send them, and named in the
header `x-ignored-fields`; what would change the answer's meaning is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from predictor.api.json_body import LongText, decode_base64, load_json
from predictor.api.openai import check_model, temperature_of
from predictor.api.openai_answers import Event, Rendered, error_event
from predictor.api.tensors import refuse_unknown
from predictor.errors import InvalidInput
from predictor.service.calls import Call, Recording
from predictor.text.languages import parse_language
from predictor.types import Segment, Transcription

IGNORED: Final = (
    "top_p", "seed", "user", "frequency_penalty", "presence_penalty", "max_tokens",
    "max_completion_tokens", "metadata", "store", "service_tier",
)  # fmt: skip
_READ: Final = (
    "model", "messages", "stream", "stream_options", "temperature", "n", "modalities",
    "response_format", "language",
)  # fmt: skip
_ROLES: Final = ("system", "developer", "user")
_PLACE: Final = "messages"


@dataclass(frozen=True, slots=True)
class ChatCall:
    """The call, how its answer is streamed, and the fields that changed nothing."""

    call: Call
    model_name: str
    stream: bool
    with_usage: bool  # a last event with the usage, when streamed
    ignored: tuple[str, ...]


def chat_call(body: bytes | bytearray, served_names: Sequence[str], created: int) -> ChatCall:
    """Read a chat completion request. Raises InvalidInput, NotFound."""
    content = load_json(body)
    refuse_unknown(content, (*_READ, *IGNORED), "body")
    given = {key: value for key, value in content.items() if value is not None}
    model_name = given.get("model")
    check_model(model_name, served_names)
    _check_fixed(given)
    messages = _read_messages(given.get("messages"))
    language = given.get("language")
    if language is not None and not isinstance(language, str):
        raise InvalidInput("language: must be a string", field="language")
    stream = given.get("stream", False)
    options = given.get("stream_options", {})
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise InvalidInput("stream: must be true or false", field="stream")
    ignored: list[str] = [key for key in IGNORED if key in given]
    ignored += ["temperature"] if temperature_of(given.get("temperature")) else []
    ignored += ["messages.text"] if messages.has_user_text else []
    recording = Recording(
        data=messages.audio,
        field="input_audio",
        language=parse_language(language),
        context="\n".join(messages.context),
        context_field=_PLACE,
    )
    name = str(model_name)

    def render(answers: list[Transcription]) -> Rendered:
        return Rendered(
            orjson.dumps(_completion(answers[0], name, created), option=orjson.OPT_APPEND_NEWLINE),
            "application/json",
        )

    call = Call("openai", (recording,), render)
    with_usage = options.get("include_usage") is True
    return ChatCall(call, name, stream, with_usage, tuple(ignored))


def _check_fixed(given: Mapping[str, Any]) -> None:
    """Fields of which one value is what we do."""
    fixed = {"n": 1, "modalities": ["text"], "response_format": {"type": "text"}}
    for key, value in fixed.items():
        if given.get(key, value) != value:
            raise InvalidInput(f"{key}: only {value} is supported", field=key, limit=value)


@dataclass(slots=True)
class _Messages:
    audio: memoryview | None = None
    context: list[str] = field(default_factory=list)
    has_user_text: bool = False


def _read_messages(messages: object) -> _Messages:
    if not isinstance(messages, list) or not messages:
        raise InvalidInput("messages: must be a list of messages", field=_PLACE)
    found = _Messages()
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InvalidInput(
                f"messages: each must be an object whose role is one of {', '.join(_ROLES)}",
                field=_PLACE,
                limit=list(_ROLES),
            )
        refuse_unknown(message, ("role", "content", "name"), _PLACE)
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
        for part in parts:
            _read_part(found, part, is_user=message["role"] == "user")
    if found.audio is None:
        raise InvalidInput("messages: hold no input_audio", field=_PLACE)
    return found


def _read_part(found: _Messages, part: object, *, is_user: bool) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    value = part.get(kind) if isinstance(part, dict) and isinstance(kind, str) else None
    if kind == "text" and isinstance(value, str | LongText):
        if is_user:
            found.has_user_text = True
        else:
            text = value.text(field=_PLACE) if isinstance(value, LongText) else value
            found.context.append(text)
        return
    if not is_user or not isinstance(value, dict) or kind not in ("input_audio", "audio_url"):
        raise InvalidInput(
            "messages: content must be text or, of the user, input_audio or audio_url",
            field=_PLACE,
        )
    if found.audio is not None:
        raise InvalidInput("messages: hold more than one recording, send one", field=_PLACE)
    found.audio = _audio(kind, value)


def _audio(kind: str, value: dict[str, Any]) -> memoryview:
    """The recording; its `format` is not needed, its bytes tell it."""
    if kind == "input_audio":
        refuse_unknown(value, ("data", "format"), kind)
        data = value.get("data")
    else:
        refuse_unknown(value, ("url",), kind)
        data = _of_data_url(value.get("url"))
    if not isinstance(data, str | LongText):
        raise InvalidInput(f"{kind}: needs the recording in base64", field=kind)
    return decode_base64(data, field=kind)


def _of_data_url(url: object) -> str | LongText:
    """The base64 of `data:audio/wav;base64,...`; nothing is ever fetched."""
    head = bytes(url.raw[:100]).decode("latin-1") if isinstance(url, LongText) else str(url)[:100]
    start = head.find(";base64,")
    if not head.startswith("data:") or start < 0 or not isinstance(url, str | LongText):
        raise InvalidInput(
            "audio_url: must be a data URL, data:audio/wav;base64,...; no other is fetched",
            field="audio_url",
        )
    start += len(";base64,")
    return LongText(url.raw[start:]) if isinstance(url, LongText) else url[start:]


def _completion(answer: Transcription, model_name: str, created: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish(answer),
    }
    return {
        **_head("chat.completion", f"chatcmpl-{uuid.uuid4().hex}", model_name, created),
        "choices": [choice],
        "usage": _usage(answer),
    }


async def chat_events(
    first: Event, rest: AsyncIterator[Event], call: ChatCall, created: int
) -> AsyncIterator[bytes]:
    """Chunks as the text grows, the finish reason, the usage if asked for, and `[DONE]`."""
    head = _head("chat.completion.chunk", f"chatcmpl-{uuid.uuid4().hex}", call.model_name, created)

    def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _data({**head, "choices": [choice]})

    def said(item: Event) -> bytes:
        if isinstance(item, str):
            return chunk({"content": item})
        if isinstance(item, Segment):
            return b""  # a chunk has no place for it
        usage = _data({**head, "choices": [], "usage": _usage(item)}) if call.with_usage else b""
        return chunk({}, _finish(item)) + usage + b"data: [DONE]\n\n"

    yield chunk({"role": "assistant", "content": ""}) + said(first)
    try:
        async for item in rest:
            if event := said(item):
                yield event
    except Exception as exc:  # noqa: BLE001  any error becomes an event from the table
        yield error_event(exc)


def _head(kind: str, call_id: str, model_name: str, created: int) -> dict[str, Any]:
    return {"id": call_id, "object": kind, "created": created, "model": model_name}


def _data(content: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _finish(answer: Transcription) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answer: Transcription) -> dict[str, Any]:
    usage = answer.usage
    return {
        "prompt_tokens": usage.num_prompt_tokens,
        "completion_tokens": usage.num_completion_tokens,
        "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        "prompt_tokens_details": {"audio_tokens": usage.num_audio_tokens},
    }
