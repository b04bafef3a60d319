"""The runner for CUDA: everything is started ahead, and read when it has arrived.

A prefill and decode steps need nothing that the host does not know already: the newest tokens are
on the device, which also decides how much of a draft holds. So the next step is started before the
last one is read, and the device never waits for Python. A sequence that turns out to have ended has
run a few steps too many; the engine drops those.
"""

from __future__ import annotations

import logging
from collections import abc, deque
from dataclasses import dataclass, field

import torch

from predictor.engine.cuda.capture import Capturer
from predictor.engine.cuda.decode_loop import DecodeLoop, beginning_of_many, page_tables
from predictor.engine.cuda.parity import checked
from predictor.engine.cuda.pending import Arrived, PendingStep, StepTimer, host_results
from predictor.engine.cuda.prefill_graphs import PrefillGraphs
from predictor.engine.cuda.prefills import Prefills
from predictor.engine.pages import PAGE_TOKENS
from predictor.engine.protocol import StepOutput
from predictor.engine.runner import TorchRunner, inferring
from predictor.engine.sequence import Batch, Sequence
from predictor.model.cuda.decoder import FusedDecoder, Fusion
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.mel import DeviceLogMel
from predictor.model.cuda.tiled import few_decoders
from predictor.model.model import Model

logger = logging.getLogger(__name__)

STEPS_AHEAD = 2  # what may stay unread on the device when something was read


@dataclass(frozen=True, slots=True)
class GraphOptions:
    """How the decode loop runs on the device."""

    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
    # (sequences, steps): this many steps at a time, from so many sequences on. Chunks
    # cost the host the same whatever they hold.
    steps: tuple[tuple[int, int], ...] = ((1, 1), (9, 2))
    use_graphs: bool = True  # False, or a CPU: the same steps without graphs
    run_ahead: bool = True  # start the next steps before the last ones are read
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
        page_tokens: int = PAGE_TOKENS,
        num_pages: int | None = None,
    ) -> None:
        options = GraphOptions() if options is None else options
        self._options = options
        super().__init__(
            model,
            num_slots=num_slots,
            max_model_len=max_model_len,
            kv_dtype=kv_dtype,
            page_tokens=page_tokens,
            num_pages=num_pages,
        )
        on_cuda = self._device.type == "cuda"
        fusion = options.fusion
        if options.check_kernels:
            fusion = checked(fusion, model, kv_dtype)
        log_mel = DeviceLogMel(
            model.config.audio.num_mel_bins, device=self._device, use_kernels=fusion.features
        )
        tables = page_tables(
            num_slots, max_model_len, page_tokens, self._page_size.count, self._device
        )
        with torch.inference_mode():
            encoder = FusedEncoder(model.encoder, is_on=fusion.encoder)
            self._fused = FusedDecoder(
                model.decoder, self._cache, fusion, max_length=max_model_len, tables=tables
            )
            self._loop = DecodeLoop(
                self._fused,
                few_decoders(model.decoder, self._cache, fusion, self._fused.table),
                num_slots=num_slots,
                max_length=max_model_len,
                page_tokens=page_tokens,
                tables=tables,
            )
        self._may_share = fusion.shared and fusion.attention == "split"
        smaller = [bucket for bucket in sorted(options.buckets) if bucket < num_slots]
        self._buckets = (*smaller, num_slots)
        self._capturer = Capturer(self._device) if options.use_graphs and on_cuda else None
        self._prefills = self._new_prefills(log_mel, encoder, max_model_len)
        self._pending: deque[PendingStep] = deque()  # oldest first
        self._unclaimed: dict[Sequence, Arrived] = {}  # read, not handed out

    def _new_prefills(
        self, log_mel: DeviceLogMel, encoder: FusedEncoder, max_length: int
    ) -> Prefills:
        """As graphs where there are any."""
        options, model, capturer = self._options, self._model, self._capturer
        graphs = None
        if capturer is not None and model.dtype != torch.float32:
            graphs = PrefillGraphs(
                log_mel,
                encoder,
                self._fused,
                self._loop,
                capturer,
                max_length=max_length,
                max_audio_s=options.max_prefill_audio_s,
                max_tokens=options.max_prefill_tokens,
                window_chunks=model.config.audio.window_chunks,
            )
        return Prefills(
            model, self._cache, log_mel, encoder, self._fused, self._loop, graphs=graphs
        )

    _num_scratch = 1  # a page where rows that only fill a bucket, and steps too many, write

    def _num_ahead(self) -> int:
        """All steps that may be under way when the host has read the one before them."""
        most = max(steps for _, steps in self._options.steps)
        return 1 + (STEPS_AHEAD + 2) * most

    @property
    def fusion(self) -> Fusion:
        """The kernels in use, after the check."""
        return self._fused.fusion

    @inferring
    def prefill(self, sequences: Batch) -> StepOutput:
        """Start encoding audio and prompt of each sequence into its pages; `decode` has the
        rest."""
        for sequence in sequences:  # what was read before it was preempted is made anew
            self._unclaimed.pop(sequence, None)
        self._pending.append(self._prefills.start(sequences))
        return StepOutput([[] for _ in sequences], [[] for _ in sequences])

    @inferring
    def decode(self, sequences: Batch) -> StepOutput:
        """What has arrived for each sequence, at least for one; the device is kept busy."""
        wanted = tuple(sequences)
        if not (self._pending and self._pending[-1].members.issuperset(wanted)):
            self._start(wanted)
        if self._options.run_ahead and len(self._pending) == 1 and self._has_more(wanted):
            self._start(wanted)
        device_s: list[tuple[str, float]] = []
        while self._pending and (
            len(self._pending) > STEPS_AHEAD or self._unclaimed.keys().isdisjoint(wanted)
        ):
            step = self._pending.popleft()
            self._take(step)
            device_s += step.timer.seconds()
        claimed = [self._unclaimed.pop(s, Arrived(s, [], [])) for s in sequences]
        # Without a slot it has ended or is to begin again, and these are steps too many.
        self._unclaimed = {s: arrived for s, arrived in self._unclaimed.items() if s.slot >= 0}
        return StepOutput(
            [arrived.tokens for arrived in claimed],
            [arrived.logprobs for arrived in claimed],
            tuple(device_s),
            {a.sequence: a.prefilled for a in claimed if a.prefilled is not None},
        )

    def _take(self, step: PendingStep) -> None:
        """Read a pending step; what it brought is unclaimed until `decode` is asked for it."""
        for new in step.read():
            old = self._unclaimed.get(new.sequence)
            if old is not None:
                new = Arrived(
                    new.sequence,
                    old.tokens + new.tokens,
                    old.logprobs + new.logprobs,
                    old.prefilled or new.prefilled,
                )
            self._unclaimed[new.sequence] = new

    def _has_more(self, sequences: tuple[Sequence, ...]) -> bool:
        """Some sequence may still run after the steps that were started."""
        steps = sum(step.num_steps for step in self._pending)
        return any(s.max_new_tokens - len(s.tokens) > steps for s in sequences)

    def _start(self, sequences: tuple[Sequence, ...]) -> None:
        bucket = next(b for b in self._buckets if b >= len(sequences))
        beginning = beginning_of_many(sequences) if self._may_share else []
        shares = bool(beginning)
        if self._capturer is not None and bucket not in self._loop.graphs_of(shares):
            self.capture(bucket, shares=shares)
        ahead = {s: arrived.tokens for s, arrived in self._unclaimed.items()}
        self._loop.point_rows_at(sequences, ahead, beginning)
        results = host_results(self._num_steps(sequences), bucket, self._device)
        timer = StepTimer(self._device)
        self._loop.run(bucket, results)
        timer.end_of("decode")
        self._pending.append(PendingStep.of(sequences, results, timer))

    def _num_steps(self, sequences: tuple[Sequence, ...]) -> int:
        """By the batch's size, but no more than the sequence with most left to say can use."""
        planned = max(steps for least, steps in self._options.steps if len(sequences) >= least)
        if planned == 1:
            return 1
        started = sum(step.num_steps for step in self._pending)
        most = max(s.max_new_tokens - len(s.tokens) for s in sequences) - started
        return max(1, min(planned, most))

    def scrub(self, pages: abc.Sequence[int]) -> None:
        """Zero pages whose contents are not numbers, before others use them."""
        super().scrub([*pages, self._page_size.count])

    def recover(self) -> bool:
        """Read what was started before the failure; the host's word counts from there on."""
        try:
            while self._pending:
                self._take(self._pending.popleft())
        except RuntimeError:
            logger.exception("what was under way on the device is lost")
            return False
        self._loop.forget()
        return super().recover()

    @inferring
    def capture(self, bucket: int, *, shares: bool = False) -> None:
        """Make the graph of one bucket of sequences; if it fails, no more are made. `shares`: of
        sequences of which many begin alike."""
        assert self._capturer is not None
        try:
            self._loop.capture(bucket, self._capturer, shares=shares)
        except Exception:  # a compiler can fail in any way, and memory can be short
            logger.exception("no graph for %d sequences: such steps run without", bucket)
            self._stop_capturing()

    @inferring
    def capture_prefill(self) -> None:
        """Make the next graph for prefills of little audio; if it fails, no more are made."""
        assert self._prefills.graphs is not None
        try:
            self._prefills.graphs.capture_next()
        except Exception:  # a compiler can fail in any way, and memory can be short
            logger.exception("no graph for a prefill: larger ones run without")
            self._stop_capturing()

    def _stop_capturing(self) -> None:
        self._capturer = None
        if self._prefills.graphs is not None:
            self._prefills.graphs.stop()

    def capture_up_to(self, num_sequences: int, prefill_s: int = 0) -> None:
        """Capture the buckets that serve up to `num_sequences`, smallest first, and prefills of up
        to `prefill_s` seconds of audio."""
        graphs = self._prefills.graphs
        while graphs is not None and 0 < graphs.next_missing_s <= prefill_s:
            self.capture_prefill()
        for bucket in self._buckets:
            if self._capturer is None:
                return
            if bucket not in self._loop.graphs:
                self.capture(bucket)
            if bucket >= num_sequences:
                return

    def between_steps(self) -> None:
        """Capture the prefill graph that the last steps missed; those of decode are made as they
        come up."""
        graphs = self._prefills.graphs
        if self._capturer is not None and graphs is not None and graphs.was_missed:
            self.capture_prefill()

    def let_go(self) -> None:
        """Wait for the end of steps too many: the samples of their sequences are kept for them."""
        while self._pending:
            self._pending.popleft().timer.wait()
        self._unclaimed.clear()
        self._loop.forget()

    def idle(self) -> bool:
        """Capture one graph that is missing still, the smallest."""
        self.let_go()
        if self._capturer is None:
            return False
        missing = [bucket for bucket in self._buckets if bucket not in self._loop.graphs]
        has_prefill = self._prefills.graphs is not None and self._prefills.graphs.has_missing
        if has_prefill and not (missing and missing[0] <= 8):
            self.capture_prefill()
        elif missing:
            self.capture(missing[0])
        else:
            return False
        return True
