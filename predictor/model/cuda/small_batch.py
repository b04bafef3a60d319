"""A decode step of one or two sequences: five kernels a layer, bound by the weights they read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.attention import KvCache, write_places
from predictor.model.cuda.decoder import (
    PAGE_TOKENS,
    CachePair,
    masked_attention,
    plain_choose,
)
from predictor.model.cuda.slots import StepPlaces
from predictor.model.decoder import Decoder, DecoderLayer

MAX_ROWS = 2  # beyond it matrix units are faster than a stream of weights


class SmallBatchDecoder:
    """Runs a Decoder's weights, or their quantized form, for few rows."""

    def __init__(self, decoder: Decoder, cache: KvCache, table: tuple[Tensor, Tensor]) -> None:
        """`table`: cosines and sines of all positions, [max_length, D / 2] each."""
        self._decoder = decoder
        self._cache = cache
        self._table = table
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    def decode(self, x: Tensor, where: StepPlaces) -> Tensor:
        """Embeddings [B, hidden] of one token of each sequence -> the hidden states after all
        layers, in place."""
        for layer in self._layers:
            keys, values = self._cache.data[layer.index].unbind(0)
            self.run_layer(layer, x, where, (keys, values))
        return x

    def run_layer(
        self, layer: DecoderLayer, x: Tensor, where: StepPlaces, cache: CachePair
    ) -> None:
        """x [B, hidden] becomes what the layer makes of it; cache [pages, P, K, D] x 2."""
        kernels, config = _kernels(), layer.config
        eps = config.rms_norm_eps
        num_rows = x.shape[0]
        num_heads = config.num_heads + 2 * config.num_kv_heads
        qkv = x.new_empty(num_rows, num_heads * config.head_dim)
        norm = layer.attention_norm.weight
        kernels.rows_product(x, *_matrix(layer.qkv), qkv, norm=norm, eps=eps)
        _attention_kernels().add_attended(
            qkv.view(num_rows, num_heads, -1), layer.qk_norm, self._table, where.tables,
            where.slots, where.positions, cache, *_matrix(layer.attention_out), x, eps,
        )  # fmt: skip
        inner = x.new_empty(num_rows, config.ffn_size)
        norm = layer.ffn_norm.weight
        kernels.rows_product(x, *_matrix(layer.gate_up), inner, norm=norm, eps=eps, swiglu=True)
        kernels.rows_product(inner, *_matrix(layer.ffn_out), x, add=True)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token after hidden states [B, hidden], and its log-probability."""
        from predictor.model.cuda.kernels import decoder as kernels

        return kernels.choose_parts(*self.parts(x))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `choose` chooses from, of hidden states [B, hidden]."""
        from predictor.model.cuda.kernels import decoder as kernels

        decoder = self._decoder
        eps = decoder.config.rms_norm_eps
        weight = self._head()
        if x.shape[0] == 1:
            return _kernels().head_parts(x, decoder.norm.weight, weight, eps)  # type: ignore[no-any-return]
        normed = kernels.add_rms_norm(x, None, decoder.norm.weight, eps)
        return kernels.logits_parts(F.linear(normed, weight))

    def _head(self) -> Tensor:
        head = self._decoder.head
        return self._decoder.embedding.weight if head is None else head.weight


def small_batch_difference(decoder: Decoder, kv_dtype: torch.dtype, max_length: int = 160) -> float:
    """Relative distance of one layer and the head from their plain twins, on random inputs."""
    config, layer = decoder.config, decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    weight = decoder.norm.weight
    num_pages = -(-max_length // PAGE_TOKENS)  # of a sequence
    cache = torch.randn(
        2, 5 * num_pages, PAGE_TOKENS, config.num_kv_heads, config.head_dim, device=weight.device
    ).to(kv_dtype)
    order = torch.randperm(5 * num_pages, generator=torch.Generator().manual_seed(0))
    tables = order.view(5, num_pages).to(weight.device)
    slots = torch.tensor([3, 0], device=weight.device)
    positions = torch.tensor([max_length - 1, 77], device=weight.device)
    where = StepPlaces.of(slots, positions, tables, PAGE_TOKENS)
    x = torch.randn(2, config.hidden_size, device=weight.device).to(weight.dtype)
    theirs = cache.clone()

    def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        for part, new in zip(theirs.flatten(1, 2).unbind(0), (key, value), strict=True):
            write_places(part, where.places, new)
        pair = (theirs[0], theirs[1])
        return masked_attention(query, pair, tables, where.slots, where.lengths)

    plain = layer(x, decoder.rotation(positions), attend)
    rotation = decoder.rotation(torch.arange(max_length, device=weight.device))
    half = config.head_dim // 2
    table = (rotation.cos[:, 0, :half].contiguous(), rotation.sin[:, 0, half:].contiguous())
    small_batch = SmallBatchDecoder(decoder, _no_cache(decoder), table)
    ours = x.clone()
    small_batch.run_layer(layer, ours, where, (cache[0], cache[1]))
    token, logprob = small_batch.choose(plain[:1])
    logits = decoder.logits(plain[:1]).to(weight.dtype)
    _, expected = plain_choose(logits)
    # A sum in another order may decide between two that are as likely.
    pairs = (
        (ours, plain),
        (cache, theirs),
        (logprob, expected),
        (logits.gather(1, token[:, None]), logits.amax(1, keepdim=True)),
    )
    distances = [(a.double() - b.double()).norm() / b.double().norm() for a, b in pairs]
    return float(torch.stack(distances).max())  # NaN where one is


def _no_cache(decoder: Decoder) -> KvCache:
    config, weight = decoder.config, decoder.norm.weight
    return KvCache(
        num_layers=1, num_pages=1, page_tokens=1, num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim, device=weight.device, dtype=weight.dtype,
    )  # fmt: skip


def _matrix(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The weight [N, K] and, where it is quantized, the factor of each of its rows [N]."""
    weight, scale = linear.weight, getattr(linear, "scale", None)
    assert isinstance(weight, Tensor)
    return weight, scale


def _attention_kernels() -> Any:
    """Imported late, like the others."""
    from predictor.model.cuda.kernels import small_batch_attention as attention_kernels

    return attention_kernels


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import small_batch as small_batch_kernels

    return small_batch_kernels
