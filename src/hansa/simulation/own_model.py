"""The common model beside one of a member's own rows only, on rows that the plan held out. Nothing leaves the member."""

from __future__ import annotations

from pathlib import Path

from hansa.data.source import read_rows
from hansa.errors import HansaError, PlanError
from hansa.node.cores import useful_threads
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.plan import Plan
from hansa.simulation.comparison import PairedLoss, advice
from hansa.simulation.evaluation import Comparison, Question, compare_models
from hansa.simulation.run import local_plan
from hansa.trees.ensemble import Ensemble
from hansa.trees.losses import is_softmax

NAMES = ("common", "own")
"""Of the two models, in this order."""


def compare_with_own(common: Ensemble, table: Path, question: Question) -> Comparison:
    """The common model, and one of the plan's parameters on the rows of `table` that the plan did not hold out, on those that it did.

    Args:
        question: its plan is the common model's.

    Raises:
        PlanError: the plan holds no rows out, or a model of it cannot be had of one party. DataError: the table does not fit the plan.
        HansaError: these rows alone give no model.
    """
    plan = question.plan
    if plan is None or not plan.evaluation_fraction:
        raise PlanError(
            "a model of own rows is held to rows that the plan held out, and it holds none out (evaluation.fraction)",
            rule="evaluation.fraction",
        )
    own = train_own(plan, table)
    return compare_models(common, own, (table, table), question, NAMES)


def train_own(plan: Plan, table: Path) -> Ensemble:
    """A model of the rows of `table` that the plan does not hold out. Raises as `compare_with_own`."""
    for there, what in (
        (plan.custom_objective or plan.custom_metric, "has functions of the members' own"),
        (plan.parameters.num_class and not is_softmax(plan.parameters.objective), "trains one class against the rest"),
    ):
        if there:
            raise PlanError(f"the plan {what}, and a model of own rows is not trained for such a plan")
    name = "own"
    single = local_plan(plan, name)
    rows = read_rows(table, plan.schema, label_kind=plan.parameters.label_kind)
    try:
        run = train_in_process(single, {name: rows}, threads=useful_threads(), policy=policy_of_holder(single))
    except HansaError as error:
        raise HansaError(f"{table}: its rows alone give no model: {error}", cure=error.cure) from error
    return run.outcome.ensemble


def advice_of(found: Comparison) -> str:
    """What a member should know whose own model is better; "" where it is not."""
    return advice(
        "this member",
        PairedLoss(
            loss=found.loss,
            together=found.first_loss,
            alone=found.second_loss,
            standard_error=found.standard_error,
            rows=found.first.rows,
        ),
    )
