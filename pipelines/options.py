"""The command line's options, in groups, and what they become."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pipelines.evaluate import EvaluateOptions
from pipelines.lib.bootstrap import NUM_RESAMPLES
from pipelines.lib.client import API_KEY_ENV, PROTOCOLS, ServiceOptions
from pipelines.lib.errors import OptionError
from pipelines.lib.evaluation import ScoringOptions
from pipelines.lib.gate import GateLimits
from pipelines.lib.manifest import Clip
from pipelines.lib.readers import LAYOUTS, read_dataset
from pipelines.lib.render import AUDIO_BUDGET_BYTES
from pipelines.rollout.kube import Patience
from pipelines.rollout.plan import Plan
from pipelines.rollout.watch import WatchLimits


def add_service(
    parser: argparse.ArgumentParser, *, checkpoint: bool = False, ingress: bool = False
) -> None:
    """Where the service is and how it is asked."""
    group = parser.add_argument_group("service")
    if ingress:
        group.add_argument("--ingress", help="URL of the gateway in front of the InferenceService")
    else:
        where = group.add_mutually_exclusive_group(required=True) if checkpoint else group
        where.add_argument("--url", help="the service, such as http://localhost:8080")
        if checkpoint:
            where.add_argument(
                "--checkpoint", type=Path, help="start a service here on this folder"
            )
        group.add_argument("--host-header", help="Host to send when --url is a shared ingress")
    group.add_argument("--model", default="qwen3-asr", help="served name (default %(default)s)")
    group.add_argument("--protocol", choices=PROTOCOLS, default="v2", help="default %(default)s")
    group.add_argument(
        "--api-key-env",
        default=API_KEY_ENV,
        metavar="NAME",
        help="environment variable with the API key, if any (default %(default)s)",
    )
    group.add_argument("--send-language", action="store_true", help="force the manifest's language")
    group.add_argument("--timeout", type=float, default=120, help="seconds an attempt may take")
    group.add_argument("--attempts", type=int, default=6, help="attempts for each recording")
    group.add_argument("--concurrency", type=int, default=8, help="requests at once")


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Which recordings."""
    group = parser.add_argument_group("recordings")
    group.add_argument("--data", required=required, type=Path, help="manifest or data set folder")
    group.add_argument("--layout", choices=sorted(LAYOUTS), help="default: recognised")
    group.add_argument("--split", help="such as test, where the layout has splits")
    group.add_argument("--language", help="of a data set that does not say its own")
    group.add_argument("--limit", type=int, help="only the first so many recordings")
    group.add_argument(
        "--allow-remote",
        action="store_true",
        help="fetch recordings named by http(s), s3 or gs URL",
    )


def add_scoring(parser: argparse.ArgumentParser) -> None:
    """How answers become numbers."""
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--cluster-by",
        default="clip",
        help='unit of resampling: "clip", "speaker" or a tag (default %(default)s)',
    )
    group.add_argument("--resamples", type=int, default=NUM_RESAMPLES, help="default %(default)s")
    group.add_argument("--seed", type=int, default=0, help="of the bootstrap (default %(default)s)")
    group.add_argument("--price", type=float, help="of the service for an hour, any currency")
    group.add_argument(
        "--audio-budget",
        type=int,
        default=AUDIO_BUDGET_BYTES,
        metavar="BYTES",
        help="for the recordings inside the HTML report (default %(default)s)",
    )


def add_gate(parser: argparse.ArgumentParser) -> None:
    """The gate's limits, one option each."""
    group = parser.add_argument_group("gate (rates are shares: 0.01 is 1 %)")
    _add_fields(group, GateLimits)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """How traffic moves and what is watched meanwhile."""
    group = parser.add_argument_group("rollout (times in seconds)")
    group.add_argument(
        "--steps",
        type=lambda text: tuple(int(part) for part in text.split(",")),
        default=Plan().steps,
        help="percent for the candidate, rising to 100 (default 5,25,50,100)",
    )
    _add_fields(group, Plan, leave_out=("steps",))
    group.add_argument("--run-id", help="name of this run; the same name takes its own lease up")
    group = parser.add_argument_group("watch during the soak")
    group.add_argument("--prometheus", help="URL of Prometheus; without it only readiness is seen")
    _add_fields(group, WatchLimits, prefix="watch-")
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
        default=Patience().attempts,
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


def add_out(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Where results go."""
    parser.add_argument("--out", type=Path, required=required, help="folder for the results")
    parser.add_argument("--title", default="evaluation", help="of the report")
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")


def add_compile(parser: argparse.ArgumentParser) -> None:
    """What compiling needs."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the YAML files")
    parser.add_argument("--image", help="of the steps; default: the one the manifests use")


def add_submit(parser: argparse.ArgumentParser) -> None:
    """What submitting needs."""
    names = ("evaluate", "evaluate-in-process", "promote", "scheduled")
    parser.add_argument("pipeline", choices=names)
    parser.add_argument("--kfp", required=True, help="URL of the Kubeflow Pipelines API")
    parser.add_argument("--kfp-namespace", help="of the user, in multi-user installations")
    parser.add_argument("--experiment", default="qwen3-asr", help="default %(default)s")
    parser.add_argument("--image", help="of the steps")
    parser.add_argument(
        "--cron",
        help="run it on this schedule, in UTC: minute, hour, day, month, weekday, and before them "
        "the second if it is not 0",
    )
    parser.add_argument("--run-name", help="default: the pipeline and what it is about")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a pipeline parameter"
    )


def service_options(parsed: argparse.Namespace, url: str) -> ServiceOptions:
    """The service at `url`, asked as the options say."""
    return ServiceOptions(
        url=url,
        model=parsed.model,
        protocol=parsed.protocol,
        host_header=getattr(parsed, "host_header", None),
        api_key=os.environ.get(parsed.api_key_env),
        send_language=parsed.send_language,
        timeout_s=parsed.timeout,
        max_attempts=parsed.attempts,
    )


def evaluate_options(parsed: argparse.Namespace) -> EvaluateOptions:
    """How the evaluation runs."""
    return EvaluateOptions(
        concurrency=parsed.concurrency,
        allow_remote=parsed.allow_remote,
        show_progress=not parsed.quiet,
        audio_budget_bytes=parsed.audio_budget,
        scoring=ScoringOptions(
            cluster_by=parsed.cluster_by,
            num_resamples=parsed.resamples,
            seed=parsed.seed,
            price_per_hour=parsed.price,
        ),
    )


def read_clips(parsed: argparse.Namespace) -> list[Clip]:
    """The recordings."""
    clips = read_dataset(
        parsed.data, layout=parsed.layout, split=parsed.split, language=parsed.language
    )
    if parsed.limit is not None and parsed.limit < 1:
        raise OptionError(f"limit: {parsed.limit} is below 1")
    return clips[: parsed.limit]


def gate_limits(parsed: argparse.Namespace) -> GateLimits:
    """The gate's limits."""
    return GateLimits.from_mapping({f.name: getattr(parsed, f.name) for f in fields(GateLimits)})


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


def _add_fields(
    group: Any, options: type, *, prefix: str = "", leave_out: tuple[str, ...] = ()
) -> None:
    """An option for each number of a dataclass, with its default."""
    defaults = options()
    for each in fields(options):
        if each.name in leave_out:
            continue
        default = getattr(defaults, each.name)
        group.add_argument(
            f"--{prefix}{each.name.replace('_', '-')}",
            type=int if isinstance(default, int) else float,
            default=default,
            help="default: not judged" if default is None else "default %(default)s",
        )
