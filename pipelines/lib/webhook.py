"""News to a webhook: one JSON object a POST, with a `text` that chat services show as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx

from pipelines.lib.errors import OptionError, PipelineError

TIMEOUT_S = 10.0

Notifier = Callable[[Mapping[str, Any]], None]


class NotifyError(PipelineError):
    """The webhook did not take a message."""


class Webhook:
    """Posts messages to one URL."""

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise OptionError(f"webhook: {url!r} does not start with http:// or https://")
        self._url = url

    def __call__(self, message: Mapping[str, Any]) -> None:
        """NotifyError when it is not taken; the URL is not in it, as it may hold a secret."""
        try:
            response = httpx.post(self._url, json=dict(message), timeout=TIMEOUT_S)
        except httpx.HTTPError as error:
            raise NotifyError(f"webhook: no answer: {type(error).__name__}") from error
        if response.is_error:
            raise NotifyError(f"webhook: HTTP {response.status_code}")


def webhook(url: str | None) -> Notifier | None:
    """A notifier, or none without a URL."""
    return Webhook(url) if url else None
