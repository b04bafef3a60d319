"""Tables of what the server itself takes, without a device."""

from __future__ import annotations

from typing import Any

OWN_WORK_ROWS = ("V2 binary", "V2 JSON", "OpenAI", "gRPC")
OWN_WORK_HEADS = ("p50, one 10 s WAV at a time", *OWN_WORK_ROWS)
WITHOUT = ", tiled=0"
MEMORY_LOOKS = (5_000, 25_000, 50_000, 100_000)  # requests


def own_work(results: dict[str, Any], _language: int) -> str:
    """What the server adds to a request."""
    heads = OWN_WORK_HEADS
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for vad in ("off", "silero"):
        rows = [results["rows"][f"vad {vad}, {name}"] for name in OWN_WORK_ROWS]
        cells = [f"{row['p50_ms']:.1f} ms" for row in rows]
        lines.append(f"| `vad={vad}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def memory(results: dict[str, Any], _language: int) -> str:
    """What all processes hold after so many requests."""
    sizes = [results["pss_mib_after"][str(count)] for count in MEMORY_LOOKS]
    heads = ("requests", *(f"{count:,}" for count in MEMORY_LOOKS))
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * len(sizes)}"]
    cells = " | ".join(f"{size:.0f} MiB" for size in sizes)
    return "\n".join([*lines, f"| memory of all processes | {cells} |"])


def few(results: dict[str, Any], _language: int) -> str:
    """Decode steps of few sequences, and the same with the kernels of large batches."""
    context = results["rows"]["1.7B decode steps"]["context"]
    heads = [f"one step, {context} tokens of context each", "1.7B", "without them"]
    heads += ["0.6B", heads[-1]]
    lines = [f"| {' | '.join(heads)} |", "| --- | ---: | ---: | ---: | ---: |"]
    kinds = [f"{shape} decode steps{way}" for shape in ("1.7B", "0.6B") for way in ("", WITHOUT)]
    for batch in (2, 4, 8, 16):
        times = [results["rows"][kind][f"step_{batch}_ms"] for kind in kinds]
        cells = [f"{batch} sequences", *(f"{time:.2f} ms" for time in times)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
