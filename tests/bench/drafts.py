"""What the stable version's transcripts save a candidate, counted in its engine's own work.

    python -m tests.bench.drafts            (some minutes on two cores)

`tiny-early` stands for the stable version, `tiny` for the candidate: as in `promote --drafts`, the
candidate is asked for the same recordings with and without the stable version's answers. What is
counted is sequences in decoding steps, from the metric `qwen3_asr_batch_size`: no time, so the
numbers are the same on a busy machine. Writes tests/bench/results/drafts-cpu.json.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx

from pipelines.lib.client import ServiceOptions
from pipelines.lib.journal import Record
from pipelines.lib.manifest import Clip, read_manifest
from pipelines.lib.transcribe import AskOptions, Target, transcribe_together
from pipelines.local_service import LocalService
from tests.bench.environment import ROOT, describe

CHECKPOINTS = ROOT / "predictor" / "checkpoints"
RESULTS = Path(__file__).parent / "results" / "drafts-cpu.json"
EVERY = 30  # of the evaluation set: one recording of so many
DECODED = re.compile(r"^qwen3_asr_batch_size_sum(?:\{.*\})? (\S+)$", re.MULTILINE)


def decoded(url: str) -> float:
    """Sequences in decoding steps since the service started."""
    found = DECODED.search(httpx.get(f"{url}/metrics").text)
    assert found is not None
    return float(found[1])


def asked(
    stable: str, candidate: str, clips: list[Clip], ask: AskOptions, *, forced: bool
) -> tuple[list[list[Record]], float]:
    """Both versions' answers, and what the candidate decoded for its own."""
    with tempfile.TemporaryDirectory() as folder:
        targets = [
            Target(
                ServiceOptions(url, send_language=forced, timeout_s=900),
                Path(folder) / f"{number}.jsonl",
            )
            for number, url in enumerate((stable, candidate))
        ]
        before = decoded(candidate)
        records = transcribe_together(clips, targets, ask)
        failed = [record for found in records for record in found if record.error is not None]
        if failed:
            raise SystemExit(f"{len(failed)} not answered: {failed[0].error_message}")
        return records, decoded(candidate) - before


def measure(every: int) -> dict[str, Any]:
    """Rows for a language that is detected and one that is given."""
    clips = read_manifest(ROOT / "tests" / "data" / "eval" / "manifest.jsonl")[::every]
    flags = ("--device=cpu",)
    rows = {}
    with (
        LocalService(CHECKPOINTS / "tiny-early", flags=flags) as early,
        LocalService(CHECKPOINTS / "tiny", flags=flags) as tiny,
    ):
        for forced in (False, True):
            plain, alone = asked(early.url, tiny.url, clips, AskOptions(2), forced=forced)
            drafting = AskOptions(2, drafts=True)
            again, helped = asked(early.url, tiny.url, clips, drafting, forced=forced)
            texts = [[record.text for record in found[1]] for found in (plain, again)]
            rows["language given" if forced else "language detected"] = {
                "recordings": len(clips),
                "drafted": sum(bool(record.drafted) for record in again[1]),
                "decoded_without_drafts": alone,
                "decoded_with_drafts": helped,
                "saved": 1 - helped / alone,
                "answers_equal": texts[0] == texts[1],
            }
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=int, default=EVERY)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    result = {
        "what": "sequences in decoding steps of the candidate (tiny), stable is tiny-early",
        "environment": describe(),
        "rows": measure(options.every),
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result["rows"], indent=2))


if __name__ == "__main__":
    main()
