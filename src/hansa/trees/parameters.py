"""XGBoost's training parameters, under XGBoost's names and with its defaults; what Hansa cannot do is refused by name."""

from __future__ import annotations

import ast
import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from hansa.errors import PlanError
from hansa.spelling import nearest
from hansa.trees.losses import (
    LEAST_POWER,
    LEAST_PROBABILITY,
    LEAST_SHIFTED,
    LOSSES,
    MOST_POWER,
    OBJECTIVES,
    OneLabel,
    is_exponential,
    is_logistic,
    is_quantile,
    is_softmax,
    measures,
    metrics_in_words,
)

DEFAULT_METRIC = {objective: loss.metrics[0] for objective, loss in LOSSES.items()}

METRICS = {objective: loss.metrics for objective, loss in LOSSES.items()}

METRICS_OF_CLASSES = ("logloss", "error", "rmse", "mae")
"""Metrics where num_class is given: means over rows and classes. XGBoost has no auc or aucpr of several outputs either."""

MOST_CLASSES = 1000

MULTI_STRATEGIES = ("one_output_per_tree", "multi_output_tree")
"""Which outputs a tree has leaf values of: one, or with XGBoost's vectors in leaves all. Of one output both are the same."""

RANKS = ("auc", "aucpr")
"""Metrics that order rows by one score, which XGBoost has of several labels no more than Hansa."""

MOST = 3.4028234e38
"""XGBoost keeps parameters as float32."""

LEAST = 2.0**-126
"""The least number above 0 that XGBoost reads as float32: it refuses what float32 holds with fewer digits, or as 0."""

POISSON_STEP = 0.7
"""XGBoost's max_delta_step for count:poisson, where none is given."""

MOST_STEP = 20.0
"""Hessians of count:poisson have the factor e^max_delta_step."""

TWEEDIE = "tweedie-nloglik"

MOST_TREES = 1_000_000
"""Trees of a model: rounds times trees a round."""

GROW_POLICIES = ("depthwise", "lossguide")

BALANCES = ("rows", "parties")
"""What counts as much as another: each row, or each party, whose rows share a weight."""

REFUSED_OBJECTIVES = {
    "rank:": "ranking compares rows of one query with one another, and a row's gradient here follows from that row alone; train on "
    "each row's own label, for example with reg:squarederror",
    "survival:": "survival:cox orders all rows by time, which no sum over rows can do, and survival:aft needs two labels a row; train "
    "on one label, for example with binary:logistic on 'the event came within a year'",
    "reg:expectileerror": "Hansa has no gradients of it; train on squared error (reg:squarederror)",
}
"""How names of XGBoost's objectives begin that cannot be had in any mode, and why."""

ALIASES = {
    "learning_rate": "eta",
    "reg_lambda": "lambda",
    "reg_alpha": "alpha",
    "min_split_loss": "gamma",
    "num_boost_round": "rounds",
    "n_estimators": "rounds",
    "random_state": "seed",
}

_IN_THE_PLAN = "the plan says which features are categorical ([categories])"
_OF_TRAIN = "it is an argument of XGBoost's Python functions, which Hansa does not call"
_REMOVED = "XGBoost has removed it"
_OF_DART = "it belongs to booster 'dart'; Hansa trains with booster = 'gbtree'"
_OF_LINEAR = "it belongs to booster 'gblinear'; Hansa trains with booster = 'gbtree'"
_OF_OBJECTIVE = "it belongs to an objective that Hansa does not have"
_ALONE = "the machine is set by a member's own file and command, not by the plan"

WITHOUT_EFFECT: dict[str, tuple[tuple[Any, ...] | None, str]] = {
    "tree_method": (("hist", "auto"), "Hansa trains with tree_method = 'hist'"),
    "booster": (("gbtree",), "Hansa trains with booster = 'gbtree'"),
    "sampling_method": (("uniform",), "Hansa draws rows with sampling_method = 'uniform'"),
    "process_type": (("default",), "Hansa trains new trees, and updates no old ones"),
    "updater": (("grow_quantile_histmaker",), "Hansa trains with tree_method = 'hist'"),
    "seed_per_iteration": ((False, 0), "Hansa draws from seed and the number of the tree"),
    "disable_default_eval_metric": (
        (False, 0),
        "without eval_metric the objective's own is computed, where rows are held out",
    ),
    "enable_categorical": (None, ""),
    "feature_types": ((), _IN_THE_PLAN),
    "feature_weights": ((), "Hansa draws features with equal weights"),
    "missing": ((math.nan,), "a missing value is an empty cell, NA, NaN or null"),
    "device": (("cpu",), "Hansa trains on processors"),
    "xgb_model": ((), "the plan names the model to go on from, by its hash (start_model; hansa.fit takes xgb_model)"),
    "max_cached_hist_node": (None, ""),
    "sparse_threshold": (None, ""),
    "refresh_leaf": (None, ""),
    "importance_type": (None, ""),
    "validate_parameters": (None, ""),
    "verbosity": (None, ""),
    "verbose_eval": (None, ""),
    "silent": (None, ""),
    "nthread": (None, ""),
    "n_jobs": (None, ""),
    "obj": ((), "the plan names a function by its hash (custom_objective; hansa.fit takes obj)"),
    **dict.fromkeys(
        ("custom_metric", "maximize"),
        ((), "the plan names a function by its hash (custom_metric; hansa.fit takes custom_metric and maximize)"),
    ),
    **dict.fromkeys(("evals", "evals_result", "callbacks"), ((), _OF_TRAIN)),
    **dict.fromkeys(("sample_type", "normalize_type", "rate_drop", "one_drop", "skip_drop"), ((), _OF_DART)),
    **dict.fromkeys(("feature_selector", "top_k"), ((), _OF_LINEAR)),
    **dict.fromkeys(
        (
            *("expectile_alpha", "ndcg_exp_gain"),
            *("aft_loss_distribution", "aft_loss_distribution_scale", "lambdarank_pair_method"),
            *("lambdarank_num_pair_per_sample", "lambdarank_normalization", "lambdarank_score_normalization"),
            *("lambdarank_unbiased", "lambdarank_bias_norm"),
        ),
        ((), _OF_OBJECTIVE),
    ),
    "predictor": (("auto", "cpu_predictor"), _REMOVED),
    "gpu_id": ((-1,), _REMOVED),
    "use_label_encoder": ((False,), _REMOVED),
    "single_precision_histogram": ((False,), f"{_REMOVED}; see histogram_bits"),
    "sketch_eps": ((), f"{_REMOVED}; see max_bin"),
    "use_rmm": ((False,), _ALONE),
    "debug_synchronize": (None, ""),
    "fail_on_invalid_gpu_id": (None, ""),
}
"""XGBoost's parameters that Hansa has not: the values accepted beside None, which say what Hansa does anyway (None: any value, as none
changes a model that Hansa trains), and why others are not.
"""

_NOTHING: tuple[Any, ...] = ("", "()", "[]", (), [], {})
"""Ways to say nothing at all, which every parameter of `WITHOUT_EFFECT` with no other value takes."""


@dataclass(frozen=True)
class Parameters:
    """How to grow the trees. Field names are XGBoost's; `lambda` is spelled `lambda_` in Python.

    Attributes
    ----------
    objective : str
        A name of XGBoost's, one of `hansa.trees.losses.LOSSES`.
    num_class : int
        0, or the number of classes K: of multi:softprob and multi:softmax; with binary:logistic K models are trained side by side,
        class k against the rest.
    num_target : int
        Labels of a row; a plan takes their number from `schema.label`.
    multi_strategy : {"one_output_per_tree", "multi_output_tree"}
        Which outputs a tree is of; the second goes with one output only, where both are the same.
    rounds : int
        Rounds of boosting; each grows num_parallel_tree trees, with num_class or num_target so many for each class or label.
    eta : float
        Learning rate, by which each leaf weight is multiplied.
    max_depth : int
        Depth of a tree, 1 to 16; 0 for no limit but max_leaves.
    max_leaves : int
        Leaves of a tree at most; 0 for no limit but max_depth.
    grow_policy : {"depthwise", "lossguide"}
        Whether a tree grows level by level, or where the gain is largest first.
    lambda_, alpha : float
        L2 and L1 terms on leaf weights.
    gamma : float
        Least gain of a split.
    min_child_weight : float
        Least hessian of a child.
    max_delta_step : float
        Bound on a leaf weight before eta; 0 is none. For count:poisson `parse_parameters` takes .7 where none
        is given, and hessians have the factor e^max_delta_step.
    subsample, colsample_bytree : float
        Shares of rows and of features drawn for each tree.
    colsample_bylevel, colsample_bynode : float
        Shares of the tree's features drawn for each level, and of these for each node.
    num_parallel_tree : int
        Trees that a round grows at once for each output, each with eta / num_parallel_tree.
    monotone_constraints : tuple
        (feature, 1 or -1), by name: predictions may only rise, or fall, with the feature. As given they may also be 1, 0 and -1 by
        position; a plan has names.
    interaction_constraints : tuple of tuple
        Sets of features that may meet in a tree, by name; () for no constraint. As given they may also be positions.
    max_bin : int
        Bins of a feature's values at most; missing values have a bin of their own beside them.
    scale_pos_weight : float or "auto"
        Weight of rows with label 1; "auto" is negatives / positives, from pooled counts.
    base_score : float or None
        The prediction before the first tree; None takes the pooled mean.
    early_stopping_rounds : int or None
        Stop when the last metric has not improved for so many rounds; None never.
    eval_metric : tuple of str
        Metrics to compute each round on the held-out rows; the last one decides early stopping.
    seed : int
        Of row and column sampling.
    histogram_bits : {"auto", 32, 64}
        Bits of each sum in a histogram. "auto" is 32, or 64 where weights or labels are so unlike that 32 would count many rows too
        coarsely (`roles.summed.statistics.histogram_bits_of`).
    max_cat_to_onehot : int or None
        A split on a feature of fewer categories tells one category from all others; None for XGBoost's 4, and in coopetitive mode,
        where every split does, for any number.
    max_cat_threshold : int or None
        Fewer categories than this are told from all others by a split on a feature of more categories; None for XGBoost's 64.
    huber_slope : float
        Of reg:pseudohubererror and the metric mphe: errors far above it count by their size, those far below by their square.
    tweedie_variance_power : float
        Of reg:tweedie: the variance is proportional to this power of the mean.
    quantile_alpha : tuple of float
        Of reg:quantileerror: which quantiles are predicted, each an output of its own; () for others.
    balance : {"rows", "parties"}
        Whether each row counts as much as another, or each party, whose rows then have a common weight. With parties the model depends
        on who holds which rows.

    Examples
    --------
    >>> import hansa
    >>> hansa.Parameters(rounds=20, max_depth=4).eta
    0.3
    """

    objective: str = "binary:logistic"
    num_class: int = 0
    rounds: int = 100
    eta: float = 0.3
    max_depth: int = 6
    max_leaves: int = 0
    grow_policy: str = "depthwise"
    lambda_: float = 1.0
    alpha: float = 0.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    max_delta_step: float = 0.0
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    colsample_bylevel: float = 1.0
    colsample_bynode: float = 1.0
    num_parallel_tree: int = 1
    monotone_constraints: tuple[Any, ...] = ()
    interaction_constraints: tuple[tuple[Any, ...], ...] = ()
    max_bin: int = 256
    scale_pos_weight: float | str = 1.0
    base_score: float | None = None
    early_stopping_rounds: int | None = None
    eval_metric: tuple[str, ...] = ()
    seed: int = 0
    histogram_bits: int | str = "auto"
    max_cat_to_onehot: int | None = None
    max_cat_threshold: int | None = None
    huber_slope: float = 1.0
    tweedie_variance_power: float = 1.5
    quantile_alpha: tuple[float, ...] = ()
    balance: str = "rows"
    num_target: int = 1
    multi_strategy: str = "one_output_per_tree"

    @property
    def outputs(self) -> int:
        """Numbers that the model predicts for a row: one, or one for each class, or for each quantile, or for each label."""
        return self.num_class or len(self.quantile_alpha) or self.num_target

    @property
    def quantiles(self) -> tuple[float, ...]:
        """The quantile that each output predicts, as float32 holds it; () of an objective whose leaves are not refitted."""
        if not is_quantile(self.objective):
            return ()
        return tuple(float(np.float32(alpha)) for alpha in self.quantile_alpha) or (0.5,) * self.num_target

    @property
    def quantiles_of_label(self) -> tuple[float, ...]:
        """Those of `quantiles` that are looked for in each label."""
        return self.quantiles[: self.outputs // self.num_target]

    @property
    def label_kind(self) -> OneLabel | int:
        """What numbers the objective takes as labels (`losses.Loss.labels`), or the classes below this number."""
        kind = LOSSES[self.objective].labels
        return self.num_class if self.num_class or kind == "classes" else kind

    @property
    def has_classes(self) -> bool:
        """Whether labels are classes: 0 and 1, or with num_class more."""
        return LOSSES[self.objective].labels in ("binary", "classes")

    @property
    def trees_per_round(self) -> int:
        """Trees that a round grows."""
        return self.outputs * self.num_parallel_tree

    @property
    def most_depth(self) -> int:
        """The depth that a tree can have."""
        return self.max_depth or self.max_leaves - 1

    @property
    def most_leaves(self) -> int:
        """The leaves that a tree can have."""
        return min(2**self.max_depth if self.max_depth else self.max_leaves, self.max_leaves or 2**self.max_depth)

    @property
    def tree_eta(self) -> float:
        """What each leaf weight of a tree is multiplied by, as XGBoost divides it: a float32."""
        return float(np.float32(self.eta) / np.float32(self.num_parallel_tree))

    def for_features(self, features: Sequence[str]) -> Parameters:
        """The same, with constraints on these features by name, in one order.

        Raises PlanError: a constraint is of no feature.
        """
        signs, sets = self.monotone_constraints, self.interaction_constraints
        if not signs and not sets:
            return self
        if signs and not isinstance(signs[0], tuple):
            if len(signs) > len(features):
                raise _refuse("monotone_constraints", signs, f"at most one for each of {len(features)} features")
            signs = tuple(zip(features, signs, strict=False))
        named = tuple(tuple(_feature(one, features) for one in own) for own in sets)
        return replace(
            self,
            monotone_constraints=tuple(
                sorted((_feature(name, features, "monotone_constraints"), sign) for name, sign in signs if sign)
            ),
            interaction_constraints=tuple(sorted({tuple(sorted(set(own))) for own in named})),
        )

    @property
    def shape(self) -> float:
        """The number that the objective's loss depends on; 0 where there is none."""
        name = LOSSES[self.objective].shape
        return float(getattr(self, name)) if name else 0.0

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics to compute: `eval_metric`, or the objective's own."""
        if self.eval_metric:
            return self.eval_metric
        own = DEFAULT_METRIC[self.objective]
        return (f"{TWEEDIE}@{self.tweedie_variance_power:.6g}" if own.startswith(TWEEDIE) else own,)


NAMES = tuple(field.name.rstrip("_") for field in fields(Parameters))


def _feature(name: str | int, features: Sequence[str], parameter: str = "interaction_constraints") -> str:
    """The name of a feature that is given by name or position."""
    if isinstance(name, int):
        if not 0 <= name < len(features):
            raise _refuse(parameter, name, f"a position from 0 to {len(features) - 1}, or a feature's name")
        return features[name]
    if name not in features:
        near = nearest(name, list(features))
        raise _refuse(parameter, name, "a feature's name" + ("" if near is None else f"; did you mean {near!r}?"))
    return name


def with_labels(parameters: Parameters, n_labels: int) -> Parameters:
    """The parameters of a training of so many labels. Raises PlanError where they do not go with them."""
    given = parameters.num_target
    if given not in (1, n_labels):
        raise _refuse("num_target", given, f"{n_labels}, the number of labels, or nothing, which says the same")
    found = replace(parameters, num_target=n_labels)
    _check_labels(found)
    return found


def parse_parameters(given: Mapping[str, Any]) -> Parameters:
    """Read parameters under XGBoost's names.

    Parameters
    ----------
    given : mapping of str to value
        Names of XGBoost, or their aliases, and values.

    Returns
    -------
    Parameters

    Raises
    ------
    PlanError
        Names the parameter, its value and what is allowed.

    Examples
    --------
    >>> import hansa
    >>> hansa.parse_parameters({"learning_rate": 0.1, "n_estimators": 20}).rounds
    20
    """
    values: dict[str, Any] = {}
    for name, value in given.items():
        target = ALIASES.get(name, name)
        if name in WITHOUT_EFFECT:
            _check_without_effect(name, value)
            continue
        if target not in NAMES:
            raise PlanError(f"parameter {_shown(name)} is unknown{_hint(str(name))} (supported: {', '.join(NAMES)})")
        if target in values:
            raise PlanError(f"parameter {target!r} is given twice (as {name!r} and under another name)")
        values[target] = value
    objective = values.get("objective")
    if isinstance(objective, str) and objective == "count:poisson":
        values = {"max_delta_step": POISSON_STEP} | values
    checked = {_field(name): _check(name, value) for name, value in values.items()}
    parameters = Parameters(**checked)
    _check_together(parameters)
    return parameters


def _check_without_effect(name: str, value: Any) -> None:
    allowed, why = WITHOUT_EFFECT[name]
    if value is None or allowed is None or any(_is_same(value, one) for one in allowed or _NOTHING):
        return
    cure = f"leave it out or give {' or '.join(map(repr, allowed))}" if allowed else "leave it out"
    raise PlanError(f"parameter {name} = {_shown(value)} is not supported: {why}; {cure}")


def _is_same(value: Any, one: Any) -> bool:
    """Whether a given value is this one: numbers by their value, True and False and texts by their kind too."""
    if isinstance(value, bool) or isinstance(one, bool) or not isinstance(one, int | float):
        return type(value) is type(one) and bool(value == one)
    if not isinstance(value, numbers.Real):
        return False
    return bool(value == one) or (value != value and one != one)


def _shown(value: Any) -> str:
    return f"{value!r:.80}"


def _hint(name: str) -> str:
    """The name that was probably meant, where one is as good as the same."""
    near = nearest(name, [*NAMES, *ALIASES, *WITHOUT_EFFECT])
    return " and not supported" if near is None else f"; did you mean {near!r}?"


def _field(name: str) -> str:
    return "lambda_" if name == "lambda" else name


def _refuse(name: str, value: Any, expected: str) -> PlanError:
    return PlanError(f"parameter {name} = {_shown(value)}: expected {expected}")


def _number(name: str, value: Any, low: float, high: float, *, low_open: bool = False) -> float:
    expected = f"a number {'above' if low_open else 'of at least'} {low:g}" if math.isfinite(low) else "a finite number"
    expected += f", at most {high:g}" if math.isfinite(high) else ""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _refuse(name, value, expected)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or number < low or number > high or (low_open and number == low):
        raise _refuse(name, value, expected)
    if name != "base_score" and 0 < abs(number) < LEAST:
        raise _refuse(name, value, f"{'' if low_open else '0, or '}a number of at least {LEAST:g}, as float32 holds it")
    return number


def _integer(name: str, value: Any, low: int, high: int) -> int:
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not low <= int(value) <= high:
        raise _refuse(name, value, f"a whole number from {low} to {high}")
    return int(value)


def _check(name: str, value: Any) -> Any:
    match name:
        case "objective":
            if not isinstance(value, str):
                raise _refuse(name, value, f"one of {', '.join(OBJECTIVES)}")
            for kind, why in REFUSED_OBJECTIVES.items():
                if value.startswith(kind):
                    raise PlanError(f"parameter objective = {_shown(value)} is not supported: {why}")
            if value not in OBJECTIVES:
                raise _refuse(name, value, f"one of {', '.join(OBJECTIVES)}")
            return value
        case "rounds":
            return _integer(name, value, 1, 100_000)
        case "num_class":
            return 0 if _is_same(value, 0) and not isinstance(value, float) else _integer(name, value, 2, MOST_CLASSES)
        case "num_target":
            return _integer(name, value, 1, MOST_CLASSES)
        case "multi_strategy":
            if not isinstance(value, str) or value not in MULTI_STRATEGIES:
                raise _refuse(name, value, f"one of {', '.join(MULTI_STRATEGIES)}")
            return value
        case "max_depth":
            return _integer(name, value, 0, 16)
        case "max_leaves":
            return _integer(name, value, 0, 2**16)
        case "num_parallel_tree":
            return _integer(name, value, 1, 100_000)
        case "grow_policy":
            if not isinstance(value, str) or value not in GROW_POLICIES:
                raise _refuse(name, value, f"one of {', '.join(GROW_POLICIES)}")
            return value
        case "balance":
            if not isinstance(value, str) or value not in BALANCES:
                raise _refuse(name, value, f"one of {', '.join(BALANCES)}")
            return value
        case "monotone_constraints":
            return _monotone(value)
        case "interaction_constraints":
            return _interactions(value)
        case "max_bin":
            return _integer(name, value, 2, 65_535)
        case "seed":
            return _integer(name, value, 0, 2**63 - 1)
        case "histogram_bits":
            if isinstance(value, str) and value == "auto":
                return value
            if not any(_is_same(value, bits) for bits in (32, 64)):
                raise _refuse(name, value, '"auto", 32 or 64')
            return int(value)
        case "eta":
            return _number(name, value, 0, 1, low_open=True)
        case "lambda" | "alpha" | "gamma" | "min_child_weight" | "max_delta_step":
            return _number(name, value, 0, MOST)
        case "subsample" | "colsample_bytree" | "colsample_bylevel" | "colsample_bynode":
            return _number(name, value, 0, 1, low_open=True)
        case "scale_pos_weight":
            return value if isinstance(value, str) and value == "auto" else _number(name, value, 0, 1e6, low_open=True)
        case "huber_slope":
            return _number(name, value, 0, MOST, low_open=True)
        case "tweedie_variance_power":
            return _number(name, value, LEAST_POWER, MOST_POWER)
        case "quantile_alpha":
            return _quantiles(value)
        case "base_score":
            return None if value is None else _number(name, value, -MOST, MOST)
        case "max_cat_to_onehot" | "max_cat_threshold":
            return None if value is None else _integer(name, value, 1, 2**31 - 1)
        case "early_stopping_rounds":
            return None if value is None else _integer(name, value, 1, 100_000)
        case "eval_metric":
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
                raise _refuse(name, value, "a metric's name or a list of names")
            return tuple(names)
        case _:
            raise _refuse(name, value, "a supported parameter")


def _literal(value: Any) -> Any:
    """What a text such as "(1,-1)" or '[["a","b"]]' says, in the forms that XGBoost takes."""
    if not isinstance(value, str):
        return value
    try:
        return ast.literal_eval(value) if value.strip() else ()
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):  # TypeError: a list as a key
        return value


def _quantiles(given: Any) -> tuple[float, ...]:
    """Quantiles as XGBoost takes them: a number, a list of them, or such a text."""
    value = _literal(given)
    if value is None or _is_same(value, ()):
        return ()
    several = [value] if isinstance(value, numbers.Real) else value
    if isinstance(several, np.ndarray):
        several = several.tolist()
    if not isinstance(several, list | tuple) or not 1 <= len(several) <= MOST_CLASSES:
        raise _refuse("quantile_alpha", given, f"a number from 0 to 1, or a list of 1 to {MOST_CLASSES} of them")
    return tuple(_number("quantile_alpha", one, 0, 1) for one in several)


def _monotone(given: Any) -> tuple[Any, ...]:
    """Constraints as XGBoost takes them: by name in a mapping, or by position."""
    value = _literal(given)
    items = list(value.items()) if isinstance(value, Mapping) else None
    signs: Any = [sign for _, sign in items] if items is not None else value
    if isinstance(signs, int) and not isinstance(signs, bool):  # "(1)" is no tuple in Python
        signs = [signs]
    fits = isinstance(signs, list | tuple) and all(
        isinstance(sign, numbers.Integral) and not isinstance(sign, bool) and sign in (-1, 0, 1) for sign in signs
    )
    if value is None:
        return ()
    if not fits or (items is not None and not all(isinstance(name, str) for name, _ in items)):
        raise _refuse("monotone_constraints", given, "1, -1 or 0 by feature name, or a list of them by position")
    if items is not None:
        return tuple(sorted((str(name), int(sign)) for name, sign in items))
    return tuple(int(sign) for sign in signs)


def _interactions(given: Any) -> tuple[tuple[Any, ...], ...]:
    """Sets of features as XGBoost takes them: lists of names, or of positions."""
    value = _literal(given)
    if value is None:
        return ()
    fits = isinstance(value, list | tuple) and all(
        isinstance(own, list | tuple)
        and all(isinstance(one, str | numbers.Integral) and not isinstance(one, bool) for one in own)
        for own in value
    )
    if not fits:
        raise _refuse("interaction_constraints", given, "a list of lists of feature names, or of positions")
    return tuple(tuple(one if isinstance(one, str) else int(one) for one in own) for own in value if own)


def _check_together(p: Parameters) -> None:
    if p.num_class or is_softmax(p.objective):
        _check_classes(p)
    _check_labels(p)
    if p.max_depth == 0 and p.max_leaves == 0:
        raise _refuse("max_depth", 0, "1 to 16, or max_leaves above 0: a tree needs one of the two limits")
    if p.rounds * p.trees_per_round > MOST_TREES:
        raise _refuse("rounds", p.rounds, f"at most {MOST_TREES} trees in all, with {p.trees_per_round} a round")
    for metric in p.eval_metric:
        if not measures(metric, p.objective):
            raise _refuse("eval_metric", metric, f"one of {metrics_in_words(p.objective)} for {p.objective}")
    if len(set(p.eval_metric)) < len(p.eval_metric):
        raise _refuse("eval_metric", p.eval_metric, "each metric once")
    far = p.base_score is None or LEAST_PROBABILITY <= p.base_score <= 1 - LEAST_PROBABILITY
    if LOSSES[p.objective].base == "logit" and not far:
        expected = f"a probability from {LEAST_PROBABILITY:g} to 1 - {LEAST_PROBABILITY:g} for {p.objective}"
        raise _refuse("base_score", p.base_score, expected)
    if is_exponential(p.objective) and p.base_score is not None and not p.base_score > 0:
        raise _refuse("base_score", p.base_score, f"a number above 0 for {p.objective}, whose predictions are")
    if LOSSES[p.objective].gradients == "squared log error" and (p.base_score or 0.0) < LEAST_SHIFTED - 1:
        raise _refuse("base_score", p.base_score, f"a number of at least {LEAST_SHIFTED - 1:.10g} for {p.objective}")
    if LOSSES[p.objective].shape == "max_delta_step" and not p.max_delta_step <= MOST_STEP:
        raise _refuse("max_delta_step", p.max_delta_step, f"at most {MOST_STEP:g} for {p.objective}, a smaller number")
    if p.objective == "reg:quantileerror" and not p.quantile_alpha:
        raise _refuse("quantile_alpha", (), f"which quantile {p.objective} predicts, from 0 to 1, or a list of them")
    signs = [one[1] if isinstance(one, tuple) else one for one in p.monotone_constraints]
    if is_quantile(p.objective) and any(signs):
        raise PlanError(
            f"parameter monotone_constraints = {_shown(p.monotone_constraints)} is not supported for {p.objective}: leaves are "
            "refitted to quantiles of residuals, which need not rise where the constraint says so; leave it out, or train with "
            "reg:pseudohubererror"
        )
    if len(p.quantile_alpha) > 1 and p.metrics != ("quantile",):
        raise _refuse("eval_metric", p.eval_metric, "quantile alone where there are several quantile_alpha")
    if not is_logistic(p.objective) and p.scale_pos_weight != 1.0:
        why = (
            "whose loss has no such weight" if LOSSES[p.objective].labels == "binary" else "which has no positive class"
        )
        raise _refuse("scale_pos_weight", p.scale_pos_weight, f"1 for {p.objective}, {why}")
    _check_shapes(p)


def _check_shapes(p: Parameters) -> None:
    """Refuse parameters of a loss that nothing asked for depends on."""
    if p.huber_slope != 1.0 and LOSSES[p.objective].shape != "huber_slope" and "mphe" not in p.eval_metric:
        raise _refuse(
            "huber_slope", p.huber_slope, f"1 for {p.objective} without the metric mphe, as neither depends on it"
        )
    if p.quantile_alpha and p.objective != "reg:quantileerror":
        raise _refuse("quantile_alpha", p.quantile_alpha, f"none for {p.objective}, which does not depend on it")
    if p.tweedie_variance_power != 1.5 and LOSSES[p.objective].shape != "tweedie_variance_power":
        raise _refuse(
            "tweedie_variance_power", p.tweedie_variance_power, f"1.5 for {p.objective}, which does not depend on it"
        )


def _check_labels(p: Parameters) -> None:
    """What several outputs, and several labels among them, cannot have."""
    if p.outputs > 1 and p.multi_strategy != "one_output_per_tree":
        raise PlanError(
            f"parameter multi_strategy = {p.multi_strategy!r} is not supported for {p.outputs} outputs: its trees have vectors in "
            "leaves, and splits that follow from sums of all outputs' gradients; leave it out, and a tree is grown for each output"
        )
    if p.num_target == 1:
        return
    if p.num_class or p.quantile_alpha or p.objective == "reg:quantileerror":
        raise _refuse(
            "objective",
            p.objective,
            f"one of a single output for each of {p.num_target} labels, as XGBoost does; train a model for each label",
        )
    for metric in p.eval_metric:
        if metric in RANKS:
            raise _refuse("eval_metric", metric, "logloss or error with several labels: XGBoost has no ranking of them")
    if p.scale_pos_weight == "auto":
        raise _refuse("scale_pos_weight", "auto", "a number with several labels: one number holds for every label")


def _check_classes(p: Parameters) -> None:
    """What several classes need, and what K models of one class against the rest cannot have."""
    if is_softmax(p.objective):
        if not p.num_class:
            raise _refuse(
                "num_class", p.num_class, f"the number of classes for {p.objective}, labels being 0, 1, 2, ..."
            )
        return
    if p.num_class == 2:
        raise _refuse("num_class", 2, "0 for two classes of binary:logistic")
    if p.objective != "binary:logistic":
        raise _refuse("num_class", p.num_class, f"0 for {p.objective}, which has no classes")
    for metric in p.eval_metric:
        if metric in METRICS[p.objective] and metric not in METRICS_OF_CLASSES:
            raise _refuse("eval_metric", metric, f"one of {', '.join(METRICS_OF_CLASSES)} with num_class")
    if p.scale_pos_weight == "auto":
        raise _refuse("scale_pos_weight", "auto", "a number with num_class: one number holds for every class")
