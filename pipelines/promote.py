"""Promote a candidate by evaluation: dark, both versions on the same recordings, gate, traffic.

Started again after a crash it continues the rollout and the evaluation where they were. A run that
fails rolls back; a run that is killed leaves a state that the next run, or a rollback, picks up.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from pipelines.evaluate import REPORT_JSON, EvaluateOptions, evaluate_together
from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import OptionError, PipelineError
from pipelines.lib.evaluation import Report, read_report
from pipelines.lib.gate import Decision, GateLimits, judge_reports
from pipelines.lib.manifest import Clip
from pipelines.lib.render import COMPARISON, write_comparison
from pipelines.lib.tracking import track_decision, track_report
from pipelines.rollout.driver import NotReachedError
from pipelines.rollout.machine import STOPS, Outcome, Rollout
from pipelines.rollout.modes import Endpoints
from pipelines.rollout.state import Predictor

STORAGE_ENV = "STORAGE_URI"
SIDES = ("stable", "candidate")


@dataclass(frozen=True, slots=True)
class PromoteOptions:
    """How a candidate is judged."""

    service: ServiceOptions  # the url is the ingress, or ignored when `direct`
    direct: bool = True  # call the versions' own addresses; False = the ingress, with their Host
    limits: GateLimits = field(default_factory=GateLimits)
    evaluation: EvaluateOptions = field(default_factory=EvaluateOptions)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of it."""

    outcome: Outcome
    decision: Decision | None  # None when an earlier run had decided
    folder: Path | None = None  # where reports and comparison are

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self.outcome),
            "decision": self.decision.as_json() if self.decision else None,
        }


def promote(
    rollout: Rollout,
    candidate: Predictor,
    clips: Sequence[Clip],
    options: PromoteOptions,
    out: Path,
) -> Result:
    """Deploy, judge, step and promote, or roll back and say why.

    Reports go to `out`/<rollout id>. Raises RolloutError when the rollout could not be started
    (nothing was changed) or the cluster went out of reach (its state says where it stands),
    TakenOverError when a rollback has taken it over.
    """
    with rollout.held():
        try:
            endpoints = rollout.deploy(candidate)
        except NotReachedError:
            return Result(rollout.outcome(), None)
        status = rollout.status()
        if endpoints is None:
            return Result(rollout.shift(status["reasons"]), None)
        folder = out / str(status["id"])
        try:
            rollout.identify()
            decision = judge(endpoints, clips, options, folder)
            rollout.identify()  # what was judged is still what answers there
        except STOPS:
            raise
        except PipelineError as error:
            return Result(rollout.undo([f"it could not be evaluated: {error}"]), None)
        if decision.accepted:
            return Result(rollout.shift(decision.reasons), decision, folder)
        return Result(rollout.undo(decision.reasons), decision, folder)


def judge(
    endpoints: Endpoints, clips: Sequence[Clip], options: PromoteOptions, folder: Path
) -> Decision:
    """Evaluate both versions under the same load, recording by recording, and decide."""
    versions = {
        name: (version_options(url, options), folder / name)
        for name, url in zip(SIDES, (endpoints.stable, endpoints.candidate), strict=True)
    }
    reports = evaluate_together(clips, versions, options.evaluation)
    return decide_and_write(reports["stable"], reports["candidate"], options.limits, folder)


def decide_and_write(
    stable: Report, candidate: Report, limits: GateLimits, folder: Path
) -> Decision:
    """Compare, decide, and write comparison.json, .md and .html."""
    comparison, decision = judge_reports(stable, candidate, limits)
    write_comparison(comparison, decision, folder)
    return decision


def track_promotion(folder: Path) -> list[str]:
    """Both reports and the decision as MLflow runs; sentences to show, none when not asked for."""
    told = [track_report(read_report(folder / name / REPORT_JSON), folder / name) for name in SIDES]
    comparison = json.loads((folder / f"{COMPARISON}.json").read_text(encoding="utf-8"))
    told.append(
        track_decision(f"promote {folder.name}", comparison["decision"], comparison, folder)
    )
    return [said for said in told if said is not None]


def version_options(url: str, options: PromoteOptions) -> ServiceOptions:
    """How one version is called: at its own address, or through the ingress with its Host."""
    if options.direct:
        return replace(options.service, url=url, host_header=None)
    return replace(options.service, host_header=urlsplit(url).netloc)


def read_candidate(path: Path) -> Predictor:
    """The predictor of a candidate from a YAML or JSON file: an InferenceService, or bare."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise OptionError(f"candidate {path}: cannot be read: {error}") from error
    predictor = document
    if isinstance(document, dict) and document.get("kind") == "InferenceService":
        predictor = document.get("spec", {}).get("predictor")
    if not isinstance(predictor, dict) or not {"model", "containers"} & predictor.keys():
        raise OptionError(
            f"candidate {path}: is neither an InferenceService nor a predictor with model or "
            "containers"
        )
    return predictor


def with_storage_uri(predictor: Predictor, uri: str) -> Predictor:
    """The predictor with other weights. OptionError when it does not say where its are."""
    if "model" in predictor:
        return {**predictor, "model": {**predictor["model"], "storageUri": uri}}
    containers = [dict(container) for container in predictor.get("containers", [])]
    for container in containers:
        env = container.get("env", [])
        if any(entry["name"] == STORAGE_ENV for entry in env):
            container["env"] = [
                {"name": STORAGE_ENV, "value": uri} if entry["name"] == STORAGE_ENV else entry
                for entry in env
            ]
            return {**predictor, "containers": containers}
    raise OptionError(f"storage-uri: the predictor has neither a model nor {STORAGE_ENV}")
