"""Histograms that know the last trace of each bucket and, if asked to, count finely as well.

prometheus_client forgets exemplars where several fronts count in files, so they are kept here: the
front that answers a scrape tells its own, which lie in the buckets of all. It cannot count native
histograms either. Their buckets are one hidden counter, which the fronts' files add up as any other
and `exposition` makes histograms of.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import prometheus_client
from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.samples import Exemplar, Sample

FINE_COUNTS: Final = "qwen3_asr_native_buckets"
SCHEMA: Final = 3  # eight buckets to a power of two: each 9 % wider than the one below
ZERO_THRESHOLD: Final = 2.0**-128  # up to here it counts as none
ZERO: Final = "zero"
_BOUNDS: Final = [0.5 * 2 ** (n / 2**SCHEMA) for n in range(2**SCHEMA)]


def native_bucket(value: float) -> str:
    """Where Prometheus' own clients count a value: bucket n ends at 2 ** (n / 8), inclusive."""
    if value <= ZERO_THRESHOLD:
        return ZERO
    fraction, exponent = math.frexp(value)
    return str(bisect_left(_BOUNDS, fraction) + (exponent - 1) * len(_BOUNDS))


def values_of(labels: Mapping[str, str]) -> str:
    """Those of a histogram, as one label of its fine counts."""
    return "\n".join(labels[name] for name in sorted(labels))


def fine_counts(registry: CollectorRegistry) -> Counter:
    """Where histograms that are `native` count."""
    labels = ["histogram", "values", "bucket"]
    return Counter(FINE_COUNTS, "Buckets of native histograms.", labels, registry=registry)


class Histogram(prometheus_client.Histogram):
    """Classic buckets; each with an exemplar once somebody traces, and `native` ones beside."""

    def __init__(
        self, name: str, documentation: str, *given: Any, native: Counter | None = None, **more: Any
    ) -> None:
        self._native = native
        self._last: dict[int, Exemplar] = {}  # by the number of its bucket
        super().__init__(name, documentation, *given, **more)
        self._kwargs["native"] = native  # for those with labels, which are made later

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count it; the trace is the one that is open here, if it is sampled."""
        super().observe(amount)
        context = trace.get_current_span().get_span_context()
        if context.trace_flags.sampled:
            labels = {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
            bucket = bisect_left(self._upper_bounds, amount)
            self._last[bucket] = Exemplar(labels, amount, time.time())
        if self._native is not None:
            labels = dict(zip(self._labelnames, self._labelvalues, strict=True))
            self._native.labels(self._name, values_of(labels), native_bucket(amount)).inc()

    def _child_samples(self) -> Iterable[Sample]:
        buckets = list(super()._child_samples())
        for number, exemplar in tuple(self._last.items()):
            buckets[number] = buckets[number]._replace(exemplar=exemplar)
        return tuple(buckets)


class SharedCounts(MultiProcessCollector):
    """What all fronts counted, but for what the answering one says itself."""

    def __init__(self, own: CollectorRegistry, known: set[str]) -> None:
        """`own`: where this front counts; `known`: names that it says itself."""
        super().__init__(None)  # type: ignore[no-untyped-call]
        self._own, self._known = own, known

    def collect(self) -> Iterable[Metric]:
        """With the exemplars that this front remembers."""
        exemplars = {
            _key(sample): sample.exemplar
            for metric in self._own.collect()
            for sample in metric.samples
            if sample.exemplar is not None
        }
        counted: Sequence[Metric] = super().collect()  # type: ignore[no-untyped-call]
        for metric in counted:
            if metric.name not in self._known:
                metric.samples = [
                    sample._replace(exemplar=exemplars.get(_key(sample)))
                    for sample in metric.samples
                ]
                yield metric


def _key(sample: Sample) -> tuple[str, frozenset[tuple[str, str]]]:
    labels: Mapping[str, str] = sample.labels
    return sample.name, frozenset(labels.items())
