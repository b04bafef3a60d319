"""Prefill and decode at the same time: what each arrangement of the device gives.

    python -m tests.bench.overlap --output tests/bench/results/overlap-GPU.json
    python -m tests.bench.overlap --shapes tiny --device cpu              (a smoke test)

A full prefill step (20 clips of 30 s) and a full decode step (512 sequences of about 500 tokens),
each a graph as the engine makes them: alone, alone on some multiprocessors, and together on plain
streams or on parts of the device. Random weights of the true shapes.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from predictor.engine.cuda.prefill_buckets import Bucket
from predictor.engine.cuda.prefill_graphs import _PrefillGraph
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.pages import pages_of_slot
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Sequence
from predictor.model.cuda.decoder import PLAIN, FusedDecoder
from predictor.model.cuda.slots import StepPlaces
from tests.bench.environment import describe
from tests.bench.load import Clips, options
from tests.bench.partition import Part, part_capturer, split
from tests.bench.parts import point_at_all
from tests.bench.shapes import SHAPES, random_model

CONTEXT = 480  # tokens of each sequence when a measurement begins
TILES = (
    (64, 4, 3), (64, 4, 2), (64, 2, 3), (64, 2, 2), (32, 4, 3), (32, 4, 4), (32, 2, 3), (32, 2, 4),
    (32, 1, 4), (32, 1, 3), (64, 1, 3), (16, 1, 6), (128, 4, 3),
)  # fmt: skip


class Bench:
    """The two steps, in graphs for any part of the device."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.small = arguments.shapes == "tiny"
        self.on_cuda = self.device.type == "cuda"
        self.num_rows, self.num_clips = (4, 2) if self.small else (512, 20)
        self.clip_s = 2.0 if self.small else arguments.clip_s
        if not self.small:
            self.num_clips = min(int(600 // self.clip_s), int(8192 // (13 * self.clip_s + 16)))
        self.context = 32 if self.small else round(CONTEXT * self.clip_s / 30)
        dtype = torch.bfloat16 if self.on_cuda else torch.float32
        model = random_model(SHAPES[arguments.shapes], self.device, dtype)
        self.runner = GraphRunner(
            model,
            num_slots=self.num_rows + self.num_clips,
            max_model_len=768,
            options=GraphOptions(
                buckets=(self.num_rows,), check_kernels=False,
                **({} if self.on_cuda else {"fusion": PLAIN}),
            ),
        )  # fmt: skip
        point_at_all(self.runner)
        clips = Clips(SHAPES[arguments.shapes].text.vocab_size)
        self.sequences = []
        for i in range(self.num_clips):
            sequence = Sequence(
                clips.request(self.clip_s), self.runner.limits, options(max_model_len=768)
            )
            sequence.slot = self.num_rows + i
            sequence.pages = pages_of_slot(sequence.slot, 768, self.runner.page_size)
            self.sequences.append(sequence)
        # Decode steps for each prefill step where clips come and go evenly.
        self.ratio = self.num_clips * clips.request(self.clip_s).max_new_tokens / self.num_rows

    @torch.inference_mode()
    def decode(self, part: Part | None) -> Callable[[], None]:
        loop = self.runner._loop
        if not self.on_cuda:
            return lambda: loop.step(self.num_rows)
        graph = part_capturer(self.device, part).capture(lambda: loop.step(self.num_rows))
        return graph.replay

    @torch.inference_mode()
    def prefill(self, part: Part | None) -> Callable[[], None]:
        runner = self.runner
        if not self.on_cuda:
            return lambda: runner.prefill(self.sequences) and None
        layout = PromptLayout.of(self.sequences, runner._cache.page_tokens)
        bucket = Bucket(608, 768, 104, 8192)
        graph = _PrefillGraph(bucket, runner._loop, self.device)
        prefills = runner._prefills
        graph.capture(
            part_capturer(self.device, part), prefills._mel, prefills._encoder, runner._fused
        )
        stretches = [s for q in self.sequences for s in q.stretches()]
        graph.start(self.sequences, stretches, lambda: layout)
        torch.cuda.synchronize(self.device)

        def replay() -> None:
            for stage in graph._graphs:
                stage.replay()

        return replay

    def marks(self, run: Callable[[], None], count: int, stream: Any, steps: bool) -> list[Any]:
        """Start `count` runs on a stream; an event before them and after each."""
        with torch.cuda.stream(stream), torch.inference_mode():
            if steps:
                self.runner._loop.positions.fill_(self.context)
            made = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
            made[0].record(stream)
            for event in made[1:]:
                run()
                event.record(stream)
        return made

    def alone(self, run: Callable[[], None], count: int, stream: Any, steps: bool) -> float:
        """Median milliseconds of one run."""
        if not self.on_cuda:
            began = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - began)
        torch.cuda.synchronize(self.device)
        made = self.marks(run, count, stream, steps)
        torch.cuda.synchronize(self.device)
        pairs = pairwise(made[1:])
        return statistics.median(a.elapsed_time(b) for a, b in pairs)

    def together(
        self, decode: Callable[[], None], prefill: Callable[[], None], streams: tuple[Any, Any]
    ) -> dict[str, float]:
        """Milliseconds of each while both run all the time."""
        if not self.on_cuda:
            return {"decode": self.alone(decode, 1, None, True), "prefill": 1.0}
        num_prefills = 6
        num_steps = int(num_prefills * 2.2 * self.ratio)
        torch.cuda.synchronize(self.device)
        with torch.inference_mode():
            self.runner._loop.positions.fill_(self.context)
        torch.cuda.synchronize(self.device)
        prefills = self.marks(prefill, num_prefills, streams[1], False)
        steps = self.marks(decode, num_steps, streams[0], False)
        torch.cuda.synchronize(self.device)
        origin = prefills[0]
        ends = [origin.elapsed_time(event) for event in prefills]
        said = [origin.elapsed_time(event) for event in steps]
        last = min(ends[-1], said[-1])
        return {"decode": _pace(said, last), "prefill": _pace(ends, last)}

    def gain(self, alone: dict[str, float], both: dict[str, float]) -> float:
        """Of the throughput, where the work comes in the ratio of the load, and what is left of one
        kind runs alone on the whole device."""
        in_turn = alone["prefill"] + self.ratio * alone["decode"]
        prefill, decode = both["prefill"], self.ratio * both["decode"]
        shared = min(prefill, decode)
        rest = (1 - shared / prefill) * alone["prefill"]
        rest += (1 - shared / decode) * self.ratio * alone["decode"]
        return in_turn / (shared + rest)


def _pace(ends: list[float], last: float) -> float:
    """Milliseconds of a run, from the first to the last one that ended before `last`."""
    inside = [end for end in ends if 0 <= end <= last + 1e-6]
    return (inside[-1] - inside[0]) / max(1, len(inside) - 1)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--parts", type=int, nargs="*", default=[48, 40, 56, 64, 72])
    parser.add_argument("--clip_s", type=float, default=30.0)
    parser.add_argument(
        "--more", action="store_true", help="tiles of the attention and other plans"
    )
    parser.add_argument("--budget_s", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    deadline = time.perf_counter() + arguments.budget_s
    bench = Bench(arguments)
    result: dict[str, Any] = {
        "environment": describe(),
        "method": __doc__,
        "shape": arguments.shapes,
        "num_sequences": bench.num_rows,
        "context": bench.context,
        "prefill_clips": bench.num_clips,
        "clip_s": bench.clip_s,
        "decode_steps_a_prefill": bench.ratio,
        "rows": {},
    }

    def save(name: str, row: dict[str, Any]) -> None:
        result["rows"][name] = {
            k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()
        }
        print(f"{time.perf_counter() - deadline + arguments.budget_s:5.1f} s  {name}: "
              f"{json.dumps(result['rows'][name])[:900]}", flush=True)  # fmt: skip
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")

    run_all(bench, arguments, save, deadline)


def run_all(
    bench: Bench, arguments: argparse.Namespace, save: Callable[..., None], deadline: float
) -> None:
    decode, prefill = bench.decode(None), bench.prefill(None)
    main_stream = torch.cuda.current_stream(bench.device) if bench.on_cuda else None
    for _ in range(2):
        alone = {
            "decode": bench.alone(decode, 12, main_stream, True),
            "prefill": bench.alone(prefill, 5, main_stream, False),
        }
    save("in turn", alone | {"both": alone["prefill"] + bench.ratio * alone["decode"]})
    if not bench.on_cuda:
        both = bench.together(decode, prefill, (None, None))
        save("plain streams", both | {"gain": bench.gain(alone, both)})
        return
    everywhere = {
        priority: Part(torch.cuda.Stream(bench.device, priority=priority), None)
        for priority in (0, -1)
    }
    rows: list[tuple[str, Part, Part]] = [
        ("plain streams", everywhere[0], Part(torch.cuda.Stream(bench.device), None)),
        ("plain streams, decode first", everywhere[-1], everywhere[0]),
        ("plain streams, prefill first", everywhere[0], everywhere[-1]),
    ]
    for count in arguments.parts:
        some, others = split(bench.device, count)
        names = (some.num_multiprocessors, others.num_multiprocessors)
        unplanned = Part(others.stream, None)
        rows.append((f"parts {names[0]} + {names[1]}", some, unplanned))
        rows.append((f"decode on {names[0]}, prefill everywhere", some, everywhere[0]))
        if arguments.more and count == arguments.parts[0]:
            rows.append((f"parts {names[0]} + {names[1]}, all planned", some, others))
            rows.append((f"decode everywhere, prefill on {names[1]}", everywhere[-1], unplanned))
    if arguments.more:
        for part in [None, *[row[1] for row in rows if row[0].startswith("parts")][:2]]:
            count = 132 if part is None else part.num_multiprocessors
            stream = main_stream if part is None else part.stream
            times = {"x".join(map(str, t)): tile_ms(bench, t, part, stream) for t in TILES}
            save(f"attention of a layer on {count}", times)
    for name, some, others in rows:
        if time.perf_counter() > deadline:
            return
        try:
            part_row(bench, name, (some, others), alone, save)
        except Exception as error:  # noqa: BLE001  the other rows go on
            save(name, {"error": f"{type(error).__name__}: {error}"[:600]})
        gc.collect()
        torch.cuda.empty_cache()


def part_row(
    bench: Bench,
    name: str,
    parts: tuple[Part, Part],
    alone: dict[str, float],
    save: Callable[..., None],
) -> None:
    some, others = parts
    decode, prefill = bench.decode(some), bench.prefill(others)
    row: dict[str, Any] = {
        "decode_alone": bench.alone(decode, 10, some.stream, True),
        "prefill_alone": bench.alone(prefill, 4, others.stream, False),
    }
    both = bench.together(decode, prefill, (some.stream, others.stream))
    in_turn = alone["prefill"] + both["prefill"] / both["decode"] * alone["decode"]
    row |= both | {"gain": bench.gain(alone, both), "gain_while_both": in_turn / both["prefill"]}
    save(name, row)


def tile_ms(bench: Bench, tile: tuple[int, int, int], part: Part | None, stream: Any) -> float:
    """One layer's decode attention."""
    from dataclasses import replace

    runner, config = bench.runner, bench.runner._model.config.text
    slots = torch.arange(bench.num_rows, device=bench.device)
    positions = torch.full_like(slots, bench.context)
    tables = runner._loop.tables
    where = StepPlaces.of(slots, positions, tables, runner.page_size.tokens)
    query = torch.randn(bench.num_rows, config.num_heads, config.head_dim, device=bench.device)
    query = query.to(runner._model.dtype)
    decoder = FusedDecoder(
        runner._model.decoder, runner._cache, replace(runner.fusion, tile=tile, full_tile=tile),
        max_length=768, tables=tables,
    )  # fmt: skip
    attend = decoder._decode_attention(where)

    def run() -> None:
        for layer in range(config.num_layers):
            attend(layer, query, query, query)

    try:
        graph = part_capturer(bench.device, part).capture(run)
    except Exception:  # noqa: BLE001  a tile that does not fit
        return float("nan")
    return bench.alone(graph.replay, 5, stream, False) / config.num_layers


if __name__ == "__main__":
    main()
