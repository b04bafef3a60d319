"""What 8-bit weights and caches bring on a GPU, side by side with bf16, and the errors they cost.

    python -m tests.bench.precision --output tests/bench/results/precision-GPU.json
    python -m tests.bench.precision --shapes tiny --device cpu --budget_s 60     (a smoke test)

For each precision, in a process of its own, so that a fault costs no other's rows: decode steps by
batch, a prefill step of 20 clips, offline RTFx of 30 s clips, error rate of the embedded checkpoint
on the evaluation set, and the four products alone; what ends in `+kv_fp8` has an 8-bit cache.
Random weights of the true shapes; on a CPU the plain twins run. The file is written anew after each
row.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.runner import GraphOptions
from predictor.engine.options import EngineOptions
from predictor.engine.pages import PAGE_TOKENS, pages_of_slot
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Sequence
from predictor.engine.start.build import make_runner
from predictor.engine.start.memory import cuda_work_bytes, plan_pages
from predictor.model import quantized
from predictor.model.attention import FP8, Packing
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.quantized import replace_linears
from predictor.model.decoder import DecoderLayer
from predictor.model.model import Model
from tests.bench.engine_bench import Bench
from tests.bench.engine_loads import offline
from tests.bench.load import options
from tests.bench.parts import point_at_all, timed_ms
from tests.bench.precision_products import products

KV_FP8 = "+kv_fp8"  # of a precision whose cache is in 8 bits
PRECISIONS = ("bf16", "fp8", "int8", f"bf16{KV_FP8}", f"fp8{KV_FP8}")
BATCHES = (1, 8, 32, 128, 256, 512)
CONTEXT = 460  # tokens of context at a decode step
GRACE_S = 60.0  # beyond a process's budget, before it is ended


def quantize(model: Model, precision: str) -> None:
    """On a CPU the twins, which no serving uses."""
    if precision == "bf16":
        return
    if model.device.type == "cuda":
        quantized.quantize(model, precision)
        torch.cuda.empty_cache()
        return
    for layer in model.decoder.layers:
        assert isinstance(layer, DecoderLayer)
        replace_linears(layer, precision)


class PrecisionBench:
    """The rows of one precision."""

    def __init__(self, bench: Bench, precision: str) -> None:
        self.bench = bench
        self.precision = precision
        self.weights = precision.removesuffix(KV_FP8)
        self.kv_dtype = FP8 if precision.endswith(KV_FP8) else bench.dtype
        self.runner: Any = None

    def run(self, shape: str) -> None:
        self.bench.use(shape)
        self.row("start", self.start)
        self.row("decode steps", lambda: self.decode_steps(self.runner))
        self.row("prefill step", self.prefill_step)
        name = "offline 2 s" if self.bench.small else "offline 30 s"
        self.row(name, self.offline, least_s=20.0)
        self.row("errors", self.errors, least_s=15.0)
        if self.precision == self.weights:  # products know nothing of a cache
            self.row("products", lambda: products(self.bench, self.model), least_s=15.0)
        if self.precision == "fp8" and self.bench.device.type == "cuda":
            self.row("decode steps, rows quantized apart", self.decode_steps_apart, least_s=15.0)

    def row(self, name: str, run: Callable[[], dict[str, Any]], least_s: float = 5.0) -> None:
        least_s = 1.0 if self.bench.small else least_s
        self.bench.row(f"{self.precision} {name}", run, least_s)

    @property
    def model(self) -> Model:
        assert self.bench.model is not None
        return self.bench.model

    def start(self) -> dict[str, Any]:
        """Quantize, check, and capture every graph; and how many sequences memory holds."""
        before = self._allocated()
        began = time.perf_counter()
        quantize(self.model, self.weights)
        quantized_s = time.perf_counter() - began
        after = self._allocated()
        slots = self._slots_that_fit()
        self.runner = self.bench.graph_runner(kv_dtype=self.kv_dtype)
        if self.bench.device.type == "cuda":
            while self.runner.idle():
                pass
            assert self.runner._capturer is not None, "no graph could be captured"
        return {
            "value": quantized_s,
            "unit": "s",
            "weights_gb_before": before,
            "weights_gb": after,
            "ready_s": time.perf_counter() - began,
            "slots_that_fit": slots,
            "note": f"{after:.2f} GB of {before:.2f}; room for {slots} sequences",
        }

    def _slots_that_fit(self) -> int:
        """As a start plans them, if any number is asked for."""
        settings = options(max_num_seqs=10**6)
        work = cuda_work_bytes(
            self.model.config, options(), settings.max_model_len, self.bench.dtype
        )
        pages = plan_pages(
            self.model.config.text, settings, settings.max_model_len, self.bench.device,
            self.kv_dtype, work,
        )  # fmt: skip
        return pages // -(-settings.max_model_len // PAGE_TOKENS)

    def _allocated(self) -> float:
        if self.bench.device.type != "cuda":
            tensors = [*self.model.parameters(), *self.model.buffers()]
            return sum(t.nbytes for t in tensors) / 1e9
        torch.cuda.synchronize(self.bench.device)
        return torch.cuda.memory_allocated(self.bench.device) / 1e9

    @torch.inference_mode()
    def decode_steps(self, runner: Any) -> dict[str, Any]:
        """Milliseconds of one step by batch, as graphs where there are any."""
        small = self.bench.small
        context = 32 if small else CONTEXT
        result: dict[str, Any] = {"context": context}
        batches = (1, 4) if small else BATCHES
        for batch in batches:
            bucket = next(b for b in runner._buckets if b >= batch)
            point_at_all(runner)
            graph = runner._loop.graphs.get(bucket)

            def steps(g: Any = graph, b: int = bucket) -> None:
                runner._loop.positions.fill_(context)
                for _ in range(8):
                    if g is None:
                        runner._loop.step(b)
                    else:
                        g.replay()

            result[f"step_{batch}_ms"] = timed_ms(self.bench.device, steps) / 8
        result["value"], result["unit"] = result[f"step_{batches[-1]}_ms"], "ms"
        result["note"] = " ".join(f"B{b}={result[f'step_{b}_ms']:.3f}" for b in batches)
        return result

    def decode_steps_apart(self) -> dict[str, Any]:
        """The same without norm and SwiGLU that quantize on the way."""
        fusion = replace(self.runner.fusion, rows=False)
        runner = self.bench.graph_runner(
            GraphOptions(buckets=BATCHES, fusion=fusion, check_kernels=False)
        )
        while runner.idle():
            pass
        return self.decode_steps(runner)

    @torch.inference_mode()
    def prefill_step(self) -> dict[str, Any]:
        """A step of 20 clips of 30 s as the engine runs it, and the language model's part."""
        runner, clips, small = self.runner, self.bench.clips, self.bench.small
        assert clips is not None
        num_clips, duration_s = (2, 2.0) if small else (20, 30.0)
        settings = options(max_model_len=runner.limits.max_model_len)
        sequences = [
            Sequence(clips.request(duration_s), runner.limits, settings) for _ in range(num_clips)
        ]
        for slot, sequence in enumerate(sequences):
            sequence.slot = slot
            sequence.pages = pages_of_slot(slot, runner.limits.max_model_len, runner.page_size)
        device, lengths = self.bench.device, [s.num_prompt_tokens for s in sequences]
        positions = torch.cat([torch.arange(n) for n in lengths]).to(device)
        layout = PromptLayout.of(sequences, runner.page_size.tokens)
        places = torch.from_numpy(layout.rows[2]).to(device)
        packing = Packing.of(lengths, device=device, dtype=self.model.dtype, are_prompts=True)
        x = torch.randn(sum(lengths), self.model.config.text.hidden_size, device=device)
        x = x.to(self.model.dtype)
        language_ms = timed_ms(
            device,
            lambda: runner._fused.prefill(x.clone(), positions, places, packing, packing.ends),
        )
        whole_ms = timed_ms(device, lambda: runner.prefill(sequences))
        runner.recover()
        runner._unclaimed.clear()
        return {
            "value": whole_ms,
            "unit": "ms",
            "num_clips": num_clips,
            "clip_s": duration_s,
            "num_tokens": sum(lengths),
            "language_model_ms": language_ms,
            "note": f"language model {language_ms:.1f} ms of {sum(lengths)} tokens",
        }

    def offline(self) -> dict[str, Any]:
        small = self.bench.small
        durations_s = [2.0] * 6 if small else [30.0] * 512
        return offline(self.bench, self.runner, durations_s, 2)

    def errors(self) -> dict[str, Any]:
        """Words (English) and characters (Chinese) wrong on the evaluation set, checkpoint tiny."""
        from tests.gpu.test_cuda import TINY, answers, error_rate, recordings

        spoken = recordings()[: 6 if self.bench.small else None]
        model = load_model(TINY, device=self.bench.device, dtype=self.bench.dtype)
        quantize(model, self.weights)
        settings = EngineOptions(max_num_seqs=32, max_model_len=1024)
        engine = EngineClient(
            [
                EngineCore(
                    make_runner(
                        model,
                        num_slots=32,
                        max_model_len=1024,
                        max_prefill_audio_s=120.0,
                        max_prefill_tokens=8192,
                        kv_dtype=self.kv_dtype,
                    ),
                    settings,
                )
            ]
        )
        engine.start()
        try:
            tokens = answers(engine, [item.request for item in spoken], at_once=200)
        finally:
            engine.stop()
        rate = error_rate(spoken, tokens)
        return {
            "value": 100 * rate,
            "unit": "%",
            "checkpoint": "tiny",
            "num_recordings": len(spoken),
            "num_tokens": sum(map(len, tokens)),
        }


def table(rows: dict[str, Any]) -> str:
    """Each row, and beside it how it compares with the 16-bit one."""
    lines = [f"{'row':<48}{'measured':>10} {'unit':<9}{'of bf16':>8}  note"]
    for name, row in rows.items():
        value = row.get("value")
        shape, precision, rest = name.split(" ", 2)
        base = rows.get(f"{shape} bf16 {rest}", {}).get("value")
        ratio = f"{value / base:.2f}" if value and base and precision != "bf16" else ""
        note = row.get("error") or row.get("skipped") or row.get("note", "")
        shown = "-" if value is None else f"{value:.4g}"
        lines.append(f"{name:<48}{shown:>10} {row.get('unit', ''):<9}{ratio:>8}  {str(note)[:160]}")
    return "\n".join(lines)


def measure(arguments: argparse.Namespace) -> None:
    """One precision in this process."""
    torch.set_num_threads(max(1, min(8, (os.cpu_count() or 1) // 2)))
    plain = {"precision": "bf16", "kv_precision": "auto", "switches": ""}  # ours come later
    bench = Bench(argparse.Namespace(**vars(arguments) | plain))
    for name in ("goals", *plain):  # of the engine's own benchmark
        bench.result.pop(name, None)
    try:
        PrecisionBench(bench, arguments.precision).run(arguments.shapes)
    except Exception as error:  # noqa: BLE001  said in the result
        traceback.print_exc()
        name = f"{arguments.shapes} {arguments.precision} failed"
        bench.result["rows"][name] = {"error": repr(error)[:500]}
    bench.save()


def measure_apart(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every precision in a process of its own; the file grows with each."""
    result: dict[str, Any] = {}
    deadline = time.perf_counter() + arguments.budget_s
    wanted = arguments.precisions.split(",")
    for index, precision in enumerate(wanted):
        budget_s = (deadline - time.perf_counter()) / (len(wanted) - index)
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part.json"
            command = [sys.executable, "-m", "tests.bench.precision", "--precision", precision]
            command += ["--shapes", arguments.shapes, "--device", arguments.device]
            command += ["--budget_s", str(budget_s), "--output", str(part)]
            failed = None
            try:
                code = subprocess.run(command, timeout=budget_s + GRACE_S).returncode
                failed = f"the process ended with {code}" if code else None
            except subprocess.TimeoutExpired:
                failed = "out of time"
            if part.is_file():
                measured = json.loads(part.read_text(encoding="utf-8"))
                measured["rows"] = result.get("rows", {}) | measured["rows"]
                result = result | measured
        if failed:
            name = f"{arguments.shapes} {precision} failed"
            result.setdefault("rows", {})[name] = {"error": failed}
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--shapes", default="1.7B", help="1.7B, 0.6B or tiny")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="comma-separated")
    parser.add_argument("--precision", choices=PRECISIONS, help="this one, in this process")
    parser.add_argument("--budget_s", type=float, default=600.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.precision:
        measure(arguments)
        return
    result = measure_apart(arguments)
    print(table(result.get("rows", {})), flush=True)


if __name__ == "__main__":
    main()
