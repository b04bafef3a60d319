"""Pipelines to IR YAML, to a Kubeflow Pipelines server, and to KFP's local runner."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.cron import Schedule, next_times, read_cron
from pipelines.lib.errors import OptionError, PipelineError


def compile_all(out: Path, *, image: str | None = None) -> list[Path]:
    """Write every pipeline as <name>.yaml; equal sources give equal bytes."""
    from pipelines.definitions import PIPELINES

    out.mkdir(parents=True, exist_ok=True)
    return [compile_one(name, out / f"{name}.yaml", image=image) for name in PIPELINES]


def compile_one(name: str, path: Path, *, image: str | None = None) -> Path:
    """Write one pipeline; `image` replaces the steps' image, and `image`-gpu the GPU step's."""
    from kfp import compiler

    from pipelines.components import GPU_SUFFIX, IMAGE
    from pipelines.definitions import PIPELINES

    if name not in PIPELINES:
        raise OptionError(f"pipeline: {name!r} is not one of {', '.join(PIPELINES)}")
    compiler.Compiler().compile(PIPELINES[name], str(path))
    if image is not None:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        images = {IMAGE: image, IMAGE + GPU_SUFFIX: image + GPU_SUFFIX}
        for executor in documents[0]["deploymentSpec"]["executors"].values():
            used = executor["container"]["image"]
            executor["container"]["image"] = images.get(used, used)
        path.write_text(yaml.safe_dump_all(documents, sort_keys=True), encoding="utf-8")
    return path


def submit(
    name: str,
    parameters: Mapping[str, str],
    *,
    host: str,
    namespace: str | None = None,
    experiment: str,
    image: str | None = None,
    cron: str | None = None,
    run_name: str | None = None,
) -> dict[str, str]:
    """Run a pipeline on the server at `host`, once or by `cron`; the ids it was given.

    Raises OptionError for a parameter that the pipeline does not have or of the wrong type, and
    for a `cron` that Kubeflow would read as something else.
    """
    schedule = read_cron(cron) if cron is not None else None
    times = next_times(schedule) if schedule is not None else []
    named = run_name or default_run_name(name, parameters)
    with tempfile.TemporaryDirectory() as folder:
        path = compile_one(name, Path(folder) / f"{name}.yaml", image=image)
        spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        arguments = typed_arguments(spec, parameters)
        with contextlib.redirect_stdout(sys.stderr):  # the client prints links
            sent = _send(named, path, arguments, host, namespace, experiment, schedule)
    return {**sent, **({"next": ", ".join(times)} if times else {})}


def run_locally(name: str, parameters: Mapping[str, str], out: Path) -> dict[str, str]:
    """Run a pipeline here by KFP's local runner: every step a process, no cluster, no image.

    Artifacts go below `out`; volumes are ignored, so paths are this machine's. Raises OptionError
    as `submit` does, PipelineError when a step failed (its log says why).
    """
    from kfp import local

    from pipelines.definitions import PIPELINES

    with tempfile.TemporaryDirectory() as folder:
        path = compile_one(name, Path(folder) / f"{name}.yaml")
        spec = next(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    arguments = typed_arguments(spec, parameters)
    root = out.resolve()
    # The steps are started as `python3`, which must be this one, with this package.
    paths = {
        "PATH": str(Path(sys.executable).parent),
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    before = {key: os.environ.get(key) for key in paths}
    os.environ.update(
        {key: os.pathsep.join(filter(None, (path, before[key]))) for key, path in paths.items()}
    )
    try:
        # The steps' logs, and no warnings of KFP's that volumes and resources mean nothing here.
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            local.init(local.SubprocessRunner(use_venv=False), str(root), raise_on_error=True)
            PIPELINES[name](**arguments)
    except RuntimeError as error:
        raise PipelineError(f"{name}: {error}; artifacts: {root}") from error
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key)
            else:
                os.environ[key] = value
    return {"pipeline": name, "artifacts": str(root)}


def default_run_name(name: str, parameters: Mapping[str, str]) -> str:
    """What is done, with which service and which weights or recordings."""
    what = [
        parameters.get(key, "") for key in ("name", "storage_uri", "url", "checkpoint", "title")
    ]
    return " ".join([name, *(each for each in what if each)])


def _send(
    name: str,
    path: Path,
    arguments: dict[str, Any],
    host: str,
    namespace: str | None,
    experiment: str,
    schedule: Schedule | None,
) -> dict[str, str]:
    from kfp import Client
    from kfp_server_api import ApiException  # type: ignore[import-untyped]
    from urllib3.exceptions import HTTPError

    try:
        client = Client(host=host, namespace=namespace or "kubeflow")
        if schedule is None:
            run = client.create_run_from_pipeline_package(
                str(path),
                arguments=arguments,
                run_name=name,
                experiment_name=experiment,
                namespace=namespace,
            )
            return {"run_id": run.run_id, "run_name": name}
        found = client.create_experiment(experiment, namespace=namespace)
        recurring = client.create_recurring_run(
            found.experiment_id,
            f"{name} {schedule.text}",
            cron_expression=schedule.text,
            pipeline_package_path=str(path),
            params=arguments,
            max_concurrency=1,
            no_catchup=True,
        )
        return {"recurring_run_id": recurring.recurring_run_id}
    except (ApiException, HTTPError, TimeoutError) as error:
        raise PipelineError(f"Kubeflow Pipelines at {host}: {error}") from error


def typed_arguments(spec: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """Parameters from the command line in the types that the pipeline declares."""
    declared = spec["root"]["inputDefinitions"]["parameters"]
    arguments: dict[str, Any] = {}
    for name, text in given.items():
        if name not in declared:
            raise OptionError(f"set: {name!r} is not one of {', '.join(sorted(declared))}")
        kind = declared[name]["parameterType"]
        try:
            arguments[name] = text if kind == "STRING" else yaml.safe_load(text)
            if kind == "NUMBER_DOUBLE":
                arguments[name] = float(arguments[name])
            if kind == "NUMBER_INTEGER":
                arguments[name] = int(arguments[name])
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise OptionError(f"set: {name}={text!r} is no {kind.lower()}") from error
        if kind == "STRUCT" and not isinstance(arguments[name], dict):
            raise OptionError(f"set: {name}={text!r} is no mapping")
    missing = [
        name
        for name, value in declared.items()
        if name not in given and "defaultValue" not in value and not value.get("isOptional")
    ]
    if missing:
        raise OptionError(f"set: {', '.join(sorted(missing))} must be given")
    return arguments
