"""The right to drive a rollout: a Lease of coordination.k8s.io, as controllers elect leaders.

It is renewed on a thread of its own while it is held and given back at the end, an interruption
included, so that the next run need not wait. Only a run that was killed leaves it behind, until
its time is over. Whoever must win (a rollback) takes it from a holder that is alive; that holder
learns it from its next renewal, and can write nothing more in the meantime (see `driver`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes import client

from pipelines.lib.errors import RolloutError
from pipelines.rollout.kube import ConflictError, MissingError, Patience

TAKE_ATTEMPTS = 10
LOOK_EVERY_S = 0.5  # while it is not known whether the holder is alive


class HeldError(RolloutError):
    """Another run is alive and drives the rollout."""


class TakenOverError(RolloutError):
    """Another run, such as a rollback, has taken the rollout from this one."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease."""

    name: str
    age_s: float  # since it last said that it is alive
    duration_s: float  # silence after which it counts as dead
    renewed_at: str  # changes with each sign of life

    @property
    def alive(self) -> bool:
        """Whether the lease is still its own."""
        return bool(self.name) and self.age_s < self.duration_s


class Lease:
    """One holder's hands on one Lease object."""

    def __init__(
        self,
        api: client.ApiClient,
        namespace: str,
        name: str,
        holder: str,
        duration_s: float,
        patience: Patience,
    ) -> None:
        self._api = client.CoordinationV1Api(api)
        self._namespace, self._name, self._holder = namespace, name, holder
        self._duration_s = max(1, round(duration_s))
        self._renew_every_s = duration_s / 3
        self._patience = patience
        self._depth = 0
        self._over = threading.Event()
        self._lost: str | None = None  # who has it now

    def current(self) -> Holder | None:
        """Who holds it; None when nobody ever did or it was given back."""
        found = self._read()
        return None if found is None else _holder(found)

    def wait(self, seconds: float) -> None:
        """Let time pass. TakenOverError as soon as it is known that the lease is lost."""
        self._over.wait(seconds)
        self.check()

    def check(self) -> None:
        """TakenOverError when another run has the lease."""
        if self._lost is not None:
            raise TakenOverError(f"run {self._lost} has taken this rollout over")

    @contextmanager
    def held(self, *, force: bool = False) -> Iterator[None]:
        """Hold it for the length of a block; within such a block, nothing to do.

        Waits for the lease of a run that was killed; HeldError when its holder is alive, unless
        `force`.
        """
        if self._depth == 0:
            self._take(force)
        self._depth += 1
        stop = threading.Event()
        renewals = threading.Thread(target=self._renew, args=(stop,), daemon=True)
        if self._depth == 1:
            self._over.clear()
            self._lost = None
            renewals.start()
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0:
                stop.set()
                renewals.join()
                self._give_back()

    def _take(self, force: bool) -> None:
        for _ in range(TAKE_ATTEMPTS):
            found = self._read()
            holder = None if found is None else _holder(found)
            mine = holder is None or holder.name == self._holder or not holder.alive
            if holder is not None and not mine and not force:
                self._wait_for_silence(holder)
                continue
            with suppress(ConflictError):
                self._write(found, self._holder, taken=True)
                return
        raise ConflictError(f"Lease {self._namespace}/{self._name}: others keep changing it")

    def _wait_for_silence(self, holder: Holder) -> None:
        """Until the lease of a killed run is over. HeldError at a sign of life of its holder."""
        deadline = time.monotonic() + holder.duration_s - holder.age_s
        while (left_s := deadline - time.monotonic()) > 0:
            self._over.wait(min(left_s, LOOK_EVERY_S))
            now = self.current()
            if now is None or now.name != holder.name or not now.alive:
                return
            if now.renewed_at != holder.renewed_at:
                raise HeldError(
                    f"the rollout is driven by run {holder.name}, which is alive; a rollback or an "
                    "abort takes it over"
                )

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self._renew_every_s):
            try:
                found = self._read()
                holder = None if found is None else _holder(found)
                if holder is not None and holder.name != self._holder:
                    self._lost = holder.name
                    self._over.set()
                    return
                self._write(found, self._holder)
            except RolloutError:
                continue  # the next renewal tells; a state that changed hands stops every write

    def _give_back(self) -> None:
        """As client-go does it: without a holder, for one second."""
        with suppress(RolloutError):
            found = self._read()
            holder = None if found is None else _holder(found)
            if holder is not None and holder.name == self._holder:
                self._write(found, "")

    def _read(self) -> Any:
        read = self._api.read_namespaced_lease
        try:
            return self._patience.call(self._called, read, self._name, self._namespace)
        except MissingError:
            return None

    def _write(self, found: Any, holder: str, *, taken: bool = False) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # MicroTime wants all six digits
        spec: dict[str, Any] = {
            "holderIdentity": holder,
            "leaseDurationSeconds": self._duration_s if holder else 1,
            "renewTime": now,
        }
        metadata = {"name": self._name, "namespace": self._namespace}
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": spec,
        }
        if found is None:
            spec |= {"acquireTime": now, "leaseTransitions": 0}
            create = self._api.create_namespaced_lease
            self._patience.call(self._called, create, self._namespace, body)
            return
        before = found.spec
        acquired = before.acquire_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec["acquireTime"] = now if taken else acquired
        spec["leaseTransitions"] = (before.lease_transitions or 0) + taken
        metadata["resourceVersion"] = found.metadata.resource_version
        replace = self._api.replace_namespaced_lease
        self._patience.call(self._called, replace, self._name, self._namespace, body)

    @property
    def _called(self) -> str:
        return f"Lease {self._namespace}/{self._name}"


def _holder(found: Any) -> Holder | None:
    spec = found.spec
    if not spec.holder_identity or spec.renew_time is None:
        return None
    age_s = (datetime.now(UTC) - spec.renew_time).total_seconds()
    duration_s = float(spec.lease_duration_seconds or 0)
    return Holder(str(spec.holder_identity), age_s, duration_s, spec.renew_time.isoformat())
