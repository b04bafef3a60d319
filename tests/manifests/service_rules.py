"""What schemas do not say about services, canaries, scaling, selectors and queries."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from tests.manifests.knative_rules import ROLLOUT_DURATION
from tests.manifests.kserve_rules import reconcile_failures
from tests.manifests.objects import MODE, Object, full_name, of_kind, predictors
from tests.manifests.queries import (
    TARGET_LABELS,
    all_expressions,
    names_and_labels,
    relabeled,
    rule_expressions,
)

TAGGED = "serving.kserve.io/enable-tag-routing"
_CLUSTER_WIDE = frozenset({"Namespace", "LocalModelCache", "LocalModelNodeGroup", "ClusterRole"})
_KNATIVE_ONLY_FIELDS = ("containerConcurrency", "canaryTrafficPercent")
_STANDARD_ONLY_FIELDS = ("autoScaling", "deploymentStrategy")
_SCALING_FIELDS = ("maxReplicas", "scaleMetric", "scaleTarget", "autoScaling")


def deployment_mode(objects: Sequence[Object]) -> Iterator[str]:
    """The mode is named, and nothing of the other mode is set, where KServe ignores it silently."""
    for each in of_kind(objects, "InferenceService"):
        annotations = each["metadata"].get("annotations", {})
        predictor = each["spec"]["predictor"]
        mode = annotations.get(MODE)
        if mode not in ("Knative", "Standard"):
            yield f"{full_name(each)}: {MODE} is {mode!r}, must be Knative or Standard"
        elif mode == "Standard":
            wrong = [f for f in _KNATIVE_ONLY_FIELDS if f in predictor]
            wrong += [a for a in annotations if "knative.dev/" in a or "tag-routing" in a]
            yield from (
                f"{full_name(each)}: {what} means nothing in Standard mode" for what in wrong
            )
        else:
            wrong = [f for f in _STANDARD_ONLY_FIELDS if f in predictor]
            wrong += ["canary"] if "canary" in each["spec"] else []
            wrong += ["autoscalerClass"] * ("serving.kserve.io/autoscalerClass" in annotations)
            yield from (
                f"{full_name(each)}: {what} means nothing in Knative mode" for what in wrong
            )


def mode_change(before: Sequence[Object], after: Sequence[Object]) -> Iterator[str]:
    """An update must not switch the mode of a service that exists."""
    modes = {
        full_name(e): e["metadata"]["annotations"] for e in of_kind(before, "InferenceService")
    }
    yield from (
        f"{full_name(each)}: {MODE} cannot change, delete the service first"
        for each in of_kind(after, "InferenceService")
        if full_name(each) in modes
        and modes[full_name(each)].get(MODE) != each["metadata"]["annotations"].get(MODE)
    )


def canaries(objects: Sequence[Object]) -> Iterator[str]:
    """Shares within 0 to 100, names, no scaling of a canary, and a dark one reachable."""
    for each in of_kind(objects, "InferenceService"):
        yield from reconcile_failures(each)
        name, predictor = full_name(each), each["spec"]["predictor"]
        percent = predictor.get("canaryTrafficPercent")
        annotations = each["metadata"].get("annotations", {})
        if percent is not None and not 0 <= percent <= 100:
            yield f"{name}: canaryTrafficPercent {percent} is not within 0 and 100"
        if percent is not None and annotations.get(TAGGED) != "true":
            yield f"{name}: a canary without tag routing cannot be reached apart"
        if ROLLOUT_DURATION in annotations and TAGGED in annotations:
            yield f"{name}: rollout-duration: the tag's address answers from the old revision too"
        listed = each["spec"].get("canary", [])
        if sum(canary["trafficPercent"] for canary in listed) > 100:
            yield f"{name}: the canaries' trafficPercent exceed 100 together"
        names = [canary["predictor"].get("name") for canary in listed]
        if None in names or len(set(names)) != len(names):
            yield f"{name}: canaries need names, each its own: {names}"
        for canary in listed:
            wrong = [field for field in _SCALING_FIELDS if field in canary["predictor"]]
            yield from (
                f"{name}: canary sets {field}, which KServe does not scale" for field in wrong
            )


def storage_pinned(objects: Sequence[Object]) -> Iterator[str]:
    """The weights of a revision never change under it, and a cache holds the same weights."""
    served: set[str | None] = set()
    for predictor in predictors(objects):
        if "model" not in predictor.spec:
            continue
        uri = predictor.spec["model"].get("storageUri")
        served.add(uri)
        if not uri:
            yield f"{predictor.name}: no storageUri: to KServe a server of many models"
            continue
        if uri.startswith(("s3://", "pvc://")):
            continue
        if uri.startswith("hf://"):
            pinned = re.fullmatch(r"hf://[\w.-]+/[\w.-]+:[0-9a-f]{40}", uri)
        else:
            pinned = re.fullmatch(
                r"oci(?:\+native)?://.+(@sha256:[0-9a-f]{64}|:(?!latest$)[\w.-]*\d[\w.-]*)", uri
            )
        if not pinned:
            yield f"{predictor.name}: storageUri {uri} is not pinned to a revision"
    for each in of_kind(objects, "LocalModelCache"):
        if (uri := each["spec"]["sourceModelUri"]) not in served:
            yield f"{full_name(each)}: {uri} is served by no InferenceService"


def references(objects: Sequence[Object]) -> Iterator[str]:
    """Runtime, format, protocol and service account exist; every namespaced object says where."""
    names = [full_name(each) for each in objects]
    yield from (f"{name}: declared twice" for name in {n for n in names if names.count(n) > 1})
    accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
    for each in objects:
        if each["kind"] not in _CLUSTER_WIDE and "namespace" not in each["metadata"]:
            yield f"{full_name(each)}: no namespace"
    for predictor in predictors(objects):
        if predictor.runtime is not None:
            runtime, model = predictor.runtime["spec"], predictor.spec["model"]
            formats = [supported["name"] for supported in runtime["supportedModelFormats"]]
            if model["modelFormat"]["name"] not in formats:
                yield f"{predictor.name}: runtime has no format {model['modelFormat']['name']}"
            if model.get("protocolVersion") not in runtime["protocolVersions"]:
                yield f"{predictor.name}: runtime has no protocol {model.get('protocolVersion')}"
        if predictor.pod.get("serviceAccountName") not in accounts:
            yield (
                f"{predictor.name}: no service account {predictor.pod.get('serviceAccountName')}"
            )


def permissions(objects: Sequence[Object]) -> Iterator[str]:
    """A binding's role is here, and a role over named services names those that exist."""
    roles = {full_name(each) for each in of_kind(objects, "Role")}
    for each in of_kind(objects, "RoleBinding"):
        role = f"Role {each['metadata']['namespace']}/{each['roleRef']['name']}"
        if role not in roles:
            yield f"{full_name(each)}: there is no {role}"
    services = {
        (each["metadata"]["namespace"], each["metadata"]["name"])
        for each in of_kind(objects, "InferenceService")
    }
    for each in of_kind(objects, "Role"):
        for rule in each["rules"]:
            wide = [what for what in ("verbs", "resources", "apiGroups") if "*" in rule[what]]
            yield from (f"{full_name(each)}: allows all {what}" for what in wide)
            if "inferenceservices" in rule["resources"]:
                allowed = [(each["metadata"]["namespace"], n) for n in rule["resourceNames"]]
                yield from (
                    f"{full_name(each)}: no InferenceService {'/'.join(name)}"
                    for name in allowed
                    if name not in services
                )


def scaling(objects: Sequence[Object]) -> Iterator[str]:
    """Bounds in order; scale to zero only where something holds the first request."""
    for each in of_kind(objects, "InferenceService"):
        name, spec = full_name(each), each["spec"]["predictor"]
        mode = each["metadata"].get("annotations", {}).get(MODE)
        if spec.get("minReplicas", 1) > spec.get("maxReplicas", 1):
            yield f"{name}: minReplicas {spec['minReplicas']} > maxReplicas"
        if mode == "Standard" and spec.get("minReplicas", 1) == 0:
            yield f"{name}: nothing holds a request at zero replicas in Standard mode"
        limit = spec.get("containerConcurrency", 0)
        if limit and spec.get("scaleMetric") == "concurrency" and spec["scaleTarget"] > limit:
            yield (f"{name}: scaleTarget {spec['scaleTarget']} > containerConcurrency {limit}")
        for metric in spec.get("autoScaling", {}).get("metrics", []):
            if "external" in metric and "value" not in metric["external"]["target"]:
                yield f"{name}: KServe hands only target.value to KEDA"


def _selectors(each: Object) -> list[Mapping[str, str]]:
    spec = each.get("spec", {})
    match each["kind"]:
        case "PodMonitor" | "PodDisruptionBudget":
            return [spec["selector"]["matchLabels"]]
        case "NetworkPolicy":
            return [spec["podSelector"]["matchLabels"]]
        case "InferenceService":
            predictor = spec["predictor"]
            spread = predictor.get("topologySpreadConstraints", [])
            anti = predictor.get("affinity", {}).get("podAntiAffinity", {})
            terms = [term.get("podAffinityTerm", term) for terms in anti.values() for term in terms]
            return [chosen["labelSelector"]["matchLabels"] for chosen in [*spread, *terms]]
        case _:
            return []


def selectors(objects: Sequence[Object]) -> Iterator[str]:
    """Whatever selects pods selects the predictor's; a DaemonSet its own."""
    labels = [predictor.labels for predictor in predictors(objects)]
    for each in objects:
        for wanted in _selectors(each):
            if not any(wanted.items() <= pod.items() for pod in labels):
                yield f"{full_name(each)}: selects no predictor: {dict(wanted)}"
        if each["kind"] == "DaemonSet":
            template = each["spec"]["template"]["metadata"]["labels"]
            if not each["spec"]["selector"]["matchLabels"].items() <= template.items():
                yield f"{full_name(each)}: selector does not match its template"


def queries(objects: Sequence[Object], series: Mapping[str, Collection[str]]) -> Iterator[str]:
    """Rules, panels and scalers ask for series and labels that exist, in the right namespace."""
    own = {recorded for _, _, recorded in rule_expressions(objects) if recorded}
    added = TARGET_LABELS | relabeled(objects)
    for where, expression in all_expressions(objects):
        names, labels = names_and_labels(expression)
        known = set(added)
        for name in names:
            if name in series:
                known.update(series[name])
            elif name in own:
                known.add("code")
            elif name != "up":
                yield f"{where}: there is no series {name}"
        yield from (f"{where}: no series here has the label {label}" for label in labels - known)
    namespaces = {each["metadata"]["namespace"] for each in of_kind(objects, "InferenceService")}
    for where, expression in all_expressions(objects):
        for namespace in re.findall(r'namespace="([^"]*)"', expression):
            if namespace not in namespaces:
                yield f"{where}: namespace {namespace} has no InferenceService"
