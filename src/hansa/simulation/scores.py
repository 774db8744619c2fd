"""Exact metrics of predictions on a table that one process holds (the protocol's own metrics are pooled sums: `trees.metrics`)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hansa.trees.losses import HIGHER_IS_BETTER, is_logistic, is_softmax
from hansa.trees.metrics import LEAST_GAMMA_MEAN

Float = npt.NDArray[np.float64]

METRICS = {
    "binary:logistic": ("auc", "aucpr", "logloss", "error"),
    "binary:logitraw": ("auc", "aucpr", "logloss", "error"),
    "binary:hinge": ("error",),
    "reg:squarederror": ("rmse", "mae"),
    "reg:pseudohubererror": ("mae", "rmse"),
    "reg:squaredlogerror": ("rmsle", "rmse", "mae"),
    "reg:absoluteerror": ("mae", "rmse"),
    "reg:quantileerror": ("quantile",),
    "count:poisson": ("poisson-nloglik", "rmse", "mae"),
    "reg:gamma": ("gamma-deviance", "rmse", "mae"),
    "reg:tweedie": ("tweedie-nloglik@1.5", "rmse", "mae"),
    "multi:softprob": ("mlogloss", "merror", "auc_ovr"),
    "multi:softmax": ("mlogloss", "merror", "auc_ovr"),
}
METRICS_OF_CLASSES = ("auc_ovr", "merror", "logloss", "error")
"""The metrics of a table, by objective, and those where there are several classes."""


def metrics_of(objective: str, n_labels: int = 1) -> tuple[str, ...]:
    """The metrics of a table with so many labels: of several none that ranks rows by one score."""
    names = METRICS[objective]
    return names if n_labels == 1 else tuple(name for name in names if name not in HIGHER_IS_BETTER)


def _ranks(values: Float) -> Float:
    """Ranks from 1, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse])


def auc(predictions: Float, labels: Float) -> float:
    """Area under the ROC curve by rank sums (Mann-Whitney); NaN where one class is missing."""
    positive = labels > 0.5
    n_positive = int(positive.sum())
    n_negative = len(labels) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    rank_sum = float(_ranks(predictions)[positive].sum())
    return (rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def aucpr(predictions: Float, labels: Float) -> float:
    """Average precision: mean precision over positives, tied scores taken together; NaN where one class is missing, as XGBoost's."""
    order = np.argsort(-predictions, kind="stable")
    hits = np.cumsum(labels[order] > 0.5)
    if not len(hits) or hits[-1] in (0, len(hits)):
        return float("nan")
    last_of_tie = np.append(np.diff(predictions[order]) != 0, True)
    hits_at = hits[last_of_tie]
    precision = hits_at / (np.flatnonzero(last_of_tie) + 1)
    return float((np.diff(hits_at, prepend=0) * precision).sum() / hits[-1])


def score_table(
    objective: str,
    predictions: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    quantiles: tuple[float, ...] = (),
) -> dict[str, float]:
    """Metric -> value of predictions (n,), or (n, outputs), against labels (n,); the objective's main metric first.

    quantiles: those that reg:quantileerror predicts.

    Of several labels, (labels, n), metrics are over rows and labels, as XGBoost's; those that rank rows are left out (`metrics_of`).
    Of classes 0, 1, ..., one against the rest: auc_ovr is the mean of the classes' auc, of those that some rows have and some have
    not; merror is the share of rows whose greatest prediction is not their class's; logloss and error are means over rows and classes,
    and of softmax mlogloss is the mean of -ln of the probability of a row's own class.
    A metric without a value is NaN; `without_value` says why.
    """
    if labels.ndim == 2:
        names = metrics_of(objective, len(labels))
        found = score_table(objective, np.ascontiguousarray(predictions.T).ravel(), labels.ravel())
        return {name: found[name] for name in names}
    if not len(labels):
        several = predictions.ndim == 2 and not is_softmax(objective)
        names = METRICS_OF_CLASSES if several else METRICS[objective]
        return dict.fromkeys(names, float("nan"))
    p = predictions.astype(np.float64)
    y = labels.astype(np.float64)
    if objective == "reg:quantileerror":
        return {"quantile": float(_pinball(p, y, quantiles).mean())}
    if predictions.ndim == 2:
        is_class = (y[:, None] == np.arange(predictions.shape[1])).astype(np.float64)
        areas = [area for k in range(p.shape[1]) if not np.isnan(area := auc(p[:, k], is_class[:, k]))]
        area = float(np.mean(areas)) if areas else float("nan")
        wrong = float(np.mean(p.argmax(axis=1) != y))
        if is_softmax(objective):
            likelihood = np.maximum(p[np.arange(len(y)), labels.astype(np.int64)], 1e-16)
            return {"mlogloss": float(-np.mean(np.log(likelihood))), "merror": wrong, "auc_ovr": area}
        return {
            "auc_ovr": area,
            "merror": wrong,
            "logloss": _log_loss(p, is_class),
            "error": _error(p, is_class),
        }
    if objective == "binary:logitraw":
        p = 0.5 + 0.5 * np.tanh(0.5 * p)
    if is_logistic(objective):
        return {"auc": auc(p, y), "aucpr": aucpr(p, y), "logloss": _log_loss(p, y), "error": _error(p, y)}
    if objective == "binary:hinge":
        return {"error": _error(p, y)}
    regression = _regression(p, y)
    if objective in ("reg:pseudohubererror", "reg:absoluteerror"):
        return {"mae": regression["mae"], "rmse": regression["rmse"]}
    if objective == "reg:squaredlogerror":
        p = np.where(p > -1, p, np.nan)
        return {"rmsle": float(np.sqrt(np.mean((np.log1p(p) - np.log1p(y)) ** 2)))} | regression
    if objective == "reg:gamma":
        mean, label = p + LEAST_GAMMA_MEAN, y + LEAST_GAMMA_MEAN
        return {"gamma-deviance": float(2 * np.mean(np.log(mean / label) + label / mean - 1))} | regression
    if objective == "reg:tweedie":
        root = np.sqrt(np.maximum(p, 1e-16))
        return {"tweedie-nloglik@1.5": float(np.mean(2 * y / root + 2 * root))} | regression
    if objective == "count:poisson":
        means = np.maximum(p, 1e-16)
        log_factorials = np.array([math.lgamma(label + 1) for label in y.tolist()])
        return {"poisson-nloglik": float(np.mean(log_factorials + p - y * np.log(means)))} | regression
    return regression


def _pinball(p: Float, y: Float, quantiles: tuple[float, ...]) -> Float:
    """Each row's loss, float64 (n,), the mean over quantiles a: a (y - p) where y >= p, (1 - a) (p - y) elsewhere."""
    difference = y[:, None] - p.reshape(len(y), len(quantiles))
    shares = np.array(quantiles)
    return np.asarray(np.where(difference >= 0, shares * difference, (shares - 1) * difference).mean(axis=1))


def _regression(p: Float, y: Float) -> dict[str, float]:
    return {"rmse": float(np.sqrt(np.mean((p - y) ** 2))), "mae": float(np.mean(np.abs(p - y)))}


def without_value(scores: Mapping[str, float], labels: npt.NDArray[np.float32], classes: int = 0) -> dict[str, str]:
    """Why metrics of these test rows have no value, as parts of a sentence, by metric.

    Args:
        scores: from `score_table`. labels: as there. classes: the number of classes, 0 where there are none: a class that the
            mean of auc_ovr leaves out is named too.
    """
    if not labels.size:
        return dict.fromkeys(scores, "there are no test rows")
    one_label = f"the test rows all have label {labels.flat[0]:g}"
    reasons = {"rmsle": "the prediction of a test row is -1 or less"}
    found = {name: reasons.get(name, one_label) for name, value in scores.items() if math.isnan(value)}
    if "auc_ovr" in scores and "auc_ovr" not in found:
        missing = sorted(set(range(classes)) - set(labels.tolist()))
        found |= {f"auc_ovr of class {k}": "no test row is of this class" for k in missing}
    return found


def _log_loss(p: Float, y: Float) -> float:
    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    return float(-np.mean(np.where(y > 0.5, np.log(clipped), np.log1p(-clipped))))


def _error(p: Float, y: Float) -> float:
    return float(np.mean((p > 0.5) != (y > 0.5)))


def main_metric(objective: str, n_labels: int = 1) -> str:
    """The metric that tables show of a model of one output, or of one for each of several labels."""
    return metrics_of(objective, n_labels)[0]


def row_losses(
    objective: str,
    predictions: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    quantiles: tuple[float, ...] = (),
) -> tuple[str, Float]:
    """The name of an objective's loss, and each row's, float64 (rows,); what does not depend on the prediction is left out.

    predictions: as `Ensemble.predict` gives them, probabilities of classes (rows, classes). quantiles: those that reg:quantileerror
        predicts. Of several labels, (labels, rows), a row's loss is the mean of theirs.
    """
    if labels.ndim == 2:
        each = [row_losses(objective, predictions[:, number], own) for number, own in enumerate(labels)]
        return each[0][0], np.mean([losses for _, losses in each], axis=0)
    p, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if objective == "reg:quantileerror":
        return "quantile", _pinball(p, y, quantiles)
    if is_softmax(objective):
        return "mlogloss", -np.log(np.maximum(p[np.arange(len(y)), y.astype(int)], LEAST_SHARE))
    if p.ndim == 2:
        classes = y[:, None] == np.arange(p.shape[1])
        return "logloss", np.asarray(-np.log(np.maximum(np.where(classes, p, 1 - p), LEAST_SHARE)).mean(axis=1))
    match objective:
        case "binary:logitraw":
            return "logloss", np.asarray(np.logaddexp(0, np.where(y > 0, -p, p)))
        case "binary:hinge":
            return "error", np.asarray(p != y, np.float64)
        case "count:poisson":
            return "poisson-nloglik", p - y * np.log(np.maximum(p, LEAST_SHARE))
        case "reg:gamma":
            return "gamma-deviance", 2 * (np.log(p) + y / p)
        case "reg:tweedie":
            return "tweedie-nloglik@1.5", 2 * y / np.sqrt(p) + 2 * np.sqrt(p)
        case "reg:absoluteerror":
            return "absolute error", np.abs(p - y)
        case "reg:squaredlogerror":
            return "squared log error", (np.log1p(np.maximum(p, -1 + 1e-6)) - np.log1p(y)) ** 2
    if is_logistic(objective):
        return "logloss", -np.log(np.maximum(np.where(y > 0, p, 1 - p), LEAST_SHARE))
    return "squared error", (p - y) ** 2


LEAST_SHARE = 1e-16
"""Probabilities and means are taken to be no smaller, as XGBoost's log loss takes them."""
