"""The way of a request in predictor/README.md, held to the calls of a real request."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client import CollectorRegistry

from predictor.server import AsrServer, build_server
from predictor.settings.read import load_settings

PACKAGE = Path(__file__).parents[2] / "predictor"
RECORDING = PACKAGE / "recordings" / "demo-en-1.flac"
MOST_FILES = 12


class Calls:
    """Who calls whom, by file of the package, in all threads that begin while it is installed."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, str]] = set()
        self.is_on = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not self.is_on or not (callee := _file(frame)):
            return
        caller = frame.f_back
        while caller is not None and not (found := _file(caller)):
            caller = caller.f_back
        if caller is not None and found != callee:
            self.seen.add((found, callee))


def _file(frame: FrameType) -> str:
    path = frame.f_code.co_filename
    return path.removeprefix(_PREFIX) if path.startswith(_PREFIX) else ""


_PREFIX = f"{PACKAGE}/"


def way(protocol: str) -> list[str]:
    """The files that the README names for it, in order."""
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    part = text.partition("## The way of a request")[2].partition("\n## ")[0]
    files = []
    for line in re.findall(r"^\d+\. (.*)", part, re.MULTILINE):
        links = re.findall(r"\[(\S+)\]\(\1\)", line)
        files.append(links[-1] if protocol == "openai" else links[0])
    return files


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[AsrServer, Calls]]:
    settings = load_settings(
        [f"--model_dir={PACKAGE / 'checkpoints' / 'tiny'}", "--num_threads=1"], {}
    )
    calls = Calls()
    threading.setprofile(calls)
    server = build_server(settings, CollectorRegistry())
    server.decoder.start()
    try:
        assert server.model.load()
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]  # as its documentation has it
    yield server, calls
    server.model.stop()
    server.decoder.close()


async def ask(app: Any, protocol: str) -> str:
    data = RECORDING.read_bytes()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://asr"
    ) as client:
        if protocol == "openai":
            files, form = {"file": ("a.flac", data)}, {"model": "qwen3-asr"}
            answer = await client.post("/v1/audio/transcriptions", files=files, data=form)
            return str(answer.json()["text"])
        tensor = {"name": "audio", "datatype": "BYTES", "shape": [1]}
        tensor["parameters"] = {"binary_data_size": len(data) + 4}
        head = orjson.dumps({"inputs": [tensor]})
        answer = await client.post(
            "/v2/models/qwen3-asr/infer",
            content=head + len(data).to_bytes(4, "little") + data,
            headers={"inference-header-content-length": str(len(head))},
        )
        return str(answer.json()["outputs"][0]["data"][0])


@pytest.mark.parametrize("protocol", ["v2", "openai"])
def test_each_file_of_the_way_is_called_by_one_before_it(
    served: tuple[AsrServer, Calls], protocol: str
) -> None:
    server, calls = served
    files = way(protocol)
    assert len(files) == len(set(files)) <= MOST_FILES
    calls.seen.clear()
    before = sys.getprofile()
    sys.setprofile(calls)
    calls.is_on = True
    try:
        text = asyncio.run(ask(server.app, protocol))
    finally:
        calls.is_on = False
        sys.setprofile(before)
    assert "sister" in text
    for index, file in enumerate(files[1:], 1):
        callers = {caller for caller, callee in calls.seen if callee == file}
        assert callers & set(files[:index]), (file, callers)
