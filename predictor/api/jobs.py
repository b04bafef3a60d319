"""The routes of jobs: a recording comes in like a transcription, its answer is fetched later.

Each job belongs to the API key that made it; to all others it is not there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from predictor.api.auth import KeyRing
from predictor.api.cues import read_cues
from predictor.api.dataplane import AsrDataPlane
from predictor.api.json_answer import json_answer
from predictor.api.openai import OpenAICall, format_of, openai_call
from predictor.api.openai_answers import ResponseFormat, renderer
from predictor.api.openai_routes import IGNORED_HEADER
from predictor.api.openapi import jobs as openapi
from predictor.api.reading import query_of
from predictor.errors import InvalidInput, JobNotDone
from predictor.jobs.outbound import Outbound
from predictor.jobs.records import JobRecord, JobSpec
from predictor.jobs.runner import JobRunner
from predictor.jobs.store import JobStore
from predictor.text.cue_lines import SubtitleOptions
from predictor.text.joining import Piece, Seams, join_pieces, segment

_FORMAT: Final = "format"


@dataclass(frozen=True, slots=True)
class JobDoor:
    """What the routes of jobs need."""

    store: JobStore
    runner: JobRunner
    keys: KeyRing
    sources: Outbound  # of recordings
    webhooks: Outbound


def jobs_router(dataplane: AsrDataPlane, door: JobDoor) -> APIRouter:
    """Jobs under `/v1/jobs`."""
    router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])
    store = door.store

    async def create(request: Request) -> Response:
        owner = door.keys.owner(request.headers)
        await dataplane.get_model(dataplane.model.name)
        await asyncio.to_thread(store.check_room, 0)  # before a large body is read
        token_bytes = dataplane.model.token_bytes
        parsed = await openai_call(
            request, dataplane.served_names, token_bytes, dataplane.cues, is_job=True
        )
        spec = _spec(dataplane, door, parsed)
        [recording] = parsed.call.recordings
        job = await asyncio.to_thread(store.add, owner, recording.data or b"", spec)
        door.runner.wake()
        headers = {"location": f"{request.url.path.rstrip('/')}/{job.id}"}
        if parsed.ignored:
            headers[IGNORED_HEADER] = ", ".join(parsed.ignored)
        return json_answer(_shown(dataplane, door, job), 202, headers)

    async def jobs(request: Request) -> Response:
        found = await asyncio.to_thread(store.jobs, door.keys.owner(request.headers))
        return json_answer(
            {"object": "list", "data": [_shown(dataplane, door, job) for job in found]}
        )

    async def job(job_id: str, request: Request) -> Response:
        record = await asyncio.to_thread(store.job, door.keys.owner(request.headers), job_id)
        pieces = await asyncio.to_thread(store.pieces, record.id)
        told = await asyncio.to_thread(store.notice_state, record.id)
        notice = {"webhook": told or "pending"} if record.spec.webhook else {}
        shown = {**_shown(dataplane, door, record), **notice}
        return json_answer({**shown, "segments": _segments(record, pieces)})

    async def result(job_id: str, request: Request) -> Response:
        record = await asyncio.to_thread(store.job, door.keys.owner(request.headers), job_id)
        query = query_of(request)
        given = query.get(_FORMAT)
        chosen = format_of(record.spec.response_format if given is None else given, _FORMAT)
        pieces = await asyncio.to_thread(store.pieces, record.id)
        cues = read_cues(query, record.spec.cues)
        return await asyncio.to_thread(_result, dataplane, record, pieces, chosen, cues)

    async def delete(job_id: str, request: Request) -> Response:
        await asyncio.to_thread(store.delete, door.keys.owner(request.headers), job_id)
        door.runner.forget(job_id)
        return json_answer({"id": job_id, "object": "transcription.job", "deleted": True})

    add = router.add_api_route
    add("", create, methods=["POST"], **openapi.CREATE)
    add("", jobs, methods=["GET"], **openapi.JOBS)
    add("/{job_id}", job, methods=["GET"], **openapi.JOB)
    add("/{job_id}", delete, methods=["DELETE"], **openapi.DELETE)
    add("/{job_id}/result", result, methods=["GET"], **openapi.RESULT)
    return router


def _spec(dataplane: AsrDataPlane, door: JobDoor, parsed: OpenAICall) -> JobSpec:
    """What is stored of a request. Raises InvalidInput for what would fail later, as far as a look
    at the recording tells."""
    if parsed.stream:
        raise InvalidInput("stream: a job is not streamed", field="stream", limit=False)
    [recording] = parsed.call.recordings
    if (recording.data is None) == (not parsed.url):
        raise InvalidInput("file: a job needs a file or a url, one of them", field="file")
    if parsed.url:
        door.sources.check(parsed.url, "url", "job_url_prefixes")
    else:
        dataplane.model.task(recording)
    if parsed.webhook:
        door.webhooks.check(parsed.webhook, "webhook", "job_webhook_prefixes")
    text, options, cuts = dataplane.model.asked(recording)
    return JobSpec(
        content_type=recording.content_type,
        language=text.language,
        context=text.context,
        options=options,
        cuts=cuts,
        response_format=parsed.response_format,
        with_logprobs=parsed.with_logprobs,
        granularities=parsed.granularities,
        cues=parsed.cues,
        url=parsed.url,
        webhook=parsed.webhook,
    )


def _result(
    dataplane: AsrDataPlane,
    job: JobRecord,
    pieces: dict[int, Piece],
    chosen: ResponseFormat,
    cues: SubtitleOptions,
) -> Response:
    if job.state != "done" or job.end is None:
        why = "" if job.error is None else f": {job.error['message']}"
        raise JobNotDone(f"job {job.id} is {job.state}{why}")
    spec = job.spec
    answer = join_pieces(
        list(pieces.values()), job.end, language=spec.language, with_words=spec.with_words
    )
    scored = spec.with_logprobs and chosen == "json"
    token_bytes = dataplane.model.token_bytes if scored else None
    rendered = renderer(chosen, token_bytes, spec.granularities, cues)([answer])
    return Response(rendered.body, media_type=rendered.media_type)


def _shown(dataplane: AsrDataPlane, door: JobDoor, job: JobRecord) -> dict[str, Any]:
    ended_s = job.ended_s
    return {
        "id": job.id,
        "object": "transcription.job",
        "status": job.state,
        "model": dataplane.model.name,
        "created_at": int(job.created_s),
        "ended_at": None if ended_s is None else int(ended_s),
        "expires_at": None if ended_s is None else int(ended_s + door.store.limits.ttl_s),
        "bytes": job.num_bytes,
        "progress": {"done_s": job.done_s, "duration_s": job.duration_s},
        "response_format": job.spec.response_format,
        "error": None if job.error is None else dict(job.error),
    }


def _segments(job: JobRecord, pieces: dict[int, Piece]) -> list[dict[str, Any]]:
    """Those before the first piece that is missing: their numbers and texts will not change."""
    done = [pieces[i] for i in range(len(pieces)) if i < job.num_done and i in pieces]
    seams, shown = Seams(), []
    certain = [settled for piece in done for settled in seams.add(piece)]
    for index, piece in enumerate(certain):
        said = segment(index, piece)
        if not said.text:
            continue
        shown.append(
            {
                "id": said.id,
                "start": said.start_s,
                "end": said.end_s,
                "text": said.text,
                "language": said.language,
                "confidence": said.confidence,
                **({} if said.channel is None else {"channel": said.channel}),
            }
        )
    return shown
