"""The official clean-up of endless repetition, in linear time and with a record of what it took.

Same result as `_detect_and_fix_repetitions` of transformers and qwen-asr (a character repeated more
than 20 times, then a pattern of at most 20 characters repeated at least 20 times, is kept once),
whose search is quadratic and silent.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

THRESHOLD = 20
MAX_PATTERN_CHARS = 20
_RUN = re.compile(rf"(.)\1{{{THRESHOLD}}}", re.DOTALL)


def kept_indices(text: str) -> list[int]:
    """Indices of the characters that stay, ascending; the others repeat what stands before."""
    if not _may_repeat(text):
        return list(range(len(text)))
    has_runs = _RUN.search(text) is not None
    kept = _without_char_runs(text) if has_runs else list(range(len(text)))
    left = "".join(text[i] for i in kept) if has_runs else text
    points = np.frombuffer(left.encode("utf-32-le", "surrogatepass"), "<u4")
    removed = _pattern_spans(points)
    for start, end in reversed(removed):
        del kept[start:end]
    return kept


def _may_repeat(text: str) -> bool:
    """False for nearly all texts, soon: of what stands there 20 times some 10 fill a block of that
    length, wherever it begins."""
    for num_chars in range(1, MAX_PATTERN_CHARS + 1):
        size = num_chars * THRESHOLD // 2
        for start in range(0, len(text) - size + 1, size):
            end = start + size
            if text[start : end - num_chars] == text[start + num_chars : end]:
                return True
    return False


def remove_repeats(text: str) -> str:
    """`text` with every endless repetition written once."""
    return "".join(text[i] for i in kept_indices(text))


def _without_char_runs(text: str) -> list[int]:
    """Indices left after runs of one character longer than the threshold became one character."""
    kept: list[int] = []
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and text[end] == text[start]:
            end += 1
        kept.extend(range(start, end if end - start <= THRESHOLD else start + 1))
        start = end
    return kept


def _pattern_spans(points: NDArray[np.uint32]) -> list[tuple[int, int]]:
    """Spans [start, end) to remove: the repeats of a pattern after its first occurrence.

    At each position the shortest pattern wins, as in the original, which also looks for none in
    the last 2 * THRESHOLD - 1 characters.
    """
    n = len(points)
    last_start = n - 2 * THRESHOLD
    if last_start < 0:
        return []
    pattern_at = np.zeros(last_start + 1, dtype=np.int64)  # shortest pattern starting here, 0: none
    match_chars = np.zeros(last_start + 1, dtype=np.int64)  # how far it goes on after itself
    for k in range(MAX_PATTERN_CHARS, 0, -1):
        if k * THRESHOLD > n:
            continue
        if np.count_nonzero(points[:-k] == points[k:]) < k * (THRESHOLD - 1):
            continue  # nearly always
        going_on = _matches_from(points, k)[: last_start + 1]
        valid = np.flatnonzero(going_on >= k * (THRESHOLD - 1))
        pattern_at[valid] = k
        match_chars[valid] = going_on[valid]
    spans: list[tuple[int, int]] = []
    position = 0
    for start in np.flatnonzero(pattern_at).tolist():
        if start < position:
            continue
        k = int(pattern_at[start])
        position = start + k + int(match_chars[start]) // k * k
        spans.append((start + k, position))
    return spans


def _matches_from(points: NDArray[np.uint32], k: int) -> NDArray[np.int64]:
    """For each position, how many characters in a row equal the one k later. [n]"""
    n = len(points)
    stops = np.full(n, n - k, dtype=np.int64)
    stops[: n - k] = np.where(points[:-k] == points[k:], n - k, np.arange(n - k))
    next_stop = np.minimum.accumulate(stops[::-1])[::-1]
    return np.maximum(next_stop - np.arange(n), 0)


class RepeatTracker:
    """Tells, while a text grows, which prefix no later clean-up can change.

    Fed one character at a time at a constant cost. A character is unsettled while it repeats what
    stood up to 20 characters earlier, for then it may belong to a repetition that is still growing;
    from the first real repetition on, nothing more settles until the text is complete.
    """

    def __init__(self) -> None:
        self._recent = ""  # the last MAX_PATTERN_CHARS characters after run-length clean-up
        self._runs = [0] * (MAX_PATTERN_CHARS + 1)  # [k]: characters in a row equal to k before
        self._num_fed = 0
        self._num_held = 0  # repeats of the last character, not yet known to be a short run
        self.frozen = False
        self.num_settled = 0  # characters of the text that will stay, come what may

    def feed(self, char: str) -> None:
        """Append one character to the text."""
        if self.frozen:
            return
        if self._recent and char == self._recent[-1]:
            self._num_held += 1
            self.frozen = self._num_held >= THRESHOLD
            return
        for _ in range(self._num_held):
            self._feed_pattern(self._recent[-1])
        self._num_held = 0
        self._feed_pattern(char)
        if not self.frozen:
            self.num_settled = max(self.num_settled, self._num_fed - max(self._runs))

    def _feed_pattern(self, char: str) -> None:
        recent, runs = self._recent, self._runs
        for k in range(1, min(len(recent), MAX_PATTERN_CHARS) + 1):
            runs[k] = runs[k] + 1 if recent[-k] == char else 0
            if runs[k] >= k * (THRESHOLD - 1):
                self.frozen = True
        self._recent = (recent + char)[-MAX_PATTERN_CHARS:]
        self._num_fed += 1
