"""Runs over a manifest: resumable, each recording once, failures kept and tried again."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse, Response

from pipelines.lib.client import ServiceOptions
from pipelines.lib.errors import JournalError, OptionError, ServiceDown
from pipelines.lib.journal import Journal, Record, read_journal, wall_time_s
from pipelines.lib.manifest import Clip
from pipelines.lib.transcribe import AskOptions, Target, transcribe, transcribe_together
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


def test_a_failed_record_says_how_often_it_was_asked(tmp_path: Path, serve_app: Serve) -> None:
    clips, journal = make_clips(tmp_path, 1), tmp_path / "j.jsonl"
    busy = [JSONResponse({"error": "busy"}, 502) for _ in range(3)]
    url = serve_app(Service(failures=busy).app())
    [record] = transcribe(clips, options(url, max_attempts=3), journal)
    assert record.error is not None
    assert record.num_attempts == 3
    [written] = map(json.loads, journal.read_text().splitlines()[1:])
    assert written["num_attempts"] == 3


def test_a_journal_of_another_question_is_refused(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 3)
    url = serve_app(Service().app())
    transcribe(clips, options(url), tmp_path / "j.jsonl")
    with pytest.raises(JournalError, match="asked_sha256"):
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


def test_another_model_in_the_same_folder_is_refused(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 3)
    first, moved, other = (
        Service(checkpoint=name) for name in ("1.7B@main", "1.7B@main", "0.6B@main")
    )
    transcribe(clips, options(serve_app(first.app())), tmp_path / "j.jsonl")
    again = transcribe(clips, options(serve_app(moved.app())), tmp_path / "j.jsonl")
    assert len(again) == 3
    with pytest.raises(JournalError, match=r"checkpoint '1\.7B@main', now '0\.6B@main'"):
        transcribe(clips, options(serve_app(other.app())), tmp_path / "j.jsonl")
    assert moved.asked == other.asked == []
    assert read_journal(tmp_path / "j.jsonl")[0]["service"]["identity"]["checkpoint"] == "1.7B@main"


def test_a_service_that_says_nothing_of_itself_is_its_address(
    tmp_path: Path, serve_app: Serve
) -> None:
    clips = make_clips(tmp_path, 3)
    transcribe(clips, options(serve_app(Service().app())), tmp_path / "j.jsonl")
    with pytest.raises(JournalError, match="answered by another service"):
        transcribe(clips, options(serve_app(Service().app())), tmp_path / "j.jsonl")


def test_one_run_a_folder(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 1)
    url = serve_app(Service().app())
    transcribe(clips, options(url), tmp_path / "j.jsonl")
    held = Journal.open(tmp_path / "j.jsonl", {})
    with pytest.raises(JournalError, match="is being written by another run"):
        transcribe(clips, options(url), tmp_path / "j.jsonl")
    held.close()
    assert len(transcribe(clips, options(url), tmp_path / "j.jsonl")) == 1


def test_corrected_references_do_not_ask_again(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 3)
    service = Service()
    url = serve_app(service.app())
    transcribe(clips, options(url), tmp_path / "j.jsonl")
    transcribe([replace(c, text="corrected") for c in clips], options(url), tmp_path / "j.jsonl")
    assert len(service.asked) == 3


def test_nobody_there_stops_at_once_and_says_what_to_do(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    clips = make_clips(tmp_path, 50)
    nowhere = options(f"http://127.0.0.1:{unused_tcp_port}", max_attempts=1)
    with pytest.raises(ServiceDown, match="kubectl port-forward"):
        transcribe(clips, nowhere, tmp_path / "j.jsonl")


def test_a_service_that_dies_stops_the_run_soon_and_keeps_what_was_answered(
    tmp_path: Path, serve_app: Serve
) -> None:
    clips = make_clips(tmp_path, 200)
    service = Service()
    url = serve_app(service.app())
    dead = [Response(status_code=503) for _ in range(200)]

    def answer(audio: bytes) -> dict[str, object]:
        if len(service.asked) == 20:
            service.failures.extend(dead)
        return {"text": audio.decode()}

    service.answer = answer
    with pytest.raises(ServiceDown, match="the same command continues"):
        transcribe(clips, options(url, max_attempts=1), tmp_path / "j.jsonl", concurrency=4)
    assert len(service.asked) < 40
    service.failures.clear()
    assert [r.error for r in transcribe(clips, options(url), tmp_path / "j.jsonl")] == [None] * 200
    assert sum(Counter(said.audio for said in service.asked).values()) < 240


def test_a_wrong_key_stops_the_run_soon(tmp_path: Path, serve_app: Serve) -> None:
    service = Service(failures=[Response(status_code=401) for _ in range(200)])
    with pytest.raises(ServiceDown, match="HTTP 401"):
        transcribe(make_clips(tmp_path, 100), options(serve_app(service.app())), tmp_path / "j")
    assert len(service.asked) < 40


def test_two_versions_are_asked_in_turn(tmp_path: Path, serve_app: Serve) -> None:
    clips = make_clips(tmp_path, 20)
    order: list[str] = []

    def version(name: str) -> Service:
        def answer(audio: bytes) -> dict[str, object]:
            order.append(name)
            return {"text": f"{name} {audio.decode()}"}

        return Service(answer, checkpoint=name)

    targets = [
        Target(options(serve_app(version(name).app())), tmp_path / f"{name}.jsonl")
        for name in ("stable", "candidate")
    ]
    stable, candidate = transcribe_together(clips, targets, AskOptions(concurrency=1))
    assert [r.text for r in stable] == [f"stable words {i}" for i in range(20)]
    assert [r.text for r in candidate] == [f"candidate words {i}" for i in range(20)]
    assert order == ["stable", "candidate", "candidate", "stable"] * 10
    order.clear()
    assert transcribe_together(clips, targets, AskOptions()) == [stable, candidate]
    assert order == []


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("inputs", [("audio",), ("audio", "draft")])
def test_drafts_go_to_a_candidate_that_takes_them(
    tmp_path: Path, serve_app: Serve, inputs: tuple[str, ...], forced: bool
) -> None:
    """As its own answer would begin: with the language, unless that is forced."""
    clips = make_clips(tmp_path, 4)
    candidate = Service(checkpoint="new", inputs=inputs)

    def heard(audio: bytes) -> dict[str, Any]:
        return {"text": "heard " + audio.decode(), "language": "English"}

    stable = Service(heard, inputs=("audio", "draft"))
    targets = [
        Target(
            replace(options(serve_app(service.app())), send_language=forced),
            tmp_path / f"{i}.jsonl",
        )
        for i, service in enumerate((stable, candidate))
    ]
    _, records = transcribe_together(clips, targets, AskOptions(drafts=True))
    assert {said.draft for said in stable.asked} == {None}
    header = "" if forced else "language English<asr_text>"
    wanted = {f"{header}heard words {i}" for i in range(4)} if "draft" in inputs else {None}
    assert {said.draft for said in candidate.asked} == wanted
    assert [r.drafted for r in records] == ["draft" in inputs or None] * 4


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
