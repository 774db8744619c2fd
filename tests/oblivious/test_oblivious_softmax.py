"""Probabilities, gradients and metrics of several classes on shares against numpy's."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from hansa.errors import PlanError
from hansa.mpc.replicated import Address, together
from hansa.mpc.ring import BITS, RING32, RING64, unpack_bits
from hansa.oblivious import class_metrics, softmax
from hansa.oblivious import evaluation as ev
from hansa.oblivious.training import BoostingSettings, may_leave_range, rounds_in_range
from lockstep import LockstepRecord, run_three
from three_servers import make_servers, make_table, metric_program, reveal, share, train_openly

PLACE = Address(0, 0, 0, "classes")


def margins_of(classes, rows, spread=2.0, seed=0):
    """Multiples of 2^-14, as sums of leaves are, (K, rows)."""
    drawn = np.random.default_rng(seed).normal(size=(classes, rows)) * spread
    return np.round(np.clip(drawn, -7.9, 7.9) * 2**14) / 2**14


def words(margins):
    return np.round(margins * 2**26).astype(np.int64)


def one_hot(labels, classes):
    return (labels == np.arange(classes)[:, None]).astype(np.int64)


def probabilities(margins):
    powers = np.exp(margins - margins.max(axis=0))
    return powers / powers.sum(axis=0)


def opened_parts(server, shares, check):
    parts, outside, programs = yield from softmax.probability_parts(server, shares, PLACE, check)
    return np.stack(parts), outside + (yield from together(*programs))


def test_the_worked_example():
    assert doctest.testmod(softmax).failed == 0


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5, 8])
def test_probabilities(classes, check):
    margins = margins_of(classes, 3000, seed=classes)
    shares = share(RING32, words(margins))
    record = LockstepRecord()
    out = run_three([opened_parts(s, shares[s.index], check) for s in make_servers()], record)
    total = out[0][0] + out[1][0] + out[2][0]
    assert (total.sum(axis=0, dtype=np.uint64) == 1 << 56).all()
    error = total.view(np.int64) / 2.0**56 - probabilities(margins)
    assert np.abs(error).max() < 1e-5
    assert abs(error.mean()) < 1e-7
    halvings = (classes - 1).bit_length()
    assert record.rounds == halvings * (4 if check else 3) + (4 if check else 1)
    for bits in zip(*(own[1] for own in out), strict=True):
        assert not unpack_bits(reveal(BITS, list(bits)), 3000).any()


def test_probabilities_have_no_bias_at_one_row():
    margins = np.tile(np.array([[0.25], [-3.5], [1.125]]), 40000)
    shares = share(RING32, words(margins))
    out = run_three([opened_parts(s, shares[s.index], False) for s in make_servers()])
    found = (out[0][0] + out[1][0] + out[2][0]).view(np.int64) / 2.0**56
    assert found.std(axis=1).max() < 1e-6
    np.testing.assert_allclose(found.mean(axis=1), probabilities(margins)[:, 0], atol=3e-6)


def good_rounds(server, shares, rows):
    _, flags = yield from opened_parts(server, shares, True)
    return (yield from rounds_in_range(server, [flags], rows, PLACE.named("good")))


@pytest.mark.parametrize(
    ("row", "good"),
    [((0, 15.5, 1), 1), ((0, 16.5, 1), 0), ((-8, 8.5, 0), 0), ((12, -3.9, 14), 1), ((14, 0, 31), 0), ((0, 0, -30), 0)],
)
def test_a_row_whose_differences_leave_the_range_is_found(row, good):
    margins = margins_of(3, 100)
    margins[:, 77] = row
    shares = share(RING32, words(margins))
    assert set(run_three([good_rounds(s, shares[s.index], 100) for s in make_servers()])) == {good}


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients(weighted):
    classes, rows, bits, weight_bits = 4, 2000, 16, 10
    margins = margins_of(classes, rows, seed=9)
    labels = one_hot(np.random.default_rng(1).integers(0, classes, rows), classes)
    y = [share(RING32, own, 3 + k) for k, own in enumerate(labels)]
    w = np.random.default_rng(2).integers(0, 257, rows) / 128 if weighted else np.ones(rows)
    scaled = np.round(w * 2**weight_bits).astype(np.int64)
    shared_weights = [share(RING64, np.stack([scaled, scaled * own]), 9) for own in labels] if weighted else None
    m = share(RING32, words(margins))
    out = run_three(
        [
            softmax.softmax_gradients(
                s,
                m[s.index],
                [own[s.index] for own in y],
                None if shared_weights is None else [own[s.index] for own in shared_weights],
                [bits] * classes,
                [weight_bits] * classes,
                PLACE,
            )
            for s in make_servers()
        ]
    )
    p = probabilities(margins)
    for k in range(classes):
        vectors = reveal(RING32, [o[0][k][0] for o in out])[0].view(np.int32) / 2.0**bits
        absolute = reveal(RING32, [o[0][k][1] for o in out]).view(np.int32) / 2.0**bits
        expected = w * (p[k] - labels[k]), w * p[k] * (1 - p[k]), w * np.abs(p[k] - labels[k])
        for found, wanted in zip((vectors[0], vectors[1], absolute), expected, strict=True):
            # A unit of rounding, of |g| three.
            assert np.abs(found - wanted).max() < 4 * 2.0**-bits + 1e-5
            assert abs((found - wanted).mean()) < 0.2 * 2.0**-bits


@pytest.mark.parametrize(("classes", "more"), [(3, 7), (4, 7), (5, 10)])
def test_a_round_of_trees_takes_few_rounds_of_messages_more_than_one_against_the_rest(classes, more):
    candidates, codes, _ = make_table(200, 3, 7, seed=1)
    labels = one_hot(np.random.default_rng(0).integers(0, classes, 200), classes).astype(np.uint32)
    start = (0.0,) * classes
    rounds = []
    for given in ({"objective": "multi:softprob", "class_margins": start}, {"objective": "binary:logistic"}):
        counts = []
        for trees in (1, 2):
            record = LockstepRecord()
            settings = BoostingSettings(**given, rounds=trees, max_depth=2, leaf_limit=1.0)
            train_openly(candidates, codes, labels, [settings] * classes, record=record)
            counts.append(record.rounds)
        rounds.append(counts[1] - counts[0])
    assert rounds[0] - rounds[1] == more


# --- metrics ----------------------------------------------------------------------------------------------------------


def settings_of(classes, **more):
    return BoostingSettings("multi:softprob", 1, class_margins=(0.0,) * classes, **more)


def opened_metric(name, margins, labels, weights=None):
    x, y = share(RING32, words(margins), 1), share(RING32, labels, 2)
    w = [None] * 3
    if weights is not None:
        scaled = np.round(weights * 2**10).astype(np.int64)
        w = share(RING32, np.stack([scaled, scaled * labels[0]]), 3)
    settings = settings_of(len(margins), weight_limit=None if weights is None else 2.0)
    values = run_three(
        [metric_program(s, name, settings, x[s.index], y[s.index], w[s.index], PLACE, None) for s in make_servers()]
    )
    assert values[0] == values[1] == values[2]
    return values[0]


def naive_metric(name, margins, labels, weights):
    classes = labels.argmax(axis=0)
    if name == "merror":
        values = margins.argmax(axis=0) != classes
    else:
        values = -np.log(probabilities(margins)[classes, np.arange(len(classes))])
    return np.average(values, weights=weights)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("name", ["mlogloss", "merror"])
def test_metrics(name, classes, weighted):
    rows = 700
    margins = margins_of(classes, rows, seed=4)
    # Ties: the first of the highest is the prediction.
    margins[:, :200] = np.round(margins[:, :200])
    labels = one_hot(np.random.default_rng(5).integers(0, classes, rows), classes)
    weights = np.random.default_rng(6).integers(0, 65, rows) / 32 if weighted else None
    found = opened_metric(name, margins, labels, weights)
    assert found == pytest.approx(
        naive_metric(name, margins, labels, weights), abs=2e-5 if name == "mlogloss" else 1e-6
    )


@pytest.mark.parametrize(
    ("row", "fits"), [((0, 15, 1), True), ((0, 17, 1), False), ((-14, 1, 14.5), False), ((0, 0, -15.2), True)]
)
def test_held_out_rows_are_held_to_the_range(row, fits):
    margins = margins_of(3, 90)
    margins[:, 3] = row
    shares = share(RING32, words(margins))
    assert set(run_three([ev.all_in_range(s, shares[s.index], PLACE) for s in make_servers()])) == {fits}


def test_a_class_that_is_too_unlikely_is_out_of_range():
    """Every difference is within +-16, and yet the loss of the first class is above 28."""
    margins = np.zeros((4, 70))
    margins[:, 5] = (0, 15, 30, 30)
    shares = share(RING32, words(margins))
    found = run_three([class_metrics.rows_beyond(s, shares[s.index], PLACE) for s in make_servers()])
    bits = np.any([unpack_bits(reveal(BITS, list(own)), 70) for own in zip(*found, strict=True)], axis=0)
    assert np.flatnonzero(bits).tolist() == [5]


def test_metrics_go_with_their_objective():
    for name, settings in (("mlogloss", BoostingSettings("binary:logistic", 1)), ("auc", settings_of(3))):
        with pytest.raises(PlanError, match="does not go with"):
            ev.check_metric(name, settings)


def test_class_margins_go_with_the_softmax_alone():
    for objective, given in (("multi:softprob", ()), ("binary:logistic", (0.0, 1.0)), ("multi:softprob", (1.0, 2.0))):
        with pytest.raises(PlanError, match="class_margins"):
            BoostingSettings(objective, 1, class_margins=given)


def test_the_range_of_classes_counts_differences():
    settings = settings_of(3, leaf_limit=1.0)
    assert not may_leave_range(settings, 7)
    assert may_leave_range(settings, 8)
