"""The sizes that graphs for prefill have, and what of a step goes where in their buffers.

There are buckets for files, whole recordings with a short prompt, and for steps of kept sequences:
little audio each, and many places whose logits are asked for.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field
from math import inf, prod

import numpy as np
from numpy.typing import NDArray

from predictor.engine.cuda.verify import Checks
from predictor.engine.prompts import PromptLayout
from predictor.engine.scheduler import MAX_CHECKS
from predictor.engine.sequence import Batch
from predictor.model.attention import TILE_TOKENS, prompt_tiles
from predictor.model.config import TOKENS_PER_CHUNK
from predictor.model.cuda.mel import chunk_table, loudest_before
from predictor.model.encoder import AudioPlan
from predictor.model.mel import following, following_pairs
from predictor.model.stretch import Stretch

Ints = NDArray[np.int64]

# A bucket for steps counts in open windows of audio. Long utterances fill about half of theirs and
# have some 60 tokens of prompt and text, short ones a quarter and 30: what is chosen here leaves a
# tenth of the tokens empty for the former, a fifth for the latter (tests/engine).
STEP_TOKENS = 80  # of prompt and answer for each window, beside its audio tokens
STEP_SEQUENCES = 4
STEP_CHECKS = 24  # rows of logits, of drafts above all
SMALL_S = 48  # seconds of a bucket for files that reads nothing from the cache
MORE_SAMPLES = 1024  # of a stretch, beyond its whole seconds
PROMPT_TOKENS = 32  # of all sequences of a step together, beside their audio tokens
PADDING_TOKENS = 128  # longest prompt of padding
NUM_HEARD, NUM_ENCODED = 3, 5  # parts that the log-mel needs, and the encoder with them
NOTHING_HEARD = int(np.float32(-np.inf).view(np.int32))
LONGEST_PROMPT = 1024  # of one sequence: PyTorch's attention looks for work in all of it


@dataclass(frozen=True, slots=True)
class Size:
    """What a prefill step asks of a bucket."""

    num_sequences: int
    num_stretches: int
    num_followed: int  # pairs of stretches of which the second follows the first
    num_chunks: int
    num_tokens: int
    num_wanted: int  # rows whose logits are asked for
    longest_prompt: int
    reads_cache: bool  # some prompt attends to what was there before
    is_plain: bool  # whole recordings, of each of which nothing but the next token is asked

    @classmethod
    def of(cls, sequences: Batch, stretches: abc.Sequence[Stretch]) -> Size:
        """What `PromptLayout.of` and the stretches of the sequences will ask."""
        lengths = [s.reach - s.num_cached for s in sequences]
        num_wanted = sum(s.num_checks for s in sequences)
        return cls(
            len(lengths),
            len(stretches),
            len(following_pairs(stretches)),
            sum(stretch.num_chunks for stretch in stretches),
            sum(lengths),
            num_wanted,
            max(lengths),
            any(s.num_cached for s in sequences),
            num_wanted == len(lengths)
            and not any(s.follows or s.loudest > -inf for s in stretches),
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that the host sends in one piece."""

    name: str
    shape: tuple[int, ...]
    first: int  # where it starts in the piece
    size: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """The sizes of one graph."""

    num_chunks: int  # seconds of audio, each sequence's rounded up
    max_length: int  # of a sequence
    window_tokens: int  # audio tokens of a full window
    max_tokens: int  # of all prompts of a step
    num_steps: int = 0  # 0 = for files; else open windows of kept sequences
    num_tokens: int = field(init=False)  # of all prompts
    num_sequences: int = field(init=False)
    num_wanted: int = field(init=False)
    parts: tuple[Part, ...] = field(init=False, repr=False, compare=False)  # what the host sends
    num_ints: int = field(init=False, repr=False, compare=False)  # of all parts
    # The same of those for the log-mel, of those that the encoder needs more, and of the rest.
    pieces: tuple[int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        wanted = self.num_audio_tokens + PROMPT_TOKENS * (1 + self.num_chunks // 16)
        least = self.num_audio_tokens + PROMPT_TOKENS  # one clip is taken whatever its length
        num_sequences = max(1, self.num_chunks // 2)
        if self.num_steps:
            wanted = self.num_audio_tokens + STEP_TOKENS * self.num_steps
            num_sequences = STEP_SEQUENCES * self.num_steps
        object.__setattr__(self, "num_tokens", min(wanted, max(least, self.max_tokens)))
        object.__setattr__(self, "num_sequences", num_sequences)
        num_wanted = max(num_sequences, min(MAX_CHECKS, STEP_CHECKS * self.num_steps))
        object.__setattr__(self, "num_wanted", num_wanted)
        parts, first = [], 0
        for name, shape in self._shapes().items():
            parts.append(Part(name, shape, first, prod(shape)))
            # Even: what starts at a multiple of 16 bytes needs no kernel of its own.
            first += 2 * -(-prod(shape) // 2)
        object.__setattr__(self, "parts", tuple(parts))
        object.__setattr__(self, "num_ints", first)
        heard, encoded = parts[NUM_HEARD].first, parts[NUM_ENCODED].first
        object.__setattr__(self, "pieces", (heard, encoded - heard, first - encoded))

    @property
    def num_audio_tokens(self) -> int:
        return TOKENS_PER_CHUNK * self.num_chunks

    @property
    def num_stretches(self) -> int:
        """A kept sequence's windows are a stretch each."""
        return self.num_sequences * (2 if self.num_steps else 1)

    @property
    def num_followed(self) -> int:
        return 1 + self.num_sequences * (1 if self.num_steps else 0)

    @property
    def num_windows(self) -> int:
        """The last one of each stretch, and of the padding, may be in part."""
        return self.num_stretches + 1 + self.num_audio_tokens // self.window_tokens

    @property
    def num_prompts(self) -> int:
        return self.num_sequences + -(-self.num_tokens // self.padding_tokens)

    @property
    def reads_cache(self) -> bool:
        """Prompts may attend to what was there before; where a few seconds are all, the kernel that
        cannot is faster, and a bucket for steps serves the rare file that needs it."""
        return bool(self.num_steps) or self.num_chunks > SMALL_S

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
            size.num_chunks <= self.num_chunks  # first: the least of most buckets that do not
            and size.num_tokens <= self.num_tokens
            and (self.reads_cache or not size.reads_cache)
            and (self.num_steps > 0 or size.is_plain)
            and size.num_sequences <= self.num_sequences
            and size.num_stretches <= self.num_stretches
            and size.num_followed <= self.num_followed
            and size.num_wanted <= self.num_wanted
            and size.longest_prompt <= self.longest_prompt
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows, tokens = self.num_audio_tokens, self.num_tokens
        return {
            "table": (5, self.num_chunks),  # as `chunk_table` makes it
            "before": (self.num_stretches + 1,),  # bits of what was heard before each stretch
            "followed": (2, self.num_followed),  # as `following` makes it, then pairs of nobody
            "kept": (rows,),  # the encoder's rows that are real, then any
            "windows": (self.num_windows + 1,),  # bounds of the encoder's windows
            "audio_rows": (rows,),  # where each goes in the prompts; beyond their end = nowhere
            "layout": (3, tokens),  # token ids, positions and cache places
            "prompts": (self.num_prompts + 1,),  # bounds of the prompts
            "tiles": (self.num_tiles, 5),  # as `prompt_tiles` makes them, then empty ones
            "checks": (4, self.num_wanted),  # as `Checks.rows` makes them
            "slots": (self.num_sequences,),
        }

    def heard(self, stretches: abc.Sequence[Stretch], sent: Ints) -> None:
        """Fill in the first parts, which the log-mel needs, of all that is sent [num_ints]."""
        table, before, followed = self._views(sent, 0, NUM_HEARD)
        made, pairs = chunk_table(stretches), following(stretches)
        table[:, : made.shape[1]] = made
        table[:, made.shape[1] :] = 0
        table[0, made.shape[1] :] = self.num_stretches  # one of its own, without any sample
        before[:] = NOTHING_HEARD
        before[: len(stretches)] = loudest_before(stretches).view(np.int32)
        followed[:] = self.num_stretches
        followed[:, : pairs.shape[1]] = pairs

    def encoded(self, stretches: abc.Sequence[Stretch], sent: Ints) -> None:
        """Fill in the parts behind them, which the encoder's layers need: the rows of real audio
        among 13 for each second, and the windows' bounds."""
        kept, windows = self._views(sent, NUM_HEARD, NUM_ENCODED)
        rows = AudioPlan.kept_rows([s.num_frames for s in stretches])
        kept[: len(rows)] = rows
        kept[len(rows) :] = 0
        lengths = AudioPlan.window_lengths([s.num_tokens for s in stretches], self.window_tokens)
        self._divide(lengths, len(kept) - len(rows), self.window_tokens, windows)

    def placed(
        self, sequences: Batch, layout: PromptLayout, scratch: tuple[int, int], sent: Ints
    ) -> None:
        """Fill in all further parts; `scratch`: slot and first place of its page."""
        scratch_slot, scratch_place = scratch
        audio_rows, rows, prompts, tiles, checks, slots = self._views(sent, NUM_ENCODED, None)
        audio_rows[: len(layout.audio_rows)] = layout.audio_rows
        audio_rows[len(layout.audio_rows) :] = self.num_tokens  # nowhere
        padding = self.num_tokens - layout.num_tokens
        rows[:, : layout.num_tokens] = layout.rows
        rows[0, layout.num_tokens :] = 0
        rows[1, layout.num_tokens :] = np.arange(padding) % self.padding_tokens
        rows[2, layout.num_tokens :] = scratch_place
        lengths = self._divide(layout.lengths, padding, self.padding_tokens, prompts)
        used = [s.slot for s in sequences]
        made = prompt_tiles(lengths, [s.num_cached for s in sequences], used)
        tiles[: len(made)] = made
        tiles[len(made) :] = 0
        Checks.fill(checks, layout, self.num_sequences, self.num_tokens - 1)
        slots[: len(used)] = used
        slots[len(used) :] = scratch_slot

    def _views(self, sent: Ints, begin: int, end: int | None) -> list[Ints]:
        parts = self.parts[begin:end]
        return [sent[part.first : part.first + part.size].reshape(part.shape) for part in parts]

    @staticmethod
    def _divide(lengths: abc.Sequence[int], padding: int, longest: int, bounds: Ints) -> list[int]:
        """Lengths, and those of padding behind them, whose bounds fill `bounds`; nothing comes
        last."""
        full, rest = divmod(padding, longest)
        sizes = [*lengths, *[longest] * full, *[rest] * (rest > 0)]
        bounds[0] = 0
        np.cumsum(sizes, out=bounds[1 : 1 + len(sizes)])
        bounds[1 + len(sizes) :] = bounds[len(sizes)]
        return sizes
