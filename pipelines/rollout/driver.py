"""What drives a rollout from state to state: applying, waiting, and the lease.

No decisions are made here; `machine` makes them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from pipelines.lib.errors import RolloutError
from pipelines.rollout.cluster import Cluster, ConflictError, InferenceService
from pipelines.rollout.knative import KnativeMode
from pipelines.rollout.modes import Endpoints, Mode
from pipelines.rollout.plan import Plan
from pipelines.rollout.standard import StandardMode
from pipelines.rollout.state import State

MODES: dict[str, Mode] = {mode.name: mode for mode in (KnativeMode(), StandardMode())}
MAX_CONFLICTS = 10


class DriftError(RolloutError):
    """Someone else changed the InferenceService during the rollout; it is left as it is."""


class Watcher(Protocol):
    """Says what is wrong with the candidate while it takes traffic."""

    def problems(self, stable_version: str, candidate_version: str) -> Sequence[str]:
        """Sentences about what is beyond its limit now; empty when all is well."""

    def verdict(self, stable_version: str, candidate_version: str) -> Sequence[str]:
        """The same at a soak's end, when there must have been enough traffic to tell."""


class Driver:
    """One run's hands on one InferenceService and its rollout's state."""

    def __init__(
        self,
        cluster: Cluster,
        plan: Plan,
        owner: str,
        watcher: Watcher | None,
        log: Callable[[str], None],
        sleep: Callable[[float], None],
    ) -> None:
        self.cluster = cluster
        self.plan = plan
        self.owner = owner
        self.log = log
        self._watcher = watcher
        self._sleep = sleep

    def ensure(self, state: State) -> State:
        """Apply what is written, unless it was applied; RolloutError when someone undid it."""
        for _ in range(MAX_CONFLICTS):
            service = self.cluster.read()
            if state.applied == state.target:
                if service["metadata"].get("generation") != state.generation:
                    raise DriftError(
                        f"the InferenceService was changed by someone else: its generation is "
                        f"{service['metadata'].get('generation')}, ours was {state.generation}; "
                        "roll back to return to the version before the rollout"
                    )
                return state
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

    def settle(self, state: State) -> State:
        """Wait until the cluster is what the state asks for; RolloutError after the time-out."""
        deadline = time.monotonic() + self.plan.ready_timeout_s
        said = ""
        while True:
            progress = MODES[state.mode].progress(self.cluster.read(), state)
            if progress.message != said:
                self.log(progress.message)
                said = progress.message
            if progress.settled:
                return state
            if time.monotonic() >= deadline:
                raise RolloutError(
                    f"{state.target}: not reached within {self.plan.ready_timeout_s:g} s: "
                    f"{progress.message}"
                )
            self._sleep(self.plan.poll_s)
            state = self.renew(state)

    def soak(self, state: State) -> tuple[State, Sequence[str]]:
        """Hold the step for the soak time; the first problem ends it."""
        versions = state.stable_version, str(state.candidate_version)
        deadline = time.monotonic() + self.plan.soak_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._sleep(min(self.plan.poll_s, left_s))
            state = self.renew(state)
            progress = MODES[state.mode].progress(self.ensured(state), state)
            if not progress.settled:
                return state, [f"at {state.percent} %: {progress.message}"]
            if self._watcher is not None and (found := self._watcher.problems(*versions)):
                return state, [f"at {state.percent} %: {problem}" for problem in found]
        if self._watcher is None:
            return state, []
        return state, [f"at {state.percent} %: {p}" for p in self._watcher.verdict(*versions)]

    def take(self) -> State:
        state = self.current()
        if not state.finished:
            self.check_lease(state)
        return self.write(state)

    def current(self) -> State:
        state = self.cluster.read_state()
        if state is None:
            raise RolloutError(f"{self.cluster.name}: there is no rollout")
        return state

    def check_lease(self, state: State) -> None:
        if state.owner != self.owner and state.lease_age_s() < self.plan.lease_s:
            raise RolloutError(
                f"rollout {state.id} is driven by run {state.owner}, alive "
                f"{state.lease_age_s():.0f} s ago; a silence of {self.plan.lease_s:g} s frees it"
            )

    def renew(self, state: State) -> State:
        if state.lease_age_s() * 3 < self.plan.lease_s:
            return state
        return self.write(state)

    def write(self, state: State, service: InferenceService | None = None) -> State:
        renewed = state.renewed(self.owner)
        self.cluster.write_state(renewed, service or self.cluster.read())
        return renewed

    def ensured(self, state: State) -> InferenceService:
        self.ensure(state)
        return self.cluster.read()

    def endpoints(self, state: State) -> Endpoints:
        return MODES[state.mode].endpoints(self.cluster.read(), state)

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Hold the lease while something else runs for long."""
        over = threading.Event()
        failed: list[RolloutError] = []

        def renew() -> None:
            while not over.wait(self.plan.lease_s / 3):
                try:
                    self.write(self.current())
                except RolloutError as error:
                    failed.append(error)
                    return

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        if failed:
            raise failed[0]
