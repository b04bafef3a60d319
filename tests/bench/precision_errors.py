"""What 8 bits cost in errors: the embedded checkpoint in each precision, clip by clip the same.

    python -m tests.bench.precision_errors --make /tmp/clips      (espeak-ng, flite; minutes)
    python -m tests.bench.precision_errors --clips /tmp/clips \\
        --output tests/bench/results/precision-errors-cpu.json

720 clips of each of three seeds: held-out sentences by held-out voices, half of them under noise
10 dB below. On CUDA the kernels run, on a CPU the plain twins of the 8-bit layers and caches, which
compute the same. A precision's errors less those of the first, float32, come with the middle 95 %
of 10,000 draws of clips: what holds 0 may be chance.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.engine import EngineClient, EngineCore
from predictor.engine.options import EngineOptions
from predictor.engine.start.build import make_runner
from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.quantized import LINEARS
from predictor.model.model import Model
from predictor.text.output import OutputParser
from predictor.text.prompt import PromptBuilder
from predictor.text.tokenizer import TextTokenizer
from predictor.types import EngineRequest
from tests.bench.environment import describe
from tests.bench.precision import KV_FP8, quantize
from tests.gpu.test_cuda import TINY, answers
from tests.tiny.evalset import ClipMaker, EvalItem, make_held_out_sets
from tests.tiny.evaluate import edits, units

SEEDS = (7, 8, 9)
CLIPS_OF_A_SET = 360  # two sets of each seed
PRECISIONS = (
    "fp32", "bf16", "fp8", "int8", f"bf16{KV_FP8}", f"fp8{KV_FP8}", "fp8 in blocks",
)  # fmt: skip
BLOCK = 128  # weights of a block by as many, and inputs of a row, that share a scale
DRAWS = 10_000
METHOD = (
    "embedded checkpoint tiny through the engine, greedy; words of English and characters of "
    "Chinese, without case and punctuation; fp8 and int8: linear layers of the language model, a "
    "scale per output channel and, of fp8, per input row; fp8 in blocks: simulated, a scale per "
    f"{BLOCK} x {BLOCK} weights and {BLOCK} inputs; kv_fp8: float8_e4m3fn keys and values"
)


@dataclass(frozen=True)
class Said:
    """A recording and what is said in it."""

    samples: NDArray[np.float32]
    seed: int
    language: str
    text: str


class BlockFp8(nn.Module):
    """A linear layer as if products had a scale a block, in float32: what a finer scale would
    give."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, width = weight.shape
        padded = F.pad(weight.float(), (0, -width % BLOCK, 0, -rows % BLOCK))
        blocks = padded.view(len(padded) // BLOCK, BLOCK, -1, BLOCK)
        scale = blocks.abs().amax((1, 3), keepdim=True).clamp_min(1e-30) / torch.finfo(FP8).max
        rounded = (blocks / scale).to(FP8).float() * scale
        self.register_buffer("kept", rounded.view_as(padded)[:rows, :width].contiguous())

    def forward(self, x: Tensor) -> Tensor:
        """[M, K] -> [M, N]"""
        assert isinstance(self.kept, Tensor)
        width = x.shape[1]
        blocks = F.pad(x.float(), (0, -width % BLOCK)).view(len(x), -1, BLOCK)
        scale = blocks.abs().amax(2, keepdim=True).clamp_min(1e-30) / torch.finfo(FP8).max
        rounded = ((blocks / scale).to(FP8).float() * scale).view(len(x), -1)[:, :width]
        return F.linear(rounded, self.kept).to(x.dtype)


def model_in(precision: str, device: str) -> Model:
    """The embedded checkpoint."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    model = load_model(TINY, device=device, dtype=dtype)
    weights = precision.removesuffix(KV_FP8)
    if precision == "fp8 in blocks":
        for layer in model.decoder.layers:
            for name in LINEARS:
                weight = layer.get_submodule(name).get_parameter("weight")
                setattr(layer, name, BlockFp8(weight.detach()))
    elif weights not in ("fp32", "bf16"):
        quantize(model, weights)
    return model


def heard(precision: str, device: str, said: list[Said], at_once: int) -> list[str]:
    """The texts."""
    tokenizer = TextTokenizer.load(TINY)
    prompt = PromptBuilder(tokenizer, max_context_tokens=100).build()
    requests = [
        EngineRequest(
            str(i), one.samples, prompt.tokens_before, prompt.tokens_after, max_new_tokens=300
        )
        for i, one in enumerate(said)
    ]
    settings = EngineOptions(max_num_seqs=at_once, max_model_len=1024)
    runner = make_runner(
        model_in(precision, device), num_slots=at_once, max_model_len=1024,
        max_prefill_audio_s=120.0, max_prefill_tokens=8192,
        kv_dtype=FP8 if precision.endswith(KV_FP8) else None,
    )  # fmt: skip
    engine = EngineClient([EngineCore(runner, settings)])
    engine.start()
    try:
        tokens = answers(engine, requests, at_once=2 * at_once)
    finally:
        engine.stop()
    texts = []
    for ids in tokens:
        parser = OutputParser(tokenizer, None)
        parser.add(ids, [0.0] * len(ids))
        texts.append(parser.finish()[1].text)
    return texts


def counts_of(said: list[Said], texts: list[str]) -> NDArray[np.int64]:
    """Edits and units of each clip: [clips, 2]."""
    rows = []
    for one, text in zip(said, texts, strict=True):
        reference = units(one.text, one.language)
        rows.append((edits(reference, units(text, one.language))[0], len(reference)))
    return np.array(rows, dtype=np.int64)


def rate_of(counts: NDArray[np.int64]) -> float:
    """Percent."""
    return round(100 * float(counts[:, 0].sum() / counts[:, 1].sum()), 3)


def difference(ours: NDArray[np.int64], base: NDArray[np.int64]) -> dict[str, Any]:
    """Percentage points more than `base`, of the same clips, and 95 % of what chance makes it."""
    draws = np.random.default_rng(0).multinomial(
        len(ours), np.full(len(ours), 1 / len(ours)), size=DRAWS
    )
    more = draws @ (ours[:, 0] - base[:, 0]) / (draws @ ours[:, 1])
    low, high = np.quantile(100 * more, (0.025, 0.975))
    return {
        "difference": round(rate_of(ours) - rate_of(base), 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "clips with other errors": int((ours[:, 0] != base[:, 0]).sum()),
    }


def row_of(
    said: list[Said], counts: NDArray[np.int64], base: NDArray[np.int64] | None
) -> dict[str, Any]:
    """Error rates in percent: of all, by seed and by language."""
    row: dict[str, Any] = {"value": rate_of(counts), "unit": "%", "clips": len(said)}
    seeds, languages = (
        np.array([getattr(one, name) for one in said]) for name in ("seed", "language")
    )
    row["seeds"] = {str(seed): rate_of(counts[seeds == seed]) for seed in np.unique(seeds)}
    row |= {str(name): rate_of(counts[languages == name]) for name in np.unique(languages)}
    return row if base is None else row | difference(counts, base)


def make(folder: Path, seeds: list[int], count: int) -> None:
    """Clips of `seeds` as Opus files, and what is said in them."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in seeds:
        sets = make_held_out_sets(ClipMaker(seed), count)
        items: list[EvalItem] = [item for items in sets.values() for item in items]
        for index, item in enumerate(items):
            name = f"{seed}-{index:03d}.opus"
            soundfile.write(
                folder / name, item.audio, 16_000, format="OGG", subtype="OPUS",
                compression_level=0.9,
            )  # fmt: skip
            row = {"audio": name, "text": item.text, "language": item.language, "seed": seed}
            lines.append(json.dumps(row, ensure_ascii=False))
        print(f"seed {seed}: {len(items)} clips", flush=True)
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read(folder: Path) -> list[Said]:
    """What `make` wrote, or the evaluation set."""
    said = []
    for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        samples, rate_hz = soundfile.read(folder / row["audio"], dtype="float32")
        assert rate_hz == 16_000
        said.append(Said(samples, row.get("seed", 0), row["language"], row["text"]))
    return said


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    said = read(arguments.clips)
    result: dict[str, Any] = {
        "environment": describe(),
        "device": arguments.device,
        "method": METHOD,
        "audio_s": round(sum(len(one.samples) for one in said) / 16_000, 1),
        "rows": {},
    }
    base: NDArray[np.int64] | None = None
    for precision in arguments.precisions.split(","):
        began_s = time.monotonic()
        counts = counts_of(said, heard(precision, arguments.device, said, arguments.at_once))
        row = row_of(said, counts, base)
        base = counts if base is None else base
        result["rows"][precision] = row | {"row_s": round(time.monotonic() - began_s, 1)}
        print(precision, json.dumps(result["rows"][precision]), flush=True)
        if arguments.output is not None:
            arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--make", type=Path, help="write clips into this folder, measure nothing")
    parser.add_argument("--clips", type=Path, help="a folder that --make wrote, or tests/data/eval")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--count", type=int, default=CLIPS_OF_A_SET, help="of each of two sets")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="the first is the base")
    parser.add_argument("--at_once", type=int, default=32)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    if (arguments.make is None) == (arguments.clips is None):
        parser.error("give one of --make and --clips")
    if arguments.make is not None:
        make(arguments.make, arguments.seeds, arguments.count)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
