"""Files of the packages that the predictor's image has, for node.sh, which builds it without pip.

python -m tests.cluster.node_packages   # paths as they are in the image, one a line
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import Distribution, PathDistribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SITE = "app/.venv/lib/python3.11/site-packages"
# Static libraries, and what torch only imports for a GPU.
LEFT_OUT = re.compile(r"\.a$|^triton/|^\.\./")


def closure(wanted: list[str]) -> list[Distribution]:
    """The installed distributions of requirements, and of theirs."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    todo = [Requirement(each) for each in wanted]
    while todo:
        each = todo.pop()
        if (each.name, frozenset(each.extras)) in seen:
            continue
        seen.add((each.name, frozenset(each.extras)))
        installed = found[each.name] = distribution(each.name)
        for needed in map(Requirement, installed.requires or []):
            extras = {"", *each.extras}
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in extras):
                todo.append(needed)
    return list(found.values())


def files(installed: Distribution) -> list[str]:
    """Its files below site-packages, compiled modules included."""
    assert isinstance(installed, PathDistribution)
    names = [str(each) for each in installed.files or [] if not LEFT_OUT.search(str(each))]
    return [name for name in names if Path(str(installed.locate_file(name))).is_file()]


if __name__ == "__main__":
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]["tracing"]
    names = {name for each in closure(project["dependencies"] + extras) for name in files(each)}
    print("\n".join(f"{SITE}/{name}" for name in sorted(names)))
