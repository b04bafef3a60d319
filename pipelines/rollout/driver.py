"""What drives a rollout from state to state: applying, waiting, and keeping others out.

No decisions are made here; `machine` makes them. Two runs never both move traffic: every change
of the InferenceService is written with the version that was read BEFORE the state was found to be
still this run's. Whoever takes over writes the state first and the InferenceService second, so a
change that was overtaken is a conflict.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from pipelines.lib.errors import RolloutError
from pipelines.lib.webhook import Notifier, NotifyError
from pipelines.rollout.asker import Asker
from pipelines.rollout.cluster import Cluster, InferenceService
from pipelines.rollout.knative import KnativeMode
from pipelines.rollout.kube import ConflictError
from pipelines.rollout.lease import Lease, TakenOverError
from pipelines.rollout.modes import Endpoints, Mode
from pipelines.rollout.plan import Plan
from pipelines.rollout.series import QueryError
from pipelines.rollout.standard import StandardMode
from pipelines.rollout.state import Phase, State
from pipelines.rollout.watch import Look

MODES: dict[str, Mode] = {mode.name: mode for mode in (KnativeMode(), StandardMode())}
MAX_CONFLICTS = 20
# Looks in a row at a settled status: it flaps, and the more so while the controller has not said
# that it has seen the change (which KServe cannot always say, kserve/kserve 6081).
LOOKS_SEEN, LOOKS_UNSEEN = 2, 3
MAX_BACKOFF = 16  # times the time between looks, while they fail


class DriftError(RolloutError):
    """Someone else changed the InferenceService during the rollout; it is left as it is."""


class NotReachedError(RolloutError):
    """The cluster did not become what the state asks for in time."""


class PausedError(RolloutError):
    """Nothing can be known of the candidate; traffic stays where it is until somebody decides."""


class Watcher(Protocol):
    """Says what is wrong with the candidate while it takes traffic."""

    def check(self) -> None:
        """PipelineError when it could say nothing."""

    def begin(self, stable_version: str, candidate_version: str) -> None:
        """Traffic is about to move between these two."""

    def look(self, next_percent: int) -> Look:
        """What is known; `next_percent` is the share that the candidate would have next."""


@dataclass(slots=True)
class _View:
    """What a soak has seen so far."""

    looked: bool  # at what is watched, at least once
    undecided: str = ""
    num_failed: int = 0  # looks in a row that saw nothing
    num_unsettled: int = 0  # looks in a row at which the cluster was not what was written


class Driver:
    """One run's hands on one InferenceService and its rollout's state."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        owner: str,
        watcher: Watcher | None,
        log: Callable[[str], None],
        notifier: Notifier | None = None,
        asker: Asker | None = None,
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.owner = owner
        self.log = log
        self.lease: Lease = cluster.lease(owner, plan.lease_s)
        self.watcher = watcher
        self._notifier = notifier
        self.asker = asker

    # -- the state ---------------------------------------------------------------------------

    def current(self) -> State:
        """The state as it is written. RolloutError when there is none."""
        state = self.cluster.read_state()
        if state is None:
            raise RolloutError(f"{self.cluster.name}: there is no rollout")
        return state

    def take(self) -> State:
        """The state, with this run as its owner; to be called with the lease held."""
        for _ in range(MAX_CONFLICTS):
            state = replace(self.current(), owner=self.owner)
            try:
                self.cluster.write_state(state, self.cluster.read())
                return state
            except ConflictError:
                continue  # the run that had it was just writing: its last word
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicts")

    def mine(self, state: State) -> State:
        """The state with what a `pause` or `resume` has written into it meanwhile.

        TakenOverError when another run has gone on with the rollout.
        """
        self.lease.check()
        return replace(state, paused=self._still_mine(self.current()).paused)

    def _still_mine(self, found: State) -> State:
        if found.owner != self.owner:
            raise TakenOverError(
                f"run {found.owner} has taken this rollout over; it stands at {found.target}"
            )
        return found

    def write(self, state: State, service: InferenceService | None = None) -> State:
        """Write the state down as this run's."""
        state = replace(state, owner=self.owner)
        for _ in range(MAX_CONFLICTS):
            try:
                self.cluster.write_state(state, service or self.cluster.read())
                return state
            except ConflictError:
                state = self.mine(state)  # a pause came in between, or it is not ours any more
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicts")

    def mark(self, change: Callable[[State], State]) -> None:
        """Change what anybody may change (a pause), whoever owns the state."""
        for _ in range(MAX_CONFLICTS):
            try:
                self.cluster.write_state(change(self.current()), self.cluster.read())
                return
            except ConflictError:
                continue
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicts")

    def enter(self, state: State, phase: Phase, percent: int, reasons: tuple[str, ...]) -> State:
        """Write a transition down, then apply it."""
        self.log(f"{phase.value} {percent} %")
        state = self.ensure(self.write(state.enter(phase, percent, reasons)))
        self.notify(phase.value, state, reasons)
        return state

    def notify(self, event: str, state: State, reasons: Sequence[str]) -> None:
        """Tell whoever wants to know; that nobody listens is no reason to stop."""
        if self._notifier is None:
            return
        try:
            self._notifier(self._message(event, state, reasons))
        except NotifyError as error:
            self.log(str(error))

    def _message(self, event: str, state: State, reasons: Sequence[str]) -> dict[str, Any]:
        named = f"{self.cluster.namespace}/{self.cluster.name}"
        why = "".join(f"\n- {reason}" for reason in reasons)
        return {
            "text": f"{named}: {event}, candidate at {state.percent} %{why}",
            "event": event,
            "namespace": self.cluster.namespace,
            "name": self.cluster.name,
            "rollout": state.id,
            "percent": state.percent,
            "reasons": list(reasons),
        }

    # -- the cluster -------------------------------------------------------------------------

    def ensure(self, state: State) -> State:
        """Apply what is written, unless it was applied; DriftError when someone undid it."""
        for _ in range(MAX_CONFLICTS):
            service = self.cluster.read()
            if state.applied == state.target:
                if service["metadata"].get("generation") != state.generation:
                    self.mine(state)  # not by the run that has taken the rollout over?
                    raise DriftError(
                        f"the InferenceService was changed by someone else: its generation is "
                        f"{service['metadata'].get('generation')}, ours was {state.generation}; "
                        "roll back to return to the version before the rollout"
                    )
                return state
            state = self.mine(state)  # after the read, before the write: see the module
            MODES[state.mode].apply(service, state)
            try:
                written = self.cluster.replace(service)
            except ConflictError:
                continue  # the controller or a user was faster: read again and apply to that
            applied = replace(
                state, applied=state.target, generation=written["metadata"].get("generation")
            )
            return self.write(applied, written)
        raise ConflictError(f"gave up after {MAX_CONFLICTS} conflicts")

    def complete(self, state: State) -> State:
        """A state that is finished but was never applied, applied; unless someone went on since."""
        service = self.cluster.read()
        wanted = copy.deepcopy(service)
        MODES[state.mode].apply(wanted, state)
        untouched = service["metadata"].get("generation") == state.generation
        if state.done or not (untouched or wanted["spec"] == service["spec"]):
            return state
        self.log(f"{state.target} was written but not applied: applied now")
        return self.settle(self.ensure(state))

    def settle(self, state: State) -> State:
        """Wait until the cluster is what the state asks for; NotReachedError after the time-out."""
        said, in_a_row = "", 0
        for _ in self.polls():
            service = self.cluster.read()
            progress = MODES[state.mode].progress(service, state)
            if progress.message != said:
                self.log(progress.message)
                said = progress.message
            in_a_row = in_a_row + 1 if progress.settled else 0
            if in_a_row >= (LOOKS_SEEN if _is_observed(service) else LOOKS_UNSEEN):
                return state
        raise NotReachedError(
            f"{state.target}: not reached within {self.plan.ready_timeout_s:g} s: {said}"
        )

    def polls(self) -> Iterator[None]:
        """A turn each poll until the ready time-out; at least one."""
        deadline = time.monotonic() + self.plan.ready_timeout_s
        yield
        while time.monotonic() < deadline:
            self.lease.wait(self.plan.poll_s)
            yield

    def soak(self, state: State, next_percent: int) -> tuple[State, Sequence[str]]:
        """Hold the step for the soak time, while it is paused, and until enough is known.

        The first problem ends it. PausedError when nothing can be known: then traffic stays.
        """
        started = time.monotonic()
        view = _View(looked=self.watcher is None)
        said = ""
        while True:
            soaked_s = time.monotonic() - started
            left_s = self.plan.soak_s - soaked_s
            if left_s <= 0 and not state.paused:
                if view.looked and not view.undecided:
                    state = self.mine(state)  # a pause may have come during the look
                    if not state.paused:
                        return state, ()
                if view.looked and soaked_s > max(self.plan.max_wait_s, self.plan.soak_s):
                    waited = f"{view.undecided} within {soaked_s:.0f} s"
                    raise self.pause(state, f"{waited}: too few to judge it")
            pause_s = self.plan.poll_s * min(2**view.num_failed, MAX_BACKOFF)
            self.lease.wait(min(pause_s, left_s) if left_s > 0 else pause_s)
            state = self.mine(state)
            news = f"paused: {state.paused}" if state.paused else view.undecided
            if news != said:
                self.log(news or "going on")
            said = news
            problems = self._look(state, next_percent, view)
            if problems:
                return state, [f"at {state.percent} %: {problem}" for problem in problems]

    def _look(self, state: State, next_percent: int, view: _View) -> Sequence[str]:
        progress = MODES[state.mode].progress(self.ensured(state), state)
        view.num_unsettled = 0 if progress.settled else view.num_unsettled + 1
        if view.num_unsettled >= self.plan.max_failed_looks:
            return [progress.message]  # not a status that flaps
        if self.watcher is None:
            return []
        look = self.watcher.look(next_percent)
        view.num_failed = view.num_failed + 1 if look.failed else 0
        if look.failed:
            self.log(look.failed)
            if view.num_failed >= self.plan.max_failed_looks:
                raise self.pause(state, f"{view.num_failed} times in a row: {look.failed}")
            return []
        view.looked, view.undecided = True, look.undecided
        if look.both:
            raise self.pause(state, look.both)
        return look.problems

    def begin_watch(self, state: State) -> None:
        """Let the watcher begin; PausedError when it cannot several times in a row."""
        assert self.watcher is not None
        for num_failed in range(1, self.plan.max_failed_looks + 1):
            try:
                self.watcher.begin(state.stable_version, str(state.candidate_version))
                return
            except QueryError as error:
                self.log(str(error))
                why = f"{num_failed} times in a row: {error}"
            self.lease.wait(self.plan.poll_s * min(2**num_failed, MAX_BACKOFF))
        raise self.pause(state, why)

    def pause(self, state: State, reason: str) -> PausedError:
        """Write down that traffic stays where it is; the error to leave with.

        A `resume` at the same time does not undo it: this run ends, and nobody would go on.
        """
        self.mark(lambda found: replace(self._still_mine(found), paused=reason))
        self.notify("paused", state, (reason,))
        return PausedError(
            f"paused at {state.percent} %: {reason}; `resume` goes on, `rollback` goes back"
        )

    def hold(self, state: State) -> State:
        """Wait while the rollout is paused."""
        state = self.mine(state)
        if state.paused:
            self.log(f"paused: {state.paused}")
        while state.paused:
            self.lease.wait(self.plan.poll_s)
            state = self.mine(state)
        return state

    def ensured(self, state: State) -> InferenceService:
        """The InferenceService, found as this run left it."""
        self.ensure(state)
        return self.cluster.read()

    def endpoints(self, state: State) -> Endpoints:
        """Addresses of both versions."""
        return MODES[state.mode].endpoints(self.cluster.read(), state)


def _is_observed(service: InferenceService) -> bool:
    seen = service.get("status", {}).get("observedGeneration") or 0
    return int(seen) >= int(service["metadata"].get("generation") or 0)
