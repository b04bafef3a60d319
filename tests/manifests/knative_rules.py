"""What Knative Serving's webhook refuses in a Service, in its own words.

The rules are those of its validation (version 1.21), as far as the manifests and KServe can touch
them. Where Go is at hand, test_knative_webhook.py runs Knative's own code on the same cases and on
every overlay, and compares the messages. Fake clusters of other tests refuse by this module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from decimal import Decimal
from typing import Any

Object = dict[str, Any]
SCALING = "autoscaling.knative.dev/"
PROGRESS_DEADLINE = "serving.knative.dev/progress-deadline"
ROLLOUT_DURATION = "serving.knative.dev/rollout-duration"
KPA = "kpa.autoscaling.knative.dev"
HPA = "hpa.autoscaling.knative.dev"
MAX_TIMEOUT_S = 600  # config-defaults, max-revision-timeout-seconds, where it is not set
MAX_CONCURRENCY = 1000  # config-defaults, container-concurrency-max-limit
_MAX_INT32 = 2**31 - 1
_HOUR_S = Decimal(3600)
_TEMPLATE = "spec.template.metadata.annotations."
_POD = "spec.template.spec."

# Pod fields that Knative refuses unless a feature flag is on; the flag of a claim is for a volume.
POD_FLAGS = {
    "affinity": "kubernetes.podspec-affinity",
    "dnsConfig": "kubernetes.podspec-dnsconfig",
    "dnsPolicy": "kubernetes.podspec-dnspolicy",
    "hostAliases": "kubernetes.podspec-hostaliases",
    "hostIPC": "kubernetes.podspec-hostipc",
    "hostNetwork": "kubernetes.podspec-hostnetwork",
    "hostPID": "kubernetes.podspec-hostpid",
    "initContainers": "kubernetes.podspec-init-containers",
    "nodeSelector": "kubernetes.podspec-nodeselector",
    "priorityClassName": "kubernetes.podspec-priorityclassname",
    "runtimeClassName": "kubernetes.podspec-runtimeclassname",
    "schedulerName": "kubernetes.podspec-schedulername",
    "securityContext": "kubernetes.podspec-securitycontext",
    "shareProcessNamespace": "kubernetes.podspec-shareprocessnamespace",
    "tolerations": "kubernetes.podspec-tolerations",
    "topologySpreadConstraints": "kubernetes.podspec-topologyspreadconstraints",
}
VOLUME_FLAGS = {
    "csi": "kubernetes.podspec-volumes-csi",
    "hostPath": "kubernetes.podspec-volumes-hostpath",
    "image": "kubernetes.podspec-volumes-image",
    "persistentVolumeClaim": "kubernetes.podspec-persistent-volume-claim",
}
WRITE_FLAG = "kubernetes.podspec-persistent-volume-write"
_NEVER_IN_A_POD = ("terminationGracePeriodSeconds", "activeDeadlineSeconds", "nodeName", "os")
_NEVER_IN_A_CONTAINER = ("lifecycle", "stdin", "stdinOnce", "tty", "volumeDevices")
_RESERVED_ENV = ("PORT", "K_SERVICE", "K_CONFIGURATION", "K_REVISION")
_RESERVED_PORTS = (8008, 8012, 8013, 8022, 9090, 9091)
_UNITS = {"h": 3600, "m": 60, "s": 1, "ms": "1e-3", "us": "1e-6", "µs": "1e-6", "ns": "1e-9"}


def duration_s(text: str) -> Decimal | None:
    """Seconds of a Go duration such as 1m30s; None if it is none (a number needs its unit)."""
    found = re.fullmatch(r"([+-]?)((?:(?:\d+\.?\d*|\.\d+)(?:h|ms|m|s|us|µs|ns))+)", text)
    if found is None:
        return Decimal(0) if re.fullmatch(r"[+-]?0", text) else None
    parts = re.findall(r"(\d+\.?\d*|\.\d+)(h|ms|m|s|us|µs|ns)", found[2])
    total = sum((Decimal(number) * Decimal(_UNITS[unit]) for number, unit in parts), Decimal(0))
    return -total if found[1] == "-" else total


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _between(key: str, low: float, high: float) -> Callable[[str], Iterator[str]]:
    def check(value: str) -> Iterator[str]:
        number = _number(value)
        if number is None:
            yield f"invalid value: {value}: {_TEMPLATE}{key}"
        elif not low <= number <= high:
            yield f"expected {low:g} <= {value} <= {high:g}: {_TEMPLATE}{key}"

    return check


def _seconds(key: str, low: str, is_whole: bool) -> Callable[[str], Iterator[str]]:
    def check(value: str) -> Iterator[str]:
        seconds = duration_s(value)
        if seconds is None:
            yield f"invalid value: {value}: {_TEMPLATE}{key}"
        elif not Decimal(low) <= seconds <= _HOUR_S:
            yield f"expected {low}s <= {value} <= 1h0m0s: {_TEMPLATE}{key}"
        elif is_whole and seconds % 1:
            yield f"must be specified with at most second precision: {_TEMPLATE}{key}"

    return check


def _target(value: str) -> Iterator[str]:
    number = _number(value)
    if number is None:
        yield f"invalid value: {value}: {_TEMPLATE}{SCALING}target"
    elif number < 0.01:
        yield f"target {value} should be at least 0.01: {_TEMPLATE}{SCALING}target"


def _burst(value: str) -> Iterator[str]:
    number = _number(value)
    if number is None or (number < 0 and number != -1):
        yield f"invalid value: {value}: {_TEMPLATE}{SCALING}target-burst-capacity"


_BY_KEY: dict[str, Callable[[str], Iterator[str]]] = {
    "panic-window-percentage": _between(SCALING + "panic-window-percentage", 1, 100),
    "panic-threshold-percentage": _between(SCALING + "panic-threshold-percentage", 110, 1000),
    "target": _target,
    "target-utilization-percentage": _between(SCALING + "target-utilization-percentage", 1, 100),
    "target-burst-capacity": _burst,
    "window": _seconds(SCALING + "window", "6", is_whole=True),
    "scale-to-zero-pod-retention-period": _seconds(
        SCALING + "scale-to-zero-pod-retention-period", "0", is_whole=False
    ),
    "scale-down-delay": _seconds(SCALING + "scale-down-delay", "0", is_whole=True),
}
# Known and judged together with others.
_TOGETHER = ("class", "metric", "metric-aggregation-algorithm")
_SCALES = ("min-scale", "max-scale", "activation-scale", "initial-scale")
KNOWN_SCALING = frozenset({*_BY_KEY, *_TOGETHER, *_SCALES})


def _scale(annotations: Mapping[str, str], name: str) -> tuple[int, list[str]]:
    """(number of pods, problems) of min-scale or max-scale; 0 where it is absent or wrong."""
    value = annotations.get(SCALING + name)
    if value is None:
        return 0, []
    if not re.fullmatch(r"[+-]?\d+", value):
        return 0, [f"invalid value: {value}: {_TEMPLATE}{SCALING}{name}"]
    if not 0 <= int(value) <= _MAX_INT32:
        return 0, [f"expected 0 <= {value} <= {_MAX_INT32}: {_TEMPLATE}{SCALING}{name}"]
    return int(value), []


def _scales(annotations: Mapping[str, str]) -> Iterator[str]:
    low, problems = _scale(annotations, "min-scale")
    high, more = _scale(annotations, "max-scale")
    yield from [*problems, *more]
    if 0 != high < low:
        paths = ", ".join(f"{_TEMPLATE}{SCALING}{name}" for name in ("max-scale", "min-scale"))
        yield f"max-scale={high} is less than min-scale={low}: {paths}"
    where = f"{_TEMPLATE}{SCALING}activation-scale"
    value = annotations.get(SCALING + "activation-scale")
    if value is not None and not re.fullmatch(r"[+-]?\d+", value):
        yield f"invalid value: {value}: {where}"
    elif value is not None:
        wanted = int(value)
        if low > wanted:
            yield f"min-scale={low} is greater than activation-scale={wanted}: {where}"
        elif 0 != high < wanted:
            yield f"max-scale={high} is less than activation-scale={wanted}: {where}"
        elif wanted < 2:
            yield f"activation-scale={wanted} must be greater than 1: {where}"


def _initial_scale(annotations: Mapping[str, str]) -> Iterator[str]:
    """config-autoscaler's allow-zero-initial-scale is off by default."""
    where = f"{_TEMPLATE}{SCALING}initial-scale"
    value = annotations.get(SCALING + "initial-scale")
    if value is None:
        return
    if not re.fullmatch(r"[+-]?\d+", value):
        yield f"invalid value: {value}: {where}"
    elif int(value) < 0:
        yield f"invalid value: {value}: {where} must be greater than 0"
    elif int(value) == 0:
        yield f"invalid value: {value}: {where}=0 not allowed by cluster"


def _class_and_metric(annotations: Mapping[str, str]) -> Iterator[str]:
    named = annotations.get(SCALING + "class")
    if named is not None and named.endswith("autoscaling.knative.dev") and named not in (KPA, HPA):
        yield f"invalid value: {named}: {_TEMPLATE}{SCALING}class"
    metric = annotations.get(SCALING + "metric")
    wrong_of_kpa = (named or KPA) == KPA and metric not in (None, "concurrency", "rps")
    if wrong_of_kpa or (named == HPA and metric == ""):
        yield f"invalid value: {metric}: {_TEMPLATE}{SCALING}metric"
    algorithm = annotations.get(SCALING + "metric-aggregation-algorithm")
    known = (None, "", "linear", "weighted-exponential", "weightedExponential")
    if named == KPA and algorithm not in known:
        yield f"invalid value: {algorithm}: {_TEMPLATE}{SCALING}metric-aggregation-algorithm"


def _duration_of(name: str, key: str, where: str, annotations: Mapping[str, str]) -> Iterator[str]:
    value = annotations.get(key, "")
    seconds = duration_s(value) if value else Decimal(0)
    if seconds is None:
        yield f"invalid value: {value}: {where}{key}"
    elif seconds % 1:
        yield f"{name}={value} is not at second precision: {where}{key}"
    elif seconds < 0:
        yield f"{name}={value} must be positive: {where}{key}"


def annotation_refusals(annotations: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the annotations of a revision's template."""
    yield from _class_and_metric(annotations)
    yield from _scales(annotations)
    yield from _initial_scale(annotations)
    for name, check in _BY_KEY.items():
        if (value := annotations.get(SCALING + name)) is not None:
            yield from check(value)
    yield from _duration_of("progress-deadline", PROGRESS_DEADLINE, _TEMPLATE, annotations)


def _pod_refusals(pod: Object, enabled: Collection[str], max_timeout_s: int) -> Iterator[str]:
    for name in pod:
        if name in _NEVER_IN_A_POD or POD_FLAGS.get(name, name) not in (name, *enabled):
            yield f"must not set the field(s): {_POD}{name}"
    for index, volume in enumerate(pod.get("volumes", [])):
        for kind, flag in VOLUME_FLAGS.items():
            if kind in volume and flag not in enabled:
                yield f"must not set the field(s): {_POD}volumes[{index}].{kind}"
        claim = volume.get("persistentVolumeClaim", {"readOnly": True})
        if not claim.get("readOnly") and WRITE_FLAG not in enabled:
            yield (
                "Persistent volume write support is disabled, but found persistent volume claim "
                f"{claim['claimName']} that is not read-only"
            )
    seconds = pod.get("timeoutSeconds") or 0
    if not 0 <= seconds <= max_timeout_s:
        yield f"expected 0 <= {seconds} <= {max_timeout_s}: {_POD}timeoutSeconds"
    limit = pod.get("containerConcurrency", 0)
    if not 0 <= limit <= MAX_CONCURRENCY:
        yield f"expected 0 <= {limit} <= {MAX_CONCURRENCY}: {_POD}containerConcurrency"


def _container_refusals(container: Object, path: str) -> Iterator[str]:
    for name in _NEVER_IN_A_CONTAINER:
        if name in container:
            yield f"must not set the field(s): {path}{name}"
    if "privileged" in container.get("securityContext", {}):
        yield f"must not set the field(s): {path}securityContext.privileged"
    for index, variable in enumerate(container.get("env", [])):
        if variable["name"] in _RESERVED_ENV:
            name = variable["name"]
            yield f'"{name}" is a reserved environment variable: {path}env[{index}].name'
    ports = container.get("ports", [])
    if len(ports) > 1:
        yield f"more than one container port is set: {_POD}containers[*].ports"
        return
    for port in ports:
        if port.get("name", "") not in ("", "http1", "h2c"):
            yield f"Port name {port['name']} is not allowed: {path}ports"
        if (number := port["containerPort"]) in _RESERVED_PORTS:
            yield f"invalid value: {number} is a reserved port: {path}ports.containerPort"


def refusals(
    service: Object, enabled: Collection[str] = (), max_timeout_s: int = MAX_TIMEOUT_S
) -> Iterator[str]:
    """What the webhook says against a Service, given the feature flags that are on."""
    annotations = service["metadata"].get("annotations", {})
    yield from (
        f'invalid key name "{key}": metadata.annotations'
        for key in annotations
        if key.startswith(SCALING)
    )
    where = "metadata.annotations."
    yield from _duration_of("rollout-duration", ROLLOUT_DURATION, where, annotations)
    template = service["spec"]["template"]
    yield from annotation_refusals(template["metadata"].get("annotations", {}))
    yield from _pod_refusals(template["spec"], enabled, max_timeout_s)
    for index, container in enumerate(template["spec"]["containers"]):
        yield from _container_refusals(container, f"{_POD}containers[{index}].")
    shares = [target.get("percent") or 0 for target in service["spec"].get("traffic", [])]
    if shares and sum(shares) != 100:
        yield f"Traffic targets sum to {sum(shares)}, want 100: spec.traffic"


def missing_account(service: Object, namespace: str, accounts: Collection[str]) -> str | None:
    """The webhook makes a pod of a new service, as a dry run of its own: that needs its account.

    Only an API server with the admission plugin ServiceAccount says so, as on every real cluster.
    """
    if not service["apiVersion"].startswith("serving.knative.dev/"):
        return None
    name = service["spec"]["template"]["spec"].get("serviceAccountName", "default")
    if name == "default" or name in accounts:
        return None
    return (
        'admission webhook "validation.webhook.serving.knative.dev" denied the request: '
        'validation callback failed: dry run failed with pods "dry-run-validation" is forbidden: '
        f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found: '
        "spec.template"
    )
