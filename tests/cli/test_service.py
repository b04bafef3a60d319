"""Commands that ask a running service: `transcribe --url` and `live`."""

from __future__ import annotations

import json

import pytest

from predictor.cli.main import run
from predictor.cli.recordings import BUNDLED
from predictor.cli.screen import EVENT, LAST, Screen
from tests.api.conftest import Server

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


def test_a_file_is_heard_live(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["live", str(BUNDLED / "demo-en-1.flac"), "--url", server.url, "--speed", "50"]
    assert run(command) == 0
    assert capsys.readouterr().out == ENGLISH + "\n"


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
