"""Times of words that a caller says were said: heard once to see that they were, then aligned.

Quiet between pieces is left out for the aligner and put back into the times.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from predictor.align.fit import first_misfit
from predictor.align.words import split_words
from predictor.errors import AudioTooLong, InvalidInput
from predictor.service.admission import Lease
from predictor.service.transcriber import Pieces, Transcriber
from predictor.service.word_times import WordTimes, no_aligner, words_of
from predictor.shared_samples import as_float
from predictor.types import SAMPLE_RATE_HZ, AudioPiece, TextRequest, Transcription

_MAX_WORDS_PER_S = 12.0  # nobody speaks faster
_SPARE_WORDS = 10


async def align_said(
    transcriber: Transcriber, pieces: Pieces, request: TextRequest, lease: Lease
) -> Transcription:
    """The transcription of a recording whose text is known, with the times of its words.

    Raises InvalidInput where they do not belong together, AudioTooLong for more speech than the
    aligner hears at once, and what transcribing raises.
    """
    word_times = transcriber.word_times
    if word_times is None:
        raise no_aligner()
    kept: list[AudioPiece] = []
    heard = await transcriber.transcribe_pieces(
        _keeping(pieces, kept, word_times.max_audio_s),
        replace(request, said=None, with_words=False),
        lease,
    )
    said = request.said or ""
    language = request.language or heard.language
    words = await asyncio.to_thread(split_words, said, language)
    if not words:
        raise InvalidInput("text: holds no word", field="text", value=said[:60])
    if not heard.text:
        raise _apart(0, words[0], "nobody speaks in the recording")
    word_times.check(language)
    speech_s = sum(piece.end_s - piece.start_s for piece in kept)
    most = round(speech_s * _MAX_WORDS_PER_S) + _SPARE_WORDS
    if len(words) > most:
        raise InvalidInput(
            f"text: {len(words)} words for {speech_s:.1f} s of speech, the limit is {most}",
            field="text",
            value=len(words),
            limit=most,
        )
    await asyncio.to_thread(_check_fit, words, heard.text, language)
    return await _with_times(word_times, kept, words, replace(heard, text=said, language=language))


async def _keeping(pieces: Pieces, kept: list[AudioPiece], max_audio_s: float) -> Pieces:
    speech_s = 0.0
    async for piece in pieces:
        if isinstance(piece, AudioPiece):
            speech_s += piece.new_s
            if speech_s > max_audio_s:
                raise AudioTooLong(
                    f"file: more than {max_audio_s:g} s of speech, which is what the aligner hears "
                    "at once",
                    field="file",
                    limit=max_audio_s,
                )
            kept.append(_without_overlap(piece))
        yield piece


def _without_overlap(piece: AudioPiece) -> AudioPiece:
    """What the piece before does not have."""
    begin = round(piece.overlap_s * SAMPLE_RATE_HZ)
    start_s = piece.start_s + piece.overlap_s
    return replace(piece, samples=piece.samples[begin:], start_s=start_s, overlap_s=0.0)


def _check_fit(words: Sequence[str], heard: str, language: str | None) -> None:
    misfit = first_misfit(words, split_words(heard, language))
    if misfit is not None:
        raise _apart(
            misfit.at,
            misfit.given or "the end" if misfit.at == len(words) else misfit.given,
            f"{misfit.heard!r} was heard" if misfit.heard else "nothing more was heard",
        )


def _apart(at: int, given: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"text: does not belong to the recording from word {at + 1} on ({given!r}): {why}",
        field="text",
        value=given,
        limit="what is said in the recording",
    )


async def _with_times(
    word_times: WordTimes,
    kept: Sequence[AudioPiece],
    words: Sequence[str],
    heard: Transcription,
) -> Transcription:
    times = await word_times.align(
        np.concatenate([as_float(piece.samples) for piece in kept]), words
    )
    begins = np.cumsum([0, *(len(piece.samples) for piece in kept)])[:-1] / SAMPLE_RATE_HZ
    for row in times:
        # By its middle: an end that falls on a border belongs to the piece that ends there.
        piece = max(0, bisect_right(begins, float(row.mean())) - 1)
        row += kept[piece].start_s - begins[piece]
    return replace(heard, words=words_of(words, heard.text, times))
