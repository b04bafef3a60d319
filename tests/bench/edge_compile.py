"""What torch.compile does for the decode step, and how long it takes to do it.

    python -m tests.bench.edge_compile FOLDER PRECISION

At one length of the cache, the best case: real steps each have another, for which it compiles again
or makes slower code.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from predictor.engine.start.build import build_engine
from predictor.model.attention import CacheView
from tests.bench.load import options

LENGTH = 180  # of the cache, as when 10 s of audio are answered
STEPS = 20


def main() -> None:
    folder, precision = sys.argv[1:]
    torch.set_num_threads(1)  # two would wait for each other where other jobs run
    engine: Any = build_engine(Path(folder), "cpu", precision, options(max_num_seqs=1))
    runner = engine._runner
    decoder, cache = runner._model.decoder, runner._cache

    def timed(decode: Callable[..., Any]) -> list[float]:
        seconds = []
        places = torch.tensor([LENGTH - 1])
        view = CacheView.of([0], [LENGTH], device=torch.device("cpu"))
        for _ in range(STEPS):
            began = time.perf_counter()
            decoder.logits(decode(torch.tensor([5]), places, places, view, cache))
            seconds.append(time.perf_counter() - began)
        return seconds

    with torch.inference_mode():
        timed(decoder.decode)
        compiled = torch.compile(decoder.decode, dynamic=False)
        compiling = timed(compiled)
        # In turns, so that what else the machine does meets both alike.
        plain, fast = [], []
        for _ in range(3):
            plain += timed(decoder.decode)
            fast += timed(compiled)
    print(
        json.dumps(
            {
                "step_ms": 1e3 * min(plain),
                "step_median_ms": 1e3 * statistics.median(plain),
                "compiled_step_ms": 1e3 * min(fast),
                "compiled_step_median_ms": 1e3 * statistics.median(fast),
                "compile_s": sum(compiling) - len(compiling) * statistics.median(fast),
                "load_average": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
