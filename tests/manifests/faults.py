"""Each alert that a CPU can bring about, brought about: a real server, Prometheus, and a fault.

    python -m tests.manifests.faults    # minutes; writes faults.json and the runbook's table

The rules are the component's with all times divided by 60, so that ten minutes pass in ten seconds;
thresholds stay. Needs Debian's `prometheus`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
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
import numpy as np
import soundfile
from safetensors.torch import load_file, save_file

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
PATIENCE_S = 240.0
CANDIDATE = "qwen3-asr-predictor-00002"
Threads = list[threading.Thread]


class Server(LocalService):
    """A predictor whose processes can be stopped where they are."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

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
    is_ready: bool = True  # the server becomes ready


def repeat(call: Callable[[], Any], done: threading.Event, number: int) -> Threads:
    """Call on so many threads until it is over."""

    def run() -> None:
        while not done.is_set():
            with suppress(httpx.HTTPError, OSError):
                call()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    return threads


def recordings() -> list[bytes]:
    return [Path(clip.audio).read_bytes() for clip in read_manifest(EVALUATION)]


def crowd() -> bytes:
    """Six recordings at once, as WAV: nobody can be understood."""
    clips = [
        soundfile.read(str(clip.audio), dtype="float32")[0] for clip in read_manifest(EVALUATION)
    ]
    chosen = sorted(clips, key=len)[-6:]
    mixed = np.sum([np.resize(clip, len(chosen[-1])) for clip in chosen], axis=0)
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        soundfile.write(file.name, mixed / np.abs(mixed).max(), 16_000)
        return Path(file.name).read_bytes()


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


def one_hears_a_crowd(servers: list[Server], done: threading.Event) -> Threads:
    clear, mixed = recordings()[0], crowd()
    threads: Threads = []
    for server, audio in zip(servers, (clear, mixed), strict=True):
        callers = Callers(server)
        send = callers.protocols["openai"]
        threads += repeat(lambda send=send, audio=audio: send(audio), done, 1)  # type: ignore[misc]
    return threads


def spoilt(folder: Path) -> Path:
    """The embedded checkpoint with norms of zero."""
    copy = folder / "spoilt"
    shutil.copytree(CHECKPOINTS / "tiny", copy)
    for file in copy.glob("*.safetensors"):
        tensors = load_file(file)
        for name in tensors:
            if name.endswith(("norm.weight", "layernorm.weight")):
                tensors[name] = tensors[name] * 0
        save_file(tensors, file, metadata={"format": "pt"})
    return copy


def faults(folder: Path) -> list[Fault]:
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
            "one of two revisions hears six people at once",
            ("Qwen3AsrConfidenceDrift", "Qwen3AsrConfidenceLow"),
            small,
            (tiny, tiny),
            one_hears_a_crowd,
        ),
        Fault(
            "weights whose norms are zero",
            ("Qwen3AsrNotReady",),
            small,
            (spoilt(folder),),
            is_ready=False,
        ),
    ]


def firing(prometheus: Prometheus) -> set[str]:
    return {rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"}


def started(server: Server, is_ready: bool) -> None:
    """Start it; one that never becomes ready only has to listen."""
    if is_ready:
        server.__enter__()
        return
    thread = threading.Thread(target=lambda: _enter(server), daemon=True)
    thread.start()
    while not server.url:
        thread.join(0.2)


def _enter(server: Server) -> None:
    with suppress(Exception):  # it never says that it is ready
        server.__enter__()


def bring_about(fault: Fault, objects: Sequence[Object]) -> dict[str, float]:
    """Seconds from the fault until each of its alerts fired; those that did not are left out."""
    servers = [Server(folder, flags=fault.flags) for folder in fault.checkpoints]
    done, seconds = threading.Event(), dict[str, float]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            for server in servers:
                started(server, fault.is_ready)
            names = (REVISION, CANDIDATE)
            pods = {name: server.url for name, server in zip(names, servers, strict=False)}
            with Prometheus(objects, pods, Path(folder)) as prometheus:
                begun = time.monotonic()
                threads = fault.inject(servers, done)
                while set(seconds) < set(fault.alerts) and time.monotonic() < begun + PATIENCE_S:
                    for name in firing(prometheus) & set(fault.alerts) - set(seconds):
                        seconds[name] = round(time.monotonic() - begun, 1)
                    done.wait(0.5)
                done.set()
                for thread in threads:
                    thread.join(timeout=60)
        finally:
            done.set()
            for server in servers:
                server.close()
    return seconds


def table(results: Object) -> str:
    """What was tried, in the runbook."""
    rows = ["| fault | fired after, at a sixtieth of the rules' times |", "| --- | --- |"]
    for each in results["faults"]:
        fired = ", ".join(f"{name} {at:g} s" for name, at in sorted(each["fired"].items()))
        rows.append(f"| {each['fault']} | {fired or 'nothing'} |")
    return "\n".join(rows) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "overlay").mkdir()
        objects = hurried(combine(folder / "overlay", ("standard-mode", "monitoring", "keda")))
        found = []
        for fault in faults(folder):
            fired = bring_about(fault, objects)
            found.append({"fault": fault.what, "wanted": list(fault.alerts), "fired": fired})
            print(json.dumps(found[-1]), flush=True)
    results = {"factor": FACTOR, "on": describe(), "faults": found}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RUNBOOK.write_text(replaced(RUNBOOK.read_text(), table(results), BEGIN, END))


if __name__ == "__main__":
    main()
