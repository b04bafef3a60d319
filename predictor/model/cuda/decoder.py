"""The language model with fused kernels: the same weights and results as `Decoder`, fewer passes.

Every kernel has its plain twin here and a switch in `Fusion`; `engine/parity.py` turns off those
that a device gets wrong, so a broken compiler costs speed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.model.attention import (
    FP8,
    KvCache,
    Packing,
    Prefix,
    packed_attention,
    select,
    write_places,
)
from predictor.model.cuda.quantized import Fp8Linear
from predictor.model.cuda.slots import StepPlaces
from predictor.model.decoder import Decoder, DecoderLayer, Rotation

AttentionKind: TypeAlias = Literal["split", "masked"]
CachePair: TypeAlias = tuple[Tensor, Tensor]

# Programs that fill a device with 132 multiprocessors three times over.
FULL_DEVICE = 400
SPLITS = (1, 8, 32)
PAGE_TOKENS = 64  # of a page where kernels are checked: what they multiply with at a time


@dataclass(frozen=True, slots=True)
class Fusion:
    """Which parts run as one kernel; all off is the plain path."""

    norm: bool = True  # residual sum and RMS norm
    rope: bool = True  # head norms, rotation and cache write
    swiglu: bool = True
    rows: bool = True  # norm and SwiGLU that quantize what they give fp8 layers
    head: bool = True  # arg-max and log-probability
    ends: bool = True  # what a decode step does before its layers and, with `head`, behind them
    small_batch: bool = True  # whole decode steps of one sequence, or of two
    tiled: bool = True  # the same of up to 16, where the device and the shapes suit
    head_8_bit: bool = True  # head of one or two sequences: rows of 8 bits, and few of 16
    encoder: bool = True  # first convolution, activations and norms of the audio tower
    features: bool = True  # frames and power of the log-mel
    prefill: bool = True  # attention inside prompts, in 16 bit
    # Decode attention reads a beginning that many sequences share once for all of them; with
    # `attention` "split" only.
    shared: bool = True
    # Decode attention: our split kernel; or masked over all pages that a sequence could have,
    # which runs anywhere and reads everything.
    attention: AttentionKind = "split"
    # Of the split kernel, see decode_attention: where several programs share a sequence; and where
    # each has one and all multiprocessors are full, of a cache in 16 bit and in 8.
    tile: tuple[int, int, int] = (64, 4, 3)
    full_tile: tuple[int, int, int] = (16, 1, 6)
    full_tile_8_bit: tuple[int, int, int] = (32, 1, 3)

    def tile_of(self, splits: int, dtype: torch.dtype) -> tuple[int, int, int]:
        """For a cache of `dtype`."""
        if splits > 1 or dtype == torch.float32:
            return self.tile
        return self.full_tile_8_bit if dtype == FP8 else self.full_tile


PLAIN = Fusion(
    norm=False, rope=False, swiglu=False, rows=False, head=False, ends=False, small_batch=False,
    tiled=False, head_8_bit=False, encoder=False, features=False, prefill=False, shared=False,
    attention="masked",
)  # fmt: skip


class FusedDecoder:
    """Runs a Decoder's weights through the kernels that `fusion` allows."""

    def __init__(
        self, decoder: Decoder, cache: KvCache, fusion: Fusion, *, max_length: int, tables: Tensor
    ) -> None:
        """`max_length`: of a sequence; `tables` as of StepPlaces, whose contents may change."""
        self._decoder = decoder
        self._cache = cache
        self._max_length = max_length
        self._tables = tables
        self.fusion = fusion
        weight = decoder.norm.weight
        everywhere = torch.arange(max_length, device=weight.device)
        rotation = decoder.rotation(everywhere)
        half = decoder.config.head_dim // 2
        self._table = (  # [max_length, D / 2] each
            rotation.cos[:, 0, :half].contiguous(),
            rotation.sin[:, 0, half:].contiguous(),
        )
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    @property
    def table(self) -> CachePair:
        """Cosines and sines of all positions: [max_length, D / 2] each."""
        return self._table

    @property
    def embedding(self) -> Tensor:
        """[vocabulary, hidden]"""
        return self._decoder.embedding.weight

    def embed(self, tokens: Tensor, audio: Tensor, audio_rows: Tensor) -> Tensor:
        """Embeddings of T tokens, audio [A, hidden] in the rows it belongs to: [T, hidden].

        A row T is nowhere: what goes there is lost.
        """
        weight = self.embedding
        x = weight.new_empty(len(tokens) + 1, weight.shape[1])
        torch.index_select(weight, 0, tokens, out=x[:-1])
        return x.index_copy_(0, audio_rows, audio)[:-1]

    def prefill(
        self,
        x: Tensor,
        positions: Tensor,
        places: Tensor,
        packing: Packing,
        wanted: Tensor,
        prefix: Prefix | None = None,
        *,
        reads_cache: bool = True,
    ) -> Tensor:
        """As `Decoder.prefill`, but the logits [W, vocabulary] after the rows `wanted` [W]. What is
        cached before a prompt is named by the packing's tiles, and by `prefix` where no kernel
        reads them; nothing is where not `reads_cache`. Changes x."""

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            if self.fusion.prefill and packing.tiles is not None:
                pair = paged(self._cache, layer) if reads_cache else None
                return _prefill_attention(query, key, value, packing.tiles, pair, self._tables)
            if prefix is not None:
                return prefix.attend(query, key, value, self._cache, layer)
            return packed_attention(query, key, value, packing, causal=True)

        return self._logits(self._run(x, positions, places, attend, wanted))

    def decode(self, x: Tensor, where: StepPlaces) -> Tensor:
        """Embeddings [B, hidden] of one token of each sequence -> the logits [B, vocabulary] after
        it. Changes x."""
        attend = self._decode_attention(where)
        return self._logits(self._run(x, where.positions, where.places, attend, None))

    def parts(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `choose` chooses from, see `kernels.logits_parts`."""
        return _kernels().logits_parts(logits)  # type: ignore[no-any-return]

    def choose(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token after each row [B, vocabulary], and its log-probability."""
        if self.fusion.head:
            return _kernels().choose(logits)  # type: ignore[no-any-return]
        return plain_choose(logits)

    def _run(
        self,
        x: Tensor,
        positions: Tensor,
        places: Tensor,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
        ends: Tensor | None,
    ) -> Tensor:
        """All layers and the final norm; of the last layer only the rows `ends`, if given."""
        rotation = None if self.fusion.rope else self._decoder.rotation(positions)
        change: Tensor | None = None  # what the layer before adds to x
        for layer in self._layers:
            qkv = self._normed(x, change, layer.attention_norm, layer.qkv)
            query, key, value = self._heads(layer, qkv, positions, places, rotation)
            attended = attend(layer.index, query, key, value).flatten(1)
            if ends is not None and layer is self._layers[-1]:
                attended, x = attended.index_select(0, ends), x.index_select(0, ends)
            change = layer.attention_out(attended)
            gate_up = self._normed(x, change, layer.ffn_norm, layer.gate_up)
            change = self._swiglu(gate_up, layer.ffn_out)
        return self._norm(x, change, self._decoder.norm)

    def _logits(self, normed: Tensor) -> Tensor:
        head = self._decoder.head
        return F.linear(normed, self.embedding if head is None else head.weight)

    def _normed(
        self, x: Tensor, change: Tensor | None, norm: torch.nn.RMSNorm, linear: torch.nn.Module
    ) -> Tensor:
        """x += change, in place; `linear` of x normed."""
        if self._quantizes(linear):
            eps = self._decoder.config.rms_norm_eps
            return linear.after_norm(x, change, norm.weight, eps)  # type: ignore[operator,no-any-return]
        return linear(self._norm(x, change, norm))  # type: ignore[no-any-return]

    def _swiglu(self, gate_up: Tensor, linear: torch.nn.Module) -> Tensor:
        if self._quantizes(linear):
            return linear.after_swiglu(gate_up)  # type: ignore[operator,no-any-return]
        product = _kernels().swiglu(gate_up) if self.fusion.swiglu else plain_swiglu(gate_up)
        return linear(product)  # type: ignore[no-any-return]

    def _quantizes(self, linear: torch.nn.Module) -> bool:
        """The layer takes 8-bit rows, and a kernel may make them on the way."""
        return self.fusion.rows and isinstance(linear, Fp8Linear) and linear.weight.is_cuda

    def _norm(self, x: Tensor, change: Tensor | None, norm: torch.nn.RMSNorm) -> Tensor:
        eps = self._decoder.config.rms_norm_eps
        if self.fusion.norm:
            return _kernels().add_rms_norm(x, change, norm.weight, eps)  # type: ignore[no-any-return]
        return plain_add_rms_norm(x, change, norm.weight, eps)

    def _heads(
        self,
        layer: DecoderLayer,
        qkv: Tensor,
        positions: Tensor,
        places: Tensor,
        rotation: Rotation | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[T, (H + 2K) * D] -> query [T, H, D], key and value [T, K, D], written to the cache."""
        config = self._decoder.config
        qkv = qkv.view(qkv.shape[0], -1, config.head_dim)
        eps = config.rms_norm_eps
        pair = _flat(self._cache, layer.index)
        if rotation is None:
            _kernels().norm_rope_write(
                qkv, layer.qk_norm, self._table, positions, places, pair, eps
            )
        else:
            plain_norm_rope_write(qkv, layer.qk_norm, rotation, places, pair, eps)
        query, key, value = torch.split(
            qkv, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1
        )
        return query, key, value

    def _decode_attention(
        self, where: StepPlaces
    ) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
        if self.fusion.attention == "masked":
            return lambda layer, query, key, value: masked_attention(
                query, paged(self._cache, layer), where.tables, where.slots, where.lengths
            )
        num_rows = where.slots.shape[0]
        splits = num_splits(num_rows, self._decoder.config.num_kv_heads, self._max_length)
        if where.shared is not None:  # by many, who fill the device
            splits = 1
        tile = self.fusion.tile_of(splits, self._cache.data.dtype)
        return lambda layer, query, key, value: _attention_kernels().decode_attention(
            query,
            paged(self._cache, layer),
            where.tables,
            where.slots,
            where.lengths,
            splits=splits,
            tile=tile,
            shared=where.shared,
        )


def num_splits(num_rows: int, num_kv_heads: int, max_length: int) -> int:
    """Among how many programs one sequence's cache is divided, 1 for full batches.

    One of few values, since each is a kernel of its own to compile; and no more than give each
    program 32 places of a full slot.
    """
    missing = FULL_DEVICE / (num_rows * num_kv_heads)
    wanted = next(splits for splits in SPLITS if missing <= 1.5 * splits or splits == SPLITS[-1])
    return max(s for s in SPLITS if s == 1 or (s <= wanted and s * 32 <= max_length))


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import decoder as kernels

    return kernels


def _attention_kernels() -> Any:
    """Imported late, like the others."""
    from predictor.model.cuda.kernels import attention as attention_kernels

    return attention_kernels


def _prefill_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    tiles: Tensor,
    cache: CachePair | None,
    tables: Tensor,
) -> Tensor:
    from predictor.model.cuda.kernels.prefill import prefill_attention  # Triton

    return prefill_attention(query, key, value, tiles, cache, tables)


def _flat(cache: KvCache, layer: int) -> CachePair:
    keys, values = cache.data[layer].flatten(1, 2).unbind(0)  # [places, K, D]
    return keys, values


def paged(cache: KvCache, layer: int) -> CachePair:
    """Keys and values of one layer: [pages, tokens of a page, K, D] each."""
    keys, values = cache.data[layer].unbind(0)
    return keys, values


def masked_attention(
    query: Tensor, cache: CachePair, tables: Tensor, slots: Tensor, lengths: Tensor
) -> Tensor:
    """The plain twin of `attention.decode_attention`; reads all pages of each slot's table."""
    pages = tables.index_select(0, slots)  # [B, pages of a sequence]
    keys, values = (  # [B, K, S, D]
        select(part, 0, pages.flatten())
        .view(len(pages), -1, *part.shape[2:])
        .to(query.dtype)
        .transpose(1, 2)
        for part in cache
    )
    num_rows, num_heads, dim = query.shape
    grouped = query.reshape(num_rows, keys.shape[1], -1, dim)
    places = torch.arange(keys.shape[2], device=query.device)
    mask = (places[None, :] < lengths[:, None])[:, None, None, :]
    output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
    return output.reshape(num_rows, num_heads, dim)


def plain_add_rms_norm(x: Tensor, add: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """The plain twin of `kernels.add_rms_norm`."""
    if add is not None:
        x.add_(add)
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def plain_swiglu(gate_up: Tensor) -> Tensor:
    """The plain twin of `kernels.swiglu`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def plain_choose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The plain twin of `kernels.choose`."""
    logits = logits.float()
    tokens = logits.argmax(-1)
    return tokens, logits.log_softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)


def plain_norm_rope_write(
    qkv: Tensor, norm: Tensor, rotation: Rotation, places: Tensor, cache: CachePair, eps: float
) -> None:
    """The plain twin of `kernels.norm_rope_write`, from a rotation made for the positions."""
    keys, values = cache
    num_rotated, dim = norm.shape
    num_kv_heads = keys.shape[1]
    rotated = rotation.apply(F.rms_norm(qkv[:, :num_rotated], (dim,), eps=eps) * norm)
    qkv[:, :num_rotated] = rotated
    write_places(keys, places, rotated[:, -num_kv_heads:])
    write_places(values, places, qkv[:, num_rotated:])
