"""`qwen3-asr transcribe` with the embedded checkpoint and with a service, files read by others."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import srt
import webvtt

from predictor.cli.checkpoint import EMBEDDED
from predictor.cli.main import run
from predictor.cli.progress import Progress
from predictor.cli.recordings import BUNDLED

SAID = {
    Path(each["audio"]).stem: each["text"]
    for each in json.loads((BUNDLED / "recordings.json").read_text("utf-8"))
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A recording, one in a folder below, one that is none, and a text."""
    (tmp_path / "in/calls").mkdir(parents=True)
    shutil.copy(BUNDLED / "demo-en-1.flac", tmp_path / "in")
    shutil.copy(BUNDLED / "demo-zh-4.flac", tmp_path / "in/calls")
    (tmp_path / "in/broken.wav").write_bytes(b"no audio at all")
    (tmp_path / "in/notes.txt").write_text("no recording")
    return tmp_path / "in"


def test_a_folder_becomes_files_that_others_read_and_a_second_run_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["transcribe", str(folder), "--recursive", "--checkpoint", "tiny"]
    command += ["--out", str(out), "--format", "txt,json,srt,vtt,tsv"]
    assert run(command) == 1  # broken.wav
    error = capsys.readouterr().err
    assert "broken: no known audio format" in error
    assert "3/3 recordings" in error
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    forms = ("txt", "json", "srt", "vtt", "tsv")
    assert names == {f"{n}.{f}" for n in ("demo-en-1", "calls/demo-zh-4") for f in forms}
    english = SAID["demo-en-1"]
    assert (out / "demo-en-1.txt").read_text() == english + "\n"
    assert json.loads((out / "calls/demo-zh-4.json").read_text())["text"] == SAID["demo-zh-4"]
    [cue] = srt.parse((out / "demo-en-1.srt").read_text())
    assert cue.content.replace("\n", " ") == english
    [caption] = webvtt.read(str(out / "demo-en-1.vtt"))
    assert caption.text.replace("\n", " ") == english
    head, row = (out / "demo-en-1.tsv").read_text().splitlines()
    assert head.split("\t") == ["start", "end", "text"]
    assert int(row.split("\t")[0]) < int(row.split("\t")[1])

    (folder / "broken.wav").unlink()
    assert run(command) == 0  # and loads no checkpoint
    assert "2 of 2 are done already" in capsys.readouterr().err


def test_standard_input_is_a_recording(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = io.BytesIO((BUNDLED / "demo-en-1.flac").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(data))
    assert run(["transcribe", "--checkpoint", "tiny", "-"]) == 0
    assert capsys.readouterr().out == SAID["demo-en-1"] + "\n"


def test_subtitles_keep_to_the_settings_and_to_the_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a server's do: with an aligner cues begin and end with words."""
    clip = str(BUNDLED / "demo-en-1.flac")
    command = ["transcribe", clip, "--checkpoint", "tiny", "--format", "srt", "--set"]
    assert run([*command, f"aligner_dir={EMBEDDED / 'tiny-aligner'}"]) == 0
    [cue] = srt.parse(capsys.readouterr().out)
    assert (cue.start.total_seconds(), cue.end.total_seconds()) == (0.352, 2.952)
    assert run([*command, "cue_max_columns=12"]) == 0
    lines = [line for cue in srt.parse(capsys.readouterr().out) for line in cue.content.split("\n")]
    assert max(map(len, lines)) <= 12
    assert " ".join(lines) == SAID["demo-en-1"]


def test_a_file_that_is_too_large_is_said_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["transcribe", "--demo", "--checkpoint", "tiny", "--set", "max_body_bytes=1024"]
    assert run(command) == 1
    assert "exceed the limit of 1024; ffmpeg -i FILE" in capsys.readouterr().err


def test_ctrl_c_ends_a_long_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left of it is not transcribed first."""
    clip, rate = soundfile.read(BUNDLED / "demo-en-3.flac", dtype="int16")
    soundfile.write(tmp_path / "long.wav", np.tile(np.append(clip, np.zeros(rate, "i2")), 60), rate)
    heard = []

    def interrupt(self: Progress, key: object, num_bytes: int, done_s: float, _: object) -> None:
        heard.append(done_s)
        if len(heard) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "heard", interrupt)
    command = ["transcribe", str(tmp_path), "--checkpoint", "tiny", "--set", "max_num_seqs=1"]
    assert run(command) == 130
    duration_s = 60 * (len(clip) / rate + 1)
    assert heard[-1] < duration_s / 2
    assert capsys.readouterr().out == ""
