"""Clients of the overload: so many requests in flight, or so many a second whatever is answered.

Requests are bytes made beforehand, sent over connections that are kept, so that they cost little of
a processor that the server shares.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import statistics
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import grpc
import uvloop
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

from tests.api.conftest import RECORDINGS
from tests.chaos.sockets import head

CLIP = (RECORDINGS / "demo-en-1.flac").read_bytes()
CLIP_S = 3.245
PROTOCOLS = ("recognize", "openai", "v1", "v2", "grpc")
PROBE_EVERY_S = 0.2


@dataclass(frozen=True)
class Offered:
    """What clients of one protocol send for `seconds`: either of the two."""

    protocol: str
    seconds: float
    in_flight: int = 0
    a_second: float = 0.0


@dataclass
class Seen:
    """What they saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    refused_s: list[float] = field(default_factory=list)
    probe_s: list[float] = field(default_factory=list)


def request(protocol: str) -> bytes:
    """One request, whole."""
    b64 = base64.b64encode(CLIP).decode()
    disposition = b'Content-Disposition: form-data; name="%b"; filename="a.flac"'
    form = b"--b\r\n" + disposition + b"\r\n\r\n%b\r\n--b--\r\n"
    model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nqwen3-asr\r\n'
    kind = "multipart/form-data; boundary=b"
    path, kind, body = {
        "recognize": ("/api/v1/recognize", kind, form % (b"audio", CLIP)),
        "openai": ("/v1/audio/transcriptions", kind, model + form % (b"file", CLIP)),
        "v1": ("/v1/models/qwen3-asr:predict", "audio/flac", CLIP),
        "v2": (
            "/v2/models/qwen3-asr/infer",
            "application/json",
            json.dumps(
                {"inputs": [{"name": "audio", "datatype": "BYTES", "shape": [1], "data": [b64]}]}
            ).encode(),
        ),
    }[protocol]
    return head("POST", path, f"content-type: {kind}", f"content-length: {len(body)}") + body


class Connections:
    """Kept open; as many as there are requests at once."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def send(self, data: bytes) -> int:
        """The answer's status."""
        try:
            reader, writer = self._free.pop()
        except IndexError:
            reader, writer = await asyncio.open_connection(*self._address)
        writer.write(data)
        answered = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answered.partition(b"content-length:")[2].split()[0]))
        if b"connection: close" in answered:
            writer.close()
        else:
            self._free.append((reader, writer))
        return int(answered.split()[1])


def offer(url: str, grpc_address: str, offered: Offered) -> dict[str, Any]:
    """Runs in a process of its own."""
    return uvloop.run(_offer(url, grpc_address, offered))


async def _offer(url: str, grpc_address: str, offered: Offered) -> dict[str, Any]:
    parts, seen = urlsplit(url), Seen()
    connections = Connections(str(parts.hostname), parts.port or 80)
    began = time.monotonic()
    until = began + offered.seconds
    async with grpc.aio.insecure_channel(grpc_address) as channel:
        send = _sender(offered.protocol, connections, channel)

        async def one() -> None:
            began = time.monotonic()
            status = await send()
            seen.statuses[status] += 1
            if status == 429:
                seen.refused_s.append(time.monotonic() - began)

        async def in_turn() -> None:
            while time.monotonic() < until:
                await one()

        probing = asyncio.create_task(_probe(connections, seen))
        if offered.in_flight:
            await asyncio.gather(*(in_turn() for _ in range(offered.in_flight)))
        else:
            await _arrive(one, offered.a_second, until)
        elapsed_s = time.monotonic() - began
        probing.cancel()
    answered, refused = seen.statuses[200], seen.statuses[429]
    return {
        "seconds": round(elapsed_s, 2),
        "offered_a_s": round(seen.statuses.total() / offered.seconds, 2),
        "answered": answered,
        "answered_a_s": round(answered / elapsed_s, 3),
        "refused": refused,
        "others": seen.statuses.total() - answered - refused,
        **_of("refusal", seen.refused_s),
        **_of("probe", seen.probe_s),
    }


def _sender(
    protocol: str, connections: Connections, channel: grpc.aio.Channel
) -> Callable[[], Awaitable[int]]:
    if protocol != "grpc":
        data = request(protocol)
        return lambda: connections.send(data)
    message = pb.ModelInferRequest(model_name="qwen3-asr")
    message.inputs.add(name="audio", datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(CLIP)) + CLIP)
    data = message.SerializeToString()
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    async def call() -> int:
        try:
            await infer(data)
        except grpc.aio.AioRpcError as error:
            return 429 if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED else 500
        return 200

    return call


async def _arrive(one: Callable[[], Awaitable[None]], a_second: float, until: float) -> None:
    """Poisson arrivals, which wait for no answer; returns when all are answered."""
    assert a_second > 0, "nothing was answered at capacity: the machine has no time for this"
    rng, due = random.Random(1), time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        while due < until:
            await asyncio.sleep(due - time.monotonic())
            tasks.create_task(one())  # type: ignore[arg-type]
            due += rng.expovariate(a_second)


async def _probe(connections: Connections, seen: Seen) -> None:
    while True:
        began = time.monotonic()
        assert await connections.send(head("GET", "/healthz")) == 200
        seen.probe_s.append(time.monotonic() - began)
        await asyncio.sleep(PROBE_EVERY_S)


def _of(what: str, times_s: list[float]) -> dict[str, float]:
    if len(times_s) < 2:
        return {}
    cuts = statistics.quantiles(times_s, n=100)
    return {f"{what}_p{n}_ms": round(1000 * cuts[n - 1], 1) for n in (50, 95, 99)}
