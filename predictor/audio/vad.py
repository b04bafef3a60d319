"""Where somebody speaks: a probability of speech for each 32 ms, for one stream or many at once.

Silero's published network (weights from the `silero-vad` package, MIT), run in numpy: all but a
small recurrent cell is a few matrix products over every frame there is, which is several times
faster than a run of the package's own graph for each frame, and neither torch nor another runtime
is imported. The energy detector is its plain twin. Neither looks ahead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from predictor.types import SAMPLE_RATE_HZ

Detector = Literal["silero", "energy"]
Floats = NDArray[np.float32]

FRAME_SAMPLES: Final = 512  # at 16 kHz
FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE_HZ  # 0.032
_CONTEXT: Final = 64  # samples before a frame that the network hears with it
_WINDOW: Final = 256  # of the spectrum; one every 128 samples, four to a frame
_BINS: Final = 129
_HIDDEN: Final = 128
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
            np.zeros((num_streams, _CONTEXT), np.float32),
            np.zeros((num_streams, _HIDDEN), np.float32),
            np.zeros((num_streams, _HIDDEN), np.float32),
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
        self._spectrum = np.ascontiguousarray(weights["stft_conv.weight"][:, 0].T)  # [256, 258]
        # A kernel [out, in, 3] as [3 * in, out], for windows of three frames side by side.
        kernels = [weights[f"conv{i}.weight"].transpose(2, 1, 0) for i in (1, 2, 3, 4)]
        self._conv1, self._conv2, self._conv3 = (
            np.ascontiguousarray(k.reshape(-1, k.shape[2])) for k in kernels[:3]
        )
        self._conv4 = np.ascontiguousarray(kernels[3][1])  # one frame is left: the middle tap
        self._biases = [weights[f"conv{i}.bias"] for i in (1, 2, 3, 4)]
        self._input = np.ascontiguousarray(weights["lstm_cell.weight_ih"].T)  # [128, 512]
        self._recurrent = np.ascontiguousarray(weights["lstm_cell.weight_hh"].T)
        self._lstm_bias = weights["lstm_cell.bias_ih"] + weights["lstm_cell.bias_hh"]
        self._out = np.ascontiguousarray(weights["final_conv.weight"][0, :, 0])
        self._out_bias = weights["final_conv.bias"][0]

    def hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        """See SpeechDetector."""
        probabilities = np.empty(frames.shape[:2], np.float32)
        step = max(1, _MAX_FRAMES // max(1, len(frames)))
        for start in range(0, frames.shape[1], step):
            block = np.ascontiguousarray(frames[:, start : start + step])
            probabilities[:, start : start + step], state = self._hear(block, state)
        return probabilities, state

    def _hear(self, frames: Floats, state: VadState) -> tuple[Floats, VadState]:
        num_streams, num_frames, _ = frames.shape
        ends = frames[:, :, -_CONTEXT:]
        before = np.concatenate([state.context[:, None], ends[:, :-1]], axis=1)
        mirrored = frames[:, :, -2 : -2 - _CONTEXT : -1]
        heard = np.concatenate([before, frames, mirrored], axis=2)  # [B, n, 640]
        gates = self._encode(heard.reshape(-1, heard.shape[2])) @ self._input
        gates = gates.reshape(num_streams, num_frames, -1) + self._lstm_bias
        hidden, cell = state.hidden, state.cell
        said = np.empty((num_streams, num_frames, _HIDDEN), np.float32)
        for index in range(num_frames):
            hidden, cell = _lstm(gates[:, index] + hidden @ self._recurrent, cell)
            said[:, index] = hidden
        logits = np.maximum(said, 0) @ self._out + self._out_bias
        after = VadState(ends[:, -1].copy(), hidden, cell, state.floor_db)
        return _sigmoid(logits), after

    def _encode(self, heard: Floats) -> Floats:
        """[n, 640] to what the cell gets to hear, [n, 128]."""
        windows = np.lib.stride_tricks.sliding_window_view(heard, _WINDOW, axis=1)[:, ::128]
        spectrum = _times(windows, self._spectrum)  # [n, 4, 258]
        power = np.square(spectrum)
        x = np.sqrt(power[..., :_BINS] + power[..., _BINS:])  # [n, 4, 129]
        x = _convolved(x, self._conv1, self._biases[0], stride=1)  # [n, 4, 128]
        x = _convolved(x, self._conv2, self._biases[1], stride=2)  # [n, 2, 64]
        x = _convolved(x, self._conv3, self._biases[2], stride=2)  # [n, 1, 64]
        encoded: Floats = np.maximum(x[:, 0] @ self._conv4 + self._biases[3], 0)
        return encoded


def _convolved(x: Floats, kernel: Floats, bias: Floats, stride: int) -> Floats:
    """[n, frames, in] by a kernel [3 * in, out], zeros beyond the ends, rectified."""
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0)))
    count = (x.shape[1] - 1) // stride + 1
    last = (count - 1) * stride + 1
    taps = [padded[:, tap : tap + last : stride] for tap in range(3)]
    rectified: Floats = np.maximum(_times(np.concatenate(taps, axis=2), kernel) + bias, 0)
    return rectified


def _times(x: Floats, matrix: Floats) -> Floats:
    """[n, frames, in] by [in, out] as one product, which is faster than n small ones."""
    flat = np.ascontiguousarray(x).reshape(-1, x.shape[2])
    return (flat @ matrix).reshape(*x.shape[:2], -1)


def _lstm(gates: Floats, cell: Floats) -> tuple[Floats, Floats]:
    """Gates [B, 512] in the order input, forget, candidate, output; the cell's next values."""
    opened = _sigmoid(gates)
    candidate = np.tanh(gates[:, 2 * _HIDDEN : 3 * _HIDDEN])
    cell = opened[:, _HIDDEN : 2 * _HIDDEN] * cell + opened[:, :_HIDDEN] * candidate
    return opened[:, 3 * _HIDDEN :] * np.tanh(cell), cell


def _sigmoid(x: Floats) -> Floats:
    squashed: Floats = 0.5 * np.tanh(0.5 * x) + 0.5  # never overflows
    return squashed


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
        context = frames[:, -1, -_CONTEXT:].copy() if frames.shape[1] else state.context
        after = VadState(context, state.hidden, state.cell, floor.astype(np.float32))
        return probabilities, after
