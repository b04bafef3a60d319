"""What Prometheus says of two versions that share the traffic.

Series are told apart by the label `revision` (the Knative revision or the Deployment), which the
PodMonitor of the manifests sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from pipelines.lib.errors import OptionError, RolloutError

LABEL_FORBIDDEN = frozenset('"\\\n')


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """What the candidate must keep to while it takes traffic."""

    window_s: int = 120  # of the rates; several scrapes long
    max_failed_ratio: float = 0.02  # of requests answered with 5xx
    p95_latency_ratio: float = 1.5  # candidate's p95 over stable's
    max_confidence_drop: float = 0.05  # of the mean confidence, candidate below stable
    min_requests: int = 20  # to the candidate in the window; fewer tell nothing


class PrometheusWatcher:
    """Asks a Prometheus server. A server that does not answer is a problem, not a pass."""

    def __init__(
        self, url: str, namespace: str, limits: WatchLimits | None = None, *, timeout_s: float = 10
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise OptionError(f"prometheus: {url!r} does not start with http:// or https://")
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._namespace = namespace
        self.limits = limits or WatchLimits()

    def problems(self, stable_version: str, candidate_version: str) -> Sequence[str]:
        """What is beyond its limit; too few requests to tell is no problem yet."""
        if self._value(self.requests_query(candidate_version)) < self.limits.min_requests:
            return []
        checks = (
            self._failed(candidate_version),
            self._slower(stable_version, candidate_version),
            self._unsure(stable_version, candidate_version),
        )
        return [problem for problem in checks if problem]

    def verdict(self, stable_version: str, candidate_version: str) -> Sequence[str]:
        """The same, and too few requests to tell is a problem."""
        number = self._value(self.requests_query(candidate_version))
        if number < self.limits.min_requests:
            return [
                f"{number:.0f} requests reached the candidate in {self.limits.window_s} s, "
                f"at least {self.limits.min_requests} are needed to judge it"
            ]
        return self.problems(stable_version, candidate_version)

    def requests_query(self, version: str) -> str:
        """Requests in the window; 0 when nothing is known of the version."""
        return f"sum(increase(qwen3_asr_requests_total{self._select(version)})) or vector(0)"

    def failed_query(self, version: str) -> str:
        """Share of requests answered with 5xx in the window."""
        failed = self._select(version, 'code=~"5.."')
        return (
            f"(sum(rate(qwen3_asr_requests_total{failed})) or vector(0)) "
            f"/ sum(rate(qwen3_asr_requests_total{self._select(version)}))"
        )

    def p95_query(self, version: str) -> str:
        """95th percentile of the time to answer, seconds."""
        rate = f"rate(qwen3_asr_request_seconds_bucket{self._select(version)})"
        return f"histogram_quantile(0.95, sum by (le) ({rate}))"

    def confidence_query(self, version: str) -> str:
        """Mean confidence of the transcriptions in the window."""
        selector = self._select(version)
        return (
            f"sum(rate(qwen3_asr_confidence_sum{selector})) "
            f"/ sum(rate(qwen3_asr_confidence_count{selector}))"
        )

    def _failed(self, candidate: str) -> str | None:
        ratio = self._value(self.failed_query(candidate))
        if math.isnan(ratio) or ratio <= self.limits.max_failed_ratio:
            return None
        return (
            f"{ratio:.1%} of the requests to the candidate failed, "
            f"at most {self.limits.max_failed_ratio:.1%} is allowed"
        )

    def _slower(self, stable: str, candidate: str) -> str | None:
        before, after = self._value(self.p95_query(stable)), self._value(self.p95_query(candidate))
        # NaN: the stable version had no traffic, there is nothing to compare with
        if not after > before * self.limits.p95_latency_ratio:
            return None
        return (
            f"p95 latency is {after:.3f} s, the stable version's {before:.3f} s; "
            f"at most {self.limits.p95_latency_ratio:g} times is allowed"
        )

    def _unsure(self, stable: str, candidate: str) -> str | None:
        before = self._value(self.confidence_query(stable))
        after = self._value(self.confidence_query(candidate))
        if not before - after > self.limits.max_confidence_drop:
            return None
        return (
            f"mean confidence is {after:.3f}, the stable version's {before:.3f}; "
            f"a drop of at most {self.limits.max_confidence_drop:g} is allowed"
        )

    def _select(self, version: str, extra: str = "") -> str:
        for value in (version, self._namespace):
            if LABEL_FORBIDDEN & set(value):
                raise OptionError(f"prometheus: {value!r} is no label value")
        matchers = [f'namespace="{self._namespace}"', f'revision="{version}"', extra]
        return "{" + ",".join(m for m in matchers if m) + f"}}[{self.limits.window_s}s]"

    def _value(self, query: str) -> float:
        """The one number of a query; NaN when there is none."""
        try:
            response = httpx.get(
                f"{self._url}/api/v1/query", params={"query": query}, timeout=self._timeout_s
            )
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise RolloutError(f"Prometheus does not answer: {error}") from error
        if body.get("status") != "success":
            raise RolloutError(f"Prometheus refuses {query!r}: {body.get('error')}")
        result = body["data"]["result"]
        return float(result[0]["value"][1]) if result else math.nan
