"""`verify` against transformers' own model, `bench` and `doctor`, on the embedded checkpoint."""

from __future__ import annotations

import json
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor.cli import standard, verify
from predictor.cli.checkpoint import EMBEDDED
from predictor.cli.main import run
from predictor.cli.recordings import BUNDLED
from predictor.cli.reference import Reference
from predictor.cli.stages import Stages
from predictor.cli.waveform import waveform
from tests.bench import our_figures
from tests.model.checkpoints import write_original

TINY = EMBEDDED / "tiny"
SOUND = Stages(np.ones((2, 4), np.float32), np.ones((3, 5), np.float32), [5, 6], [-0.1, -0.2], 1.0)


def row(found: Stages, judged: tuple[list[float], list[float]] | None = None) -> verify.Row:
    judged = judged or (found.logprobs, found.logprobs)
    return verify.compare("clip", SOUND, found, judged, verify.FLOAT32)


def test_the_embedded_checkpoint_is_served_as_transformers_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every bundled recording, through transformers' model and ours."""
    assert run(["verify", "--checkpoint", "tiny"]) == 0
    said = capsys.readouterr().out
    assert len([line for line in said.splitlines() if line.startswith("demo-")]) == 6
    assert "DIFFERS" not in said


def test_a_checkpoint_in_the_published_layout_is_compared_as_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`thinker.*` names, which transformers' own model does not know; in shards, without a
    feature extractor's file, as it is downloaded."""
    folder = write_original(TINY, tmp_path / "original", num_shards=2)
    shutil.copy(TINY / "tokenizer.json", folder)
    (folder / "generation_config.json").unlink()  # not all have one
    own = str(BUNDLED / "demo-en-1.flac")
    assert run(["verify", "--checkpoint", str(folder), own, "--seconds", "2"]) == 0
    said = capsys.readouterr().out
    assert "DIFFERS" not in said
    config = json.loads((folder / "config.json").read_text())
    config["thinker_config"]["text_config"]["rope_theta"] *= 1.01
    (folder / "config.json").write_text(json.dumps(config))
    reference = Reference(folder, "cpu").stages(waveform(BUNDLED / "demo-en-1.flac", 2.0))
    known = Reference(TINY, "cpu").stages(waveform(BUNDLED / "demo-en-1.flac", 2.0))
    assert reference.logprobs != known.logprobs  # the file's positions are used


@pytest.mark.parametrize(
    "wrong",
    [
        {"mel": SOUND.mel + 0.01},
        {"mel": SOUND.mel[:, :3]},
        {"encoder": SOUND.encoder * 1.01},
        {"encoder": SOUND.encoder * np.nan},
        {"tokens": [5], "logprobs": [-0.1]},
    ],
)
def test_a_difference_in_any_stage_shows(wrong: dict[str, object]) -> None:
    assert row(SOUND).is_good(verify.FLOAT32)
    assert not row(replace(SOUND, **wrong)).is_good(verify.FLOAT32)  # type: ignore[arg-type]


def test_other_tokens_are_right_only_where_they_are_as_good() -> None:
    longer = replace(SOUND, tokens=[5, 6, 7], logprobs=[-0.1, -0.2, -3.0])
    assert not row(longer, ([-0.1, -0.2, -3.0], [-0.1, -0.2, -0.1])).is_good(verify.FLOAT32)
    other = replace(SOUND, tokens=[5, 9])
    near, far = ([-0.1, -0.2], [-0.1, -0.195]), ([-0.1, -0.2], [-0.1, -0.05])
    assert row(other, near).is_good(verify.FLOAT32)
    assert not row(other, far).is_good(verify.FLOAT32)


def test_a_benchmark_says_what_it_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    command = ["bench", "--checkpoint", "tiny", "--concurrency", "1,2", "--rounds", "1"]
    command += ["--seconds", "1", "--set", "max_num_seqs=2"]
    command += ["--standard", "offline 10 s/one 10 s clip"]
    assert run([*command, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert [each["concurrency"] for each in report["rows"]] == [1, 2]
    assert all(each["requests"] == 6 for each in report["rows"])
    assert all(abs(each["audio_s"] - 20.8) < 0.1 for each in report["rows"])
    said = capsys.readouterr().out
    assert "x real time" in said
    assert "We have no figures of a model of this shape." in said
    standard = {each["name"]: each for each in report["standard"]}
    assert list(standard) == ["offline 10 s", "one 10 s clip"]
    assert all(each["value"] > 0 and each["tokens_per_audio_s"] > 1 for each in standard.values())
    assert [each["at_once"] for each in standard.values()] == [2, 1]


def test_our_figures_are_those_of_the_results() -> None:
    written = json.loads(our_figures.FILE.read_text(encoding="utf-8"))
    assert written == our_figures.our_figures(), "run: python -m tests.bench.our_figures"
    assert {row.name for row in standard.ROWS} == set(our_figures.ROWS)
    said = standard.table(
        [{"name": "offline 30 s", "unit": "RTFx", "value": 1.0, "at_once": 512}
         | {"tokens_per_audio_s": 3.0}],
        standard.ours("1.7B"),
        "1.7B",
    )  # fmt: skip
    assert f"{written['rows']['1.7B']['offline 30 s']:,.0f}" in said


def test_the_doctor_finds_nothing_here(capsys: pytest.CaptureFixture[str]) -> None:
    ports = ["--http_port", "0", "--grpc_port", "0"]
    assert run(["doctor", "--model_dir", str(TINY), *ports]) == 0
    said = capsys.readouterr().out
    assert "BAD" not in said
    for what in ("python", "packages", "codecs", "device", "shared", "cluster"):
        assert what in said


def test_the_doctor_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(TINY / "config.json", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = ["doctor", "--host", "127.0.0.1", "--http_port", "0", "--grpc_port", port]
        assert run([*command, "--model_dir", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "holds no weights (*.safetensors)" in said
    assert f"grpc_port={port}: the port is taken; set grpc_port to another" in said
    assert run(["doctor", "--max_num_seqs", "none"]) == 1
    assert "max_num_seqs='none'" in capsys.readouterr().out
