"""Writes what manifests/SIZES.md says about the measured GPU from the benchmarks' result files.

python -m tests.bench.sizes
"""

from __future__ import annotations

import re
from typing import Any

from pipelines.lib.capacity import Sizing, target_concurrency
from tests.bench.environment import ROOT
from tests.bench.readme import load_results

README = ROOT / "manifests" / "SIZES.md"
BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"
# Rows and how many recordings are under way at once in each.
OFFLINE = {
    "1.7B offline 64 x 10 s": 64,
    "1.7B offline 30 s": 512,
    "1.7B offline 10 s": 512,
    "1.7B offline mixed": 512,
}
STEADY, STEPS = "1.7B steady 32 x 10 s, p95/p50", "1.7B decode steps"
STARTS = {
    "1.7B start, cold": "nothing of the disk in memory",
    "1.7B start, warm": "files in memory",
}
CLIP_S, LATENCY_S, PLANNED = 10, 0.5, 0.5  # mean recording, time for each, share of the rate
FULL_BATCH, PIECE_S = 256, 30  # a full batch, and the longest pieces in it
PIECE_MIB = 8 * 7  # of keys and values of such a piece: pages of 64 tokens at 112 KiB


def target(results: dict[str, Any]) -> int:
    """Requests in flight that the GPU answers within LATENCY_S, half of its rate planned."""
    rtfx = results["rows"]["1.7B offline 30 s"]["value"]
    return target_concurrency(rtfx, CLIP_S, LATENCY_S, sizing=Sizing(PLANNED))


def measured(results: dict[str, Any]) -> str:
    """The rows of the benchmark, what follows for that GPU, and the settings for it."""
    rows = results["rows"]
    steady, steps = rows[STEADY], rows[STEPS]
    last, first = steady["last_token"], steady["first_token"]
    lines = [
        "| row | result |",
        "| --- | --- |",
        f"| `{STEADY}` | {steady['rtfx_about']:,.0f} audio seconds a second with 32 recordings in "
        f"flight; done in {last['p50_ms']:.0f} ms (median) and {last['p95_ms']:.0f} ms (95th "
        f"percentile), first token in {first['p95_ms']:.0f} ms (95th percentile) |",
        *(
            f"| `{row}` | {rows[row]['value']:,.0f} audio seconds a second, "
            f"{at_once} recordings at once |"
            for row, at_once in OFFLINE.items()
        ),
        f"| `{STEPS}` | {steps['step_1_ms']:.2f} ms for one sequence, {steps['step_32_ms']:.2f} ms "
        f"for 32, {steps['step_256_ms']:.2f} ms for 256 |",
        *(
            f"| `{row}` | {rows[row]['value']:.1f} s from the start of the process to the first "
            f"transcript over HTTP, kernels compiled ahead as in the image, {what} |"
            for row, what in STARTS.items()
        ),
        "",
        "So a `scaleTarget` of 32 leaves most of such a card unused: it is there because the same "
        "files must run on slower ones. On an H100 take what the table says and "
        "`notebooks/04_capacity.ipynb` derives (half of "
        f"{rows['1.7B offline 30 s']['value']:,.0f} planned, recordings of {CLIP_S} s, half a "
        "second each):",
        "",
        "| setting | as in the files | one H100 of 80 GB |",
        "| --- | --- | --- |",
        f"| `batch_size` (`base/model-config.json`) | 64 | {FULL_BATCH}: with pieces of "
        f"{PIECE_S} s {FULL_BATCH * PIECE_MIB / 1024:.0f} GiB of cache |",
        "| `max_prefill_audio_s` (the same file) | 120 | 640, as measured |",
        "| `max_held_audio_s` (the same file) | 7,200 | "
        f"{2 * FULL_BATCH * PIECE_S:,}, two full batches of {PIECE_S} s |",
        f"| `scaleTarget` (`components/knative-autoscaling`) | 32 | {target(results)} |",
        f"| `containerConcurrency` | 64 | {FULL_BATCH} |",
    ]
    return "\n".join(lines)


def shown(text: str) -> str:
    """What stands between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    table = measured(load_results())
    pattern = re.compile(f"{BEGIN}.*{END}", re.DOTALL)
    README.write_text(pattern.sub(lambda _: f"{BEGIN}\n{table}\n{END}", README.read_text()))


if __name__ == "__main__":
    main()
