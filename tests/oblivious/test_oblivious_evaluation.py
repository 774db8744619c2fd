"""Metrics under shares against plain ones, held-out margins against the opened trees, and early stopping's one bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import naive_mpc as naive
from hansa.errors import PlanError
from hansa.mpc.replicated import Address
from hansa.mpc.ring import RING32, RING64
from hansa.oblivious import evaluation as ev
from hansa.oblivious.release import open_tree, release
from hansa.oblivious.shared_rows import label_words, receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, Sampling, boost, held_weight_bits, start_margins, weight_words
from lockstep import LockstepRecord, run_three
from naive_mpc import leaf_of_codes
from three_servers import ALGORITHM, make_servers, make_table, metric_program, reveal, share

PLACE = Address(0, 0, 0, "eval")
LOGISTIC = BoostingSettings("binary:logistic", rounds=1)
SQUARED = BoostingSettings("reg:squarederror", rounds=1)


def words_of(view):
    """What a server received but for tags, of 16 bytes, of what it received."""
    return [(step, sender, array) for step, sender, array in view if array.dtype == np.uint64]


def opened(name, settings, margins, labels, weights=None, counts=(None, None, None)):
    """The metric that all three servers see opened."""
    x = share(RING32, np.round(margins * 2**26).astype(np.int64), 1)
    words = labels if settings.objective == "binary:logistic" else np.round(labels * 2**26)
    y = share(RING32, words.astype(np.int64), 2)
    w = [None] * 3
    if weights is not None:
        w = share(RING32, weight_words(settings, labels, weights, held_weight_bits(settings, len(labels))), 3)
    servers = make_servers()
    programs = [metric_program(servers[i], name, settings, x[i], y[i], w[i], PLACE, counts[i]) for i in range(3)]
    values = run_three(programs)
    assert values[0] == values[1] == values[2]
    return values[0]


def scores(rows, seed, spread=2.0, share_of_ones=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < share_of_ones).astype(np.uint32)
    margins = np.clip(spread * rng.normal(size=rows) + labels - 0.5, -15.9, 15.9)
    return margins, labels


TOLERANCE = {"logloss": 4e-5, "error": 1e-7, "auc": 1e-3, "aucpr": 3e-3, "rmse": 2e-5, "mae": 1e-5}


@pytest.mark.parametrize("name", TOLERANCE)
@pytest.mark.parametrize("rows", [65, 3000])
@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0])
def test_metrics_of_classes(name, rows, spread):
    margins, labels = scores(rows, rows, spread)
    # Beyond +-8 scores tie in auc.
    expected = naive.metric(name, np.clip(margins, -8, 8) if name in ev.HIGHER_IS_BETTER else margins, labels)
    tolerance = TOLERANCE[name] * (10 if rows == 65 else 1)
    assert opened(name, LOGISTIC, margins, labels) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", ["rmse", "mae"])
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_of_numbers(name, weighted):
    rng = np.random.default_rng(3)
    labels = rng.integers(-512, 513, 2000) / 1024
    margins = np.clip(labels + 0.01 * rng.normal(size=2000), -0.5, 0.5)
    weights = rng.integers(0, 257, 2000) / 128 if weighted else None
    settings = BoostingSettings("reg:squarederror", rounds=1, weight_limit=2.0) if weighted else SQUARED
    expected = naive.metric(name, margins, labels, weights, logistic=False)
    assert opened(name, settings, margins, labels, weights) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["rmse", "mae", "poisson-nloglik"])
def test_metrics_of_counts(name, weighted):
    rng, scale = np.random.default_rng(9), 40.0
    counts = np.minimum(rng.poisson(2.0, 2000), 20)
    means = np.exp(rng.normal(0.5, 0.7, 2000))
    margins = np.round((np.log(means / scale) + 16) * 2**26) / 2**26
    weights = rng.integers(0, 257, 2000) / 128 if weighted else None
    settings = BoostingSettings("count:poisson", rounds=1, weight_limit=2.0 if weighted else None)
    losses = [m - y * math.log(m) + math.lgamma(y + 1) for m, y in zip(means, counts.tolist(), strict=True)]
    squares = np.average((means - counts) ** 2, weights=weights)
    expected = {
        "rmse": math.sqrt(squares),
        "mae": np.average(np.abs(means - counts), weights=weights),
        "poisson-nloglik": np.average(losses, weights=weights),
    }[name]
    factorials = share(RING32, np.round([math.lgamma(y + 1) / scale * 2**26 for y in counts]).astype(np.int64), 4)
    terms = [ev.CountTerms(own, scale) for own in factorials]
    found = opened(name, settings, margins, counts / scale, weights, terms) * scale
    assert found == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("name", ["logloss", "error", "rmse", "mae", "auc", "aucpr"])
def test_metrics_of_weighted_rows(name):
    margins, labels = scores(3000, 4)
    weights = np.random.default_rng(5).integers(0, 257, 3000) / 128
    settings = BoostingSettings("binary:logistic", rounds=1, weight_limit=2.0)
    expected = naive.metric(name, margins, labels, weights)
    assert opened(name, settings, margins, labels, weights) == pytest.approx(expected, abs=TOLERANCE[name])


@pytest.mark.parametrize("share_of_ones", [0.01, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["auc", "aucpr"])
def test_ranks_of_rare_positives_are_those_of_xgboost(name, weighted, share_of_ones):
    """Against XGBoost's own metric of scores that are rounded to buckets' width, within what rounding at random makes of it."""
    xgboost = pytest.importorskip("xgboost")
    margins, labels = scores(6000, 11, 1.0, share_of_ones)
    margins += 1.5 * labels
    margins = np.round(np.clip(margins, -7.9, 7.9) * 32) / 32
    weights = np.random.default_rng(5).integers(0, 257, 6000) / 128 if weighted else None
    settings = BoostingSettings("binary:logistic", rounds=1, weight_limit=2.0 if weighted else None)
    data = xgboost.DMatrix(np.zeros((6000, 1), np.float32), labels, weight=weights, base_margin=margins)
    booster = xgboost.train({"eval_metric": name, "eta": 0.0, "objective": "binary:logistic"}, data, 1)
    expected = float(booster.eval(data).rpartition(":")[2])
    assert opened(name, settings, margins, labels, weights) == pytest.approx(
        expected, abs=2e-3 if name == "aucpr" else 1e-4
    )


@pytest.mark.parametrize("name", ["auc", "aucpr"])
@pytest.mark.parametrize("lacking", ["positives", "negatives", "positives' weights", "weights"])
def test_ranks_of_weighted_rows_have_a_value_only_with_both_labels(name, lacking, servers):
    labels = np.arange(100) % 2 if "weights" in lacking else np.full(100, int(lacking == "negatives"))
    weights = np.ones(100)
    if "weights" in lacking:
        weights[labels == 1 if "positives" in lacking else slice(None)] = 0
    settings = BoostingSettings("binary:logistic", rounds=1, weight_limit=2.0)
    words = weight_words(settings, labels.astype(np.uint32), weights, held_weight_bits(settings, 100))
    y, w = share(RING32, labels, 2), share(RING32, words, 3)
    assert run_three([ev.has_value(s, name, y[s.index], w[s.index], PLACE) for s in servers]) == [False] * 3
    weights[:4] = 0.01
    words = weight_words(settings, (np.arange(100) % 2).astype(np.uint32), weights, held_weight_bits(settings, 100))
    w = share(RING32, words, 4)
    place = PLACE.named("again")
    assert run_three([ev.has_value(s, name, y[s.index], w[s.index], place) for s in servers]) == [True] * 3


@pytest.mark.parametrize("ones", [0, 200])
def test_auc_of_one_class_is_0(ones):
    margins, _ = scores(200, 6)
    assert opened("auc", LOGISTIC, margins, (np.arange(200) < ones).astype(np.uint32)) == 0


def test_auc_in_chunks_and_at_the_edges(monkeypatch):
    monkeypatch.setattr(ev, "CHUNK_ROWS", 300)
    margins, labels = scores(1000, 7)
    margins[:8] = [-15.99, 15.99, -8, 8, 7.9375, 7.99, -8.01, 0]
    expected = naive.metric("auc", margins, labels)
    assert opened("auc", LOGISTIC, margins, labels) == pytest.approx(expected, abs=1e-3)


def test_separated_classes():
    margins = np.repeat([-6.0, 6.0], 500)
    labels = np.repeat([0, 1], 500).astype(np.uint32)
    assert opened("auc", LOGISTIC, margins, labels) == pytest.approx(1, abs=1e-6)
    assert opened("error", LOGISTIC, margins, labels) == 0
    assert opened("error", LOGISTIC, margins, 1 - labels) == pytest.approx(1, abs=1e-8)


def test_what_cannot_be_had_is_refused_by_name():
    margins, labels = scores(100, 8)
    for name, settings in (("aucpr", SQUARED), ("mlogloss", LOGISTIC), ("auc", SQUARED), ("poisson-nloglik", LOGISTIC)):
        with pytest.raises(PlanError, match=name):
            opened(name, settings, margins, labels)


@pytest.mark.parametrize("far", [None, 16.5, -16.5, 31.0])
def test_a_margin_out_of_range_is_noticed(far, servers):
    margins, _ = scores(200, 9)
    if far is not None:
        margins[100] = far
    x = share(RING32, np.round(margins * 2**26).astype(np.int64), 1)
    assert run_three([ev.all_in_range(s, x[s.index], PLACE) for s in servers]) == [far is None] * 3


def test_weights_of_held_out_rows_may_span_many_orders():
    margins, labels = scores(3000, 4)
    weights = 10 ** np.random.default_rng(5).uniform(-2, 2, 3000)
    settings = BoostingSettings("binary:logistic", rounds=1, weight_limit=100.0)
    for name in ("logloss", "error"):
        expected = naive.metric(name, margins, labels, weights)
        assert opened(name, settings, margins, labels, weights) == pytest.approx(expected, abs=2e-4)
    # One row outweighs the others by 10^4, and they by their number: with 12 bits a weight they would be 0.
    weights = np.full(3000, 0.01)
    weights[0] = 100.0
    expected = naive.metric("error", margins, labels, weights)
    assert opened("error", settings, margins, labels, weights) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("delta", [0.0, 0.25])
@pytest.mark.parametrize("name", ["logloss", "auc"])
def test_early_stopping_opens_one_bit(name, delta, servers):
    better = -1 if name == "logloss" else 1
    for number, step in enumerate((0.5, 0.25, 0.01, 0, -0.01)):
        place = Address(0, number, 0, "stop")
        best = share(RING64, np.array([round(0.6 * 2**28)]), 1)
        new = share(RING64, np.array([round((0.6 + better * step) * 2**28) + better]), 2)
        record = LockstepRecord()
        programs = [ev.improved(s, name, new[s.index], best[s.index], place, delta) for s in servers]
        assert run_three(programs, record, keep_views=True) == [step >= delta if step else delta == 0] * 3
        last = [words_of(view)[-1] for view in record.views]
        assert all(array.nbytes == 8 and array[0] <= 1 for _, _, array in last)
    with pytest.raises(PlanError, match="min_delta"):
        run_three([ev.improved(s, "rmse", new[s.index], best[s.index], place, 0.1) for s in servers])


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize(("name", "bound"), [("auc", 0.75), ("rmse", 3.0), ("poisson-nloglik", -0.25)])
def test_a_shared_metric_is_compared_with_a_bound_to_the_last_bit(servers, place, name, bound, below):
    word = ev.least_word(lambda own: ev.metric_of_word(name, own) >= bound)
    assert ev.metric_of_word(name, word) == bound > ev.metric_of_word(name, word - 1)
    for step in (-1, 0, 1):
        shares = share(RING64, np.array([(word + step) % 2**64], np.uint64), 1)
        record, step_place = LockstepRecord(), place.named(f"step {step}")
        programs = [
            ev.reached(s, shares[s.index], lambda own: ev.metric_of_word(name, own) >= bound, below, step_place)
            for s in servers
        ]
        assert run_three(programs, record, keep_views=True) == [(step >= 0) != below] * 3
        last = [words_of(view)[-1] for view in record.views]
        assert all(array.nbytes == 8 and array[0] <= 1 for _, _, array in last)


@pytest.mark.parametrize("below", [False, True])
def test_a_bound_that_every_metric_or_none_is_beyond_needs_nothing_opened(servers, place, below):
    assert ev.least_word(lambda _: False) is None
    for always in (True, False):
        record = LockstepRecord()
        shares = share(RING64, np.array([5]), 1)
        programs = [ev.reached(s, shares[s.index], lambda _, a=always: a, below, place) for s in servers]
        assert run_three(programs, record) == [always != below] * 3
        assert record.rounds == 0


def test_held_out_margins_are_those_of_the_opened_trees():
    candidates, codes, labels = make_table(1500, 4, 15, seed=10)
    settings = BoostingSettings("binary:logistic", rounds=3, max_depth=4)
    parts = [slice(0, 1000), slice(1000, 1500)]
    messages = [share_rows(candidates, codes[p], labels[p], ALGORITHM) for p in parts]
    servers = make_servers()

    def program(server):
        i = server.index
        blocks, held_out = ([receive_rows(candidates, i, m[i], ALGORITHM)] for m in messages)
        words, own = label_words(blocks), label_words(held_out)
        margins, others = (start_margins(server, n, settings) for n in (1000, 500))
        trees, values = [], []
        for tree in range(3):
            shares, margins, _ = yield from boost(
                server, candidates, blocks, words, margins, settings, Sampling(), tree, 0
            )
            trees.append(shares)
            place = Address(0, tree, 0, "evaluation")
            others = others + (yield from ev.tree_margins(server, candidates, held_out, shares, place))
            values.append(
                (yield from metric_program(server, "logloss", settings, others, own, None, place._replace(step=99)))
            )
        return trees, others, values

    results = run_three([program(s) for s in servers])
    expected = np.zeros(500)
    for number in range(3):
        tree = open_tree(candidates, 4, {i: release(results[i][0][number]) for i in range(3)})
        expected += leaf_of_codes(candidates, tree, codes[parts[1]])
        loss = naive.metric("logloss", expected, labels[parts[1]])
        assert results[0][2][number] == pytest.approx(loss, abs=1e-4)
    found = reveal(RING32, [r[1] for r in results]).view(np.int32) / 2**26
    assert np.array_equal(found, expected)


def test_turned_tables_are_the_naive_twin():
    rng = np.random.default_rng(11)
    tables = rng.integers(0, 2**16, (50, 16)).astype(np.uint16)
    turns = rng.integers(0, 16, 50)
    out = np.zeros(16, np.uint16)
    ev.add_turned(tables, turns, out)
    assert np.array_equal(out, naive.naive_turned(tables, turns))


@pytest.mark.parametrize("rows", [1, 2, 65, 3000])
def test_whether_a_metric_has_a_value_is_one_bit(rows, servers):
    weighted = BoostingSettings("binary:logistic", rounds=1, weight_limit=2.0)
    for ones in sorted({0, 1, rows // 2, rows - 1, rows}):
        labels = (np.arange(rows) < ones).astype(np.uint32)
        weights = np.where(np.arange(rows) == rows - 1, 2.0 * (ones > 0), 0)
        y = share(RING32, labels.astype(np.int64), 1)
        w = share(RING32, weight_words(weighted, labels, weights, held_weight_bits(weighted, rows)), 2)
        place = Address(0, ones, 0, "value")
        for name, own, expected in (("auc", [None] * 3, 0 < ones < rows), ("logloss", w, ones > 0)):
            record = LockstepRecord()
            programs = [ev.has_value(s, name, y[s.index], own[s.index], place.named(name)) for s in servers]
            assert run_three(programs, record, keep_views=True) == [expected] * 3
            last = [words_of(view)[-1] for view in record.views]
            assert all(array.nbytes == 8 and array[0] <= 1 for _, _, array in last)
        assert run_three([ev.has_value(s, "logloss", y[s.index], None, place) for s in servers]) == [True] * 3
