"""Rows given as arrays are refused like a table that holds the same, in the same words, before anything is done with them."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from hansa.data.rows import check_arrays
from hansa.data.schema import Schema
from hansa.data.source import Rows, read_rows
from hansa.errors import DataError
from hansa.node.in_process import share_in_process, train_in_process
from hansa.plan import Coopetitive, Plan
from hansa.trees.parameters import parse_parameters

SCHEMA = Schema(("a", "b"), "y", "w")
PLAIN = Schema(("a", "b"), "y")
N_ROWS = 8


def rows(label=None, weight=None, features=None, schema=PLAIN):
    features = np.arange(2 * N_ROWS, dtype=np.float32).reshape(2, N_ROWS) if features is None else features
    label = np.arange(N_ROWS, dtype=np.float32) % 2 if label is None else np.asarray(label, np.float32)
    if schema.weight is not None and weight is None:
        weight = np.ones(N_ROWS)
    return Rows(features, label, None if weight is None else np.asarray(weight, np.float32))


def said_of_a_file(tmp_path, given, schema, kind):
    """What `read_rows` says of the same rows, without the file's name and without the cell, which a file has as text."""
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(schema.columns)
        columns = [*given.features, given.label, *([] if given.weight is None else [given.weight])]
        writer.writerows(["" if np.isnan(v) else f"{v:g}" for v in row] for row in zip(*columns, strict=True))
    with pytest.raises(DataError) as caught:
        read_rows(path, schema, label_kind=kind)
    return without_found(str(caught.value).removeprefix(str(path)))


def without_found(text):
    return [part.partition(", found ")[::2][0] for part in text.split("; ")]


LABELS = {
    "continuous": ("binary", [0, 1, 0.25, 0.5, 0, 1, 0, 1]),
    "-1 and 1": ("binary", [1, -1, 1, -1, 1, 1, 1, 1]),
    "1 and 2": ("binary", [1, 2, 1, 2, 1, 1, 1, 1]),
    "missing": ("binary", [0, 1, np.nan, 1, 0, 1, 0, 1]),
    "a class too many": (3, [0, 1, 2, 3, 0, 1, 2, 0]),
    "half a class": (3, [0, 1, 2, 1.5, 0, 1, 2, 0]),
    "a class below 0": (3, [0, 1, 2, -1, 0, 1, 2, 0]),
    "no number": ("numeric", [5, 6, np.nan, 1, 0, 1, 0, 1]),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_refused_as_a_files_are(tmp_path, case):
    kind, label = LABELS[case]
    with pytest.raises(DataError) as caught:
        check_arrays(rows(label), PLAIN, kind, "north")
    assert without_found(str(caught.value).removeprefix("party 'north'")) == said_of_a_file(
        tmp_path, rows(label), PLAIN, kind
    )
    assert str(caught.value).startswith("party 'north', row ")


@pytest.mark.parametrize("weight", [[1, 1, -1, 1] * 2, [1, np.nan, 1, 1] * 2])
def test_weights_are_refused_as_a_files_are(tmp_path, weight):
    given = rows(weight=weight)
    with pytest.raises(DataError) as caught:
        check_arrays(given, SCHEMA, "binary", "north")
    said = without_found(str(caught.value).removeprefix("party 'north'"))
    assert said == said_of_a_file(tmp_path, given, SCHEMA, "binary")


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.finfo(np.float32).max])
def test_what_float32_cannot_tell_from_infinity_is_refused(value):
    with pytest.raises(DataError, match=r"row 3, column 'y': expected a number below 3.4028235e38"):
        check_arrays(rows([0, 1, value, 1, 0, 1, 0, 1]), PLAIN, "numeric", "north")


@pytest.mark.parametrize(
    ("given", "schema", "said"),
    [
        (replace(rows(), label=np.zeros(N_ROWS)), PLAIN, r"column 'y': expected float32 .* float64\(8,\)"),
        (replace(rows(), label=np.zeros(N_ROWS, bool)), PLAIN, r"found bool\(8,\); convert"),
        (replace(rows(), label=[0.0, 1.0]), PLAIN, "found list; convert"),
        (replace(rows(), features=np.ma.zeros((2, N_ROWS), np.float32)), PLAIN, "found a masked array; write NaN"),
        (replace(rows(), label=np.ma.zeros(N_ROWS, np.float32)), PLAIN, "column 'y': .* found a masked array"),
        (
            replace(rows(schema=SCHEMA), weight=np.ma.ones(N_ROWS, np.float32)),
            SCHEMA,
            "column 'w': .* found a masked array",
        ),
        (replace(rows(), label=np.zeros((N_ROWS, 1), np.float32)), PLAIN, r"found float32\(8, 1\)"),
        (rows(schema=SCHEMA), PLAIN, "expected no weights, found some"),
        (rows(), SCHEMA, "column 'w': expected weights, found none"),
        (rows(features=np.zeros((3, N_ROWS), np.float32)), PLAIN, r"2 features of 8 rows.*\(3, 8\), \(8,\)"),
        (rows(features=np.zeros((N_ROWS, 2), np.float32)), PLAIN, r"give features as \(n_features, n_rows\)"),
        (rows(np.zeros(0), features=np.zeros((2, 0), np.float32)), PLAIN, "at least one row"),
        (rows(weight=np.ones(7)), SCHEMA, r"shapes \(2, 8\), \(8,\), \(7,\)"),
    ],
)
def test_arrays_of_other_kinds_and_shapes_are_refused(given, schema, said):
    with pytest.raises(DataError, match=rf"^party 'north'.*{said}"):
        check_arrays(given, schema, "binary", "north")


def plan_of(mode, objective):
    shares = mode == "coopetitive"
    more = Coopetitive(
        hub="post", servers=("north", "south", "west"), label_range=(-1, 1) if objective[0] == "r" else None
    )
    return Plan(
        name="arrays",
        mode=mode,
        aggregator="" if shares else "hub",
        parties=("north", "south", "west"),
        receivers=("north",),
        minimum_parties=3,
        schema=PLAIN,
        parameters=parse_parameters({"objective": objective, "rounds": 1, "max_bin": 4}),
        coopetitive=more if shares else None,
    )


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation", "coopetitive"])
@pytest.mark.parametrize("case", [name for name, (kind, _) in LABELS.items() if kind != 3])
def test_a_run_in_one_process_names_the_row_before_any_work(mode, case):
    kind, label = LABELS[case]
    plan = plan_of(mode, "binary:logistic" if kind == "binary" else "reg:squarederror")
    run = share_in_process if mode == "coopetitive" else train_in_process
    seen = []
    with pytest.raises(DataError, match=r"party 'south', row \d, column 'y': expected "):
        run(plan, {"north": rows(), "south": rows(label), "west": rows()}, report=seen.append)
    assert seen == []


def test_what_is_right_is_taken():
    check_arrays(rows(), PLAIN, "binary", "north")
    check_arrays(rows(weight=[0, 1] * 4), SCHEMA, "binary", "north")
    check_arrays(rows(weight=[0] * 8), SCHEMA, "binary", "north")  # other parties' rows may count
    check_arrays(rows(np.arange(8) % 3), PLAIN, 3, "north")
    check_arrays(rows(np.linspace(-1e38, 1e38, 8)), PLAIN, "numeric", "north")
