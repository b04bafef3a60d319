"""Transcription by a running service, over OpenAI's route. The standard library is all it needs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
import uuid
from types import TracebackType
from typing import Any, Final, Self

from predictor.cli.errors import CliError
from predictor.cli.recognizer import RecordingError
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language
from predictor.types import Segment, Transcription, Usage

_RETRIED: Final = (429, 502, 503, 504)
_MAX_TRIES: Final = 20
_MAX_PAUSE_S: Final = 60.0


class RemoteRecognizer:
    """Asks `url`; what says "later" (429, 503) is asked again when it says."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str | None,
        language: str | None,
        context: str,
        timeout_s: float,
    ) -> None:
        """Raises CliError for what is no address."""
        if not url.startswith(("http://", "https://")):
            raise CliError(f"--url {url}: must start with http:// or https://")
        self._url = url.rstrip("/") + "/v1/audio/transcriptions"
        self._fields = {"model": model, "response_format": "verbose_json"}
        if language is not None:
            self._fields["language"] = language
        if context:
            self._fields["prompt"] = context
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is kept open."""

    def transcribe(self, data: bytes, name: str) -> Transcription:
        """The answer for an encoded recording. Raises RecordingError."""
        body, content_type = _form(self._fields, data, name)
        headers = {**self._headers, "Content-Type": content_type}
        for attempt in range(_MAX_TRIES):
            request = urllib.request.Request(self._url, body, headers)  # noqa: S310  # checked
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
                    return _read(json.load(response))
            except urllib.error.HTTPError as error:
                if error.code not in _RETRIED or attempt + 1 == _MAX_TRIES:
                    raise RecordingError(_said(error)) from error
                time.sleep(_pause_s(error.headers.get("retry-after"), attempt))
            except (OSError, ValueError) as error:
                raise RecordingError(f"no answer from {self._url}: {error}") from error
        raise AssertionError("the last attempt returns or raises")


def _pause_s(retry_after: str | None, attempt: int) -> float:
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _MAX_PAUSE_S)
    return min(0.5 * 2.0**attempt, _MAX_PAUSE_S)


def _said(error: urllib.error.HTTPError) -> str:
    """The message in OpenAI's error body, or the status alone."""
    try:
        return f"HTTP {error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError, OSError):
        return f"HTTP {error.code}"


def _form(fields: dict[str, str], data: bytes, name: str) -> tuple[bytes, str]:
    """multipart/form-data, and its content type."""
    boundary = uuid.uuid4().hex
    safe_name = "".join(c if c.isprintable() and c not in '"\\' else "_" for c in name)
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    )
    head += (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{safe_name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def _read(answer: dict[str, Any]) -> Transcription:
    """OpenAI's verbose answer; what another server does not say is left empty."""
    said = answer.get("language") or None
    try:
        language = parse_language(said)  # OpenAI writes them in small letters
    except InvalidInput:
        language = said
    segments = tuple(
        Segment(
            id=index,
            start_s=float(segment["start"]),
            end_s=float(segment["end"]),
            text=str(segment["text"]),
            language=language,
            confidence=float(segment.get("confidence") or 0.0),
            avg_logprob=float(segment.get("avg_logprob") or 0.0),
            finish_reason=segment.get("finish_reason", "stop"),
            channel=segment.get("channel"),
        )
        for index, segment in enumerate(answer.get("segments") or ())
    )
    return Transcription(
        text=str(answer["text"]),
        language=language,
        confidence=float(answer.get("confidence") or 0.0),
        duration_s=float(answer.get("duration") or 0.0),
        finish_reason=answer.get("finish_reason", "stop"),
        usage=Usage(0, 0, 0),
        segments=segments,
    )
