"""Which seconds of a recording a step encodes, and how far what it heard before counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from predictor.model.config import (
    CHUNK_FRAMES,
    HOP_SAMPLES,
    TOKENS_PER_CHUNK,
    num_chunks,
    num_frame_tokens,
    num_mel_frames,
)
from predictor.types import AnySamples

CHUNK_SAMPLES = CHUNK_FRAMES * HOP_SAMPLES
# Mirrored at a recording's end, so a stretch has as many samples before its first frame as that
# needs; a frame reads 25 ms around its centre.
_BEFORE_SAMPLES = 400
# A window's last frame reads so far beyond its end: what comes later changes nothing in it.
_BEYOND_SAMPLES = 40


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive seconds of one recording."""

    samples: AnySamples  # the recording from `first_sample` on; its last sample ends the recording
    num_frames: int  # mel frames from the start of `first_chunk` on, at least 1
    first_sample: int = 0
    first_chunk: int = 0  # which second of the recording comes first
    loudest: float = -math.inf  # log10 of the largest power that was heard before
    follows: bool = False  # what the stretch before it in the same step heard counts too

    @classmethod
    def whole(cls, samples: AnySamples) -> Stretch:
        """A recording that is complete."""
        return cls(samples, num_mel_frames(len(samples)))

    @property
    def num_chunks(self) -> int:
        return num_chunks(self.num_frames)

    @property
    def num_tokens(self) -> int:
        return num_frame_tokens(self.num_frames)

    @property
    def num_samples(self) -> int:
        """Of the recording up to the stretch's end."""
        return self.first_sample + len(self.samples)


@dataclass(frozen=True, slots=True)
class Windows:
    """How an utterance that grows is cut into the encoder's windows."""

    chunks: int  # seconds of a window

    @property
    def num_tokens(self) -> int:
        """Audio tokens of a whole window."""
        return self.chunks * TOKENS_PER_CHUNK

    @property
    def num_samples(self) -> int:
        return self.chunks * CHUNK_SAMPLES

    def num_closed(self, num_samples: int) -> int:
        """Windows that nothing behind the first `num_samples` samples changes."""
        return max(0, num_samples - _BEYOND_SAMPLES) // self.num_samples

    def count(self, num_samples: int) -> int:
        """Windows of an utterance, the open one too if it holds a frame."""
        num_closed = self.num_closed(num_samples)
        frames = num_mel_frames(num_samples) - num_closed * self.chunks * CHUNK_FRAMES
        return num_closed + (frames > 0)

    def stretches(
        self, samples: AnySamples, first: int, loudest: tuple[float, ...]
    ) -> list[Stretch]:
        """Of the utterance `samples` all windows from number `first` on, the open one last.

        `loudest`: log10 of the largest power up to the end of each closed window, as far as it is
        known; the maxima of later windows are found in the step, one after another.
        """
        num_closed = self.num_closed(len(samples))
        stretches = []
        for window in range(first, self.count(len(samples))):
            start = window * self.num_samples
            end = start + self.num_samples + _BEYOND_SAMPLES
            is_open = window == num_closed
            frames = self.chunks * CHUNK_FRAMES
            if is_open:
                end, frames = len(samples), num_mel_frames(len(samples)) - window * frames
            begin = max(0, start - _BEFORE_SAMPLES)
            known = min(window, len(loudest) - 1)
            stretches.append(
                Stretch(
                    samples[begin:end],
                    frames,
                    first_sample=begin,
                    first_chunk=window * self.chunks,
                    loudest=loudest[known] if known >= 0 else -math.inf,
                    follows=window > max(first, len(loudest)),
                )
            )
        return stretches
