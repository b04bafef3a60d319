"""One utterance's text while it grows: what stays, and what may still change.

A token is committed once successive hypotheses agree on it, in whole words; committed tokens are
forced in every later step, and the rest of the last hypothesis is the draft that the next step
verifies. So the text that was shown as final is never taken back, and no step decodes again what
the step before had right.
"""

from __future__ import annotations

import math
import unicodedata
from collections import deque
from collections.abc import Sequence

from predictor.live.events import ScoredToken, Word
from predictor.text.languages import is_unspaced
from predictor.text.output import language_of_header
from predictor.text.repetition import kept_indices
from predictor.text.tokenizer import TextTokenizer
from predictor.types import EngineFinish

# First bytes in UTF-8 of ideographs, kana and full-width forms.
_UNSPACED_LEADS = frozenset(bytes([lead]) for lead in (*range(0xE3, 0xEA), 0xEF, 0xF0))


class Hypothesis:
    """The tokens of one utterance. `language` is forced in its prompt, or None."""

    def __init__(
        self, tokenizer: TextTokenizer, language: str | None, num_agreeing: int, header_s: float
    ) -> None:
        """`header_s`: seconds of speech before a detected language may be committed."""
        self._tokenizer = tokenizer
        self._forced_language = language
        self._header_s = header_s
        self._recent: deque[tuple[int, ...]] = deque(maxlen=num_agreeing)
        self.tokens: tuple[int, ...] = ()
        self.logprobs: tuple[float, ...] = ()
        self.num_committed = 0
        self._text_start: int | None = None  # index of the first token of text
        self.finish: EngineFinish | None = None

    @property
    def forced(self) -> tuple[int, ...]:
        """Committed tokens, the header included."""
        return self.tokens[: self.num_committed]

    @property
    def draft(self) -> tuple[int, ...]:
        """How the answer is expected to go on."""
        return self.tokens[self.num_committed :]

    def update(
        self,
        tokens: Sequence[int],
        logprobs: Sequence[float],
        finish: EngineFinish | None,
        speech_s: float,
    ) -> None:
        """A step's tokens, behind the committed ones; commits what has been agreed upon."""
        committed = self.num_committed
        self.tokens = (*self.tokens[:committed], *tokens)
        self.logprobs = (*self.logprobs[:committed], *logprobs)
        self.finish = finish
        self._text_start = self._find_text()
        self._recent.append(self.tokens)
        if finish == "repetition":  # nothing of a loop is worth keeping
            self._recent.clear()
        self._commit(speech_s)

    def replace(self, tokens: Sequence[int], logprobs: Sequence[float]) -> None:
        """Take an answer that was decoded without anything forced, as the last one."""
        self.num_committed = 0
        self.tokens, self.logprobs = tuple(tokens), tuple(logprobs)
        self._text_start = self._find_text()

    def _find_text(self) -> int | None:
        if self._forced_language is not None:
            return 0
        marker = self._tokenizer.asr_text
        return self.tokens.index(marker) + 1 if marker in self.tokens else None

    def _commit(self, speech_s: float) -> None:
        if len(self._recent) < (self._recent.maxlen or 0) or self._text_start is None:
            return
        if self._forced_language is None and speech_s < self._header_s:
            return
        common = min(map(len, self._recent))
        while common and len({tokens[:common] for tokens in self._recent}) > 1:
            common -= 1
        start = max(self.num_committed, self._text_start)
        for end in range(common, start, -1):
            if self._is_word_end(end):
                self.num_committed = end
                return

    def _is_word_end(self, end: int) -> bool:
        """Whether a word ends before token `end`."""
        assert self._text_start is not None
        text, rest = _decode(self._data(self._text_start, end))
        if rest or not text.strip() or text[-1].isspace():
            return False
        last = text[-1]
        if is_unspaced(last) and not _is_mark(last):
            return True
        if len(self.tokens) == end:
            # There a full stop stands for the end of the audio, and a word may go on.
            return False
        return _is_mark(last) or _begins_word(self._tokenizer.token_bytes(self.tokens[end]))

    def _data(self, start: int, end: int) -> bytes:
        return b"".join(map(self._tokenizer.token_bytes, self.tokens[start:end]))

    def text(self, *, committed: bool = False) -> str:
        """The text, or the part of it that stays; without a character that is not whole yet."""
        if self._text_start is None:
            return ""
        end = self.num_committed if committed else len(self.tokens)
        text, _ = _decode(self._data(self._text_start, max(end, self._text_start)))
        return text.strip() if not committed else text.lstrip()

    def final_text(self) -> str:
        """The text without endless repetition, of which nothing committed is taken."""
        text, stays = self.text(), self.text(committed=True)
        kept = set(kept_indices(text))
        return "".join(char for i, char in enumerate(text) if i in kept or i < len(stays)).strip()

    @property
    def language(self) -> str | None:
        """Forced, or as the header names it; None when nothing was said or heard."""
        if self._forced_language is not None:
            return self._forced_language
        if self._text_start is None:
            return None
        return language_of_header(_decode(self._data(0, self._text_start - 1))[0])

    def words(self, start: int, end: int | None = None) -> tuple[Word, ...]:
        """The words of the tokens from `start` (an index into `tokens`) on."""
        if self._text_start is None:
            return ()
        words: list[tuple[bytes, list[float]]] = []
        for i in range(max(start, self._text_start), len(self.tokens) if end is None else end):
            data = self._tokenizer.token_bytes(self.tokens[i])
            whole = not words or not _decode(words[-1][0])[1]
            if not words or (whole and _begins_word(data, mark=False)):
                words.append((data, [self.logprobs[i]]))
            else:
                words[-1] = (words[-1][0] + data, [*words[-1][1], self.logprobs[i]])
        return tuple(
            Word(data.decode("utf-8", "replace"), min(1.0, math.exp(math.fsum(ls) / len(ls))))
            for data, ls in words
        )

    def scored(self, start: int, end: int) -> tuple[ScoredToken, ...]:
        """The text's tokens among those from `start` to `end`."""
        first = max(start, self._text_start or 0)
        return tuple(
            ScoredToken(self._tokenizer.token_bytes(self.tokens[i]), self.logprobs[i])
            for i in range(first, end)
        )

    @property
    def num_scored(self) -> int:
        """Tokens of the text."""
        return 0 if self._text_start is None else len(self.tokens) - self._text_start

    @property
    def log_sum(self) -> float:
        """The sum of their log-probabilities."""
        return math.fsum(self.logprobs[len(self.tokens) - self.num_scored :])


def _decode(data: bytes) -> tuple[str, bytes]:
    """Whole characters, and the bytes of one that is not complete."""
    for size in range(min(3, len(data)) + 1):
        head = data[: len(data) - size]
        try:
            return head.decode("utf-8"), data[len(head) :]
        except UnicodeDecodeError:
            continue
    return data.decode("utf-8", "replace"), b""


def _is_mark(char: str) -> bool:
    """Punctuation, but for what stands inside words."""
    return unicodedata.category(char)[0] in "PS" and char not in "'’-"


def _begins_word(data: bytes, *, mark: bool = True) -> bool:
    """Whether a token of `data` is no part of the word before it."""
    if data[:1] in _UNSPACED_LEADS:
        return True  # perhaps a part of a character only
    char = data.decode("utf-8", "replace")[:1]
    if not char or char == "\ufffd":
        return False
    if _is_mark(char):
        return mark
    return char.isspace()
