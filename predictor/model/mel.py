"""Log-mel features of many clips in one pass, each as if it were alone.

Every clip is cut into rows of one second plus the overlap its last frames need, mirrored at its
own two ends. So no clip is padded to another's length, no frame sees a batch-mate, and the result
already lies in the one-second chunks that the encoder takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.model.config import CHUNK_FRAMES, HOP_SAMPLES, MIN_SAMPLES
from predictor.model.stretch import CHUNK_SAMPLES, Stretch
from predictor.shared_samples import as_float
from predictor.types import SAMPLE_RATE_HZ, Samples

FFT_SAMPLES = 400  # 25 ms
EDGE_SAMPLES = FFT_SAMPLES // 2  # frames are centred, so a clip is mirrored this far at each end
ROW_SAMPLES = CHUNK_SAMPLES + FFT_SAMPLES - HOP_SAMPLES  # what 100 overlapping frames read
MAX_HZ = 8_000.0
FLOOR = 1e-10  # power below it counts as silence
DYNAMIC_RANGE = 8.0  # powers of ten below a clip's loudest bin that are kept


@dataclass(frozen=True, slots=True)
class MelBatch:
    """Features of a batch of stretches, one after another."""

    chunks: Tensor  # [num_chunks, mel bins, 100] float32, zeros past a stretch's end
    num_frames: tuple[int, ...]  # valid frames of each stretch; it owns ceil(n / 100) chunks
    loudest: Tensor  # [stretches] log10 of the largest power heard up to each one's end


class LogMel:
    """The feature extractor that Qwen3-ASR was trained with."""

    def __init__(self, num_mel_bins: int, *, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._window = torch.hann_window(FFT_SAMPLES, device=self.device)
        filters = mel_filters(num_mel_bins)  # [201, mel bins]
        self._filters = torch.from_numpy(filters).to(self.device)

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Samples]) -> MelBatch:
        """Waveforms [num_samples] float32 at 16 kHz, at least one sample each."""
        return self.of([Stretch.whole(clip) for clip in clips])

    @torch.inference_mode()
    def of(self, stretches: Sequence[Stretch]) -> MelBatch:
        """Features of parts of recordings, float32 at 16 kHz."""
        num_frames = tuple(stretch.num_frames for stretch in stretches)
        counts = [stretch.num_chunks for stretch in stretches]
        rows = torch.from_numpy(_rows(stretches))
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        valid, owner = self._ownership(num_frames, counts)
        power = self._mel_power(rows)  # [N, 100, mel bins]
        log_mel = power.clamp_(min=FLOOR).log10_()
        before = torch.tensor([s.loudest for s in stretches], device=self.device)
        followed = torch.from_numpy(following(stretches)).to(self.device)
        loudest = self._loudest(log_mel, valid, owner, before, followed)
        log_mel = self._normalise(log_mel, valid, loudest[owner])
        return MelBatch(log_mel.transpose(1, 2).contiguous(), num_frames, loudest)

    def _mel_power(self, rows: Tensor) -> Tensor:
        """[N, samples of a row] -> [N, 100, mel bins]"""
        frames = rows.unfold(-1, FFT_SAMPLES, HOP_SAMPLES) * self._window  # [N, 100, 400]
        spectrum = torch.view_as_real(torch.fft.rfft(frames))  # [N, 100, 201, 2]
        return spectrum.square().sum(-1) @ self._filters

    @staticmethod
    def _loudest(
        log_mel: Tensor, valid: Tensor, owner: Tensor, before: Tensor, followed: Tensor | None
    ) -> Tensor:
        """The largest bin up to each stretch's end: in it, known `before` [stretches], or in
        those that it follows, [2, pairs] as `following` makes them."""
        by_row = log_mel.amax(-1).masked_fill_(~valid, -torch.inf).amax(-1)  # [N]
        loudest = before.scatter_reduce(0, owner, by_row, "amax")
        if followed is None:
            return loudest
        earlier, later = followed.unbind()
        return loudest.scatter_reduce(0, later, loudest[earlier], "amax")

    @staticmethod
    def _normalise(log_mel: Tensor, valid: Tensor, loudest: Tensor) -> Tensor:
        """Clamp to the range below each row's loudest bin [N] and scale; zeros past the end."""
        floor = loudest - DYNAMIC_RANGE  # [N]
        scaled = (torch.maximum(log_mel, floor[:, None, None]) + 4.0) / 4.0
        return scaled.masked_fill_(~valid[:, :, None], 0.0)

    def _ownership(self, num_frames: Sequence[int], counts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Which frames are real [N, 100], and the stretch of each chunk [N]."""
        owner = np.repeat(np.arange(len(counts)), counts)
        within = np.concatenate([np.arange(count) for count in counts])
        left = np.asarray(num_frames)[owner] - within * CHUNK_FRAMES  # frames from here to the end
        valid = np.arange(CHUNK_FRAMES)[None, :] < left[:, None]
        return (
            torch.from_numpy(valid).to(self.device, non_blocking=True),
            torch.from_numpy(owner).to(self.device, non_blocking=True),
        )


def following(stretches: Sequence[Stretch]) -> NDArray[np.int64]:
    """`following_pairs` as [2, n]."""
    return np.array(following_pairs(stretches), dtype=np.int64).T.copy()


def following_pairs(stretches: Sequence[Stretch]) -> list[tuple[int, int]]:
    """Pairs of stretches of a step, of which the second follows the first; at least one."""
    pairs = [(0, 0)]  # which changes nothing: no device likes an empty tensor
    chain: list[int] = []
    for i, stretch in enumerate(stretches):
        if not stretch.follows:
            chain = []
        pairs += [(earlier, i) for earlier in chain]
        chain.append(i)
    return pairs


def _rows(stretches: Sequence[Stretch]) -> NDArray[np.float32]:
    """Each stretch as overlapping rows of one second: [seconds, samples of a row]."""
    rows = np.empty((sum(s.num_chunks for s in stretches), ROW_SAMPLES), dtype=np.float32)
    first = 0
    for stretch in stretches:
        count = stretch.num_chunks
        padded = _padded(stretch)
        seconds = np.lib.stride_tricks.sliding_window_view(padded, ROW_SAMPLES)[::CHUNK_SAMPLES]
        rows[first : first + count] = seconds[:count]
        first += count
    return rows


def _padded(stretch: Stretch) -> NDArray[np.float32]:
    """A stretch's samples and what its first and last frames read beside them."""
    padded = np.zeros(stretch.num_chunks * CHUNK_SAMPLES + 2 * FFT_SAMPLES, dtype=np.float32)
    start = stretch.first_chunk * CHUNK_SAMPLES - EDGE_SAMPLES  # the first one's place
    begin = max(start, stretch.first_sample)
    body = stretch.samples[begin - stretch.first_sample :]
    padded[begin - start : begin - start + len(body)] = as_float(body)
    if start < 0:
        padded[:EDGE_SAMPLES] = padded[2 * EDGE_SAMPLES : EDGE_SAMPLES : -1]
    end = max(stretch.num_samples, MIN_SAMPLES) - start
    padded[end : end + EDGE_SAMPLES] = padded[end - 2 : end - EDGE_SAMPLES - 2 : -1]
    return padded


def mel_filters(num_mel_bins: int) -> NDArray[np.float32]:
    """Slaney's triangular filters with unit area, [201, num_mel_bins], from 0 to 8,000 Hz."""
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(MAX_HZ), num_mel_bins + 2))
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, FFT_SAMPLES // 2 + 1)
    distance = edges_hz[None, :] - bins_hz[:, None]  # [201, bins + 2]
    width = np.diff(edges_hz)
    rising = -distance[:, :-2] / width[:-1]
    falling = distance[:, 2:] / width[1:]
    filters = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (filters * area).astype(np.float32)


# Slaney's mel scale: linear up to 1 kHz (15 mel), 27 steps to each factor of 6.4 above.
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_LOG_FROM_HZ = 1_000.0
_LOG_FROM_MEL = 15.0
_LOG_STEP = np.log(6.4) / 27.0


def _hz_to_mel(hz: float) -> float:
    if hz < _LOG_FROM_HZ:
        return hz / _LINEAR_HZ_PER_MEL
    return float(_LOG_FROM_MEL + np.log(hz / _LOG_FROM_HZ) / _LOG_STEP)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    linear = mel * _LINEAR_HZ_PER_MEL
    log = _LOG_FROM_HZ * np.exp(_LOG_STEP * (mel - _LOG_FROM_MEL))
    return np.where(mel < _LOG_FROM_MEL, linear, log)
