"""The audio tower: seconds of log-mel to audio tokens of the language model's width.

Each one-second chunk passes the convolutions alone and attention stays inside windows of whole
chunks, so chunks of any number of clips share one batch without seeing each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from predictor.model.attention import Packing, packed_attention, to_device
from predictor.model.config import (
    CHUNK_FRAMES,
    TOKENS_PER_CHUNK,
    AudioConfig,
    num_chunks,
    num_frame_tokens,
)

CONV_BATCH_CHUNKS = 128  # bounds the convolutions' memory: about 6 MB a chunk at the 1.7B's width


@dataclass(frozen=True, slots=True)
class AudioPlan:
    """How the chunks of a batch of clips turn into packed tokens; made on the host."""

    num_tokens: tuple[int, ...]  # audio tokens of each clip
    kept: Tensor | None  # [T] rows of [num_chunks * 13] that are real; None = all
    windows: Packing

    @classmethod
    def of(
        cls,
        num_frames: Sequence[int],
        window_chunks: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> AudioPlan:
        """`num_frames`: valid mel frames of each clip (at least 1); clips lie in order."""
        num_tokens = tuple(num_frame_tokens(n) for n in num_frames)
        lengths = cls.window_lengths(num_tokens, window_chunks * TOKENS_PER_CHUNK)
        kept = None
        if sum(num_tokens) != TOKENS_PER_CHUNK * sum(num_chunks(n) for n in num_frames):
            kept = to_device(cls.kept_rows(num_frames), device)
        return cls(num_tokens, kept, Packing.of(lengths, device=device, dtype=dtype))

    @staticmethod
    def window_lengths(num_tokens: Sequence[int], window_tokens: int) -> list[int]:
        """Audio tokens of each window, where each clip's last one may be shorter."""
        lengths: list[int] = []
        for tokens in num_tokens:
            full, tail = divmod(tokens, window_tokens)
            lengths += [window_tokens] * full + [tail] * (tail > 0)
        return lengths

    @staticmethod
    def kept_rows(num_frames: Sequence[int]) -> NDArray[np.int64]:
        """Which of 13 rows for each second are real: a clip's last second may have fewer."""
        rows = [num_chunks(n) * TOKENS_PER_CHUNK for n in num_frames]
        starts = np.cumsum([0, *rows])
        real = [
            np.arange(start, start + num_frame_tokens(n))
            for start, n in zip(starts, num_frames, strict=False)
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *real])


class AudioEncoder(nn.Module):
    """Convolutions, layers and the projector into the language model's space."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        channels, hidden = config.conv_channels, config.hidden_size
        self.conv1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.conv_out = nn.Linear(channels * config.conv_output_bins, hidden, bias=False)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.num_layers)])
        self.norm = nn.LayerNorm(hidden)
        self.project_in = nn.Linear(hidden, hidden)
        self.project_out = nn.Linear(hidden, config.output_size)
        self.positions = torch.empty(0)

    def finish_loading(self) -> None:
        """Make what is computed rather than loaded, on the weights' device."""
        weight = self.conv_out.weight
        table = sinusoids(TOKENS_PER_CHUNK, self.config.hidden_size)
        self.positions = table.to(weight.device, weight.dtype)
        for conv in (self.conv1, self.conv2, self.conv3):
            conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    def plan(self, num_frames: Sequence[int]) -> AudioPlan:
        """The plan for clips of `num_frames` mel frames each."""
        weight = self.conv_out.weight
        return AudioPlan.of(
            num_frames, self.config.window_chunks, device=weight.device, dtype=weight.dtype
        )

    def forward(self, chunks: Tensor, plan: AudioPlan) -> Tensor:
        """chunks [num_chunks, mel bins, 100], zeros past a clip's end -> [T, output_size]."""
        x = self.encode(chunks, plan)
        return self.project_out(F.gelu(self.project_in(x)))  # type: ignore[no-any-return]

    def encode(self, chunks: Tensor, plan: AudioPlan) -> Tensor:
        """As `forward`, before the projector: [T, hidden_size]."""
        parts = [self._convolve(part) for part in torch.split(chunks, CONV_BATCH_CHUNKS)]
        x = parts[0] if len(parts) == 1 else torch.cat(parts)  # [num_chunks, 13, hidden]
        x = x.flatten(0, 1)
        if plan.kept is not None:
            x = x.index_select(0, plan.kept)  # [T, hidden]
        for layer in self.layers:
            x = layer(x, plan.windows)
        return self.norm(x)  # type: ignore[no-any-return]

    def _convolve(self, chunks: Tensor) -> Tensor:
        """[N, mel bins, 100] -> [N, 13, hidden]"""
        assert chunks.shape[1:] == (self.config.num_mel_bins, CHUNK_FRAMES)
        x = chunks.unsqueeze(1).contiguous(memory_format=torch.channels_last)
        x = x.to(self.conv1.weight.dtype)  # may be narrower than the rest
        x = F.gelu(self.conv1(x))
        x = F.gelu(self.conv2(x))
        x = F.gelu(self.conv3(x))  # [N, C, bins, 13]
        x = self.conv_out(x.permute(0, 3, 1, 2).flatten(2).to(self.conv_out.weight.dtype))
        return torch.add(x, self.positions)


class EncoderLayer(nn.Module):
    """Pre-norm attention inside windows, then a GELU feed-forward."""

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        hidden = config.hidden_size
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(hidden)
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.ffn_norm = nn.LayerNorm(hidden)
        self.ffn_in = nn.Linear(hidden, config.ffn_size)
        self.ffn_out = nn.Linear(config.ffn_size, hidden)

    def forward(self, x: Tensor, windows: Packing) -> Tensor:
        """[T, hidden] -> [T, hidden]"""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.unbind(1)  # [T, H, D] each
        attended = packed_attention(query, key, value, windows, causal=False)
        x = x + self.attention_out(attended.flatten(1))
        x = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        if x.dtype == torch.float16:  # the checkpoint was trained in bfloat16, which has the range
            limit = torch.finfo(x.dtype).max - 1000
            x = x.clamp(-limit, limit)
        return x


def sinusoids(length: int, channels: int) -> Tensor:
    """Position table [length, channels]: sines in the first half, cosines in the second."""
    step = math.log(10_000) / (channels // 2 - 1)
    rates = torch.exp(-step * torch.arange(channels // 2).float())
    angles = torch.arange(length)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
