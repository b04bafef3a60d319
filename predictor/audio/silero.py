"""Silero's published network (weights from the `silero-vad` package, MIT), run in numpy.

An encoder, which is matrix products over all the frames there are, and an LSTM cell, which takes
one frame after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FRAME_SAMPLES: Final = 512  # at 16 kHz
CONTEXT: Final = 64  # samples before a frame that the network hears with it
HEARD: Final = FRAME_SAMPLES + 2 * CONTEXT  # the frame's end is mirrored
HIDDEN: Final = 128
_WINDOW: Final = 256  # of the spectrum; one every 128 samples, four to a frame
_BINS: Final = 129
_HALF: Final = _WINDOW // 2
_STARTS: Final = range(0, HEARD - _WINDOW + 1, 128)  # of the windows
_STRIDES: Final = (1, 2, 2, 1)  # of the convolutions
_CACHE_LINE: Final = 64  # bytes
# As arrays, which a call takes at once; a number of Python's it would have to look at each time.
_ONE: Final = np.array(1.0, np.float32)
_ONE_HALF: Final = np.array(0.5, np.float32)


class Encoder:
    """Spectrum and four convolutions: what the cell gets to hear of each frame."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        """`weights` by the names in `silero_vad_16k.safetensors`."""
        basis = weights["stft_conv.weight"][:, 0].T  # [256, 258]
        # Windowed cosines and sines: even and odd about the middle, and nothing at the first place.
        self._cosines = _aligned(basis[_HALF:0:-1, :_BINS])  # [128, 129]
        self._sines = _aligned(basis[_HALF - 1 : 0 : -1, _BINS:])  # [127, 129]
        # A kernel [out, in, 3] as [3 * in, out], for windows of three frames side by side.
        self._kernels = [
            _aligned(kernel.transpose(2, 1, 0).reshape(-1, len(kernel)))
            for kernel in (weights[f"conv{i}.weight"] for i in (1, 2, 3, 4))
        ]
        self._biases = [weights[f"conv{i}.bias"] for i in (1, 2, 3, 4)]

    def run(self, heard: Floats) -> Floats:
        """[n, 640] to [n, 128]."""
        x = np.stack([self._spectrum(heard[:, at : at + _WINDOW]) for at in _STARTS], axis=1)
        for kernel, bias, stride in zip(self._kernels, self._biases, _STRIDES, strict=True):
            x = _convolved(x, kernel, bias, stride)
        return x[:, 0]  # [n, frames, channels]: 4 x 129, 4 x 128, 2 x 64, 1 x 64, and 1 x 128 now

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


class Cell:
    """The LSTM cell, from what was encoded to its outputs.

    It remembers for half a minute, so frames of a stream cannot be taken out of their order. On one
    stream it is calls that cost, and reading the weights: calls are as few as can be, and
    make no arrays. sigmoid(x) is (tanh(x / 2) + 1) / 2: with halved weights one call of tanh does
    all gates, and where the other halves can wait, values are doubled meanwhile, which is exact.
    """

    def __init__(self, weights: dict[str, Floats]) -> None:
        """`weights` by the names in `silero_vad_16k.safetensors`."""
        bias = weights["lstm_cell.bias_ih"] + weights["lstm_cell.bias_hh"]
        self._input = _by_gate(weights["lstm_cell.weight_ih"])  # [128, 512]
        self._bias = _by_gate(bias)
        self._recurrent = _by_gate(weights["lstm_cell.weight_hh"])
        self._recurrent /= 2  # of outputs that are doubled
        # [4, 128, 128]: of several streams each gate is a product of its own, into its own place
        self._inputs, self._recurrents = (
            _aligned(part.reshape(HIDDEN, 4, -1).swapaxes(0, 1))
            for part in (self._input, self._recurrent)
        )

    def run(self, encoded: Floats, hidden: Floats, cell: Floats) -> tuple[Floats, Floats]:
        """Encoded [n, B, 128], state [B, 128] twice: outputs doubled [n, B, 128], the cell's state.

        The last output is the hidden state, doubled.
        """
        num_frames, num_streams, _ = encoded.shape
        said = np.empty((num_frames, num_streams, HIDDEN), np.float32)
        held = _aligned(np.empty((7, num_streams, HIDDEN), np.float32))
        opened, logistic, remembered, both = held[:4], held[:3], held[4], held[5:]
        shown, taken_and_kept, new_and_remembered = held[0], held[1:3], held[3:5]
        new, old = both
        product: Callable[[Floats, Floats, Floats], Floats] = np.matmul
        if num_streams == 1:
            gates = (encoded[:, 0] @ self._input).reshape(num_frames, 4, 1, HIDDEN)
            product, weights, into = np.dot, self._recurrent, opened.reshape(1, -1)
        else:
            gates = encoded[:, None] @ self._inputs  # [n, 4, B, 128]
            weights, into = self._recurrents, opened
        gates += self._bias.reshape(4, 1, HIDDEN)
        add, multiply, tanh = np.add, np.multiply, np.tanh
        remembered[:], last = cell, hidden * 2
        for gate, out in zip(gates, said, strict=True):
            product(last, weights, into)
            add(opened, gate, opened)
            tanh(opened, opened)
            add(logistic, _ONE, logistic)
            multiply(taken_and_kept, new_and_remembered, both)
            add(new, old, remembered)
            multiply(remembered, _ONE_HALF, remembered)
            tanh(remembered, new)
            last = multiply(shown, new, out)
        return said, remembered.copy()


def _by_gate(weights: Floats) -> Floats:
    """[512, 128] or [512] as a product needs them, the gates in the order of their use."""
    taken, kept, new, shown = np.split(weights, 4)
    return _aligned(np.concatenate([shown / 2, taken / 2, kept / 2, new]).T)


def _aligned(values: Floats) -> Floats:
    """A copy in order that begins at a cache line: vectors are read faster from there."""
    memory = np.empty(values.nbytes + _CACHE_LINE, np.uint8)
    begin = -memory.ctypes.data % _CACHE_LINE
    copy = memory[begin : begin + values.nbytes].view(np.float32).reshape(values.shape)
    copy[...] = values
    return copy


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
