"""One client process of the HTTP benchmark: posts WAV files, keeps so many requests in flight.

    python -m tests.bench.http_client '{"port": 8080, ...}'      (the fields of Task)

Sockets and nothing else, so that sixteen of these cost little beside the server they measure.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
import wave
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np

from tests.bench.http_load import Answers, Window, closed_loop

MODEL = "qwen3-asr"
_BOUNDARY = b"a-boundary-that-no-noise-contains"


@dataclass(frozen=True)
class Task:
    """What one client process does."""

    port: int
    in_flight: int
    duration_s: float
    window: Window
    stream: bool = False  # OpenAI's route with stream=true; else the V1 route with the bare file
    count: int = 0  # answers after which each one stops; 0 = until the window ends
    seed: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Task:
        values = json.loads(text)
        return Task(**values | {"window": Window(**values["window"])})


def wav(duration_s: float, rng: np.random.Generator) -> bytes:
    """Noise as 16 kHz PCM16."""
    samples = (3000 * rng.standard_normal(round(16_000 * duration_s))).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def request_bytes(body: bytes, *, stream: bool) -> bytes:
    """A whole HTTP request."""
    path, kind = f"/v1/models/{MODEL}:predict", b"audio/wav"
    if stream:
        path, kind = "/v1/audio/transcriptions", b"multipart/form-data; boundary=" + _BOUNDARY
        fields = {b"model": MODEL.encode(), b"stream": b"true"}
        parts = [
            b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
            % (_BOUNDARY, name, value)
            for name, value in fields.items()
        ]
        parts.append(
            b'--%s\r\nContent-Disposition: form-data; name="file"; filename="clip.wav"\r\n'
            b"Content-Type: audio/wav\r\n\r\n%s\r\n--%s--\r\n" % (_BOUNDARY, body, _BOUNDARY)
        )
        body = b"".join(parts)
    head = f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Content-Type: " + kind + b"\r\n\r\n" + body


class Connection:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> tuple[int, float, bytes]:
        """(status, seconds to the first byte of the body, the body)."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        began_s = time.monotonic()
        writer.write(request)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        if b"transfer-encoding: chunked" in head:
            return status, *await self._chunks(reader, began_s)
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(size)
        return status, time.monotonic() - began_s, body

    async def _chunks(self, reader: asyncio.StreamReader, began_s: float) -> tuple[float, bytes]:
        body, first_s = b"", 0.0
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
            first_s = first_s or time.monotonic() - began_s
        await reader.readline()
        return first_s, body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def run(task: Task) -> tuple[Answers, Counter[str]]:
    """The answers inside the window, and what went wrong how often."""
    rng = np.random.default_rng(task.seed)
    clips = [wav(task.duration_s, rng) for _ in range(min(16, 2 * task.in_flight))]
    requests = [request_bytes(clip, stream=task.stream) for clip in clips]
    connections = [Connection(task.port) for _ in range(task.in_flight)]
    errors: Counter[str] = Counter()
    num_asked = 0
    last = "transcript.text.done" if task.stream else '"finish_reason":"length"'

    async def ask(index: int) -> float:
        nonlocal num_asked
        num_asked += 1
        try:
            status, first_s, body = await connections[index].ask(
                requests[num_asked % len(requests)]
            )
            if status != 200 or last.encode() not in body:
                errors[f"{status} {body[:100]!r}"] += 1
        except OSError as error:
            errors[repr(error)] += 1
            connections[index].close()
            return 0.0
        return first_s

    if task.count:
        answers = Answers()
        for number in range(task.count + 2):
            began_s = time.monotonic()
            first_s = await ask(0)
            if number >= 2:  # the first two warm up
                answers.first_s.append(first_s)
                answers.last_s.append(time.monotonic() - began_s)
    else:
        answers = await closed_loop(ask, task.in_flight, task.window)
    for connection in connections:
        connection.close()
    return answers, errors


def main() -> None:
    answers, errors = asyncio.run(run(Task.from_json(sys.argv[1])))
    print(json.dumps({**asdict(answers), "errors": errors}))


if __name__ == "__main__":
    main()
