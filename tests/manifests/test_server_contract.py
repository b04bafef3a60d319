"""Manifests and server agree: flags, environment, configuration, routes, log lines."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from datetime import datetime
from typing import Any

import pytest
import yaml

from predictor.logs import JsonFormatter
from tests.manifests import pod_rules
from tests.manifests.conftest import complaint, needs_kustomize
from tests.manifests.objects import MANIFESTS, Object


@pytest.fixture(scope="module")
def fluent_bit() -> Any:
    return yaml.safe_load((MANIFESTS / "cluster/logging/fluent-bit.yaml").read_text())


def parser(fluent_bit: Any, name: str) -> Any:
    [found] = [each for each in fluent_bit["parsers"] if each["name"] == name]
    return found


def test_pod_and_namespace_are_read_from_the_files_name(fluent_bit: Any) -> None:
    pattern = parser(fluent_bit, "container-file")["regex"].replace("(?<", "(?P<")
    name = (
        "/var/log/containers/qwen3-asr-predictor-00001-deployment-5b7-x2x_qwen3-asr_"
        f"kserve-container-{'0123456789abcdef' * 4}.log"
    )
    match = re.fullmatch(pattern, name)
    assert match is not None
    assert match["pod"] == "qwen3-asr-predictor-00001-deployment-5b7-x2x"
    assert (match["namespace"], match["container"]) == ("qwen3-asr", "kserve-container")


def test_the_collected_files_are_the_predictors_in_any_namespace(fluent_bit: Any) -> None:
    path = fluent_bit["pipeline"]["inputs"][0]["path"]
    pod = "/var/log/containers/qwen3-asr-predictor-00001-deployment-5b7-x2x"
    assert fnmatch.fnmatchcase(f"{pod}_speech_kserve-container-12.log", path)
    assert fnmatch.fnmatchcase(f"{pod}_qwen3-asr_kserve-container-12.log", path)
    assert not fnmatch.fnmatchcase(f"{pod}_speech_queue-proxy-12.log", path)


def test_a_log_line_has_the_time_where_and_as_the_collector_reads_it(fluent_bit: Any) -> None:
    record = logging.LogRecord("predictor", logging.INFO, "f.py", 1, "ready", None, None)
    line = json.loads(JsonFormatter().format(record))
    reads = parser(fluent_bit, "predictor-line")
    # %L is Fluent Bit's fraction of a second without the dot's digits fixed; Python calls it %f.
    read = datetime.strptime(line[reads["time_key"]], reads["time_format"].replace("%L", "%f"))
    assert abs(read.timestamp() - record.created) < 0.001


def test_labels_of_the_log_stream_exist_and_are_few(fluent_bit: Any) -> None:
    labels = fluent_bit["pipeline"]["outputs"][0]["labels"]
    taken = set(re.findall(r"\$(\w+)", labels))
    record = logging.LogRecord("predictor", logging.INFO, "f.py", 1, "ready", None, None)
    line = json.loads(JsonFormatter().format(record))
    assert taken <= set(line) | {"pod", "namespace"}
    assert "request_id" not in taken


def test_a_stack_trace_is_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        trouble = (type(error), error, error.__traceback__)
    record = logging.LogRecord("predictor", logging.ERROR, "f.py", 1, "failed", None, trouble)
    assert "\n" not in JsonFormatter().format(record)


@needs_kustomize
def test_flags_environment_and_configuration_are_the_servers(
    objects: list[Object],
    known_flags: frozenset[str],
    known_env: frozenset[str],
) -> None:
    found = [
        *pod_rules.flags_known(objects, known_flags),
        *pod_rules.env_known(objects, known_env),
        *pod_rules.server_settings(objects, complaint),
    ]
    assert found == []


@needs_kustomize
def test_probes_ask_routes_of_the_app(objects: list[Object], has_route: Any) -> None:
    assert list(pod_rules.probes(objects, has_route)) == []


def test_a_path_without_a_handler_is_no_route(has_route: Any) -> None:
    assert has_route("/v2/health/live")
    assert not has_route("/v2/health/alive")
    assert not has_route("/v2/models/qwen3-asr/infer")  # POST only
