"""The codes of a party's rows in a file, so that rows times features may exceed memory. See `row_codes.RowCodes`.

The file stands chunk by chunk (`trees.row_chunks`), and within a chunk feature by feature: a block of 65,536 codes each. A level is
one pass over it: each chunk's rows move to the next nodes, and the histograms of these nodes are built, while its blocks are in memory.
Only the blocks of those features are read that nodes are split by, or histograms are of. Packed gradients are in a second file, in the
same chunks. What stays in memory are each row's margins, its place in the tree and its label.

Files are read and written with `pread` and `pwrite`, not mapped: a disk that fails is then an error with a sentence, where a map would
end the process by a signal (SIGBUS).
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

BLOCK_CHUNKS = 32
"""Chunks of a feature that are coded together."""

FEATURES_AT_ONCE = 64
"""Features of a chunk whose histograms are built together, so that few of a wide table's codes are in memory."""

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
        progress = _Progress(f"party {self._owner!r}: features coded", cuts.n_features)
        made = CodesOnDisk(self._folder, np.dtype(dtype), n_rows, cuts, n_categories, pool, self._owner)
        self._made.append(made)
        for feature, first, codes in bin_columns(groups, cuts, BLOCK_CHUNKS * CHUNK_ROWS, pool.threads, held):
            made.put(feature, first, codes)
            if first + len(codes) == n_rows:
                progress.add()
        return made

    def check_room(self, cells: int) -> None:
        """Refuse a folder that has no room for so many codes, at a byte each, before a run begins. Raises OutputError."""
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise failed(self._folder, error, what="engine.folder", folder=self._folder) from error
        if free < cells:
            raise OutputError(
                f"party {self._owner!r}: engine.folder needs {cells:,} bytes or more for this party's codes, and {self._folder} has "
                f"{free:,} free; free space, or name another folder",
                retry=True,
            )

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


class _File:
    """A file without a name in a folder, of a size that does not change, this user's alone.

    Args:
        folder: where. size: its bytes, for which there is room from now on. what: is in it, for errors.

    Raises OutputError where the folder has no room for it.
    """

    def __init__(self, folder: Path, size: int, what: str) -> None:
        self._folder = folder
        self._what = what
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder, prefix="hansa-", buffering=0)  # noqa: SIM115 (`close`)
            self._descriptor = self._file.fileno()
            _reserve(self._file, size)
        except OSError as error:
            why = failed(folder, error, folder=folder)
            raise OutputError(f"engine.folder needs {size:,} bytes for {what}: {why}", retry=why.retry) from error

    def close(self) -> None:
        """Let it go."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it was let go."""
        return self._file.closed

    def write(self, values: npt.NDArray[Any], at: int) -> None:
        """Put values, C-contiguous, at a byte of the file. Raises OutputError."""
        left = values.data.cast("B")
        try:
            while left:
                written = os.pwrite(self._descriptor, left, at)
                left, at = left[written:], at + written
        except OSError as error:
            raise self._failed("written", error) from error

    def read(self, values: npt.NDArray[Any], at: int) -> None:
        """Fill values, C-contiguous, with what stands at a byte of the file. Raises OutputError."""
        left = values.data.cast("B")
        try:
            while left:
                found = os.preadv(self._descriptor, [left], at)
                if not found:
                    raise OSError(errno.EIO, "its end is missing")
                left, at = left[found:], at + found
        except OSError as error:
            raise self._failed("read", error) from error

    def read_ahead(self, at: int, size: int) -> None:
        """Have the system read some bytes before their turn."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, at, size, os.POSIX_FADV_WILLNEED)

    def _failed(self, how: str, error: OSError) -> OutputError:
        why = error.strerror or str(error)
        return OutputError(
            f"engine.folder, {self._folder}: the file of {self._what} cannot be {how} ({why}); mend the disk, or name another folder, "
            "and start again",
            retry=True,
        )


def _reserve(file: IO[bytes], size: int) -> None:
    """Take the room on the disk now, so that a full one is told before the work and not in the middle of it. Raises OSError."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


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
        folder: where the files are. dtype: of codes. n_rows, cuts, n_categories: as for `DiskFolder.code`. pool: compute threads: each
            passes over chunks of its own. owner: the party, for what is logged.

    Raises OutputError where the folder has no room.
    """

    def __init__(
        self,
        folder: Path,
        dtype: np.dtype[Any],
        n_rows: int,
        cuts: Cuts,
        n_categories: npt.NDArray[np.int32],
        pool: WorkerPool,
        owner: str,
    ) -> None:
        self._folder = folder
        self._dtype = dtype
        self.n_features = cuts.n_features
        self._file = _File(folder, n_rows * cuts.n_features * dtype.itemsize, "this party's codes")
        self._packed: list[PackedOnDisk] = []
        self.missing = missing_codes(cuts)
        self.n_categories = n_categories
        self.pool = pool
        self.owner = owner
        self.spans = list(spans(n_rows))
        rows = min(n_rows, CHUNK_ROWS)
        self.scratch = np.empty((pool.threads, rows), np.uint16)
        self.in_order = np.empty((pool.threads, rows), np.int64)

    def close(self) -> None:
        """Let the files go."""
        self._file.close()
        for own in self._packed:
            own.close()

    @property
    def closed(self) -> bool:
        """Whether the files were let go."""
        return self._file.closed

    def put(self, feature: int, first: int, codes: npt.NDArray[Any]) -> None:
        """Write the codes of one feature where its blocks stand: those of rows from `first` on, which begins a chunk."""
        for chunk in range(first // CHUNK_ROWS, -(-(first + len(codes)) // CHUNK_ROWS)):
            _, begin, end = self.spans[chunk]
            self._file.write(codes[begin - first : end - first], self._at(chunk, feature))

    def _at(self, chunk: int, feature: int) -> int:
        """Where the codes of a feature in a chunk stand, in bytes."""
        _, first, end = self.spans[chunk]
        return (first * self.n_features + feature * (end - first)) * self._dtype.itemsize

    def pack(self, planes: int) -> PackedOnDisk:
        made = PackedOnDisk(self._folder, planes, self.spans, self.pool.threads)
        self._packed.append(made)
        return made

    def of_rows(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        found = np.empty((len(rows), self.n_features), self._dtype)
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

    def codes_of(self, chunk: int, features: npt.NDArray[np.integer] | None = None) -> npt.NDArray[Any]:
        """The codes of some features, ascending, or of all: (features, rows of the chunk)."""
        own = np.arange(self.n_features) if features is None else features
        _, first, end = self.spans[chunk]
        found = np.empty((len(own), end - first), self._dtype)
        if len(own) and own[-1] - own[0] == len(own) - 1:
            self._file.read(found, self._at(chunk, int(own[0])))
        else:
            for row, feature in zip(found, own.tolist(), strict=True):
                self._file.read(row, self._at(chunk, feature))
        return found

    def read_ahead(self, chunk: int) -> None:
        """Have the system read a chunk before its turn."""
        _, first, end = self.spans[chunk]
        self._file.read_ahead(self._at(chunk, 0), (end - first) * self.n_features * self._dtype.itemsize)


class PackedOnDisk:
    """See `row_codes.PackedRows`: chunk by chunk in a file, and within a chunk plane by plane.

    Args:
        folder: where. planes: int64 words of a row. spans: of the chunks. threads: that read.

    Attributes:
        planes: as given.

    Raises OutputError where the folder has no room.
    """

    def __init__(self, folder: Path, planes: int, spans: list[tuple[int, int, int]], threads: int) -> None:
        self.planes = planes
        self._spans = spans
        self._file = _File(folder, 8 * planes * spans[-1][2], "this party's gradients")
        self._blocks = np.empty((threads, planes * spans[0][2]), np.int64)

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def write(self, first: int, end: int, fill: Callable[[Int64], None]) -> None:
        block = self._block(first, end, 0)
        fill(block)
        self._file.write(block, 8 * self.planes * first)

    def of_chunk(self, chunk: int, thread: int) -> Int64:
        """(planes, rows of the chunk), a thread's own until it asks again."""
        _, first, end = self._spans[chunk]
        block = self._block(first, end, thread)
        self._file.read(block, 8 * self.planes * first)
        return block

    def _block(self, first: int, end: int, thread: int) -> Int64:
        found: Int64 = self._blocks[thread, : self.planes * (end - first)].reshape(self.planes, end - first)
        return found


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

    def histograms(self, layout: Layout, positions: Int64, packed: PackedOnDisk, out: Int64) -> None:
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
            shape = len(positions), self._packed.planes, layout.cells
        sums = np.zeros((threads, *shape), np.int64)
        inside = self._inside if level is None else self._inside.below(level)
        outside = self._outside.below(level) if level is not None and self._has_outside else self._outside
        progress = _Progress(f"party {file.owner!r}: blocks of rows passed", len(file.spans))

        builds = layout is not None and len(positions) > 0
        moving = None if level is None else _SplitFeatures.of(level, file)

        def work(thread: int, begin: int, end: int, start_signal: StartSignal) -> None:
            send_start(start_signal)
            scratch, in_order = file.scratch[thread], file.in_order[thread]
            for chunk in range(begin, end):
                if builds and chunk + 1 < end:
                    file.read_ahead(chunk + 1)
                _, first, last = file.spans[chunk]
                if moving is not None:
                    codes, margins = file.codes_of(chunk, moving.features), self._margins[first:last]
                    counts[thread] += self._advance(codes, scratch, chunk, self._inside, inside, moving, margins)
                    if self._has_outside:
                        self._advance(codes, scratch, chunk, self._outside, outside, moving, margins)
                if builds and layout is not None:
                    starts, ends = inside.starts[positions, chunk], inside.ends[positions, chunk]
                    of_nodes = self._rows, starts, ends, self._packed.of_chunk(chunk, thread), 0, in_order
                    for begun in range(0, len(layout.columns), FEATURES_AT_ONCE):
                        columns = layout.columns[begun : begun + FEATURES_AT_ONCE]
                        offsets = layout.offsets[begun : begun + len(columns) + 1]
                        places = np.arange(len(columns), dtype=np.uint32)
                        add_chunk(file.codes_of(chunk, columns), places, offsets, *of_nodes, sums[thread])
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
        moving: _SplitFeatures,
        margins: npt.NDArray[np.float32],
    ) -> Int64:
        """Move the rows of one chunk; codes: of the features that nodes are split by."""
        # Copies: kernels are compiled for arrays that are contiguous.
        spans_before = before.starts[:, chunk, None].copy(), before.ends[:, chunk, None].copy()
        starts, ends, counts = advance(
            codes, moving.missing, moving.n_categories, self._rows, scratch, *spans_before, *moving.level, margins
        )
        after.starts[:, chunk], after.ends[:, chunk] = starts[:, 0], ends[:, 0]
        found: Int64 = counts
        return found


@dataclass(frozen=True, eq=False)
class _SplitFeatures:
    """A level that knows no features but those that its nodes are split by.

    Attributes:
        features: their numbers, ascending. level: with their places there in place of numbers. missing, n_categories: of each.
    """

    features: npt.NDArray[np.integer]
    level: Level
    missing: npt.NDArray[np.int32]
    n_categories: npt.NDArray[np.int32]

    @classmethod
    def of(cls, level: Level, codes: CodesOnDisk) -> _SplitFeatures:
        """Of any level."""
        splits = level.feature >= 0
        features = np.unique(level.feature[splits])
        places = np.where(splits, np.searchsorted(features, level.feature), -1).astype(np.int32)
        return cls(features, level._replace(feature=places), codes.missing[features], codes.n_categories[features])


class _Nodes:
    """Where the rows of each active node stand: int64 starts, ends (active, chunks)."""

    def __init__(self, starts: Int64, ends: Int64) -> None:
        self.starts = starts
        self.ends = ends

    def below(self, level: Level) -> _Nodes:
        """Room for those of the next level."""
        shape = level.active_below(len(self.starts)), self.starts.shape[1]
        return _Nodes(np.empty(shape, np.int64), np.empty(shape, np.int64))
