"""One client process of the HTTP benchmark: posts recordings, keeps so many requests in flight.

    python -m tests.bench.http_client '{"port": 8080, ...}'      (the fields of Task)

Sockets and nothing else, so that sixteen of these cost little beside the server they measure.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.http_load import Answers, Window, closed_loop

MODEL = "qwen3-asr"
_BOUNDARY = b"a-boundary-that-no-recording-contains"


@dataclass(frozen=True)
class Task:
    """What one client process does."""

    port: int
    in_flight: int
    clips: tuple[str, ...]  # files, one after the other
    content_type: str
    window: Window
    route: str = "v1"  # "openai", "v1", "v2" or "v2-json"
    stream: bool = False  # OpenAI's route with stream=true
    vad: str = ""  # OpenAI's route with this field, if any
    count: int = 0  # answers after which each one stops; 0 = until the window ends
    min_text: int = 1  # bytes of an answer's body, below which it cannot hold what was said

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Task:
        values = json.loads(text)
        return Task(**values | {"window": Window(**values["window"])})


def _form(body: bytes, content_type: str, more: dict[str, str]) -> bytes:
    fields = {"model": MODEL} | more
    parts = [
        b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
        % (_BOUNDARY, name.encode(), value.encode())
        for name, value in fields.items()
    ]
    parts.append(
        b'--%s\r\nContent-Disposition: form-data; name="file"; filename="clip"\r\n'
        b"Content-Type: %s\r\n\r\n%s\r\n--%s--\r\n"
        % (_BOUNDARY, content_type.encode(), body, _BOUNDARY)
    )
    return b"".join(parts)


def request_bytes(
    body: bytes, content_type: str, route: str, more_fields: dict[str, str] | None = None
) -> bytes:
    """A whole HTTP request; OpenAI's route may have more fields."""
    more = ""
    if route == "openai":
        path, body = "/v1/audio/transcriptions", _form(body, content_type, more_fields or {})
        content_type = f"multipart/form-data; boundary={_BOUNDARY.decode()}"
    elif route == "v2":
        framed = len(body).to_bytes(4, "little") + body
        sizes = {"binary_data_size": len(framed)}
        tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "parameters": sizes}
        head = json.dumps({"inputs": [tensor]}).encode()
        path, body, content_type = (
            f"/v2/models/{MODEL}/infer",
            head + framed,
            "application/octet-stream",
        )
        more = f"Inference-Header-Content-Length: {len(head)}\r\n"
    elif route == "v2-json":
        data = [base64.b64encode(body).decode()]
        tensor = {"name": "audio", "datatype": "BYTES", "shape": [1], "data": data}
        path, body = f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [tensor]}).encode()
        content_type = "application/json"
    else:
        path = f"/v1/models/{MODEL}:predict"
    return (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n{more}"
        f"Content-Type: {content_type}\r\n\r\n"
    ).encode() + body


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
    more = {"stream": "true"} if task.stream else {}
    more |= {"vad": task.vad} if task.vad else {}
    requests = [
        request_bytes(Path(clip).read_bytes(), task.content_type, task.route, more)
        for clip in task.clips
    ]
    connections = [Connection(task.port) for _ in range(task.in_flight)]
    errors: Counter[str] = Counter()
    num_asked = 0
    last = b"transcript.text.done" if task.stream else b"{"

    async def ask(index: int) -> float:
        nonlocal num_asked
        num_asked += 1
        try:
            status, first_s, body = await connections[index].ask(
                requests[num_asked % len(requests)]
            )
            if status != 200 or last not in body or len(body) < task.min_text:
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
