"""From tokens to transcript: language, text, confidence, and the text so far while it grows.

The model writes `language English<asr_text>the words`, `language None<asr_text>` when nobody
speaks, or the words alone when the language was forced in the prompt.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from predictor.text.languages import CODES
from predictor.text.repetition import RepeatTracker, kept_indices
from predictor.text.tokenizer import TextTokenizer

ASR_TEXT = "<asr_text>"  # between the language and what is said
_HEADER = "language "
_HALF_MARKERS = re.compile(
    "(?:" + "|".join(ASR_TEXT[:n] for n in range(len(ASR_TEXT) - 1, 0, -1)) + r")+\Z"
)


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """What one sequence said."""

    text: str
    language: str | None  # forced or detected; None = no speech, or nothing that names a language
    confidence: float  # 0..1
    avg_logprob: float  # natural log
    num_scored_tokens: int  # that `avg_logprob` is the mean of
    num_repeats_removed: int  # characters


class OutputParser:
    """Reads the tokens of one sequence; `language` is the one forced in its prompt, or None.

    `add` takes tokens; `certain` returns the transcript's new characters that no later token can
    change: whole characters only, never the header, no trailing space, nothing that may turn out to
    be endless repetition. All pieces it returned, and the rest from `finish`, are the final text.
    """

    def __init__(self, tokenizer: TextTokenizer, language: str | None) -> None:
        self._tokenizer = tokenizer
        self._forced = language
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_half = False  # whether it holds the first bytes of a character
        self._raw = ""  # everything decoded so far, header and marker included
        self._text_start: int | None = 0 if language is not None else None  # index into _raw
        self._token_ends: list[int] = []  # len(_raw) after each token
        self._token_ids: list[int] = []
        self._logprobs: list[float] = []
        self._repeats = RepeatTracker()
        self._num_tracked = 0  # characters of _raw that _repeats has seen
        self._emitted = ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All tokens so far."""
        return tuple(self._token_ids)

    @property
    def token_logprobs(self) -> tuple[float, ...]:
        """Their natural log-probabilities."""
        return tuple(self._logprobs)

    @property
    def num_header_tokens(self) -> int:
        """How many of the tokens so far stand before the text."""
        _, start = self._split()
        return sum(end <= start for end in self._token_ends) if start else 0

    def add(self, token_ids: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take tokens with their natural log-probabilities."""
        if len(token_ids) != len(logprobs):
            raise ValueError(f"{len(logprobs)} log-probabilities of {len(token_ids)} tokens")
        bytes_of, asr_text = self._tokenizer.token_bytes, self._tokenizer.asr_text
        said, end = [self._raw], len(self._raw)
        for token_id in token_ids:
            if token_id != asr_text:
                said.append(self._decoded(bytes_of(token_id)))
            elif self._text_start is None:  # a second marker says nothing
                said.append(ASR_TEXT)
                self._text_start = end + len(ASR_TEXT)
            else:
                said.append("")
            end += len(said[-1])
            self._token_ends.append(end)
        self._raw = "".join(said)
        self._token_ids += token_ids
        self._logprobs += logprobs

    def _decoded(self, data: bytes) -> str:
        """Bytes of a character that is not complete yet wait inside the decoder."""
        if data.isascii() and not self._is_half:
            return data.decode("ascii")
        text = self._utf8.decode(data)
        self._is_half = bool(self._utf8.getstate()[0])
        return text

    def certain(self) -> str:
        """The part of the text that became certain since the last call."""
        for char in self._raw[self._num_tracked :]:
            self._repeats.feed(char)
        self._num_tracked = len(self._raw)
        if self._text_start is None:
            return ""
        text = _without_markers(self._raw[self._text_start : self._repeats.num_settled])
        return self._emit(_HALF_MARKERS.sub("", text).strip())

    def finish(self) -> tuple[str, ParsedOutput]:
        """The rest of the text, and the whole answer."""
        lead, stripped = len(self._raw) - len(self._raw.lstrip()), self._raw.strip()
        kept = kept_indices(stripped)
        num_removed = len(stripped) - len(kept)
        header, start = self._split()
        if num_removed:
            left = "".join(stripped[i] for i in kept if lead + i >= start)
        else:
            left = stripped[max(0, start - lead) :]
        text = _without_markers(left).strip()
        stays = {lead + i for i in kept} if num_removed else None
        logprobs = self._scored(start if text else 0, stays)
        avg_logprob = math.fsum(logprobs) / len(logprobs) if logprobs else 0.0
        parsed = ParsedOutput(
            text=text,
            language=self._forced or language_of_header(header),
            confidence=min(1.0, math.exp(avg_logprob)) if logprobs else 0.0,
            avg_logprob=avg_logprob,
            num_scored_tokens=len(logprobs),
            num_repeats_removed=num_removed,
        )
        return self._emit(text), parsed

    def token_spans(self, text: str) -> list[tuple[int, int, float]]:
        """Where each token lies in the final `text`: (start, end, log-probability).

        A token that ends within a character's bytes lies on that character. Nothing is told of a
        text from which markers were removed.
        """
        _, start = self._split()
        lead = len(self._raw) - len(self._raw.lstrip())
        indices = [lead + i for i in kept_indices(self._raw.strip())]
        indices = [i for i in indices if i >= start]
        joined = "".join(self._raw[i] for i in indices)
        skipped = len(joined) - len(joined.lstrip())
        if joined.strip() != text:
            return []
        places = {index: place for place, index in enumerate(indices[skipped:][: len(text)])}
        spans, begin = [], 0
        for end, logprob in zip(self._token_ends, self._logprobs, strict=True):
            inside = [places[i] for i in range(begin, max(end, begin + 1)) if i in places]
            if inside:
                spans.append((inside[0], inside[-1] + 1, logprob))
            begin = end
        return spans

    def _emit(self, text: str) -> str:
        """What `text` adds to the text emitted before."""
        if not text.startswith(self._emitted):
            raise AssertionError("text that was called certain has changed")
        new = text[len(self._emitted) :]
        self._emitted = text
        return new

    def _split(self) -> tuple[str, int]:
        """The header, and the index in `_raw` at which the text starts."""
        if self._text_start is not None:
            return self._raw[: self._text_start], self._text_start
        opening = self._raw.lstrip().lower()[: len(_HEADER)]
        if _HEADER.startswith(opening):  # cut off inside the header: nothing was said yet
            return self._raw, len(self._raw)
        return "", 0

    def _scored(self, start: int, kept: set[int] | None) -> list[float]:
        """Log-probabilities of the tokens that made the text; confidence is their geometric mean.

        Tokens whose characters the repetition clean-up removed do not count (`kept` is None when
        it removed nothing). An empty text is judged by the header's tokens, which then say that
        nobody speaks; without any token there is nothing to go by, and the confidence is 0.
        """
        scored: list[float] = []
        begin = 0
        for end, logprob in zip(self._token_ends, self._logprobs, strict=True):
            stays = kept is None or end == begin or any(i in kept for i in range(begin, end))
            if end > start and stays:
                scored.append(logprob)
            begin = end
        return scored


def _without_markers(text: str) -> str:
    """Without markers that were spelled in ordinary characters."""
    while ASR_TEXT in text:
        text = text.replace(ASR_TEXT, "")
    return text


def language_of_header(header: str) -> str | None:
    """The language in `language English<asr_text>`; None for `language None` and for no name."""
    line = header.removesuffix(ASR_TEXT).strip().split("\n", 1)[0].strip()
    if line.lower().startswith(_HEADER):
        line = line[len(_HEADER) :].strip()
    return line if line in CODES else None
