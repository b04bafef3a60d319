"""Evaluations as MLflow runs, where MLFLOW_TRACKING_URI says so: one run a report or comparison.

The package is an extra (`tracking`); a tracking server that cannot be reached must not lose an
evaluation, so it is a line of news and no failure.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pipelines.lib.evaluation import Report

URI_ENV, EXPERIMENT_ENV = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
EXPERIMENT = "qwen3-asr"
MAX_VALUE_CHARS = 250  # of a parameter


def track_report(report: Report, folder: Path) -> str | None:
    """Write a run with the report's numbers and files; a sentence to show, None = not asked."""
    return _track(report["title"], report_parameters(report), report_metrics(report), folder)


def track_decision(
    title: str, decision: Mapping[str, Any], comparison: Mapping[str, Any], folder: Path
) -> str | None:
    """Write a run with a comparison's differences and verdict."""
    metrics = {
        _name(f"difference {language}"): found["difference"]
        for language, found in comparison["by_language"].items()
    }
    metrics["accepted"] = float(decision["accepted"])
    return _track(title, {"verdict": str(decision["verdict"])}, metrics, folder)


def report_metrics(report: Report) -> dict[str, float]:
    """The main numbers by name; what is not known is left out."""
    summary = report["summary"]
    found: dict[str, Any] = {
        "recordings": summary["num_clips"],
        "hallucination_rate": summary["hallucination"]["rate"],
        "repetition_rate": summary["repetition"]["rate"],
        "failure_rate": summary["failures"]["rate"],
        "language_accuracy": summary["language_accuracy"],
        "rtfx": summary["speed"]["rtfx"],
        "p95_latency_s": (summary["speed"]["latency_s"] or {}).get("p95"),
        "ece": (summary["calibration"] or {}).get("ece"),
        "keyword_error_rate": (summary["keywords"] or {}).get("rate"),
    }
    for metric, errors in summary["by_metric"].items():
        found[metric] = errors["rate"]
    for language, group in report["slices"].get("language", {}).items():
        for metric, errors in group["by_metric"].items():
            found[f"{metric} {language}"] = errors["rate"]
    return {_name(k): float(v) for k, v in found.items() if v is not None and math.isfinite(v)}


def report_parameters(report: Report) -> dict[str, str]:
    """What was asked and how it was scored."""
    flat: dict[str, Any] = {"manifest_sha256": report["manifest_sha256"]}
    for prefix in ("service", "scoring", "clustering"):
        for key, value in report[prefix].items():
            nested = value.items() if isinstance(value, Mapping) else [(None, value)]
            for inner, each in nested:
                flat[".".join(filter(None, (prefix, key, inner)))] = each
    return {k: str(v)[:MAX_VALUE_CHARS] for k, v in flat.items() if v not in (None, "", [], ())}


def _track(
    title: str, parameters: Mapping[str, str], metrics: Mapping[str, float], folder: Path
) -> str | None:
    if not os.environ.get(URI_ENV):
        return None
    try:
        mlflow = import_module("mlflow")
    except ImportError:
        return f"{URI_ENV} is set, but mlflow is not installed (extra: tracking)"
    try:
        if not os.environ.get(EXPERIMENT_ENV):
            mlflow.set_experiment(EXPERIMENT)
        with mlflow.start_run(run_name=title) as run:
            mlflow.log_params(dict(parameters))
            mlflow.log_metrics(dict(metrics))
            for path in sorted(folder.glob("*.*")):
                if path.suffix in (".json", ".md", ".html"):
                    mlflow.log_artifact(str(path))
            return f"MLflow run {run.info.run_id}"
    except Exception as error:  # noqa: BLE001 - whatever it is, the evaluation is not lost by it
        return f"MLflow at {os.environ[URI_ENV]} did not take the run: {error}"


def _name(text: str) -> str:
    """Only what MLflow allows in a metric's name."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in text).replace(" ", "_")
