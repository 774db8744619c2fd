"""Which rows are held out depends on what stands in them alone."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import naive_trees as naive
from hansa.data.holdout import (
    FOLDS,
    MOST_PAIRED,
    HoldOut,
    RowSample,
    equal_pairs,
    folds_by_contents,
    folds_by_subject,
    hash_subjects,
    held_out,
    keyed_digest,
)
from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.data.streamed import open_rows
from hansa.errors import DataError

floats = st.floats(width=32, allow_infinity=False)


@st.composite
def tables(draw):
    n_rows, n_features = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    features = draw(hnp.arrays(np.float32, (n_features, n_rows), elements=floats))
    labels = draw(hnp.arrays(np.float32, n_rows, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
    return features, labels


@settings(deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_rows_held_out_are_the_naive_ones(table, fraction, seed):
    features, labels = table
    expected = [naive.hash_row(row, label, seed) < fraction for row, label in zip(features.T, labels, strict=True)]
    assert held_out(features, labels, HoldOut(fraction, seed)).tolist() == expected


@settings(deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 2**63 - 1), st.data())
def test_any_split_and_order_holds_out_the_same_rows(table, fraction, seed, data):
    features, labels = table
    whole = held_out(features, labels, HoldOut(fraction, seed))
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    cut = data.draw(st.integers(0, len(labels)))
    for part in (order[:cut], order[cut:]):
        assert np.array_equal(held_out(features[:, part], labels[part], HoldOut(fraction, seed)), whole[part])


def test_equal_rows_stay_together():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 500)).astype(np.float32)
    features[0, ::5] = np.nan
    features[1, ::7] = 0.0
    twins = features.copy()
    twins[1, ::7] = -0.0
    twins[0, ::5] = np.uint32(0xFFC0_0001).view(np.float32)
    labels = np.zeros(500, np.float32)
    held = held_out(features, labels, HoldOut(0.5, 4))
    assert np.array_equal(held_out(twins, -labels, HoldOut(0.5, 4)), held)
    assert 150 < held.sum() < 350


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5])
def test_the_share_is_right_and_so_is_it_in_every_group(fraction):
    n = 40_000
    rng = np.random.default_rng(1)
    features = rng.integers(0, 10, size=(8, n)).astype(np.float32)
    labels = rng.integers(0, 2, size=n).astype(np.float32)
    held = held_out(features, labels, HoldOut(fraction, 0))
    for group in (np.ones(n, bool), labels == 1, features[0] < 3):
        assert abs(held[group].mean() - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / group.sum())


def test_another_seed_holds_out_other_rows():
    features = np.arange(4000, dtype=np.float32)[None]
    labels = np.zeros(4000, np.float32)
    first, second = held_out(features, labels, HoldOut(0.5, 0)), held_out(features, labels, HoldOut(0.5, 1))
    assert abs((first == second).mean() - 0.5) < 0.05


def test_nothing_and_everything():
    features, labels = np.ones((2, 5), np.float32), np.ones(5, np.float32)
    assert not held_out(features, labels, HoldOut(0.0, 0)).any()
    assert held_out(features, labels, HoldOut(1.0, 0)).all()


@settings(deadline=None)
@given(tables(), st.integers(2, 9), st.integers(0, 2**63 - 1))
def test_folds_are_the_naive_ones(table, folds, seed):
    features, labels = table
    rows = zip(features.T, labels, strict=True)
    expected = [int(naive.hash_row(row, label, seed ^ FOLDS) * folds) for row, label in rows]
    assert folds_by_contents(features, labels, folds, seed).tolist() == expected


def test_folds_are_of_one_size_and_do_not_follow_held_out_rows():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(3, 20_000)).astype(np.float32), np.zeros(20_000, np.float32)
    places, held = folds_by_contents(features, labels, 5, 4), held_out(features, labels, HoldOut(0.2, 4))
    assert np.abs(np.bincount(places) - 4_000).max() < 300
    assert np.abs(np.bincount(places[held]) - held.sum() / 5).max() < 150


def test_ids_hash_alike_in_every_kind_of_table(tmp_path):
    """As whole numbers, as texts, read at once and column by column."""
    ids = [7, 12, 7, 1_000_001]
    frame = pd.DataFrame({"load": [1.0, 2.0, 3.0, 4.0], "fault": [0, 1, 0, 1], "who": ids})
    frame.to_csv(tmp_path / "csv.csv", index=False)
    frame.to_parquet(tmp_path / "numbers.parquet")
    frame.assign(who=frame["who"].astype(str)).to_parquet(tmp_path / "texts.parquet")
    schema = Schema(("load",), "fault", id="who")
    expected = [int.from_bytes(hashlib.sha256(str(own).encode()).digest()[:8], "big") for own in ids]
    assert hash_subjects(map(str, ids)).tolist() == expected
    for name in ("csv.csv", "numbers.parquet", "texts.parquet"):
        assert read_rows(tmp_path / name, schema, label_kind="binary").subject.tolist() == expected
    with open_rows(tmp_path / "texts.parquet", schema, label_kind="binary", by_column=True) as rows:
        assert rows.subject.tolist() == expected
    other = replace(read_rows(tmp_path / "csv.csv", schema, label_kind="binary"), subject=hash_subjects(["7"] * 4))
    digests = {keyed_digest(b"key", own) for own in (other, replace(other, subject=hash_subjects(map(str, ids))))}
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("ids", "fault"),
    [
        (["a", None, "b", "NA"], r"row 2, column 'who': expected an id in every row, found a missing value"),
        (
            [1.0, 2.0, 3.0, 4.0],
            r"column 'who': expected texts or whole numbers, found the type DOUBLE; cast the column",
        ),
    ],
)
def test_ids_that_say_nobody_are_refused(tmp_path, ids, fault):
    frame = pd.DataFrame({"load": [1.0, 2.0, 3.0, 4.0], "fault": [0, 1, 0, 1], "who": ids})
    frame.to_parquet(tmp_path / "rows.parquet")
    schema = Schema(("load",), "fault", id="who")
    with pytest.raises(DataError, match=fault):
        read_rows(tmp_path / "rows.parquet", schema, label_kind="binary")
    with (
        pytest.raises(DataError, match=fault),
        open_rows(tmp_path / "rows.parquet", schema, label_kind="binary", by_column=True),
    ):
        pass
    found = check_rows(tmp_path / "rows.parquet", schema, label_kind="binary")
    assert [violation.column for violation in found.violations] == ["who"]


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=1, max_size=20), st.integers(2, 9), st.integers(0, 2**63 - 1))
def test_folds_by_subject_are_those_of_held_out_rows(subjects, folds, seed):
    found = folds_by_subject(subjects, folds, seed)
    empty, labels = np.zeros((1, len(subjects)), np.float32), np.zeros(len(subjects), np.float32)
    for fold in range(folds):
        rule = HoldOut(0.0, seed, folds, fold)
        assert (held_out(empty, labels, rule, hash_subjects(subjects)) == (found == fold)).all()
    assert len({(own, place) for own, place in zip(subjects, found.tolist(), strict=True)}) == len(set(subjects))


@pytest.mark.parametrize("kinds", [1, 2, 7, 50])
def test_pairs_of_equal_rows_are_counted(kinds):
    features = (np.arange(700) % kinds).astype(np.float32)[None]
    labels = np.zeros(700, np.float32)
    pairs = np.triu(features[0][:, None] == features[0][None, :], 1).sum() / (700 * 699 / 2)
    assert equal_pairs(features, labels) == pytest.approx(pairs)
    assert equal_pairs(features, np.arange(700, dtype=np.float32)) == 0


def test_pairs_of_many_rows_are_estimated_and_of_none_there_are_none():
    draw = np.random.default_rng(3)
    features = draw.integers(0, 20, (1, 300_000)).astype(np.float32)
    assert equal_pairs(features, np.zeros(300_000, np.float32)) == pytest.approx(1 / 20, rel=0.02)
    assert equal_pairs(features[:, :1], np.zeros(1, np.float32)) == 0
    assert equal_pairs(features[:, :0], np.zeros(0, np.float32)) == 0


@pytest.mark.parametrize("sizes", [(100_000, 150_000, 30), (50, 60), (1,)])
def test_samples_of_shards_are_one_of_the_whole(sizes):
    """Shards of other sizes are sampled alike: none counts for more than its rows."""
    draw = np.random.default_rng(5)
    shards = []
    for place, size in enumerate(sizes):
        shard = RowSample.of(size)
        shard.add(draw.integers(0, 2 + place, size).astype(np.float32))
        shards.append(shard)
    found = RowSample.joined(shards, sum(sizes))
    draw = np.random.default_rng(5)
    values = np.concatenate([draw.integers(0, 2 + place, size) for place, size in enumerate(sizes)])
    shares = np.unique(values, return_counts=True)[1] / len(values)
    assert len(found.hashes) <= 1.1 * MOST_PAIRED
    if sum(sizes) <= MOST_PAIRED:
        assert found.equal_pairs == equal_pairs(values.astype(np.float32)[None, :], np.zeros(len(values), np.float32))
    else:
        assert found.equal_pairs == pytest.approx(float(np.sum(shares**2)), rel=0.02)


def test_rows_in_a_cycle_are_no_sample_of_one_kind():
    """Rows are drawn by a hash of their numbers: evenly spaced ones would all be of the same kind."""
    features = (np.arange(2**20) % 64).astype(np.float32)[None]
    assert equal_pairs(features, np.zeros(2**20, np.float32)) == pytest.approx(1 / 64, rel=0.05)
