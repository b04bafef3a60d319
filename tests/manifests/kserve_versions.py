"""What each KServe release can do for these manifests, read from its source and its packages.

python -m tests.manifests.kserve_versions   # writes VERSIONS.md's table from kserve_versions.json

The sources of four come from Go's module proxy (`go mod download`), which does not serve 0.18 and
0.21: of these the released installer (`install/vX.Y.0` in KServe's repository: versions, ConfigMap)
and the pull requests were read by hand. The Python wheels (`kserve`: fields, `kserve-storage`:
forms of an address) were read of all six. test_kserve_versions.py reads the sources again.
"""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.combinations import MANIFESTS, replaced

FACTS = Path(__file__).with_suffix(".json")
DOCUMENT = MANIFESTS / "VERSIONS.md"
BEGIN, END = "<!-- versions:begin -->\n", "<!-- versions:end -->"
GO_S = 120  # for a module that is not in Go's cache yet
SOURCES = ("0.16.0", "0.17.0", "0.19.0", "0.20.0")  # releases whose source the proxy has
_HTTP_ROUTES = "pkg/controller/v1beta1/inferenceservice/reconcilers/ingress/httproute_reconciler.go"
COLUMNS = {
    "knative": "its tests' Knative",
    "keda": "… KEDA",
    "gateway_api": "… Gateway API",
    "canary_knative": "canary on Knative",
    "canary_standard": "canary in Standard mode: field",
    "canary_weights": "… its traffic",
    "grpc_same_host": "REST and gRPC on one host",
    "oci_native": "`oci+native://`",
    "modelscope": "`modelscope://`",
    "endless_route": "`disableHTTPRouteTimeout`",
    "read": "read in",
}


@functools.cache
def source(version: str) -> Path | str:
    """The folder of a release's source in Go's module cache, or why it cannot be had."""
    if shutil.which("go") is None:
        return "no go on the PATH"
    wanted = ["go", "mod", "download", "-json", f"github.com/kserve/kserve@v{version}"]
    try:
        found = subprocess.run(wanted, capture_output=True, text=True, cwd="/", timeout=GO_S)
    except subprocess.TimeoutExpired:
        return f"Go's module proxy did not give KServe {version} within {GO_S} s"
    answer = json.loads(found.stdout or "{}")
    return Path(answer["Dir"]) if "Dir" in answer else f"KServe {version} cannot be had: {answer}"


def schema(folder: Path, kind: str) -> dict[str, Any]:
    """The OpenAPI schema of a custom resource's newest version in a release's source."""
    text = (folder / f"config/crd/full/serving.kserve.io_{kind}.yaml").read_text()
    versions = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]["versions"]
    found: dict[str, Any] = versions[-1]["schema"]["openAPIV3Schema"]
    return found


def read(folder: Path) -> dict[str, Any]:
    """The facts of one release, from its source."""
    spec = schema(folder, "inferenceservices")["properties"]["spec"]["properties"]
    settings = (folder / "kserve-deps.env").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in settings if "=" in line and line[0] != "#")
    routes = (folder / _HTTP_ROUTES).read_text()
    prefixes = (folder / "pkg/controller/v1beta1/inferenceservice/utils/utils.go").read_text()
    ingress = (folder / "pkg/apis/serving/v1beta1/configmap.go").read_text()
    return {
        "knative": pairs["KNATIVE_SERVING_VERSION"].strip(),
        "keda": pairs["KEDA_VERSION"].strip(),
        "gateway_api": pairs["GATEWAY_API_VERSION"].strip(),
        "canary_knative": "canaryTrafficPercent" in spec["predictor"]["properties"],
        "canary_standard": "canary" in spec,
        "canary_weights": "Weight" in routes,
        "grpc_same_host": "createGRPCRouteMatches" in routes,
        "oci_native": '"oci+native://"' in prefixes,
        "endless_route": "DisableHTTPRouteTimeout" in ingress,
    }


def load() -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = json.loads(FACTS.read_text())
    return facts


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not read" if value is None else str(value)


def table() -> str:
    facts = load()
    rows = [f"| | {' | '.join(facts)} |", "| --- " * (len(facts) + 1) + "|"]
    for column, title in COLUMNS.items():
        cells = " | ".join(_shown(each.get(column)) for each in facts.values())
        rows.append(f"| {title} | {cells} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), table(), BEGIN, END))
