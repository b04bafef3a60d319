"""Memory after requests that were refused, and after those that would like to have much of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from predictor.api import give_back
from predictor.api.give_back import PERIOD_S, resident_bytes, trim
from tests.bench.environment import describe
from tests.chaos.attacks import BODIES, Target, body, clips, stalled_uploads, unfinished_messages
from tests.chaos.sockets import answer, connect, head, memory_bytes

MODEL = "qwen3-asr"
MIB = 1024 * 1024
IS_SOAK = "SOAK_S" in os.environ
BODY = b"{" + bytes((60 if IS_SOAK else 16) * MIB)
PATHS = [f"/v2/models/{MODEL}/infer", f"/v1/models/{MODEL}:predict", "/v2/models/nobody/infer"]
RESULTS = Path(__file__).parent / "results" / "memory.json"
NUM_REFUSED = 5000


@pytest.mark.parametrize("path", PATHS)
def test_refused_bodies_leave_no_memory_behind(server: Any, path: str) -> None:
    with httpx.Client(base_url=server.url, timeout=60) as http:
        for _ in range(10):
            assert http.post(path, content=BODY).status_code in (400, 404)
        early = memory_bytes(server)
        for _ in range(30):
            assert http.post(path, content=BODY).status_code in (400, 404)
    assert memory_bytes(server) < 1.05 * early + len(BODY)


def settled(server: Any) -> int:
    """Memory once what was freed has been given back."""
    time.sleep(2 * PERIOD_S)
    return memory_bytes(server)


def note(name: str, figures: dict[str, Any]) -> None:
    """One test's figures into the file of all."""
    noted = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    figures = {"machine": describe(), "load_average": os.getloadavg()[0], **figures}
    RESULTS.write_text(json.dumps({**noted, name: figures}, indent=1) + "\n")


@pytest.mark.soak
def test_thousands_of_refused_bodies_leave_no_memory_behind(
    start_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 MB each. One in 20 is read whole and refused for what it holds; the others are refused by
    their heads, without a key or as too large, and some of those clients go on sending."""
    monkeypatch.setenv("QWEN3_ASR_API_KEYS", "right")
    server, whole = start_server(), b"{" + bytes(60 * MIB)

    def refuse(index: int) -> None:
        kind = "whole" if index % 20 == 0 else "no key" if index % 2 else "too large"
        lines = ["content-type: application/json"]
        lines.append(f"x-api-key: {'wrong' if kind == 'no key' else 'right'}")
        lines.append(f"content-length: {len(whole) * (2 if kind == 'too large' else 1)}")
        expected = {"whole": (400, 404), "no key": (401,), "too large": (413,)}[kind]
        with connect(server) as connection:
            connection.sendall(head("POST", PATHS[index % 3], *lines))
            if kind == "whole":
                connection.sendall(whole)
                status, said = answer(connection)
                assert status in expected, said
                return
            status, said = answer(connection)
            assert status in expected, said
            if index % 100 in (1, 2):
                with suppress(OSError):  # it hangs up
                    connection.sendall(whole)

    for index in range(50):
        refuse(index)
    early = settled(server)
    for index in range(50, NUM_REFUSED):
        refuse(index)
    late = settled(server)
    note(
        "refused bodies",
        {"mib_each": 60, "rss_after_50_mib": early // MIB, "rss_after_5000_mib": late // MIB},
    )
    assert late < 1.05 * early


@pytest.mark.soak
def test_memory_of_an_overload_is_given_back_within_a_minute(start_server: Any) -> None:
    """Large bodies, promised messages and ten times the clips at once; then a minute of peace."""
    server = start_server()
    target = Target(server)
    for _ in range(3):
        clips(target)
    before = settled(server)
    attacks = [clips] * 12 + [body(kind) for kind in BODIES if kind != "silences"]
    attacks += [stalled_uploads, unfinished_messages]
    peak = before
    with ThreadPoolExecutor(len(attacks)) as pool:
        running = [pool.submit(attack, target) for attack in attacks]
        while not all(each.done() for each in running):
            peak = max(peak, memory_bytes(server))
            time.sleep(0.1)
    time.sleep(60)
    after = memory_bytes(server)
    note(
        "after an overload",
        {"rss_before_mib": before // MIB, "rss_peak_mib": peak // MIB,
         "rss_after_60_s_mib": after // MIB},
    )  # fmt: skip
    assert after < before + max(128 * MIB, (peak - before) // 10)


def test_memory_that_was_freed_is_given_back() -> None:
    pieces = [bytes(60_000) for _ in range(4000)]
    kept = pieces[::100]
    full = resident_bytes()
    del pieces
    trim()
    assert full - resident_bytes() > 150 * MIB
    assert len(kept) == 40


async def test_what_hangs_in_cycles_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(give_back, "PERIOD_S", 0.05)
    monkeypatch.setattr(give_back, "COLLECT_PERIOD_S", 0.1)
    gc.disable()  # as on a server that is idle: nothing makes Python look for cycles
    try:
        giving = asyncio.create_task(give_back.give_back_memory())
        await asyncio.sleep(0)
        cycle: list[Any] = [bytes(60_000) for _ in range(4000)]
        cycle.append(cycle)
        full = resident_bytes()
        del cycle
        while resident_bytes() > full - 150 * MIB:  # the test's time limit ends it
            await asyncio.sleep(0.02)
        giving.cancel()
        with suppress(asyncio.CancelledError):
            await giving
    finally:
        gc.enable()


async def test_what_was_in_use_at_one_look_is_given_back_at_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []

    def seen_trim() -> None:
        looks.append(resident_bytes())
        trim()

    monkeypatch.setattr(give_back, "PERIOD_S", 0.05)
    monkeypatch.setattr(give_back, "trim", seen_trim)
    giving = asyncio.create_task(give_back.give_back_memory())
    await asyncio.sleep(0)
    pieces = [bytes(60_000) for _ in range(4000)]
    full = resident_bytes()
    while not looks:  # the test's time limit ends it
        await asyncio.sleep(0.01)
    kept = pieces[::100]
    del pieces
    while resident_bytes() > full - 150 * MIB:
        await asyncio.sleep(0.02)
    assert len(kept) == 40
    giving.cancel()
