"""KServe's releases: the table in VERSIONS.md, and our objects against each release's own CRDs."""

from __future__ import annotations

import copy
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from kserve import V1beta1InferenceServiceSpec

from tests.manifests import kserve_versions
from tests.manifests.combinations import between
from tests.manifests.conftest import OVERLAYS, needs_kustomize
from tests.manifests.objects import Object, of_kind

KINDS = {"InferenceService": "inferenceservices", "ServingRuntime": "servingruntimes"}


def source(version: str) -> Path:
    found = kserve_versions.source(version)
    if isinstance(found, str):
        pytest.skip(found)
    return found


def closed(schema: Any) -> Any:
    """A CRD's schema that refuses unknown fields, as server-side apply does."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_object = isinstance(made.get("properties"), dict) and made.get("type") == "object"
    if is_object and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.pop("x-kubernetes-int-or-string", None):
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    return made


def problems(folder: Path, objects: list[Object]) -> list[str]:
    found = []
    for kind, plural in KINDS.items():
        schema = closed(copy.deepcopy(kserve_versions.schema(folder, plural)))
        schema["properties"]["metadata"] = {"type": "object"}
        validator = Draft202012Validator(schema)
        for each in of_kind(objects, kind):
            found += [f"{e.json_path}: {e.message[:120]}" for e in validator.iter_errors(each)]
    return found


def test_the_document_has_the_table() -> None:
    text = kserve_versions.DOCUMENT.read_text()
    shown = between(text, kserve_versions.BEGIN, kserve_versions.END)
    assert shown == kserve_versions.table(), "run: python -m tests.manifests.kserve_versions"


@pytest.mark.parametrize("version", kserve_versions.SOURCES)
def test_the_table_is_what_the_source_says(version: str) -> None:
    facts = kserve_versions.load()[version.rsplit(".", 1)[0]]
    assert kserve_versions.read(source(version)).items() <= facts.items()


def test_the_table_knows_the_package_that_is_installed() -> None:
    facts = kserve_versions.load()[version_of("kserve").rsplit(".", 1)[0]]
    assert facts["canary_standard"] == ("canary" in V1beta1InferenceServiceSpec.openapi_types)


@needs_kustomize
@pytest.mark.parametrize("version", kserve_versions.SOURCES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_a_releases_own_schema(version: str, overlay: str, built: Any) -> None:
    assert problems(source(version), built(f"overlays/{overlay}")) == []


@needs_kustomize
@pytest.mark.parametrize("version", kserve_versions.SOURCES)
def test_a_canary_in_standard_mode_needs_the_field(version: str, built: Any) -> None:
    folder = source(version)
    found = problems(folder, built(("production-standard", ("canary-standard",))))
    assert (found == []) == kserve_versions.read(folder)["canary_standard"], found
