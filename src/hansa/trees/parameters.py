"""XGBoost's training parameters, under XGBoost's names and with its defaults; what Hansa cannot do is refused by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hansa.errors import PlanError
from hansa.trees.ensemble import LEAST_PROBABILITY, OBJECTIVES

DEFAULT_METRIC = {"binary:logistic": "logloss", "reg:squarederror": "rmse"}

METRICS = {
    "binary:logistic": ("logloss", "error", "auc", "aucpr", "rmse", "mae"),
    "reg:squarederror": ("rmse", "mae"),
}

METRICS_OF_CLASSES = ("logloss", "error", "rmse", "mae")
"""Metrics where num_class is given: means over rows and classes. XGBoost has no auc or aucpr of several outputs either."""

MOST_CLASSES = 1000

MOST = 3.4028234e38
"""XGBoost keeps parameters as float32."""

SOFTMAX = ("multi:softprob", "multi:softmax")

ALIASES = {
    "learning_rate": "eta",
    "reg_lambda": "lambda",
    "reg_alpha": "alpha",
    "min_split_loss": "gamma",
    "num_boost_round": "rounds",
    "n_estimators": "rounds",
    "random_state": "seed",
}

WITHOUT_EFFECT = {
    "tree_method": ("hist", "auto"),
    "booster": ("gbtree",),
    "grow_policy": ("depthwise",),
    "max_leaves": (0,),
    "num_parallel_tree": (1,),
    "max_cat_to_onehot": None,
    "verbosity": None,
    "nthread": None,
    "n_jobs": None,
}
"""XGBoost's parameters that say what Hansa does anyway: the values accepted (None: any)."""


@dataclass(frozen=True)
class Parameters:
    """How to grow the trees. Field names are XGBoost's; `lambda` is spelled `lambda_` in Python.

    Attributes:
        objective: "binary:logistic" or "reg:squarederror".
        num_class: 0, or the number of classes K: then K models are trained side by side, class k against the rest.
        rounds: rounds of boosting; each grows one tree, or with num_class one for each class.
        eta: learning rate, times which each leaf weight is taken.
        max_depth: depth of a tree, 1 to 16.
        lambda_, alpha: L2 and L1 terms on leaf weights.
        gamma: least gain of a split.
        min_child_weight: least hessian of a child.
        max_delta_step: bound on a leaf weight before eta; 0 is none.
        subsample: share of rows drawn for each tree.
        colsample_bytree: share of features drawn for each tree.
        max_bin: bins of a feature's values at most; missing values have a bin of their own beside them.
        scale_pos_weight: weight of rows with label 1; "auto" is negatives / positives, from pooled counts.
        base_score: start value in label space; None takes the pooled mean.
        early_stopping_rounds: stop when the last metric has not improved for so many rounds; None never.
        eval_metric: metrics to compute each round on the held-out rows; the last one decides early stopping.
        seed: seed of row and column sampling.
        histogram_bits: 32 or 64: bits of each sum in a histogram. "auto" is 32, or 64 where weights or labels are so unlike that 32
            would count many rows too coarsely (`roles.statistics.histogram_bits_of`).
    """

    objective: str = "binary:logistic"
    num_class: int = 0
    rounds: int = 100
    eta: float = 0.3
    max_depth: int = 6
    lambda_: float = 1.0
    alpha: float = 0.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    max_delta_step: float = 0.0
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    max_bin: int = 256
    scale_pos_weight: float | str = 1.0
    base_score: float | None = None
    early_stopping_rounds: int | None = None
    eval_metric: tuple[str, ...] = ()
    seed: int = 0
    histogram_bits: int | str = "auto"

    @property
    def outputs(self) -> int:
        """Numbers that the model predicts for a row: one, or with num_class one for each class."""
        return self.num_class or 1

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to compute: `eval_metric`, or the objective's own."""
        return self.eval_metric or (DEFAULT_METRIC[self.objective],)


NAMES = tuple(field.name.rstrip("_") for field in fields(Parameters))


def parse_parameters(given: Mapping[str, Any]) -> Parameters:
    """Read parameters under XGBoost's names. Raises PlanError naming the parameter, its value and what is allowed."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        target = ALIASES.get(name, name)
        if name in WITHOUT_EFFECT:
            allowed = WITHOUT_EFFECT[name]
            if allowed is not None and value not in allowed:
                raise PlanError(
                    f"parameter {name} = {value!r} is not supported: Hansa trains with {name} = {allowed[0]!r}"
                )
            continue
        if target not in NAMES:
            near = difflib.get_close_matches(name, [*NAMES, *ALIASES], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise PlanError(f"parameter {name!r} is unknown or not supported{hint} (supported: {', '.join(NAMES)})")
        if target in values:
            raise PlanError(f"parameter {target!r} is given twice (as {name!r} and under another name)")
        values[target] = value
    checked = {_field(name): _check(name, value) for name, value in values.items()}
    parameters = Parameters(**checked)
    _check_together(parameters)
    return parameters


def _field(name: str) -> str:
    return "lambda_" if name == "lambda" else name


def _refuse(name: str, value: Any, expected: str) -> PlanError:
    return PlanError(f"parameter {name} = {value!r}: expected {expected}")


def _number(name: str, value: Any, low: float, high: float, *, low_open: bool = False) -> float:
    expected = f"a number {'above' if low_open else 'of at least'} {low:g}" + (
        "" if math.isinf(high) else f", at most {high:g}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refuse(name, value, expected)
    if value < low or value > high or (low_open and value == low):
        raise _refuse(name, value, expected)
    return float(value)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refuse(name, value, f"a whole number from {low} to {high}")
    return value


def _check(name: str, value: Any) -> Any:
    match name:
        case "objective":
            if value in SOFTMAX:
                raise PlanError(
                    f"parameter objective = {value!r} is not supported; write objective = 'binary:logistic' with num_class = K: "
                    "K models, one class against the rest, in one file (coopetitive mode)"
                )
            if value not in OBJECTIVES:
                raise _refuse(name, value, f"one of {', '.join(OBJECTIVES)}")
            return value
        case "rounds":
            return _integer(name, value, 1, 100_000)
        case "num_class":
            return 0 if value == 0 and not isinstance(value, bool) else _integer(name, value, 3, MOST_CLASSES)
        case "max_depth":
            return _integer(name, value, 1, 16)
        case "max_bin":
            return _integer(name, value, 2, 65_535)
        case "seed":
            return _integer(name, value, 0, 2**63 - 1)
        case "histogram_bits":
            if value not in ("auto", 32, 64) or isinstance(value, bool):
                raise _refuse(name, value, '"auto", 32 or 64')
            return value
        case "eta":
            return _number(name, value, 0, 1, low_open=True)
        case "lambda" | "alpha" | "gamma" | "min_child_weight" | "max_delta_step":
            return _number(name, value, 0, MOST)
        case "subsample" | "colsample_bytree":
            return _number(name, value, 0, 1, low_open=True)
        case "scale_pos_weight":
            return value if value == "auto" else _number(name, value, 0, 1e6, low_open=True)
        case "base_score":
            return None if value is None else _number(name, value, -MOST, MOST)
        case "early_stopping_rounds":
            return None if value is None else _integer(name, value, 1, 100_000)
        case "eval_metric":
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
                raise _refuse(name, value, "a metric's name or a list of names")
            return tuple(names)
        case _:
            raise _refuse(name, value, "a supported parameter")


def _check_together(p: Parameters) -> None:
    if p.num_class:
        _check_classes(p)
    for metric in p.eval_metric:
        if metric not in METRICS[p.objective]:
            raise _refuse("eval_metric", metric, f"one of {', '.join(METRICS[p.objective])} for {p.objective}")
    if len(set(p.eval_metric)) < len(p.eval_metric):
        raise _refuse("eval_metric", p.eval_metric, "each metric once")
    far = p.base_score is None or LEAST_PROBABILITY <= p.base_score <= 1 - LEAST_PROBABILITY
    if p.objective == "binary:logistic" and not far:
        expected = f"a probability from {LEAST_PROBABILITY:g} to 1 - {LEAST_PROBABILITY:g} for binary:logistic"
        raise _refuse("base_score", p.base_score, expected)
    if p.objective != "binary:logistic" and p.scale_pos_weight != 1.0:
        raise _refuse("scale_pos_weight", p.scale_pos_weight, f"1 for {p.objective}, which has no positive class")


def _check_classes(p: Parameters) -> None:
    """What K models of one class against the rest cannot have."""
    if p.objective != "binary:logistic":
        raise _refuse("num_class", p.num_class, f"0 for {p.objective}, which has no classes")
    for metric in p.eval_metric:
        if metric in METRICS[p.objective] and metric not in METRICS_OF_CLASSES:
            raise _refuse("eval_metric", metric, f"one of {', '.join(METRICS_OF_CLASSES)} with num_class")
    if p.scale_pos_weight == "auto":
        raise _refuse("scale_pos_weight", "auto", "a number with num_class: one number holds for every class")
