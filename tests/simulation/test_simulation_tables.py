"""Tables that one process holds: reading, splitting at random, writing a party's part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hansa.data.schema import Schema
from hansa.data.source import read_rows
from hansa.errors import DataError
from hansa.simulation.tables import Table, read_table, split_table, write_party_table
from made_consortium import write_table


def rows(n_rows: int, party: np.ndarray | None = None) -> Table:
    draw = np.random.Generator(np.random.PCG64(0))
    features = draw.normal(size=(2, n_rows)).astype(np.float32)
    label = (np.arange(n_rows) % 4 == 0).astype(np.float32)
    return Table(("a", 'b "quoted"'), features, label, None, np.full(n_rows, "all", object), {})


def test_text_becomes_codes_in_the_order_of_the_texts(tmp_path):
    path = write_table(tmp_path / "t.csv", {"who": ["x", "y", "x"], "kind": ["b", None, "a"], "y": [0, 1, 0]})
    table = read_table(path, "y", "who")
    assert table.names == ("kind",)
    assert table.categories == {"kind": ("a", "b")}
    np.testing.assert_array_equal(table.features, np.array([[1, np.nan, 0]], np.float32))
    assert list(table.party) == ["x", "y", "x"]


def test_a_split_is_stratified_complete_and_its_own(tmp_path):
    table = rows(400)
    train, test = split_table(table, 0.25, 3, stratified=True)
    assert (train.n_rows, test.n_rows) == (300, 100)
    assert test.label.sum() == 25
    values = np.sort(np.concatenate([train.features[0], test.features[0]]))
    np.testing.assert_array_equal(values, np.sort(table.features[0]))
    again = split_table(table, 0.25, 3, stratified=True)[1]
    np.testing.assert_array_equal(again.features, test.features)
    assert not np.array_equal(split_table(table, 0.25, 4, stratified=True)[1].features, test.features)


@pytest.mark.parametrize("stratified", [False, True])
def test_a_split_does_not_follow_parties_dealt_with_the_same_seed(stratified):
    """Parties dealt out by PCG64(seed) once got all or none of the test rows of the split with that seed."""
    for seed in range(5):
        draw = np.random.Generator(np.random.PCG64(seed))
        table = rows(4000)
        party = np.empty(table.n_rows, object)
        groups = [np.flatnonzero(table.label == v) for v in (0, 1)] if stratified else [np.arange(4000)]
        for group in groups:
            order = draw.permutation(group)
            for name, part in zip("abcd", np.array_split(order, 4), strict=True):
                party[part] = name
        dealt = Table(table.names, table.features, table.label, None, party, {})
        _, test = split_table(dealt, 0.25, seed, stratified)
        shares = [int((test.party == name).sum()) / 1000 for name in "abcd"]
        assert min(shares) > 0.18, shares
        assert max(shares) < 0.32, shares


def test_a_partys_table_reads_back_exactly(tmp_path):
    table = rows(50)
    table.features[0, ::7] = np.nan
    write_party_table(tmp_path / "p.parquet", table, ("y",), None)
    back = read_rows(tmp_path / "p.parquet", Schema(table.names, "y"), label_kind="binary")
    np.testing.assert_array_equal(back.features, table.features)
    np.testing.assert_array_equal(back.label, table.label)


def test_a_few_texts_among_numbers_are_a_mistake(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("who,a,y\n" + "".join(f"p,{'oops' if i == 7 else i},{i % 2}\n" for i in range(30)))
    with pytest.raises(DataError, match=r"row 8, column 'a': expected a number.*found 'oops' among 29 numbers; leave"):
        read_table(path, "y", "who")


def test_named_columns_become_categories(tmp_path):
    columns = {"who": ["x", "y", "x", "y"], "kind": ["b", None, "a", "12"], "site": [7, -3, None, 7], "y": [0, 1, 0, 1]}
    table = read_table(write_table(tmp_path / "t.csv", columns), "y", "who", categorical=("site", "kind"))
    assert table.categories == {"kind": ("12", "a", "b"), "site": (-3, 7)}
    np.testing.assert_array_equal(table.features, np.array([[2, np.nan, 1, 0], [1, 0, np.nan, 1]], np.float32))
    other = {"who": ["x"] * 3, "kind": ["c", None, "a"], "site": [8.5, None, 7], "y": [0, 1, 0]}
    test = read_table(write_table(tmp_path / "test.csv", other), "y", "who", like=table)
    # What is not known is of no category, not missing.
    np.testing.assert_array_equal(test.features, np.array([[3, np.nan, 1], [2, np.nan, 1]], np.float32))


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("load", r"row 2, column 'load': expected whole numbers below 2\^53, or texts, as categories, found '1\.5'"),
        ("y", "'y' is to be categorical, and is no feature"),
        ("none", "column 'none': no row has a value"),
    ],
)
def test_columns_that_cannot_be_categories_are_refused(tmp_path, column, named):
    columns = {"who": ["x", "y"], "load": [1, 1.5], "none": [None, None], "y": [0, 1]}
    with pytest.raises(DataError, match=named):
        read_table(write_table(tmp_path / "t.csv", columns), "y", "who", categorical=(column,))


def test_a_partys_categories_read_back_as_the_same_codes(tmp_path):
    table = rows(50)
    table.features[0] = np.arange(50) % 3
    table.features[1] = np.arange(50) % 2
    table.features[:, ::7] = np.nan
    levels = {"a": ("it's", "naïve", 'b "quoted"'), 'b "quoted"': (10**15, -4)}
    table = replace(table, categories=levels)
    write_party_table(tmp_path / "p.parquet", table, ("y",), None)
    schema = Schema(table.names, "y", categories=tuple(levels.values()))
    back = read_rows(tmp_path / "p.parquet", schema, label_kind="binary")
    np.testing.assert_array_equal(back.features, table.features)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_partys_dates_read_back_as_the_same_numbers(tmp_path, kind):
    """A party's table has the dates themselves; moments with a time zone stay moments."""
    moments = pd.date_range("2023-12-30 22:30:05", periods=60, freq="37h", tz="Europe/Helsinki").to_series()
    moments.iloc[::7] = pd.NaT
    frame = pd.DataFrame({"who": list("ab" * 30), "opened": moments.array, "y": [0, 1, 1] * 20, "a": 1.5})
    path = tmp_path / f"t.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, index=False)
    rules = {"opened": "days", "hour": "hour of opened"}
    table = read_table(path, "y", "who", dates=rules)
    assert table.names == ("opened", "a", "hour")
    assert table.take(table.party == "a").date_cells["opened"].shape == (30,)
    write_party_table(tmp_path / "p.parquet", table, ("y",), None)
    schema = Schema(table.names, "y", dates=tuple(rules.items()))
    back = read_rows(tmp_path / "p.parquet", schema, label_kind="binary")
    np.testing.assert_array_equal(back.features, table.features)
    assert np.isnan(back.features[0]).sum() == 9
