"""Prefill of a little audio as one graph: a thousand launches would take longer than the work.

A graph has fixed sizes, so a bucket holds so many seconds of audio and so many prompt tokens; what
a step leaves empty is filled with silence and with prompts of padding that write to the scratch
slot. They are sequences of their own, so that nothing real ever sees them.
"""

from __future__ import annotations

from collections.abc import Sequence as Batch
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor.engine.cuda.capture import Capturer
from predictor.engine.prompts import PromptLayout
from predictor.engine.sequence import Sequence
from predictor.model.attention import TILE_TOKENS, Packing, prompt_tiles
from predictor.model.config import HOP_SAMPLES, TOKENS_PER_CHUNK, num_frame_tokens
from predictor.model.cuda.decoder import FusedDecoder
from predictor.model.cuda.encoder import FusedEncoder
from predictor.model.cuda.mel import DeviceLogMel, chunk_table, fill
from predictor.model.encoder import AudioPlan
from predictor.model.stretch import CHUNK_SAMPLES, Stretch

Ints = NDArray[np.int64]

# To what a step of 8,192 tokens holds of clips of 30 s, of 10 s and of all lengths.
BUCKETS_S = (
    2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 560, 584,
    608,
)  # fmt: skip
PROMPT_TOKENS = 32  # of all sequences of a step together, beside their audio tokens
PADDING_TOKENS = 128  # longest prompt of padding
LONGEST_PROMPT = 1024  # of one sequence: PyTorch's attention looks for work in all of it


@dataclass(frozen=True, slots=True)
class Size:
    """What a prefill step asks of a bucket."""

    num_sequences: int
    num_chunks: int
    num_tokens: int
    longest_prompt: int

    @classmethod
    def of(cls, sequences: Batch[Sequence]) -> Size:
        lengths = [s.num_prompt_tokens for s in sequences]
        num_chunks = sum(part.num_chunks for s in sequences for part in s.stretches())
        return cls(len(lengths), num_chunks, sum(lengths), max(lengths))


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sizes of one graph."""

    num_chunks: int  # seconds of audio, each sequence's rounded up
    max_length: int  # of a slot
    window_tokens: int  # audio tokens of a full window
    max_tokens: int  # of all prompts of a step
    num_tokens: int = field(init=False)  # of all prompts
    num_sequences: int = field(init=False)

    def __post_init__(self) -> None:
        wanted = self.num_audio_tokens + PROMPT_TOKENS * (1 + self.num_chunks // 16)
        least = self.num_audio_tokens + PROMPT_TOKENS  # one clip is taken whatever its length
        object.__setattr__(self, "num_tokens", min(wanted, max(least, self.max_tokens)))
        object.__setattr__(self, "num_sequences", max(1, self.num_chunks // 2))

    @property
    def num_audio_tokens(self) -> int:
        return TOKENS_PER_CHUNK * self.num_chunks

    @property
    def num_windows(self) -> int:
        """The last one of each sequence, and of the padding, may be in part."""
        return self.num_sequences + 1 + self.num_audio_tokens // self.window_tokens

    @property
    def num_prompts(self) -> int:
        return self.num_sequences + -(-self.num_tokens // self.padding_tokens)

    @property
    def longest_prompt(self) -> int:
        return min(LONGEST_PROMPT, self.num_tokens)

    @property
    def padding_tokens(self) -> int:
        return min(PADDING_TOKENS, self.max_length)

    @property
    def num_tiles(self) -> int:
        """Each prompt's last one may be in part."""
        return self.num_tokens // TILE_TOKENS + self.num_prompts

    def holds(self, size: Size) -> bool:
        return (
            size.num_sequences <= self.num_sequences
            and size.num_chunks <= self.num_chunks
            and size.num_tokens <= self.num_tokens
            and size.longest_prompt <= self.longest_prompt
        )

    def parts(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what the host sends."""
        rows, tokens = self.num_audio_tokens, self.num_tokens
        return {
            "table": (5, self.num_chunks),  # as `chunk_table` makes it
            "kept": (rows,),  # the encoder's rows that are real, then any
            "windows": (self.num_windows + 1,),  # bounds of the encoder's windows
            "audio_rows": (rows,),  # where each goes in the prompts; beyond their end = nowhere
            "layout": (3, tokens),  # token ids, positions and cache places
            "prompts": (self.num_prompts + 1,),  # bounds of the prompts
            "tiles": (self.num_tiles, 3),  # as `prompt_tiles` makes them, then empty ones
            "ends": (self.num_sequences,),  # the last token of each prompt
            "state": (2, self.num_sequences),  # slot and prompt length of each
        }

    def sizes(self) -> list[int]:
        """Of each part, even: what starts at a multiple of 16 bytes needs no kernel of its own."""
        return [2 * -(-int(np.prod(shape)) // 2) for shape in self.parts().values()]

    def fill(self, sequences: Batch[Sequence], scratch: int) -> Ints:
        """All parts for a step, one after another."""
        stretches = [Stretch.whole(s.request.samples) for s in sequences]
        table = chunk_table(stretches)
        num_frames = [s.num_frames for s in stretches]
        silent = np.zeros((5, self.num_chunks - table.shape[1]), dtype=np.int64)
        silent[0] = self.num_sequences  # a clip of its own, without any sample
        num_tokens = [num_frame_tokens(n) for n in num_frames]
        kept, windows = self._encoder_rows(num_tokens, num_frames)
        layout = PromptLayout.of(sequences, self.max_length)
        padding = self.num_tokens - layout.num_tokens
        within = np.arange(padding) % self.padding_tokens
        places = scratch * self.max_length + within
        filler = np.stack([np.zeros(padding, dtype=np.int64), within, places])
        lengths = [s.num_prompt_tokens for s in sequences]
        unused = self.num_sequences - len(sequences)
        bounds = self._bounds(lengths, padding, self.padding_tokens, self.num_prompts)
        tiles = prompt_tiles(np.diff(bounds).tolist())
        nowhere = np.full(self.num_audio_tokens - sum(num_tokens), self.num_tokens)
        ends = np.concatenate([np.cumsum(lengths) - 1, np.full(unused, self.num_tokens - 1)])
        slots = [s.slot for s in sequences] + [scratch] * unused
        parts = [
            np.concatenate([table, silent], axis=1).ravel(),
            kept,
            windows,
            np.concatenate([layout.audio_rows, nowhere]),
            np.concatenate([layout.rows, filler], axis=1).ravel(),
            bounds,
            tiles.ravel(),
            ends,
            np.array([slots, lengths + [0] * unused]).ravel(),
        ]
        sent = np.zeros(sum(self.sizes()), dtype=np.int64)
        first = 0
        for part, size, shape in zip(parts, self.sizes(), self.parts().values(), strict=True):
            assert len(part) <= np.prod(shape)
            sent[first : first + len(part)] = part
            first += size
        return sent

    def _encoder_rows(self, num_tokens: list[int], num_frames: Batch[int]) -> tuple[Ints, Ints]:
        """The rows of real audio among 13 for each second, and the windows' bounds."""
        kept = AudioPlan.kept_rows(num_frames)
        padding = self.num_audio_tokens - len(kept)
        lengths = AudioPlan.window_lengths(num_tokens, self.window_tokens)
        bounds = self._bounds(lengths, padding, self.window_tokens, self.num_windows)
        return np.concatenate([kept, np.zeros(padding, dtype=np.int64)]), bounds

    @staticmethod
    def _bounds(lengths: list[int], padding: int, longest: int, count: int) -> Ints:
        full, rest = divmod(padding, longest)
        sizes = [*lengths, *[longest] * full, *[rest] * (rest > 0)]
        sizes += [0] * (count - len(sizes))
        return np.concatenate([[0], np.cumsum(sizes)])


class PrefillGraphs:
    """The graphs of all buckets; they are captured one by one, the smallest first."""

    def __init__(
        self,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
        *,
        max_length: int,
        max_audio_s: float,
        max_tokens: int,
        window_chunks: int,
        scratch: int,
    ) -> None:
        """`max_audio_s`, `max_tokens`: what a step may hold, or one clip: none is larger."""
        self._log_mel, self._encoder, self._decoder = log_mel, encoder, decoder
        self._scratch = scratch
        window_tokens = window_chunks * TOKENS_PER_CHUNK
        enough = [n for n in BUCKETS_S if n < max_audio_s]
        enough += [n for n in BUCKETS_S if n >= max_audio_s][:1]
        buckets = [Bucket(n, max_length, window_tokens, max_tokens) for n in enough]
        self._missing = buckets[::-1]  # the smallest last
        self._graphs: dict[Bucket, _PrefillGraph] = {}

    @property
    def next_missing_s(self) -> int:
        """Seconds of the smallest bucket that has no graph yet; 0 when none is left."""
        return self._missing[-1].num_chunks if self._missing else 0

    def stop(self) -> None:
        """Make no more graphs; those that are there stay."""
        self._missing.clear()

    def capture_next(self, capturer: Capturer, tokens: Tensor, positions: Tensor) -> None:
        """`tokens` and `positions`: the decode loop's state, which a prefill writes to."""
        bucket = self._missing.pop()
        graph = _PrefillGraph(bucket, tokens, positions, self._log_mel.device, self._scratch)
        graph.capture(capturer, self._log_mel, self._encoder, self._decoder)
        self._graphs[bucket] = graph

    def start(self, sequences: Batch[Sequence]) -> Tensor | None:
        """Start a prefill where a graph holds it: [sequences, 2] on the device, tokens and
        log-probabilities, until the next start. None = nothing was started."""
        size = Size.of(sequences)
        for bucket, graph in self._graphs.items():
            if bucket.holds(size):
                return graph.start(sequences)
        return None


class _PrefillGraph:
    """One bucket's buffers and graph."""

    def __init__(
        self, bucket: Bucket, tokens: Tensor, positions: Tensor, device: torch.device, scratch: int
    ) -> None:
        self._bucket, self._device, self._scratch = bucket, device, scratch
        self._tokens, self._positions = tokens, positions
        # A clip's last samples may be too few for a frame, and so for a second of their own.
        num_samples = bucket.num_chunks * CHUNK_SAMPLES + bucket.num_sequences * HOP_SAMPLES
        self._waveforms = torch.zeros(num_samples, device=device)
        self._ints = torch.zeros(sum(bucket.sizes()), dtype=torch.int64, device=device)
        self._results = torch.zeros(bucket.num_sequences, 2, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def start(self, sequences: Batch[Sequence]) -> Tensor:
        self._send(sequences)
        assert self._graph is not None
        self._graph.replay()
        return self._results[: len(sequences)]

    def _send(self, sequences: Batch[Sequence]) -> None:
        clips = [s.request.samples for s in sequences]
        samples = torch.empty(sum(len(clip) for clip in clips), pin_memory=True)
        fill(samples, clips)
        self._waveforms[: len(samples)].copy_(samples, non_blocking=True)
        ints = torch.empty(len(self._ints), dtype=torch.int64, pin_memory=True)
        ints.numpy()[:] = self._bucket.fill(sequences, self._scratch)
        self._ints.copy_(ints, non_blocking=True)

    def capture(
        self,
        capturer: Capturer,
        log_mel: DeviceLogMel,
        encoder: FusedEncoder,
        decoder: FusedDecoder,
    ) -> None:
        self._ints.copy_(torch.from_numpy(self._bucket.fill([], self._scratch)))
        self._graph = capturer.capture(lambda: self._run(log_mel, encoder, decoder))

    def _run(self, log_mel: DeviceLogMel, encoder: FusedEncoder, decoder: FusedDecoder) -> None:
        bucket = self._bucket
        pieces = torch.split(self._ints, bucket.sizes())
        parts = {
            name: piece[: int(np.prod(shape))].view(shape)
            for piece, (name, shape) in zip(pieces, bucket.parts().items(), strict=True)
        }
        before = torch.full((bucket.num_sequences + 1,), -torch.inf, device=self._device)
        followed = torch.zeros(2, 1, dtype=torch.int64, device=self._device)
        chunks, _ = log_mel.features(self._waveforms, parts["table"], before, followed)
        windows = Packing(
            bucket.num_windows,
            bucket.window_tokens,
            ends=parts["windows"][1:],
            bounds=parts["windows"].to(torch.int32),
        )
        audio = encoder(chunks, AudioPlan((), parts["kept"], windows))
        tokens, positions, places = parts["layout"].unbind()
        x = decoder.embed(tokens, audio, parts["audio_rows"])
        prompts = Packing(
            bucket.num_prompts,
            bucket.longest_prompt,
            ends=parts["ends"],
            bounds=parts["prompts"].to(torch.int32),
            tiles=parts["tiles"].to(torch.int32),
        )
        chosen, logprobs = decoder.choose(decoder.prefill(x, positions, places, prompts))
        slots, lengths = parts["state"].unbind()
        self._tokens.index_copy_(0, slots, chosen)
        self._positions.index_copy_(0, slots, lengths)
        torch.stack([chosen.float(), logprobs], dim=1, out=self._results)
