"""Every metric of the predictor, declared once: base units, bounded labels, names `qwen3_asr_*`.

KServe's own histograms (`request_preprocess_seconds`, ...) stand beside these on `/metrics`. An
object and not module globals, so that importing costs nothing and a test has its own registry.
Gauges that mirror the engine are read from it at scrape time, so they cannot drift from the truth.

Of several fronts each counts in files that all can read (prometheus_client's multiprocess mode);
whichever answers a scrape adds them up, and tells of the engines itself, which it sees as well as
any other does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge

from predictor.metrics.capacity import Capacity
from predictor.metrics.figures import (
    FRONTS,
    JOBS,
    Figures,
    WatchedCore,
    engine_figures,
    watch_engines,
)
from predictor.metrics.histograms import Histogram, SharedCounts, fine_counts
from predictor.metrics.labels import (
    BATCH_BUCKETS,
    CONFIDENCE_BUCKETS,
    DURATION_BUCKETS_S,
    LATENCY_BUCKETS_S,
    LIVE_STEP_BUCKETS_S,
)
from predictor.metrics.nvml import device_figures, watch_devices


class Metrics:
    """All counters, gauges and histograms; handed to whoever counts."""

    def __init__(
        self, registry: CollectorRegistry, *, is_shared: bool = False, native: bool = False
    ) -> None:
        """`is_shared`: several fronts count together, in files of PROMETHEUS_MULTIPROC_DIR;
        `native`: histograms are native ones too."""
        figures = CollectorRegistry() if is_shared else registry
        self.registry = figures  # what a scrape reads
        self._histogram = partial(Histogram, native=fine_counts(registry) if native else None)
        self._declare_requests(registry)
        self._declare_decoding(registry)
        self._declare_aligner(registry)
        self._declare_audio(registry)
        self._declare_model(registry)
        self._declare_live(registry)
        self._declare_queue(figures)
        self._declare_engine(figures)
        self._declare_sessions(figures)
        if is_shared:
            known = {metric.name for metric in figures.collect()}
            figures.register(SharedCounts(registry, known))

    def _declare_requests(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "qwen3_asr_requests",  # exposed as qwen3_asr_requests_total
            "Requests answered, by protocol and HTTP status (499: the client left first).",
            ["protocol", "code"],
            registry=registry,
        )
        self.errors = Counter(
            "qwen3_asr_errors",  # _total
            "Requests refused or failed, by the error table's code, such as audio_too_long.",
            ["protocol", "error"],
            registry=registry,
        )
        self.transcriptions = Counter(
            "qwen3_asr_transcriptions",  # _total
            "Recordings transcribed (a request may hold several), by how they finished.",
            ["protocol", "finish_reason"],
            registry=registry,
        )
        self.request_seconds = self._histogram(
            "qwen3_asr_request_seconds",
            "From the request's last header to the last byte of the answer.",
            ["protocol"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.queue_seconds = self._histogram(
            "qwen3_asr_queue_seconds",
            "Time a piece of audio waited in the engine's queue before it joined the batch.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.time_to_first_token_seconds = self._histogram(
            "qwen3_asr_time_to_first_token_seconds",
            "From submitting a piece of audio to the engine until its first token.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.requests_in_flight = Gauge(
            "qwen3_asr_requests_in_flight",
            "Requests being handled now.",
            ["protocol"],
            multiprocess_mode="livesum",
            registry=registry,
        )

    def _declare_decoding(self, registry: CollectorRegistry) -> None:
        self.audio_decode_seconds = self._histogram(
            "qwen3_asr_audio_decode_seconds",
            "Decoding and resampling one recording, waiting for a decoder included.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.decode_workers_busy = Gauge(
            "qwen3_asr_decode_workers_busy",
            "Decoder processes that work on a recording, by lane (short or long recordings).",
            ["lane"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.decode_workers_replaced = Counter(
            "qwen3_asr_decode_workers_replaced",  # _total
            "Decoder processes that crashed, or took longer than they may, and were replaced.",
            registry=registry,
        )

    def _declare_aligner(self, registry: CollectorRegistry) -> None:
        self.aligner_waiting = Gauge(
            "qwen3_asr_aligner_waiting",
            "Pieces that wait for the times of their words, or get them now.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.aligner_requests = Counter(
            "qwen3_asr_aligner_requests_total",
            "Pieces sent to the aligner, by error; `none` for those that got their times.",
            ["error"],
            registry=registry,
        )
        self.aligner_words = Counter(
            "qwen3_asr_aligner_words_total", "Words that got their times.", registry=registry
        )
        self.aligner_seconds = self._histogram(
            "qwen3_asr_aligner_seconds",
            "Times of the words of one piece, waiting for the aligner included.",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )

    def _declare_audio(self, registry: CollectorRegistry) -> None:
        self.audio_accepted_seconds = Counter(
            "qwen3_asr_audio_accepted_seconds",  # _total
            "Audio handed to the engine.",
            registry=registry,
        )
        self.audio_transcribed_seconds = Counter(
            "qwen3_asr_audio_transcribed_seconds",  # _total
            "Audio whose transcription was completed.",
            registry=registry,
        )
        self.audio_rejected_seconds = Counter(
            "qwen3_asr_audio_rejected_seconds",  # _total
            "Decoded audio that was turned away, by the error table's code.",
            ["error"],
            registry=registry,
        )
        self.audio_duration_seconds = self._histogram(
            "qwen3_asr_audio_duration_seconds",
            "Length of the recordings that were transcribed.",
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )

    def _declare_queue(self, registry: CollectorRegistry) -> None:
        self.audio_waiting_seconds = Gauge(
            "qwen3_asr_audio_waiting_seconds",
            "Audio admitted that does not run yet.",
            registry=registry,
        )
        self.audio_in_flight_seconds = Gauge(
            "qwen3_asr_audio_in_flight_seconds",
            "Audio the engine is transcribing now.",
            registry=registry,
        )
        self.audio_capacity_seconds = Gauge(
            "qwen3_asr_audio_capacity_seconds",
            "Audio that this replica may hold, waiting and in flight, before it is full.",
            registry=registry,
        )
        self.audio_learned_capacity_seconds = Gauge(
            "qwen3_asr_audio_learned_capacity_seconds",
            "Audio that this replica works off in full_load_s at the speed it had lately; before "
            "that is known, and at most, the capacity.",
            registry=registry,
        )
        self.load = Gauge(
            "qwen3_asr_load",
            "(waiting + in-flight audio seconds) / learned capacity + live sessions / their limit; "
            "scale out before it reaches 1.",
            registry=registry,
        )

    def _declare_model(self, registry: CollectorRegistry) -> None:
        self.batch_size = self._histogram(
            "qwen3_asr_batch_size",
            "Sequences decoded together, one observation a step.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.tokens = Counter(
            "qwen3_asr_tokens",  # _total
            "Tokens of completed transcriptions; kind is audio, prompt (text only) or completion.",
            ["kind"],
            registry=registry,
        )
        self.repeats_removed = Counter(
            "qwen3_asr_repeats_removed_characters",  # _total
            "Characters that the repetition clean-up took out of transcripts.",
            registry=registry,
        )
        self.start_seconds = Gauge(
            "qwen3_asr_start_seconds",
            "What the last start took, by phase: process (until loading began), download, engine, "
            "decoders, aligner, clip (the built-in one). Some run at the same time.",
            ["phase"],
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.confidence = self._histogram(
            "qwen3_asr_confidence",
            "Confidence of the transcriptions, a ratio from 0 to 1.",
            buckets=CONFIDENCE_BUCKETS,
            registry=registry,
        )
        self.languages = Counter(
            "qwen3_asr_languages",  # _total
            "Recordings transcribed, by language: one of 30 names, or None when nobody spoke.",
            ["language"],
            registry=registry,
        )

    def _declare_engine(self, registry: CollectorRegistry) -> None:
        self.engine_figures = engine_figures(registry)
        self.device_figures = device_figures(registry)
        self.front_figures = Figures(registry, FRONTS)
        self.job_figures = Figures(registry, [JOBS])
        self.model_info = Gauge(
            "qwen3_asr_model_info",
            "Always 1; the labels say what is served.",
            ["model_name", "version", "checkpoint", "device", "dtype", "identity"],
            registry=registry,
        )
        self.model_ready = Gauge(
            "qwen3_asr_model_ready", "1 once the built-in clip was transcribed.", registry=registry
        )
        self.engine_alive = Gauge(
            "qwen3_asr_engine_alive", "1 while the engine's loop turns.", registry=registry
        )
        self.model_load_seconds = Gauge(
            "qwen3_asr_model_load_seconds",
            "From the start of loading until the model was ready.",
            registry=registry,
        )

    def _declare_sessions(self, registry: CollectorRegistry) -> None:
        self.live_sessions = Gauge(
            "qwen3_asr_live_sessions", "Live sessions that are open.", registry=registry
        )
        self.live_sessions_limit = Gauge(
            "qwen3_asr_live_sessions_limit", "Live sessions there may be.", registry=registry
        )

    def _declare_live(self, registry: CollectorRegistry) -> None:
        self.live_sessions_refused = Counter(
            "qwen3_asr_live_sessions_refused",  # _total
            "Live sessions refused because all places were taken.",
            registry=registry,
        )
        self.live_audio_seconds = Counter(
            "qwen3_asr_live_audio_seconds",  # _total
            "Audio that live sessions heard, silence included.",
            registry=registry,
        )
        self.live_step_seconds = self._histogram(
            "qwen3_asr_live_step_seconds",
            "From the arrival of a step's last audio until its text was there; kind is partial "
            "or final.",
            ["kind"],
            buckets=LIVE_STEP_BUCKETS_S,
            registry=registry,
        )
        self.live_steps_skipped = Counter(
            "qwen3_asr_live_steps_skipped",  # _total
            "Partial steps left out because the engine's queue was full.",
            registry=registry,
        )
        self.live_tokens = Counter(
            "qwen3_asr_live_tokens",  # _total
            "Tokens of live steps: heard (audio, prompt, committed text), accepted (of the draft), "
            "decoded.",
            ["kind"],
            registry=registry,
        )
        self.live_taken_back = Counter(
            "qwen3_asr_live_taken_back",  # _total
            "Items whose completed text was not the text committed before.",
            registry=registry,
        )

    def watch(
        self,
        cores: Sequence[WatchedCore],
        held_audio_s: Callable[[], float],
        capacity: Capacity,
        live_share: Callable[[], float],
    ) -> None:
        """Read gauges at every scrape from the engines and from what the whole pod admitted.

        Admitted audio that does not run waits: in an engine's queue, or as a later piece of a long
        recording. All in seconds of audio. `live_share`: how much of its live sessions the pod
        has, 0 to 1.
        """

        def running() -> float:
            return sum(core.stats().running_audio_s for core in cores)

        def full() -> float:
            return capacity.audio_s([core.stats().audio_per_busy_s for core in cores])

        self.audio_capacity_seconds.set(capacity.max_held_audio_s)
        self.audio_learned_capacity_seconds.set_function(full)
        self.audio_waiting_seconds.set_function(lambda: max(0.0, held_audio_s() - running()))
        self.audio_in_flight_seconds.set_function(running)
        self.load.set_function(lambda: held_audio_s() / full() + live_share())
        watch_engines(self.engine_figures, cores)
        watch_devices(self.device_figures, [core.device for core in cores])
