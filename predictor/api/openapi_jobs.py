"""What the OpenAPI document says of the routes of jobs."""

from __future__ import annotations

from typing import Any

from predictor.api import openai
from predictor.api.openapi import OPENAI_ERROR, TRANSCRIPTIONS

Schema = dict[str, Any]

_STRING: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_MAY_BE_NULL: Schema = {"type": ["integer", "null"]}


def _object(properties: Schema, required: list[str] | None = None) -> Schema:
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_JOB: Schema = {
    "id": _STRING,
    "object": {"const": "transcription.job"},
    "status": {"type": "string", "enum": ["queued", "running", "done", "failed"]},
    "model": _STRING,
    "created_at": _INTEGER,
    "ended_at": _MAY_BE_NULL,
    "expires_at": _MAY_BE_NULL,
    "bytes": _INTEGER,
    "progress": _object({"done_s": _NUMBER, "duration_s": {"type": ["number", "null"]}}),
    "response_format": {"type": "string", "enum": list(openai.FORMATS)},
    "error": {
        "anyOf": [
            _object({"message": _STRING, "code": _STRING, "param": {"type": ["string", "null"]}}),
            {"type": "null"},
        ]
    },
}
_SEGMENT = _object(
    {
        "id": _INTEGER,
        "start": _NUMBER,
        "end": _NUMBER,
        "text": _STRING,
        "language": {"type": ["string", "null"]},
        "confidence": _NUMBER,
        "channel": _INTEGER,
    },
    ["id", "start", "end", "text", "language", "confidence"],
)


def _route(
    summary: str, content: Schema, *, status: int = 200, extra: Schema | None = None
) -> dict[str, Any]:
    error = {"application/json": {"schema": OPENAI_ERROR}}
    return {
        "summary": summary,
        "status_code": status,
        "responses": {
            status: {"description": "OK", "content": content},
            "default": {"description": "Any error of the table", "content": error},
        },
        "openapi_extra": extra or {},
    }


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _form() -> Schema:
    """The transcription's, which a job does not stream."""
    body: Schema = TRANSCRIPTIONS["openapi_extra"]["requestBody"]
    [(media_type, content)] = body["content"].items()
    schema = content["schema"]
    properties = {
        **schema["properties"],
        "stream": {"enum": [False, "false", "0"]},
        "url": {"type": "string", "description": "In place of the file, where the server may."},
        "webhook": {"type": "string", "description": "Told of the end of the job."},
    }
    needed = [name for name in schema["required"] if name != openai.FILE_FIELD]
    schema = {**schema, "properties": properties, "required": needed}
    return {"required": True, "content": {media_type: {"schema": schema}}}


CREATE = _route(
    "Store a recording, to be transcribed when there is room",
    _json(_object(_JOB)),
    status=202,
    extra={"requestBody": _form()},
)
JOBS = _route(
    "The caller's jobs, newest first",
    _json(
        _object({"object": {"const": "list"}, "data": {"type": "array", "items": _object(_JOB)}})
    ),
)
JOB = _route(
    "How far a job is, and the segments so far",
    _json(
        _object(
            {
                **_JOB,
                "webhook": {"type": "string", "enum": ["pending", "delivered", "failed"]},
                "segments": _list(_SEGMENT),
            },
            [*_JOB, "segments"],
        )
    ),
)
DELETE = _route(
    "Forget a job, whatever its state",
    _json(
        _object(
            {
                "id": _STRING,
                "object": {"const": "transcription.job"},
                "deleted": {"const": True},
            }
        )
    ),
)
RESULT = _route(
    "The answer of a job that is done, in the form it was asked for or in another",
    {
        **_json({"type": "object", "properties": {"text": _STRING}, "required": ["text"]}),
        "text/plain": {"schema": _STRING},
        "application/x-subrip": {"schema": _STRING},
        "text/vtt": {"schema": _STRING},
    },
    extra={
        "parameters": [
            {
                "name": "format",
                "in": "query",
                "schema": {"type": "string", "enum": list(openai.FORMATS)},
            }
        ]
    },
)
