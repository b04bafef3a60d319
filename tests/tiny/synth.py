"""Speech of a sentence at 16 kHz with the time of every unit, by espeak-ng or flite.

The libraries are the system's, or Debian packages unpacked (`dpkg -x`) into the directory that
TINY_SPEECH_PREFIX names. One Synthesizer a process.
"""

import ctypes
import ctypes.util
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .espeak import Espeak, Prosody, Spoken
from .flite import Flite
from .grammar import Sentence
from .voices import FLITE_NAMES, Voice

SAMPLE_RATE_HZ = 16_000
PREFIX_VARIABLE = "TINY_SPEECH_PREFIX"
_LIBRARY_DIR = "usr/lib/x86_64-linux-gnu"
_SILENCE_LEVEL = 200  # of 32768: what counts as silence at the ends


@dataclass(frozen=True)
class Speech:
    """An utterance; times are seconds from its first sample, one a unit, non-decreasing."""

    samples: np.ndarray  # int16 [n], 16 kHz mono
    word_starts: np.ndarray  # float64 [units]
    word_ends: np.ndarray  # float64 [units]
    exact_times: bool  # False if a unit's time had to be interpolated


class Synthesizer:
    """Both engines; flite is loaded at its first use."""

    def __init__(self, prefix: str | Path | None = None) -> None:
        """`prefix` defaults to TINY_SPEECH_PREFIX. Raises OSError if the libraries are missing."""
        chosen = prefix or os.environ.get(PREFIX_VARIABLE)
        self._prefix = Path(chosen) if chosen else None
        if self._prefix is not None:
            for name in ("libsonic.so.0", "libasound.so.2", "libpcaudio.so.0"):
                self._load(name)
        data_dir = None if self._prefix is None else self._prefix / _LIBRARY_DIR
        self._espeak = Espeak(self._load("libespeak-ng.so.1"), data_dir)
        self._flite: Flite | None = None

    def say(self, sentence: Sentence, voice: Voice, rng: random.Random) -> Speech:
        """Speaks the sentence with random prosody and 0.05 … 0.4 s of silence at either end."""
        counts = [len(u.split()) for u in sentence.spoken_units]
        tokens = tuple(t for u in sentence.spoken_units for t in u.split())
        if voice.engine == "espeak":
            fast = 20 if sentence.language == "English" else 35
            prosody = Prosody(
                rate_wpm=rng.randint(135, 190) + rng.randint(0, fast),
                pitch=rng.randint(25, 75),
                pitch_range=rng.randint(30, 80),
                word_gap=rng.choice((0, 0, 0, 0, 1, 2)),
            )
            spoken = self._espeak.say(tokens, voice.handle, prosody)
        else:
            spoken = self._load_flite().say(tokens, voice.handle, rng.uniform(0.85, 1.25))
        return _finish(spoken, counts, sentence.spoken_units, rng)

    def _load(self, name: str) -> ctypes.CDLL:
        path = name if self._prefix is None else str(self._prefix / _LIBRARY_DIR / name)
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)

    def _load_flite(self) -> Flite:
        if self._flite is None:
            library = self._load("libflite.so.1")
            for name in ("libflite_usenglish.so.1", "libflite_cmulex.so.1"):
                self._load(name)
            self._flite = Flite(
                library, {n: self._load(f"libflite_cmu_us_{n}.so.1") for n in FLITE_NAMES}
            )
        return self._flite


def resample(samples: np.ndarray, from_hz: int, to_hz: int = SAMPLE_RATE_HZ) -> np.ndarray:
    """[n] → float32 [n·to/from]: by FFT, band-limited, zero-padded to a fast length."""
    if from_hz == to_hz:
        return samples.astype(np.float32)
    divisor = math.gcd(from_hz, to_hz)
    up, down = to_hz // divisor, from_hz // divisor
    blocks = _fast_length(-(-len(samples) // down) + 2)
    spectrum = np.fft.rfft(samples.astype(np.float32), blocks * down)
    spectrum = spectrum[: blocks * up // 2 + 1]
    out = np.fft.irfft(spectrum, blocks * up) * (up / down)
    return out[: -(-len(samples) * up // down)].astype(np.float32)


def _fast_length(minimum: int) -> int:
    """The smallest even product of 2, 3 and 5 that is at least `minimum`."""
    best = 1 << (minimum - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            size = three * 2
            while size < minimum:
                size *= 2
            best = min(best, size)
            three *= 3
        five *= 5
    return best


def _finish(
    spoken: Spoken, counts: list[int], units: tuple[str, ...], rng: random.Random
) -> Speech:
    starts, ends = _unit_times(spoken, counts)
    exact = bool((ends >= 0).all())
    _interpolate(starts, ends, units, len(spoken.samples))
    scale = SAMPLE_RATE_HZ / spoken.sample_rate_hz
    audio = resample(spoken.samples, spoken.sample_rate_hz)
    loud = np.flatnonzero(np.abs(audio) > _SILENCE_LEVEL)
    first, last = (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(audio))
    before, after = (round(rng.uniform(0.05, 0.4) * SAMPLE_RATE_HZ) for _ in range(2))
    samples = np.zeros(before + last - first + after, np.int16)
    samples[before : before + last - first] = np.clip(np.round(audio[first:last]), -32768, 32767)
    shift, total = before - first, last - first

    def to_s(at: np.ndarray) -> np.ndarray:
        inside = np.clip(at * scale + shift, before, before + total) / SAMPLE_RATE_HZ
        return np.maximum.accumulate(inside)

    return Speech(samples, to_s(starts), to_s(ends), exact)


def _unit_times(spoken: Spoken, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """First start and last end of the known tokens of each unit; -1 where none is known."""
    starts, ends = np.full(len(counts), -1.0), np.full(len(counts), -1.0)
    at = 0
    for unit, count in enumerate(counts):
        known = spoken.ends[at : at + count] >= 0
        if known.any():
            starts[unit] = spoken.starts[at : at + count][known][0]
            ends[unit] = spoken.ends[at : at + count][known][-1]
        at += count
    return starts, ends


def _interpolate(
    starts: np.ndarray, ends: np.ndarray, units: tuple[str, ...], num_samples: int
) -> None:
    """Units joined to the one before by the engine ("on the") share its time. In place."""
    unit = 0
    while unit < len(units):
        stop = unit + 1
        while stop < len(units) and ends[stop] < 0:
            stop += 1
        if stop > unit + 1 or ends[unit] < 0:
            begin = max(starts[unit], 0.0)
            finish = ends[unit] if ends[unit] >= 0 else num_samples
            letters = np.cumsum([len(u) for u in units[unit:stop]])
            edges = begin + (finish - begin) * np.concatenate(([0], letters)) / letters[-1]
            starts[unit:stop], ends[unit:stop] = edges[:-1], edges[1:]
        unit = stop
