"""Jobs at the fake ingress: kept on their claim, or with their pod where there is none.

Each look at a job moves it on by one segment. A job whose pod is gone waits for the end of the
lease, then another pod goes on behind the segments that are there.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.cluster.fake.workloads import Workload

Object = dict[str, Any]
NUM_SEGMENTS = 4
LEASE_LOOKS = 2


@dataclass
class FakeJob:
    pod: str
    on_claim: bool
    waited: int = 0
    segments: list[Object] = field(default_factory=list)

    def look(self, workload: Workload) -> bool:
        """One look later; whether the job is still there."""
        if self.pod not in workload.pods:
            if not self.on_claim:
                return False
            self.waited += 1
            if self.waited < LEASE_LOOKS or not workload.pods:
                return True
            self.pod, self.waited = workload.pods[0], 0
        if len(self.segments) < NUM_SEGMENTS:
            index = len(self.segments)
            self.segments.append({"id": index, "text": f"piece {index}"})
        return True


class FakeJobs:
    """All jobs of a cluster."""

    def __init__(self) -> None:
        self._jobs: dict[str, FakeJob] = {}
        self._next = itertools.count(1)

    def answer(self, request: Request, workload: Workload) -> Response:
        """A request below /v1/jobs."""
        args = workload.predictor.container["args"]
        [folder, *_] = [a.split("=")[1] for a in args if a.startswith("--jobs_dir=")] or [""]
        if not folder:
            return JSONResponse({"error": {"message": "Not Found"}}, 404)
        if request.method == "POST":
            job_id = f"job-{next(self._next)}"
            self._jobs[job_id] = FakeJob(workload.pods[0], on_claim(workload, folder))
            return JSONResponse(self._document(job_id), 202)
        job_id, _, rest = request.url.path.removeprefix("/v1/jobs/").partition("/")
        job = self._jobs.get(job_id)
        if job is None or not job.look(workload):
            return JSONResponse({"error": {"code": "not_found"}}, 404)
        if rest == "result":
            return JSONResponse({"text": " ".join(each["text"] for each in job.segments)})
        return JSONResponse(self._document(job_id))

    def _document(self, job_id: str) -> Object:
        segments = self._jobs[job_id].segments
        status = "done" if len(segments) == NUM_SEGMENTS else "running"
        return {"id": job_id, "status": status, "segments": list(segments), "error": None}


def on_claim(workload: Workload, folder: str) -> bool:
    """Whether a folder of a workload's pods is on a claim."""
    mounts = {m["mountPath"]: m["name"] for m in workload.predictor.container["volumeMounts"]}
    claims = [v["name"] for v in workload.predictor.pod["volumes"] if "persistentVolumeClaim" in v]
    return mounts.get(folder) in claims
