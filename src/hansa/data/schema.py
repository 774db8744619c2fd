"""What a party's table must look like: which columns are features, label and weight."""

from __future__ import annotations

from dataclasses import dataclass

from hansa.errors import PlanError


@dataclass(frozen=True)
class Schema:
    """Columns of every party's table, agreed in the plan. Public to all members.

    Attributes:
        features: names of the numeric feature columns, in the order that the model numbers them.
        label: name of the column to predict.
        weight: name of the column with each row's weight, or None where every row weighs 1.

    Raises PlanError where a name is empty or used twice, or where there is no feature.
    """

    features: tuple[str, ...]
    label: str
    weight: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _names(self.features))
        if not self.features:
            raise PlanError("schema.features: no feature is named; list at least one numeric column")
        for role, name in (("label", self.label), ("weight", self.weight)):
            if name is not None and (not isinstance(name, str) or not name):
                raise PlanError(f"schema.{role}: {name!r} is no column name; write the column's name")
        _refuse_repeats(self.columns)

    @property
    def columns(self) -> tuple[str, ...]:
        """All column names: features, then the label, then the weight where there is one."""
        return (*self.features, self.label, *(() if self.weight is None else (self.weight,)))


def _names(features: object) -> tuple[str, ...]:
    # A bare string is a sequence of one-letter names, which nobody means.
    if isinstance(features, str) or not isinstance(features, tuple | list):
        raise PlanError(f"schema.features: expected a list of column names, found {features!r}")
    for name in features:
        if not isinstance(name, str) or not name:
            raise PlanError(f"schema.features: {name!r} is no column name; write the column's name")
    return tuple(features)


def _refuse_repeats(columns: tuple[str, ...]) -> None:
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if repeated:
        raise PlanError(
            f"schema: column {repeated[0]!r} is named more than once; "
            "a column is one feature, or the label, or the weight: name it once"
        )
