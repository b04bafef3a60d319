"""Counters read from Prometheus sample by sample, and what was added to them since the last look.

Raw samples and not `increase()`: that extrapolates to fractions, which at one request a second is
most of what there is to see, and it misses the first value of a label that is new. What a target
showed at its first scrape after the start is its zero, so that requests from before (the
evaluation's) never count.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import httpx

from pipelines.lib.errors import OptionError, RolloutError

LABEL_FORBIDDEN = frozenset('"\\\n')
LEAD_S = 120.0  # samples that are looked at again: several scrapes, however late they come

Labels = Mapping[str, str]


Sample = tuple[float, float]  # time on Prometheus' clock, value


class QueryError(RolloutError):
    """Prometheus does not answer, or refuses the query."""


@dataclass(slots=True)
class Added:
    """What one version's counters gained: requests by code, and histograms by upper bound."""

    codes: dict[str, float] = field(default_factory=dict)
    seconds: dict[float, float] = field(default_factory=dict)
    confidence: dict[float, float] = field(default_factory=dict)
    confidence_sum: float = 0.0

    @property
    def requests(self) -> float:
        """Requests answered, whatever the code."""
        return sum(self.codes.values())

    def count(self, labels: Labels, value: float) -> None:
        """Add what a series gained."""
        name = labels["__name__"]
        if name == "qwen3_asr_requests_total":
            code = labels.get("code", "")
            self.codes[code] = self.codes.get(code, 0.0) + value
        elif name == "qwen3_asr_confidence_sum":
            self.confidence_sum += value
        else:
            into = self.seconds if name == "qwen3_asr_request_seconds_bucket" else self.confidence
            bound = math.inf if labels["le"] == "+Inf" else float(labels["le"])
            into[bound] = into.get(bound, 0.0) + value


class Series:
    """The counters of two versions, told apart by the label `revision` (see the PodMonitor)."""

    NAMES = (
        "qwen3_asr_requests_total",
        "qwen3_asr_request_seconds_bucket",
        "qwen3_asr_confidence_bucket",
        "qwen3_asr_confidence_sum",
    )

    def __init__(self, url: str, namespace: str, *, timeout_s: float = 10) -> None:
        if not url.startswith(("http://", "https://")):
            raise OptionError(f"prometheus: {url!r} does not start with http:// or https://")
        self._url, self._namespace, self._timeout_s = url.rstrip("/"), namespace, timeout_s
        self._start = math.inf  # Prometheus' clock
        self._zero: dict[str, float] = {}  # target -> time of its first scrape since the start
        self._last: dict[tuple[tuple[str, str], ...], Sample] = {}
        self._looked_at = 0.0

    def check(self) -> None:
        """QueryError when Prometheus cannot be asked."""
        self._now()

    def begin(self) -> None:
        """Count from now."""
        self._start = self._now()
        self._looked_at = time.monotonic()
        self._zero.clear()
        self._last.clear()

    def added(self, versions: Iterable[str]) -> dict[str, Added]:
        """What each version's counters gained since the last look. QueryError when it fails, and
        then the next look gives that, too."""
        versions = tuple(versions)
        window_s = math.ceil(time.monotonic() - self._looked_at + LEAD_S)
        looked_at = time.monotonic()
        found = self._query(self.selector(versions) + f"[{window_s}s]")
        gained = {version: Added() for version in versions}
        try:
            fresh = [(series["metric"], self._fresh(series)) for series in found]
        except (KeyError, TypeError, ValueError) as error:
            raise QueryError(f"Prometheus answers without samples: {error!r}") from error
        restarts = {
            (_target(labels), at)
            for labels, samples in fresh
            for (_, before), (at, value) in pairwise([self._before(labels), *samples])
            if value < before
        }  # of a whole target: a counter that has overtaken its old value does not show it
        for labels, samples in fresh:
            value = self._gained(labels, samples, restarts)
            if value:
                gained[labels["revision"]].count(labels, value)
        self._looked_at = looked_at
        return gained

    def selector(self, versions: Iterable[str]) -> str:
        """The series of these versions."""
        for value in (*versions, self._namespace):
            if LABEL_FORBIDDEN & set(value):
                raise OptionError(f"prometheus: {value!r} is no label value")
        names, revisions = "|".join(self.NAMES), "|".join(v.replace(".", r"\\.") for v in versions)
        return f'{{__name__=~"{names}",namespace="{self._namespace}",revision=~"{revisions}"}}'

    def _before(self, labels: Labels) -> Sample:
        return self._last.get(_key(labels), (0.0, 0.0))

    def _fresh(self, series: Mapping[str, Any]) -> list[Sample]:
        """Samples since the start that were not looked at yet; what is no number is left out."""
        since = max(self._start, self._before(series["metric"])[0])
        found = [(float(t), float(v)) for t, v in series["values"]]
        return [(t, v) for t, v in found if t > since and math.isfinite(v)]

    def _gained(
        self, labels: Labels, samples: list[Sample], restarts: set[tuple[str, float]]
    ) -> float:
        gained = 0.0
        for at, value in samples:
            if at > self._zero.setdefault(_target(labels), at):
                before = self._before(labels)[1]
                gained += value if (_target(labels), at) in restarts else value - before
            self._last[_key(labels)] = (at, value)
        return gained

    def _now(self) -> float:
        """Prometheus' clock."""
        try:
            return float(self._query("time()")[1])
        except (IndexError, TypeError, ValueError) as error:
            raise QueryError(f"Prometheus does not say the time: {error}") from error

    def _query(self, query: str) -> list[Any]:
        try:
            response = httpx.post(
                f"{self._url}/api/v1/query", data={"query": query}, timeout=self._timeout_s
            )
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise QueryError(f"Prometheus does not answer: {error}") from error
        if not isinstance(body, dict) or body.get("status") != "success":
            said = body.get("error") if isinstance(body, dict) else body
            raise QueryError(f"Prometheus refuses {query!r}: {said}")
        result = (body.get("data") or {}).get("result")
        if not isinstance(result, list):
            raise QueryError(f"Prometheus answers {query!r} without a result")
        return result


def _target(labels: Labels) -> str:
    return f"{labels.get('instance')} {labels.get('pod')}"


def _key(labels: Labels) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))
