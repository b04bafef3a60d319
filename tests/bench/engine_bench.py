"""One run of the engine's benchmark: its model, its rows and the file they go to."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from predictor.engine import EngineClient, EngineCore
from predictor.engine.cuda.runner import GraphOptions, GraphRunner
from predictor.engine.runner import TorchRunner
from predictor.model.attention import FP8
from predictor.model.model import Model
from predictor.model.quantized import quantize
from tests.bench.environment import describe
from tests.bench.limits import Limits, measure
from tests.bench.load import TOKENS_PER_AUDIO_S, Clips, Shares, options, without_end
from tests.bench.shapes import SHAPES, random_model

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
        self.runner: Any = None  # of the shape in use, with all its graphs

    def use(self, shape: str) -> None:
        """Make the model of a shape; the one before is given up."""
        self.model = self.runner = None
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
        print(f"{name}: {json.dumps(rounded(row))[:700]}", file=sys.stderr, flush=True)
        self.save()
        self.free()

    def save(self) -> None:
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(rounded(self.result), indent=1) + "\n")

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


def rounded(value: Any) -> Any:
    """Numbers to five digits, all the way down."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(v) for v in value]
    return value
