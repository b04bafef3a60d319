"""Prefills on the device: as graphs or call by call, in one stream with the decode steps.

So a prefill begins behind all steps that were started before it: its slots and pages may be those
of a sequence that has ended, for which some steps still run.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from predictor.engine.cuda.decode_loop import DecodeLoop
from predictor.engine.cuda.pending import PendingPrefill, StepTimer
from predictor.engine.cuda.prefill_graphs import PrefillGraphs, Started
from predictor.engine.cuda.verify import Checks, settle
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Batch
from predictor.model.attention import KvCache, Packing, Prefix, to_device
from predictor.model.cuda.decoder import FusedDecoder
from predictor.model.cuda.encoder import FusedEncoder, filled_up
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.model import Model
from predictor.model.stretch import Stretch


class Prefills:
    """Starts them."""

    def __init__(
        self,
        model: Model,
        cache: KvCache,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
        loop: DecodeLoop,
        *,
        graphs: PrefillGraphs | None,
    ) -> None:
        self._model, self._cache, self._device = model, cache, model.device
        self._mel, self._encoder, self._decoder, self._loop = log_mel, encoder, decoder, loop
        self.graphs = graphs

    def start(self, sequences: Batch) -> PendingPrefill:
        """Start encoding audio and prompt of each sequence into its pages."""
        timer = StepTimer(self._device)
        layout = partial(PromptLayout.of, sequences, self._cache.page_tokens)
        parts = [s.stretches() for s in sequences]
        stretches = [stretch for part in parts for stretch in part]
        if any(s.num_cached for s in sequences):  # else decode steps are the first to read them
            self._loop.bring_pages(sequences)
        started = None
        if self.graphs is not None:
            started = self.graphs.start(sequences, stretches, layout)
        if started is None:
            started = self._start(sequences, layout(), stretches, timer)
        self._loop.mark_synced(sequences)
        counts = tuple(len(part) for part in parts)
        return PendingPrefill.start(
            sequences, started.layout, started.results, started.loudest, counts, timer
        )

    def _start(
        self,
        sequences: Batch,
        layout: PromptLayout,
        stretches: list[Stretch],
        timer: StepTimer,
    ) -> Started:
        """Call by call; as `PrefillGraphs.start`."""
        audio, loudest = self._encode_all(stretches, timer)  # [sum of audio tokens, hidden]
        num_tokens = layout.num_tokens
        # Rows that start at multiples of 16 bytes: a kernel is compiled once for each alignment.
        aligned = np.pad(layout.rows, ((0, 0), (0, num_tokens % 2)))
        tokens, positions, places = self._to_device(aligned)[:, :num_tokens].unbind()  # [T] each
        x = self._decoder.embed(tokens, audio, self._to_device(layout.audio_rows))
        slots = [s.slot for s in sequences]
        cached = [s.num_cached for s in sequences]
        packing = Packing.of(
            layout.lengths, device=self._device, dtype=self._model.dtype, are_prompts=True,
            cached=cached, slots=slots,
        )  # fmt: skip
        prefix = None
        if not (self._decoder.fusion.prefill and packing.tiles is not None):
            prefix = Prefix.of(
                [s.pages for s in sequences], cached, layout.lengths, self._cache.page_tokens,
                device=self._device,
            )  # fmt: skip
        rows = np.empty((4, len(layout.wanted)), dtype=np.int64)
        Checks.fill(rows, layout, len(sequences), 0)
        wanted, given, is_forced, owner = self._to_device(rows).unbind()
        checks = Checks(wanted, given, is_forced, owner, self._to_device(np.array(slots)))
        logits = self._decoder.prefill(
            x, positions, places, packing, checks.wanted, prefix, reads_cache=layout.reads_cache
        )
        state = (self._loop.tokens, self._loop.positions)
        chosen = self._decoder.choose(logits)
        results = settle(logits, chosen, positions, checks, state, self._loop.scratch)
        return Started(layout, results, loudest)

    def _encode_all(self, stretches: list[Stretch], timer: StepTimer) -> tuple[Tensor, Tensor]:
        """As the plain runner's, with silent chunks added up to a round number of them."""
        if not stretches:
            width = self._model.config.text.hidden_size
            nothing = torch.zeros(0, width, device=self._device, dtype=self._model.dtype)
            return nothing, torch.zeros(0, device=self._device)
        mel = self._mel.of(stretches)
        timer.end_of("features")
        plan = self._model.encoder.plan(mel.num_frames)
        audio = self._encoder(*filled_up(mel.chunks, plan))
        timer.end_of("encoder")
        return audio, mel.loudest

    def _to_device(self, array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
        return to_device(array, self._device)
