"""The objectives that can be trained: what each takes as labels, predicts and is measured by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OneLabel = Literal["binary", "numeric", "not negative", "positive", "above -1"]
Labels = OneLabel | Literal["classes"]
Link = Literal["identity", "logit", "log", "sign", "softmax", "argmax"]
Gradients = Literal[
    "logistic",
    "squared error",
    "poisson",
    "pseudo-Huber",
    "squared log error",
    "gamma",
    "tweedie",
    "hinge",
    "softmax",
    "quantile",
]
Start = Literal["mean", "Newton step", "majority", "shares", "quantile"]


@dataclass(frozen=True)
class Loss:
    """Public facts of one objective.

    Attributes:
        gradients: which gradients and hessians (`objective.gradients`).
        labels: "binary" for 0 and 1; "numeric" for any finite number; "not negative" for any of at least 0; "positive" for any above
            0; "above -1" for any above -1; "classes" for 0 to K - 1.
        link: from margin m to prediction: "identity" is m, "logit" is 1 / (1 + e^-m), "log" is e^m, "sign" is 1 where m > 0 and 0
            elsewhere; of K margins "softmax" is the probabilities that their exponentials are in proportion to, "argmax" the number of
            the largest.
        base: from the margin before the first tree to the base score: "identity", "logit" or "log".
        metrics: what may be computed of held-out rows; the first one where the plan names none.
        numbered: what may be computed too, with a number behind it (`NUMBERED`).
        own_field: name of the object that XGBoost's file keeps for the objective, and its content; "" where there is none.
        shape: the parameter that the loss depends on; "" where there is none.
        start: the base score where the plan gives none: the labels' mean; one Newton step from margin 0; 1 where
            label 1 has more than half of the weight, and 0 elsewhere;
            log of each class's share; or a quantile of the labels for each output.
        foreseen: whether a tree's leaves bound the sums of the next tree closely (`objective.sums_after`), so that its root is built
            in the same exchange; else its totals are exchanged first.
    """

    gradients: Gradients
    labels: Labels
    link: Link
    base: Link
    metrics: tuple[str, ...]
    own_field: str = ""
    own_content: Mapping[str, str] = field(default_factory=dict)
    shape: str = ""
    numbered: tuple[str, ...] = ()
    start: Start = "mean"
    foreseen: bool = True


CLASS_METRICS = ("mlogloss", "merror")

_WEIGHTED = ("reg_loss_param", {"scale_pos_weight": "1"})
_OF_CLASSES = (CLASS_METRICS, "softmax_multiclass_param", {"num_class": "0"})
_OF_MEANS = ("gamma-deviance", "gamma-nloglik", "poisson-nloglik", "rmse", "mae", "mape", "rmsle", "mphe")

LOSSES: Mapping[str, Loss] = {
    "binary:logistic": Loss(
        "logistic",
        "binary",
        "logit",
        "logit",
        ("logloss", "error", "auc", "aucpr", "rmse", "mae"),
        *_WEIGHTED,
        numbered=("error",),
    ),
    # XGBoost starts from the share of label 1 as log-odds.
    "binary:logitraw": Loss(
        "logistic",
        "binary",
        "identity",
        "identity",
        ("logloss", "error", "auc", "aucpr"),
        *_WEIGHTED,
        numbered=("error",),
    ),
    "binary:hinge": Loss(
        "hinge",
        "binary",
        "sign",
        "identity",
        ("error", "logloss", "auc", "aucpr", "rmse", "mae"),
        numbered=("error",),
        start="majority",
        foreseen=False,
    ),
    "reg:squarederror": Loss(
        "squared error", "numeric", "identity", "identity", ("rmse", "mae", "mape", "mphe"), *_WEIGHTED
    ),
    "reg:pseudohubererror": Loss(
        "pseudo-Huber",
        "numeric",
        "identity",
        "identity",
        ("mphe", "rmse", "mae", "mape"),
        "pseudo_huber_param",
        {"huber_slope": "1"},
        "huber_slope",
        start="Newton step",
        foreseen=False,
    ),
    "reg:squaredlogerror": Loss(
        "squared log error",
        "above -1",
        "identity",
        "identity",
        ("rmsle", "rmse", "mae", "mape", "mphe"),
        *_WEIGHTED,  # which XGBoost before 3.0 does not load without
        start="Newton step",
        foreseen=False,
    ),
    "reg:absoluteerror": Loss(
        "quantile", "numeric", "identity", "identity", ("mae", "rmse", "mape", "mphe"), start="quantile"
    ),
    "reg:quantileerror": Loss(
        "quantile",
        "numeric",
        "identity",
        "identity",
        ("quantile", "mae", "rmse", "mape", "mphe"),
        "quantile_loss_param",
        start="quantile",
    ),
    "count:poisson": Loss(
        "poisson",
        "not negative",
        "log",
        "log",
        ("poisson-nloglik", "rmse", "mae", "mape", "rmsle", "mphe"),
        "poisson_regression_param",
        {"max_delta_step": "0.699999988"},
        "max_delta_step",
        numbered=("tweedie-nloglik",),
    ),
    "reg:gamma": Loss("gamma", "positive", "log", "log", _OF_MEANS, *_WEIGHTED, numbered=("tweedie-nloglik",)),
    "reg:tweedie": Loss(
        "tweedie",
        "not negative",
        "log",
        "log",
        ("tweedie-nloglik@1.5", "poisson-nloglik", "rmse", "mae", "mape", "rmsle", "mphe"),
        "tweedie_regression_param",
        {"tweedie_variance_power": "1.5"},
        "tweedie_variance_power",
        numbered=("tweedie-nloglik",),
    ),
    "multi:softprob": Loss("softmax", "classes", "softmax", "identity", *_OF_CLASSES, start="shares", foreseen=False),
    "multi:softmax": Loss("softmax", "classes", "argmax", "identity", *_OF_CLASSES, start="shares", foreseen=False),
}
"""By XGBoost's name. What a file keeps of a shape changes no prediction: it is XGBoost's default, but for the quantiles of
reg:quantileerror, one for each output."""

OBJECTIVES = tuple(LOSSES)
"""The objectives that an ensemble can have."""

LEAST_PROBABILITY = 1e-6
"""A base score of binary:logistic is kept so far from 0 and 1, as XGBoost 3 keeps it."""

LEAST_SHIFTED = 2.0**-10
"""Squared log error: least 1 + m of a row that its bounds hold for; nearer to m = -1 hessians, divided by its square, have none."""

SOFTPROB = "multi:softprob"

OBJECTIVES_ON_SHARES = ("binary:logistic", "reg:squarederror", "count:poisson", "multi:softprob", "multi:softmax")
"""Those that coopetitive mode computes on shares."""

HIGHER_IS_BETTER = ("auc", "aucpr")
"""Metrics of which a greater value is the better one."""

METRICS_ON_SHARES = ("logloss", "error", "auc", "aucpr", "rmse", "mae", "poisson-nloglik", *CLASS_METRICS)
"""Metrics that coopetitive mode computes on shares, of the objectives that have them."""

LEAST_POWER, MOST_POWER = 1.001, 1.999
"""Powers of Tweedie's variance: nearer to 1 or 2 its terms, divided by the distance, would make sums coarse."""

NUMBERED: Mapping[str, tuple[float, float]] = {"error": (0.0, 1.0), "tweedie-nloglik": (LEAST_POWER, MOST_POWER)}
"""Metrics with a number behind "@", and the least and the greatest: error@t counts predictions above t as 1 (error alone those above
.5), tweedie-nloglik@p has p as the variance's power."""

_NUMBER = re.compile(r"([0-9]{1,3}(\.[0-9]{0,12})?|\.[0-9]{1,12})")


def metric_parts(name: str) -> tuple[str, float] | None:
    """A metric's name without its number, and the number (of error alone .5, of others 0); None where the number is none or none is
    taken."""
    kind, at, text = name.partition("@")
    if not at:
        return None if kind == "tweedie-nloglik" else (kind, 0.5 if kind == "error" else 0.0)
    if kind not in NUMBERED or not _NUMBER.fullmatch(text):
        return None
    least, most = NUMBERED[kind]
    return (kind, float(text)) if least <= float(text) <= most else None


def measures(name: str, objective: str) -> bool:
    """Whether the metric of this name may be computed of the objective's held-out rows."""
    loss, parts = LOSSES[objective], metric_parts(name)
    return parts is not None and (name in loss.metrics or ("@" in name and parts[0] in loss.numbered))


def metrics_in_words(objective: str) -> str:
    """What may be computed of the objective's held-out rows, as part of a sentence."""
    loss = LOSSES[objective]
    numbered = [f"{kind}@NUMBER (from {NUMBERED[kind][0]:g} to {NUMBERED[kind][1]:g})" for kind in loss.numbered]
    return ", ".join([*loss.metrics, *numbered])


def is_logistic(objective: str) -> bool:
    """Whether margins are log-odds of label 1, and gradients those of logistic loss."""
    return LOSSES[objective].gradients == "logistic"


def is_softmax(objective: str) -> bool:
    """Whether there is a margin for each class, and gradients are those of the softmax of them."""
    return LOSSES[objective].gradients == "softmax"


def is_quantile(objective: str) -> bool:
    """Whether a quantile is predicted, the median too: the value of every leaf is refitted, as a quantile of its rows' residuals."""
    return LOSSES[objective].gradients == "quantile"


def is_binary(objective: str) -> bool:
    """Whether labels are 0 and 1."""
    return LOSSES[objective].labels == "binary"


def is_exponential(objective: str) -> bool:
    """Whether predictions are e^margin."""
    return LOSSES[objective].link == "log"


def tells_rows(objective: str) -> bool:
    """Whether a row's hessian has a bound so near that sums of hessians tell numbers of rows."""
    return not is_exponential(objective) and LOSSES[objective].gradients != "squared log error"


def exponents(objective: str, shape: float) -> tuple[float, float]:
    """a and b of a loss whose gradient is w (e^(b m) - y e^(-a m)); a + b = 1.

    Poisson: 0, 1; gamma: 1, 0; Tweedie with variance power r: r - 1, 2 - r.

    Args:
        shape: tweedie_variance_power of reg:tweedie; not used for others.
    """
    match LOSSES[objective].gradients:
        case "poisson":
            return 0.0, 1.0
        case "gamma":
            return 1.0, 0.0
        case _:
            return shape - 1.0, 2.0 - shape


def step_of(objective: str, shape: float) -> float:
    """d where hessians have the factor e^d: max_delta_step of count:poisson; 0 for others."""
    return shape if LOSSES[objective].gradients == "poisson" else 0.0
