"""Each rule about services, canaries, scaling and queries broken once."""

from __future__ import annotations

import copy

import pytest

from tests.manifests import queries, service_rules
from tests.manifests.conftest import needs_kustomize, needs_schemas
from tests.manifests.mutations import (
    Case,
    Change,
    Objects,
    Rule,
    breaks,
    container,
    dig,
    drop,
    ids,
    isvc,
    isvc_annotations,
    kind,
    predictor,
    put,
    rules_of,
)
from tests.manifests.objects import MODE, of_kind
from tests.manifests.schemas import problems

pytestmark = needs_kustomize
SERIES = queries.our_series()
ANTI_AFFINITY = (
    *("affinity", "podAntiAffinity", "preferredDuringSchedulingIgnoredDuringExecution"),
    *(0, "podAffinityTerm"),
)
EXTERNAL = ("autoScaling", "metrics", 0, "external")


def rule(name: str) -> Rule:
    if name == "queries":
        return lambda objects: service_rules.queries(objects, SERIES)
    found: Rule = getattr(service_rules, name)
    return found


def break_panel(objects: Objects) -> None:
    for each in of_kind(objects, "ConfigMap"):
        for name, text in each["data"].items():
            each["data"][name] = text.replace(
                "qwen3_asr_languages_total", "qwen3_asr_tongues_total"
            )


KNATIVE_CASES: list[Case] = [
    ("deployment_mode", drop(isvc_annotations, MODE), "must be Knative or Standard"),
    ("deployment_mode", put(isvc_annotations, MODE, "Serverless"), "must be Knative or Standard"),
    (
        "deployment_mode",
        put(predictor, "deploymentStrategy", {"type": "Recreate"}),
        "means nothing",
    ),
    ("deployment_mode", put(dig(isvc, "spec"), "canary", []), "canary means nothing in Knative"),
    (
        "deployment_mode",
        put(isvc_annotations, "serving.kserve.io/autoscalerClass", "keda"),
        "autoscalerClass",
    ),
    ("canaries", put(predictor, "canaryTrafficPercent", 101), "not within 0 and 100"),
    ("canaries", drop(isvc_annotations, "serving.kserve.io/enable-tag-routing"), "tag routing"),
    (
        "canaries",
        put(isvc_annotations, "serving.knative.dev/rollout-duration", "120s"),
        "the tag's address",
    ),
    (
        "storage_pinned",
        put(dig(predictor, "model"), "storageUri", "hf://Qwen/Qwen3-ASR-1.7B-hf"),
        "not pinned",
    ),
    (
        "storage_pinned",
        put(dig(predictor, "model"), "storageUri", "hf://Qwen/Qwen3-ASR-1.7B-hf:main"),
        "not pinned",
    ),
    (
        "storage_pinned",
        put(dig(predictor, "model"), "storageUri", "oci://host/weights:latest"),
        "not pinned",
    ),
    ("storage_pinned", drop(dig(predictor, "model"), "storageUri"), "many models"),
    (
        "storage_pinned",
        put(dig(lambda o: kind(o, "LocalModelCache"), "spec"), "sourceModelUri", "hf://a/b"),
        "served by no",
    ),
    ("references", lambda o: o.append(copy.deepcopy(o[0])), "declared twice"),
    (
        "references",
        drop(dig(lambda o: kind(o, "PodDisruptionBudget"), "metadata"), "namespace"),
        "no namespace",
    ),
    (
        "references",
        put(dig(predictor, "model", "modelFormat"), "name", "whisper"),
        "no format whisper",
    ),
    ("references", put(dig(predictor, "model"), "protocolVersion", "v3"), "no protocol v3"),
    ("references", put(predictor, "serviceAccountName", "default"), "no service account default"),
    (
        "permissions",
        put(dig(lambda o: kind(o, "RoleBinding"), "roleRef"), "name", "admin"),
        "there is no Role qwen3-asr/admin",
    ),
    (
        "permissions",
        put(dig(lambda o: kind(o, "Role"), "rules", 0), "resourceNames", ["whisper"]),
        "no InferenceService qwen3-asr/whisper",
    ),
    ("permissions", put(dig(lambda o: kind(o, "Role"), "rules", 2), "verbs", ["*"]), "all verbs"),
    ("scaling", put(predictor, "minReplicas", 9), "minReplicas 9"),
    ("scaling", put(predictor, "scaleTarget", 65), "scaleTarget 65 > containerConcurrency 64"),
    (
        "selectors",
        put(
            dig(lambda o: kind(o, "PodMonitor"), "spec", "selector", "matchLabels"),
            "component",
            "server",
        ),
        "PodMonitor",
    ),
    (
        "selectors",
        put(
            dig(lambda o: kind(o, "PodDisruptionBudget"), "spec", "selector", "matchLabels"),
            "app",
            "asr",
        ),
        "PodDisruptionBudget",
    ),
    (
        "selectors",
        put(
            dig(lambda o: kind(o, "NetworkPolicy"), "spec", "podSelector", "matchLabels"),
            "component",
            "x",
        ),
        "NetworkPolicy",
    ),
    (
        "selectors",
        put(
            dig(predictor, "topologySpreadConstraints", 0, "labelSelector", "matchLabels"),
            "component",
            "x",
        ),
        "InferenceService",
    ),
    (
        "selectors",
        put(dig(predictor, *ANTI_AFFINITY, "labelSelector", "matchLabels"), "component", "x"),
        "InferenceService",
    ),
    (
        "queries",
        put(
            dig(lambda o: kind(o, "PrometheusRule"), "spec", "groups", 0, "rules", 0),
            "expr",
            "rate(qwen3_asr_request_total[5m])",
        ),
        "no series qwen3_asr_request_total",
    ),
    (
        "queries",
        put(
            dig(lambda o: kind(o, "PrometheusRule"), "spec", "groups", 1, "rules", 0),
            "expr",
            "sum by (model) (qwen3_asr_load) > 1",
        ),
        "has the label model",
    ),
    (
        "queries",
        drop(dig(lambda o: kind(o, "PodMonitor"), "spec", "podMetricsEndpoints", 0), "relabelings"),
        "has the label revision",
    ),
    ("queries", break_panel, "no series qwen3_asr_tongues_total"),
]
STANDARD_CASES: list[Case] = [
    (
        "deployment_mode",
        put(predictor, "containerConcurrency", 8),
        "containerConcurrency means nothing",
    ),
    (
        "deployment_mode",
        put(predictor, "canaryTrafficPercent", 10),
        "canaryTrafficPercent means nothing",
    ),
    (
        "deployment_mode",
        put(isvc_annotations, "autoscaling.knative.dev/window", "60s"),
        "means nothing in Standard",
    ),
    (
        "deployment_mode",
        put(isvc_annotations, "serving.kserve.io/enable-tag-routing", "true"),
        "means nothing in Standard",
    ),
    ("canaries", put(dig(isvc, "spec", "canary", 0), "trafficPercent", 101), "exceed 100"),
    ("canaries", lambda o: isvc(o)["spec"]["canary"].append(isvc(o)["spec"]["canary"][0]), "own"),
    ("canaries", put(dig(isvc, "spec", "canary", 0, "predictor"), "name", None), "need names"),
    ("canaries", drop(dig(isvc, "spec", "canary", 0, "predictor"), "annotations"), "spec.triggers"),
    (
        "canaries",
        put(dig(isvc, "spec", "canary", 0, "predictor"), "maxReplicas", 4),
        "does not scale",
    ),
    ("scaling", put(predictor, "minReplicas", 0), "nothing holds a request"),
    ("scaling", drop(dig(predictor, *EXTERNAL, "target"), "value"), "only target.value"),
    (
        "queries",
        put(dig(predictor, *EXTERNAL, "metric"), "query", "sum(qwen3_asr_queue)"),
        "no series qwen3_asr_queue",
    ),
    (
        "queries",
        put(
            dig(predictor, *EXTERNAL, "metric"), "query", 'sum(qwen3_asr_load{namespace="default"})'
        ),
        "namespace default",
    ),
]


def test_every_rule_is_broken() -> None:
    broken = {name for name, _, _ in [*KNATIVE_CASES, *STANDARD_CASES]}
    assert broken | {"mode_change"} == rules_of(service_rules)


@pytest.mark.parametrize("case", KNATIVE_CASES, ids=ids(KNATIVE_CASES))
def test_a_broken_knative_stack_is_caught(knative: Objects, case: Case) -> None:
    breaks(rule(case[0]), knative, case)


@pytest.mark.parametrize("case", STANDARD_CASES, ids=ids(STANDARD_CASES))
def test_a_broken_standard_stack_is_caught(standard: Objects, case: Case) -> None:
    breaks(rule(case[0]), standard, case)


def test_the_mode_cannot_change(knative: Objects, standard: Objects) -> None:
    assert list(service_rules.mode_change(knative, knative)) == []
    assert "cannot change" in next(service_rules.mode_change(knative, standard))


@needs_schemas
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (put(predictor, "minReplica", 1), "minReplica"),
        (put(container, "readOnly", True), "readOnly"),
        (put(dig(lambda o: kind(o, "PodMonitor"), "spec"), "endpoints", []), "endpoints"),
        (put(lambda o: kind(o, "ServiceAccount"), "automountToken", False), "automountToken"),
        (put(lambda o: kind(o, "Namespace"), "kind", "Realm"), "Realm"),
    ],
)
def test_schemas_refuse_what_they_do_not_know(
    knative: Objects, change: Change, expected: str
) -> None:
    broken = copy.deepcopy(knative)
    change(broken)
    found = [problem for each in broken for problem in problems(each)]
    assert any(expected in problem for problem in found), found
