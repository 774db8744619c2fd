"""Pictures show the numbers that they are given: points of the SVG lie where an axis puts them; no style, no script, the same twice."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.errors import HansaError
from hansa.views import drawing
from hansa.views.chart import Bar, Bars, Dot, Dots, Grid, Lines, Series, Shape, Shapes, View, number, short_name
from hansa.views.drawing import draw
from hansa.views.html import html_table, notebook_html, page_html
from hansa.views.palette import DARK, KEYS, LIGHT, SERIES

HOSTILE = '<script>alert("x")</script> $\\frac{1}{0$ & "id=\'#010101'
SVG = "{http://www.w3.org/2000/svg}"

LINES = Lines(
    x="trees",
    y="auc",
    series=(
        Series(name="train", x=(1, 2, 3, 4), y=(0.5, 0.7, 0.8, 0.85)),
        Series(name="held out", x=(1, 2, 4), y=(0.4, 0.65, 0.6)),
    ),
)
DOTS = Dots(
    x="auc",
    runs=("federated", "secure-aggregation", "coopetitive"),
    dots=(
        Dot(name="aurora", alone=0.9, together=(0.95, 0.951, 0.94)),
        Dot(name="borealis", alone=None, together=(0.8, 0.85, None)),
    ),
)
BARS = Bars(x="share, %", bars=(Bar(name="load", value=70.0, text="70"), Bar(name="rsrp", value=30.0, text="30")))
GRID = Grid(x="predicted", y="label", columns=("no", "yes"), rows=("no", "yes"), counts=((90, 10), (5, 20)))
SHAPES = Shapes(
    x="load",
    shapes=(
        Shape(name="all", bins=((0, 1, 0.5), (1, 3, 1.0))),
        Shape(name="mine", bins=((0, 1, 0.25), (1, 3, 0.75))),
    ),
)
CHARTS = (LINES, DOTS, BARS, GRID, SHAPES)


def parsed(chart, scheme="light", prefix=""):
    return ElementTree.fromstring(draw(chart, "what is seen", scheme, prefix))


def part(root, name):
    (found,) = [each for each in root.iter() if each.get("id") == name]
    return found


def path_points(element):
    """The points of the path of a group, in the picture's units."""
    (path,) = list(element.iter(f"{SVG}path"))[:1]
    return np.array([[float(v) for v in pair] for pair in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))])


def used_points(element):
    """Where marks are put."""
    return np.array([[float(each.get("x")), float(each.get("y"))] for each in element.iter(f"{SVG}use")])


def ticks(root, axis):
    """(value, place in the picture) of every labelled tick of an axis: what a reader reads the numbers off."""
    found = []
    place = "x" if axis == 1 else "y"
    for group in part(root, f"matplotlib.axis_{axis}"):
        lines = list(group.iter(f"{SVG}path"))
        texts = ["".join(each.itertext()).strip() for each in group.iter(f"{SVG}text")]
        if (group.get("id") or "").startswith("xtick" if axis == 1 else "ytick") and lines and texts:
            at = re.match(r"M (\S+) (\S+)", lines[0].get("d"))
            found.append((float(texts[0].replace("−", "-")), float(at[1] if place == "x" else at[2])))
    return found


def read_off(root, axis, places):
    """Values at places in the picture, by the axis's ticks."""
    known = ticks(root, axis)
    assert len(known) >= 2
    slope, start = np.polyfit([at for _, at in known], [value for value, _ in known], 1)
    return slope * np.asarray(places) + start


def test_a_line_goes_through_its_numbers():
    root = parsed(LINES)
    for place, series in enumerate(LINES.series):
        points = path_points(part(root, f"series-{place}"))
        np.testing.assert_allclose(read_off(root, 2, points[:, 1]), series.y, atol=1e-4)
        np.testing.assert_allclose(read_off(root, 1, points[:, 0]), series.x, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(values=st.lists(st.floats(-1e3, 1e3).map(lambda v: round(v, 3)), min_size=2, max_size=8))
def test_points_of_a_line_are_an_affine_image_of_any_numbers(values):
    chart = Lines(x="x", y="y", series=(Series(name="a", x=tuple(range(len(values))), y=tuple(values)),))
    points = path_points(part(parsed(chart), "series-0"))
    spread = max(values) - min(values)
    if len(points) == len(values) and spread > 0:  # equal neighbours may be one point to matplotlib
        low, high = points[np.argmin(values), 1], points[np.argmax(values), 1]
        np.testing.assert_allclose(
            points[:, 1], low + (np.array(values) - min(values)) / spread * (high - low), atol=0.01
        )
        assert high < low


def test_a_missing_value_is_a_gap():
    chart = Lines(x="x", y="y", series=(Series(name="a", x=(1, 2, 3, 4, 5), y=(1.0, 2.0, None, 2.0, 1.0)),))
    (path,) = list(part(parsed(chart), "series-0").iter(f"{SVG}path"))[:1]
    assert path.get("d").count("M") == 2


def test_marks_lie_where_the_metrics_are():
    root = parsed(DOTS)
    for row, dot in enumerate(DOTS.dots):
        for place, together in enumerate(dot.together):
            name = f"together-{place}-{row}"
            if together is None:
                assert name not in {each.get("id") for each in root.iter()}
            else:
                ((x, _),) = used_points(part(root, name))
                np.testing.assert_allclose(read_off(root, 1, [x]), [together], atol=1e-4)
    ((x, _),) = used_points(part(root, "alone-0"))
    np.testing.assert_allclose(read_off(root, 1, [x]), [0.9], atol=1e-4)
    assert "alone-1" not in {each.get("id") for each in root.iter()}


def test_bars_are_as_long_as_their_numbers():
    root = parsed(BARS)
    for row, bar in enumerate(BARS.bars):
        points = path_points(part(root, f"bar-{row}"))
        np.testing.assert_allclose(
            read_off(root, 1, [points[:, 0].min(), points[:, 0].max()]), [0, bar.value], atol=0.01
        )


def test_a_cell_is_as_dark_as_its_share_of_its_row():
    root = parsed(GRID)
    for row, counts in enumerate(GRID.counts):
        for column, count in enumerate(counts):
            (path,) = list(part(root, f"cell-{row}-{column}").iter(f"{SVG}path"))[:1]
            opacity = float(path.get("opacity", path.get("fill-opacity", 1)))
            assert opacity == pytest.approx(0.6 * count / sum(counts), abs=1e-3)


def test_a_shape_is_as_high_as_its_bins():
    root = parsed(SHAPES)
    heights = []
    for place in range(2):
        points = path_points(part(root, f"shape-{place}"))
        base = points[:, 1].max()
        heights.append({round(float(base - y), 3) for y in points[:, 1]} - {0.0})
    full = max(heights[0])
    assert sorted(each / full for each in heights[0]) == pytest.approx([0.5, 1.0], abs=1e-3)
    assert sorted(each / full for each in heights[1]) == pytest.approx([0.25, 0.75], abs=1e-3)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)
@pytest.mark.parametrize("scheme", ["light", "dark", "page"])
def test_a_picture_passes_a_strict_policy(chart, scheme):
    text = draw(chart, "what is seen", scheme, "p")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "what is seen"
    assert root.get("role") == "img"
    for element in root.iter():
        assert element.tag.removeprefix(SVG) in {"svg", "g", "defs", "path", "text", "use", "clipPath", "rect"}
        assert "style" not in element.attrib
        assert not any(name.startswith("on") for name in element.attrib)
        assert element.get("href", "#").startswith("#")
    assert not re.search(r"https?:", text.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert not any(key in text for key in KEYS.values())
    drawn = {each.lower() for each in re.findall(r'="(#[0-9a-f]{6})"', text)}
    allowed = set() if scheme == "page" else set((LIGHT if scheme == "light" else DARK).values())
    assert drawn <= allowed
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids))
    assert all(each.startswith("p-") for each in ids)
    for name in re.findall(r"url\(#([^)]+)\)", text) + [e.get("href")[1:] for e in root.iter() if e.get("href")]:
        assert name in ids
    assert text == draw.__wrapped__(chart, "what is seen", scheme, "p")


def test_names_of_others_are_texts():
    chart = Bars(x=HOSTILE, bars=(Bar(name=HOSTILE, value=1.0, text=HOSTILE),))
    view = View(name="a", title=HOSTILE, note=HOSTILE, table=((HOSTILE,), (HOSTILE,)), chart=chart, alt=HOSTILE)
    for text in (draw(chart, HOSTILE), page_html(HOSTILE, HOSTILE, [view]), notebook_html(HOSTILE, [view])):
        assert "<script" not in text
        assert "&lt;script&gt;" in text
    texts = [
        "".join(each.itertext()) for each in ElementTree.fromstring(draw(chart, HOSTILE, "light")).iter(f"{SVG}text")
    ]
    assert short_name(HOSTILE, 60) in texts
    assert short_name(HOSTILE) in texts


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_colours_stand_out_from_the_background(scheme):
    for name in SERIES:
        assert contrast(scheme[name], scheme["surface"]) >= 3, name
    for name in ("ink", "muted"):
        assert contrast(scheme[name], scheme["surface"]) >= 4.5, name


SEEN = {
    # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, matrix):
    parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / [0.9505, 1.0, 1.089] + 1e-9)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", [None, *SEEN])
def test_colour_blind_people_tell_series_apart(scheme, kind):
    matrix = np.eye(3) if kind is None else SEEN[kind]
    colours = [lab(scheme[name], matrix) for name in SERIES]
    for i, one in enumerate(colours):
        for other in colours[:i]:
            assert np.linalg.norm(one - other) > 10


def test_without_matplotlib_there_are_tables_and_pictures_are_refused(monkeypatch):
    view = View(name="a", title="Bars", table=(("feature",), ("load",)), chart=BARS, alt="bars")
    assert "<svg" in notebook_html("facts", [view])
    draw.cache_clear()
    monkeypatch.setattr(drawing, "can_draw", lambda: False)
    monkeypatch.setattr("hansa.views.html.can_draw", lambda: False)
    text = notebook_html("facts", [view])
    assert "<svg" not in text
    assert "<td>load</td>" in text
    with pytest.raises(HansaError, match=r"pictures need matplotlib: pip install 'hansa\[views\]'"):
        draw(BARS, "bars")


def test_a_page_loads_nothing_and_its_colours_are_defined():
    views = [View(name=f"v{i}", title="t", chart=chart, alt="a") for i, chart in enumerate(CHARTS)]
    text = page_html("Model", "facts", views)
    assert text.count("<svg") == len(CHARTS)
    assert not re.search(r"<script|<link|<img|@import|url\((?!#)", text)
    style = text[: text.index("</style>")]
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", text)):
        assert style.count(f"{variable}:") == 3, f"{variable} needs a colour for light, dark and paper"
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_numbers_and_tables_are_texts_for_people():
    assert [number(v) for v in (None, 0.12345, 12345.678)] == ["–", "0.1235", "12345.7"]
    assert html_table([["a"], ["<"]]) == (
        '<table><thead><tr><th scope="col">a</th></tr></thead><tbody><tr><td>&lt;</td></tr></tbody></table>'
    )
