"""Tables with many features, and features with many levels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xgboost

import hansa

FEATURES, LEVELS = 3000, 1000


def parties_of(frame):
    """Two parties, who have every second row."""
    return {"aurora": frame.iloc[::2], "borealis": frame.iloc[1::2]}


@pytest.mark.slow
def test_three_thousand_features_are_read_and_trained(tmp_path):
    draw = np.random.default_rng(1)
    values = draw.normal(size=(60, FEATURES)).astype(np.float32)
    frame = pd.DataFrame(values, columns=[f"f{i}" for i in range(FEATURES)])
    frame["y"] = (values[:, FEATURES - 1] > 0).astype(int)
    frame.to_csv(tmp_path / "wide.csv", index=False)
    read = pd.read_csv(tmp_path / "wide.csv")
    model = hansa.fit(parties_of(read), label="y", rounds=1, max_depth=2, max_bin=4, min_cell_rows=2).model
    features = read.drop(columns="y")
    assert ((model.predict_proba(features)[:, 1] > 0.5) == read["y"]).mean() > 0.9
    assert set(model.to_xgboost().get_score()) >= {f"f{FEATURES - 1}"}


def test_a_thousand_levels_are_learnt_and_predicted():
    draw = np.random.default_rng(2)
    codes = np.tile(np.arange(LEVELS), 4)
    is_high = draw.random(LEVELS) < 0.5
    frame = pd.DataFrame(
        {
            "site": [f"site {code:04}" for code in codes],
            "load": draw.normal(size=len(codes)),
            "y": is_high[codes].astype(int),
        }
    )
    parameters = {"rounds": 5, "max_depth": 4, "min_child_weight": 0.1, "max_cat_threshold": 1000, "eta": 1.0}
    model = hansa.fit(parties_of(frame), label="y", min_cell_rows=2, **parameters).model
    features = frame.drop(columns="y")
    found = model.predict_proba(features)[:, 1]
    assert ((found > 0.5) == frame["y"]).mean() > 0.9
    levels = list(model.ensemble.categories[0])
    assert len(levels) == LEVELS
    coded = pd.DataFrame({"site": pd.Categorical(frame["site"], categories=levels).codes, "load": frame["load"]})
    matrix = xgboost.DMatrix(coded, feature_types=["c", "float"], enable_categorical=True)
    np.testing.assert_allclose(model.to_xgboost().predict(matrix), found, rtol=0, atol=1e-6)
