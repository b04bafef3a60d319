"""Takes jobs from the store, one at a time, and sees them to their end or leaves them to others."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from predictor.audio.decode import AudioDecoder, Source
from predictor.audio.file_part import MappedFile
from predictor.errors import AsrError, InternalError, InvalidInput, Overloaded, RetryableError
from predictor.jobs.outbound import FetchError, FetchLaterError, Outbound
from predictor.jobs.pieces import PieceRun
from predictor.jobs.records import JobRecord
from predictor.jobs.store import JobStore, LeaseLostError
from predictor.service.transcriber import Transcriber
from predictor.text.joining import Piece, join_pieces
from predictor.types import Transcription

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0  # for jobs that other processes stored or lost
_SWEEP_S: Final = 60.0
_FETCH_AGAIN_S: Final = 5.0  # after the first failure; then four times as long each
_MAX_TAKES: Final = 5  # without a new piece: the job itself ends its runners


class JobRunner:
    """Works until cancelled; a job it has begun is then left to others, or to the next start."""

    def __init__(self, store: JobStore, decoder: AudioDecoder, sources: Outbound) -> None:
        """`decoder` is the jobs' own, so that no request waits for its processes; `sources` is
        what recordings may be fetched from."""
        self._store = store
        self._decoder = decoder
        self._sources = sources
        self._holder = uuid.uuid4().hex
        self._woken = asyncio.Event()
        self._working: tuple[str, asyncio.Task[None]] | None = None

    def wake(self) -> None:
        """There is a new job."""
        self._woken.set()

    def forget(self, job_id: str) -> None:
        """The job was deleted: stop working on it."""
        if self._working is not None and self._working[0] == job_id:
            self._working[1].cancel()

    async def run(self, transcriber: Transcriber, count: Callable[[Transcription], None]) -> None:
        """Take jobs and work on them. `count` is told of every answer."""
        swept_s = -_SWEEP_S
        while True:
            self._woken.clear()
            try:
                if asyncio.get_running_loop().time() - swept_s >= _SWEEP_S:
                    swept_s = asyncio.get_running_loop().time()
                    await asyncio.to_thread(self._store.sweep)
                job = await asyncio.to_thread(self._store.take, self._holder)
                if job is not None and await self._work(job, transcriber, count):
                    continue
            except RetryableError as error:  # a full disk
                logger.warning("jobs wait: %s", error.message)
            except Exception:  # a lost volume: there may be a better time
                logger.exception("jobs wait")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _LOOK_S)

    async def _work(
        self, job: JobRecord, transcriber: Transcriber, count: Callable[[Transcription], None]
    ) -> bool:
        """False when it must be tried again after a while."""
        work = asyncio.create_task(self._transcribe(job, transcriber, count))
        lease = asyncio.create_task(self._keep_lease(job.id))
        self._working = (job.id, work)
        try:
            await asyncio.wait({work, lease}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _stop(lease, work)
            await self._give_back(job)
            raise
        finally:
            self._working = None
            await _stop(lease, work)
        error = _outcome(work, lease)
        if isinstance(error, LeaseLostError):
            logger.info("a job was deleted or taken over", extra={"fields": {"job": job.id}})
        elif isinstance(error, FetchLaterError):
            await self._fetch_later(job, error)
        elif isinstance(error, RetryableError):
            await self._give_back(job)
            return False
        elif error is not None:
            return await self._failed(job, error)
        return True

    async def _transcribe(
        self, job: JobRecord, transcriber: Transcriber, count: Callable[[Transcription], None]
    ) -> None:
        if await asyncio.to_thread(self._store.num_takes, job.id) > _MAX_TAKES:
            raise InternalError(job.id)
        await self._fetch(job)
        source = await asyncio.to_thread(self._source, job)
        if source.stated_s:
            await asyncio.to_thread(self._store.set_duration, job.id, self._holder, source.stated_s)
        kept = await asyncio.to_thread(self._store.pieces, job.id)
        spec = job.spec
        request = spec.text

        async def keep(position: int, piece: Piece) -> None:
            await asyncio.to_thread(self._store.add_piece, job.id, self._holder, position, piece)
            fields = {"job": job.id, "position": position}
            logger.debug("a piece was transcribed", extra={"fields": fields})

        run = PieceRun(self._decoder, transcriber, request, kept, keep)
        end = await run.all_pieces(source)
        pieces = await asyncio.to_thread(self._store.pieces, job.id)
        said = [pieces[position] for position in range(run.num_pieces)]
        answer = join_pieces(said, end, language=spec.language, with_words=spec.with_words)
        if answer.text:
            transcriber.check_words(replace(request, language=answer.language))
        await asyncio.to_thread(self._store.finish, job.id, self._holder, end, run.num_pieces)
        count(answer)
        logger.info("a job is done", extra={"fields": {"job": job.id}})

    async def _fetch(self, job: JobRecord) -> None:
        """A recording that did not come with its job, unless it is there already."""
        path = self._store.audio_path(job.id)
        if not job.spec.url or path.exists():
            return
        num_bytes = await self._sources.fetch(job.spec.url, path, self._decoder.max_bytes)
        try:
            await asyncio.to_thread(self._store.set_size, job.id, self._holder, num_bytes)
        except Overloaded as error:
            path.unlink()
            raise FetchLaterError(error.message) from error

    async def _fetch_later(self, job: JobRecord, error: FetchLaterError) -> None:
        """Others come first meanwhile; not for ever."""
        num_takes = await asyncio.to_thread(self._store.num_takes, job.id)
        if num_takes >= _MAX_TAKES:
            await self._failed(job, FetchError(error.message, field="url"))
        else:
            wait_s = _FETCH_AGAIN_S * 4 ** (num_takes - 1)
            await self._give_back(job, has_failed=True, wait_s=wait_s)

    def _source(self, job: JobRecord) -> Source:
        path, spec = self._store.audio_path(job.id), job.spec
        data: bytes | memoryview = b""
        if path.stat().st_size:
            data = memoryview(MappedFile(path.open("rb")))
        return self._decoder.source(
            data,
            content_type=spec.content_type,
            field="file",
            options=spec.options,
            cuts=spec.cuts,
        )

    async def _keep_lease(self, job_id: str) -> None:
        while True:
            await asyncio.sleep(self._store.limits.lease_s / 4)
            await asyncio.to_thread(self._store.renew, job_id, self._holder)

    async def _failed(self, job: JobRecord, error: BaseException) -> bool:
        """Whether the job has ended with this error: what we broke ourselves is tried again."""
        fields = {"job": job.id}
        is_ours = not isinstance(error, AsrError) or isinstance(error, InternalError)
        if is_ours:
            logger.error("a job failed", exc_info=error, extra={"fields": fields})
            if await asyncio.to_thread(self._store.num_takes, job.id) <= _MAX_TAKES:
                await self._give_back(job, has_failed=True)
                return False
            error = InternalError(job.id)
        assert isinstance(error, AsrError)
        said = {
            "message": error.message,
            "code": error.spec.code,
            "param": error.field if isinstance(error, InvalidInput) else None,
        }
        with suppress(LeaseLostError):
            await asyncio.to_thread(self._store.fail, job.id, self._holder, said)
        return True

    async def _give_back(
        self, job: JobRecord, *, has_failed: bool = False, wait_s: float = 0.0
    ) -> None:
        with suppress(LeaseLostError):
            await asyncio.to_thread(
                self._store.give_back,
                job.id,
                self._holder,
                has_failed=has_failed,
                wait_s=wait_s,
            )


async def _stop(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _outcome(work: asyncio.Task[None], lease: asyncio.Task[None]) -> BaseException | None:
    """What kept the job from its end: work that was cancelled has the lease's error, if any."""
    task = lease if work.cancelled() else work
    return None if task.cancelled() else task.exception()
