"""Log-mel features on a device that is far from the host: waveforms cross once, as they are.

`LogMel` lays overlapping rows out on the host, which copies every sample three times; here the
device does that, and the host only appends waveforms to one pinned buffer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from predictor.audio.mel import (
    CHUNK_SAMPLES,
    EDGE_SAMPLES,
    FLOOR,
    ROW_SAMPLES,
    LogMel,
    MelBatch,
)
from predictor.model.attention import to_device
from predictor.model.config import CHUNK_FRAMES, MIN_SAMPLES, num_chunks, num_mel_frames
from predictor.types import Samples


class DeviceLogMel(LogMel):
    """The same features as LogMel, its rows cut on the device."""

    @torch.inference_mode()
    def __call__(self, clips: Sequence[Samples]) -> MelBatch:
        """Waveforms [num_samples] float32 at 16 kHz, at least one sample each."""
        num_frames = tuple(num_mel_frames(len(clip)) for clip in clips)
        counts = np.array([num_chunks(n) for n in num_frames])
        owner = np.repeat(np.arange(len(clips)), counts)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        sizes = np.array([len(clip) for clip in clips])
        starts = np.cumsum(sizes) - sizes
        table = np.stack([owner, within, starts[owner], sizes[owner], np.array(num_frames)[owner]])
        # [5, N]: of each chunk its clip, its second, and the clip's start, samples and frames
        chunk_table = to_device(table, self.device)
        rows = cut_rows(self._waveforms(clips), chunk_table[1], chunk_table[2], chunk_table[3])
        frame = torch.arange(CHUNK_FRAMES, device=self.device)
        valid = frame < (chunk_table[4] - chunk_table[1] * CHUNK_FRAMES)[:, None]  # [N, 100]
        power = self._mel_power(rows)  # [N, 100, mel bins]
        log_mel = power.clamp_(min=FLOOR).log10_()
        log_mel = self._normalise(log_mel, valid, chunk_table[0], len(clips))
        return MelBatch(log_mel.transpose(1, 2).contiguous(), num_frames)

    def _waveforms(self, clips: Sequence[Samples]) -> Tensor:
        """All clips, one after another, on the device."""
        total = sum(len(clip) for clip in clips)
        staged = torch.empty(total, dtype=torch.float32, pin_memory=self.device.type == "cuda")
        np.concatenate(clips, out=staged.numpy())
        return staged.to(self.device, non_blocking=True)


def cut_rows(waveforms: Tensor, second: Tensor, start: Tensor, size: Tensor) -> Tensor:
    """Rows of one second and its overlap, each clip mirrored at its ends: [N, samples of a row].

    waveforms: all clips, one after another; of each row [N]: which second of its clip, where the
    clip starts and how many samples it has.
    """
    sample = torch.arange(ROW_SAMPLES, device=waveforms.device) - EDGE_SAMPLES
    place = second[:, None] * CHUNK_SAMPLES + sample  # [N, samples of a row], within the clip
    padded = size.clamp(min=MIN_SAMPLES)[:, None]
    beyond = place >= padded + EDGE_SAMPLES
    place = torch.where(place < padded, place.abs(), 2 * padded - 2 - place)
    silent = beyond | (place >= size[:, None])
    place = place.masked_fill(silent, 0) + start[:, None]
    return waveforms[place].masked_fill_(silent, 0.0)
