"""The runner for CUDA: decode steps replayed as graphs, one look ahead of the host.

Each slot's newest token and position live on the device, so a step needs nothing from the host
but the list of slots, and that only when it changes. `decode` therefore starts the next look
(one or more steps) before it waits for the last one, and the device never waits for Python. A
sequence that turns out to have ended has run a few steps too many; the engine drops those.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence as Batch
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.audio.mel_device import DeviceLogMel
from predictor.engine.protocol import StepOutput
from predictor.engine.runner import TorchRunner, _prompt_layout
from predictor.engine.sequence import Sequence
from predictor.model.attention import Packing, to_device
from predictor.model.fused import FusedDecoder, Fusion, StepPlaces, checked
from predictor.model.model import Model

logger = logging.getLogger(__name__)

CHUNKS_AT_A_TIME = 8  # seconds of audio that the encoder's batches are rounded up to


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How the decode loop runs on the device."""

    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    # (sequences, steps): this many steps between two looks, from so many sequences on. Chunks
    # cost the host the same whatever they hold.
    steps: tuple[tuple[int, int], ...] = ((1, 1), (9, 2), (49, 4))
    use_graphs: bool = True  # False, or a CPU: the same steps without graphs
    run_ahead: bool = True  # start the next look before the last one is read
    fusion: Fusion = field(default_factory=Fusion)
    check_kernels: bool = True  # compare each kernel with its plain twin at start


@dataclass(frozen=True, slots=True)
class _Look:
    """Steps that were started and not read yet."""

    sequences: tuple[Sequence, ...]
    members: frozenset[Sequence]
    results: Tensor  # [steps, bucket, 2] float32 on the host: token ids and log-probabilities
    done: torch.cuda.Event | None

    def read(self) -> tuple[list[list[int]], list[list[float]]]:
        """Wait; tokens and log-probabilities of each sequence, step after step."""
        if self.done is not None:
            self.done.synchronize()
        results = self.results.numpy()[:, : len(self.sequences)]
        return results[..., 0].T.astype(np.int64).tolist(), results[..., 1].T.tolist()

    @property
    def num_steps(self) -> int:
        return self.results.shape[0]


class GraphRunner(TorchRunner):
    """A TorchRunner whose decode loop stays on the device."""

    def __init__(
        self,
        model: Model,
        *,
        num_slots: int,
        max_model_len: int,
        options: GraphOptions | None = None,
    ) -> None:
        # One slot more: rows that only fill a bucket write to it.
        super().__init__(model, num_slots=num_slots + 1, max_model_len=max_model_len)
        options = GraphOptions() if options is None else options
        self._scratch = num_slots
        self._options = options
        with torch.inference_mode():
            fusion = options.fusion
            if options.check_kernels:
                fusion = checked(fusion, model.decoder)
            self._fused = FusedDecoder(model.decoder, self._cache, fusion)
        smaller = [bucket for bucket in sorted(options.buckets) if bucket < num_slots]
        self._buckets = (*smaller, num_slots)
        self._use_graphs = options.use_graphs and self._device.type == "cuda"
        if self._device.type == "cuda":
            self._log_mel = DeviceLogMel(model.config.audio.num_mel_bins, device=self._device)
        self._make_buffers(num_slots)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool: Any = None  # the memory that all graphs share
        self._side: torch.cuda.Stream | None = None  # where graphs are captured
        self._looks: deque[_Look] = deque()  # oldest first
        self._unclaimed: dict[Sequence, tuple[list[int], list[float]]] = {}  # read, not handed out
        self._owners: dict[int, Sequence] = {}  # slot -> whose state the device holds
        self._in_rows: tuple[Sequence, ...] = ()  # what `_rows` lists

    def _make_buffers(self, num_slots: int) -> None:
        device, long = self._device, torch.int64
        # Each slot's newest token, and where it belongs.
        self._tokens = torch.zeros(num_slots + 1, dtype=long, device=device)
        self._positions = torch.zeros(num_slots + 1, dtype=long, device=device)
        # Slots of the next look, and what its newest step brought.
        self._rows = torch.full((num_slots,), self._scratch, dtype=long, device=device)
        self._results = torch.zeros(num_slots, 2, device=device)

    @property
    def num_slots(self) -> int:
        return self._scratch

    @property
    def fusion(self) -> Fusion:
        """The kernels in use, after the check."""
        return self._fused.fusion

    @torch.inference_mode()
    def prefill(self, sequences: Batch[Sequence]) -> StepOutput:
        """Encode audio and prompt of each sequence into its slot; its first token."""
        audio = self._encode(sequences)  # [sum of audio tokens, hidden]
        layout, audio_rows = _prompt_layout(
            sequences, self._cache.max_length, self._model.config.audio_token_id
        )
        num_tokens = layout.shape[1]
        # Rows that start at multiples of 16 bytes: a kernel is compiled once for each alignment.
        aligned = np.pad(layout, ((0, 0), (0, num_tokens % 2)))
        tokens, positions, places = self._to_device(aligned)[:, :num_tokens].unbind()  # [T] each
        x = self._model.decoder.embedding(tokens)
        x.index_copy_(0, self._to_device(audio_rows), audio)
        lengths = [s.num_prompt_tokens for s in sequences]
        packing = Packing.of(lengths, device=self._device, dtype=self._model.dtype)
        state = self._to_device(np.array([[s.slot for s in sequences], lengths], dtype=np.int64))
        logits = self._fused.prefill(x, positions, places, packing)
        chosen, logprobs = self._fused.choose(logits)
        self._tokens.index_copy_(0, state[0], chosen)
        self._positions.index_copy_(0, state[0], state[1])
        ids, values = torch.stack([chosen.double(), logprobs.double()]).tolist()
        for sequence in sequences:
            self._owners[sequence.slot] = sequence
        return StepOutput([[int(i)] for i in ids], [[value] for value in values])

    def _encode(self, sequences: Batch[Sequence]) -> Tensor:
        """As the plain runner's, with silent chunks added up to a round number of them.

        The convolution library plans anew for every batch size that it has not met.
        """
        mel = self._log_mel([s.request.samples for s in sequences])
        plan = self._model.encoder.plan(mel.num_frames)
        chunks = mel.chunks.to(self._model.dtype)
        missing = -len(chunks) % CHUNKS_AT_A_TIME
        if missing:
            chunks = F.pad(chunks, (0, 0, 0, 0, 0, missing))
            kept = plan.kept
            if kept is None:
                kept = torch.arange(sum(plan.num_tokens), device=self._device)
            plan = replace(plan, kept=kept)
        audio = self._model.encoder(chunks, plan)
        assert isinstance(audio, Tensor)
        return audio

    @torch.inference_mode()
    def decode(self, sequences: Batch[Sequence]) -> StepOutput:
        """The next tokens of each sequence: all that looks bring until each has at least one."""
        wanted = tuple(sequences)
        if not (self._looks and self._looks[-1].members.issuperset(wanted)):
            self._start_look(wanted)
        covers = [look.members.issuperset(wanted) for look in self._looks]
        first = covers.index(True)
        if self._options.run_ahead and first == len(covers) - 1 and self._has_more(wanted):
            self._start_look(wanted)
        read = [self._looks.popleft() for _ in range(first + 1)]
        if len(read) == 1 and read[0].sequences == wanted and not self._unclaimed:
            return StepOutput(*read[0].read())
        return self._merged(wanted, read)

    def _merged(self, wanted: tuple[Sequence, ...], looks: list[_Look]) -> StepOutput:
        """What the looks, and earlier ones that it was not asked for in, brought for each."""
        brought = self._unclaimed
        for look in looks:
            for sequence, ids, values in zip(look.sequences, *look.read(), strict=True):
                tokens, logprobs = brought.setdefault(sequence, ([], []))
                tokens += ids
                logprobs += values
        claimed = [brought.pop(sequence) for sequence in wanted]
        # Without a slot it has ended, and these are steps too many.
        self._unclaimed = {s: results for s, results in brought.items() if s.slot >= 0}
        return StepOutput([tokens for tokens, _ in claimed], [values for _, values in claimed])

    def _has_more(self, sequences: tuple[Sequence, ...]) -> bool:
        """Some sequence may still run after the looks that were started."""
        steps = sum(look.num_steps for look in self._looks)
        return any(s.max_new_tokens - len(s.tokens) > steps for s in sequences)

    def scrub(self, slots: Batch[int]) -> None:
        """Zero slots whose contents are not numbers, before others use them."""
        super().scrub([*slots, self._scratch])

    def recover(self) -> bool:
        """Drop what was started: the sequences' own tokens say where to go on from."""
        self._looks.clear()
        self._unclaimed.clear()
        self._owners.clear()
        self._in_rows = ()
        return super().recover()

    def _start_look(self, sequences: tuple[Sequence, ...]) -> None:
        bucket = next(b for b in self._buckets if b >= len(sequences))
        self._point_rows_at(sequences)
        if self._use_graphs and bucket not in self._graphs:
            self.capture(bucket)
            self._point_rows_at(sequences)
        num_steps = self._num_steps(sequences)
        on_cuda = self._device.type == "cuda"
        results = torch.empty(num_steps, bucket, 2, pin_memory=on_cuda)
        graph = self._graphs.get(bucket)
        for step in range(num_steps):
            if graph is None:
                self._step(bucket)
            else:
                graph.replay()
            results[step].copy_(self._results[:bucket], non_blocking=True)
        done = None
        if on_cuda:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        self._looks.append(_Look(sequences, frozenset(sequences), results, done))

    def _num_steps(self, sequences: tuple[Sequence, ...]) -> int:
        """By the batch's size, but no more than the sequence with most left to say can use."""
        planned = max(steps for least, steps in self._options.steps if len(sequences) >= least)
        if planned == 1:
            return 1
        started = sum(look.num_steps for look in self._looks)
        most = max(s.max_new_tokens - len(s.tokens) for s in sequences) - started
        return max(1, min(planned, most))

    def _point_rows_at(self, sequences: tuple[Sequence, ...]) -> None:
        """List the sequences' slots, and bring the state of those the device does not know."""
        unknown = [s for s in sequences if self._owners.get(s.slot) is not s]
        if unknown:
            state = np.array([[s.slot, s.tokens[-1], s.length - 1] for s in unknown]).T
            slots, tokens, positions = self._to_device(np.ascontiguousarray(state)).unbind()
            self._tokens.index_copy_(0, slots, tokens)
            self._positions.index_copy_(0, slots, positions)
            self._owners.update((s.slot, s) for s in unknown)
        if self._in_rows == sequences:
            return
        rows = np.full(self._scratch, self._scratch, dtype=np.int64)
        rows[: len(sequences)] = [s.slot for s in sequences]
        self._rows.copy_(to_device(rows, self._device), non_blocking=True)
        self._in_rows = sequences

    def _step(self, bucket: int) -> None:
        """One token for the first `bucket` rows; every input and output is a static buffer."""
        last = self._cache.max_length - 1
        slots = self._rows[:bucket]
        # A sequence that has ended may run on: it stays in its slot, whatever it writes there.
        positions = self._positions.index_select(0, slots).clamp_(max=last)
        where = StepPlaces(
            slots=slots,
            positions=positions,
            places=slots * self._cache.max_length + positions,
            lengths=(positions + 1).to(torch.int32),
        )
        logits = self._fused.decode(self._tokens.index_select(0, slots), where)
        tokens, logprobs = self._fused.choose(logits)
        self._tokens.index_copy_(0, slots, tokens)
        self._positions.index_copy_(
            0, slots, (positions + 1).masked_fill_(slots == self._scratch, 0)
        )
        # Token ids are below 2**24, so float32 holds them exactly and one copy serves both.
        torch.stack([tokens.float(), logprobs], dim=1, out=self._results[:bucket])

    @torch.inference_mode()
    def capture(self, bucket: int) -> None:
        """Make the graph of one bucket; until then, and if it fails, its steps run without."""
        kept = self._rows.clone()
        self._rows.fill_(self._scratch)
        self._in_rows = ()
        try:
            if self._side is None:
                self._side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            side = self._side
            side.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(side):
                self._step(bucket)  # loads and compiles what a capture may not
            torch.cuda.current_stream(self._device).wait_stream(side)
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=self._pool, stream=side, capture_error_mode="thread_local"
            ):
                self._step(bucket)
            self._graphs[bucket] = graph
        except Exception:  # a compiler can fail in any way
            logger.exception("no graph for %d sequences: decoding runs without graphs", bucket)
            self._use_graphs = False
        finally:
            self._rows.copy_(kept)

    def capture_up_to(self, num_sequences: int) -> None:
        """Capture the buckets that serve up to `num_sequences`, smallest first."""
        for bucket in self._buckets:
            if not self._use_graphs or bucket in self._graphs:
                continue
            self.capture(bucket)
            if bucket >= num_sequences:
                return

    def capture_next(self) -> bool:
        """Capture the smallest bucket that has no graph yet; False when none is left."""
        missing = [bucket for bucket in self._buckets if bucket not in self._graphs]
        if not self._use_graphs or not missing:
            return False
        self.capture(missing[0])
        return True
