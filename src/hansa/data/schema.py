"""What a party's table must look like: which columns are features, labels and weight, and what categories a feature has."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hansa.errors import PlanError

Level = str | int
"""A value of a categorical feature."""

MISSING_WORDS = ("", "na", "nan", "null")
"""What a cell says, whatever its case and the spaces around it, that has no value."""

DECIMAL_SIGNS = (".", ",")
"""What may stand between the whole part of a number and its fraction."""

BARRED = ("[", "]", "<", "\0")
"""What XGBoost's Python does not take in a feature's name; zero bytes end its C strings."""

DATE_RULES = {
    "days": "whole days since 1970-01-01",
    "year": "the year",
    "month": "the month, 1 to 12",
    "day": "the day of the month, 1 to 31",
    "weekday": "the day of the week, 1 for Monday to 7 for Sunday",
    "hour": "the hour of the day, 0 to 23",
}
"""Rules that make a number of a date, and what the number is."""

UNSEEN = ("missing", "error")
"""What becomes, at prediction, of a level that the dictionary of a feature does not hold: it is of no category, or refused."""

OTHER = "other"
"""The level that takes those that too few rows have; the last one of its feature."""

WHOLE = 2**53
"""Whole numbers below this, of either sign, are exact as float64: levels that are numbers are such."""


@dataclass(frozen=True)
class Schema:
    """Columns of every party's table, agreed in the plan. Public to all members.

    Attributes
    ----------
    features : tuple of str
        Names of the feature columns, in the order that the model numbers them; numeric but where `categories` says otherwise.
    label : str or tuple of str
        Name of the column to predict; of several columns their names, in the order in which the model numbers its outputs.
    weight : str or None
        Name of the column with each row's weight, or None where every row weighs 1.
    categories : tuple of tuple
        By feature, the levels of a categorical one, all texts or all whole numbers; a level's place is its code. Empty for an
        ordered feature; () where all are.
    decimal : str
        The decimal sign of numbers that stand in a table as texts.
    ignore : tuple of str
        Columns that a table may have and that are not read, in the order of their names.
    classes : tuple of str
        Where the label is texts: what it says, in the order of the classes 0, 1, ...; () where it is numbers.
    base_margin : tuple of str
        Columns of each row's margin before the first tree, one for each output of the model; () where all rows start at the base score.
    base_margin_limit : float
        No row's base margin exceeds it in size; 0 where there are none.
    unseen : {"missing", "error"}
        What whoever predicts does with levels that `categories` does not list; the model says so.
    dates : tuple of (str, str)
        By feature, in the order of `features`, the rule (`DATE_RULES`) that makes its number of a date; the model says so. "days" reads
        the column of the feature's name, "month of opened" the column opened.
    rare_levels : tuple of (str, int)
        By categorical feature, in the order of `features`, how many pooled rows a level needs; those with fewer become `OTHER`.
    union : tuple of str
        Categorical features, in the order of `features`, whose levels no list has: all texts that some party's table holds, sorted.
    id : str or None
        Column that says whom or what a row is of, such as a patient: all rows of one value are held out together, and are in one fold.
        It is no feature, and stays with the party.

    Raises
    ------
    PlanError
        A name is empty or used twice, there is no feature, XGBoost would refuse a feature's name, or levels are no list of
        different texts or whole numbers.

    Examples
    --------
    >>> import hansa
    >>> hansa.Schema(("load", "alarms"), "fault").features
    ('load', 'alarms')
    """

    features: tuple[str, ...]
    label: str | tuple[str, ...]
    weight: str | None = None
    categories: tuple[tuple[Level, ...], ...] = ()
    decimal: str = "."
    ignore: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    base_margin: tuple[str, ...] = ()
    base_margin_limit: float = 0.0
    unseen: str = "missing"
    dates: tuple[tuple[str, str], ...] = ()
    rare_levels: tuple[tuple[str, int], ...] = ()
    union: tuple[str, ...] = ()
    id: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _names(self.features))
        if not self.features:
            raise PlanError("schema.features: no feature is named; list at least one numeric column")
        if not isinstance(self.label, str):
            labels = _listed("label", self.label)
            if not labels:
                raise PlanError("schema.label: no column is named; name the one to predict, or several")
            object.__setattr__(self, "label", labels if len(labels) > 1 else labels[0])
        for role, name in (*(("label", name) for name in self.labels), ("weight", self.weight), ("id", self.id)):
            if name is not None and (not isinstance(name, str) or not name):
                raise PlanError(f"schema.{role}: {name!r} is no column name; write the column's name")
        object.__setattr__(self, "base_margin", _listed("base_margin", self.base_margin))
        if bool(self.base_margin) != (0 < self.base_margin_limit < math.inf):
            raise PlanError(
                f"schema.base_margin is {list(self.base_margin)} and schema.base_margin_limit {self.base_margin_limit}; they go "
                "together: columns, and a positive number that no row's base margin exceeds in size"
            )
        self._check_dates()
        named = self._named if self.id is None else (*self._named, self.id)
        _refuse_repeats(named, "schema", "a column is one feature, the label, the weight, a base margin or the id: ")
        object.__setattr__(self, "ignore", tuple(sorted(_listed("ignore", self.ignore))))
        _refuse_repeats(self.ignore, "schema.ignore", "")
        for name in self.ignore:
            if name in self.columns:
                raise PlanError(
                    f"schema.ignore: column {name!r} is a feature, the label, the weight, a base margin or the id too; leave one out"
                )
        levels = tuple(tuple(own) for own in self.categories)
        if levels and len(levels) != len(self.features):
            raise PlanError(
                f"schema.categories: expected levels, or none, for each of {len(self.features)} features, found {len(levels)}"
            )
        for name, own in zip(self.features, levels, strict=False):
            _check_levels(name, own)
        object.__setattr__(self, "categories", levels if any(levels) else ())
        self._check_union()
        self._check_rare_levels()
        if self.decimal not in DECIMAL_SIGNS:
            raise PlanError(f'schema.decimal: expected "." or ",", found {self.decimal!r}')
        object.__setattr__(self, "classes", class_names(self.classes))
        if self.unseen not in UNSEEN:
            raise PlanError(f"schema.unseen: expected {' or '.join(map(repr, UNSEEN))}, found {self.unseen!r:.80}")

    def _check_dates(self) -> None:
        rules = dict(self.dates)
        for name in rules:
            if name not in self.features:
                raise PlanError(f"schema.dates: {name!r} is no feature; name a feature, or leave it out")
        object.__setattr__(self, "dates", tuple((name, rules[name]) for name in self.features if name in rules))
        levels = dict(zip(self.features, self.categories, strict=False))
        for name, text in self.dates:
            column = date_rule(name, text)[1]
            if levels.get(name):
                raise PlanError(
                    f"schema.dates: {name!r} is a categorical feature, whose levels are no dates; leave one out"
                )
            if column in self._named and column not in rules:
                raise PlanError(
                    f"schema.dates.{name}: column {column!r} is read as it is, too; give it a rule of its own, or leave it out"
                )

    def _check_union(self) -> None:
        for name in self.union:
            if name not in self.features:
                raise PlanError(f"schema.union: {name!r} is no feature; name a feature, or leave it out")
            if name in self.levels or name in dict(self.dates):
                raise PlanError(
                    f"schema.union: {name!r} has levels ([categories]), or a rule for dates, too; leave one out"
                )
        object.__setattr__(self, "union", tuple(name for name in self.features if name in self.union))

    def _check_rare_levels(self) -> None:
        rare = dict(self.rare_levels)
        for name, least in rare.items():
            if name not in self.levels and name not in self.union:
                raise PlanError(
                    f"schema.rare_levels: {name!r} is no categorical feature; list its levels, or leave it out"
                )
            if not all(isinstance(level, str) for level in self.levels.get(name, ())):
                raise PlanError(
                    f"schema.rare_levels: the levels of {name!r} are whole numbers, and {OTHER!r} is a text; write its levels as "
                    'texts, such as "101"'
                )
            if isinstance(least, bool) or not isinstance(least, int) or least < 1:
                raise PlanError(
                    f"schema.rare_levels.{name}: expected a whole number of rows of at least 1, found {least!r:.80}"
                )
        object.__setattr__(self, "rare_levels", tuple((name, rare[name]) for name in self.features if name in rare))

    @property
    def _named(self) -> tuple[str, ...]:
        return (*self.features, *self.labels, *(() if self.weight is None else (self.weight,)), *self.base_margin)

    @property
    def labels(self) -> tuple[str, ...]:
        """The columns to predict: one, or several."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def date_columns(self) -> dict[str, tuple[str, str]]:
        """By feature that is made of a date, the rule and the column."""
        return {name: date_rule(name, text) for name, text in self.dates}

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of a table: those of the features, the labels, the weight where there is one, base margins, the id."""
        dates = self.date_columns
        named = [dates[name][1] if name in dates else name for name in self._named]
        return tuple(dict.fromkeys([*named, *(() if self.id is None else (self.id,))]))

    @property
    def values(self) -> tuple[str, ...]:
        """What is read of a table, by name: features, the labels, the weight where there is one, base margins."""
        return self._named

    @property
    def levels(self) -> dict[str, tuple[Level, ...]]:
        """The levels of the categorical features, by name."""
        return {name: own for name, own in zip(self.features, self.categories, strict=False) if own}


def date_rule(feature: str, text: str) -> tuple[str, str]:
    """The rule and the column that an entry of `Schema.dates` names. Raises PlanError."""
    rule, of, column = text.partition(" of ") if isinstance(text, str) else ("", "", "")
    if rule not in DATE_RULES or bool(of) != bool(column):
        raise PlanError(
            f"schema.dates.{feature}: expected one of {', '.join(map(repr, DATE_RULES))}, alone or such as 'month of COLUMN', found "
            f"{text!r:.80}"
        )
    return rule, column or feature


def class_names(given: object) -> tuple[str, ...]:
    """The texts of a label, in the order of its classes; () for none. Raises PlanError."""
    if isinstance(given, str) or not isinstance(given, tuple | list):
        raise PlanError(f"schema.classes: expected a list of texts, found {given!r:.200}")
    for name in given:
        if not isinstance(name, str) or name.strip().lower() in MISSING_WORDS:
            raise PlanError(
                f"schema.classes: expected texts other than {', '.join(map(repr, MISSING_WORDS))} (which mean a missing value), found "
                f"{name!r:.200}; write the texts that the label column holds, or leave classes out where it holds numbers"
            )
    if len(given) == 1 or len(set(given)) < len(given):
        raise PlanError(f"schema.classes: expected two or more different texts, found {list(given)!r:.200}")
    return tuple(given)


def _listed(key: str, names: object) -> tuple[str, ...]:
    # A bare string is a sequence of one-letter names, which nobody means.
    if isinstance(names, str) or not isinstance(names, tuple | list):
        raise PlanError(f"schema.{key}: expected a list of column names, found {names!r}")
    for name in names:
        if not isinstance(name, str) or not name:
            raise PlanError(f"schema.{key}: {name!r} is no column name; write the column's name")
    return tuple(names)


def _names(features: object) -> tuple[str, ...]:
    names = _listed("features", features)
    for name in names:
        fault = name_fault(name)
        if fault is not None:
            raise PlanError(f"schema.features: {fault}")
    return names


def name_fault(name: str) -> str | None:
    """Why XGBoost would refuse a feature of this name, and the cure; None where it would not."""
    barred = [sign for sign in BARRED if sign in name]
    if barred:
        return f"feature name {name!r}: XGBoost takes no [, ] or < in a name, and no zero byte; rename the column"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"feature name {name!r}: it cannot be written as UTF-8; rename the column"
    return None


def _refuse_repeats(columns: tuple[str, ...], key: str, why: str) -> None:
    repeated = sorted(name for name, count in Counter(columns).items() if count > 1)
    if repeated:
        raise PlanError(f"{key}: column {repeated[0]!r} is named more than once; {why}name it once")


def _check_levels(name: str, levels: tuple[Level, ...]) -> None:
    texts = all(isinstance(level, str) and level.strip().lower() not in MISSING_WORDS for level in levels)
    numbers = all(isinstance(level, int) and not isinstance(level, bool) and abs(level) < WHOLE for level in levels)
    if not texts and not numbers:
        raise PlanError(
            f"categories.{name}: expected texts other than {', '.join(map(repr, MISSING_WORDS))} (which mean a missing value), or "
            f"whole numbers below 2^53, found {list(levels)!r:.200}; write all levels alike"
        )
    if len(set(levels)) < len(levels):
        repeated = next(level for level in levels if levels.count(level) > 1)
        raise PlanError(f"categories.{name}: level {repeated!r} is named more than once; name it once")
