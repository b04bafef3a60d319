"""Transcribe all clips of a manifest against a service, some at a time, each exactly once.

The journal makes it resumable: started again with the same manifest, it asks only for what is
missing or failed. Two versions of a service are asked together, clip by clip, so that neither has
the quiet hour. A service that has gone away stops the run soon.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.lib.client import AsrClient, ServiceOptions
from pipelines.lib.errors import ManifestError, OptionError, ServiceDown, ServiceError
from pipelines.lib.identity import Identity
from pipelines.lib.journal import SERVICE, Journal, Record
from pipelines.lib.manifest import MIXED_JOINER, Clip, asked_digest
from pipelines.lib.progress import Progress
from pipelines.lib.storage import read_audio

MAX_CONCURRENCY = 1024
MAX_UNANSWERED = 10  # recordings in a row without any answer: nobody is there
MAX_UNWANTED = 20  # first recordings all refused for who we are or where we ask
UNWANTED = (401, 403, 404, 405)
ABSENT = (None, 502, 503, 504)  # no answer, or a gateway's word for it, after all attempts
DRAFT_INPUT = "draft"
ANSWER_MARK = "<asr_text>"  # between the language and the text in the model's own answer


@dataclass(frozen=True, slots=True)
class Target:
    """A service to ask and the journal of its answers."""

    service: ServiceOptions
    journal: Path


@dataclass(frozen=True, slots=True)
class AskOptions:
    """How recordings are asked for, beside which and where."""

    concurrency: int = 8
    allow_remote: bool = False  # fetch recordings that the manifest names by URL
    show_progress: bool = False
    keep_segments: bool = False  # write segments with their times to the journal
    growing: bool = False  # an archive: continued though recordings were added or changed
    drafts: bool = False  # send the first service's transcript to the second, if it takes drafts

    def __post_init__(self) -> None:
        if not 1 <= self.concurrency <= MAX_CONCURRENCY:
            raise OptionError(f"concurrency: {self.concurrency} is not within 1..{MAX_CONCURRENCY}")


def transcribe(
    clips: Sequence[Clip],
    options: ServiceOptions,
    journal_path: Path,
    *,
    concurrency: int = 8,
    allow_remote: bool = False,
    show_progress: bool = False,
    keep_segments: bool = False,
) -> list[Record]:
    """The record of every clip, in the clips' order.

    A clip that the service refuses, or whose audio cannot be read, becomes a record with `error`;
    it is tried again when the run is continued. Raises JournalError when the journal on disk
    belongs to another manifest, protocol or model, and ServiceDown when nobody answers any more.
    """
    ask = AskOptions(concurrency, allow_remote, show_progress, keep_segments)
    (records,) = transcribe_together(clips, [Target(options, journal_path)], ask)
    return records


def transcribe_together(
    clips: Sequence[Clip], targets: Sequence[Target], ask: AskOptions
) -> list[list[Record]]:
    """As `transcribe`, of several services under the same load: each clip goes to all of them.

    Which one is asked first alternates from clip to clip, unless drafts are sent.
    """
    return _run_to_end(_ask_all(clips, targets, ask))


async def _ask_all(
    clips: Sequence[Clip], targets: Sequence[Target], ask: AskOptions
) -> list[list[Record]]:
    async with AsrClients(targets) as clients:
        sides = []
        try:
            for target, client in zip(targets, clients, strict=True):
                sides.append(await _Side.open(clips, target, client, ask))
            todo = [c for c in clips if any(c.id not in side.journal.records for side in sides)]
            progress = Progress(clips, len(clips) - len(todo), shown=ask.show_progress)
            await _Run(sides, progress, ask).all(todo)
            progress.close()
            return [[side.journal.records[clip.id] for clip in clips] for side in sides]
        finally:
            for side in sides:
                side.journal.close()


def _run_to_end(work: Coroutine[Any, Any, list[list[Record]]]) -> list[list[Record]]:
    """asyncio.run, also from inside a notebook, where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, work).result()


class AsrClients:
    """One client a target, closed together."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._clients = [AsrClient(target.service) for target in targets]

    async def __aenter__(self) -> list[AsrClient]:
        return self._clients

    async def __aexit__(self, *exc_info: object) -> None:
        for client in self._clients:
            await client.__aexit__(*exc_info)


def journal_header(
    clips: Sequence[Clip], options: ServiceOptions, identity: Identity
) -> dict[str, Any]:
    """What must be equal for a journal to be continued; a known model may have moved."""
    return {
        "asked_sha256": asked_digest(clips),
        "model": options.model,
        "protocol": options.protocol,
        "send_language": options.send_language,
        SERVICE: {
            "identity": identity.as_json(),
            "address": options.url + (f" ({options.host_header})" if options.host_header else ""),
        },
    }


class _Side:
    """One of the services that are asked: its client, its journal, whether it still answers."""

    def __init__(
        self, options: ServiceOptions, client: AsrClient, journal: Journal, identity: Identity
    ) -> None:
        self.options = options
        self.client = client
        self.journal = journal
        self.takes_drafts = DRAFT_INPUT in identity.inputs and options.protocol == "v2"
        self._unanswered = 0  # in a row
        self._unwanted: int | None = 0  # None once one was wanted

    @classmethod
    async def open(
        cls, clips: Sequence[Clip], target: Target, client: AsrClient, ask: AskOptions
    ) -> _Side:
        try:
            identity = await client.identity()
        except ServiceError as error:
            raise ServiceDown(_what_to_do(target.service, error)) from error
        header = journal_header(() if ask.growing else clips, target.service, identity)
        journal = Journal.open(target.journal, header)
        if ask.growing:
            journal.forget([c.id for c in clips if _changed(c, journal.records.get(c.id))])
        return cls(target.service, client, journal, identity)

    def seen(self, error: ServiceError | None) -> None:
        """Count an outcome; ServiceDown once it is clear that going on is of no use."""
        absent = error is not None and error.status in ABSENT
        self._unanswered = self._unanswered + 1 if absent else 0
        if error is None or error.status not in UNWANTED:
            self._unwanted = None
        elif self._unwanted is not None:
            self._unwanted += 1
        if error is not None and (
            self._unanswered >= MAX_UNANSWERED or (self._unwanted or 0) >= MAX_UNWANTED
        ):
            raise ServiceDown(_what_to_do(self.options, error)) from error


class _Run:
    """One session: workers that take clips from one iterator and write to the journals."""

    def __init__(self, sides: Sequence[_Side], progress: Progress, ask: AskOptions) -> None:
        self._sides = sides
        self._progress = progress
        self._ask = ask

    async def all(self, clips: Sequence[Clip]) -> None:
        queue = iter(enumerate(clips))
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._ask.concurrency, len(clips))):
                    group.create_task(self._worker(queue))
        except BaseExceptionGroup as group:
            down = group.subgroup(ServiceDown)
            raise (down.exceptions[0] if down is not None else group.exceptions[0]) from None

    async def _worker(self, queue: Any) -> None:
        for number, clip in queue:  # shared by all workers: each clip is taken once
            turned = number % 2 and not self._ask.drafts
            record = None
            for side in reversed(self._sides) if turned else self._sides:
                if clip.id not in side.journal.records:
                    record = await self._one(side, clip)
                    side.journal.add(record)
            if record is not None:
                self._progress.add(record)

    async def _one(self, side: _Side, clip: Clip) -> Record:
        place: dict[str, Any] = {"clip_id": clip.id, "started_at": time.time()}
        draft = self._draft(side, clip)
        try:
            audio = await asyncio.to_thread(
                read_audio, clip.audio, allow_remote=self._ask.allow_remote
            )
            answer = await side.client.transcribe(
                audio,
                name=Path(clip.audio).name,
                language=_forced_language(side.options, clip),
                context=clip.context,
                draft=draft,
            )
        except ManifestError as error:
            return Record(**place, text="", error="unreadable_audio", error_message=str(error))
        except ServiceError as error:
            side.seen(error)
            return Record(
                **place,
                text="",
                error=error.code,
                error_message=error.message,
                num_attempts=error.num_attempts,
            )
        side.seen(None)
        values = asdict(answer)
        segments = values.pop("segments")  # a journal of thousands of recordings stays small
        values["segments"] = list(segments) if self._ask.keep_segments else None
        values["confidence"] = _within(values["confidence"])
        if values["duration_s"] is None:
            values["duration_s"] = clip.duration_s
        return Record(**place, **values, drafted=True if draft else None)

    def _draft(self, side: _Side, clip: Clip) -> str | None:
        """What the first service wrote, for the second.

        Where the second is to find the language itself, its answer begins with the language's
        name; a draft that does not is of no use to it.
        """
        if not self._ask.drafts or side is self._sides[0] or not side.takes_drafts:
            return None
        first = self._sides[0].journal.records.get(clip.id)
        if first is None or first.error is not None or not first.text:
            return None
        if _forced_language(side.options, clip) is not None or first.language is None:
            return first.text
        return f"language {first.language}{ANSWER_MARK}{first.text}"


def _changed(clip: Clip, record: Record | None) -> bool:
    """Whether the recording's file was written after it was asked for."""
    try:
        written_at = Path(clip.audio).stat().st_mtime
    except (OSError, ValueError):  # elsewhere, or gone: reading it will tell
        return False
    # A clock that is ahead is not believed: the recording would be asked for each time.
    return record is not None and record.started_at < written_at <= time.time()


def _forced_language(options: ServiceOptions, clip: Clip) -> str | None:
    if not options.send_language or MIXED_JOINER in (clip.language or ""):
        return None
    return clip.language


def _within(confidence: float | None) -> float | None:
    """A number or nothing; beyond 0..1 it is kept, clipped and reported when scored."""
    return None if confidence is None or not math.isfinite(confidence) else confidence


def _what_to_do(options: ServiceOptions, error: ServiceError) -> str:
    host = f" with Host {options.host_header}" if options.host_header else ""
    return (
        f"the service at {options.url}{host} does not answer as a service of {options.model!r} "
        f"should: {error.message}. Check that it is ready and that this address reaches it (inside "
        "the cluster: the InferenceService's status.address.url; from outside: the ingress with "
        "--host-header, or kubectl port-forward). What was answered is kept: the same command "
        "continues"
    )
