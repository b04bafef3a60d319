"""Transcription by a running service, over OpenAI's route. The standard library is all it needs."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
import uuid
from types import TracebackType
from typing import Any, Final, Self

from predictor.cli.arguments import API_KEY_ENV
from predictor.cli.errors import FAILED, CliError
from predictor.cli.recognizer import RecordingError, Told
from predictor.errors import InvalidInput
from predictor.text.languages import parse_language
from predictor.types import Segment, Transcription, Usage

_RETRIED: Final = (429, 502, 503, 504)
_OF_ALL: Final = (401, 403, 404, 405)  # what one recording is answered with, all would be
_LOOK_S: Final = 10.0
# What is not an answer: nobody there, no HTTP, an answer that breaks off.
_NO_ANSWER: Final = (OSError, http.client.HTTPException)
_MAX_TRIES: Final = 20
_MAX_PAUSE_S: Final = 60.0


class RemoteRecognizer:
    """Asks the service at `url`; what says "later" (429, 503) is asked again when it says."""

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
        """`url` has no slash at its end. S310 below warns of file: addresses: `service_url`, the
        argument's type, takes http and https only."""
        self._base = url
        self._url = url + "/v1/audio/transcriptions"
        self._fields = {"model": model, "response_format": "verbose_json"}
        if language is not None:
            self._fields["language"] = language
        if context:
            self._fields["prompt"] = context
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        """Raises CliError where nobody answers at all, before any recording is read."""
        try:
            urllib.request.urlopen(f"{self._base}/v1/models", timeout=_LOOK_S).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()  # somebody is there; what may be asked of it, the recordings tell
        except _NO_ANSWER as error:
            said = f"no answer from {self._base}: {_reason(error)}; does the service run there?"
            raise CliError(said, FAILED) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is kept open."""

    @property
    def cues(self) -> None:
        """The service's settings are not known here."""

    def transcribe(self, data: bytes, name: str, told: Told | None = None) -> Transcription:
        """The answer for an encoded recording; `told` is not called. Raises RecordingError, and
        CliError where other recordings would fare no better."""
        body, content_type = _form(self._fields, data, name)
        headers = {**self._headers, "Content-Type": content_type}
        for attempt in range(_MAX_TRIES):
            request = urllib.request.Request(self._url, body, headers)  # noqa: S310
            try:
                with urllib.request.urlopen(request, timeout=self._timeout_s) as response:  # noqa: S310
                    return _read(json.load(response))
            except urllib.error.HTTPError as error:
                if error.code in _OF_ALL:
                    raise CliError(f"{self._base}: {_said(error)}", FAILED) from error
                if error.code not in _RETRIED or attempt + 1 == _MAX_TRIES:
                    raise RecordingError(_said(error)) from error
                time.sleep(_pause_s(error.headers.get("retry-after"), attempt))
            except _NO_ANSWER as error:
                raise RecordingError(f"no answer from {self._url}: {_reason(error)}") from error
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                said = f"{self._url} does not answer as OpenAI's route does"
                raise RecordingError(said) from error
        raise AssertionError("the last attempt returns or raises")


def _pause_s(retry_after: str | None, attempt: int) -> float:
    if retry_after is not None and retry_after.isdigit():
        return min(float(retry_after), _MAX_PAUSE_S)
    return min(0.5 * 2.0**attempt, _MAX_PAUSE_S)


def _said(error: urllib.error.HTTPError) -> str:
    """The message in OpenAI's error body, or the status alone; of a key, where one is set."""
    try:
        said = f"HTTP {error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError, *_NO_ANSWER):
        said = f"HTTP {error.code}"
    return f"{said}; set {API_KEY_ENV} to a key of the service" if error.code == 401 else said


def _reason(error: Exception) -> str:
    """In a line, without the brackets that urllib puts around it."""
    said = " ".join(str(getattr(error, "reason", "") or error).split())
    return said or type(error).__name__


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
