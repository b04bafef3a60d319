"""The engine's speed: every row of the table in one command, beside its limits and other ways.

    python -m tests.bench.engine --output tests/bench/results/engine-GPU.json
    python -m tests.bench.engine --shapes tiny --device cpu --budget_s 10       (a smoke test)

Random weights of the true shapes, made on the device; answers forced to 3.5 tokens a second of
audio by taking the end tokens out of the runner's limits. A row that fails leaves its error in the
result and the others run on; the file is written anew after each row.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.runner import TorchRunner
from predictor.engine.start.build import OVERLAP_FROM, READY_PREFILL_S, READY_SEQUENCES
from predictor.model.attention import FP8
from predictor.model.cuda.decoder import PLAIN
from predictor.model.model import Model
from predictor.model.quantized import quantize
from tests.bench import reuse
from tests.bench.environment import describe
from tests.bench.limits import Limits, measure
from tests.bench.load import (
    TOKENS_PER_AUDIO_S,
    Clips,
    Shares,
    all_at_once,
    one,
    options,
    quantiles,
    steady,
    without_end,
)
from tests.bench.parts import decode_steps, kernel_times, prefill_parts
from tests.bench.shapes import SHAPES, random_model, transformers_config
from tests.bench.watchdog import watched

# What this engine is to reach on the fastest card it is made for (141 GB, 4.8 TB/s); RTFx,
# milliseconds or seconds.
GOALS = {
    "1.7B offline 30 s": 6000,
    "1.7B offline 10 s": 6500,
    "1.7B offline mixed": 5000,
    "1.7B one 10 s clip": 45,
    "1.7B one 30 s clip, first token": 15,
    "1.7B steady 32 x 10 s, p95/p50": 1.5,
    "1.7B start, cold": 8,
    "0.6B offline 30 s": 10000,
}
GRACE_S = 15.0  # beyond the budget, before the process leaves
NUM_SLOTS = 512  # sequences at once: 43 GB of cache at 768 tokens each


class Bench:
    """One run: its model, its rows and the file they go to."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.small = arguments.shapes == "tiny"
        self.output: Path | None = arguments.output
        self.deadline = time.perf_counter() + arguments.budget_s
        self.switches = dict(map(_switch, filter(None, arguments.switches.split(","))))
        self.kv_dtype = FP8 if arguments.kv_precision == "fp8" else None
        self.precision = arguments.precision
        self.result: dict[str, Any] = {
            "environment": _environment(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "tokens_per_audio_s": TOKENS_PER_AUDIO_S,
            "method": "random weights; end tokens ignored; EngineClient.submit, waveforms in host "
            "memory to token ids in host memory; one warm-up, median of repeats",
            "goals": GOALS,
            "switches": arguments.switches,
            "precision": arguments.precision,
            "kv_precision": arguments.kv_precision,
            "rows": {},
        }
        self.ceilings = measure(self.device)
        self.result["device_ceilings"] = {
            "tflops": self.ceilings.flops / 1e12,
            "tbytes_per_s": self.ceilings.bytes / 1e12,
        }
        self.result["limits"] = {}
        self.shape = ""
        self.model: Model | None = None
        self.clips: Clips | None = None

    def use(self, shape: str) -> None:
        """Make the model of a shape; the one before is given up."""
        self.model = None
        self.free()
        self.shape = shape
        self.model = random_model(SHAPES[shape], self.device, self.dtype)
        if self.precision != "bf16":
            quantize(self.model, self.precision)
            self.free()
        self.clips = Clips(SHAPES[shape].text.vocab_size)
        limits = Limits(SHAPES[shape], self.ceilings)
        self.result["limits"] |= limits.of_rows(shape, self.num_slots)

    def free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def row(self, name: str, run: Callable[[], dict[str, Any]], least_s: float = 5.0) -> None:
        """Run one row if at least `least_s` seconds are left; its error is a result too."""
        name = f"{self.shape} {name}"
        began = time.perf_counter()
        if self.deadline - began < least_s:
            self.result["rows"][name] = {"skipped": "out of time"}
            return
        try:
            row = run()
        except Exception as error:  # noqa: BLE001  the other rows go on
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:500]}
        row["row_s"] = round(time.perf_counter() - began, 2)
        self.result["rows"][name] = row
        print(f"{name}: {json.dumps(_rounded(row))[:700]}", file=sys.stderr, flush=True)
        self.save()
        self.free()

    def save(self) -> None:
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(_rounded(self.result), indent=1) + "\n")

    def graph_runner(
        self,
        graph_options: GraphOptions | None = None,
        slots: int = 0,
        kv_dtype: torch.dtype | None = None,
        max_length: int = 0,
    ) -> Any:
        assert self.model is not None
        settings = options()
        graph_options = graph_options or GraphOptions()
        if self.switches:
            fusion = replace(graph_options.fusion, **self.switches)
            graph_options = replace(graph_options, fusion=fusion)
        return GraphRunner(
            self.model,
            num_slots=slots or self.num_slots,
            max_model_len=max_length or settings.max_model_len,
            options=graph_options,
            kv_dtype=kv_dtype or self.kv_dtype,
        )

    @property
    def num_slots(self) -> int:
        return 4 if self.small else NUM_SLOTS

    @contextmanager
    def engine(self, runner: TorchRunner, shares: Shares | None = None) -> Iterator[EngineClient]:
        """A started engine; the runner never ends a sequence of itself."""
        without_end(runner)
        settings = options(max_num_seqs=runner.num_slots, max_model_len=runner.limits.max_model_len)
        engine = EngineClient(
            [EngineCore(runner, settings, None if shares is None else shares.add)]
        )
        engine.start()
        try:
            yield engine
        finally:
            engine.stop()

    # Rows.

    def offline(
        self, runner: TorchRunner, durations_s: list[float], most_repeats: int = 2
    ) -> dict[str, Any]:
        """All clips at once: a warm-up on some, then up to `most_repeats`."""
        assert self.clips is not None
        clips, audio_s = self.clips, sum(durations_s)
        repeats: list[dict[str, Any]] = []
        asyncio.run(self._offline(runner, durations_s[: max(2, len(durations_s) // 8)]))
        while len(repeats) < (1 if self.small else most_repeats):
            wall_s, shares = asyncio.run(self._offline(runner, durations_s))
            repeats.append({"rtfx": audio_s / wall_s, "wall_s": wall_s, **shares.of(wall_s)})
            if self.deadline - time.perf_counter() < 4 * wall_s:
                break
        ordered = sorted(repeats, key=lambda r: r["rtfx"])
        return {
            "value": statistics.median(r["rtfx"] for r in repeats),
            "unit": "RTFx",
            "num_clips": len(durations_s),
            "num_slots": runner.num_slots,
            "median_repeat": ordered[len(ordered) // 2],
            "repeats": [r["rtfx"] for r in repeats],
            "clip_source": type(clips).__name__,
        }

    async def _offline(self, runner: TorchRunner, durations_s: list[float]) -> tuple[float, Shares]:
        assert self.clips is not None
        requests = [self.clips.request(duration_s) for duration_s in durations_s]
        shares = Shares()
        with self.engine(runner, shares) as engine:
            wall_s = await asyncio.wait_for(all_at_once(engine, requests), 120)
        return wall_s, shares

    def alone(self, runner: TorchRunner, duration_s: float, repeats: int) -> dict[str, Any]:
        """One clip at a time: to its first and to its last token."""
        assert self.clips is not None
        clips = self.clips

        async def run() -> list[Any]:
            with self.engine(runner) as engine:
                return [await one(engine, clips.request(duration_s)) for _ in range(repeats + 2)]

        timings = asyncio.run(run())[2:]
        return {
            "value": 1e3 * statistics.median(t.last_token_s for t in timings),
            "unit": "ms",
            "first_token_ms": 1e3 * statistics.median(t.first_token_s for t in timings),
            "num_tokens": timings[0].num_tokens,
            "repeats": repeats,
        }

    def steady(
        self, runner: TorchRunner, concurrency: int, duration_s: float, rounds: int = 8
    ) -> dict[str, Any]:
        assert self.clips is not None
        clips = self.clips

        async def run() -> tuple[list[Any], float]:
            with self.engine(runner) as engine:
                began = time.perf_counter()
                done = await steady(
                    engine,
                    clips,
                    duration_s=duration_s,
                    concurrency=concurrency,
                    rounds=1 if self.small else rounds,
                )
                return done, time.perf_counter() - began

        timings, wall_s = asyncio.run(run())
        last = quantiles([t.last_token_s for t in timings])
        return {
            "value": last["p95_ms"] / last["p50_ms"],
            "unit": "p95/p50",
            "last_token": last,
            "first_token": quantiles([t.first_token_s for t in timings]),
            "rtfx_about": len(timings) * duration_s / wall_s,
        }

    def start(self) -> dict[str, Any]:
        """From weights on the device to the first token, kernels compiled or loaded."""
        assert self.clips is not None
        began = time.perf_counter()
        runner = self.graph_runner()
        checked_s = time.perf_counter() - began
        if self.device.type == "cuda":
            runner.capture_up_to(READY_SEQUENCES, READY_PREFILL_S)
        ready_s = time.perf_counter() - began
        row = self.alone(runner, 1.0 if self.small else 10.0, 1)
        fusion = asdict(runner.fusion)
        after_s = time.perf_counter() - began
        if self.device.type == "cuda":
            while runner.idle():
                pass
        self.runner = runner
        return {
            "value": ready_s,
            "unit": "s",
            "checked_s": checked_s,
            "first_transcripts_s": after_s,
            "all_graphs_s": time.perf_counter() - began - after_s,
            "first": row,
            "kernels": fusion,
        }

    def agreement(self) -> dict[str, Any]:
        """Tokens that the fast runner and the plain one agree on before they first differ."""
        assert self.model is not None
        assert self.clips is not None
        requests = [self.clips.request(2.0 + 3 * i) for i in range(2 if self.small else 6)]

        async def tokens(runner: TorchRunner) -> list[list[int]]:
            async def answer(request: Any) -> list[int]:
                return [t async for chunk in engine.submit(request) for t in chunk.token_ids]

            with self.engine(runner) as engine:
                return await asyncio.gather(*(answer(r) for r in requests))

        plain = TorchRunner(self.model, num_slots=8, max_model_len=options().max_model_len)
        ours, theirs = asyncio.run(tokens(self.runner)), asyncio.run(tokens(plain))
        equal = [
            next((i for i, (a, b) in enumerate(zip(x, y, strict=True)) if a != b), len(x))
            for x, y in zip(ours, theirs, strict=True)
        ]
        return {
            "value": sum(equal) / sum(map(len, theirs)),
            "unit": "agreed",
            "equal": equal,
            "lengths": [len(x) for x in theirs],
        }

    def generate(self, num_clips: int, duration_s: float) -> dict[str, Any]:
        """transformers.generate on the same shape, features included."""
        from transformers import (
            Qwen3ASRConfig,
            Qwen3ASRFeatureExtractor,
            Qwen3ASRForConditionalGeneration,
        )

        assert self.clips is not None
        shape = SHAPES[self.shape]
        config = Qwen3ASRConfig(**transformers_config(shape))
        with torch.device(self.device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(self.dtype)
            try:
                model: Any = Qwen3ASRForConditionalGeneration(config).eval()
            finally:
                torch.set_default_dtype(before)
        extractor = Qwen3ASRFeatureExtractor()
        requests = [self.clips.request(duration_s) for _ in range(num_clips)]
        num_tokens = requests[0].max_new_tokens

        def run() -> float:
            began = time.perf_counter()
            features = extractor(
                [r.samples for r in requests],
                padding=True,
                sampling_rate=16_000,
                return_attention_mask=True,
                return_tensors="pt",
            )
            audio = [shape.audio_token_id] * _num_audio_tokens(requests[0])
            prompt = [[*r.tokens_before, *audio, *r.tokens_after] for r in requests]
            ids = torch.tensor(prompt, device=self.device)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    input_features=features["input_features"].to(self.device, self.dtype),
                    input_features_mask=features["attention_mask"].to(self.device),
                    max_new_tokens=num_tokens,
                    min_new_tokens=num_tokens,
                    do_sample=False,
                )
            assert output.tolist()
            assert output.shape[1] == ids.shape[1] + num_tokens
            return time.perf_counter() - began

        run()
        wall_s = run()
        return {"value": num_clips * duration_s / wall_s, "unit": "RTFx", "num_clips": num_clips}


def _environment() -> dict[str, Any]:
    """What this runs on, as far as it can be found out."""
    try:
        return describe()
    except OSError as error:
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        return {"gpu": gpu, "torch": torch.__version__, "incomplete": str(error)}


def _switch(text: str) -> tuple[str, Any]:
    """A field of Fusion: a number, or a tile such as 64x4x3."""
    name, _, value = text.partition("=")
    return name, tuple(map(int, value.split("x"))) if "x" in value else int(value)


def _num_audio_tokens(request: Any) -> int:
    from predictor.model.config import num_audio_tokens

    return num_audio_tokens(len(request.samples))


def run_shape(bench: Bench, wanted: Callable[[str], bool]) -> None:
    """All rows of the shape in use, the most telling first."""
    small = bench.small
    long_s, short_s = (2.0, 1.0) if small else (30.0, 10.0)
    many = 6 if small else 2048
    rng = torch.Generator().manual_seed(1)
    mixed = (1 + 29 * torch.rand(many, generator=rng)).tolist()
    mixed = [1.0 + s / 30 for s in mixed[:many]] if small else mixed
    bench.row("start", bench.start)
    runner = getattr(bench, "runner", None)
    if runner is None:  # the kernels or graphs broke: what is left is still worth its rows
        runner = bench.runner = bench.graph_runner(
            GraphOptions(
                use_graphs=False,
                fusion=PLAIN,
                check_kernels=False,
            )
        )
    long_name, short_name = f"{long_s:g} s", f"{short_s:g} s"

    def row(name: str, run: Callable[[], dict[str, Any]], least_s: float = 8.0) -> None:
        if wanted(name):
            bench.row(name, run, 1.0 if small else least_s)

    row(f"offline {long_name}", lambda: bench.offline(runner, [long_s] * many, 3))
    row(f"one {short_name} clip", lambda: bench.alone(runner, short_s, 3 if small else 20))
    row(f"one {long_name} clip, first token", lambda: _first(bench, runner, long_s))
    row("agreement", bench.agreement)
    row(f"{short_name} draft", lambda: reuse.draft(bench, runner, short_s, 3 if small else 20))
    for num_sequences in (3,) if small else (32, 100, 250, 500):
        wall_s = 2.0 if small else 6.0
        row(
            f"{num_sequences} kept sequences",
            lambda n=num_sequences, s=wall_s: reuse.steps(bench, runner, n, s),
            least_s=12.0,
        )
    row(
        f"64 x {long_name} from readiness on",
        lambda: reuse.under_load(bench, long_s, 4 if small else 64, 2.0 if small else 10.0),
        15.0,
    )
    row(f"{long_name} shared context", lambda: reuse.context(bench, long_s, many // 2), 20.0)
    row("parts", lambda: prefill_parts(bench.device, runner, bench.clips, long_s, small))
    row("decode steps", lambda: decode_steps(runner, small))
    row(f"offline {short_name}", lambda: bench.offline(runner, [short_s] * 2 * many))
    row("offline mixed", lambda: bench.offline(runner, mixed))
    row(
        f"steady 32 x {short_name}, p95/p50",
        lambda: bench.steady(runner, 2 if small else 32, short_s),
    )
    row(f"offline {long_name}, prefill beside decode", lambda: _beside(bench, long_s))
    row(f"offline {short_name}, prefill beside decode", lambda: _beside(bench, short_s))
    num_clients = 3 if small else 384
    for duration_s in (short_s, long_s):
        name = f"steady {num_clients} x {duration_s:g} s"
        row(name, lambda d=duration_s: bench.steady(runner, num_clients, d, 3), 15.0)
        row(
            f"{name}, prefill beside decode",
            lambda d=duration_s: bench.steady(_beside_runner(bench), num_clients, d, 3),
            20.0,
        )
    steps_s, kept, files = (2.0, 3, 2) if small else (8.0, 100, 320)
    name = f"{kept} kept sequences and {files} x {long_name}"
    row(name, lambda: reuse.steps(bench, runner, kept, steps_s, files), 15.0)
    row(
        f"{name}, prefill beside decode",
        lambda: reuse.steps(bench, _beside_runner(bench), kept, steps_s, files),
        20.0,
    )
    for steps in (1, 4):
        row(f"offline {long_name}, {steps} steps a look", lambda k=steps: _steps(bench, k, long_s))
    few = [short_s] * (4 if small else 64)
    row(f"offline {len(few)} x {short_name}", lambda: bench.offline(runner, few))
    row(f"plain runner, {len(few)} x {short_name}", lambda: _plain(bench, few))
    batch = 2 if small else 32
    row(f"generate, {batch} x {short_name}", lambda: bench.generate(batch, short_s), 15.0)
    if bench.device.type == "cuda":
        row("kernels", lambda: kernel_times(runner, bench.clips))
    del bench.runner


def _steps(bench: Bench, steps: int, duration_s: float) -> dict[str, Any]:
    """The same load with another number of steps between looks; the graphs stay."""
    runner = bench.runner
    before = runner._options
    runner._options = replace(before, steps=((1, steps),))
    try:
        return bench.offline(runner, [duration_s] * (4 if bench.small else 1024), 1)
    finally:
        runner._options = before


def _beside(bench: Bench, duration_s: float) -> dict[str, Any]:
    """The same load where the device prefills and decodes at once."""
    num_clips = 4 if bench.small else round(2048 * 30 / duration_s)
    return bench.offline(_beside_runner(bench), [duration_s] * num_clips, 2)


def _beside_runner(bench: Bench) -> Any:
    overlap_from = 2 if bench.small else OVERLAP_FROM
    runner = bench.graph_runner(GraphOptions(overlap_from=overlap_from))
    while runner.idle():
        pass
    return runner


def _first(bench: Bench, runner: TorchRunner, duration_s: float) -> dict[str, Any]:
    row = bench.alone(runner, duration_s, 2 if bench.small else 12)
    return row | {"value": row["first_token_ms"], "last_token_ms": row["value"]}


def _plain(bench: Bench, durations_s: list[float]) -> dict[str, Any]:
    assert bench.model is not None
    runner = TorchRunner(
        bench.model,
        num_slots=min(64, len(durations_s)),
        max_model_len=options().max_model_len,
    )
    return bench.offline(runner, durations_s)


def start_from_disk(bench: Bench, shape: str) -> None:
    """The rows of tests/bench/start.py: a process, its checkpoint on disk, the first transcript."""
    bench.model = bench.clips = None
    bench.free()
    left_s = bench.deadline - time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "start.json"
        command = [sys.executable, "-m", "tests.bench.start", "--shapes", shape, "--repeats", "1"]
        command += ["--budget_s", f"{max(5.0, left_s):.0f}", "--output", str(output)]
        subprocess.run(command, check=True, stdout=sys.stderr, timeout=max(30.0, left_s + 10))
        bench.result["rows"] |= json.loads(output.read_text())["rows"]
    bench.save()


def table(result: dict[str, Any]) -> str:
    """What was measured beside what was aimed at."""
    lines = [f"{'row':<46}{'measured':>10} {'unit':<8}{'reach':>8}{'limit':>8}  note"]
    for name, row in result["rows"].items():
        reach, limit = GOALS.get(name, ""), result["limits"].get(name)
        bound = "" if limit is None else f"{limit:.4g}"
        value = row.get("value")
        shown = "-" if value is None else f"{value:.4g}"
        note = row.get("error") or row.get("skipped") or row.get("note", "")
        if "median_repeat" in row:
            m = row["median_repeat"]
            note = (
                " ".join(f"{part} {share:.0%}" for part, share in m["shares"].items())
                + f", {m['prefill_steps']}+{m['decode_looks']} steps"
            )
        lines.append(
            f"{name:<46}{shown:>10} {row.get('unit', ''):<8}{reach!s:>8}{bound:>8}  "
            f"{str(note)[:160]}"
        )
    return "\n".join(lines)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(v) for v in value]
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B,0.6B", help="1.7B, 0.6B, tiny; comma-separated")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rows", default="", help="parts of names, or =name; comma-separated")
    parser.add_argument("--budget_s", type=float, default=600.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp8", "int8"))
    parser.add_argument("--kv_precision", default="auto", choices=("auto", "fp8"))
    parser.add_argument(
        "--switches",
        default="",
        help="fields of Fusion to change: shared=0,full_tile_8_bit=64x4x3",
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(max(1, min(8, (os.cpu_count() or 1) // 2)))
    bench = Bench(arguments)
    with watched(bench.deadline + GRACE_S, lambda: print(table(bench.result))):
        measure_all(bench, arguments)
    print(table(bench.result), flush=True)


def measure_all(bench: Bench, arguments: argparse.Namespace) -> None:
    """All shapes, one after the other."""
    chosen = [part for part in arguments.rows.split(",") if part]

    def wanted(name: str) -> bool:
        return not chosen or any(part in name or part == f"={name}" for part in chosen)

    def wanted_of_second(name: str) -> bool:
        names = ("offline 30 s", "one 10 s clip", "offline 10 s")
        return wanted(name) and name.removesuffix(", prefill beside decode") in names

    shapes, last = arguments.shapes.split(","), bench.deadline
    for index, shape in enumerate(shapes):
        bench.deadline = last - (len(shapes) - 1 - index) * min(40.0, arguments.budget_s / 4)
        try:
            bench.use(shape)
            run_shape(bench, wanted if index == 0 else wanted_of_second)
        except Exception as error:  # noqa: BLE001  the next shape goes on
            traceback.print_exc()
            bench.result["rows"][f"{shape} failed"] = {"error": repr(error)[:500]}
    if wanted("start, from disk"):
        try:
            start_from_disk(bench, shapes[0])
        except (OSError, subprocess.SubprocessError) as error:
            bench.result["rows"][f"{shapes[0]} start, from disk"] = {"error": repr(error)[:500]}
    bench.save()


if __name__ == "__main__":
    main()
