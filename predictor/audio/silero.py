"""Silero's published network (weights from the `silero-vad` package, MIT), run in numpy.

What a processor does with it is nearly all products of small matrices. They are laid out for that:
few rows at a time, which the library multiplies as they lie instead of copying them and the weights
first, and weights that begin at a cache line.
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
_WINDOWS: Final = 4  # of the spectrum to a frame; each has 256 samples, one begins every 128
_HALF: Final = 128  # of a window
_BINS: Final = 129
_STRIDES: Final = (1, 2, 2, 1)  # of the convolutions
_ROWS: Final = 20  # up to some 20 x 387 x 128 the library copies nothing (OpenBLAS)
_BLOCK: Final = 4 * _ROWS  # worked on together: some 1 MB, which the processor's cache holds
_CACHE_LINE: Final = 64  # bytes


class Encoder:
    """Spectrum and four convolutions: what the cell gets to hear of each frame."""

    def __init__(self, weights: dict[str, Floats]) -> None:
        """`weights` by the names in `silero_vad_16k.safetensors`."""
        basis = weights["stft_conv.weight"][:, 0].T  # [256, 258]
        # Windowed cosines and sines: even and odd about the middle, and nothing at the first place.
        self._cosines = _aligned(basis[_HALF:0:-1, :_BINS])  # [128, 129]
        self._sines = _aligned(basis[_HALF:0:-1, _BINS:-1])  # [128, 128], the last would be zeros
        self._sines[0] = 0
        # A kernel [out, in, 3] as [3 * in, out], for windows of three frames side by side.
        self._kernels = [
            _aligned(kernel.transpose(2, 1, 0).reshape(-1, len(kernel)))
            for kernel in (weights[f"conv{i}.weight"] for i in (1, 2, 3, 4))
        ]
        self._biases = [weights[f"conv{i}.bias"] for i in (1, 2, 3, 4)]

    def run(self, heard: Floats) -> Floats:
        """[n, 640] to [n, 128]."""
        parts = [self._block(heard[at : at + _BLOCK]) for at in range(0, len(heard), _BLOCK)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self, heard: Floats) -> Floats:
        num_parts = -(-len(heard) // _ROWS)
        size = -(-len(heard) // num_parts)
        x = self._spectrum(heard, num_parts * size).reshape(num_parts, size, -1)
        for kernel, bias, stride in zip(self._kernels, self._biases, _STRIDES, strict=True):
            x = _convolved(x, kernel, bias, stride)
        return x.reshape(num_parts * size, -1)[: len(heard)]

    def _spectrum(self, heard: Floats, num_rows: int) -> Floats:
        """[n, 640] to magnitudes [num_rows, 4 * 129], by what is even and odd in each window.

        Rows from n on are zeros.
        """
        num, length = len(heard), _WINDOWS * _HALF
        # The half before each window's middle, backwards; the half after it follows in `heard`.
        before = heard[:, :length].reshape(num, _WINDOWS, _HALF)[:, :, ::-1].reshape(num, length)
        after = heard[:, _HALF:]
        even, odd = np.empty((2, num_rows, length), np.float32)
        even[num:] = odd[num:] = 0
        np.add(before[:, :-1], after[:, 1:], out=even[:num, 1:])
        np.subtract(before[:, :-1], after[:, 1:], out=odd[:num, 1:])
        even[:num, ::_HALF] = after[:, ::_HALF]
        odd[:num, ::_HALF] = 0
        parts = (_WINDOWS * -(-num_rows // _ROWS), -1, _HALF)
        power = (even.reshape(parts) @ self._cosines).reshape(-1, _BINS)
        sines = (odd.reshape(parts) @ self._sines).reshape(-1, _BINS - 1)
        np.square(power, out=power)
        power[:, :-1] += np.square(sines, out=sines)
        magnitudes: Floats = np.sqrt(power, out=power)
        return magnitudes


class Cell:
    """The LSTM cell, from what was encoded to its outputs.

    On one stream it is calls that cost, and reading the weights: calls are as few as can be, and
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
        self._recurrent_by_gate = _aligned(self._recurrent.reshape(HIDDEN, 4, -1).swapaxes(0, 1))

    def run(self, encoded: Floats, hidden: Floats, cell: Floats) -> tuple[Floats, Floats]:
        """Encoded [n, B, 128], state [B, 128] twice: outputs doubled [n, B, 128], the cell's state.

        The last output is the hidden state, doubled.
        """
        num_frames, num_streams, _ = encoded.shape
        heard = encoded.reshape(-1, HIDDEN) @ self._input
        heard += self._bias
        gates = heard.reshape(num_frames, num_streams, 4, HIDDEN).swapaxes(1, 2)
        said = np.empty((num_frames, num_streams, HIDDEN), np.float32)
        held = _aligned(np.empty((7, num_streams, HIDDEN), np.float32))
        opened, logistic, remembered, both = held[:4], held[:3], held[4], held[5:]
        shown, taken_and_kept, new_and_remembered = held[0], held[1:3], held[3:5]
        new, old = both
        ones, halves = np.ones_like(logistic), np.full_like(remembered, 0.5)
        product: Callable[[Floats, Floats, Floats], Floats] = np.matmul
        weights, into = self._recurrent_by_gate, opened
        if num_streams == 1:
            product, weights, into = np.dot, self._recurrent, opened.reshape(1, -1)
        add, multiply, tanh = np.add, np.multiply, np.tanh
        remembered[:], last = cell, hidden * 2
        for gate, out in zip(np.ascontiguousarray(gates), said, strict=True):
            product(last, weights, into)
            add(opened, gate, opened)
            tanh(opened, opened)
            add(logistic, ones, logistic)
            multiply(taken_and_kept, new_and_remembered, both)
            add(new, old, remembered)
            multiply(remembered, halves, remembered)
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
    """[parts, rows, frames * in] by a kernel [3 * in, out], zeros beyond the ends, rectified.

    One product for each place, of the frames as they lie: nothing is copied or padded.
    """
    width, num_out = len(kernel) // 3, kernel.shape[1]
    length = x.shape[2] // width
    out = np.empty((*x.shape[:2], (length - 1) // stride + 1, num_out), np.float32)
    for place in range(out.shape[2]):
        centre = place * stride
        first, last = max(0, centre - 1), min(length, centre + 2)
        taps = kernel[(first - centre + 1) * width : (last - centre + 1) * width]
        np.matmul(x[:, :, first * width : last * width], taps, out=out[:, :, place])
    out += bias
    np.maximum(out, 0, out=out)
    return out.reshape(*x.shape[:2], -1)
