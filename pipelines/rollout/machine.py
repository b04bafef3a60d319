"""The rollout itself: a state machine that any process can pick up where another one died.

    dark ──accept──> canary 5 … 100 ──> promoted
      │                 │                  │
      └─────────────────┴──> rolled-back <─┘      (see `way_back`)

Every transition is written down first and applied to the InferenceService second; whoever comes
next applies what is written. A run holds a lease, so that two never drive one rollout; a command
that goes back takes the lease from a run that is alive.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from pipelines.lib.errors import PipelineError, RolloutError
from pipelines.lib.webhook import Notifier
from pipelines.rollout import way_back, who_answers
from pipelines.rollout.asker import Asker
from pipelines.rollout.cluster import Cluster, InferenceService
from pipelines.rollout.driver import (
    MODES,
    DriftError,
    Driver,
    NotReachedError,
    PausedError,
    Watcher,
)
from pipelines.rollout.kube import ConflictError, UnreachableError
from pipelines.rollout.lease import TakenOverError
from pipelines.rollout.modes import Endpoints, Mode, mode_name
from pipelines.rollout.plan import Plan
from pipelines.rollout.state import Phase, Predictor, State

# Errors after which nothing is undone: somebody else decides, or can be asked.
STOPS = (ConflictError, DriftError, PausedError, TakenOverError, UnreachableError)
GOING_BACK = (Phase.UNDOING, Phase.RESTORING)
REVERTING = (Phase.REVERTING, Phase.KEEPING)


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
        notifier: Notifier | None = None,
        asker: Asker | None = None,
    ) -> None:
        self._cluster = cluster
        self._driver = Driver(
            cluster, plan or Plan(), owner or uuid.uuid4().hex, watcher, log, notifier, asker
        )
        self._began = False

    def status(self) -> dict[str, Any]:
        """The state, who drives it, and whether the cluster has reached it; empty without any."""
        state = self._cluster.read_state()
        if state is None:
            return {}
        progress = MODES[state.mode].progress(self._cluster.read(), state)
        holder = self._driver.lease.living()
        applied = state.applied == state.target
        return {
            "id": state.id,
            "mode": state.mode,
            "phase": state.phase.value,
            "percent": state.percent,
            "finished": state.finished,
            "applied": applied,
            "settled": applied and progress.settled,
            "paused": state.paused,
            "message": progress.message if applied else "written, but not applied yet",
            "stable_version": state.stable_version,
            "candidate_version": state.candidate_version,
            "reasons": list(state.reasons),
            "owner": state.owner,
            "driven_by": holder.name if holder is not None else None,
            "history": [dict(entry) for entry in state.history],
        }

    def outcome(self) -> Outcome:
        """How it stands now."""
        return _outcome(self._driver.current())

    def held(self) -> AbstractContextManager[None]:
        """Keep others from driving this rollout for the length of a block."""
        return self._driver.lease.held()

    # -- forwards ----------------------------------------------------------------------------

    def deploy(self, candidate: Predictor) -> Endpoints | None:
        """Bring the candidate up dark, or find it there; both versions' addresses.

        None when an earlier run has already accepted this candidate and given it traffic.

        Raises RolloutError when a canary cannot be started safely, another candidate is under way,
        or the candidate does not become ready in time (NotReachedError: it was rolled back).
        """
        with self.held():
            if self._driver.watcher is not None:
                self._driver.watcher.check()  # before anything is changed
            state = self._begin(candidate)
            self._began = True
            if state.phase is not Phase.DARK:
                return None
            try:
                state = self._driver.settle(state)
            except NotReachedError as error:
                way_back.undo(self._driver, state, (str(error),))
                raise
            service = self._cluster.read()
            version = MODES[state.mode].candidate_version(service, state)
            self._driver.write(replace(state, candidate_version=version), service)
            return self._driver.endpoints(state)

    def identify(self) -> None:
        """Ask both versions which models they are: before an evaluation, and again after it.

        IdentityError when the candidate's address is not (or no longer) the candidate's;
        RolloutError when the split of the traffic would have to be seen, and could not be.
        """
        with self.held():
            who_answers.check_visible(
                self._driver, who_answers.identify(self._driver, self._take())
            )

    def shift(self, reasons: Sequence[str]) -> Outcome:
        """Step the accepted candidate's traffic up and promote it; roll back when it does badly."""
        with self.held():
            state = self._take()
            if state.finished:
                return _outcome(self._driver.complete(state))
            if state.phase in GOING_BACK:
                return _outcome(way_back.undo(self._driver, state, state.reasons))
            if state.phase in REVERTING:
                raise RolloutError(f"the promotion is being reverted: {state.target}")
            if state.candidate_version is None:
                raise RolloutError("the candidate was not seen ready yet: deploy it first")
            try:
                return self._step_up(state, tuple(reasons))
            except STOPS:
                raise
            except PipelineError as error:
                state = self._driver.mine(self._driver.current())
                if state.phase is Phase.PROMOTED:
                    raise  # promoted but slow to settle: nothing to take back
                return _outcome(way_back.undo(self._driver, self._driver.current(), (str(error),)))

    def finish_now(self) -> Outcome:
        """Promote an accepted candidate at once, whoever steps it up: no more steps, no soak."""
        with self._driver.lease.held(force=True):
            state = self._driver.take()
            if state.phase not in (Phase.CANARY, Phase.PROMOTED):
                raise RolloutError(
                    f"the rollout stands at {state.target}: only a candidate that was accepted "
                    "and has traffic can be promoted at once"
                )
            self._driver.plan = replace(self._driver.plan, steps=(100,), soak_s=0)
            if state.paused:
                self._driver.write(replace(state, paused=""))
            return self.shift(state.reasons)

    def pause(self, reason: str) -> None:
        """Traffic stays where it is until `resume`, whoever steps it up; it is watched on."""
        self._mark(reason or "by hand")

    def resume(self) -> bool:
        """Traffic moves on; False when no run is alive to move it: then `shift` does."""
        state = self._driver.current()
        if state.finished and not state.done:
            return False  # a run died before its last word was applied
        self._mark("")
        return self._driver.lease.living() is not None

    # -- backwards ---------------------------------------------------------------------------

    def undo(self, reasons: Sequence[str]) -> Outcome:
        """Take the candidate's traffic away, then restore the spec; nothing to do when finished."""
        with self.held():
            state = self._take()
            if state.finished:
                return _outcome(self._driver.complete(state))
            return self._back(state, tuple(reasons))

    def rollback(self, reasons: Sequence[str]) -> Outcome:
        """The version before gets all traffic, whatever is under way and whoever drives it.

        A second one has nothing left to do. Raises NotReachedError when the version before does
        not become ready after a promotion: the promoted one has kept the traffic, and another
        rollback goes on waiting.
        """
        with self._driver.lease.held(force=True):
            state = self._driver.take()
            if state.phase is Phase.KEEPING:
                state = way_back.keep(self._driver, state, state.reasons)
            if state.finished:
                state = self._driver.complete(state)
            if state.phase is Phase.ROLLED_BACK:
                return _outcome(state)
            if state.phase in (Phase.PROMOTED, Phase.REVERTING):
                return _outcome(way_back.revert(self._driver, state, tuple(reasons)))
            return self._back(state, tuple(reasons))

    def abort(self, reasons: Sequence[str]) -> Outcome:
        """End what is under way, whoever drives it: a rollout, or the reversion of a promotion."""
        with self._driver.lease.held(force=True):
            state = self._driver.take()
            if state.finished:
                self._driver.complete(state)
                raise RolloutError(f"nothing is under way: it is {state.phase.value}")
            if state.phase in REVERTING:
                return _outcome(way_back.keep(self._driver, state, tuple(reasons)))
            return self._back(state, tuple(reasons))

    # -- within ------------------------------------------------------------------------------

    def _step_up(self, state: State, reasons: tuple[str, ...]) -> Outcome:
        driver = self._driver
        state = driver.hold(driver.ensure(state))
        if driver.watcher is not None:
            driver.begin_watch(state)
        steps = [step for step in driver.plan.steps if step >= max(state.percent, 1)]
        for percent, next_percent in zip(steps, [*steps[1:], 100], strict=True):
            if (state.phase, state.percent) != (Phase.CANARY, percent):
                state = driver.enter(driver.ensure(state), Phase.CANARY, percent, reasons)
            state = driver.settle(state)
            if problem := who_answers.split_problem(driver, state):
                return _outcome(way_back.undo(driver, state, (problem,)))
            state, problems = driver.soak(state, next_percent)
            if problems:
                return _outcome(way_back.undo(driver, state, tuple(problems)))
        state = driver.enter(driver.ensure(state), Phase.PROMOTED, 100, state.reasons)
        return _outcome(driver.settle(state))

    def _back(self, state: State, reasons: tuple[str, ...]) -> Outcome:
        if state.phase in GOING_BACK:
            reasons = state.reasons or reasons
        return _outcome(way_back.undo(self._driver, state, reasons))

    def _take(self) -> State:
        """The state, ours: as it was left, or taken up from a run that is gone."""
        if self._began:
            return self._driver.mine(self._driver.current())
        return self._driver.take()

    def _mark(self, paused: str) -> None:
        def marked(state: State) -> State:
            if state.phase not in (Phase.DARK, Phase.CANARY):
                raise RolloutError(f"nothing moves: the rollout stands at {state.target}")
            return replace(state, paused=paused)

        self._driver.mark(marked)

    def _begin(self, candidate: Predictor) -> State:
        state = self._cluster.read_state()
        mode = MODES[mode_name(self._cluster.read())]
        if state is not None:
            state = self._driver.take()
            if (found := self._under_way(state, mode, candidate)) is not None:
                return found
        service = self._cluster.read()
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
        state = self._driver.ensure(self._driver.write(fresh, service))
        self._driver.notify(Phase.DARK.value, state, ())
        return state

    def _under_way(self, state: State, mode: Mode, candidate: Predictor) -> State | None:
        """The rollout of this candidate to go on with; None when the last one is over."""
        service = self._cluster.read()
        if state.finished:
            if self._is_promoted(state, mode, service, candidate):
                return self._driver.complete(state)
            self._driver.complete(state)
            return None
        if state.phase in GOING_BACK:
            way_back.undo(self._driver, state, state.reasons)
            return None
        same = _with_predictor(service, state.stable)
        if state.phase not in REVERTING and mode.prepare(same, candidate) == state.candidate:
            self._driver.log(f"continuing at {state.target}")
            return self._driver.ensure(state)
        raise RolloutError(
            f"rollout {state.id} of another candidate stands at {state.target}: "
            "continue it with its own candidate, or roll it back first"
        )

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
