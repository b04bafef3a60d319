"""Each alert that a CPU can bring about, brought about: a real server, Prometheus, and a fault.

    python -m tests.manifests.faults    # minutes; writes faults.json and the runbook's table

The rules are the component's with all times divided by 60, so that ten minutes pass in ten seconds;
thresholds stay. Needs Debian's `prometheus`.
"""

from __future__ import annotations

import argparse
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
from tests.manifests.injected import Fault, Threads, faults
from tests.manifests.objects import Object, combine, of_kind
from tests.manifests.prometheus import REVISION, Prometheus
from tests.manifests.stoppable import Server

RESULTS = Path(__file__).with_suffix(".json")
RUNBOOK = MANIFESTS / "RUNBOOK.md"
BEGIN, END = "<!-- tried:begin -->\n", "<!-- tried:end -->"
FACTOR = 60
UNIT_S = {"s": 1, "m": 60, "h": 3600}
PATIENCE_S = 150.0
CANDIDATE = "qwen3-asr-predictor-00002"


def faster(text: str) -> str:
    """Durations such as 10m or [10m] in a sixtieth of the time."""

    def shorter(found: re.Match[str]) -> str:
        return f"{max(2, int(found[1]) * UNIT_S[found[2]] // FACTOR)}s"

    return re.sub(r"\b(\d+)([smh])\b", shorter, text)


def hurried(objects: Sequence[Object]) -> list[Object]:
    """The objects with the rules' times divided."""
    for each in of_kind(objects, "PrometheusRule"):
        for group in each["spec"]["groups"]:
            for rule in group["rules"]:
                rule["expr"] = re.sub(r"\[\d+[smh]\]", lambda m: faster(m[0]), rule["expr"])
                rule["expr"] = rule["expr"].replace(", 900)", f", {900 // FACTOR})")
                if rule.get("alert") == "Qwen3AsrColdStartSlow":
                    rule["expr"] = rule["expr"].replace("> 180", f"> {180 // FACTOR}")
                if "for" in rule:
                    rule["for"] = faster(rule["for"])
    return list(objects)


def firing(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}


def bring_about(fault: Fault, objects: Sequence[Object]) -> dict[str, float]:
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
                while set(seconds) < set(fault.alerts) and time.monotonic() < begun + PATIENCE_S:
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
    rows = ["| fault | fired after, at a sixtieth of the rules' times |", "| --- | --- |"]
    for each in results["faults"]:
        fired = ", ".join(f"{name} {at:g} s" for name, at in sorted(each["fired"].items()))
        rows.append(f"| {each['fault']} | {fired or 'nothing'} |")
    rest = ", ".join(results["not_fired"])
    return "\n".join(rows) + f"\n\nNot fired by a fault, by `promtool` only: {rest}.\n"


def not_fired(objects: Sequence[Object], found: list[Object]) -> list[str]:
    """Alerts that no fault has fired."""
    [rules] = of_kind(objects, "PrometheusRule")
    listed = [rule.get("alert") for group in rules["spec"]["groups"] for rule in group["rules"]]
    fired = {name for each in found for name in each["fired"]}
    return sorted(name for name in listed if name and name not in fired)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="an alert: try its fault, and write nothing")
    only = parser.parse_args().only
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers end with it
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "overlay").mkdir()
        objects = hurried(combine(folder / "overlay", ("standard-mode", "monitoring", "keda")))
        found = []
        for fault in faults():
            if only and only not in fault.alerts:
                continue
            fired = bring_about(fault, objects)
            found.append({"fault": fault.what, "wanted": list(fault.alerts), "fired": fired})
            print(json.dumps(found[-1]), flush=True)
    if only:
        return
    rest = not_fired(objects, found)
    results = {"factor": FACTOR, "on": describe(), "faults": found, "not_fired": rest}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RUNBOOK.write_text(replaced(RUNBOOK.read_text(), table(results), BEGIN, END))


if __name__ == "__main__":
    main()
