"""Calls of the Kubernetes API: tried again while the server is away, errors in words.

A write is safe to repeat: every object is replaced with its resourceVersion, so one that did
arrive makes the repetition a conflict, which the callers know how to settle.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import urllib3
from kubernetes import client

from pipelines.lib.defaults import API_ATTEMPTS
from pipelines.lib.errors import RolloutError

NOT_FOUND, CONFLICT, TOO_MANY = 404, 409, 429
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 8.0
REQUEST_TIMEOUT_S = 30

Object = dict[str, Any]


class ConflictError(RolloutError):
    """Someone else changed the object since it was read."""


class MissingError(RolloutError):
    """The object does not exist."""


class UnreachableError(RolloutError):
    """The API server does not answer, or answers with an error of its own."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a call is tried while the API server is away."""

    attempts: int = API_ATTEMPTS
    first_pause_s: float = FIRST_PAUSE_S
    sleep: Callable[[float], None] = time.sleep

    def call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The function's answer; `what` (kind, namespace/name) begins an error's message."""
        pause_s = self.first_pause_s
        for attempt in range(1, self.attempts + 1):
            try:
                return function(*arguments, _request_timeout=REQUEST_TIMEOUT_S)
            except (client.ApiException, urllib3.exceptions.HTTPError) as error:
                known = _in_words(what, error)
                if not isinstance(known, UnreachableError) or attempt == self.attempts:
                    raise known from error
            self.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        raise AssertionError("the last attempt returns or raises")


def _in_words(what: str, error: Exception) -> RolloutError:
    if not isinstance(error, client.ApiException):
        return UnreachableError(f"{what}: the Kubernetes API does not answer: {error}")
    if error.status == CONFLICT:
        return ConflictError(f"{what}: was changed by someone else at the same time")
    if error.status == NOT_FOUND:
        return MissingError(f"{what}: does not exist")
    said = f"{what}: HTTP {error.status}: {str(error.body)[:500]}"
    if error.status == TOO_MANY or int(error.status or 500) >= 500:
        return UnreachableError(said)
    return RolloutError(said)
