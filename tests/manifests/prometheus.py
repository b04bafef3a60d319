"""A real Prometheus for the length of a `with` block, set up as the manifests set up the cluster's.

Targets get the labels that the operator would give a pod, and go through the PodMonitor's
relabelings; the rules are those of the PrometheusRule.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import yaml

from tests.manifests.objects import Object, of_kind

POD = "-deployment-x2x4z"
REVISION = "qwen3-asr-predictor-00001"
_LISTENING = re.compile(r'msg="Listening on".*? address=(\S+)')
_START_TIMEOUT_S = 60.0


def configuration(
    objects: Sequence[Object], pods: Mapping[str, str], interval_s: int
) -> dict[str, Any]:
    """prometheus.yml for one pod of each revision, as the operator makes it of the PodMonitor."""
    [monitor] = of_kind(objects, "PodMonitor")
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    namespace = monitor["metadata"]["namespace"]

    def labels(revision: str) -> dict[str, str]:
        return {
            "namespace": namespace,
            "pod": revision + POD,
            "container": "kserve-container",
            "__meta_kubernetes_pod_label_app": revision,
            "__meta_kubernetes_pod_label_serving_knative_dev_revision": revision,
        }

    return {
        "global": {"scrape_interval": f"{interval_s}s", "evaluation_interval": f"{interval_s}s"},
        "rule_files": ["rules.yaml"],
        "scrape_configs": [
            {
                "job_name": f"{namespace}/{monitor['metadata']['name']}",
                "metrics_path": endpoint["path"],
                "static_configs": [
                    {"targets": [urlsplit(url).netloc], "labels": labels(revision)}
                    for revision, url in pods.items()
                ],
                "relabel_configs": [_snake(each) for each in endpoint["relabelings"]],
            }
        ],
    }


def _snake(relabeling: Object) -> Object:
    """A relabeling in Prometheus' own spelling: sourceLabels is source_labels there."""
    return {re.sub("[A-Z]", lambda m: "_" + m[0].lower(), k): v for k, v in relabeling.items()}


def rules(objects: Sequence[Object], interval_s: int) -> dict[str, Any]:
    """The rule file, evaluated at the test's pace."""
    [rule] = of_kind(objects, "PrometheusRule")
    return {"groups": [{**each, "interval": f"{interval_s}s"} for each in rule["spec"]["groups"]]}


class Prometheus:
    """Scrapes predictors and evaluates the rules of `objects`."""

    def __init__(
        self,
        objects: Sequence[Object],
        pods: Mapping[str, str],  # revision -> its predictor's address
        folder: Path,
        interval_s: int = 1,
        features: str = "",  # of --enable-feature
    ) -> None:
        self.address = ""
        self._features = [f"--enable-feature={features}"] if features else []
        self._folder = folder
        config = configuration(objects, pods, interval_s)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules(objects, interval_s)))
        self._told = threading.Event()  # where it listens, or that it ended
        self._log: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={self._folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                "--web.listen-address=127.0.0.1:0",
                *self._features,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._told.wait(_START_TIMEOUT_S) or not self.address:
            self.__exit__()
            raise RuntimeError("Prometheus did not start:\n" + "".join(self._log))
        self._http = httpx.Client(base_url=f"http://{self.address}", timeout=30)
        # It listens before it answers queries: 503 until its storage is open.
        self.wait("Prometheus is ready", lambda: self._http.get("/-/ready").is_success)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._reader.join(timeout=30)
        if self._process.stderr is not None:
            self._process.stderr.close()
        if self.address:
            self._http.close()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._log.append(line)
            if match := _LISTENING.search(line):
                self.address = match[1]
                self._told.set()
        self._told.set()

    def _get(self, path: str, **parameters: str) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """(labels, value) of each series now. ValueError for what Prometheus refuses."""
        found = self._get("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]

    def exemplars(self, expression: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of the series that the expression is made of, each with their labels."""
        found = self._get("query_exemplars", query=expression, start=f"{start}", end=f"{end}")
        return [{**e, "series": each["seriesLabels"]} for each in found for e in each["exemplars"]]

    def query_range(
        self, expression: str, start: float, end: float, step_s: int = 1
    ) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
        """(labels, [(time, value)]) of each series between two times of the clock."""
        given = {"start": f"{start}", "end": f"{end}", "step": f"{step_s}"}
        found = self._get("query_range", query=expression, **given)["result"]
        return [(e["metric"], [(float(t), float(v)) for t, v in e["values"]]) for e in found]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, as Prometheus sees it."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def wait(self, what: str, holds: Callable[[], bool], timeout_s: float = 120.0) -> None:
        """Until a later scrape makes `holds` true. Raises TimeoutError naming `what`."""
        pause = threading.Event()
        for _ in range(round(timeout_s / 0.25)):
            if holds():
                return
            pause.wait(0.25)
        raise TimeoutError(f"not within {timeout_s:g} s: {what}")
