"""The command line's options of a rollout, and what they become."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

from pipelines.lib.defaults import API_ATTEMPTS
from pipelines.options import add_fields
from pipelines.rollout.limits import WatchLimits
from pipelines.rollout.plan import Plan


def add_plan(parser: argparse.ArgumentParser) -> None:
    """How traffic moves and what is watched meanwhile."""
    group = parser.add_argument_group("rollout (times in seconds)")
    group.add_argument(
        "--steps",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=Plan().steps,
        help="percent for the candidate, rising to 100 (default 5,25,50,100)",
    )
    add_fields(group, Plan, leave_out=("steps",))
    group.add_argument("--run-id", help="name of this run; the same name takes its own lease up")
    group = parser.add_argument_group("watch during the soak")
    group.add_argument("--prometheus", help="URL of Prometheus; without it only readiness is seen")
    add_fields(group, WatchLimits, prefix="watch-")
    parser.add_argument("--webhook", help="URL that is told of each step, as JSON")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Which InferenceService."""
    parser.add_argument("name", help="of the InferenceService")
    group = parser.add_argument_group("cluster")
    group.add_argument("--namespace", default="default", help="default %(default)s")
    group.add_argument("--kubeconfig", type=Path, help="default: as kubectl, or the pod's own")
    group.add_argument("--context", help="of the kubeconfig")
    group.add_argument(
        "--api-attempts",
        type=int,
        default=API_ATTEMPTS,
        help="while the Kubernetes API is away (default %(default)s)",
    )


def add_candidate(parser: argparse.ArgumentParser) -> None:
    """What to roll out."""
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--storage-uri", help="the stable version with these weights")
    group.add_argument(
        "--candidate", type=Path, help="YAML file with an InferenceService or a predictor"
    )
    group.add_argument(
        "--full",
        action="store_true",
        help="promote the accepted candidate under way at once: no more steps, no soak",
    )


def plan(parsed: argparse.Namespace) -> Plan:
    """How traffic moves."""
    return Plan(**{f.name: getattr(parsed, f.name) for f in fields(Plan)})


def watch_limits(parsed: argparse.Namespace) -> WatchLimits:
    """What is watched; the gate's limit for latency is the watch's, unless it has its own."""
    limits = WatchLimits(
        **{f.name: getattr(parsed, f"watch_{f.name}") for f in fields(WatchLimits)}
    )
    gate = getattr(parsed, "p95_latency_ratio", None)
    if gate is None or limits.p95_latency_ratio != WatchLimits().p95_latency_ratio:
        return limits
    return replace(limits, p95_latency_ratio=gate)
