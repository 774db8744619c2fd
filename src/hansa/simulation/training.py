"""What commands train on the rows of a table: their options, read into rows and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.errors import PlanError
from hansa.node.functions import read_metric
from hansa.plan import DEFAULT_MIN_CELL_ROWS, checked_classes, parameters_of
from hansa.simulation.run import OwnMetric, SimulationSettings
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
            dates=self.table.dates,
        )
        return read.with_member_feature(self.member_feature, self.table)


def read_training(
    path: Path,
    *,
    label: tuple[str, ...],
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
    dates: tuple[tuple[str, str], ...] = (),
    rare_levels: tuple[tuple[str, int], ...] = (),
    custom_metric: Path | None = None,
    metric_bound: float | None = None,
    maximize: bool = False,
) -> Training:
    """Read what the options of a command say; `settings` are parameters beside the named ones, `id` is a column of subjects, and
    `member_feature` the name of a feature that says whose a row is. The file of `custom_metric` is run.

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
        dates=dict(dates),
    )
    least = min_cell_rows or DEFAULT_MIN_CELL_ROWS
    chosen = SimulationSettings(
        parameters,
        label if len(label) > 1 else label[0],
        mode,
        weight,
        base_margin,
        least,
        threads=threads,
        dates=dates,
        rare_levels=rare_levels,
        own_metric=_own_metric(custom_metric, metric_bound, maximize),
    )
    return Training(
        table.with_member_feature(member_feature), chosen, given, party_column, named, decimal, member_feature
    )


def _own_metric(file: Path | None, bound: float | None, maximize: bool) -> OwnMetric | None:
    """The metric of a file, under the plan's default name. Raises PlanError."""
    if file is None:
        if bound is not None or maximize:
            raise PlanError("--metric-bound and --maximize go with --custom-metric; leave them out, or name a file")
        return None
    if bound is None:
        raise PlanError("--custom-metric needs --metric-bound, which no row's value exceeds: sums are scaled by it")
    function, sha256 = read_metric(file)
    return OwnMetric.of(function, sha256, bound, maximize, file)
