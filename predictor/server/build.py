"""The only place that wires: settings in, a server out, nothing started."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry

from predictor.align.process import AlignerProcess
from predictor.api.spool import Spool
from predictor.live.hub import LiveHub
from predictor.metrics import Metrics, watch_fronts, watch_jobs
from predictor.processes import num_cpus
from predictor.server.decoding import build_decoder
from predictor.server.jobs import build_jobs
from predictor.server.load import Loader
from predictor.server.place import PodPlace
from predictor.server.run import AsrServer, Parts
from predictor.service.loading import Loading
from predictor.service.model import AsrModel, ModelOptions
from predictor.service.ready_clip import ready_clip
from predictor.settings.fields import Settings
from predictor.text.cue_lines import SubtitleOptions
from predictor.text.languages import parse_language


def build_server(
    settings: Settings,
    registry: CollectorRegistry = REGISTRY,
    loading: Loading | None = None,
    place: PodPlace | None = None,
) -> AsrServer:
    """Everything wired, nothing started but `loading`, which otherwise begins with the server.

    KServe's own metrics are in the default `registry`; another one is for tests. `place` is that
    of one front among several.
    """
    metrics = Metrics(registry, is_shared=place is not None, native=settings.native_histograms)
    engine_lost: Future[None] = Future()
    book = None if place is None else place.book
    share: Callable[[int], int] = (lambda whole: whole) if place is None else place.share
    live = LiveHub(settings.max_live_sessions, metrics, book)
    settings = replace(settings, max_pending_bytes=share(settings.max_pending_bytes))
    num_workers = share(settings.num_decode_workers or max(2, 3 * num_cpus() // 4))
    decoder = build_decoder(settings, metrics, num_workers, settings.max_long_recordings)
    aligner: AlignerProcess | Path | None = None
    if settings.has_aligner:
        aligner = AlignerProcess() if place is None else place.aligner
    model = AsrModel(
        settings.model_name,
        Loader(settings, metrics, live, engine_lost, book, aligner, loading),
        decoder,
        ready_clip(),
        metrics,
        ModelOptions(
            settings.request_timeout_s,
            parse_language(settings.language),
            log_text=settings.log_text,
        ),
        is_pod_ready=(lambda: True) if book is None else book.nobody_starts,
    )
    jobs = build_jobs(settings, lambda: build_decoder(settings, metrics, 1, 1))
    watch_fronts(metrics.front_figures, book)
    if jobs is not None:
        watch_jobs(metrics.job_figures, jobs.store.counts)
    parts = Parts(
        model=model,
        decoder=decoder,
        metrics=metrics,
        live=live,
        engine_lost=engine_lost,
        place=place,
        aligner=aligner if isinstance(aligner, AlignerProcess) else None,
        jobs=jobs,
        spool=_spool(settings, share),
        cues=cue_options(settings),
    )
    return AsrServer(settings, parts)


def _spool(settings: Settings, share: Callable[[int], int]) -> Spool | None:
    if settings.spool_dir is None:
        return None
    return Spool(settings.spool_dir, share(settings.max_spool_bytes), settings.max_body_bytes)


def cue_options(settings: Settings) -> SubtitleOptions:
    """The limits of subtitles that the settings say."""
    return SubtitleOptions(
        max_columns=settings.cue_max_columns,
        max_wide_columns=2 * settings.cue_max_wide_chars,
        max_lines=settings.cue_max_lines,
        min_s=settings.cue_min_s,
        max_s=max(settings.cue_min_s, settings.cue_max_s),
    )
