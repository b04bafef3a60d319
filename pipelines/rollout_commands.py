"""What the commands about a rollout do; each says whether the outcome was good."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from pipelines import chosen, rollout_options
from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import OptionError
from pipelines.lib.webhook import webhook
from pipelines.output import note, write, write_json
from pipelines.promote import (
    PromoteOptions,
    Result,
    promote,
    read_candidate,
    track_promotion,
    with_storage_uri,
)
from pipelines.rollout.asker import Asker
from pipelines.rollout.cluster import Cluster, connect
from pipelines.rollout.driver import PausedError
from pipelines.rollout.kube import Patience
from pipelines.rollout.lease import TakenOverError
from pipelines.rollout.machine import Outcome, Rollout
from pipelines.rollout.state import FINISHED, Phase
from pipelines.rollout.storage_uri import check_storage_uri
from pipelines.rollout.watch import PrometheusWatcher

DIRECT_URL = "http://by-its-own-address"  # replaced by each version's


def run_promote(parsed: argparse.Namespace) -> bool:
    """Roll a candidate out; good when it was promoted."""
    cluster = _cluster(parsed)
    with interruptible():
        try:
            if parsed.full:
                return _show(parsed, _rollout(parsed, cluster).finish_now())
            result = _promote(parsed, cluster)
        except (TakenOverError, PausedError) as error:
            note(f"stopped: {error}")
            return _show(parsed, _rollout(parsed, cluster).outcome())
    if result.folder is not None:
        for said in track_promotion(result.folder):
            note(said)
    return _show(parsed, result.outcome, decision=result.as_json()["decision"])


def _promote(parsed: argparse.Namespace, cluster: Cluster) -> Result:
    for option in ("data", "out"):
        if getattr(parsed, option) is None:
            raise OptionError(f"{option}: must be given to judge a candidate by")
    clips = chosen.read_clips(parsed)
    if parsed.candidate is not None:
        candidate = read_candidate(parsed.candidate)
    else:
        check_storage_uri(parsed.storage_uri)
        state = cluster.read_state()
        under_way = state is not None and not state.finished
        stable = state.stable if state and under_way else cluster.read()["spec"]["predictor"]
        candidate = with_storage_uri(stable, parsed.storage_uri)
    promotion = PromoteOptions(
        service=_service(parsed),
        direct=parsed.ingress is None,
        limits=chosen.gate_limits(parsed),
        evaluation=chosen.evaluate_options(parsed),
    )
    asker = Asker(promotion.service, direct=promotion.direct)
    return promote(_rollout(parsed, cluster, asker), candidate, clips, promotion, parsed.out)


def _service(parsed: argparse.Namespace) -> ServiceOptions:
    return chosen.service_options(parsed, parsed.ingress or DIRECT_URL)


def run_rollback(parsed: argparse.Namespace) -> bool:
    """Go back, whatever is under way; good when the traffic is back."""
    outcome = _unless_taken_over(parsed, lambda rollout: rollout.rollback([parsed.reason]))
    _show(parsed, outcome)
    return outcome.phase is Phase.ROLLED_BACK


def _unless_taken_over(parsed: argparse.Namespace, act: Callable[[Rollout], Outcome]) -> Outcome:
    """What came of it; where another rollback was later and does it, how that stands by now."""
    cluster = _cluster(parsed)
    with interruptible():
        try:
            return act(_rollout(parsed, cluster))
        except TakenOverError as error:
            note(f"stopped: {error}")
            return _rollout(parsed, cluster).outcome()


def run_abort(parsed: argparse.Namespace) -> bool:
    """End what is under way; good when that was done."""
    outcome = _unless_taken_over(parsed, lambda rollout: rollout.abort([parsed.reason]))
    _show(parsed, outcome)
    return outcome.phase in FINISHED


def run_pause(parsed: argparse.Namespace) -> bool:
    """Hold the traffic where it is."""
    Rollout(_cluster(parsed)).pause(parsed.reason)
    write("paused\n")
    return True


def run_resume(parsed: argparse.Namespace) -> bool:
    """Go on; good when the run that lives goes on, or this one promoted the candidate itself."""
    asker = Asker(_service(parsed), direct=parsed.ingress is None)
    rollout = _rollout(parsed, _cluster(parsed), asker)
    if rollout.resume():
        write("resumed: the run that drives it goes on\n")
        return True
    status = rollout.status()
    if status["phase"] == Phase.DARK:
        write("resumed: start `promote` again, the candidate is not judged yet\n")
        return True
    with interruptible():
        try:
            return _show(parsed, rollout.shift(status["reasons"]))
        except PausedError as error:
            note(f"stopped: {error}")
            return _show(parsed, rollout.outcome())


def run_status(parsed: argparse.Namespace) -> bool:
    """Where a rollout stands; good when none is under way and the cluster is what is written."""
    status = Rollout(_cluster(parsed)).status()
    if parsed.json:
        write_json(status)
    elif not status:
        write("no rollout\n")
    else:
        write("".join(f"{key}: {value}\n" for key, value in status.items() if key != "history"))
    return not status or bool(status["finished"] and status["settled"])


@contextmanager
def interruptible() -> Iterator[None]:
    """A termination (a pod's, a job's) ends a run as Ctrl-C does: the lease is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread only
        return
    both = (signal.SIGINT, signal.SIGTERM)  # SIGINT is ignored where a shell starts it with "&"
    before = [signal.signal(each, signal.default_int_handler) for each in both]
    try:
        yield
    finally:
        for each, handler in zip(both, before, strict=True):
            signal.signal(each, handler)


def _cluster(parsed: argparse.Namespace) -> Cluster:
    return connect(
        parsed.namespace,
        parsed.name,
        kubeconfig=parsed.kubeconfig,
        context=parsed.context,
        patience=Patience(attempts=parsed.api_attempts),
    )


def _rollout(parsed: argparse.Namespace, cluster: Cluster, asker: Asker | None = None) -> Rollout:
    watcher = None
    if parsed.prometheus:
        limits = rollout_options.watch_limits(parsed)
        watcher = PrometheusWatcher(parsed.prometheus, parsed.namespace, limits)
    return Rollout(
        cluster,
        rollout_options.plan(parsed),
        owner=parsed.run_id,
        watcher=watcher,
        log=note,
        notifier=webhook(parsed.webhook),
        asker=asker,
    )


def _show(parsed: argparse.Namespace, outcome: Outcome, **more: Any) -> bool:
    """Say how it stands; whether that is promoted."""
    if parsed.json:
        write_json({**asdict(outcome), **more})
        return outcome.promoted
    settled = {Phase.PROMOTED: "promoted", Phase.ROLLED_BACK: "rolled back"}
    stands = settled.get(outcome.phase, f"{outcome.phase.value} {outcome.percent} %")
    write(f"{stands}\n" + "".join(f"- {reason}\n" for reason in outcome.reasons))
    return outcome.promoted
