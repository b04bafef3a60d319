"""The runner for CUDA: everything is started ahead, and read when it has arrived.

A prefill and a look (one or more decode steps) need nothing that the host does not know already:
the newest tokens are on the device. So the next one is started before the last one is read, and the
device never waits for Python. A sequence that turns out to have ended has run a few steps too many;
the engine drops those.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence as Batch
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.engine.cuda.capture import Capturer
from predictor.engine.cuda.decode_loop import DecodeLoop
from predictor.engine.cuda.parity import checked
from predictor.engine.cuda.pending import Look, Marks, host_results
from predictor.engine.cuda.prefill_graphs import PrefillGraphs
from predictor.engine.prompts import PromptLayout
from predictor.engine.protocol import StepOutput
from predictor.engine.runner import TorchRunner
from predictor.engine.sequence import Sequence
from predictor.model.attention import Packing
from predictor.model.cuda.decoder import FusedDecoder, Fusion
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.cuda.small_batch import ThinDecoder
from predictor.model.model import Model

logger = logging.getLogger(__name__)

CHUNKS_AT_A_TIME = 8  # seconds of audio that the encoder's batches are rounded up to
LOOKS_AHEAD = 2  # what may stay unread on the device when something was read


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How the decode loop runs on the device."""

    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    # (sequences, steps): this many steps between two looks, from so many sequences on. Chunks
    # cost the host the same whatever they hold.
    steps: tuple[tuple[int, int], ...] = ((1, 1), (9, 2))
    use_graphs: bool = True  # False, or a CPU: the same steps without graphs
    run_ahead: bool = True  # start the next look before the last one is read
    fusion: Fusion = field(default_factory=Fusion)
    check_kernels: bool = True  # compare each kernel with its plain twin at start
    # What a step may hold, or one clip: no larger prefill gets a graph.
    max_prefill_audio_s: float = 640.0
    max_prefill_tokens: int = 8192


class GraphRunner(TorchRunner):
    """A TorchRunner whose steps stay on the device; `decode` hands out what has arrived."""

    def __init__(
        self,
        model: Model,
        *,
        num_slots: int,
        max_model_len: int,
        options: GraphOptions | None = None,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        # One slot more: rows that only fill a bucket write to it.
        super().__init__(
            model, num_slots=num_slots + 1, max_model_len=max_model_len, kv_dtype=kv_dtype
        )
        options = GraphOptions() if options is None else options
        self._options = options
        on_cuda = self._device.type == "cuda"
        fusion = options.fusion
        if options.check_kernels:
            fusion = checked(fusion, model, kv_dtype)
        self._mel = DeviceLogMel(
            model.config.audio.num_mel_bins, device=self._device, use_kernels=fusion.features
        )
        with torch.inference_mode():
            self._fused_encoder = FusedEncoder(model.encoder, is_on=fusion.encoder)
            self._fused = FusedDecoder(model.decoder, self._cache, fusion)
            thin = None
            if fusion.thin:
                thin = ThinDecoder(model.decoder, self._cache, self._fused.table)
            self._loop = DecodeLoop(self._fused, thin, self._cache, self._device)
        smaller = [bucket for bucket in sorted(options.buckets) if bucket < num_slots]
        self._buckets = (*smaller, num_slots)
        self._capturer = Capturer(self._device) if options.use_graphs and on_cuda else None
        self._prefill_graphs: PrefillGraphs | None = None
        if self._capturer is not None and model.dtype != torch.float32:
            self._prefill_graphs = PrefillGraphs(
                self._mel,
                self._fused_encoder,
                self._fused,
                max_length=max_model_len,
                max_audio_s=options.max_prefill_audio_s,
                max_tokens=options.max_prefill_tokens,
                window_chunks=model.config.audio.window_chunks,
                scratch=self._loop.scratch,
            )
        self._looks: deque[Look] = deque()  # oldest first
        self._unclaimed: dict[Sequence, tuple[list[int], list[float]]] = {}  # read, not handed out

    @property
    def num_slots(self) -> int:
        return self._loop.scratch

    @property
    def fusion(self) -> Fusion:
        """The kernels in use, after the check."""
        return self._fused.fusion

    @torch.inference_mode()
    def prefill(self, sequences: Batch[Sequence]) -> StepOutput:
        """Start encoding audio and prompt of each sequence into its slot; `decode` has the rest."""
        marks = Marks(self._device)
        results = None
        if self._prefill_graphs is not None:
            results = self._prefill_graphs.start(sequences)
        if results is None:
            results = self._prefill(sequences, marks)
        on_host = host_results(1, len(sequences), self._device)
        on_host[0].copy_(results, non_blocking=True)
        marks.end_of("prefill")
        self._loop.own(sequences)
        self._looks.append(Look.of(sequences, on_host, marks))
        return StepOutput([[] for _ in sequences], [[] for _ in sequences])

    def _prefill(self, sequences: Batch[Sequence], marks: Marks) -> Tensor:
        """Call by call; [sequences, 2] tokens and log-probabilities on the device."""
        audio = self._encode_all(sequences, marks)  # [sum of audio tokens, hidden]
        layout = PromptLayout.of(sequences, self._cache.max_length)
        num_tokens = layout.num_tokens
        # Rows that start at multiples of 16 bytes: a kernel is compiled once for each alignment.
        aligned = np.pad(layout.rows, ((0, 0), (0, num_tokens % 2)))
        tokens, positions, places = self._to_device(aligned)[:, :num_tokens].unbind()  # [T] each
        x = self._fused.embed(tokens, audio, self._to_device(layout.audio_rows))
        lengths = [s.num_prompt_tokens for s in sequences]
        packing = Packing.of(
            lengths, device=self._device, dtype=self._model.dtype, are_prompts=True
        )
        state = self._to_device(np.array([[s.slot for s in sequences], lengths], dtype=np.int64))
        logits = self._fused.prefill(x, positions, places, packing)
        chosen, logprobs = self._fused.choose(logits)
        self._loop.tokens.index_copy_(0, state[0], chosen)
        self._loop.positions.index_copy_(0, state[0], state[1])
        return torch.stack([chosen.float(), logprobs], dim=1)

    def _encode_all(self, sequences: Batch[Sequence], marks: Marks) -> Tensor:
        """As the plain runner's, with silent chunks added up to a round number of them.

        The convolution library plans anew for every batch size that it has not met.
        """
        mel = self._mel([s.request.samples for s in sequences])
        marks.end_of("features")
        plan = self._model.encoder.plan(mel.num_frames)
        chunks = mel.chunks
        missing = -len(chunks) % CHUNKS_AT_A_TIME
        if missing:
            chunks = F.pad(chunks, (0, 0, 0, 0, 0, missing))
            kept = plan.kept
            if kept is None:
                kept = torch.arange(sum(plan.num_tokens), device=self._device)
            plan = replace(plan, kept=kept)
        audio = self._fused_encoder(chunks, plan)
        marks.end_of("encoder")
        return audio

    @torch.inference_mode()
    def decode(self, sequences: Batch[Sequence]) -> StepOutput:
        """What has arrived for each sequence, at least for one; the device is kept busy."""
        wanted = tuple(sequences)
        if not (self._looks and self._looks[-1].members.issuperset(wanted)):
            self._start_look(wanted)
        if self._options.run_ahead and len(self._looks) == 1 and self._has_more(wanted):
            self._start_look(wanted)
        device_s: list[tuple[str, float]] = []
        while self._looks and (
            len(self._looks) > LOOKS_AHEAD or self._unclaimed.keys().isdisjoint(wanted)
        ):
            look = self._looks.popleft()
            self._take(look)
            device_s += look.marks.seconds()
        nothing: tuple[list[int], list[float]] = ([], [])
        claimed = [self._unclaimed.pop(sequence, nothing) for sequence in wanted]
        # Without a slot it has ended, and these are steps too many.
        self._unclaimed = {s: results for s, results in self._unclaimed.items() if s.slot >= 0}
        tokens, logprobs = [ids for ids, _ in claimed], [values for _, values in claimed]
        return StepOutput(tokens, logprobs, tuple(device_s))

    def _take(self, look: Look) -> None:
        """Read a look; what it brought is unclaimed until `decode` is asked for it."""
        for sequence, ids, values in zip(look.sequences, *look.read(), strict=True):
            tokens, logprobs = self._unclaimed.setdefault(sequence, ([], []))
            tokens += ids
            logprobs += values

    def _has_more(self, sequences: tuple[Sequence, ...]) -> bool:
        """Some sequence may still run after the looks that were started."""
        steps = sum(look.num_steps for look in self._looks)
        return any(s.max_new_tokens - len(s.tokens) > steps for s in sequences)

    def _start_look(self, sequences: tuple[Sequence, ...]) -> None:
        bucket = next(b for b in self._buckets if b >= len(sequences))
        if self._capturer is not None and bucket not in self._loop.graphs:
            self.capture(bucket)
        self._loop.point_rows_at(sequences, self._unclaimed)
        results = host_results(self._num_steps(sequences), bucket, self._device)
        marks = Marks(self._device)
        self._loop.run(bucket, results)
        marks.end_of("decode")
        self._looks.append(Look.of(sequences, results, marks))

    def _num_steps(self, sequences: tuple[Sequence, ...]) -> int:
        """By the batch's size, but no more than the sequence with most left to say can use."""
        planned = max(steps for least, steps in self._options.steps if len(sequences) >= least)
        if planned == 1:
            return 1
        started = sum(look.num_steps for look in self._looks)
        most = max(s.max_new_tokens - len(s.tokens) for s in sequences) - started
        return max(1, min(planned, most))

    def scrub(self, slots: Batch[int]) -> None:
        """Zero slots whose contents are not numbers, before others use them."""
        super().scrub([*slots, self._loop.scratch])

    def recover(self) -> bool:
        """Read what was started before the failure; the host's word counts from there on."""
        try:
            while self._looks:
                self._take(self._looks.popleft())
        except RuntimeError:
            logger.exception("what was under way on the device is lost")
            return False
        self._loop.forget()
        return super().recover()

    @torch.inference_mode()
    def capture(self, bucket: int) -> None:
        """Make the graph of one bucket of sequences; if it fails, no more are made."""
        assert self._capturer is not None
        try:
            self._loop.capture(bucket, self._capturer)
        except Exception:  # a compiler can fail in any way, and memory can be short
            logger.exception("no graph for %d sequences: such steps run without", bucket)
            self._stop_capturing()

    @torch.inference_mode()
    def capture_prefill(self) -> None:
        """Make the next graph for prefills of little audio; if it fails, no more are made."""
        assert self._capturer is not None
        assert self._prefill_graphs is not None
        try:
            self._prefill_graphs.capture_next(
                self._capturer, self._loop.tokens, self._loop.positions
            )
        except Exception:  # a compiler can fail in any way, and memory can be short
            logger.exception("no graph for a prefill: larger ones run without")
            self._stop_capturing()

    def _stop_capturing(self) -> None:
        self._capturer = None
        if self._prefill_graphs is not None:
            self._prefill_graphs.stop()

    def capture_up_to(self, num_sequences: int, prefill_s: int = 0) -> None:
        """Capture the buckets that serve up to `num_sequences`, smallest first, and prefills of up
        to `prefill_s` seconds of audio."""
        while self._prefill_graphs is not None and self._prefill_missing_s() <= prefill_s:
            self.capture_prefill()
        for bucket in self._buckets:
            if self._capturer is None:
                return
            if bucket not in self._loop.graphs:
                self.capture(bucket)
            if bucket >= num_sequences:
                return

    def _prefill_missing_s(self) -> float:
        missing = 0 if self._prefill_graphs is None else self._prefill_graphs.next_missing_s
        return missing or float("inf")

    def idle(self) -> bool:
        """Let go of what has ended, or capture one graph that is missing still, the smallest."""
        if self._looks or self._unclaimed or self._loop.knows_any:
            # Steps too many for sequences that have ended, whose samples nobody needs any more.
            while self._looks:
                self._looks.popleft().marks.wait()
            self._unclaimed.clear()
            self._loop.forget()
            return True
        if self._capturer is None:
            return False
        missing = [bucket for bucket in self._buckets if bucket not in self._loop.graphs]
        if self._prefill_missing_s() < float("inf") and not (missing and missing[0] <= 8):
            self.capture_prefill()
        elif missing:
            self.capture(missing[0])
        else:
            return False
        return True
