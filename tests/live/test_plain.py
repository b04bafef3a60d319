"""Plain frames over a WebSocket, and `ModelStreamInfer` as Triton's own client speaks it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import websockets
import websockets.exceptions

from predictor.cli.main import run
from tests.api.conftest import Server
from tests.live.server import pcm16
from tests.live.streams import join

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def two() -> np.ndarray:
    """An English and a Chinese sentence."""
    return join("two", ["en-short-003", "zh-short-002"], 1, pauses_s=(1.0, 1.0)).samples


async def _talk(server: Server, query: str, messages: list[Any]) -> list[dict[str, Any]]:
    """Send messages and an end; everything that comes back."""
    url = server.url.replace("http", "ws") + "/api/v1/live" + query
    async with websockets.connect(url, max_size=None) as socket:
        for message in messages:
            await socket.send(message)
        await socket.send('{"type": "end"}')
        return [json.loads(line) async for line in socket]


def _texts(lines: list[dict[str, Any]]) -> list[str]:
    return [line["text"] for line in lines if line["type"] == "completed"]


@pytest.fixture(scope="module")
def plain(server: Server, two: np.ndarray) -> list[dict[str, Any]]:
    data = pcm16(two, 16_000)
    pieces = [data[start : start + 3_200] for start in range(0, len(data), 3_200)]
    return asyncio.run(_talk(server, "", pieces))


def test_frames_in_and_lines_out(plain: list[dict[str, Any]]) -> None:
    kinds = [line["type"] for line in plain]
    assert kinds[:2] == ["ready", "speech_started"]
    assert kinds[-1] == "completed"
    [first, second] = [line for line in plain if line["type"] == "completed"]
    assert first["text"] == "Today is Tuesday, May thirty-first."
    assert (first["language"], second["language"]) == ("English", "Chinese")
    partials = [line for line in plain if line["type"] == "partial"]
    for item in (first, second):
        said = "".join(line["delta"] for line in partials if line["item"] == item["item"])
        assert said == item["text"]
    assert any(line["tail"] for line in partials)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_any_rate_in_the_query(server: Server, two: np.ndarray, rate: int) -> None:
    lines = asyncio.run(_talk(server, f"?rate={rate}", [pcm16(two, rate)]))
    assert "Tuesday" in _texts(lines)[0]


def test_one_message_and_many_give_the_same_lines(
    server: Server, two: np.ndarray, plain: list[dict[str, Any]]
) -> None:
    lines = asyncio.run(_talk(server, "", [pcm16(two, 16_000)]))
    assert lines[1:] == plain[1:]  # the first one has the session's id


def test_a_manual_turn_is_committed_by_a_message(server: Server, two: np.ndarray) -> None:
    messages = [pcm16(two, 16_000), '{"type": "commit"}']
    lines = asyncio.run(_talk(server, "?turns=manual", messages))
    [text] = _texts(lines)
    assert text.startswith("Today is Tuesday, May thirty-first.")


def test_bad_messages_are_told_and_not_fatal(server: Server, two: np.ndarray) -> None:
    messages = ["{", '{"type": "dance"}', '{"type": "update", "language": "xx"}']
    lines = asyncio.run(_talk(server, "", [*messages, pcm16(two, 16_000)]))
    errors = [line for line in lines if line["type"] == "error"]
    assert [line["field"] for line in errors] == ["message", "type", "language"]
    assert len(_texts(lines)) == 2


def test_the_language_changes_in_the_middle(server: Server, two: np.ndarray) -> None:
    messages = [pcm16(two, 16_000), '{"type": "update", "language": "zh", "context": "x"}']
    lines = asyncio.run(_talk(server, "", [*messages, pcm16(two, 16_000)]))
    languages = [line["language"] for line in lines if line["type"] == "completed"]
    assert languages == ["English", "Chinese", "Chinese", "Chinese"]


@pytest.mark.parametrize(
    "query",
    ["?rate=7", "?rate=x", "?encoding=mp3", "?turns=x", "?language=xx", "?colour=red", "?resume=x"],
)
def test_a_bad_query_is_a_400(server: Server, query: str) -> None:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        asyncio.run(_talk(server, query, []))
    assert refused.value.response.status_code == 400
    assert query[1:].partition("=")[0] in json.loads(refused.value.response.body)["error"]


def test_a_long_burst_is_read_no_faster_than_it_is_heard(server: Server, two: np.ndarray) -> None:
    silence = np.zeros(120 * 16_000, np.float32)
    lines = asyncio.run(_talk(server, "", [pcm16(np.concatenate([silence, two]), 16_000)] * 3))
    assert len(_texts(lines)) == 6
    started = [line["at_s"] for line in lines if line["type"] == "speech_started"]
    assert started[2] - started[0] == pytest.approx((len(silence) + len(two)) / 16_000, abs=0.1)


@pytest.mark.parametrize("datatype", ["INT16", "FP32"])
def test_tritons_client_streams(
    server: Server, two: np.ndarray, plain: list[dict[str, Any]], tmp_path: Path, datatype: str
) -> None:
    """In a process of its own, because Triton's and KServe's protocol files exclude each other."""
    soundfile.write(tmp_path / "two.wav", two, 16_000, subtype="FLOAT")
    command = [sys.executable, HERE / "triton_stream.py", server.grpc, tmp_path / "two.wav"]
    run = subprocess.run([*command, datatype], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines[0]["type"] == "ready"
    assert _texts(lines) == _texts(plain)
    assert [line["type"] for line in lines] == [line["type"] for line in plain]


def test_a_bad_stream_has_the_code_of_the_table(server: Server, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "none.wav", np.zeros(1600), 16_000)
    command = [sys.executable, HERE / "triton_stream.py", server.grpc, tmp_path / "none.wav"]
    run = subprocess.run([*command, "FP32", "rate=7"], capture_output=True, text=True, timeout=600)
    assert run.returncode != 0
    assert "INVALID_ARGUMENT" in run.stderr
    assert "rate" in run.stderr


def test_the_command_line_goes_on_when_connections_end(
    brief: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = ROOT / "predictor" / "recordings" / "demo-en-3.flac"
    assert run(["live", str(recording), "--url", brief.url, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["type"] == "session.created" for event in events) > 1
    said = [e for e in events if e["type"].endswith("transcription.completed")]
    starts = [event["audio_start_ms"] for event in said]
    assert starts == sorted(starts)
    assert said[-1]["audio_end_ms"] < 7_000


def test_the_notebooks_client_goes_on_when_connections_end(
    brief: Server, two: np.ndarray, tmp_path: Path
) -> None:
    """A conversation of several of the longest sessions, by the cell of notebook 01."""
    notebook = json.loads((ROOT / "notebooks" / "01_transcribe.ipynb").read_text("utf-8"))
    [cell] = [cell for cell in notebook["cells"] if cell.get("id") == "live"]
    definitions, _, _ = "".join(cell["source"]).partition("\n\nsaid = ")
    scope: dict[str, Any] = {"url": brief.url}
    exec(definitions, scope)
    soundfile.write(tmp_path / "two.wav", two, 16_000, subtype="PCM_16")

    async def run() -> list[dict[str, Any]]:
        return [line async for line in scope["live"](tmp_path / "two.wav", piece_s=0.1)]

    lines = asyncio.run(run())
    assert sum(line["type"] == "ready" for line in lines) > 1
    said = "".join(line["text"] for line in lines if line["type"] == "completed")
    assert "Today is Tuesday" in said
    items = [line["item"] for line in lines if line["type"] == "completed"]
    assert items == list(range(1, len(items) + 1))
    ends = [line["end_s"] for line in lines if line["type"] == "completed"]
    assert ends == sorted(ends)
    assert ends[-1] <= len(two) / 16_000
