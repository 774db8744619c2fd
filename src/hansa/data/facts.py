"""What a table holds that is allowed but probably not meant: the same sentences however it is read.

Facts are taken column by column, and block by block where a column comes in blocks. Facts of shards of one table join to those of
the whole table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hansa.data.cells import plain_form
from hansa.data.holdout import RowSample, codes_of_texts
from hansa.data.schema import Level

Array = NDArray[Any]

Role = Literal["feature", "label", "weight"]

SHOWN_NAMES = 12
"""Columns that a sentence lists."""

ALIKE = "differ by spaces or capitals only, and are different levels; write them alike, at all parties"
"""How a sentence about levels of a column ends."""


FEWEST_IDENTIFIERS = 50
"""Rows with a value from which on a column of categories may be told to hold identifiers: below, all may differ by chance."""

NEARLY_ALL = 0.9
"""Levels for each row with a value from which on it is."""


@dataclass(frozen=True)
class ColumnFacts:
    """What all rows of a column have in common.

    Attributes:
        name, role: of the column.
        present: rows with a value. missing: rows without one.
        low, high: of the values; without a value infinity and minus infinity. Of categories they only say whether there are two.
    """

    name: str
    role: Role
    present: int
    missing: int
    low: float
    high: float

    def joined(self, other: ColumnFacts) -> ColumnFacts:
        """Of the rows of both."""
        return ColumnFacts(
            self.name,
            self.role,
            self.present + other.present,
            self.missing + other.missing,
            min(self.low, other.low),
            max(self.high, other.high),
        )


@dataclass(frozen=True)
class Merged:
    """A column of numbers that float32 cannot hold apart.

    Attributes:
        name: of the column. example: such a number, its place and what becomes of it, in words.
        merged, distinct: of so many different values, how many become equal to others. n_rows: the rows that were looked at.
    """

    name: str
    example: str
    merged: int
    distinct: int
    n_rows: int

    def text(self, n_rows: int) -> str:
        """A sentence for the owner of the table, which has so many rows."""
        some = f" of the {self.n_rows:,} rows looked at" if self.n_rows < n_rows else ""
        others = (
            f", and {self.merged} of {self.distinct} different values{some} become equal to others"
            if self.merged
            else ""
        )
        return (
            f"column {self.name!r}: float32 cannot hold its values apart: {self.example}{others}; subtract a number that all parties "
            "agree on, or leave the column out"
        )


@dataclass(frozen=True, eq=False)
class TableFacts:
    """What a table holds, as far as it was looked at. Never leaves the party.

    Attributes:
        columns: features, labels and the weight, in the schema's order. merged: the first one found of each column.
        levels: of the columns of categories, which the table or the plan lists.
        own: the columns whose levels are those that the table holds, and no others.
        sample: hashes of some rows, label included; None where none were taken.
    """

    columns: tuple[ColumnFacts, ...] = ()
    merged: tuple[Merged, ...] = ()
    sample: RowSample | None = None
    levels: Mapping[str, tuple[Level, ...]] = field(default_factory=dict)
    own: frozenset[str] = frozenset()

    @property
    def n_rows(self) -> int:
        return max((column.present + column.missing for column in self.columns), default=0)

    @property
    def equal_pairs(self) -> float:
        """The share of pairs of different rows whose contents are equal, 0 to 1, as `holdout.equal_pairs` has it."""
        return 0.0 if self.sample is None else self.sample.equal_pairs

    @property
    def lacks_weights(self) -> bool:
        """Whether there are weights, and all are 0."""
        return any(column.role == "weight" and column.high == 0 for column in self.columns)

    def texts(self, has_classes: bool, *, everybody: bool = False) -> tuple[str, ...]:
        """A sentence for each thing that is probably not meant.

        Args:
            has_classes: whether labels are classes. everybody: whether these are the rows of all parties.
        """
        merged = (own.text(self.n_rows) for own in self.merged)
        return (*self._of_columns(has_classes, everybody), *merged, *told_of_levels(self.levels))

    def _of_columns(self, has_classes: bool, everybody: bool) -> Iterator[str]:
        merged = {own.name for own in self.merged}
        features = [column for column in self.columns if column.role == "feature"]
        empty = [column.name for column in features if column.missing and not column.present]
        constant = [own.name for own in features if own.low == own.high and not own.missing and own.name not in merged]
        for names, what, elsewhere in (
            (constant, "constant", "where other parties have other values"),
            (empty, "missing in every row", "where other parties have values"),
        ):
            if names:
                are = "it is" if len(names) == 1 else "they are"
                yield f"{_features(names)} {what}; {are} of {'no use' if everybody else f'use only {elsewhere}'}"
        for column in features:
            count = len(self.levels[column.name]) if column.name in self.own else 0
            if column.present >= FEWEST_IDENTIFIERS and count >= NEARLY_ALL * column.present:
                yield (
                    f"feature {column.name!r} is a category with {count:,} different values in {column.present:,} rows, as identifiers "
                    "have; trees learn nothing of rows to come from it: leave it out of the features"
                )
        for column in self.columns:
            if column.role == "label" and column.low == column.high:
                kind = "one class only" if has_classes else "one value only"
                whose = "there is nothing to learn" if everybody else "this party has no metric of its own"
                yield f"label {column.name!r} has {kind}; {whose}"


def told_of_levels(levels: Mapping[str, Sequence[Level]]) -> Iterator[str]:
    """A sentence for each column, of these levels, some of which are probably meant to be the same."""
    for name, own in levels.items():
        groups: dict[str, list[str]] = {}
        for level in own:
            if isinstance(level, str):
                groups.setdefault(plain_form(level), []).append(level)
        alike = [group for group in groups.values() if len(group) > 1]
        if alike:
            shown = listed(alike[0])
            more = f", and {len(alike) - 1} more such groups of texts," if len(alike) > 1 else ""
            yield f"column {name!r}: {shown}{more} {ALIKE}"


def _features(names: Sequence[str]) -> str:
    return f"feature {names[0]!r} is" if len(names) == 1 else f"features {listed(names)} are"


def listed(names: Iterable[object]) -> str:
    """Names in a sentence: the first ones."""
    shown = list(map(repr, names))
    more = f", ... ({len(shown)} in all)" if len(shown) > SHOWN_NAMES else ""
    return ", ".join(shown[:SHOWN_NAMES]) + more


def joined(shards: Sequence[TableFacts], n_rows: int) -> TableFacts:
    """The facts of a table of so many rows that is read in shards, one or more."""
    columns = shards[0].columns
    for shard in shards[1:]:
        columns = tuple(one.joined(other) for one, other in zip(columns, shard.columns, strict=True))
    merged = {own.name: own for shard in reversed(shards) for own in shard.merged}
    names = [column.name for column in columns if column.name in merged]
    levels: dict[str, tuple[Level, ...]] = {}
    for shard in shards:
        levels |= {name: _united(levels.get(name, ()), own) for name, own in shard.levels.items()}
    own_levels = frozenset[str]().union(*(shard.own for shard in shards))
    samples = [shard.sample for shard in shards if shard.sample is not None]
    return TableFacts(
        columns, tuple(merged[name] for name in names), RowSample.joined(samples, n_rows), levels, own_levels
    )


def _united(one: Sequence[Level], other: Sequence[Level]) -> tuple[Level, ...]:
    """The levels of both, in order: numbers before texts."""
    return tuple(sorted({*one, *other}, key=lambda level: (isinstance(level, str), level)))


@dataclass
class FactsReader:
    """Takes the facts of a table of `n_rows` rows, as its columns are read, always in the same order. samples: a sample of rows too."""

    n_rows: int
    samples: bool = True
    _columns: dict[str, ColumnFacts] = field(default_factory=dict)
    _merged: dict[str, Merged] = field(default_factory=dict)
    _levels: dict[str, tuple[Level, ...]] = field(default_factory=dict)
    _own: set[str] = field(default_factory=set)
    _sample: RowSample | None = field(init=False)

    def __post_init__(self) -> None:
        self._sample = RowSample.of(self.n_rows) if self.samples else None

    def take(
        self, name: str, values: Array, *, role: Role, first: int = 0, levels: Sequence[str] | None = None
    ) -> None:
        """Look at a column, or at a block of it.

        Args:
            values: float32 (rows,), NaN missing. first: the block's first row, from 0.
            levels: what codes stand for, where the table has levels of its own.
        """
        missing = int(np.count_nonzero(np.isnan(values)))
        present = len(values) - missing
        codes = None if levels is None else codes_of_texts(levels)
        contents = values if codes is None else _recoded(values, codes)
        low, high = np.inf, -np.inf
        if present:
            low, high = float(np.fmin.reduce(contents)), float(np.fmax.reduce(contents))
        own = ColumnFacts(name, role, present, missing, low, high)
        before = self._columns.get(name)
        self._columns[name] = own if before is None else before.joined(own)
        if role != "weight" and self._sample is not None:
            self._sample.add(contents, first)

    def note_levels(self, name: str, levels: Sequence[Level], *, own: bool = False) -> None:
        """Note the levels of a column of categories; of one of numbers there are none. own: whether they are all in the table."""
        if levels:
            self._levels[name] = tuple(levels)
            if own:
                self._own.add(name)

    def take_merged(self, found: Sequence[Merged]) -> None:
        """Note columns that float32 cannot hold apart; the first note of each counts."""
        for own in found:
            self._merged.setdefault(own.name, own)

    def facts(self) -> TableFacts:
        columns, merged = tuple(self._columns.values()), tuple(self._merged.values())
        return TableFacts(columns, merged, self._sample, self._levels, frozenset(self._own))


def _recoded(values: Array, codes: Array) -> Array:
    """Codes by what they stand for: float32 (rows,), NaN missing."""
    found = np.full(len(values), np.nan, np.float32)
    present = ~np.isnan(values)
    found[present] = codes[values[present].astype(np.int64)]
    return found
