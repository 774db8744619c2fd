"""A whole table on one machine, which `hansa simulate` splits into parties, and into rows to train on and rows to test on.

Columns of texts are categorical (`hansa.data.coding`), with the same levels for everybody because one process holds every row. (In a
real run the plan lists them.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.coding import CodedTable, Levels, read_coded, unknown_texts
from hansa.data.files import writing_table
from hansa.data.source import LabelKind, Rows
from hansa.errors import DataError
from hansa.files import writing
from hansa.trees.ensemble import Ensemble

SPLIT_STREAM = 0x73706C6974
"""Keeps the draws of `split_table` apart from other uses of the same seed."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of several parties.

    Attributes:
        names: of the features.
        features: float32 (n_features, n_rows), NaN missing.
        label: float32 (n_rows,), or (labels, n_rows) of several. weight: float32 (n_rows,) or None.
        party: object (n_rows,): each row's value of the party column, as text.
        categories: levels of the categorical columns.
        warnings: what the file holds that is allowed but probably not meant.
        base_margin: float32 (outputs, n_rows), each row's margin before the first tree, or None.
        subject: object (n_rows,): whom or what each row is of, as text, where cross-validation is to keep its rows in one fold.
        dates: by feature that is made of a date, the rule. date_cells: by column of dates, its cells as texts, object (n_rows,).
    """

    names: tuple[str, ...]
    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None
    party: npt.NDArray[np.object_]
    categories: Levels
    warnings: tuple[str, ...] = ()
    subject: npt.NDArray[np.object_] | None = None
    base_margin: npt.NDArray[np.float32] | None = None
    dates: Mapping[str, str] = field(default_factory=dict)
    date_cells: Mapping[str, npt.NDArray[np.object_]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        read: CodedTable,
        party: npt.NDArray[np.object_],
        warnings: tuple[str, ...],
        dates: Mapping[str, str] = MappingProxyType({}),
    ) -> Table:
        """A table that was read with a label, and by these rules for dates, and whose row is whose."""
        assert read.label is not None
        return cls(
            names=read.names,
            features=read.features,
            label=read.label,
            weight=read.weight,
            party=party,
            categories=read.levels,
            warnings=warnings,
            subject=read.subject,
            base_margin=read.base_margin,
            dates=dates,
            date_cells=read.date_cells,
        )

    @property
    def n_rows(self) -> int:
        return int(self.label.shape[-1])

    @property
    def each_label(self) -> tuple[npt.NDArray[np.float32], ...]:
        """The labels one by one, float32 (n_rows,)."""
        return tuple(self.label) if self.label.ndim > 1 else (self.label,)

    @property
    def farthest(self) -> float:
        """The greatest base margin in size; 0 where there are none."""
        return 0.0 if self.base_margin is None else float(np.abs(self.base_margin).max())

    def with_member_feature(self, name: str | None, like: Table | None = None) -> Table:
        """The same with one more feature of this name, categorical: whose each row is; None for none.

        Args:
            like: a table that has it, whose levels it takes; a party that it lacks is of no category.
        """
        if name is None:
            return self
        if name in self.names:
            raise DataError(
                f"a member feature {name!r} is asked for, and the table has a column of this name; choose another"
            )
        levels = tuple(sorted(set(map(str, self.party)))) if like is None else like.categories[name]
        code = {level: place for place, level in enumerate(levels)}
        column = np.array([code.get(str(party), len(levels)) for party in self.party], np.float32)
        return replace(
            self,
            names=(*self.names, name),
            features=np.concatenate([self.features, column[None]]),
            categories={**self.categories, name: levels},
        )

    def without_feature(self, name: str | None) -> Table:
        """The same without the feature of this name; None for none."""
        kept = [place for place, own in enumerate(self.names) if own != name]
        if len(kept) == len(self.names):
            return self
        return replace(
            self,
            names=tuple(self.names[place] for place in kept),
            features=self.features[kept],
            categories={own: levels for own, levels in self.categories.items() if own != name},
        )

    def take(self, rows: npt.NDArray[Any]) -> Table:
        """The same table with these rows only (indices or a mask)."""
        return replace(
            self,
            features=np.ascontiguousarray(self.features[:, rows]),
            label=np.ascontiguousarray(self.label[..., rows]),
            weight=None if self.weight is None else self.weight[rows],
            party=self.party[rows],
            subject=None if self.subject is None else self.subject[rows],
            base_margin=None if self.base_margin is None else np.ascontiguousarray(self.base_margin[:, rows]),
            date_cells={name: cells[rows] for name, cells in self.date_cells.items()},
        )

    def codes_of(self, ensemble: Ensemble) -> npt.NDArray[np.float32]:
        """The features by the levels of a model, which may know fewer than this table: float32 (n_features, n_rows)."""
        features = self.features
        for place, (name, theirs) in enumerate(zip(ensemble.feature_names, ensemble.categories, strict=False)):
            own = self.categories.get(name)
            if not theirs or not own or theirs == own:
                continue
            stray = len(theirs) - (name in ensemble.reading.other)
            codes = [theirs.index(level) if level in theirs else stray for level in own]
            table = np.array([*codes, stray], np.float32)
            features = features.copy() if features is self.features else features
            present = ~np.isnan(features[place])
            features[place, present] = table[features[place, present].astype(np.int64)]
        return features

    def rows(self) -> Rows:
        """The numbers, as one party's rows."""
        return Rows(self.features, self.label, self.weight, base_margin=self.base_margin)


def read_table(
    path: Path,
    label: str | tuple[str, ...],
    party_column: str | None,
    weight: str | None = None,
    like: Table | None = None,
    categorical: tuple[str, ...] = (),
    *,
    label_kind: LabelKind = "numeric",
    classes: tuple[str, ...] = (),
    decimal: str = ".",
    subject: str | None = None,
    base_margin: tuple[str, ...] = (),
    dates: Mapping[str, str] = MappingProxyType({}),
) -> Table:
    """Read a table with a column that says whose each row is.

    Args:
        party_column: left out of the features; None puts all rows to one party, "all". subject, base_margin: as of `read_coded`.
        like: takes features, their order and the levels of categorical columns from that table; an unknown text is of no category.
        categorical: columns whose values are categories, as those of texts are; their levels are all values, sorted.
        label_kind, classes, decimal: of `hansa.data.source.read_rows` and of `hansa.data.schema.Schema`. dates: as of `read_coded`.

    Raises:
        DataError: naming file, row and column.
    """
    read = read_coded(
        path,
        None if like is None else like.names,
        known=None if like is None else like.categories,
        label=label,
        weight=weight,
        party=party_column,
        subject=subject,
        base_margin=base_margin,
        categorical=categorical,
        label_kind=label_kind,
        classes=classes,
        decimal=decimal,
        dates=dates,
    )
    party = np.full(read.features.shape[1], "all", object) if read.party is None else read.party
    warnings = (*read.warnings, *(f"{path}: {text}" for text in unknown_texts(read)))
    return Table.of(read, party, warnings, dates)


def split_table(table: Table, fraction: float, seed: int, stratified: bool) -> tuple[Table, Table]:
    """Split rows at random into (train, test), where `stratified` class by class (of several labels, by all); the same for a seed
    everywhere."""
    # A stream of its own: whoever gave the rows to parties with PCG64(seed) would otherwise get splits that follow the parties.
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLIT_STREAM, seed])))
    kinds = np.unique(table.label, axis=-1, return_inverse=True)[1].ravel()
    groups = [np.flatnonzero(kinds == kind) for kind in range(kinds.max() + 1)] if stratified else None
    test = np.zeros(table.n_rows, np.bool_)
    for group in groups or [np.arange(table.n_rows)]:
        order = draw.permutation(group)
        test[order[: round(fraction * len(order))]] = True
    if test.all() or not test.any():
        raise DataError(f"a test fraction of {fraction:g} leaves no rows on one side of {table.n_rows}; choose another")
    return table.take(~test), table.take(test)


def write_party_table(
    path: Path, table: Table, labels: tuple[str, ...], weight: str | None, base_margin: tuple[str, ...] = ()
) -> None:
    """Write a party's rows as Parquet, features and labels under their own names; float32 values stay exact, categories are levels, and
    in place of features made of dates stand the columns of dates."""
    plain = [place for place, name in enumerate(table.names) if name not in table.dates]
    names = [*(table.names[place] for place in plain), *labels, *([weight] if weight else []), *base_margin]
    arrays = [*table.features[plain], *table.each_label, *([table.weight] if table.weight is not None else [])]
    arrays += [] if table.base_margin is None else [*table.base_margin]
    columns: dict[str, npt.NDArray[Any]] = {f"c{i}": np.ascontiguousarray(own) for i, own in enumerate(arrays)}
    columns |= {f"d{i}": cells for i, cells in enumerate(table.date_cells.values())}
    with writing(path) as partial, writing_table(partial, "parquet") as (connection, write):
        connection.register("given", columns)
        chosen = []
        for i, name in enumerate(names):
            value = f"c{i}"
            if name in table.categories:
                # Lists count from 1.
                kind = "BIGINT" if isinstance(table.categories[name][0], int) else "VARCHAR"
                connection.execute(f"CREATE TABLE levels{i} AS SELECT ?::{kind}[] AS l", [list(table.categories[name])])
                value = f"(SELECT l FROM levels{i})[TRY_CAST(c{i} AS INTEGER) + 1]"
            chosen.append(f"CASE WHEN isnan(c{i}) THEN NULL ELSE {value} END AS " + '"' + name.replace('"', '""') + '"')
        for i, name in enumerate(table.date_cells):
            chosen.append(f"d{i}::VARCHAR AS " + '"' + name.replace('"', '""') + '"')
        write(f"SELECT {', '.join(chosen)} FROM given")
