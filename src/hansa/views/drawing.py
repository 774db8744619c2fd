"""Charts drawn by matplotlib: numbers in, figures out, and from there SVG (`svg`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from hansa.errors import HansaError
from hansa.views.chart import Bars, Chart, Dots, Grid, Lines, Shapes, short_name
from hansa.views.palette import KEYS, SERIES, Scheme
from hansa.views.svg import svg_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 5.4
"""Of every picture, in inches of 72 units."""

_INK, _MUTED, _LINE, _SURFACE = (KEYS[name] for name in ("ink", "muted", "line", "surface"))
_COLOURS = tuple(KEYS[name] for name in SERIES)
_MARKERS = ("o", "D", "s", "^", "v")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 3)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1, 1, 1, 1, 1)))
_STYLE: dict[str, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "font.family": ["sans-serif"],
    "font.size": 10.0,
    "text.color": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 6,
    "legend.frameon": False,
}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def check_drawing() -> None:
    """Raise HansaError where pictures cannot be drawn here, before work is done for them."""
    if not can_draw():
        raise HansaError("pictures need matplotlib: pip install 'hansa[views]'", cure="pip install 'hansa[views]'")


@functools.lru_cache(maxsize=256)
def draw(chart: Chart, alt: str, scheme: Scheme = "page", prefix: str = "") -> str:
    """A chart as SVG, see `svg_of`; the same one is drawn once. Raises HansaError where matplotlib is not installed."""
    check_drawing()
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        return svg_of(_figure(chart), scheme, alt, prefix)


def _figure(chart: Chart) -> Figure:
    match chart:
        case Lines():
            return _lines(chart)
        case Bars():
            return _bars(chart)
        case Dots():
            return _dots(chart)
        case Grid():
            return _grid(chart)
        case Shapes():
            return _shapes(chart)


def _canvas(height: float, width: float = WIDTH) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _lines(chart: Lines) -> Figure:
    """Gaps where a line has no value; single values are marked."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _canvas(2.9)
    if chart.diagonal:
        axes.plot([0, 1], [0, 1], transform=axes.transAxes, color=_MUTED, linewidth=0.8, zorder=1)
    few = all(len(each.x) <= 20 for each in chart.series)
    for place, each in enumerate(chart.series):
        values = [float("nan") if y is None else y for y in each.y]
        # Equal curves lie on each other: broken lines let the one below show.
        (line,) = axes.plot(
            each.x,
            values,
            color=_COLOURS[place % len(_COLOURS)],
            linewidth=1.9,
            linestyle=_DASHES[place % len(_DASHES)],
            marker=_MARKERS[place % len(_MARKERS)] if few else None,
            markersize=5,
            label=short_name(each.name, 40),
        )
        line.set_gid(f"series-{place}")
    if len(chart.series) > 1:
        axes.legend(loc="upper right" if chart.low else "lower right")
    if chart.diagonal:
        values = [v for each in chart.series for v in (*each.x, *each.y) if v is not None]
        low, high = min(values, default=0.0), max(values, default=1.0)
        pad = 0.05 * ((high - low) or 1.0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(low - pad, high + pad)
    if all(float(x).is_integer() for each in chart.series for x in each.x):
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    axes.set_xlabel(short_name(chart.x, 60))
    axes.set_ylabel(short_name(chart.y, 40))
    axes.tick_params(labelcolor=_MUTED)
    return figure


def _bars(chart: Bars) -> Figure:
    figure, axes = _canvas(0.6 + 0.31 * max(len(chart.bars), 1))
    values = [bar.value for bar in chart.bars]
    for row, bar in enumerate(chart.bars):
        (patch,) = axes.barh([row], [bar.value], height=0.62, color=_COLOURS[0])
        patch.set_gid(f"bar-{row}")
        axes.annotate(
            short_name(bar.text),
            (bar.value, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=_MUTED,
            size=9,
        )
    axes.set_yticks(range(len(chart.bars)), [short_name(bar.name) for bar in chart.bars])
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.15 * (max(values, default=1.0) or 1.0))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(short_name(chart.x, 60))
    return figure


def _dots(chart: Dots) -> Figure:
    legend_rows = (len(chart.runs) + 2) // 2
    figure, axes = _canvas(0.95 + 0.5 * len(chart.dots) + 0.22 * legend_rows)
    offsets = [0.16 * (place - (len(chart.runs) - 1) / 2) for place in range(len(chart.runs))]
    for row, dot in enumerate(chart.dots):
        for place, (together, offset) in enumerate(zip(dot.together, offsets, strict=True)):
            if together is None:
                continue
            if dot.alone is not None:
                ends = [dot.alone, together]
                axes.plot(ends, [row, row + offset], color=_MUTED, linewidth=2.2, alpha=0.45, zorder=2)
            (mark,) = axes.plot(
                [together], [row + offset], _MARKERS[place % 5], color=_COLOURS[place % 5], markersize=8.5, zorder=4
            )
            mark.set_gid(f"together-{place}-{row}")
        if dot.alone is not None:
            (mark,) = axes.plot([dot.alone], [row], "o", color=_MUTED, markerfacecolor=_SURFACE, markersize=8, zorder=3)
            mark.set_gid(f"alone-{row}")
    axes.plot([], [], "o", color=_MUTED, markerfacecolor=_SURFACE, markersize=7, label="alone")
    for place, run in enumerate(chart.runs):
        axes.plot([], [], _MARKERS[place % 5], color=_COLOURS[place % 5], markersize=7, label=short_name(run, 40))
    # Two columns: names of three modes beside each other are wider than the picture.
    figure.legend(loc="outside upper left", ncols=2, handletextpad=0.3, columnspacing=1.4, borderpad=0)
    axes.set_yticks(range(len(chart.dots)), [short_name(dot.name) for dot in chart.dots])
    axes.set_ylim(len(chart.dots) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    axes.set_xlabel(short_name(chart.x, 60))
    return figure


def _grid(chart: Grid) -> Figure:
    from matplotlib.patches import Rectangle

    n_rows, n_columns = len(chart.rows), len(chart.columns)
    figure, axes = _canvas(1.0 + 0.42 * n_rows)
    for row, counts in enumerate(chart.counts):
        total = sum(counts) or 1
        for column, count in enumerate(counts):
            share = count / total
            cell = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=_COLOURS[0], alpha=0.6 * share, edgecolor=_LINE)
            cell.set_gid(f"cell-{row}-{column}")
            axes.add_patch(cell)
            axes.text(column, row, f"{count:,}", ha="center", va="center", size=9 if n_columns < 8 else 7)
    axes.set_xlim(-0.5, n_columns - 0.5)
    axes.set_ylim(n_rows - 0.5, -0.5)
    axes.set_xticks(range(n_columns), [short_name(name, 12) for name in chart.columns])
    axes.set_yticks(range(n_rows), [short_name(name, 20) for name in chart.rows])
    axes.grid(visible=False)
    axes.set_xlabel(short_name(chart.x, 60))
    axes.set_ylabel(short_name(chart.y, 40))
    return figure


def _shapes(chart: Shapes) -> Figure:
    figure, axes = _canvas(1.9, 3.6)
    for place, shape in enumerate(chart.shapes):
        if not shape.bins:
            continue
        edges = [shape.bins[0][0], *(high for _, high, _ in shape.bins)]
        steps = axes.stairs(
            [height for _, _, height in shape.bins],
            edges,
            fill=place == 0,
            color=_COLOURS[place % 5],
            linestyle=_DASHES[place % 5],
            linewidth=1.6,
            alpha=0.55 if place == 0 and len(chart.shapes) > 1 else 1.0,
            label=short_name(shape.name, 30),
        )
        steps.set_gid(f"shape-{place}")
    if len(chart.shapes) > 1:
        axes.legend(loc="upper right", fontsize=9)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.set_xlabel(short_name(chart.x, 60))
    return figure
