"""How many sequences a small card holds: a large one with all but so much memory taken away.

    python -m tests.bench.small_card --output tests/bench/results/small-card-GPU.json
    python -m tests.bench.small_card --shape tiny --device cpu --num_clips 12    (a smoke test)

The engine as a server starts it, with its defaults and a large batch; weights are random and of the
true shapes. Memory is that of the card named, speed is not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from predictor.engine import EngineClient
from predictor.engine.core import EngineCore
from predictor.engine.options import EngineOptions
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.start.build import build_runner
from tests.bench.checkpoint import write_checkpoint
from tests.bench.environment import describe
from tests.bench.load import TOKENS_PER_AUDIO_S, Clips, all_at_once, without_end
from tests.bench.shapes import SHAPES

LOADS = ((10.0, 3.5), (30.0, 3.5), (10.0, 10.0))  # seconds of a clip, tokens a second of it
CARD_MIB = 23_034  # what an L4 or an A10 of "24 GB" has
METHOD = (
    "random weights; the card's memory but for `card_mib` is held by another tensor before the "
    "engine starts; predictor.engine.start.build with the default options but max_num_seqs; "
    "answers of so many forced tokens a second of audio as a row says: with 3.5, as people speak, "
    "sequences end before the memory is full; most_running: sequences that decode together, at "
    "most, by the engine's own count, looked at every 2 ms"
)


def take_away(card_mib: int, device: torch.device) -> torch.Tensor | None:
    """Holds what the device has beyond `card_mib`, CUDA's own share counted as the card's."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    beyond = total - (card_mib << 20)
    if beyond >= free:
        raise SystemExit(f"{free >> 20} MiB are free: too few to leave {card_mib}")
    return torch.empty(max(0, beyond), dtype=torch.uint8, device=device)


async def most_running(
    engine: EngineClient, clips: Clips, clip_s: float, tokens_per_s: float, count: int
) -> dict[str, Any]:
    """A row: clips that all come at once, and how many of them ran together at most."""
    tokens = math.ceil(tokens_per_s * clip_s)
    requests = [replace(clips.request(clip_s), max_new_tokens=tokens) for _ in range(count)]
    highest, ended = 0, False

    async def look() -> None:
        nonlocal highest
        while not ended:
            highest = max(highest, engine.stats().num_running)
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    wall_s = await all_at_once(engine, requests)
    ended = True
    await looking
    stats = engine.stats()
    return {
        "most_running": highest,
        "num_clips": count,
        "tokens_per_audio_s": tokens_per_s,
        "rtfx": round(count * clip_s / wall_s, 1),
        "num_pages": stats.num_pages,
        "num_preempted": stats.num_preempted,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One engine, a row for each length of clip."""
    device = torch.device(arguments.device)
    ballast = take_away(arguments.card_mib, device)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_checkpoint(Path(folder) / "checkpoint", arguments.shape)
        options = EngineOptions(
            max_num_seqs=arguments.max_num_seqs,
            max_repeats=1_000_000,
            kv_precision=arguments.kv_precision,
        )
        began_s = time.monotonic()
        runner = build_runner(path, device, "auto", options)
        started_s = time.monotonic() - began_s
        while runner.idle():
            pass
        without_end(runner)
        engine = EngineClient([EngineCore(runner, options)])
        engine.start()
        try:
            clips = Clips(SHAPES[arguments.shape].text.vocab_size)
            for clip_s, tokens_per_s in LOADS if device.type == "cuda" else ((1.0, 3.5),):
                name = f"{arguments.shape}, {arguments.kv_precision}, {clip_s:g} s"
                name += "" if tokens_per_s == TOKENS_PER_AUDIO_S else ", long answers"
                rows[name] = asyncio.run(
                    most_running(engine, clips, clip_s, tokens_per_s, arguments.num_clips)
                )
                print(name, rows[name], file=sys.stderr, flush=True)
        finally:
            engine.stop()
    held = 0 if ballast is None else ballast.numel()
    peak = torch.cuda.max_memory_allocated(device) - held if device.type == "cuda" else 0
    return {
        "environment": describe(),
        "method": METHOD,
        "card_mib": arguments.card_mib,
        "page_tokens": PAGE_TOKENS,
        "max_num_seqs": options.max_num_seqs,
        "peak_allocated_mib": peak >> 20,
        "build_s": round(started_s, 2),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", default="1.7B", choices=sorted(SHAPES))
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--card_mib", type=int, default=CARD_MIB)
    parser.add_argument("--max_num_seqs", type=int, default=512)
    parser.add_argument("--num_clips", type=int, default=1024)
    parser.add_argument("--kv_precision", default="auto", choices=("auto", "fp8"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["rows"], indent=1))


if __name__ == "__main__":
    main()
