"""Rows told apart by their own contents, whoever holds them: those held out, those drawn for a tree, and folds."""

from __future__ import annotations

import hashlib
import hmac
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.data.columns import Columns, each


@njit(cache=True, nogil=True, error_model="numpy")
def mix(x):  # type: ignore[no-untyped-def]
    """One round of splitmix64's finaliser (Steele, Lea & Flood 2014): uint64 to uint64, a bijection."""
    x = np.uint64(x)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True, error_model="numpy")
def _hash_column(bits, hashes):  # type: ignore[no-untyped-def]
    for row in range(bits.shape[0]):
        own = bits[row]
        if own & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
            own = np.uint32(0x7FC00000)  # all NaN are one
        elif own == np.uint32(0x80000000):
            own = np.uint32(0)  # and so are both zeros
        hashes[row] = mix(hashes[row] + np.uint64(0x9E3779B97F4A7C15) + np.uint64(own))


def hash_rows(
    features: Iterable[npt.NDArray[np.float32]], labels: npt.NDArray[np.float32], seed: int
) -> npt.NDArray[np.uint64]:
    """A public hash of each row: equal rows have equal ones.

    Args:
        features: one after another, float32 (n_rows,) each, NaN missing; as an array of them is.
        labels: float32 (n_rows,), or (labels, n_rows) of several. seed: another one gives other hashes.

    Returns:
        uint64 (n_rows,).
    """
    hashes = np.full(labels.shape[-1], seed, np.uint64)
    for column in chain(features, np.atleast_2d(labels)):
        _hash_column(np.ascontiguousarray(column).view(np.uint32), hashes)
        del column  # before the next one is read
    return hashes


def share_by_hash(hashes: npt.NDArray[np.uint64], share: float) -> npt.NDArray[np.bool_]:
    """Which rows of these hashes, uint64 (n_rows,), are in a share of about `share`, 0 to 1, of them; bool (n_rows,)."""
    return _shares(hashes) < share


MOST_PAIRED = 2**16
"""About how many rows `equal_pairs` looks at, at most."""

SAMPLE = 0x73616D706C65
"""Keeps the draw of a `RowSample` apart from other uses of row numbers."""


def _sampled(numbers: npt.NDArray[np.int64], halvings: int) -> npt.NDArray[np.bool_]:
    """Which of the rows of these numbers a sample takes: each with a chance of 2^-halvings, by its number alone; bool (rows,)."""
    hashes = mix.py_func(
        numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    )  # no kernel: none is to be compiled for this
    return np.asarray(hashes & np.uint64(2**halvings - 1) == 0)


@dataclass(frozen=True, eq=False)
class RowSample:
    """Hashes of some rows of a table, drawn by their numbers. A sample of few halvings holds the rows of those with more.

    Attributes:
        halvings: each row was taken with a chance of 2^-halvings. numbers: int64 (taken,), rising, from 0.
        hashes: uint64 (taken,), of the columns so far; equal rows have equal ones.
    """

    halvings: int
    numbers: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, n_rows: int) -> RowSample:
        """About `MOST_PAIRED` of so many rows, or all of fewer, no column hashed yet."""
        halvings = _halvings(n_rows)
        numbers = np.zeros(0, np.int64)
        for first in range(0, n_rows, _BLOCK_ROWS):
            block = np.arange(first, min(first + _BLOCK_ROWS, n_rows), dtype=np.int64)
            numbers = np.concatenate([numbers, block[_sampled(block, halvings)]])
        return cls(halvings, numbers, np.full(len(numbers), SAMPLE, np.uint64))

    @classmethod
    def joined(cls, shards: Sequence[RowSample], n_rows: int) -> RowSample:
        """Of a table of so many rows that is read in shards. Rows are numbered in their own shards."""
        halvings = _halvings(n_rows)
        kept = [shard.thinned(halvings) for shard in shards]
        return cls(
            halvings,
            np.concatenate([np.zeros(0, np.int64), *(shard.numbers for shard in kept)]),
            np.concatenate([np.zeros(0, np.uint64), *(shard.hashes for shard in kept)]),
        )

    def thinned(self, halvings: int) -> RowSample:
        """The rows among these that a sample of more halvings takes."""
        taken = _sampled(self.numbers, halvings)
        return RowSample(halvings, self.numbers[taken], self.hashes[taken])

    def add(self, values: npt.NDArray[np.float32], first: int = 0) -> None:
        """Hash one more column, or a block of it: float32 (rows,), NaN missing; `first` is the block's first row."""
        begin, end = np.searchsorted(self.numbers, [first, first + len(values)])
        own = np.ascontiguousarray(values[self.numbers[begin:end] - first])
        _hash_column(own.view(np.uint32), self.hashes[begin:end])

    @property
    def equal_pairs(self) -> float:
        """The share of pairs of different rows that are equal, 0 to 1."""
        n_rows = len(self.hashes)
        counts = np.unique(self.hashes, return_counts=True)[1]
        return float(np.sum(counts * (counts - 1.0)) / (n_rows * (n_rows - 1.0))) if n_rows > 1 else 0.0


def _halvings(n_rows: int) -> int:
    """How often a table of so many rows is halved, so that about `MOST_PAIRED` rows at most are left."""
    return (max(n_rows - 1, 0) // MOST_PAIRED).bit_length()


def codes_of_texts(levels: Sequence[str]) -> npt.NDArray[np.float32]:
    """Numbers in place of a table's own codes that follow from the levels' texts alone; the last one is for no level.

    Returns:
        float32 (levels + 1,).
    """
    return np.array([*(zlib.crc32(level.encode()) % 2**24 for level in levels), 0], np.float32)


@dataclass(frozen=True)
class HoldOut:
    """Which rows are held out.

    Attributes:
        fraction: about this share of the rows, 0 to 1. seed: the plan's seed; another one holds out other rows.
        folds, fold: in place of a share, the rows of one of so many folds, 0 to folds - 1; 0 folds for none.
    """

    fraction: float
    seed: int
    folds: int = 0
    fold: int = 0

    @property
    def any(self) -> bool:
        """Whether any rows are held out."""
        return self.fraction > 0 or self.folds > 0

    @property
    def hash_seed(self) -> int:
        """Of the hashes that `of_hashes` takes."""
        return self.seed ^ FOLDS if self.folds else self.seed

    def of_subjects(self, subjects: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each row of these subjects, uint64 (n_rows,) of `hash_subjects`, is held out, bool (n_rows,)."""
        return self.of_hashes(_keyed(subjects, self.hash_seed))

    def of_hashes(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Whether each row of these hashes, uint64 (n_rows,), is held out, bool (n_rows,)."""
        return _folds(hashes, self.folds) == self.fold if self.folds else share_by_hash(hashes, self.fraction)


def held_out(
    features: Iterable[npt.NDArray[np.float32]],
    labels: npt.NDArray[np.float32],
    rule: HoldOut,
    subjects: npt.NDArray[np.uint64] | None = None,
) -> npt.NDArray[np.bool_]:
    """Which rows are held out: bool (n_rows,).

    Args:
        features, labels: as for `hash_rows`; equal rows are held out together.
        subjects: in place of them, `hash_subjects` of whom each row is of: all rows of one are held out together.
    """
    if not rule.any:
        return np.zeros(labels.shape[-1], np.bool_)
    if subjects is not None:
        return rule.of_subjects(subjects)
    hashes = hash_rows(features, labels, rule.hash_seed)
    held = np.empty(len(hashes), np.bool_)
    for first in range(0, len(hashes), _BLOCK_ROWS):
        held[first : first + _BLOCK_ROWS] = rule.of_hashes(hashes[first : first + _BLOCK_ROWS])
    return held


def equal_pairs(features: Iterable[npt.NDArray[np.float32]], labels: npt.NDArray[np.float32]) -> float:
    """The share of pairs of different rows whose contents are equal, 0 to 1; of so many rows, drawn, that it takes little time.

    Of rows of K kinds that are equally frequent it is about 1 / K.

    Args:
        features, labels: as for `hash_rows`.
    """
    sample = RowSample.of(labels.shape[-1])
    for column in chain(features, np.atleast_2d(labels)):
        sample.add(column)
        del column  # before the next one is read
    return sample.equal_pairs


def folds_by_contents(
    features: Iterable[npt.NDArray[np.float32]], labels: npt.NDArray[np.float32], folds: int, seed: int
) -> npt.NDArray[np.int64]:
    """Which fold each row is in, equal rows together; folds are of about the same size.

    Args:
        features, labels: as for `held_out`. folds: 2 or more. seed: another one draws other folds; also of `held_out` with the same.

    Returns:
        int64 (n_rows,), 0 to folds - 1.
    """
    return _folds(hash_rows(features, labels, seed ^ FOLDS), folds)


def folds_by_subject(subjects: Iterable[str], folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Which fold each row is in, all rows of a subject together: int64 (n_rows,). As `HoldOut.of_subjects` has it."""
    return _folds(_keyed(hash_subjects(subjects), seed ^ FOLDS), folds)


def hash_subjects(subjects: Iterable[str]) -> npt.NDArray[np.uint64]:
    """The first eight bytes of SHA-256 of each text in UTF-8, the most significant first: uint64 (n_rows,)."""
    rows = list(subjects)
    found = {text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in set(rows)}
    return np.array([found[text] for text in rows], np.uint64)


@njit(cache=True, nogil=True, error_model="numpy")
def _keyed(subjects, seed):  # type: ignore[no-untyped-def]
    """Hashes of subjects, uint64 (n_rows,), under a seed: another one gives other folds."""
    hashes = np.empty(subjects.shape[0], np.uint64)
    key = mix(np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15))
    for row in range(subjects.shape[0]):
        hashes[row] = mix(subjects[row] ^ key)
    return hashes


_BLOCK_ROWS = 2**20
"""Rows that are looked at together, so that what is made of their hashes takes little memory."""

FOLDS = 0x666F6C6473
"""Keeps the hashes of folds apart from those of held-out rows of the same seed."""


def _folds(hashes: npt.NDArray[np.uint64], folds: int) -> npt.NDArray[np.int64]:
    """int64, 0 to folds - 1."""
    return (_shares(hashes) * folds).astype(np.int64)


def _shares(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """float64 from 0 to below 1."""
    return np.asarray((hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def keyed_digest(key: bytes, rows: Columns, *, ordered: bool = False) -> bytes:
    """32 bytes that tell a party's rows, in any order or in theirs. Without the key nobody can try out rows."""
    columns = chain(
        each(rows),
        () if rows.weight is None else (rows.weight,),
        () if rows.base_margin is None else rows.base_margin,
        () if rows.subject is None else rows.subject.view(np.float32).reshape(-1, 2).T,
    )
    hashes = hash_rows(columns, rows.label, 0)
    if not ordered:
        hashes.sort()
    return hmac.new(key, hashes.data, hashlib.sha256).digest()
