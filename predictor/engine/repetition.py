"""Notices answers that go round in circles."""

from __future__ import annotations


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
