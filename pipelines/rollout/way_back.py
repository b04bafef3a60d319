"""The ways back: undo a rollout, revert a promotion, and give such a reversion up.

    dark, canary ──> undoing ──> restoring ──> rolled-back
    promoted ──> reverting ──> rolled-back
                     └────────> keeping ──> promoted

Each can be taken up by any process at any point, and none moves traffic to a version that is not
ready.
"""

from __future__ import annotations

from dataclasses import replace

from pipelines.rollout.driver import MODES, Driver, NotReachedError
from pipelines.rollout.state import Phase, State


def undo(driver: Driver, state: State, reasons: tuple[str, ...]) -> State:
    """Take the candidate's traffic away first, then restore the spec."""
    for reason in reasons:
        driver.log(f"rolling back: {reason}")
    if state.candidate_version is None and state.phase is not Phase.RESTORING:
        # it never became ready; its name tells it from the revision that is restored
        version = MODES[state.mode].candidate_version(driver.cluster.read(), state)
        state = replace(state, candidate_version=version)
    # Whoever changed the spec meanwhile: taking the candidate's traffic away comes first.
    state = replace(state, applied="", paused="")
    if state.phase is not Phase.RESTORING:
        state = driver.settle(driver.enter(state, Phase.UNDOING, 0, reasons))
    state = driver.settle(driver.enter(state, Phase.RESTORING, 0, reasons))
    return driver.settle(driver.enter(state, Phase.ROLLED_BACK, 0, reasons))


def revert(driver: Driver, state: State, reasons: tuple[str, ...]) -> State:
    """Bring the version before a promotion up without traffic, then give it all of it at once.

    In Standard mode by its weight: KServe removes the Service of the predictor that goes before the
    route leads to the one that comes.
    """
    if state.phase is not Phase.REVERTING:
        driver.log("it was promoted: the version before it is started, then given the traffic")
        state = MODES[state.mode].revert(driver.cluster.read(), state)
    state = driver.enter(replace(state, applied="", paused=""), Phase.REVERTING, 100, reasons)
    state = driver.settle(state)
    if MODES[state.mode].split_must_be_seen:
        state = driver.settle(driver.ensure(driver.write(replace(state, percent=0))))
    return driver.settle(driver.enter(state, Phase.ROLLED_BACK, 0, reasons))


def keep(driver: Driver, state: State, reasons: tuple[str, ...]) -> State:
    """Give a reversion up: the promoted version stays."""
    if state.phase is Phase.REVERTING:
        state = driver.ensure(replace(state, applied=""))
        state = replace(state, restored_version=_made_by_reverting(driver, state))
    state = driver.enter(replace(state, applied=""), Phase.KEEPING, 100, reasons)
    state = driver.settle(state)
    return driver.settle(driver.enter(state, Phase.PROMOTED, 100, reasons))


def _made_by_reverting(driver: Driver, state: State) -> str:
    """Name of the version that comes back, ready or not: without it, who could tell it apart?"""
    for _ in driver.polls():
        made = MODES[state.mode].newest_version(driver.cluster.read())
        if made not in (None, state.candidate_version):
            return str(made)
    raise NotReachedError("the version before has no revision yet; try again")
