"""Streams a recording with Triton's gRPC client: address, WAV file, datatype, NAME=VALUE ..."""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np
import soundfile
import tritonclient.grpc as triton

address, path, datatype, *pairs = sys.argv[1:]
samples, rate = soundfile.read(path, dtype="float32")
if datatype == "INT16":
    samples = (np.clip(samples, -1, 1) * 32767).astype(np.int16)
parameters = {"rate": rate, **dict(pair.split("=") for pair in pairs)}
answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
with triton.InferenceServerClient(address) as client:
    client.start_stream(lambda result, error: answers.put((result, error)))
    for start in range(0, len(samples), 1_600):
        piece = samples[start : start + 1_600]
        tensor = triton.InferInput("audio", [len(piece)], datatype)
        tensor.set_data_from_numpy(piece)
        client.async_stream_infer("qwen3-asr", [tensor], parameters=parameters)
    client.stop_stream()
while not answers.empty():
    result, error = answers.get()
    if error is not None:
        raise SystemExit(f"{error.status()}: {error.message()}")
    print(result.as_numpy("event")[0].decode())
