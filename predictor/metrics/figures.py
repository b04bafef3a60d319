"""Figures that are read from where they are kept when somebody scrapes, so that they cannot drift.

Of several fronts the one that answers reads them for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Kind = Literal["counter", "gauge"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One metric; counters are exposed with `_total` behind their name."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()

    def family(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Without any values."""
        make = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return make(self.name, self.meaning, labels=self.labels)


Values = Iterable[tuple[tuple[str, ...], float]]  # (values of the labels, value)


class Figures(Collector):
    """Some metrics, read together. Nothing is said of them until `read` is set."""

    def __init__(self, registry: CollectorRegistry, figures: Sequence[Figure]) -> None:
        self.figures = tuple(figures)
        self.read: Callable[[], dict[str, Values]] = dict  # by name
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What `read` says now."""
        values = self.read()
        for figure in self.figures:
            family = figure.family()
            for labels, value in values.get(figure.name, ()):
                family.add_metric(labels, value)
            yield family

    def describe(self) -> Iterable[Metric]:
        """Their names, without reading anything."""
        return [figure.family() for figure in self.figures]


class EngineGauges(Protocol):
    """The numbers of the engine that a scrape reads."""

    @property
    def num_waiting(self) -> int: ...
    @property
    def num_running(self) -> int: ...
    @property
    def waiting_audio_s(self) -> float: ...
    @property
    def running_audio_s(self) -> float: ...
    @property
    def num_pages(self) -> int: ...
    @property
    def num_free_pages(self) -> int: ...
    @property
    def num_kept(self) -> int: ...
    @property
    def num_preempted(self) -> int: ...
    @property
    def audio_per_busy_s(self) -> float: ...
    @property
    def num_prefix_hits(self) -> int: ...
    @property
    def num_prefix_misses(self) -> int: ...
    @property
    def num_draft_tokens(self) -> int: ...
    @property
    def num_draft_accepted(self) -> int: ...


class FrontBook(Protocol):
    """What a pod's book tells of its fronts."""

    def fronts(self) -> tuple[int, int, int]: ...


class WatchedCore(Protocol):
    """An engine as a scrape sees it."""

    @property
    def device(self) -> str: ...
    def stats(self) -> EngineGauges: ...


def _of_engine(
    name: str, kind: Kind, meaning: str, value: Callable[[EngineGauges], float]
) -> tuple[Figure, Callable[[EngineGauges], float]]:
    return Figure(name, kind, meaning, ("device",)), value


_ENGINE = (
    _of_engine(
        "qwen3_asr_sequences_waiting", "gauge",
        "Pieces of audio in the queue, by device.",
        lambda s: s.num_waiting,
    ),
    _of_engine(
        "qwen3_asr_sequences_running", "gauge",
        "Pieces of audio in the batch, by device.",
        lambda s: s.num_running,
    ),
    _of_engine(
        "qwen3_asr_sequences_kept", "gauge",
        "Utterances of live sessions that stay in the engine between their steps, by device.",
        lambda s: s.num_kept,
    ),
    _of_engine(
        "qwen3_asr_cache_pages", "gauge",
        "Pages of the cache for keys and values, by device.",
        lambda s: s.num_pages,
    ),
    _of_engine(
        "qwen3_asr_cache_pages_used", "gauge",
        "Pages of the cache that are taken, by device; shared beginnings count.",
        lambda s: s.num_pages - s.num_free_pages,
    ),
    _of_engine(
        "qwen3_asr_sequences_preempted", "counter",
        "Sequences that gave their pages to older ones and were prefilled again.",
        lambda s: s.num_preempted,
    ),
    _of_engine(
        "qwen3_asr_prefix_hits", "counter",
        "Prompts whose beginning (the context) was found in the cache, by device.",
        lambda s: s.num_prefix_hits,
    ),
    _of_engine(
        "qwen3_asr_prefix_misses", "counter",
        "Prompts with a beginning of a page or more that was not in the cache, by device.",
        lambda s: s.num_prefix_misses,
    ),
    _of_engine(
        "qwen3_asr_draft_tokens_offered", "counter",
        "Draft tokens that requests and live steps brought along, by device.",
        lambda s: s.num_draft_tokens,
    ),
    _of_engine(
        "qwen3_asr_draft_tokens_accepted", "counter",
        "Draft tokens that greedy decoding agreed with, by device.",
        lambda s: s.num_draft_accepted,
    ),
    _of_engine(
        "qwen3_asr_speed_ratio", "gauge",
        "Seconds of audio transcribed in a second of work, by device: a mean over busy time "
            "that forgets within minutes of it; 0 until 5 s were worked.",
        lambda s: s.audio_per_busy_s,
    ),
)  # fmt: skip


def engine_figures(registry: CollectorRegistry) -> Figures:
    """What the engines tell of themselves; `watch_engines` says which."""
    return Figures(registry, [figure for figure, _ in _ENGINE])


def watch_engines(figures: Figures, cores: Sequence[WatchedCore]) -> None:
    """Read them from now on."""

    def read() -> dict[str, Values]:
        stats = [(core.device, core.stats()) for core in cores]
        return {
            figure.name: [((device,), float(value(each))) for device, each in stats]
            for figure, value in _ENGINE
        }

    figures.read = read


def watch_fronts(figures: Figures, book: FrontBook | None) -> None:
    """`book` is that of the pod; without one this process is all there is."""

    def read() -> dict[str, Values]:
        ready, starting, restarts = (1, 0, 0) if book is None else book.fronts()
        states: Values = [(("ready",), ready), (("starting",), starting)]
        return {FRONTS[0].name: states, FRONTS[1].name: [((), restarts)]}

    figures.read = read


def watch_jobs(figures: Figures, counts: Callable[[], Mapping[str, int]]) -> None:
    """`counts` says how many jobs are in each state."""
    figures.read = lambda: {JOBS.name: [((state,), n) for state, n in counts().items()]}


JOBS = Figure("qwen3_asr_jobs", "gauge", "Jobs that are kept, by state.", ("state",))
FRONTS = (
    Figure("qwen3_asr_front_processes", "gauge", "Fronts of the pod, by state.", ("state",)),
    Figure("qwen3_asr_front_restarts", "counter", "Fronts that took the place of one that died."),
)
