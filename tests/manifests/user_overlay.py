"""The example overlay as a user would have it: another namespace, settings, overlay, components."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.manifests.objects import MANIFESTS, Object, build

EXAMPLE = MANIFESTS / "example"
DEFAULTS: dict[str, str] = yaml.safe_load((EXAMPLE / "settings.yaml").read_text())["data"]


@dataclass(frozen=True)
class UserOverlay:
    overlay: str
    components: tuple[str, ...] = ()
    namespace: str = "speech"
    settings: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULTS))

    def build(self, folder: Path) -> list[Object]:
        """Its objects; the overlay's files are written into the empty `folder`."""

        def relative(path: str) -> str:
            return os.path.relpath(MANIFESTS / path, folder)

        mine = yaml.safe_load((EXAMPLE / "kustomization.yaml").read_text())
        mine["namespace"] = self.namespace
        mine["resources"] = [relative(f"overlays/{self.overlay}"), "settings.yaml"]
        mine["components"] = [relative(f"components/{name}") for name in self.components]
        mine["transformers"] = [relative("settings")]
        config_map = yaml.safe_load((EXAMPLE / "settings.yaml").read_text())
        config_map["data"] = dict(self.settings)
        (folder / "settings.yaml").write_text(yaml.safe_dump(config_map))
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(mine))
        return build(folder)
