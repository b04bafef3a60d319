"""One engine in a process of its own, so that its memory is its own: clips are asked for by line.

    python -m tests.bench.edge_worker FOLDER PRECISION NUM_THREADS

Says how it loaded, then reads a number of seconds from each line and answers with the times of one
clip of that length, whose answer is forced to 3.5 tokens a second. JSON lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from predictor.engine import EngineClient, EngineCore, build_engine
from tests.bench.load import Clips, one, options, without_end
from tests.bench.memory import memory

NUM_SLOTS = 4


def say(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


async def clip(engine: EngineClient, clips: Clips, duration_s: float) -> dict[str, Any]:
    began_cpu_s = time.process_time()
    timing = await one(engine, clips.request(duration_s))
    return {
        "first_token_s": timing.first_token_s,
        "last_token_s": timing.last_token_s,
        "num_tokens": timing.num_tokens,
        "cpu_s": time.process_time() - began_cpu_s,
        "load_average": os.getloadavg()[0],
        **memory(),
    }


def main() -> None:
    folder, precision, num_threads = sys.argv[1:]
    torch.set_num_threads(int(num_threads))
    before = memory()
    began = time.perf_counter()
    settings = options(max_num_seqs=NUM_SLOTS, max_prefill_audio_s=120.0)
    built: Any = build_engine(Path(folder), "cpu", precision, settings)
    say({"load_s": time.perf_counter() - began, "rss_imports_mib": before["rss_mib"], **memory()})
    runner = built._runner
    without_end(runner)
    clips = Clips(runner.limits.vocab_size)
    engine = EngineClient([EngineCore(runner, settings)])
    engine.start()
    for line in sys.stdin:
        say(asyncio.run(clip(engine, clips, float(line))))
    engine.stop()


if __name__ == "__main__":
    main()
