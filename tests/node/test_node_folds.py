"""Cross-validation over the network: the scores of one process, and what a plan of folds releases."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.data.holdout import folds_by_contents, folds_by_subject, hash_subjects, held_out
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError
from hansa.node.fold_scores import RoundScores, fold_scores
from hansa.node.in_process import policy_of_holder, share_in_process, train_in_process
from hansa.plan import Coopetitive, Plan, Release, parameters_of, parse_plan, write_plan
from hansa.roles.batches import claim, hold_out
from hansa.trees.xgboost_json import from_json
from made_consortium import PARTIES, PLAN, Consortium, make_consortium
from made_tables import plan, spread, take
from sharing_hands import Hand

DRAW = np.random.default_rng(5)
FEATURES = DRAW.integers(0, 12, (5, 600)).astype(np.float32)
ROWS = Rows(FEATURES, (FEATURES[0] + DRAW.normal(0, 4, 600) > 6).astype(np.float32), None)


def folded(parties: tuple[str, ...], stopping_rounds: int | None = None, **more: object) -> Plan:
    one = plan(parties, rounds=6, max_bin=16, **more)
    parameters = replace(one.parameters, early_stopping_rounds=stopping_rounds)
    return replace(one, parameters=parameters, folds=4, min_party_rows=0)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("more", [{}, {"early_stopping_rounds": 2, "eta": 0.9, "subsample": 0.7}], ids=str)
@pytest.mark.parametrize("by_id", [False, True], ids=["by contents", "by id"])
def test_folds_of_runs_have_the_scores_of_cross_validation_in_one_process(mode, more, by_id):
    """Of `hansa.cv`, which splits the tables first and then trains."""
    owners = np.arange(600) % 3
    who = np.array([f"patient {i // 7}" for i in range(600)], object)
    one = folded(
        ("aurora", "borealis", "cirrus"),
        more.get("early_stopping_rounds"),
        mode=mode,
        **{name: value for name, value in more.items() if name != "early_stopping_rounds"},
    )
    tables = spread(replace(ROWS, subject=hash_subjects(who)) if by_id else ROWS, owners)
    if by_id:
        one = replace(one, schema=replace(one.schema, id="patient"))
    histories = [train_in_process(own, tables, policy=policy_of_holder(own)).outcome.history for own in one.of_folds()]
    found = fold_scores(histories, one.maximizes, one.parameters.early_stopping_rounds)
    names = list(one.schema.features)
    frame = pd.DataFrame(ROWS.features.T, columns=names).assign(**({"patient": who} if by_id else {}))
    parts = {name: (frame[owners == number], ROWS.label[owners == number]) for number, name in enumerate(one.parties)}
    given = dict(more)
    theirs = hansa.cv(
        parts,
        folds=4,
        mode=mode,
        id="patient" if by_id else None,
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


def test_a_subject_is_in_one_fold_at_all_parties_and_never_told():
    """Their rows differ: by contents they would be apart."""
    one = replace(folded(("aurora", "borealis")), schema=replace(folded(("aurora",)).schema, id="patient"))
    who = [f"patient {i // 6}" for i in range(600)]
    tables = spread(replace(ROWS, subject=hash_subjects(who)), np.arange(600) % 2)
    places = {}
    for fold, own in enumerate(one.of_folds()):
        for party, rows in tables.items():
            held = held_out(rows.features, rows.label, hold_out(own), rows.subject)
            assert claim(own, party, rows)[2:4] == (300 - held.sum(), held.sum())
            for subject in rows.subject[held]:
                places.setdefault(int(subject), set()).add(fold)
    assert len(places) == 100
    assert {len(own) for own in places.values()} == {1}
    assert sorted({next(iter(own)) for own in places.values()}) == [0, 1, 2, 3]


def test_folds_on_shares_have_the_scores_of_cross_validation_in_one_process():
    """Of `hansa.cv` by the same ids; models on shares are alike up to their rounding."""
    who = np.array([f"patient {i // 4}" for i in range(600)], object)
    one = folded(("aurora", "borealis", "cirrus"))
    parameters = parameters_of("coopetitive", {"rounds": 2, "max_depth": 1, "max_bin": 8, "base_score": 0.5})
    cuts = tuple((3.0, 6.0, 9.0) for _ in one.schema.features)
    shared = replace(
        one,
        mode="coopetitive",
        aggregator="",
        parameters=parameters,
        schema=replace(one.schema, id="patient"),
        folds=2,
        release=Release(least_choices=0),  # leaves rounded to few bits would be other leaves in each run
        coopetitive=Coopetitive("post", ("aurora", "borealis", "cirrus"), cuts=cuts),
    )
    assert shared.opened_steps == (1, 2)
    tables = spread(replace(ROWS, subject=hash_subjects(who)), np.arange(600) % 3)
    places = folds_by_subject(who.tolist(), 2, 0)
    for fold, own in enumerate(shared.of_folds()):
        run = share_in_process(own, tables)
        server = run.members["aurora"]
        assert all(member.model is None for member in run.members.values())
        assert [rounds for rounds, _ in server.history["logloss"]] == [1, 2]
        train = replace(own, folds=0, fold=None, evaluation_fraction=0.0, receivers=("aurora",), schema=one.schema)
        model = share_in_process(
            train, spread(take(ROWS, np.flatnonzero(places != fold)), np.arange((places != fold).sum()) % 3)
        )
        ensemble = from_json(model.members["aurora"].model)
        test = take(ROWS, np.flatnonzero(places == fold))
        margins = ensemble.predict_margin(test.features)
        expected = np.log1p(np.exp(-np.where(test.label > 0, 1, -1) * margins)).mean()
        assert server.history["logloss"][-1][1] == pytest.approx(expected, abs=5e-4)


def test_folds_on_shares_open_metrics_after_every_round():
    text = PLAN.replace('"federated"', '"coopetitive"').replace(
        'aggregator = "hub"', 'hub = "hub"\nservers = ["aurora", "borealis", "hub"]'
    )
    one = parse_plan(f"{text}\n[evaluation]\nfolds = 2\n")
    assert (one.receivers, one.opened_steps) == ((), (1, 2, 3))
    assert parse_plan(write_plan(one)) == one
    with pytest.raises(PlanError, match=r"evaluation.folds opens them after every round"):
        parse_plan(f"{text}\n[evaluation]\nfolds = 2\nsteps = [1]\n")


def test_an_id_that_keeps_nothing_together_is_refused():
    text = PLAN.replace('label = "fault"', 'label = "fault"\nid = "patient"')
    with pytest.raises(PlanError, match=r"schema.id is 'patient', whose rows are held out together, and none are"):
        parse_plan(text)
    one = parse_plan(f"{text}\n[evaluation]\nfraction = 0.5\n")
    assert one.schema.id == "patient"
    assert parse_plan(write_plan(one)) == one
    with pytest.raises(DataError, match="expected the hash of each row's id, found none"):
        train_in_process(one, spread(ROWS, np.arange(600) % 2))


def test_nobody_receives_a_model_of_a_fold():
    one = folded(("aurora", "borealis"))
    assert one.receivers == one.of_folds()[2].receivers == ()
    run = train_in_process(one.of_folds()[2], spread(ROWS, np.arange(600) % 2), policy=policy_of_holder(one))
    assert all(party.model is None for party in run.parties.values())


def test_folds_are_runs_of_their_own_under_one_agreed_plan():
    one = folded(("aurora", "borealis"), 2)
    runs = one.of_folds()
    assert len({one.digest(), *(own.digest() for own in runs)}) == 5
    assert {own.parameters.early_stopping_rounds for own in runs} == {None}
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
    """By an id, which both parties know, and which no plan of a party's file has as a column beside."""
    text = PLAN.replace('"federated"', f'"{mode}"') + "\n[evaluation]\nfolds = 2\n"
    text = text.replace("min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 4")
    folder = make_consortium(tmp_path, text.replace('label = "fault"', 'label = "fault"\nid = "patient"'))
    text = (folder / "plan.toml").read_text()
    for name in PARTIES:
        table = pd.read_csv(folder / f"{name}.csv")
        table.assign(patient=[1000 + row // 3 for row in range(len(table))]).to_csv(folder / f"{name}.csv", index=False)
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
    settings = {"rounds": 3, "max_depth": 2, "max_bin": 16, "min_cell_rows": 2}
    theirs = hansa.cv(parts, "fault", folds=2, mode=mode, id="patient", progress=False, **settings)
    assert (found["folds"], found["best_round"]) == (2, theirs.best_round)
    for name, own in found["history"].items():
        np.testing.assert_allclose(own["mean"], theirs.history[name].mean, rtol=1e-12)

    assert consortium.models() == []
    folds = [json.loads((folder / f"hub-record.fold-{number}.json").read_text()) for number in (1, 2)]
    assert len({own["run"] for own in folds}) == 2
    assert sum(own["bytes_up"] for own in folds) == record["bytes_up"]


@pytest.mark.slow
@pytest.mark.parametrize("links", ["hub", "direct"])
def test_members_cross_validate_on_shares_over_mutual_tls(tmp_path, links):
    """Every server has the scores, nobody a model; the next fold's run begins on the same ports."""
    hand = Hand(tmp_path, 2, links, three=True, more="\n[evaluation]\nfolds = 2\n", policy={"least_party_rows": 4})
    path = tmp_path / "plan.toml"
    changed = re.sub("receivers = .*\n", "", path.read_text()).replace("_rows = 5", "_rows = 5\nmin_party_rows = 4")
    path.write_text(changed)
    hand.start("aurora", "borealis", "cirrus")
    ends = hand.ended()
    assert {name: status for name, (status, _, _) in ends.items()} == dict.fromkeys(ends, 0), ends
    records = {name: json.loads((tmp_path / f"{name}-record.json").read_text()) for name in ends}
    scores = [record["cross_validation"] for record in records.values()]
    assert scores[0] == scores[1] == scores[2]
    assert scores[0]["folds"] == 2
    assert len(scores[0]["history"]["logloss"]["mean"]) == 2
    assert "fold 2: evaluation.open_metric: logloss of held-out rows after 1 rounds" in records["cirrus"]["openings"]
    assert not list(tmp_path.glob("*-model.json"))
