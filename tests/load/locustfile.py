"""Load as it comes: open arrivals (nobody waits for another's answer), several lengths, languages,
formats and protocols, streams among them; objectives decide the exit code.

    locust -f tests/load/locustfile.py --headless --host http://localhost:8080 \\
        --users 4 --rate 5 --run-time 60s --slo-report out/load.json

`--rate` is requests a second of all users together; users are only the processes of arrival.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import gevent
from locust import HttpUser, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner
from urllib3 import PoolManager

from pipelines.lib.client import encode_v2
from tests.load.corpus import Recording, load_corpus
from tests.load.slo import FIRST_TEXT, SHED, Counted, Slo, violations

MANIFEST = Path(__file__).parents[1] / "data" / "eval" / "manifest.jsonl"
MODEL = "qwen3-asr"
SHED_STATUS = (429, 503)
REQUEST_TIMEOUT_S = 120.0
MAX_IN_FLIGHT = 1000  # connections kept open by a process
DRAIN_S = 60.0  # given to the requests in flight at the end


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """The rate, the recordings, and an option for each objective."""
    parser.add_argument("--rate", type=float, default=2.0, help="requests a second in all")
    parser.add_argument("--manifest", default=str(MANIFEST), help="recordings to send")
    parser.add_argument("--slo-report", default="", help="JSON file for the verdict")
    for each in fields(Slo):
        name = f"--{each.name.replace('_', '-')}"
        kind = int if isinstance(each.default, int) else float
        parser.add_argument(name, type=kind, default=each.default)


@events.init.add_listener
def read_recordings(environment: Environment, **_: Any) -> None:
    """Once a process, before anyone arrives."""
    if environment.parsed_options is not None:
        environment.corpus = load_corpus(Path(environment.parsed_options.manifest))  # type: ignore[attr-defined]
        environment.answered_s = []  # type: ignore[attr-defined]  # lengths of what was answered


class Caller(HttpUser):
    """An arrival process: each request runs on its own, however long the others take."""

    # Arrivals wait for no free connection, as with FastHttpUser, which cannot read lines either.
    pool_manager = PoolManager(maxsize=MAX_IN_FLIGHT)

    def on_start(self) -> None:
        self._random = random.Random(f"{id(self)}")
        self._flying: set[gevent.Greenlet] = set()

    def on_stop(self) -> None:
        gevent.joinall(list(self._flying), timeout=DRAIN_S)

    def wait_time(self) -> float:
        """Poisson arrivals: exponential gaps."""
        options = self.environment.parsed_options
        return self._random.expovariate(options.rate / max(options.num_users or 1, 1))

    @task(5)
    def v2(self) -> None:
        self._start(self._send_v2)

    @task(3)
    def openai(self) -> None:
        self._start(self._send_openai)

    @task(2)
    def recognize(self) -> None:
        self._start(self._send_recognize)

    @task(2)
    def stream(self) -> None:
        self._start(self._send_stream)

    def _start(self, send: Any) -> None:
        recording = self._random.choice(self.environment.corpus)  # type: ignore[attr-defined]
        greenlet = gevent.spawn(send, recording)
        self._flying.add(greenlet)
        greenlet.link(self._flying.discard)

    def _send_v2(self, recording: Recording) -> None:
        body, headers = encode_v2(recording.data, None, "")
        path = f"/v2/models/{MODEL}/infer"
        self._judged(recording, path, f"v2 {recording.name}", data=body, headers=headers)

    def _send_openai(self, recording: Recording) -> None:
        self._judged(
            recording,
            "/v1/audio/transcriptions",
            f"openai {recording.name}",
            data={"model": MODEL, "language": recording.language},
            files={"file": (f"a.{recording.suffix}", recording.data)},
        )

    def _send_recognize(self, recording: Recording) -> None:
        files = {"audio": (f"a.{recording.suffix}", recording.data)}
        self._judged(recording, "/api/v1/recognize", f"recognize {recording.name}", files=files)

    def _judged(self, recording: Recording, path: str, name: str, **request: Any) -> None:
        """Send; an answer without text for speech is a failure, a refusal under load is shed."""
        with self.client.post(
            path, name=name, catch_response=True, timeout=REQUEST_TIMEOUT_S, **request
        ) as answer:
            if answer.status_code in SHED_STATUS:
                answer.failure(SHED)
            elif answer.status_code != 200:
                answer.failure(f"HTTP {answer.status_code}: {(answer.text or '')[:100]}")
            elif '"text":""' in (answer.text or "").replace(" ", ""):
                answer.failure("no text for speech")
            else:
                answer.success()
                self._answered(recording)

    def _answered(self, recording: Recording) -> None:
        self.environment.answered_s.append(recording.duration_s)  # type: ignore[attr-defined]

    def _send_stream(self, recording: Recording) -> None:
        name = f"stream {recording.name}"
        request = {
            "data": {"model": MODEL, "stream": "true"},
            "files": {"file": (f"a.{recording.suffix}", recording.data)},
            "timeout": REQUEST_TIMEOUT_S,
        }
        started = time.perf_counter()
        with self.client.post(
            "/v1/audio/transcriptions", name=name, catch_response=True, stream=True, **request
        ) as answer:
            if answer.status_code in SHED_STATUS:
                answer.failure(SHED)
                return
            kinds = set()
            for line in answer.iter_lines():
                if not line.startswith(b"data:"):
                    continue
                kind = json.loads(line.removeprefix(b"data:")).get("type")
                if kind == "transcript.text.delta" and kind not in kinds:
                    self._first_text(recording, time.perf_counter() - started)
                kinds.add(kind)
            # Locust's own clock stopped at the headers
            answer.request_meta["response_time"] = (time.perf_counter() - started) * 1e3
            if "transcript.text.done" in kinds:
                answer.success()
                self._answered(recording)
            else:
                answer.failure("the stream ended without transcript.text.done")

    def _first_text(self, recording: Recording, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name=f"{FIRST_TEXT} {recording.name}",
            response_time=seconds * 1e3,
            response_length=0,
            exception=None,
            context={},
        )


def achieved(environment: Environment) -> dict[str, float | None]:
    """Offered and achieved rate, and audio seconds answered in a second, from first to last.

    With workers the lengths are known to them alone: no RTFx then.
    """
    stats, options = environment.stats.total, environment.parsed_options
    seconds = max((stats.last_request_timestamp or 0.0) - (stats.start_time or 0.0), 1e-9)
    names = [e for e in environment.stats.entries.values() if not e.name.startswith(FIRST_TEXT)]
    answered = sum(e.num_requests - e.num_failures for e in names)
    lengths: list[float] = getattr(environment, "answered_s", [])
    median_ms = stats.get_response_time_percentile(0.5)
    return {
        "offered_per_s": options.rate if options is not None else None,
        "achieved_per_s": answered / seconds,
        "rtfx": sum(lengths) / seconds if lengths else None,
        "mean_duration_s": sum(lengths) / len(lengths) if lengths else None,
        "p50_s": None if median_ms is None else median_ms / 1e3,
        "seconds": seconds,
    }


@events.quitting.add_listener
def judge(environment: Environment, **_: Any) -> None:
    """Compare what was counted with the objectives; the exit code says how it went."""
    options = environment.parsed_options
    if options is None or isinstance(environment.runner, WorkerRunner):
        return  # a worker has part of the numbers only
    slo = Slo(**{each.name: getattr(options, each.name) for each in fields(Slo)})
    shed: dict[str, int] = {}
    for error in environment.stats.errors.values():
        if SHED in str(error.error):
            shed[error.name] = shed.get(error.name, 0) + error.occurrences
    counted = [
        Counted(
            name=entry.name,
            num_requests=entry.num_requests,
            num_failures=entry.num_failures,
            num_shed=shed.get(entry.name, 0),
            p95_s=(entry.get_response_time_percentile(0.95) or 0) / 1e3,
        )
        for entry in environment.stats.entries.values()
    ]
    found = violations(counted, slo)
    if options.slo_report:
        path = Path(options.slo_report)
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "host": environment.host,
            "rate": options.rate,
            "slo": asdict(slo),
            "violations": found,
            "achieved": achieved(environment),
            "counted": [asdict(c) for c in sorted(counted, key=lambda c: c.name)],
        }
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rates = achieved(environment)
    print(
        f"{rates['offered_per_s']:.3g} requests a second offered, {rates['achieved_per_s']:.3g} "
        f"answered" + (f", {rates['rtfx']:.3g} audio seconds a second" if rates["rtfx"] else "")
    )
    for sentence in found:
        print(f"objective missed: {sentence}")
    if not found:
        print("all objectives are met")
    environment.process_exit_code = 1 if found else 0
