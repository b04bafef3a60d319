"""The benchmark of finding speech runs and measures the network and the decoder process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.soak
def test_the_network_and_a_decoder_are_measured(tmp_path: Path) -> None:
    output = tmp_path / "speech.json"
    command = [sys.executable, "-m", "tests.bench.speech_cost", "--repeats=1"]
    command.append(f"--output={output}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())["rows"]
    assert {"one stream of 10 s", "a frame of each of 64 streams"} <= set(rows)
    assert {"decoder, 10 s WAV, vad off", "decoder, 10 s WAV, vad silero"} <= set(rows)
    assert all(row["ms_per_audio_s"] > 0 for row in rows.values())
