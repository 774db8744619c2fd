"""Real tables, end to end on shares: cuts, base score, trees, held-out metric; against float64 and against XGBoost."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from test_oblivious_quantile_search import search

import naive_mpc as naive
from hansa.data.binning import bin_rows
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.replicated import Address
from hansa.oblivious import evaluation as ev
from hansa.oblivious.base_score import pooled_sums
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.release import open_tree, release
from hansa.oblivious.shared_rows import label_words, receive_rows, share_rows
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from hansa.oblivious.training import (
    BoostingSettings,
    LabelScale,
    Sampling,
    boost,
    growth_of,
    rounds_in_range,
    start_margins,
)
from lockstep import run_three
from naive_mpc import leaf_of_codes
from three_servers import ALGORITHM, make_servers, metric_program, train_openly

TABLES = {
    "heart_disease": "disease",
    "higgs": "signal",
    "credit_default": "default",
    "cell_anomaly_4g": "unusual",
    "adult": "over_50k",
    "lte_drop_rate": "drop_rate",
}
ROUNDS, DEPTH, BINS = 12, 6, 32


def folder():
    """Where the real tables lie: where HANSA_DATA says, or in a folder `shared` above the checkout; None if nowhere."""
    if "HANSA_DATA" in os.environ:
        return Path(os.environ["HANSA_DATA"])
    for above in Path(__file__).resolve().parents:
        if (above / "shared" / "data" / "README.md").is_file():
            return above / "shared" / "data"
    return None


def read_table(name, label):
    """Features float32 (features, rows), text as codes, empty as NaN; labels float64."""
    with gzip.open(folder() / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        header, *rows = list(csv.reader(file))
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    labels = np.array(columns.pop(label), np.float64)
    columns.pop(header[0])
    features = []
    for column in columns.values():
        try:
            features.append([float(value) if value else np.nan for value in column])
        except ValueError:
            codes = {value: number for number, value in enumerate(sorted(set(column) - {""}))}
            features.append([codes.get(value, np.nan) for value in column])
    return np.array(features, np.float32), labels


def trained(features, labels, settings, scale):
    """Everything on shares: the opened trees of the first four fifths of the rows, and the metric of the others."""
    rows = len(labels)
    split = rows * 4 // 5
    _, cuts = search(np.ascontiguousarray(features[:, :split]), max_bin=BINS, min_cell_rows=10)
    sizes = np.diff(cuts.offsets)
    features = np.where(
        ~cuts.has_missing[:, None] & np.isnan(features), np.nanmin(features, 1, keepdims=True), features
    )
    candidates = Candidates(
        tuple(Feature(int(n), has_missing=bool(m)) for n, m in zip(sizes, cuts.has_missing, strict=True))
    )
    codes = bin_rows(np.ascontiguousarray(features), cuts).codes.astype(np.uint16)
    words = labels.astype(np.uint32) if scale is None else scale.words(labels)
    messages = [share_rows(candidates, codes[p], words[p], ALGORITHM) for p in (slice(0, split), slice(split, rows))]
    own_sum = words[:split].astype(np.uint32).view(np.int32).sum(dtype=np.int64)
    sums = share_vector(np.array([own_sum]), ALGORITHM)
    name = "auc" if scale is None else "rmse"

    def program(server):
        blocks, held_out = ([receive_rows(candidates, server.index, m[server.index], ALGORITHM)] for m in messages)
        total = receive_vector(server.index, sums[server.index], 1, ALGORITHM)
        (opened,) = yield from pooled_sums(server, total, Address(0, 0, 0, "base"))
        mean = opened / split / (1 if scale is None else 2.0**MARGIN_BITS)
        base = float(np.log(mean / (1 - mean))) if scale is None else mean
        own = BoostingSettings(**{**vars(settings), "base_margin": base})
        margins, others = start_margins(server, split, own), start_margins(server, rows - split, own)
        flags, trees = [], []
        for tree in range(ROUNDS):
            shares, margins, outside = yield from boost(
                server, candidates, blocks, label_words(blocks), margins, own, Sampling(), tree, 0
            )
            flags.append([] if outside is None else [outside])
            trees.append(release(shares))
            place = Address(0, tree, 0, "evaluation")
            others = others + (yield from ev.tree_margins(server, candidates, held_out, shares, place))
        end = Address(0, ROUNDS, 0, "end")
        assert (yield from rounds_in_range(server, flags, split, end)) == ROUNDS
        metric = yield from metric_program(server, name, own, others, label_words(held_out), None, end)
        return trees, metric, own

    results = run_three([program(s) for s in make_servers()])
    trees = [open_tree(candidates, DEPTH, {i: results[i][0][t] for i in range(3)}) for t in range(ROUNDS)]
    return candidates, codes, trees, results[0][1], results[0][2]


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_real_table(name):
    xgboost = pytest.importorskip("xgboost")
    if folder() is None:
        pytest.skip("the real tables are not here")
    features, labels = read_table(name, TABLES[name])
    order = np.random.default_rng(42).permutation(len(labels))
    features, labels = np.ascontiguousarray(features[:, order]), labels[order]
    split = len(labels) * 4 // 5
    regression = name == "lte_drop_rate"
    scale = LabelScale.of_range(labels.min(), labels.max(), (labels.min() + labels.max()) / 2) if regression else None
    objective = "reg:squarederror" if regression else "binary:logistic"
    settings = BoostingSettings(objective, rounds=ROUNDS, max_depth=DEPTH, leaf_bits=17 if regression else 14)
    candidates, codes, trees, metric, settings = trained(features, labels, settings, scale)

    oracle = labels[:split] if scale is None else (labels[:split] - scale.centre) / scale.scale
    row_bits = growth_of(settings, candidates, split).row_bits
    noise = float(np.hypot(0 if regression else 1.4e-5, 0.41 * 2.0**-row_bits))
    margins = np.full(len(labels), settings.base_margin)
    splits, gaps, unexplained, excess = 0, [], 0, 0.0
    for tree in trees:
        abort_reason = naive.judge_tree(candidates, codes[:split], oracle, margins[:split], tree, settings, noise=noise)
        splits, gaps = splits + abort_reason.splits, gaps + [gap for gap in abort_reason.gaps if gap > 1e-6]
        unexplained, excess = unexplained + abort_reason.unexplained, max(excess, abort_reason.leaf_excess)
        margins = margins + leaf_of_codes(candidates, tree, codes)
    assert unexplained == 0
    assert len(gaps) <= 0.005 * splits
    assert excess <= 1e-4

    held_out = slice(split, None)
    data, others = (xgboost.DMatrix(features.T[p], labels[p]) for p in (slice(0, split), held_out))
    parameters = {
        "objective": objective, "eta": 0.3, "max_depth": DEPTH, "max_bin": BINS, "tree_method": "hist", "nthread": 1,
    }  # fmt: skip
    theirs = xgboost.train(parameters, data, ROUNDS).predict(others, output_margin=True)
    if regression:
        expected = float(np.sqrt(np.mean((theirs - labels[held_out]) ** 2)))
        assert metric * scale.scale == pytest.approx(
            np.sqrt(np.mean((scale.centre + scale.scale * margins[held_out] - labels[held_out]) ** 2)), rel=1e-3
        )
        print(f"{name}: {splits} splits, {len(gaps)} gaps; RMSE {metric * scale.scale:.5f}, XGBoost {expected:.5f}")
        assert metric * scale.scale <= 1.01 * expected
        return
    ours, expected = (naive.metric("auc", m, labels[held_out]) for m in (margins[held_out], theirs))
    print(f"{name}: {splits} splits, {len(gaps)} gaps; AUC {ours:.5f} (on shares {metric:.5f}), XGBoost {expected:.5f}")
    assert metric == pytest.approx(ours, abs=1e-3)
    positives = labels[held_out].sum()
    error = np.sqrt(expected * (1 - expected) / min(positives, len(labels) - split - positives))
    assert ours >= expected - max(0.002, 2 * error)


def test_real_classes_one_against_the_rest():
    """Telstra's three severities, a subset of rows and of columns: splits are the argmax, and XGBoost on the same bins is no better."""
    xgboost = pytest.importorskip("xgboost")
    if folder() is None:
        pytest.skip("the real tables are not here")
    features, labels = read_table("telstra_faults", "fault_severity")
    rows = np.random.default_rng(42).permutation(len(labels))[:3000]
    busiest = np.sort(np.argsort(-(features[:, rows] != 0).sum(axis=1), kind="stable")[:24])
    features, labels = np.ascontiguousarray(features[busiest][:, rows]), labels[rows]
    is_class = (labels == np.arange(3)[:, None]).astype(np.uint32)
    split, rounds, depth = 2400, 6, 4
    _, cuts = search(np.ascontiguousarray(features[:, :split]), max_bin=BINS, min_cell_rows=10)
    assert not cuts.has_missing.any()
    candidates = Candidates(tuple(Feature(int(n)) for n in np.diff(cuts.offsets)))
    codes = bin_rows(features, cuts).codes.astype(np.uint16)
    shares = is_class[:, :split].mean(axis=1)
    settings = [
        BoostingSettings("binary:logistic", rounds=rounds, max_depth=depth, base_margin=float(np.log(s / (1 - s))))
        for s in shares
    ]
    trees = train_openly(candidates, codes[:split], is_class[:, :split], settings, (None, 0))
    ours = np.empty((3, len(labels)))
    noise = float(np.hypot(1.4e-5, 0.41 * 2.0 ** -growth_of(settings[0], candidates, split).row_bits))
    for k, own in enumerate(settings):
        margins = np.full(len(labels), own.base_margin)
        for tree in trees[k::3]:
            abort_reason = naive.judge_tree(
                candidates, codes[:split], is_class[k, :split], margins[:split], tree, own, noise=noise
            )
            assert abort_reason.unexplained == 0
            assert abort_reason.leaf_excess <= 1e-4
            margins = margins + leaf_of_codes(candidates, tree, codes)
        ours[k] = margins

    data = xgboost.DMatrix(codes[:split].astype(np.float32), is_class[:, :split].T)
    parameters = {
        "objective": "binary:logistic", "eta": 0.3, "max_depth": depth, "max_bin": 2 * BINS, "tree_method": "hist", "nthread": 1,
    }  # fmt: skip
    booster = xgboost.train(parameters, data, rounds)
    theirs = booster.predict(xgboost.DMatrix(codes[split:].astype(np.float32)), output_margin=True).T
    found, expected = (
        [naive.metric("auc", m[k], is_class[k, split:]) for k in range(3)] for m in (ours[:, split:], theirs)
    )
    positives = is_class[:, split:].sum(axis=1)
    error = float(np.sqrt(np.sum(np.multiply(expected, np.subtract(1, expected)) / positives))) / 3
    print(
        f"telstra_faults: AUC by class {np.round(found, 5)}, XGBoost {np.round(expected, 5)}, 2 errors {2 * error:.4f}"
    )
    assert min(expected) > 0.6
    assert np.mean(found) >= np.mean(expected) - max(0.01, 2 * error)
