"""Changes to a Knative service that its webhook refuses, and the words it refuses them with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.manifests.knative_rules import PROGRESS_DEADLINE, ROLLOUT_DURATION, SCALING

Object = dict[str, Any]
Case = tuple[Callable[[Object], None], str]  # what breaks it, what the webhook says


def _scaling(says: str, **annotations: str) -> Case:
    named = {SCALING + name.replace("_", "-"): value for name, value in annotations.items()}

    def change(service: Object) -> None:
        service["spec"]["template"]["metadata"]["annotations"].update(named)

    return change, says


def _template(key: str, value: str, says: str) -> Case:
    def change(service: Object) -> None:
        service["spec"]["template"]["metadata"]["annotations"][key] = value

    return change, says


def _service(key: str, value: str, says: str) -> Case:
    def change(service: Object) -> None:
        service["metadata"]["annotations"][key] = value

    return change, says


def _pod(says: str, **fields: Any) -> Case:
    return lambda service: service["spec"]["template"]["spec"].update(fields), says


def _container(says: str, **fields: Any) -> Case:
    def change(service: Object) -> None:
        service["spec"]["template"]["spec"]["containers"][0].update(fields)

    return change, says


def _volume(says: str, **source: Any) -> Case:
    def change(service: Object) -> None:
        pod = service["spec"]["template"]["spec"]
        pod["volumes"] = [*pod["volumes"], {"name": "more", **source}]
        mount = {"name": "more", "mountPath": "/more", "readOnly": True}
        container = pod["containers"][0]
        container["volumeMounts"] = [*container["volumeMounts"], mount]

    return change, says


def _traffic(says: str, *targets: Object) -> Case:
    return lambda service: service["spec"].update(traffic=list(targets)), says


_HOUR = "<= 1h0m0s"
CASES: list[Case] = [
    _scaling("activation-scale=1 must be greater than 1", activation_scale="1"),
    _scaling("invalid value: two", activation_scale="two"),
    _scaling("min-scale=3 is greater than activation-scale=2", activation_scale="2", min_scale="3"),
    _scaling("max-scale=4 is less than activation-scale=9", activation_scale="9", max_scale="4"),
    _scaling("max-scale=1 is less than min-scale=2", min_scale="2", max_scale="1"),
    _scaling("expected 0 <= -1 <= 2147483647", min_scale="-1"),
    _scaling("invalid value: many", max_scale="many"),
    _scaling("expected 0 <= 99999999999 <= 2147483647", max_scale="99999999999"),
    _scaling(f"expected 6s <= 5s {_HOUR}", window="5s"),
    _scaling(f"expected 6s <= 1h1s {_HOUR}", window="1h1s"),
    _scaling("invalid value: 60", window="60"),
    _scaling("at most second precision", window="6500ms"),
    _scaling("expected 1 <= 0.5 <= 100", panic_window_percentage="0.5"),
    _scaling("invalid value: 10%", panic_window_percentage="10%"),
    _scaling("expected 110 <= 100 <= 1000", panic_threshold_percentage="100"),
    _scaling("expected 110 <= 1001 <= 1000", panic_threshold_percentage="1001"),
    _scaling(f"expected 0s <= 2h {_HOUR}", scale_to_zero_pod_retention_period="2h"),
    _scaling(f"expected 0s <= -1s {_HOUR}", scale_to_zero_pod_retention_period="-1s"),
    _scaling("invalid value: 10", scale_to_zero_pod_retention_period="10"),
    _scaling(f"expected 0s <= 61m {_HOUR}", scale_down_delay="61m"),
    _scaling("at most second precision", scale_down_delay="1500ms"),
    _scaling("=0 not allowed by cluster", initial_scale="0"),
    _scaling("must be greater than 0", initial_scale="-1"),
    _scaling("invalid value: one", initial_scale="one"),
    _scaling("target 0 should be at least 0.01", target="0"),
    _scaling("invalid value: high", target="high"),
    _scaling("expected 1 <= 101 <= 100", target_utilization_percentage="101"),
    _scaling("invalid value: -2", target_burst_capacity="-2"),
    _scaling("invalid value: cpu", metric="cpu"),
    _scaling("invalid value: my.autoscaling", **{"class": "my.autoscaling.knative.dev"}),
    _scaling("invalid value: mean", metric_aggregation_algorithm="mean"),
    _template(PROGRESS_DEADLINE, "30", "invalid value: 30"),
    _template(PROGRESS_DEADLINE, "1500ms", "is not at second precision"),
    _template(PROGRESS_DEADLINE, "-1s", "must be positive"),
    _service(ROLLOUT_DURATION, "120", "invalid value: 120"),
    _service(ROLLOUT_DURATION, "-2s", "rollout-duration=-2s must be positive"),
    _service(SCALING + "window", "60s", 'invalid key name "autoscaling.knative.dev/window"'),
    _pod("expected 0 <= 601 <= 600", timeoutSeconds=601),
    _pod("expected 0 <= 1001 <= 1000", containerConcurrency=1001),
    _pod("spec.affinity", affinity={"podAntiAffinity": {}}),
    _pod("spec.tolerations", tolerations=[{"key": "a", "operator": "Exists"}]),
    _pod("spec.nodeSelector", nodeSelector={"a": "b"}),
    _pod("spec.runtimeClassName", runtimeClassName="nvidia"),
    _pod("spec.priorityClassName", priorityClassName="high"),
    _pod("spec.securityContext", securityContext={"fsGroup": 1}),
    _pod("spec.shareProcessNamespace", shareProcessNamespace=True),
    _pod("spec.terminationGracePeriodSeconds", terminationGracePeriodSeconds=75),
    _container(".lifecycle", lifecycle={"preStop": {"sleep": {"seconds": 15}}}),
    _container("Port name grpc is not allowed", ports=[{"containerPort": 8080, "name": "grpc"}]),
    _container("8012 is a reserved port", ports=[{"containerPort": 8012}]),
    _container(
        "more than one container port",
        ports=[{"containerPort": 8080}, {"containerPort": 8081, "name": "h2c"}],
    ),
    _container("is a reserved environment variable", env=[{"name": "PORT", "value": "1"}]),
    _container("securityContext.privileged", securityContext={"privileged": True}),
    _volume("persistentVolumeClaim", persistentVolumeClaim={"claimName": "c", "readOnly": True}),
    _volume("write support is disabled", persistentVolumeClaim={"claimName": "c"}),
    _volume(".hostPath", hostPath={"path": "/weights"}),
    _volume(".image", image={"reference": "registry.example.com/weights:1"}),
    _traffic("sum to 50, want 100", {"latestRevision": True, "percent": 50}),
]
# What is near a limit and passes.
ACCEPTED: list[Case] = [
    _scaling("", activation_scale="2", max_scale="4", min_scale="0"),
    _scaling("", window="1m30s", scale_to_zero_pod_retention_period="1500ms"),
    _scaling("", panic_window_percentage="100", panic_threshold_percentage="110"),
    _scaling("", scale_down_delay="0", target_burst_capacity="-1", initial_scale="1"),
    _template(PROGRESS_DEADLINE, "1h", ""),
    _service(ROLLOUT_DURATION, "120s", ""),
    _pod("", timeoutSeconds=600, containerConcurrency=1000),
    _container("", ports=[{"containerPort": 8080, "name": "h2c"}]),
    _traffic("", {"latestRevision": True, "percent": 100, "tag": "latest"}),
]
