"""A server's own threads. Its local work is on arrays by row, or sums in a ring, so it comes out alike to the bit however it is split.

Only arrays that are large are split: handing work over takes some microseconds, and most rounds have less to do than that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Work = Callable[[int, int], object]
"""work(first, last): do what there is to do from first to last."""

LEAST_ROWS = 1 << 13
"""Rows below which one thread does all."""

LEAST_PRODUCTS = 1 << 20
"""Products in Z_2^32 below which one thread does all."""

LEAST_BYTES = 1 << 17
"""Of two streams, below which one thread draws both."""


class Threads(Protocol):
    """Threads of this process that work for one server."""

    def share(self, work: Work, count: int) -> None:
        """Call `work` for consecutive ranges that make up 0 to count, at the same time; return when all are done, or raise."""


class OneThread:
    """No other thread."""

    def share(self, work: Work, count: int) -> None:
        """All at once."""
        if count:
            work(0, count)


ALONE = OneThread()


def by_rows(threads: Threads, work: Work, rows: int) -> None:
    """Share out work on so many rows, where they are many."""
    (threads if rows >= LEAST_ROWS else ALONE).share(work, rows)
