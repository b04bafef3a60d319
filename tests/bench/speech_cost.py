"""What finding speech costs: processor time for each second of audio, on one processor.

    OMP_NUM_THREADS=1 python -m tests.bench.speech_cost --output RESULT.json

The network alone, on one stream and on many side by side, and a whole decoder process with it and
without. The least of many repeats, since others may use the machine. `--before FILE` takes along
the rows of an earlier run, as of an earlier commit. No GPU, no server.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from predictor.audio.job import Job
from predictor.audio.limits import AudioLimits, AudioOptions, CutOptions
from predictor.audio.process import Worker
from predictor.audio.vad import FRAME_S, VadState, load_silero
from predictor.processes.heap import keep_freed_memory
from tests.bench.environment import describe
from tests.bench.http_clips import talk, wav

CLIPS_S = (10.0, 30.0)
STREAMS = (1, 8, 64, 256)
# What the network multiplies for a frame: spectrum by halves, four convolutions, and the cell.
FRAME_MFLOP = 2e-6 * (
    4 * (128 * 129 + 127 * 129) + 10 * 129 * 128 + 5 * 128 * 64 + 2 * 64 * 64 + 64 * 128
    + 2 * 128 * 512
)  # fmt: skip


def least_s(work: Callable[[], object], repeats: int) -> float:
    """Of this thread's processor time."""
    times = []
    for _ in range(repeats):
        began_s = time.thread_time()
        work()
        times.append(time.thread_time() - began_s)
    return min(times)


def network(repeats: int) -> dict[str, Any]:
    """Milliseconds a second of audio, by how much is heard at once."""
    silero, rows = load_silero(), {}
    for clip_s in CLIPS_S:
        samples = talk(clip_s)
        frames = samples[: len(samples) // 512 * 512].reshape(1, -1, 512)
        took_s = least_s(lambda: silero.hear(frames, VadState.new()), repeats)  # noqa: B023
        rows[f"one stream of {clip_s:g} s"] = 1e3 * took_s / clip_s
    for num_streams in STREAMS:
        frames = np.stack([talk(0.1, seed)[:512] for seed in range(num_streams)])[:, None]
        state = VadState.new(num_streams)
        took_s = least_s(lambda: silero.hear(frames, state), 10 * repeats)  # noqa: B023
        rows[f"a frame of each of {num_streams} streams"] = 1e3 * took_s / num_streams / FRAME_S
    return {name: {"ms_per_audio_s": value} for name, value in rows.items()}


def products(repeats: int) -> dict[str, float]:
    """What the processor multiplies at best, and how long it would need for the network alone."""
    first, second = np.ones((320, 384), np.float32), np.ones((384, 128), np.float32)
    out = np.empty((320, 128), np.float32)
    took_s = least_s(lambda: np.dot(first, second, out=out), 20 * repeats)
    gflops = 2e-9 * 320 * 384 * 128 / took_s
    return {"gflop_per_s": gflops, "ms_per_audio_s": FRAME_MFLOP / FRAME_S / gflops}


def decoder(repeats: int) -> dict[str, Any]:
    """Processor time of a decoder process for a WAV file, all in all."""
    rows, worker = {}, Worker()
    worker.wait_ready()
    for clip_s in CLIPS_S:
        audio = wav(talk(clip_s))
        for vad in ("off", "silero"):
            job = Job(
                "wav", None, AudioLimits(), AudioOptions(), CutOptions(vad=vad), 1e9, "audio"
            )  # fmt: skip
            took_ms = min(_decoded_ms(worker, job, audio) for _ in range(repeats))
            rows[f"decoder, {clip_s:g} s WAV, vad {vad}"] = {
                "ms": took_ms, "ms_per_audio_s": took_ms / clip_s
            }  # fmt: skip
    worker.close()
    return rows


def _decoded_ms(worker: Worker, job: Job, audio: bytes) -> float:
    began_ms = _used_ms(worker.pid)
    worker.begin(job, audio)
    while worker.receive(60)[0].kind not in ("end", "error"):
        pass
    time.sleep(0.003)  # until it waits again, and its time is counted
    return _used_ms(worker.pid) - began_ms


def _used_ms(pid: int) -> float:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--before", type=Path, help="result of an earlier commit to take along")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()  # as every process of the server does
    rows = network(arguments.repeats) | decoder(arguments.repeats)
    rows["the products alone, at best"] = products(arguments.repeats)
    result: dict[str, Any] = {"environment": describe(), "method": __doc__, "rows": rows}
    result["load"] = os.getloadavg()
    if arguments.before is not None:
        earlier = json.loads(arguments.before.read_text())
        result["before"] = {key: earlier[key] for key in ("environment", "rows", "load")}
    for name, row in rows.items():
        print(f"{name:<36}", json.dumps({k: round(v, 3) for k, v in row.items()}))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
