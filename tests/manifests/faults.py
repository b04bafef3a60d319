"""Each alert, brought about: a real server, Prometheus, and a fault.

    python -m tests.manifests.faults                   # minutes; all that this machine can do
    python -m tests.manifests.faults --only ALERT...   # those of these alerts; the others' stay
    python -m tests.manifests.faults --table           # the runbook's table of faults.json

The first two write faults.json and the runbook's table. The rules are the component's with all
times divided by 60, so that ten minutes pass in ten seconds (`--factor`: less on a busy machine);
thresholds stay. Needs Debian's `prometheus`, and kustomize or kubectl; what fills a GPU needs one.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.environment import describe
from tests.manifests.combinations import MANIFESTS, replaced
from tests.manifests.injected import FAULTS, Fault, Threads
from tests.manifests.objects import Object, combine, of_kind
from tests.manifests.prometheus import REVISION, Prometheus
from tests.manifests.stoppable import Server

RESULTS = Path(__file__).with_suffix(".json")
RUNBOOK = MANIFESTS / "RUNBOOK.md"
BEGIN, END = "<!-- tried:begin -->\n", "<!-- tried:end -->"
FACTOR = 60
UNIT_S = {"s": 1, "m": 60, "h": 3600}
PATIENCE_S = 150.0  # at FACTOR
CANDIDATE = "qwen3-asr-predictor-00002"


def faster(text: str, factor: int = FACTOR) -> str:
    """Durations such as 10m or [10m], divided."""

    def shorter(found: re.Match[str]) -> str:
        return f"{max(2, int(found[1]) * UNIT_S[found[2]] // factor)}s"

    return re.sub(r"\b(\d+)([smh])\b", shorter, text)


def hurried(objects: Sequence[Object], factor: int = FACTOR) -> list[Object]:
    """The objects with the rules' times divided."""
    for each in of_kind(objects, "PrometheusRule"):
        for group in each["spec"]["groups"]:
            for rule in group["rules"]:
                rule["expr"] = re.sub(r"\[\d+[smh]\]", lambda m: faster(m[0], factor), rule["expr"])
                rule["expr"] = rule["expr"].replace(", 900)", f", {900 // factor})")
                if rule.get("alert") == "Qwen3AsrColdStartSlow":
                    rule["expr"] = rule["expr"].replace("> 180", f"> {180 // factor}")
                if "for" in rule:
                    rule["for"] = faster(rule["for"], factor)
    return list(objects)


def firing(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}


def bring_about(
    fault: Fault, objects: Sequence[Object], patience_s: float = PATIENCE_S
) -> dict[str, float]:
    """Seconds from the fault until each of its alerts fired; those that did not are left out."""
    done, seconds = threading.Event(), dict[str, float]()
    threads: Threads = []
    servers: list[Server] = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = fault.checkpoint(Path(folder))
        try:
            servers += [make(checkpoint, flags=fault.flags) for make in fault.servers]
            for server in servers:
                server.__enter__()
            names = (REVISION, CANDIDATE)
            pods = {name: server.url for name, server in zip(names, servers, strict=False)}
            with Prometheus(objects, pods, Path(folder)) as prometheus:
                begun = time.monotonic()
                threads = fault.inject(servers, done)
                while set(seconds) < set(fault.alerts) and time.monotonic() < begun + patience_s:
                    for name in firing(prometheus) & set(fault.alerts) - set(seconds):
                        seconds[name] = round(time.monotonic() - begun, 1)
                    done.wait(0.5)
        finally:
            done.set()
            for server in servers:
                server.kill()  # its callers end with it
            for thread in threads:
                thread.join(timeout=30)
    return seconds


def table(results: Object) -> str:
    """What was tried, in the runbook."""
    rows = ["| fault | on | times divided by | fired after |", "| --- | --- | ---: | --- |"]
    for each in results["faults"]:
        fired = ", ".join(f"{name} {at:g} s" for name, at in sorted(each["fired"].items()))
        on = each["on"]["gpu"] or f"{each['on']['num_cpus']} CPUs"
        rows.append(f"| {each['fault']} | {on} | {each['factor']} | {fired or 'nothing'} |")
    if rest := ", ".join(results["not_fired"]):
        rows += ["", f"Not fired by a fault, by `promtool` only: {rest}."]
    return "\n".join(rows) + "\n"


def not_fired(objects: Sequence[Object], found: list[Object]) -> list[str]:
    """Alerts that no fault has fired."""
    [rules] = of_kind(objects, "PrometheusRule")
    listed = [rule.get("alert") for group in rules["spec"]["groups"] for rule in group["rules"]]
    fired = {name for each in found for name in each["fired"]}
    return sorted(name for name in listed if name and name not in fired)


def tried(
    chosen: Sequence[Fault], objects: Sequence[Object], factor: int, found: list[Object]
) -> list[Object]:
    """`found`, with what became of the chosen faults in place of what it says of them."""
    by_alerts = {tuple(each["wanted"]): each for each in found}
    for fault in chosen:
        fired = bring_about(
            fault, hurried(copy.deepcopy(objects), factor), PATIENCE_S * FACTOR / factor
        )
        entry = {"fault": fault.what, "factor": factor, "wanted": list(fault.alerts)}
        print(json.dumps({**entry, "fired": fired}), flush=True)
        by_alerts[fault.alerts] = {**entry, "fired": fired, "on": describe()}
    return [by_alerts[each.alerts] for each in FAULTS if each.alerts in by_alerts]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", default=[], metavar="ALERT", help="and no others")
    parser.add_argument("--factor", type=int, default=FACTOR, help="that times are divided by")
    parser.add_argument("--table", action="store_true", help="write the runbook's table only")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers end with it
    results = json.loads(RESULTS.read_text())
    if not given.table:
        chosen = [each for each in FAULTS if set(given.only) & set(each.alerts)]
        chosen = chosen if given.only else [each for each in FAULTS if each.on_gpu <= has_gpu()]
        with tempfile.TemporaryDirectory() as folder:
            objects = combine(Path(folder), ("standard-mode", "monitoring", "keda"))
            found = tried(chosen, objects, given.factor, results["faults"])
            results = {"faults": found, "not_fired": not_fired(objects, found)}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RUNBOOK.write_text(replaced(RUNBOOK.read_text(), table(results), BEGIN, END))


def has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    main()
