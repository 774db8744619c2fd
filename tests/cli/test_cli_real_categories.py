"""The real table of adults, its texts as categories on shares, against XGBoost's own one-hot splits on pooled rows."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from hansa.simulation.pooled_xgboost import is_installed
from hansa.simulation.run import SimulationSettings, simulate
from hansa.simulation.tables import read_table, split_table
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json

SHARED = Path(os.environ.get("HANSA_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
TABLE = SHARED / "adult.csv.gz"
TEXTS = ("education", "marital", "occupation", "relationship", "race", "sex", "country")
ROWS = 5000


@pytest.mark.slow
@pytest.mark.skipif(not TABLE.is_file(), reason=f"the real tables are not here: {TABLE}")
@pytest.mark.skipif(not is_installed(), reason="XGBoost is not installed")
def test_adults_texts_as_categories(tmp_path):
    with gzip.open(TABLE, "rt", encoding="utf-8") as file:
        header, *lines = file.readlines()
    chosen = np.random.default_rng(5).permutation(len(lines))[:ROWS]
    path = tmp_path / "adult.csv"
    path.write_text(header + "".join(lines[number] for number in np.sort(chosen)))
    table = read_table(path, "over_50k", "employer", categorical=TEXTS)
    assert len(table.categories["country"]) > 30
    train, test = split_table(table, 0.3, 5, stratified=True)
    parameters = parse_parameters({"rounds": 12, "max_depth": 5, "max_bin": 32})
    settings = SimulationSettings(parameters, "over_50k", "coopetitive", pooled=True, in_process=True)
    result = simulate(train, test, settings)
    ensemble = from_json(result.model)
    kinds = np.concatenate([tree.split_type[tree.left_children >= 0] for tree in ensemble.trees])
    assert 0.2 < kinds.mean() < 0.9
    assert [own is not None for own in ensemble.categories] == [name in TEXTS for name in table.names]
    ours, theirs = result.summary.metrics["auc"], result.summary.pooled.xgboost.metrics["auc"]
    positives = float(test.label.sum())
    error = np.sqrt(theirs * (1 - theirs) / min(positives, test.n_rows - positives))
    print(f"{len(kinds)} splits, {kinds.mean():.0%} of them by a category; AUC {ours:.5f}, XGBoost {theirs:.5f}")
    assert ours >= theirs - max(0.002, 2 * error)
    assert ours > 0.88
