"""PromQL, as far as needed to see which series and labels an expression asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.metrics import Counter, Histogram, MetricWrapperBase

from predictor.metrics import Figures, Metrics
from tests.manifests.objects import Object, of_kind

# What Prometheus and the PodMonitor's relabelings add to every series.
TARGET_LABELS = frozenset({"namespace", "pod", "job", "instance", "container", "endpoint"})
_WORDS = re.compile(
    r"and|or|unless|by|without|on|ignoring|group_left|group_right|bool|offset"
    r"|sum|avg|min|max|count|topk|bottomk|quantile|stddev"
)
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)?\s*\{([^}]*)\}")
_MATCHER = re.compile(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)")


def our_series() -> dict[str, frozenset[str]]:
    """Every series of the predictor by its exposed name, with its labels."""
    series: dict[str, frozenset[str]] = {}
    for metric in vars(Metrics(CollectorRegistry())).values():
        if isinstance(metric, Figures):
            for each in metric.figures:
                suffix = "_total" if each.kind == "counter" else ""
                series[each.name + suffix] = frozenset(each.labels)
        if not isinstance(metric, MetricWrapperBase):
            continue
        name, labels = metric._name, frozenset(metric._labelnames)
        if isinstance(metric, Counter):
            series[name + "_total"] = labels
        elif isinstance(metric, Histogram):
            series[name + "_bucket"] = labels | {"le"}
            series[name + "_sum"] = series[name + "_count"] = labels
        else:
            series[name] = labels
    return series


def names_and_labels(expression: str) -> tuple[set[str], set[str]]:
    """Series and labels that occur in an expression; Grafana's variables are put aside."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    labels: set[str] = set()
    for _, matchers in _SELECTOR.findall(text):
        labels.update(_MATCHER.findall(matchers))
    for group in _GROUPING.findall(text):
        labels.update(word.strip() for word in group.split(",") if word.strip())
    text = _GROUPING.sub(" ", re.sub(r"\{[^}]*\}", " ", text))
    text = re.sub(r"\[[^\]]*\]", " ", text)
    words = re.findall(r"(?<![\w.$])([a-zA-Z_:][\w:]*)(?![\w:])\s*(\()?", text)
    return {name for name, call in words if not call and not _WORDS.fullmatch(name)}, labels


def rule_expressions(objects: Sequence[Object]) -> Iterator[tuple[str, str, str | None]]:
    """(where, expression, the series it records) of every PrometheusRule."""
    for each in of_kind(objects, "PrometheusRule"):
        for group in each["spec"]["groups"]:
            for rule in group["rules"]:
                yield rule.get("alert") or rule["record"], rule["expr"], rule.get("record")


def dashboards(objects: Sequence[Object]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name, dashboard) of every ConfigMap that Grafana's sidecar picks up."""
    for each in of_kind(objects, "ConfigMap"):
        if each["metadata"].get("labels", {}).get("grafana_dashboard") == "1":
            for name, text in each["data"].items():
                yield name, json.loads(text)


def as_grafana(expression: str, rate_interval: str = "5m", namespace: str = "qwen3-asr") -> str:
    """A panel's expression with Grafana's variables replaced as Grafana would."""
    expression = expression.replace("$__rate_interval", rate_interval)
    for name, value in {"$__range": "1h", "$namespace": namespace, "$price": "2.5"}.items():
        expression = expression.replace(name, value)
    return expression.replace("$revision", ".*")


def panel_expressions(
    dashboard: dict[str, Any], namespace: str = "qwen3-asr"
) -> Iterator[tuple[str, str]]:
    """(panel title, expression) of every query."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], as_grafana(target["expr"], namespace=namespace)


def scaler_queries(objects: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """(where, expression) of every KEDA trigger in an InferenceService."""
    for each in of_kind(objects, "InferenceService"):
        scaling = each["spec"]["predictor"].get("autoScaling", {})
        for metric in scaling.get("metrics", []):
            if metric["type"] == "External":
                yield each["metadata"]["name"], metric["external"]["metric"]["query"]


def all_expressions(objects: Sequence[Object]) -> Iterator[tuple[str, str]]:
    """(where, expression) of every rule, panel and scaler."""
    for name, expression, _ in rule_expressions(objects):
        yield f"rule {name}", expression
    for file, dashboard in dashboards(objects):
        namespace = of_kind(objects, "InferenceService")[0]["metadata"]["namespace"]
        for title, expression in panel_expressions(dashboard, namespace):
            yield f"{file} panel {title!r}", expression
    for name, expression in scaler_queries(objects):
        yield f"scaler of {name}", expression


def relabeled(objects: Sequence[Object]) -> frozenset[str]:
    """Labels that the PodMonitors' relabelings set."""
    return frozenset(
        relabeling["targetLabel"]
        for each in of_kind(objects, "PodMonitor")
        for endpoint in each["spec"]["podMetricsEndpoints"]
        for relabeling in endpoint.get("relabelings", [])
        if "targetLabel" in relabeling
    )
