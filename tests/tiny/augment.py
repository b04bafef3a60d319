"""From plans to log-mel on the device: gather, speed, reverberation, noise, gain, channel, masks.

Fixed shapes and no host synchronisation, so that the graph of the training step holds it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from .store import Store

SAMPLE_RATE_HZ = 16_000
NOISE_SECTION = SAMPLE_RATE_HZ  # noise is normalised by sections of one second


def gather_audio(
    store_audio: Tensor,  # [N] int16
    source: Tensor,  # [B, K] int64
    source_len: Tensor,  # [B, K] int32
    start: Tensor,  # [B, K] int32
    rate: Tensor,  # [B]
    num_samples: Tensor,  # [B]
    samples: int,
) -> Tensor:
    """Rows of audio, [B, samples] float32 in [-1, 1]: segments placed, cubic interpolation."""
    B = source.shape[0]
    t = torch.arange(samples, device=source.device, dtype=torch.int32)
    segment = (torch.searchsorted(start, t.expand(B, -1).contiguous(), right=True) - 1).clamp(min=0)
    begin = start.gather(1, segment)
    length = source_len.gather(1, segment)
    origin = source.gather(1, segment)
    position = (t - begin).float() * rate[:, None]
    whole = position.floor()
    frac = position - whole
    index = whole.long()
    inside = (t >= begin) & (index < length) & (t < num_samples[:, None])
    taps = [
        store_audio[origin + torch.minimum((index + d).clamp(min=0), length - 1)].float()
        for d in (-1, 0, 1, 2)
    ]
    a, b, c, d = taps
    value = b + 0.5 * frac * (
        c - a + frac * (2 * a - 5 * b + 4 * c - d + frac * (3 * (b - c) + d - a))
    )
    return torch.where(inside, value, torch.zeros_like(value)) / 32768.0


def make_noise(store: Store, seconds: int, seed: int) -> Tensor:
    """Noise, [seconds * 16000] float16, unit RMS by second: colours, hum, babble."""
    device = store.audio.device
    generator = torch.Generator(device=device).manual_seed(seed)
    n = seconds * SAMPLE_RATE_HZ
    white = torch.randn(n, device=device, generator=generator)
    blocks = []
    size = 10 * SAMPLE_RATE_HZ
    freq = torch.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ).to(device).clamp(min=20)
    time = torch.arange(size, device=device) / SAMPLE_RATE_HZ
    for i in range(0, n, size):
        kind = (i // size) % 4
        u = torch.rand(4, device=device, generator=generator)
        if kind == 3:  # babble: eight utterance streams at once
            offsets = torch.randint(
                0, max(1, store.num_samples - size), (8,), device=device, generator=generator
            )
            block = store.audio[offsets[:, None] + torch.arange(size, device=device)].float().sum(0)
        else:
            slope = (0.0, 0.5, 1.0)[kind] + u[0] * 0.5
            spectrum = torch.fft.rfft(white[i : i + size]) * freq**-slope
            bump = 1 + 6 * torch.exp(-(((freq.log() - (100 + u[1] * 5000).log()) / 0.25) ** 2))
            block = torch.fft.irfft(spectrum * bump, n=size)
            block = block / block.square().mean().sqrt()
            hum = torch.sin(
                2 * torch.pi * (50 + 10 * u[2].round()) * time * (1 + (u[3] * 4).floor())
            )
            block = block + hum * (u[3] > 0.7)
        blocks.append(block)
    noise = torch.cat(blocks)[:n].view(-1, NOISE_SECTION)
    noise = noise / noise.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    return noise.flatten().half()


class Augment:
    """Random distortions of a batch and its log-mel; the random numbers come from the device."""

    def __init__(self, noise: Tensor) -> None:
        device = noise.device
        self.noise = noise
        filters = mel_filter_bank(
            201, 128, 0.0, 8000.0, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
        )
        self.filters = torch.from_numpy(filters).float().to(device).T.contiguous()  # [128, 201]
        self.window = torch.hann_window(400, device=device)

    def __call__(self, x: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel [B, 128, T/160] and valid frames [B] of audio [B, T]."""
        B, T = x.shape
        t = torch.arange(T, device=x.device)
        valid = t < num_samples[:, None]
        x = self._reverb(x)
        level = (x.square().sum(1) / num_samples).sqrt().clamp(min=1e-4)  # [B]
        x = x + self._noise(B, T, x.device) * self._noise_gain(level)[:, None]
        peak = x.abs().amax(1).clamp(min=1e-4)
        loudness = 10 ** torch.empty(B, device=x.device).uniform_(-1.5, 0.0)
        x = (x / peak[:, None] * loudness[:, None]) * valid
        return self._log_mel(x, num_samples)

    def _reverb(self, x: Tensor) -> Tensor:
        B, T = x.shape
        taps = 5600  # 0.35 s
        size = {256_000: 262_440}.get(T, T + 6400)  # products of 2, 3, 5 (and 11), for the FFT
        time = torch.arange(taps, device=x.device) / SAMPLE_RATE_HZ
        rt60 = torch.empty(B, 1, device=x.device).uniform_(0.08, 0.45)
        tail = torch.randn(B, taps, device=x.device) * torch.exp(-6.9 * time / rt60)
        tail = tail / tail.square().sum(1, keepdim=True).sqrt()
        wet = torch.empty(B, 1, device=x.device).uniform_(-0.8, 0.55).clamp(min=0)
        spectrum = torch.fft.rfft(x, n=size)
        late = torch.fft.irfft(spectrum * torch.fft.rfft(tail, n=size), n=size)[:, :T]
        return x + late * wet * (x.abs().amax(1, keepdim=True) > 0)

    def _noise(self, B: int, T: int, device: torch.device) -> Tensor:
        offset = (torch.rand(B, 1, device=device) * (len(self.noise) - T)).long()
        return self.noise[offset + torch.arange(T, device=device)].float()

    def _noise_gain(self, level: Tensor) -> Tensor:
        u = torch.rand_like(level)
        snr_db = 3 + 37 * torch.rand_like(level)
        gain = level * 10 ** (-snr_db / 20)
        return torch.where(u < 0.7, gain, torch.zeros_like(gain))

    def _log_mel(self, x: Tensor, num_samples: Tensor) -> tuple[Tensor, Tensor]:
        B, T = x.shape
        frames = num_samples.clamp(min=8000) // 160
        spectrum = torch.stft(x, 400, 160, window=self.window, return_complex=True)[..., :-1]
        power = self.filters @ spectrum.abs().square()  # [B, 128, T/160]
        log = (power.clamp(min=1e-10)).log10()
        curve = torch.randn(B, 1, 8, device=x.device) * 0.3
        log = log + F.interpolate(curve, size=128, mode="linear", align_corners=True).transpose(
            1, 2
        )
        bins = torch.arange(128, device=x.device)
        cutoff = torch.randint(70, 118, (B, 1), device=x.device)
        telephone = torch.rand(B, 1, device=x.device) < 0.1
        log = log - 4.0 * ((bins > cutoff) & telephone)[..., None]
        log = log.clamp(min=-10)
        time = torch.arange(T // 160, device=x.device)
        valid = (time < frames[:, None])[:, None]  # [B, 1, F]
        top = torch.where(valid, log, torch.full_like(log, -10)).amax((1, 2), keepdim=True)
        log = (torch.maximum(log, top - 8.0) + 4.0) / 4.0
        log = self._mask(log, frames)
        floor = (top - 4.0) / 4.0 * (torch.rand(B, 1, 1, device=x.device) < 0.2)
        return torch.where(valid, log, floor.expand_as(log)), frames

    def _mask(self, log: Tensor, frames: Tensor) -> Tensor:
        """SpecAugment: two bands and two stretches at the mean level, in half of the rows."""
        B, bins, F_ = log.shape
        device = log.device
        mean = log.mean((1, 2), keepdim=True)
        chosen = torch.rand(B, 1, device=device) < 0.5
        bin_at = torch.arange(bins, device=device)
        time_at = torch.arange(F_, device=device)
        for _ in range(2):
            low = torch.rand(B, 1, device=device) * bins
            width = torch.rand(B, 1, device=device) * 18
            band = (bin_at >= low) & (bin_at < low + width) & chosen
            log = torch.where(band[:, :, None], mean, log)
            first = torch.rand(B, 1, device=device) * frames[:, None]
            length = torch.rand(B, 1, device=device) * 9
            stretch = (time_at >= first) & (time_at < first + length) & chosen
            log = torch.where(stretch[:, None, :], mean, log)
        return log
