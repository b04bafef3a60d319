"""Kernels one by one, each beside its other arrangements: what the choice between them rests on.

    python -m tests.bench.kernels --output tests/bench/results/kernels-GPU.json

Random weights of the 1.7B's shapes on a CUDA device; medians of CUDA graphs of all layers.
A row that fails leaves its error; the file is written anew after each row.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.model import attention as plain_attention
from predictor.model.attention import FP8, Packing, prompt_tiles
from predictor.model.cuda.decoder import FusedDecoder, Fusion
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.kernels import attention as decode_kernels
from predictor.model.cuda.kernels import prefill as prefill_kernels
from predictor.model.cuda.kernels import small_batch
from predictor.model.model import Model
from tests.bench.environment import describe
from tests.bench.parts import point_at_all
from tests.bench.shapes import SHAPES, random_model

CUDA = torch.device("cuda")
PAGE, CONTEXT, OWN = 64, 512, 480  # tokens: of a page, shared, of each sequence's own
CLIPS, PROMPT = 20, 405  # of a full prefill step
HEADS, KV_HEADS, DIM, LAYERS = 16, 8, 128, 28
SETTINGS = ((64, 8, 3), (64, 8, 2), (64, 4, 2), (64, 4, 3), (128, 8, 2))
SMALL_BATCH = (  # elements of a program, warps; of wide matrices both twice
    (16384, 4),
    (8192, 4),
    (8192, 2),
    (32768, 8),
    (16384, 8),
)
ASKED_MIB = (  # of the next matrix: by attention, by products
    (0, 0), (4, 0), (8, 0), (16, 0), (24, 0), (32, 0), (48, 0),
    (0, 4), (0, 8), (0, 16), (16, 4), (16, 8), (24, 8), (24, 16),
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


def decode(num_rows: int, dtype: torch.dtype) -> dict[str, float]:
    """All layers' decode attention, without a context, with one that each sequence reads, and with
    one that is read once; the caches of four layers in turn, so that none stays in the device's."""
    shared_pages, own_pages = CONTEXT // PAGE, -(-OWN // PAGE)
    num_pages = shared_pages + num_rows * own_pages
    caches = [
        tuple(normal(num_pages, PAGE, KV_HEADS, DIM).to(dtype) for _ in range(2)) for _ in range(4)
    ]
    own = shared_pages + torch.arange(num_rows * own_pages, device=CUDA).view(num_rows, -1)
    beginning = torch.arange(shared_pages, device=CUDA)
    whole = torch.cat([beginning.expand(num_rows, -1), own], dim=1).contiguous()
    query, slots = normal(num_rows, HEADS, DIM), torch.arange(num_rows, device=CUDA)
    counts = torch.full((num_rows,), CONTEXT, dtype=torch.int32, device=CUDA)
    tile = Fusion().tile_of(1, dtype)

    def run(tables: Tensor, length: int, shared: tuple[Tensor, Tensor] | None = None) -> float:
        lengths = torch.full_like(counts, length)

        def layers() -> None:
            for layer in range(LAYERS):
                decode_kernels.decode_attention(
                    query, caches[layer % 4], tables, slots, lengths,  # type: ignore[arg-type]
                    splits=1, tile=tile, shared=shared,
                )  # fmt: skip

        return graph_ms(layers)

    row = {
        "without_ms": run(own.contiguous(), OWN),
        "each_reads_ms": run(whole, CONTEXT + OWN),
        "shared_ms": run(whole, CONTEXT + OWN, (beginning, counts)),
    }
    for rows, fills in ((64, 1), (64, 10_000), (128, 1), (32, 1)):
        with changed(decode_kernels, SHARED_ROWS=rows, FILLS_DEVICE=fills):
            parts = 1 if fills == 1 else 2
            row[f"shared_rows_{rows}_parts_{parts}_ms"] = run(
                whole, CONTEXT + OWN, (beginning, counts)
            )
    return row


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


def language_model(model: Model, runner: GraphRunner) -> dict[str, float]:
    """A prefill step's language model, residual sums as kernels or in the products."""
    point_at_all(runner)
    lengths = [PROMPT] * CLIPS
    positions = torch.arange(PROMPT, device=CUDA).repeat(CLIPS)
    slots = torch.arange(CLIPS, device=CUDA).repeat_interleave(PROMPT)
    places = runner._loop.tables[slots, positions // PAGE] * PAGE + positions % PAGE
    packing = Packing.of(lengths, device=CUDA, dtype=model.dtype, are_prompts=True)
    x = normal(CLIPS * PROMPT, model.config.text.hidden_size)
    times = {}
    for name, sums in (("kernels", False), ("products", True), ("kernels again", False)):
        decoder = FusedDecoder(
            model.decoder, runner._cache, replace(runner.fusion, sums=sums),
            max_length=runner.limits.max_model_len, tables=runner._loop.tables,
        )  # fmt: skip
        times[name] = graph_ms(
            lambda d=decoder: d.prefill(  # type: ignore[misc]
                x.clone(), positions, places, packing, packing.ends, reads_cache=False
            )
        )
    return times


def encoder(model: Model) -> dict[str, float]:
    """600 s of audio: GELU by erf or in the product; and how far they differ."""
    plan = model.encoder.plan([3000] * CLIPS)
    chunks = torch.randn(30 * CLIPS, model.config.audio.num_mel_bins, 100, device=CUDA)
    times, outputs = {}, {}
    for name, tanh in (("erf", False), ("product", True), ("erf again", False)):
        fused = FusedEncoder(model.encoder, is_on=True, tanh=tanh)
        times[name] = graph_ms(lambda f=fused: f(chunks, plan))  # type: ignore[misc]
        outputs[name] = fused(chunks, plan).double()
    error = (outputs["product"] - outputs["erf"]).norm() / outputs["erf"].norm()
    return times | {"relative_difference": float(error)}


def decode_steps(model: Model, sums: bool) -> dict[str, float]:
    """Whole decode steps of 64 to 512 sequences, residual sums in kernels or products."""
    runner = graph_runner(model, Fusion(sums=sums))
    point_at_all(runner)
    times = {}
    for batch in (64, 128, 256, 512):
        runner._loop.positions.fill_(OWN)
        times[str(batch)] = graph_ms(lambda b=batch: runner._loop.step(b))  # type: ignore[misc]
    return times


def one_sequence(runner: GraphRunner) -> dict[str, float]:
    """A decode step of one sequence by how its kernels are cut, and by what is asked for early."""
    loop, times = runner._loop, {}
    point_at_all(runner)

    def step_ms() -> float:
        loop.positions.fill_(OWN)

        def steps() -> None:
            for _ in range(4):
                loop.step(1)

        return attempt(steps) / 4

    for by_attention, by_rows in ASKED_MIB:
        asks = {"ATTENTION_ASKS_BYTES": by_attention << 20, "ROWS_ASK_BYTES": by_rows << 20}
        with changed(small_batch, **asks):
            times[f"attention asks for {by_attention} MiB, products for {by_rows}"] = step_ms()
    for elements, warps in SMALL_BATCH:

        def tile(block_k: int, *, swiglu: bool, e: int = elements, w: int = warps) -> Any:
            wide = 2 if block_k > 4096 else 1
            return max(1, e * wide // (2 if swiglu else 1) // block_k), w * wide

        with changed(small_batch, rows_tile=tile):
            times[f"{elements} elements, {warps} warps"] = step_ms()
    times["as it is, again"] = step_ms()
    return times


def graph_runner(model: Model, fusion: Fusion) -> GraphRunner:
    options = GraphOptions(fusion=fusion, use_graphs=False, check_kernels=False)
    return GraphRunner(model, num_slots=512, max_model_len=768, options=options)


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

    for num_rows, dtype in ((256, torch.bfloat16), (512, torch.bfloat16), (512, FP8), (64, FP8)):
        name = f"decode attention, {num_rows} x {OWN}, {str(dtype).removeprefix('torch.')}"
        row(name, lambda n=num_rows, d=dtype: decode(n, d))  # type: ignore[misc]
    for tokens, num_cached, dtype in (
        (64, 0, torch.bfloat16), (64, CONTEXT, torch.bfloat16), (64, CONTEXT, FP8),
        (32, 0, torch.bfloat16), (32, CONTEXT, torch.bfloat16),
    ):  # fmt: skip
        name = f"prefill attention, tiles of {tokens}, {num_cached} cached"
        name += f", {str(dtype).removeprefix('torch.')}"
        row(name, lambda t=tokens, n=num_cached, d=dtype: prefill(n, d, t))  # type: ignore[misc]
    model = random_model(SHAPES["1.7B"], CUDA, torch.bfloat16)
    row("encoder, 600 s", lambda: encoder(model))
    row("one sequence, a step", lambda: one_sequence(graph_runner(model, Fusion())))
    row("language model, a prefill", lambda: language_model(model, graph_runner(model, Fusion())))
    for sums in (False, True):
        row(f"decode steps, sums in products: {sums}", lambda s=sums: decode_steps(model, s))  # type: ignore[misc]


if __name__ == "__main__":
    main()
