"""An hour's recording through the server on a device: alone, beside its pieces, several at once.

    python -m tests.bench.hour --output tests/bench/results/hour-GPU.json
    python -m tests.bench.hour --shape tiny --device cpu --length_s 60 --at_once 2   (a smoke test)

Random weights and forced answers, as in `tests.bench.http`; the recording is real: the short clips
of the evaluation set joined with pauses of 0 to 2 s, as a WAV file that the server puts on disk.
Its pieces, cut here as the server cuts, are the same work as requests of their own, so many at once
as the server has of one recording: what is left between the two times is what being long costs.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import soundfile
import torch

from predictor.audio.cut import Cutter
from predictor.audio.limits import CutOptions
from predictor.types import SAMPLE_RATE_HZ, Samples
from tests.bench.environment import describe
from tests.bench.http import Bench, rounded, server
from tests.bench.load import TOKENS_PER_AUDIO_S
from tests.bench.long_client import AT_ONCE, ask_all, follow
from tests.bench.long_recordings import clips, joined
from tests.bench.resident import Memory

RUNS = 3
FORCED = ("--max_audio_s=86400", "--request_timeout_s=3600", "--max_spool_bytes=17179869184")
METHOD = (
    "random weights, answers forced to a length; clips of the evaluation set joined with pauses of "
    "0 to 2 s, one WAV file (16 kHz, 16 bits) to OpenAI's route with stream=true and a spool on "
    "disk; pieces: the same recording as the server cuts it, each a request with vad=off, "
    f"{AT_ONCE} at once; the client is on the same machine; medians of {RUNS} runs"
)


def wav(samples: Samples) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return out.getvalue()


def alone(url: str, pid: int, samples: Samples, longest_s: float) -> dict[str, Any]:
    """The recording by itself and its pieces as requests, in turns."""
    cutter = Cutter(CutOptions(segment_s=longest_s))
    pieces = [wav(cut.samples) for cut in [*cutter.feed(samples), *cutter.finish()]]
    recording, audio_s = wav(samples), len(samples) / SAMPLE_RATE_HZ
    follow(url, recording, "audio/wav", lambda _: None)  # warm-up
    runs: list[dict[str, Any]] = []
    with Memory(pid) as memory:
        for _ in range(RUNS):
            seen: list[float] = []
            answer = follow(
                url, recording, "audio/wav", lambda _, at=seen: at.append(time.monotonic())
            )
            del answer["text"]
            _, pieces_s = ask_all(url, pieces, vad="off")
            held = {"early": memory.most(seen[0], seen[len(seen) // 10]),
                    "late": memory.most(seen[-len(seen) // 10], seen[-1])}  # fmt: skip
            runs.append({**answer, "pieces_as_requests_s": pieces_s, "memory_mib": held})
    wall_s = median(run["wall_s"] for run in runs)
    pieces_s = median(run["pieces_as_requests_s"] for run in runs)
    return {
        "value": audio_s / wall_s,
        "unit": "RTFx",
        "audio_s": audio_s,
        "wall_s": wall_s,
        "first_segment_s": median(run["first_segment_s"] for run in runs),
        "pieces": len(pieces),
        "pieces_as_requests_s": pieces_s,
        "longer_than_pieces": wall_s / pieces_s - 1,
        "runs": runs,
    }


def at_once(url: str, samples: Samples, number: int) -> dict[str, Any]:
    """So many of it at the same time."""
    recording, audio_s = wav(samples), number * len(samples) / SAMPLE_RATE_HZ
    began_s = time.monotonic()
    with ThreadPoolExecutor(number) as pool:
        answers = list(
            pool.map(lambda _: follow(url, recording, "audio/wav", lambda _: None), range(number))
        )
    wall_s = time.monotonic() - began_s
    return {
        "value": audio_s / wall_s,
        "unit": "RTFx",
        "wall_s": wall_s,
        "first_segment_s": max(answer["first_segment_s"] for answer in answers),
        "segments": sum(answer["segments"] for answer in answers),
    }


def rows(bench: Bench, length_s: float, numbers: Sequence[int]) -> Iterator[tuple[str, Any]]:
    samples, _ = joined(clips("English"), length_s, 2.0, spoken=False, seed=1)
    with tempfile.TemporaryDirectory() as spool:
        flags = [*FORCED, f"--spool_dir={spool}", f"--max_long_recordings={max(4, *numbers)}"]
        with server(bench, "own", *flags) as (port, pid):
            url = f"http://127.0.0.1:{port}"
            yield f"{length_s:g} s", alone(url, pid, samples, 31.0)
            for number in numbers:
                yield f"{number} x {length_s:g} s", at_once(url, samples, number)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", default="1.7B", help="1.7B, 0.6B or tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--length_s", type=float, default=3600.0)
    parser.add_argument("--at_once", type=int, nargs="*", default=[8], help="recordings")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    bench = Bench(argparse.Namespace(
        device=chosen.device, output=None, window_s=0.0, warm_s=0.0, clients=1, fronts=1,
        decoders=0, vad="silero", loads="", budget_s=0.0,
    ))  # fmt: skip
    bench.shape = chosen.shape
    result: dict[str, Any] = {
        "environment": describe(),
        "tokens_per_audio_s": TOKENS_PER_AUDIO_S,
        "method": METHOD,
        "rows": {},
    }
    for name, row in rows(bench, chosen.length_s, chosen.at_once):
        result["rows"][f"{chosen.shape} {name}"] = row
        print(f"{chosen.shape} {name}: {json.dumps(rounded(row))}", flush=True)
        if chosen.output is not None:
            chosen.output.parent.mkdir(parents=True, exist_ok=True)
            chosen.output.write_text(json.dumps(rounded(result), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
