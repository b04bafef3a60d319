"""A session with Triton's gRPC client, run as a program of its own.

Triton's and KServe's packages both register the protocol's messages with protobuf, so one process
cannot hold both. Reads {"grpc": address, "recordings": [base64], ...} from stdin, writes JSON.
"""

from __future__ import annotations

import base64
import io
import json
import sys
from typing import Any

import numpy as np
import soundfile
import tritonclient.grpc as triton

MODEL = "qwen3-asr"


def _plain(result: Any, names: list[str]) -> dict[str, list[Any]]:
    columns = {name: result.as_numpy(name).tolist() for name in names}
    return {
        name: [v.decode() if isinstance(v, bytes) else v for v in values]
        for name, values in columns.items()
    }


def main() -> None:
    job = json.load(sys.stdin)
    recordings = [base64.b64decode(text) for text in job["recordings"]]
    names = job["names"]
    audio = triton.InferInput("audio", [len(recordings)], "BYTES")
    array = np.empty(len(recordings), dtype=np.object_)
    array[:] = recordings
    audio.set_data_from_numpy(array)
    samples, rate = soundfile.read(io.BytesIO(recordings[0]), dtype="float32")
    waveform = triton.InferInput("waveform", [2, len(samples)], "FP32")
    waveform.set_data_from_numpy(np.stack([samples, samples]))
    with triton.InferenceServerClient(job["grpc"]) as client:
        answer = {
            "live": client.is_server_live(),
            "ready": client.is_server_ready(),
            "model_ready": client.is_model_ready(MODEL),
            "server": client.get_server_metadata().name,
            "metadata": client.get_model_metadata(MODEL, as_json=True),
            "audio": _plain(client.infer(MODEL, [audio]), names),
            "english": _plain(client.infer(MODEL, [audio], parameters={"language": "en"}), names),
            "waveform": _plain(
                client.infer(MODEL, [waveform], parameters={"sample_rate": rate}), names
            ),
        }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
