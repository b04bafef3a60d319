"""How fast the engine is now: seconds of audio finished per second, fading over half a minute."""

from __future__ import annotations

HALF_LIFE_S = 30.0


class Speed:
    """A ratio of two sums in which older steps count for less."""

    def __init__(self) -> None:
        self._audio_s = 0.0
        self._busy_s = 0.0

    def add(self, *, audio_s: float, seconds: float) -> None:
        """One step took `seconds` and brought `audio_s` of recordings to their end."""
        kept = 0.5 ** (seconds / HALF_LIFE_S)
        self._audio_s = self._audio_s * kept + audio_s
        self._busy_s = self._busy_s * kept + seconds

    @property
    def audio_s_per_s(self) -> float:
        """0 until the first recording is finished."""
        return self._audio_s / self._busy_s if self._busy_s > 0 else 0.0
