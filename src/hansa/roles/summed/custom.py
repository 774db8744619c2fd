"""Gradients and metrics by functions of the members' own: what they return is held to the plan's public bounds, row by row.

Every party has a function's file; the plan names it by hash alone, so no code travels. As with the losses that Hansa has, what a
function makes of a row must depend on the row's own margin, label and weight alone, to the bit: else the model would depend on who
holds which row. `check_rows_apart` looks for functions that break this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, PlanError
from hansa.plan import CustomMetric, CustomObjective, Plan
from hansa.trees import objective
from hansa.trees.ensemble import predictions_from_margins
from hansa.trees.metrics import MetricScale, value_sums

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

GradientFunction = Callable[[Float32, Float32, Float32], tuple[Any, Any]]
"""(margins, labels, weights), float32 (n,) each, to (gradients, hessians), (n,) each; weights are 1 where the plan names none."""

MetricFunction = Callable[[Float32, Float32, Float32], Any]
"""(predictions, labels, weights), float32 (n,) each, of several outputs predictions of (n, outputs), to each row's value, (n,)."""


@dataclass(frozen=True)
class Functions:
    """What a plan's custom_objective and custom_metric name, where it has them."""

    objective: GradientFunction | None = None
    metric: MetricFunction | None = None


NO_FUNCTIONS = Functions()


@dataclass(frozen=True)
class FunctionFile:
    """A file with one function, held to the plan's hash. key: custom_objective or custom_metric. path: for messages."""

    key: str
    path: str
    source: bytes

    def function(self) -> FunctionType:
        """Run the file, which the policy must have allowed, for the function whose name begins with no underscore. Raises PlanError."""
        names: dict[str, object] = {"__name__": f"hansa_{self.key}", "__file__": self.path}
        try:
            exec(compile(self.source, self.path, "exec"), names)
        except Exception as error:  # whatever the file raises
            raise PlanError(f"{self.path}: the file cannot be run: {type(error).__name__}: {error}") from error
        functions = [
            value
            for name, value in names.items()
            if isinstance(value, FunctionType) and value.__module__ == names["__name__"] and not name.startswith("_")
        ]
        if len(functions) != 1:
            raise PlanError(
                f"{self.path}: expected one function, found {len(functions)}; let the names of others begin with an underscore"
            )
        return functions[0]


@dataclass(frozen=True)
class FunctionFiles:
    """Those of a plan, None where it has none. Workers of an engine get the files, and run them themselves."""

    objective: FunctionFile | None = None
    metric: FunctionFile | None = None

    def functions(self) -> Functions:
        """What the files hold. Raises PlanError, as `FunctionFile.function`."""
        return Functions(*(None if file is None else file.function() for file in (self.objective, self.metric)))


NO_FUNCTION_FILES = FunctionFiles()

MOST_ROWS_COMPARED = 2048
"""Rows on which `check_rows_apart` compares."""

FARTHEST_COMPARED = 8.0
"""The margins there go from minus this to this."""


def check_functions(plan: Plan, given: Functions, owner: str) -> None:
    """Refuse a plan that names a function which is not given, and a function that the plan does not name. Raises PlanError."""
    for name, wanted, function in (
        ("custom_objective", plan.custom_objective, given.objective),
        ("custom_metric", plan.custom_metric, given.metric),
    ):
        if wanted is not None and function is None:
            raise PlanError(f"party {owner!r}: the plan has a {name}, and this party gives no function; name its file")
        if wanted is None and function is not None:
            raise PlanError(f"party {owner!r} gives a function, and the plan has no {name}; leave it out")


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
    gradient, hessian = _gradients(function, margins, labels, weights)
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


def custom_metric_sums(
    function: MetricFunction,
    own: CustomMetric,
    predictions: Float32,
    labels: Float32,
    weights: Float32 | None,
    scale: MetricScale,
) -> Int64:
    """A party's sums (`trees.metrics.value_sums`) of what the function makes of its held-out rows.

    Args:
        predictions: float32 (n_rows,), or (n_rows, outputs), as the model's `predict` gives them.

    Raises DataError naming the bound, never a value of a row.
    """
    values = _values(function, predictions, labels, weights)
    wrong = ~((values >= 0) & (values <= own.bound))  # true for NaN
    if wrong.any():
        raise DataError(
            f"custom_metric: the values of {int(np.count_nonzero(wrong))} held-out rows are no numbers from 0 to {own.bound:g}; mend "
            "the function, or agree on another custom_metric.bound"
        )
    return value_sums(values, weights, own.bound, scale)


def _gradients(
    function: GradientFunction, margins: Float32, labels: Float32, weights: Float32 | None
) -> tuple[Float64, Float64]:
    """The results of an objective's function."""
    found = _called("custom_objective", function, margins, labels, weights)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise DataError(
            f"custom_objective: expected (gradients, hessians), found {type(found).__name__}; mend the function"
        )
    gradients, hessians = (
        _numbers("custom_objective", name, values, len(labels))
        for name, values in zip(("gradients", "hessians"), found, strict=True)
    )
    return gradients, hessians


def _values(function: MetricFunction, predictions: Float32, labels: Float32, weights: Float32 | None) -> Float64:
    """The results of a metric's function."""
    found = _called("custom_metric", function, predictions, labels, weights)
    if isinstance(found, tuple | list):
        raise DataError(
            "custom_metric: expected a value for each row, (n,), of which the mean over all parties' rows is the metric; found "
            f"{type(found).__name__}; mend the function"
        )
    return _numbers("custom_metric", "values", found, len(labels))


def _called(name: str, function: Callable[..., Any], scores: Float32, labels: Float32, weights: Float32 | None) -> Any:
    """What the function returns. It gets copies: what it writes there changes nothing."""
    ones = np.ones_like(labels) if weights is None else weights.copy()
    try:
        with np.errstate(all="ignore"):  # bounds tell
            return function(scores.copy(), labels.copy(), ones)
    except Exception as error:  # whatever the members' function raises; its words may hold cells, and stay here
        raise DataError(
            f"{name}: the function raised {type(error).__name__}; mend it at all members, and agree on its new hash"
        ) from error


def _numbers(name: str, what: str, values: object, count: int) -> Float64:
    """As float64 (count,)."""
    array = np.asarray(values)
    if array.shape != (count,) or array.dtype.kind not in "fiu":
        raise DataError(
            f"{name}: expected {what} as numbers of shape ({count},), found {array.dtype} of shape {array.shape}; mend the function"
        )
    return np.ascontiguousarray(array, np.float64)


def check_rows_apart(plan: Plan, functions: Functions, labels: Float32, weights: Float32 | None) -> None:
    """Refuse functions whose result for a row depends on the rows beside it, or on the row's place, as far as some rows tell.

    Raises DataError where bits differ.
    """
    margins = np.linspace(-FARTHEST_COMPARED, FARTHEST_COMPARED, min(len(labels), MOST_ROWS_COMPARED), dtype=np.float32)
    if (gradients := functions.objective) is not None:
        _check_apart("custom_objective", lambda *rows: np.stack(_gradients(gradients, *rows)), margins, labels, weights)
    if (values := functions.metric) is not None:
        outputs = plan.parameters.outputs
        scores = margins if outputs == 1 else np.stack([margins] * outputs, axis=1)
        scores = predictions_from_margins(plan.parameters.objective, scores)
        _check_apart("custom_metric", lambda *rows: _values(values, *rows)[None], scores, labels, weights)


def _check_apart(
    name: str, call: Callable[..., Float64], scores: Float32, labels: Float32, weights: Float32 | None
) -> None:
    """Rows are given in order, backwards, without the first one, and some alone; `call` returns float64 (k, rows)."""
    count = len(scores)
    labels, weights = labels[:count], None if weights is None else weights[:count]
    whole = call(scores, labels, weights)
    places = np.arange(count)
    for chosen in (places[::-1], places[1:], *(places[place : place + 1] for place in (0, count // 3, count - 1))):
        if not len(chosen):
            continue
        own = None if weights is None else weights[chosen]
        again = call(scores[chosen], labels[chosen], own)
        if again.tobytes() != np.ascontiguousarray(whole[:, chosen]).tobytes():
            raise DataError(
                f"{name}: the function's result for a row depends on the rows beside it or on the row's place, so that the "
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
