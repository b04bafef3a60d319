"""Settings: live sessions and jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from predictor.settings.spec import setting

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class SessionsFields:
    """Part of Settings."""

    # Live speech
    max_live_sessions: int = setting(
        64, "live sessions open at once; more are refused with 429", low=1, high=100_000
    )
    max_grpc_streams: int = setting(
        8,
        "of these, live sessions over gRPC in one front process: each may make it hold a message "
        "of `max_body_bytes`; more are refused with 429",
        low=1,
        high=100_000,
    )
    max_live_session_s: float = setting(
        570.0,
        "longest live session, which is then asked to connect again; below the time limits of "
        "what stands in front",
        low=1,
        high=86400,
    )

    # Jobs
    jobs_dir: Path | None = setting(
        None,
        "folder in which jobs (`/v1/jobs`) are kept, which replicas may share; `off` has no jobs",
        kind=Path,
        none="off",
    )
    max_jobs: int = setting(
        1000, "jobs kept, finished ones too; more are refused with 429", low=1, high=1_000_000
    )
    max_jobs_bytes: int = setting(
        10 * 1024 * _MIB,
        "most bytes of recordings and transcripts of jobs; more is answered with 429",
        low=_MIB,
        high=1 << 44,
    )
    job_ttl_s: float = setting(
        86400.0, "a job is removed so long after it has ended", low=1, high=31_536_000
    )
    job_lease_s: float = setting(
        30.0,
        "without a sign of life for so long, who works on a job has gone and another takes it",
        low=1,
        high=3600,
    )

    job_url_prefixes: tuple[str, ...] = setting(
        (),
        "addresses, separated by commas, below which a job's recording may be fetched "
        "(`https://store.example/recordings/`); without any nothing is fetched",
        kind=tuple,
    )
    job_webhook_prefixes: tuple[str, ...] = setting(
        (),
        "addresses, separated by commas, below which the end of a job may be told",
        kind=tuple,
    )
    job_webhook_secret: str | None = setting(
        None,
        "signs what is told, as Standard Webhooks say: `whsec_` and base64, or any text; webhooks "
        "need it",
        kind=str,
        none="",
        is_secret=True,
    )
    job_private_addresses: bool = setting(
        False,
        "let those addresses be private ones, such as a store in the cluster, and without TLS",
    )
    job_fetch_timeout_s: float = setting(
        600.0, "time limit for fetching a job's recording", low=1, high=86400
    )
