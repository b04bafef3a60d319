"""What schemas do not say about the predictor's pods. A rule gives a list of problems."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tests.manifests.knative_rules import (
    KNOWN_SCALING,
    MAX_TIMEOUT_S,
    POD_FLAGS,
    SCALING,
    VOLUME_FLAGS,
    WRITE_FLAG,
    refusals,
)
from tests.manifests.objects import (
    Object,
    Predictor,
    containers_of,
    full_name,
    knative_service,
    of_kind,
    predictors,
    with_config,
)

# Environment that libraries read and not our configuration.
LIBRARY_ENV = re.compile(r"HOME|HF_HUB_OFFLINE|OTEL_\w+|FASTAPI_OTEL_AUTO_CONFIGURE")
# (flags, environment, text of model-config.json) -> what the server says against it, or None
Complaint = Callable[[list[str], dict[str, str], str], str | None]
# Built by `make image`, and pushed to a registry that only its owner knows.
OUR_IMAGES = ("/qwen3-asr/predictor", "/qwen3-asr/pipelines")
_PINNED_IMAGE = re.compile(
    r"(?P<name>[^@]+):(?P<tag>[\w.-]*\d[\w.-]*)(?P<digest>@sha256:[0-9a-f]{64})?"
)
_FLAG = re.compile(r"(--[a-z_]+)(?:=(.*))?")


def knative_refusals(
    objects: Sequence[Object], enabled: Collection[str], max_timeout_s: int = MAX_TIMEOUT_S
) -> Iterator[str]:
    """What Knative's webhook says against the services that KServe makes, given the flags on."""
    for each in predictors(objects):
        if each.mode == "Knative":
            said = refusals(knative_service(each), enabled, max_timeout_s)
            yield from (f"{each.name}: {message}{_by_flag(message)}" for message in said)


def _by_flag(message: str) -> str:
    """The feature flag that would let the field pass, where there is one."""
    if message.startswith("Persistent volume write"):
        return f" (needs Knative's flag {WRITE_FLAG})"
    field = message.rsplit(".", 1)[-1]
    flag = (POD_FLAGS | VOLUME_FLAGS).get(field)
    return f" (needs Knative's flag {flag})" if flag and "must not set" in message else ""


def knative_annotations(objects: Sequence[Object]) -> Iterator[str]:
    """A scaling annotation that Knative does not know is ignored without a word."""
    for each in of_kind(objects, "InferenceService"):
        yield from (
            f"{full_name(each)}: Knative has no annotation {key}"
            for key in each["metadata"].get("annotations", {})
            if key.startswith(SCALING) and key.removeprefix(SCALING) not in KNOWN_SCALING
        )


def ports(objects: Sequence[Object]) -> Iterator[str]:
    """KServe routes HTTP to the first port, and in Standard mode gRPC to one that says so."""
    for each in predictors(objects):
        ports = each.container.get("ports", [])
        if not ports or (len(ports) > 1 and each.mode == "Knative"):
            yield f"{each.name}: {len(ports)} ports, must be 1"
            continue
        yield from (
            f"{each.name}: port {port['containerPort']} is named {port.get('name')!r}, without grpc"
            for port in ports[1:]
            if "grpc" not in port.get("name", "")
        )
        if ports[0].get("name") not in ("http1", "h2c"):
            yield f"{each.name}: port name {ports[0].get('name')!r}, must be http1 or h2c"
        for probe, get in _http_probes(each):
            if get.get("port") not in (ports[0]["containerPort"], ports[0].get("name")):
                yield f"{each.name}: {probe} asks port {get.get('port')}"
        flag = flags(each).get("--http_port")
        if flag is not None and flag != str(ports[0]["containerPort"]):
            yield f"{each.name}: --http_port={flag} is not the container's port"


def container_name(objects: Sequence[Object]) -> Iterator[str]:
    """KServe finds the server's container by its name."""
    yield from (
        f"{full_name(each)}: container {container['name']!r}, must be kserve-container"
        for each in of_kind(objects, "ServingRuntime")
        for container in each["spec"]["containers"]
        if container["name"] != "kserve-container"
    )


def flags(predictor: Predictor) -> dict[str, str | None]:
    """Command line flags of the container; None for one without a value."""
    matches = (_FLAG.fullmatch(arg) for arg in predictor.container.get("args", []))
    return {match[1]: match[2] for match in matches if match}


def flags_known(objects: Sequence[Object], known: Collection[str]) -> Iterator[str]:
    """Flags must be ones that the server has, written --name=value."""
    for each in predictors(objects):
        for arg in each.container.get("args", []):
            match = _FLAG.fullmatch(arg)
            if match is None or match[1] not in known:
                yield f"{each.name}: the server has no flag {arg!r}"


def env_known(objects: Sequence[Object], known: Collection[str]) -> Iterator[str]:
    """Environment must be our configuration's or a library's."""
    yield from (
        f"{each.name}: nothing reads the environment variable {env['name']}"
        for each in predictors(objects)
        for env in each.container.get("env", [])
        if env["name"] not in known and not LIBRARY_ENV.fullmatch(env["name"])
    )


def _http_probes(predictor: Predictor) -> Iterator[tuple[str, Object]]:
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        if get := predictor.container.get(probe, {}).get("httpGet"):
            yield probe, get


def probes(objects: Sequence[Object], has_route: Callable[[str], bool]) -> Iterator[str]:
    """All three probes, on routes that exist and say what the probe asks."""
    for each in predictors(objects):
        paths = {probe: get["path"] for probe, get in _http_probes(each)}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe not in paths:
                yield f"{each.name}: no {probe}"
            elif not has_route(paths[probe]):
                yield f"{each.name}: {probe} asks {paths[probe]}, which is no route"
        model = flags(each).get("--model_name")
        for probe in ("startupProbe", "readinessProbe"):
            if paths.get(probe, f"/v2/models/{model}/ready") != f"/v2/models/{model}/ready":
                yield f"{each.name}: {probe} does not ask for the model {model}"
        startup = each.container.get("startupProbe", {})
        if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < 300:
            yield f"{each.name}: startupProbe gives loading less than five minutes"


def hardened(objects: Sequence[Object]) -> Iterator[str]:
    """Non-root, nothing gained, nothing written, no token of the API server."""
    tokens = {
        each["metadata"]["name"]: each.get("automountServiceAccountToken", True)
        for each in of_kind(objects, "ServiceAccount")
    }
    wanted: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    for each in predictors(objects):
        context = each.container.get("securityContext", {})
        for key, value in wanted.items():
            if context.get(key) != value:
                yield f"{each.name}: securityContext.{key} must be {value}"
        account = each.pod.get("serviceAccountName")
        if account is None:
            yield f"{each.name}: no service account of its own"
        elif tokens.get(account, True):
            yield f"{each.name}: service account {account} mounts a token"


def resources(objects: Sequence[Object]) -> Iterator[str]:
    """CPU and memory requested and limited; devices requested as much as limited."""
    for each in predictors(objects):
        requests = each.container.get("resources", {}).get("requests", {})
        limits = each.container.get("resources", {}).get("limits", {})
        for name in ("cpu", "memory"):
            if name not in requests or name not in limits:
                yield f"{each.name}: no request or no limit of {name}"
        for name in {*requests, *limits}:
            if "/" in name and requests.get(name) != limits.get(name):
                yield f"{each.name}: {name} requested and limited differently"


def volumes(objects: Sequence[Object], secrets: Collection[str]) -> Iterator[str]:
    """Every mount has its volume, every volume its ConfigMap; secrets are made by hand."""
    config_maps = {each["metadata"]["name"] for each in of_kind(objects, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(objects, "PersistentVolumeClaim")}
    for each in predictors(objects):
        declared = {volume["name"]: volume for volume in each.pod.get("volumes", [])}
        for mount in each.container.get("volumeMounts", []):
            if mount["name"] not in declared:
                yield f"{each.name}: no volume {mount['name']}"
        for volume in declared.values():
            name = volume.get("configMap", {}).get("name")
            if name is not None and name not in config_maps:
                yield f"{each.name}: no ConfigMap {name}"
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim is not None and claim not in claims:
                yield f"{each.name}: no claim {claim}"
            secret = volume.get("secret", {}).get("secretName")
            if secret is not None and secret not in secrets:
                yield f"{each.name}: Secret {secret} is not documented"
        for env in each.container.get("env", []):
            secret = env.get("valueFrom", {}).get("secretKeyRef", {}).get("name")
            if secret is not None and secret not in secrets:
                yield f"{each.name}: Secret {secret} is not documented"
        scratch = [m["mountPath"] for m in each.container.get("volumeMounts", [])]
        if "/tmp" not in scratch:
            yield f"{each.name}: nothing to write to, /tmp must be a volume"


def server_settings(objects: Sequence[Object], complaint: Complaint) -> Iterator[str]:
    """Flags, environment and the mounted file make settings that the server starts with."""
    for each, text in with_config(objects):
        env = {e["name"]: e.get("value", "from-a-secret") for e in each.container.get("env", [])}
        if said := complaint(each.container.get("args", []), env, text):
            yield f"{each.name}: {said}"
        name = flags(each).get("--model_name")
        if name != json.loads(text).get("model_name", name):
            yield f"{each.name}: model_name of the file is not --model_name={name}"


def live_sessions(
    objects: Sequence[Object], longest_s: Callable[[list[str]], float]
) -> Iterator[str]:
    """A speaker is asked to connect again before the way in cuts the connection."""
    for each in predictors(objects):
        session_s = longest_s(each.container.get("args", []))
        # A canary's too: the route's is the stable predictor's.
        if session_s >= each.service["spec"]["predictor"].get("timeout", 60):
            yield f"{each.name}: max_live_session_s {session_s} is not below the timeout"


def time_limits(
    objects: Sequence[Object], longest_s: Callable[[list[str], str], float]
) -> Iterator[str]:
    """The server ends a request, and says why, before the way in cuts the connection."""
    for each, text in with_config(objects):
        request_s = longest_s(each.container.get("args", []), text)
        if request_s >= each.service["spec"]["predictor"].get("timeout", 60):
            yield f"{each.name}: request_timeout_s {request_s} is not below the timeout"


def jobs(objects: Sequence[Object]) -> Iterator[str]:
    """Jobs are on a claim that replicas share and may write, and there is always one of them."""
    for each in predictors(objects):
        folder = flags(each).get("--jobs_dir")
        if folder is None:
            continue
        mounts = {m["mountPath"]: m["name"] for m in each.container["volumeMounts"]}
        shared = [v["name"] for v in each.pod["volumes"] if "persistentVolumeClaim" in v]
        if mounts.get(folder) not in shared:
            yield f"{each.name}: --jobs_dir={folder} is not on a claim"
        if each.spec.get("minReplicas", 1) < 1:
            yield f"{each.name}: at zero replicas nobody works on jobs"
        stable = each.service["spec"]["predictor"].get("securityContext", {})
        if stable.get("fsGroup") != each.container["securityContext"]["runAsGroup"]:
            yield f"{each.name}: the claim is not writable for the server's group"


def modelcars(objects: Sequence[Object]) -> Iterator[str]:
    """Weights in a container beside the server are reached through its process, which the kernel
    lets in who has its user and its group; KServe sees to the user."""
    for each in predictors(objects):
        if not each.spec.get("model", {}).get("storageUri", "").startswith("oci://"):
            continue
        stable = each.service["spec"]["predictor"].get("securityContext", {})
        if stable.get("runAsGroup") != each.container["securityContext"]["runAsGroup"]:
            yield f"{each.name}: the weights' container has another group than the server's"
        elif "runAsUser" not in stable:
            yield f"{each.name}: containerd makes no pod of a group without a user"


def images_pinned(objects: Sequence[Object]) -> Iterator[str]:
    """A tag that names a version; of images that are not ours also the digest."""
    for each in objects:
        for container in containers_of(each):
            image = container.get("image", "")
            pinned = _PINNED_IMAGE.fullmatch(image)
            if pinned is None:
                yield f"{full_name(each)}: image {image!r} is not pinned"
            elif pinned["digest"] is None and not pinned["name"].endswith(OUR_IMAGES):
                yield f"{full_name(each)}: image {image!r} has no digest"
