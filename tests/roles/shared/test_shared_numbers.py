"""Labels, weights and parameters of any size give XGBoost's model on the same bins, or are refused before rows leave."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from hansa.data.holdout import HoldOut, held_out
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.replicated import Address
from hansa.mpc.ring import RING64
from hansa.node.in_process import share_in_process
from hansa.oblivious import training
from hansa.oblivious.base_score import spread_exponent
from hansa.oblivious.training import BoostingSettings, weight_bits
from hansa.plan import Plan
from hansa.protocol.messages import ShareRows
from hansa.roles.shared.sharing import Values, plain_scale, settings_of, some_values
from hansa.trees import losses
from hansa.trees.xgboost_json import from_json
from lockstep import LockstepRecord, run_three
from made_tables import spread
from shares import SharedTalk, shared_plan, shared_tables, with_cuts
from three_servers import make_servers, share

ROWS = 900
FEATURES = ("a", "b", "c")


def numbers(seed=0):
    """Features, one of which is constant, and a smooth score of sd 1."""
    rng = np.random.default_rng(seed)
    features = np.stack([rng.normal(size=ROWS).round(2), rng.normal(size=ROWS).round(2), np.full(ROWS, 7.0)])
    score = features[0] - 0.6 * features[1] * (features[0] > 0)
    return rng, features.astype(np.float32), score / score.std()


def plan_of(objective, rows, low=None, high=None, limit=None, base_score=None, **parameters) -> Plan:
    """A plan that leaves cuts and base score open; the label range and weight limit are the table's own unless given."""
    heaviest = None if rows.weight is None else float(rows.weight.max())
    plan = shared_plan(
        given=False, objective=objective, weight_limit=limit or heaviest, **{"rounds": 4, "max_depth": 3} | parameters
    )
    weight = None if rows.weight is None else "w"
    bounds = None
    if objective == "reg:squarederror":
        bounds = (float(rows.label.min()) if low is None else low, float(rows.label.max()) if high is None else high)
    plan = with_cuts(replace(plan, schema=Schema(FEATURES, "y", weight)), label_range=bounds)
    return replace(plan, parameters=replace(plan.parameters, base_score=base_score))


def trained(plan, rows, deal=None):
    """(Hansa's predictions, XGBoost's on the same bins and base score) of the rows that they were trained on."""
    xgboost = pytest.importorskip("xgboost")
    parts = spread(rows, np.arange(rows.n_rows) % 4 if deal is None else deal)
    run = share_in_process(plan, parts)
    start = run.members[plan.servers[0]]._server._start
    model = from_json(run.members["dune"].model)
    codes = np.stack(
        [np.searchsorted(start.cuts.of(f), column, side="right") for f, column in enumerate(rows.features)]
    )
    data = xgboost.QuantileDMatrix(codes.T.astype(np.float32), rows.label, weight=rows.weight, max_bin=256, nthread=1)
    given, positives = plan.parameters, float((rows.label == 1).sum())
    scale = (rows.n_rows - positives) / positives if given.scale_pos_weight == "auto" else given.scale_pos_weight
    parameters = {
        "objective": given.objective, "eta": given.eta, "max_depth": given.max_depth, "lambda": given.lambda_, "gamma": given.gamma,
        "min_child_weight": given.min_child_weight, "scale_pos_weight": scale, "tree_method": "hist", "max_bin": 256, "nthread": 1,
        "base_score": start.values.base_score[0],
    }  # fmt: skip
    theirs = xgboost.train(parameters, data, given.rounds).predict(data)
    return model.predict(rows.features).astype(np.float64), theirs.astype(np.float64)


def rmse(predicted, rows):
    return float(np.sqrt(np.mean((predicted - rows.label.astype(np.float64)) ** 2)))


def log_loss(predicted, rows):
    return float(-np.mean(np.log(np.where(rows.label == 1, predicted, 1 - predicted))))


LABELS = {
    "offset, range far too wide": (lambda r, s: 1e6 + s, {"low": 0.0, "high": 2e6}),
    "offset as in the shared case": (lambda r, s: 1e4 + s, {"low": -1e7, "high": 1e7}),
    "heavy tail": (lambda r, s: np.exp(1.5 * s + r.normal(size=ROWS)), {}),
    "one label far from all others": (lambda r, s: np.where(np.arange(ROWS) == 3, 3e4, s), {}),
    "huge": (lambda r, s: 1e9 * s, {}),
    "huge, with gamma": (lambda r, s: 1e9 * s, {"gamma": 3e19}),
    "small": (lambda r, s: 1e-2 * s, {}),
    "small, range far too wide": (lambda r, s: 1e-2 * s, {"low": -1e4, "high": 1e4}),
    "tiny: XGBoost splits no gain below 1e-6": (lambda r, s: 1e-9 * s, {}),
    "gamma above every gain": (lambda r, s: 1e-3 * s, {"gamma": 1e9}),
    "min_child_weight above every node": (lambda r, s: s, {"min_child_weight": 1e11}),
    "small eta": (lambda r, s: s, {"eta": 0.001}),
    "lambda 0": (lambda r, s: s, {"lambda": 0.0, "min_child_weight": 0.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_any_size(name):
    rng, features, score = numbers()
    make, given = LABELS[name]
    rows = Rows(features, make(rng, score).astype(np.float32), None)
    ours, theirs = trained(plan_of("reg:squarederror", rows, **given), rows)
    assert rmse(ours, rows) <= 1.01 * rmse(theirs, rows)
    if "above" not in name and "tiny" not in name and "eta" not in name:
        assert rmse(ours, rows) < 0.95 * rows.label.std(dtype=np.float64)


def weights_of_orders(rng, low, high):
    return 10 ** rng.uniform(low, high, ROWS)


def one_heavy(heavy, light):
    return lambda r: np.where(np.arange(ROWS) == 0, heavy, light)


WEIGHTS = {
    "one heavy row": (one_heavy(1e3, 0.1), {}),
    "one very heavy row": (one_heavy(1e4, 0.1), {}),
    "five orders": (lambda r: weights_of_orders(r, -2.5, 2.5), {}),
    "all tiny": (lambda r: np.full(ROWS, 1e-6), {"lambda": 1e-6, "min_child_weight": 1e-6}),
    "all tiny beside lambda": (lambda r: np.full(ROWS, 1e-6), {}),
    "all huge": (lambda r: np.full(ROWS, 1e6), {"min_child_weight": 1e7}),
    "limit far above all weights": (lambda r: 1 + r.random(ROWS), {"limit": 1e9}),
    "none at one owner": (lambda r: np.where(np.arange(ROWS) % 4 == 1, 0.0, 1 + r.random(ROWS)), {}),
    "min_child_weight": (lambda r: weights_of_orders(r, -1, 1), {"min_child_weight": 30.0}),
    "scale_pos_weight": (lambda r: weights_of_orders(r, -1, 1), {"scale_pos_weight": 500.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_weights_of_any_size(name, objective):
    rng, features, score = numbers(1)
    make, given = WEIGHTS[name]
    logistic = objective == "binary:logistic"
    if "scale_pos_weight" in given and not logistic:
        pytest.skip("squared error has no classes")
    label = (score + 0.3 * rng.normal(size=ROWS) > 0) if logistic else score
    rows = Rows(features, label.astype(np.float32), make(rng).astype(np.float32))
    ours, theirs = trained(plan_of(objective, rows, **given), rows)
    measure = log_loss if logistic else rmse
    assert measure(ours, rows) == pytest.approx(measure(theirs, rows), rel=0.01)


def cuts_of(rows, **given):
    """The cuts that servers find."""
    plan = plan_of("binary:logistic", rows, **given)
    run = share_in_process(plan, spread(rows, np.arange(rows.n_rows) % 4))
    return run.members[plan.servers[0]]._server._start.cuts


@pytest.mark.parametrize("limit", [None, 1e6])
def test_cuts_share_weight_and_a_whole_weight_is_so_many_copies(limit):
    """Every value is that of more rows than min_cell_rows; `limit` is far above all weights."""
    rng = np.random.default_rng(7)
    features = rng.integers(0, 40, (3, ROWS)).astype(np.float32)
    label = (features[0] + 10 * rng.normal(size=ROWS) > 20).astype(np.float32)
    weight = rng.integers(0, 4, ROWS)
    given = {"max_bin": 8, "rounds": 1, "max_depth": 1}
    weighted = cuts_of(Rows(features, label, weight.astype(np.float32)), limit=limit, **given)
    copies = cuts_of(Rows(np.repeat(features, weight, axis=1), np.repeat(label, weight), None), **given)
    plain = cuts_of(Rows(features, label, None), **given)
    assert np.array_equal(weighted.values, copies.values)
    assert not np.array_equal(weighted.values, plain.values)


@pytest.mark.parametrize("scale", ["auto", 5000.0, 0.013, 0.3])
def test_any_scale_pos_weight(scale):
    rng, features, score = numbers(2)
    noisy = score + 0.3 * rng.normal(size=ROWS)
    # Three positive rows: the weight of one is 299.
    label = noisy > (np.sort(noisy)[-4] if scale == "auto" else 0.0)
    rows = Rows(features, label.astype(np.float32), None)
    plan = plan_of("binary:logistic", rows, scale_pos_weight=scale, min_child_weight=0.0)
    ours, theirs = trained(plan, rows)
    assert log_loss(ours, rows) == pytest.approx(log_loss(theirs, rows), rel=0.01)


def test_metrics_know_no_scale_pos_weight():
    """As XGBoost's: held-out rows count alike, also where scale_pos_weight travels as weights, and auc can be had."""
    rng, features, score = numbers(3)
    rows = Rows(features, (score + 0.3 * rng.normal(size=ROWS) > 0).astype(np.float32), None)
    names = ["auc", "logloss"]
    plan = replace(plan_of("binary:logistic", rows, scale_pos_weight=400.0, eval_metric=names), evaluation_fraction=0.4)
    run = share_in_process(plan, spread(rows, np.arange(ROWS) % 4))
    out = held_out(rows.features, rows.label, HoldOut(0.4, 0))
    predicted = from_json(run.members["dune"].model).predict(rows.features[:, out]).astype(np.float64)
    held = Rows(rows.features[:, out], rows.label[out], None)
    history = run.members["aurora"].history
    assert set(history) == set(names)
    assert history["logloss"][-1][1] == pytest.approx(log_loss(predicted, held), rel=0.01)


# --- refused before rows leave ---------------------------------------------------------------------------------------


def refused(plan, rows):
    """The error of a run that stops before any owner shares a row."""
    shared = set()

    def note(name):
        def twist(to, said):
            if isinstance(said, ShareRows):
                shared.add(name)
            return said

        return twist

    parts = spread(rows, np.arange(rows.n_rows) % 4)
    talk = SharedTalk(plan, parts, twists={name: note(name) for name in plan.participants}).run()
    # Where the servers first open sums, whoever hears of the start first shares first.
    assert talk.raised_by not in shared
    assert not shared or plan.parameters.base_score is None
    talk.assert_failed_closed()
    return talk.error


def test_a_weight_that_would_be_lost_is_named():
    _, features, score = numbers()
    rows = Rows(features, (score > 0).astype(np.float32), one_heavy(1e9, 0.1)(None).astype(np.float32))
    error = refused(plan_of("binary:logistic", rows), rows)
    assert isinstance(error, DataError)
    assert "the weight is 0.1; the least weight that counts on shares is" in str(error)
    assert re.match(r"party '\w+': row \d+: the weight is", str(error))
    assert error.member in str(error)
    assert "make the greatest weights smaller" in str(error)


def test_a_limit_that_hides_weights_is_named_where_nothing_is_known_of_their_sum():
    _, features, score = numbers()
    rows = Rows(features, (score > 0).astype(np.float32), np.full(ROWS, 0.5, np.float32))
    plan = plan_of("binary:logistic", rows, limit=1e9, base_score=0.5)
    error = refused(plan, rows)
    assert isinstance(error, DataError)
    assert "row 1: the weight is 0.5" in str(error)
    assert "schema.weight_limit is 1e+09: lower schema.weight_limit" in str(error)


def test_a_range_that_dwarfs_the_labels_is_named_where_nothing_is_known_of_their_spread():
    _, features, score = numbers()
    rows = Rows(features, (1e6 + score).astype(np.float32), None)
    error = refused(plan_of("reg:squarederror", rows, low=0.0, high=2e6, base_score=1e6), rows)
    assert isinstance(error, DataError)
    assert "labels.range [0.0, 2000000.0] is 2e+06 wide" in str(error)
    assert "The widest range that works is about" in str(error)


def test_rows_of_one_class_that_scale_pos_weight_hides_are_named():
    _, features, score = numbers()
    rows = Rows(features, (score > 0).astype(np.float32), None)
    error = refused(plan_of("binary:logistic", rows, scale_pos_weight=1e6, base_score=0.5), rows)
    assert "scale_pos_weight" in str(error)


def test_rows_are_named_by_their_place_in_the_whole_table():
    """Not by that among the rows that are trained on or held out."""
    _, features, score = numbers()
    weight = np.full(ROWS, 1.0)
    rows = Rows(features, (score > 0).astype(np.float32), weight.astype(np.float32))
    plan = replace(plan_of("binary:logistic", rows, limit=1.0), evaluation_fraction=0.5)
    rows.weight[40] = 1e-12
    error = refused(plan, rows)
    assert "row 11: the weight is 1e-12" in str(error)


def test_labels_that_are_all_the_same_give_a_constant():
    _, features, _ = numbers()
    rows = Rows(features, np.full(ROWS, 3.25, np.float32), None)
    ours, _ = trained(plan_of("reg:squarederror", rows, low=0.0, high=10.0), rows)
    assert np.abs(ours - 3.25).max() < 1e-5


def test_all_weights_zero_cannot_start():
    _, features, score = numbers()
    rows = Rows(features, (score > 0).astype(np.float32), np.zeros(ROWS, np.float32))
    for objective in ("binary:logistic", "reg:squarederror"):
        error = refused(plan_of(objective, rows, limit=2.0), rows)
        assert isinstance(error, PlanError | ProtocolError)
        assert "all rows of all owners have weight 0; there is nothing to learn" in str(error)


# --- what the plan says, settings take -------------------------------------------------------------------------------

EXTREMES = {
    "eta": (2**-12, 1.0),
    "lambda": (0.0, 2.0**26),
    "gamma": (0.0, 1e30),
    "min_child_weight": (0.0, 1e30),
    "scale_pos_weight": (1e-6, 1e6, 0.3, 257.0),
    "base_score": (1e-6, 1 - 1e-6),
    "rounds": (1, 100_000),
    "max_depth": (1, 8),
    "max_bin": (2, 256),
}


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("name", EXTREMES)
def test_what_a_plan_may_say_is_never_refused_later(name, objective):
    for value in EXTREMES[name]:
        if objective == "reg:squarederror" and name == "scale_pos_weight":
            continue
        plan = shared_plan(given=False, objective=objective, **{name: value})
        settings = settings_of(plan, some_values(plan), 0, 1000)
        assert isinstance(settings, BoostingSettings)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"eta": 1e-5}, "parameter eta = 1e-05 is too little for coopetitive mode; at least 0.000244"),
        ({"lambda": 1e9}, "parameter lambda = 1000000000.0 is too much for coopetitive mode"),
        ({"base_score": 1e-9}, "parameter base_score = 1e-09: expected a probability from 1e-06 to 1 - 1e-06"),
        ({"max_depth": 9}, "parameter max_depth = 9 is too much"),
    ],
)
def test_what_shares_cannot_hold_is_refused_with_the_plan(given, said):
    with pytest.raises(PlanError, match=said.replace("+", r"\+")):
        shared_plan(given=False, **given)


def test_scale_pos_weight_travels_as_weights_where_rounding_would_change_it():
    assert all(plain_scale(s) for s in (1.0, 2.5, 614 / 3.0, 256.0, 2**-8, 0.5))
    assert not any(plain_scale(s) for s in (257.0, 614.0, 0.01, 0.3, 1e-3))
    plan = shared_plan(scale_pos_weight=1e6)
    settings = settings_of(plan, Values((0.5,), 1e6, (5e8,)), 0, 1000)
    # Half of the rows weigh 10^6: the mean weight is the unit.
    assert settings.weight_limit == 1 / 5e5
    assert settings.total_weight == 1000
    assert weight_bits(settings, 1000) >= 29 - 10


def test_the_model_ends_where_a_margin_left_its_range(monkeypatch):
    """The first tree pushes margins of 15.7 beyond 16: it is released, the two after it are not, and servers say so."""
    monkeypatch.setattr(training, "SERIES_NOISE", 0.0)
    plan = shared_plan(rounds=3, max_depth=1, eta=1.0, min_child_weight=0.0, **{"lambda": 0.0})
    # Nearer to 1 than a plan may say, so that few rounds suffice.
    monkeypatch.setattr(losses, "LEAST_PROBABILITY", 1e-9)
    plan = replace(plan, parameters=replace(plan.parameters, base_score=1 - 1.5e-7))
    tables = shared_tables()
    for rows in tables.values():
        rows.label[:] = rows.features[0] >= np.float32(-0.3)
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    assert {len(from_json(model).trees) for model in talk.models.values()} == {1}
    server, owner = talk.members["borealis"], talk.members["dune"]
    assert "of 3 rounds the first 1 are released" in server.cut
    assert owner.cut == ""
    assert "every margin stayed within +-16 for 1 of 3 rounds" in " ".join(server.openings)


@pytest.mark.parametrize("variance", [0, 70, 4**9 - 1, 4**9, 4**30 - 1, 4**30, 2**62 - 1])
def test_of_the_spread_its_power_of_four_is_opened(variance):
    mean = 12345
    shares = share(RING64, np.array([(variance + mean**2) % 2**64]).astype(np.uint64))
    programs = [spread_exponent(s, shares[s.index][:, 0], mean**2, Address(0, 0, 0, "spread")) for s in make_servers()]
    record = LockstepRecord()
    exponent = next(e for e in range(30, 2, -1) if variance >= 4**e or e == 3)
    assert run_three(programs, record, keep_views=True) == [exponent] * 3
    # 27 levels, of which those above the variance are said to be.
    words = [[array for _, _, array in view if array.dtype == np.uint64] for view in record.views]
    assert all(int(own[-1][0]).bit_count() <= 27 for own in words)
