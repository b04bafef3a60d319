"""Runs over a manifest: resumable, each recording once, failures kept and tried again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from starlette.responses import JSONResponse

from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import JournalError, OptionError
from pipelines.lib.journal import Record, read_journal, wall_time_s
from pipelines.lib.manifest import Clip
from pipelines.lib.transcribe import transcribe
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service


def make_clips(folder: Path, number: int) -> list[Clip]:
    clips = []
    for i in range(number):
        path = folder / f"{i}.wav"
        path.write_bytes(f"words {i}".encode())
        clips.append(Clip(str(i), str(path), f"words {i}", "English", duration_s=2.0))
    return clips


def test_records_come_in_the_clips_order(tmp_path: Path, serve_app: Serve) -> None:
    service = Service()
    clips = make_clips(tmp_path, 30)
    records = transcribe(
        clips, options(serve_app(service.app())), tmp_path / "j.jsonl", concurrency=7
    )
    assert [(r.clip_id, r.text) for r in records] == [(str(i), f"words {i}") for i in range(30)]
    assert Counter(said.audio for said in service.asked).most_common(1)[0][1] == 1
    header, read = read_journal(tmp_path / "j.jsonl")
    assert header["protocol"] == "v2"
    assert sorted(read, key=lambda r: int(r.clip_id)) == records


def test_a_run_continues_where_it_was(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 10)
    journal = tmp_path / "j.jsonl"
    service = Service()
    url = serve_app(service.app())
    whole = transcribe(clips, options(url), journal)
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:5]) + lines[5][:20])  # header, 4 records, a torn one
    kept = {json.loads(line)["clip_id"] for line in lines[1:5]}
    service.asked.clear()
    again = transcribe(clips, options(url), journal)
    assert [r.text for r in again] == [r.text for r in whole]
    asked = {said.audio.decode().removeprefix("words ") for said in service.asked}
    assert asked == {clip.id for clip in clips} - kept
    assert len(service.asked) == 6
    service.asked.clear()
    assert transcribe(clips, options(url), journal) == again
    assert service.asked == []


def test_failures_are_records_and_are_tried_again(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 2)
    Path(clips[1].audio).unlink()
    refusal = JSONResponse({"error": {"code": "invalid_audio", "message": "no"}}, 400)
    service = Service(failures=[refusal])
    url = serve_app(service.app())
    refused, missing = transcribe(clips, options(url), tmp_path / "j.jsonl")
    assert (refused.error, refused.error_message) == ("invalid_audio", "HTTP 400: no")
    assert missing.error == "unreadable_audio"
    Path(clips[1].audio).write_bytes(b"words 1")
    first, second = transcribe(clips, options(url), tmp_path / "j.jsonl")
    assert (first.text, first.error, second.text) == ("words 0", None, "words 1")


def test_a_journal_of_another_question_is_refused(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 3)
    url = serve_app(Service().app())
    transcribe(clips, options(url), tmp_path / "j.jsonl")
    with pytest.raises(JournalError, match="manifest_sha256"):
        transcribe(clips[:2], options(url), tmp_path / "j.jsonl")
    with pytest.raises(JournalError, match="protocol 'v2', this run has 'openai'"):
        transcribe(clips, options(url, protocol="openai"), tmp_path / "j.jsonl")


def test_languages_are_forced_only_when_asked(tmp_path: Path, serve_app: Serve) -> None:
    (clip,) = make_clips(tmp_path, 1)
    mixed = Clip("m", clip.audio, "x", "Chinese+English")
    service = Service()
    url = serve_app(service.app())
    transcribe([clip, mixed], options(url), tmp_path / "a.jsonl")
    transcribe([clip, mixed], options(url, send_language=True), tmp_path / "b.jsonl", concurrency=1)
    assert [said.language for said in service.asked] == [None, None, "English", None]


def test_wall_time_is_when_any_request_was_under_way() -> None:
    records = [
        Record("a", "", started_at=1.0, latency_s=5.0),
        Record("b", "", started_at=2.0, latency_s=1.0),
        Record("c", "", started_at=5.0, latency_s=3.0),
        Record("d", "", started_at=100.0, latency_s=1.5),
        Record("e", "", error="overloaded"),
    ]
    assert wall_time_s(records) == 7.0 + 1.5


def test_concurrency_has_limits(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"concurrency: 0 is not within 1\.\.1024"):
        transcribe([], options("http://x"), tmp_path / "j.jsonl", concurrency=0)


def options(url: str, **kwargs: object) -> ServiceOptions:
    return ServiceOptions(url=url, **kwargs)  # type: ignore[arg-type]
