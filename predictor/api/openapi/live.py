"""Short-lived keys for live sessions."""

from __future__ import annotations

from predictor.api.openapi.schema import (
    OPENAI_ERROR,
    STRING,
    Schema,
    json_content,
    nullable,
    object_of,
    route,
)

_SESSION_FIELDS: Schema = {
    "id": STRING,
    "object": {"const": "realtime.transcription_session"},
    "type": {"const": "transcription"},
    "expires_at": {"type": "integer"},
    "audio": object_of({"input": object_of({})}),
}
_SESSION = object_of(_SESSION_FIELDS)
_SECRET: Schema = {"value": STRING, "expires_at": {"type": "integer"}}
_SECONDS: Schema = {"type": "integer", "minimum": 10, "maximum": 7200}
CLIENT_SECRET = route(
    "A short-lived key for a browser's live session",
    json_content(object_of({**_SECRET, "session": _SESSION})),
    body=json_content(
        object_of(
            {
                "expires_after": nullable(object_of({"seconds": _SECONDS}, [])),
                "session": {"type": ["object", "null"]},
            },
            [],
            additionalProperties=False,
        )
    ),
    error=OPENAI_ERROR,
    is_body_required=False,
)
TRANSCRIPTION_SESSION = route(
    "The same, in the form it had before",
    json_content(object_of({**_SESSION_FIELDS, "client_secret": object_of(_SECRET)})),
    body=json_content(object_of({}, [])),
    error=OPENAI_ERROR,
    is_body_required=False,
)
