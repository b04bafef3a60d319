"""A transcription as JSON, for the protocols that can carry all of it."""

from __future__ import annotations

from typing import Any

from predictor.api.words import words_json
from predictor.types import Segment, Transcription


def details(answer: Transcription) -> dict[str, Any]:
    """Finish reason, usage, segments, repeats removed and what was done to the recording; times in
    seconds; words if they were asked for."""
    return {
        "finish_reason": answer.finish_reason,
        "num_repeats_removed": answer.num_repeats_removed,
        "notes": list(answer.notes),
        "segments": [_segment(segment) for segment in answer.segments],
        **({} if answer.words is None else {"words": words_json(answer.words)}),
        "usage": {
            "num_audio_tokens": answer.usage.num_audio_tokens,
            "num_prompt_tokens": answer.usage.num_prompt_tokens,
            "num_completion_tokens": answer.usage.num_completion_tokens,
        },
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "id": segment.id,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "language": segment.language,
        "confidence": segment.confidence,
        "avg_logprob": segment.avg_logprob,
        "finish_reason": segment.finish_reason,
        **({} if segment.channel is None else {"channel": segment.channel}),
    }
