"""Callers of a running predictor over every protocol, for its metrics to have something to say."""

from __future__ import annotations

import io
import json
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import soundfile
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from websockets.sync.client import connect

from pipelines.lib.wire import encode_v2
from pipelines.local_service import LocalService

MODEL = "qwen3-asr"
TIMEOUT_S = 120.0
HOT_WORDS = ", ".join(f"{name} {street}" for name in ("Verna", "Milo", "Odette", "Tarek")
                      for street in ("Alder Lane", "Quarry Road", "Harbour Street"))  # fmt: skip
PIECE_S = 0.25  # of live speech
Send = Callable[[bytes], int]  # a recording's bytes -> the HTTP status, or 0 for a gRPC error


class Callers:
    """One function for each protocol, by the name that the metrics give it."""

    def __init__(self, service: LocalService) -> None:
        self._http = httpx.Client(base_url=service.url, timeout=TIMEOUT_S)
        self._channel = grpc.insecure_channel(service.grpc)
        self._stub: Any = GRPCInferenceServiceStub(self._channel)
        self.protocols: dict[str, Send] = {
            "v1": self._v1,
            "v2": self._v2,
            "grpc": self._grpc,
            "openai": self._openai,
            "recognize": self._recognize,
        }

    def close(self) -> None:
        self._http.close()
        self._channel.close()

    def each_once(self, audio: bytes) -> dict[str, int]:
        return {name: send(audio) for name, send in self.protocols.items()}

    def live(self, audio: bytes, in_real_time: bool = False) -> str:
        """One live session that hears a recording; the text that was completed."""
        samples, rate = soundfile.read(io.BytesIO(audio), dtype="int16")
        address = str(self._http.base_url).replace("http", "ws", 1)
        with connect(f"{address.rstrip('/')}/api/v1/live?rate={rate}") as session:
            step, clock = round(PIECE_S * rate), threading.Event()
            for start in range(0, len(samples), step):
                session.send(samples[start : start + step].tobytes())
                if in_real_time:
                    clock.wait(PIECE_S)
            session.send(json.dumps({"type": "end"}))
            lines = [json.loads(line) for line in session]
        return " ".join(line["text"] for line in lines if line["type"] == "completed")

    def until_refused(self, audio: bytes, num_callers: int = 4) -> None:
        """Call at once until one is told that the queue is full."""
        refused = threading.Event()

        def call() -> None:
            while not refused.is_set():
                if self._openai(audio) == 429:
                    refused.set()

        with ThreadPoolExecutor(num_callers) as pool:
            for future in [pool.submit(call) for _ in range(num_callers)]:
                future.result()

    def _v1(self, audio: bytes) -> int:
        kind = {"Content-Type": "application/octet-stream"}
        return self._post(f"/v1/models/{MODEL}:predict", content=audio, headers=kind)

    def _v2(self, audio: bytes) -> int:
        body, headers = encode_v2(audio, None, "")
        return self._post(f"/v2/models/{MODEL}/infer", content=body, headers=headers)

    def _openai(self, audio: bytes) -> int:
        files = {"file": ("a.flac", audio)}
        return self._post("/v1/audio/transcriptions", data={"model": MODEL}, files=files)

    def hinted(self, audio: bytes) -> int:
        """With hot words that fill a page of the cache, and times of words asked for."""
        data = {
            "model": MODEL,
            "prompt": HOT_WORDS,
            "response_format": "verbose_json",
            "timestamp_granularities[]": "word",
        }
        return self._post("/v1/audio/transcriptions", data=data, files={"file": ("a.flac", audio)})

    def _recognize(self, audio: bytes) -> int:
        return self._post("/api/v1/recognize", files={"audio": ("a.flac", audio)})

    def _post(self, path: str, **request: Any) -> int:
        return self._http.post(path, **request).status_code

    def _grpc(self, audio: bytes) -> int:
        request = pb.ModelInferRequest(model_name=MODEL)
        request.inputs.add(name="audio", datatype="BYTES", shape=[1])
        request.raw_input_contents.append(struct.pack("<I", len(audio)) + audio)
        try:
            self._stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError:
            return 0
        return 200
