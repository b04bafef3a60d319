"""The audio tower with fused kernels: the same weights and results as `AudioEncoder`, fewer passes.

The first convolution and every activation are kernels of our own, so that activations lie channels
last from the first write on and the matrix units are never fed through a copy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.attention import Packing, packed_attention
from predictor.model.encoder import CONV_BATCH_CHUNKS, AudioEncoder, AudioPlan, EncoderLayer

CHUNKS_AT_A_TIME: Final = 8  # seconds of audio that batches are rounded up to


class FusedEncoder:
    """Runs an AudioEncoder's weights through the kernels, or as they are where `is_on` is False."""

    def __init__(self, encoder: AudioEncoder, *, is_on: bool) -> None:
        # The plain path's clamp of float16 would need a pass of its own.
        self.is_on = is_on and encoder.conv_out.weight.dtype != torch.float16
        self._encoder = encoder
        self._layers = [layer for layer in encoder.layers if isinstance(layer, EncoderLayer)]
        if self.is_on:
            self._conv_out = _turned(encoder)

    def __call__(self, chunks: Tensor, plan: AudioPlan) -> Tensor:
        """chunks [num_chunks, mel bins, 100] float32, zeros past a clip's end -> [T, output]."""
        return self.attended(self.convolved(chunks), plan)

    def convolved(self, chunks: Tensor) -> Tensor:
        """The first half of it: [num_chunks, 13, hidden]; the chunks where nothing is fused."""
        if not self.is_on:
            return chunks
        parts = [self.convolve(part) for part in torch.split(chunks, CONV_BATCH_CHUNKS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def attended(self, x: Tensor, plan: AudioPlan) -> Tensor:
        """The second half, of what `convolved` gave: [T, output]."""
        encoder = self._encoder
        if not self.is_on:
            return encoder(x.to(encoder.conv_out.weight.dtype), plan)  # type: ignore[no-any-return]
        x = x.flatten(0, 1)
        if plan.kept is not None:
            x = x.index_select(0, plan.kept)  # [T, hidden]
        x = self._run(x, plan.windows)
        return encoder.project_out(F.gelu(encoder.project_in(x)))  # type: ignore[no-any-return]

    def convolve(self, chunks: Tensor) -> Tensor:
        """[N, mel bins, 100] -> [N, 13, hidden]"""
        encoder, kernels = self._encoder, _kernels()
        x = kernels.first_convolution(chunks, encoder.conv1.weight, encoder.conv1.bias)
        x = F.conv2d(x, encoder.conv2.weight, None, stride=2, padding=1)
        x = kernels.bias_gelu(x, encoder.conv2.bias)
        x = F.conv2d(x, encoder.conv3.weight, None, stride=2, padding=1)
        x = kernels.bias_gelu(x, encoder.conv3.bias, turn=True)  # [N, 13, bins * C]
        return F.linear(x, self._conv_out).add_(encoder.positions)

    def _run(self, x: Tensor, windows: Packing) -> Tensor:
        """All layers and the final norm. Changes x."""
        change: Tensor | None = None  # what the layer before adds to x
        for layer in self._layers:
            normed = self._norm(x, change, layer.attention_norm)
            qkv = layer.qkv(normed).unflatten(-1, (3, layer.num_heads, -1))
            query, key, value = qkv.unbind(1)  # [T, H, D] each
            attended = packed_attention(query, key, value, windows, causal=False)
            change = layer.attention_out(attended.flatten(1))
            normed = self._norm(x, change, layer.ffn_norm)
            change = layer.ffn_out(F.gelu(layer.ffn_in(normed)))
        return self._norm(x, change, self._encoder.norm)

    def _norm(self, x: Tensor, change: Tensor | None, norm: nn.LayerNorm) -> Tensor:
        return _kernels().add_layer_norm(x, change, norm.weight, norm.bias, norm.eps)  # type: ignore[no-any-return]


def filled_up(chunks: Tensor, plan: AudioPlan) -> tuple[Tensor, AudioPlan]:
    """With silent chunks up to a multiple of `CHUNKS_AT_A_TIME`, which give no tokens: the
    convolution library plans anew for every batch size that it has not met."""
    missing = -len(chunks) % CHUNKS_AT_A_TIME
    if not missing:
        return chunks, plan
    kept = plan.kept
    if kept is None:
        kept = torch.arange(sum(plan.num_tokens), device=chunks.device)
    return F.pad(chunks, (0, 0, 0, 0, 0, missing)), replace(plan, kept=kept)


def encoder_difference(encoder: AudioEncoder) -> float:
    """Relative distance of the fused and the plain tower on random seconds of sound."""
    weight = encoder.conv_out.weight
    plan = encoder.plan([100, 100, 37])
    chunks = torch.randn(3, encoder.config.num_mel_bins, 100, device=weight.device)
    plain = FusedEncoder(encoder, is_on=False)(chunks, plan).double()
    ours = FusedEncoder(encoder, is_on=True)(chunks, plan).double()
    return float((ours - plain).norm() / plain.norm())


def _turned(encoder: AudioEncoder) -> Tensor:
    """conv_out's weight for rows that lie bin after bin instead of channel after channel."""
    weight = encoder.conv_out.weight
    by_bin = weight.view(len(weight), -1, encoder.config.conv_output_bins)  # [hidden, C, bins]
    return by_bin.transpose(1, 2).reshape(len(weight), -1).contiguous()


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import encoder as encoder_kernels

    return encoder_kernels
