"""Commands that ask a running service: `transcribe --url` and `live`."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import soundfile
import soxr

from predictor.cli.main import run
from predictor.cli.recordings import BUNDLED
from predictor.cli.screen import EVENT, LAST, Screen
from tests.api.conftest import Server, StartServer

ROOT = Path(__file__).parents[2]
ENGLISH = "Remind me to call my sister at 7:30."


def test_a_service_transcribes_what_is_sent(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transcribe", str(BUNDLED / "demo-en-1.flac"), "--url", server.url]
    assert run([*command, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["text"], answer["language"]) == (ENGLISH, "English")
    assert answer["segments"][0]["confidence"] > 0.5


def test_what_a_service_refuses_is_said_and_1(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transcribe", str(BUNDLED / "recordings.json"), "--url", server.url]
    assert run(command) == 1
    assert "HTTP 400: file: no known audio format" in capsys.readouterr().err
    assert run([*command, "--model", "other"]) == 1
    assert "HTTP 404" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["transcribe", "--demo", "--url", "http://127.0.0.1:9"]) == 1
    assert "no answer from http://127.0.0.1:9" in capsys.readouterr().err
    assert run(["live", str(BUNDLED / "demo-en-1.flac"), "--url", "http://127.0.0.1:9"]) == 1
    assert "ws://127.0.0.1:9" in capsys.readouterr().err


class Answers(BaseHTTPRequestHandler):
    """A server that is no speech service: what it answers to any POST is on its class."""

    answer: ClassVar[bytes] = b""
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Something is there."""
        self.send_error(404)

    def do_POST(self) -> None:
        """The answer as it stands, which may be no HTTP."""
        self.rfile.read(int(self.headers["content-length"]))
        self.wfile.write(self.answer)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def stranger() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "no answer from"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no answer from"),
        (OK_HEAD + b"Content-Length: 900\r\n\r\n{", "no answer from"),
        (OK_HEAD + b"\r\n<html>", "does not answer as OpenAI's route does"),
        (OK_HEAD + b"\r\n[]", "does not answer as OpenAI's route does"),
        (OK_HEAD + b'\r\n{"segments": [{}], "text": 1}', "does not answer as OpenAI's route"),
        (b"HTTP/1.1 500 no\r\n\r\n<html>", "HTTP 500"),
        (b"HTTP/1.1 401 no\r\n\r\n{}", "HTTP 401; set ASR_API_KEY to a key of the service"),
    ],
)
def test_a_stranger_in_its_place_is_said_in_a_line(
    answer: bytes, said: str, stranger: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(Answers, "answer", answer)
    clip = str(BUNDLED / "demo-en-1.flac")
    assert run(["transcribe", clip, "--url", stranger]) == 1
    shown = capsys.readouterr().err.splitlines()
    assert said in shown[0]
    assert len(shown) <= 2  # and the summary
    assert run(["live", clip, "--url", stranger, "--speed", "50"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "HTTP 404" in line


class Silent(Answers):
    """Never answers."""

    asked: ClassVar[threading.Event] = threading.Event()
    over: ClassVar[threading.Event] = threading.Event()

    def do_POST(self) -> None:
        """Until the test is over."""
        self.asked.set()
        self.over.wait()


def test_ctrl_c_does_not_wait_for_a_service() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        command = [sys.executable, "-m", "predictor.cli", "transcribe", "--demo", "--url", url]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
            Silent.asked.wait()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
        Silent.over.set()
        server.shutdown()
    assert process.returncode == 130
    assert "Traceback" not in said


def test_what_a_service_refuses_of_all_recordings_is_asked_once(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transcribe", "--demo", "--url", server.url, "--model", "other"]
    assert run([*command, "--jobs", "1"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"qwen3-asr: {server.url}: HTTP 404")


def test_a_key_that_is_none_is_said_with_what_to_set(
    start_server: StartServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "keys").write_text("me right\n")
    keyed = start_server("--api_keys_file", str(tmp_path / "keys"))
    clip = str(BUNDLED / "demo-en-1.flac")
    for command in (["transcribe", "--demo"], ["live", clip, "--speed", "50"]):
        monkeypatch.setenv("ASR_API_KEY", "wrong")
        assert run([*command, "--url", keyed.url]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "HTTP 401" in line
        assert "set ASR_API_KEY to a key of the service" in line
        monkeypatch.setenv("ASR_API_KEY", "right")
        assert run([*command, "--url", keyed.url]) == 0
        capsys.readouterr()


def test_a_file_is_heard_live(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["live", str(BUNDLED / "demo-en-1.flac"), "--url", server.url, "--speed", "50"]
    assert run(command) == 0
    assert capsys.readouterr().out == ENGLISH + "\n"


def test_standard_input_is_heard_live(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (BUNDLED / "demo-en-1.flac").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(file.read())))
    assert run(["live", "-", "--url", server.url, "--speed", "50"]) == 0
    assert capsys.readouterr().out == ENGLISH + "\n"


def test_a_microphone_is_heard_by_alsa(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """ALSA's own file plugin is the microphone, in a process of its own: ALSA reads its
    configuration once. At the end of the file the plugin has no more to give, and the device is
    gone, as when one is pulled out."""
    samples, rate = soundfile.read(BUNDLED / "demo-en-1.flac", dtype="float32")
    padded = np.append(samples, np.zeros(2 * rate, np.float32))
    wide = soxr.resample(padded, rate, 48_000)
    pcm = (np.stack([wide, wide], axis=1) * 32_767).astype("<i2")
    pcm.tofile(tmp_path / "microphone.raw")
    (tmp_path / "alsa.conf").write_text(
        f'pcm.default {{ type file slave.pcm {{ type null }} file "/dev/null"\n'
        f'infile "{tmp_path / "microphone.raw"}" format "raw" }}\n'
    )
    command = [sys.executable, "-m", "predictor.cli", "live", "--url", server.url]
    environ = os.environ | {"ALSA_CONFIG_PATH": str(tmp_path / "alsa.conf")}
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert said == ENGLISH + "\n"
    assert process.returncode == 130


def test_a_microphone_that_is_not_there(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["live", "--url", server.url, "--device", "alsa:hw:31"]) == 2
    said = capsys.readouterr().err
    assert "microphone alsa:hw:31: " in said
    assert "arecord -t wav" in said


def test_the_end_waits_for_all_that_is_open(capsys: pytest.CaptureFixture[str]) -> None:
    def event(kind: str, **more: object) -> str:
        return json.dumps({"type": kind, **more})

    end = event("error", error={"event_id": LAST, "message": "nothing to change"})
    opened = event("input_audio_buffer.speech_started", item_id="a")
    done = event(f"{EVENT}.completed", item_id="a", transcript="said")
    failed = event(f"{EVENT}.failed", item_id="a", error={"message": "overloaded"})
    assert Screen().show([opened, end, done, event("not reached")]) == 0
    assert Screen().show([opened, end, failed]) == 1
    assert Screen().show([opened, end]) is None  # the connection ended first
    captured = capsys.readouterr()
    assert captured.out == "said\n"
    assert captured.err == "qwen3-asr live: overloaded\n"
