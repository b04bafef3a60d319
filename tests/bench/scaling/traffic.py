"""Traffic to replay: arrivals a second, by kind. Poisson, from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLIP_S = 10.0
LONG_S = 3600.0
SESSION_S = 3600


@dataclass(frozen=True)
class Traffic:
    """Counts of arrivals, int `[seconds]` each: clips, long recordings, live sessions."""

    name: str
    clips: np.ndarray
    longs: np.ndarray
    sessions: np.ndarray


def _poisson(rates: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).poisson(rates)


def day(peak: float, hours: float = 24.0) -> Traffic:
    """A day's curve of clips, from a twentieth of `peak` audio seconds a second to `peak`."""
    at = np.linspace(0, 2 * np.pi, int(hours * 3600))
    rates = peak * (0.05 + 0.95 * (1 - np.cos(at)) / 2) / CLIP_S
    none = np.zeros(len(at), int)
    return Traffic("day curve", _poisson(rates, 1), none, none)


def burst(peak: float, minutes: int = 60) -> Traffic:
    """A sixth of `peak`, and `peak` for five minutes in the middle."""
    rates = np.full(minutes * 60, peak / 6 / CLIP_S)
    middle = minutes * 30
    rates[middle : middle + 300] = peak / CLIP_S
    none = np.zeros(len(rates), int)
    return Traffic("burst", _poisson(rates, 2), none, none)


def mixed(peak: float, hours: float = 3.0) -> Traffic:
    """Half of the audio in clips, half in recordings of an hour; up to two thirds of `peak`."""
    rates = np.linspace(0.1, 0.66, int(hours * 3600)) * peak
    longs = _poisson(rates / 2 / LONG_S, 4)
    return Traffic("mixed lengths", _poisson(rates / 2 / CLIP_S, 3), longs, np.zeros_like(longs))


def live(peak: float, hours: float = 4.0, sessions: int = 300) -> Traffic:
    """Live sessions of an hour, up to `sessions` at once, beside a tenth of `peak` in clips."""
    seconds = int(hours * 3600)
    starts = _poisson(np.full(seconds, sessions / SESSION_S), 6)
    clips = _poisson(np.full(seconds, peak / 10 / CLIP_S), 5)
    return Traffic("live sessions", clips, np.zeros(seconds, int), starts)
