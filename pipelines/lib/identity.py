"""Who answers: the model behind a service, from what the service says of itself.

V2 metadata names server and model, and in `properties.model_identity` a digest of the weights; the
metric `qwen3_asr_model_info` names the checkpoint and its precision. Any other service says less;
what it does not say is not compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from pipelines.lib.errors import ServiceError

INFO = re.compile(r"^\w*asr_model_info\{(.*)\} 1(?:\.0)?$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
TIMEOUT_S = 10.0
PLACE = ("device",)  # where it runs: the same model may move
DIGEST = "model_identity"


@dataclass(frozen=True, slots=True)
class Identity:
    """What a service says of itself; None or empty = it does not say."""

    server: str | None = None  # name and version
    model: str | None = None
    checkpoint: str | None = None  # with its revision, where there is one
    details: Mapping[str, str] = field(default_factory=dict)  # precision, device, properties
    inputs: tuple[str, ...] = ()  # names of the inputs that it takes

    @property
    def known(self) -> bool:
        """Whether it says enough to tell two models apart."""
        return self.checkpoint is not None or bool(self.details)

    def as_json(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v and k != "inputs"}

    @property
    def fingerprint(self) -> str | None:
        """Equal for the same model wherever it runs; None when it does not say enough."""
        if not self.known:
            return None
        details = {key: value for key, value in self.details.items() if key not in PLACE}
        return json.dumps([self.server, self.model, self.checkpoint, details], sort_keys=True)

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """In words, how another one (as JSON) is not the same model; None when it may be."""
        mine = self.as_json()
        for key in ("model", "checkpoint", "server"):
            if key in mine and key in other and mine[key] != other[key]:
                return f"{key} {other[key]!r}, now {mine[key]!r}"
        details = other.get("details", {})
        for key in sorted(mine.get("details", {}).keys() & details.keys() - set(PLACE)):
            if mine["details"][key] != details[key]:
                return f"{key} {details[key]!r}, now {mine['details'][key]!r}"
        return None


async def fetch_identity(http: httpx.AsyncClient, model: str) -> Identity:
    """Ask the metadata routes. Raises ServiceError when nobody can be reached."""
    server = await _json(http, "v2")
    named = await _json(http, f"v2/models/{model}")
    metrics = await _get(http, "metrics")
    labels = metric_labels(metrics.text, model) if metrics is not None else {}
    name = " ".join(str(server[key]) for key in ("name", "version") if server.get(key))
    details = {key: str(value) for key, value in _properties(named).items()}
    details |= {k: v for k, v in labels.items() if k not in ("model_name", "checkpoint", "version")}
    return Identity(
        server=name or None,
        model=str(named.get("name") or model),
        checkpoint=details.pop("checkpoint", None) or labels.get("checkpoint"),
        details=details,
        inputs=tuple(str(each.get("name")) for each in named.get("inputs") or ()),
    )


def model_digest(document: Any) -> str | None:
    """The digest of the weights in V2 metadata; None when it does not say."""
    found = _properties(document).get(DIGEST)
    return str(found) if found else None


def metric_labels(page: str, model: str | None = None) -> dict[str, str]:
    """Labels of the model's information metric on a page of metrics; empty when there is none."""
    for found in INFO.finditer(page):
        labels = dict(LABEL.findall(found[1]))
        if model is None or labels.get("model_name", model) == model:
            return labels
    return {}


def _properties(document: Any) -> dict[str, Any]:
    """KServe calls them `properties`, others `parameters`."""
    for key in ("properties", "parameters"):
        found = document.get(key) if isinstance(document, dict) else None
        if isinstance(found, dict) and found:
            return found
    return {}


async def _json(http: httpx.AsyncClient, path: str) -> dict[str, Any]:
    response = await _get(http, path)
    if response is None:
        return {}
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


async def _get(http: httpx.AsyncClient, path: str) -> httpx.Response | None:
    try:
        response = await http.get(path, timeout=TIMEOUT_S)
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        code = type(error).__name__
        message = f"no answer from {http.base_url}: {code}: {error}"
        raise ServiceError(message, status=None, code=code) from error
    except httpx.HTTPError:
        return None
    return response if response.status_code == httpx.codes.OK else None
