"""Jobs: whoever dies, the recording that was left is transcribed to its end."""

from __future__ import annotations

import io
import time
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.cluster.answers import RECORDING
from tests.cluster.conftest import Deploy, Record, Target
from tests.cluster.service_api import Object
from tests.cluster.status import is_ready

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
REPEATS = 240  # of a recording of some seconds: minutes of work on two busy cores
PAUSE_S = 1.0


def long_recording(repeats: int) -> bytes:
    """The same words again and again, with a pause after each time."""
    samples, rate = soundfile.read(RECORDING, dtype="int16")
    once = np.concatenate([samples, np.zeros(round(PAUSE_S * rate), dtype=np.int16)])
    file = io.BytesIO()
    soundfile.write(file, np.tile(once, repeats), rate, format="FLAC")
    return file.getvalue()


def test_a_job_outlives_the_pods_that_work_on_it(
    deploy: Deploy, target: Target, record: Record
) -> None:
    def two(service: Object) -> None:
        service["spec"]["predictor"]["minReplicas"] = 2

    deployment = deploy("dev-cpu", ("jobs",), change=two)
    ready = deployment.service.wait("the service ready", is_ready)
    deployment.service.wait_for_pods(2)
    main = deployment.client(ready["status"]["url"])
    repeats = 2 if target.is_fake else REPEATS
    left = main.post("/v1/jobs", long_recording(repeats))
    assert left.status_code == 202, left.text
    job_id, begun = left.json()["id"], time.monotonic()

    def ask() -> Any:
        return main.get(f"/v1/jobs/{job_id}")

    before = main.until(
        "a first segment", lambda said: said.is_success and bool(said.json().get("segments")), ask
    ).json()
    assert before["status"] == "running", "done before a pod could die: more REPEATS"
    for pod in deployment.service.pods():
        deployment.service.delete_pod(pod.metadata.name)
    after = main.until(
        "the job done",
        lambda said: said.is_success and said.json()["status"] in ("done", "failed"),
        ask,
        timeout_s=1200,
    ).json()
    assert after["status"] == "done", after["error"]
    texts = [[each["text"] for each in found["segments"]] for found in (before, after)]
    assert texts[1][: len(texts[0])] == texts[0]
    assert len(texts[1]) > len(texts[0])
    result = main.get(f"/v1/jobs/{job_id}/result?format=json")
    assert result.json()["text"].strip()
    record |= {
        "segments before": len(texts[0]),
        "segments": len(texts[1]),
        "done_s": round(time.monotonic() - begun, 1),
    }
