"""Transcribe all clips of a manifest against a service, some at a time, each exactly once.

The journal makes it resumable: started again with the same manifest, it asks only for what is
missing or failed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.lib.client import AsrClient, ServiceOptions
from pipelines.lib.errors import ManifestError, OptionError, ServiceError
from pipelines.lib.journal import Journal, Record
from pipelines.lib.manifest import MIXED_JOINER, Clip, digest
from pipelines.lib.storage import read_audio

MAX_CONCURRENCY = 1024


def transcribe(
    clips: Sequence[Clip],
    options: ServiceOptions,
    journal_path: Path,
    *,
    concurrency: int = 8,
    allow_remote: bool = False,
    show_progress: bool = False,
) -> list[Record]:
    """The record of every clip, in the clips' order.

    A clip that the service refuses, or whose audio cannot be read, becomes a record with `error`;
    it is tried again when the run is continued. Raises JournalError when the journal on disk
    belongs to another manifest or protocol.
    """
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise OptionError(f"concurrency: {concurrency} is not within 1..{MAX_CONCURRENCY}")
    header = journal_header(clips, options)
    journal = Journal.open(journal_path, header)
    try:
        todo = [clip for clip in clips if clip.id not in journal.records]
        progress = Progress(clips, len(clips) - len(todo), shown=show_progress)
        run = _Run(options, journal, progress, allow_remote=allow_remote)
        _run_to_end(run.all(todo, concurrency))
        progress.close()
        return [journal.records[clip.id] for clip in clips]
    finally:
        journal.close()


def _run_to_end(work: Coroutine[Any, Any, None]) -> None:
    """asyncio.run, also from inside a notebook, where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, work).result()


def journal_header(clips: Sequence[Clip], options: ServiceOptions) -> dict[str, Any]:
    """What must be equal for a journal to be continued; the address may change."""
    return {
        "manifest_sha256": digest(clips),
        "model": options.model,
        "protocol": options.protocol,
        "send_language": options.send_language,
    }


class Progress:
    """A bar on standard error: clips done, clips a second, time left, times real time."""

    def __init__(self, clips: Sequence[Clip], num_done: int, *, shown: bool) -> None:
        self._started = time.monotonic()
        self._audio_s = 0.0
        self._num_failed = 0
        self._bar = tqdm(
            total=len(clips), initial=num_done, unit="clip", disable=not shown, smoothing=0.1
        )

    def add(self, record: Record) -> None:
        """Count a finished clip."""
        self._audio_s += record.duration_s or 0.0
        self._num_failed += record.error is not None
        speed = self._audio_s / max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix({"RTFx": f"{speed:.1f}", "failed": self._num_failed}, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Leave the finished bar standing."""
        self._bar.close()


class _Run:
    """One session: workers that take clips from one iterator and write to one journal."""

    def __init__(
        self, options: ServiceOptions, journal: Journal, progress: Progress, *, allow_remote: bool
    ) -> None:
        self._options = options
        self._journal = journal
        self._progress = progress
        self._allow_remote = allow_remote

    async def all(self, clips: Sequence[Clip], concurrency: int) -> None:
        queue = iter(clips)
        async with AsrClient(self._options) as client, asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(clips))):
                group.create_task(self._worker(client, queue))

    async def _worker(self, client: AsrClient, queue: Any) -> None:
        for clip in queue:  # shared by all workers: each clip is taken once
            record = await self._one(client, clip)
            self._journal.add(record)
            self._progress.add(record)

    async def _one(self, client: AsrClient, clip: Clip) -> Record:
        place: dict[str, Any] = {"clip_id": clip.id, "started_at": time.time()}
        try:
            audio = await asyncio.to_thread(read_audio, clip.audio, allow_remote=self._allow_remote)
            answer = await client.transcribe(
                audio,
                name=Path(clip.audio).name,
                language=self._forced_language(clip),
                context=clip.context,
            )
        except ManifestError as error:
            return Record(**place, text="", error="unreadable_audio", error_message=str(error))
        except ServiceError as error:
            return Record(**place, text="", error=error.code, error_message=error.message)
        values = asdict(answer)
        del values["segments"]  # can be had again; a journal of thousands of recordings stays small
        if values["duration_s"] is None:
            values["duration_s"] = clip.duration_s
        return Record(**place, **values)

    def _forced_language(self, clip: Clip) -> str | None:
        if not self._options.send_language or MIXED_JOINER in (clip.language or ""):
            return None
        return clip.language
