"""Objects against closed schemas: custom resources by their CRDs, core kinds strictly."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator

from tests.manifests.objects import SCHEMAS, Object, full_name

OLDEST_KUBERNETES = "1.30"
NEWEST_KUBERNETES = "1.37"
_CORE_GROUPS = re.compile(
    r"(apps|autoscaling|batch|policy|(networking|node|rbac\.authorization)\.k8s\.io)?/?v\d"
)


@functools.cache
def _validators() -> dict[str, Draft202012Validator]:
    index: dict[str, str] = json.loads((SCHEMAS / "index.json").read_text())
    return {
        kind: Draft202012Validator(json.loads((SCHEMAS / file).read_text()))
        for kind, file in index.items()
    }


def custom_problems(each: Object) -> list[str]:
    """Violations of the kind's closed schema; a kind without a schema is one."""
    kind = f"{each['apiVersion']}/{each['kind']}"
    if (validator := _validators().get(kind)) is None:
        return [f"{full_name(each)}: no schema for {kind}"]
    return [
        f"{full_name(each)}: {error.json_path}: {error.message[:200]}"
        for error in validator.iter_errors(each)
    ]


def core_problems(each: Object, version: str) -> list[str]:
    """Violations of the strict schema of one Kubernetes version."""
    try:
        kubernetes_validate.validate(each, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        where: list[Any] = list(error.path)
        return [f"{full_name(each)} ({version}): {'.'.join(map(str, where))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [
            f"{full_name(each)}: Kubernetes {version} has no {each['apiVersion']} {each['kind']}"
        ]
    return []


def is_core(each: Object) -> bool:
    return _CORE_GROUPS.fullmatch(each["apiVersion"]) is not None


def problems(each: Object) -> list[str]:
    """All violations of one object, in the oldest and the newest Kubernetes for core kinds."""
    if is_core(each):
        return [*core_problems(each, OLDEST_KUBERNETES), *core_problems(each, NEWEST_KUBERNETES)]
    return custom_problems(each)
