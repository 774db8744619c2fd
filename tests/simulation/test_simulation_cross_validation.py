"""Cross-validation: the folds and scores of XGBoost's, whoever holds the rows, in every mode."""

from __future__ import annotations

import math
from dataclasses import replace

import hypothesis
import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from hansa.data.holdout import folds_by_contents, folds_by_subject
from hansa.errors import DataError, HansaError, PlanError
from hansa.simulation.cross_validation import cross_validate
from hansa.simulation.pooled_xgboost import xgboost_parameters
from hansa.simulation.run import SimulationSettings
from hansa.simulation.tables import Table
from hansa.trees.parameters import parse_parameters

N_ROWS = 400

BUCKETS = 0.004
"""How far the pooled auc, whose scores are in buckets, may be from the exact one."""


def table(objective: str = "binary:logistic", n_rows: int = N_ROWS, classes: int = 0) -> Table:
    """Few values a feature, so that both learners have a cut at every one."""
    rng = np.random.default_rng(8)
    features = rng.integers(0, 12, (4, n_rows)).astype(np.float32)
    features[1, ::9] = np.nan
    raw = features[0] - features[2] / 2 + rng.normal(0, 2, n_rows)
    label = (raw > 3).astype(np.float32)
    if classes:
        label = np.clip(np.floor(raw / 3) + 1, 0, classes - 1).astype(np.float32)
    if objective.startswith("reg:"):
        label = raw.astype(np.float32)
    party = np.array(["aurora", "borealis", "cirrus"], object)[np.arange(n_rows) % 3]
    return Table(("a", "b", "c", "d"), features, label, None, party, {})


def settings(mode: str = "federated", **parameters) -> SimulationSettings:
    given = {"rounds": 5, "max_depth": 3, **parameters}
    return SimulationSettings(parse_parameters(given), "label", mode=mode, min_cell_rows=2, threads=2)


ORACLES = {
    "binary": {"eval_metric": ["error", "auc", "logloss"]},
    "regression": {"objective": "reg:squarederror", "eval_metric": ["mae", "rmse"]},
    "softprob": {"objective": "multi:softprob", "num_class": 3, "eval_metric": ["merror", "mlogloss"]},
    "forest": {"num_parallel_tree": 2, "colsample_bynode": 1.0, "eval_metric": ["logloss"]},
    "stopping": {"rounds": 40, "eta": 0.8, "early_stopping_rounds": 4, "eval_metric": ["logloss"]},
}


@pytest.mark.parametrize("parameters", ORACLES.values(), ids=ORACLES)
def test_scores_are_those_of_xgboost_on_the_same_folds(parameters):
    chosen = settings(**parameters)
    # No weight is 0: with such rows the learners' log loss differs here by up to 5e-4.
    weight = np.random.default_rng(4).integers(1, 4, N_ROWS).astype(np.float32)
    rows = replace(table(chosen.parameters.objective, classes=chosen.parameters.num_class), weight=weight)
    found = cross_validate(rows, replace(chosen, weight="weight"), 4)
    places = folds_by_contents(rows.features, rows.label, 4, 0)
    theirs = xgboost.cv(
        {**xgboost_parameters(chosen.parameters, 1, 1), "nthread": 1},
        xgboost.DMatrix(rows.features.T, rows.label, weight=weight),
        chosen.parameters.rounds,
        folds=[(np.flatnonzero(places != fold), np.flatnonzero(places == fold)) for fold in range(4)],
        metrics=list(chosen.parameters.metrics),
        early_stopping_rounds=chosen.parameters.early_stopping_rounds,
        as_pandas=False,
    )
    for name, own in found.history.items():
        allowed = BUCKETS if name == "auc" else 2e-5
        assert own.mean == pytest.approx(theirs[f"test-{name}-mean"], abs=allowed)
        assert own.std == pytest.approx(theirs[f"test-{name}-std"], abs=allowed)
    if chosen.parameters.early_stopping_rounds:
        assert found.best_round == len(theirs["test-logloss-mean"]) < 40


@hypothesis.settings(deadline=None, max_examples=4)
@given(st.sampled_from(["federated", "secure-aggregation"]), st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_any_split_of_the_rows_over_parties_gives_the_same_scores(mode, parties, seed, by_subject):
    parties = max(parties, 2 if mode != "federated" else 1)
    subject = np.array([f"site {i // 3}" for i in range(N_ROWS)], object) if by_subject else None
    weight = np.tile(np.array([0.5, 1, 3, 0], np.float32), N_ROWS // 4)
    rows = replace(table(), weight=weight, subject=subject)
    chosen = replace(settings(mode, rounds=3, eval_metric=["auc", "logloss"]), weight="weight")
    first = cross_validate(rows, chosen, 3)
    rng = np.random.default_rng(seed)
    names = np.array([f"party {i}" for i in range(parties)], object)
    owners = names[np.r_[np.arange(parties), rng.integers(0, parties, N_ROWS - parties) ** 2 % parties]]
    again = replace(rows.take(rng.permutation(N_ROWS)), party=owners)
    found = cross_validate(again, replace(chosen, threads=1), 3)
    assert found.history == first.history
    assert found.best_round == first.best_round


def test_shares_give_nearly_the_scores_of_sums():
    rows = table(n_rows=120)
    given = {"rounds": 2, "max_depth": 2, "max_bin": 12, "base_score": 0.5}
    shared = replace(settings("coopetitive", **given), leaf_bits=16)
    sums = cross_validate(rows, settings(**given), 2).history["logloss"].mean
    assert cross_validate(rows, shared, 2).history["logloss"].mean == pytest.approx(sums, abs=0.02)


def test_models_of_classes_on_shares_are_scored_over_rows_and_classes():
    rows = table(n_rows=120, classes=3)
    found = cross_validate(
        rows, settings("coopetitive", rounds=1, max_depth=1, max_bin=4, num_class=3, base_score=0.5), 2
    )
    assert 0.2 < found.history["logloss"].mean[0] < math.log(2)


def test_rows_of_a_subject_are_in_one_fold_whoever_holds_them():
    subjects = [f"patient {i // 4}" for i in range(N_ROWS)]
    places = folds_by_subject(subjects, 5, 3)
    assert all(len(set(places[4 * i : 4 * i + 4])) == 1 for i in range(N_ROWS // 4))
    assert np.bincount(places, minlength=5).min() > N_ROWS / 10
    assert folds_by_subject(subjects[::-1], 5, 3).tolist() == places[::-1].tolist()
    assert folds_by_subject(subjects, 5, 4).tolist() != places.tolist()
    rows = replace(table(), subject=np.array(subjects, object))
    found = cross_validate(rows, settings(), 5).history
    assert found != cross_validate(table(), settings(), 5).history
    order = np.random.default_rng(2).permutation(N_ROWS)
    assert found == cross_validate(rows.take(order), settings(), 5).history


def test_members_are_scored_together_and_alone():
    rows = table()
    found = cross_validate(rows, replace(settings(), alone=True), 3)
    assert list(found.members) == ["aurora", "borealis", "cirrus"]
    for name, own in found.members.items():
        assert own.rows == int((rows.party == name).sum())
        assert own.together["auc"] > own.alone["auc"] - 0.1
        assert own.together.keys() == own.alone.keys() >= {"auc", "aucpr", "logloss"}
    assert not any(own.alone for own in cross_validate(rows, settings(), 3).members.values())
    assert "auc alone" in repr(found)
    assert "cirrus" in found._repr_html_()


def test_a_party_that_has_all_its_rows_in_one_fold_is_left_out_of_that_training():
    rows = table()
    places = folds_by_contents(rows.features, rows.label, 3, 0)
    party = np.where((places == 1) & (np.arange(N_ROWS) % 2 == 0), "dune", "aurora").astype(object)
    found = cross_validate(replace(rows, party=party), replace(settings(), alone=True), 3)
    assert any("party 'dune' has all its rows in it" in text for text in found.warnings)
    assert set(found.members["dune"].alone.values()) == {None}
    assert found.history == cross_validate(rows, settings(), 3).history


def test_rounds_of_all_folds_are_counted():
    seen = []
    cross_validate(table(), settings(), 3, seen.append)
    assert [event.trees for event in seen] == list(range(1, 16))
    assert {event.rounds for event in seen} == {15}


def test_a_fold_that_fails_ends_the_others_and_says_why():
    def fail(event):
        raise HansaError(f"no more after {event.trees}")

    with pytest.raises(HansaError, match="no more after"):
        cross_validate(table(), settings(rounds=200), 3, fail)


@pytest.mark.parametrize("folds", [1, 0, True, 2.0, 10**6])
def test_folds_are_two_or_more(folds):
    with pytest.raises(PlanError, match=r"folds is .*expected a whole number from 2"):
        cross_validate(table(), settings(), folds)


def test_folds_without_rows_or_with_one_label_are_refused_before_training():
    few = table().take(np.arange(4))
    with pytest.raises(DataError, match="rows are in it; choose fewer folds"):
        cross_validate(few, settings(), 50)
    rows = table()
    label = np.zeros(N_ROWS, np.float32)
    label[7] = 1
    with pytest.raises(DataError, match="all rows outside it have one label"):
        cross_validate(replace(rows, label=label), settings(), 3)
    with pytest.raises(PlanError, match="evaluation_fraction"):
        cross_validate(rows, replace(settings(), evaluation_fraction=0.2), 3)
