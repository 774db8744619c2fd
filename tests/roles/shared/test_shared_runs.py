"""A coopetitive run gives the model that the protocol gives in lockstep, to receivers and to nobody else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from faults import DelayingHub
from hansa.data.binning import bin_rows
from hansa.data.holdout import HoldOut, held_out
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.replicated import Address
from hansa.node.in_process import share_in_process
from hansa.oblivious.base_score import pooled_sums
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from hansa.oblivious.training import LabelScale
from hansa.protocol.messages import ReleaseTree, ShareRows, TrainingSetup
from hansa.roles.shared import sharing
from hansa.roles.shared.receiver import tree_of
from hansa.roles.shared.sharing import Counts, Values, given_start, widest_candidates
from hansa.secure.prg import Algorithm
from hansa.trees.xgboost_json import from_json
from lockstep import run_three
from made_tables import FEATURES, spread, table, take
from naive_mpc import metric
from shares import CUTS, SERVERS, SharedTalk, shared_plan, shared_tables, with_cuts
from three_servers import make_servers, train_openly


def lockstep_trees(plan, tables, start, owners=None):
    """The same training by the protocol's own driver: trees as the model has them."""
    names = sorted(tables)
    codes = np.concatenate([bin_rows(tables[n].features, start.cuts).codes[:, start.features] for n in names])
    labels = np.concatenate([tables[n].label for n in names])
    words = sharing.output_labels(labels, plan)
    words = words.astype(np.uint32) if start.label_scale is None else start.label_scale.words(words)
    trees = train_openly(
        start.candidates, codes.astype(np.uint16), words, start.output_settings, sampling=start.sampling
    )
    scale = 1.0 if start.label_scale is None else start.label_scale.scale
    return [tree_of(start, tree, scale) for tree in trees]


def counts_of(tables):
    """Every row is trained on."""
    return Counts({name: rows.n_rows for name, rows in tables.items()}, dict.fromkeys(tables, 0))


def assert_alike(trees, others, rounding):
    """The same splits, and leaves that differ by what rounding at random may: a few of the last bit."""
    for tree, other in zip(trees, others, strict=True):
        for name in ("left_children", "right_children", "split_indices", "default_left"):
            assert np.array_equal(getattr(tree, name), getattr(other, name)), name
        internal = tree.left_children >= 0
        assert np.array_equal(tree.split_conditions[internal], other.split_conditions[internal])
        assert np.abs(tree.split_conditions - other.split_conditions).max() <= rounding


CASES = {
    "parties as servers": {},
    "one server without rows": {"servers": ("aurora", "vault", "cirrus")},
    "no server with rows": {"servers": ("vault", "safe", "chest")},
    "another order of servers": {"servers": ("cirrus", "aurora", "borealis")},
    "a receiver without rows": {"receivers": ("reader",)},
    "a server receives": {"servers": ("aurora", "vault", "cirrus"), "receivers": ("vault", "dune", "aurora")},
    "sampling": {"subsample": 0.6, "colsample_bytree": 0.6},
    "the hub is S_0": {"hub": "aurora"},
    "the hub is S_1": {"hub": "borealis"},
    "the hub is S_2 and receives": {"hub": "cirrus", "receivers": ("cirrus", "dune")},
    "the hub is a server without rows": {"servers": ("aurora", "vault", "cirrus"), "hub": "vault"},
    "the hub is an owner": {"hub": "dune", "receivers": ("aurora",)},
    "the hub is a receiver": {"hub": "reader", "receivers": ("reader", "aurora")},
    "three parties and nobody else": {"parties": SERVERS, "receivers": SERVERS, "hub": "borealis"},
    "bounded leaf weights": {"alpha": 0.5, "max_delta_step": 1.2},
    "weights of classes": {"scale_pos_weight": 2.5, "gamma": 0.5, "min_child_weight": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_the_model_is_that_of_the_protocol(case):
    plan = shared_plan(**CASES[case])
    tables = shared_tables(parties=len(plan.parties))
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    assert set(talk.models) == set(plan.receivers)
    assert len(set(talk.models.values())) == 1
    assert all(member.done for member in talk.members.values())
    start = given_start(plan, counts_of(tables))
    ensemble = from_json(next(iter(talk.models.values())))
    assert ensemble.base_score == 0.5
    assert_alike(ensemble.trees, lockstep_trees(plan, tables, start), 3 * 2.0**-14)
    assert any(tree.num_nodes > 3 for tree in ensemble.trees)


def test_squared_error_in_the_labels_own_units():
    plan = shared_plan(objective="reg:squarederror", rounds=4, gamma=1.0)
    tables = shared_tables(objective="reg:squarederror")
    talk = SharedTalk(plan, tables).run()
    start = given_start(plan, counts_of(tables))
    assert start.settings.gamma == 1.0 / 600**2
    ensemble = from_json(talk.models["dune"])
    others = lockstep_trees(plan, tables, start)
    assert_alike(ensemble.trees[:1], others[:1], 3 * 600 * 2.0**-16)
    # Later splits may be ties within the noise of 2^-14 of the labels' range.
    rows = table(400, "reg:squarederror")
    errors, theirs = (
        np.mean((each.predict(rows.features) - rows.label) ** 2) for each in (ensemble, replace(ensemble, trees=others))
    )
    assert errors < 0.7 * np.var(rows.label)
    assert errors == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_cuts_and_base_score_are_found_on_shares(objective):
    plan = shared_plan(given=False, objective=objective)
    tables = shared_tables(objective=objective)
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    labels = np.concatenate([rows.label for rows in tables.values()])
    ensemble = from_json(talk.models["dune"])
    assert ensemble.base_score == pytest.approx(labels.mean(dtype=np.float64), rel=1e-6)
    told = next(m for m in recorded_starts(plan, tables))
    cuts = sharing.start_of(["servers"], told, plan, counts_of(tables)).cuts
    assert cuts.has_missing.tolist() == [False, False, False, True, True]
    # The cut of a value that has more rows than a small cell is the next number above it.
    assert np.array_equal(cuts.of(1), np.nextafter(np.float32([0, 1]), np.float32(2)))
    assert all(3 <= len(cuts.of(f)) < 16 for f in (0, 2, 3))
    start = sharing.start_of(["servers"], told, plan, counts_of(tables))
    if objective == "binary:logistic":
        assert_alike(ensemble.trees, lockstep_trees(plan, tables, start), 3 * 2.0**-14)


def recorded_starts(plan, tables):
    """What the servers told owners."""
    told = []

    def note(to, said):
        if isinstance(said, TrainingSetup):
            told.append(said)
        return said

    SharedTalk(plan, tables, twists={"borealis": note}).run()
    return told


def test_found_cuts_do_not_depend_on_how_rows_are_spread():
    rows = table(400)
    found = []
    for deal in (
        np.arange(400) % 4,
        np.sort(np.arange(400) % 4),
        np.where(np.arange(400) < 380, 0, np.arange(400) % 3 + 1),
    ):
        plan = shared_plan(given=False, rounds=1, max_depth=1)
        told = recorded_starts(plan, spread(rows, deal))[0]
        found.append((bytes(told.offsets.data), bytes(told.values.data), told.base_score))
    assert len(set(found)) == 1


def test_a_plan_may_declare_which_features_lack_values():
    plan = with_cuts(shared_plan(given=False), missing=("d", "e"))
    talk = SharedTalk(plan, shared_tables()).run()
    assert talk.error is None
    wrong = SharedTalk(with_cuts(plan, missing=("e",)), shared_tables()).run()
    assert isinstance(wrong.error, DataError)
    assert "feature 3" in str(wrong.error)


def test_xgboost_predicts_the_same():
    xgboost = pytest.importorskip("xgboost")
    plan = shared_plan(given=False, rounds=5, max_depth=4)
    model = SharedTalk(plan, shared_tables()).run().models["dune"]
    booster = xgboost.Booster()
    booster.load_model(bytearray(model))
    rows = table(400)
    data = xgboost.DMatrix(rows.features.T, feature_names=list(FEATURES))
    ours = from_json(model).predict(rows.features)
    assert np.abs(booster.predict(data) - ours).max() < 1e-6
    assert np.mean((ours > 0.5) == rows.label) > 0.7


def test_whoever_is_no_receiver_gets_nothing_of_the_model():
    plan = shared_plan(receivers=("dune",))
    sealed_messages = []

    def note(name):
        def twist(to, said):
            if isinstance(said, ReleaseTree):
                sealed_messages.append((name, to))
            return said

        return twist

    talk = SharedTalk(plan, shared_tables(), twists={name: note(name) for name in SERVERS}).run()
    assert set(talk.models) == {"dune"}
    assert {to for _, to in sealed_messages} == {"dune"}
    for name, member in talk.members.items():
        assert ("open_tree" in " ".join(member.openings)) == (name == "dune")
        assert all(o.startswith(("release", "training", "quantile", "base_score")) for o in member.openings)


def test_two_servers_shares_are_not_a_model():
    """A receiver needs all three, and so does anybody else."""
    plan = shared_plan(receivers=("dune",))
    talk = SharedTalk(
        plan, shared_tables(), twists={"cirrus": lambda to, s: None if isinstance(s, ReleaseTree) else s}
    ).run()
    assert talk.models == {}
    assert talk.members["dune"].waiting_for() == ["cirrus"]
    assert talk.hub.waiting_for() == ["dune"]


def test_records_say_what_was_opened_and_sealed():
    plan = shared_plan(given=False)
    talk = SharedTalk(plan, shared_tables()).run()
    first, owner = talk.members["aurora"], talk.members["dune"]
    assert [o.split(":")[0] for o in first.openings] == [
        "base_score.pooled_sums", "quantile_search", "release.open_tree",
    ]  # fmt: skip
    assert [o.split(":")[0] for o in owner.openings] == ["release.open_tree"]
    assert first.roles == ("owner", "server", "receiver")
    assert owner.roles == ("owner", "receiver")
    assert first.run == owner.run == talk.hub.run
    relayed = sum(count for (sender, _), count in talk.hub.relayed.items() if sender == "aurora")
    assert first.sealed_bytes == relayed > 10_000
    assert first.rounds > 200
    assert owner.rounds == 0


def test_many_batches_and_a_small_window(monkeypatch):
    monkeypatch.setattr(sharing, "BATCH_ROWS", 7)
    sent = []
    plan = shared_plan()
    talk = SharedTalk(plan, shared_tables(), twists={"dune": lambda to, said: (sent.append((to, said)), said)[1]}).run()
    assert talk.error is None
    firsts = [said.first for to, said in sent if isinstance(said, ShareRows) and to == "aurora"]
    assert firsts == list(range(0, 100, 7))
    start = given_start(plan, counts_of(shared_tables()))
    assert_alike(from_json(talk.models["dune"]).trees, lockstep_trees(plan, shared_tables(), start), 3 * 2.0**-14)


def test_a_run_in_one_process_over_a_slow_line_gives_the_model():
    plan = shared_plan(rounds=1, max_depth=1)
    seen = []
    run = share_in_process(plan, shared_tables(), report=seen.append, wrap=lambda hub: DelayingHub(hub, 0.001))
    assert [p.stage for p in seen] == ["registered", "binned", "tree", "trained"]
    assert run.members["dune"].model == run.members["aurora"].model is not None
    assert run.members["borealis"].model is None
    assert set(run.traffic) == set(run.members)


def test_labels_out_of_the_plans_range_are_refused_at_their_owner():
    plan = with_cuts(shared_plan(objective="reg:squarederror"), label_range=(-50.0, 300.0))
    tables = shared_tables(objective="reg:squarederror")
    tables["borealis"].label[6] = 300.5
    for name in ("aurora", "cirrus", "dune"):
        tables[name].label[:] = 0
    tables["borealis"].label[:6] = 0
    with pytest.raises(DataError, match=r"row 7: the label is 300\.5; the plan's labels\.range is \[-50\.0, 300\.0\]"):
        SharedTalk(plan, tables)


def test_one_class_everywhere_cannot_start():
    tables = shared_tables()
    for rows in tables.values():
        rows.label[:] = 1
    talk = SharedTalk(shared_plan(given=False), tables).run()
    assert isinstance(talk.error, PlanError)
    assert "all 400 labels are the same, or the rows of one class weigh next to nothing" in str(talk.error)
    talk.assert_failed_closed()


def test_a_run_that_does_not_fit_in_memory_is_refused_before_anything_is_shared():
    plan = shared_plan(given=False)
    needed = SharedTalk(plan, shared_tables())
    talk = SharedTalk(plan, shared_tables(), memory_limit=100_000).run()
    assert isinstance(talk.error, PlanError)
    assert re_memory(str(talk.error)) > 0.1
    assert talk.hub.relayed == {}
    talk.assert_failed_closed()
    assert SharedTalk(plan, shared_tables(), memory_limit=10**9).run().error is None
    assert needed.members["dune"].memory_needed() == 0
    assert len(widest_candidates(plan).features) == 5


def re_memory(text):
    import re

    return float(re.search(r"takes about (\d+) MB", text)[1]) + 1


def test_constant_features_have_no_candidates():
    plan = with_cuts(shared_plan(), cuts=(CUTS[0], (), CUTS[2], (), (0.0,)), missing=("d", "e"))
    tables = shared_tables()
    start = given_start(plan, counts_of(tables))
    assert start.features.tolist() == [0, 2, 3, 4]
    talk = SharedTalk(plan, tables).run()
    trees = from_json(talk.models["dune"]).trees
    assert_alike(trees, lockstep_trees(plan, tables, start), 3 * 2.0**-14)
    assert not any((tree.split_indices[tree.left_children >= 0] == 1).any() for tree in trees)


def test_a_held_out_row_may_lack_what_no_training_row_lacks():
    """It goes right, as in the other modes; where the plan declares who lacks values it is refused."""
    plan = shared_plan(given=False, rounds=1, max_depth=2, held=0.3)
    tables = shared_tables()
    rows = tables["dune"]
    assert not np.isnan(np.concatenate([table.features[0] for table in tables.values()])).any()
    for row in range(rows.n_rows):
        lacking = rows.features.copy()
        lacking[0, row] = np.nan
        if held_out(lacking, rows.label, HoldOut(0.3, plan.parameters.seed))[row]:
            break
    tables["dune"] = replace(rows, features=lacking)
    assert SharedTalk(plan, tables).run().models.keys() == {"aurora", "dune"}
    refused = SharedTalk(with_cuts(plan, missing=("d", "e")), tables).run()
    assert "found a missing value" in str(refused.error)


def test_missing_values_alone_can_split():
    plan = with_cuts(shared_plan(max_depth=1, rounds=1), cuts=((), (), (), (), ()), missing=("d",))
    tables = shared_tables()
    for rows in tables.values():
        rows.features[4] = 0
        rows.label[:] = np.isnan(rows.features[3])
        rows.label[0] = 1 - rows.label[0]
    tree = from_json(SharedTalk(plan, tables).run().models["dune"]).trees[0]
    assert tree.num_nodes == 3
    assert tree.split_indices[0] == 3
    assert tree.default_left[0] == 1
    predicted = from_json(SharedTalk(plan, tables).run().models["dune"]).predict(tables["dune"].features)
    assert np.mean((predicted > 0.5) == tables["dune"].label) == 0.99


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_pooled_sums_are_exact(objective, weighted):
    """What three servers open of the owners' shared sums is the sum over all rows, however they are spread."""
    plan = shared_plan(given=False, objective=objective, weight_limit=2.0 if weighted else None)
    tables = shared_tables(777, objective=objective)
    weights = {name: np.arange(rows.n_rows) % 5 / np.float32(2) for name, rows in tables.items()}
    count = sharing.n_label_sums(plan)
    total = np.zeros((3, 2, count), np.uint64)
    for name, rows in tables.items():
        own = sharing.label_sums(rows.label, weights[name] if weighted else None, plan, 777)
        for server, share in enumerate(share_vector(own, Algorithm.AES_256_CTR)):
            total[server] += receive_vector(server, share, count, Algorithm.AES_256_CTR)
    place = Address(0, 0, 0, "labels")
    label = np.concatenate([rows.label for rows in tables.values()]).astype(np.float64)
    weight = np.concatenate(list(weights.values())) if weighted else np.ones(777)
    squared = objective == "reg:squarederror"
    for sums in run_three([pooled_sums(server, total[server.index], place) for server in make_servers()]):
        assert len(sums) == count
        low, high = (-300, 300) if squared else (0, 1)
        unit = (high - low) * 2.0**-sharing.LABEL_BITS
        if squared:
            whole = np.round((label - low) / unit)
            # Each of four owners rounds its part down.
            assert 0 <= sum(int(v) ** 2 for v in whole) - 777 * sums[-1] <= 4 * 777
            assert low + unit * sums[-2] / 777 == pytest.approx(label.mean(), abs=unit)
        if not weighted and objective == "binary:logistic":
            assert sums == [int(label.sum())]
            continue
        if weighted:
            assert sums[1] * 2.0 ** -sharing.sum_bits(777) * 2.0 == weight.sum()
            assert squared or sums[2] == (label == 1).sum()
        unit = 2.0 ** -sharing.sum_bits(777) * 2.0 if weighted else 2.0**-sharing.LABEL_BITS
        found = sums[0] * unit * (high - low) + low * weight.sum()
        assert found == pytest.approx((weight * label).sum(), abs=777 * (high - low) * 2.0**-30)


def test_the_scale_of_labels_is_the_plans():
    plan = shared_plan(objective="reg:squarederror")
    assert sharing.label_scale(plan, Values((100.0,), 1.0, (0.0,))) == LabelScale(100.0, 800.0)
    with pytest.raises(ProtocolError, match="told base score"):
        sharing.start_of(["a", "b", "c"], replace_base(plan), plan, Counts({}, {}))


def replace_base(plan):
    start = given_start(plan, Counts({}, {}))
    return replace(start, values=Values((1.0,), 1.0, (0.0,))).message()


def test_automatic_class_weights_follow_from_the_pooled_mean():
    plan = shared_plan(given=False, scale_pos_weight="auto")
    labels = np.concatenate([rows.label for rows in shared_tables().values()])
    positives = int(labels.sum())
    values = sharing.values_of([positives], 400, plan)
    assert values.scale_pos_weight == (400 - positives) / positives
    # One Newton step from even odds, as in the other modes: with balanced classes it stays there.
    assert values.base_score == (0.5,)
    assert values.total_weight == (pytest.approx(2 * (400 - positives)),)
    told = recorded_starts(plan, shared_tables())[0]
    assert (told.base_score, told.scale_pos_weight) == (values.base_score, values.scale_pos_weight)
    assert SharedTalk(plan, shared_tables()).run().error is None
    assert replace(plan, name="x").digest() != plan.digest()


# --- weights, statistics, evaluation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_rows_may_have_weights(objective):
    plan = shared_plan(given=False, objective=objective, weight_limit=20.0)
    rows = table(400, objective, weighted=True)
    tables = spread(rows, np.arange(400) % 4)
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    ensemble = from_json(talk.models["dune"])
    mean = np.average(rows.label.astype(np.float64), weights=rows.weight.astype(np.float64))
    assert ensemble.base_score == pytest.approx(mean, abs=1e-4 * (1 if objective == "binary:logistic" else 100))
    predicted = ensemble.predict(rows.features)
    residual = np.average(rows.label - predicted, weights=rows.weight)
    spread_of = np.sqrt(np.average((rows.label - mean) ** 2, weights=rows.weight))
    better = np.sqrt(np.average((rows.label - predicted) ** 2, weights=rows.weight))
    assert better < 0.9 * spread_of
    assert abs(residual) < 0.2 * spread_of
    # Rows of weight 0 count for nothing: their labels may be what they like.
    for own in tables.values():
        silent = own.weight == 0
        own.label[silent] = 1 - own.label[silent] if objective == "binary:logistic" else -own.label[silent]
    again = from_json(SharedTalk(plan, tables).run().models["dune"])
    assert np.abs(again.predict(rows.features) - predicted).max() < 1e-2 * (
        1 if objective == "binary:logistic" else 100
    )


def test_a_weight_over_the_plans_limit_is_refused_at_its_owner():
    plan = shared_plan(weight_limit=2.0)
    tables = spread(table(400, weighted=True), np.arange(400) % 4)
    with pytest.raises(DataError, match=r"the plan's schema\.weight_limit is 2"):
        SharedTalk(plan, tables)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_statistics_are_released_where_the_plan_says_so(objective):
    plan = with_cuts(shared_plan(objective=objective, max_depth=2), statistics=True)
    tables = shared_tables(objective=objective)
    talk = SharedTalk(plan, tables).run()
    ensemble = from_json(talk.models["dune"])
    features = np.concatenate([tables[n].features for n in sorted(tables)], axis=1)
    label = np.concatenate([tables[n].label for n in sorted(tables)]).astype(np.float64)
    first = ensemble.trees[0]
    if objective == "binary:logistic":
        g, h = 0.5 - label, np.full(400, 0.25)
    else:
        g, h = -label, np.ones(400)
    left = first.split_indices[0], first.split_conditions[0], first.default_left[0]
    column = features[left[0]]
    goes = np.where(np.isnan(column), left[2] == 1, column < left[1])

    def score(which):
        return g[which].sum() ** 2 / (h[which].sum() + 1)

    assert first.sum_hessian[0] == pytest.approx(h.sum(), abs=0.5)
    gain = score(goes) + score(~goes) - score(np.ones(400, bool))
    assert first.loss_changes[0] == pytest.approx(gain, rel=0.05)
    assert from_json(SharedTalk(shared_plan(), shared_tables()).run().models["dune"]).trees[0].loss_changes.max() == 0


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_held_out_rows_are_opened_at_the_plans_steps(objective, weighted):
    names = ["rmse", "mae"] if objective != "binary:logistic" else ["error", "logloss", "aucpr", "auc"]
    limit = 20.0 if weighted else None
    plan = shared_plan(
        objective=objective, rounds=4, eta=1.0, eval_metric=names, held=0.3, steps=(1, 3), weight_limit=limit
    )
    rows = table(1200, objective, weighted=weighted)
    seen = []
    run = share_in_process(plan, spread(rows, np.arange(1200) % 4), report=seen.append)
    history = run.members["aurora"].history
    assert {name: [trees for trees, _ in values] for name, values in history.items()} == {n: [1, 3] for n in names}
    assert run.members["dune"].history == {}
    assert [p.trees for p in seen if p.metrics] == [1, 3]
    out = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    weights = rows.weight[out].astype(np.float64) if weighted else np.ones(out.sum())
    label = rows.label[out].astype(np.float64)
    model = from_json(run.members["dune"].model)
    for trees in (1, 3):
        p = model.truncate(trees).predict(rows.features[:, out]).astype(np.float64)
        exact = {
            "rmse": np.sqrt(np.average((p - label) ** 2, weights=weights)),
            "mae": np.average(np.abs(p - label), weights=weights),
        }
        if objective == "binary:logistic":
            exact |= {
                "error": np.average((p > 0.5) != label, weights=weights),
                "logloss": -np.average(np.log(np.where(label == 1, p, 1 - p)), weights=weights),
                "auc": metric("auc", p, label, weights),
                "aucpr": metric("aucpr", p, label, weights),
            }
        for name in names:
            value = dict(history[name])[trees]
            # Scores of few rows share buckets, which weighs most in aucpr.
            near = {"auc": 2e-2, "aucpr": 5e-2}.get(name, 1e-4)
            assert value == pytest.approx(exact[name], rel=1e-3, abs=near), (name, trees)
    assert sum(o.startswith("evaluation.open_metric") for o in run.members["aurora"].openings) == 2 * len(names)


def test_metrics_are_opened_after_the_last_tree_where_no_step_is_named():
    run = share_in_process(shared_plan(given=False, held=0.3), shared_tables())
    assert [trees for trees, _ in run.members["borealis"].history["logloss"]] == [2]


def test_early_stopping_opens_a_bit_a_tree_and_keeps_the_best():
    plan = shared_plan(
        rounds=40, max_depth=4, eta=1.0, early_stopping_rounds=3, eval_metric=["logloss"], held=0.3, steps=(40,)
    )
    run = share_in_process(plan, shared_tables(800))
    server = run.members["borealis"]
    kept = len(from_json(run.members["dune"].model).trees)
    assert 1 <= kept < 15
    assert server.trees == kept + 3
    assert server.history == {}
    assert [o for o in server.openings if "improved" in o] == [
        f"evaluation.improved: one bit, whether logloss improved with round {number}" for number in range(2, kept + 4)
    ]


def test_metrics_that_shares_do_not_give_are_refused_by_name():
    with pytest.raises(PlanError, match=r"'error@\.3' cannot be had"):
        shared_plan(eval_metric=["error@.3"], held=0.3)
    assert shared_plan(eval_metric=["auc", "aucpr"], held=0.3, weight_limit=2.0)
    assert SharedTalk(shared_plan(eval_metric=["error@.3"]), shared_tables()).run().error is None


def test_held_out_rows_are_not_trained_on():
    plan = shared_plan(held=0.3)
    rows = table(400)
    out = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    kept = spread(rows, np.arange(400) % 4)
    model = from_json(SharedTalk(plan, kept).run().models["dune"])
    training = {
        name: take(own, np.flatnonzero(~held_out(own.features, own.label, HoldOut(0.3, 0))))
        for name, own in kept.items()
    }
    assert sum(own.n_rows for own in training.values()) == 400 - out.sum()
    start = given_start(plan, counts_of(training))
    assert_alike(model.trees, lockstep_trees(plan, training, start), 3 * 2.0**-14)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_model_may_be_bound_to_rise_or_fall(sign):
    plan = with_cuts(shared_plan(given=False, rounds=4, max_depth=4), monotone=(sign, 0, 0, 0, 0))
    talk = SharedTalk(plan, shared_tables()).run()
    assert talk.error is None
    model = from_json(talk.models["dune"])
    rows = table(400)
    points = np.linspace(-3, 3, 41, dtype=np.float32)
    lines = np.repeat(rows.features[:, :60], len(points), axis=1)
    lines[0] = np.tile(points, 60)
    margins = model.predict_margin(lines).reshape(60, -1)
    assert (sign * np.diff(margins, axis=1) >= 0).all()
    free = from_json(SharedTalk(shared_plan(given=False, rounds=4, max_depth=4), shared_tables()).run().models["dune"])
    assert (sign * np.diff(free.predict_margin(lines).reshape(60, -1), axis=1) < 0).any()
