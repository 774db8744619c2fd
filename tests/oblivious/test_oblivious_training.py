"""Whole trees: every opened split is float64's argmax along the tree's own path, for each objective and parameter."""

from __future__ import annotations

import dataclasses
import doctest

import numpy as np
import pytest

import naive_mpc as naive
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.replicated import Address
from hansa.mpc.ring import RING32, pack_bits
from hansa.oblivious import training
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.release import open_tree, release
from hansa.oblivious.shared_rows import label_words, receive_rows, share_rows
from hansa.oblivious.training import (
    BoostingSettings,
    LabelScale,
    Sampling,
    boost,
    growth_of,
    memory_estimate,
    rounds_in_range,
    start_margins,
    weight_bits,
    weight_words,
)
from lockstep import LockstepRecord, run_three
from naive_mpc import leaf_of_codes
from quick import quick
from three_servers import ALGORITHM, make_servers, make_table, refresh, reveal, share, train_openly

LOGISTIC = {"objective": "binary:logistic", "rounds": 3, "max_depth": 3}


def judge(candidates, codes, labels, settings, oracle_labels=None, sampling=None, weights=None, **kw):
    """Train, open, and compare every tree with float64; the trees and final margins."""
    target = labels if oracle_labels is None else oracle_labels
    bits = weight_bits(settings, len(codes))
    words = None if weights is None else weight_words(settings, target, weights, bits)
    trees = train_openly(candidates, codes, labels, settings, sampling=sampling, weights=words, **kw)
    margins = np.full(len(codes), round(settings.base_margin * 2**26) / 2**26)
    splits, gaps, leaf_error = 0, [], 0.0
    for number, tree in enumerate(trees):
        used = sampling.rows(number) if sampling else None
        features = sampling.features(number) if sampling else None
        chosen = None if features is None else candidates.of_features(features)
        abort_reason = naive.judge_tree(candidates, codes, target, margins, tree, settings, used, chosen, weights)
        splits, gaps = splits + abort_reason.splits, gaps + [gap for gap in abort_reason.gaps if gap > 1e-6]
        leaf_error = max(leaf_error, abort_reason.leaf_error)
        margins = margins + leaf_of_codes(candidates, tree, codes)
    return trees, margins, splits, gaps, leaf_error


VARIANTS = {
    "plain": {},
    "deep": {"max_depth": 5, "rounds": 2},
    "stump": {"max_depth": 1},
    "lambda 0": {"reg_lambda": 0.0, "min_child_weight": 0.0},
    "small lambda": {"reg_lambda": 0.01},
    "large lambda": {"reg_lambda": 200.0},
    "gamma": {"gamma": 12.0, "max_depth": 4},
    "min_child_weight": {"min_child_weight": 40.0, "max_depth": 4},
    "weighted": {"scale_pos_weight": 3.5},
    "lightly weighted": {"scale_pos_weight": 0.25},
    "by groups": {"rows_per_sum": 700},
    "near the bound": {"base_margin": 13.5, "leaf_limit": 0.5, "min_child_weight": 0.0},
    "near the other bound": {"base_margin": -14.0, "leaf_limit": 0.5, "min_child_weight": 0.0},
    "base": {"base_margin": -1.5, "eta": 0.1},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_splits_are_the_argmax(name):
    settings = BoostingSettings(**{**LOGISTIC, **VARIANTS[name]})
    candidates, codes, labels = make_table(2500, 5, 15, seed=1)
    _, _, splits, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert splits >= settings.rounds
    assert not gaps
    # A leaf is rounded to 2^-14 = 6.1e-5.
    assert leaf_error <= 1e-4


@pytest.mark.parametrize("owners", [(0, 1, 2), (None, 2), (1,)], ids=str)
def test_owner_assisted_rows_give_the_same_trees(owners):
    candidates, codes, labels = make_table(2000, 5, 15, seed=2)
    settings = BoostingSettings(**LOGISTIC)
    trees, *_ = judge(candidates, codes, labels, settings)
    assisted = train_openly(candidates, codes, labels, settings, owners)
    for a, b in zip(trees, assisted, strict=True):
        assert a.candidates == b.candidates
        assert np.abs(a.values - b.values).max() <= 2 * 2.0**-14


def test_rare_positives():
    candidates, codes, labels = make_table(5000, 5, 15, seed=3, share_of_ones=0.01, noise=0.5)
    base = float(np.log(0.01 / 0.99))
    settings = BoostingSettings(**{**LOGISTIC, "base_margin": base, "max_depth": 4})
    _, _, _, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert not gaps
    assert leaf_error <= 2e-4


def test_separable_classes():
    candidates, codes, _ = make_table(2000, 5, 15, seed=4)
    labels = (codes[:, 0] > 7).astype(np.uint32)
    settings = BoostingSettings(**{**LOGISTIC, "rounds": 8, "eta": 0.5})
    _, margins, _, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert not gaps
    assert leaf_error <= 2e-4
    assert ((margins > 0) == labels).all()


def test_constant_and_skewed_columns():
    candidates, codes, labels = make_table(2500, 5, 15, seed=5)
    codes[:, 1] = 7
    codes[:, 2] = np.where(codes[:, 2] < 15, 0, 15)
    codes[:, 3] = 0
    _, _, _, gaps, leaf_error = judge(candidates, codes, labels, BoostingSettings(**LOGISTIC))
    assert not gaps
    assert leaf_error <= 1e-4


def test_missing_values_and_categories():
    _, codes, labels = make_table(2500, 3, 15, seed=6)
    rng = np.random.default_rng(6)
    codes[rng.random(2500) < 0.2 + 0.3 * labels, 0] = 16
    codes[:, 2] = rng.integers(0, 7, 2500)
    labels[codes[:, 2] == 3] = 1
    features = (Feature(15, has_missing=True), Feature(15), Feature(6, categorical=True, has_missing=True))
    candidates = Candidates(features)
    trees, _, _, gaps, leaf_error = judge(candidates, codes, labels, BoostingSettings(**{**LOGISTIC, "max_depth": 4}))
    assert not gaps
    assert leaf_error <= 1e-4
    found = [c for tree in trees for c in tree.candidates if c]
    assert {c.feature for c in found} == {0, 1, 2}
    assert any(c.missing_left for c in found)


def make_classes(rows, shares, seed):
    """Codes, and whether each row is of each class, uint32 (classes, rows): shares of rows that are not the same."""
    rng = np.random.default_rng(seed)
    candidates, codes, _ = make_table(rows, 5, 15, seed)
    score = 2 * codes[:, 0] / 15 + (codes[:, 1] > 9) - (codes[:, 2] % 3 == 0) + 0.7 * rng.normal(size=rows)
    bounds = np.quantile(score, np.cumsum(shares)[:-1])
    return candidates, codes, (np.searchsorted(bounds, score) == np.arange(len(shares))[:, None]).astype(np.uint32)


CLASSES = {
    "plain": {},
    "lambda 0": {"reg_lambda": 0.0, "min_child_weight": 0.0},
    "weighted classes": {"scale_pos_weight": 3.5, "total_weight": True},
    "weighted rows": {"weight_limit": 2.0, "scale_pos_weight": 2.5},
    "sampling": {"leaf_bits": 16},
}


@pytest.mark.parametrize("name", CLASSES)
def test_one_class_against_the_rest(name):
    """Each class's splits are the argmax along its own path, and its trees those of a run of its own."""
    shares = (0.1, 0.25, 0.65)
    candidates, codes, labels = make_classes(2500, shares, seed=22)
    given = dict(CLASSES[name])
    known = given.pop("total_weight", False)
    settings = [
        BoostingSettings(
            **LOGISTIC,
            **given,
            base_margin=float(np.log(s / (1 - s))),
            total_weight=2500 * (1 + 2.5 * s) if known else None,
        )
        for s in shares
    ]
    draw = np.random.default_rng(8)
    rows, features = draw.random((9, 2500)) < 0.6, np.sort(draw.permuted(np.tile(np.arange(5), (9, 1)), axis=1)[:, :3])

    def sampling_of(tree_of_round):
        if name != "sampling":
            return None
        return Sampling(rows=lambda t: rows[tree_of_round(t)], features=lambda t: features[tree_of_round(t)])

    weights = some_weights(2500) if "rows" in name else None
    bits = weight_bits(settings[0], 2500)
    words = None if weights is None else np.stack([weight_words(settings[0], own, weights, bits) for own in labels])
    trees = train_openly(candidates, codes, labels, settings, (None, 1), sampling_of(lambda t: t), weights=words)
    assert len(trees) == 9
    for k, (own, setting) in enumerate(zip(labels, settings, strict=True)):
        sampling = sampling_of(lambda t, k=k: 3 * t + k)
        alone, _, splits, gaps, leaf_error = judge(candidates, codes, own, setting, sampling=sampling, weights=weights)
        assert splits > 9
        assert not gaps
        assert leaf_error <= 1e-4
        margins = np.full(2500, round(setting.base_margin * 2**26) / 2**26)
        for number, tree in enumerate(trees[k::3]):
            used = None if sampling is None else sampling.rows(number)
            chosen = None if sampling is None else candidates.of_features(sampling.features(number))
            abort_reason = naive.judge_tree(candidates, codes, own, margins, tree, setting, used, chosen, weights)
            assert not [gap for gap in abort_reason.gaps if gap > 1e-6]
            assert abort_reason.leaf_error <= 1e-4
            assert tree.candidates == alone[number].candidates
            assert np.abs(tree.values - alone[number].values).max() <= 2 * 2.0**-14
            margins = margins + leaf_of_codes(candidates, tree, codes)


def test_classes_take_the_rounds_of_one_and_no_name_twice():
    """Trees of a round grow side by side; every draw's name is of one tree (a name that is used twice is refused)."""
    candidates, codes, labels = make_classes(300, (0.3, 0.3, 0.4), seed=23)
    records = [LockstepRecord(), LockstepRecord()]
    settings = BoostingSettings(**LOGISTIC)
    train_openly(candidates, codes, labels, [settings] * 3, record=records[0])
    train_openly(candidates, codes, labels[0], settings, record=records[1])
    assert records[0].rounds == records[1].rounds

    def program(server):
        message = share_rows(candidates, codes, labels[0], ALGORITHM)[server.index]
        blocks = [receive_rows(candidates, server.index, message, ALGORITHM)]
        words, margins = label_words(blocks), start_margins(server, 300, settings)
        for _ in range(2):
            yield from boost(server, candidates, blocks, words, margins, settings, Sampling(), 1, 0, 2, 3)

    with pytest.raises(ProtocolError, match="drawn before"):
        run_three([program(s) for s in make_servers()])


def test_squared_error():
    candidates, codes, _ = make_table(2500, 5, 15, seed=7)
    values = codes[:, 0] / 3.0 + np.random.default_rng(7).normal(size=2500)
    values = np.clip(values, -4, 9)
    scale = LabelScale.of_range(-4, 9, base_score=2.0)
    words = scale.words(values)
    settings = BoostingSettings("reg:squarederror", rounds=4, max_depth=4, leaf_bits=17, rows_per_sum=1000)
    scaled = (values - scale.centre) / scale.scale
    _, margins, _, gaps, leaf_error = judge(candidates, codes, words, settings, oracle_labels=scaled)
    assert not gaps
    assert leaf_error <= 2e-5
    assert np.mean((scaled - margins) ** 2) < 0.5 * np.mean(scaled**2)
    with pytest.raises(PlanError, match="further than"):
        scale.words(np.array([9.01]))


BOUNDED = {
    "max_delta_step": {"max_delta_step": 1.0},
    # Where all of a node is bounded no split gains anything: plans have XGBoost's least gain, which noise is below.
    "max_delta_step, lambda 0": {"max_delta_step": 1.0, "reg_lambda": 0.0, "min_child_weight": 0.0, "gamma": 1e-6},
    "small max_delta_step": {"max_delta_step": 0.2, "max_depth": 4},
    "small eta": {"max_delta_step": 0.7, "eta": 0.01, "leaf_bits": 18},
    "max_delta_step, gamma": {"max_delta_step": 0.5, "gamma": 4.0},
    "alpha": {"reg_alpha": 5.0},
    "alpha, lambda 0": {"reg_alpha": 0.3, "reg_lambda": 0.0, "min_child_weight": 0.0},
    "large alpha": {"reg_alpha": 60.0, "max_depth": 4},
    "alpha, gamma": {"reg_alpha": 2.0, "gamma": 4.0},
    "both": {"reg_alpha": 3.0, "max_delta_step": 0.5},
    "both, weighted": {"reg_alpha": 3.0, "max_delta_step": 0.5, "scale_pos_weight": 2.5},
    "both, by groups": {"reg_alpha": 3.0, "max_delta_step": 0.5, "rows_per_sum": 700},
}


@pytest.mark.parametrize("rare", [False, True], ids=["even", "rare"])
@pytest.mark.parametrize(
    "name", quick(BOUNDED, "max_delta_step", "max_delta_step, lambda 0", "alpha, gamma", "both, by groups")
)
def test_bounded_weights(name, rare):
    """alpha and max_delta_step: splits are the argmax of XGBoost's gains, leaves are XGBoost's."""
    base = {"base_margin": -3.9} if rare else {}
    settings = BoostingSettings(**{**LOGISTIC, **base, **BOUNDED[name]})
    candidates, codes, labels = make_table(2500, 5, 15, seed=31, share_of_ones=0.02 if rare else 0.5)
    trees, _, splits, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert splits >= settings.rounds
    assert not gaps
    # Leaves are multiples of 2**-14. Without lambda the sums' noise, which is drawn, is divided by the few rows of a leaf alone.
    most = 1e-4 if settings.reg_lambda else 4 * 2.0**-settings.leaf_bits
    assert leaf_error <= most * max(1.0, settings.scale_pos_weight)
    plain = dataclasses.replace(settings, reg_alpha=0.0, max_delta_step=0.0)
    free = judge(candidates, codes, labels, plain)[0]
    assert [t.candidates for t in trees] != [t.candidates for t in free] or any(
        np.abs(a.values - b.values).max() > 1e-3 for a, b in zip(trees, free, strict=True)
    )


@pytest.mark.parametrize("owners", [(0, 1, 2), (None, 2)], ids=str)
@pytest.mark.parametrize("objective", quick(["binary:logistic", "count:poisson"], "count:poisson"))
def test_who_owns_which_rows_changes_no_bounded_tree(objective, owners):
    candidates, codes, counts, scale = make_counts(2000, seed=44)
    counting = objective == "count:poisson"
    words = scale.words(counts) if counting else (counts > 2).astype(np.uint32)
    settings = (
        poisson_settings(scale, counts.mean())
        if counting
        else BoostingSettings(**LOGISTIC, max_delta_step=1.0, reg_alpha=2.0)
    )
    alone, spread = (train_openly(candidates, codes, words, settings, own) for own in ((None,), owners))
    for a, b in zip(alone, spread, strict=True):
        assert a.candidates == b.candidates
        assert np.abs(a.values - b.values).max() <= 2 * 2.0**-14


def test_a_node_that_alpha_takes_all_of_has_no_value():
    candidates, codes, labels = make_table(600, 3, 15, seed=32)
    tree = train_openly(candidates, codes, labels, BoostingSettings(**LOGISTIC, reg_alpha=1e9))[0]
    assert tree.candidates == (None,)
    assert tree.values.tolist() == [0.0]


@pytest.mark.parametrize(
    "given",
    quick([{"max_delta_step": 1.0}, {"reg_alpha": 4.0}, {"max_delta_step": 1.0, "reg_alpha": 2.0}], {"reg_alpha": 4.0}),
)
def test_bounded_squared_error_and_weighted_rows(given):
    candidates, codes, labels = make_table(2500, 5, 15, seed=33)
    weighted = BoostingSettings(**LOGISTIC, **given, weight_limit=2.0)
    _, _, splits, gaps, leaf_error = judge(candidates, codes, labels, weighted, weights=some_weights(2500))
    assert splits > 6
    assert not gaps
    assert leaf_error <= 1e-4
    values = np.clip(codes[:, 0] / 3.0 + np.random.default_rng(7).normal(size=2500), -4, 9)
    scale = LabelScale.of_range(-4, 9, base_score=2.0)
    own = {"max_delta_step": given.get("max_delta_step", 0) / scale.scale, "reg_alpha": given.get("reg_alpha", 0.0)}
    settings = BoostingSettings("reg:squarederror", rounds=3, max_depth=3, leaf_bits=17, **own)
    scaled = (values - scale.centre) / scale.scale
    _, _, _, gaps, leaf_error = judge(candidates, codes, scale.words(values), settings, oracle_labels=scaled)
    assert not gaps
    assert leaf_error <= 2e-5


@pytest.mark.parametrize(
    "given", [{"max_delta_step": 0.3}, {"reg_alpha": 4.0}, {"max_delta_step": 0.3, "reg_alpha": 4.0}]
)
def test_bounded_weights_under_monotone_constraints(given):
    candidates, codes, labels = make_table(2500, 4, 15, seed=21)
    settings = BoostingSettings("binary:logistic", rounds=3, max_depth=3, monotone=(1, -1, 0, 0), **given)
    trees, _, splits, gaps, _ = judge(candidates, codes, labels, settings)
    assert splits > 6
    assert not gaps
    for feature, sign in ((0, 1), (1, -1)):
        grid = np.repeat(codes[:300], 16, axis=0)
        grid[:, feature] = np.tile(np.arange(16), 300)
        margins = sum(leaf_of_codes(candidates, tree, grid) for tree in trees).reshape(300, 16)
        assert (sign * np.diff(margins, axis=1) >= 0).all()


@pytest.mark.parametrize(
    "given",
    quick([{"max_delta_step": 1.0}, {"alpha": 5.0}, {"max_delta_step": 0.5, "alpha": 3.0}], {"alpha": 5.0}),
    ids=str,
)
def test_bounded_predictions_are_those_of_xgboost(given):
    """On rare positives, of which max_delta_step is made."""
    xgboost = pytest.importorskip("xgboost")
    candidates, codes, labels = make_table(4000, 5, 15, seed=34, share_of_ones=0.03, noise=0.5)
    base = 0.03
    own = {"max_delta_step": given.get("max_delta_step", 0.0), "reg_alpha": given.get("alpha", 0.0)}
    start = float(np.log(base / (1 - base)))
    settings = BoostingSettings("binary:logistic", rounds=8, max_depth=4, base_margin=start, **own)
    trees = train_openly(candidates, codes, labels, settings)
    margins = start + sum(leaf_of_codes(candidates, tree, codes) for tree in trees)
    parameters = {
        "objective": "binary:logistic", "eta": 0.3, "max_depth": 4, "max_bin": 16, "tree_method": "hist",
        "base_score": base, "nthread": 1, **given,
    }  # fmt: skip
    data = xgboost.DMatrix(codes.astype(np.float32), labels)
    theirs = xgboost.train(parameters, data, 8).predict(data, output_margin=True)
    assert np.mean(np.abs(margins - theirs) < 2e-3) > 0.97


def test_bounds_that_cannot_be_had_are_refused():
    for wrong in ({"max_delta_step": 2.0**11}, {"reg_alpha": -1.0}, {"max_delta_step": 0.001, "eta": 0.01}):
        with pytest.raises(PlanError, match=r"max_delta_step|reg_alpha"):
            BoostingSettings(**{**LOGISTIC, **wrong})
    with pytest.raises(PlanError, match="statistics"):
        BoostingSettings(**LOGISTIC, reg_alpha=1.0, cover_bits=4)


def test_bounded_weights_take_the_rounds_of_free_ones():
    candidates, codes, labels = make_table(300, 3, 15, seed=11)
    rounds = []
    for given in ({}, {"max_delta_step": 1.0}, {"reg_alpha": 1.0}, {"reg_alpha": 1.0, "max_delta_step": 1.0}):
        record = LockstepRecord()
        train_openly(candidates, codes, labels, BoostingSettings(**LOGISTIC, **given), record=record)
        rounds.append(record.rounds)
    assert len(set(rounds)) == 1


HARD = {
    "1 % positives": {"base_margin": -4.595},
    "1 % positives, lambda 0": {"base_margin": -4.595, "reg_lambda": 0.0, "min_child_weight": 0.0},
    "1 % positives, gamma": {"base_margin": -4.595, "gamma": 2.0},
    "few positives, weighted": {"scale_pos_weight": 50.0, "total_weight": 20150.0, "base_margin": -4.0},
    "few positives, weighted, lambda 0": {
        "scale_pos_weight": 50.0, "total_weight": 20150.0, "base_margin": -4.0, "reg_lambda": 0.0, "min_child_weight": 0.0,
    },
    "few positives, weighted, total not known": {"scale_pos_weight": 50.0, "base_margin": -4.0},
    "separable": {"rounds": 8, "eta": 0.5},
    "separable, lambda 0": {"rounds": 8, "eta": 0.5, "reg_lambda": 0.0, "min_child_weight": 0.0},
    "lambda 0": {"reg_lambda": 0.0, "min_child_weight": 0.0},
    "gamma": {"gamma": 3.0},
    "near the bound": {"base_margin": 13.5, "leaf_limit": 0.5, "min_child_weight": 0.0},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name):
    """Splits are the argmax but for what the rows' noise explains, and so are leaves; see ARCHITECTURE.md."""
    ones = 3 / 20000 if "few" in name else 0.01 if "positives" in name else 0.5
    candidates, codes, labels = make_table(
        20000, 6, 15, seed=3, share_of_ones=ones, noise=0.2 if "few" in name else 0.5
    )
    if "separable" in name:
        labels = (codes[:, 0] > 7).astype(np.uint32)
    settings = BoostingSettings(**{"objective": "binary:logistic", "rounds": 4, "max_depth": 5, **HARD[name]})
    rounding = 0.41 * 2.0 ** -growth_of(settings, candidates, 20000).row_bits * settings.greatest_weight**0.5
    noise = float(np.hypot(1.4e-5 * settings.greatest_weight**0.5, rounding))
    margins = np.full(20000, settings.base_margin)
    splits, gaps, idle = 0, [], 0
    for tree in train_openly(candidates, codes, labels, settings):
        abort_reason = naive.judge_tree(candidates, codes, labels, margins, tree, settings, noise=noise)
        idle += abort_reason.idle
        splits, gaps = splits + abort_reason.splits, gaps + [gap for gap in abort_reason.gaps if gap > 1e-6]
        assert abort_reason.unexplained == 0
        assert abort_reason.leaf_excess <= 1e-4
        margins = margins + leaf_of_codes(candidates, tree, codes)
    # Of some 50 to 120 splits. Without lambda a split of rows that are all alike gains 0 and not less: rounding then makes
    # some (in XGBoost too), and they have to be explained by noise as all others.
    assert len(gaps) - (idle if settings.reg_lambda == 0 else 0) <= 2


@pytest.mark.parametrize("weighted", [False, True])
def test_a_leaf_of_just_min_child_weight_keeps_its_value(weighted):
    """Four rows have a hessian of half a unit below 1: a split may round that up to 1, and must not make a leaf of 0 then."""
    candidates = Candidates((Feature(39, False, False),))
    codes = np.repeat(np.arange(40), 4)[:, None].astype(np.uint16)
    labels = (np.arange(160) // 4 % 2).astype(np.uint32)
    limit = 1.0 if weighted else None
    settings = BoostingSettings("binary:logistic", rounds=1, max_depth=8, base_margin=0.0007, weight_limit=limit)
    words = weight_words(settings, labels, np.ones(160), weight_bits(settings, 160)) if weighted else None
    seen = 0
    for _ in range(3):
        tree = train_openly(candidates, codes, labels, settings, weights=words)[0]
        values = leaf_of_codes(candidates, tree, codes)
        assert (values != 0).all()
        seen += len(np.unique(values))
    assert seen > 3


def test_a_node_below_min_child_weight_has_no_value():
    candidates = Candidates((Feature(39, False, False),))
    codes = np.repeat(np.arange(40), 4)[:, None].astype(np.uint16)
    labels = np.ones(160, np.uint32)
    settings = BoostingSettings("binary:logistic", rounds=1, min_child_weight=40.01)
    assert not leaf_of_codes(candidates, train_openly(candidates, codes, labels, settings)[0], codes).any()


@pytest.mark.parametrize("signs", [(1, -1, 0, 0), (-1, 1, 1, 0)])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_monotone_constraints(objective, signs):
    """The whole model is monotone to the last bit, and splits are the best of those that may be taken."""
    candidates, codes, labels = make_table(2500, 4, 15, seed=21)
    settings = BoostingSettings(objective, rounds=3, max_depth=4, monotone=signs)
    free = dataclasses.replace(settings, monotone=())
    scale = LabelScale.of_range(0, 1, 0.5)
    words, oracle = (labels, labels) if objective == "binary:logistic" else (scale.words(labels * 1.0), labels - 0.5)
    trees, _, splits, gaps, _ = judge(candidates, codes, words, settings, oracle_labels=oracle)
    assert splits > 9
    assert not gaps

    def worst_step(trees):
        worst = 0.0
        for feature, sign in enumerate(signs):
            grid = np.repeat(codes[:300], 16, axis=0)
            grid[:, feature] = np.tile(np.arange(16), 300)
            margins = sum(leaf_of_codes(candidates, tree, grid) for tree in trees).reshape(300, 16)
            worst = max(worst, float((-sign * np.diff(margins, axis=1)).max(initial=0)))
        return worst

    assert worst_step(trees) == 0
    assert worst_step(judge(candidates, codes, words, free, oracle_labels=oracle)[0]) > 0.01


def make_counts(rows, seed, mean=2.0, highest=20):
    """Codes, counts, and their scale: a mean that depends on two features."""
    rng = np.random.default_rng(seed)
    candidates, codes, _ = make_table(rows, 5, 15, seed)
    rate = mean * np.exp(0.15 * (codes[:, 0] - 7.5) - 0.6 * (codes[:, 1] > 9))
    return candidates, codes, np.minimum(rng.poisson(rate), highest).astype(float), LabelScale.of_range(0, highest, 0)


def poisson_settings(scale, base, step=0.7, eta=0.3, lam=1.0, **more):
    """Settings on shares of XGBoost's parameters; see `BoostingSettings`."""
    grown = float(np.exp(step))
    return BoostingSettings(
        "count:poisson",
        **{"rounds": 3, "max_depth": 3} | more,
        eta=eta / grown,
        reg_lambda=lam / grown / scale.scale,
        min_child_weight=1 / grown / scale.scale,
        gamma=1e-6 * grown / scale.scale,
        max_delta_step=step * grown,
        base_margin=float(np.log(base / scale.scale) + 16),
    )


POISSON = {
    "plain": {},
    "no step": {"step": 0.0},
    "rare": {"mean": 0.05},
    "by groups": {"rows_per_sum": 700},
    "lambda 0": {"lam": 0.0},
    "weighted": {"weight_limit": 2.0},
    "monotone": {"monotone": (1, -1, 0, 0, 0)},
}


@pytest.mark.parametrize("name", POISSON)
def test_counts(name):
    given = dict(POISSON[name])
    candidates, codes, counts, scale = make_counts(2500, seed=41, mean=given.pop("mean", 2.0))
    settings = poisson_settings(scale, counts.mean(), **given)
    weights = some_weights(2500) if name == "weighted" else None
    _, margins, splits, gaps, leaf_error = judge(
        candidates, codes, scale.words(counts), settings, counts / scale.scale, weights=weights
    )
    assert splits > 6
    assert not gaps
    # Of constrained leaves the oracle has no bounds.
    assert leaf_error <= (1.5e-4 if name != "monotone" else 0.1)

    def loss(m):
        return np.average(np.exp(m - 16) - counts / scale.scale * m, weights=weights)

    assert loss(margins) < loss(settings.base_margin)


@pytest.mark.parametrize("step", [0.7, 0.0])
def test_counts_are_predicted_as_by_xgboost(step):
    """The draws of shares decide near ties: one in fifty runs takes the other cut somewhere. So two of three tables must agree."""
    xgboost = pytest.importorskip("xgboost")
    agreements = []
    for seed in (44, 45, 46):
        candidates, codes, counts, scale = make_counts(2500, seed)
        settings = poisson_settings(scale, counts.mean(), step, rounds=4, max_depth=4)
        trees = train_openly(candidates, codes, scale.words(counts), settings)
        margins = np.log(counts.mean()) + sum(leaf_of_codes(candidates, tree, codes) for tree in trees)
        parameters = {
            "objective": "count:poisson", "eta": 0.3, "max_depth": 4, "max_bin": 16, "tree_method": "hist",
            "base_score": float(counts.mean()), "nthread": 1, "max_delta_step": step,
        }  # fmt: skip
        data = xgboost.DMatrix(codes.astype(np.float32), counts)
        theirs = xgboost.train(parameters, data, 4).predict(data, output_margin=True)
        agreements.append(np.mean(np.abs(margins - theirs) < 2e-3))
    assert np.median(agreements) > 0.97, agreements


def test_counts_whose_mean_leaves_the_range_end_the_model():
    """Every label is the highest. Without a step's bound the first leaf is 4, and a mean of e^4 / 20 of the scale is beyond it."""
    candidates, codes, _, scale = make_counts(600, seed=43)
    highest = scale.words(np.full(600, 20.0))
    settings = poisson_settings(scale, 2.0, 0.0, rounds=3, max_depth=2, eta=1.0)
    assert len(train_openly(candidates, codes, highest, settings)) == 1
    assert len(train_openly(candidates, codes, highest, poisson_settings(scale, 2.0, max_depth=2))) == 3


def test_constraints_that_cannot_be_had_are_refused():
    candidates = Candidates((Feature(3), Feature(3, categorical=True)))
    for wrong in ({"monotone": (2,)}, {"monotone": (1,), "leaf_limit": 16.0}, {"monotone": (1,), "leaf_bits": 24}):
        with pytest.raises(PlanError, match="monotone_constraints"):
            BoostingSettings(**{**LOGISTIC, **wrong})
    for signs, message in (((0, 1), "categorical"), ((1,), "one for each")):
        with pytest.raises(PlanError, match=message):
            growth_of(BoostingSettings(**LOGISTIC, monotone=signs), candidates, 100)


def some_weights(rows, seed=15):
    """Multiples of 1/128 up to 2, a tenth of them 0."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(rows) < 0.1, 0, rng.integers(1, 257, rows)) / 128


@pytest.mark.parametrize("owners", [(None,), (0, 1, None)], ids=str)
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_weighted_rows(factor, owners):
    candidates, codes, labels = make_table(2500, 5, 15, seed=15)
    settings = BoostingSettings(**LOGISTIC, weight_limit=2.0, scale_pos_weight=factor)
    _, _, splits, gaps, leaf_error = judge(
        candidates, codes, labels, settings, weights=some_weights(2500), owners=owners
    )
    assert splits > 9
    assert not gaps
    assert leaf_error <= 1e-4


def test_weighted_squared_error():
    candidates, codes, _ = make_table(2500, 5, 15, seed=16)
    values = np.clip(codes[:, 0] / 3.0 + np.random.default_rng(7).normal(size=2500), -4, 9)
    scale = LabelScale.of_range(-4, 9, base_score=2.0)
    settings = BoostingSettings("reg:squarederror", rounds=3, max_depth=4, leaf_bits=17, weight_limit=2.0)
    scaled = (values - scale.centre) / scale.scale
    _, _, _, gaps, leaf_error = judge(
        candidates, codes, scale.words(values), settings, oracle_labels=scaled, weights=some_weights(2500)
    )
    assert not gaps
    assert leaf_error <= 1e-4


def test_weights_are_those_of_the_plan():
    candidates, codes, labels = make_table(300, 3, 15, seed=17)
    weighted, plain = BoostingSettings(**LOGISTIC, weight_limit=2.0), BoostingSettings(**LOGISTIC)
    words = weight_words(weighted, labels, some_weights(300), 12)
    for settings, own in ((plain, words), (weighted, None)):
        with pytest.raises(ProtocolError, match="disagree"):
            train_openly(candidates, codes, labels, settings, weights=own)
    with pytest.raises(PlanError, match="no weights"):
        weight_words(plain, labels, some_weights(300), 12)
    for wrong in (-0.1, 2.1, np.nan):
        with pytest.raises(PlanError, match="out of range"):
            weight_words(weighted, labels[:1], np.array([wrong]), 12)
    with pytest.raises(DataError, match="weights"):
        share_rows(candidates, codes, labels, ALGORITHM, weights=words[:, 1:])


@pytest.mark.slow
def test_many_splits_at_20k_rows():
    candidates, codes, labels = make_table(20000, 10, 31, seed=14)
    settings = BoostingSettings("binary:logistic", rounds=6, max_depth=6)
    _, _, splits, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert splits > 300
    assert len(gaps) <= 0.005 * splits
    assert leaf_error <= 1e-4


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_public_sampling(objective):
    candidates, codes, labels = make_table(2500, 5, 15, seed=8)
    draw = np.random.default_rng(8)
    rows = [draw.random(2500) < 0.6 for _ in range(3)]
    features = [np.sort(draw.permutation(5)[:2]) for _ in range(3)]
    sampling = Sampling(rows=lambda t: rows[t], features=lambda t: features[t])
    settings = BoostingSettings(**{**LOGISTIC, "objective": objective, "leaf_bits": 16})
    words, oracle = labels, labels
    if objective == "reg:squarederror":
        scale = LabelScale.of_range(0, 1, 0.5)
        words, oracle = scale.words(labels.astype(float)), labels - 0.5
    trees, _, _, gaps, leaf_error = judge(candidates, codes, words, settings, oracle, sampling)
    assert not gaps
    assert leaf_error <= 5e-5
    for number, tree in enumerate(trees):
        assert {c.feature for c in tree.candidates if c} <= set(features[number].tolist())


def test_leaves_are_clamped():
    candidates, codes, labels = make_table(2500, 5, 15, seed=9)
    settings = BoostingSettings(**{**LOGISTIC, "rounds": 2, "leaf_limit": 0.25, "eta": 0.5})
    trees, _, _, gaps, leaf_error = judge(candidates, codes, labels, settings)
    assert not gaps
    assert leaf_error <= 1e-4
    assert max(np.abs(tree.values).max() for tree in trees) == pytest.approx(0.25, abs=1e-4)


def test_predictions_are_those_of_xgboost():
    xgboost = pytest.importorskip("xgboost")
    candidates, codes, labels = make_table(4000, 5, 15, seed=13)
    settings = BoostingSettings(**{**LOGISTIC, "rounds": 10, "max_depth": 4})
    trees = train_openly(candidates, codes, labels, settings)
    margins = sum(leaf_of_codes(candidates, tree, codes) for tree in trees)
    data = xgboost.DMatrix(codes.astype(np.float32), labels)
    parameters = {
        "objective": "binary:logistic", "eta": 0.3, "max_depth": 4, "max_bin": 16, "tree_method": "hist",
        "base_score": 0.5, "nthread": 1,
    }  # fmt: skip
    theirs = xgboost.train(parameters, data, 10).predict(data, output_margin=True)

    def log_loss(m):
        return np.mean(np.logaddexp(0, m) - labels * m)

    assert abs(log_loss(margins) - log_loss(theirs)) < 1e-4
    # Exact ties apart, the trees are the same: nearly every margin is.
    assert np.mean(np.abs(margins - theirs) < 2e-3) > 0.97


def test_trees_after_a_margin_left_its_range_are_not_released(monkeypatch):
    """The first tree adds 1 to margins of 15.6. (Only where sums of hessians below the noise make leaves, which else are 0.)"""
    candidates, codes, _ = make_table(600, 3, 15, seed=10)
    labels = (codes[:, 0] > 7).astype(np.uint32)
    given = {"max_depth": 1, "eta": 1.0, "reg_lambda": 0.0, "min_child_weight": 0.0, "leaf_limit": 16.0}
    settings = BoostingSettings("binary:logistic", rounds=3, base_margin=15.6, **given)
    assert len(train_openly(candidates, codes, labels, settings)) == 3
    monkeypatch.setattr(training, "SERIES_NOISE", 0.0)
    trees = train_openly(candidates, codes, labels, settings)
    assert len(trees) == 1
    assert max(trees[0].values) > 0.4


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ([], 6),
        ([(2, 0, 0)], 2),
        ([(3, 1, 63)], 3),
        ([(5, 0, 64)], 5),
        ([(4, 0, 100), (5, 1, 3)], 4),
        ([(2, 0, 5), (4, 0, 5)], 2),
        ([(0, 0, 7)], 6),
    ],
)
def test_rounds_are_good_up_to_the_first_row_out_of_range(bad, good, servers):
    """Six rounds of two outputs; the first two rounds need no check, and round 2 checks one output."""
    flags = np.zeros((6, 2, 101), np.uint8)
    for number, output, row in bad:
        flags[number, output, row] = 1
    noise = np.random.default_rng(1).integers(0, 2**63, (6, 2, 2, 2), dtype=np.uint64)
    # What is behind the last row is noise.
    words = pack_bits(flags) | np.array([0, 2**64 - 2**37], np.uint64)
    parts = [noise[:, :, 0], noise[:, :, 1], words ^ noise[:, :, 0] ^ noise[:, :, 1]]

    def shared(index, number, outputs):
        return [np.stack([parts[index][number, o], parts[(index + 1) % 3][number, o]]) for o in range(outputs)]

    programs = []
    for server in servers:
        lists = [shared(server.index, number, (0, 0, 1, 2, 2, 2)[number]) for number in range(6)]
        programs.append(rounds_in_range(server, lists, 101, Address(0, 9, 0, "range")))
    assert run_three(programs) == [good] * 3


def test_rounds_a_tree():
    candidates, codes, labels = make_table(300, 3, 15, seed=11)
    counts = []
    for rounds in (2, 3):
        record = LockstepRecord()
        settings = BoostingSettings("binary:logistic", rounds=rounds, max_depth=4)
        train_openly(candidates, codes, labels, settings, record=record)
        counts.append(record.rounds)
    # By level 2 for sums (4 where rows have more bits than sums), 22 for scores, 6 L for the tournament (46 items: L = 2), 4
    # for routing and membership (one less at the first and last level); 4 for gradients, 20 for leaves, 2 for margins.
    assert counts[1] - counts[0] == 4 * (2 + 22 + 6 * 2 + 4) - 2 + 26


def test_estimate_and_refusals():
    candidates, _, _ = make_table(10, 30, 31, seed=0)
    estimate = memory_estimate(candidates, 100_000, BoostingSettings(**LOGISTIC))
    assert 769e6 < estimate < 1.5e9
    assert memory_estimate(candidates, 100_000, BoostingSettings(**LOGISTIC), 100_000) < estimate - 370e6
    assert memory_estimate(candidates, 100_000, BoostingSettings(**LOGISTIC), 100_000, 33_000) < estimate - 490e6
    for wrong in ({"eta": 0.0}, {"max_depth": 9}, {"objective": "reg:gamma"}, {"scale_pos_weight": 1000}):
        with pytest.raises(PlanError):
            BoostingSettings(**{**LOGISTIC, **wrong})
    with pytest.raises(PlanError, match="base_margin"):
        BoostingSettings("reg:squarederror", rounds=1, base_margin=1.0)
    with pytest.raises(PlanError, match="fraction bits"):
        growth_of(BoostingSettings(**LOGISTIC, scale_pos_weight=200.0), candidates, 2**23)
    with pytest.raises(PlanError, match="label range"):
        LabelScale.of_range(0, 1, 2)


def test_a_restarted_run_re_randomises_its_shares_under_new_keys():
    """Two trees, then new servers with new keys: margins are refreshed, draws have another epoch, the trees are the same."""
    candidates, codes, labels = make_table(800, 3, 15, seed=19)
    settings = BoostingSettings(**LOGISTIC)
    messages = share_rows(candidates, codes, labels, ALGORITHM)

    def program(server, start, margins, trees, epoch):
        blocks = [receive_rows(candidates, server.index, messages[server.index], ALGORITHM)]
        words = label_words(blocks)
        if margins is None:
            margins = start_margins(server, 800, settings)
        else:
            margins = yield from refresh(server, RING32, margins, Address(epoch, start, 0, "restart"))
        refreshed, found = margins, []
        for tree in range(start, trees):
            shares, margins, _ = yield from boost(
                server, candidates, blocks, words, margins, settings, Sampling(), tree, epoch
            )
            found.append(release(shares))
        return found, margins, refreshed

    whole = run_three([program(s, 0, None, 3, 0) for s in make_servers()])
    first = run_three([program(s, 0, None, 2, 0) for s in make_servers()])
    rest = run_three([program(s, 2, first[s.index][1], 3, 1) for s in make_servers()])
    before, after = ([r[place] for r in run] for run, place in ((first, 1), (rest, 2)))
    assert np.array_equal(reveal(RING32, before), reveal(RING32, after))
    assert all((b != a).mean() > 0.99 for b, a in zip(before, after, strict=True))

    def last(run):
        return open_tree(candidates, settings.max_depth, {i: run[i][0][-1] for i in range(3)})

    assert last(rest).candidates == last(whole).candidates
    assert np.abs(last(rest).values - last(whole).values).max() <= 2 * 2.0**-14


def test_a_constant_feature_is_never_split():
    _, codes, labels = make_table(1500, 3, 15, seed=20)
    codes[:, 1] = 0
    candidates = Candidates((Feature(15), Feature(0), Feature(15)))
    trees, _, splits, gaps, _ = judge(candidates, codes, labels, BoostingSettings(**LOGISTIC), owners=(None, 1))
    assert splits > 9
    assert not gaps
    assert {c.feature for tree in trees for c in tree.candidates if c} == {0, 2}


def test_two_runs_have_fresh_keys_and_one_model():
    candidates, codes, labels = make_table(800, 3, 15, seed=12)
    first, second = (train_openly(candidates, codes, labels, BoostingSettings(**LOGISTIC)) for _ in range(2))
    assert [t.candidates for t in first] == [t.candidates for t in second]
    assert make_servers()[0].source is not make_servers()[0].source


# --- the floor of S ---------------------------------------------------------------------------------------------------


def test_every_example_of_training_runs():
    failed, tried = doctest.testmod(training)
    assert failed == 0
    assert tried >= 6


def greatest_numerator(own, rows):
    """The most that "no split" can have in parts of 2^38, on a fine grid of S, with the integers that scores are made with."""
    growth = growth_of(own, None, rows)
    constants = growth.scoring
    unit = 2.0**constants.fraction_bits
    floor, lam = growth.scale_floor / unit, constants.reg_lambda / unit
    gamma = constants.gamma / 2.0 ** (constants.fraction_bits + constants.gamma_bits)
    scales = np.concatenate([floor + np.geomspace(2.0**-20, 2.0**30, 2000), [floor, max(floor, 2 * (floor - 2 * lam))]])
    absolute = scales - floor
    # |G| <= sum |g| and 0 <= H <= sum |g|: the first term is greatest at H = 0, the second at H = sum |g|.
    return float(((absolute**2 + gamma * (absolute + 2 * lam)) / (4 * scales**2)).max())


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_the_numerator_of_no_split_stays_below_what_a_product_can_hold(objective):
    """At most 2^38 where gamma is the plan's, below 2^39 where it is the least one that scores have."""
    greatest, tried = 0.0, 0
    for rows in 2 ** np.arange(0, 24, 3):
        for lam in [0, *(2.0 ** np.arange(-3, 18, 2))]:
            for gamma in [0, *(10.0 ** np.arange(-8, 9, 2))]:
                own = BoostingSettings(objective, 1, reg_lambda=lam, gamma=gamma, min_child_weight=0)
                try:
                    found = greatest_numerator(own, int(rows))
                except PlanError:
                    continue
                f = growth_of(own, None, int(rows)).scoring.fraction_bits
                replaced = gamma < max(2.0**-34, 2.0 ** (4 - 2 * f))
                assert found <= (2 if replaced else 1 + 1e-4), (rows, lam, gamma)
                greatest, tried = max(greatest, found), tried + 1
    assert greatest > 0.7
    assert tried > 300


@pytest.mark.parametrize("far", [15.9, 11.5])
def test_noise_takes_no_more_from_the_sum_of_absolute_gradients_than_the_floor_gives(far, servers, place):
    """Rows of which p is all but y: the noise of p makes g of both signs, and S must exceed any sum of them."""
    rows = 60000
    labels = np.arange(rows) % 2
    margins = share(RING32, np.round(np.where(labels == 1, far, -far) * 2.0**26).astype(np.int64), 1)
    y = share(RING32, labels.astype(np.int64), 2)
    out = run_three(
        [training.logistic_gradients(s, margins[s.index], y[s.index], 22, (1, 0), False, place) for s in servers]
    )
    g = reveal(RING32, [vectors[:, 0, 0] for vectors, _, _ in out]).view(np.int32) / 2.0**22
    absolute = reveal(RING32, [own for _, own, _ in out]).view(np.int32) / 2.0**22
    lost = np.abs(g).sum() - absolute.sum()
    assert lost < rows * 2.0**-16
    assert lost > rows * 2.0**-17 if far > 12 else lost > 0
    assert np.array_equal(np.abs(g), np.abs(absolute))


@pytest.mark.parametrize("rows", 2 ** np.arange(0, 25, 4))
def test_the_rounding_of_weighted_gradients_is_within_the_floor(rows):
    """Of weighted rows g and |g| are rounded apart: six standard deviations of a sum take what their noise leaves of A."""
    for limit in (1, 30, 1000):
        own = BoostingSettings("binary:logistic", 1, weight_limit=limit)
        try:
            growth = growth_of(own, None, int(rows))
        except PlanError:
            continue
        left = 1 + (2.0**-16 - 1.04e-5) * rows * limit
        assert 6 * np.sqrt(rows / 2) * 2.0**-growth.row_bits < left
