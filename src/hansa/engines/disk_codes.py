"""The codes of a party's rows in a memory-mapped file, so that rows times features may exceed memory. See `row_codes.RowCodes`.

The file stands chunk by chunk (`trees.row_chunks`), and within a chunk feature by feature: a block of 65,536 codes each. A level is
one pass over it: each chunk's rows move to the next nodes, and the histograms of these nodes are built, while its blocks are in memory.
Where no histogram is needed, only the blocks of the features that nodes are split by are read. What does not depend on the number of
features stays in memory: margins, labels, packed gradients.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from hansa.data.binning import bin_columns, code_type
from hansa.data.quantiles import Cuts
from hansa.errors import OutputError
from hansa.files import failed
from hansa.roles.summed.row_codes import Groups, RowCodes, RowsInTree, missing_codes
from hansa.trees.growth import advance, nodes_to_build
from hansa.trees.histogram import Int64, Layout, add_chunk
from hansa.trees.level import Level
from hansa.trees.row_chunks import CHUNK_ROWS, ChunkedRows, spans
from hansa.trees.worker_pool import StartSignal, WorkerPool, send_start

_LOG = logging.getLogger("hansa.engines")

TOLD_EVERY_S = 10.0
"""Seconds between two lines of the log about one pass."""

_NO_NODES = np.zeros(0, np.int64)


class DiskFolder:
    """Makes files of codes in a folder. Each has no name, and is this user's alone (mode 0600): it ends with the process at the latest.

    Args:
        folder: where. owner: the party, for what is logged.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder = folder
        self._owner = owner
        self._made: list[CodesOnDisk] = []
        _prepare()

    def code(
        self,
        groups: Groups,
        n_rows: int,
        cuts: Cuts,
        n_categories: npt.NDArray[np.int32],
        held: npt.NDArray[np.bool_],
        _large: bool,
        pool: WorkerPool,
    ) -> RowCodes:
        """`row_codes.CodeRows` into a file. Raises OutputError where the folder has no room for it, before anything is coded."""
        dtype = code_type(cuts)
        size = n_rows * cuts.n_features * dtype().itemsize
        progress = _Progress(f"party {self._owner!r}: features coded", cuts.n_features)
        try:
            with tempfile.TemporaryFile(dir=self._folder, prefix="hansa-", buffering=0) as file:
                _reserve(file, size)
                for feature, codes in enumerate(bin_columns(groups, cuts, pool.threads, held)):
                    _write(file.fileno(), codes, feature, cuts.n_features)
                    progress.add()
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise _no_room(self._folder, size, error) from error
        made = CodesOnDisk(mapped, np.dtype(dtype), n_rows, cuts, n_categories, pool, self._owner)
        self._made.append(made)
        return made

    def close(self) -> None:
        """Let the files go. Nothing is asked of their codes any more."""
        for made in self._made:
            made.close()
        self._made = []


def _prepare() -> None:
    """Compile the kernel that no other party uses, or load it from the cache, before anybody waits for this member."""
    none, some = np.zeros(0, np.int64), np.zeros((1, 1), np.int64)
    for dtype in (np.uint8, np.uint16):
        codes = np.zeros((1, 1), dtype)
        of_nodes = np.zeros(1, np.uint16), none, none, some, 0, np.zeros(1, np.int64)
        add_chunk(codes, np.zeros(0, np.uint32), np.zeros(1, np.uint64), *of_nodes, np.zeros((0, 1, 0), np.int64))


def _no_room(folder: Path, size: int, error: OSError) -> OutputError:
    why = failed(folder, error)
    return OutputError(f"engine.folder needs {size:,} bytes for this party's codes: {why}", retry=why.retry)


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room on the disk now: what is read through a map can report no error. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


def _write(descriptor: int, codes: npt.NDArray[Any], feature: int, n_features: int) -> None:
    """Put the codes of one feature, (n_rows,), where its blocks stand."""
    for _, first, end in spans(len(codes)):
        at = (first * n_features + feature * (end - first)) * codes.itemsize
        left = codes[first:end].data.cast("B")
        while left:
            written = os.pwrite(descriptor, left, at)
            left, at = left[written:], at + written


class _Progress:
    """Tells the log how far a long pass is, every `TOLD_EVERY_S` at most. Threads share one."""

    def __init__(self, what: str, count: int) -> None:
        self._what = what
        self._count = count
        self._done = 0
        self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self) -> None:
        """One more is done."""
        with self._lock:
            self._done += 1
            now = time.monotonic()
            if now - self._told < TOLD_EVERY_S:
                return
            self._told = now
            done = self._done
        _LOG.info("%s: %d of %d", self._what, done, self._count)


class CodesOnDisk:
    """See `row_codes.RowCodes`.

    Args:
        mapped: the file. dtype: of codes. n_rows, cuts, n_categories: as for `DiskFolder.code`. pool: compute threads: each passes over
            chunks of its own. owner: the party, for what is logged.
    """

    def __init__(
        self,
        mapped: mmap.mmap,
        dtype: np.dtype[Any],
        n_rows: int,
        cuts: Cuts,
        n_categories: npt.NDArray[np.int32],
        pool: WorkerPool,
        owner: str,
    ) -> None:
        self._map = mapped
        self._dtype = dtype
        self._n_rows = n_rows
        self._n_features = cuts.n_features
        self.missing = missing_codes(cuts)
        self.n_categories = n_categories
        self.pool = pool
        self.owner = owner
        self.spans = list(spans(n_rows))
        rows = min(n_rows, CHUNK_ROWS)
        self.scratch = np.empty((pool.threads, rows), np.uint16)
        self.in_order = np.empty((pool.threads, rows), np.int64)

    def close(self) -> None:
        """Let the file go."""
        with contextlib.suppress(BufferError):  # an array of it is still in use where a run failed: it goes with that
            self._map.close()

    def of_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        found = np.empty((len(rows), self._n_features), self._dtype)
        chunk_of = rows // CHUNK_ROWS
        for chunk in np.unique(chunk_of).tolist():
            asked = np.flatnonzero(chunk_of == chunk)
            found[asked] = self.codes_of(chunk)[:, rows[asked] - chunk * CHUNK_ROWS].T
        return found

    def arrays(self) -> Iterator[npt.NDArray[Any]]:
        for chunk in range(len(self.spans)):
            yield self.codes_of(chunk)

    def start_tree(self, inside: ChunkedRows, outside: ChunkedRows, margins: npt.NDArray[np.float32]) -> RowsInTree:
        return _TreeOnDisk(self, inside, outside, margins)

    def codes_of(self, chunk: int) -> npt.NDArray[Any]:
        """(n_features, rows of the chunk), a view of the file."""
        _, first, end = self.spans[chunk]
        count, at = (end - first) * self._n_features, first * self._n_features * self._dtype.itemsize
        return np.frombuffer(self._map, self._dtype, count, at).reshape(self._n_features, end - first)

    def advise(self, chunk: int, *, soon: bool) -> None:
        """Have the system read a chunk before its turn, or let its memory go."""
        if chunk >= len(self.spans) or not hasattr(self._map, "madvise"):
            return
        _, first, end = self.spans[chunk]
        size = self._n_features * self._dtype.itemsize
        advice = mmap.MADV_WILLNEED if soon else mmap.MADV_DONTNEED
        self._map.madvise(advice, first * size, (end - first) * size)


class _TreeOnDisk:
    """See `RowsInTree`. The trees that grow side by side pass over the file one after the other.

    Args:
        codes: the file. inside, outside, margins: as for `RowCodes.start_tree`.
    """

    def __init__(
        self, codes: CodesOnDisk, inside: ChunkedRows, outside: ChunkedRows, margins: npt.NDArray[np.float32]
    ) -> None:
        self._file = codes
        self.n_rows = inside.n_rows
        self._inside, self._outside = (_Nodes(rows.starts[None], rows.ends[None]) for rows in (inside, outside))
        self._rows, self._margins = inside.rows, margins
        self._has_outside = outside.n_rows > 0
        self._layout: Layout | None = None
        self._built, self._sums = _NO_NODES, np.zeros((0, 0, 0), np.int64)

    def histograms(self, layout: Layout, positions: Int64, packed: Int64, out: Int64) -> None:
        self._layout, self._packed = layout, packed
        if not len(self._built) or not np.isin(positions, self._built).all():
            self._pass(None, positions)
        out[:] = self._sums[np.searchsorted(self._built, positions)]

    def move(self, level: Level) -> Int64:
        """As `RowCodes.move`; all other rows move along, and the histograms that are asked for next are built in the same pass."""
        # Where a run is resumed, trees are followed whose histograms nobody asks for.
        builds = self._layout is not None and not level.last
        return self._pass(level, nodes_to_build(level.build_left) if builds else _NO_NODES)

    def follow(self, level: Level) -> None:
        """Nothing: `move` moved these rows too."""

    def _pass(self, level: Level | None, positions: Int64) -> Int64:
        """Move all rows by a level, if there is one, then build the histograms of the nodes at `positions`, chunk by chunk.

        Returns int64 (2 splits,): how many rows of the tree reach each child.
        """
        file, layout = self._file, self._layout
        threads = file.pool.threads
        splits = 0 if level is None else len(level.splits)
        counts = np.zeros((threads, 2 * splits), np.int64)
        shape = (len(positions), 0, 0)
        if layout is not None and len(positions):
            shape = len(positions), len(self._packed), layout.cells
        sums = np.zeros((threads, *shape), np.int64)
        inside = self._inside if level is None else self._inside.below(level)
        outside = self._outside.below(level) if level is not None and self._has_outside else self._outside
        progress = _Progress(f"party {file.owner!r}: blocks of rows passed", len(file.spans))

        def work(thread: int, begin: int, end: int, start_signal: StartSignal) -> None:
            send_start(start_signal)
            scratch, in_order = file.scratch[thread], file.in_order[thread]
            for chunk in range(begin, end):
                if layout is not None and len(positions) and chunk + 1 < end:
                    file.advise(chunk + 1, soon=True)
                codes = file.codes_of(chunk)
                _, first, last = file.spans[chunk]
                if level is not None:
                    margins = self._margins[first:last]
                    counts[thread] += self._advance(codes, scratch, chunk, self._inside, inside, level, margins)
                    if self._has_outside:
                        self._advance(codes, scratch, chunk, self._outside, outside, level, margins)
                if layout is not None and len(positions):
                    starts, ends = inside.starts[positions, chunk], inside.ends[positions, chunk]
                    of_nodes = self._rows, starts, ends, self._packed, first, in_order
                    add_chunk(codes, layout.columns, layout.offsets, *of_nodes, sums[thread])
                del codes
                file.advise(chunk, soon=False)
                progress.add()

        file.pool.share(work, len(file.spans))
        self._inside, self._outside = inside, outside
        self._built, self._sums = positions, sums[0] if threads == 1 else sums.sum(axis=0)
        total: Int64 = counts.sum(axis=0)
        return total

    def _advance(
        self,
        codes: npt.NDArray[Any],
        scratch: npt.NDArray[np.uint16],
        chunk: int,
        before: _Nodes,
        after: _Nodes,
        level: Level,
        margins: npt.NDArray[np.float32],
    ) -> Int64:
        """Move the rows of one chunk."""
        # Copies: kernels are compiled for arrays that are contiguous.
        spans_before = before.starts[:, chunk, None].copy(), before.ends[:, chunk, None].copy()
        starts, ends, counts = advance(
            codes, self._file.missing, self._file.n_categories, self._rows, scratch, *spans_before, *level, margins
        )
        after.starts[:, chunk], after.ends[:, chunk] = starts[:, 0], ends[:, 0]
        found: Int64 = counts
        return found


class _Nodes:
    """Where the rows of each active node stand: int64 starts, ends (active, chunks)."""

    def __init__(self, starts: Int64, ends: Int64) -> None:
        self.starts = starts
        self.ends = ends

    def below(self, level: Level) -> _Nodes:
        """Room for those of the next level."""
        shape = level.active_below(len(self.starts)), self.starts.shape[1]
        return _Nodes(np.empty(shape, np.int64), np.empty(shape, np.int64))
