"""Recordings larger than a body in memory may be, on disk instead: curl's own uploads."""

from __future__ import annotations

import http.client
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from predictor.audio.file_part import FilePart, MappedFile, file_part
from predictor.settings.preflight import problems
from predictor.settings.read import load_settings
from tests.bench.long_client import follow
from tests.bench.long_recordings import write_hours
from tests.bench.resident import Memory

MODEL = "qwen3-asr"
SPEECH = Path(__file__).parents[2] / "predictor" / "recordings" / "demo-en-1.flac"
TEXT = "Remind me to call my sister at 7:30."


@pytest.fixture(scope="module")
def spooling(start_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("spool")
    server = start_server(
        f"--spool_dir={folder}", "--max_body_bytes=1000000", "--max_spool_bytes=40000000"
    )
    server.folder = folder
    return server


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The clip behind some minutes of nothing: plain WAV, a format of libsndfile's, and MP4."""
    folder = tmp_path_factory.mktemp("large")
    clip, rate = soundfile.read(SPEECH, dtype="float32")
    samples = np.zeros((int(60.0 * 48_000), 2), np.float32)
    clip = np.interp(np.arange(len(clip) * 3) / 3, np.arange(len(clip)), clip)
    samples[-len(clip) - 24_000 : -24_000] = clip[:, None]
    paths = {name: folder / f"large.{name}" for name in ("wav", "aiff")}
    for path in paths.values():
        soundfile.write(path, samples, 48_000)
        assert path.stat().st_size > 9_000_000
    assert rate == 16_000
    return paths


@pytest.mark.parametrize("name", ["wav", "aiff"])
def test_a_form_with_a_large_recording(spooling: Any, large: dict[str, Path], name: str) -> None:
    url = f"{spooling.url}/v1/audio/transcriptions"
    command = ["curl", "-sS", "--fail-with-body", url, "-F", f"model={MODEL}", "-F"]
    said = subprocess.run(
        [*command, f"file=@{large[name]}", "-F", "response_format=verbose_json"],
        capture_output=True, check=True,
    )  # fmt: skip
    answer = httpx.Response(200, content=said.stdout).json()
    assert answer["text"] == TEXT
    assert answer["segments"][0]["start"] == pytest.approx(60.0 - 3.745, abs=0.3)
    assert list(spooling.folder.iterdir()) == []  # files there have no names


def test_a_large_raw_body(spooling: Any, large: dict[str, Path]) -> None:
    url = f"{spooling.url}/v1/models/{MODEL}:predict"
    kind = {"content-type": "audio/wav"}
    with large["wav"].open("rb") as file:
        answer = httpx.post(url, content=file, headers=kind, timeout=120)  # in chunks
    assert answer.json()["predictions"][0]["text"] == TEXT


def test_what_is_larger_still_and_what_is_no_recording_is_refused(spooling: Any) -> None:
    url = f"{spooling.url}/v1/models/{MODEL}:predict"
    for kind, size in (("audio/wav", 40_000_001), ("application/json", 1_000_001)):
        connection = http.client.HTTPConnection(httpx.URL(url).netloc.decode(), timeout=60)
        connection.putrequest("POST", httpx.URL(url).path)
        connection.putheader("content-type", kind)
        connection.putheader("content-length", str(size))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    many = (bytes(1 << 20) for _ in range(45))
    answer = httpx.post(url, content=many, headers={"content-type": "audio/wav"}, timeout=60)
    assert answer.status_code == 413
    assert _open_files(spooling) == []


def _open_files(server: Any) -> list[str]:
    """Of the spool, that the server still holds."""
    folder = f"/proc/{server.process.pid}/fd"
    found = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return [name for name in found if name.startswith(str(server.folder))]


def test_a_folder_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    settings = load_settings([f"--spool_dir={tmp_path / 'none'}", "--http_port=0"], {})
    assert any("spool_dir" in problem for problem in problems(settings))


def test_a_part_of_a_file_reads_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(200)))
    mapped = MappedFile(path.open("rb"))
    view = memoryview(mapped)[20:][:100]
    found = file_part(view)
    assert found is not None
    file, begin = found
    assert begin == 20
    assert file_part(view[:0]) is file_part(b"abc") is None
    part, expected = FilePart(file.fileno(), begin, len(view)), io.BytesIO(bytes(view))
    for offset, whence, count in ((0, 0, 7), (3, 1, 50), (-5, 2, 99), (90, 0, 20), (0, 2, 1)):
        assert part.seek(offset, whence) == expected.seek(offset, whence)
        assert part.read(count) == expected.read(count)
        assert part.tell() == expected.tell()


def test_memory_stays_flat_while_twenty_minutes_go_through(spooling: Any, tmp_path: Path) -> None:
    """The short form of `python -m tests.bench.long --parts hours`."""
    path = tmp_path / "long.flac"
    used = write_hours(path, 1 / 3, 60.0)
    seen: list[tuple[float, float]] = []
    with Memory(spooling.process.pid) as memory, path.open("rb") as file:
        answer = follow(
            spooling.url, file, "audio/flac", lambda end_s: seen.append((time.monotonic(), end_s))
        )
    assert answer["segments"] == len(used)
    assert [round(end_s // 60) for _, end_s in seen] == list(range(len(used)))
    begin_s, end_s = seen[1][0], seen[-1][0]
    assert memory.most(end_s, end_s + 1) < memory.most(begin_s - 1, begin_s) + 80


@pytest.mark.soak
def test_memory_stays_flat_over_ten_hours(tmp_path: Path) -> None:
    output = tmp_path / "long.json"
    command = [sys.executable, "-m", "tests.bench.long", "--parts", "hours", "--hours", "10"]
    subprocess.run([*command, "--output", str(output)], check=True)
    [row] = json.loads(output.read_text())["hours 10"]["rows"]
    memory = row["memory_mib"]
    assert memory["last tenth"] < memory["first tenth"] + 100
    assert row["first_segment_s"] < 60
    assert row["error %"] < 5
