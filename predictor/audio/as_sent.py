"""Recordings that need no decoder: 16 kHz samples of one channel, as they lie in what was sent."""

from __future__ import annotations

from typing import Final

import numpy as np

from predictor.audio.file_part import file_part
from predictor.audio.limits import CutOptions
from predictor.audio.pcm import PcmLayout
from predictor.audio.source import Source
from predictor.audio.wav import plain_wav
from predictor.shared_samples import as_pcm16
from predictor.types import SAMPLE_RATE_HZ, AnySamples, Samples

_MAX_FLOATS_S: Final = 60.0  # a millisecond or two of the caller's time; 16 bits take none
_SEEN: Final = 31  # of so many samples one tells how loud a recording is; no usual sound's period
_BEYOND_MARGIN_S: Final = 0.1  # for words that begin softly
_QUIET: Final = 10**-1.5  # of the power of the whole: 15 dB below it


def as_sent(source: Source) -> AnySamples | None:
    """The samples [n] that a decoder would hand over as one piece if speech fills the recording;
    None where it would do more than read them, and where one piece cannot hold them."""
    options = source.options
    if options.high_pass_hz is not None or options.loudness_lufs is not None:
        return None
    if options.channel not in ("mix", 0) or file_part(source.data) is not None:
        return None
    if not 0 < (source.stated_s or 0) <= source.cuts.segment_s:
        return None
    found = _plain(source)
    if found is None:
        return None
    layout, data = found
    if (layout.sample_rate_hz, layout.num_channels) != (SAMPLE_RATE_HZ, 1):
        return None
    if len(data) // layout.bytes_per_value > int(source.cuts.segment_s * SAMPLE_RATE_HZ):
        return None  # the last sample of a length that is no whole number of them
    if layout.encoding == "s16le":
        return np.frombuffer(data, "<i2")
    if layout.encoding != "f32le" or (source.stated_s or 0) > _MAX_FLOATS_S:
        return None
    return _floats(data)


def seems_filled(samples: AnySamples, cuts: CutOptions) -> bool:
    """Whether speech may begin and end so near the ends of [n] samples that nothing is cut off.

    Loudness alone says so: wrong where the ends are loud and no speech, and then nothing is lost
    but time.
    """
    seen = samples[::_SEEN].astype(np.float32)  # 16 bits as they are: powers are compared
    reach = int((cuts.margin_s + _BEYOND_MARGIN_S) * SAMPLE_RATE_HZ) // _SEEN
    whole = _power(seen)
    return whole > 0 and all(_power(end) > _QUIET * whole for end in (seen[:reach], seen[-reach:]))


def _plain(source: Source) -> tuple[PcmLayout, memoryview] | None:
    data = memoryview(source.data).cast("B")
    if source.layout is not None:
        return source.layout, data
    parts = plain_wav(data) if source.container == "wav" else None
    return parts[0] if parts is not None and len(parts) == 1 else None


def _floats(data: memoryview) -> AnySamples | None:
    """None for what a decoder refuses or makes less loud."""
    samples = np.frombuffer(data, "<f4")
    short = as_pcm16(samples)
    if short is not None:
        return short
    return samples if bool((np.abs(samples) <= 1).all()) else None  # NaN is not


def _power(samples: Samples) -> float:
    return float(np.dot(samples, samples)) / max(1, len(samples))
