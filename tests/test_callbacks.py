"""Callbacks of `hansa.fit`: called after each round with what the mode opened, and refused where they could not do their work."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.callbacks import Callbacks, check_callbacks
from hansa.errors import PlanError
from hansa.plan import MODES

ROUNDS = 4


def parties() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"load": rng.normal(size=600), "alarms": rng.normal(size=600)})
    frame["operator"] = np.array(["aurora", "borealis", "cirrus"])[np.arange(600) % 3]
    frame["fault"] = (frame["load"] + frame["alarms"] + rng.logistic(size=600) > 0).astype(int)
    return hansa.split(frame, by="operator")


def fit(**more: object) -> hansa.Run:
    given = {"label": "fault", "rounds": ROUNDS, "max_depth": 3, "evaluation_fraction": 0.4, "alone": False}
    return hansa.fit(parties(), **(given | more))


class Note:
    """Notes every call."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer
        self.calls: list[tuple[object, ...]] = []

    def before_training(self, model: object) -> object:
        self.calls.append(("before", model))
        return model

    def after_iteration(self, model: object, epoch: int, evals_log: dict[str, dict[str, list[float]]]) -> object:
        self.calls.append((model, epoch, {name: list(v) for name, v in evals_log.get("evaluation", {}).items()}))
        return self.answer

    def after_training(self, model: object) -> object:
        self.calls.append(("after", model))
        return model


@pytest.mark.parametrize("mode", MODES)
def test_each_round_is_told_with_the_metrics_that_the_mode_has_opened(mode):
    note = Note()
    steps = {"evaluation_steps": (2, 4)} if mode == "coopetitive" else {}
    run = fit(mode=mode, callbacks=[note], **steps)
    assert note.calls[0] == ("before", None)
    assert note.calls[-1] == ("after", run.model)
    rounds = note.calls[1:-1]
    assert [(model, epoch) for model, epoch, _ in rounds] == [(None, epoch) for epoch in range(ROUNDS)]
    opened = [0, 1, 1, 2] if mode == "coopetitive" else [1, 2, 3, 4]
    for (_, _, log), count in zip(rounds, opened, strict=True):
        assert log.get("logloss", []) == list(run.history["logloss"])[:count]


@pytest.mark.parametrize("mode", MODES)
def test_a_callback_that_asks_to_stop_ends_the_run_and_is_told_what_to_do(mode):
    with pytest.raises(PlanError, match=r"Note asked to stop after round 1, .*plan.*early_stopping_rounds"):
        fit(mode=mode, callbacks=[Note(answer=True)])


@pytest.mark.parametrize("mode", MODES)
def test_an_error_of_a_callback_passes_as_it_is(mode):
    class Broken:
        def after_iteration(self, model, epoch, evals_log):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fit(mode=mode, callbacks=[Broken()])


def test_the_model_does_not_depend_on_callbacks():
    assert fit(callbacks=[Note(), Note()]).model == fit().model


def test_early_stopping_of_the_plan_is_followed_round_by_round():
    note = Note()
    run = fit(callbacks=[note], rounds=60, eta=0.9, early_stopping_rounds=2)
    rounds = note.calls[1:-1]
    assert run.model.rounds < len(rounds) < 60
    assert rounds[-1][2]["logloss"] == list(run.history["logloss"])


def test_xgboosts_monitor_prints_the_metrics(capsys):
    xgboost = pytest.importorskip("xgboost")
    run = fit(callbacks=[xgboost.callback.EvaluationMonitor()])
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"[{i}]\tevaluation-logloss:{v:.5f}" for i, v in enumerate(run.history["logloss"])]


def test_xgboosts_callbacks_that_need_the_model_are_refused_with_what_to_do_in_their_place(tmp_path):
    callback = pytest.importorskip("xgboost").callback
    for refused, cure in (
        (callback.EarlyStopping(rounds=3), "early_stopping_rounds"),
        (callback.LearningRateScheduler([0.1]), "eta"),
        (callback.TrainingCheckPoint(tmp_path), r"run\.model"),
    ):
        with pytest.raises(PlanError, match=rf"{type(refused).__name__} needs the model .*{cure}"):
            check_callbacks([refused])


def test_what_is_no_callback_is_refused_by_name():
    with pytest.raises(PlanError, match=r"after_iteration.*found builtin_function_or_method; on_event= takes"):
        check_callbacks([print])


def test_a_callback_before_rounds_is_refused_because_nobody_would_call_it():
    class Before(Note):
        def before_iteration(self, model, epoch, evals_log):
            return False

    with pytest.raises(PlanError, match="Before has a method before_iteration"):
        check_callbacks([Before()])


def test_a_subclass_of_xgboosts_callback_is_taken():
    callback = pytest.importorskip("xgboost").callback

    class Own(callback.TrainingCallback):
        def after_iteration(self, model, epoch, evals_log):
            return False

    check_callbacks([Own()])


def test_a_metric_without_a_value_is_nan():
    note = Note()
    Callbacks([note]).after_round(1, {"auc": None})
    assert math.isnan(note.calls[0][2]["auc"][0])


def test_the_estimators_take_callbacks():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 2))
    note = Note()
    hansa.HansaClassifier(n_estimators=3, callbacks=[note]).fit(X, X[:, 0] > 0, groups=np.arange(300) % 3)
    assert len(note.calls) == 3 + 2
