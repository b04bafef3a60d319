"""Which beginning of a decode step's sequences is read once for all of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from predictor.engine.cuda.decode_loop import (
    LEAST_PAGES,
    LEAST_ROWS,
    LEAST_SHARERS,
    beginning_of_many,
)

CONTEXT = [900, 3, 901, 5, 77, 12, 13, 14]  # pages, in the order of their tokens


def running(sharers: int, others: int, beginning: list[int] = CONTEXT) -> Any:
    """Sequences with pages of their own behind the beginning, and some with none but their own."""
    own = iter(range(1000, 100_000))
    pages = [[*beginning, *(next(own) for _ in range(1 + i % 4))] for i in range(sharers)]
    pages += [[next(own) for _ in range(2 + i % 9)] for i in range(others)]
    return [SimpleNamespace(pages=p) for p in pages]


def test_all_that_sharers_have_in_common_counts_whoever_runs_beside() -> None:
    assert beginning_of_many(running(64, 0)) == CONTEXT
    assert beginning_of_many(running(64, 40)) == CONTEXT
    assert beginning_of_many(list(reversed(running(40, 40)))) == CONTEXT


def test_of_two_beginnings_that_of_most_counts() -> None:
    fewer = running(40, 0, [800, *CONTEXT[1:]])
    assert beginning_of_many([*fewer, *running(60, 0)]) == CONTEXT


@pytest.mark.parametrize(
    ("sharers", "others", "num_pages"),
    [
        (0, LEAST_ROWS, 8),
        (LEAST_ROWS - 1, 0, 8),
        (LEAST_SHARERS - 1, LEAST_ROWS, 8),
        (LEAST_PAGES // 2 - 1, LEAST_ROWS, 2),
        (0, 0, 1),
    ],
)
def test_what_saves_little_is_left(sharers: int, others: int, num_pages: int) -> None:
    assert beginning_of_many(running(sharers, others, CONTEXT[:num_pages])) == []


def test_the_pages_of_one_sequence_alone_are_no_beginning_of_many() -> None:
    sequences = cast("Any", [SimpleNamespace(pages=[i]) for i in range(2 * LEAST_ROWS)])
    assert beginning_of_many(sequences) == []
