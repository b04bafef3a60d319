"""Answers scored anew, and those of other systems; sclite's own counts beside ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.lib.errors import ManifestError, OptionError
from pipelines.lib.evaluation import read_report
from pipelines.lib.hypotheses import read_hypotheses
from pipelines.lib.manifest import Clip
from tests.pipelines.conftest import Serve
from tests.pipelines.service import Service
from tests.pipelines.test_cli import evaluate
from tests.pipelines.test_promote import NUM_CLIPS, answers, write_clips

CLIPS = [
    Clip("spk1_a", "/x/a.wav", "the cat sat", "English"),
    Clip("spk1_b", "/x/b.flac", "on the mat", "English"),
]


def test_corrected_references_are_scored_without_the_service(
    tmp_path: Path, serve_app: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_clips(tmp_path)
    service = Service(answers(8))
    assert evaluate(serve_app(service.app()), data, tmp_path / "out") == 0
    assert capsys.readouterr().out.endswith("\n")
    asked = len(service.asked)
    corrected = data.read_text().replace('recording number 3"', 'wrong number 3"')
    data.write_text(corrected)
    journal = tmp_path / "out/journal.jsonl"
    fixed = ["rescore", f"--data={data}", f"--journal={journal}", "--resamples=200"]
    assert main([*fixed, f"--out={tmp_path / 'again'}", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["errors"]["errors"] == 7
    assert len(service.asked) == asked
    again, before = (read_report(tmp_path / name / "report.json") for name in ("again", "out"))
    assert again["summary"]["num_clips"] == NUM_CLIPS
    assert again["title"] == before["title"]  # what was evaluated, and not the file's name
    assert main([*fixed, f"--out={tmp_path / 'raw'}", "--normalizer=none"]) == 0
    data.write_text(corrected + "\n" + json.dumps({"audio": "new.wav", "text": "new"}) + "\n")
    assert main([*fixed, f"--out={tmp_path / 'more'}"]) == 2
    assert "holds no answer for 1 of 41 recordings, such as 'new.wav'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("h.jsonl", '{"audio_filepath": "/y/a.wav", "pred_text": "the cat"}\n'
                    '{"id": "spk1_b", "text": "on the mat"}\n'),
        ("h.trn", "the cat (spk1_a)\n;; a comment\non the mat (spk1_b)\n"),
        ("h.txt", "spk1_a the cat\nspk1_b on the mat\n"),
        ("h.ctm", ";; comment\nspk1_a 1 0.5 0.2 cat 0.9\nspk1_a 1 0.1 0.2 the\n"
                  "b A 0 1 on\nb A 1 1 the\nb A 2 1 mat\n"),
    ],
)  # fmt: skip
def test_transcripts_of_other_systems(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    found = read_hypotheses(tmp_path / name, CLIPS)
    assert [(r.clip_id, r.text) for r in found] == [("spk1_a", "the cat"), ("spk1_b", "on the mat")]


def test_what_is_missing_fails_and_what_is_strange_is_named(tmp_path: Path) -> None:
    (tmp_path / "h.trn").write_text("the cat (spk1_a)\n")
    assert read_hypotheses(tmp_path / "h.trn", CLIPS)[1].error == "no_hypothesis"
    (tmp_path / "h.trn").write_text("the cat (spk9_a)\n")
    said = "1 names are of no recording: 'spk9_a'; the first recording is 'spk1_a' or '/x/a.wav'"
    with pytest.raises(ManifestError, match=said):
        read_hypotheses(tmp_path / "h.trn", CLIPS)
    (tmp_path / "h.trn").write_text("the cat (spk1_a)\nthe bat (spk1_a)\n")
    with pytest.raises(ManifestError, match=r"h\.trn:2: 'spk1_a' was already there"):
        read_hypotheses(tmp_path / "h.trn", CLIPS)
    (tmp_path / "h.ctm").write_text("a 1 x\n")
    with pytest.raises(ManifestError, match=r"h\.ctm:1: expected file, channel, start"):
        read_hypotheses(tmp_path / "h.ctm", CLIPS)
    with pytest.raises(OptionError, match="form: 'xml'"):
        read_hypotheses(tmp_path / "h.xml", CLIPS)


@pytest.mark.skipif(shutil.which("sctk") is None, reason="needs NIST's sctk")
def test_counts_agree_with_sclite(tmp_path: Path) -> None:
    said = ["the cat sat on a mat", "we will see you tomorrow", "so it goes"]
    heard = ["the cat sat on mat", "we see you you tomorrow", "so it goes"]
    for name, texts in (("ref", said), ("hyp", heard)):
        (tmp_path / f"{name}.trn").write_text(
            "".join(f"{text} (s_{i})\n" for i, text in enumerate(texts))
        )
    lines = [
        json.dumps({"audio": f"{i}.wav", "id": f"s_{i}", "text": text, "language": "en"})
        for i, text in enumerate(said)
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    assert main(["rescore", f"--data={tmp_path / 'm.jsonl'}", f"--out={tmp_path / 'o'}",
                 f"--hypotheses={tmp_path / 'hyp.trn'}"]) == 0  # fmt: skip
    ours = read_report(tmp_path / "o/report.json")["summary"]["by_metric"]["wer"]
    theirs = subprocess.run(
        ["sctk", "sclite", "-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", "rm", "-o", "dtl",
         "stdout"], cwd=tmp_path, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    # Of equal alignments sclite and jiwer may choose different ones; the number of errors is one.
    found = re.search(r"Percent Total Error *= *[\d.]+% *\( *(\d+)\)", theirs)
    assert found is not None
    assert ours["errors"] == int(found[1]) == 3
