"""OpenAI's audio transcription API: the request as its clients send it, the answer in every format.

What this server cannot do is refused with OpenAI's error body; the few fields that are taken and
change nothing are named in the header `x-ignored-fields`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import orjson
from starlette.requests import Request

from predictor.api.cues import CUE_LIMITS, read_cues
from predictor.api.forms import Form, read_form
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.openai_answers import ResponseFormat, TokenBytes, renderer
from predictor.errors import InvalidInput, NotFound
from predictor.service.calls import Call, Recording
from predictor.text.cue_lines import USUAL, SubtitleOptions
from predictor.text.languages import parse_language

FORMATS: tuple[ResponseFormat, ...] = get_args(ResponseFormat)
SUBTITLES: tuple[ResponseFormat, ...] = ("srt", "vtt")
FILE_FIELD = "file"
GRANULARITIES = "timestamp_granularities[]"
INCLUDE = "include[]"
JOB_FIELDS: Final = ("url", "webhook")
MAX_TEMPERATURE: Final = 2.0
_UNBRACKETED: Final = {"timestamp_granularities": GRANULARITIES, "include": INCLUDE}
_CHUNKING: Final = "chunking_strategy"
_CHUNKING_PARTS: Final = ("type", "prefix_padding_ms", "silence_duration_ms", "threshold")
FIELDS = (
    "model",
    "language",
    "prompt",
    "response_format",
    "temperature",
    "stream",
    *_UNBRACKETED,
    *_UNBRACKETED.values(),
    _CHUNKING,
    *(f"{_CHUNKING}[{part}]" for part in _CHUNKING_PARTS),
    *HEARING_FIELDS,
    *CUE_LIMITS,
)
BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class OpenAICall:
    """The call, whether its answer is streamed, and the fields that changed nothing."""

    call: Call
    stream: bool
    response_format: ResponseFormat = "json"
    with_logprobs: bool = False
    granularities: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    cues: SubtitleOptions = USUAL
    url: str = ""  # of a job
    webhook: str = ""


async def openai_call(
    request: Request,
    served_names: Sequence[str],
    token_bytes: TokenBytes,
    usual_cues: SubtitleOptions,
    *,
    is_job: bool = False,
) -> OpenAICall:
    """Read a transcription request. Raises InvalidInput, NotFound, UnsupportedMedia.

    `is_job`: it may have the fields of `JOB_FIELDS`, and a `url` instead of a file.
    """
    known = (*FIELDS, *JOB_FIELDS) if is_job else FIELDS
    form = _without_empty(await read_form(request, FILE_FIELD, known, needs_file=not is_job))
    fields = form.fields
    check_model(fields.get("model"), served_names)
    response_format = format_of(fields.get("response_format", "json"))
    granularities = form.lists.get(GRANULARITIES, [])
    _check_granularities(granularities, response_format)
    with_logprobs = _include_logprobs(form.lists.get(INCLUDE, []), response_format)
    stream = _stream(fields.get("stream", "false"), response_format)
    ignored = [
        *(["temperature"] if temperature_of(fields.get("temperature")) else []),
        *([_CHUNKING] if _chunking_has_numbers(fields) else []),
    ]
    recording = Recording(
        data=form.data,
        content_type=form.content_type,
        field=FILE_FIELD,
        language=parse_language(fields.get("language")),
        context=fields.get("prompt", ""),
        context_field="prompt",
        hearing=read_hearing(fields),
        with_words="word" in granularities,
        words_field=GRANULARITIES,
        for_cues=response_format in SUBTITLES,
    )
    scored = token_bytes if with_logprobs else None
    cues = read_cues(fields, usual_cues)
    render = renderer(response_format, scored, granularities, cues)
    call = Call("openai", (recording,), render)
    return OpenAICall(
        call,
        stream,
        response_format,
        with_logprobs,
        tuple(granularities),
        tuple(ignored),
        cues,
        *(fields.get(name, "").strip() for name in JOB_FIELDS),
    )


def check_model(given: object, served_names: Sequence[str]) -> None:
    """Raises InvalidInput when it is missing, NotFound for another model."""
    if given is None or not isinstance(given, str):
        raise InvalidInput("model: this field is required", field="model", limit=list(served_names))
    if given not in served_names:
        raise NotFound(f"model: {given[:60]!r} is not served here, {served_names[0]!r} is")


def temperature_of(given: object) -> float:
    """The temperature, 0 when none is given: decoding is greedy, so another one changes nothing.

    Raises InvalidInput for what OpenAI would refuse as well.
    """
    if given is None:
        return 0.0
    try:
        temperature = float(given) if isinstance(given, str | int | float) else -1.0
    except ValueError:
        temperature = -1.0
    if not 0.0 <= temperature <= MAX_TEMPERATURE or isinstance(given, bool):
        raise InvalidInput(
            f"temperature: must be a number from 0 to {MAX_TEMPERATURE:g}",
            field="temperature",
            limit=MAX_TEMPERATURE,
        )
    return temperature


def _without_empty(form: Form) -> Form:
    """An optional field that is empty is absent; a list is one with brackets and without."""
    fields = {name: text for name, text in form.fields.items() if text.strip()}
    lists = {name: [t for t in texts if t.strip()] for name, texts in form.lists.items()}
    for plain, bracketed in _UNBRACKETED.items():
        for text in lists.pop(plain, []):
            lists.setdefault(bracketed, []).extend(_listed(text))
    return Form(form.data, form.content_type, fields, lists)


def _listed(text: str) -> list[str]:
    """`segment`, `segment,word` or `["segment"]`."""
    return [word.strip(" \"'") for word in text.strip(" []").split(",")]


def format_of(given: str, field: str = "response_format") -> ResponseFormat:
    """The answer's form of that name. Raises InvalidInput, naming `field`."""
    for known in FORMATS:
        if given == known:
            return known
    raise InvalidInput(
        f"{field}: {given[:60]!r} is not supported, choose one of {', '.join(FORMATS)}",
        field=field,
        value=given[:60],
        limit=list(FORMATS),
    )


def _check_granularities(granularities: list[str], response_format: ResponseFormat) -> None:
    for granularity in granularities:
        if granularity not in ("word", "segment"):
            raise InvalidInput(
                f"{GRANULARITIES}: {granularity[:60]!r} is not supported, word and segment are",
                field=GRANULARITIES,
                value=granularity[:60],
                limit=["word", "segment"],
            )
    if granularities and response_format != "verbose_json":
        raise InvalidInput(
            f"{GRANULARITIES}: needs response_format verbose_json", field=GRANULARITIES
        )


def _include_logprobs(include: list[str], response_format: ResponseFormat) -> bool:
    for name in include:
        if name != "logprobs":
            raise InvalidInput(
                f"{INCLUDE}: {name[:60]!r} is not supported, only 'logprobs' is",
                field=INCLUDE,
                value=name[:60],
                limit=["logprobs"],
            )
    if include and response_format != "json":
        raise InvalidInput(f"{INCLUDE}: logprobs needs response_format json", field=INCLUDE)
    return bool(include)


def _chunking_has_numbers(fields: dict[str, str]) -> bool:
    """Whether the recording is to be cut by numbers of the caller's, which changes nothing here:
    long recordings are cut where it is quiet. Raises InvalidInput for another strategy."""
    given = fields.get(_CHUNKING, "auto")
    parts: object = {
        part: fields[f"{_CHUNKING}[{part}]"]
        for part in _CHUNKING_PARTS
        if f"{_CHUNKING}[{part}]" in fields
    }
    if not parts and given.startswith("{"):
        try:
            parts = orjson.loads(given)
        except orjson.JSONDecodeError:
            parts = None
    elif not parts and given == "auto":
        return False
    if not isinstance(parts, dict) or parts.get("type") != "server_vad":
        raise InvalidInput(
            f"{_CHUNKING}: must be auto or an object of type server_vad", field=_CHUNKING
        )
    if unknown := set(parts) - set(_CHUNKING_PARTS):
        raise InvalidInput(f"{_CHUNKING}: unknown field {min(unknown)[:60]!r}", field=_CHUNKING)
    return len(parts) > 1


def _stream(given: str, response_format: ResponseFormat) -> bool:
    stream = BOOLEANS.get(given.strip().lower())
    if stream is None:
        raise InvalidInput("stream: must be true or false", field="stream", value=given[:60])
    if stream and response_format not in ("json", "text"):
        raise InvalidInput(
            f"stream: works with response_format json and text, not {response_format}",
            field="stream",
            limit=["json", "text"],
        )
    return stream
