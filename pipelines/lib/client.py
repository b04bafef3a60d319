"""Ask a running service for transcripts: V2 with binary audio, or OpenAI's route.

What the service says about waiting (429 and 503 with Retry-After) is obeyed for as long as patience
lasts and is no attempt; what may pass by itself (no connection, 502, 504) is tried again with
growing pauses; anything else is final.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import httpx

from pipelines.lib.defaults import PATIENCE_S, PROTOCOLS, Protocol
from pipelines.lib.errors import OptionError, ServiceError
from pipelines.lib.identity import Identity, fetch_identity
from pipelines.lib.wire import (
    encode_v2,
    error_body,
    from_openai,
    from_v2,
    parse_retry_after,
    read_events,
)

RETRIED_STATUS = (429, 502, 503, 504)
FIRST_PAUSE_S = 0.5

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said about one recording. None = this protocol does not tell."""

    text: str
    language: str | None = None
    confidence: float | None = None
    duration_s: float | None = None
    finish_reason: str | None = None
    num_repeats_removed: int | None = None
    segments: tuple[Mapping[str, Any], ...] = ()  # start, end, text, confidence as the service says
    latency_s: float = 0.0  # of the attempt that was answered
    ttft_s: float | None = None  # from sending to the first text, when streamed
    num_attempts: int = 1


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """Where the service is and how it is asked."""

    url: str  # scheme, host and port; a path is kept as a prefix
    model: str = "qwen3-asr"
    protocol: Protocol = "v2"
    host_header: str | None = None  # the InferenceService's host behind a shared ingress
    api_key: str | None = field(default=None, repr=False)
    send_language: bool = False  # force the manifest's language instead of detecting
    timeout_s: float = 120.0  # for one attempt
    max_attempts: int = 6
    max_pause_s: float = 30.0  # longest wait between attempts, where the service says none
    patience_s: float = PATIENCE_S  # most that one recording waits because Retry-After says so

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise OptionError(f"url: {self.url!r} does not start with http:// or https://")
        if self.protocol not in PROTOCOLS:
            raise OptionError(f"protocol: {self.protocol!r} is not one of {', '.join(PROTOCOLS)}")
        if self.max_attempts < 1:
            raise OptionError(f"max_attempts: {self.max_attempts} is below 1")
        if self.patience_s < 0:
            raise OptionError(f"patience: {self.patience_s} is below 0")


class AsrClient:
    """Asynchronous client of one service; safe for any number of concurrent `transcribe` calls."""

    def __init__(
        self,
        options: ServiceOptions,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        headers = {"Host": options.host_header} if options.host_header else {}
        if options.api_key:
            headers["Authorization"] = f"Bearer {options.api_key}"
        self._options = options
        self._sleep = sleep
        self._jitter = random.Random(0)  # noqa: S311 - spreads retries, guards nothing
        self._http = httpx.AsyncClient(
            base_url=options.url,
            headers=headers,
            timeout=options.timeout_s,
            transport=transport,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._http.aclose()

    async def transcribe(
        self,
        audio: bytes,
        *,
        name: str = "audio",
        language: str | None = None,
        context: str = "",
        draft: str | None = None,
    ) -> Answer:
        """The transcript of one recording; `language` is a canonical name, None = detect.

        `draft` is a transcript that is probably right, for a service whose metadata offers that
        input (V2 only). Raises ServiceError once the service has refused for good, or attempts or
        patience are used up.
        """
        request = self._request(audio, name, language, context, draft)
        patience_s = self._options.patience_s
        num_sent = num_attempts = 0
        while True:
            num_sent += 1
            try:
                return await self._attempt(request, num_sent)
            except ServiceError as final:
                final.num_attempts = num_sent
                raise
            except _RetryableError as retryable:
                retryable.error.num_attempts = num_sent
                if retryable.retry_after_s is not None:
                    pause_s = min(retryable.retry_after_s, patience_s)
                    if patience_s <= 0:
                        raise retryable.error from retryable
                    patience_s -= pause_s
                else:
                    num_attempts += 1
                    if num_attempts == self._options.max_attempts:
                        raise retryable.error from retryable
                    pause_s = self._pause_s(num_attempts)
                await self._sleep(pause_s)

    async def identity(self) -> Identity:
        """Who answers, as far as it says. ServiceError when there is no connection at all."""
        for attempt in range(1, self._options.max_attempts):
            try:
                return await fetch_identity(self._http, self._options.model)
            except ServiceError:
                await self._sleep(self._pause_s(attempt))
        return await fetch_identity(self._http, self._options.model)

    def _request(
        self, audio: bytes, name: str, language: str | None, context: str, draft: str | None
    ) -> httpx.Request:
        model = self._options.model
        if self._options.protocol == "v2":
            body, headers = encode_v2(audio, language, context, draft)
            return self._http.build_request(
                "POST", f"v2/models/{model}/infer", content=body, headers=headers
            )
        streamed = self._options.protocol == "openai-stream"
        form = {"model": model, "response_format": "json" if streamed else "verbose_json"}
        form |= {"stream": "true"} if streamed else {}
        form |= {"language": language} if language else {}
        form |= {"prompt": context} if context else {}
        return self._http.build_request(
            "POST", "v1/audio/transcriptions", data=form, files={"file": (name, audio)}
        )

    async def _attempt(self, request: httpx.Request, attempt: int) -> Answer:
        started = time.perf_counter()
        try:
            response = await self._http.send(request, stream=True)
            try:
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    raise _failure(response)
                fields = await self._read(response, started)
            finally:
                await response.aclose()
        except httpx.TransportError as error:
            code = type(error).__name__
            message = f"no answer from {request.url}: {code}: {error}"
            raise _RetryableError(ServiceError(message, status=None, code=code)) from error
        latency_s = time.perf_counter() - started
        return Answer(**fields, latency_s=latency_s, num_attempts=attempt)

    async def _read(self, response: httpx.Response, started: float) -> dict[str, Any]:
        if self._options.protocol == "openai-stream":
            return await read_events(response, started)
        payload = await response.aread()
        try:
            body = json.loads(payload)
            return from_v2(body) if self._options.protocol == "v2" else from_openai(body)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise _unreadable(response, payload[:200]) from error

    def _pause_s(self, attempt: int) -> float:
        longest: float = min(FIRST_PAUSE_S * 2.0 ** (attempt - 1), self._options.max_pause_s)
        return longest * (0.5 + self._jitter.random() / 2)


class _RetryableError(Exception):
    """The same request may succeed later."""

    def __init__(self, error: ServiceError, retry_after_s: float | None = None) -> None:
        super().__init__(error.message)
        self.error = error
        self.retry_after_s = retry_after_s


def _failure(response: httpx.Response) -> Exception:
    code, message = error_body(response)
    status = response.status_code
    error = ServiceError(f"HTTP {status}: {message}", status=status, code=code)
    if status not in RETRIED_STATUS:
        return error
    return _RetryableError(error, parse_retry_after(response.headers.get("retry-after")))


def _unreadable(response: httpx.Response, start: bytes) -> ServiceError:
    return ServiceError(
        f"the answer of {response.url} is not what the protocol promises: {start!r}",
        status=response.status_code,
        code="unreadable_answer",
    )
