"""Draws the dashboards from a real run: two predictors, load, Prometheus, matplotlib.

    python -m tests.manifests.dashboard

Serves both embedded checkpoints on this machine as the two revisions of a canary, calls them over
all protocols and with live speech, and writes manifests/components/monitoring/dashboards/*.png:
each panel's own queries, title, legend and unit at its place on the grid. Needs Debian's
`prometheus` and kubectl or kustomize.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pipelines.lib.manifest import read_manifest
from pipelines.local_service import LocalService
from tests.manifests.callers import Callers
from tests.manifests.drawing import Series, draw
from tests.manifests.objects import MANIFESTS, ROOT, combine
from tests.manifests.prometheus import Prometheus
from tests.manifests.queries import dashboards

FOLDER = MANIFESTS / "components" / "monitoring" / "dashboards"
EVALUATION = ROOT / "tests" / "data" / "eval" / "manifest.jsonl"
CHECKPOINTS = {  # revision -> checkpoint and its share of the calls
    "qwen3-asr-predictor-00001": ("tiny", 0.75),
    "qwen3-asr-predictor-00002": ("tiny-early", 0.25),
}
NUM_CALLERS, NUM_LIVE = 4, 3
BURST_AT, BURST_S, NUM_BURST = 0.6, 10.0, 24  # more callers than the queue holds, for a while
HELD_S = 120  # of audio: small enough for the burst to fill it
NOT_AUDIO = b"this is no recording"
SILENCE_S = 3


def silence() -> bytes:
    """A WAV file in which nobody speaks."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2 * 16_000 * SILENCE_S))
    return buffer.getvalue()


def call_for(services: Mapping[str, LocalService], seconds: float) -> None:
    """Calls over all protocols, one in twelve without audio, live sessions, and one burst."""
    flacs = [Path(clip.audio).read_bytes() for clip in read_manifest(EVALUATION)]
    recordings = [*flacs, *[silence()] * (len(flacs) // 10)]
    callers = [Callers(service) for service in services.values()]
    weights = [share for _, share in CHECKPOINTS.values()]
    started = time.monotonic()

    def since() -> float:
        return time.monotonic() - started

    def call(seed: int, until: float) -> None:
        chosen = random.Random(seed)
        while since() < until:
            [caller] = chosen.choices(callers, weights)
            send = chosen.choice([*caller.protocols.values(), caller.hinted])
            send(NOT_AUDIO if chosen.random() < 1 / 12 else chosen.choice(recordings))

    def speak(seed: int, until: float) -> None:
        chosen = random.Random(seed)
        while since() < until:
            chosen.choices(callers, weights)[0].live(chosen.choice(flacs), in_real_time=True)

    def start(
        what: Callable[[int, float], None], seeds: Sequence[int], until: float
    ) -> list[threading.Thread]:
        threads = [threading.Thread(target=what, args=(seed, until)) for seed in seeds]
        for thread in threads:
            thread.start()
        return threads

    threads = start(call, range(NUM_CALLERS), seconds)
    threads += start(speak, range(50, 50 + NUM_LIVE), seconds)
    threading.Event().wait(BURST_AT * seconds)
    threads += start(call, range(100, 100 + NUM_BURST), BURST_AT * seconds + BURST_S)
    for thread in threads:
        thread.join()
    for caller in callers:
        caller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=150.0)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, ExitStack() as stack:
        overlay, folder = Path(made) / "overlay", Path(made) / "prometheus"
        overlay.mkdir()
        folder.mkdir()
        objects = combine(overlay, ("standard-mode", "monitoring", "keda"))
        aligner = ROOT / "predictor" / "checkpoints" / "tiny-aligner"
        flags = ("--device=cpu", f"--max_held_audio_s={HELD_S}", f"--aligner_dir={aligner}")
        services = {
            revision: stack.enter_context(
                LocalService(ROOT / "predictor" / "checkpoints" / name, flags=flags)
            )
            for revision, (name, _) in CHECKPOINTS.items()
        }
        pods = {revision: service.url for revision, service in services.items()}
        prometheus = stack.enter_context(Prometheus(objects, pods, folder))
        start = time.time()
        call_for(services, options.seconds)
        end = time.time()

        def ask(expression: str) -> list[Series]:
            found = prometheus.query_range(expression, start, end, step_s=2)
            return [
                (labels, [(t, v) for t, v in points if math.isfinite(v)])
                for labels, points in found
            ]

        for file, board in dashboards(objects):
            name = file.removeprefix("qwen3-asr-").removesuffix(".json")
            draw(board, ask, options.out / f"{name}.png", (start, end))


if __name__ == "__main__":
    main()
