"""What commands train on the rows of a table: their options, read into rows and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.plan import DEFAULT_MIN_CELL_ROWS, checked_classes, parameters_of
from hansa.simulation.run import SimulationSettings
from hansa.simulation.tables import Table, read_table


@dataclass(frozen=True)
class Training:
    """Rows, and what to train on them.

    Attributes:
        table: all parties' rows. settings: of the training. given: its parameters, as they were given.
        party_column, classes, decimal, member_feature: by which another table of the same columns is read.
    """

    table: Table
    settings: SimulationSettings
    given: Mapping[str, object]
    party_column: str
    classes: tuple[str, ...]
    decimal: str
    member_feature: str | None = None

    def read_like(self, path: Path) -> Table:
        """Another table, by the same rules and codes. Raises DataError naming file, row and column."""
        settings = self.settings
        read = read_table(
            path,
            settings.label,
            self.party_column,
            settings.weight,
            like=self.table.without_feature(self.member_feature),
            base_margin=settings.base_margin,
            label_kind=settings.parameters.label_kind,
            classes=self.classes,
            decimal=self.decimal,
        )
        return read.with_member_feature(self.member_feature, self.table)


def read_training(
    path: Path,
    *,
    label: str,
    party_column: str,
    weight: str | None,
    classes: tuple[str, ...] | None,
    seed: int,
    mode: str,
    categorical: tuple[str, ...],
    decimal: str,
    objective: str,
    rounds: int,
    settings: tuple[tuple[str, Any], ...],
    min_cell_rows: int | None,
    threads: int | None,
    base_margin: tuple[str, ...] = (),
    member_feature: str | None = None,
    id: str | None = None,
) -> Training:
    """Read what the options of a command say; `settings` are parameters beside the named ones, `id` is a column of subjects, and
    `member_feature` the name of a feature that says whose a row is.

    Raises PlanError and DataError with what to do.
    """
    given: dict[str, object] = {"objective": objective, "rounds": rounds, "seed": seed}
    given |= dict(settings)
    parameters = parameters_of(mode, given)
    named = checked_classes(classes or (), parameters)
    table = read_table(
        path,
        label,
        party_column,
        weight,
        subject=id,
        base_margin=base_margin,
        categorical=categorical,
        label_kind=parameters.label_kind,
        classes=named,
        decimal=decimal,
    )
    least = min_cell_rows or DEFAULT_MIN_CELL_ROWS
    chosen = SimulationSettings(parameters, label, mode, weight, base_margin, least, threads=threads)
    return Training(
        table.with_member_feature(member_feature), chosen, given, party_column, named, decimal, member_feature
    )
