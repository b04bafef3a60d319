"""The server's own work: from the request to the answer with an engine that answers at once.

    python -m tests.bench.own_work --output tests/bench/results/own-work.json

One 10 s WAV at a time over one connection, by each protocol: what the server adds to a request.
And its memory after many requests. No GPU; the engine says the same thirty words to everything.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import quantiles
from typing import Any

from predictor.engine import EngineClient
from predictor.engine.options import EngineStats
from predictor.engine.protocol import Receive
from predictor.engine.sequence import Limits
from predictor.logs import configure_logging
from predictor.processes.heap import keep_freed_memory
from predictor.settings.read import load_settings
from predictor.text.tokenizer import TextTokenizer
from predictor.types import EngineRequest, ExtendRequest, TokenChunk
from tests.bench.environment import ROOT, describe
from tests.bench.http_client import MODEL, request_bytes
from tests.bench.http_clips import talk, wav
from tests.bench.memory import children, memory

CHECKPOINT = ROOT / "predictor" / "checkpoints" / "tiny"
MEMORY_CLIP_S = 2.0
SAID = "remind me to call my sister at half past seven and turn off the lamp in the kitchen " * 2


class InstantCore:
    """A Core that has the answer before it is asked."""

    device = "none"
    limits = Limits(3072, 4096, frozenset({1}))

    def __init__(self, tokenizer: TextTokenizer) -> None:
        header = [*tokenizer.encode_plain("language English"), tokenizer.asr_text]
        tokens = (*header, *tokenizer.encode_plain(SAID.strip()))
        self._answer = TokenChunk(tokens, (-0.01,) * len(tokens), "stop", 160, 130)

    def start(self) -> None:
        pass

    def read_in(self, loop: Any) -> None:
        pass

    def stop(self, timeout_s: float = 0.0) -> None:
        pass

    def is_alive(self) -> bool:
        return True

    def is_serving(self) -> bool:
        return True

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0, 0.0, 1, 3072)

    def submit(self, request: EngineRequest, receive: Receive) -> None:
        receive([(request.request_id, self._answer)])

    def extend(self, request: ExtendRequest, receive: Receive) -> None:
        receive([(request.request_id, self._answer)])

    def close(self, sequence_id: str) -> None:
        pass

    def abort(self, request_id: str) -> None:
        pass


def serve() -> None:
    """The real server on an InstantCore; says its ports when it is ready."""
    flags = ["--http_port=0", "--grpc_port=0", "--host=127.0.0.1", "--device=cpu", *sys.argv[2:]]
    settings = load_settings([f"--model_dir={CHECKPOINT}", *flags], {})
    sys.argv[1:] = []  # KServe parses them while it is imported
    from predictor.server import build_server
    from predictor.service import loading

    configure_logging(settings.log_format, settings.log_level)

    def make(*_: Any) -> loading.MadeEngine:
        core = InstantCore(TextTokenizer.load(CHECKPOINT))
        return loading.MadeEngine(EngineClient([core]), "none", "none")

    keep_freed_memory()
    begun = loading.Loading(settings, make, has_real_weights=False)
    build_server(settings, loading=begun).start()


@contextmanager
def server(*flags: str) -> Any:
    """(process id, HTTP port, gRPC port) of a server with these settings."""
    command = [sys.executable, "-m", "tests.bench.own_work", "--serve", *flags]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ports: tuple[int, int] | None = None
        for text in process.stderr:
            line = json.loads(text) if text.startswith("{") else {"message": ""}
            if line["message"] == "listening":
                ports = line["http_port"], line["grpc_port"]
            if line["message"] == "ready":
                break
        assert ports is not None, "the server did not start"
        drain = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        try:
            yield process.pid, *ports
        finally:
            process.terminate()
            process.wait(30)
            drain.wait(30)
    finally:
        process.kill()
        process.stderr.close()


class Http:
    """One kept-alive connection, and no more work than sending and reading: what is measured is the
    server's."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> Any:
        """The JSON of an answer that is 200."""
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._received()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), answer[:500]
        size = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(body) < size:
            body += self._received()
        return json.loads(body)

    def _received(self) -> bytes:
        part = self._socket.recv(1 << 16)
        if not part:
            raise ConnectionError("the server hung up")
        return part


def askers(http_port: int, grpc_port: int, audio: bytes) -> dict[str, Callable[[], str]]:
    """By protocol: a request, and the text of its answer."""
    http = Http(http_port)

    def over_http(route: str, read: Callable[[Any], str]) -> Callable[[], str]:
        request = request_bytes(audio, "audio/wav", route)
        return lambda: read(http.ask(request))

    def text_of(answer: Any) -> str:
        outputs = {output["name"]: output for output in answer["outputs"]}
        return str(outputs["text"]["data"][0])

    return {
        "V2 binary": over_http("v2", text_of),
        "V2 JSON": over_http("v2-json", text_of),
        "OpenAI": over_http("openai", lambda answer: str(answer["text"])),
        "gRPC": grpc_asker(grpc_port, audio),
    }


def grpc_asker(port: int, audio: bytes) -> Callable[[], str]:
    """By gRPC's own client."""
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc

    channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    stub = grpc_predict_v2_pb2_grpc.GRPCInferenceServiceStub(channel)
    framed = len(audio).to_bytes(4, "little") + audio
    message = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[framed])
    message.inputs.append(
        pb.ModelInferRequest.InferInputTensor(name="audio", datatype="BYTES", shape=[1])
    )

    def ask() -> str:
        answer = stub.ModelInfer(message, timeout=60)
        index = [output.name for output in answer.outputs].index("text")
        if answer.raw_output_contents:
            return bytes(answer.raw_output_contents[index][4:]).decode()
        return bytes(answer.outputs[index].contents.bytes_contents[0]).decode()

    return ask


def measure(ask: Callable[[], str], count: int, pid: int) -> dict[str, Any]:
    """Milliseconds of `count` requests after as many as a tenth to warm up; and what the server
    and its processes use of a processor for each, which other load hardly changes."""
    took_ms: list[float] = []
    used_s = 0.0
    for index in range(count + count // 10):
        began_s = time.perf_counter()
        said = ask()
        took_ms.append(1e3 * (time.perf_counter() - began_s))
        assert said.lower() == SAID.strip(), said
        if index < count // 10:
            took_ms.clear()
            used_s = processor_s(pid)
    cuts = quantiles(took_ms, n=100)
    each_ms = 1e3 * (processor_s(pid) - used_s) / len(took_ms)
    times = {"p50_ms": cuts[49], "p95_ms": cuts[94], "least_ms": min(took_ms)}
    return times | {"processor_ms": each_ms, "repeats": count}


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process and all below it have used, to the nanosecond."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    used_ns = 0
    for task in tasks:
        with suppress(OSError):  # a thread that has ended meanwhile
            used_ns += int((task / "schedstat").read_text().split()[0])
    return used_ns / 1e9 + sum(map(processor_s, children(pid)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vad", default="silero", help="what finds speech, as the setting")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--memory_after", type=int, default=0, help="requests; 0 leaves it out")
    parser.add_argument("--output", type=Path)
    if sys.argv[1:2] == ["--serve"]:  # be the server; the rest are its settings
        serve()
        return
    if sys.argv[1:2] == ["--ask"]:
        ask_on(*map(int, sys.argv[2:]))
        return
    parser.add_argument(
        "--clients", type=int, default=1, help="processes that ask for memory's sake"
    )
    arguments = parser.parse_args()
    audio = wav(talk(10.0))
    result: dict[str, Any] = {"environment": describe(), "method": __doc__, "rows": {}}
    result["vad"] = arguments.vad
    with server(f"--vad={arguments.vad}") as (pid, http_port, grpc_port):
        asks = askers(http_port, grpc_port, audio)
        for name, ask in asks.items():
            result["rows"][name] = measure(ask, arguments.count, pid)
        if arguments.memory_after:
            memory_row = memory_after(pid, http_port, grpc_port, arguments)
            result["rows"]["memory"] = memory_row
    result["load"] = os.getloadavg()
    for name, row in result["rows"].items():
        print(f"{name:<12}", json.dumps(row))
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


def ask_on(http_port: int, grpc_port: int, count: int) -> None:
    """So many requests by every protocol in turn; says each hundred that are answered."""
    kinds = list(askers(http_port, grpc_port, wav(talk(MEMORY_CLIP_S))).values())
    for index in range(count):
        kinds[index % len(kinds)]()
        if (index + 1) % 100 == 0 or index + 1 == count:
            print(index % 100 + 1, flush=True)


def memory_after(pid: int, http_port: int, grpc_port: int, arguments: Any) -> dict[str, Any]:
    """Resident MiB after a twentieth of the requests, and at each further twentieth."""
    count, num_clients = arguments.memory_after, arguments.clients
    shares = [count * (i + 1) // num_clients - count * i // num_clients for i in range(num_clients)]
    command = [sys.executable, "-m", "tests.bench.own_work", "--ask", str(http_port)]
    said, write_end = os.pipe()
    clients = [
        subprocess.Popen([*command, str(grpc_port), str(share)], cwd=ROOT, stdout=write_end)
        for share in shares
    ]
    os.close(write_end)
    sizes, answered = {}, 0
    with open(said) as lines:
        for line in lines:
            answered += int(line)
            if answered >= count * (len(sizes) + 1) // 20:
                sizes[str(answered)] = memory(pid)["rss_mib"]
                print("memory", answered, sizes[str(answered)], "MiB", flush=True)
    assert all(client.wait() == 0 for client in clients)
    return {"rss_mib_after": sizes, "clip_s": MEMORY_CLIP_S, "clients": num_clients}


if __name__ == "__main__":
    main()
