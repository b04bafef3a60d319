"""Speaks into many live sessions of a server in real time; tells how late each partial was.

    python -m tests.bench.live_client '{"port": …, "streams": 50, …}'

Says when it is ready, and begins at the moment that a line of its input names.

Audio is a talker who pauses every `utterance_s`, or from 10 s on never: what is spoken is a looped
piece of a bundled recording. In the one for monologues up to 20 s the speech detector finds a dip
of 0.1 s now and then, at which a session cuts once it is 14 s long or longer; in the other none, so
that it cuts at 24 s. Each stream begins at another place; 100 ms in a message.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import numpy as np
import soundfile
import websockets

from tests.bench.environment import ROOT

PIECE_S = 0.1
RATE = 16_000
PAUSE_S = 0.6
NEVER_S, NO_DIP_S = 10.0, 20.0
DIPS, NO_DIPS = ("demo-en-3", 2_000, 28_000), ("demo-zh-6", 12_483, 52_483)


def talk(utterance_s: float) -> bytes:
    """A minute of PCM16."""
    name, begin, end = NO_DIPS if utterance_s >= NO_DIP_S else DIPS
    recording = ROOT / "predictor" / "recordings" / f"{name}.flac"
    spoken, _ = soundfile.read(recording, dtype="float32")
    spoken = spoken[begin:end]
    rng = np.random.default_rng(0)
    if utterance_s >= NEVER_S:
        samples = np.resize(spoken, 60 * RATE)
    else:
        said = np.resize(spoken, round((utterance_s - PAUSE_S) * RATE))
        one = np.concatenate([said, np.zeros(round(PAUSE_S * RATE), np.float32)])
        samples = np.resize(one, round(60 / utterance_s) * len(one))
    samples = samples + rng.normal(0, 1e-3, len(samples))
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


async def _speak(task: dict[str, Any], audio: bytes, number: int) -> dict[str, list[float]]:
    url = f"ws://127.0.0.1:{task['port']}/api/v1/live?rate={RATE}&delay={task['delay']}"
    place = (task["first"] + number) / task["all_streams"]
    await asyncio.sleep(task["began_s"] + task["ramp_s"] * place - time.monotonic())
    lags: dict[str, list[float]] = {"partial": [], "completed": []}
    async with websockets.connect(url, max_size=None, compression=None) as socket:
        json.loads(await socket.recv())
        began_s = time.monotonic()
        listener = asyncio.create_task(_listen(socket, began_s, task["begin_s"], lags))
        size = round(PIECE_S * RATE) * 2
        first = ((task["first"] + number) * 7919 * 2) % len(audio)
        sent = 0
        while time.monotonic() < task["end_s"]:
            at = (first + sent) % len(audio)
            piece = audio[at : at + size]
            sent += len(piece)
            # A piece is there when it was spoken, not before.
            await asyncio.sleep(max(0.0, began_s + sent / 2 / RATE - time.monotonic()))
            await socket.send(piece)
        listener.cancel()
    return lags


async def _listen(
    socket: Any, began_s: float, begin_s: float, lags: dict[str, list[float]]
) -> None:
    async for text in socket:
        now_s = time.monotonic()
        line = json.loads(text)
        # What was heard ends on a piece's end, at the latest; from there the step could begin.
        if line["type"] == "partial" and line["tail"] and now_s >= begin_s:
            heard_s = np.ceil(line["at_s"] / PIECE_S - 1e-6) * PIECE_S
            lags["partial"].append(now_s - began_s - float(heard_s))
        elif line["type"] == "completed" and now_s >= begin_s:
            lags["completed"].append(now_s)


async def _main(task: dict[str, Any], audio: bytes) -> dict[str, Any]:
    task["begin_s"], task["end_s"] = task["window"]
    speakers = [_speak(task, audio, number) for number in range(task["streams"])]
    results = await asyncio.gather(*speakers, return_exceptions=True)
    failed = [repr(r)[:200] for r in results if isinstance(r, BaseException)]
    heard = [r for r in results if isinstance(r, dict)]
    lags = [lag for r in heard for lag in r["partial"]]
    num_utterances = sum(len(r["completed"]) for r in heard)
    return {"lags": lags, "failed": failed, "utterances": num_utterances}


def main() -> None:
    task = json.loads(sys.argv[1])
    audio = talk(task["utterance_s"])
    print("ready", flush=True)
    task |= json.loads(sys.stdin.readline())
    print(json.dumps(asyncio.run(_main(task, audio))))


if __name__ == "__main__":
    main()
