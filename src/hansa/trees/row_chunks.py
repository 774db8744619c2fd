"""A party's rows in chunks of 65,536, so that two bytes say which row of its chunk a row is.

A tree's rows are reordered within their chunk only: where a node's rows of one chunk stand is a span of `rows`, and a node has one
span a chunk. That takes half the memory of row numbers of four bytes, and no second array to reorder them through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CHUNK_ROWS = 1 << 16


class ChunkedRows(NamedTuple):
    """Some rows of a table.

    Attributes:
        rows: uint16 (n_rows,), which other sets of rows of the same table may share.
        starts, ends: int64 (chunks,): rows[starts[c] : ends[c]] are chunk c's, and r there is the table's row CHUNK_ROWS c + r.
    """

    rows: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return int((self.ends - self.starts).sum())

    def of_chunk(self, chunk: int) -> npt.NDArray[np.uint16]:
        """The rows of one chunk, numbered within it."""
        return self.rows[self.starts[chunk] : self.ends[chunk]]


def spans(n_rows: int) -> Iterator[tuple[int, int, int]]:
    """(chunk, its first row, the row behind its last one) of every chunk of a table."""
    for chunk, first in enumerate(range(0, n_rows, CHUNK_ROWS)):
        yield chunk, first, min(first + CHUNK_ROWS, n_rows)


def part(
    n_rows: int,
    chosen: Callable[[int, int], npt.NDArray[np.bool_]] | None,
    rows: npt.NDArray[np.uint16],
) -> tuple[ChunkedRows, ChunkedRows]:
    """The rows that are chosen, and all others, each ascending within a chunk; both share one array.

    Args:
        chosen: (first, end) -> bool (end - first,), of the rows of one chunk; None chooses all.
        rows: uint16 (n_rows,), overwritten: the array that both share.
    """
    numbers = np.arange(min(n_rows, CHUNK_ROWS)).astype(np.uint16)
    starts = np.arange(0, n_rows, CHUNK_ROWS)
    ends = np.minimum(starts + CHUNK_ROWS, n_rows)
    middles = ends.copy()
    for chunk, first, end in spans(n_rows):
        own = numbers[: end - first]
        if chosen is not None:
            inside = chosen(first, end)
            middles[chunk] = first + np.count_nonzero(inside)
            own = np.concatenate([own[inside], own[~inside]])
        rows[first:end] = own
    return ChunkedRows(rows, starts, middles), ChunkedRows(rows, middles, ends)
