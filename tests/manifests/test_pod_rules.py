"""Each rule about pods broken once: a rule that cannot fail protects nothing."""

from __future__ import annotations

from typing import Any

import pytest

from predictor.settings.fields import specs
from tests.manifests import pod_rules
from tests.manifests.conftest import complaint, needs_kustomize
from tests.manifests.knative_rules import POD_FLAGS, VOLUME_FLAGS, WRITE_FLAG
from tests.manifests.mutations import (
    Case,
    Objects,
    Rule,
    account,
    breaks,
    container,
    dig,
    drop,
    ids,
    isvc_annotations,
    kind,
    predictor,
    put,
    rules_of,
)
from tests.manifests.objects import MODE, of_kind

pytestmark = needs_kustomize
FLAGS = frozenset({*POD_FLAGS.values(), *VOLUME_FLAGS.values(), WRITE_FLAG})
# Flags that the full Knative stack needs, as manifests/cluster/knative turns them on.
ON = frozenset(
    f"kubernetes.podspec-{name}"
    for name in (
        *("affinity", "tolerations", "topologyspreadconstraints", "securitycontext"),
        *("persistent-volume-claim", "persistent-volume-write"),
    )
)
ROUTES = frozenset({"/v2/health/live", "/v2/models/qwen3-asr/ready"})


def rule(name: str) -> Rule:
    """A rule by name, with what it asks of the server fixed to what these manifests use."""
    asked: dict[str, Rule] = {
        "knative_refusals": lambda o: pod_rules.knative_refusals(o, FLAGS, 3600),
        "no_flags": lambda o: pod_rules.knative_refusals(o, ON, 3600),
        "probes": lambda o: pod_rules.probes(o, ROUTES.__contains__),
        "flags_known": lambda o: pod_rules.flags_known(o, {f"--{name}" for name in specs()}),
        "env_known": lambda o: pod_rules.env_known(o, {"QWEN3_ASR_API_KEYS"}),
        "server_settings": lambda o: pod_rules.server_settings(o, complaint),
        "live_sessions": lambda o: pod_rules.live_sessions(o, lambda argv: 3570.0),
        "time_limits": lambda o: pod_rules.time_limits(o, lambda argv, config: 3590.0),
        "volumes": lambda o: pod_rules.volumes(o, {"qwen3-asr-api-keys"}),
    }
    if name in asked:
        return asked[name]
    found: Rule = getattr(pod_rules, name)
    return found


def rename_config(objects: Objects) -> None:
    for each in of_kind(objects, "ConfigMap"):
        if each["metadata"]["name"].startswith("qwen3-asr-config"):
            each["metadata"]["name"] = "qwen3-asr-config-old"


def config_with_a_wrong_precision(objects: Objects) -> None:
    for each in of_kind(objects, "ConfigMap"):
        if "model-config.json" in each["data"]:
            each["data"]["model-config.json"] = '{"precision": "fp12"}'


def config_of_another_model(objects: Objects) -> None:
    for each in of_kind(objects, "ConfigMap"):
        if "model-config.json" in each["data"]:
            each["data"]["model-config.json"] = '{"model_name": "other"}'


def second_port_in_standard_mode(objects: Objects) -> None:
    isvc_annotations(objects)[MODE] = "Standard"
    container(objects)["ports"].append({"containerPort": 8081, "name": "more"})


def kind_of_claim(objects: Objects) -> Any:
    return kind(objects, "PersistentVolumeClaim")


def add_volume(objects: Objects) -> None:
    image = {"name": "weights", "image": {"reference": "registry.example.com/weights:1"}}
    kind(objects, "ServingRuntime")["spec"]["volumes"].append(image)


def weights_beside_the_server(objects: Objects) -> None:
    predictor(objects)["model"]["storageUri"] = "oci://registry.example.com/weights:1"
    predictor(objects)["securityContext"].pop("runAsGroup", None)


def group_without_a_user(objects: Objects) -> None:
    weights_beside_the_server(objects)
    predictor(objects)["securityContext"]["runAsGroup"] = 1000


def mount_secret(objects: Objects) -> None:
    secret = {"name": "keys", "secret": {"secretName": "unheard-of"}}
    kind(objects, "ServingRuntime")["spec"]["volumes"].append(secret)


def read_secret(objects: Objects) -> None:
    reference = {"secretKeyRef": {"name": "unheard-of", "key": "keys"}}
    container(objects)["env"].append({"name": "QWEN3_ASR_API_KEYS", "valueFrom": reference})


CASES: list[Case] = [
    (
        "knative_refusals",
        put(container, "lifecycle", {"preStop": {"sleep": {"seconds": 1}}}),
        "lifecycle",
    ),
    ("knative_refusals", put(predictor, "terminationGracePeriodSeconds", 60), "terminationGrace"),
    ("knative_refusals", put(predictor, "timeout", 3601), "3601 <= 3600"),
    (
        "knative_refusals",
        put(isvc_annotations, "autoscaling.knative.dev/window", "5s"),
        "expected 6s <= 5s <= 1h0m0s",
    ),
    (
        "knative_annotations",
        put(isvc_annotations, "autoscaling.knative.dev/pod-retention", "10m"),
        "Knative has no annotation",
    ),
    ("no_flags", put(predictor, "nodeSelector", {"a": "b"}), "kubernetes.podspec-nodeselector"),
    ("no_flags", add_volume, "kubernetes.podspec-volumes-image"),
    ("ports", lambda o: container(o)["ports"].append({"containerPort": 8081}), "2 ports"),
    ("ports", second_port_in_standard_mode, "is named 'more', without grpc"),
    ("ports", put(dig(container, "ports", 0), "name", "http"), "must be http1 or h2c"),
    ("ports", put(dig(container, "readinessProbe", "httpGet"), "port", 9000), "asks port 9000"),
    ("ports", put(dig(container, "args"), 2, "--http_port=9000"), "not the container's port"),
    ("container_name", put(container, "name", "predictor"), "must be kserve-container"),
    ("flags_known", lambda o: container(o)["args"].append("--turbo=yes"), "--turbo=yes"),
    (
        "env_known",
        lambda o: container(o)["env"].append({"name": "CUDA_VISIBLE_DEVICES", "value": "0"}),
        "CUDA_VISIBLE_DEVICES",
    ),
    ("probes", drop(container, "livenessProbe"), "no livenessProbe"),
    (
        "probes",
        put(dig(container, "livenessProbe", "httpGet"), "path", "/healthz"),
        "which is no route",
    ),
    (
        "probes",
        put(dig(container, "readinessProbe", "httpGet"), "path", "/v2/health/live"),
        "does not ask for the model",
    ),
    (
        "probes",
        put(dig(container, "startupProbe"), "failureThreshold", 3),
        "less than five minutes",
    ),
    ("hardened", drop(container, "securityContext"), "readOnlyRootFilesystem"),
    (
        "hardened",
        put(dig(container, "securityContext"), "capabilities", {"drop": ["NET_RAW"]}),
        "capabilities",
    ),
    ("hardened", drop(predictor, "serviceAccountName"), "no service account of its own"),
    ("hardened", drop(account, "automountServiceAccountToken"), "mounts a token"),
    ("resources", drop(dig(container, "resources"), "limits"), "no limit of memory"),
    (
        "resources",
        put(dig(container, "resources", "limits"), "nvidia.com/mig-2g.20gb", "2"),
        "differently",
    ),
    (
        "volumes",
        lambda o: container(o)["volumeMounts"].append({"name": "gone", "mountPath": "/x"}),
        "no volume gone",
    ),
    ("volumes", rename_config, "no ConfigMap qwen3-asr-config"),
    ("volumes", mount_secret, "unheard-of"),
    ("volumes", read_secret, "Secret unheard-of is not documented"),
    (
        "volumes",
        put(dig(container, "volumeMounts", 1), "mountPath", "/scratch"),
        "nothing to write to",
    ),
    ("server_settings", config_with_a_wrong_precision, "precision"),
    ("server_settings", config_of_another_model, "is not --model_name=qwen3-asr"),
    ("time_limits", put(predictor, "timeout", 600), "3590.0 is not below the timeout"),
    ("jobs", put(predictor, "minReplicas", 0), "nobody works on jobs"),
    ("jobs", drop(predictor, "securityContext"), "not writable for the server's group"),
    ("jobs", lambda o: container(o)["args"].append("--jobs_dir=/tmp"), "is not on a claim"),
    ("modelcars", weights_beside_the_server, "another group than the server's"),
    ("modelcars", group_without_a_user, "a group without a user"),
    ("volumes", put(dig(kind_of_claim, "metadata"), "name", "other"), "no claim qwen3-asr-jobs"),
    ("live_sessions", put(predictor, "timeout", 300), "not below the timeout"),
    ("images_pinned", put(container, "image", "registry.example.com/predictor"), "not pinned"),
    (
        "images_pinned",
        put(container, "image", "registry.example.com/predictor:latest"),
        "not pinned",
    ),
    ("images_pinned", put(container, "image", "registry.example.com:5000/predictor"), "not pinned"),
    ("images_pinned", put(container, "image", "example.com/predictor@sha256:12"), "not pinned"),
    ("images_pinned", put(container, "image", "docker.io/other/predictor:1.0"), "has no digest"),
]


def test_every_rule_is_broken() -> None:
    broken = {name.replace("no_flags", "knative_refusals") for name, _, _ in CASES}
    assert broken == rules_of(pod_rules)


@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_a_broken_pod_is_caught(knative: Objects, case: Case) -> None:
    breaks(rule(case[0]), knative, case)


@pytest.mark.parametrize("flag", sorted(ON))
def test_each_flag_is_needed(knative: Objects, flag: str) -> None:
    problems = pod_rules.knative_refusals(knative, ON - {flag}, 3600)
    assert any(flag in problem for problem in problems)
