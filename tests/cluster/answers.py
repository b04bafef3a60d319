"""Asks a service over HTTP: which version answers, and what becomes of requests meanwhile."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.manifests.objects import ROOT

RECORDING = min((ROOT / "predictor" / "recordings").glob("*.flac"))
HEADER = "x-model-identity"
PROPERTY = "model_identity"
PAUSE_S = 0.5
AWAY = "away"  # who answers while nobody does


@dataclass(frozen=True)
class Entry:
    """The HTTP way in: an address, or None where the service's own host name resolves."""

    address: str | None  # such as http://127.0.0.1:8080, a gateway or a port-forward to it

    def request_to(self, url: str, path: str) -> tuple[str, dict[str, str]]:
        """(address to call, headers) that reach `path` of a service URL from its status."""
        if self.address is None:
            return url.rstrip("/") + path, {}
        return self.address.rstrip("/") + path, {"Host": urlsplit(url).netloc}

    def named(self, host: str) -> dict[str, str]:
        """httpx's extensions: a Gateway chooses its certificate, and the listener, by this name."""
        is_https = str(self.address).startswith("https:")
        return {"sni_hostname": host.split(":")[0]} if is_https else {}


class Client:
    """Calls one URL of a service through an entry."""

    def __init__(self, http: httpx.Client, entry: Entry, url: str) -> None:
        self._http, self._entry, self._url = http, entry, url

    def get(self, path: str) -> httpx.Response:
        address, headers = self._entry.request_to(self._url, path)
        return self._http.get(address, headers=headers, extensions=self._named())

    def _named(self) -> dict[str, str]:
        return self._entry.named(urlsplit(self._url).netloc)

    def transcribe(self, key: str | None = None) -> httpx.Response:
        return self.post("/v1/audio/transcriptions", RECORDING.read_bytes(), key)

    def post(self, path: str, recording: bytes, key: str | None = None) -> httpx.Response:
        """A FLAC recording in the form of a transcription."""
        address, headers = self._entry.request_to(self._url, path)
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        files = {"file": ("recording.flac", recording, "audio/flac")}
        form = {"model": "qwen3-asr"}
        named = self._named()
        return self._http.post(address, headers=headers, files=files, data=form, extensions=named)

    def identity(self) -> str:
        """What the weights are called that answer: by header, metadata, or the metrics page."""
        response = self.get("/v2/models/qwen3-asr")
        response.raise_for_status()
        if HEADER in response.headers:
            return response.headers[HEADER]
        said = response.json()
        if found := (said.get("properties") or said).get(PROPERTY):
            return str(found)
        page = self.get("/metrics")
        page.raise_for_status()
        return Path(label_of(page.text, "qwen3_asr_model_info", "checkpoint")).name

    def until(
        self,
        what: str,
        holds: Callable[[httpx.Response], bool],
        ask: Callable[[], httpx.Response],
        timeout_s: float = 300,
    ) -> httpx.Response:
        """The first answer that is as wanted, asked every half second. Raises TimeoutError."""
        begun, never = time.monotonic(), threading.Event()
        while not holds(response := ask()):
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"not within {timeout_s} s: {what}; {response.text[:500]}")
            never.wait(PAUSE_S)
        return response

    def shares(self, number: int) -> Counter[str]:
        """Who answers `number` requests."""
        return Counter(self.identity() for _ in range(number))

    def until_all(
        self,
        identity: str,
        in_a_row: int = 20,
        timeout_s: float = 120,
        *,
        may_be_away: bool = False,
    ) -> float:
        """Seconds until so many answers in a row are of one version. Raises TimeoutError.

        `may_be_away`: a 503 of the gateway, which for a moment knows a route and not what it leads
        to, is an answer of none; else it is raised.
        """
        begun = time.monotonic()
        run, seen = 0, Counter[str]()
        while run < in_a_row:
            said = self._identity(may_be_away)
            seen[said] += 1
            run = run + 1 if said == identity else 0
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"not within {timeout_s} s: all from {identity}; {seen}")
        return time.monotonic() - begun

    def until_other(
        self, identity: str, timeout_s: float = 120, *, may_be_away: bool = False
    ) -> str:
        """The first version to answer that is another one; as `until_all`. Raises TimeoutError."""
        ends = time.monotonic() + timeout_s
        while (said := self._identity(may_be_away)) in (identity, AWAY):
            if time.monotonic() > ends:
                raise TimeoutError(f"not within {timeout_s} s: an answer not of {identity}")
        return said

    def _identity(self, may_be_away: bool) -> str:
        try:
            return self.identity()
        except httpx.HTTPStatusError as error:
            if not may_be_away or error.response.status_code != 503:
                raise
            return AWAY

    def until_share(
        self, identity: str, low: int, high: int, number: int = 200, timeout_s: float = 180
    ) -> Counter[str]:
        """Answers of `number` requests, once between `low` and `high` of them are of a version."""
        begun = time.monotonic()
        while True:
            seen = self.shares(number)
            if low <= seen[identity] <= high:
                return seen
            if time.monotonic() - begun > timeout_s:
                raise TimeoutError(f"{seen[identity]} of {number}, not {low} to {high}: {seen}")


@dataclass
class Caller:
    """Calls again and again on a thread of its own until the block ends; counts the answers."""

    call: Callable[[], httpx.Response]
    codes: Counter[int | str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="caller")

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            try:
                response = self.call()
            except httpx.HTTPError as error:
                self.codes[type(error).__name__] += 1
                self.failures.append(f"{time.strftime('%X')} {error!r}")
                continue
            self.codes[response.status_code] += 1
            if response.status_code != 200:
                self.failures.append(
                    f"{time.strftime('%X')} {response.status_code} {response.text}"
                )

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def label_of(metrics_page: str, series: str, label: str) -> str:
    """A label's value of the first sample of a series on a metrics page."""
    for line in metrics_page.splitlines():
        if line.startswith(series + "{"):
            pairs: Mapping[str, str] = dict(
                pair.split("=", 1) for pair in line[len(series) + 1 : line.rindex("}")].split(",")
            )
            return pairs[label].strip('"')
    raise LookupError(f"no series {series} on the page")
