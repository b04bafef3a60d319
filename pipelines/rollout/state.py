"""What a rollout remembers, so that any process can continue it or undo it.

It lies in a ConfigMap beside the InferenceService and not in an annotation on it: KServe copies
annotations into the pods' template, so every change of state would roll out a new revision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any

from pipelines.lib.errors import RolloutError

VERSION = 1
MAX_HISTORY = 50

Predictor = dict[str, Any]


class Phase(StrEnum):
    """What the InferenceService's spec is meant to be. It is written down before it is applied."""

    DARK = "dark"  # the candidate runs without traffic
    CANARY = "canary"  # the candidate has `percent` of the traffic
    PROMOTED = "promoted"  # the candidate is the stable version
    UNDOING = "undoing"  # the candidate has no traffic any more
    RESTORING = "restoring"  # the spec is the old one again, not yet with traffic of its own
    ROLLED_BACK = "rolled-back"  # all as before
    REVERTING = "reverting"  # after a promotion: the version before runs, and gets its traffic last
    KEEPING = "keeping"  # that was given up: the promoted spec again, not yet with traffic


FINISHED = frozenset({Phase.PROMOTED, Phase.ROLLED_BACK})


@dataclass(frozen=True, slots=True)
class State:
    """One rollout of one candidate."""

    id: str
    mode: str  # "Knative" or "Standard"
    phase: Phase
    percent: int  # of the traffic that the candidate is meant to have
    stable: Predictor  # spec.predictor before the rollout
    candidate: Predictor  # spec.predictor of the candidate
    stable_version: str  # its Knative revision, or its Deployment
    candidate_version: str | None = None  # the same; known once it is ready
    stable_identity: str | None = None  # of the model, as the service itself says it
    candidate_identity: str | None = None
    reasons: tuple[str, ...] = ()  # why it was accepted or refused
    restored_version: str | None = None  # the revision that a revert made, once it was given up
    owner: str = ""  # the run that drives it; only it may change phase and traffic
    paused: str = ""  # why traffic stays where it is; empty = it does not
    applied: str = ""  # the phase and percentage that the spec was last changed to
    generation: int | None = None  # of the InferenceService after that change
    history: tuple[Mapping[str, Any], ...] = field(default_factory=tuple)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.phase in FINISHED

    def enter(self, phase: Phase, percent: int, reasons: tuple[str, ...] | None = None) -> State:
        """The state after a transition, with the transition in its history."""
        entry = {"at": now_text(), "phase": phase.value, "percent": percent}
        return replace(
            self,
            phase=phase,
            percent=percent,
            reasons=self.reasons if reasons is None else reasons,
            history=(*self.history, entry)[-MAX_HISTORY:],
        )

    @property
    def target(self) -> str:
        """Phase and percentage in one, to compare with `applied`."""
        return f"{self.phase.value} {self.percent}"

    @property
    def done(self) -> bool:
        """Whether the spec was changed to what is written, too."""
        return self.finished and self.applied == self.target

    def to_json(self) -> str:
        """What lies in the ConfigMap."""
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> State:
        """Read what `to_json` wrote. Raises RolloutError for anything else."""
        try:
            values = json.loads(text)
            if values.pop("version") != VERSION:
                raise RolloutError(f"rollout state: is not of version {VERSION}")
            values["phase"] = Phase(values["phase"])
            values["reasons"] = tuple(values["reasons"])
            values["history"] = tuple(values["history"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RolloutError(f"rollout state: cannot be read: {error}") from error


def now_text() -> str:
    """The time as written into states."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def predictor_digest(predictor: Predictor) -> str:
    """Eight characters that follow from a predictor's content."""
    return sha256(json.dumps(predictor, sort_keys=True).encode()).hexdigest()[:8]


def covers(actual: object, wanted: object) -> bool:
    """Whether `actual` holds all of `wanted`; what webhooks filled in beside it does not count."""
    if isinstance(wanted, dict):
        return isinstance(actual, dict) and all(
            key in actual and covers(actual[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(wanted)
            and all(covers(a, w) for a, w in zip(actual, wanted, strict=True))
        )
    return actual == wanted
