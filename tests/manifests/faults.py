"""Each alert that a CPU can bring about, brought about: a real server, Prometheus, and a fault.

    python -m tests.manifests.faults    # minutes; writes faults.json and the runbook's table

The rules are the component's with all times divided by 60, so that ten minutes pass in ten seconds;
thresholds stay. Needs Debian's `prometheus`.
"""

from __future__ import annotations

import io
import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import soundfile
from websockets.exceptions import WebSocketException

from pipelines.lib.manifest import read_manifest
from pipelines.local_service import LocalService
from tests.bench.environment import describe
from tests.manifests.callers import Callers
from tests.manifests.combinations import MANIFESTS, replaced
from tests.manifests.objects import ROOT, Object, combine, of_kind
from tests.manifests.prometheus import REVISION, Prometheus

RESULTS = Path(__file__).with_suffix(".json")
RUNBOOK = MANIFESTS / "RUNBOOK.md"
BEGIN, END = "<!-- tried:begin -->\n", "<!-- tried:end -->"
CHECKPOINTS = ROOT / "predictor" / "checkpoints"
EVALUATION = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
FACTOR = 60
UNIT_S = {"s": 1, "m": 60, "h": 3600}
PATIENCE_S = 120.0
CANDIDATE = "qwen3-asr-predictor-00002"
Threads = list[threading.Thread]


class Server(LocalService):
    """A predictor whose processes can be stopped where they are."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End it at once, whatever it does."""
        if self._process is not None:
            self._process.kill()
        self.close()

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def engine(self) -> int:
        """The engine's process."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        named = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
        [found] = [int(pid) for pid, command in named.items() if "engine" in command]
        return found


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
                if "for" in rule:
                    rule["for"] = faster(rule["for"])
    return list(objects)


@dataclass
class Fault:
    """What goes wrong, and which alerts it must fire."""

    what: str
    alerts: tuple[str, ...]
    flags: tuple[str, ...] = ()
    checkpoints: tuple[Path, ...] = (CHECKPOINTS / "tiny",)
    inject: Callable[[list[Server], threading.Event], Threads] = field(default=lambda *_: [])


def repeat(call: Callable[[], Any], done: threading.Event, number: int) -> Threads:
    """Call on so many threads until it is over."""

    def run() -> None:
        while not done.is_set():
            with suppress(httpx.HTTPError, OSError, WebSocketException):
                call()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def recordings() -> list[bytes]:
    return [Path(clip.audio).read_bytes() for clip in read_manifest(EVALUATION)]


def backwards() -> bytes:
    """A recording played backwards, as WAV."""
    samples, rate = soundfile.read(io.BytesIO(recordings()[0]), dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, samples[::-1], rate, format="WAV")
    return file.getvalue()


def too_little_time(servers: list[Server], done: threading.Event) -> Threads:
    audio, [server] = recordings()[0], servers
    http = httpx.Client(base_url=server.url, timeout=60)
    headers = {"x-request-timeout-s": "0.001"}

    def call() -> None:
        http.post("/v1/audio/transcriptions", data={"model": "qwen3-asr"},
                  files={"file": ("a.flac", audio)}, headers=headers)  # fmt: skip

    return repeat(call, done, 2)


def flood(servers: list[Server], done: threading.Event) -> Threads:
    longest, callers = max(recordings(), key=len), Callers(servers[0])
    threads = repeat(lambda: callers.protocols["openai"](longest), done, 40)
    return threads + repeat(lambda: callers.live(longest), done, 2)


def nobody_answers(servers: list[Server], done: threading.Event) -> Threads:
    return _stop(servers[0], servers[0].pid, done)


def hung_engine(servers: list[Server], done: threading.Event) -> Threads:
    callers = Callers(servers[0])
    longest = max(recordings(), key=len)
    threads = repeat(lambda: callers.protocols["openai"](longest), done, 4)
    done.wait(3)
    return threads + _stop(servers[0], servers[0].engine(), done)


def _stop(server: Server, pid: int, done: threading.Event) -> Threads:
    def hold() -> None:
        with server.stopped(pid):
            done.wait()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    return [thread]


def one_hears_it_backwards(servers: list[Server], done: threading.Event) -> Threads:
    clear, wrong = recordings()[0], backwards()
    threads: Threads = []
    for server, audio in zip(servers, (clear, wrong), strict=True):
        callers = Callers(server)
        send = callers.protocols["openai"]
        threads += repeat(lambda send=send, audio=audio: send(audio), done, 1)  # type: ignore[misc]
    return threads


def faults() -> list[Fault]:
    small = ("--device=cpu", "--max_held_audio_s=600")
    apart = ("--device=cpu", "--engine_process=true")
    tiny = CHECKPOINTS / "tiny"
    return [
        Fault(
            "every request has a millisecond (`x-request-timeout-s`) and is answered with 504",
            ("Qwen3AsrBudgetBurnsFast", "Qwen3AsrBudgetBurnsSlowly"),
            small,
            inject=too_little_time,
        ),
        Fault(
            "40 callers of the longest recording and two live sessions, more than two cores do",
            (
                *("Qwen3AsrQueueGrows", "Qwen3AsrLoadHigh", "Qwen3AsrRequestsRefused"),
                *("Qwen3AsrQueueSlow", "Qwen3AsrLiveLags"),
            ),
            small,
            inject=flood,
        ),
        Fault("SIGSTOP to the server", ("Qwen3AsrTargetDown",), small, inject=nobody_answers),
        Fault(
            "SIGSTOP to the engine's process, with requests in the batch",
            ("Qwen3AsrEngineStalled",),
            (*apart, "--stall_timeout_s=600"),
            inject=hung_engine,
        ),
        Fault(
            "the same, noticed after two seconds (`stall_timeout_s`)",
            ("Qwen3AsrEngineStopped",),
            (*apart, "--stall_timeout_s=2"),
            inject=hung_engine,
        ),
        Fault(
            "one of two revisions hears speech backwards",
            ("Qwen3AsrConfidenceDrift",),
            small,
            (tiny, tiny),
            one_hears_it_backwards,
        ),
    ]


def firing(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}


def bring_about(fault: Fault, objects: Sequence[Object]) -> dict[str, float]:
    """Seconds from the fault until each of its alerts fired; those that did not are left out."""
    servers = [Server(folder, flags=fault.flags) for folder in fault.checkpoints]
    done, seconds = threading.Event(), dict[str, float]()
    threads: Threads = []
    with tempfile.TemporaryDirectory() as folder:
        try:
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
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers end with it
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "overlay").mkdir()
        objects = hurried(combine(folder / "overlay", ("standard-mode", "monitoring", "keda")))
        found = []
        for fault in faults():
            fired = bring_about(fault, objects)
            found.append({"fault": fault.what, "wanted": list(fault.alerts), "fired": fired})
            print(json.dumps(found[-1]), flush=True)
    rest = not_fired(objects, found)
    results = {"factor": FACTOR, "on": describe(), "faults": found, "not_fired": rest}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RUNBOOK.write_text(replaced(RUNBOOK.read_text(), table(results), BEGIN, END))


if __name__ == "__main__":
    main()
