"""Jobs over HTTP, against a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest

from tests.jobs.conftest import KEYS, MAX_JOBS, Jobs, nearly, until

Wav = Callable[..., bytes]
Talk = Callable[..., np.ndarray]
FORMATS = ("json", "text", "verbose_json", "srt", "vtt")


@pytest.fixture(scope="module")
def long_recording(wav: Wav, talk: Talk) -> bytes:
    return wav(talk(11.0))


def test_a_job_says_what_the_transcription_says_in_every_format(
    jobs: Jobs, long_recording: bytes
) -> None:
    made = jobs.create(long_recording, language="en", response_format="verbose_json")
    assert made.status_code == 202
    job_id = made.json()["id"]
    assert made.headers["location"] == f"/v1/jobs/{job_id}"
    job = jobs.done(job_id)
    assert job["progress"]["done_s"] == job["progress"]["duration_s"] == 11.0
    assert len(job["segments"]) > 2
    assert job["expires_at"] == pytest.approx(job["ended_at"] + 86400, abs=1)
    assert jobs.result(job_id).json()["segments"]
    for chosen in FORMATS:
        answer = jobs.result(job_id, chosen)
        expected = jobs.transcription(long_recording, language="en", response_format=chosen)
        assert answer.status_code == expected.status_code == 200
        assert answer.headers["content-type"] == expected.headers["content-type"]
        if "json" in chosen:
            assert answer.json() == nearly(expected.json())
        else:
            assert answer.content == expected.content


def test_options_of_the_transcription_count(jobs: Jobs, speech: bytes) -> None:
    job_id = jobs.made(speech, vad="off", prompt="names", **{"include[]": "logprobs"})
    jobs.done(job_id)
    expected = jobs.transcription(speech, vad="off", prompt="names", **{"include[]": "logprobs"})
    said = jobs.result(job_id).json()["logprobs"]
    assert said
    assert [token["bytes"] for token in said] == [t["bytes"] for t in expected.json()["logprobs"]]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"language": "klingon"}, "language"),
        ({"stream": "true"}, "stream"),
        ({"response_format": "docx"}, "response_format"),
        ({"url": "http://example.com/a.wav"}, "url"),
        ({"channel": "left"}, "channel"),
    ],
)
def test_bad_requests_name_the_field_and_store_nothing(
    jobs: Jobs, speech: bytes, fields: dict[str, str], field: str
) -> None:
    before = jobs.http.get("/v1/jobs").json()
    answer = jobs.create(speech, **fields)
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]
    assert jobs.http.get("/v1/jobs").json() == before


def test_what_is_no_audio_is_refused_at_once_and_what_breaks_later_fails_the_job(
    jobs: Jobs, speech: bytes
) -> None:
    assert jobs.create(b"no audio").json()["error"]["code"] == "invalid_audio"
    flac_of_noise = speech[:42] + bytes(range(256)) * 20
    made = jobs.create(flac_of_noise)
    assert made.status_code == 202
    job_id = made.json()["id"]
    job = jobs.ended(job_id)
    assert job["status"] == "failed"
    assert job["error"]["code"] == "invalid_audio"
    answer = jobs.result(job_id)
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "job_not_done"
    assert job["error"]["message"] in answer.json()["error"]["message"]


def test_a_job_under_way_shows_how_far_it_is_and_has_no_result(
    jobs: Jobs, wav: Wav, talk: Talk
) -> None:
    job_id = jobs.made(wav(talk(60.0)))
    seen = until(lambda: jobs.job(job_id), lambda job: job["progress"]["done_s"] > 0)
    assert seen["status"] == "running"
    assert seen["progress"]["duration_s"] == 60.0
    assert seen["segments"][-1]["end"] == seen["progress"]["done_s"]
    assert jobs.result(job_id).status_code == 409
    assert jobs.http.delete(f"/v1/jobs/{job_id}").json()["deleted"] is True
    assert jobs.http.get(f"/v1/jobs/{job_id}").status_code == 404
    next_id = jobs.made(wav(talk(1.0)))  # the runner goes on with others
    jobs.done(next_id)
    assert jobs.http.get("/v1/jobs").json()["data"][0]["id"] == next_id


def test_jobs_belong_to_their_key(jobs_server: Any, jobs_folder: Path, speech: bytes) -> None:
    with Jobs(jobs_server, KEYS[1]) as one, Jobs(jobs_server, KEYS[2]) as two:
        job_id = one.made(speech)
        one.done(job_id)
        assert two.http.get("/v1/jobs").json()["data"] == []
        for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
            url = f"/v1/jobs/{job_id}{path}"
            assert two.http.request(method, url).status_code == 404
            assert httpx.request(method, jobs_server.url + url).status_code == 401
    assert httpx.get(jobs_server.url + "/v1/jobs").status_code == 401
    assert httpx.head(jobs_server.url + f"/v1/jobs/{job_id}").status_code == 401
    stored = (jobs_folder / "jobs.sqlite3").read_bytes()
    assert not any(key.encode() in stored for key in KEYS)


def test_jobs_are_bounded_for_all_keys_together(jobs_server: Any, speech: bytes) -> None:
    broken = speech[:42] + bytes(range(256)) * 20
    with Jobs(jobs_server, KEYS[1]) as one, Jobs(jobs_server, KEYS[2]) as two:
        made = []
        while (answer := one.create(broken)).status_code == 202:
            made.append(answer.json()["id"])
            assert len(made) < MAX_JOBS
        assert (answer.status_code, "max_jobs" in answer.text) == (429, True)
        assert "retry-after" in answer.headers
        assert two.create(broken).status_code == 429
        assert one.http.delete(f"/v1/jobs/{made.pop()}").status_code == 200
        made.append(one.made(broken))
        for job_id in made:
            one.http.delete(f"/v1/jobs/{job_id}")


def test_answers_fit_the_document(jobs: Jobs, jobs_server: Any, speech: bytes) -> None:
    document = httpx.get(jobs_server.url + "/openapi.json").json()
    paths = {path: set(item) for path, item in document["paths"].items() if "/jobs" in path}
    assert paths == {
        "/v1/jobs": {"get", "post"},
        "/v1/jobs/{job_id}": {"get", "delete"},
        "/v1/jobs/{job_id}/result": {"get"},
    }
    job_id = jobs.made(speech)
    jobs.done(job_id)
    made = jobs.create(speech)
    answers = [
        ("/v1/jobs", made),
        ("/v1/jobs", jobs.create(b"")),
        ("/v1/jobs", jobs.http.get("/v1/jobs")),
        ("/v1/jobs/{job_id}", jobs.http.get(f"/v1/jobs/{job_id}")),
        ("/v1/jobs/{job_id}", jobs.http.get("/v1/jobs/none")),
        ("/v1/jobs/{job_id}/result", jobs.result(job_id)),
        ("/v1/jobs/{job_id}/result", jobs.result(job_id, "docx")),
        ("/v1/jobs/{job_id}", jobs.http.delete(f"/v1/jobs/{made.json()['id']}")),
    ]
    for path, answer in answers:
        responses = document["paths"][path][answer.request.method.lower()]["responses"]
        found = responses.get(str(answer.status_code), responses["default"])
        schema = found["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema, jsonschema.Draft202012Validator)
    assert {answer.status_code for _, answer in answers} == {200, 202, 400, 404}
