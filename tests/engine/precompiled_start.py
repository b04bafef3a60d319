"""A program: what a start finds of shipped kernels, on a machine without a GPU.

    python -m tests.engine.precompiled_start MODEL_FOLDER ARCH SHIPPED OWN [PRECISIONS]

Goes through a start's kernels again, under the same stand-in for the driver, with Triton's folder
OWN and SHIPPED beneath it; in the precisions of the arch or those named. Prints how many kernels it
found and how many it had to compile.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import torch
from triton import knobs

from predictor.engine.start import precompile
from predictor.model.attention import FP8
from predictor.model.config import ModelConfig
from predictor.model.cuda import kernel_cache


def main() -> None:
    model, arch, shipped, own = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    precisions = sys.argv[5].split(",") if sys.argv[5:] else precompile.precisions(arch)
    os.environ["TRITON_CACHE_DIR"] = str(own)
    kernel_cache.SHIPPED = shipped
    hits: list[bool] = []
    knobs.compilation.listener = lambda **step: hits.append(step["cache_hit"])
    with tempfile.TemporaryDirectory() as library, torch.inference_mode():
        precompile.make_library(Path(library))
        kernel_cache.use_kernels(arch)
        precompile.stand_in(arch, own, Path(library))
        config = ModelConfig.from_folder(Path(model))
        for precision in precisions:
            precompile.compile_all(config, precision)
            if arch >= precompile.FP8_ARCH:
                precompile.compile_all(config, precision, FP8)
    print(sum(hits), len(hits) - sum(hits))


if __name__ == "__main__":
    main()
