"""Answers that were given: what the metrics and the request's line of the log have of them."""

from __future__ import annotations

from collections.abc import Sequence

from predictor.logs import note
from predictor.metrics import Metrics
from predictor.types import Transcription


class AnswerCounts:
    """For all protocols."""

    def __init__(self, metrics: Metrics, *, with_text: bool) -> None:
        """`with_text`: what was said goes into the log."""
        self._metrics = metrics
        self._with_text = with_text

    def note(self, answers: Sequence[Transcription]) -> None:
        """For the line of the log."""
        note(
            recordings=len(answers),
            audio_s=round(sum(answer.duration_s for answer in answers), 3),
            language=",".join(sorted({answer.language or "None" for answer in answers})),
            finish_reason=",".join(sorted({answer.finish_reason for answer in answers})),
        )
        if self._with_text:
            note(text=[answer.text for answer in answers])

    def count(self, protocol: str, answers: Sequence[Transcription]) -> None:
        """For the metrics."""
        metrics = self._metrics
        for answer in answers:
            metrics.transcriptions.labels(
                protocol=protocol, finish_reason=answer.finish_reason
            ).inc()
            metrics.audio_transcribed_seconds.inc(answer.duration_s)
            metrics.audio_duration_seconds.observe(answer.duration_s)
            metrics.confidence.observe(answer.confidence)
            metrics.languages.labels(language=answer.language or "None").inc()
            metrics.repeats_removed.inc(answer.num_repeats_removed)
            usage = answer.usage
            num_text_tokens = usage.num_prompt_tokens - usage.num_audio_tokens
            metrics.tokens.labels(kind="audio").inc(usage.num_audio_tokens)
            metrics.tokens.labels(kind="prompt").inc(num_text_tokens)
            metrics.tokens.labels(kind="completion").inc(usage.num_completion_tokens)
