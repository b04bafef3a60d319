"""Prefill of a little audio as one graph: a thousand launches would take longer than the work.

A graph has fixed sizes, so a bucket holds so many seconds of audio and so many prompt tokens; what
a step leaves empty is filled with silence and with prompts of padding that write to the scratch
page. They are sequences of their own, so that nothing real ever sees them.
"""

from __future__ import annotations

from collections import Counter, abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from predictor.engine.cuda.capture import Capturer
from predictor.engine.cuda.decode_loop import DecodeLoop
from predictor.engine.cuda.prefill_buckets import (
    MORE_SAMPLES,
    STEP_TOKENS,
    Bucket,
    Ints,
    Size,
)
from predictor.engine.cuda.verify import Checks, go_on, settle
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Batch
from predictor.model.attention import Packing
from predictor.model.config import TOKENS_PER_CHUNK
from predictor.model.cuda.decoder import FusedDecoder
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.mel import DeviceLogMel, on_device, staged_samples
from predictor.model.encoder import AudioPlan
from predictor.model.stretch import CHUNK_SAMPLES, Stretch

# To what a step of 8,192 tokens holds of clips of 30 s, of 10 s and of all lengths.
BUCKETS_S = (
    2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 560,
    584, 608,
)  # fmt: skip
# Open windows of kept sequences, up to what a step of 8,192 tokens holds of them: one without a
# graph costs a thousand launches.
STEP_BUCKETS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 36, 40, 48)
LARGER_STEP_BUCKETS = (56, 64, 76)  # where a step may have the tokens for them


@dataclass(frozen=True, slots=True)
class Started:
    """A prefill that is under way."""

    layout: PromptLayout
    results: Tensor  # as `settle` makes them, on the device, until the next start
    loudest: Tensor  # the loudest bin of each stretch, there too


class PrefillGraphs:
    """The graphs of all buckets; they are captured one by one, the smallest first, but before them
    any that a step has missed."""

    def __init__(
        self,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
        loop: DecodeLoop,
        capturer: Capturer,
        *,
        max_length: int,
        max_audio_s: float,
        max_tokens: int,
        window_chunks: int,
    ) -> None:
        """`max_audio_s`, `max_tokens`: what a step may hold, or one clip: none is larger."""
        self._log_mel, self._encoder, self._decoder = log_mel, encoder, decoder
        self._loop, self._capturer = loop, capturer
        window_tokens = window_chunks * TOKENS_PER_CHUNK
        enough = [n for n in BUCKETS_S if n < max_audio_s]
        enough += [n for n in BUCKETS_S if n >= max_audio_s][:1]
        buckets = [Bucket(n, max_length, window_tokens, max_tokens) for n in enough]
        most = max_tokens // (window_tokens + STEP_TOKENS)
        steps = [*STEP_BUCKETS, *(n for n in LARGER_STEP_BUCKETS if n <= most)]
        steps = [n for n in steps if window_chunks * n <= max(enough[-1], window_chunks)]
        buckets += [
            Bucket(window_chunks * n, max_length, window_tokens, max_tokens, n) for n in steps
        ]
        # Those for files of a few seconds, then those for steps of a few sequences.
        self._missing = sorted(buckets, key=lambda b: (b.num_chunks, b.num_steps))
        self._missed: Counter[Bucket] = Counter()  # since the last capture
        self._graphs: dict[Bucket, _PrefillGraph] = {}

    @property
    def next_missing_s(self) -> int:
        """Seconds of the smallest bucket for files that has no graph yet; 0 when none is left."""
        return next((b.num_chunks for b in self._missing if not b.num_steps), 0)

    @property
    def has_missing(self) -> bool:
        """Some bucket has no graph yet."""
        return bool(self._missing)

    @property
    def was_missed(self) -> bool:
        """A step ran without a graph that could be made for it."""
        return bool(self._missed)

    def stop(self) -> None:
        """Make no more graphs; those that are there stay."""
        self._missing.clear()
        self._missed.clear()

    def capture_next(self) -> None:
        """The bucket that was missed most often, or the smallest one."""
        files = [bucket for bucket in self._missing if not bucket.num_steps]
        bucket = self._missed.most_common(1)[0][0] if self._missed else (files or self._missing)[0]
        self._missed.clear()
        self._missing.remove(bucket)
        graph = _PrefillGraph(bucket, self._loop, self._log_mel.device)
        graph.capture(self._capturer, self._log_mel, self._encoder, self._decoder)
        self._graphs[bucket] = graph
        # The smallest that holds a step serves it.
        self._graphs = dict(sorted(self._graphs.items(), key=lambda item: _cost(item[0])))

    def start(
        self,
        sequences: Batch,
        stretches: abc.Sequence[Stretch],
        layout: Callable[[], PromptLayout],
    ) -> Started | None:
        """Start a prefill where a graph holds it. None = nothing was started.

        `layout` of the sequences is made while the device listens.
        """
        size = Size.of(sequences, stretches)
        if size.reads_cache and not self._decoder.fusion.prefill:
            return None  # without the kernel nothing here reads the cache
        graph = next((g for bucket, g in self._graphs.items() if bucket.holds(size)), None)
        started = None if graph is None else graph.start(sequences, stretches, layout)
        self._note_missed(size, graph)  # last: the device waits for what is started
        return started

    def _note_missed(self, size: Size, graph: _PrefillGraph | None) -> None:
        """Whether one that can still be made would have served better."""
        missing = [bucket for bucket in self._missing if bucket.holds(size)]
        if missing:
            best = min(missing, key=_cost)
            if graph is None or 2 * _cost(best) <= _cost(graph.bucket):
                self._missed[best] += 1


def _cost(bucket: Bucket) -> int:
    """Of running a graph, in about what one prompt token costs."""
    return bucket.num_tokens + 4 * bucket.num_chunks + bucket.num_wanted // 4


class _PrefillGraph:
    """One bucket's buffers and graphs: of the log-mel and the convolutions, of the encoder's
    layers, and of the language model. To launch all of it takes the host about as long as the first
    takes the device, which begins with that meanwhile."""

    def __init__(self, bucket: Bucket, loop: DecodeLoop, device: torch.device) -> None:
        self.bucket, self._device, self._loop = bucket, device, loop
        # A stretch begins before its first frame, and its last samples may be too few for another.
        num_samples = bucket.num_chunks * CHUNK_SAMPLES + bucket.num_stretches * MORE_SAMPLES
        self._waveforms = torch.zeros(num_samples, device=device)
        self._ints = torch.zeros(bucket.num_ints, dtype=torch.int64, device=device)
        self._pieces = self._ints.split_with_sizes(bucket.pieces)  # that the graphs need, in turn
        self._results = torch.zeros(bucket.num_wanted, 3, device=device)
        self._loudest = torch.zeros(bucket.num_stretches + 1, device=device)
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def start(
        self,
        sequences: Batch,
        stretches: abc.Sequence[Stretch],
        layout: Callable[[], PromptLayout],
    ) -> Started:
        clips = [stretch.samples for stretch in stretches]
        if clips:
            staged = staged_samples(clips, pin_memory=self._device.type == "cuda")
            on_device(staged, self._device, out=self._waveforms[: len(staged)])
        bucket, (hear, encode, read) = self.bucket, self._graphs
        sent, pieces = self._staged_ints()
        bucket.heard(stretches, sent)
        self._pieces[0].copy_(pieces[0], non_blocking=True)
        hear.replay()
        bucket.encoded(stretches, sent)
        self._pieces[1].copy_(pieces[1], non_blocking=True)
        encode.replay()
        made = layout()
        bucket.placed(sequences, made, self._loop.nowhere, sent)
        self._pieces[2].copy_(pieces[2], non_blocking=True)
        read.replay()
        return Started(made, self._results, self._loudest)

    def _staged_ints(self) -> tuple[Ints, tuple[Tensor, ...]]:
        """Where the host lays out what it sends, and the same in the pieces that it sends."""
        on_cuda, bucket = self._device.type == "cuda", self.bucket
        staged = torch.empty(bucket.num_ints, dtype=torch.int64, pin_memory=on_cuda)
        return staged.numpy(), staged.split_with_sizes(bucket.pieces)

    def capture(
        self,
        capturer: Capturer,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
    ) -> None:
        bucket = self.bucket
        sent, _ = self._staged_ints()
        bucket.heard([], sent)
        bucket.encoded([], sent)
        bucket.placed([], PromptLayout.of([], 1), self._loop.nowhere, sent)
        self._ints.copy_(torch.from_numpy(sent))
        stages = _Stages(self, log_mel, encoder, decoder)
        graphs = []
        for stage in (stages.hear, stages.encode, stages.read):
            graphs.append(capturer.capture(stage))
            graphs[-1].replay()  # the next stage is tried on what this one gives
        self._graphs = graphs


class _Stages:
    """What the graphs of a bucket hold. What one gives the next is alive until all are captured, so
    that no two of them use the same memory; others may, which never run in between."""

    def __init__(
        self,
        graph: _PrefillGraph,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
    ) -> None:
        self._bucket, self._loop = graph.bucket, graph._loop
        self._waveforms, self._results, self._loudest = (
            graph._waveforms, graph._results, graph._loudest,
        )  # fmt: skip
        self._log_mel, self._encoder, self._decoder = log_mel, encoder, decoder
        self._parts = {
            part.name: graph._ints[part.first : part.first + part.size].view(part.shape)
            for part in graph.bucket.parts
        }
        self._convolved = self._audio = graph._waveforms  # until there are any

    def hear(self) -> None:
        bucket, parts = self._bucket, self._parts
        before, followed = None, None
        if bucket.num_steps:
            before = parts["before"].to(torch.int32).view(torch.float32)
            followed = parts["followed"]
        chunks, loudest = self._log_mel.features(
            self._waveforms, parts["table"], bucket.num_stretches + 1, before, followed
        )
        self._loudest.copy_(loudest)
        self._convolved = self._encoder.convolved(chunks)

    def encode(self) -> None:
        bucket, parts = self._bucket, self._parts
        windows = Packing(
            bucket.num_windows,
            bucket.window_tokens,
            ends=parts["windows"][1:],
            bounds=parts["windows"].to(torch.int32),
        )
        plan = AudioPlan((), parts["kept"], windows)
        self._audio = self._encoder.attended(self._convolved, plan)

    def read(self) -> None:
        bucket, parts, decoder, loop = self._bucket, self._parts, self._decoder, self._loop
        tokens, positions, places = parts["layout"].unbind()
        x = decoder.embed(tokens, self._audio, parts["audio_rows"])
        prompts = Packing(
            bucket.num_prompts,
            bucket.longest_prompt,
            ends=parts["prompts"][1:],
            bounds=parts["prompts"].to(torch.int32),
            tiles=parts["tiles"].to(torch.int32),
        )
        wanted, given, is_forced, owner = parts["checks"].unbind()
        checks = Checks(wanted, given, is_forced, owner, parts["slots"])
        logits = decoder.prefill(
            x, positions, places, prompts, checks.wanted, reads_cache=bucket.reads_cache
        )
        results = (settle if bucket.num_steps else go_on)(
            logits, decoder.choose(logits), positions, checks, (loop.tokens, loop.positions),
            loop.scratch,
        )  # fmt: skip
        self._results.copy_(results)
