"""Log-mel features on a device that is far from the host: waveforms cross once, as they are.

`LogMel` lays overlapping rows out on the host, which copies every sample three times; here the
device does that, and the host only appends waveforms to one pinned buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.model.attention import to_device
from predictor.model.config import CHUNK_FRAMES, HOP_SAMPLES, MIN_SAMPLES
from predictor.model.mel import EDGE_SAMPLES, FLOOR, ROW_SAMPLES, LogMel, MelBatch, following
from predictor.model.stretch import CHUNK_SAMPLES, Stretch
from predictor.shared_samples import PCM16_SCALE, as_float
from predictor.types import AnySamples


class DeviceLogMel(LogMel):
    """The same features as LogMel, its frames cut on the device."""

    def __init__(
        self, num_mel_bins: int, *, device: torch.device | str, use_kernels: bool = False
    ) -> None:
        super().__init__(num_mel_bins, device=device)
        self.use_kernels = use_kernels
        # Waveforms cross while the device still works on what came before.
        self._crossing: torch.cuda.Stream | None = None
        if self.device.type == "cuda":
            self._crossing = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def of(self, stretches: Sequence[Stretch]) -> MelBatch:
        """Features of parts of recordings, float32 at 16 kHz."""
        table, num_chunks = chunk_table(stretches), sum(s.num_chunks for s in stretches)
        waveforms = self.send([s.samples for s in stretches])
        # Rows that start at multiples of 16 bytes: a kernel is compiled once for each alignment.
        aligned = to_device(np.pad(table, ((0, 0), (0, num_chunks % 2))), self.device)
        before = to_device(loudest_before(stretches), self.device)
        followed = to_device(following(stretches), self.device)
        chunks, loudest = self.features(
            waveforms, aligned[:, :num_chunks], len(stretches), before, followed
        )
        return MelBatch(chunks, tuple(s.num_frames for s in stretches), loudest)

    def send(self, clips: Sequence[AnySamples]) -> Tensor:
        """All clips, one after another, float32 on the device; the host does not wait for that."""
        staged = staged_samples(clips, pin_memory=self._crossing is not None)
        if self._crossing is None:
            return on_device(staged, self.device)
        with torch.cuda.stream(self._crossing):
            waveforms = on_device(staged, self.device)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._crossing)
        waveforms.record_stream(current)
        return waveforms

    def features(
        self,
        waveforms: Tensor,
        table: Tensor,
        num_stretches: int,
        before: Tensor | None = None,
        followed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[N, mel bins, 100] of stretches that are on the device already, and the loudest bin up
        to each one's end; waits for nothing.

        waveforms: all stretches, one after another; table [5, N] as `chunk_table` makes it; before
        [stretches] what was heard earlier, if anything was; followed [2, pairs] as `following`
        makes it, if any follows another.
        """
        owner, second, start, size, frames = table.unbind()
        frame = torch.arange(CHUNK_FRAMES, device=self.device)
        valid = frame < (frames - second * CHUNK_FRAMES)[:, None]  # [N, 100]
        if self.use_kernels:
            power = self._power_by_kernels(waveforms, second, start, size)
        else:
            power = self._mel_power(cut_rows(waveforms, second, start, size))
        log_mel = power.clamp_(min=FLOOR).log10_()  # [N, 100, mel bins]
        if before is None:
            before = torch.full((num_stretches,), -torch.inf, device=self.device)
        loudest = self._loudest(log_mel, valid, owner, before, followed)
        log_mel = self._normalise(log_mel, valid, loudest[owner])
        return log_mel.transpose(1, 2).contiguous(), loudest

    def _power_by_kernels(
        self, waveforms: Tensor, second: Tensor, start: Tensor, size: Tensor
    ) -> Tensor:
        kernels = _kernels()
        frames = kernels.windowed_frames(
            waveforms, second, start, size, self._window,
            frames=CHUNK_FRAMES, hop=HOP_SAMPLES, least=MIN_SAMPLES,
        )  # fmt: skip
        power: Tensor = kernels.power(torch.fft.rfft(frames))
        return power @ self._filters


def chunk_table(stretches: Sequence[Stretch]) -> NDArray[np.int64]:
    """Of each second of audio [5, N]: its stretch, which of the recording's seconds it is, where
    the recording starts among the samples sent, and its samples and frames up to the stretch's
    end."""
    counts, columns = [], []
    num_chunks = num_sent = 0
    for owner, s in enumerate(stretches):
        frames = CHUNK_FRAMES * s.first_chunk + s.num_frames
        first, start = s.first_chunk - num_chunks, num_sent - s.first_sample
        columns.append((owner, first, start, s.num_samples, frames))
        counts.append(s.num_chunks)
        num_chunks += counts[-1]
        num_sent += len(s.samples)
    of_stretches = np.array(columns, dtype=np.int64).reshape(-1, 5)
    table = of_stretches.T.repeat(np.array(counts, dtype=np.int64), axis=1)
    table[1] += np.arange(num_chunks)
    return table


def loudest_before(stretches: Sequence[Stretch]) -> NDArray[np.float32]:
    """[stretches] log10 of the largest power that was heard before each."""
    return np.array([s.loudest for s in stretches], dtype=np.float32)


def staged_samples(clips: Sequence[AnySamples], *, pin_memory: bool) -> Tensor:
    """The clips one after another in one host tensor: int16 if all of them are, else float32."""
    is_short = all(clip.dtype == np.int16 for clip in clips)
    dtype = torch.int16 if is_short else torch.float32
    staged = torch.empty(sum(len(clip) for clip in clips), dtype=dtype, pin_memory=pin_memory)
    parts = clips if is_short else [as_float(clip) for clip in clips]
    np.concatenate(parts, out=staged.numpy())
    return staged


def on_device(staged: Tensor, device: torch.device, out: Tensor | None = None) -> Tensor:
    """What `staged_samples` made, as float32 on the device, in `out` where that is given."""
    if staged.dtype == torch.int16:  # converted over there: half of it has to cross
        return torch.mul(staged.to(device, non_blocking=True), PCM16_SCALE, out=out)
    if out is not None:
        return out.copy_(staged, non_blocking=True)
    return staged.to(device, non_blocking=True)


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
    place = (place + start[:, None]).masked_fill_(silent, 0)
    return waveforms[place].masked_fill_(silent, 0.0)


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import mel as mel_kernels

    return mel_kernels
