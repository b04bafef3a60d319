"""The forms of a judgement: one check, its three answers, and the verdict over all checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """The answer to one question."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


class Verdict(StrEnum):
    """The answer to all of them."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Check:
    """One limit, judged."""

    name: str
    outcome: Outcome
    value: float | None
    limit: float | None
    reason: str  # a sentence
    clips_needed: int | None = None  # recordings that would decide, when open and there is a number

    @property
    def passed(self) -> bool:
        return self.outcome is Outcome.KEPT


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict: accepted when every check was kept."""

    checks: tuple[Check, ...]

    @property
    def verdict(self) -> Verdict:
        outcomes = {check.outcome for check in self.checks}
        if Outcome.BROKEN in outcomes:
            return Verdict.REFUSED
        return Verdict.UNDECIDED if Outcome.OPEN in outcomes else Verdict.ACCEPTED

    @property
    def accepted(self) -> bool:
        return self.verdict is Verdict.ACCEPTED

    @property
    def reasons(self) -> list[str]:
        """Why it was refused or left undecided, or all that spoke for it."""
        wanted = {
            Verdict.ACCEPTED: Outcome.KEPT,
            Verdict.REFUSED: Outcome.BROKEN,
            Verdict.UNDECIDED: Outcome.OPEN,
        }[self.verdict]
        return [check.reason for check in self.checks if check.outcome is wanted]

    def as_json(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "verdict": self.verdict,
            "checks": [{**asdict(c), "passed": c.passed} for c in self.checks],
            "reasons": self.reasons,
        }
