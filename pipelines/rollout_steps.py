"""What the rollout's steps in a pipeline do, as plain functions of paths and values."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.lib.errors import RolloutError
from pipelines.promote import with_storage_uri
from pipelines.rollout.cluster import connect
from pipelines.rollout.machine import Rollout
from pipelines.rollout.plan import Plan
from pipelines.rollout.watch import PrometheusWatcher, WatchLimits


def deploy(
    name: str,
    namespace: str,
    storage_uri: str,
    *,
    ingress: str,
    plan: Mapping[str, Any],
    run_id: str,
) -> tuple[str, str, str, str]:
    """URL and Host of the stable version, then of the candidate.

    A candidate that a run that died had already given traffic is taken back and judged anew.
    """
    cluster = connect(namespace, name, kubeconfig=None, context=None)
    state = cluster.read_state()
    under_way = state is not None and not state.finished
    stable = state.stable if state and under_way else cluster.read()["spec"]["predictor"]
    rollout = Rollout(cluster, Plan.from_mapping(plan), owner=run_id, log=_log)
    candidate = with_storage_uri(stable, storage_uri)
    endpoints = rollout.deploy(candidate)
    if endpoints is None and not rollout.status()["finished"]:
        rollout.undo(["an earlier run died and left it half-way"])
        endpoints = rollout.deploy(candidate)
    if endpoints is None:
        raise RolloutError(f"{storage_uri} is promoted already")
    if not ingress:
        return endpoints.stable, "", endpoints.candidate, ""
    hosts = [urlsplit(url).netloc for url in (endpoints.stable, endpoints.candidate)]
    return ingress, hosts[0], ingress, hosts[1]


def shift(
    name: str,
    namespace: str,
    decision_path: str,
    *,
    prometheus: str,
    plan: Mapping[str, Any],
    watch: Mapping[str, Any],
    run_id: str,
    report: str,
    accepted_report: str,
) -> str:
    """Step up and promote; RolloutError when it had to be rolled back."""
    watcher = None
    if prometheus:
        watcher = PrometheusWatcher(prometheus, namespace, WatchLimits(**watch))
    cluster = connect(namespace, name, kubeconfig=None, context=None)
    rollout = Rollout(cluster, Plan.from_mapping(plan), owner=run_id, watcher=watcher, log=_log)
    outcome = rollout.shift(_reasons(decision_path))
    if not outcome.promoted:
        raise RolloutError("rolled back: " + "; ".join(outcome.reasons))
    if accepted_report:
        Path(accepted_report).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report, accepted_report)
    return outcome.phase.value


def refuse(
    name: str, namespace: str, decision_path: str, *, plan: Mapping[str, Any], run_id: str
) -> None:
    """Undo the rollout for the gate's reasons."""
    cluster = connect(namespace, name, kubeconfig=None, context=None)
    Rollout(cluster, Plan.from_mapping(plan), owner=run_id, log=_log).undo(_reasons(decision_path))


def settle(name: str, namespace: str, *, plan: Mapping[str, Any], run_id: str) -> None:
    """Undo a rollout of this run that is not finished."""
    cluster = connect(namespace, name, kubeconfig=None, context=None)
    state = cluster.read_state()
    if state is None or state.finished or state.owner != run_id:
        return
    Rollout(cluster, Plan.from_mapping(plan), owner=run_id, log=_log).undo(
        ["the pipeline did not finish"]
    )


def _reasons(decision_path: str) -> list[str]:
    reasons: list[str] = json.loads(Path(decision_path).read_text(encoding="utf-8"))["reasons"]
    return reasons


def _log(message: str) -> None:
    logging.getLogger("pipelines.rollout").warning("%s", message)
