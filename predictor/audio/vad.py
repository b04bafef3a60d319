"""Where somebody speaks: a probability of speech for each 32 ms, for one stream or many at once.

Silero's published network, run in numpy: all but a small recurrent cell is a few matrix products
over every frame there is, which is several times faster than a run of the package's own graph for
each frame, and neither torch nor another runtime is imported. The energy detector is its plain
twin. Neither looks ahead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np

from predictor.audio.silero import CONTEXT, FRAME_SAMPLES, HEARD, HIDDEN, Cell, Encoder, Floats
from predictor.types import SAMPLE_RATE_HZ

Detector = Literal["silero", "energy"]

FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE_HZ  # 0.032
_MAX_FRAMES: Final = 512  # worked on together: 16 s of one stream, some 10 MB


@dataclass(frozen=True, slots=True)
class VadState:
    """What a detector remembers of each stream; the same arrays for either detector."""

    context: Floats  # [streams, 64], the last samples heard
    hidden: Floats  # [streams, 128]
    cell: Floats  # [streams, 128]
    floor_db: Floats  # [streams], the energy detector's idea of the background

    @staticmethod
    def new(num_streams: int = 1) -> VadState:
        """Of streams that begin."""
        return VadState(
            np.zeros((num_streams, CONTEXT), np.float32),
            np.zeros((num_streams, HIDDEN), np.float32),
            np.zeros((num_streams, HIDDEN), np.float32),
            np.full(num_streams, np.nan, np.float32),
        )

    @staticmethod
    def stack(states: Sequence[VadState]) -> VadState:
        """One state of all the streams of `states`, in order."""
        return VadState(
            np.concatenate([s.context for s in states]),
            np.concatenate([s.hidden for s in states]),
            np.concatenate([s.cell for s in states]),
            np.concatenate([s.floor_db for s in states]),
        )

    def take(self, index: int) -> VadState:
        """The state of one stream alone."""
        one = slice(index, index + 1)
        return VadState(self.context[one], self.hidden[one], self.cell[one], self.floor_db[one])


class SpeechDetector(Protocol):
    """Hears frames, says how likely each holds speech. Has no state of its own."""

    def hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        """Frames [streams, n, 512] at 16 kHz to probabilities [streams, n] and the state after.

        The same values result however the frames of a stream are divided over calls, and whatever
        other streams are heard beside it, but for float32's rounding.
        """
        ...


def load_detector(name: Detector) -> SpeechDetector:
    """The detector of this name. Raises RuntimeError when silero-vad is not installed."""
    return load_silero() if name == "silero" else EnergyDetector()


@lru_cache(maxsize=1)
def load_silero() -> SileroDetector:
    """The network, read once (1.2 MB). Raises RuntimeError when silero-vad is not installed."""
    spec = importlib.util.find_spec("silero_vad")  # finds it; importing it would bring torch
    if spec is None or spec.origin is None:
        raise RuntimeError("vad=silero needs the package silero-vad; vad=energy does not")
    from safetensors.numpy import load_file

    return SileroDetector(load_file(Path(spec.origin).parent / "data/silero_vad_16k.safetensors"))


class SileroDetector:
    """Spectrum, four convolutions, one LSTM cell, one logistic unit."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        """`weights` by the names in `silero_vad_16k.safetensors`."""
        self._encoder = Encoder(weights)
        self._cell = Cell(weights)
        self._out = weights["final_conv.weight"][0, :, 0] / 2  # of outputs that are doubled
        self._out_bias = weights["final_conv.bias"][0]

    def hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        """See SpeechDetector."""
        probabilities = np.empty(frames.shape[:2], np.float32)
        step = max(1, _MAX_FRAMES // max(1, len(frames)))
        for start in range(0, frames.shape[1], step):
            block = frames[:, start : start + step]
            probabilities[:, start : start + step], state = self._hear(block, state)
        return probabilities, state

    def _hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        num_streams, num_frames, _ = frames.shape
        heard = np.empty((num_frames, num_streams, HEARD), np.float32)
        heard[0, :, :CONTEXT] = state.context
        heard[1:, :, :CONTEXT] = frames[:, :-1, -CONTEXT:].swapaxes(0, 1)
        heard[:, :, CONTEXT:-CONTEXT] = frames.swapaxes(0, 1)
        heard[:, :, -CONTEXT:] = frames[:, :, -2 : -2 - CONTEXT : -1].swapaxes(0, 1)
        encoded = self._encoder.run(heard.reshape(-1, HEARD))
        encoded = encoded.reshape(num_frames, num_streams, -1)
        said, cell = self._cell.run(encoded, state.hidden, state.cell)
        logits = (np.maximum(said, 0) @ self._out + self._out_bias).T
        context = frames[:, -1, -CONTEXT:].copy()
        return _sigmoid(logits), VadState(context, said[-1] / 2, cell, state.floor_db)


def _sigmoid(x: Floats) -> Floats:
    squashed = 0.5 * np.tanh(0.5 * x) + 0.5  # never overflows
    result: Floats = squashed.astype(np.float32, copy=False)
    return result


_QUIETEST_DB: Final = -60.0  # below this nobody could be understood, whatever the background
_ABOVE_FLOOR_DB: Final = 12.0  # that speech rises over the background
_FLOOR_RISE_DB: Final = 0.02  # a frame, 0.6 dB/s: a voice does not become the background


class EnergyDetector:
    """Loudness over a background that is followed down at once and up slowly.

    Hears any loud sound as speech. For `vad=energy`, and to compare the network with.
    """

    def hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        """See SpeechDetector."""
        power = np.mean(np.square(frames, dtype=np.float64), axis=2)
        level_db = 10 * np.log10(power + 1e-10)  # [B, n]
        probabilities = np.empty(level_db.shape, np.float32)
        # A recording may begin with a voice: it is taken to be louder than an ordinary room.
        floor = np.where(np.isnan(state.floor_db), -50.0, state.floor_db)
        for index in range(level_db.shape[1]):
            floor = np.minimum(floor + _FLOOR_RISE_DB, np.maximum(level_db[:, index], -90.0))
            over_db = level_db[:, index] - np.maximum(floor + _ABOVE_FLOOR_DB, _QUIETEST_DB)
            probabilities[:, index] = 0.5 * np.tanh(0.25 * over_db) + 0.5
        context = frames[:, -1, -CONTEXT:].copy() if frames.shape[1] else state.context
        after = VadState(context, state.hidden, state.cell, floor.astype(np.float32))
        return probabilities, after
