"""Fields of bodies and answers that several protocols share."""

from __future__ import annotations

from typing import get_args

from predictor.api.cues import CUE_LIMITS
from predictor.api.hearing import NUMBERS
from predictor.api.openapi.schema import (
    INTEGER,
    NUMBER,
    STRING,
    Schema,
    list_of,
    nullable,
    object_of,
)
from predictor.api.tensors import MAX_DRAFT_CHARS
from predictor.audio.limits import Vad

LANGUAGE: Schema = {
    "type": "string",
    "format": "language",
    "description": 'Name, code or tag such as "English", "en", "en-US"; "auto" detects.',
}
MODEL: Schema = {
    "type": "string",
    "format": "model",
    "minLength": 1,
    "description": "The model's name or one of its aliases.",
}
CONTEXT: Schema = {
    "type": "string",
    "description": "Hot words or any text that helps.",
}


DRAFT: Schema = {
    "type": "string",
    "maxLength": MAX_DRAFT_CHARS,
    "description": "What may be said: with a language, an answer that agrees comes sooner. The "
    "answer is the same whatever stands here.",
}
_WHICH: list[Schema] = [
    {"type": "string", "pattern": "^[0-9]{1,2}$"},
    {"type": "integer", "minimum": 0, "maximum": 63},
]


def _in_place(low: float, high: float, kind: str = "number") -> Schema:
    """Of a number in place of the setting of the same name."""
    return {
        "anyOf": [{"type": kind, "minimum": low, "maximum": high}, {"const": ""}],
        "description": "In place of the setting of this name.",
    }


HEARING: Schema = {
    "channel": {
        "anyOf": [{"enum": ["mix", "separate", ""]}, *_WHICH],
        "description": "mix, separate, or a channel's number from 0; as the settings say without.",
    },
    "track": {"anyOf": [{"const": ""}, *_WHICH], "description": "An audio track's number from 0."},
    "vad": {"type": "string", "enum": [*get_args(Vad), ""], "description": "What finds speech."},
    **{name: _in_place(*bounds) for name, bounds in NUMBERS.items()},
}
CUES: Schema = {
    name: _in_place(*bounds, "number" if name.endswith("_s") else "integer")
    for name, bounds in CUE_LIMITS.items()
}
_WORDS_WANTED: Schema = {
    "words": {
        "enum": [True, False, "true", "false", ""],
        "description": "true adds words with their times.",
    }
}
WORDS = list_of(
    object_of(
        {
            "word": STRING,
            "start": {"type": "number", "description": "Seconds into the recording."},
            "end": NUMBER,
            "confidence": {"type": "number", "minimum": 0, "maximum": 1},
        },
        ["word", "start", "end"],
        additionalProperties=False,
    )
)
ASKED: Schema = {**_WORDS_WANTED, **HEARING}
_FINISH = {"type": "string", "enum": ["stop", "length", "repetition", "silence"]}
_SEGMENT_REQUIRED = [
    "id", "start", "end", "text", "language", "confidence", "avg_logprob", "finish_reason"
]  # fmt: skip
_DETAIL_FIELDS: Schema = {
    "finish_reason": _FINISH,
    "num_repeats_removed": INTEGER,
    "notes": list_of(STRING),
    "segments": list_of(
        object_of(
            {
                "id": INTEGER,
                "start": NUMBER,
                "end": NUMBER,
                "text": STRING,
                "language": nullable(STRING),
                "confidence": NUMBER,
                "avg_logprob": NUMBER,
                "finish_reason": _FINISH,
                "channel": INTEGER,
            },
            _SEGMENT_REQUIRED,
        )
    ),
    "usage": object_of(
        {
            "num_audio_tokens": INTEGER,
            "num_prompt_tokens": INTEGER,
            "num_completion_tokens": INTEGER,
        }
    ),
}
DETAILS_REQUIRED = list(_DETAIL_FIELDS)
DETAILS: Schema = {**_DETAIL_FIELDS, "words": WORDS}
ANSWER: Schema = {
    "text": STRING,
    "language": nullable(STRING),
    "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    "duration": {"type": "number", "description": "Seconds of audio."},
}
TENSOR = object_of({"name": STRING, "datatype": STRING, "shape": list_of(INTEGER)})
OPENAI_MODEL_FIELDS = object_of(
    {"id": STRING, "object": {"const": "model"}, "created": INTEGER, "owned_by": STRING}
)
OPENAI_LIST_FIELDS: Schema = {"object": {"const": "list"}, "data": list_of(OPENAI_MODEL_FIELDS)}
BINARY: Schema = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
