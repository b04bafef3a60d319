"""What works on jobs in this front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from predictor.audio.decode import AudioDecoder
from predictor.jobs.runner import JobRunner
from predictor.jobs.store import JobLimits, JobStore
from predictor.settings.fields import Settings


@dataclass(frozen=True, slots=True)
class Jobs:
    """None of it is there when no folder is set for them."""

    store: JobStore
    decoder: AudioDecoder  # of its own, so that no request waits for a job's recording
    runner: JobRunner


def build_jobs(settings: Settings, new_decoder: Callable[[], AudioDecoder]) -> Jobs | None:
    """As the settings say."""
    if settings.jobs_dir is None:
        return None
    limits = JobLimits(
        settings.max_jobs, settings.max_jobs_bytes, settings.job_ttl_s, settings.job_lease_s
    )
    store, decoder = JobStore(settings.jobs_dir, limits), new_decoder()
    return Jobs(store, decoder, JobRunner(store, decoder))
