"""Which components go with which overlay: what the tests build, and the table in COMPONENTS.md.

python -m tests.manifests.combinations   # writes the table
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

MANIFESTS = Path(__file__).resolve().parents[2] / "manifests"
DOCUMENT = MANIFESTS / "COMPONENTS.md"
BEGIN, END = "<!-- combinations:begin -->\n", "<!-- combinations:end -->"

# At most one of them: where the weights come from.
WEIGHTS = ("model-cache", "modelcar", "image-volume")
_ANYWHERE = ("long-requests", "live", "api-keys", "admin-port", "tracing", "promote-access")
# What the owner of an overlay may add to it, in an order that works.
ADDED: dict[str, tuple[str, ...]] = {
    "dev-cpu": (
        *("canary-knative", "knative-autoscaling", "jobs", "high-availability", "monitoring"),
        *("network-policy", *_ANYWHERE),
    ),
    "edge": (
        *("gpu", "modelcar", "image-volume", "monitoring", "network-policy", "grpc", "jobs"),
        *_ANYWHERE,
    ),
    "production": (
        *("gpu-mig", "canary-knative", "jobs", "high-availability", "model-cache", "modelcar"),
        *("image-volume", *_ANYWHERE),
    ),
    "production-standard": (
        *("gpu-mig", "canary-standard", "model-cache", "modelcar", "image-volume", "grpc"),
        *("jobs", *_ANYWHERE),
    ),
}
# Why the others are not offered.
_ONE_REPLICA = "one replica"
_IN_IMAGE = "weights are in the image"
WHY_NOT: dict[tuple[str, str], str] = {
    ("edge", "high-availability"): _ONE_REPLICA,
    ("edge", "hpa"): _ONE_REPLICA,
    ("edge", "keda"): _ONE_REPLICA,
    ("edge", "canary-standard"): _ONE_REPLICA,
    ("edge", "gpu-mig"): "a box of one GPU",
    ("edge", "model-cache"): "the claim is on the box",
    ("production-standard", "hpa"): "scaled by keda",
    **{("dev-cpu", name): _IN_IMAGE for name in WEIGHTS},
    **{("dev-cpu", name): "CPU" for name in ("gpu", "gpu-mig")},
}
_KNATIVE_ONLY = ("knative-autoscaling", "canary-knative")
_STANDARD_ONLY = ("standard-mode", "hpa", "keda", "canary-standard", "grpc")


def together(names: tuple[str, ...]) -> tuple[str, ...]:
    """All of them, with the first source of weights only."""
    sources = [name for name in names if name in WEIGHTS]
    return tuple(name for name in names if name not in sources[1:])


def included(overlay: str) -> list[str]:
    """The components that an overlay lists itself."""
    text = (MANIFESTS / "overlays" / overlay / "kustomization.yaml").read_text()
    return [Path(path).name for path in yaml.safe_load(text).get("components", [])]


def cell(overlay: str, component: str) -> str:
    """yes, in it, or why the two do not go together."""
    if component in ADDED[overlay]:
        return "yes"
    if component in (own := included(overlay)):
        return "in it"
    if (why := WHY_NOT.get((overlay, component))) is not None:
        return why
    if component in (_KNATIVE_ONLY if "standard-mode" in own else _STANDARD_ONLY):
        return "other mode"
    if component == "custom-container":
        return "weights are fetched"
    raise LookupError(f"{overlay} with {component}: neither offered nor said why not")


def table() -> str:
    """Components in rows, overlays in columns."""
    overlays = sorted(ADDED)
    rows = [f"| | {' | '.join(f'`{name}`' for name in overlays)} |", "| --- " * 5 + "|"]
    for path in sorted((MANIFESTS / "components").iterdir()):
        cells = " | ".join(cell(overlay, path.name) for overlay in overlays)
        rows.append(f"| {path.name} | {cells} |")
    weights = ", ".join(f"`{name}`" for name in WEIGHTS)
    return "\n".join(rows) + f"\n\nOf {weights} one at most.\n"


def between(text: str, begin: str = BEGIN, end: str = END) -> str:
    """What a document has between two marks. Raises LookupError where they are missing."""
    found = re.search(re.escape(begin) + "(.*?)" + re.escape(end), text, re.DOTALL)
    if found is None:
        raise LookupError(f"no {begin.strip()}")
    return found[1]


def replaced(text: str, new: str, begin: str = BEGIN, end: str = END) -> str:
    return text.replace(begin + between(text, begin, end) + end, begin + new + end)


if __name__ == "__main__":
    DOCUMENT.write_text(replaced(DOCUMENT.read_text(), table()))
