"""scikit-learn's estimators over members in this process: for pipelines, grids and cross-validation.

They need scikit-learn, so `import hansa` does not import them; `hansa.HansaClassifier` does when it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import (
    _check_sample_weight,
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from hansa.callbacks import Callback
from hansa.data.frames import is_missing, margins_of, plain
from hansa.errors import DataError
from hansa.library.fit import Run, fit
from hansa.model import Model
from hansa.roles.summed.custom import MetricFunction

ALONE = "rows"
"""The party of all rows where no groups are given."""


class _Hansa(BaseEstimator):  # type: ignore[misc]
    """What both estimators share. Parameters are XGBoost's, as its own estimators call them."""

    def __init__(
        self,
        *,
        mode: str = "federated",
        n_estimators: int = 100,
        max_depth: int = 6,
        learning_rate: float = 0.3,
        max_bin: int | None = None,
        min_child_weight: float = 1.0,
        gamma: float = 0.0,
        reg_lambda: float = 1.0,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        max_leaves: int = 0,
        grow_policy: str = "depthwise",
        reg_alpha: float = 0.0,
        max_delta_step: float | None = None,
        colsample_bylevel: float = 1.0,
        colsample_bynode: float = 1.0,
        num_parallel_tree: int = 1,
        scale_pos_weight: float | str = 1.0,
        monotone_constraints: Any = None,
        interaction_constraints: Any = None,
        objective: str | None = None,
        quantile_alpha: Any = None,
        eval_metric: Any = None,
        base_score: float | None = None,
        random_state: int | None = None,
        evaluation_fraction: float = 0.0,
        early_stopping_rounds: int | None = None,
        min_cell_rows: int = 10,
        categorical: Sequence[str] = (),
        dates: Mapping[str, str] | None = None,
        rare_levels: Mapping[str, int] | None = None,
        unseen: str = "missing",
        custom_metric: MetricFunction | None = None,
        metric_bound: float | None = None,
        maximize: bool = False,
        n_jobs: int | None = None,
        callbacks: Sequence[Callback] | None = None,
        progress: bool | None = False,
    ) -> None:
        self.mode = mode
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.max_bin = max_bin
        self.min_child_weight = min_child_weight
        self.gamma = gamma
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.max_leaves = max_leaves
        self.grow_policy = grow_policy
        self.reg_alpha = reg_alpha
        self.max_delta_step = max_delta_step
        self.colsample_bylevel = colsample_bylevel
        self.colsample_bynode = colsample_bynode
        self.num_parallel_tree = num_parallel_tree
        self.scale_pos_weight = scale_pos_weight
        self.monotone_constraints = monotone_constraints
        self.interaction_constraints = interaction_constraints
        self.objective = objective
        self.quantile_alpha = quantile_alpha
        self.eval_metric = eval_metric
        self.base_score = base_score
        self.random_state = random_state
        self.evaluation_fraction = evaluation_fraction
        self.early_stopping_rounds = early_stopping_rounds
        self.min_cell_rows = min_cell_rows
        self.categorical = categorical
        self.dates = dates
        self.rare_levels = rare_levels
        self.unseen = unseen
        self.custom_metric = custom_metric
        self.metric_bound = metric_bound
        self.maximize = maximize
        self.n_jobs = n_jobs
        self.callbacks = callbacks
        self.progress = progress

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        return tags

    def _features(self, X: Any, *, reset: bool) -> Any:
        """X as it came, checked: a frame keeps its columns of texts, an array becomes float."""
        names = getattr(X, "column_names", getattr(X, "columns", None))
        if names is not None and all(isinstance(name, str) for name in names):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        given = plain(X) if isinstance(X, np.ndarray) else X  # scikit-learn would read what a mask hides
        return validate_data(self, given, reset=reset, dtype="numeric", ensure_all_finite="allow-nan")

    def _train(self, X: Any, y: npt.NDArray[Any], groups: Any, sample_weight: Any, base_margin: Any) -> Run:
        named = _complete(groups, "groups", "a party")
        names = [ALONE] * len(y) if named is None else [str(group) for group in named]
        check_consistent_length(X, y, names)
        rows = np.array(names, object)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        try:
            starts = None if base_margin is None else margins_of(base_margin, "base_margin")
        except DataError as error:
            raise ValueError(str(error)) from error
        check_consistent_length(X, starts)
        parties = {}
        for name in sorted(set(names)):
            chosen = np.flatnonzero(rows == name)
            more = (None if array is None else array[chosen] for array in (weights, starts))
            parties[name] = (_taken(X, chosen), y[chosen], *more)
        given = {
            "rounds": self.n_estimators,
            "max_depth": self.max_depth,
            "eta": self.learning_rate,
            "max_bin": self.max_bin,
            "min_child_weight": self.min_child_weight,
            "gamma": self.gamma,
            "lambda": self.reg_lambda,
            "subsample": self.subsample,
            "colsample_bytree": self.colsample_bytree,
            "max_leaves": self.max_leaves,
            "grow_policy": self.grow_policy,
            "alpha": self.reg_alpha,
            "max_delta_step": self.max_delta_step,
            "colsample_bylevel": self.colsample_bylevel,
            "colsample_bynode": self.colsample_bynode,
            "num_parallel_tree": self.num_parallel_tree,
            "scale_pos_weight": self.scale_pos_weight,
            "monotone_constraints": self.monotone_constraints,
            "interaction_constraints": self.interaction_constraints,
            "quantile_alpha": self.quantile_alpha,
            "eval_metric": self.eval_metric,
            "base_score": self.base_score,
            "seed": self.random_state,
            "early_stopping_rounds": self.early_stopping_rounds,
            **self._more(),
        }
        try:
            return fit(
                parties,
                mode=self.mode,
                objective=self.objective or self._default_objective(),
                evaluation_fraction=self.evaluation_fraction,
                min_cell_rows=self.min_cell_rows,
                categorical=self.categorical,
                dates=self.dates or {},
                rare_levels=self.rare_levels or {},
                unseen=self.unseen,
                custom_metric=self.custom_metric,
                metric_bound=self.metric_bound,
                maximize=self.maximize,
                alone=False,
                callbacks=self.callbacks or (),
                progress=self.progress,
                threads=self.n_jobs
                if self.n_jobs is not None and self.n_jobs > 0
                else None,  # as -1 says elsewhere: all
                **{key: value for key, value in given.items() if value is not None},
            )
        except DataError as error:
            raise ValueError(str(error)) from error  # what scikit-learn's users and tools expect

    def _more(self) -> dict[str, Any]:
        return {}

    def _default_objective(self) -> str:
        return "reg:squarederror"

    def _keep(self, run: Run) -> None:
        self.run_ = run
        self.model_ = run.model

    @property
    def feature_importances_(self) -> npt.NDArray[np.float64]:
        """Gain of each feature, as shares that add up to 1; float64 (features,)."""
        check_is_fitted(self)
        model: Model = self.model_
        gains = model.importance("gain")
        found = np.array([gains.get(name, 0.0) for name in model.feature_names])
        return found / found.sum() if found.sum() > 0 else found

    def _scored(self, X: Any) -> Any:
        check_is_fitted(self)
        return self._features(X, reset=False)


def _taken(X: Any, rows: npt.NDArray[np.intp]) -> Any:
    if isinstance(X, np.ndarray):
        return X[rows]
    import narwhals as nw

    return nw.from_native(X, eager_only=True)[rows.tolist()].to_native()


class HansaClassifier(ClassifierMixin, _Hansa):  # type: ignore[misc]
    """A classifier of two classes or more, trained by parties that do not show each other their rows.

    All members are in this process: it is for choosing parameters and for comparing, not for keeping rows apart. `fit` takes the party
    of each row as `groups`.

    Parameters
    ----------
    mode : {"federated", "secure-aggregation", "coopetitive"}
        How the parties' sums or rows are protected.
    n_estimators, max_depth, learning_rate, max_bin, min_child_weight, gamma, reg_lambda, subsample, colsample_bytree, base_score, \
    max_leaves, grow_policy, reg_alpha, max_delta_step, colsample_bylevel, colsample_bynode, num_parallel_tree, scale_pos_weight, \
    monotone_constraints, interaction_constraints, objective, eval_metric
        As in XGBoost's own estimators; without max_bin it is 256, and in coopetitive mode 32.
    random_state : int, optional
        Seed of draws of rows and features.
    evaluation_fraction : float
        Share of each party's rows held out for metrics and early stopping.
    early_stopping_rounds : int, optional
        Stop after so many rounds without a better metric on held-out rows.
    min_cell_rows : int
        Cuts stop at cells of so many pooled rows.
    categorical : sequence of str
        Features of numbers whose values are categories; features of texts are categories anyway.
    dates, rare_levels : mapping, optional
        Features that are made of dates, and levels that become one, as `hansa.fit` says.
    unseen : {"missing", "error"}
        Whether predictions take levels that no row of training had for no category, or refuse them.
    custom_metric, metric_bound, maximize
        A metric of held-out rows by a function, as `hansa.fit` says.
    n_jobs : int, optional
        Compute threads; None or -1 for as many as are worth while.
    callbacks : sequence of objects, optional
        Called after each round, as `hansa.fit` says.
    progress : bool, optional
        Whether a bar shows how far a fit is; None for one in notebooks and on terminals only. Off by default, since grids fit often.

    Attributes
    ----------
    classes_ : array (classes,)
    model_ : Model
    run_ : Run

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.linspace(0, 1, 300).reshape(-1, 1)
    >>> y = np.where(X[:, 0] > 0.5, "fault", "fine")
    >>> classifier = hansa.HansaClassifier(n_estimators=5, mode="secure-aggregation")
    >>> classifier.fit(X, y, groups=np.arange(300) % 3).predict(X[[0, 299]])
    array(['fine', 'fault'], dtype='<U5')
    """

    def fit(self, X: Any, y: Any, *, groups: Any = None, sample_weight: Any = None, base_margin: Any = None) -> Self:
        """Train.

        Parameters
        ----------
        X : frame or array (rows, features)
        y : array (rows,) or (rows, labels)
            Labels of any kind, two classes or more; of several labels 0 and 1, and `classes_` numbers the labels.
        groups : array (rows,), optional
            The party of each row; one party has all by default, which federated mode alone takes.
        sample_weight : array (rows,), optional
        base_margin : array (rows,) or (rows, classes), optional
            Each row's margin before the first tree, in place of the base score; (rows,) for two classes.

        Raises
        ------
        ValueError
            X or y is not what was expected. HansaError: of a parameter or setting.
        """
        X = self._features(X, reset=True)
        y, sample_weight = _complete(y, "y", "a label"), _complete(sample_weight, "sample_weight", "a weight")
        if type_of_target(y) == "multilabel-indicator":
            labels = check_array(y, accept_sparse=False, dtype=np.float32)
            self.classes_ = np.arange(labels.shape[1])
            self.n_labels_ = labels.shape[1]
            self._keep(self._train(X, labels, groups, sample_weight, base_margin))
            return self
        self.n_labels_ = 1
        y = _labels(y, X)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        counted = y if sample_weight is None else y[_check_sample_weight(sample_weight, X) > 0]
        if len(classes := np.unique(counted)) < 2:
            raise ValueError(
                f"y has {len(classes)} class of weight above 0 ({', '.join(map(repr, classes.tolist()))}); a classifier can be "
                "trained on two or more"
            )
        self._keep(self._train(X, codes.astype(np.float32), groups, sample_weight, base_margin))
        return self

    def _more(self) -> dict[str, Any]:
        return {"num_class": len(self.classes_)} if self._has_classes else {}

    @property
    def _has_classes(self) -> bool:
        """Whether a row is of one of more than two classes."""
        return self.n_labels_ == 1 and len(self.classes_) > 2

    def _default_objective(self) -> str:
        return "multi:softprob" if self._has_classes else "binary:logistic"

    def predict_proba(self, X: Any, *, base_margin: Any = None) -> npt.NDArray[np.float32]:
        """Probabilities, float32 (rows, classes), in the order of `classes_`; of several labels that of 1, (rows, labels).

        base_margin: as in `fit`.
        """
        X = self._scored(X)
        return self.model_.predict_proba(X, base_margin=base_margin)

    def predict(self, X: Any, *, base_margin: Any = None) -> npt.NDArray[Any]:
        """The likeliest class of each row, or each label, (rows, labels); base_margin: as in `fit`."""
        X = self._scored(X)
        predicted = self.model_.predict(X, base_margin=base_margin)
        found: npt.NDArray[Any] = predicted if self.n_labels_ > 1 else self.classes_[predicted]
        return found


class HansaRegressor(RegressorMixin, _Hansa):  # type: ignore[misc]
    """A regressor of squared error, trained by parties that do not show each other their rows; parameters as `HansaClassifier`.

    Attributes
    ----------
    model_ : Model
    run_ : Run

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.linspace(0, 1, 300).reshape(-1, 1)
    >>> regressor = hansa.HansaRegressor(n_estimators=20).fit(X, 3 * X[:, 0], groups=np.arange(300) % 3)
    >>> bool(abs(regressor.predict(X) - 3 * X[:, 0]).max() < 0.2)
    True
    """

    def fit(self, X: Any, y: Any, *, groups: Any = None, sample_weight: Any = None, base_margin: Any = None) -> Self:
        """Train; see `HansaClassifier.fit`. y: numbers (rows,) or (rows, labels)."""
        X = self._features(X, reset=True)
        y, sample_weight = _complete(y, "y", "a label"), _complete(sample_weight, "sample_weight", "a weight")
        y = _labels(y, X, several=True)
        if y.dtype.kind not in "biuf":
            try:
                y = y.astype(np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError(f"y: expected numbers, found {y.dtype}") from error
        self._keep(self._train(X, y, groups, sample_weight, base_margin))
        return self

    def predict(self, X: Any, *, base_margin: Any = None) -> npt.NDArray[np.float32]:
        """The value of each row, float32 (rows,) or (rows, labels); base_margin: as in `fit`."""
        X = self._scored(X)
        return self.model_.predict(X, base_margin=base_margin)


def _complete(given: Any, what: str, needed: str) -> Any:
    """What was given for each row, where every row has some. Masks are looked at, as scikit-learn does not; decimals become float64.

    Raises ValueError naming the row.
    """
    array = plain(given)
    if array.ndim == 0:  # nothing, one number for all rows, or a sparse matrix
        return given
    if array.dtype.kind == "O":
        missing = np.array([is_missing(value) for value in array.flat], np.bool_).reshape(array.shape)
    elif array.dtype.kind in "fM":
        missing = array != array
    else:
        missing = np.zeros(array.shape, np.bool_)
    if missing.any():
        row = int(np.argwhere(missing)[0][0])
        raise ValueError(
            f"{what}, row {row + 1}: expected {needed} in every row, found a missing value (NaN); drop the rows without {needed[2:]}"
        )
    decimals = array.dtype.kind == "O" and all(isinstance(value, Decimal) for value in array.flat)
    if decimals or array.dtype.kind == "f" or np.ma.isMaskedArray(given):
        return array.astype(np.float64) if decimals else array
    return given


def _labels(y: Any, X: Any, several: bool = False) -> npt.NDArray[Any]:
    """y, checked: (rows,), or where several labels may be (rows, labels)."""
    from sklearn.utils import column_or_1d
    from sklearn.utils.validation import assert_all_finite

    if y is None:
        raise ValueError("This estimator requires y to be passed, but the target y is None.")
    given: npt.NDArray[Any] = np.asarray(y)
    several = several and given.ndim == 2 and given.shape[1] > 1
    labels: npt.NDArray[Any] = given if several else column_or_1d(y, warn=True)
    assert_all_finite(labels, input_name="y")
    check_consistent_length(X, labels)
    return labels
