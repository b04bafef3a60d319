"""The shards of a pipeline's recordings: planned, asked, asked again while it is worth it, judged.

Kubeflow Pipelines does not start a failed step anew (its own policy, for lost pods only, takes the
place of the pipeline's), so what may pass by itself is tried again in here. Answers are written to
a journal on the volume or in an object store as they come: a pod that is lost, or a run that is
started again, goes on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from pipelines.lib.client import AsrClient, ServiceOptions
from pipelines.lib.defaults import API_KEY_ENV
from pipelines.lib.errors import ManifestError, OptionError, PipelineError, ServiceError
from pipelines.lib.journal import Record, read_journal
from pipelines.lib.journal_store import StoredJournal, check_store
from pipelines.lib.manifest import Clip, asked_digest, is_url, read_manifest
from pipelines.lib.sharding import shard as shard_of
from pipelines.lib.transcribe import AskOptions, Target, transcribe_together
from pipelines.local_service import LocalService

# Every shard is four nodes of the workflow object, which etcd keeps whole (1.5 MB at most): two
# times two shards made 630 kB. A shard asks as many recordings at once as `concurrency` says, so
# more of them are no faster.
MAX_SHARDS = 4
TRIES, PAUSE_S = 3, 30.0

Shard = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asking:
    """How the recordings of a run are asked for."""

    model: str
    protocol: str
    concurrency: int
    max_failed: float  # share of recordings without an answer beyond which a shard has failed
    send_language: bool = False  # force the manifest's language
    drafts: bool = False  # of two versions: send the first's transcript to the second
    allow_remote: bool = False  # fetch recordings that the manifest names by URL

    def service(self, url: str, host_header: str) -> ServiceOptions:
        return ServiceOptions(
            url=url,
            model=self.model,
            protocol=self.protocol,  # type: ignore[arg-type]  # checked by ServiceOptions
            host_header=host_header or None,
            api_key=os.environ.get(API_KEY_ENV),
            send_language=self.send_language,
        )


def plan_shards(
    manifest: str,
    num_shards: int,
    *,
    services: Sequence[tuple[str, str]],
    checkpoint: str,
    model: str,
    journals: str,
    run_id: str,
    reuse: bool,
) -> list[dict[str, Any]]:
    """The parts that the recordings are transcribed in, each with all it must know.

    `services` are URL and Host of each version to be asked; at most MAX_SHARDS parts are made,
    however many are wanted. `key` names what the answers depend on: a step or a journal with the
    same key has the same answers. It holds the identity of the model, or, where that is not known
    or old answers are not wanted (`reuse` False), the run's.

    One value and not several: KFP's local runner puts the loop's item in the place of any other
    step's output that is used inside a loop.
    """
    if num_shards < 1:
        raise OptionError(f"num_shards: {num_shards} is below 1")
    clips = read_manifest(manifest)
    number = min(num_shards, MAX_SHARDS, len(clips))
    identity = _identity(model, services) if reuse and not checkpoint else None
    asked = [asked_digest(clips), _recordings_digest(clips), identity or run_id]
    common = {
        "services": [{"url": url, "host_header": host} for url, host in services],
        "checkpoint": checkpoint,
        "key": sha256(json.dumps(asked).encode()).hexdigest()[:16],
        "journals": _writable(journals),
    }
    return [{"index": i, "of": number, **common} for i in range(number)]


def transcribe_or_fail(
    manifest: str,
    journals: Sequence[str],
    shard: Shard,
    asking: Asking,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Transcribe a shard with each of its services in turn, recording by recording.

    What failed is asked for again, after a pause, up to three times. `journals` is where the
    answers of each service are left in the end.

    Raises PipelineError when nothing, or too little, was answered after that.
    """
    clips = shard_of(read_manifest(manifest), int(shard["index"]), int(shard["of"]))
    kept = [_kept_journal(shard, side, Path(path)) for side, path in enumerate(journals)]

    def ask() -> str | None:
        with ExitStack() as stores:
            for side, path in enumerate(kept):
                if is_url(str(shard["journals"])):
                    stores.enter_context(StoredJournal(_stored(shard, side), path))
            _transcribe(clips, shard, kept, asking)
        return _complaint(shard, kept, asking)

    until_enough(ask, sleep)
    for found, path in zip(kept, journals, strict=True):
        if found != Path(path):
            shutil.copyfile(found, path)


def until_enough(ask: Callable[[], str | None], sleep: Callable[[float], None]) -> None:
    """Call `ask` up to TRIES times, with pauses, until it has nothing to complain of.

    Raises PipelineError of the last time, and OptionError at once: a mistake does not pass.
    """
    for tries in range(1, TRIES + 1):
        try:
            complaint = ask()
        except OptionError:
            raise
        except PipelineError:
            if tries == TRIES:
                raise
        else:
            if complaint is None:
                return
            if tries == TRIES:
                raise PipelineError(complaint)
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


def _transcribe(clips: Sequence[Clip], shard: Shard, kept: Sequence[Path], asking: Asking) -> None:
    options = AskOptions(asking.concurrency, asking.allow_remote, drafts=asking.drafts)
    if shard["checkpoint"]:
        with LocalService(Path(shard["checkpoint"])) as local:
            targets = [Target(asking.service(local.url, ""), kept[0])]
            transcribe_together(clips, targets, options)
        return
    targets = [
        Target(asking.service(service["url"], service["host_header"]), path)
        for service, path in zip(shard["services"], kept, strict=True)
    ]
    transcribe_together(clips, targets, options)


def _complaint(shard: Shard, kept: Sequence[Path], asking: Asking) -> str | None:
    for side, path in enumerate(kept):
        found = too_many_failed(read_journal(path)[1], asking.max_failed)
        if found is not None:
            where = shard["checkpoint"] or shard["services"][side]["url"]
            return f"{found} Asked: {where}, model {asking.model}."
    return None


def _kept_journal(shard: Shard, side: int, output: Path) -> Path:
    """On the volume, where the next pod finds it; in the step where it is not there."""
    if not shard["journals"] or is_url(str(shard["journals"])):
        return output
    return Path(_stored(shard, side) + ".jsonl")


def _stored(shard: Shard, side: int) -> str:
    """Where a shard's answers of one service are kept, as a path or URL without ending."""
    name = f"{shard['index']}-of-{shard['of']}-{side}"
    return f"{str(shard['journals']).rstrip('/')}/{shard['key']}/{name}"


def _identity(model: str, services: Sequence[tuple[str, str]]) -> str | None:
    """What all services say that they are; None when one does not say it."""

    async def ask(url: str, host: str) -> str | None:
        options = ServiceOptions(
            url=url, model=model, host_header=host or None, api_key=os.environ.get(API_KEY_ENV)
        )
        async with AsrClient(options) as client:
            return (await client.identity()).fingerprint

    try:
        said = [asyncio.run(ask(url, host)) for url, host in services]
    except ServiceError:
        return None  # the shards will say what is wrong, and what to do
    return None if None in said else json.dumps(said)


def _recordings_digest(clips: Sequence[Clip]) -> str:
    """Changes when a recording was replaced, as far as its size and its time tell."""
    rows: list[tuple[str, int, int]] = []
    for clip in clips:
        if is_url(clip.audio) or not Path(clip.audio).exists():
            rows.append((clip.audio, 0, 0))
        else:
            found = Path(clip.audio).stat()
            rows.append((clip.audio, found.st_size, found.st_mtime_ns))
    return sha256(json.dumps(rows).encode()).hexdigest()


def _writable(journals: str) -> str:
    """Where journals go, or "" with a warning: a run needs none, but cannot be continued."""
    if not journals:
        return ""
    try:
        if is_url(journals):
            check_store(journals)
        else:
            Path(journals).mkdir(exist_ok=True)  # not its parent: that is the volume
            with NamedTemporaryFile(dir=journals):
                pass
    except ManifestError as error:
        why = str(error)
    except OSError as error:
        why = f"journals: {journals} cannot be written by uid {os.getuid()}: {error.strerror}"
    else:
        return journals
    logging.getLogger("pipelines.evaluation").warning("%s; a lost pod starts its shard anew", why)
    return ""
