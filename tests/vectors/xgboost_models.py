"""Small models as real XGBoost saved them, with the margins that it gave: `python xgboost_models.py` writes xgboost-VERSION.json.

Run it with each version whose files Hansa reads, in an environment of its own, such as one with `xgboost==1.7.6 numpy<2`.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import xgboost

FOLDER = Path(__file__).parent
NAMES = ["a", "b", "c", "d"]
TYPES = ["c", "q", "c", "q"]
KINDS = ("json", "ubj", "deprecated")


def made() -> tuple[np.ndarray, np.ndarray]:
    """Rows (n_rows, 4), of which two features are codes, a tenth missing; and labels."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 4)).astype(np.float32)
    rows[:, 0] = rng.integers(0, 5, 400)
    rows[:, 2] = rng.integers(0, 3, 400)
    labels = (rows[:, 0] == 2) | (rows[:, 2] == 1) & (rows[:, 1] > 0)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    return rows, labels.astype(np.float32)


def scored() -> np.ndarray:
    """Rows to score, some with codes that no training row had."""
    rows = made()[0][:24].copy()
    rows[:4, 0] = [7, 40, 4, np.nan]
    return rows.round(3)


def models() -> dict[str, tuple[dict[str, object], list[str] | None, int]]:
    """Name -> parameters, feature types, outputs."""
    logistic = {"objective": "binary:logistic", "max_depth": 2, "tree_method": "hist", "nthread": 1}
    return {
        "numeric": (logistic, None, 1),
        "one-hot": ({**logistic, "max_cat_to_onehot": 100}, TYPES, 1),
        "sets": ({**logistic, "max_cat_to_onehot": 1}, TYPES, 1),
        "two outputs": ({**logistic, "objective": "reg:squarederror", "base_score": 0.25}, None, 2),
    }


def matrix(rows: np.ndarray, types: list[str] | None, labels: np.ndarray | None = None) -> xgboost.DMatrix:
    return xgboost.DMatrix(rows, labels, feature_names=NAMES, feature_types=types, enable_categorical=True)


def saved(booster: xgboost.Booster, kind: str) -> str | None:
    """The model as a file of this kind, base64; None where this version has no such file."""
    try:
        return base64.b64encode(bytes(booster.save_raw(kind))).decode()
    except xgboost.core.XGBoostError:
        return None


def main() -> None:
    rows, labels = made()
    found = {}
    for name, (parameters, types, outputs) in models().items():
        targets = labels if outputs == 1 else np.stack([labels, 1 - 2 * labels], 1)
        booster = xgboost.train(parameters, matrix(rows, types, targets), 2)
        margins = booster.predict(matrix(scored(), types), output_margin=True)
        found[name] = {kind: text for kind in KINDS if (text := saved(booster, kind)) is not None}
        found[name]["margins"] = [float(margin) for margin in np.asarray(margins, np.float64).reshape(-1)]
    path = FOLDER / f"xgboost-{xgboost.__version__}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
