"""Categorical features in a coopetitive run: splits are the best, the model is XGBoost's, and nothing more is told than of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_shared_transcript import shape_of_run

import naive_model as naive
from hansa.data.holdout import HoldOut, held_out
from hansa.data.quantiles import Cuts
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.ring import RING32
from hansa.node.in_process import share_in_process
from hansa.oblivious import training
from hansa.oblivious.quantile_search import CutProbes
from hansa.protocol.messages import TrainingSetup, to_tensor
from hansa.roles.shared import owner
from hansa.roles.shared.sharing import Counts, given_start, plan_cuts, widest_candidates
from hansa.trees.xgboost_json import from_json
from made_tables import spread, take
from shares import SharedTalk, nth, shared_plan, with_cuts
from three_servers import reveal

COLOURS = ("red", "green", "blue", "black", "white")
SITES = (30, 10, 20, 40)
FEATURES = ("height", "colour", "site")
CATEGORIES = ((), COLOURS, SITES)
CUTS = ((-1.0, -0.3, 0.3, 1.0), (), ())


def table(n_rows=600, objective="binary:logistic", seed=0):
    """An ordered feature and two categorical ones; height and colour lack a tenth of their values, which tells of the label."""
    rng = np.random.default_rng(seed)
    features = np.stack(
        [rng.normal(size=n_rows), rng.integers(len(COLOURS), size=n_rows), rng.integers(len(SITES), size=n_rows)]
    ).astype(np.float32)
    signal = 2 * (features[1] == 2) - 2 * (features[1] == 4) + features[0] * (features[2] == 1) - (features[2] == 0)
    for feature in (0, 1):
        lacking = rng.random(n_rows) < np.where(signal > 0, 0.18, 0.04)
        features[feature, lacking] = np.nan
    noisy = signal + 0.5 * rng.logistic(size=n_rows)
    label = (noisy > 0).astype(np.float32) if objective == "binary:logistic" else (20 * noisy).astype(np.float32)
    return Rows(features, label, None)


def plan(given=True, missing=("height", "colour"), **options):
    made = shared_plan(given=given, **options)
    made = replace(
        made,
        schema=Schema(FEATURES, "y", categories=CATEGORIES),
        coopetitive=replace(made.coopetitive, cuts=None, missing=None),
    )
    return with_cuts(made, cuts=CUTS, missing=missing) if given else made


def tables(rows=None):
    rows = table() if rows is None else rows
    return spread(rows, np.arange(rows.n_rows) % 4)


def in_order(parts):
    """All rows as servers hold them: owner by owner."""
    names = sorted(parts)
    return Rows(
        np.concatenate([parts[name].features for name in names], axis=1),
        np.concatenate([parts[name].label for name in names]),
        None,
    )


def left_masks(features, cuts, missing):
    """Every split that a node may choose, as (feature, condition, default left, rows to the left), from its definition."""
    for number, levels in enumerate(CATEGORIES):
        values, lacks = features[number], np.isnan(features[number])
        sides = (False, True) if FEATURES[number] in missing else (False,)
        for condition in range(len(levels)) if levels else cuts[number]:
            apart = values == condition if levels else ~(values < condition)
            for left in sides:
                yield number, condition, left, np.where(lacks, left, ~apart)
        if not levels and FEATURES[number] in missing:
            yield number, np.finfo(np.float32).min, True, lacks


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_a_categorical_feature_may_stand_anywhere(order):
    """Its codes are its categories, with the missing code behind them, and the model is that of the other order of columns."""
    rows, chosen = table(), list(order)
    names = tuple(FEATURES[f] for f in order)
    made = plan(rounds=2, max_depth=3)
    moved = replace(
        made,
        schema=Schema(names, "y", categories=tuple(CATEGORIES[f] for f in order)),
        coopetitive=replace(made.coopetitive, cuts=tuple(CUTS[f] for f in order)),
    )
    other = Rows(np.ascontiguousarray(rows.features[chosen]), rows.label, None)
    start = given_start(moved, Counts(dict.fromkeys(moved.parties, 150), dict.fromkeys(moved.parties, 0)))
    codes = owner.codes_of(other.features, start, held=False)
    for column, feature in enumerate(order):
        levels, lacks = CATEGORIES[feature], np.isnan(rows.features[feature])
        if levels:
            expected = np.where(lacks, len(levels), np.nan_to_num(rows.features[feature]))
            assert np.array_equal(codes[:, column], expected)
    first, second = (
        from_json(SharedTalk(each, tables(table_)).run().models["dune"])
        for each, table_ in ((made, rows), (moved, other))
    )
    assert np.abs(first.predict(rows.features) - second.predict(other.features)).max() < 0.02
    assert any(names[tree.split_indices[0]] in ("colour", "site") for tree in second.trees)


def gain(g, h, left, reg_lambda):
    """Chen & Guestrin 2016, eq. 7 times two; -inf where a child weighs less than 1."""
    if min(h[left].sum(), h[~left].sum()) < 1:
        return -np.inf
    return sum(g[s].sum() ** 2 / (h[s].sum() + reg_lambda) for s in (left, ~left)) - g.sum() ** 2 / (
        h.sum() + reg_lambda
    )


def assert_best_splits(ensemble, rows, cuts, missing, start, scale=None):
    """Every split of the model is float64's argmax over ordered and one-hot splits; how many there are of each kind."""
    kinds = [0, 0]
    margins = np.full(rows.n_rows, start)
    for tree in ensemble.trees:
        p = margins if scale else 1 / (1 + np.exp(-margins))
        g, h = (p - rows.label, np.ones_like(p)) if scale else (p - rows.label, p * (1 - p))
        stack = [(0, np.arange(rows.n_rows))]
        while stack:
            node, here = stack.pop()
            if tree.left_children[node] < 0:
                weight = -0.3 * g[here].sum() / (h[here].sum() + 1)
                assert tree.split_conditions[node] == pytest.approx(weight, abs=2e-4 * (scale or 1))
                continue
            chosen = tree.split_indices[node], tree.split_conditions[node], tree.default_left[node]
            gains, own = [], None
            for feature, condition, side, left in left_masks(rows.features[:, here], cuts, missing):
                gains.append(gain(g[here], h[here], left, 1))
                same_side = side == chosen[2] or FEATURES[feature] not in missing
                if feature == chosen[0] and np.float32(condition) == chosen[1] and same_side:
                    own, goes_left = gains[-1], left
            assert own is not None
            assert own >= max(gains) * (1 - 1e-5)
            kinds[tree.split_type[node]] += 1
            stack += [(tree.left_children[node], here[goes_left]), (tree.right_children[node], here[~goes_left])]
        margins = margins + [float(naive.leaf_value(tree, row)) for row in rows.features.T]
    return kinds


@pytest.mark.parametrize("given", [True, False], ids=["cuts given", "cuts searched"])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_every_split_is_the_best_of_ordered_and_one_hot_ones(given, objective):
    squared = objective == "reg:squarederror"
    agreed = plan(given, objective=objective, rounds=3, max_depth=4)
    parts = tables(table(objective=objective))
    told = []
    keep = nth(TrainingSetup, 0, lambda said: (told.append(said), said)[1])
    talk = SharedTalk(agreed, parts, twists={"aurora": keep}).run()
    assert talk.error is None
    ensemble = from_json(talk.models["dune"])
    cuts = CUTS
    if not given:
        found = Cuts(
            *(np.frombuffer(getattr(told[0], n).data, d) for n, d in (("offsets", np.int64), ("values", np.float32))),
            np.frombuffer(told[0].has_missing.data, np.uint8).astype(bool),
        )
        assert found.has_missing.tolist() == [True, True, False]
        assert np.diff(found.offsets)[1:].tolist() == [0, 0]
        cuts = tuple(found.of(feature) for feature in range(3))
    rows = in_order(parts)
    start = ensemble.base_score if squared else np.log(ensemble.base_score / (1 - ensemble.base_score))
    scale = 600.0 if squared else None
    kinds = assert_best_splits(ensemble, rows, cuts, ("height", "colour"), start, scale)
    assert min(kinds) >= 3
    assert ensemble.categories == (None, COLOURS, SITES)


def test_shared_margins_are_the_opened_trees_predictions(monkeypatch):
    margins = {}
    boost_round = training.boost_round

    def noted(server, candidates, blocks, outputs, *rest):
        result = yield from boost_round(server, candidates, blocks, outputs, *rest)
        margins[server.index] = outputs[0].margins
        return result

    monkeypatch.setattr(training, "boost_round", noted)
    agreed, parts = plan(rounds=3), tables()
    model = SharedTalk(agreed, parts).run().models["dune"]
    shared = reveal(RING32, [margins[i] for i in range(3)]).view(np.int32) / 2.0**MARGIN_BITS
    predicted = from_json(model).predict_margin(in_order(parts).features)
    np.testing.assert_allclose(predicted, shared, rtol=0, atol=1e-6)
    assert len(np.unique(predicted)) > 5


def test_xgboost_predicts_the_same_of_missing_and_unseen_categories():
    xgboost = pytest.importorskip("xgboost")
    agreed = with_cuts(plan(given=False, rounds=4, max_depth=4), statistics=True)
    model = SharedTalk(agreed, tables()).run().models["dune"]
    booster = xgboost.Booster()
    booster.load_model(bytearray(model))
    features = table(seed=3).features
    features[1, :40], features[2, :40] = np.nan, [9, np.nan, 31, 2.5] * 10
    features[1, 40:60] = [5, 6, 40, -1] * 5
    matrix = xgboost.DMatrix(
        features.T, feature_names=list(FEATURES), feature_types=["q", "c", "c"], enable_categorical=True
    )
    ours = from_json(model)
    assert np.abs(booster.predict(matrix) - ours.predict(features)).max() < 1e-6
    assert booster.predict(matrix, output_margin=True).tobytes() == ours.predict_margin(features).tobytes()
    gains = booster.get_score(importance_type="total_gain")
    assert gains == pytest.approx(ours.importance("total_gain"), rel=1e-5)
    assert min(gains[name] for name in FEATURES) > 1
    contributions = booster.predict(matrix, pred_contribs=True)
    np.testing.assert_allclose(contributions.sum(axis=1), ours.predict_margin(features), atol=1e-4)


def test_a_category_that_one_owner_alone_has_is_no_other_category():
    """Codes come from the plan, not from what an owner's table holds."""
    rows = table()
    parts = spread(rows, np.where(rows.features[1] == 2, 0, np.arange(rows.n_rows) % 3 + 1))
    assert {2} == set(parts["aurora"].features[1]) != set(parts["dune"].features[1])
    ensemble = from_json(SharedTalk(plan(), parts).run().models["dune"])
    kinds = assert_best_splits(ensemble, in_order(parts), CUTS, ("height", "colour"), 0.0)
    assert kinds[1] >= 2
    assert (ensemble.trees[0].split_indices[0], ensemble.trees[0].split_conditions[0]) == (1, 2)


CHANGES = {
    "other rows": lambda rows: rows,
    "one category": lambda rows: rows.features[1:].fill(3),
    "no value but missing ones": lambda rows: rows.features[:2].fill(np.nan),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kind_size_and_order_do_not_depend_on_categories(change):
    rows, other = table(400), table(400, seed=9)
    CHANGES[change](other)
    first, second = (shape_of_run(plan(), tables(each)) for each in (rows, other))
    assert first == second


def test_of_a_categorical_feature_owners_count_who_has_a_value_and_no_more(monkeypatch):
    """Whatever servers ask of it, no count depends on a category."""
    answers, count = [], owner.count_probes
    everything = CutProbes(np.arange(4), np.zeros(3, np.uint32), np.zeros(3, np.uint8), 10)

    def noted(keys, request):
        answers.append(np.split(count(keys, everything), 3))
        return count(keys, request)

    monkeypatch.setattr(owner, "count_probes", noted)
    rows, other = table(), table()
    other.features[2] = 3 - other.features[2]
    other.features[1] = np.where(np.isnan(other.features[1]), np.nan, (other.features[1] + 2) % 5)
    counts = []
    for each in (rows, other):
        answers.clear()
        SharedTalk(plan(given=False, rounds=1, max_depth=1), tables(each)).run()
        counts.append([np.concatenate(answer[1:]) for answer in answers])
    assert len(counts[0]) >= 4
    for first, second in zip(*counts, strict=True):
        assert np.array_equal(first, second)


def test_a_plan_of_categories_alone_needs_no_cuts():
    agreed = plan(given=False, rounds=2)
    features = ("colour", "site")
    agreed = replace(agreed, schema=Schema(features, "y", categories=CATEGORIES[1:]))
    rows = table()
    parts = {name: replace(own, features=own.features[1:].copy()) for name, own in tables(rows).items()}
    searched = SharedTalk(agreed, parts).run()
    assert searched.error is None
    declared = SharedTalk(with_cuts(agreed, missing=("colour",)), parts).run()
    assert plan_cuts(with_cuts(agreed, missing=("colour",))) is not None
    assert "quantile_search" not in " ".join(declared.members["aurora"].openings)
    first, second = (from_json(talk.models["dune"]).trees[0] for talk in (searched, declared))
    assert first.split_type.sum() >= 3
    assert np.array_equal(first.split_indices, second.split_indices)


def test_a_held_out_row_may_lack_a_category_where_no_training_row_does():
    """Then it goes to the other categories, at the servers as in the model: what they open of the metric says so."""
    agreed = plan(given=False, rounds=2, max_depth=3, held=0.3, steps=(2,), eval_metric=["logloss"])
    parts = tables()
    seed = agreed.parameters.seed
    for rows in parts.values():
        held = held_out(rows.features, rows.label, HoldOut(0.3, seed))
        for row in np.flatnonzero(held):
            kept = rows.features[2, row]
            rows.features[2, row] = np.nan
            if not held_out(rows.features, rows.label, HoldOut(0.3, seed))[row]:
                rows.features[2, row] = kept
    run = share_in_process(agreed, parts)
    opened = run.members["aurora"].history["logloss"]
    ensemble = from_json(run.members["dune"].model)
    left_out = []
    for rows in parts.values():
        held = held_out(rows.features, rows.label, HoldOut(0.3, seed))
        assert not np.isnan(rows.features[2, ~held]).any()
        left_out.append(take(rows, np.flatnonzero(held)))
    margins = np.concatenate([ensemble.predict_margin(rows.features) for rows in left_out]).astype(float)
    labels = np.concatenate([rows.label for rows in left_out])
    assert sum(np.isnan(rows.features[2]).sum() for rows in left_out) > 20
    assert any((tree.split_indices[tree.split_type == 1] == 2).any() for tree in ensemble.trees)
    assert opened == [(2, pytest.approx(np.mean(np.logaddexp(0, margins) - labels * margins), abs=1e-4))]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (5, "feature 'colour', row 3: expected the code of one of 5 categories, found 5"),
        (1.5, "found 1.5"),
        (-1, "found -1"),
    ],
)
def test_codes_of_no_category_are_refused_at_their_owner(value, named):
    parts = tables()
    parts["dune"].features[1, 2] = value
    talk = SharedTalk(plan(), parts).run()
    assert isinstance(talk.error, DataError)
    assert talk.raised_by == "dune"
    assert named in str(talk.error)
    talk.assert_failed_closed()


def test_a_missing_category_is_refused_where_the_plan_says_none_is():
    talk = SharedTalk(plan(missing=("height",)), tables()).run()
    assert isinstance(talk.error, DataError)
    assert "feature 1" in str(talk.error)
    talk.assert_failed_closed()


def test_told_cuts_of_a_categorical_feature_are_refused():
    def told(_, said):
        if not isinstance(said, TrainingSetup):
            return said
        offsets = np.frombuffer(said.offsets.data, np.int64).copy()
        offsets[-1] += 1
        values = np.append(np.frombuffer(said.values.data, np.float32), np.float32(1))
        return TrainingSetup(
            to_tensor(offsets), to_tensor(values), said.has_missing, said.base_score, said.scale_pos_weight, said.total_weight
        )  # fmt: skip

    servers = ("vault", "safe", "chest")
    talk = SharedTalk(plan(given=False, servers=servers), tables(), twists=dict.fromkeys(servers, told)).run()
    assert isinstance(talk.error, ProtocolError)
    assert "cuts of a categorical feature" in str(talk.error)
    talk.assert_failed_closed()


def test_categories_count_in_the_estimate_of_memory():
    few = plan(given=False)
    many = replace(few, schema=Schema(FEATURES, "y", categories=((), tuple(map(str, range(1000))), SITES)))
    assert widest_candidates(many).n_columns - widest_candidates(few).n_columns == 995
    needed = SharedTalk(few, tables()).run().members["aurora"].memory_needed()
    talk = SharedTalk(many, tables(), memory_limit=needed).run()
    assert isinstance(talk.error, PlanError)
    assert "takes about" in str(talk.error)
