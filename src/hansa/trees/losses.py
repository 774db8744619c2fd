"""The objectives that can be trained: what each takes as labels, predicts and is measured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

OneLabel = Literal["binary", "numeric", "not negative"]
Labels = OneLabel | Literal["classes"]
Link = Literal["identity", "logit", "log", "softmax", "argmax"]
Gradients = Literal["logistic", "squared error", "poisson", "softmax"]


@dataclass(frozen=True)
class Loss:
    """Public facts of one objective.

    Attributes:
        gradients: which gradients and hessians (`objective.gradients`).
        labels: "binary" for 0 and 1; "numeric" for any finite number; "not negative" for any of at least 0; "classes" for 0 to K - 1.
        link: from margin m to prediction: "identity" is m, "logit" is 1 / (1 + e^-m), "log" is e^m; of K margins "softmax" is the
            probabilities that their exponentials are in proportion to, "argmax" the number of the largest.
        base: from the margin before the first tree to the base score; the same words.
        metrics: what may be computed of held-out rows; the first one where the plan names none.
        own_field: name of the object that XGBoost's file keeps for the objective, and its content; "" where there is none.
        shape: the parameter that the loss depends on; "" where there is none.
    """

    gradients: Gradients
    labels: Labels
    link: Link
    base: Link
    metrics: tuple[str, ...]
    own_field: str = ""
    own_content: Mapping[str, str] = field(default_factory=dict)
    shape: str = ""


CLASS_METRICS = ("mlogloss", "merror")

_WEIGHTED = ("reg_loss_param", {"scale_pos_weight": "1"})

LOSSES: Mapping[str, Loss] = {
    "binary:logistic": Loss(
        "logistic", "binary", "logit", "logit", ("logloss", "error", "auc", "aucpr", "rmse", "mae"), *_WEIGHTED
    ),
    # XGBoost starts from the share of label 1 as log-odds.
    "binary:logitraw": Loss(
        "logistic", "binary", "identity", "identity", ("logloss", "error", "auc", "aucpr"), *_WEIGHTED
    ),
    "reg:squarederror": Loss("squared error", "numeric", "identity", "identity", ("rmse", "mae"), *_WEIGHTED),
    "count:poisson": Loss(
        "poisson",
        "not negative",
        "log",
        "log",
        ("poisson-nloglik", "rmse", "mae"),
        "poisson_regression_param",
        {"max_delta_step": "0.699999988"},
        "max_delta_step",
    ),
    "multi:softprob": Loss(
        "softmax", "classes", "softmax", "identity", CLASS_METRICS, "softmax_multiclass_param", {"num_class": "0"}
    ),
    "multi:softmax": Loss(
        "softmax", "classes", "argmax", "identity", CLASS_METRICS, "softmax_multiclass_param", {"num_class": "0"}
    ),
}
"""By XGBoost's name. What a file keeps of a shape changes no prediction: it is XGBoost's default."""

OBJECTIVES_ON_SHARES = ("binary:logistic", "reg:squarederror")
"""Those that coopetitive mode computes on shares."""


def is_logistic(objective: str) -> bool:
    """Whether margins are log-odds of label 1, and gradients those of logistic loss."""
    return LOSSES[objective].gradients == "logistic"


def is_softmax(objective: str) -> bool:
    """Whether there is a margin for each class, and gradients are those of the softmax of them."""
    return LOSSES[objective].gradients == "softmax"


def is_exponential(objective: str) -> bool:
    """Whether predictions are e^margin."""
    return LOSSES[objective].link == "log"
