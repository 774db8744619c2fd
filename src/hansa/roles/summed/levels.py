"""The dictionary of a run where the plan does not list it: unions of the parties' levels, and rare levels that become one.

For a union each party tells the levels that its table holds, in the clear, which federated mode alone allows. Of rare levels parties
count their rows of each level; the aggregator adds the counts, and tells which levels are kept, no count. All others become one level
more, the last one, `OTHER`, which also takes levels that nobody knew at prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.columns import Array, Columns
from hansa.data.holdout import codes_of_texts
from hansa.data.quantiles import ALL_ROWS
from hansa.data.schema import MISSING_WORDS, OTHER, Level
from hansa.errors import DataError, HansaError, ProtocolError
from hansa.plan import MOST_LEVELS_OF_SUMS, Plan

Int64 = npt.NDArray[np.int64]


def level_counts(plan: Plan) -> int:
    """How many levels are counted: all of the features with rare ones; 0 where a plan names none."""
    return sum(len(own) for _, own in _counted(plan))


def _counted(plan: Plan) -> list[tuple[int, tuple[Level, ...]]]:
    """Features whose rare levels become one, and their levels in the plan."""
    rare, levels = dict(plan.schema.rare_levels), plan.schema.levels
    return [(place, levels[name]) for place, name in enumerate(plan.schema.features) if name in rare and name in levels]


def count_levels(plan: Plan, rows: Columns, counted: npt.NDArray[np.bool_]) -> Int64:
    """A party's training rows of each level, int64 (level_counts,); `counted`: bool (n_rows,), or `ALL_ROWS`."""
    features = dict(_counted(plan))
    counts = []
    for first, group in rows.groups():
        for place in range(first, first + len(group)):
            if place in features:
                codes = group[place - first] if counted is ALL_ROWS else group[place - first][counted]
                size = len(features[place])
                known = codes[codes < size].astype(np.int64)  # NaN is no less
                counts.append(np.bincount(known, minlength=size).astype(np.int64))
    return np.concatenate(counts)


def levels_to_keep(plan: Plan, counts: Int64) -> npt.NDArray[np.uint8]:
    """Of pooled counts, 1 for each level that enough rows have, and that is not `OTHER` itself."""
    least, names = dict(plan.schema.rare_levels), plan.schema.features
    kept, first = [], 0
    for place, own in _counted(plan):
        enough = counts[first : first + len(own)] >= least[names[place]]
        kept.append(enough & np.array([level != OTHER for level in own]))
        first += len(own)
    return np.concatenate(kept).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Dictionary:
    """The levels that training goes on with.

    Attributes:
        plan: the plan with these levels in place of its own.
        codes: by feature whose levels changed, float32 (levels before + 1,), what each code becomes; the last entry is of codes beyond.
    """

    plan: Plan
    codes: dict[int, npt.NDArray[np.float32]]


def dictionary_of(plan: Plan, kept: npt.NDArray[Any]) -> Dictionary:
    """The dictionary that `levels_to_keep` leaves. Raises ProtocolError where that does not fit the plan."""
    if (kept > 1).any():
        raise ProtocolError("a level is neither kept nor rare")
    categories, codes, first = list(plan.schema.categories), {}, 0
    for place, own in _counted(plan):
        held = kept[first : first + len(own)] == 1
        if any(level == OTHER for level, is_kept in zip(own, held, strict=True) if is_kept):
            raise ProtocolError(f"level {OTHER!r} is kept, which takes the rare ones")
        categories[place] = (*(level for level, is_kept in zip(own, held, strict=True) if is_kept), OTHER)
        codes[place] = np.append(np.where(held, np.cumsum(held) - 1, held.sum()), held.sum()).astype(np.float32)
        first += len(own)
    return Dictionary(replace(plan, schema=replace(plan.schema, categories=tuple(categories))), codes)


MOST_LEVEL_BYTES = 1_000_000
"""Of the levels of unions: what a message holds."""

BYTES_BESIDE = 8
"""More than a text takes in a message beside its own bytes."""


def check_levels(plan: Plan, told: Mapping[str, tuple[str, ...]], *, in_part: bool = False) -> None:
    """Raise ProtocolError where these are no sorted dictionaries of the plan's features. in_part: they may be empty."""
    if tuple(told) != plan.schema.union:
        raise ProtocolError(f"levels of {list(told)!r:.200}; expected those of {list(plan.schema.union)}")
    size = sum(len(level.encode()) + BYTES_BESIDE for levels in told.values() for level in levels)
    if size > MOST_LEVEL_BYTES:
        raise HansaError(
            f"the levels of {', '.join(told)} take {size:,} bytes; at most {MOST_LEVEL_BYTES:,} are taken: list the levels in the "
            "plan, or leave a feature out"
        )
    for name, levels in told.items():
        if (
            list(levels) != sorted(set(levels))
            or not (levels or in_part)
            or any(level.strip().lower() in MISSING_WORDS for level in levels)
        ):
            raise ProtocolError(f"the levels of {name!r} are not sorted, different texts with a value")
        if len(levels) > MOST_LEVELS_OF_SUMS:
            raise HansaError(
                f"column {name!r} has {len(levels)} levels; at most {MOST_LEVELS_OF_SUMS} are taken: leave it out, or list levels"
            )


def told_levels(plan: Plan, rows: Columns, owner: str) -> dict[str, tuple[str, ...]]:
    """What a party tells of its levels; those of a shard may be empty. Raises DataError where the rows have no dictionary."""
    missing = [name for name in plan.schema.union if name not in rows.dictionaries]
    if missing:
        raise DataError(
            f"party {owner!r}, column {missing[0]!r}: expected a dictionary of its levels, found none; give Rows(dictionaries=...)"
        )
    told = {name: tuple(rows.dictionaries[name]) for name in plan.schema.union}
    try:
        check_levels(plan, told, in_part=True)
    except HansaError as error:
        raise DataError(f"party {owner!r}: {error}") from error
    return told


def union_of(plan: Plan, told: Mapping[str, Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """All levels that some party told, sorted, by feature. Raises as `check_levels`."""
    union = {
        name: tuple(sorted({level for levels in told.values() for level in levels[name]})) for name in plan.schema.union
    }
    check_levels(plan, union)
    return union


def with_union(plan: Plan, union: Mapping[str, tuple[str, ...]]) -> Plan:
    """The plan with these levels in place of unions."""
    categories = plan.schema.categories or ((),) * len(plan.schema.features)
    levels = tuple(union.get(name, own) for name, own in zip(plan.schema.features, categories, strict=True))
    return replace(plan, schema=replace(plan.schema, categories=levels, union=()))


def own_codes(
    plan: Plan, own: Mapping[str, tuple[str, ...]], union: Mapping[str, tuple[str, ...]]
) -> dict[int, npt.NDArray[np.float32]]:
    """By feature, what a party's own codes become under the union, as `Dictionary.codes`.

    Raises ProtocolError where a level is left out.
    """
    codes = {}
    for name in plan.schema.union:
        places = {level: place for place, level in enumerate(union[name])}
        if not set(own[name]) <= set(places):
            raise ProtocolError(f"a level of {name!r} that this party told is not in the union")
        codes[plan.schema.features.index(name)] = np.array(
            [*(places[level] for level in own[name]), len(places)], np.float32
        )
    return codes


def content_codes(plan: Plan, rows: Columns) -> dict[int, npt.NDArray[np.float32]]:
    """By feature of a union, numbers in place of a party's own codes that follow from texts alone: so do the hashes of rows then."""
    return {plan.schema.features.index(name): codes_of_texts(rows.dictionaries[name]) for name in plan.schema.union}


@dataclass(frozen=True, eq=False)
class RecodedColumns:
    """A party's rows by another dictionary. As `columns.Columns`; `codes`: as `Dictionary.codes`."""

    rows: Columns
    codes: dict[int, npt.NDArray[np.float32]]

    @property
    def label(self) -> Array:
        return self.rows.label

    @property
    def weight(self) -> Array | None:
        return self.rows.weight

    @property
    def base_margin(self) -> Array | None:
        return self.rows.base_margin

    @property
    def subject(self) -> Array | None:
        return self.rows.subject

    @property
    def dictionaries(self) -> Mapping[str, tuple[str, ...]]:
        return self.rows.dictionaries

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.rows.warnings

    @property
    def n_rows(self) -> int:
        return self.rows.n_rows

    @property
    def n_features(self) -> int:
        return self.rows.n_features

    @property
    def large(self) -> bool:
        return self.rows.large

    def groups(self) -> Iterator[tuple[int, Array]]:
        """Some features at a time; those of other levels as copies."""
        for first, group in self.rows.groups():
            own = [place for place in self.codes if first <= place < first + len(group)]
            if own:
                group = group.copy()
            for place in own:
                values = group[place - first]
                present = ~np.isnan(values)
                codes = np.minimum(values[present], len(self.codes[place]) - 1)
                values[present] = self.codes[place][codes.astype(np.int64)]
                del values
            yield first, group
            del group  # before the next ones are read

    def close(self) -> None:
        """As `columns.Columns`."""
        self.rows.close()
