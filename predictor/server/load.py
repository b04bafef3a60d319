"""From a checkpoint that was read to what transcribes with it. Slow; runs in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from predictor import __version__
from predictor.align.client import AlignerClient
from predictor.align.process import AlignerProcess
from predictor.audio.cut import split
from predictor.audio.vad import load_detector
from predictor.book import Book
from predictor.engine import EngineClient, StepStats
from predictor.errors import AsrError
from predictor.live.engine_steps import KeptSteps
from predictor.live.hub import LiveHub
from predictor.live.listener import LiveParts
from predictor.live.options import LiveOptions
from predictor.live.speech_batch import SpeechBatch
from predictor.metrics import Capacity, Metrics
from predictor.model.checkpoint.identity import ready_text
from predictor.service.admission import Admission
from predictor.service.aligner import aligner_spec, check_pieces
from predictor.service.loading import Checkpoint, Loading
from predictor.service.model import Loaded
from predictor.service.transcriber import Transcriber, TranscriberOptions
from predictor.service.word_times import Align, Times, WordTimes
from predictor.settings.fields import Settings
from predictor.text.prompt import PromptBuilder
from predictor.types import AnySamples

# Recordings that a front's engine has before it is known what of them is speech. On a CPU none: the
# detector takes no time beside the model, and what is thrown away would take much.
MAX_AHEAD = 4


@dataclass(frozen=True, slots=True)
class Loader:
    """Called once, by the model."""

    settings: Settings
    metrics: Metrics
    live: LiveHub
    engine_lost: Future[None]  # set when the engine has gone for good
    book: Book | None  # of what other fronts hold
    # The aligner's process if it is ours, or where the pod's is reached; None = words have no times
    aligner: AlignerProcess | Path | None
    loading: Loading | None  # begun already

    def __call__(self) -> Loaded:
        """Wait for the checkpoint. Raises what kept it, or the aligner, from loading."""
        loading = self.loading or Loading(self.settings)
        aligner_began_s = time.monotonic()
        if isinstance(self.aligner, AlignerProcess):
            self.aligner.spawn(aligner_spec(self.settings))
        checkpoint = loading.result(_observer(self.metrics))
        loading.lost.add_done_callback(lambda _: self.engine_lost.set_result(None))
        engine = checkpoint.made.client
        prompts = PromptBuilder(checkpoint.tokenizer, self.settings.max_context_tokens)
        admission = Admission(self.settings.max_held_audio_s, self.metrics, self.book)
        self._watch(checkpoint, admission)
        for phase, seconds in loading.phases.items():
            self.metrics.start_seconds.labels(phase=phase).set(seconds)
        times = self._word_times(aligner_began_s)
        return Loaded(
            engine=engine,
            transcriber=self._transcriber(checkpoint, prompts, admission, times),
            prompts=prompts,
            live=self._live_parts(checkpoint, prompts, times),
            identity=checkpoint.identity,
            ready_text=ready_text(checkpoint.folder),
            has_real_weights=loading.has_real_weights and self.settings.check_ready_clip,
            began_s=loading.began_s,
        )

    def _transcriber(
        self,
        checkpoint: Checkpoint,
        prompts: PromptBuilder,
        admission: Admission,
        times: WordTimes | None,
    ) -> Transcriber:
        made = checkpoint.made
        options = TranscriberOptions(
            segment_s=self.settings.segment_s,
            word_times=times,
            max_ahead=MAX_AHEAD if made.device.startswith("cuda") else 0,
        )
        return Transcriber(
            made.client.submit,
            split,
            checkpoint.tokenizer,
            prompts,
            options,
            admission,
            self.metrics,
        )

    def _live_parts(
        self, checkpoint: Checkpoint, prompts: PromptBuilder, times: WordTimes | None
    ) -> LiveParts:
        engine: EngineClient = checkpoint.made.client
        return LiveParts(
            prompts=prompts,
            tokenizer=checkpoint.tokenizer,
            new_steps=lambda: KeptSteps(engine.extend, engine.close),
            speech=SpeechBatch(load_detector("silero")),
            options=LiveOptions(),
            metrics=self.metrics,
            find_words=None if times is None else times.of_utterance,
        )

    def _word_times(self, began_s: float) -> WordTimes | None:
        """Wait for the aligner. Raises RuntimeError and ValueError."""
        address = self.aligner
        if address is None:
            return None
        if isinstance(address, AlignerProcess):
            address.wait_loaded()
            address = address.address
        client = AlignerClient(address)
        info = client.wait_ready()
        self.metrics.start_seconds.labels(phase="aligner").set(time.monotonic() - began_s)
        check_pieces(self.settings, info)
        align = _counted(client.times, self.metrics)
        return WordTimes(align, info.languages, info.max_audio_s)

    def _watch(self, checkpoint: Checkpoint, admission: Admission) -> None:
        """Let scrapes read what the engine holds, and say what is served."""
        settings, made = self.settings, checkpoint.made
        self.metrics.watch(
            made.client.cores,
            lambda: admission.pod_held_audio_s,
            Capacity(settings.max_held_audio_s, settings.full_load_s),
            lambda: self.live.share,
        )
        self.metrics.model_info.labels(
            model_name=settings.model_name,
            version=__version__,
            checkpoint=_checkpoint_name(settings, checkpoint.folder),
            device=made.device,
            dtype=made.dtype,
            identity=checkpoint.identity.digest,
        ).set(1)


def _observer(metrics: Metrics) -> Callable[[StepStats], None]:
    """Called in the engine's thread after each step."""

    def observe(step: StepStats) -> None:
        if step.phase == "decode":
            metrics.batch_size.observe(step.num_seqs)
        for waited_s in step.queue_s:
            metrics.queue_seconds.observe(waited_s)

    return observe


def _counted(align: Align, metrics: Metrics) -> Align:
    """The same, seen in the metrics."""

    async def counted(samples: AnySamples, words: Sequence[str]) -> Times:
        began_s = time.monotonic()
        try:
            with metrics.aligner_waiting.track_inprogress():
                times = await align(samples, words)
        except AsrError as error:
            metrics.aligner_requests.labels(error=error.spec.code).inc()
            raise
        metrics.aligner_requests.labels(error="none").inc()
        metrics.aligner_words.inc(len(words))
        metrics.aligner_seconds.observe(time.monotonic() - began_s)
        return times

    return counted


def _checkpoint_name(settings: Settings, folder: Path) -> str:
    if settings.model_id is None:
        return folder.name
    return f"{settings.model_id}@{settings.model_revision or 'main'}"
