"""The rollout itself: a state machine that any process can pick up where another one died.

    dark ──accept──> canary 5 … 100 ──> promoted
      │                 │
      └────refuse───────┴──> undoing ──> restoring ──> rolled-back

Every transition is written down first and applied to the InferenceService second; whoever comes
next applies what is written. A run holds a lease, so that two never drive one rollout.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from pipelines.lib.errors import PipelineError, RolloutError
from pipelines.rollout.cluster import Cluster, ConflictError, InferenceService
from pipelines.rollout.driver import MODES, DriftError, Driver, Watcher
from pipelines.rollout.modes import Endpoints, Mode, mode_name
from pipelines.rollout.plan import Plan
from pipelines.rollout.state import FINISHED, Phase, Predictor, State


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a rollout stands after a command."""

    promoted: bool
    phase: Phase
    percent: int
    reasons: tuple[str, ...]


class Rollout:
    """Decides what happens to one InferenceService."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan | None = None,
        *,
        owner: str | None = None,
        watcher: Watcher | None = None,
        log: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cluster = cluster
        self._driver = Driver(
            cluster, plan or Plan(), owner or uuid.uuid4().hex, watcher, log, sleep
        )

    def status(self) -> dict[str, Any]:
        """The state, and whether the cluster has reached it; empty without any rollout."""
        state = self._cluster.read_state()
        if state is None:
            return {}
        progress = MODES[state.mode].progress(self._cluster.read(), state)
        return {
            "id": state.id,
            "mode": state.mode,
            "phase": state.phase.value,
            "percent": state.percent,
            "finished": state.finished,
            "settled": progress.settled,
            "message": progress.message,
            "stable_version": state.stable_version,
            "candidate_version": state.candidate_version,
            "reasons": list(state.reasons),
            "owner": state.owner,
            "lease_age_s": round(state.lease_age_s(), 1),
            "history": [dict(entry) for entry in state.history],
        }

    def deploy(self, candidate: Predictor) -> Endpoints | None:
        """Bring the candidate up dark, or find it there; both versions' addresses.

        None when an earlier run has already accepted this candidate and given it traffic.

        Raises RolloutError when a canary cannot be started safely, another candidate is under way,
        or the candidate does not become ready in time (then it has been rolled back).
        """
        state = self._begin(candidate)
        if state.phase is not Phase.DARK:
            return None
        try:
            state = self._driver.settle(state)
        except RolloutError as error:
            self._undo(state, (str(error),))
            raise
        service = self._cluster.read()
        version = MODES[state.mode].candidate_version(service, state)
        self._driver.write(replace(state, candidate_version=version), service)
        return self._driver.endpoints(state)

    def shift(self, reasons: Sequence[str]) -> Outcome:
        """Step the accepted candidate's traffic up and promote it; roll back when it does badly."""
        state = self._driver.take()
        if state.phase in FINISHED:
            return _outcome(state)
        if state.phase in (Phase.UNDOING, Phase.RESTORING):
            return self._undo(state, state.reasons)
        if state.candidate_version is None:
            raise RolloutError("the candidate was not seen ready yet: deploy it first")
        try:
            state = self._driver.ensure(state)
            for percent in (
                step for step in self._driver.plan.steps if step >= max(state.percent, 1)
            ):
                if (state.phase, state.percent) != (Phase.CANARY, percent):
                    state = self._enter(
                        self._driver.ensure(state), Phase.CANARY, percent, tuple(reasons)
                    )
                state = self._driver.settle(state)
                state, problems = self._driver.soak(state)
                if problems:
                    return self._undo(state, tuple(problems))
            state = self._enter(self._driver.ensure(state), Phase.PROMOTED, 100, state.reasons)
            return _outcome(self._driver.settle(state))
        except (ConflictError, DriftError):
            raise
        except PipelineError as error:
            if self._driver.current().phase is Phase.PROMOTED:
                raise  # promoted but slow to settle: nothing to take back
            return self._undo(self._driver.current(), (str(error),))

    def undo(self, reasons: Sequence[str]) -> Outcome:
        """Take the candidate's traffic away, then restore the spec; nothing to do when finished."""
        state = self._driver.take()
        if state.finished:
            return _outcome(state)
        return self._undo(state, tuple(reasons))

    def revert(self, reasons: Sequence[str]) -> Outcome:
        """Undo a rollout under way; after a promotion, roll the version before out again."""
        state = self._driver.take()
        if state.phase is not Phase.PROMOTED:
            return self.undo(reasons)
        self._driver.log("the candidate was promoted: rolling the version before it out again")
        before = {k: v for k, v in state.stable.items() if k != "name"}
        self.deploy(before)
        self._driver.plan = replace(self._driver.plan, steps=(100,))
        back = self.shift(reasons)
        return replace(back, promoted=False)

    def kept_alive(self) -> AbstractContextManager[None]:
        """Hold the lease while something else runs for long."""
        return self._driver.kept_alive()

    def _begin(self, candidate: Predictor) -> State:
        service = self._cluster.read()
        mode = MODES[mode_name(service)]
        state = self._cluster.read_state()
        if state is not None and not state.finished:
            self._driver.check_lease(state)
            if state.phase in (Phase.UNDOING, Phase.RESTORING):
                self._undo(state, state.reasons)
                service = self._cluster.read()
            elif mode.prepare(_with_predictor(service, state.stable), candidate) == state.candidate:
                self._driver.log(f"continuing at {state.target}")
                return self._driver.ensure(state)
            else:
                raise RolloutError(
                    f"rollout {state.id} of another candidate stands at {state.target}: "
                    "continue it with its own candidate, or roll it back first"
                )
        elif state is not None and self._is_promoted(state, mode, service, candidate):
            return self._driver.ensure(state)
        stable_version = mode.check_startable(service)
        fresh = State(
            id=uuid.uuid4().hex[:12],
            mode=mode.name,
            phase=Phase.DARK,
            percent=0,
            stable=service["spec"]["predictor"],
            candidate=mode.prepare(service, candidate),
            stable_version=stable_version,
        ).enter(Phase.DARK, 0, ())
        return self._driver.ensure(self._driver.write(fresh, service))

    def _enter(self, state: State, phase: Phase, percent: int, reasons: tuple[str, ...]) -> State:
        self._driver.log(f"{phase.value} {percent} %")
        return self._driver.ensure(self._driver.write(state.enter(phase, percent, reasons)))

    def _undo(self, state: State, reasons: tuple[str, ...]) -> Outcome:
        for reason in reasons:
            self._driver.log(f"rolling back: {reason}")
        if state.candidate_version is None and state.phase is not Phase.RESTORING:
            # it never became ready; its name tells it from the revision that is restored
            version = MODES[state.mode].candidate_version(self._cluster.read(), state)
            state = replace(state, candidate_version=version)
        # Whoever changed the spec meanwhile: taking the candidate's traffic away comes first.
        state = replace(state, applied="")
        if state.phase is not Phase.RESTORING:
            state = self._driver.settle(self._enter(state, Phase.UNDOING, 0, reasons))
        state = self._driver.settle(self._enter(state, Phase.RESTORING, 0, reasons))
        return _outcome(self._driver.settle(self._enter(state, Phase.ROLLED_BACK, 0, reasons)))

    @staticmethod
    def _is_promoted(
        state: State, mode: Mode, service: InferenceService, candidate: Predictor
    ) -> bool:
        """Whether this very candidate was promoted, perhaps by a run that died just then."""
        if state.phase is not Phase.PROMOTED:
            return False
        try:
            prepared = mode.prepare(_with_predictor(service, state.stable), candidate)
        except RolloutError:
            return False
        unchanged = service["metadata"].get("generation") == state.generation
        return prepared == state.candidate and (unchanged or state.applied != state.target)


def _with_predictor(service: InferenceService, predictor: Predictor) -> InferenceService:
    return {**service, "spec": {**service["spec"], "predictor": predictor}}


def _outcome(state: State) -> Outcome:
    return Outcome(state.phase is Phase.PROMOTED, state.phase, state.percent, state.reasons)
