"""The cache's pages: who holds which, and beginnings of prompts that many sequences share.

A page holds the keys and values of so many tokens, in every layer. Pages are counted by who refers
to them; a page that several refer to is whole and is only read.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

PAGE_TOKENS = 64  # of a page: what the kernels multiply with at a time
PREFIX_SHARE = 4  # shared beginnings hold at most one page in so many


@dataclass(frozen=True, slots=True)
class PageSize:
    """The cache as the scheduler sees it."""

    count: int  # pages that sequences may hold
    tokens: int  # of one page
    ahead: int = 1  # tokens that the device may be ahead of what the host knows

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.tokens)


def pages_of_slot(slot: int, max_length: int, size: PageSize) -> list[int]:
    """The pages of a slot's sequence where each slot has its own, for `max_length` tokens."""
    count = size.pages_for(max_length)
    return list(range(slot * count, (slot + 1) * count))


class PagePool:
    """Free pages, low ones first so that those of a sequence adjoin; who refers to the others."""

    def __init__(self, size: PageSize) -> None:
        self.size = size
        self._free = list(range(size.count))  # a heap
        self._references: dict[int, int] = {}
        self.prefixes = _Prefixes(self)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int]:
        """`count` free pages; shared beginnings that nobody uses go first if there are too few.

        The caller has asked `has` before.
        """
        self.prefixes.give_up(count - len(self._free))
        pages = [heapq.heappop(self._free) for _ in range(count)]
        for page in pages:
            self._references[page] = 1
        return pages

    def has(self, count: int) -> bool:
        return count <= len(self._free) or count <= len(self._free) + self.prefixes.num_unused

    def refer(self, pages: Iterable[int]) -> None:
        """One more holder of each."""
        for page in pages:
            self._references[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """One holder of each less; those without any are free."""
        for page in pages:
            self._references[page] -= 1
            if self._references[page] == 0:
                del self._references[page]
                heapq.heappush(self._free, page)

    def is_shared(self, page: int) -> bool:
        return self._references[page] > 1


class _Prefixes:
    """Beginnings of prompts whose pages are kept: the whole pages of what stands before the audio.

    The tokens behind the last whole page are each sequence's own, so no shared page is ever
    written to again, and none is copied.
    """

    def __init__(self, pool: PagePool) -> None:
        self._pool = pool
        self._pages: OrderedDict[tuple[int, ...], list[int]] = OrderedDict()  # oldest use first
        self._num_pages = 0

    @property
    def num_unused(self) -> int:
        """Pages that nobody but this refers to."""
        return sum(
            not self._pool.is_shared(page) for pages in self._pages.values() for page in pages
        )

    def _key(self, tokens_before: tuple[int, ...]) -> tuple[int, ...]:
        whole = len(tokens_before) // self._pool.size.tokens
        return tokens_before[: whole * self._pool.size.tokens]

    def num_cached(self, tokens_before: tuple[int, ...]) -> int:
        """Tokens of a prompt's beginning that `share` would give."""
        key = self._key(tokens_before)
        return len(key) if key in self._pages else 0

    def share(self, tokens_before: tuple[int, ...]) -> list[int]:
        """The pages of a prompt's beginning, for one more holder; none if it is not known."""
        key = self._key(tokens_before)
        pages = self._pages.get(key)
        if pages is None:
            return []
        self._pages.move_to_end(key)
        self._pool.refer(pages)
        return list(pages)

    def keep(self, tokens_before: tuple[int, ...], pages: list[int]) -> None:
        """Share the beginning of `pages` from now on, if there is room in the share of pages."""
        key = self._key(tokens_before)
        most = self._pool.size.count // PREFIX_SHARE
        count = len(key) // self._pool.size.tokens
        if not key or key in self._pages or count > most:
            return
        while self._num_pages + count > most:
            self._forget_oldest()
        self._pages[key] = pages[:count]
        self._num_pages += count
        self._pool.refer(self._pages[key])

    def give_up(self, num_missing: int) -> None:
        """Forget beginnings until so many more pages are free; the least recently used first."""
        wanted = self._pool.num_free + num_missing
        while self._pages and self._pool.num_free < wanted:
            self._forget_oldest()

    def clear(self) -> None:
        """Forget all: what is in their pages is not to be trusted."""
        while self._pages:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, pages = self._pages.popitem(last=False)
        self._num_pages -= len(pages)
        self._pool.release(pages)
