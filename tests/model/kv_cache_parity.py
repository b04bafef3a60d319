"""A program: the kernels of an 8-bit cache, interpreted on the CPU, against plain torch.

Ends with an error when one differs; `--whole` compares in float32 too.
"""

from __future__ import annotations

# isort: off
import tests.model.interpreted  # noqa: F401  before Triton is imported
# isort: on

import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

from predictor.engine.cuda import parity
from predictor.model.attention import FP8
from predictor.model.checkpoint.weights import load_model
from predictor.model.cuda.decoder import Fusion
from predictor.model.cuda.small_batch import small_batch_difference
from tests.model.kv_cache_checks import (
    SHARED,
    attended_newest,
    by_kernels,
    by_the_small_batch_kernel,
    by_the_tiled_step,
    wrongly_kept,
)

TINY = Path(__file__).parents[2] / "predictor" / "checkpoints" / "tiny"
CPU = torch.device("cpu")
# Queries and probabilities are float16 whatever the activations are: 11 bits.
TOLERANCE = 1e-3
IS_WHOLE = sys.argv[1:] == ["--whole"]
DTYPES = (torch.float32, torch.float16) if IS_WHOLE else (torch.float16,)


def check_newest() -> None:
    ways = (
        by_kernels, partial(by_kernels, splits=8), by_the_small_batch_kernel, by_the_tiled_step,
    )  # fmt: skip
    for dtype in DTYPES:
        for way in ways:
            attended = attended_newest(way, CPU, dtype).float()
            if not (attended - SHARED).abs().max() <= SHARED * TOLERANCE:
                raise SystemExit(f"{way}, {dtype}: {attended.unique()} instead of {SHARED}")


def check_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        with np.errstate(all="ignore"):  # infinities and NaN are among them
            num_wrong = wrongly_kept(CPU, dtype)
        if num_wrong:
            raise SystemExit(f"{num_wrong} values of {dtype} are kept as something else")


def check_differences() -> None:
    """On the shapes of a model; bfloat16 matrices the interpreter multiplies as integers."""
    for dtype in DTYPES:
        decoder = load_model(TINY, device=CPU, dtype=dtype).decoder
        differences = {
            "rope": parity._rope(decoder, FP8),
            "attention": parity._attention(Fusion(), decoder, FP8),
            "small_batch": small_batch_difference(decoder, FP8),
        }
        for name, difference in differences.items():
            if not difference <= TOLERANCE:
                raise SystemExit(f"{name}, {dtype}: relative difference {difference:.1e}")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    check_newest()
    check_kept()
    check_differences()


if __name__ == "__main__":
    main()
