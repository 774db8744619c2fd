"""The search for parameters: Optuna's trials, each scored as `fit` and `cv` score them."""

from __future__ import annotations

import importlib.util
import math

import msgspec
import numpy as np
import pytest

import hansa
from hansa.errors import HansaError, PlanError
from hansa.simulation.tuning import Trials, default_space
from hansa.trees.parameters import parse_parameters

QUICK = {"rounds": 6, "max_depth": 2, "progress": False}
SPACE = {"learning_rate": (0.05, 1.0, "log"), "max_delta_step": [0, 1], "base_score": [None, 0.5]}


def parties(n: int = 300) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    y = (X[:, 0] + rng.logistic(size=n) > 1).astype(int)
    return {"aurora": (X[::2], y[::2]), "borealis": (X[1::2], y[1::2])}


def test_a_seed_gives_the_same_trials_and_their_values_are_those_of_fit():
    found = hansa.tune(parties(), space=SPACE, trials=6, eval_metric="auc", **QUICK)
    again = hansa.tune(parties(), space=SPACE, trials=6, eval_metric="auc", **QUICK)
    kept = [(trial.parameters, trial.value, trial.state) for trial in found.trials.trials]
    assert kept == [(trial.parameters, trial.value, trial.state) for trial in again.trials.trials]
    assert kept != [
        (t.parameters, t.value, t.state)
        for t in hansa.tune(parties(), space=SPACE, trials=6, seed=1, **QUICK).trials.trials
    ]
    assert found.trials.direction == "maximize"
    assert found.best_value == max(value for _, value, state in kept if state == "complete")
    run = hansa.fit(parties(), evaluation_fraction=0.2, alone=False, progress=False, **found.best_parameters)
    assert run.metrics["auc"] == found.best_value
    assert run.model.rounds == found.best_parameters["rounds"] == found.trials.trials[found.trials.best].best_round
    assert len(found.study.trials) == 6
    assert str(found.trials.best) in repr(found)
    assert "<table" in found._repr_html_()


def test_trials_of_folds_are_those_of_cv():
    found = hansa.tune(parties(), space={"eta": [0.1, 0.5]}, trials=2, folds=3, **QUICK)
    for trial in found.trials.trials:
        same = hansa.cv(parties(), folds=3, **trial.parameters, **QUICK)
        assert (trial.value, trial.std, trial.best_round) == (*same.at_best("logloss"), same.best_round)
        assert trial.state == "complete"


def test_a_trial_that_is_behind_is_stopped_early(monkeypatch):
    space = {"eta": [0.5, 1e-6]}
    found = hansa.tune(parties(), space=space, trials=12, rounds=30, max_depth=2, eval_metric="logloss", progress=False)
    pruned = [trial for trial in found.trials.trials if trial.state == "pruned"]
    assert {trial.parameters["eta"] for trial in pruned} == {1e-6}
    assert all(trial.best_round < 30 for trial in pruned)
    assert found.best_parameters["eta"] == 0.5


def test_trials_on_shares():
    given = {"max_bin": 4, "base_score": 0.5, "rounds": 1, "max_depth": 1, "progress": False}
    found = hansa.tune(
        parties(80), space={"eta": [0.5]}, trials=1, mode="coopetitive", evaluation_fraction=0.4, **given
    )
    assert 0 < found.best_value < math.log(2)


@pytest.mark.parametrize(
    ("space", "fragment"),
    [
        ({}, "at least one parameter"),
        ({"depth": (1, 2)}, "parameter 'depth' is unknown"),
        ({"max_depth": (1, 99)}, "parameter max_depth = 99"),
        ({"eta": [0.1, "much"]}, "parameter eta = 'much'"),
        ({"eta": (0.5, 0.1)}, r"expected \(lowest, highest\)"),
        ({"eta": (0.1, 0.5, "linear")}, r"expected \(lowest, highest\)"),
        ({"gamma": (0.0, 0.5, "log")}, "a logarithm needs a lowest value above 0"),
        ({"eta": 0.1}, "expected a tuple of a range, or a list of choices"),
        ({"rounds": (1, 9)}, "parameter 'rounds' is not searched"),
        ({"num_boost_round": (1, 9)}, "parameter 'num_boost_round' is not searched"),
        ({"max_depth": (1, 3)}, "parameter 'max_depth' is given twice"),
        ({"eta": [0.1], "learning_rate": [0.1]}, "parameter 'learning_rate' is given twice"),
    ],
)  # fmt: skip
def test_a_space_that_no_training_takes_is_refused_before_any_trial(space, fragment):
    given = {} if "max_depth" in space and "given twice" not in fragment else {"max_depth": 2}
    with pytest.raises(PlanError, match=fragment):
        hansa.tune(parties(), space=space, trials=1, progress=False, **given)


def test_other_arguments_are_refused():
    with pytest.raises(PlanError, match="trials is 0"):
        hansa.tune(parties(), trials=0, **QUICK)
    with pytest.raises(PlanError, match="id: goes with folds"):
        hansa.tune(parties(), id="f2", **QUICK)
    with pytest.raises(PlanError, match="mode is 'plain'"):
        hansa.tune(parties(), mode="plain", **QUICK)


def test_without_optuna_the_error_says_what_to_install(monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else there(name))
    with pytest.raises(HansaError, match=r"pip install 'hansa\[tune\]'"):
        hansa.tune(parties(), **QUICK)


@pytest.mark.parametrize("mode", ["federated", "coopetitive"])
def test_the_default_space_is_one_that_the_mode_takes(mode):
    space = default_space("binary:logistic", {"learning_rate": 0.1})
    assert "eta" not in space
    assert space["max_delta_step"] == [0, 1]
    assert "base_score" not in default_space("reg:squarederror", {})
    X, y = parties(60)["aurora"]
    halves = {"a": (X[:15], y[:15]), "b": (X[15:], y[15:])}
    for last in (0, 1):
        ends = {name: own[last] for name, own in space.items() if own[last] is not None}
        if mode == "federated":
            hansa.fit(halves, mode=mode, rounds=1, alone=False, progress=False, **ends)
        assert parse_parameters(ends)


def test_trials_are_one_json_object():
    found = hansa.tune(parties(), space={"eta": [0.3]}, trials=1, **QUICK).trials
    assert msgspec.json.decode(msgspec.json.encode(found), type=Trials) == found


def miss(predictions, labels, weights):
    return abs(predictions - labels)


@pytest.mark.parametrize("folds", [None, 2])
def test_a_trials_value_may_be_that_of_a_metric_of_ones_own(folds):
    own = {"custom_metric": miss, "metric_bound": 1.0, **QUICK}
    found = hansa.tune(parties(), space={"eta": [0.1, 0.5]}, trials=2, folds=folds, **own)
    assert (found.trials.metric, found.trials.direction) == ("miss", "minimize")
    assert found.best_value == min(trial.value for trial in found.trials.trials)
    if folds is None:
        run = hansa.fit(parties(), evaluation_fraction=0.2, alone=False, **own | found.best_parameters)
        assert run.metrics["miss"] == found.best_value
    worst = hansa.tune(parties(), space={"eta": [0.1, 0.5]}, trials=2, folds=folds, maximize=True, **own)
    assert worst.trials.direction == "maximize"
