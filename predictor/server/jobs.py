"""What works on jobs in this front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from predictor.audio.decode import AudioDecoder
from predictor.jobs.announcer import Announcer
from predictor.jobs.outbound import Outbound, OutboundOptions
from predictor.jobs.runner import JobRunner
from predictor.jobs.store import JobLimits, JobStore
from predictor.settings.fields import Settings


@dataclass(frozen=True, slots=True)
class Jobs:
    """None of it is there when no folder is set for them."""

    store: JobStore
    decoder: AudioDecoder  # of its own, so that no request waits for a job's recording
    runner: JobRunner
    sources: Outbound  # of recordings that do not come with their jobs
    webhooks: Outbound
    announcer: Announcer | None  # tells the end of jobs; none without a secret to sign with


def build_jobs(settings: Settings, new_decoder: Callable[[], AudioDecoder]) -> Jobs | None:
    """As the settings say."""
    if settings.jobs_dir is None:
        return None
    limits = JobLimits(
        settings.max_jobs, settings.max_jobs_bytes, settings.job_ttl_s, settings.job_lease_s
    )
    store, decoder = JobStore(settings.jobs_dir, limits), new_decoder()
    sources, webhooks = (
        Outbound(
            OutboundOptions(prefixes, settings.job_private_addresses, settings.job_fetch_timeout_s)
        )
        for prefixes in (settings.job_url_prefixes, settings.job_webhook_prefixes)
    )
    secret = settings.job_webhook_secret
    announcer = Announcer(store, webhooks, secret) if secret else None
    return Jobs(store, decoder, JobRunner(store, decoder, sources), sources, webhooks, announcer)
