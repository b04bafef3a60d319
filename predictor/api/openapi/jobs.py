"""The routes of jobs."""

from __future__ import annotations

from typing import Any

from predictor.api import openai
from predictor.api.openapi.openai import TRANSCRIPTIONS
from predictor.api.openapi.schema import (
    INTEGER,
    NUMBER,
    OPENAI_ERROR,
    STRING,
    Schema,
    json_content,
    list_of,
    nullable,
    object_of,
)

_JOB: Schema = {
    "id": STRING,
    "object": {"const": "transcription.job"},
    "status": {"type": "string", "enum": ["queued", "running", "done", "failed"]},
    "model": STRING,
    "created_at": INTEGER,
    "ended_at": nullable(INTEGER),
    "expires_at": nullable(INTEGER),
    "bytes": INTEGER,
    "progress": object_of({"done_s": NUMBER, "duration_s": {"type": ["number", "null"]}}),
    "response_format": {"type": "string", "enum": list(openai.FORMATS)},
    "error": {
        "anyOf": [
            object_of({"message": STRING, "code": STRING, "param": {"type": ["string", "null"]}}),
            {"type": "null"},
        ]
    },
}
_SEGMENT = object_of(
    {
        "id": INTEGER,
        "start": NUMBER,
        "end": NUMBER,
        "text": STRING,
        "language": {"type": ["string", "null"]},
        "confidence": NUMBER,
        "channel": INTEGER,
    },
    ["id", "start", "end", "text", "language", "confidence"],
)


def _job_route(
    summary: str, content: Schema, *, status: int = 200, extra: Schema | None = None
) -> dict[str, Any]:
    error = json_content(OPENAI_ERROR)
    return {
        "summary": summary,
        "status_code": status,
        "responses": {
            status: {"description": "OK", "content": content},
            "default": {"description": "Any error of the table", "content": error},
        },
        "openapi_extra": extra or {},
    }


def _job_form() -> Schema:
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


CREATE = _job_route(
    "Store a recording, to be transcribed when there is room",
    json_content(object_of(_JOB)),
    status=202,
    extra={"requestBody": _job_form()},
)
JOBS = _job_route(
    "The caller's jobs, newest first",
    json_content(
        object_of(
            {"object": {"const": "list"}, "data": {"type": "array", "items": object_of(_JOB)}}
        )
    ),
)
JOB = _job_route(
    "How far a job is, and the segments so far",
    json_content(
        object_of(
            {
                **_JOB,
                "webhook": {"type": "string", "enum": ["pending", "delivered", "failed"]},
                "segments": list_of(_SEGMENT),
            },
            [*_JOB, "segments"],
        )
    ),
)
DELETE = _job_route(
    "Forget a job, whatever its state",
    json_content(
        object_of(
            {
                "id": STRING,
                "object": {"const": "transcription.job"},
                "deleted": {"const": True},
            }
        )
    ),
)
RESULT = _job_route(
    "The answer of a job that is done, in the form it was asked for or in another",
    {
        **json_content({"type": "object", "properties": {"text": STRING}, "required": ["text"]}),
        "text/plain": {"schema": STRING},
        "application/x-subrip": {"schema": STRING},
        "text/vtt": {"schema": STRING},
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
