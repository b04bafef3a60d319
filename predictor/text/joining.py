"""The pieces of a recording put together again: text, language, confidence, finish reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from predictor.text.languages import join_texts
from predictor.text.output import ParsedOutput
from predictor.text.stitching import stitch, words_within
from predictor.types import (
    AudioEnd,
    EngineFinish,
    FinishReason,
    Segment,
    Transcription,
    Usage,
    Word,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """What one piece of a recording came to."""

    start_s: float
    end_s: float
    parsed: ParsedOutput
    finish: FinishReason
    usage: Usage
    token_ids: tuple[int, ...]
    token_logprobs: tuple[float, ...] = ()
    num_header_tokens: int = 0
    channel: int | None = None
    words: tuple[Word, ...] | None = None  # if they were asked for
    overlap_s: float = 0.0  # of its beginning, that the piece before has heard too
    continues: bool = False  # the piece behind it has heard some of its end


def finish_reason(engine: EngineFinish | None, parsed: ParsedOutput) -> FinishReason:
    """Why a piece ended, as callers are told."""
    if engine == "repetition" or parsed.num_repeats_removed > 0:
        return "repetition"
    if engine == "length":
        return "length"
    return "stop" if parsed.text else "silence"


def join_pieces(
    pieces: Sequence[Piece], end: AudioEnd, *, language: str | None, with_words: bool = False
) -> Transcription:
    """The answer for a recording; `language` is the one that was forced, or None.

    Confidence is the geometric mean over the tokens of all pieces in which something was said;
    where there is no piece it is the probability that nobody speaks. Where nobody spoke there is
    no language, forced or not.
    """
    pieces = stitched(pieces)
    said = [p for p in pieces if p.parsed.text]
    spoken = said or list(pieces)
    num_scored = sum(p.parsed.num_scored_tokens for p in spoken)
    log_sum = math.fsum(p.parsed.avg_logprob * p.parsed.num_scored_tokens for p in spoken)
    reasons = {p.finish for p in pieces}
    order: tuple[FinishReason, ...] = ("repetition", "length", "stop", "silence")
    unheard = 0.0 if pieces else 1.0 - end.speech_probability
    return Transcription(
        text=join_texts([p.parsed.text for p in pieces]),
        language=(language if said else None) or _majority_language(pieces),
        confidence=min(1.0, math.exp(log_sum / num_scored)) if num_scored else unheard,
        duration_s=end.duration_s,
        finish_reason=next((reason for reason in order if reason in reasons), "silence"),
        usage=Usage(
            num_audio_tokens=sum(p.usage.num_audio_tokens for p in pieces),
            num_prompt_tokens=sum(p.usage.num_prompt_tokens for p in pieces),
            num_completion_tokens=sum(p.usage.num_completion_tokens for p in pieces),
        ),
        segments=tuple(segment(i, p) for i, p in enumerate(pieces)),
        num_repeats_removed=sum(p.parsed.num_repeats_removed for p in pieces),
        words=_words(pieces) if with_words else None,
        notes=(*end.notes, *_wordless(pieces)) if with_words else end.notes,
    )


class Seams:
    """Pieces as they end, in order; of those that overlap nothing is certain before the next."""

    def __init__(self) -> None:
        self._open: dict[int | None, Piece] = {}  # by channel

    def add(self, piece: Piece) -> list[Piece]:
        """The pieces that can no longer change, as they are without what two have heard twice."""
        certain = []
        if (before := self._open.pop(piece.channel, None)) is not None:
            if piece.overlap_s:
                before, piece = stitched_pair(before, piece)
            certain.append(before)
        elif piece.overlap_s:  # a short pause that both have, told as the first one's
            piece = replace(piece, start_s=piece.start_s + piece.overlap_s, overlap_s=0.0)
        if piece.continues:
            self._open[piece.channel] = piece
        else:
            certain.append(piece)
        return certain

    def rest(self) -> list[Piece]:
        """Those behind which nothing came."""
        return list(self._open.values())


def stitched(pieces: Sequence[Piece]) -> list[Piece]:
    """The same pieces in order of time, without what two have heard twice."""
    seams = Seams()
    certain = [done for piece in sorted(pieces, key=_place) for done in seams.add(piece)]
    return sorted([*certain, *seams.rest()], key=_place)


def _place(piece: Piece) -> tuple[float, int]:
    return piece.start_s, piece.channel or 0


def stitched_pair(before: Piece, after: Piece) -> tuple[Piece, Piece]:
    """Two pieces that overlap, as two that meet in the middle of what both have heard."""
    half_s = after.overlap_s / 2
    first, second = before.parsed.text, after.parsed.text
    found = stitch(
        first,
        second,
        half_s / max(before.end_s - before.start_s, half_s),
        half_s / max(after.end_s - after.start_s, half_s),
    )
    cut_s = after.start_s + half_s
    left = replace(
        before,
        end_s=cut_s,
        continues=False,
        parsed=replace(before.parsed, text=found.before),
        words=before.words and words_within(first, before.words, 0, found.end),
    )
    right = replace(
        after,
        start_s=cut_s,
        overlap_s=0.0,
        parsed=replace(after.parsed, text=found.after),
        words=after.words and words_within(second, after.words, found.start, len(second)),
    )
    return left, right


def segment(index: int, piece: Piece) -> Segment:
    """What is told of a piece."""
    parsed = piece.parsed
    return Segment(
        id=index,
        start_s=piece.start_s,
        end_s=piece.end_s,
        text=parsed.text,
        language=parsed.language if parsed.text else None,
        confidence=parsed.confidence,
        avg_logprob=parsed.avg_logprob,
        finish_reason=piece.finish,
        token_ids=piece.token_ids,
        token_logprobs=piece.token_logprobs,
        num_header_tokens=piece.num_header_tokens,
        channel=piece.channel,
        words=piece.words,
    )


def _words(pieces: Sequence[Piece]) -> tuple[Word, ...]:
    return tuple(sorted((w for p in pieces for w in p.words or ()), key=lambda word: word.start_s))


def _wordless(pieces: Sequence[Piece]) -> list[str]:
    """One note for each language that was spoken and that the aligner does not know."""
    unknown = {p.parsed.language for p in pieces if p.parsed.text and p.words is None}
    return [f"no word times for what is said in {name}" for name in sorted(map(str, unknown))]


def _majority_language(pieces: Sequence[Piece]) -> str | None:
    """The language spoken for the longest time; None when nobody spoke."""
    seconds: dict[str, float] = {}
    for piece in pieces:
        if piece.parsed.text and piece.parsed.language:
            language = piece.parsed.language
            seconds[language] = seconds.get(language, 0.0) + piece.end_s - piece.start_s
    return max(seconds, key=seconds.__getitem__, default=None)
