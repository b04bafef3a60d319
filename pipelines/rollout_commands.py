"""What the commands about a rollout do; each says whether the outcome was good."""

from __future__ import annotations

import argparse
from typing import Any

from pipelines import options
from pipelines.output import note, write, write_json
from pipelines.promote import PromoteOptions, promote, read_candidate, with_storage_uri
from pipelines.rollout.cluster import Cluster, connect
from pipelines.rollout.machine import Rollout
from pipelines.rollout.watch import PrometheusWatcher

DIRECT_URL = "http://by-its-own-address"  # replaced by each version's


def run_promote(parsed: argparse.Namespace) -> bool:
    """Roll a candidate out; good when it was promoted."""
    cluster = _cluster(parsed)
    clips = options.read_clips(parsed)
    if parsed.candidate is not None:
        candidate = read_candidate(parsed.candidate)
    else:
        state = cluster.read_state()
        under_way = state is not None and not state.finished
        stable = state.stable if state and under_way else cluster.read()["spec"]["predictor"]
        candidate = with_storage_uri(stable, parsed.storage_uri)
    promotion = PromoteOptions(
        service=options.service_options(parsed, parsed.ingress or DIRECT_URL),
        direct=parsed.ingress is None,
        limits=options.gate_limits(parsed),
        evaluation=options.evaluate_options(parsed),
    )
    result = promote(_rollout(parsed, cluster), candidate, clips, promotion, parsed.out)
    _show(parsed, result.as_json(), result.outcome.promoted, list(result.outcome.reasons))
    return result.outcome.promoted


def run_rollback(parsed: argparse.Namespace) -> bool:
    """Go back; good when that was done."""
    outcome = _rollout(parsed, _cluster(parsed)).revert([parsed.reason])
    _show(parsed, {"phase": outcome.phase, "reasons": outcome.reasons}, False, [parsed.reason])
    return True


def run_status(parsed: argparse.Namespace) -> bool:
    """Where a rollout stands; good unless it has stopped half-way."""
    status = Rollout(_cluster(parsed)).status()
    if parsed.json:
        write_json(status)
    elif not status:
        write("no rollout\n")
    else:
        write("".join(f"{key}: {value}\n" for key, value in status.items() if key != "history"))
    return not status or bool(status["finished"])


def _cluster(parsed: argparse.Namespace) -> Cluster:
    return connect(
        parsed.namespace, parsed.name, kubeconfig=parsed.kubeconfig, context=parsed.context
    )


def _rollout(parsed: argparse.Namespace, cluster: Cluster) -> Rollout:
    watcher = None
    if parsed.prometheus:
        limits = options.watch_limits(parsed)
        watcher = PrometheusWatcher(parsed.prometheus, parsed.namespace, limits)
    return Rollout(cluster, options.plan(parsed), owner=parsed.run_id, watcher=watcher, log=note)


def _show(
    parsed: argparse.Namespace, result: dict[str, Any], promoted: bool, reasons: list[str]
) -> None:
    if parsed.json:
        write_json(result)
        return
    write("promoted\n" if promoted else "rolled back\n")
    write("".join(f"- {reason}\n" for reason in reasons))
