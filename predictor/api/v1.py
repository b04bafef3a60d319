"""KServe's V1 protocol: `instances` in JSON, or one recording as the raw body.

`{"instances": [{"audio": {"b64": ...}, "language": ..., "context": ...}]}` answers
`{"predictions": [{"text", "language", "confidence", "duration", ...}]}`; a raw body gives one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from predictor.api.details import details
from predictor.api.hearing import HEARING_FIELDS, read_hearing
from predictor.api.json_body import SMALL_BODY_BYTES, LongText, decode_base64, load_json
from predictor.api.media import checked_content_type, media_type
from predictor.api.reading import SEARCHED_BYTES
from predictor.api.tensors import checked_draft, refuse_unknown
from predictor.api.words import WORDS_FIELD, read_words
from predictor.audio.file_part import MappedFile
from predictor.errors import InvalidInput, UnsupportedMedia
from predictor.service.calls import Call, Recording
from predictor.text.languages import parse_language
from predictor.types import Transcription

_JSON_TYPES = ("", "application/json")
_RAW_TYPES = ("application/octet-stream", "application/ogg", "application/mp4")
_TEXT_FIELDS = ("language", "context", "draft")
_FIELDS = (*_TEXT_FIELDS, WORDS_FIELD, *HEARING_FIELDS)


def small_body(content_type: str | None) -> int:
    """Bytes of a body that are read at once in the event loop: of audio only the head is looked
    at."""
    return SMALL_BODY_BYTES if media_type(content_type) in _JSON_TYPES else SEARCHED_BYTES


def v1_call(
    body: bytes | bytearray | MappedFile,
    content_type: str | None,
    query: Mapping[str, str],
    max_items: int,
) -> Call:
    """The call of a `:predict` request. Raises InvalidInput and UnsupportedMedia."""
    kind = media_type(content_type)
    if kind in _JSON_TYPES:
        refuse_unknown(query, (), "query of a JSON body")
        return Call("v1", _instances(load_json(memoryview(body)), max_items), _render, indexed=True)
    if kind.startswith(("audio/", "video/")) or kind in _RAW_TYPES:
        content_type = checked_content_type(content_type)
        recording = _recording(
            query, data=memoryview(body), content_type=content_type, place="query"
        )
        return Call("v1", (recording,), _render)
    raise UnsupportedMedia(
        f"content-type: {kind[:60]!r} is not accepted, send application/json, audio/*, "
        "video/* or application/octet-stream",
        field="content-type",
        value=kind[:60],
        limit=[*_JSON_TYPES[1:], "audio/*", "video/*", *_RAW_TYPES],
    )


def _instances(content: Mapping[str, Any], max_items: int) -> tuple[Recording, ...]:
    refuse_unknown(content, ("instances",), "body")
    instances = content.get("instances")
    if not isinstance(instances, list):
        raise InvalidInput("instances: must be a list", field="instances")
    if not 1 <= len(instances) <= max_items:
        raise InvalidInput(
            f"instances: {len(instances)} recordings, the limit is 1 to {max_items}",
            field="instances",
            value=len(instances),
            limit=max_items,
        )
    recordings = []
    for index, instance in enumerate(instances):
        try:
            recordings.append(_instance(instance))
        except InvalidInput as error:
            raise error.at(index) from error
    return tuple(recordings)


def _instance(instance: object) -> Recording:
    if not isinstance(instance, dict):
        raise InvalidInput("must be an object with audio", field="instances")
    refuse_unknown(instance, ("audio", *_FIELDS), "instance")
    audio = instance.get("audio")
    b64 = audio.get("b64") if isinstance(audio, dict) and len(audio) == 1 else None
    if not isinstance(b64, str | LongText):
        raise InvalidInput('audio: must be {"b64": "<base64 of the recording>"}', field="audio")
    texts = {key: _plain(instance[key], key) for key in _FIELDS if key in instance}
    data = decode_base64(b64, field="audio")
    return _recording(texts, data=data, content_type=None, place="instance")


def _plain(value: object, key: str) -> object:
    return value.text(field=key) if isinstance(value, LongText) else value


def _recording(
    texts: Mapping[str, Any], *, data: bytes | memoryview, content_type: str | None, place: str
) -> Recording:
    refuse_unknown(texts, _FIELDS, place)
    for key in _TEXT_FIELDS:
        value = texts.get(key)
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"{key}: must be a string", field=key)
    return Recording(
        data=data,
        content_type=content_type,
        language=parse_language(texts.get("language")),
        context=texts.get("context") or "",
        draft=checked_draft(texts.get("draft") or ""),
        hearing=read_hearing(texts),
        with_words=read_words(texts),
    )


def _render(answers: list[Transcription]) -> dict[str, Any]:
    return {
        "predictions": [
            {
                "text": answer.text,
                "language": answer.language,
                "confidence": answer.confidence,
                "duration": answer.duration_s,
                **details(answer),
            }
            for answer in answers
        ]
    }
