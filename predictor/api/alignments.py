"""`POST /v1/audio/alignments`: a recording and what was said in it in, words with times out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from starlette.requests import Request

from predictor.api.forms import read_form
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.words import words_json
from predictor.errors import InvalidInput
from predictor.service.calls import Call, Recording
from predictor.text.languages import parse_language
from predictor.types import Transcription

FILE_FIELD = "file"
FIELDS = ("text", "language", "model", *HEARING_FIELDS)


async def alignment_call(request: Request) -> Call:
    """The call of a request. Raises InvalidInput and UnsupportedMedia."""
    form = await read_form(request, FILE_FIELD, FIELDS)
    text = form.fields.get("text", "").strip()
    if not text:
        raise InvalidInput("text: this field is required, what was said", field="text")
    hearing = read_hearing(form.fields)
    if hearing.channel == "separate":
        raise InvalidInput(
            "channel: a text belongs to one channel, separate ones have several",
            field="channel",
            value="separate",
            limit="mix, or a channel's number from 0",
        )
    if hearing.channel is None:
        hearing = replace(hearing, channel="mix")
    recording = Recording(
        data=form.data,
        content_type=form.content_type,
        field=FILE_FIELD,
        language=parse_language(form.fields.get("language")),
        hearing=hearing,
        said=text,
    )
    return Call("openai", (recording,), _render)


def _render(answers: list[Transcription]) -> dict[str, Any]:
    [answer] = answers
    return {
        "text": answer.text,
        "language": answer.language,
        "duration": answer.duration_s,
        "words": words_json(answer.words or ()),
    }
