"""Recordings and journals in a bucket: s3fs against moto's S3 server, over a socket."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
import s3fs
from moto.server import ThreadedMotoServer
from starlette.responses import JSONResponse

from pipelines.cli import main
from pipelines.lib.errors import ManifestError, PipelineError
from pipelines.lib.journal import Journal, Record, read_journal
from pipelines.lib.journal_store import StoredJournal
from pipelines.shard_steps import Asking, plan_shards, transcribe_or_fail
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_archive import words
from tests.pipelines.test_promote import NUM_CLIPS, answers, write_clips

BUCKET = "asr"
ASKING = Asking("qwen3-asr", "v2", 4, 0.05)
LIMIT_S = 30


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, and the environment that leads to it; gives boto3's client."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()  # they remember another test's server
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    client.close()
    s3fs.S3FileSystem.clear_instance_cache()
    requests.post(f"http://{host}:{port}/moto-api/reset", timeout=LIMIT_S)  # servers share it
    server.stop()


def objects(client: Any, prefix: str = "") -> list[str]:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"] for each in found]


def planned(manifest: Path, url: str, journals: str, **more: Any) -> dict[str, Any]:
    given = {"checkpoint": "", "model": "qwen3-asr", "run_id": "run-1", "reuse": True, **more}
    [shard] = plan_shards(str(manifest), 1, services=[(url, "")], journals=journals, **given)
    return shard


def test_a_pod_that_is_lost_is_continued_from_the_bucket(
    tmp_path: Path, serve_app: Serve, bucket: Any
) -> None:
    """No volume is shared: each pod has its own disk, and the store."""
    manifest = write_clips(tmp_path)
    service = Service(answers(0), checkpoint="one")
    service.failures = [JSONResponse({"error": "no"}, 400) for _ in range(10)]
    shard = planned(manifest, serve_app(service.app()), f"s3://{BUCKET}/journals/")
    assert objects(bucket) == []  # what was written to try it is gone

    def pod(name: str) -> int:
        before = len(service.asked)
        output = tmp_path / name / "journal.jsonl"
        output.parent.mkdir()
        transcribe_or_fail(str(manifest), [str(output)], shard, ASKING, sleep=lost)
        assert len(read_journal(output)[1]) == NUM_CLIPS
        return len(service.asked) - before

    def lost(_: float) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        pod("first")
    assert len(service.asked) == NUM_CLIPS
    assert pod("second") == 10
    assert pod("third") == 0
    assert len(objects(bucket, f"journals/{shard['key']}/0-of-1-0/")) == 2


def test_what_is_answered_is_in_the_bucket_before_the_pod_ends(tmp_path: Path, bucket: Any) -> None:
    """A pod that is killed says nothing: what it wrote a moment ago must be there already."""
    url = f"s3://{BUCKET}/kept"
    header = {"model": "qwen3-asr"}
    with StoredJournal(url, tmp_path / "killed.jsonl", every_s=0.01):
        journal = Journal.open(tmp_path / "killed.jsonl", header)
        journal.add(Record("a", "one"))
        wait_for(bucket, b'"a"')
        journal.add(Record("b", "two"))
        wait_for(bucket, b'"b"')
        with (tmp_path / "killed.jsonl").open("a") as file:
            file.write('{"clip_id": "c", "te')  # torn: killed while writing
        with StoredJournal(url, tmp_path / "next.jsonl"):
            continued = Journal.open(tmp_path / "next.jsonl", header)
            assert {key: r.text for key, r in continued.records.items()} == {"a": "one", "b": "two"}
            continued.add(Record("c", "three"))
            continued.close()
        journal.close()
    assert len(objects(bucket, "kept/")) == 3  # not the torn line
    with StoredJournal(url, tmp_path / "last.jsonl"):
        assert [r.text for r in read_journal(tmp_path / "last.jsonl")[1]] == ["one", "two", "three"]


def wait_for(client: Any, text: bytes) -> None:
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        for name in objects(client, "kept/"):
            if text in client.get_object(Bucket=BUCKET, Key=name)["Body"].read():
                return
    pytest.fail(f"{text!r} is in no object")


def test_a_store_that_takes_nothing_costs_a_warning_and_no_answer(
    tmp_path: Path, serve_app: Serve, bucket: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = write_clips(tmp_path)
    url = serve_app(Service(answers(0), checkpoint="one").app())
    assert planned(manifest, url, "s3://nowhere/journals")["journals"] == ""
    assert "journals s3://nowhere/journals: cannot be written: The specified bucket" in caplog.text
    caplog.clear()
    shard = planned(manifest, url, f"s3://{BUCKET}/journals")
    output = tmp_path / "journal.jsonl"
    with StoredJournal(f"s3://{BUCKET}/journals/x", output):
        bucket.delete_bucket(Bucket=BUCKET)
        output.write_text("a line\n")
    assert "cannot be written" in caplog.text
    output.unlink()
    with pytest.raises(ManifestError, match=r"journals s3://asr/.*: cannot be read: "):
        transcribe_or_fail(str(manifest), [str(output)], shard, ASKING, sleep=lambda _: None)


def test_recordings_that_a_manifest_names_by_url_are_fetched_where_that_is_allowed(
    tmp_path: Path, serve_app: Serve, bucket: Any
) -> None:
    lines = []
    for name in ("hello", "goodbye"):
        bucket.put_object(Bucket=BUCKET, Key=f"set/{name}.wav", Body=name.encode())
        audio = f"s3://{BUCKET}/set/{name}.wav"
        lines.append(json.dumps({"audio": audio, "text": name, "language": "en"}))
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))
    shard = planned(tmp_path / "manifest.jsonl", serve_app(Service(words).app()), "")
    output = tmp_path / "journal.jsonl"
    ask = (str(tmp_path / "manifest.jsonl"), [str(output)], shard)
    with pytest.raises(PipelineError, match="remote, and remote audio was not allowed"):
        transcribe_or_fail(*ask, ASKING, sleep=lambda _: None)
    transcribe_or_fail(*ask, replace(ASKING, allow_remote=True), sleep=lambda _: None)
    assert sorted(record.text for record in read_journal(output)[1]) == ["goodbye", "hello"]


def test_an_archive_in_a_bucket_becomes_files_by_the_pipeline(
    tmp_path: Path,
    serve_app: Serve,
    bucket: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`transcribe` by KFP's local runner; started again, it asks for what came since."""
    service = Service(words)
    url = serve_app(service.app())
    for name, said in (("2026/a.wav", "hello"), ("2026/b.mp3", "good day"), ("notes.txt", "no")):
        bucket.put_object(Bucket=BUCKET, Key=f"calls/{name}", Body=said.encode())
    out = tmp_path / "transcripts"
    command = [
        "submit", "transcribe", f"--local={tmp_path / 'kfp'}", "--json", f"--set=url={url}",
        f"--set=source=s3://{BUCKET}/calls", f"--set=out={out}", "--set=formats=srt",
    ]  # fmt: skip
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["artifacts"] == str(tmp_path / "kfp")
    assert (out / "srt/2026/a.wav.srt").read_text().endswith("hello\n")
    bucket.put_object(Bucket=BUCKET, Key="calls/c.flac", Body=b"new")
    assert main(command) == 0
    assert [said.audio for said in service.asked].count(b"hello") == 1
    artifacts = (tmp_path / "kfp").glob("*/transcribe-archive/transcripts")
    assert sorted(len(path.read_text().splitlines()) for path in artifacts) == [2, 3]
