"""`hansa describe` on one machine: a table split into parties, and described as their run would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hansa.data.description import Description
from hansa.errors import DataError, in_words
from hansa.files import read_whole
from hansa.node.in_process import describe_in_process
from hansa.roles.summed.describing import check_describable
from hansa.simulation.run import (
    SimulationSettings,
    check_labels,
    make_plan,
    member_names,
    refusal_of_members,
    split_parties,
    told_of_names,
)
from hansa.simulation.tables import Table


def describe_table(
    table: Table, settings: SimulationSettings, classes: tuple[str, ...] = ()
) -> tuple[Description, tuple[str, ...]]:
    """The description of all parties' rows that the parties of a run would receive, with the shifts that its aggregator can know;
    and what is allowed but probably not meant.

    Args:
        classes: what a label of texts says, in the order of its codes.

    Raises PlanError where the mode opens no counts, DataError where the labels do not fit the objective.
    """
    check_labels(settings.parameters, table)
    names = member_names(sorted(set(table.party)))
    parts = split_parties(table, names)
    labels = float(table.label.min()), float(table.label.max())
    heaviest = 1.0 if table.weight is None else float(table.weight.max())
    plan = make_plan(settings, table.names, tuple(parts), labels, heaviest, table.categories, table.farthest)
    check_describable(plan)
    plan = replace(plan, schema=replace(plan.schema, classes=classes))
    told = [*told_of_names(names), *table.warnings]
    if (refusal := refusal_of_members(plan, parts)) is not None:
        plan = replace(plan, min_party_rows=0)
        told.append(refusal)
    run = describe_in_process(plan, {name: part.rows() for name, part in parts.items()})
    return run.description, tuple(told)


def read_description(path: Path) -> Description:
    """The description in a file. Raises DataError naming it."""
    try:
        return Description.from_json(read_whole(path))
    except (OSError, ValueError, DataError) as error:
        raise DataError(f"{path}: {in_words(error)}") from error
