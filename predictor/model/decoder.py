"""The language model: Qwen3 over packed prompts (prefill) and one token a sequence (decode).

Matrices that read the same input are stored as one (query, key and value; gate and up): fewer
and larger products, which is what both a CPU and a GPU want at small batches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.attention import (
    CacheView,
    KvCache,
    Packing,
    Prefix,
    cached_attention,
    packed_attention,
)
from predictor.model.config import TextConfig

# query [T, H, D], key and value [T, K, D] of one layer -> attended [T, H, D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Rotation:
    """RoPE's cosines and sines for a batch of positions, [T, 1, D] each."""

    cos: Tensor
    sin: Tensor  # the first half negated, so that swapping halves is all that is left to do

    def apply(self, x: Tensor) -> Tensor:
        """Rotate [T, heads, D]."""
        return torch.addcmul(x * self.cos, x.roll(x.shape[-1] // 2, -1), self.sin)


class Decoder(nn.Module):
    """Embedding, layers, final norm and head; the head is the embedding where tied.

    `num_classes`: of a forced aligner, whose head is a classifier of its own.
    """

    def __init__(self, config: TextConfig, *, tied: bool, num_classes: int = 0) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([DecoderLayer(config, i) for i in range(config.num_layers)])
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.head = None
        if num_classes or not tied:
            self.head = nn.Linear(config.hidden_size, num_classes or config.vocab_size, bias=False)
        self.inverse_frequencies = torch.empty(0)

    def finish_loading(self) -> None:
        """Make what is computed rather than loaded, on the weights' device."""
        dim = self.config.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        frequencies = 1.0 / (self.config.rope_theta**exponents)
        self.inverse_frequencies = frequencies.to(self.norm.weight.device)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            layer.finish_loading()

    def rotation(self, positions: Tensor) -> Rotation:
        """Angles are computed in float32 whatever the weights are. positions [T]"""
        angles = positions[:, None].float() * self.inverse_frequencies  # [T, D / 2]
        cos, sin = angles.cos(), angles.sin()
        dtype = self.norm.weight.dtype
        return Rotation(
            torch.cat([cos, cos], dim=-1).to(dtype).unsqueeze(1),
            torch.cat([-sin, sin], dim=-1).to(dtype).unsqueeze(1),
        )

    def prefill(
        self,
        x: Tensor,
        positions: Tensor,
        places: Tensor,
        packing: Packing,
        cache: KvCache,
        prefix: Prefix | None = None,
    ) -> Tensor:
        """Run packed prompts, or what follows a `prefix` in the cache; keep keys and values.

        x [T, hidden]: embeddings; positions [T] within each prompt; places [T] in the cache.
        Returns the hidden states [T, hidden], before the final norm.
        """

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(layer, places, key, value)
            if prefix is not None:
                return prefix.attend(query, key, value, cache, layer)
            return packed_attention(query, key, value, packing, causal=True)

        return self._run(x, self.rotation(positions), attend)

    def encode(self, x: Tensor, positions: Tensor, packing: Packing) -> Tensor:
        """Packed prompts that nothing will continue: as `prefill`, keeping no keys and values."""

        def attend(_layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            return packed_attention(query, key, value, packing, causal=True)

        return self._run(x, self.rotation(positions), attend)

    def decode(
        self, tokens: Tensor, positions: Tensor, places: Tensor, view: CacheView, cache: KvCache
    ) -> Tensor:
        """Run one token of each sequence [B] at its position [B]; hidden states [B, hidden]."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            cache.write(layer, places, key, value)
            return cached_attention(query, cache, layer, view)

        return self._run(self.embedding(tokens), self.rotation(positions), attend)

    def _run(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        for layer in self.layers:
            x = layer(x, rotation, attend)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """[N, hidden] -> [N, vocabulary] in float32"""
        normed = self.norm(hidden)
        if self.head is None:
            return F.linear(normed, self.embedding.weight).float()
        return self.head(normed).float()  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """Pre-norm grouped-head attention with normed queries and keys, then SwiGLU."""

    def __init__(self, config: TextConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.config = config
        hidden, dim = config.hidden_size, config.head_dim
        num_qkv_heads = config.num_heads + 2 * config.num_kv_heads
        self.attention_norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.qkv = nn.Linear(hidden, num_qkv_heads * dim, bias=False)
        self.query_norm = nn.Parameter(torch.empty(dim))
        self.key_norm = nn.Parameter(torch.empty(dim))
        self.attention_out = nn.Linear(config.num_heads * dim, hidden, bias=False)
        self.ffn_norm = nn.RMSNorm(hidden, eps=config.rms_norm_eps)
        self.gate_up = nn.Linear(hidden, 2 * config.ffn_size, bias=False)
        self.ffn_out = nn.Linear(config.ffn_size, hidden, bias=False)
        self.qk_norm = torch.empty(0)

    def finish_loading(self) -> None:
        """Lay the two head norms out per head, so that one product serves queries and keys."""
        self.qk_norm = torch.cat(
            [
                self.query_norm.expand(self.config.num_heads, -1),
                self.key_norm.expand(self.config.num_kv_heads, -1),
            ]
        )  # [H + K, D]

    def forward(self, x: Tensor, rotation: Rotation, attend: Attend) -> Tensor:
        """[T, hidden] -> [T, hidden]"""
        config = self.config
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (-1, config.head_dim))
        query_key, value = torch.split(
            qkv, [config.num_heads + config.num_kv_heads, config.num_kv_heads], dim=1
        )
        query_key = F.rms_norm(query_key, (config.head_dim,), eps=config.rms_norm_eps)
        query_key = rotation.apply(query_key * self.qk_norm)
        query, key = torch.split(query_key, [config.num_heads, config.num_kv_heads], dim=1)
        x = x + self.attention_out(attend(self.index, query, key, value).flatten(1))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        return x + self.ffn_out(F.silu(gate) * up)  # type: ignore[no-any-return]
