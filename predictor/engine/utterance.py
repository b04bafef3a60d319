"""What the engine keeps of a sequence that stays alive: its samples, and its base in the cache.

The base is the prompt up to the audio, and then the windows of audio that nothing to come can
change. Whatever lies behind it is made anew in every step.
"""

from __future__ import annotations

from predictor.growing_samples import GrowingSamples
from predictor.model.stretch import Windows
from predictor.shared_samples import as_float
from predictor.types import SAMPLE_RATE_HZ, AnySamples, Samples


class Utterance:
    """One kept sequence; guarded by the engine's lock."""

    def __init__(self, windows: Windows, tokens_before: tuple[int, ...]) -> None:
        self.windows = windows
        self.tokens_before = tokens_before
        self.request_id = ""  # of the newest step
        self.is_closed = False  # no step follows
        self.pages: list[int] = []  # of the cache, between two steps
        self.num_cached = 0  # tokens of the base that are in them
        self._samples = GrowingSamples(windows.num_samples)
        # log10 of the largest power up to the end of each window that no more audio can change.
        self.loudest: tuple[float, ...] = ()

    @property
    def samples(self) -> Samples:
        """All of the utterance so far."""
        return self._samples.all

    @property
    def audio_s(self) -> float:
        return len(self._samples) / SAMPLE_RATE_HZ

    def append(self, samples: AnySamples) -> None:
        """Add what is new; what was handed out before stays valid."""
        self._samples.append(as_float(samples))

    def cut(self, num_samples: int) -> None:
        """Forget all behind the first `num_samples` samples; no step may be reading them."""
        self._samples.cut(num_samples)
        self.loudest = self.loudest[: self.windows.num_closed(num_samples)]

    @property
    def num_base_tokens(self) -> int:
        """Tokens from the start that no more audio can change."""
        num_closed = self.windows.num_closed(len(self._samples))
        return len(self.tokens_before) + num_closed * self.windows.num_tokens

    def take_back(self, num_samples: int) -> None:
        """Drop the newest samples: the step that brought them was refused."""
        self._samples.cut(len(self._samples) - num_samples)
