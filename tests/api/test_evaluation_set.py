"""The whole evaluation set through the running server keeps to the cards; a second route agrees.

A card's error rates are those of tests/bench/results/accuracy.json, of recordings with all their
quiet; here they are made anew, by a server that cuts it out, and must not be worse.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.tiny.card import BEGIN, END, table
from tests.tiny.evalset import EvalItem
from tests.tiny.evaluate import score

ROOT = Path(__file__).parents[2]
EVAL = ROOT / "tests" / "data" / "eval"
RESULTS = json.loads((ROOT / "tests" / "bench" / "results" / "accuracy.json").read_text())
TOLERANCE = 0.3  # percent: other processors round differently, a word here or there

EVERY = 5  # the second route hears one in so many: whether routes agree, few recordings tell

Answer = tuple[str | None, str]  # language, text
Ask = Callable[[httpx.AsyncClient, bytes], Awaitable[Answer]]


async def _infer(http: httpx.AsyncClient, data: bytes) -> Answer:
    content = base64.b64encode(data).decode()
    body = {"inputs": [{"name": "audio", "datatype": "BYTES", "shape": [1], "data": [content]}]}
    response = await http.post("/v2/models/qwen3-asr/infer", json=body)
    values = {output["name"]: output["data"][0] for output in response.json()["outputs"]}
    return None if values["language"] == "None" else values["language"], values["text"]


async def _recognize(http: httpx.AsyncClient, data: bytes) -> Answer:
    response = await http.post("/api/v1/recognize", files={"audio": data})
    return response.json()["language"], response.json()["text"]


async def _all(ask: Ask, url: str, rows: list[dict[str, Any]]) -> list[Answer]:
    gate = asyncio.Semaphore(8)

    async def one(row: dict[str, Any]) -> Answer:
        data = (EVAL / row["audio"]).read_bytes()
        async with gate:
            return await ask(http, data)

    async with httpx.AsyncClient(base_url=url, timeout=300) as http:
        return await asyncio.gather(*map(one, rows))


def test_both_routes_keep_the_error_rates_of_the_model_card(server: Any) -> None:
    rows = [json.loads(line) for line in (EVAL / "manifest.jsonl").read_text("utf-8").splitlines()]
    by_infer = asyncio.run(_all(_infer, server.url, rows))
    assert asyncio.run(_all(_recognize, server.url, rows[::EVERY])) == by_infer[::EVERY]
    for length in ("short", "long"):
        chosen = [i for i, row in enumerate(rows) if row["tags"][0] == length]
        items = [EvalItem(None, rows[i]["text"], rows[i]["language"]) for i in chosen]
        measured = score(items, [by_infer[i] for i in chosen])
        [card] = [
            row
            for row in RESULTS["rows"]
            if row["checkpoint"] == "tiny" and row["set"] == f"evaluation set, {length}"
        ]
        for rate in ("English error %", "Chinese error %"):
            assert measured[rate] <= card[rate] + TOLERANCE
        assert measured["language right %"] >= card["language right %"] - TOLERANCE


@pytest.mark.parametrize("checkpoint", ["tiny", "tiny-early"])
def test_the_card_has_the_table_of_the_results(checkpoint: str) -> None:
    card = (ROOT / "predictor" / "checkpoints" / checkpoint / "README.md").read_text("utf-8")
    shown = card.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == table(checkpoint, RESULTS), "run: python -m tests.tiny.card"
