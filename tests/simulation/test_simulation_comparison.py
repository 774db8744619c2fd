"""Together against alone, row by row."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.simulation.comparison import advice, paired_loss
from hansa.simulation.scores import METRICS, row_losses, score_table
from hansa.trees.losses import LOSSES

RNG = np.random.default_rng(2)


def predictions_of(objective, n_rows):
    kind = LOSSES[objective].labels
    if kind == "classes":
        given = RNG.dirichlet(np.ones(3), n_rows)
        return given.astype(np.float32), RNG.integers(0, 3, n_rows).astype(np.float32)
    labels = RNG.integers(0, 2, n_rows) if kind == "binary" else RNG.gamma(2, size=n_rows) + 0.1
    given = RNG.normal(size=n_rows) if objective == "binary:logitraw" else RNG.uniform(0.05, 0.95, n_rows)
    if objective == "binary:hinge":
        given = np.round(given)
    return given.astype(np.float32), np.asarray(labels, np.float32)


QUANTILES = (0.3,)
"""Of reg:quantileerror."""


@pytest.mark.parametrize("objective", METRICS)
def test_losses_of_rows_rank_models_as_metrics_do(objective):
    """The difference of two models is that of their metrics: what does not depend on predictions falls out."""
    first, labels = predictions_of(objective, 400)
    second = np.roll(first, 1, axis=0)
    name, losses = row_losses(objective, first, labels, QUANTILES)
    _, others = row_losses(objective, second, labels, QUANTILES)
    assert losses.shape == (400,)
    scores, other = (score_table(objective, own, labels, QUANTILES) for own in (first, second))
    metric = {"squared error": "rmse", "squared log error": "rmsle", "absolute error": "mae"}.get(name, name)
    power = 2 if metric in ("rmse", "rmsle") else 1
    assert losses.mean() - others.mean() == pytest.approx(
        scores[metric] ** power - other[metric] ** power, rel=1e-4, abs=1e-6
    )


def test_one_against_the_rest_has_the_log_loss_of_all_classes():
    given, labels = predictions_of("multi:softprob", 200)
    name, losses = row_losses("binary:logistic", given, labels)
    assert (name, losses.mean()) == ("logloss", pytest.approx(score_table("binary:logistic", given, labels)["logloss"]))


def test_only_a_clear_difference_is_told():
    labels = RNG.integers(0, 2, 300).astype(np.float32)
    good = np.where(labels > 0, 0.8, 0.2).astype(np.float32)
    noisy = np.clip(good + RNG.normal(0, 0.05, 300), 0.01, 0.99).astype(np.float32)
    worse = paired_loss("binary:logistic", labels, np.full(300, 0.5, np.float32), good)
    assert "aurora: its own model predicts its rows better" in advice("aurora", worse)
    assert advice("aurora", paired_loss("binary:logistic", labels, good, noisy)) == ""
    assert advice("aurora", paired_loss("binary:logistic", labels[:1], noisy[:1], good[:1])) == ""
    assert advice("aurora", None) == ""


@pytest.mark.parametrize("objective", ["binary:logistic", "multi:softmax"])
def test_a_member_whose_rows_are_of_another_kind_is_named(objective):
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"load": rng.normal(size=1500), "operator": rng.choice(list("aaabbbc"), 1500)})
    signal = np.where(frame["operator"] == "c", -1, 1) * frame["load"] + 0.3 * rng.normal(size=1500)
    frame["fault"] = np.digitize(signal, [0] if objective.startswith("binary") else [-0.5, 0.5])
    more = {"num_class": 3} if objective.startswith("multi") else {}
    parties = hansa.split(frame, by="operator")
    given = {"objective": objective, "rounds": 8, "evaluation_fraction": 0.4, **more}
    run = hansa.fit(parties, "fault", **given)
    # What c adds is wrong of the others' rows too.
    assert [text.partition(":")[0] for text in run.advice] == ["a", "b", "c"]
    assert run.advice[0] in repr(run)
    assert "its own model predicts its rows better" in run._repr_html_()
    found = run.members["c"].paired
    assert found.rows > 20
    assert hansa.fit(parties, "fault", member_feature="operator", **given).advice == ()
    assert hansa.fit(parties, "fault", alone=False, **given).advice == ()
