"""Cross-validation over the network: the scores of one process, and what a plan of folds releases."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.data.holdout import folds_by_contents, held_out
from hansa.data.source import Rows
from hansa.errors import PlanError
from hansa.node.fold_scores import RoundScores, fold_scores
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.plan import Plan, parse_plan, write_plan
from hansa.roles.batches import hold_out
from made_consortium import PARTIES, PLAN, Consortium, make_consortium
from made_tables import plan, spread

DRAW = np.random.default_rng(5)
FEATURES = DRAW.integers(0, 12, (5, 600)).astype(np.float32)
ROWS = Rows(FEATURES, (FEATURES[0] + DRAW.normal(0, 4, 600) > 6).astype(np.float32), None)


def folded(parties: tuple[str, ...], stopping_rounds: int | None = None, **more: object) -> Plan:
    one = plan(parties, rounds=6, max_bin=16, **more)
    parameters = replace(one.parameters, early_stopping_rounds=stopping_rounds)
    return replace(one, parameters=parameters, folds=4, min_party_rows=0)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("more", [{}, {"early_stopping_rounds": 2, "eta": 0.9, "subsample": 0.7}], ids=str)
def test_folds_of_runs_have_the_scores_of_cross_validation_in_one_process(mode, more):
    """Of `hansa.cv`, which splits the tables first and then trains."""
    owners = np.arange(600) % 3
    one = folded(
        ("aurora", "borealis", "cirrus"),
        more.get("early_stopping_rounds"),
        mode=mode,
        **{name: value for name, value in more.items() if name != "early_stopping_rounds"},
    )
    tables = spread(ROWS, owners)
    histories = [train_in_process(own, tables, policy=policy_of_holder(own)).outcome.history for own in one.of_folds()]
    found = fold_scores(histories, one.maximizes, one.parameters.early_stopping_rounds)
    names = list(one.schema.features)
    parts = {
        name: (pd.DataFrame(ROWS.features.T[owners == number], columns=names), ROWS.label[owners == number])
        for number, name in enumerate(one.parties)
    }
    given = dict(more)
    theirs = hansa.cv(
        parts,
        folds=4,
        mode=mode,
        min_cell_rows=one.min_cell_rows,
        rounds=6,
        max_bin=16,
        max_depth=one.parameters.max_depth,
        eta=given.pop("eta", one.parameters.eta),
        progress=False,
        **given,
    )
    assert (found.best_round, found.metric) == (theirs.best_round, theirs.metric)
    assert list(found.history) == list(theirs.history)
    for name, own in found.history.items():
        np.testing.assert_allclose(own.mean, theirs.history[name].mean, rtol=1e-12)
        np.testing.assert_allclose(own.std, theirs.history[name].std, rtol=1e-9, atol=1e-12)


def test_every_row_is_held_out_once_whoever_holds_it():
    folds = [held_out(ROWS.features, ROWS.label, hold_out(own)) for own in folded(("aurora",)).of_folds()]
    assert np.array_equal(sum(own.astype(int) for own in folds), np.ones(600))
    assert np.array_equal(np.argmax(folds, axis=0), folds_by_contents(ROWS.features, ROWS.label, 4, 0))


def test_nobody_receives_a_model_of_a_fold():
    one = folded(("aurora", "borealis"))
    assert one.receivers == one.of_folds()[2].receivers == ()
    run = train_in_process(one.of_folds()[2], spread(ROWS, np.arange(600) % 2), policy=policy_of_holder(one))
    assert all(party.model is None for party in run.parties.values())


def test_folds_are_runs_of_their_own_under_one_agreed_plan():
    one = folded(("aurora", "borealis"), 2)
    runs = one.of_folds()
    assert len({one.digest(), *(own.digest() for own in runs)}) == 5
    assert {own.agreed.parameters.early_stopping_rounds for own in runs} == {None}
    assert not one.can_wait
    assert parse_plan(write_plan(one)) == one


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ("folds = 1", "evaluation.folds is 1; expected 2 or more"),
        ("folds = 1001", "evaluation.folds is 1001; expected a whole number from 2 to 1000"),
        ("folds = 5\nfraction = 0.2", "two ways to hold rows out"),
        ("folds = 5\nfold = 2", "fold"),
    ],
)
def test_keys_that_do_not_go_with_folds_are_refused(changes, fault):
    with pytest.raises(PlanError, match=fault):
        parse_plan(f"{PLAN}\n[evaluation]\n{changes}\n")


def test_receivers_waiting_and_start_models_do_not_go_with_folds():
    text = PLAN + "\n[evaluation]\nfolds = 3\n"
    with pytest.raises(PlanError, match="releases no model; leave receivers out"):
        parse_plan(text.replace('"borealis"]', '"borealis"]\nreceivers = ["aurora"]', 1))
    with pytest.raises(PlanError, match=r"cross-validation \(evaluation.folds\) begins anew"):
        parse_plan(text.replace('"borealis"]', '"borealis"]\non_dropout = "wait"', 1))
    with pytest.raises(PlanError, match="start_model may have seen them"):
        parse_plan(text.replace("mode =", f'start_model = "{"ab" * 32}"\nmode =', 1))


def test_scores_are_means_over_the_folds_that_have_a_value():
    found = fold_scores([{"auc": [0.5, None]}, {"auc": [0.7, 0.9]}], True, None)
    assert (found.best_round, found.metric, found.folds) == (2, "auc", 2)
    assert found.history["auc"].mean == [0.6, 0.9]
    assert found.history["auc"].std == pytest.approx([0.1, 0.0])
    stopped = fold_scores([{"rmse": [3.0, 2.0, 2.5, 2.6, 1.0]}], False, 2)
    assert stopped.best_round == 2
    assert stopped.history == {"rmse": RoundScores(mean=[3.0, 2.0], std=[0.0, 0.0])}


@pytest.mark.parametrize("mode", ["federated", pytest.param("secure-aggregation", marks=pytest.mark.slow)])
def test_members_cross_validate_over_mutual_tls(tmp_path, mode):
    text = PLAN.replace('"federated"', f'"{mode}"') + "\n[evaluation]\nfolds = 2\n"
    text = text.replace("min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 4")
    folder = make_consortium(tmp_path, text)
    consortium = Consortium(folder)
    policy = {} if mode == "federated" else {"allow_two_parties": True, "least_party_rows": 4}
    try:
        hub, port = consortium.start_hub()
        given = {"model": None, "policy": policy}
        parties = [consortium.start_party(name, port, ledger=f"{name}-ledger.jsonl", **given) for name in PARTIES]
        ends = [each.end() for each in (hub, *parties)]
    finally:
        consortium.stop()
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    record = json.loads(ends[0][1].splitlines()[-1])["record"]
    assert record["plan"] == parse_plan(text).digest().hex()
    found = record["cross_validation"]
    parts = hansa.split(pd.concat([pd.read_csv(folder / f"{name}.csv").assign(who=name) for name in PARTIES]), by="who")
    theirs = hansa.cv(
        parts, "fault", folds=2, mode=mode, rounds=3, max_depth=2, max_bin=16, min_cell_rows=2, progress=False
    )
    assert (found["folds"], found["best_round"]) == (2, theirs.best_round)
    for name, own in found["history"].items():
        np.testing.assert_allclose(own["mean"], theirs.history[name].mean, rtol=1e-12)

    assert consortium.models() == []
    folds = [json.loads((folder / f"hub-record.fold-{number}.json").read_text()) for number in (1, 2)]
    assert len({own["run"] for own in folds}) == 2
    assert sum(own["bytes_up"] for own in folds) == record["bytes_up"]
