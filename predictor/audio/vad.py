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
_HALF: Final = _WINDOW // 2
_HEARD: Final = FRAME_SAMPLES + 2 * _CONTEXT  # the frame's end is mirrored
_STARTS: Final = range(0, _HEARD - _WINDOW + 1, 128)  # of the windows
_HIDDEN: Final = 128
# Rows of the cell's weights: input, forget and output, and then the candidate, as they are needed.
_GATES: Final = np.r_[0 : 2 * _HIDDEN, 3 * _HIDDEN : 4 * _HIDDEN, 2 * _HIDDEN : 3 * _HIDDEN]
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
        basis = weights["stft_conv.weight"][:, 0].T  # [256, 258]
        # Windowed cosines and sines: even and odd about the middle, and nothing at the first place.
        self._cosines = np.ascontiguousarray(basis[_HALF:0:-1, :_BINS])  # [128, 129]
        self._sines = np.ascontiguousarray(basis[_HALF - 1 : 0 : -1, _BINS:])  # [127, 129]
        kernels = [weights[f"conv{i}.weight"].transpose(2, 1, 0) for i in (1, 2, 3, 4)]
        # A kernel [out, in, 3] as [3 * in, out], for windows of three frames side by side.
        self._conv1, self._conv2, self._conv3 = (
            np.ascontiguousarray(k.reshape(-1, k.shape[2])) for k in kernels[:3]
        )
        self._conv4 = np.ascontiguousarray(kernels[3][1])  # one frame is left: the middle tap
        self._biases = [weights[f"conv{i}.bias"] for i in (1, 2, 3, 4)]
        # sigmoid(x) is tanh(x / 2) / 2 + 1/2: with halved weights one call of tanh does all gates.
        halves = np.repeat(np.array([0.5, 1.0], np.float32), [3 * _HIDDEN, _HIDDEN])
        bias = weights["lstm_cell.bias_ih"] + weights["lstm_cell.bias_hh"]
        self._input, self._recurrent = (
            np.ascontiguousarray(weights[f"lstm_cell.weight_{part}"][_GATES].T * halves)
            for part in ("ih", "hh")
        )  # [128, 512] each
        self._lstm_bias = bias[_GATES] * halves
        self._out = np.ascontiguousarray(weights["final_conv.weight"][0, :, 0])
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
        heard = np.empty((num_frames, num_streams, _HEARD), np.float32)
        heard[0, :, :_CONTEXT] = state.context
        heard[1:, :, :_CONTEXT] = frames[:, :-1, -_CONTEXT:].swapaxes(0, 1)
        heard[:, :, _CONTEXT:-_CONTEXT] = frames.swapaxes(0, 1)
        heard[:, :, -_CONTEXT:] = frames[:, :, -2 : -2 - _CONTEXT : -1].swapaxes(0, 1)
        gates = self._encode(heard.reshape(-1, _HEARD)) @ self._input
        gates += self._lstm_bias
        said, cell = self._remember(gates.reshape(num_frames, num_streams, -1), state)
        logits = (np.maximum(said, 0) @ self._out + self._out_bias).T
        context = frames[:, -1, -_CONTEXT:].copy()
        return _sigmoid(logits), VadState(context, said[-1].copy(), cell, state.floor_db)

    def _remember(self, gates: Floats, state: VadState) -> tuple[Floats, Floats]:
        """The cell over gates [n, B, 512]: its outputs [n, B, 128], and what it remembers at last.

        Few calls that make no arrays: on one stream they are what this costs.
        """
        said = np.empty((*gates.shape[:2], _HIDDEN), np.float32)
        hidden, cell = state.hidden, state.cell.copy()
        opened, change = np.empty_like(gates[0]), np.empty_like(cell)
        logistic, candidate = opened[:, : 3 * _HIDDEN], opened[:, 3 * _HIDDEN :]
        taken, kept, shown = np.split(logistic, 3, axis=1)
        for gate, out in zip(gates, said, strict=True):
            np.dot(hidden, self._recurrent, out=opened)
            np.add(opened, gate, out=opened)
            np.tanh(opened, out=opened)
            np.multiply(logistic, 0.5, out=logistic)
            np.add(logistic, 0.5, out=logistic)
            np.multiply(kept, cell, out=cell)
            np.multiply(taken, candidate, out=change)
            np.add(cell, change, out=cell)
            np.tanh(cell, out=change)
            hidden = np.multiply(shown, change, out=out)
        return said, cell

    def _encode(self, heard: Floats) -> Floats:
        """[n, 640] to what the cell gets to hear, [n, 128]."""
        x = np.stack([self._spectrum(heard[:, at : at + _WINDOW]) for at in _STARTS], axis=1)
        x = _convolved(x, self._conv1, self._biases[0], stride=1)  # [n, 4, 128]
        x = _convolved(x, self._conv2, self._biases[1], stride=2)  # [n, 2, 64]
        x = _convolved(x, self._conv3, self._biases[2], stride=2)  # [n, 1, 64]
        encoded: Floats = np.maximum(x[:, 0] @ self._conv4 + self._biases[3], 0)
        return encoded

    def _spectrum(self, windows: Floats) -> Floats:
        """Windows [n, 256] to magnitudes [n, 129], by what is even and what is odd in them."""
        before, after = windows[:, _HALF - 1 : 0 : -1], windows[:, _HALF + 1 :]
        even = np.empty((len(windows), _HALF), np.float32)
        even[:, 0] = windows[:, _HALF]
        np.add(before, after, out=even[:, 1:])
        power = np.square(even @ self._cosines)
        power += np.square((before - after) @ self._sines)
        magnitudes: Floats = np.sqrt(power, out=power)
        return magnitudes


def _convolved(x: Floats, kernel: Floats, bias: Floats, stride: int) -> Floats:
    """[n, frames, in] by a kernel [3 * in, out], zeros beyond the ends, rectified.

    One product for each place, of the frames as they lie: nothing is copied or padded.
    """
    num, length, width = x.shape
    side_by_side = x.reshape(num, -1)
    out = np.empty((num, (length - 1) // stride + 1, kernel.shape[1]), np.float32)
    for place in range(out.shape[1]):
        centre = place * stride
        first, last = max(0, centre - 1), min(length, centre + 2)
        taps = kernel[(first - centre + 1) * width : (last - centre + 1) * width]
        np.matmul(side_by_side[:, first * width : last * width], taps, out=out[:, place])
    out += bias
    return np.maximum(out, 0, out=out)


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
