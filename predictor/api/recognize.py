"""`POST /api/v1/recognize`: a recording in, four plain fields out."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from predictor.api.details import details
from predictor.api.forms import read_form
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.words import WORDS_FIELD, read_words, words_json
from predictor.service.calls import Call, Recording
from predictor.text.languages import parse_language
from predictor.types import Transcription

FILE_FIELD = "audio"
FIELDS = ("language", "context", WORDS_FIELD, *HEARING_FIELDS)


async def recognize_call(request: Request, *, with_details: bool) -> Call:
    """The call of a request. Raises InvalidInput and UnsupportedMedia.

    `with_details` adds a fifth field, `details`, to the answer.
    """
    form = await read_form(request, FILE_FIELD, FIELDS)
    recording = Recording(
        data=form.data,
        content_type=form.content_type,
        field=FILE_FIELD,
        language=parse_language(form.fields.get("language")),
        context=form.fields.get("context", ""),
        hearing=read_hearing(form.fields),
        with_words=read_words(form.fields),
    )
    return Call("recognize", (recording,), _render_details if with_details else _render)


def _render(answers: list[Transcription]) -> dict[str, Any]:
    [answer] = answers
    return {
        "text": answer.text,
        "confidence": answer.confidence,
        "language": answer.language,
        "duration": answer.duration_s,
        **({} if answer.words is None else {"words": words_json(answer.words)}),
    }


def _render_details(answers: list[Transcription]) -> dict[str, Any]:
    return {**_render(answers), "details": details(answers[0])}
