"""Kernels one by one, each beside its other arrangements: what the choice between them rests on.

    python -m tests.bench.kernels --output tests/bench/results/kernels-GPU.json

Random inputs of the 1.7B's shapes on a CUDA device; medians of CUDA graphs of all layers.
A row that fails leaves its error; the file is written anew after each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictor.model import attention as plain_attention
from predictor.model.attention import FP8, prompt_tiles
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.kernels import attention as decode_kernels
from predictor.model.cuda.kernels import prefill as prefill_kernels
from tests.bench.environment import describe

CUDA = torch.device("cuda")
PAGE, CONTEXT, OWN = 64, 512, 480  # tokens: of a page, shared, of each sequence's own
CLIPS, PROMPT = 20, 405  # of a full prefill step
HEADS, KV_HEADS, DIM, LAYERS = 16, 8, 128, 28
SETTINGS = (
    (64, 8, 3),
    (64, 4, 2),
    (64, 4, 3),
    (32, 4, 3),
)  # keys of a load, warps, loads under way
TILES = (  # likewise, of decode attention
    (64, 4, 3), (64, 4, 1), (64, 2, 1), (64, 2, 2), (32, 1, 1), (32, 1, 3), (32, 2, 2), (16, 1, 4),
)  # fmt: skip


def graph_ms(run: Callable[[], object], repeats: int = 9) -> float:
    """Median milliseconds of a graph of `run`."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times = []
    for _ in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[2:])[repeats // 2]


@contextmanager
def changed(module: Any, **values: Any) -> Iterator[None]:
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, device=CUDA).to(torch.bfloat16)


class DecodeAttention:
    """All layers' decode attention of sequences with OWN tokens, behind CONTEXT shared ones or not;
    the caches of four layers in turn, so that none stays in the device's."""

    def __init__(self, num_rows: int, dtype: torch.dtype) -> None:
        shared_pages, own_pages = CONTEXT // PAGE, -(-OWN // PAGE)
        num_pages = shared_pages + num_rows * own_pages
        self.caches = [
            normal(2, num_pages, PAGE, KV_HEADS, DIM).to(dtype).unbind(0) for _ in range(4)
        ]
        own = shared_pages + torch.arange(num_rows * own_pages, device=CUDA).view(num_rows, -1)
        self.beginning = torch.arange(shared_pages, device=CUDA)
        self.own = own.contiguous()
        self.whole = torch.cat([self.beginning.expand(num_rows, -1), own], dim=1).contiguous()
        self.query = normal(num_rows, HEADS, DIM)
        self.slots = torch.arange(num_rows, device=CUDA)
        self.counts = torch.full((num_rows,), CONTEXT, dtype=torch.int32, device=CUDA)
        self.tile = Fusion().tile_of(1, dtype)

    def ms(
        self, *, context: bool = False, shares: bool = False, tile: tuple[int, int, int] | None
    ) -> float:
        tables = self.whole if context else self.own
        lengths = torch.full_like(self.counts, (CONTEXT if context else 0) + OWN)
        shared = (self.beginning, self.counts) if shares else None

        def layers() -> None:
            for layer in range(LAYERS):
                decode_kernels.decode_attention(
                    self.query, self.caches[layer % 4], tables, self.slots, lengths,  # type: ignore[arg-type]
                    splits=1, tile=tile or self.tile, shared=shared,
                )  # fmt: skip

        return attempt(layers)


def decode(num_rows: int, dtype: torch.dtype) -> dict[str, float]:
    """Without a context, with one that each sequence reads, and with one that is read once."""
    attention = DecodeAttention(num_rows, dtype)
    return {
        "without_ms": attention.ms(tile=None),
        "each_reads_ms": attention.ms(context=True, tile=None),
        "shared_ms": attention.ms(context=True, shares=True, tile=None),
    }


def decode_tiles(num_rows: int) -> dict[str, float]:
    """With a cache in 8 bits, by tile."""
    attention = DecodeAttention(num_rows, FP8)
    return {"x".join(map(str, tile)): attention.ms(tile=tile) for tile in TILES}


def prefill(num_cached: int, dtype: torch.dtype, tokens: int) -> dict[str, float]:
    """All layers' attention inside 20 prompts, behind so many tokens in the cache."""
    qkv = normal(CLIPS * PROMPT, HEADS + 2 * KV_HEADS, DIM)
    query, key, value = torch.split(qkv, [HEADS, KV_HEADS, KV_HEADS], dim=1)
    pages = CONTEXT // PAGE
    keys, values = normal(2, pages, PAGE, KV_HEADS, DIM).to(dtype).unbind(0)
    tables = torch.arange(pages, device=CUDA).expand(CLIPS, -1).contiguous()
    times: dict[str, float] = {}
    with (
        changed(plain_attention, TILE_TOKENS=tokens),
        changed(prefill_kernels, TILE_TOKENS=tokens),
    ):
        cached = [num_cached] * CLIPS
        tiles = torch.from_numpy(prompt_tiles([PROMPT] * CLIPS, cached, range(CLIPS))).to(CUDA)
        for tile in SETTINGS:

            def layers(tile: tuple[int, int, int] = tile) -> None:
                for _ in range(LAYERS):
                    prefill_kernels.prefill_attention(
                        query, key, value, tiles, (keys, values), tables, tile=tile
                    )

            times["x".join(map(str, tile))] = attempt(layers)
    return times


def attempt(run: Callable[[], object]) -> float:
    try:
        return graph_ms(run)
    except Exception as error:  # noqa: BLE001  a tile that does not fit
        print(f"{type(error).__name__}: {error}"[:300])
        return float("nan")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--rows", default="", help="parts of row names, comma-separated; all")
    parser.add_argument("--budget_s", type=float, default=120.0)
    arguments = parser.parse_args()
    began = time.perf_counter()
    result: dict[str, Any] = {"environment": describe(), "method": __doc__, "rows": {}}

    def row(name: str, run: Callable[[], dict[str, float]]) -> None:
        chosen = arguments.rows.split(",")
        if not any(part in name for part in chosen):
            return
        left_s = arguments.budget_s - (time.perf_counter() - began)
        try:
            found: dict[str, Any] = run() if left_s > 0 else {"skipped": "out of time"}
        except Exception as error:  # noqa: BLE001  the other rows go on
            found = {"error": f"{type(error).__name__}: {error}"[:500]}
        result["rows"][name] = {
            key: round(value, 5) if isinstance(value, float) else value
            for key, value in found.items()
        }
        print(f"{time.perf_counter() - began:5.0f} s {name}: {result['rows'][name]}", flush=True)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")
        torch.cuda.empty_cache()

    eight_bits = {f"8-bit decode attention, {n} x {OWN}, by tile": n for n in (512, 128)}
    for name, num_rows in eight_bits.items():
        row(name, lambda n=num_rows: decode_tiles(n))  # type: ignore[misc]
    for num_rows, dtype in ((256, torch.bfloat16), (512, torch.bfloat16), (512, FP8), (64, FP8)):
        name = f"decode attention, {num_rows} x {OWN}, {str(dtype).removeprefix('torch.')}"
        row(name, lambda n=num_rows, d=dtype: decode(n, d))  # type: ignore[misc]
    for tokens, num_cached, dtype in (
        (32, 0, torch.bfloat16), (32, CONTEXT, torch.bfloat16), (32, CONTEXT, FP8),
        (64, 0, torch.bfloat16), (64, CONTEXT, torch.bfloat16),
    ):  # fmt: skip
        name = f"prefill attention, tiles of {tokens}, {num_cached} cached"
        name += f", {str(dtype).removeprefix('torch.')}"
        row(name, lambda t=tokens, n=num_cached, d=dtype: prefill(n, d, t))  # type: ignore[misc]


if __name__ == "__main__":
    main()
