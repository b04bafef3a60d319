"""Random inputs of one decode step, by which kernels are compared with their plain twins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from predictor.model.attention import KvCache, write_places
from predictor.model.cuda.decoder import PAGE_TOKENS, CachePair, masked_attention
from predictor.model.cuda.slots import StepPlaces
from predictor.model.decoder import Decoder

MAX_LENGTH = 160
POSITIONS = (MAX_LENGTH - 1, 77, 0, 63, 64)  # the first of them again and again


class StepTrial:
    """Pages of some sequences with keys and values in them."""

    def __init__(self, decoder: Decoder, kv_dtype: torch.dtype, num_rows: int) -> None:
        config, weight = decoder.config, decoder.norm.weight
        self._decoder, self._device = decoder, weight.device
        num_slots = num_rows + 3
        num_pages = -(-MAX_LENGTH // PAGE_TOKENS)  # of a sequence
        shape = (num_slots * num_pages, PAGE_TOKENS, config.num_kv_heads, config.head_dim)
        self.cache = torch.randn(2, *shape, device=weight.device).to(kv_dtype)
        self.plain_cache = self.cache.clone()
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(num_slots * num_pages, generator=generator)
        self._tables = order.view(num_slots, num_pages).to(weight.device)
        slots = torch.randperm(num_slots, generator=generator)[:num_rows].to(weight.device)
        some = [POSITIONS[i % len(POSITIONS)] for i in range(num_rows)]
        positions = torch.tensor(some, device=weight.device)
        self.where = StepPlaces.of(slots, positions, self._tables, PAGE_TOKENS)
        self.x = torch.randn(num_rows, config.hidden_size, device=weight.device).to(weight.dtype)

    @property
    def table(self) -> CachePair:
        """Cosines and sines of all positions: [positions, D / 2] each."""
        rotation = self._decoder.rotation(torch.arange(MAX_LENGTH, device=self._device))
        half = self._decoder.config.head_dim // 2
        return rotation.cos[:, 0, :half].contiguous(), rotation.sin[:, 0, half:].contiguous()

    @property
    def no_cache(self) -> KvCache:
        """For a decoder that is asked for single layers."""
        config, weight = self._decoder.config, self._decoder.norm.weight
        return KvCache(
            num_layers=1, num_pages=1, page_tokens=1, num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim, device=weight.device, dtype=weight.dtype,
        )  # fmt: skip

    def attend(self) -> Callable[[int, Tensor, Tensor, Tensor], Tensor]:
        """The plain attention of a layer, in the plain cache."""

        def run(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            for part, new in zip(self.plain_cache.flatten(1, 2), (key, value), strict=True):
                write_places(part, self.where.places, new)
            pair = (self.plain_cache[0], self.plain_cache[1])
            return masked_attention(query, pair, self._tables, self.where.slots, self.where.lengths)

        return run


def largest_distance(pairs: tuple[tuple[Tensor, Tensor], ...]) -> float:
    """Of pairs of ours and plain: |ours - plain| / |plain|; NaN where one is."""
    distances = [(a.double() - b.double()).norm() / b.double().norm() for a, b in pairs]
    return float(torch.stack(distances).max())
