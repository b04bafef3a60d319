"""A decode step of some sequences: five kernels a layer, which multiply on the matrix units."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from predictor.model.attention import KvCache
from predictor.model.cuda.decoder import CachePair, Fusion
from predictor.model.cuda.slots import StepPlaces
from predictor.model.cuda.small_batch import SmallBatchDecoder, choose, matrix_of, parts
from predictor.model.cuda.small_head import SmallHead
from predictor.model.cuda.trial import StepTrial, largest_distance
from predictor.model.decoder import Decoder, DecoderLayer

MAX_ROWS = 16  # beyond it the products of the library are faster
TRIED = (4, 5, 9)  # rows that are compared: each has a kernel that the others have not
MAX_LENGTH = 4096  # longer sequences are divided among more programs by other kernels


class TiledDecoder:
    """Runs a Decoder's weights, or their quantized form, for 16 rows at most."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        table: CachePair,
        small_head: SmallHead | None = None,
    ) -> None:
        """`table` and `small_head` as of SmallBatchDecoder."""
        self._decoder = decoder
        self._small_head = small_head
        self._cache = cache
        self._table = table
        num_counters = MAX_ROWS * decoder.config.num_kv_heads
        device = decoder.norm.weight.device
        self._arrived = torch.zeros(num_counters, dtype=torch.int32, device=device)
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    def decode(self, x: Tensor, where: StepPlaces) -> Tensor:
        """Embeddings [B, hidden] of one token of each sequence -> the hidden states after all
        layers, in place."""
        norms = [layer.attention_norm.weight for layer in self._layers]
        norms.append(self._decoder.norm.weight)
        rows = _kernels().Rows(x, norms[0])
        for layer, norm in zip(self._layers, norms[1:], strict=True):
            keys, values = self._cache.data[layer.index].unbind(0)
            self.run_layer(layer, rows, where, (keys, values), norm)
        return x

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token after hidden states [B, hidden], and its log-probability."""
        return choose(self._decoder, x, self._small_head)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `choose` chooses from, of hidden states [B, hidden]."""
        return parts(self._decoder, x, self._small_head)

    def run_layer(
        self, layer: DecoderLayer, rows: Any, where: StepPlaces, cache: CachePair, norm: Tensor
    ) -> None:
        """`rows` become what the layer makes of them; `norm`: the weight of the next layer's;
        cache [pages, P, K, D] x 2."""
        kernels, config = _kernels(), layer.config
        eps = config.rms_norm_eps
        qkv = kernels.product(rows, matrix_of(layer.qkv), eps)
        attended = _attention_kernels().attended(
            qkv.view(len(qkv), -1, config.head_dim), layer.qk_norm, self._table, where.tables,
            where.slots, where.positions, cache, self._arrived, eps,
        )  # fmt: skip
        ffn_norm = layer.ffn_norm.weight
        kernels.add_product(attended, matrix_of(layer.attention_out), rows, ffn_norm)
        inner = kernels.gated(rows, matrix_of(layer.gate_up), eps)
        kernels.add_product(inner, matrix_of(layer.ffn_out), rows, norm)


def few_decoders(
    decoder: Decoder, cache: KvCache, fusion: Fusion, table: CachePair
) -> list[tuple[int, SmallBatchDecoder | TiledDecoder]]:
    """What runs steps of few sequences instead of a FusedDecoder: up to how many, the fewest
    first."""
    is_tiled = fusion.tiled and len(table[0]) <= MAX_LENGTH and fits(decoder)
    has_head = fusion.head_8_bit and (fusion.small_batch or is_tiled)
    head = SmallHead.of(decoder) if has_head else None
    found: list[tuple[int, SmallBatchDecoder | TiledDecoder]] = []
    if fusion.small_batch:
        found.append((1 if is_tiled else 2, SmallBatchDecoder(decoder, cache, table, head)))
    if is_tiled:
        found.append((MAX_ROWS, TiledDecoder(decoder, cache, table, head)))
    return found


def fits(decoder: Decoder) -> bool:
    """Whether the kernels suit the device, and can divide matrices of these shapes."""
    kernels, config = _kernels(), decoder.config
    if not kernels.suits(decoder.norm.weight):
        return False
    hidden, ffn = config.hidden_size, config.ffn_size
    attended = config.num_heads * config.head_dim
    qkv = attended + 2 * config.num_kv_heads * config.head_dim
    products = (
        ("plain", qkv, hidden), ("add", hidden, attended), ("swiglu", ffn, hidden),
        ("add", hidden, ffn),
    )  # fmt: skip
    for kind, num_rows, width in products:
        tile = kernels.tile_of(kind, width)
        if tile is None or num_rows % tile.rows:
            return False
    num_sums = hidden // kernels.SUM_ROWS
    return bool(num_sums & (num_sums - 1) == 0)


def tiled_difference(decoder: Decoder, kv_dtype: torch.dtype, num_rows: int) -> float:
    """Relative distance of a layer, twice, from its plain twin, on random inputs."""
    layer = decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    trial = StepTrial(decoder, kv_dtype, num_rows)
    rotation, plain = decoder.rotation(trial.where.positions), trial.x
    tiled = TiledDecoder(decoder, trial.no_cache, trial.table)
    ours = trial.x.clone()
    rows = _kernels().Rows(ours, layer.attention_norm.weight)
    for norm in (layer.attention_norm, decoder.norm):
        plain = layer(plain, rotation, trial.attend())
        cache = (trial.cache[0], trial.cache[1])
        tiled.run_layer(layer, rows, trial.where, cache, norm.weight)
    return largest_distance(((ours, plain), (trial.cache, trial.plain_cache)))


def _attention_kernels() -> Any:
    """Imported late, like the others."""
    from predictor.model.cuda.kernels import small_batch_attention as attention_kernels

    return attention_kernels


def _kernels() -> Any:
    """Imported late: Triton is there on CUDA machines only, and takes its time."""
    from predictor.model.cuda.kernels import tiled as tiled_kernels

    return tiled_kernels
