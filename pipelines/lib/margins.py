"""Whether a measured difference is within its margin, beyond it, or too uncertain to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.lib.compare import found_estimate
from pipelines.lib.intervals import MIN_CLUSTERS, Estimate, scale_that
from pipelines.lib.limits import Margin
from pipelines.lib.verdict import Outcome

# Chances of a wrong acceptance when the candidate is worse by the margin, and by twice the margin.
# Promised are 3 % and 0.5 %; the gate aims lower, because its bounds are approximations.
MISS_AT_MARGIN, MISS_AT_TWICE = 0.015, 0.002
MISS_REFUSED = 0.025  # chance of a wrong refusal, over all languages and slices together


@dataclass(frozen=True, slots=True)
class Excess:
    """How far a difference lies beyond its margin, and beyond twice the margin."""

    found: dict[str, Any]
    margin: Margin

    def p_worse(self) -> float:
        return self._estimate(1).p_above(self.margin.absolute)

    def kept(self, scale: float = 1.0) -> bool:
        once, twice = self._estimate(1).scaled(scale), self._estimate(2).scaled(scale)
        limit = self.margin.absolute
        return once.below(limit, MISS_AT_MARGIN) and twice.below(2 * limit, MISS_AT_TWICE)

    def clips_needed(self) -> int | None:
        """Recordings that would decide, if the rates stay as they are."""
        once = self._estimate(1)
        limit = self.margin.absolute

        def decides(scale: float) -> bool:
            return self.kept(scale) or once.scaled(scale).above(limit, MISS_REFUSED)

        factor = scale_that(decides)
        return None if factor is None else int(self.found["num_clips"] * factor) + 1

    def _estimate(self, times: float) -> Estimate:
        return found_estimate(self.found, self.margin.weight(times))


def three_ways(
    found: dict[str, Any],
    kept: Callable[[], bool],
    broken: bool,
    margin: str,
    clips_needed: Callable[[], int | None],
) -> tuple[Outcome, str, int | None]:
    if found["num_clusters"] < MIN_CLUSTERS:
        return (
            Outcome.OPEN,
            f"not enough speakers: {found['num_clusters']} clusters, at least {MIN_CLUSTERS} are "
            f"needed to judge {margin}",
            int(found["num_clips"] * MIN_CLUSTERS / found["num_clusters"]) + 1,
        )
    if broken:
        return Outcome.BROKEN, f"beyond {margin}", None
    if kept():
        return Outcome.KEPT, f"within {margin}", None
    needed = clips_needed()
    more = (
        "no number of recordings would decide while it lies there"
        if needed is None
        else f"about {needed} recordings would decide if it stays there, "
        f"{found['num_clips']} were asked"
    )
    return Outcome.OPEN, f"too close to {margin} to tell: {more}", needed
