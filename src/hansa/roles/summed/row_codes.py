"""The codes of a party's rows, and where the rows stand in the tree that grows: what `rows_in_memory` asks of who holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hansa.data.binning import BinnedRows, bin_groups
from hansa.data.quantiles import Cuts
from hansa.trees import histogram
from hansa.trees.growth import Buffers, RowPartition
from hansa.trees.histogram import Int64
from hansa.trees.level import Level
from hansa.trees.row_chunks import ChunkedRows
from hansa.trees.sparse_codes import SparseCodes, build_sparse_histograms, sparse_codes
from hansa.trees.worker_pool import WorkerPool

PARALLEL_VALUES = 200_000
"""Rows times columns of a tree below which one thread builds histograms as fast as several."""


class PackedRows(Protocol):
    """Gradients and hessians of all rows as whole numbers (`objective.pack`), int64 (planes, n_rows)."""

    def write(self, first: int, end: int, fill: Callable[[Int64], None]) -> None:
        """Have `fill` write those of one chunk's rows, from first to end, into an array int64 (planes, end - first)."""


class RowsInTree(Protocol):
    """One party's rows in a tree that grows. Calls come by level: `histograms`, `move`, `follow`.

    Attributes:
        n_rows: how many rows the tree trains on.
    """

    @property
    def n_rows(self) -> int: ...

    def histograms(self, layout: histogram.Layout, positions: Int64, packed: Any, out: Int64) -> None:
        """Write the histograms of the active nodes at `positions` to out, int64 (positions, planes, cells).

        Args:
            packed: what the `pack` of the same codes made, the same through a tree.
        """

    def move(self, level: Level) -> Int64:
        """The rows trained on move to the next level; int64 (2 splits,): how many reach each child."""

    def follow(self, level: Level) -> None:
        """All other rows move to the next level, as `move` was told."""


class RowCodes(Protocol):
    """The codes of one party's rows. They never leave the party. Several trees may grow at a time."""

    def start_tree(self, inside: ChunkedRows, outside: ChunkedRows, margins: npt.NDArray[np.float32]) -> RowsInTree:
        """All rows at the root of a tree.

        Args:
            inside: the rows trained on. outside: all others, which share an array with them. Both are reordered.
            margins: float32 (n_rows,): increased by the leaf values as leaves appear.
        """

    def pack(self, planes: int) -> PackedRows:
        """Room for the packed gradients of all rows. Raises OutputError where there is none."""

    def of_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """The codes of some rows, (rows, n_features)."""

    def arrays(self) -> Iterator[npt.NDArray[Any]]:
        """All codes, in the order in which they are held."""


Groups = Iterable[tuple[int, npt.NDArray[np.float32]]]
"""As `data.columns.Columns.groups`."""

CodeRows = Callable[
    [Groups, int, Cuts, npt.NDArray[np.int32], npt.NDArray[np.bool_], bool, WorkerPool],
    RowCodes,
]
"""(features, rows, cuts, categories of each feature, held-out rows or `ALL_ROWS`, whether memory counts more than time, threads) ->
their codes. Raises DataError as `binning.bin_groups`; RowsLost where the features cannot be read any more."""


def missing_codes(cuts: Cuts) -> npt.NDArray[np.int32]:
    """The code of each feature that means missing, or -1: int32 (n_features,)."""
    return np.where(cuts.has_missing, cuts.n_codes - 1, -1).astype(np.int32)


def code_in_memory(
    groups: Groups,
    n_rows: int,
    cuts: Cuts,
    n_categories: npt.NDArray[np.int32],
    held: npt.NDArray[np.bool_],
    large: bool,
    pool: WorkerPool,
) -> RowCodes:
    """`CodeRows` into this process's memory."""
    binned = bin_groups(groups, n_rows, cuts, pool.threads, held, twice=not large)
    sparse = None if large else sparse_codes(binned.codes_by_feature, binned.offsets)
    return CodesInMemory(binned, missing_codes(cuts), n_categories, pool, sparse)


class PackedInMemory:
    """See `PackedRows`.

    Attributes:
        values: int64 (planes, n_rows).
    """

    def __init__(self, planes: int, n_rows: int) -> None:
        self.values = np.empty((planes, n_rows), np.int64)

    def write(self, first: int, end: int, fill: Callable[[Int64], None]) -> None:
        fill(self.values[:, first:end])


class CodesInMemory:
    """See `RowCodes`.

    Args:
        binned: the codes. missing, n_categories: int32 (n_features,): the code that means missing, or -1; categories, 0 of a feature
            that has none. pool: compute threads. sparse: the same codes, where they are sparse.
    """

    def __init__(
        self,
        binned: BinnedRows,
        missing: npt.NDArray[np.int32],
        n_categories: npt.NDArray[np.int32],
        pool: WorkerPool,
        sparse: SparseCodes | None = None,
    ) -> None:
        self._sparse = sparse
        self._binned = binned
        self._missing = missing
        self._n_categories = n_categories
        self._pool = pool
        self._buffers = Buffers()

    def start_tree(self, inside: ChunkedRows, outside: ChunkedRows, margins: npt.NDArray[np.float32]) -> RowsInTree:
        codes = self._binned.codes_by_feature
        trained, others = (
            RowPartition(codes, self._missing, self._n_categories, rows, margins) for rows in (inside, outside)
        )
        return _TreeInMemory(self._binned.codes, self._sparse, trained, others, self._pool, self._buffers)

    def pack(self, planes: int) -> PackedInMemory:
        return PackedInMemory(planes, len(self._binned.codes))

    def of_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        codes: npt.NDArray[Any] = self._binned.codes[rows]
        return codes

    def arrays(self) -> Iterator[npt.NDArray[Any]]:
        yield self._binned.codes


class _TreeInMemory:
    """See `RowsInTree`.

    Args:
        codes: uint8 or uint16 (n_rows, n_features). sparse: the same, or None. inside, outside: the rows trained on, and all others.
        buffers: shared by trees.
    """

    def __init__(
        self,
        codes: npt.NDArray[Any],
        sparse: SparseCodes | None,
        inside: RowPartition,
        outside: RowPartition,
        pool: WorkerPool,
        buffers: Buffers,
    ) -> None:
        self._codes = codes
        self._sparse = sparse
        self._inside = inside
        self._outside = outside
        self._pool = pool
        self._buffers = buffers

    @property
    def n_rows(self) -> int:
        return self._inside.n_rows

    def histograms(self, layout: histogram.Layout, positions: Int64, packed: PackedInMemory, out: Int64) -> None:
        partition, pool = self._inside, self._pool
        starts, ends = partition.starts[positions], partition.ends[positions]
        sparse = self._sparse
        if sparse is not None and len(layout.columns) == len(sparse.frequent):
            of_codes = sparse.starts, sparse.cells, sparse.frequent, layout.offsets
            build_sparse_histograms(*of_codes, partition.rows, starts, ends, packed.values, out)
            return
        sums = self._buffers.get("sums", (pool.threads, layout.scratch))
        columns = layout.columns
        work = (self._codes, columns, layout.offsets, layout.stride, partition.rows, starts, ends, packed.values)
        if pool.threads > 1 and partition.n_rows * len(columns) >= PARALLEL_VALUES:
            histogram.build_histograms_parallel(*work, sums, out, pool)
        else:
            histogram.build_histograms(*work, sums, out)

    def move(self, level: Level) -> Int64:
        self._inside.apply(level)
        return self._inside.child_rows

    def follow(self, level: Level) -> None:
        if self._outside.n_rows:
            self._outside.apply(level)
