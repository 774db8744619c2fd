"""Several classes on shares, one against the rest: the model is the protocol's, the metrics are XGBoost's, and sizes say nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import xgboost
from test_shared_runs import assert_alike, counts_of, lockstep_trees, recorded_starts
from test_shared_transcript import CHANGES, by_kind, record_views, shape_of_run

from hansa.data.holdout import HoldOut, held_out
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.node.in_process import share_in_process
from hansa.protocol.messages import ReleaseTree, TrainingSetup
from hansa.roles.shared import sharing
from hansa.roles.shared.sharing import Counts, Values, given_start
from hansa.trees.xgboost_json import from_json, to_json
from made_tables import FEATURES, spread, table
from shares import SERVERS, SharedTalk, nth, shared_plan, shared_tables, with_cuts
from uniformity import looks_uniform, sixteen_bit_chi_square

K = 3


def class_rows(n_rows=400, *, weighted=False, seed=0):
    """The made table with labels 0, 1 and 2; 2 is rare."""
    rows = table(n_rows, "reg:squarederror", weighted=weighted, seed=seed)
    label = np.searchsorted(np.quantile(rows.label, [0.5, 0.9]), rows.label).astype(np.float32)
    return replace(rows, label=label)


def class_tables(n_rows=400, **kw):
    return spread(class_rows(n_rows, **kw), np.arange(n_rows) % 4)


def class_plan(**parameters):
    return shared_plan(num_class=K, **parameters)


def loaded(model):
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(model))
    return booster


CASES = {
    "plain": {},
    # Deeper, some nodes have no rows between two cuts: which of the two is chosen is chance.
    "sampling": {"subsample": 0.6, "colsample_bytree": 0.6, "max_depth": 2},
    "weights of classes": {"scale_pos_weight": 2.5, "gamma": 0.5, "min_child_weight": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_that_of_the_protocol_and_xgboost_loads_it(case):
    plan, tables = class_plan(**CASES[case]), class_tables()
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    assert set(talk.models) == set(plan.receivers)
    model = talk.models["dune"]
    ensemble = from_json(model)
    assert (ensemble.base_score, ensemble.outputs, ensemble.rounds) == ((0.5,) * K, K, 2)
    assert_alike(ensemble.trees, lockstep_trees(plan, tables, given_start(plan, counts_of(tables))), 3 * 2.0**-14)
    # Two classes' trees are not the same.
    assert ensemble.trees[0] != ensemble.trees[1]
    rows = class_rows(seed=5)
    theirs = loaded(model).predict(xgboost.DMatrix(rows.features.T, feature_names=list(FEATURES)))
    assert theirs.shape == (400, K)
    np.testing.assert_allclose(ensemble.predict(rows.features), theirs, rtol=0, atol=1e-6)


def test_the_base_scores_are_the_pooled_shares_of_the_classes():
    plan, tables = class_plan(given=False), class_tables()
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    ensemble = from_json(talk.models["dune"])
    labels = np.concatenate([own.label for own in tables.values()])
    shares = [np.mean(labels == k) for k in range(K)]
    assert shares == pytest.approx((0.5, 0.4, 0.1), abs=0.01)
    assert recorded_starts(plan, tables)[0].base_score == pytest.approx(shares, rel=1e-6)
    # All outputs share one base score; each one's own stands in the leaves of its first tree.
    assert ensemble.base_score == (0.5,) * K
    for k, tree in enumerate(ensemble.trees[:K]):
        leaves = tree.split_conditions[tree.left_children < 0]
        assert abs(np.median(leaves) - np.log(shares[k] / (1 - shares[k]))) < 0.5
    assert np.mean(ensemble.predict(class_rows().features).argmax(axis=1) == class_rows().label) > 0.55
    assert sum("pooled_sums" in opening for opening in talk.members["aurora"].openings) == 1


def test_a_class_is_trained_as_a_model_of_its_own():
    plan = shared_plan(rounds=2)
    together = from_json(SharedTalk(class_plan(rounds=2), class_tables()).run().models["dune"])
    for k in range(K):
        tables = {name: replace(own, label=(own.label == k).astype(np.float32)) for name, own in class_tables().items()}
        alone = from_json(SharedTalk(plan, tables).run().models["dune"])
        assert_alike(together.trees[k::K], alone.trees, 3 * 2.0**-14)


def test_weights_and_statistics():
    plan = with_cuts(class_plan(given=False, weight_limit=20.0, scale_pos_weight=2.0, max_depth=2), statistics=True)
    rows = class_rows(weighted=True)
    talk = SharedTalk(plan, spread(rows, np.arange(400) % 4)).run()
    assert talk.error is None
    ensemble = from_json(talk.models["dune"])
    start = sharing.start_of(["s"], recorded_starts(plan, class_tables(weighted=True))[0], plan, counts_of({"a": rows}))
    for k, tree in enumerate(ensemble.trees[:K]):
        mine = rows.label == k
        w = rows.weight.astype(np.float64) * np.where(mine, 2.0, 1.0)
        assert start.values.total_weight[k] == pytest.approx(w.sum(), rel=0.02)
        p = start.values.base_score[k]
        assert tree.sum_hessian[0] == pytest.approx((w * p * (1 - p)).sum(), rel=0.01)
        assert tree.loss_changes[0] > 1
    assert ensemble.importance("total_gain")


def xgboost_metrics(ensemble_json, rows, names):
    """XGBoost's own evaluation of a model of several outputs."""
    booster = loaded(ensemble_json)
    booster.set_param([("eval_metric", name) for name in names])
    one_hot = rows.label[:, None] == np.arange(K)
    data = xgboost.DMatrix(rows.features.T, one_hot, weight=rows.weight, feature_names=list(FEATURES))
    said = booster.eval_set([(data, "held")])
    return dict(zip(names, (float(part.split(":")[1]) for part in said.split("\t")[1:]), strict=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_xgboost_over_rows_and_classes(weighted):
    names = ["logloss", "error", "rmse", "mae"]
    plan = class_plan(
        rounds=3, eta=1.0, eval_metric=names, held=0.3, steps=(1, 3), weight_limit=20.0 if weighted else None
    )
    rows = class_rows(800, weighted=weighted)
    run = share_in_process(plan, spread(rows, np.arange(800) % 4))
    history = run.members["aurora"].history
    assert {name: [rounds for rounds, _ in values] for name, values in history.items()} == {n: [1, 3] for n in names}
    out = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    held = replace(
        rows,
        features=np.ascontiguousarray(rows.features[:, out]),
        label=rows.label[out],
        weight=rows.weight[out] if weighted else None,
    )
    model = from_json(run.members["dune"].model)
    for rounds in (1, 3):
        theirs = xgboost_metrics(to_json(model.truncate(rounds * K)), held, names)
        for name in names:
            assert dict(history[name])[rounds] == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), (name, rounds)


def test_early_stopping_counts_rounds():
    plan = class_plan(
        rounds=30, max_depth=4, eta=1.0, early_stopping_rounds=2, eval_metric=["logloss"], held=0.3, steps=(30,)
    )
    run = share_in_process(plan, class_tables())
    kept = from_json(run.members["dune"].model)
    server = run.members["borealis"]
    assert 1 <= kept.rounds < 12
    assert len(kept.trees) == K * kept.rounds
    assert server.trees == kept.rounds + 2
    assert [o for o in server.openings if "improved" in o] == [
        f"evaluation.improved: one bit, whether logloss improved with round {number}"
        for number in range(2, kept.rounds + 3)
    ]


@pytest.mark.parametrize("wrong", [3, -1, 0.5])
def test_a_label_that_is_no_class_is_refused_at_its_owner(wrong):
    """Before it joins."""
    tables = class_tables()
    tables["cirrus"].label[4] = wrong
    said = f"party 'cirrus', row 5, column 'y': expected a class, a whole number from 0 to 2, found '{wrong:g}'"
    with pytest.raises(DataError, match=re.escape(said)):
        SharedTalk(class_plan(), tables)


def test_a_class_without_rows_is_named():
    tables = class_tables()
    for own in tables.values():
        own.label[own.label == 1] = 0
    talk = SharedTalk(class_plan(given=False), tables).run()
    assert isinstance(talk.error, PlanError)
    assert "of class 1; num_class = 3 needs rows of each class from 0 to 2" in str(talk.error)
    talk.assert_failed_closed()


@pytest.mark.parametrize("field", ["base_score", "total_weight"])
def test_another_number_of_start_values_is_refused(field):
    def fewer(said):
        return msgspec.structs.replace(said, **{field: getattr(said, field)[:2]})

    twists = {name: nth(TrainingSetup, 0, fewer, to="dune") for name in SERVERS}
    talk = SharedTalk(class_plan(given=False), class_tables(), twists=twists).run()
    assert isinstance(talk.error, ProtocolError)
    assert "expected 3 of each, one for every output" in str(talk.error)
    talk.assert_failed_closed()


def test_a_class_with_fewer_trees_than_another_is_refused():
    plan = class_plan(rounds=4, early_stopping_rounds=2, held=0.3)

    def short(to, said):
        return msgspec.structs.replace(said, trees=said.trees - 1) if isinstance(said, ReleaseTree) else said

    talk = SharedTalk(plan, class_tables(), twists=dict.fromkeys(SERVERS, short)).run()
    assert isinstance(talk.error, ProtocolError)
    assert "sent tree 0 of" in str(talk.error)
    talk.assert_failed_closed()


def test_more_classes_need_more_memory():
    def needed(plan, tables):
        # Only the plan and the roster count.
        talk = SharedTalk(plan, tables)
        member = talk.members["aurora"]
        member._counts = Counts({"aurora": 10**6}, {"aurora": 10**5})
        return member.memory_needed()

    one, three = needed(shared_plan(), shared_tables()), needed(class_plan(), class_tables())
    # Vectors of the last two levels alone take 4 bytes x 2 parts x 2 x 2^2 nodes a row, three times.
    assert three - one > 2 * 10**6 * 4 * 2 * 4 * 3


@pytest.mark.parametrize("change", ["other rows", "one class"])
def test_kind_size_and_order_do_not_depend_on_the_rows(change):
    rows, other = class_rows(), class_rows(seed=9)
    CHANGES[change](other)
    first, second = (shape_of_run(class_plan(), spread(each, np.arange(400) % 4)) for each in (rows, other))
    assert first == second
    assert len(first) > 500


def test_what_a_server_receives_is_uniform(monkeypatch):
    seen = record_views(monkeypatch)
    plan = class_plan(given=False, rounds=2, held=0.2, eval_metric=["error", "logloss"], min_child_weight=0)
    talk = SharedTalk(plan, class_tables(2000)).run()
    assert talk.error is None
    for server in SERVERS:
        kinds = by_kind(seen[server])
        checked = 0
        for kind, arrays in kinds.items():
            octets = np.concatenate([array.view(np.uint8) for array in arrays])
            if len(octets) >= 2**14:
                checked += 1
                assert looks_uniform([octets]), kind
        assert checked >= 15
        octets = np.concatenate([a.view(np.uint8) for arrays in kinds.values() for a in arrays])
        assert abs(sixteen_bit_chi_square(octets.tobytes())) < 6


def test_given_values_hold_for_every_class():
    plan = class_plan(scale_pos_weight=2.0)
    assert sharing.given_values(plan) == Values((0.5,) * K, 2.0, (0.0,) * K)
    assert [s.base_margin for s in given_start(plan, Counts({"a": 10}, {"a": 0})).output_settings] == [0.0] * K
