"""Sounds that a person would agree are no speech: silence, noise, hum, tones, clicks, chords."""

from collections.abc import Callable

import numpy as np

from .synth import SAMPLE_RATE_HZ

_Generator = np.random.Generator


def make(rng: _Generator, max_s: float = 8.0) -> np.ndarray:
    """int16 [n] of 0.3 … max_s seconds: one kind of sound or two together, at a random level."""
    num_samples = int(rng.uniform(0.3, max_s) * SAMPLE_RATE_HZ)
    sound = _KINDS[rng.integers(len(_KINDS))](rng, num_samples)
    if rng.random() < 0.3:
        sound = sound + rng.uniform(0.05, 0.7) * _KINDS[rng.integers(len(_KINDS))](rng, num_samples)
    if rng.random() < 0.3:  # comes or goes somewhere
        edge = int(rng.uniform(0, 0.7) * num_samples)
        sound[:edge] *= 10 ** rng.uniform(-3, -1)
        sound = sound[:: rng.choice((-1, 1))]
    level = 10 ** rng.uniform(-3.3, -0.2)  # peak, of full scale
    return np.round(sound / max(np.abs(sound).max(), 1e-6) * level * 32767).astype(np.int16)


def colored_noise(rng: _Generator, num_samples: int, slope: float) -> np.ndarray:
    """float64 [n], power falling as 1/f^slope, about unit level."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / max(noise.std(), 1e-9)


def _time(num_samples: int) -> np.ndarray:
    return np.arange(num_samples) / SAMPLE_RATE_HZ


def _silence(rng: _Generator, num_samples: int) -> np.ndarray:
    return np.zeros(num_samples)


def _noise(rng: _Generator, num_samples: int) -> np.ndarray:
    return colored_noise(rng, num_samples, rng.uniform(0, 2))


def _band_noise(rng: _Generator, num_samples: int) -> np.ndarray:
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    hz = np.fft.rfftfreq(num_samples, 1 / SAMPLE_RATE_HZ)
    center = np.exp(rng.uniform(np.log(100), np.log(6000)))
    spectrum *= np.exp(-(((hz - center) / (center * rng.uniform(0.1, 0.6))) ** 2))
    return np.fft.irfft(spectrum, num_samples)


def _wind(rng: _Generator, num_samples: int) -> np.ndarray:
    slow = np.interp(_time(num_samples), np.arange(0, 10, 0.5), rng.uniform(0.1, 1, 20))
    return colored_noise(rng, num_samples, rng.uniform(0.8, 2)) * slow


def _hum(rng: _Generator, num_samples: int) -> np.ndarray:
    base = rng.choice((50, 60, rng.uniform(40, 130)))
    harmonics = range(1, int(rng.integers(2, 12)))
    return np.sum(
        [
            rng.uniform(0, 1) / k * np.sin(2 * np.pi * base * k * _time(num_samples))
            for k in harmonics
        ],
        0,
    )


def _tone(rng: _Generator, num_samples: int) -> np.ndarray:
    return np.sin(2 * np.pi * np.exp(rng.uniform(np.log(60), np.log(7500))) * _time(num_samples))


def _chirp(rng: _Generator, num_samples: int) -> np.ndarray:
    low, high = np.exp(rng.uniform(np.log(80), np.log(7000), 2))
    period = rng.uniform(0.3, 8)
    sweep = low + (high - low) * ((_time(num_samples) / period) % 1)
    return np.sin(2 * np.pi * np.cumsum(sweep) / SAMPLE_RATE_HZ)


def _beeps(rng: _Generator, num_samples: int) -> np.ndarray:
    """DTMF-like pairs of tones, or one tone, switched on and off."""
    time = _time(num_samples)
    on, off = rng.uniform(0.04, 0.5, 2)
    index = (time / (on + off)).astype(int)
    low, high = (
        rng.choice((697, 770, 852, 941), index.max() + 1),
        rng.choice((1209, 1336, 1477, 1633), index.max() + 1),
    )
    if rng.random() < 0.4:
        low[:], high[:] = rng.uniform(300, 2500, 2)
    return (np.sin(2 * np.pi * low[index] * time) + np.sin(2 * np.pi * high[index] * time)) * (
        time % (on + off) < on
    )


def _clicks(rng: _Generator, num_samples: int) -> np.ndarray:
    out = np.zeros(num_samples)
    ring = np.exp(-np.arange(800) / rng.uniform(5, 150)) * np.sin(
        np.arange(800) * rng.uniform(0.05, 2.5)
    )
    at = rng.integers(
        0, num_samples, max(1, int(num_samples / SAMPLE_RATE_HZ * rng.uniform(0.5, 15)))
    )
    np.add.at(out, at, rng.uniform(-1, 1, len(at)))
    return np.convolve(out, ring)[:num_samples]


def _chords(rng: _Generator, num_samples: int) -> np.ndarray:
    """Notes of a scale with decaying harmonics, a new chord every beat."""
    out = np.zeros(num_samples)
    beat = int(rng.uniform(0.2, 0.9) * SAMPLE_RATE_HZ)
    root, decay = rng.uniform(80, 300), rng.uniform(1, 8)
    for start in range(0, num_samples, beat):
        time = _time(min(beat, num_samples - start))
        for step in rng.choice(
            (0, 2, 4, 5, 7, 9, 11, 12, 14, 16), rng.integers(1, 4), replace=False
        ):
            hz = root * 2 ** (step / 12)
            for k in range(1, 5):
                out[start : start + len(time)] += (
                    np.exp(-decay * time) * np.sin(2 * np.pi * hz * k * time) / k
                )
    return out


_KINDS: tuple[Callable[[_Generator, int], np.ndarray], ...] = (
    _silence, _noise, _noise, _band_noise, _wind, _hum, _tone, _tone, _chirp, _beeps, _clicks,
    _chords,
)  # fmt: skip
