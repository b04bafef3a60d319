"""Attention over packed sequences and over the key/value cache.

Sequences lie one after another in one tensor without padding, so every matrix product does only
useful work and no sequence sees its batch-mates. Only the attention itself needs to know where
each one ends: on CUDA in 16 bit one variable-length kernel does, elsewhere sequences are spread
over a padded batch for the length of one call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FP8 = torch.float8_e4m3fn  # of a cache in 8 bits; it has no scale
FP8_MAX = torch.finfo(FP8).max  # 448


def to_device(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Send an array without waiting: from pageable memory, more than 64 KiB would wait."""
    host = torch.from_numpy(array)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


TILE_TOKENS = 32  # of a prompt, that one program attends for


def prompt_tiles(
    lengths: Sequence[int], cached: Sequence[int] = (), slots: Sequence[int] = ()
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Tiles of packed prompts of `lengths` tokens: [n, 5], each its first token, where its prompt
    starts and ends, the tokens that are cached before the prompt, and whose slot's pages hold them.
    Those with most to attend to come first."""
    sizes = np.array(lengths, dtype=np.int64)
    counts = -(-sizes // TILE_TOKENS)
    prompts = np.zeros((5, len(sizes)), dtype=np.int64)  # number of the first tile, then as above
    np.cumsum(sizes, out=prompts[2])
    np.subtract(prompts[2], sizes, out=prompts[1])
    np.subtract(np.cumsum(counts), counts, out=prompts[0])
    prompts[3, : len(cached)], prompts[4, : len(slots)] = cached, slots
    tiles = prompts.repeat(counts, axis=1)
    within = TILE_TOKENS * (np.arange(tiles.shape[1]) - tiles[0])
    np.add(tiles[1], within, out=tiles[0])
    order = np.argsort(-(within + tiles[3]), kind="stable")
    return tiles.T[order].astype(np.int32)


@dataclass(frozen=True, slots=True)
class Packing:
    """Where each of B packed sequences lies; made on the host once, used by every layer."""

    num_sequences: int
    max_length: int
    ends: Tensor  # [B] index of each sequence's last token
    bounds: Tensor | None = None  # [B + 1] int32, for the variable-length kernel
    tiles: Tensor | None = None  # [n, 5] int32 of `prompt_tiles`, for our own kernel
    spread: Tensor | None = None  # [B * max_length] token that fills each padded place
    gather: Tensor | None = None  # [T] padded place of each token
    key_mask: Tensor | None = None  # [B, 1, 1, max_length] True where a key exists

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        *,
        device: torch.device,
        dtype: torch.dtype,
        are_prompts: bool = False,
        cached: Sequence[int] = (),
        slots: Sequence[int] = (),
    ) -> Packing:
        """Pack sequences of `lengths` tokens (each at least 1), for tensors of `dtype`; of prompts
        also how many tokens are cached before each, and its slot."""
        sizes = np.asarray(lengths, dtype=np.int64)
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        longest = int(sizes.max())
        ends = to_device(bounds[1:] - 1, device)
        if _has_varlen_kernel(device, dtype):
            bounds_32 = to_device(bounds.astype(np.int32), device)
            tiles = None
            if are_prompts:
                tiles = to_device(prompt_tiles(lengths, cached, slots), device)
            return cls(len(sizes), longest, ends, bounds=bounds_32, tiles=tiles)
        if (sizes == longest).all():
            return cls(len(sizes), longest, ends)
        places = np.arange(longest)
        exists = places[None, :] < sizes[:, None]  # [B, S]
        spread = np.where(exists, bounds[:-1, None] + places[None, :], 0)
        return cls(
            len(sizes),
            longest,
            ends,
            spread=to_device(spread.ravel(), device),
            gather=to_device(np.flatnonzero(exists), device),
            key_mask=to_device(exists[:, None, None, :], device),
        )

    def pad(self, packed: Tensor) -> Tensor:
        """[T, H, D] -> [B, H, S, D]; the places beyond a sequence's end hold any token's values."""
        if self.spread is not None:
            packed = packed.index_select(0, self.spread)
        padded = packed.reshape(self.num_sequences, self.max_length, *packed.shape[1:])
        return padded.transpose(1, 2)

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, H, S, D] -> [T, H, D]"""
        packed = padded.transpose(1, 2).flatten(0, 1)
        return packed if self.gather is None else packed.index_select(0, self.gather)


def _has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def packed_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, causal: bool
) -> Tensor:
    """Attention inside each packed sequence: query [T, H, D], key and value [T, K, D] -> [T, H, D].

    H is a multiple of K (grouped heads); scaled by 1/sqrt(D).
    """
    if packing.bounds is not None:
        return _varlen_attention(query, key, value, packing, causal=causal)
    # A causal mask hides the padding too, since it lies after every real token.
    output = F.scaled_dot_product_attention(
        packing.pad(query),
        packing.pad(key),
        packing.pad(value),
        attn_mask=None if causal else packing.key_mask,
        is_causal=causal,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return packing.unpad(output)


def _varlen_attention(
    query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, causal: bool
) -> Tensor:
    """What `torch.nn.attention.varlen.varlen_attn` calls; its wrapping imports torch's compiler."""
    assert packing.bounds is not None
    output = torch.ops.aten._flash_attention_forward(
        query, key, value, packing.bounds, packing.bounds, packing.max_length, packing.max_length,
        0.0, causal, False, window_size_left=-1, window_size_right=0 if causal else -1,
    )[0]  # fmt: skip
    assert isinstance(output, Tensor)
    return output


def _zeros(shape: tuple[int, ...], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, never uninitialised memory: a masked place that holds a NaN would still spread it."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    # numpy's zeros are pages that the system hands out when they are first written to, so slots
    # that are never used cost no memory; torch's are written to at once.
    num_bytes = math.prod(shape) * dtype.itemsize
    return torch.from_numpy(np.zeros(num_bytes, dtype=np.uint8)).view(dtype).view(shape)


class KvCache:
    """Keys and values of all layers in pages, of which a sequence holds as many as it needs."""

    def __init__(
        self,
        *,
        num_layers: int,
        num_pages: int,
        page_tokens: int,
        num_kv_heads: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.num_pages = num_pages
        self.page_tokens = page_tokens
        shape = (num_layers, 2, num_pages, page_tokens, num_kv_heads, head_dim)
        self.data = _zeros(shape, device=device, dtype=dtype)
        self._flat = self.data.flatten(2, 3)  # [layers, 2, places, K, D]

    def write(self, layer: int, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Store key and value [T, K, D] at `places` [T]: page * page_tokens + place within it."""
        flat = self._flat[layer]
        write_places(flat[0], places, key)
        write_places(flat[1], places, value)


def write_places(part: Tensor, places: Tensor, values: Tensor) -> None:
    """Store values [T, K, D] at `places` [T] of keys or values [places, K, D].

    8 bits hold what is beyond their range as the end of it.
    """
    if part.dtype == FP8:  # beyond the range the conversion gives NaN
        values = values.clamp(-FP8_MAX, FP8_MAX).to(FP8)
    _indexable(part).index_copy_(0, places, _indexable(values))


def select(part: Tensor, dim: int, index: Tensor) -> Tensor:
    """`part.index_select`, for a cache of any type."""
    return _indexable(part).index_select(dim, index).view(part.dtype)


def _indexable(part: Tensor) -> Tensor:
    """The same memory; as integers where it is 8-bit floats, which torch does not index."""
    return part.view(torch.uint8) if part.dtype == FP8 else part


@dataclass(frozen=True, slots=True)
class CacheView:
    """What of the cache one step of B sequences reads."""

    num_sequences: int
    max_length: int  # the longest live length in the step, the new token included
    num_pages: int  # of each sequence
    first_page: int
    pages: Tensor | None  # [B * num_pages]; None = those from `first_page` on
    key_mask: Tensor | None  # [B, 1, 1, max_length]; None = all live lengths are equal
    apart: tuple[CacheView, ...] = ()  # of each sequence, where that is faster

    @classmethod
    def of(
        cls,
        pages: Sequence[Sequence[int]],
        lengths: Sequence[int],
        page_tokens: int,
        *,
        device: torch.device,
    ) -> CacheView:
        """`pages` of each sequence; `lengths` are the live lengths after this step's token was
        written."""
        apart: tuple[CacheView, ...] = ()
        if device.type == "cpu" and len(lengths) > 1:
            # One call for each costs less than copying keys and values to lie side by side.
            pairs = zip(pages, lengths, strict=True)
            apart = tuple(cls.of([p], [n], page_tokens, device=device) for p, n in pairs)
        longest = max(lengths)
        mask = None
        if min(lengths) != longest:
            exists = np.arange(longest)[None, :] < np.asarray(lengths)[:, None]
            mask = to_device(exists[:, None, None, :], device)
        count = -(-longest // page_tokens)
        filled = [[*p[:count], *[p[0]] * (count - len(p))] for p in pages]
        table = np.array(filled, dtype=np.int64)
        table = table.ravel()  # a page too many is any page of the same sequence, and masked
        adjoin = bool((table == table[0] + np.arange(len(table))).all())
        chosen = None if adjoin else to_device(table, device)
        return cls(len(pages), longest, count, int(table[0]), chosen, mask, apart)

    def read(self, cache: KvCache, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values as [B, K, max_length, D]; a view of the cache where pages adjoin."""
        keys_values = cache.data[layer]  # [2, pages, P, K, D]
        if self.pages is None:
            last = self.first_page + self.num_sequences * self.num_pages
            keys_values = keys_values[:, self.first_page : last]
        else:
            keys_values = select(keys_values, 1, self.pages)
        sizes = (2, self.num_sequences, -1, *keys_values.shape[3:])
        keys_values = keys_values.reshape(sizes)[:, :, : self.max_length]  # [2, B, L, K, D]
        keys, values = keys_values.transpose(2, 3).unbind(0)
        return keys, values


@dataclass(frozen=True, slots=True)
class Prefix:
    """What of packed sequences is in the cache already; made on the host, used by every layer."""

    views: tuple[CacheView | None, ...]  # of each sequence; None = nothing
    lengths: tuple[int, ...]  # packed tokens of each
    masks: tuple[Tensor | None, ...]  # [tokens, cached + tokens] True where a token attends

    @classmethod
    def of(
        cls,
        pages: Sequence[Sequence[int]],
        cached: Sequence[int],
        lengths: Sequence[int],
        page_tokens: int,
        *,
        device: torch.device,
    ) -> Prefix | None:
        """`cached` tokens of each sequence lie in its `pages`; None where none does."""
        if not any(cached):
            return None
        views: list[CacheView | None] = []
        masks: list[Tensor | None] = []
        for held, before, tokens in zip(pages, cached, lengths, strict=True):
            if not before:
                views.append(None)
                masks.append(None)
                continue
            views.append(CacheView.of([held], [before], page_tokens, device=device))
            everything = torch.ones(tokens, before + tokens, dtype=torch.bool, device=device)
            masks.append(everything.tril_(before))
        return cls(tuple(views), tuple(lengths), tuple(masks))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, cache: KvCache, layer: int
    ) -> Tensor:
        """Causal attention of packed tokens, query [T, H, D], key and value [T, K, D], to what is
        cached before them and to each other -> [T, H, D]."""
        sizes, outputs = list(self.lengths), []
        packed = (torch.split(x, sizes) for x in (query, key, value))
        for q, k, v, view, mask in zip(*packed, self.views, self.masks, strict=True):
            q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))  # [1, heads, tokens, D]
            if view is not None:
                keys, values = view.read(cache, layer)
                k = torch.cat([keys.to(k.dtype), k], dim=2)
                v = torch.cat([values.to(v.dtype), v], dim=2)
            output = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=mask is None,
                enable_gqa=query.shape[1] != key.shape[1],
            )  # fmt: skip
            outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)


def cached_attention(query: Tensor, cache: KvCache, layer: int, view: CacheView) -> Tensor:
    """One new token of each sequence over its cache: query [B, H, D] -> [B, H, D].

    The query heads that share a key head are handed over as if they were query positions, so no
    key is ever repeated in memory. A cache in fewer bits is widened to what the query is.
    """
    if view.apart:
        each = zip(query.split(1), view.apart, strict=True)  # type: ignore[no-untyped-call]
        return torch.cat([cached_attention(q, cache, layer, own) for q, own in each])
    keys, values = view.read(cache, layer)
    keys, values = keys.to(query.dtype), values.to(query.dtype)
    num_sequences, num_heads, head_dim = query.shape
    grouped = query.view(num_sequences, keys.shape[1], -1, head_dim)  # [B, K, H/K, D]
    output = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=view.key_mask)
    return output.reshape(num_sequences, num_heads, head_dim)
