"""How good a model is on labelled rows that one process holds: metrics, calibration, confusion, and what it looks at.

Nothing leaves this process. The metrics are exact ones of these rows (`scores`); the pooled ones of a run are in its record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.data.coding import CodedTable, read_coded, unknown_texts
from hansa.data.files import OpenTable
from hansa.data.holdout import held_out
from hansa.data.source import LabelKind, read_rows
from hansa.errors import DataError, PlanError
from hansa.node.cores import cores
from hansa.plan import Plan
from hansa.roles.batches import hold_out
from hansa.simulation.comparison import PairedLoss, paired_loss
from hansa.simulation.scores import score_table, without_value
from hansa.simulation.summary import History, Metrics, Reasons
from hansa.trees.contributions import Contributions, is_installed
from hansa.trees.ensemble import Ensemble
from hansa.trees.losses import HIGHER_IS_BETTER, LOSSES, SOFTPROB, is_binary, is_logistic, is_softmax
from hansa.trees.xgboost_json import to_json
from hansa.views.chart import Bar, Bars, Chart, Grid, Lines, Series, View, number
from hansa.views.html import notebook_html
from hansa.views.training import curves_view, members_view

Floats = npt.NDArray[np.float64]

BINS, MOST_BINS = 10, 100
"""Of a calibration: where nobody asks for another number, and at most."""

THRESHOLD = 0.5

MEANS = ("reg:squarederror", "count:poisson", "reg:gamma", "reg:tweedie")
"""Objectives beside classes whose prediction is a mean, which labels can be held to."""

SHAP_ROWS = 1000
"""Rows that a SHAP summary takes at most, evenly spread over the table."""


class CalibrationBin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows whose prediction lies in low < prediction <= high; the means of predictions and of labels, None without rows."""

    low: float
    high: float
    rows: int
    predicted: float | None
    found: float | None


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Predictions against what was found, bin by bin.

    Attributes:
        of: the class whose probability it is; "" where a mean is predicted. bins: rising.
        error: mean distance of predicted and found, by rows (expected calibration error).
    """

    of: str
    bins: tuple[CalibrationBin, ...]
    error: float


class ClassRates(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a class was found: its rows, and shares; None where nothing is to be divided.

    Attributes:
        precision: of rows predicted as this class, those that are. recall: of its rows, those predicted as it. f1: their harmonic mean.
    """

    of: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None


class Confusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows by label and predicted class.

    Attributes:
        classes: names. counts: by label, by prediction. rates: by class.
        threshold: probability from above which class 1 is predicted; None where the likeliest class is.
    """

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    rates: tuple[ClassRates, ...]
    threshold: float | None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model on labelled rows of one table; a notebook shows it as tables and pictures.

    Attributes
    ----------
    model_sha256 : str
        Of the model, as Hansa writes it.
    objective : str
    rounds, rows : int
        Of the model, and of the table that were scored.
    held_out : bool
        Whether they are only those that a plan held out; training may have seen others.
    label_mean : float
    metrics : dict of str to float or None
        Exact metrics of these rows, the objective's first one first; None for one without a value.
    without_value : dict of str to str
        Why, by metric.
    calibration : tuple of Calibration
        Of each class, or of a predicted mean; none where predictions are neither.
    confusion : Confusion or None
        None where labels are no classes.
    importance : dict of str to float
        By feature, its share of the model's whole gain, or of its splits where the model has no gain; the largest first.
    importance_of : {"gain", "splits"}
    shap : dict of str to float
        By feature, the mean size of its SHAP values on (at most 1,000 of) these rows, in margins; the largest first. Empty where the
        model was released without cover, or XGBoost is not installed.
    warnings : tuple of str

    Examples
    --------
    >>> import numpy as np, pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": np.arange(200.0) % 50, "operator": ["a", "b"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> run = hansa.fit(hansa.split(rows, by="operator"), label="fault", rounds=20, eta=1.0, alone=False)
    >>> found = hansa.evaluate(run.model, rows, label="fault")
    >>> found.rows, found.confusion.counts[1]
    (200, (0, 76))
    """

    model_sha256: str
    objective: str
    rounds: int
    rows: int
    held_out: bool
    label_mean: float
    metrics: Metrics
    without_value: Reasons
    calibration: tuple[Calibration, ...]
    confusion: Confusion | None
    importance: dict[str, float]
    importance_of: str
    shap: dict[str, float]
    warnings: tuple[str, ...] = ()

    def facts(self) -> str:
        """One sentence on all of it."""
        whose = "held-out rows" if self.held_out else "rows"
        return f"{self.objective}, {self.rounds} rounds, model {self.model_sha256}: {self.rows:,} {whose}"

    def views(self) -> tuple[View, ...]:
        """All of it, part by part."""
        confusion = () if self.confusion is None else (_confusion_view(self.confusion), _rates_view(self.confusion))
        return (
            _metrics_view((self,), ("value",)),
            *_calibration_views((self,), ("model",)),
            *confusion,
            *_importance_views(self),
        )

    def _repr_html_(self) -> str:
        return notebook_html(self.facts(), self.views())


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two models on the same rows; a notebook shows it as tables and pictures.

    Attributes
    ----------
    first, second : Evaluation
        Of each model.
    loss : str
        Which loss is compared row by row.
    first_loss, second_loss : float
        Its mean under each.
    standard_error : float
        Of the difference of these means, from the differences of single rows.
    names : tuple of str
        What the two models are called.

    Examples
    --------
    >>> import numpy as np, pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": np.arange(200.0) % 50, "operator": ["a", "b"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> parties = hansa.split(rows, by="operator")
    >>> one, other = (hansa.fit(parties, label="fault", rounds=n, alone=False).model for n in (2, 20))
    >>> hansa.evaluate(one, rows, label="fault", against=other).better
    'second'
    """

    first: Evaluation
    second: Evaluation
    loss: str
    first_loss: float
    second_loss: float
    standard_error: float
    names: tuple[str, str] = ("first", "second")

    @property
    def better(self) -> str:
        """The one of `names` where its mean loss is less by more than two standard errors, else ""."""
        difference = self.second_loss - self.first_loss
        if abs(difference) <= 2 * self.standard_error:
            return ""
        return self.names[difference < 0]

    def facts(self) -> str:
        """One sentence on all of it."""
        better = f"the {self.better} model is better" if self.better else "no difference beyond chance"
        return (
            f"{self.first.rows:,} rows; mean {self.loss} {self.first_loss:.4f} of the {self.names[0]} model, "
            f"{self.second_loss:.4f} of the {self.names[1]} (difference's standard error {self.standard_error:.4f}): {better}"
        )

    def views(self) -> tuple[View, ...]:
        """Both models side by side, part by part."""
        both, names = (self.first, self.second), self.names
        confusions = [
            _confusion_view(own.confusion, f"-{name}", f" of the {name} model")
            for own, name in zip(both, names, strict=True)
            if own.confusion is not None
        ]
        return (_metrics_view(both, names), *_calibration_views(both, names), *confusions, _compared_importance(self))

    def _repr_html_(self) -> str:
        return notebook_html(self.facts(), self.views())


@dataclass(frozen=True)
class Question:
    """What rows a model is to be held to.

    Attributes:
        label: the column, or of several labels the columns in the order of the model's outputs.
        classes: what it says where it is texts, in the order of the classes.
        decimal, base_margin: as for `read_coded`.
        threshold: probability from above which label 1 is predicted. bins: of the calibration.
        plan: score only rows that this plan held out; None for all.
    """

    label: str | tuple[str, ...]
    classes: tuple[str, ...] = ()
    decimal: str = "."
    base_margin: tuple[str, ...] = ()
    threshold: float = THRESHOLD
    bins: int = BINS
    plan: Plan | None = None


def question_of(
    labels: tuple[str, ...],
    classes: tuple[str, ...] | None,
    plan: Plan | None,
    *,
    decimal: str,
    base_margin: tuple[str, ...],
    threshold: float,
    bins: int,
) -> Question:
    """A question as a command's options put it: the plan has the label and its classes, where there is one. Raises PlanError."""
    if plan is None and not labels:
        raise PlanError("no label is named; give --label, or --plan with the model's plan")
    if plan is not None and labels not in ((), plan.schema.labels):
        shown = ", ".join(map(repr, labels))
        raise PlanError(f"--label is {shown}, and the plan's label {plan.schema.label!r}; leave --label out")
    chosen = labels if plan is None else plan.schema.labels
    named = classes or (() if plan is None else plan.schema.classes)
    starts = base_margin or (() if plan is None else plan.schema.base_margin)
    return Question(chosen if len(chosen) > 1 else chosen[0], named, decimal, starts, threshold, bins, plan)


@dataclass(frozen=True)
class _Scored:
    """A model's predictions of rows, float32 (rows,) or (rows, outputs), probabilities of classes; labels float32 (rows,), or
    (labels, rows) of several."""

    ensemble: Ensemble
    table: CodedTable
    predictions: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    warnings: tuple[str, ...]


Source = str | Path | OpenTable


def check_question(question: Question) -> None:
    """Raise PlanError where a number cannot be what it is to be."""
    if not 0 <= question.threshold <= 1:
        raise PlanError(f"threshold is {question.threshold:g}; expected a probability, 0 to 1")
    if not 2 <= question.bins <= MOST_BINS:
        raise PlanError(f"bins is {question.bins}; expected 2 to {MOST_BINS}")


def evaluate_model(ensemble: Ensemble, source: Source, question: Question) -> Evaluation:
    """Score a model on the labelled rows of a table. Raises DataError naming file, row and column, PlanError for a bad question."""
    check_question(question)
    return _evaluated(_score(ensemble, source, question), question)


def compare_models(
    first: Ensemble,
    second: Ensemble,
    sources: tuple[Source, Source],
    question: Question,
    names: tuple[str, str] = ("first", "second"),
) -> Comparison:
    """Score two models of one kind of label on the same rows, which `sources` gives twice. Raises as `evaluate_model`."""
    check_question(question)
    if first.outputs != second.outputs or _label_kind(first) != _label_kind(second):
        raise DataError(
            f"the models predict different things: {first.objective} with {first.outputs} outputs, and {second.objective} with "
            f"{second.outputs}; give two of one kind"
        )
    one, other = _score(first, sources[0], question), _score(second, sources[1], question)
    found = _paired(one, other)
    return Comparison(
        first=_evaluated(one, question),
        second=_evaluated(other, question),
        loss=found.loss,
        first_loss=found.together,
        second_loss=found.alone,
        standard_error=found.standard_error,
        names=names,
    )


def _paired(one: _Scored, other: _Scored) -> PairedLoss:
    if one.ensemble.objective != other.ensemble.objective:
        raise DataError(
            f"the models have the losses of {one.ensemble.objective} and {other.ensemble.objective}; give two of one objective"
        )
    return paired_loss(
        _objective_of(one.ensemble), one.labels, one.predictions, other.predictions, one.ensemble.quantile_alpha
    )


def _objective_of(ensemble: Ensemble) -> str:
    """Whose predictions are scored: log-odds are made probabilities."""
    return "binary:logistic" if ensemble.objective == "binary:logitraw" else ensemble.objective


def _label_kind(ensemble: Ensemble) -> LabelKind:
    kind = LOSSES[ensemble.objective].labels
    if kind == "classes" or (ensemble.outputs > 1 and not ensemble.quantile_alpha and not ensemble.reading.labels):
        return ensemble.outputs
    return kind


def _score(ensemble: Ensemble, source: Source, question: Question) -> _Scored:
    if question.classes and len(question.classes) != _n_classes(ensemble):
        raise PlanError(
            f"{len(question.classes)} classes are named, and the model knows {_n_classes(ensemble) or 'none'}; name each of its classes"
        )
    named, known = (1 if isinstance(question.label, str) else len(question.label)), max(len(ensemble.reading.labels), 1)
    if named != known:
        theirs = f": {', '.join(ensemble.reading.labels)}" if known > 1 else ""
        raise PlanError(
            f"the model predicts {known} label{'s' * (known > 1)}{theirs}; name a column for each, found {named}"
        )
    if question.base_margin and len(question.base_margin) != ensemble.outputs:
        raise DataError(
            f"{len(question.base_margin)} columns of base margins; expected one for each of the model's {ensemble.outputs} outputs"
        )
    levels = {name: own for name, own in zip(ensemble.feature_names, ensemble.categories, strict=False) if own}
    read = read_coded(
        source,
        ensemble.feature_names,
        known=levels,
        label=question.label,
        base_margin=question.base_margin,
        label_kind=_label_kind(ensemble),
        classes=question.classes,
        needs="which the model needs",
        decimal=question.decimal,
        dates=dict(ensemble.reading.dates),
        unseen=ensemble.reading.unseen,
        other=ensemble.reading.other,
    )
    assert read.label is not None
    scored = replace(ensemble, objective=SOFTPROB) if is_softmax(ensemble.objective) else ensemble
    predictions, labels = scored.predict(read.features, cores(), read.base_margin), read.label
    if ensemble.objective == "binary:logitraw":
        predictions = (0.5 + 0.5 * np.tanh(0.5 * predictions.astype(np.float64))).astype(np.float32)
    if question.plan is not None:
        kept = _held_out(question.plan, source)
        features = np.ascontiguousarray(read.features[:, kept])
        read, predictions, labels = replace(read, features=features), predictions[kept], labels[..., kept]
    return _Scored(ensemble, read, predictions, labels, (*read.warnings, *unknown_texts(read)))


def _held_out(plan: Plan, source: Source) -> npt.NDArray[np.bool_]:
    """Which rows the plan holds out, bool (rows,). Raises PlanError where it holds none out, DataError for another schema."""
    if not plan.evaluation_fraction:
        raise PlanError(
            "the plan holds no rows out: training saw all; give a table of other rows, and no plan",
            rule="evaluation.fraction",
        )
    if isinstance(source, OpenTable):
        raise PlanError("rows that a plan held out are found in a file; give the file's path")
    rows = read_rows(Path(source), plan.schema, label_kind=plan.parameters.label_kind)
    held = held_out(rows.features, rows.label, hold_out(plan), rows.subject)
    if not held.any():
        raise DataError(f"{source}: the plan holds none of its {rows.n_rows} rows out; give a larger table")
    return held


def _n_classes(ensemble: Ensemble) -> int:
    kind = _label_kind(ensemble)
    return kind if isinstance(kind, int) else 2 if is_binary(ensemble.objective) else 0


def _evaluated(scored: _Scored, question: Question) -> Evaluation:
    ensemble, predictions, labels = scored.ensemble, scored.predictions, scored.labels
    values = score_table(_objective_of(ensemble), predictions, labels, ensemble.quantile_alpha)
    n_classes = _n_classes(ensemble)
    names = question.classes or tuple(str(k) for k in range(n_classes))
    importance, of = _importance(ensemble)
    return Evaluation(
        model_sha256=hashlib.sha256(to_json(ensemble)).hexdigest(),
        objective=ensemble.objective,
        rounds=ensemble.rounds,
        rows=labels.shape[-1],
        held_out=question.plan is not None,
        label_mean=float(labels.mean(dtype=np.float64)),
        metrics={name: None if np.isnan(value) else value for name, value in values.items()},
        without_value=without_value(values, labels, predictions.shape[1] if predictions.ndim == 2 else 0),
        calibration=tuple(_calibrations(ensemble, predictions, labels, names, question.bins)),
        confusion=confusion_of(predictions, labels, names, question.threshold) if names and labels.ndim == 1 else None,
        importance=importance,
        importance_of=of,
        shap=_shap(ensemble, scored.table),
        warnings=scored.warnings,
    )


def _calibrations(
    ensemble: Ensemble,
    predictions: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    names: Sequence[str],
    bins: int,
) -> list[Calibration]:
    if labels.ndim == 2:
        each = zip(predictions.T, labels, ensemble.reading.labels, strict=True)
        return [found for p, y, of in each for found in _calibration(ensemble.objective, p, y, of, bins)]
    if predictions.ndim == 2 and not ensemble.quantile_alpha:
        return [
            calibration_of(predictions[:, k], labels == k, np.linspace(0, 1, bins + 1), name)
            for k, name in enumerate(names)
        ]
    of = names[1] if is_logistic(ensemble.objective) else ""
    return _calibration(ensemble.objective, predictions, labels, of, bins)


def _calibration(
    objective: str, predictions: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], of: str, bins: int
) -> list[Calibration]:
    """That of one output, (rows,); none where predictions are neither probabilities nor means."""
    if is_logistic(objective):
        return [calibration_of(predictions, labels, np.linspace(0, 1, bins + 1), of)]
    if objective in MEANS:
        edges = np.unique(np.quantile(predictions.astype(np.float64), np.linspace(0, 1, bins + 1)))
        return [calibration_of(predictions, labels, edges, of)]
    return []


def calibration_of(
    predictions: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32] | npt.NDArray[np.bool_],
    edges: Floats,
    of: str,
) -> Calibration:
    """Mean prediction and mean label of the rows between edges; a prediction on an inner edge counts below it, as in scikit-learn's
    `calibration_curve`.

    Args:
        predictions, labels: (rows,). edges: rising, float64 (bins + 1,), the first at most and the last at least any prediction.
    """
    p, y = predictions.astype(np.float64), labels.astype(np.float64)
    n_bins = max(len(edges) - 1, 1)
    place = np.searchsorted(edges[1:-1], p, side="left")
    rows = np.bincount(place, minlength=n_bins)
    predicted, found = np.bincount(place, p, n_bins), np.bincount(place, y, n_bins)
    bins = tuple(
        CalibrationBin(
            low=float(edges[k]),
            high=float(edges[min(k + 1, len(edges) - 1)]),
            rows=int(rows[k]),
            predicted=float(predicted[k] / rows[k]) if rows[k] else None,
            found=float(found[k] / rows[k]) if rows[k] else None,
        )
        for k in range(n_bins)
    )
    return Calibration(of=of, bins=bins, error=float(np.abs(predicted - found).sum() / max(len(p), 1)))


def confusion_of(
    predictions: npt.NDArray[np.float32], labels: npt.NDArray[np.float32], names: Sequence[str], threshold: float
) -> Confusion:
    """Rows by label and prediction: of two classes 1 above the threshold, of more the likeliest."""
    several = predictions.ndim == 2
    predicted = predictions.argmax(axis=1) if several else (predictions > np.float32(threshold)).astype(np.int64)
    n = len(names)
    counts = np.bincount(labels.astype(np.int64) * n + predicted, minlength=n * n).reshape(n, n)
    rates = []
    for k, name in enumerate(names):
        hit, of_label, as_class = int(counts[k, k]), int(counts[k].sum()), int(counts[:, k].sum())
        rates.append(
            ClassRates(
                of=name,
                rows=of_label,
                precision=hit / as_class if as_class else None,
                recall=hit / of_label if of_label else None,
                f1=2 * hit / (of_label + as_class) if of_label + as_class else None,
            )
        )
    return Confusion(
        classes=tuple(names),
        counts=tuple(map(tuple, counts.tolist())),
        rates=tuple(rates),
        threshold=None if several else threshold,
    )


def _importance(ensemble: Ensemble) -> tuple[dict[str, float], str]:
    """Shares of all gain by feature, the largest first; of splits where the model has no gain."""
    found, of = ensemble.importance("total_gain"), "gain"
    if not sum(found.values()):
        found, of = ensemble.importance("weight"), "splits"
    total = sum(found.values()) or 1.0
    return {name: value / total for name, value in sorted(found.items(), key=lambda own: (-own[1], own[0]))}, of


def _shap(ensemble: Ensemble, table: CodedTable) -> dict[str, float]:
    """Mean size of SHAP values by feature, the largest first; empty where they cannot be had."""
    if not ensemble.trees or not sum(ensemble.importance("total_cover").values()):
        return {}
    if not is_installed():
        return {}
    n_rows = table.features.shape[1]
    rows = np.linspace(0, n_rows - 1, min(n_rows, SHAP_ROWS)).astype(np.int64)
    features = table.features[:, rows].copy()
    for place, levels in enumerate(ensemble.categories):
        if levels:
            features[place, features[place] >= len(levels)] = (
                np.nan
            )  # no category: XGBoost refuses codes that it does not know
    means = Contributions(ensemble, "here", cores()).sizes(features).mean(axis=0)
    found = dict(zip(ensemble.feature_names, means.tolist(), strict=True))
    return {name: value for name, value in sorted(found.items(), key=lambda own: (-own[1], own[0])) if value > 0}


# --- views -----------------------------------------------------------------------------------------------------------


def _metrics_view(found: Sequence[Evaluation], names: Sequence[str]) -> View:
    metrics = list(found[0].metrics)
    reasons = {f"{name}: {why}" for own in found for name, why in own.without_value.items()}
    return View(
        name="metrics",
        title="Metrics",
        note="; ".join(sorted(reasons)),
        table=(("metric", *names), *((name, *(number(own.metrics.get(name)) for own in found)) for name in metrics)),
    )


def _calibration_views(found: Sequence[Evaluation], names: Sequence[str]) -> list[View]:
    """A view for each class, or for the mean."""
    views = []
    for place, first in enumerate(found[0].calibration):
        own = [each.calibration[place] for each in found if place < len(each.calibration)]
        what = f"share of class {first.of}" if first.of else "mean label"
        series = tuple(
            Series(
                name=name,
                x=tuple(each.predicted for each in calibration.bins if each.predicted is not None),
                y=tuple(each.found for each in calibration.bins if each.predicted is not None),
            )
            for calibration, name in zip(own, names, strict=False)
        )
        rows = [
            (name, f"{each.low:.4g} to {each.high:.4g}", f"{each.rows:,}", number(each.predicted), number(each.found))
            for calibration, name in zip(own, names, strict=False)
            for each in calibration.bins
        ]
        errors = ", ".join(f"{each.error:.4f}" for each in own)
        views.append(
            View(
                name="calibration" if len(found[0].calibration) == 1 else f"calibration-{place}",
                title=f"Calibration: {what}",
                note=f"Of rows with like predictions, what was found; on the diagonal both agree. Mean distance: {errors}.",
                table=tuple(
                    row[len(own) == 1 :] for row in (("model", "prediction", "rows", "mean prediction", what), *rows)
                ),
                chart=Lines(x="mean prediction", y=what, series=series, diagonal=True),
                alt=f"Calibration curve: {what} against mean prediction in {len(rows) // len(own)} bins; "
                f"mean distance from the diagonal {errors}",
            )
        )
    return views


def _confusion_view(found: Confusion, suffix: str = "", whose: str = "") -> View:
    how = "the likeliest class" if found.threshold is None else f"{found.classes[1]} above {found.threshold:g}"
    rows = [
        (name, *(f"{count:,}" for count in counts)) for name, counts in zip(found.classes, found.counts, strict=True)
    ]
    right = sum(found.counts[k][k] for k in range(len(found.classes)))
    total = sum(map(sum, found.counts))
    chart: Chart = Grid(x="predicted", y="label", columns=found.classes, rows=found.classes, counts=found.counts)
    return View(
        name=f"confusion{suffix}",
        title=f"Confusion{whose}",
        note=f"Rows by label and predicted class; predicted is {how}.",
        table=(("label", *(f"predicted {name}" for name in found.classes)), *rows),
        chart=chart,
        alt=f"Confusion matrix of {len(found.classes)} classes: {right:,} of {total:,} rows are predicted as their label says",
    )


def _rates_view(found: Confusion) -> View:
    rows = [
        (each.of, f"{each.rows:,}", number(each.precision), number(each.recall), number(each.f1))
        for each in found.rates
    ]
    return View(name="rates", title="Class by class", table=(("class", "rows", "precision", "recall", "F1"), *rows))


MOST_FEATURES = 15
"""Features that a picture of importance shows."""


def importance_view(shares: Mapping[str, float], of: str) -> View:
    """What a model looks at: shares of its gain or splits by feature, 0 to 1, the largest first."""
    shown = list(shares.items())[:MOST_FEATURES]
    bars = tuple(Bar(name=name, value=100 * share, text=f"{100 * share:.1f}") for name, share in shown)
    return View(
        name="importance",
        title="What the model looks at",
        note=f"Share of the model's {of} by feature"
        + ("; those with the largest." if len(shares) > len(shown) else "."),
        table=((("feature", f"share of {of}, %")), *((name, f"{100 * share:.2f}") for name, share in shown)),
        chart=Bars(x=f"share of the model's {of}, %", bars=bars),
        alt="Importance, the largest first: " + ", ".join(f"{bar.name} {bar.text} %" for bar in bars[:5]),
    )


def model_views(ensemble: Ensemble) -> tuple[View, ...]:
    """What a model tells of itself."""
    shares, of = _importance(ensemble)
    return (importance_view(shares, of),) if shares else ()


def training_views(
    metric: str, alone: Metrics, runs: Mapping[str, Metrics], history: History, steps: Sequence[int] = ()
) -> tuple[View, ...]:
    """What training gave.

    Args:
        metric: which members' test rows are measured by; "" where they are not. alone, runs: as `members_view`.
        history: of held-out rows. steps: rounds after which its values were opened; () for every one.
    """
    views = [members_view(metric, is_higher_better(metric), alone, runs)] if metric else []
    for name, values in history.items():
        if values:
            rounds = steps if len(steps) >= len(values) else range(1, len(values) + 1)
            points = list(zip(rounds, values, strict=False))
            view = curves_view(name, is_higher_better(name), {f"{name} of held-out rows": points})
            views.append(msgspec.structs.replace(view, name=f"curves-{len(views)}"))
    return tuple(views)


def is_higher_better(metric: str) -> bool:
    """Whether a greater value of a metric of test rows is the better one."""
    return metric in (*HIGHER_IS_BETTER, "auc_ovr")


def _importance_views(found: Evaluation) -> list[View]:
    views = [importance_view(found.importance, found.importance_of)] if found.importance else []
    return [*views, *((shap_view(found.shap, "these rows"),) if found.shap else ())]


def shap_view(sizes: Mapping[str, float], rows: str) -> View:
    """The mean size of SHAP values by feature, the largest first. `rows`: whose, in words."""
    shown = sorted(sizes.items(), key=lambda own: -own[1])[:MOST_FEATURES]
    bars = tuple(Bar(name=name, value=value, text=f"{value:.3g}") for name, value in shown)
    return View(
        name="shap",
        title="What moves predictions",
        note=f"Mean size of SHAP values on {rows}, in margins (log-odds of classes).",
        table=(("feature", "mean |SHAP|"), *((name, f"{value:.4g}") for name, value in shown)),
        chart=Bars(x="mean |SHAP value|", bars=bars),
        alt="Mean size of SHAP values, the largest first: " + ", ".join(f"{bar.name} {bar.text}" for bar in bars[:5]),
    )


def _compared_importance(found: Comparison) -> View:
    names = list(
        dict.fromkeys([*list(found.first.importance)[:MOST_FEATURES], *list(found.second.importance)[:MOST_FEATURES]])
    )
    rows = [
        (name, *(f"{100 * own.importance.get(name, 0.0):.2f}" for own in (found.first, found.second))) for name in names
    ]
    return View(
        name="importance",
        title="What the models look at",
        note=f"Share of {found.first.importance_of} ({found.names[0]}) and of {found.second.importance_of} ({found.names[1]}), %.",
        table=(("feature", *found.names), *rows),
    )
