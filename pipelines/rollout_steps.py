"""What the rollout's steps in a pipeline do, as plain functions of paths and values."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from urllib.parse import urlsplit

from pipelines.evaluation_steps import AlarmError
from pipelines.lib.client import ServiceOptions
from pipelines.lib.defaults import API_KEY_ENV
from pipelines.lib.errors import OptionError, PipelineError, RolloutError
from pipelines.lib.webhook import webhook
from pipelines.promote import with_storage_uri
from pipelines.rollout.asker import Asker
from pipelines.rollout.cluster import Cluster, InferenceService, connect
from pipelines.rollout.limits import WatchLimits
from pipelines.rollout.machine import Rollout
from pipelines.rollout.modes import main_url, mode_name
from pipelines.rollout.plan import Plan
from pipelines.rollout.storage_uri import check_storage_uri
from pipelines.rollout.watch import PrometheusWatcher

UNUSED_URL = "http://by-its-own-address"
INGRESSES = (
    "http://kourier-internal.kourier-system.svc.cluster.local (Knative with Kourier), "
    "http://knative-local-gateway.istio-system.svc.cluster.local (with Istio), or the Service of "
    "your Gateway"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the pipeline `promote`; empty = not set, as KFP has it."""

    name: str
    namespace: str
    plan: Mapping[str, Any]
    run_id: str
    prometheus: str = ""
    webhook: str = ""
    ingress: str = ""
    model: str = ""  # empty: nobody is asked which model it is
    watch: Mapping[str, Any] = field(default_factory=dict)

    def cluster(self) -> Cluster:
        return connect(self.namespace, self.name, kubeconfig=None, context=None)

    def rollout(self, cluster: Cluster) -> Rollout:
        """The rollout, driven by this run."""
        watcher = None
        if self.prometheus:
            limits = WatchLimits.from_mapping(self.watch)
            watcher = PrometheusWatcher(self.prometheus, self.namespace, limits)
        asker = None
        if self.model:
            key = os.environ.get(API_KEY_ENV)
            service = ServiceOptions(self.ingress or UNUSED_URL, model=self.model, api_key=key)
            asker = Asker(service, direct=not self.ingress)
        return Rollout(
            cluster, Plan.from_mapping(self.plan), owner=self.run_id, watcher=watcher, log=_log,
            notifier=webhook(self.webhook), asker=asker,
        )  # fmt: skip


def deploy(run: Run, storage_uri: str, accepted_report: str) -> tuple[str, str, str, str]:
    """URL and Host of the stable version, then of the candidate.

    A candidate that a run that died had already given traffic is taken back and judged anew. One
    that is promoted is evaluated once more, so that a run that broke off after the promotion can
    be finished: its report is what is missing.
    """
    cluster = run.cluster()
    check_reachable(run, cluster.read())
    check_writable(accepted_report)
    check_storage_uri(storage_uri)
    state = cluster.read_state()
    under_way = state is not None and not state.finished
    stable = state.stable if state and under_way else cluster.read()["spec"]["predictor"]
    rollout = run.rollout(cluster)
    candidate = with_storage_uri(stable, storage_uri)
    promoted = state is not None and state.phase == "promoted"
    if state is not None and promoted:
        candidate = with_storage_uri(state.stable, storage_uri)
    endpoints = rollout.deploy(candidate)
    if endpoints is None and not rollout.status()["finished"]:
        rollout.undo(["an earlier run died and left it half-way"])
        endpoints = rollout.deploy(candidate)
    if endpoints is None:
        _log(f"{storage_uri} is promoted already: it is evaluated for its report")
        url = main_url(cluster.read(), direct=not run.ingress)
        urls = (url, url)
    else:
        try:
            rollout.identify()
        except PipelineError as error:
            rollout.undo([str(error)])
            raise
        urls = (endpoints.stable, endpoints.candidate)
    if not run.ingress:
        return urls[0], "", urls[1], ""
    hosts = [urlsplit(url).netloc for url in urls]
    return run.ingress, hosts[0], run.ingress, hosts[1]


def shift(run: Run, decision_path: str, *, report: str, accepted_report: str) -> str:
    """Step up and promote; RolloutError when it had to be rolled back."""
    rollout = run.rollout(run.cluster())
    if not rollout.status()["finished"]:
        rollout.identify()  # what was judged is still what answers there
    outcome = rollout.shift(_reasons(decision_path))
    if not outcome.promoted:
        raise RolloutError("rolled back: " + "; ".join(outcome.reasons))
    if accepted_report:
        Path(accepted_report).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(report, accepted_report)
    return outcome.phase.value


def refuse(run: Run, decision_path: str, *, fail: bool) -> None:
    """Undo the rollout for the gate's reasons; AlarmError if the run is to fail for it."""
    reasons = _reasons(decision_path)
    rollout = run.rollout(run.cluster())
    if rollout.status()["phase"] == "promoted":
        raise RolloutError("it is promoted already, and would not be now: " + "; ".join(reasons))
    rollout.undo(reasons)
    if fail:
        raise AlarmError("not promoted: " + "; ".join(reasons))


def settle(run: Run) -> None:
    """Undo a rollout of this run that is not finished."""
    cluster = run.cluster()
    state = cluster.read_state()
    if state is None or state.finished or state.owner != run.run_id or state.paused:
        return
    run.rollout(cluster).undo(["the pipeline did not finish"])


def service_url(url: str, host_header: str, name: str, namespace: str) -> str:
    """Where the service is: `url`, or the address in the InferenceService's status.

    OptionError when this pod cannot resolve it: then no shard could.
    """
    if not url:
        if not name or not namespace:
            raise OptionError("url: must be given, or name and namespace of an InferenceService")
        service = connect(namespace, name, kubeconfig=None, context=None).read()
        inside = (service.get("status", {}).get("address") or {}).get("url")
        url = str(inside or main_url(service, direct=False))
    _resolve(url, "url", f"an address that pods can resolve; Host {host_header or 'not set'}")
    return url


def check_reachable(run: Run, service: InferenceService) -> None:
    """OptionError when pods will not find what they must call."""
    split_is_seen = Plan.from_mapping(run.plan).split_samples > 0
    if run.ingress:
        _resolve(run.ingress, "ingress", INGRESSES)
    elif mode_name(service) == "Knative" or split_is_seen:
        _resolve(main_url(service, direct=False), "ingress", INGRESSES)


def check_writable(accepted_report: str) -> None:
    """OptionError when the accepted report could not be kept: before anything is changed."""
    if not accepted_report:
        return
    folder = Path(accepted_report).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(
            f"accepted_report: {folder} cannot be written by uid {os.getuid()}: {error.strerror}. "
            "Pods of a run have no fsGroup: give the volume's folder to that uid once, such as by "
            "`chown` in a pod of root's"
        ) from error


def _resolve(url: str, option: str, examples: str) -> None:
    host = urlsplit(url).hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError as error:
        raise OptionError(
            f"{option}: {host} does not resolve from here ({error}); set {option}= to {examples}"
        ) from error


def _reasons(decision_path: str) -> list[str]:
    reasons: list[str] = json.loads(Path(decision_path).read_text(encoding="utf-8"))["reasons"]
    return reasons


def _log(message: str) -> None:
    logging.getLogger("pipelines.rollout").warning("%s", message)
