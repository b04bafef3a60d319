"""Notices answers that go round in circles."""

from __future__ import annotations

from collections.abc import Sequence


class RepetitionGuard:
    """Notices a pattern of 1 to `max_period` tokens that recurs more than `max_repeats` times.

    For each period it counts how many tokens in a row equalled the one that far back: constant
    work a token, whatever the length of the sequence.
    """

    __slots__ = ("_max_repeats", "_recent", "_runs")

    def __init__(self, max_period: int, max_repeats: int) -> None:
        self._max_repeats = max_repeats
        self._recent: list[int] = []  # the last `max_period` tokens, newest first
        self._runs = [0] * max_period  # index = period - 1

    def begin(self, tokens: Sequence[int]) -> None:
        """As `add` for each of them, which are the first; nothing is said of a loop among them.

        Work for each period, not for each token: most text differs from itself at once.
        """
        size, max_period = len(tokens), len(self._runs)
        self._recent = list(tokens[: -max_period - 1 : -1])
        for period in range(1, min(max_period, size - 1) + 1):
            run = 0
            while run < size - period and tokens[-1 - run] == tokens[-1 - run - period]:
                run += 1
            self._runs[period - 1] = run

    def add(self, token: int) -> bool:
        """True when the newest token completes one repeat too many."""
        recent, runs = self._recent, self._runs
        looped = False
        if token in recent:
            for i, earlier in enumerate(recent):
                if earlier == token:
                    runs[i] += 1
                    looped = looped or runs[i] >= self._max_repeats * (i + 1)
                else:
                    runs[i] = 0
        else:
            runs[:] = [0] * len(runs)
        recent.insert(0, token)
        del recent[len(runs) :]
        return looped
