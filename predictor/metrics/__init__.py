"""Every metric: what is counted (`counters`), what is read at a scrape (`figures`, `nvml`),
and what a scrape is answered (`exposition`)."""

from predictor.metrics.capacity import Capacity
from predictor.metrics.counters import Metrics
from predictor.metrics.exposition import scrape
from predictor.metrics.figures import EngineGauges, Figures, WatchedCore, watch_fronts, watch_jobs
from predictor.metrics.labels import (
    CLIENT_CLOSED_REQUEST,
    CONFIDENCE_BUCKETS,
    LATENCY_BUCKETS_S,
    PROTOCOLS,
)

__all__ = [
    "CLIENT_CLOSED_REQUEST",
    "CONFIDENCE_BUCKETS",
    "LATENCY_BUCKETS_S",
    "PROTOCOLS",
    "Capacity",
    "EngineGauges",
    "Figures",
    "Metrics",
    "WatchedCore",
    "scrape",
    "watch_fronts",
    "watch_jobs",
]
