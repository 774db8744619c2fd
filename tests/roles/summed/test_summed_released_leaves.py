"""What the released model tells of the rows in its leaves: the attack by counting, and what the plan does against it, in every mode."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import xgboost as xgb

import naive_trees as naive
from conversation import Conversation
from hansa.errors import HansaError, ProtocolError
from hansa.node.in_process import share_in_process, train_in_process
from hansa.plan import Plan, Release
from hansa.protocol.messages import Finish, QuantiseGradients, SplitNodes, decode, encode, to_tensor
from hansa.roles.summed.statistics import rounded_leaf_bits
from hansa.trees.ensemble import Ensemble, Tree
from hansa.trees.xgboost_json import from_json
from made_tables import FEATURES, plan, spread, table
from shares import SharedTalk, shared_plan, shared_tables

N = 614
ROWS = table(N)
TABLES = spread(ROWS, np.arange(N) % 3)
SUMMING = ("federated", "secure-aggregation")
SILENT = Release(statistics=False)
COARSE = Release(statistics=False, least_choices=1000)


def released(mode: str, release: Release, **given: object) -> Plan:
    return replace(plan(tuple(TABLES), mode=mode, **given), release=release)


def model_of(given: Plan) -> Ensemble:
    if given.coopetitive is None:
        run = train_in_process(given, TABLES)
        assert {party.model for party in run.parties.values()} == {run.outcome.model}
        return run.outcome.ensemble
    tables = spread(ROWS, np.arange(N) % 4)
    return from_json(share_in_process(given, tables).members["dune"].model)


def leaf_of(tree: Tree, row: np.ndarray) -> int:
    node = 0
    while tree.left_children[node] >= 0:
        value = row[tree.split_indices[node]]
        left = tree.default_left[node] if np.isnan(value) else value < tree.split_conditions[node]
        node = int((tree.left_children if left else tree.right_children)[node])
    return node


def leaves(tree: Tree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a first tree's leaves, and the truth: rows, and rows with label 1."""
    at = np.array([leaf_of(tree, ROWS.features[:, i]) for i in range(N)])
    nodes = np.unique(at)
    rows = np.array([(at == node).sum() for node in nodes])
    positives = np.array([int(ROWS.label[at == node].sum()) for node in nodes])
    return tree.split_conditions[nodes].astype(np.float64), rows, positives


def fitting(values: np.ndarray, base: float, known: int, error: float, eta: float = 0.3) -> float:
    """The attack: how many numbers of rows, and of label 1, fit leaf values that are known to +- error.

    It has the number of all rows and of those with label 1, and the leaf values; nothing of the truth.
    """
    ways = np.zeros((N + 1, known + 1))
    ways[0, 0] = 1
    n = np.arange(1, N + 1)
    for value in values:
        slope = (n * base * (1 - base) + 1) / eta
        low = np.maximum(np.ceil(n * base + (value - error) * slope - 1e-9).astype(int), 0)
        high = np.minimum(np.floor(n * base + (value + error) * slope + 1e-9).astype(int), np.minimum(n, known))
        more = np.zeros_like(ways)
        for size, first, last in zip(n, low, high, strict=True):
            for k in range(first, last + 1):
                more[size:, k:] += ways[: N + 1 - size, : known + 1 - k]
        ways = more
    return float(ways[N, known])


def choices(model: Ensemble, error: float) -> float:
    values, rows, _ = leaves(model.trees[0])
    assert len(rows) == 8
    return fitting(values, model.base_score, int(ROWS.label.sum()), error)


@pytest.mark.parametrize("mode", SUMMING)
def test_leaves_as_they_are_tell_every_number_of_a_first_tree_and_rounded_ones_leave_the_choices(mode):
    given = released(mode, SILENT, rounds=1)
    assert choices(model_of(given), 1e-6) == 1
    assert choices(model_of(replace(given, release=replace(SILENT, leaf_bits=14))), 2.0**-15) == 1
    coarse = replace(given, release=COARSE)
    bits = rounded_leaf_bits(coarse, N, float(ROWS.label.mean()), 1.0)
    assert choices(model_of(coarse), 2.0 ** -(bits + 1)) >= 1000


def test_a_coopetitive_release_leaves_the_choices_unless_the_plan_says_otherwise():
    """Rounded at random on shares: a value may be off by a whole step either way."""
    given = replace(shared_plan(rounds=1, base_score=float(np.float32(ROWS.label.mean()))), release=Release())
    bits = rounded_leaf_bits(given, N, float(ROWS.label.mean()), 1.0)
    assert bits < 10
    model = model_of(given)
    values = leaves(model.trees[0])[0]
    assert np.array_equal(values * 2**bits, np.round(values * 2**bits))
    assert choices(model, 2.0 ** -(bits + 1)) >= 1000
    fine = model_of(replace(given, release=Release(leaf_bits=14)))
    assert choices(fine, 2.0**-14) < 1000
    assert not np.array_equal(leaves(fine.trees[0])[0] * 2**bits, np.round(leaves(fine.trees[0])[0] * 2**bits))


def test_covers_tell_rows_of_every_node_and_a_file_without_them_does_not():
    tree = model_of(released("federated", Release())).trees[0]
    at = np.array([leaf_of(tree, ROWS.features[:, i]) for i in range(N)])
    p = float(ROWS.label.mean())
    counts = {int(node): int((at == node).sum()) for node in np.unique(at)}
    assert {node: round(float(tree.sum_hessian[node]) / (p * (1 - p))) for node in counts} == counts
    silent = model_of(released("federated", SILENT))
    for tree in silent.trees:
        inner = tree.left_children >= 0
        assert not tree.sum_hessian.any()
        assert not tree.loss_changes.any()
        assert not tree.base_weights[inner].any()
        assert np.array_equal(tree.base_weights[~inner], tree.split_conditions[~inner])


@pytest.mark.parametrize("release", [Release(), SILENT])
def test_shap_values_need_covers(release):
    booster = xgb.Booster()
    booster.load_model(bytearray(train_in_process(released("federated", release), TABLES).outcome.model))
    data = xgb.DMatrix(ROWS.features.T, feature_names=list(FEATURES))
    assert np.isfinite(booster.predict(data, pred_contribs=True)).all() == release.statistics


@pytest.mark.parametrize("mode", SUMMING)
@pytest.mark.parametrize("release", [SILENT, COARSE, Release(leaf_bits=6)])
def test_every_release_predicts_in_xgboost_as_here(mode, release):
    run = train_in_process(released(mode, release), TABLES)
    booster = xgb.Booster()
    booster.load_model(bytearray(run.outcome.model))
    margins = booster.predict(xgb.DMatrix(ROWS.features.T, feature_names=list(FEATURES)), output_margin=True)
    assert np.array_equal(margins, run.outcome.ensemble.predict_margin(ROWS.features))
    assert {party.model for party in run.parties.values()} == {run.outcome.model}


def test_without_statistics_the_model_predicts_the_same_bits():
    with_them, without = (model_of(released("federated", release)) for release in (Release(), SILENT))
    assert np.array_equal(with_them.predict_margin(ROWS.features), without.predict_margin(ROWS.features))


def test_rounded_models_do_not_depend_on_how_rows_are_spread_or_on_the_mode():
    models = {train_in_process(released(mode, COARSE), TABLES).outcome.model for mode in SUMMING}
    other = spread(ROWS, np.arange(N) % 7 % 3)
    models.add(train_in_process(released("federated", COARSE), other).outcome.model)
    assert len(models) == 1


# --- what parties receive beside the leaves ----------------------------------------------------------------------------------


class Ear:
    """A hub that keeps what one party is told."""

    def __init__(self, hub, frames: list[bytes]) -> None:
        self._hub, self._frames = hub, frames

    def __getattr__(self, name: str):
        return getattr(self._hub, name)

    def send(self, member: str, frame) -> None:
        if member == "aurora":
            self._frames.append(bytes(frame))
        self._hub.send(member, frame)


def received(given: Plan) -> list[object]:
    """Every frame of the aggregator to one party."""
    frames: list[bytes] = []
    train_in_process(given, TABLES, wrap=lambda hub: Ear(hub, frames))
    return [decode("hub", frame) for frame in frames]


@pytest.mark.parametrize("mode", SUMMING)
@pytest.mark.parametrize("subsample", [1.0, 0.8])
def test_scales_and_the_built_children_say_nothing_of_the_sums_of_rounded_leaves(mode, subsample):
    """Scales of the next tree follow from the leaves' hessians, nearly to the bit, and the lighter child is built: both would tell
    choices apart that fit the values.
    """
    told = received(released(mode, COARSE, subsample=subsample))
    scales = [m for m in told if isinstance(m, QuantiseGradients)]
    splits = [m for m in told if isinstance(m, SplitNodes)]
    scales += [m.then for m in splits if m.then is not None]
    assert len(scales) == 3
    # (2^31 - 1 - N) / 2^k: only the power of two depends on the rows.
    assert len({scale.gradient_scale / 2.0 ** np.floor(np.log2(scale.gradient_scale)) for scale in scales}) == 1
    assert all(set(bytes(m.build_left.data)) <= {1} for m in splits)
    plain = received(released(mode, SILENT))
    scales = [m.then for m in plain if isinstance(m, SplitNodes) and m.then is not None]
    mantissas = [np.frexp(scale.gradient_scale)[0] for scale in scales]
    assert all(a != b for a, b in pairwise(mantissas))


@pytest.mark.parametrize("mode", SUMMING)
def test_a_leaf_finer_than_the_plan_leaves_it_is_refused(mode):
    talk = Conversation(released(mode, COARSE), TABLES)
    message = talk.until(SplitNodes, "borealis", 3)
    values = np.frombuffer(message.child_leaf.data, np.float32).copy()
    values[0] += np.float32(2.0**-12)
    lie = msgspec.structs.replace(message, child_leaf=to_tensor(values))
    with pytest.raises(ProtocolError, match=r"'hub'.*a leaf value is finer than the 7 fraction bits"):
        talk.deliver("borealis", encode(lie))


@pytest.mark.parametrize("mode", SUMMING)
@pytest.mark.parametrize("name", ["sum_hessian", "loss_changes", "base_weights"])
def test_a_file_with_statistics_is_refused_where_the_plan_releases_none(mode, name):
    talk = Conversation(released(mode, SILENT), TABLES)
    message = talk.until(Finish, "borealis")
    document = json.loads(zlib.decompress(message.model))
    document["learner"]["gradient_booster"]["model"]["trees"][0][name][0] = 1.5
    raw = json.dumps(document, separators=(",", ":")).encode()
    lie = Finish(message.trees, hashlib.sha256(raw).digest(), zlib.compress(raw))
    with pytest.raises(ProtocolError, match=r"'hub'.*not the one that the splits and leaves"):
        talk.deliver("borealis", encode(lie))


# --- few rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", SUMMING)
def test_a_number_of_choices_that_the_rows_do_not_give_is_refused(mode):
    few = spread(table(90), np.arange(90) % 3)
    with pytest.raises(HansaError, match=r"90 rows in training are too few for release\.least_choices = 1000"):
        train_in_process(released(mode, COARSE), few)


def test_on_shares_too_but_not_where_it_is_the_modes_default():
    asked = replace(shared_plan(), release=Release(least_choices=1000))
    error = SharedTalk(asked, shared_tables(100)).run().error
    assert "100 rows in training are too few for release.least_choices = 1000" in str(error)
    assert SharedTalk(replace(asked, release=Release()), shared_tables(100)).run().error is None


def test_the_naive_count_and_the_attack_here_agree():
    values, rows, positives = leaves(model_of(released("federated", replace(SILENT, leaf_bits=8), rounds=1)).trees[0])
    found = fitting(values, float(np.float32(ROWS.label.mean())), int(positives.sum()), 2.0**-9)
    told, _ = naive.choices_of_rows(rows, positives, 8, 0.3, 1.0)
    assert found == pytest.approx(told, rel=0.2)


@pytest.mark.parametrize(
    "given",
    [
        {"mode": "secure-aggregation", "verify_counts": "after"},
        {"mode": "secure-aggregation", "verify_counts": "before"},
        {"mode": "federated", "dominance": True},
    ],
    ids=str,
)
def test_given_bits_go_with_what_else_a_plan_asks_of_nodes(given):
    chosen = replace(plan(tuple(TABLES)), release=Release(leaf_bits=6), **given)
    run = train_in_process(chosen, TABLES)
    assert {party.model for party in run.parties.values()} == {run.outcome.model}
    assert run.outcome.ensemble.trees[0].num_nodes > 7


def test_early_stopping_and_held_out_rows_go_with_rounded_leaves():
    given = plan(tuple(TABLES), evaluation=0.2, rounds=30, eta=1.0, early_stopping_rounds=2)
    run = train_in_process(replace(given, release=Release(statistics=False, least_choices=100)), TABLES)
    assert len(run.outcome.ensemble.trees) < 30
    assert {party.model for party in run.parties.values()} == {run.outcome.model}
