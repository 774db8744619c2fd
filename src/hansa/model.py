"""A trained model as a data scientist uses it: frames in, predictions out, and XGBoost's own objects."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hansa.data.coding import CodedTable, read_coded, unknown_texts
from hansa.data.frames import columns_of, margins_of, open_columns
from hansa.data.schema import UNSEEN, date_rule
from hansa.errors import DataError, HansaError, PlanError, in_words
from hansa.files import read_whole, write_whole
from hansa.node.cores import cores
from hansa.trees.ensemble import Ensemble, ImportanceKind, Unseen
from hansa.trees.losses import SOFTPROB, is_softmax
from hansa.trees.xgboost_json import MOST_BYTES, from_model_file, to_json

if TYPE_CHECKING:
    import xgboost

Floats = npt.NDArray[np.float32]


class Model:
    """A gradient-boosted model, the same as XGBoost's of the same trees.

    Parameters
    ----------
    file : bytes
        An XGBoost model, JSON or UBJSON, of Hansa or of XGBoost 1.7 to 3.

    Raises
    ------
    DataError
        The file is no model, or holds what Hansa does not predict; names the field.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.linspace(0, 1, 200, dtype=np.float32).reshape(-1, 1)
    >>> y = (X[:, 0] > 0.5).astype(int)
    >>> parties = {"aurora": (X[::2], y[::2]), "borealis": (X[1::2], y[1::2])}
    >>> model = hansa.fit(parties, rounds=5, alone=False).model
    >>> model.predict(X[:3])
    array([0, 0, 0])
    >>> hansa.Model(model.to_json()).feature_names
    ('f0',)
    """

    def __init__(self, file: bytes) -> None:
        self._ensemble = from_model_file(file)
        self._levels = {
            name: own for name, own in zip(self._ensemble.feature_names, self._ensemble.categories, strict=False) if own
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read a model file. Raises DataError naming the file."""
        try:
            return cls(read_whole(Path(path), MOST_BYTES))
        except (DataError, OSError, ValueError) as error:
            raise DataError(f"{path}: {in_words(error)}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as XGBoost JSON, mode 0600; whole or not at all. Raises OutputError."""
        if Path(path).suffix.lower() != ".json":
            raise DataError(f"{path}: expected a name that ends in .json, which is what is written")
        write_whole(Path(path), self.to_json())

    def to_json(self) -> bytes:
        """The model as XGBoost's JSON."""
        return to_json(self._ensemble)

    @property
    def ensemble(self) -> Ensemble:
        """The trees as arrays."""
        return self._ensemble

    @property
    def objective(self) -> str:
        """The name of the loss that was trained, as XGBoost writes it."""
        return self._ensemble.objective

    @property
    def feature_names(self) -> tuple[str, ...]:
        """In the order of training."""
        return self._ensemble.feature_names

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of a model of several labels their names, in the order of the columns of its predictions; else ()."""
        return self._ensemble.reading.labels

    @property
    def rounds(self) -> int:
        """Rounds of boosting: trees of each output."""
        return self._ensemble.rounds

    @property
    def _has_probabilities(self) -> bool:
        return self.objective == "binary:logistic" or is_softmax(self.objective)

    def predict_margin(self, X: object, *, base_margin: object = None, unseen: Unseen | None = None) -> Floats:
        """Sums of leaves and base margin.

        Parameters
        ----------
        X : frame or array
            A data frame with the model's features, in any order and beside others; or an array (rows, features) in the model's order.
        base_margin : array (rows,) or (rows, outputs), optional
            Where each row starts, in place of the base score; what the model was trained with.
        unseen : {"missing", "error"}, optional
            Whether levels that the model does not know are of no category, or refused; what its plan said by default, and where they
            are of no category a UserWarning counts them.

        Returns
        -------
        array of float32, (rows,) or (rows, outputs)

        Raises
        ------
        DataError
            A feature is missing, a cell is neither a number nor, in a column of texts, a text, nor, where the plan made numbers of
            dates, a date; or a level is refused; names row and column.
        """
        return self._ensemble.predict_margin(self._read(X, unseen).features, cores(), _starts(base_margin))

    def predict_proba(self, X: object, *, base_margin: object = None, unseen: Unseen | None = None) -> Floats:
        """Probabilities: float32 (rows, 2) of the classes 0 and 1, or (rows, classes); of several labels that of 1, (rows, labels). See
        `predict_margin` for the rest."""
        if not self._has_probabilities:
            raise HansaError(f"a model of objective {self.objective!r} has no probabilities; call predict")
        ensemble = self._ensemble
        if is_softmax(self.objective):
            ensemble = replace(ensemble, objective=SOFTPROB)
        scores = ensemble.predict(self._read(X, unseen).features, cores(), _starts(base_margin))
        return scores if scores.ndim == 2 else np.stack([1 - scores, scores], axis=1)

    def predict(self, X: object, *, base_margin: object = None, unseen: Unseen | None = None) -> npt.NDArray[Any]:
        """The likeliest class (binary:logistic, multi:softprob, multi:softmax), int64 (rows,), or what else the objective predicts
        (values; log-odds of label 1 for binary:logitraw), float32 (rows,); of several labels (rows, labels).

        See `predict_margin` for the rest."""
        if self._has_probabilities and self.label_names:
            return np.asarray(self.predict_proba(X, base_margin=base_margin, unseen=unseen) > np.float32(0.5), np.int64)
        if self._has_probabilities:
            return np.asarray(self.predict_proba(X, base_margin=base_margin, unseen=unseen).argmax(axis=1), np.int64)
        return self._ensemble.predict(self._read(X, unseen).features, cores(), _starts(base_margin))

    def importance(self, kind: ImportanceKind = "gain") -> dict[str, float]:
        """XGBoost's feature importance: weight, gain, cover, total_gain or total_cover."""
        return self._ensemble.importance(kind)

    def to_xgboost(self) -> xgboost.Booster:
        """The same model as XGBoost's own. Raises HansaError where the package xgboost is not installed."""
        try:
            import xgboost
        except ImportError as error:
            raise HansaError("to_xgboost needs the package xgboost: pip install 'hansa[xgboost]'") from error
        booster = xgboost.Booster()
        booster.load_model(bytearray(self.to_json()))
        return booster

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return Model, (self.to_json(),)

    def __repr__(self) -> str:
        return f"hansa.Model({self.objective}, {self.rounds} rounds, {len(self.feature_names)} features)"

    def _read(self, X: object, unseen: Unseen | None) -> CodedTable:
        names, reading = self.feature_names, self._ensemble.reading
        sources = {name: date_rule(name, rule)[1] for name, rule in reading.dates}
        needed = tuple(dict.fromkeys(sources.get(name, name) for name in names))
        columns = columns_of(X, "X", needed, sources.values())
        if missing := [name for name in needed if name not in columns]:
            raise DataError(
                f"X: no column {missing[0]!r}, which the model needs; found {', '.join(map(repr, columns))[:200]}"
            )
        read = read_coded(
            open_columns({name: columns[name] for name in needed}, "X"),
            names,
            known=self._levels,
            dates=dict(reading.dates),
            unseen=check_unseen(unseen) or reading.unseen,
            other=reading.other,
        )
        if unseen is None:  # nobody asked for it
            for text in unknown_texts(read):
                warnings.warn(f"X, {text}", UserWarning, stacklevel=3)
        return read


def check_unseen(given: Unseen | None) -> Unseen | None:
    """What was asked for. Raises PlanError where it is no choice."""
    if given is not None and given not in UNSEEN:
        raise PlanError(f"unseen is {given!r}; expected {' or '.join(map(repr, UNSEEN))}")
    return given


def _starts(base_margin: object) -> Floats | None:
    """Base margins as the ensemble takes them: float32 (outputs, rows)."""
    if base_margin is None:
        return None
    given = margins_of(base_margin, "base_margin")
    return np.ascontiguousarray(np.atleast_2d(given) if given.ndim < 2 else given.T)
