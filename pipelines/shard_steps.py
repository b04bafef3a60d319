"""One shard of a pipeline's recordings: asked again while it is worth it, and judged at the end.

Kubeflow Pipelines does not start a failed step anew (its own policy, for lost pods only, takes the
place of the pipeline's), so what may pass by itself is tried again in here.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.evaluation_steps import transcribe_shard
from pipelines.lib.errors import PipelineError
from pipelines.lib.journal import Record, read_journal

TRIES, PAUSE_S = 3, 30.0


def transcribe_or_fail(
    manifest: str,
    journal: str,
    shard: Mapping[str, Any],
    *,
    model: str,
    protocol: str,
    concurrency: int,
    max_failed: float,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Transcribe a shard; what failed is asked for again, after a pause, up to three times.

    Raises PipelineError when nothing, or too little, was answered after that.
    """
    for tries in range(1, TRIES + 1):
        try:
            transcribe_shard(
                manifest, journal, shard, model=model, protocol=protocol, concurrency=concurrency
            )
        except PipelineError:
            if tries == TRIES:
                raise
        else:
            _, records = read_journal(Path(journal))
            complaint = too_many_failed(list(records), max_failed)
            if complaint is None:
                return
            if tries == TRIES:
                where = shard["url"] or shard["checkpoint"]
                raise PipelineError(f"{complaint} Asked: {where}, model {model}.")
        sleep(PAUSE_S)


def too_many_failed(records: Sequence[Record], max_failed: float) -> str | None:
    """What is wrong with these answers, and what to do; None when enough are there."""
    failed = [record for record in records if record.error is not None]
    if len(failed) < len(records) and len(failed) <= max_failed * len(records):
        return None
    codes = ", ".join(f"{code} {n}" for code, n in Counter(r.error for r in failed).most_common())
    first = failed[0] if failed else None
    said = f" ({codes}); the first: {first.error_message}." if first else "."
    return (
        f"{len(failed)} of {len(records)} recordings were not answered{said} At most "
        f"{max_failed:.0%} may fail (max_failed). If no address was found, set url= or ingress= to "
        "one that pods can resolve."
    )
