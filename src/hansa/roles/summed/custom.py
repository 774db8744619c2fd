"""Gradients by a function of the members' own: what it returns is held to the plan's public bounds, row by row.

Every party has the function's file; the plan names it by hash alone, so no code travels. As with the losses that Hansa has, a row's
gradient and hessian must depend on its own margin, label and weight alone, to the bit: else the model would depend on who holds which
row. `check_rows_apart` looks for functions that break this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, PlanError
from hansa.plan import CustomObjective, Plan
from hansa.trees import objective

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

GradientFunction = Callable[[Float32, Float32, Float32], tuple[Any, Any]]
"""(margins, labels, weights), float32 (n,) each, to (gradients, hessians), (n,) each; weights are 1 where the plan names none."""

MOST_ROWS_COMPARED = 2048
"""Rows on which `check_rows_apart` compares."""

FARTHEST_COMPARED = 8.0
"""The margins there go from minus this to this."""


def gradient_function(plan: Plan, given: GradientFunction | None, owner: str) -> GradientFunction | None:
    """The function of a plan's custom objective; None where it has none. Raises PlanError where one lacks the other."""
    if (plan.custom_objective is None) == (given is None):
        return given
    if given is None:
        raise PlanError(
            f"party {owner!r}: the plan has a custom_objective, and this party gives no function; name its file"
        )
    raise PlanError(f"party {owner!r} gives a function, and the plan has no custom_objective; leave it out")


def custom_gradients(
    function: GradientFunction,
    bounds: CustomObjective,
    first: int,
    margins: Float32,
    labels: Float32,
    weights: Float32 | None,
) -> tuple[Float64, Float64]:
    """What the function makes of a party's rows from row `first` (from 0) on, held to the bounds.

    Raises DataError naming the row (from 1) and the bound, never a value of the row.
    """
    gradient, hessian = _called(function, margins, labels, weights)
    for name, values, least, most in (
        ("gradient", gradient, -bounds.gradient_bound, bounds.gradient_bound),
        ("hessian", hessian, 0.0, bounds.hessian_bound),
    ):
        wrong = ~((values >= least) & (values <= most))  # true for NaN
        if wrong.any():
            raise DataError(
                f"custom_objective: the {name} of row {first + int(wrong.argmax()) + 1} (and of {int(np.count_nonzero(wrong)) - 1} "
                f"more) is no number from {least:g} to {most:g}; mend the function, or agree on another custom_objective.{name}_bound"
            )
    return gradient, hessian


def _called(
    function: GradientFunction, margins: Float32, labels: Float32, weights: Float32 | None
) -> tuple[Float64, Float64]:
    """The function's results as float64 (n,). It gets copies: what it writes there changes nothing."""
    ones = np.ones_like(labels) if weights is None else weights.copy()
    try:
        with np.errstate(all="ignore"):  # bounds tell
            found = function(margins.copy(), labels.copy(), ones)
    except Exception as error:  # whatever the members' function raises; its words may hold cells, and stay here
        raise DataError(
            f"custom_objective: the function raised {type(error).__name__}; mend it at all members, and agree on its new hash"
        ) from error
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"custom_objective: expected (gradients, hessians), found {type(found).__name__}; mend the function"
        )
    arrays = []
    for name, values in zip(("gradients", "hessians"), found, strict=True):
        array = np.asarray(values)
        if array.shape != labels.shape or array.dtype.kind not in "fiu":
            raise DataError(
                f"custom_objective: expected {name} as numbers of shape {labels.shape}, found {array.dtype} of shape {array.shape}; "
                "mend the function"
            )
        arrays.append(np.ascontiguousarray(array, np.float64))
    return arrays[0], arrays[1]


def check_rows_apart(function: GradientFunction, labels: Float32, weights: Float32 | None) -> None:
    """Refuse a function whose result for a row depends on the rows beside it, or on the row's place, as far as some rows tell.

    Rows are given in order, backwards, without the first one, and some alone. Raises DataError where bits differ.
    """
    labels = labels[:MOST_ROWS_COMPARED]
    weights = None if weights is None else weights[:MOST_ROWS_COMPARED]
    count = len(labels)
    margins = np.linspace(-FARTHEST_COMPARED, FARTHEST_COMPARED, count, dtype=np.float32)
    whole = np.stack(_called(function, margins, labels, weights))
    places = np.arange(count)
    for chosen in (places[::-1], places[1:], *(places[place : place + 1] for place in (0, count // 3, count - 1))):
        if not len(chosen):
            continue
        own = None if weights is None else weights[chosen]
        again = np.stack(_called(function, margins[chosen], labels[chosen], own))
        if again.tobytes() != np.ascontiguousarray(whole[:, chosen]).tobytes():
            raise DataError(
                "custom_objective: the function's result for a row depends on the rows beside it or on the row's place, so that the "
                "model would depend on who holds which row; use operations that round each row alone (+, -, *, /, comparisons, sqrt; "
                "NumPy's exp and log may round otherwise at another place), and no sums over rows"
            )


def most_hessian(plan: Plan, weight_bound: float, gradient_bound: float) -> float:
    """Bound on h of any row, as `objective.most_hessian`; of a custom objective the plan's."""
    if plan.custom_objective is not None:
        return plan.custom_objective.hessian_bound
    return objective.most_hessian(plan.parameters.objective, weight_bound, gradient_bound, plan.parameters.shape)


def hessian_bound(plan: Plan, weight_bound: float, gradient_bound: float) -> float:
    """As `objective.hessian_bound`; of a custom objective the plan's."""
    if plan.custom_objective is not None:
        return plan.custom_objective.hessian_bound
    return objective.hessian_bound(plan.parameters.objective, weight_bound, gradient_bound, plan.parameters.shape)
