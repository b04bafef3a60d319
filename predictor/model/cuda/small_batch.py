"""A decode step of one or two sequences: five kernels a layer, bound by the weights they read."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from predictor.model.attention import KvCache
from predictor.model.cuda.decoder import CachePair, plain_choose
from predictor.model.cuda.slots import StepPlaces
from predictor.model.cuda.small_head import MAX_ROWS as MAX_HEAD_ROWS
from predictor.model.cuda.small_head import SmallHead
from predictor.model.cuda.trial import StepTrial, largest_distance
from predictor.model.decoder import Decoder, DecoderLayer

MAX_ROWS = 2  # where `tiled.py` does not serve more than one: matrix units are faster beyond it


class SmallBatchDecoder:
    """Runs a Decoder's weights, or their quantized form, for few rows."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        table: tuple[Tensor, Tensor],
        small_head: SmallHead | None = None,
    ) -> None:
        """`table`: cosines and sines of all positions, [max_length, D / 2] each; `small_head`: what
        is read instead of the decoder's, of few rows."""
        self._decoder = decoder
        self._cache = cache
        self._table = table
        self._small_head = small_head
        self._layers = [layer for layer in decoder.layers if isinstance(layer, DecoderLayer)]

    def decode(self, x: Tensor, where: StepPlaces) -> Tensor:
        """Embeddings [B, hidden] of one token of each sequence -> the hidden states after all
        layers, in place."""
        for layer in self._layers:
            keys, values = self._cache.data[layer.index].unbind(0)
            self.run_layer(layer, x, where, (keys, values), first=layer is self._layers[0])
        return x

    def run_layer(
        self,
        layer: DecoderLayer,
        x: Tensor,
        where: StepPlaces,
        cache: CachePair,
        *,
        first: bool = False,
    ) -> None:
        """x [B, hidden] becomes what the layer makes of it; cache [pages, P, K, D] x 2. `first`: of
        a step, behind `step.enter`."""
        kernels, config = _kernels(), layer.config
        eps = config.rms_norm_eps
        num_rows = x.shape[0]
        num_heads = config.num_heads + 2 * config.num_kv_heads
        qkv = x.new_empty(num_rows, num_heads * config.head_dim)
        norm = layer.attention_norm.weight
        kernels.rows_product(x, *matrix_of(layer.qkv), qkv, norm=norm, eps=eps, first=first)
        _attention_kernels().add_attended(
            qkv.view(num_rows, num_heads, -1), layer.qk_norm, self._table, where.tables,
            where.slots, where.positions, cache, *matrix_of(layer.attention_out), x, eps,
        )  # fmt: skip
        inner = x.new_empty(num_rows, config.ffn_size)
        norm = layer.ffn_norm.weight
        kernels.rows_product(x, *matrix_of(layer.gate_up), inner, norm=norm, eps=eps, swiglu=True)
        kernels.rows_product(inner, *matrix_of(layer.ffn_out), x, add=True)

    def choose(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest token after hidden states [B, hidden], and its log-probability."""
        return choose(self._decoder, x, self._small_head)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `choose` chooses from, of hidden states [B, hidden]."""
        return parts(self._decoder, x, self._small_head)


def choose(
    decoder: Decoder, x: Tensor, small_head: SmallHead | None = None
) -> tuple[Tensor, Tensor]:
    """The likeliest token after hidden states [B, hidden], and its log-probability."""
    from predictor.model.cuda.kernels import decoder as kernels

    return kernels.choose_parts(*parts(decoder, x, small_head))


def parts(
    decoder: Decoder, x: Tensor, small_head: SmallHead | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """What `choose` chooses from, of hidden states [B, hidden]."""
    from predictor.model.cuda.kernels import decoder as kernels

    if small_head is not None and len(x) <= MAX_HEAD_ROWS:
        return small_head.parts(x)
    eps = decoder.config.rms_norm_eps
    head = decoder.embedding.weight if decoder.head is None else decoder.head.weight
    if x.shape[0] == 1:
        return _kernels().head_parts(x, decoder.norm.weight, head, eps)  # type: ignore[no-any-return]
    normed = kernels.add_rms_norm(x, None, decoder.norm.weight, eps)
    return kernels.logits_parts(F.linear(normed, head))


def small_batch_difference(decoder: Decoder, kv_dtype: torch.dtype) -> float:
    """Relative distance of one layer and the head from their plain twins, on random inputs of one
    sequence and of two."""
    differences = [_difference(decoder, kv_dtype, num_rows) for num_rows in (1, MAX_ROWS)]
    return float(torch.tensor(differences).max())  # NaN where one is


def _difference(decoder: Decoder, kv_dtype: torch.dtype, num_rows: int) -> float:
    trial, layer = StepTrial(decoder, kv_dtype, num_rows), decoder.layers[0]
    assert isinstance(layer, DecoderLayer)
    where = trial.where
    plain = layer(trial.x, decoder.rotation(where.positions), trial.attend())
    small_batch = SmallBatchDecoder(decoder, trial.no_cache, trial.table)
    ours = trial.x.clone()
    small_batch.run_layer(layer, ours, where, (trial.cache[0], trial.cache[1]))
    token, logprob = choose(decoder, plain[:1])
    logits = decoder.logits(plain[:1]).to(decoder.norm.weight.dtype)
    _, expected = plain_choose(logits)
    # A sum in another order may decide between two that are as likely.
    return largest_distance(
        (
            (ours, plain),
            (trial.cache, trial.plain_cache),
            (logprob, expected),
            (logits.gather(1, token[:, None]), logits.amax(1, keepdim=True)),
        )
    )


def matrix_of(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
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
