"""count:poisson under shares, from the plan to the file: the model and the metrics are those of the modes that have sums."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.errors import PlanError

PARAMETERS = {
    "objective": "count:poisson",
    "rounds": 4,
    "max_depth": 3,
    "max_bin": 16,
    "min_cell_rows": 2,
    "alone": False,
}
METRICS = ("rmse", "mae", "poisson-nloglik")


def calls(weighted: bool, rows: int = 900) -> pd.DataFrame:
    """Counts of three operators; features have so few values that every one is a cut in every mode."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "load": rng.integers(0, 8, rows) * 1.0,
            "alarms": rng.integers(0, 5, rows) * 1.0,
            "age": rng.integers(0, 6, rows) * 1.0,
        }
    )
    frame["calls"] = np.minimum(rng.poisson(np.exp(0.25 * frame["load"] - 0.4 * frame["alarms"])), 15) * 1.0
    frame["operator"] = np.array(["a", "b", "c"])[rng.integers(0, 3, rows)]
    if weighted:
        frame["w"] = rng.integers(1, 9, rows) / 4
    return frame


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_the_model_and_its_metrics_are_those_of_federated_mode(weighted):
    frame = calls(weighted)
    given = PARAMETERS | ({"weight": "w"} if weighted else {})
    given |= {"label": "calls", "evaluation_fraction": 0.3, "eval_metric": list(METRICS)}
    ours, theirs = (
        hansa.fit(hansa.split(frame, by="operator"), mode=mode, **given) for mode in ("coopetitive", "federated")
    )
    ensembles = [run.model.ensemble for run in (ours, theirs)]
    assert ensembles[0].base_score == pytest.approx(ensembles[1].base_score, rel=1e-6)
    features = frame[["load", "alarms", "age"]]
    mine, others = (run.model.predict(features) for run in (ours, theirs))
    assert np.mean(np.abs(mine - others) < 2e-3 * others) > 0.97
    for name in METRICS:
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=2e-3)
    assert ours.model.predict(features).max() > 2 * ours.model.predict(features).min()


def test_a_base_score_and_a_range_that_are_given_open_nothing():
    frame = calls(False, 300)
    run = hansa.fit(
        hansa.split(frame, by="operator"),
        label="calls",
        mode="coopetitive",
        base_score=1.5,
        label_range=(0, 40),
        **PARAMETERS,
    )
    assert run.model.ensemble.base_score == 1.5
    assert run.plan.coopetitive.label_range == (0, 40)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"statistics": True}, "release.statistics does not go with count:poisson"),
        ({"max_delta_step": 6}, "max_delta_step = 6, .*too much for count:poisson"),
        ({"eta": 0.001, "max_delta_step": 3}, "eta at least 2\\^-12 times"),
        ({"eval_metric": "mape", "evaluation_fraction": 0.2}, "eval_metric = 'mape' cannot be had"),
        ({"label_range": (-1, 20)}, "counts are at least 0"),
        ({"objective": "reg:gamma"}, "objective = 'reg:gamma' cannot be had in coopetitive mode"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(changes, said):
    frame = calls(False, 300)
    frame["calls"] += 1
    with pytest.raises(PlanError, match=said):
        hansa.fit(hansa.split(frame, by="operator"), label="calls", mode="coopetitive", **(PARAMETERS | changes))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_counts_that_are_all_0_need_a_base_score():
    frame = calls(False, 300).assign(calls=0.0)
    with pytest.raises(PlanError, match="all labels are 0"):
        hansa.fit(hansa.split(frame, by="operator"), label="calls", mode="coopetitive", **PARAMETERS)
