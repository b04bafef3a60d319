"""Archives to files: every recording, once, also when more are added."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.archive import find_recordings
from pipelines.cli import main
from pipelines.lib import storage
from pipelines.lib.errors import ManifestError
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_readers import put


def answer(audio: bytes) -> dict[str, Any]:
    words = audio.decode()
    details = {"segments": [
        {"start": 0.0, "end": 1.5, "text": words, "confidence": 0.9},
        {"start": 62.25, "end": 63.0, "text": "bye", "confidence": 0.8},
    ]}  # fmt: skip
    return {"text": f"{words} bye", "language": "English", "confidence": 0.9, "duration": 63.0,
            "details": details}  # fmt: skip


def test_a_folder_becomes_files_and_grows(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in/2026/a.wav", "hello")
    put(tmp_path / "in/b.MP3", "good day")
    put(tmp_path / "in/notes.pdf", "no recording")
    service = Service(answer)
    fixed = ["transcribe", str(tmp_path / "in"), f"--url={serve_app(service.app())}", "--quiet",
             f"--out={tmp_path / 'out'}"]  # fmt: skip
    assert main([*fixed, "--formats=jsonl,txt,srt,vtt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"] == 2
    lines = (tmp_path / "out/transcripts.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["id"], first["text"], second["id"]) == ("2026/a.wav", "hello bye", "b.MP3")
    assert first["segments"][1]["start"] == 62.25
    assert (tmp_path / "out/txt/2026/a.wav.txt").read_text() == "hello bye\n"
    assert (tmp_path / "out/srt/2026/a.wav.srt").read_text() == (
        "1\n00:00:00,000 --> 00:00:01,500\nhello\n\n2\n00:01:02,250 --> 00:01:03,250\nbye\n"
    )
    assert (tmp_path / "out/vtt/b.MP3.vtt").read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")
    put(tmp_path / "in/c.flac", "new")
    assert main(fixed) == 0
    assert [said.audio for said in service.asked].count(b"hello") == 1
    assert (tmp_path / "out/srt/c.flac.srt").exists()


def test_what_failed_is_said_and_tried_again(tmp_path: Path, serve_app: Serve) -> None:
    from starlette.responses import JSONResponse

    put(tmp_path / "in/a.wav", "hello")
    service = Service(answer, [JSONResponse({"error": "no audio", "code": "invalid_audio"}, 400)])
    fixed = ["transcribe", str(tmp_path / "in"), f"--url={serve_app(service.app())}", "--quiet",
             f"--out={tmp_path / 'out'}"]  # fmt: skip
    assert main(fixed) == 1
    (line,) = (tmp_path / "out/transcripts.jsonl").read_text().splitlines()
    assert json.loads(line)["error"] == "invalid_audio"
    assert not (tmp_path / "out/txt/a.wav.txt").exists()
    assert main(fixed) == 0
    assert (tmp_path / "out/txt/a.wav.txt").exists()
    assert main([*fixed, "--formats=docx"]) == 2


def test_manifests_and_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    put(tmp_path / "x.wav", "hello")
    put(tmp_path / "m.jsonl", json.dumps({"audio": "x.wav", "text": "", "id": "../../up"}))
    (clip,) = find_recordings(str(tmp_path / "m.jsonl"), allow_remote=False, language=None)
    assert (clip.id, clip.text) == ("up", None)
    with fsspec.open("memory://calls/2026/a.wav", "wb") as file:
        file.write(b"sound")
    # fsspec's own in-memory store stands where s3fs would
    monkeypatch.setitem(storage.FSSPEC_PACKAGES, "memory", "fsspec")
    (clip,) = find_recordings("memory://calls", allow_remote=True, language="English")
    assert (clip.id, clip.audio) == ("2026/a.wav", "memory://calls/2026/a.wav")
    assert storage.read_audio(clip.audio, allow_remote=True) == b"sound"
    with pytest.raises(ManifestError, match="remote audio was not allowed"):
        find_recordings("memory://calls", allow_remote=False, language=None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="holds no recordings"):
        find_recordings(str(tmp_path / "empty"), allow_remote=False, language=None)


def words(audio: bytes) -> dict[str, Any]:
    return {"text": audio.decode(), "language": "English", "confidence": 0.9, "duration": 1.0}


def test_names_that_file_systems_hold_and_silence(tmp_path: Path, serve_app: Serve) -> None:
    """As found in archives: bytes that are no text, names as long as can be, files of other
    systems, links to nothing, pipes, folders named as recordings, and recordings of nothing."""
    folder = tmp_path / "in"
    put(folder / "a.wav", "one")
    put(folder / "a.mp3", "another")
    put(folder / "silent.wav", "")
    put(folder / "line\nend.wav", "two lines")
    put(folder / f"{'x' * 251}.wav", "long")
    put(Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.wav")), "coffee")
    put(folder / "._a.wav", "what another system keeps beside it")
    (folder / "gone.wav").symlink_to("/nowhere")
    (folder / "folder.wav").mkdir()
    os.mkfifo(folder / "pipe.wav")
    url = serve_app(Service(words).app())
    out = tmp_path / "out"
    for _ in range(2):  # and the journal is read back
        fixed = [f"--url={url}", "--quiet", f"--out={out}"]
        assert main(["transcribe", str(folder), *fixed]) == 0
    found = map(json.loads, (out / "transcripts.jsonl").read_text().splitlines())
    wanted = ["", "another", "coffee", "long", "one", "two lines"]
    assert sorted(each["text"] for each in found) == wanted
    texts = {os.fsencode(path.name): path.read_text() for path in (out / "txt").iterdir()}
    assert sorted(texts.values()) == [f"{text}\n" for text in wanted]
    assert texts[b"caf\xe9.wav.txt"] == "coffee\n"
    assert all(len(name) <= 255 for name in texts)
    assert (out / "srt" / "silent.wav.srt").read_text() == ""
    assert main(["transcribe", str(folder / "a.wav"), *fixed[:2], f"--out={tmp_path / 'one'}"]) == 0
    assert (tmp_path / "one/txt/a.wav.txt").read_text() == "one\n"


def test_a_recording_that_was_changed_is_asked_for_again(tmp_path: Path, serve_app: Serve) -> None:
    folder, service = tmp_path / "in", Service(words)
    put(folder / "a.wav", "before")
    put(folder / "b.wav", "as it was")
    put(folder / "c.wav", "by a clock that is ahead")
    os.utime(folder / "c.wav", (2e10, 2e10))
    command = ["transcribe", str(folder), f"--url={serve_app(service.app())}", "--quiet",
               f"--out={tmp_path / 'out'}"]  # fmt: skip
    assert main(command) == 0
    put(folder / "a.wav", "after")
    assert main(command) == 0
    assert len(service.asked) == 4
    assert (tmp_path / "out/txt/a.wav.txt").read_text() == "after\n"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["../up", "up"], "ids '../up' and 'up': both would be written to 'up'"),
        ([".."], "id '..': cannot be a file's name"),
        (["a\0b"], "cannot be a file's name"),
    ],
)
def test_ids_that_are_no_names(tmp_path: Path, ids: list[str], message: str) -> None:
    entries = [{"audio": f"{number}.wav", "text": None, "id": i} for number, i in enumerate(ids)]
    put(tmp_path / "m.jsonl", "\n".join(map(json.dumps, entries)))
    with pytest.raises(ManifestError, match=message):
        find_recordings(str(tmp_path / "m.jsonl"), allow_remote=False, language=None)


def test_a_place_that_cannot_be_written_is_named(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "in/a.wav", "hello")
    put(tmp_path / "file", "")
    url = serve_app(Service(words).app())
    command = ["transcribe", str(tmp_path / "in"), f"--url={url}", "--quiet"]
    assert main([*command, f"--out={tmp_path / 'file'}"]) == 2
    assert "file/journal.jsonl: cannot be written" in capsys.readouterr().err
    put(tmp_path / "out/txt", "no folder")
    assert main([*command, f"--out={tmp_path / 'out'}"]) == 2
    assert capsys.readouterr().err.startswith("error: [Errno")
