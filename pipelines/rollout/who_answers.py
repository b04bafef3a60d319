"""Whether the right version answers: asked at each version's own address, and at the service's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from pipelines.lib.errors import RolloutError
from pipelines.rollout.asker import Identities, IdentityError, fits
from pipelines.rollout.driver import MODES, Driver
from pipelines.rollout.modes import main_url, storage_uri
from pipelines.rollout.state import State


def identify(driver: Driver, state: State) -> State:
    """Ask both versions at their own addresses what they are, and keep that.

    IdentityError when one is not what it was when it was asked before, or when the candidate's
    address is answered by the stable version's model although their weights differ.
    """
    if driver.asker is None:
        return state
    endpoints = driver.endpoints(state)
    found = Identities(
        driver.asker.only(endpoints.stable, _more_time(driver)),
        driver.asker.only(endpoints.candidate, _more_time(driver)),
    )
    before = Identities(state.stable_identity, state.candidate_identity)
    if before != Identities(None, None) and before != found:
        raise IdentityError(
            f"other models answer than before: stable {found.stable}, was {before.stable}; "
            f"candidate {found.candidate}, was {before.candidate}"
        )
    if not found.said:
        driver.log("the service does not say which model it is (properties.model_identity)")
    elif found.stable == found.candidate:
        if storage_uri(state.stable) != storage_uri(state.candidate):
            raise IdentityError(
                f"{endpoints.candidate} is answered by the stable version's model "
                f"{found.stable}, and the candidate's weights should be others"
            )
        driver.log(f"both versions serve the same model {found.stable}")
    return driver.write(
        replace(state, stable_identity=found.stable, candidate_identity=found.candidate)
    )


def check_visible(driver: Driver, state: State) -> None:
    """RolloutError when a split has to be seen here, and cannot be."""
    known = Identities(state.stable_identity, state.candidate_identity)
    if not driver.plan.split_samples or (driver.asker is not None and known.differ):
        return
    said = (
        f"{state.mode} mode: whether traffic follows the status cannot be seen, as "
        "the versions do not say different identities (properties.model_identity)"
    )
    if MODES[state.mode].split_must_be_seen:
        raise RolloutError(
            f"{said}; KServe 0.20.0 writes the status and leaves the routes as they are. With "
            "0.21 or later, --split-samples 0 goes on without looking"
        )
    driver.log(said)


def split_problem(driver: Driver, state: State) -> str | None:
    """What is wrong with who answers at the service's own address; None = it is as asked."""
    known = Identities(state.stable_identity, state.candidate_identity)
    number = driver.plan.split_samples
    if driver.asker is None or not number or not known.differ:
        return None
    more_time = _more_time(driver)
    while True:
        driver.mine(state)  # or a rollback meanwhile would be noticed at the time-out only
        url = main_url(driver.cluster.read(), direct=driver.asker.direct)
        try:
            found = driver.asker.count(url, number)
            hits = found[known.candidate]
            others = number - hits - found[known.stable]
            said = f"{hits} of {number} answers are the candidate's at {state.percent} %"
            said += f", {others} nobody's" if others else ""
            right = not others and fits(hits, number, state.percent)
        except IdentityError as error:
            said, right = str(error), False
        if right:
            driver.log(said)
            return None
        if not more_time():
            return f"{said}: the routes do not follow the status"


def _more_time(driver: Driver) -> Callable[[], bool]:
    """Lets a poll's time pass, True until the time for routes to follow is over."""
    deadline = time.monotonic() + driver.plan.split_timeout_s

    def wait() -> bool:
        driver.lease.wait(driver.plan.poll_s)
        return time.monotonic() < deadline

    return wait
