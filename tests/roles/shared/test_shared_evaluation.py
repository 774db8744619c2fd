"""Metrics of held-out rows that have no value, in every mode: they are named, stop nothing, and cut no model back."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from hansa.data.holdout import HoldOut, held_out
from hansa.data.source import Rows
from hansa.node.in_process import share_in_process, train_in_process
from hansa.trees.metrics import NO_ROWS, NO_WEIGHT, ONE_LABEL
from hansa.trees.xgboost_json import from_json
from made_tables import plan, spread, table, take
from shares import shared_plan

ROUNDS, FRACTION = 5, 0.3
TRAINERS = ("federated", "secure-aggregation", "coopetitive")


def made(kind: str) -> tuple[Rows, float]:
    """Rows of which metrics have no value, and the fraction to hold out."""
    rows = table(300, weighted=True)
    rows = Rows(rows.features, rows.label, np.clip(rows.weight + 0.5, 1, 3).astype(np.float32))
    held = held_out(rows.features, rows.label, HoldOut(FRACTION, 0))
    match kind:
        case "no rows":
            return rows, 1e-7
        case "no weight":
            return Rows(rows.features, rows.label, np.where(held, 0, rows.weight).astype(np.float32)), FRACTION
        case _:
            label = 1 if kind == "only positives" else 0
            return take(Rows(rows.features, rows.label, None), np.flatnonzero(~held | (rows.label == label))), FRACTION


def trained(mode, rows, fraction, metrics, patience=1, rounds=ROUNDS, **given):
    """(trees of the model, history metric -> values, why, progress)."""
    tables = spread(rows, np.arange(rows.n_rows) % 3)
    seen = []
    given = {"rounds": rounds, "eta": 1.0, "early_stopping_rounds": patience, "eval_metric": metrics} | given
    weighted = rows.weight is not None
    if mode == "coopetitive":
        limit = {"weight_limit": 3.0} if weighted else {}
        receivers = ("aurora",)
        steps = tuple(range(1, rounds + 1))
        agreed = shared_plan(tuple(tables), receivers=receivers, held=fraction, steps=steps, **limit, **given)
        run = share_in_process(agreed, tables, report=seen.append)
        first = run.members["aurora"]
        history = {name: [value for _, value in values] for name, values in first.history.items()}
        return len(from_json(first.model).trees), history, first.without_value, seen
    run = train_in_process(
        plan(tuple(tables), mode=mode, weighted=weighted, evaluation=fraction, **given), tables, report=seen.append
    )
    return len(run.outcome.ensemble.trees), run.outcome.history, run.outcome.without_value, seen


@pytest.mark.parametrize("mode", TRAINERS)
@pytest.mark.parametrize(
    ("kind", "metrics", "why"),
    [
        ("only positives", ["auc"], ONE_LABEL),
        ("only negatives", ["auc"], ONE_LABEL),
        ("no rows", ["logloss"], NO_ROWS),
        ("no weight", ["error", "logloss"], NO_WEIGHT),
    ],
)
def test_early_stopping_by_a_metric_without_a_value_keeps_the_whole_model(mode, kind, metrics, why):
    rows, fraction = made(kind)
    trees, history, without_value, seen = trained(mode, rows, fraction, metrics)
    assert trees == ROUNDS
    assert history == {name: [None] * ROUNDS for name in metrics}
    assert without_value == dict.fromkeys(metrics, why)
    events = [msgspec.to_builtins(progress) for progress in seen if progress.stage == "tree"]
    assert [event["without_value"] for event in events] == [dict.fromkeys(metrics, why)] * ROUNDS
    assert [event["metrics"] for event in events] == [dict.fromkeys(metrics)] * ROUNDS
    json.dumps([history, *events], allow_nan=False)


@pytest.mark.parametrize("mode", TRAINERS)
@pytest.mark.parametrize("order", [["auc", "logloss"], ["logloss", "auc"]])
def test_a_metric_with_a_value_is_as_if_the_other_were_not_asked(mode, order):
    rows, fraction = made("only negatives")
    both = trained(mode, rows, fraction, order, patience=None, seed=0)
    alone = trained(mode, rows, fraction, ["logloss"], patience=None, seed=0)
    assert both[1] == {"auc": [None] * ROUNDS, "logloss": pytest.approx(alone[1]["logloss"], rel=1e-3)}
    assert both[2] == {"auc": ONE_LABEL}
    assert alone[2] == {}


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_aucpr_of_one_label_keeps_the_whole_model(mode):
    trees, history, why, _ = trained(mode, *made("only negatives"), ["aucpr"])
    assert (trees, history, why) == (ROUNDS, {"aucpr": [None] * ROUNDS}, {"aucpr": ONE_LABEL})


@pytest.mark.parametrize("mode", TRAINERS)
def test_a_metric_with_a_value_stops_and_cuts_back_as_before(mode):
    rows = table(500)
    trees, history, without_value, _ = trained(mode, rows, FRACTION, ["logloss"], patience=2, rounds=40, max_depth=4)
    values = history["logloss"]
    assert without_value == {}
    assert len(values) == trees + 2 < 40
    assert trees == int(np.argmin(values)) + 1


@pytest.mark.parametrize("mode", TRAINERS)
def test_rows_of_both_labels_have_an_auc(mode):
    _, history, without_value, _ = trained(mode, table(300), FRACTION, ["auc"], patience=None)
    assert without_value == {}
    assert all(0.5 < value <= 1 for value in history["auc"])


def test_classes_of_which_one_is_never_held_out_have_their_metrics():
    rows = table(300)
    label = np.digitize(rows.features[0], [-0.5, 0.5]).astype(np.float32)
    held = held_out(rows.features, label, HoldOut(FRACTION, 0))
    rows = take(Rows(rows.features, label, None), np.flatnonzero(~held | (label != 2)))
    trees, history, without_value, _ = trained(
        "coopetitive", rows, FRACTION, ["error", "logloss"], patience=None, num_class=3
    )
    assert trees == 3 * ROUNDS
    assert without_value == {}
    assert all(0 < value < 2 for values in history.values() for value in values)


def test_servers_say_what_they_were_told_of_a_metric_without_a_value():
    rows, fraction = made("only negatives")
    tables = spread(rows, np.arange(rows.n_rows) % 3)
    agreed = shared_plan(
        tuple(tables), receivers=("aurora",), held=fraction, rounds=3, eval_metric=["auc"], early_stopping_rounds=1
    )
    run = share_in_process(agreed, tables)
    for name in agreed.servers:
        told = [opening for opening in run.members[name].openings if opening.startswith("evaluation")]
        assert told == ["evaluation.has_value: one bit, whether held-out rows have both labels"]
