"""What a scrape is answered: text, OpenMetrics with exemplars, or Prometheus' protobuf with native
histograms, whichever the scraper asks for first and there is.

prometheus_client writes no protobuf, which is the one format in which Prometheus takes native
histograms. The messages are those of io.prometheus.client's metrics.proto, with the fields used.

Of a native histogram Prometheus drops the classic buckets that come in the same message, unless its
configuration says otherwise, and with them what dashboards and alerts read. So the classic ones are
counters beside it, named as Prometheus itself names them, each with its exemplar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, Final

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar, Sample

from predictor.metrics.histograms import FINE_COUNTS, SCHEMA, ZERO, ZERO_THRESHOLD, values_of

PROTOBUF: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
_TYPES: Final = {"counter": 0, "gauge": 1, "summary": 2, "histogram": 4}  # others are untyped, 3
Counts = dict[tuple[str, str], dict[str, float]]  # (histogram, its labels' values) -> by bucket


def scrape(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The answer and its content type."""
    families = list(registry.collect())
    shown = [each for each in families if each.name != FINE_COUNTS]
    if len(shown) < len(families) and _wants_protobuf(accept):
        return _delimited(shown, _counts(families)), PROTOBUF
    encode, content_type = exposition.choose_encoder(accept)
    return encode(_Collected(shown)), content_type


class _Collected(CollectorRegistry):
    """Metrics that were read already."""

    def __init__(self, families: list[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _wants_protobuf(accept: str) -> bool:
    """Whether it comes before OpenMetrics: Prometheus lists what it likes best first."""
    protobuf, text = accept.find("io.prometheus.client.MetricFamily"), accept.find("openmetrics")
    return protobuf >= 0 and (text < 0 or protobuf < text)


def _counts(families: Iterable[Metric]) -> Counts:
    found: Counts = {}
    for family in families:
        for sample in family.samples if family.name == FINE_COUNTS else ():
            if sample.name.endswith("_total"):
                of = sample.labels["histogram"], sample.labels["values"]
                found.setdefault(of, {})[sample.labels["bucket"]] = sample.value
    return found


def _delimited(families: Iterable[Metric], counts: Counts) -> bytes:
    """Each family behind its length."""
    parts = []
    for family in families:
        for message in _messages(family, counts):
            body = message.SerializeToString()
            parts += [_varint(len(body)), body]
    return b"".join(parts)


def _messages(family: Metric, counts: Counts) -> Iterator[Any]:
    """That of a family; of one that is counted natively, and of its classic series beside."""
    by_labels = list(_by_labels(family))
    fine = [counts.get((family.name, values_of(_labels(samples[0])))) for samples in by_labels]
    if not any(fine):
        name = family.name + ("_total" if family.type == "counter" else "")
        kind = _TYPES.get(family.type, 3)
        yield from _message(family, name, kind, [_metric(family, each) for each in by_labels])
        return
    both = zip(by_labels, fine, strict=True)
    native = [_native_metric(samples, counted) for samples, counted in both if counted]
    yield from _message(family, family.name, _TYPES["histogram"], native)
    for suffix in ("_bucket", "_sum", "_count"):
        name = family.name + suffix
        classic = [_counter(sample) for sample in family.samples if sample.name == name]
        yield from _message(family, name, _TYPES["counter"], classic)


def _message(family: Metric, name: str, kind: int, metric: list[dict[str, Any]]) -> Iterator[Any]:
    from predictor.metrics.messages import MetricFamily  # only where somebody wants it

    if metric:
        yield MetricFamily(name=name, help=family.documentation, type=kind, metric=metric)


def _by_labels(family: Metric) -> Iterator[list[Sample]]:
    """The samples of one metric together: those whose labels differ in `le` and `quantile` only."""

    def labels(sample: Sample) -> list[tuple[str, str]]:
        return sorted(_labels(sample).items())

    samples = [each for each in family.samples if not each.name.endswith("_created")]
    for _, together in groupby(sorted(samples, key=labels), key=labels):
        yield list(together)


def _labels(sample: Sample) -> dict[str, str]:
    return {k: v for k, v in sample.labels.items() if k not in ("le", "quantile")}


def _metric(family: Metric, samples: list[Sample]) -> dict[str, Any]:
    made: dict[str, Any] = {"label": _pairs(_labels(samples[0]))}
    if family.type == "histogram":
        made["histogram"] = _histogram(samples)
    elif family.type == "summary":
        made["summary"] = _summary(samples)
    else:
        kind = family.type if family.type in ("counter", "gauge") else "untyped"
        made[kind] = {"value": samples[0].value}
    return made


def _native_metric(samples: list[Sample], fine: dict[str, float]) -> dict[str, Any]:
    totals, _ = _parted(samples)
    return {"label": _pairs(_labels(samples[0])), "histogram": totals | _native(fine)}


def _counter(sample: Sample) -> dict[str, Any]:
    counted: dict[str, Any] = {"value": sample.value}
    if sample.exemplar is not None:
        counted["exemplar"] = _exemplar(sample.exemplar)
    return {"label": _pairs(sample.labels), "counter": counted}


def _pairs(labels: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in labels.items()]


def _summary(samples: list[Sample]) -> dict[str, Any]:
    totals, quantiles = _parted(samples)
    return totals | {
        "quantile": [
            {"quantile": float(each.labels["quantile"]), "value": each.value} for each in quantiles
        ]
    }


def _histogram(samples: list[Sample]) -> dict[str, Any]:
    totals, buckets = _parted(samples)
    return totals | {"bucket": [_bucket(each) for each in buckets]}


def _parted(samples: list[Sample]) -> tuple[dict[str, Any], list[Sample]]:
    """Count and sum, and what else there is: buckets or quantiles."""
    totals: dict[str, Any] = {}
    others = []
    for sample in samples:
        if sample.name.endswith("_count"):
            totals["sample_count"] = int(sample.value)
        elif sample.name.endswith("_sum"):
            totals["sample_sum"] = sample.value
        else:
            others.append(sample)
    return totals, others


def _bucket(sample: Sample) -> dict[str, Any]:
    made: dict[str, Any] = {
        "cumulative_count": int(sample.value),
        "upper_bound": float(sample.labels["le"]),
    }
    if sample.exemplar is not None:
        made["exemplar"] = _exemplar(sample.exemplar)
    return made


def _exemplar(exemplar: Exemplar) -> dict[str, Any]:
    return {
        "label": _pairs(exemplar.labels),
        "value": exemplar.value,
        "timestamp": _timestamp(float(exemplar.timestamp or 0)),
    }


def _timestamp(seconds: float) -> dict[str, int]:
    whole = int(seconds)
    return {"seconds": whole, "nanos": int((seconds - whole) * 1e9)}


def _native(fine: dict[str, float]) -> dict[str, Any]:
    """Runs of buckets, and in them how much each count differs from the one before."""
    counts = sorted((int(n), int(value)) for n, value in fine.items() if n != ZERO)
    spans: list[dict[str, int]] = []
    deltas, before, expected = list[int](), 0, 0
    for number, count in counts:
        if not spans or number > expected:
            spans.append({"offset": number - expected, "length": 0})
        spans[-1]["length"] += 1
        deltas.append(count - before)
        before, expected = count, number + 1
    return {
        "schema": SCHEMA,
        "zero_threshold": ZERO_THRESHOLD,
        "zero_count": int(fine.get(ZERO, 0)),
        "positive_span": spans,
        "positive_delta": deltas,
        # Counts of their own, so that buckets, zero and total agree whatever was counted meanwhile.
        "sample_count": sum(count for _, count in counts) + int(fine.get(ZERO, 0)),
    }


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
