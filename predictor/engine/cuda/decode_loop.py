"""The decode loop's state on the device, and its step: plain calls, or one graph for each bucket.

Each slot's newest token, position and pages stay on the device, so a step needs nothing from the
host but the list of slots, and new pages, and those only when they change.
"""

from __future__ import annotations

from collections import Counter, abc
from collections.abc import Mapping
from itertools import takewhile

import numpy as np
import torch
from torch import Tensor

from predictor.engine.cuda.capture import Capturer
from predictor.engine.sequence import Batch, Sequence
from predictor.model.attention import to_device
from predictor.model.cuda.decoder import FusedDecoder
from predictor.model.cuda.slots import SlotState
from predictor.model.cuda.step import StepDecoder, StepEnds

# From so many sequences on, if so many begin alike and read so many pages less together, a
# beginning is read once for all: it takes a kernel more in every layer.
LEAST_ROWS, LEAST_SHARERS, LEAST_PAGES = 64, 16, 256


class DecodeLoop:
    """Runs steps for the first rows of a list of slots; the last slot is scratch."""

    def __init__(
        self,
        fused: FusedDecoder,
        few: abc.Sequence[tuple[int, StepDecoder]],
        *,
        num_slots: int,
        max_length: int,
        page_tokens: int,
        tables: Tensor,
    ) -> None:
        """`few`: up to how many sequences which decoder runs steps instead of `fused`, the fewest
        first; `tables` as `page_tables` makes them."""
        self._fused = fused
        self._few = few
        self._page_tokens = page_tokens
        self._device = device = tables.device
        self.tables = tables  # [slots and one, pages of a sequence]
        self._scratch_page = int(tables[-1, 0])
        self._in_tables: dict[int, tuple[Sequence, int, int]] = {}  # slot -> whose pages, how many
        self.scratch = num_slots  # rows that only fill a bucket write to it
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}
        # The same for steps of sequences of which many begin alike.
        self.shared_graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self.shares = False  # the rows do, and the two tensors below say how
        self._synced: dict[int, Sequence] = {}  # slot -> whose state the device holds
        self._in_rows: tuple[Sequence, ...] = ()  # what `rows` lists
        long = torch.int64
        # Each slot's newest token, and where it belongs.
        self.tokens = torch.zeros(num_slots + 1, dtype=long, device=device)
        self.positions = torch.zeros(num_slots + 1, dtype=long, device=device)
        # Slots of the next steps, and what the newest one brought.
        self.rows = torch.full((num_slots,), self.scratch, dtype=long, device=device)
        self.results = torch.zeros(num_slots, 2, device=device)
        state = SlotState(self.tokens, self.positions, tables, page_tokens, max_length)
        use_kernels = fused.fusion.ends and fused.fusion.head
        self._ends = StepEnds(state, fused.embedding, use_kernels=use_kernels)
        # Pages of the beginning that most rows share, and the tokens of it that each begins with.
        self._shared_pages = torch.full_like(tables[0], self._scratch_page)
        self._shared_counts = torch.zeros(num_slots, dtype=torch.int32, device=device)

    def mark_synced(self, sequences: Batch) -> None:
        """The device holds the state of these now: a prefill put it there."""
        self._synced.update((s.slot, s) for s in sequences)

    def bring_pages(self, sequences: Batch) -> None:
        """The device's tables list the pages of these, for all that is started from here on."""
        changed = []
        for sequence in sequences:
            known = (sequence, sequence.num_preempted, len(sequence.pages))
            if self._in_tables.get(sequence.slot) != known:
                self._in_tables[sequence.slot] = known
                changed.append(sequence)
        if not changed:
            return
        sent = np.full((len(changed), 1 + self.tables.shape[1]), self._scratch_page)
        for row, sequence in zip(sent, changed, strict=True):
            row[0] = sequence.slot
            row[1 : 1 + len(sequence.pages)] = sequence.pages
        on_device = to_device(sent, self._device)
        self.tables.index_copy_(0, on_device[:, 0], on_device[:, 1:])

    @property
    def nowhere(self) -> tuple[int, int]:
        """The scratch slot, and the first place of its page."""
        return self.scratch, self._scratch_page * self._page_tokens

    def forget(self) -> None:
        """The host's word counts again, for every sequence."""
        self._synced.clear()
        self._in_tables.clear()
        self._in_rows = ()

    def point_rows_at(
        self,
        sequences: tuple[Sequence, ...],
        ahead: Mapping[Sequence, list[int]],
        beginning: abc.Sequence[int] = (),
    ) -> None:
        """List the sequences' slots, and bring the state of those the device does not know.

        `ahead`: tokens that were read, but not handed out; `beginning`: pages with which many of
        the sequences begin.
        """
        self.bring_pages(sequences)
        unknown = [s for s in sequences if self._synced.get(s.slot) is not s]
        if unknown:
            said = [[*s.tokens[-1:], *ahead.get(s, [])] for s in unknown]
            lengths = [s.length + len(ahead.get(s, [])) for s in unknown]
            state = [[s.slot for s in unknown], [t[-1] for t in said], [n - 1 for n in lengths]]
            slots, tokens, positions = to_device(
                np.array(state, dtype=np.int64), self._device
            ).unbind()
            self.tokens.index_copy_(0, slots, tokens)
            self.positions.index_copy_(0, slots, positions)
            self.mark_synced(unknown)
        if self._in_rows == sequences:
            return
        rows = np.full(self.scratch, self.scratch, dtype=np.int64)
        rows[: len(sequences)] = [s.slot for s in sequences]
        self.rows.copy_(to_device(rows, self._device), non_blocking=True)
        self._in_rows = sequences
        self.shares = bool(beginning)
        if beginning:
            self._share(sequences, beginning)

    def _share(self, sequences: Batch, beginning: abc.Sequence[int]) -> None:
        pages = np.full(len(self._shared_pages), self._scratch_page)
        pages[: len(beginning)] = beginning
        self._shared_pages.copy_(to_device(pages, self._device), non_blocking=True)
        num_tokens, first = len(beginning) * self._page_tokens, beginning[0]
        counts = np.zeros(len(self._shared_counts), dtype=np.int32)
        counts[: len(sequences)] = [num_tokens * (s.pages[0] == first) for s in sequences]
        self._shared_counts.copy_(to_device(counts, self._device), non_blocking=True)

    def run(self, bucket: int, results: Tensor) -> None:
        """Steps for the first `bucket` rows, one for each of `results` [steps, bucket, 2]."""
        graph = self.graphs_of(self.shares).get(bucket)
        for step in results:
            if graph is None:
                self.step(bucket, shares=self.shares)
            else:
                graph.replay()
            step.copy_(self.results[:bucket], non_blocking=True)

    def graphs_of(self, shares: bool) -> dict[int, torch.cuda.CUDAGraph]:
        """Of steps in which many sequences begin alike, or of all others."""
        return self.shared_graphs if shares else self.graphs

    def step(self, bucket: int, *, shares: bool = False) -> None:
        """One token for the first `bucket` rows; every input and output is a static buffer.

        `shares`: what many rows begin with is read once for all of them.
        """
        shared = (self._shared_pages, self._shared_counts[:bucket]) if shares else None
        x, where = self._ends.enter(self.rows[:bucket], shared)
        few = (decoder for most, decoder in self._few if bucket <= most)
        decoder: StepDecoder = next(few, self._fused)
        self._ends.leave(decoder, decoder.decode(x, where), where, self.results[:bucket])

    def capture(self, bucket: int, capturer: Capturer, *, shares: bool = False) -> None:
        """Make the graph of one bucket; until then its steps run without."""
        self.rows.fill_(self.scratch)
        self._shared_counts.zero_()
        self._in_rows = ()
        self.graphs_of(shares)[bucket] = capturer.capture(lambda: self.step(bucket, shares=shares))


def beginning_of_many(sequences: Batch) -> list[int]:
    """Pages with which many of the sequences begin, where it pays to read them once for all."""
    if len(sequences) < LEAST_ROWS:
        return []
    first, count = Counter(s.pages[0] for s in sequences).most_common(1)[0]
    if count < LEAST_SHARERS:
        return []
    lists = [s.pages for s in sequences if s.pages[0] == first]
    one, other = min(lists), max(lists)  # what these have in common all others have
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    pages = [page for page, _ in pairs]
    return pages if count * len(pages) >= LEAST_PAGES else []


def page_tables(
    num_slots: int, max_length: int, page_tokens: int, scratch_page: int, device: torch.device
) -> Tensor:
    """[slots and one for scratch, pages of the longest sequence] int64: all the scratch page."""
    shape = (num_slots + 1, -(-max_length // page_tokens))
    return torch.full(shape, scratch_page, dtype=torch.int64, device=device)
