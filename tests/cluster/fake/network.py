"""NetworkPolicy as a CNI enforces it, as far as ours go: who may reach a pod's port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]
_OPERATORS = {
    "In": lambda value, values: value in values,
    "NotIn": lambda value, values: value not in values,
    "Exists": lambda value, _: value is not None,
    "DoesNotExist": lambda value, _: value is None,
}


def matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether labels meet a label selector; an empty one meets all."""
    if not selector.get("matchLabels", {}).items() <= labels.items():
        return False
    return all(
        _OPERATORS[each["operator"]](labels.get(each["key"]), each.get("values", []))
        for each in selector.get("matchExpressions", [])
    )


def allowed(
    policies: list[Object], pod: Mapping[str, str], port: int, source: Mapping[str, str]
) -> bool:
    """Whether a pod of a namespace with the labels `source` reaches a port of a pod.

    `policies` are those of the pod's namespace. Without one that selects the pod all is allowed.
    """
    chosen = [
        each["spec"]
        for each in policies
        if matches(each["spec"]["podSelector"], pod) and "Ingress" in each["spec"]["policyTypes"]
    ]
    return not chosen or any(_lets(spec, port, source) for spec in chosen)


def _lets(spec: Object, port: int, source: Mapping[str, str]) -> bool:
    return any(
        port in [each["port"] for each in rule["ports"]]
        and any(matches(peer["namespaceSelector"], source) for peer in rule["from"])
        for rule in spec.get("ingress", [])
    )
