"""Builds kustomizations and works out what KServe makes of them: the predictor's pods."""

from __future__ import annotations

import copy
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.knative_rules import KPA, ROLLOUT_DURATION, SCALING

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "manifests"
SCHEMAS = ROOT.parent / "shared" / "schemas"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
ISVC_LABEL = "serving.kserve.io/inferenceservice"
MODE = "serving.kserve.io/deploymentMode"
# KServe's own: with it a change of the weights is a change of the revision's template.
SOURCE_URI = "internal.serving.kserve.io/storage-initializer-sourceuri"
_CONTAINER_FIELDS_OF_MODEL = frozenset(
    {
        "args", "command", "env", "envFrom", "image", "imagePullPolicy", "lifecycle",
        "livenessProbe", "ports", "readinessProbe", "resources", "securityContext",
        "startupProbe", "volumeMounts", "workingDir",
    }
)  # fmt: skip
_POD_FIELDS = frozenset(
    {
        "affinity", "automountServiceAccountToken", "dnsConfig", "dnsPolicy", "hostAliases",
        "hostIPC", "hostNetwork", "hostPID", "imagePullSecrets", "initContainers",
        "nodeSelector", "priorityClassName", "runtimeClassName", "schedulerName",
        "securityContext", "serviceAccountName", "shareProcessNamespace",
        "terminationGracePeriodSeconds", "tolerations", "topologySpreadConstraints", "volumes",
    }
)  # fmt: skip


@functools.cache
def kustomize_command() -> tuple[list[str] | None, str]:
    """The command that builds a folder, or None and why there is none."""
    if binary := shutil.which("kustomize"):
        return [binary, "build"], ""
    if binary := shutil.which("kubectl"):
        shown = subprocess.run([binary, "version", "--client", "-o", "yaml"], capture_output=True)
        version = (yaml.safe_load(shown.stdout) or {}).get("kustomizeVersion", "v0")
        found = re.match(r"v(\d+)\.", version)
        # Components came with kustomize 3.7, and kubectl before 1.21 has 2.0.3 inside.
        if found and int(found[1]) >= 4:
            return [binary, "kustomize"], ""
        return None, f"kubectl has kustomize {version}, components need v4 or later"
    return None, "neither kustomize nor kubectl is on the PATH"


@functools.cache
def _build_text(folder: Path) -> str:
    command, reason = kustomize_command()
    if command is None:
        raise RuntimeError(reason)
    built = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    if built.returncode or built.stderr:
        raise ValueError(f"{folder}: {built.stderr}")
    return built.stdout


def build(folder: Path) -> list[Object]:
    """All objects of a kustomization folder. Raises ValueError for errors and for warnings."""
    return [document for document in yaml.load_all(_build_text(folder), _LOADER) if document]


def combine(folder: Path, components: Sequence[str], base: str = "base") -> list[Object]:
    """Objects of a base with components, as an overlay written into the empty `folder`."""
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(MANIFESTS / base, folder)],
        "components": [
            os.path.relpath(MANIFESTS / "components" / name, folder) for name in components
        ],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return build(folder)


def extend(folder: Path, overlay: str, components: Sequence[str]) -> list[Object]:
    """Objects of an overlay with more components at the end of its list, as its owner adds them."""
    source = MANIFESTS / "overlays" / overlay
    shutil.copytree(source, folder, dirs_exist_ok=True)
    kustomization = yaml.safe_load((source / "kustomization.yaml").read_text())
    added = [f"../../components/{name}" for name in components]
    kustomization["components"] = kustomization.get("components", []) + added
    for listed in ("resources", "components"):
        kustomization[listed] = [
            os.path.relpath(source / path, folder) if (source / path).is_dir() else path
            for path in kustomization[listed]
        ]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return build(folder)


def of_kind(objects: Sequence[Object], kind: str) -> list[Object]:
    return [each for each in objects if each["kind"] == kind]


def full_name(each: Object) -> str:
    return f"{each['kind']} {each['metadata'].get('namespace', '-')}/{each['metadata']['name']}"


def containers_of(node: Any) -> Iterator[Object]:
    """Every container anywhere inside an object."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("containers", "initContainers") and isinstance(value, list):
                yield from value
            yield from containers_of(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers_of(value)


@dataclass(frozen=True)
class Predictor:
    """One predictor of an InferenceService as it comes out of KServe's merge with its runtime."""

    service: Object
    spec: Object  # the predictor's own part
    runtime: Object | None  # None for a container of its own
    mode: str
    is_canary: bool
    pod: Object  # a PodSpec

    @property
    def name(self) -> str:
        variant = f" canary {self.spec.get('name')}" if self.is_canary else ""
        return full_name(self.service) + variant

    @property
    def container(self) -> Object:
        found: Object = self.pod["containers"][0]
        return found

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its pods that selectors can count on."""
        name = self.service["metadata"]["name"]
        variant = f"{name}-{self.spec.get('name')}" if self.is_canary else name
        own = self.service["metadata"].get("labels", {})
        labels = {**own, ISVC_LABEL: name, "component": "predictor"}
        if self.mode == "Standard":
            labels["app"] = f"isvc.{variant}-predictor"
        return labels


def merge(base: Any, over: Any) -> Any:
    """Strategic merge as far as we use it: maps deeply, lists of named things by name."""
    if isinstance(base, dict) and isinstance(over, dict):
        merged = {**base, **over}
        return {
            k: merge(base[k], over[k]) if k in base and k in over else v for k, v in merged.items()
        }
    named = isinstance(base, list) and isinstance(over, list)
    if named and all(isinstance(e, dict) and "name" in e for e in [*base, *over]):
        by_name = {e["name"]: e for e in base}
        for each in over:
            by_name[each["name"]] = merge(by_name.get(each["name"], {}), each)
        return list(by_name.values())
    return over


def _pod(spec: Object, runtime: Object | None) -> Object:
    """The PodSpec of one predictor: its own containers, or its model's merged into a runtime's."""
    own = {k: v for k, v in spec.items() if k in _POD_FIELDS}
    if runtime is None:
        return copy.deepcopy({**own, "containers": spec["containers"]})
    pod = {k: v for k, v in runtime["spec"].items() if k in _POD_FIELDS | {"containers"}}
    pod = copy.deepcopy(pod)
    model = {k: v for k, v in spec["model"].items() if k in _CONTAINER_FIELDS_OF_MODEL}
    pod["containers"][0] = merge(pod["containers"][0], model)
    merged: Object = merge(pod, own)
    return merged


def predictors(objects: Sequence[Object]) -> list[Predictor]:
    """Every predictor, stable and canary, of every InferenceService."""
    runtimes = {each["metadata"]["name"]: each for each in of_kind(objects, "ServingRuntime")}
    found = []
    for service in of_kind(objects, "InferenceService"):
        mode = service["metadata"].get("annotations", {}).get(MODE, "")
        canaries = [canary["predictor"] for canary in service["spec"].get("canary", [])]
        for index, spec in enumerate([service["spec"]["predictor"], *canaries]):
            runtime = runtimes[spec["model"]["runtime"]] if "model" in spec else None
            pod = _pod(spec, runtime)
            found.append(Predictor(service, spec, runtime, mode, index > 0, pod))
    return found


def with_config(objects: Sequence[Object]) -> Iterator[tuple[Predictor, str]]:
    """Each predictor with the text of the model-config.json that it mounts."""
    files = {
        each["metadata"]["name"]: each["data"]["model-config.json"]
        for each in of_kind(objects, "ConfigMap")
        if "model-config.json" in each.get("data", {})
    }
    for each in predictors(objects):
        mounted = [v["configMap"]["name"] for v in each.pod["volumes"] if "configMap" in v]
        yield each, next((files[name] for name in mounted if name in files), "{}")


def knative_service(predictor: Predictor) -> Object:
    """The Knative service that KServe asks for, as its reconciler makes it."""
    service, spec = predictor.service["metadata"], predictor.spec
    annotations = dict(service.get("annotations", {}))
    own = {k: annotations.pop(k) for k in (ROLLOUT_DURATION,) if k in annotations}
    annotations.setdefault(SCALING + "class", KPA)
    annotations[SCALING + "min-scale"] = str(spec.get("minReplicas", 1))
    for field, name in (("maxReplicas", "max-scale"), ("scaleTarget", "target")):
        if spec.get(field):
            annotations[SCALING + name] = str(spec[field])
    if uri := spec.get("model", {}).get("storageUri"):
        annotations[SOURCE_URI] = uri
    if "scaleMetric" in spec:
        annotations[SCALING + "metric"] = spec["scaleMetric"]
    revision: Object = {**predictor.pod}
    for name in ("timeoutSeconds", "responseStartTimeoutSeconds"):
        revision[name] = spec.get("timeout")
    if "containerConcurrency" in spec:
        revision["containerConcurrency"] = spec["containerConcurrency"]
    template = {"metadata": {"annotations": annotations}, "spec": revision}
    return {
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {"name": service["name"] + "-predictor", "annotations": own},
        "spec": {"template": template},
    }


def core_pod(predictor: Predictor) -> Object:
    """The same pod as a core v1 object, for the strict check of its container."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "predictor", "labels": predictor.labels},
        "spec": predictor.pod,
    }
