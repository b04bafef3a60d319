"""To 16 kHz with torchaudio: anti-aliased, in blocks, with kernels of bounded size for any rate.

torch is imported where it is used: no recording at 16 kHz needs it.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from predictor.types import SAMPLE_RATE_HZ, Samples

if TYPE_CHECKING:
    from torchaudio.transforms import Resample

# Flat to 7 kHz and 55 dB down from 8.2 kHz on; torchaudio's default (6 zero crossings, Hann) is
# only 8 dB down there, so that what lies above would fold into the speech band.
_FILTER_WIDTH: Final = 32  # zero crossings on each side
_ROLLOFF: Final = 0.945
_KAISER_BETA: Final = 10.0

# A kernel has target * (source + 2 * half-width) values for the ratio source / target in lowest
# terms: 0.3 M at 11,025 Hz, but 11 M at 44,056 Hz and 3,000 M at 191,999 Hz.
_MAX_KERNEL_VALUES: Final = 1_000_000
_MAX_RATE_ERROR: Final = 5e-6  # 6 ms in 20 minutes; a sound card's crystal is no better
_MAX_TERM: Final = 600  # largest denominator tried in an approximation
_BLOCK_S: Final = 20
_WIDE_ROWS: Final = 16


def resample(samples: NDArray[np.float32], sample_rate_hz: int) -> Samples:
    """[n] at `sample_rate_hz` to [ceil(n * 16000 / sample_rate_hz)] at 16 kHz; a new array.

    A rate whose kernel would be too large takes one or two ratios that together are within 5 parts
    in a million of it.
    """
    if sample_rate_hz == SAMPLE_RATE_HZ:
        return np.array(samples, dtype=np.float32)
    num_out = ceil(Fraction(len(samples) * SAMPLE_RATE_HZ, sample_rate_hz))
    for ratio in rate_ratios(sample_rate_hz):
        samples = _resample_by(samples, ratio)
    samples = samples[:num_out]
    return np.pad(samples, (0, num_out - len(samples)))  # nothing to pad where the ratio is exact


@lru_cache(maxsize=256)
def rate_ratios(sample_rate_hz: int) -> tuple[Fraction, ...]:
    """Ratios, each with a small kernel, whose product is sample_rate_hz / 16000 or very near it."""
    exact = Fraction(sample_rate_hz, SAMPLE_RATE_HZ)
    if _is_small(exact):
        return (exact,)
    single = _simplest_near(exact)
    if single is not None:
        return (single,)
    # Near a simple ratio (47,999 Hz: 3) no other simple one lies; a product of two gets nearer.
    for denominator in range(2, _MAX_TERM):
        for numerator in (round(exact * denominator) - 1, round(exact * denominator) + 1):
            first = Fraction(max(numerator, 1), denominator)
            second = _simplest_near(exact / first)
            if second is not None and _is_small(first):
                return first, second
    raise ValueError(f"no ratios for {sample_rate_hz} Hz")


def _simplest_near(ratio: Fraction) -> Fraction | None:
    for largest in (16, 32, 64, 128, 256, _MAX_TERM):
        near = ratio.limit_denominator(largest)
        if near > 0 and abs(near / ratio - 1) <= _MAX_RATE_ERROR and _is_small(near):
            return near
    return None


def _is_small(ratio: Fraction) -> bool:
    return ratio.denominator * (ratio.numerator + 2 * _half_width(ratio)) <= _MAX_KERNEL_VALUES


def _half_width(ratio: Fraction) -> int:
    """Of the kernel, in input samples."""
    return ceil(_FILTER_WIDTH * ratio.numerator / (min(ratio.as_integer_ratio()) * _ROLLOFF))


def _resample_by(samples: NDArray[np.float32], ratio: Fraction) -> Samples:
    """[n] to [ceil(n / ratio)], block by block: the joints are those of one long pass."""
    import torch

    transform = widened(ratio, max(1, _WIDE_ROWS // ratio.denominator))
    source, target = transform.orig_freq, transform.new_freq
    margin = ceil(transform.width / source)  # in periods of `source` samples
    step = max(1, _BLOCK_S * SAMPLE_RATE_HZ // target)
    out = np.empty(ceil(len(samples) / ratio), dtype=np.float32)
    with torch.inference_mode():
        for first in range(0, ceil(len(samples) / source), step):
            lead = min(margin, first)
            block = samples[(first - lead) * source : (first + step + margin) * source]
            resampled = transform(torch.from_numpy(np.array(block))).numpy()
            piece = resampled[lead * target : (lead + step) * target]
            out[first * target : first * target + len(piece)] = piece
    return out


@lru_cache(maxsize=64)
def widened(ratio: Fraction, multiple: int) -> Resample:
    """torchaudio's resampler for `ratio`, with a kernel that gives `multiple` periods in one step.

    48 to 16 kHz has a kernel of one row, for which a convolution is eight times slower than for the
    same row written out 16 times, each shifted by one period. A multiple of 1 is torchaudio's own.
    """
    import torch
    from torch.nn import functional as F
    from torchaudio.transforms import Resample

    source, target = ratio.as_integer_ratio()
    transform = Resample(
        source * multiple,
        target * multiple,
        resampling_method="sinc_interp_kaiser",
        lowpass_filter_width=_FILTER_WIDTH,
        rolloff=_ROLLOFF,
        beta=_KAISER_BETA,
    )
    if multiple > 1:
        rows = transform.kernel  # [target, 1, taps]
        shifts = [F.pad(rows, (i * source, (multiple - 1 - i) * source)) for i in range(multiple)]
        transform.kernel = torch.cat(shifts)  # [multiple * target, 1, taps + ...]
        transform.gcd = 1
    return transform
