"""A party's rows as training reads them: some features at a time, as often as it needs them. Rows in memory give all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LARGE_CELLS = 2**28
"""Rows times features from which on memory counts more than time."""

_BYTE_END = 256

_PART_ROWS = 2**20


class Columns(Protocol):
    """One party's rows. They never leave the party."""

    @property
    def label(self) -> Array:
        """float32 (n_rows,), finite; of several labels (labels, n_rows)."""

    @property
    def weight(self) -> Array | None:
        """float32 (n_rows,), finite, not negative, not all zero; None where the schema names none."""

    @property
    def base_margin(self) -> Array | None:
        """float32 (outputs, n_rows), each row's margin before the first tree; None where the schema names none."""

    @property
    def subject(self) -> Array | None:
        """uint64 (n_rows,), the hash of whom or what each row is of (`holdout.hash_subjects`); None where the schema names no id."""

    @property
    def dictionaries(self) -> Mapping[str, tuple[str, ...]]:
        """The party's own levels, sorted, of the features whose levels no plan lists: what their codes stand for."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but probably not meant, in sentences for the party's own eyes."""

    @property
    def n_rows(self) -> int:
        """Rows of the table."""

    @property
    def n_features(self) -> int:
        """Features of the schema."""

    @property
    def large(self) -> bool:
        """Whether training spends time to spare memory."""

    def groups(self) -> Iterator[tuple[int, Array]]:
        """All features in order, some at a time: the number of the first, and float32 (some, n_rows), C-contiguous, NaN missing.

        Raises RowsLost where they cannot be read, or are not what they were before.
        """

    def close(self) -> None:
        """Let go of what is open: no feature is read after this."""


def each(columns: Columns) -> Iterator[Array]:
    """The features one by one: float32 (n_rows,), NaN missing."""
    for _, group in columns.groups():
        yield from group
        del group  # before the next ones are read


def whole(columns: Columns) -> Array:
    """All features in memory, float32 (n_features, n_rows)."""
    groups = [group for _, group in columns.groups()]
    return groups[0] if len(groups) == 1 else np.concatenate(groups)


@dataclass(frozen=True, eq=False)
class StoredColumn:
    """A column kept through training, in as few bytes as hold it.

    Attributes:
        values: float32 (n_rows,); or uint8 (n_rows,) where all are whole numbers from 0 to 255; or uint8, eight rows a byte, where all
            are 0 or 1. bits: whether it is the last.
        n_rows: of the column.
    """

    values: Array
    bits: bool
    n_rows: int

    @classmethod
    def of(cls, values: Array, small: bool) -> StoredColumn:
        """Keep float32 `values` (n_rows,); as they are unless `small`."""
        n_rows = len(values)
        if not small or not _are_bytes(values):
            return cls(values, False, n_rows)
        numbers = np.empty(n_rows, np.uint8)
        for part in _parts(n_rows):
            numbers[part] = values[part]
        if numbers.max(initial=0) > 1:
            return cls(numbers, False, n_rows)
        return cls(np.packbits(numbers), True, n_rows)

    def part(self, first: int, end: int) -> Array:
        """Rows first to end as float32 (end - first,); `first` is a multiple of 8."""
        if self.bits:
            return np.unpackbits(self.values[first // 8 :], count=end - first).astype(np.float32)
        return self.values[first:end].astype(np.float32, copy=False)


def _parts(n_rows: int) -> Iterator[slice]:
    """All rows, some at a time, so that what is made of them takes little memory."""
    for first in range(0, n_rows, _PART_ROWS):
        yield slice(first, first + _PART_ROWS)


def _are_bytes(values: Array) -> bool:
    for part in _parts(len(values)):
        own = values[part]
        if not ((own >= 0) & (own < _BYTE_END) & ~np.signbit(own) & (own == np.floor(own))).all():
            return False
    return True
