"""What the OpenAPI document says of each route: bodies, answers, errors.

The handlers read raw requests, so FastAPI cannot infer these; tests hold the document to the
routes and real answers to its schemas.
"""

from __future__ import annotations

from typing import Any, get_args

from predictor.api import alignments, chat, openai, recognize, v2
from predictor.api.cues import CUE_LIMITS
from predictor.api.hearing import NUMBERS
from predictor.api.tensors import MAX_DRAFT_CHARS
from predictor.audio.limits import Vad

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_BOOLEAN: Schema = {"type": "boolean"}
_LANGUAGE: Schema = {
    "type": "string",
    "format": "language",
    "description": 'Name, code or tag such as "English", "en", "en-US"; "auto" detects.',
}
_CONTEXT: Schema = {
    "type": "string",
    "format": "context",
    "description": "Hot words or any text that helps.",
}


_DRAFT: Schema = {
    "type": "string",
    "format": "context",
    "maxLength": MAX_DRAFT_CHARS,
    "description": "What may be said: with a language, an answer that agrees comes sooner. The "
    "answer is the same whatever stands here.",
}


def _object(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, **more}


def _list(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _nullable(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = _object(
    {
        "error": _STRING,
        "code": _STRING,
        "field": _STRING,
        "limit": {},
        "index": _INTEGER,
        "request_id": _STRING,
    },
    ["error", "code"],
    additionalProperties=False,
)
OPENAI_ERROR = _object(
    {
        "error": _object(
            {"message": _STRING, "type": _STRING, "param": _nullable(_STRING), "code": _STRING}
        )
    }
)
_WHICH: list[Schema] = [
    {"type": "string", "pattern": "^[0-9]{1,2}$"},
    {"type": "integer", "minimum": 0, "maximum": 63},
]


def _in_place(low: float, high: float) -> Schema:
    """Of a number in place of the setting of the same name."""
    return {
        "anyOf": [{"type": "number", "minimum": low, "maximum": high}, {"const": ""}],
        "description": "In place of the setting of this name.",
    }


_HEARING: Schema = {
    "channel": {
        "anyOf": [{"enum": ["mix", "separate", ""]}, *_WHICH],
        "description": "mix, separate, or a channel's number from 0; as the settings say without.",
    },
    "track": {"anyOf": [{"const": ""}, *_WHICH], "description": "An audio track's number from 0."},
    "vad": {"type": "string", "enum": [*get_args(Vad), ""], "description": "What finds speech."},
    **{name: _in_place(*bounds) for name, bounds in NUMBERS.items()},
}
_CUES: Schema = {name: _in_place(*bounds) for name, bounds in CUE_LIMITS.items()}
_WORDS_WANTED: Schema = {
    "words": {
        "enum": [True, False, "true", "false", ""],
        "description": "true adds words with their times.",
    }
}
_WORDS = _list(
    _object(
        {
            "word": _STRING,
            "start": {"type": "number", "description": "Seconds into the recording."},
            "end": _NUMBER,
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        },
        ["word", "start", "end"],
        additionalProperties=False,
    )
)
_ASKED: Schema = {**_WORDS_WANTED, **_HEARING}
_FINISH = {"type": "string", "enum": ["stop", "length", "repetition", "silence"]}
_SEGMENT_REQUIRED = [
    "id", "start", "end", "text", "language", "confidence", "avg_logprob", "finish_reason"
]  # fmt: skip
_DETAIL_FIELDS: Schema = {
    "finish_reason": _FINISH,
    "num_repeats_removed": _INTEGER,
    "notes": _list(_STRING),
    "segments": _list(
        _object(
            {
                "id": _INTEGER,
                "start": _NUMBER,
                "end": _NUMBER,
                "text": _STRING,
                "language": _nullable(_STRING),
                "confidence": _NUMBER,
                "avg_logprob": _NUMBER,
                "finish_reason": _FINISH,
                "channel": _INTEGER,
            },
            _SEGMENT_REQUIRED,
        )
    ),
    "usage": _object(
        {
            "num_audio_tokens": _INTEGER,
            "num_prompt_tokens": _INTEGER,
            "num_completion_tokens": _INTEGER,
        }
    ),
}
_DETAILS_REQUIRED = list(_DETAIL_FIELDS)
_DETAILS: Schema = {**_DETAIL_FIELDS, "words": _WORDS}
_ANSWER: Schema = {
    "text": _STRING,
    "language": _nullable(_STRING),
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "duration": {"type": "number", "description": "Seconds of audio."},
}
_TENSOR = _object({"name": _STRING, "datatype": _STRING, "shape": _list(_INTEGER)})
_OPENAI_MODEL = _object(
    {"id": _STRING, "object": {"const": "model"}, "created": _INTEGER, "owned_by": _STRING}
)
_OPENAI_LIST: Schema = {"object": {"const": "list"}, "data": _list(_OPENAI_MODEL)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _route(
    summary: str,
    answer: Schema,
    *,
    body: Schema | None = None,
    parameters: list[Schema] | None = None,
    error: Schema = ERROR,
    is_body_required: bool = True,
) -> dict[str, Any]:
    """Arguments for `add_api_route`; `answer` and `body` are OpenAPI content maps."""
    extra: Schema = {}
    if body is not None:
        extra["requestBody"] = {"required": is_body_required, "content": body}
    if parameters:
        extra["parameters"] = parameters
    return {
        "summary": summary,
        "responses": {
            200: {"description": "OK", "content": answer},
            "default": {"description": "Any error of the table", "content": _json(error)},
        },
        "openapi_extra": extra,
    }


def _health(summary: str, schema: Schema) -> dict[str, Any]:
    """A probe: 503 has the body of 200, with the other value."""
    content = _json(schema)
    return {
        "summary": summary,
        "responses": {
            200: {"description": "Yes", "content": content},
            503: {"description": "No", "content": content},
        },
    }


def _form(file_field: str, fields: Schema, required: list[str]) -> Schema:
    properties = {file_field: {"type": "string", "format": "binary"}, **fields}
    schema = _object(properties, [file_field, *required], additionalProperties=False)
    return {"multipart/form-data": {"schema": schema}}


LIVE = _health("Whether the engine's loop turns", _object({"status": {"enum": ["alive", "dead"]}}))
V2_LIVE = _health("Whether the engine's loop turns", _object({"live": _BOOLEAN}))
V2_READY = _health("Whether requests should be sent here", _object({"ready": _BOOLEAN}))
METRICS = _route("Prometheus metrics", {"text/plain": {"schema": _STRING}})

V2_METADATA = _route(
    "Server metadata",
    _json(_object({"name": _STRING, "version": _STRING, "extensions": _list(_STRING)})),
)
V2_MODELS = _route("Names of the models", _json(_object({"models": _list(_STRING)})))
_IDENTITY = _object({"model_identity": _STRING, "model_source": _STRING, "model_revision": _STRING})
V2_MODEL_METADATA = _route(
    "Inputs and outputs of the model",
    _json(
        _object(
            {
                "name": _STRING,
                "versions": _list(_STRING),
                "platform": _STRING,
                "inputs": _list(_TENSOR),
                "outputs": _list(_TENSOR),
                "properties": _IDENTITY,
            },
            ["name", "versions", "platform", "inputs", "outputs"],
        )
    ),
)
V2_MODEL_READY = _route(
    "200 when requests should be sent to the model",
    _json(_object({"name": _STRING, "ready": _BOOLEAN})),
)
_PARAMETERS = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}
_BINARY: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
V2_INFER = _route(
    "Transcribe tensors",
    {
        **_json(
            _object(
                {
                    "model_name": _STRING,
                    "id": _STRING,
                    "outputs": _list(
                        _object(
                            {
                                "name": {"enum": [tensor["name"] for tensor in v2.OUTPUTS]},
                                "datatype": {"enum": ["BYTES", "FP32"]},
                                "shape": _list(_INTEGER),
                                "data": _list({"type": ["string", "number"]}),
                            }
                        )
                    ),
                }
            )
        ),
        **_BINARY,
    },
    body={
        **_json(
            _object(
                {
                    "id": _STRING,
                    "parameters": _PARAMETERS,
                    "inputs": _list(
                        _object(
                            {
                                "name": {"enum": [tensor["name"] for tensor in v2.INPUTS]},
                                "datatype": {"enum": ["BYTES", "FP32"]},
                                "shape": _list(_INTEGER),
                                "parameters": _PARAMETERS,
                                "data": _list({}),
                            },
                            ["name", "datatype", "shape"],
                        )
                    ),
                    "outputs": _list(
                        _object({"name": _STRING, "parameters": _PARAMETERS}, ["name"])
                    ),
                },
                ["inputs"],
            )
        ),
        **_BINARY,
    },
    parameters=[
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "Length of the JSON part when binary tensors follow it.",
            "schema": _INTEGER,
        }
    ],
)
CLOSED = _route("Closed: always answers 403", _json(ERROR))

V1_MODELS = _route(
    "Names of the models, for KServe and for OpenAI clients",
    _json(_object({"models": _list(_STRING), **_OPENAI_LIST})),
)
V1_MODEL = _route(
    "200 when requests should be sent to the model",
    _json(_object({"name": _STRING, "ready": _BOOLEAN, **_OPENAI_MODEL["properties"]})),
)
_B64 = _object({"b64": {"type": "string", "format": "byte"}}, additionalProperties=False)
V1_PREDICT = _route(
    "Transcribe instances, or one recording as the raw body",
    _json(
        _object(
            {"predictions": _list(_object({**_ANSWER, **_DETAILS}, [*_ANSWER, *_DETAILS_REQUIRED]))}
        )
    ),
    body={
        **_json(
            _object(
                {
                    "instances": _list(
                        _object(
                            {
                                "audio": _B64,
                                "language": _nullable(_LANGUAGE),
                                "context": _nullable(_CONTEXT),
                                "draft": _nullable(_DRAFT),
                                **_ASKED,
                            },
                            ["audio"],
                            additionalProperties=False,
                        ),
                        minItems=1,
                    )
                },
                additionalProperties=False,
            )
        ),
        "audio/*": _BINARY["application/octet-stream"],
        "video/*": _BINARY["application/octet-stream"],
        **_BINARY,
    },
    parameters=[
        {"name": "language", "in": "query", "schema": _LANGUAGE},
        {"name": "context", "in": "query", "schema": _CONTEXT},
        {"name": "draft", "in": "query", "schema": _DRAFT},
        *({"name": name, "in": "query", "schema": _ASKED[name]} for name in _ASKED),
    ],
)

RECOGNIZE = _route(
    "Transcribe one file",
    _json(
        _object(
            {**_ANSWER, "words": _WORDS, "details": _object(_DETAILS, _DETAILS_REQUIRED)},
            list(_ANSWER),
        )
    ),
    body=_form(recognize.FILE_FIELD, {"language": _LANGUAGE, "context": _CONTEXT, **_ASKED}, []),
)

_TEMPERATURE: Schema = {
    "type": "number",
    "minimum": 0,
    "maximum": openai.MAX_TEMPERATURE,
    "description": "Decoding is greedy: above 0 it is named in x-ignored-fields.",
}
_TRANSCRIPTION = _object({"text": _STRING}, additionalProperties=True)
TRANSCRIPTIONS = _route(
    "OpenAI's audio transcription",
    {
        **_json(_TRANSCRIPTION),
        "text/plain": {"schema": _STRING},
        "application/x-subrip": {"schema": _STRING},
        "text/vtt": {"schema": _STRING},
        "text/event-stream": {"schema": _STRING},
    },
    body=_form(
        openai.FILE_FIELD,
        {
            "model": {"type": "string", "minLength": 1},
            "language": _LANGUAGE,
            "prompt": _CONTEXT,
            "response_format": {"type": "string", "enum": list(openai.FORMATS)},
            "temperature": _TEMPERATURE,
            openai.GRANULARITIES: _list({"enum": ["word", "segment"]}),
            openai.INCLUDE: _list({"const": "logprobs"}),
            "chunking_strategy": {"const": "auto"},
            "stream": _BOOLEAN,
            **_HEARING,
            **_CUES,
        },
        ["model"],
    ),
    error=OPENAI_ERROR,
)
ALIGNMENTS = _route(
    "When the words of a known text were said",
    _json(
        _object(
            {
                "text": _STRING,
                "language": _nullable(_STRING),
                "duration": {"type": "number", "description": "Seconds of audio."},
                "words": _WORDS,
            }
        )
    ),
    body=_form(
        alignments.FILE_FIELD,
        {"text": _STRING, "language": _LANGUAGE, "model": _STRING, **_HEARING},
        ["text"],
    ),
    error=OPENAI_ERROR,
)
_AUDIO_PART = _object(
    {
        "type": {"const": "input_audio"},
        "input_audio": _object({"data": {"type": "string", "format": "byte"}, "format": _STRING}),
    }
)
_TEXT_PART = _object({"type": {"const": "text"}, "text": _STRING})
_CHOICE = _object({"index": _INTEGER, "message": {"type": "object"}, "finish_reason": _STRING})
CHAT_COMPLETIONS = _route(
    "OpenAI's chat completions: a recording in the messages, its transcript as the answer",
    {
        **_json(
            _object(
                {
                    "id": _STRING,
                    "object": {"const": "chat.completion"},
                    "created": _INTEGER,
                    "model": _STRING,
                    "choices": _list(_CHOICE),
                    "usage": {"type": "object"},
                }
            )
        ),
        "text/event-stream": {"schema": _STRING},
    },
    body=_json(
        _object(
            {
                "model": _STRING,
                "messages": _list(
                    minItems=1,
                    items=_object(
                        {
                            "role": {"enum": ["system", "developer", "user"]},
                            "content": {
                                "anyOf": [_STRING, _list({"anyOf": [_AUDIO_PART, _TEXT_PART]})]
                            },
                        }
                    ),
                ),
                "language": _nullable(_LANGUAGE),
                "stream": _nullable(_BOOLEAN),
                "temperature": _nullable(_TEMPERATURE),
                "n": _nullable({"const": 1}),
                "modalities": _nullable({"const": ["text"]}),
                "response_format": _nullable({"const": {"type": "text"}}),
                "stream_options": _nullable({"type": "object"}),
                **{name: {} for name in chat.IGNORED},
            },
            ["model", "messages"],
            additionalProperties=False,
        )
    ),
    error=OPENAI_ERROR,
)
OPENAI_MODELS = _route("Models, as OpenAI lists them", _json(_object(_OPENAI_LIST)))
OPENAI_MODEL = _route("One model, as OpenAI shows it", _json(_OPENAI_MODEL), error=OPENAI_ERROR)

_SESSION_FIELDS: Schema = {
    "id": _STRING,
    "object": {"const": "realtime.transcription_session"},
    "type": {"const": "transcription"},
    "expires_at": {"type": "integer"},
    "audio": _object({"input": _object({})}),
}
_SESSION = _object(_SESSION_FIELDS)
_SECRET: Schema = {"value": _STRING, "expires_at": {"type": "integer"}}
_SECONDS: Schema = {"type": "integer", "minimum": 10, "maximum": 7200}
CLIENT_SECRET = _route(
    "A short-lived key for a browser's live session",
    _json(_object({**_SECRET, "session": _SESSION})),
    body=_json(
        _object(
            {
                "expires_after": _nullable(_object({"seconds": _SECONDS}, [])),
                "session": {"type": ["object", "null"]},
            },
            [],
            additionalProperties=False,
        )
    ),
    error=OPENAI_ERROR,
    is_body_required=False,
)
TRANSCRIPTION_SESSION = _route(
    "The same, in the form it had before",
    _json(_object({**_SESSION_FIELDS, "client_secret": _object(_SECRET)})),
    body=_json(_object({}, [])),
    error=OPENAI_ERROR,
    is_body_required=False,
)
