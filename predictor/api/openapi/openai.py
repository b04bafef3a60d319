"""OpenAI's routes, and alignments, which speak like them."""

from __future__ import annotations

from predictor.api import alignments, chat, openai
from predictor.api.forms import MAX_ITEMS
from predictor.api.openapi.fields import (
    CONTEXT,
    CUES,
    HEARING,
    LANGUAGE,
    MODEL,
    OPENAI_LIST_FIELDS,
    OPENAI_MODEL_FIELDS,
    WORDS,
)
from predictor.api.openapi.schema import (
    BOOLEAN,
    INTEGER,
    OPENAI_ERROR,
    STRING,
    Schema,
    form,
    json_content,
    list_of,
    nullable,
    object_of,
    route,
)

_TEMPERATURE: Schema = {
    "type": "number",
    "minimum": 0,
    "maximum": openai.MAX_TEMPERATURE,
    "description": "Decoding is greedy: above 0 it is named in x-ignored-fields.",
}
_SAID: Schema = {
    "type": "string",
    "format": "said",
    "pattern": "\\S",
    "description": "What is said in the recording.",
}
_TRANSCRIPTION = object_of({"text": STRING}, additionalProperties=True)

TRANSCRIPTIONS = route(
    "OpenAI's audio transcription",
    {
        **json_content(_TRANSCRIPTION),
        "text/plain": {"schema": STRING},
        "application/x-subrip": {"schema": STRING},
        "text/vtt": {"schema": STRING},
        "text/event-stream": {},
    },
    body=form(
        openai.FILE_FIELD,
        {
            "model": MODEL,
            "language": LANGUAGE,
            "prompt": CONTEXT,
            "response_format": {"type": "string", "enum": list(openai.FORMATS)},
            "temperature": _TEMPERATURE,
            openai.GRANULARITIES: list_of(
                {"enum": ["word", "segment"]},
                maxItems=MAX_ITEMS,
                description="With verbose_json only.",
            ),
            openai.INCLUDE: list_of(
                {"const": "logprobs"}, maxItems=MAX_ITEMS, description="With json only."
            ),
            "chunking_strategy": {"const": "auto"},
            "stream": {
                "enum": [True, False, *openai.BOOLEANS, ""],
                "description": "True with json and text only.",
            },
            **HEARING,
            **CUES,
        },
        ["model"],
    ),
    error=OPENAI_ERROR,
)
ALIGNMENTS = route(
    "When the words of a known text were said",
    json_content(
        object_of(
            {
                "text": STRING,
                "language": nullable(STRING),
                "duration": {"type": "number", "description": "Seconds of audio."},
                "words": WORDS,
            }
        )
    ),
    body=form(
        alignments.FILE_FIELD,
        {"text": _SAID, "language": LANGUAGE, "model": MODEL, **HEARING},
        ["text"],
    ),
    error=OPENAI_ERROR,
)
_AUDIO_PART = object_of(
    {
        "type": {"const": "input_audio"},
        "input_audio": object_of(
            {"data": {"type": "string", "format": "byte"}, "format": {}},
            ["data"],
            additionalProperties=False,
        ),
    }
)
_TEXT_PART = object_of({"type": {"const": "text"}, "text": STRING})
_TEXT_MESSAGE = object_of(
    {
        "role": {"enum": ["system", "developer", "user"]},
        "content": {"anyOf": [CONTEXT, list_of(_TEXT_PART)]},
        "name": {},
    },
    ["role", "content"],
    additionalProperties=False,
)
_AUDIO_MESSAGE = object_of(
    {
        "role": {"const": "user"},
        "content": list_of(
            {"anyOf": [_AUDIO_PART, _TEXT_PART]},
            contains=object_of({"type": {"const": "input_audio"}}),
            maxContains=1,
        ),
        "name": {},
    },
    ["role", "content"],
    additionalProperties=False,
)
_CHOICE = object_of({"index": INTEGER, "message": {"type": "object"}, "finish_reason": STRING})
CHAT_COMPLETIONS = route(
    "OpenAI's chat completions: a recording in the messages, its transcript as the answer",
    {
        **json_content(
            object_of(
                {
                    "id": STRING,
                    "object": {"const": "chat.completion"},
                    "created": INTEGER,
                    "model": STRING,
                    "choices": list_of(_CHOICE),
                    "usage": {"type": "object"},
                }
            )
        ),
        "text/event-stream": {},
    },
    body=json_content(
        object_of(
            {
                "model": MODEL,
                "messages": list_of(
                    minItems=1,
                    items={"anyOf": [_TEXT_MESSAGE, _AUDIO_MESSAGE]},
                    contains=_AUDIO_MESSAGE,
                    maxContains=1,
                ),
                "language": nullable(LANGUAGE),
                "stream": nullable(BOOLEAN),
                "temperature": nullable(_TEMPERATURE),
                "n": nullable({"const": 1}),
                "modalities": nullable({"const": ["text"]}),
                "response_format": nullable({"const": {"type": "text"}}),
                "stream_options": nullable({"type": "object"}),
                **{name: {} for name in chat.IGNORED},
            },
            ["model", "messages"],
            additionalProperties=False,
        )
    ),
    error=OPENAI_ERROR,
)
OPENAI_MODELS = route("Models, as OpenAI lists them", json_content(object_of(OPENAI_LIST_FIELDS)))
OPENAI_MODEL = route(
    "One model, as OpenAI shows it", json_content(OPENAI_MODEL_FIELDS), error=OPENAI_ERROR
)
