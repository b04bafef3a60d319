"""The right to drive a rollout: a Lease of coordination.k8s.io, as controllers elect leaders.

It is renewed on a thread of its own while it is held and given back at the end, an interruption
included, so that the next run need not wait. Only a run that was killed leaves it behind, until
its time is over. Whoever must win (a rollback) takes it from a holder that is alive; that holder
learns it from its next renewal, and can write nothing more in the meantime (see `driver`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kubernetes import client

from pipelines.lib.errors import RolloutError
from pipelines.rollout.kube import ConflictError, MissingError, Patience

TAKE_ATTEMPTS = 10
LOOK_EVERY_S = 0.5  # while it is not known whether the holder is alive
MAX_SKEW_S = 600.0  # two machines' clocks are not further apart


class HeldError(RolloutError):
    """Another run is alive and drives the rollout."""


class TakenOverError(RolloutError):
    """Another run, such as a rollback, has taken the rollout from this one."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease."""

    name: str
    age_s: float  # since it last said that it is alive, by two clocks: its own and ours
    duration_s: float  # silence after which it counts as dead
    renewed_at: str  # changes with each sign of life

    @property
    def recent(self) -> bool:
        """Whether it looks alive by the clocks."""
        return 0 <= self.age_s < self.duration_s

    @property
    def long_gone(self) -> bool:
        """Whether it is dead however the clocks differ."""
        return self.age_s > self.duration_s + MAX_SKEW_S


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
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._api = client.CoordinationV1Api(api)
        self._namespace, self._name, self._holder = namespace, name, holder
        self._duration_s = max(1, round(duration_s))
        self._renew_every_s = duration_s / 3
        self._patience = patience
        self._clock = clock  # this machine's
        self._depth = 0
        self._over = threading.Event()
        self._lost: str | None = None  # who has it now
        self._acquired = ""  # when this process took it: another one may have the same name

    def current(self) -> Holder | None:
        """Who holds it; None when nobody ever did or it was given back."""
        found = self._read()
        return None if found is None else self._holder_of(found)

    def living(self) -> Holder | None:
        """Who holds it and is alive; watched for a renewal where the clocks do not say."""
        holder = self.current()
        if holder is None or holder.long_gone:
            return None
        alive = holder.recent or self._renews(holder, holder.duration_s / 2)
        return holder if alive else None

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

        Waits for the lease of a run that was killed, for its length by this machine's clock;
        HeldError when its holder renews it meanwhile, unless `force`.
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
        silent = ""
        for _ in range(TAKE_ATTEMPTS):
            found = self._read()
            holder = None if found is None else self._holder_of(found)
            mine = holder is None or holder.name == self._holder or holder.long_gone
            if holder is not None and not (mine or force or holder.renewed_at == silent):
                if self._renews(holder, holder.duration_s):
                    raise HeldError(
                        f"the rollout is driven by run {holder.name}, which is alive; a rollback "
                        "or an abort takes it over"
                    )
                silent = holder.renewed_at
                continue
            with suppress(ConflictError):
                self._write(found, self._holder, taken=True)
                return
        raise ConflictError(f"Lease {self._namespace}/{self._name}: others keep changing it")

    def _renews(self, holder: Holder, within_s: float) -> bool:
        """Whether the holder gives a sign of life; no other machine's clock counts."""
        deadline = time.monotonic() + within_s
        while (left_s := deadline - time.monotonic()) > 0:
            time.sleep(min(left_s, LOOK_EVERY_S))
            now = self.current()
            if now is None or now.name != holder.name:
                return False
            if now.renewed_at != holder.renewed_at:
                return True
        return False

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(self._renew_every_s):
            try:
                found = self._read()
                holder = None if found is None else self._holder_of(found)
                taken = None if holder is None else self._taken_by(holder, found)
                if taken is not None:
                    self._lost = taken
                    self._over.set()
                    return
                self._write(found, self._holder)
            except RolloutError:
                continue  # the next renewal tells; a state that changed hands stops every write

    def _taken_by(self, holder: Holder, found: Any) -> str | None:
        """Who has the lease, if that is another process; also one that has this one's name, such
        as the pod that replaces this one's."""
        if holder.name != self._holder:
            return holder.name
        acquired = found.spec.acquire_time
        again = acquired is not None and _micro_time(acquired) != self._acquired
        return f"{holder.name}, started once more," if again else None

    def _give_back(self) -> None:
        """As client-go does it: without a holder, for one second."""
        with suppress(RolloutError):
            found = self._read()
            holder = None if found is None else self._holder_of(found)
            if holder is not None and self._taken_by(holder, found) is None:
                self._write(found, "")

    def _read(self) -> Any:
        read = self._api.read_namespaced_lease
        try:
            return self._patience.call(self._called, read, self._name, self._namespace)
        except MissingError:
            return None

    def _write(self, found: Any, holder: str, *, taken: bool = False) -> None:
        now = _micro_time(self._clock())
        if taken or found is None:
            self._acquired = now
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
        acquired = _micro_time(before.acquire_time)
        spec["acquireTime"] = now if taken else acquired
        spec["leaseTransitions"] = (before.lease_transitions or 0) + taken
        metadata["resourceVersion"] = found.metadata.resource_version
        replace = self._api.replace_namespaced_lease
        self._patience.call(self._called, replace, self._name, self._namespace, body)

    def _holder_of(self, found: Any) -> Holder | None:
        spec = found.spec
        if not spec.holder_identity or spec.renew_time is None:
            return None
        age_s = (self._clock() - spec.renew_time).total_seconds()
        duration_s = float(spec.lease_duration_seconds or 0)
        return Holder(str(spec.holder_identity), age_s, duration_s, spec.renew_time.isoformat())

    @property
    def _called(self) -> str:
        return f"Lease {self._namespace}/{self._name}"


def _micro_time(at: datetime) -> str:
    """As Kubernetes' MicroTime wants it: with all six digits."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
