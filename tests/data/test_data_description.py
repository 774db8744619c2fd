"""A description as it is saved, read again and shown."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from hansa.data.bin_counts import Layout
from hansa.data.description import FINE, Columns, Description, densities, describe_columns, short
from hansa.errors import DataError

COLUMNS = Columns(("load", "site", "fault"), ((), ("north", "south", "west"), (0, 1)))
LAYOUT = Layout(
    (np.array([0.0, 1.0], np.float32), np.zeros(0, np.float32), np.zeros(0, np.float32)), np.array([0, 3, 2])
)
TOLD = np.array([40, 30, 20, 10, 60, -1, -1, 0, 70, 30, 0])
OTHER = np.array([0, 40, 0])


def description(told=TOLD, members=None) -> Description:
    found = describe_columns(COLUMNS, LAYOUT, told, OTHER, 0.3, members)
    return Description(
        mode="federated",
        plan="p",
        run="r",
        rows=100,
        held_out=0,
        parties={"aurora": 60, "borealis": 40},
        min_cell_rows=10,
        features=found[:-1],
        label=found[-1],
    )


def test_a_description_survives_its_file():
    found = description(members={"aurora": TOLD * (TOLD > 0)})
    assert Description.from_json(found.to_json()) == found


def test_quantiles_are_the_bins_that_hold_them():
    (load, *_) = description().features
    assert [(each.percent, each.low, each.high) for each in load.quantiles] == [
        (5, None, 0.0),
        (25, None, 0.0),
        (50, 0.0, 1.0),
        (75, 0.0, 1.0),
        (95, 1.0, None),
    ]
    assert (load.missing, load.rows) == (10, 100)


def test_categories_with_too_few_rows_are_counted_together():
    site = description().features[1]
    assert [(each.level, each.rows) for each in site.categories] == [("north", 60)]
    assert (site.other, site.levels, site.rows) == (40, ("north", "south", "west"), 100)
    assert site.told.tolist() == [60, -1, -1, 0]


def test_the_frame_has_a_row_for_each_column():
    frame = description(members={"aurora": np.array([20, 15, 10, 5, 30, 10, 10, 0, 35, 15, 0])}).to_frame()
    assert frame["feature"].tolist() == ["load", "site", "fault"]
    assert frame["missing"].tolist() == [0.1, 0.0, 0.0]
    assert frame["psi_of"].tolist() == ["aurora"] * 3
    assert frame["psi"].max() < 0.05


def test_what_is_shown_says_what_is_not_told_and_escapes_names():
    told = TOLD.copy()
    told[[2, 3]] = [30, -1]
    found = description(told)
    shown = msgspec.structs.replace(found, parties={"<aurora>": 100})._repr_html_()
    assert "below 10 rows" in shown
    assert "&lt;aurora&gt;" in shown
    assert "100 rows of 2 parties" in repr(found)


def test_densities_are_rows_by_width_with_narrow_bins_joined():
    layout = Layout((np.array([0, 1, 1.01, 2], np.float32),), np.array([0]))
    (own,) = describe_columns(
        Columns(("load",), ((),)), layout, np.array([200, 200, 2, 198, 200, 0]), np.zeros(1, np.int64), 0.0
    )
    drawn = densities(own, FINE)
    assert [(low, high) for low, high, _ in drawn] == [(0.0, 1.0), (1.0, 2.0)]
    assert [tall for _, _, tall in drawn] == [1.0, 1.0]


def test_an_edge_beside_zero_is_shown_as_such():
    told = [short(value) for value in (0.0, 1.084e-19, -1.084e-19, 1234.56)]
    assert told == ["0", "0+", "0-", "1235"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("format", 2, "format"),
        ("rows", "many", "rows"),
        ("other", -1, "fewer than none"),
        ("levels", ["north"], "a category that is no level|neither"),
        ("high", 5.0, "do not rise"),
        ("more", 1, "unknown field"),
    ],
)
def test_a_file_that_is_no_description_is_refused(field, value, said):
    content = msgspec.json.decode(description().to_json())
    load = content["features"][0]
    {"other": load, "levels": load, "high": load["bins"][0]}.get(field, content)[field] = value
    with pytest.raises(DataError, match=said):
        Description.from_json(msgspec.json.encode(content))
    with pytest.raises(DataError, match="no description"):
        Description.from_json(b"\xff{")
