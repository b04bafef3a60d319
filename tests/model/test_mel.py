"""Log-mel features against transformers' extractor run on each clip alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3ASRFeatureExtractor

from predictor.model.config import num_chunks
from predictor.model.mel import LogMel, mel_filters
from predictor.types import Samples

TOLERANCE = 1e-5  # log10 units / 4; the requirement is 1e-4


@pytest.fixture(scope="module")
def extractor() -> Qwen3ASRFeatureExtractor:
    return Qwen3ASRFeatureExtractor()


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel(128, device="cpu")


def expected_features(
    extractor: Qwen3ASRFeatureExtractor, clip: Samples
) -> tuple[torch.Tensor, int]:
    """[128, frames, padded to whole seconds] and the number of valid frames."""
    features = extractor(clip, padding=True, sampling_rate=16_000, return_attention_mask=True)
    return features["input_features"][0], int(features["attention_mask"].sum())


def noise(num_samples: int, seed: int, level: float = 0.1) -> Samples:
    rng = np.random.default_rng(seed)
    return (level * rng.standard_normal(num_samples)).astype(np.float32)


def tone(num_samples: int, hz: float) -> Samples:
    return np.sin(2 * np.pi * hz * np.arange(num_samples) / 16_000).astype(np.float32)


# Lengths around every edge: the half second that short clips are padded to, whole frames,
# whole seconds, and clips whose mirrored end crosses into another second.
LENGTHS = (
    1, 2, 159, 161, 399, 401, 7_999, 8_000, 8_001, 8_159, 15_840, 15_999, 16_000, 16_001, 16_159,
    16_160, 16_161, 31_839, 31_999, 32_199, 32_200, 32_201, 128_000, 160_077, 480_000,
)  # fmt: skip

SOUNDS: dict[str, list[Samples]] = {
    "lengths": [noise(n, seed) for seed, n in enumerate(LENGTHS)],
    "levels": [noise(24_000, 1, level) for level in (1e-7, 1e-4, 1e-2, 1.0, 30.0)],
    "tones": [tone(20_000, hz) for hz in (50.0, 440.0, 7_999.0)],
    "silence": [np.zeros(12_345, np.float32), np.zeros(1, np.float32)],
    "bursts": [
        np.concatenate([np.zeros(20_000, np.float32), noise(300, 2), np.zeros(9_000, np.float32)]),
        np.concatenate([tone(200, 1_000.0), np.zeros(30_000, np.float32)]),
        np.concatenate([np.zeros(15_900, np.float32), np.ones(90, np.float32)]),
    ],
}


@pytest.mark.parametrize("name", SOUNDS)
def test_a_mixed_batch_equals_each_clip_alone_in_transformers(
    extractor: Qwen3ASRFeatureExtractor, log_mel: LogMel, name: str
) -> None:
    clips = SOUNDS[name]
    batch = log_mel(clips)
    counts = [num_chunks(n) for n in batch.num_frames]
    assert batch.chunks.shape == (sum(counts), 128, 100)
    parts = batch.chunks.split(counts)
    for clip, part, num_frames in zip(clips, parts, batch.num_frames, strict=True):
        features, valid = expected_features(extractor, clip)
        assert num_frames == valid
        joined = part.transpose(0, 1).flatten(1)  # [128, frames]
        torch.testing.assert_close(joined, features, rtol=0, atol=TOLERANCE)


def test_batch_mates_change_nothing(log_mel: LogMel) -> None:
    quiet, loud = noise(20_000, 3, level=1e-3), noise(50_000, 4, level=1.0)
    alone = log_mel([quiet]).chunks
    among = log_mel([loud, quiet, loud]).chunks[4:6]
    torch.testing.assert_close(among, alone, rtol=0, atol=1e-6)


def test_frames_past_the_end_are_zero(log_mel: LogMel) -> None:
    batch = log_mel([noise(17_000, 5)])
    assert batch.num_frames == (106,)
    assert not batch.chunks[1, :, 6:].any()
    assert batch.chunks[1, :, :6].all()


def test_filters_equal_transformers(extractor: Qwen3ASRFeatureExtractor) -> None:
    reference: NDArray[np.float64] = extractor.mel_filters
    np.testing.assert_allclose(mel_filters(128), reference, rtol=0, atol=1e-8)  # ours are float32
