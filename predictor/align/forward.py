"""The aligner's network over packed prompts: its plain modules, or their weights through kernels.

Both take what `Prompts` lays out and give the scores of all classes at each mark.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.model.attention import KvCache, Packing, to_device
from predictor.model.cuda.decoder import PAGE_TOKENS, FusedDecoder, Fusion
from predictor.model.cuda.encoder import FusedEncoder, filled_up
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.cuda.quantized import QuantizedLinear
from predictor.model.mel import LogMel
from predictor.model.model import Model
from predictor.types import Samples

logger = logging.getLogger(__name__)

Ints = NDArray[np.int64]
MAX_TOKENS: Final = 24_576  # of a pass through the kernels; a longer one takes the plain modules
MAX_DIFFERENCE: Final = 0.05  # relative, of all scores: 16 bits through 50 layers differ by less
# Where 16 bits fall to either side of a step of 8, the results are a sixteenth apart.
MAX_DIFFERENCE_8_BIT: Final = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """Packed prompts, one after another."""

    tokens: Ints  # [T]
    positions: Ints  # [T] from each one's start
    lengths: tuple[int, ...]  # of each prompt
    audio_rows: Ints  # [A] where audio stands
    marks: Ints  # [M] where times are asked for


class Forward(Protocol):
    """clips of float32 or 16 bit at 16 kHz, one a prompt -> scores [M, classes] at the marks."""

    def __call__(self, clips: Sequence[Samples], prompts: Prompts) -> Tensor: ...


class PlainForward:
    """The modules as they are, on any device."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._log_mel = LogMel(model.config.audio.num_mel_bins, device=model.device)

    def __call__(self, clips: Sequence[Samples], prompts: Prompts) -> Tensor:
        model, device = self._model, self._model.device
        mel = self._log_mel(clips)
        encoder, decoder = model.encoder, model.decoder
        audio = encoder(mel.chunks.to(model.dtype), encoder.plan(mel.num_frames))
        x = decoder.embedding(to_device(prompts.tokens, device))
        x.index_copy_(0, to_device(prompts.audio_rows, device), audio)
        packing = Packing.of(prompts.lengths, device=device, dtype=model.dtype)
        hidden = decoder.encode(x, to_device(prompts.positions, device), packing)
        return decoder.logits(hidden.index_select(0, to_device(prompts.marks, device)))


class FusedForward:
    """The same weights through the recogniser's kernels.

    They write keys and values to a cache, which nothing reads here: all layers share one's memory.
    """

    def __init__(self, model: Model, fusion: Fusion, *, max_tokens: int = MAX_TOKENS) -> None:
        self._model = model
        self._plain = PlainForward(model)
        text, device = model.config.text, model.device
        self._max_tokens = min(max_tokens, text.max_positions)
        cache = KvCache(
            num_layers=1,
            num_pages=-(-self._max_tokens // PAGE_TOKENS),
            page_tokens=PAGE_TOKENS,
            num_kv_heads=text.num_kv_heads,
            head_dim=text.head_dim,
            device=device,
            dtype=model.dtype,
        )
        cache.data = cache.data.expand(text.num_layers, *cache.data.shape[1:])
        no_tables = torch.zeros(1, 1, dtype=torch.int64, device=device)
        self._decoder = FusedDecoder(
            model.decoder, cache, fusion, max_length=self._max_tokens, tables=no_tables
        )
        self._encoder = FusedEncoder(model.encoder, is_on=fusion.encoder)
        self._log_mel = DeviceLogMel(
            model.config.audio.num_mel_bins, device=device, use_kernels=fusion.features
        )

    def __call__(self, clips: Sequence[Samples], prompts: Prompts) -> Tensor:
        size = len(prompts.tokens)
        if size > self._max_tokens:
            return self._plain(clips, prompts)
        model, device = self._model, self._model.device
        mel = self._log_mel(clips)
        plan = model.encoder.plan(mel.num_frames)
        audio = self._encoder(*filled_up(mel.chunks, plan))
        # Rows that start at multiples of 16 bytes: a kernel is compiled once for each alignment.
        rows = np.zeros((3, size + size % 2), dtype=np.int64)
        rows[:, :size] = prompts.tokens, prompts.positions, np.arange(size)
        tokens, positions, places = to_device(rows, device)[:, :size].unbind()
        x = self._decoder.embed(tokens, audio, to_device(prompts.audio_rows, device))
        packing = Packing.of(prompts.lengths, device=device, dtype=model.dtype, are_prompts=True)
        marks = to_device(prompts.marks, device)
        return self._decoder.prefill(x, positions, places, packing, marks, reads_cache=False)


def has_kernels(model: Model) -> bool:
    """Whether they are made for its device and numbers."""
    return model.device.type == "cuda" and model.dtype != torch.float32


def forward_of(model: Model, trial: tuple[Sequence[Samples], Prompts]) -> Forward:
    """Through kernels on CUDA in 16 bit or 8, if they agree with the plain modules on `trial`."""
    plain = PlainForward(model)
    if not has_kernels(model):
        return plain
    try:
        fused = FusedForward(model, Fusion())
        difference = _difference(fused(*trial), plain(*trial))
    except Exception:
        logger.exception("the aligner's kernels are not used")
        return plain
    has_8_bits = any(isinstance(module, QuantizedLinear) for module in model.modules())
    if not difference <= (MAX_DIFFERENCE_8_BIT if has_8_bits else MAX_DIFFERENCE):
        logger.error("the aligner's kernels are not used: they differ by %.3f", difference)
        return plain
    return fused


def _difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative distance; not a number where either has one that is none."""
    ours, theirs = ours.double(), theirs.double()
    return float((ours - theirs).norm() / theirs.norm())
