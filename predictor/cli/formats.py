"""A transcription as the text of a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # help must not wait for numpy
    from predictor.text.cue_lines import SubtitleOptions
    from predictor.types import Segment, Transcription


def as_json(answer: Transcription) -> dict[str, Any]:
    """What is known of a recording; times in seconds."""
    return {
        "text": answer.text,
        "language": answer.language,
        "confidence": answer.confidence,
        "duration": answer.duration_s,
        "finish_reason": answer.finish_reason,
        "notes": list(answer.notes),
        "segments": [
            {
                "start": segment.start_s,
                "end": segment.end_s,
                "text": segment.text,
                "language": segment.language,
                "confidence": segment.confidence,
                **({} if segment.channel is None else {"channel": segment.channel}),
            }
            for segment in answer.segments
        ],
    }


def _tsv(answer: Transcription) -> str:
    """Start, end (ms) and text, as Whisper's command line writes them."""
    rows = ["start\tend\ttext"]
    for segment in _spoken(answer):
        text = " ".join(segment.text.split())
        rows.append(f"{round(segment.start_s * 1000)}\t{round(segment.end_s * 1000)}\t{text}")
    return "\n".join(rows) + "\n"


def _srt(answer: Transcription, cues: SubtitleOptions | None) -> str:
    from predictor.text.subtitles import to_srt

    return to_srt(_spoken(answer), cues)


def _vtt(answer: Transcription, cues: SubtitleOptions | None) -> str:
    from predictor.text.subtitles import to_vtt

    return to_vtt(_spoken(answer), cues)


def _spoken(answer: Transcription) -> list[Segment]:
    return [segment for segment in answer.segments if segment.text]


SUBTITLES: Final = ("srt", "vtt")
# The limits of cues are for subtitles; None has the usual ones.
FORMATS: Final[dict[str, Callable[[Transcription, SubtitleOptions | None], str]]] = {
    "txt": lambda answer, _: answer.text + "\n",
    "json": lambda answer, _: json.dumps(as_json(answer), ensure_ascii=False, indent=2) + "\n",
    "srt": _srt,
    "vtt": _vtt,
    "tsv": lambda answer, _: _tsv(answer),
}
