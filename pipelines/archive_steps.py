"""What the step of the pipeline `transcribe` does, as a plain function of paths and values."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.archive import TRANSCRIPTS, transcribe_archive
from pipelines.lib.journal import Record
from pipelines.lib.manifest import is_url
from pipelines.lib.transcribe import AskOptions
from pipelines.shard_steps import Asking, too_many_failed, until_enough

Numbers = dict[str, float]


def transcribe_or_fail(
    source: str,
    out: str,
    transcripts: str,
    asking: Asking,
    *,
    url: str,
    host_header: str,
    formats: str,
    language: str,
    sleep: Callable[[float], None] = time.sleep,
) -> Numbers:
    """Transcribe what of `source` (folder, bucket or manifest) has no answer in `out` yet.

    `out` is a folder of the volume that holds the journal too, so a pod that takes a lost one's
    place, and a run that is started again, ask for the rest only. `transcripts` is where the JSONL
    is left as an artifact. Raises PipelineError when too little was answered after three tries.
    """
    records: list[Record] = []
    ask = AskOptions(
        asking.concurrency,
        allow_remote=asking.allow_remote or is_url(source),
        keep_segments=True,
        growing=True,
    )
    wanted = ["jsonl", *(name for name in formats.split(",") if name and name != "jsonl")]

    def ask_all() -> str | None:
        records[:] = transcribe_archive(
            source, asking.service(url, host_header), Path(out), ask, formats=wanted,
            language=language or None,
        )  # fmt: skip
        return too_many_failed(records, asking.max_failed)

    until_enough(ask_all, sleep)
    shutil.copyfile(Path(out) / TRANSCRIPTS, transcripts)
    return {
        "recordings": len(records),
        "failed": sum(record.error is not None for record in records),
        "hours": sum(record.duration_s or 0.0 for record in records) / 3600,
    }
