"""What 8 bits cost word times: |error| of the embedded aligner in each precision, on all of the
evaluation set.

    python -m tests.bench.align_precision --output tests/bench/results/align-precision.json

On a CPU the plain twins of the 8-bit layers run, which compute what the kernels do; on CUDA the
kernels themselves. Each word's true times come with the synthesised recordings.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from predictor.align.model import Aligner
from predictor.model.cuda.quantized import part_quantizer
from tests.align.scores import TINY, errors, summary
from tests.bench.environment import describe

PRECISIONS = ("fp32", "bf16", "fp8")
METHOD = (
    "embedded tiny-aligner, recording by recording, as a server aligns them; |error| in ms of "
    "starts and ends against the synthesiser's own times, of English words and Chinese characters; "
    "fp8: linear layers of the language model, weights by channel and inputs by row, all else bf16"
)


def scores(precision: str, device: str) -> dict[str, Any]:
    """Of one precision, by language."""
    aligner = Aligner(
        TINY,
        device=device,
        dtype=torch.float32 if precision == "fp32" else torch.bfloat16,
        quantize_part=part_quantizer(precision) if precision == "fp8" else None,
    )
    return summary(errors(aligner))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="comma-separated")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "environment": describe(),
        "device": arguments.device,
        "method": METHOD,
        "rows": {},
    }
    for precision in arguments.precisions.split(","):
        began_s = time.monotonic()
        result["rows"][precision] = scores(precision, arguments.device)
        result["rows"][precision]["row_s"] = round(time.monotonic() - began_s, 1)
        if arguments.output is not None:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(precision, json.dumps(result["rows"][precision]), flush=True)


if __name__ == "__main__":
    main()
