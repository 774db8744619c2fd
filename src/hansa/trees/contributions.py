"""How much each feature moves a model's margins: sizes of SHAP values, which XGBoost computes (TreeSHAP, Lundberg et al. 2020).

A row's SHAP value of a feature is, tree by tree, a mean of differences between expected leaf values, so that no tree's is larger than
the difference of its highest and lowest leaf: a public bound, from which sums get their unit.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError
from hansa.trees.ensemble import NO_NODE, Ensemble
from hansa.trees.xgboost_json import to_json

SLACK = 1 + 2.0**-10
"""Widens the bound by more than the rounding of float32."""


def is_installed() -> bool:
    """Whether this machine has XGBoost."""
    return importlib.util.find_spec("xgboost") is not None


def check_installed(owner: str) -> None:
    """Raise DataError where this machine cannot compute SHAP values."""
    if not is_installed():
        raise DataError(
            f"party {owner!r}: evaluation.shap needs the package xgboost, which computes SHAP values: pip install 'hansa[xgboost]', or "
            "agree on a plan without evaluation.shap"
        )


def most_contribution(ensemble: Ensemble) -> float:
    """No row's SHAP value of a feature exceeds this in size, at any output; 0 where no tree splits."""
    most = 0.0
    for output in range(ensemble.outputs):
        leaves = [tree.split_conditions[tree.left_children == NO_NODE] for tree in ensemble.trees_of(output)]
        most = max(most, sum(float(own.max()) - float(own.min()) for own in leaves))
    return most * SLACK


class Contributions:
    """SHAP values of one model's trees. Raises DataError as `check_installed`.

    Args:
        ensemble: with covers. owner: the party, for errors. threads: of XGBoost's.
    """

    def __init__(self, ensemble: Ensemble, owner: str, threads: int) -> None:
        check_installed(owner)
        import xgboost

        self._kinds = [
            "q" if own is None else "c" for own in ensemble.categories or [None] * len(ensemble.feature_names)
        ]
        self._names = list(ensemble.feature_names)
        self._booster: Any = xgboost.Booster(params={"nthread": threads})
        self._booster.load_model(bytearray(to_json(ensemble)))

    def sizes(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The size of each row's SHAP values, float64 (n_rows, n_features); of several outputs their mean.

        Args:
            features: float32 (n_features, n_rows), NaN missing; codes of categories.
        """
        import xgboost

        matrix = xgboost.DMatrix(
            features.T, feature_names=self._names, feature_types=self._kinds, enable_categorical=True
        )
        values = np.abs(self._booster.predict(matrix, pred_contribs=True), dtype=np.float64)
        means = values.reshape(features.shape[1], -1, values.shape[-1]).mean(axis=1)
        return np.asarray(means[:, :-1])
