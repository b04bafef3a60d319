"""Which model answers: asked of the services themselves, since a status may flap or be ahead.

The predictor says it in its V2 metadata (`properties.model_identity`, a digest of the weights).
Services that do not say are told apart by the status only, and that is logged.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx

from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import PipelineError
from pipelines.lib.identity import metric_labels, model_digest

NUM_ASKED = 12  # in a row, of one version's own address
ALPHA = 1e-6  # chance to call a right split wrong
FROM_METRICS = "metrics: "


class IdentityError(PipelineError):
    """An address is answered by another model than it should be."""


@dataclass(frozen=True, slots=True)
class Identities:
    """What each version says that it is; None = it does not say."""

    stable: str | None
    candidate: str | None

    @property
    def differ(self) -> bool:
        """Whether an answer tells which version it is from."""
        return self.said and self.stable != self.candidate

    @property
    def said(self) -> bool:
        """Whether both say it; equal ones from the metrics are none, see `_from_metrics`."""
        if not self.stable or not self.candidate:
            return False
        return self.stable != self.candidate or not self.stable.startswith(FROM_METRICS)


class Asker:
    """Asks addresses from the InferenceService's status, through the ingress unless `direct`."""

    def __init__(self, service: ServiceOptions, *, direct: bool) -> None:
        self.direct = direct
        self._service = service

    def count(self, url: str, number: int) -> Counter[str | None]:
        """Who answers `number` requests. IdentityError when the address is not answered."""
        base = url if self.direct else self._service.url
        headers = {} if self.direct else {"Host": urlsplit(url).netloc}
        if self._service.api_key:
            headers["Authorization"] = f"Bearer {self._service.api_key}"
        base = base.rstrip("/")
        found: Counter[str | None] = Counter()
        try:
            with httpx.Client(headers=headers, timeout=self._service.timeout_s) as http:
                for _ in range(number):
                    response = http.get(f"{base}/v2/models/{self._service.model}")
                    response.raise_for_status()
                    found[model_digest(response.json()) or _from_metrics(http, base)] += 1
        except httpx.HTTPStatusError as error:
            said = f"HTTP {error.response.status_code}"
            raise IdentityError(f"{url}: metadata cannot be asked: {said}") from error
        except (httpx.HTTPError, ValueError) as error:
            raise IdentityError(f"{url}: metadata cannot be asked: {error}") from error
        return found

    def only(self, url: str, wait: Callable[[], bool]) -> str | None:
        """The one identity behind an address, None when it does not say.

        Asked again after `wait` while several answer; IdentityError once that is False.
        """
        while True:
            try:
                found = self.count(url, NUM_ASKED)
            except IdentityError:
                if not wait():
                    raise
                continue
            if len(found) == 1:
                return next(iter(found))
            if not wait():
                who = ", ".join(f"{name or 'unnamed'} {n}" for name, n in found.most_common())
                raise IdentityError(f"{url}: several models answer at one address: {who}")


def _from_metrics(http: httpx.Client, base: str) -> str | None:
    """From `qwen3_asr_model_info`, for services whose metadata does not say it.

    Its checkpoint is a folder's name, often the same for all weights: if two are equal, that says
    nothing (see `Identities.differ`).
    """
    page = http.get(f"{base}/metrics")
    labels = metric_labels(page.text) if page.is_success else {}
    return f"{FROM_METRICS}{labels}" if labels else None


def fits(found: int, number: int, percent: int) -> bool:
    """Whether `found` of `number` answers can be a share of `percent`: two-sided, exact."""
    share = percent / 100
    if share in (0.0, 1.0):
        return found == round(share * number)
    tail = range(found + 1) if found <= share * number else range(found, number + 1)
    return sum(_chance(k, number, share) for k in tail) >= ALPHA / 2


def _chance(k: int, n: int, p: float) -> float:
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(log + k * math.log(p) + (n - k) * math.log(1 - p))
