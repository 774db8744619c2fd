"""The XGBoost that the pooled rows are trained with beside ours has the same parameters, constraints too."""

from __future__ import annotations

import numpy as np
import xgboost

from hansa.simulation.pooled_xgboost import train_pooled_xgboost
from hansa.simulation.tables import Table
from hansa.trees.parameters import parse_parameters


def test_constraints_reach_the_pooled_xgboost(tmp_path):
    rng = np.random.default_rng(4)
    features = rng.normal(size=(3, 600)).astype(np.float32)
    label = (features[0] + features[1] * features[2] + rng.normal(size=600) > 0).astype(np.float32)
    table = Table(("a", "b", "c"), features, label, None, np.full(600, "x", object), {})
    given = {"monotone_constraints": {"c": 1, "a": -1}, "interaction_constraints": [["a", "c"], ["b"]]}
    parameters = parse_parameters({"objective": "binary:logistic", "rounds": 5, "max_depth": 3, **given})
    _, got = train_pooled_xgboost(tmp_path, table, table, parameters)
    frame = xgboost.QuantileDMatrix(features.T, label, feature_names=["a", "b", "c"], max_bin=256)
    own = {"objective": "binary:logistic", "max_depth": 3, "tree_method": "hist"}
    expected = xgboost.train(own | given, frame, 5).predict(frame)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - xgboost.train(own, frame, 5).predict(frame)).max() > 1e-3
