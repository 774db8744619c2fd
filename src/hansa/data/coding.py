"""A whole table that one process holds, turned into numbers: what `hansa simulate` and `hansa predict` read.

A party's table is held to a schema, which lists the levels of categorical features (`source`). Here nobody listed them: a column of
texts is categorical, and its levels are its texts. A column of numbers with other texts among them, or of texts that mean numbers,
dates or times, is refused with the row and the cure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.cells import WHOLE_NUMBER, disguise, is_numeric, is_text, measured, truth_in_words
from hansa.data.facts import FactsReader, listed
from hansa.data.files import OpenTable, open_table
from hansa.data.schema import MISSING_WORDS, Level, date_rule, name_fault
from hansa.data.source import (
    A_NUMBER,
    SHOWN_CHARACTERS,
    Broken,
    Column,
    LabelKind,
    SchemaViolation,
    are_classes,
    base_margin_of,
    broken_dates,
    broken_rules,
    describe,
    load_columns,
    load_doubles,
    merged_values,
    nearly,
    no_rows,
    only_zeros,
    repeated_columns,
)
from hansa.errors import DataError

_INDEX = re.compile(r"__index_level_\d+__")
"""How pandas names an index without a name when it writes it as a column."""

Floats = npt.NDArray[np.float32]


Levels = Mapping[str, tuple[Level, ...]]
"""By categorical column, its levels; a level's place is its code."""


@dataclass(frozen=True, eq=False)
class CodedTable:
    """A whole table as numbers.

    Attributes:
        names: of the features.
        features: float32 (n_features, n_rows), NaN missing.
        label, weight: float32 (n_rows,), or None where none was asked for; of several labels (labels, n_rows).
        party, subject: object (n_rows,), texts, or None.
        base_margin: float32 (outputs, n_rows), or None where none was asked for.
        levels: of the categorical columns.
        unknown: by such a column, how many cells hold a level that `levels` does not list: they are of no category.
        warnings: what is allowed but probably not meant.
        date_cells: by column that features are made of by rules, its cells as texts, None where missing: object (n_rows,).
    """

    names: tuple[str, ...]
    features: Floats
    label: Floats | None
    weight: Floats | None
    party: npt.NDArray[np.object_] | None
    levels: Levels
    unknown: Mapping[str, int]
    warnings: tuple[str, ...]
    subject: npt.NDArray[np.object_] | None = None
    base_margin: Floats | None = None
    date_cells: Mapping[str, npt.NDArray[np.object_]] = field(default_factory=dict)


def read_coded(
    source: str | Path | OpenTable,
    features: Sequence[str] | None = None,
    *,
    known: Levels | None = None,
    label: str | tuple[str, ...] | None = None,
    weight: str | None = None,
    party: str | None = None,
    subject: str | None = None,
    base_margin: Sequence[str] = (),
    categorical: Sequence[str] = (),
    label_kind: LabelKind = "numeric",
    classes: tuple[str, ...] = (),
    needs: str = "",
    decimal: str = ".",
    dates: Mapping[str, str] = MappingProxyType({}),
    unseen: str = "missing",
    other: Collection[str] = (),
) -> CodedTable:
    """Read a table whose text columns are coded here.

    Args:
        source: a file, a folder or a pattern (as `open_table`), or an open table, which is closed.
        features: the columns to take, in this order; None takes all that are neither label, weight nor party.
        known: levels of another table or of a model; all other features must be numbers. None finds them in this table.
        label, weight: columns of numbers without missing values, held to the same rules as a party's; several labels are a tuple.
        classes: where the labels are texts, their classes, as in `data.schema.Schema`.
        base_margin: columns of each row's margin before the first tree.
        party: column that says whose each row is. subject: column that says whom or what it is of, such as a patient; no feature.
        categorical: features whose values, texts or whole numbers, are categories, as every feature of texts is.
        needs: for the error where the table lacks a feature: who needs it.
        decimal: the decimal sign of numbers that are texts.
        dates: by feature that is made of a date, the rule (`data.schema.date_rule`). Where `features` is None, a feature of a name
            that no column has stands behind the columns, and a column that is read for others only is no feature.
        other: features whose last level in `known` takes all levels that it does not list.
        unseen: "error" refuses levels that `known` does not list, "missing" takes them for no category.

    Raises:
        PlanError: a rule of `dates` is none.
        DataError: naming file, row and column, what was expected and found, and the cure.
    """
    with source if isinstance(source, OpenTable) else open_table(source) as table:
        for violation in repeated_columns(table):
            raise DataError(str(violation))
        labels = () if label is None else (label,) if isinstance(label, str) else label
        special = [*labels, *(name for name in (party, weight, subject, *base_margin) if name is not None)]
        for name in labels:
            if labels.count(name) > 1:
                raise DataError(f"{table.file}: column {name!r} is named twice as a label; name each once")
        for name in special:
            if special.count(name) > 1:
                roles = ["label", "weight", "party", *(["id"] if subject is not None else [])]
                roles += ["base margin"] if base_margin else []
                raise DataError(
                    f"{table.file}: column {name!r} is to be two of {', '.join(roles[:-1])} and {roles[-1]}; name a column for each"
                )
        _require(table, special)
        rules = {name: date_rule(name, text) for name, text in dates.items()}
        names = _features(table, special, rules) if features is None else tuple(features)
        _require(table, [rules[name][1] if name in rules else name for name in names], needs)
        if not names:
            raise DataError(f"{table.file}: no column is left as a feature; found {listed(table.names)}")
        if features is None:
            _check_names(table, names)
        for name in categorical:
            if name not in names:
                raise DataError(
                    f"{table.file}: {name!r} is to be categorical, and is no feature; expected one of {listed(names)}"
                )
        listed_levels = dict(known or {})
        listed_levels |= dict.fromkeys(labels, classes)
        columns = load_columns(
            table,
            {name: listed_levels.get(name, ()) for name in (*names, *special) if name not in (party, subject)},
            decimal,
            labels,
            rules,
        )
        n_rows = len(columns[names[0]].values)
        if not n_rows:
            raise DataError(str(no_rows(table)))
        _check_roles(table, columns, labels, weight, label_kind, classes, decimal)
        for name in base_margin:
            _refuse(table, list(broken_rules(name, columns[name], "base margin", label_kind)), decimal)
        for name in rules:
            _refuse(table, list(broken_dates(rules[name][1], columns[name])), decimal)
        plain = tuple(name for name in names if name not in rules)
        levels = _find_levels(table, columns, plain, tuple(categorical), decimal) if known is None else known
        for name in other:
            columns[name] = _with_other(columns[name], len(levels[name]) - 1)
        if unseen == "error":
            _refuse(table, list(_unseen(columns, levels)), decimal)
        unknown = {} if known is None else _settle_unknown(columns, known)
        numbers = [name for name in plain if name not in levels]
        _refuse(
            table,
            [rule for name in numbers for rule in broken_rules(name, columns[name], "feature", "numeric")],
            decimal,
        )
        facts = FactsReader(n_rows, samples=False)
        if known is None and labels:  # all parties' rows, to train on
            for name in (*names, *labels):
                facts.take(name, columns[name].values, role="label" if name in labels else "feature")
                facts.note_levels(name, classes if name in labels else levels.get(name, ()), own=name not in labels)
        facts.take_merged(merged_values(table, columns, [*numbers, *(() if classes else labels)], decimal))
        rows_at = table.place
        owners = None if party is None else _filled(table, party, "party")
        subjects = None if subject is None else _filled(table, subject, "id")
        cells = texts_of(table, sorted({column for _, column in rules.values()}))
    starts = base_margin_of(columns, base_margin)
    values = np.empty((len(names), n_rows), np.float32)
    for index, name in enumerate(names):
        values[index] = columns.pop(name).values
    return CodedTable(
        names=names,
        features=values,
        label=_stacked([columns[name].values for name in labels]),
        weight=None if weight is None else columns[weight].values,
        party=owners,
        levels=levels,
        unknown=unknown,
        warnings=(*facts.facts().texts(are_classes(label_kind), everybody=True), *_told_of_empty_rows(rows_at, values)),
        subject=subjects,
        base_margin=starts,
        date_cells=cells,
    )


def _told_of_empty_rows(place: Callable[[int], tuple[str, int]], features: Floats) -> Iterator[str]:
    """A sentence where no feature of a row has a value: a spreadsheet writes such lines at its end."""
    if len(features) < 2:
        return
    empty = np.ones(features.shape[1], np.bool_)
    for column in features:
        empty &= np.isnan(column)
    if empty.any():
        file, row = place(int(empty.argmax()))
        count = int(np.count_nonzero(empty))
        others = f" (and in {count - 1} more rows)" if count > 1 else ""
        yield f"{file}, row {row}{others}: no feature has a value; drop the line if a spreadsheet left it behind"


def unknown_texts(read: CodedTable) -> Iterator[str]:
    """A sentence for each categorical column with levels that the model does not know."""
    for name, count in read.unknown.items():
        told = f"column {name!r}: {count} cells hold levels that the model does not know; they are of no category"
        if not np.any(read.features[read.names.index(name)] < len(read.levels[name])):
            told += f". None holds one that it knows: expected {listed(read.levels[name])}"
        yield told


def _stacked(columns: Sequence[Floats]) -> Floats | None:
    """Columns as one array: (n_rows,) of one, (columns, n_rows) of several, None of none."""
    return np.stack(columns) if len(columns) > 1 else next(iter(columns), None)


def _features(table: OpenTable, special: Sequence[str], rules: Mapping[str, tuple[str, str]]) -> tuple[str, ...]:
    """The features of a table of which nobody said more than rules for dates."""
    for name in rules:
        if name in special:
            raise DataError(
                f"{table.file}: {name!r} is to be made of a date, and is no feature; name the feature otherwise"
            )
    sources = {column for _, column in rules.values()} - set(rules)
    own = [name for name in table.names if name not in special and name not in sources]
    return (*own, *(name for name in rules if name not in own))


def _require(table: OpenTable, names: Sequence[str], needs: str = "") -> None:
    has = set(table.names)
    for name in names:
        if name not in has:
            why = f", {needs}" if needs else ""
            near = nearly(name, table.names)
            cure = "" if near is None else f"; rename {near!r}, which differs by spaces or capitals only"
            raise DataError(f"{table.file}: no column {name!r}{why}; found {listed(table.names)}{cure}")


def _check_names(table: OpenTable, names: Sequence[str]) -> None:
    for name in names:
        if not name:
            raise DataError(f"{table.file}: column {table.names.index(name) + 1} has no name; name it, or drop it")
        if _INDEX.fullmatch(name):
            raise DataError(
                f"{table.file}: column {name!r} is the index of a data frame, which pandas wrote beside the columns; drop it, or "
                "rename it if it is a feature (to_parquet(..., index=False) writes none)"
            )
        fault = name_fault(name)
        if fault is not None:
            raise DataError(f"{table.file}: {fault}")


def _refuse(table: OpenTable, broken: Sequence[Broken], decimal: str) -> None:
    for violation in describe(table, broken[:1], decimal):
        raise DataError(str(violation))


def _check_roles(
    table: OpenTable,
    columns: Mapping[str, Column],
    labels: Sequence[str],
    weight: str | None,
    label_kind: LabelKind,
    classes: tuple[str, ...],
    decimal: str,
) -> None:
    for label in labels:
        _refuse(table, list(broken_rules(label, columns[label], "label", label_kind, classes or None)), decimal)
    if weight is not None:
        _refuse(table, list(broken_rules(weight, columns[weight], "weight", label_kind)), decimal)
        for violation in only_zeros(table, weight, columns[weight].values):
            raise DataError(str(violation))


def read_texts(table: OpenTable, names: Sequence[str]) -> dict[str, tuple[npt.NDArray[np.object_], str]]:
    """Columns of a table by name: every cell as the text that it is (None where there is none), and the type that gives it back.

    The table stays open. Raises DataError where it has no such column, or two.
    """
    if not names:
        return {}
    wanted = list(dict.fromkeys(names))
    _require(table, wanted, "which is to be kept")
    for violation in repeated_columns(table):
        raise DataError(str(violation))
    places = table.places
    texts = {}
    for name, values in zip(wanted, table.fetch([f"c{places[name]}::VARCHAR" for name in wanted]), strict=True):
        given = np.ma.asarray(values)
        cells = np.array(given.data, object)
        cells[np.ma.getmaskarray(given)] = None
        kind = table.types[places[name]]
        texts[name] = cells, "VARCHAR" if is_text(kind) else kind
    return texts


def _filled(table: OpenTable, name: str, what: str) -> npt.NDArray[np.object_]:
    texts = texts_of(table, [name])[name]
    for place, text in enumerate(texts):
        if text is None:
            file, row = table.place(place)
            raise DataError(f"{file}, row {row}, column {name!r}: says no {what}; fill it in")
    return texts


def texts_of(table: OpenTable, names: Sequence[str]) -> dict[str, npt.NDArray[np.object_]]:
    """Columns as texts, None where missing."""
    if not names:
        return {}
    places = table.places
    fetched = table.fetch([f"c{places[name]}::VARCHAR" for name in names])
    texts = {}
    for name, values in zip(names, fetched, strict=True):
        given = np.ma.asarray(values)
        column = np.array(given.data, object)
        column[np.ma.getmaskarray(given)] = None
        missing = {text for text in set(column) if text is not None and text.strip().lower() in MISSING_WORDS}
        if missing:
            column[[text in missing for text in column]] = None
        texts[name] = column
    return texts


def _unseen(columns: Mapping[str, Column], known: Levels) -> Iterator[Broken]:
    """The rule that a column with levels of no list breaks."""
    for name, levels in known.items():
        bad = columns[name].bad
        if bad.any():
            yield Broken(
                name,
                int(bad.argmax()),
                int(np.count_nonzero(bad)),
                f"one of the {len(levels)} levels that the model knows, or empty for missing",
                "mend the cell, drop the row, or predict with unseen = 'missing' (--unseen missing), which takes it for no category",
            )


def _with_other(column: Column, code: int) -> Column:
    """The column with this code for the levels that are not known."""
    return Column(np.where(column.bad, np.float32(code), column.values), np.zeros_like(column.bad))


def _settle_unknown(columns: dict[str, Column], known: Levels) -> dict[str, int]:
    """Give cells of no known level the code behind the last one; returns how many there are, by column."""
    unknown = {}
    for name, levels in known.items():
        column = columns[name]
        count = int(np.count_nonzero(column.bad))
        if count:
            columns[name] = Column(
                np.where(column.bad, np.float32(len(levels)), column.values), np.zeros_like(column.bad)
            )
            unknown[name] = count
    return unknown


def _find_levels(
    table: OpenTable,
    columns: dict[str, Column],
    names: Sequence[str],
    categorical: tuple[str, ...],
    decimal: str,
) -> dict[str, tuple[Level, ...]]:
    """Give codes to the columns that are to be categories, and to those of texts; returns their levels."""
    places = table.places
    kinds = {name: table.types[places[name]] for name in names}
    for name in names:
        if columns[name].bad.any() and not is_text(kinds[name]) and not is_numeric(kinds[name]):
            _refuse(table, list(broken_rules(name, columns[name], "feature", "numeric")), decimal)
    chosen = [name for name in names if name in categorical or (columns[name].bad.any() and is_text(kinds[name]))]
    texts = texts_of(table, [name for name in chosen if is_text(kinds[name])])
    doubles = load_doubles(table, [name for name in chosen if name in categorical], decimal)
    levels: dict[str, tuple[Level, ...]] = {}
    for name in chosen:
        values: Sequence[Any]
        if name not in categorical:
            _refuse_mixtures(table, name, columns[name], texts[name], decimal)
            values = texts[name].tolist()
        elif name in texts and not _are_whole(texts[name]):
            if not columns[name].bad.any():
                _refuse_fractions(table, name, doubles[name])
            values = texts[name].tolist()
        else:
            _refuse_fractions(table, name, doubles[name])
            values = [None if np.isnan(value) else int(value) for value in np.ma.filled(doubles[name], np.nan).tolist()]
        found = tuple(sorted({value for value in values if value is not None}))
        if not found:
            raise DataError(
                f"{table.file}, column {name!r}: no row has a value; a categorical feature needs some, leave it out"
            )
        code: dict[Any, float] = {level: float(place) for place, level in enumerate(found)} | {None: np.nan}
        coded = np.array([code[value] for value in values], np.float32)
        columns[name] = Column(coded, np.zeros(len(coded), np.bool_))
        levels[name] = found
    return levels


def _are_whole(texts: npt.NDArray[np.object_]) -> bool:
    """Whether all texts are whole numbers as people write them: 007 is none, true is."""
    return all(
        WHOLE_NUMBER.fullmatch(text.strip()) or text.strip().lower() in ("true", "false")
        for text in set(texts) - {None}
    )


def _refuse_fractions(table: OpenTable, name: str, values: np.ma.MaskedArray[Any, Any]) -> None:
    numbers = np.ma.filled(values, np.inf)
    broken = ~np.isnan(numbers) & ~(np.abs(numbers) < 2.0**53) | (numbers != np.floor(numbers)) & np.isfinite(numbers)
    if broken.any():
        row, cure = int(broken.argmax()), "round the numbers, or read the column as numbers"
        rule = Broken(
            name, row, int(np.count_nonzero(broken)), "whole numbers below 2^53, or texts, as categories", cure
        )
        _refuse(table, [rule], ".")


def _refuse_mixtures(table: OpenTable, name: str, column: Column, texts: npt.NDArray[np.object_], decimal: str) -> None:
    """Refuse a column of texts that holds numbers too, or texts that mean numbers, dates or times."""
    masked = {text: disguise(text, decimal) for text in set(texts[column.bad])}
    numbers = int(np.count_nonzero(~column.bad & ~np.isnan(column.values)))
    if not numbers and not any(masked.values()):
        masked = dict.fromkeys(masked, measured(masked))
    stray = int(np.count_nonzero(column.bad))
    if not numbers and not any(masked.values()):
        return
    row = next((row for row in np.flatnonzero(column.bad) if masked[texts[row]] is not None), int(column.bad.argmax()))
    why = masked[texts[row]]
    found = repr(texts[row][:SHOWN_CHARACTERS])
    others = f" (and {stray - 1} more texts)" if stray > 1 else ""
    among = f"{others} among {numbers} numbers" if numbers else others
    cure = (
        "leave the cell empty where the value is missing; for categories name the column (--categorical, categorical=)"
    )
    if why is None and numbers:
        why = truth_in_words(texts[row])
    if why is not None:
        found, cure = f"{found} ({why.what})", why.cure
    violation = SchemaViolation(*table.place(int(row)), name, A_NUMBER, f"{found}{among}", cure)
    raise DataError(str(violation))
