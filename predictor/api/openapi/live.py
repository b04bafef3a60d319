"""Short-lived keys for live sessions."""

from __future__ import annotations

from predictor.api.client_secrets import ANCHOR, MAX_S, MIN_S
from predictor.api.openapi.fields import CONTEXT, LANGUAGE, MODEL
from predictor.api.openapi.schema import (
    OPENAI_ERROR,
    STRING,
    Schema,
    json_content,
    list_of,
    nullable,
    object_of,
    route,
)
from predictor.api.realtime_config import (
    DELAYS,
    FORMATS,
    LEGACY_FORMATS,
    LOGPROBS,
    MAX_KEYWORDS,
    UNUSABLE,
)
from predictor.live.intake import MAX_RATE_HZ, MIN_RATE_HZ

_SESSION_FIELDS: Schema = {
    "id": STRING,
    "object": {"const": "realtime.transcription_session"},
    "type": {"const": "transcription"},
    "expires_at": {"type": "integer"},
    "audio": object_of({"input": object_of({})}),
}
_SESSION = object_of(_SESSION_FIELDS)
_SECRET: Schema = {"value": STRING, "expires_at": {"type": "integer"}}
_SECONDS: Schema = {"type": "integer", "minimum": MIN_S, "maximum": MAX_S}


def _settings(fields: Schema) -> Schema:
    """An object all of whose fields may be left out or null."""
    given = {name: nullable(schema) for name, schema in fields.items()}
    return object_of(given, [], additionalProperties=False)


_INCLUDE = list_of({"const": LOGPROBS})
_TRANSCRIPTION = _settings(
    {
        "model": MODEL,
        "language": LANGUAGE,
        "languages": list_of(LANGUAGE, maxItems=1),
        "prompt": CONTEXT,
        "keywords": list_of(CONTEXT, maxItems=MAX_KEYWORDS),
        "delay": {"enum": list(DELAYS)},
    }
)
_RATE: Schema = {"type": "integer", "minimum": MIN_RATE_HZ, "maximum": MAX_RATE_HZ}
_FORMAT = object_of(
    {"type": {"enum": list(FORMATS)}, "rate": nullable(_RATE)}, [], additionalProperties=False
)
_NOISE = object_of({"type": {"enum": ["near_field", "far_field"]}}, additionalProperties=False)
_TURNS = object_of(
    {
        "type": {"const": "server_vad"},
        "threshold": nullable({"type": "number", "minimum": 0, "maximum": 1}),
        "prefix_padding_ms": nullable({"type": "number", "minimum": 0, "maximum": 2000}),
        "silence_duration_ms": nullable({"type": "number", "minimum": 100, "maximum": 5000}),
        **{name: {"enum": [None, False]} for name in UNUSABLE},
    },
    [],
    additionalProperties=False,
)
_INPUT = {"transcription": _TRANSCRIPTION, "noise_reduction": _NOISE, "turn_detection": _TURNS}
_SESSION_GIVEN = object_of(
    {
        "type": {"const": "transcription"},
        "audio": nullable(_settings({"input": _settings({"format": _FORMAT, **_INPUT})})),
        "include": nullable(_INCLUDE),
        "final_redecode": {"type": "boolean"},
        **{name: {} for name in ("id", "object", "expires_at")},
    },
    [],
    additionalProperties=False,
)
_LEGACY_GIVEN = object_of(
    {
        "input_audio_format": nullable({"enum": list(LEGACY_FORMATS)}),
        "include": nullable(_INCLUDE),
        "modalities": {},
        "client_secret": {},
        **{
            name if name == "turn_detection" else f"input_audio_{name}": nullable(schema)
            for name, schema in _INPUT.items()
        },
    },
    [],
    additionalProperties=False,
)
CLIENT_SECRET = route(
    "A short-lived key for a browser's live session",
    json_content(object_of({**_SECRET, "session": _SESSION})),
    body=json_content(
        object_of(
            {
                "expires_after": nullable(
                    object_of(
                        {"anchor": {"const": ANCHOR}, "seconds": _SECONDS},
                        [],
                        additionalProperties=False,
                    )
                ),
                "session": nullable(_SESSION_GIVEN),
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
    body=json_content(_LEGACY_GIVEN),
    error=OPENAI_ERROR,
    is_body_required=False,
)
