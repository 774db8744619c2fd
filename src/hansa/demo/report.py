"""The demo's report: cases in, one self-contained HTML page out. No network, no scripts, light and dark.

Figures are drawn by matplotlib and stand in the page as SVG. Their colours are CSS variables: each is drawn
in a key colour that `_adopt` replaces, so that one picture suits both colour schemes. The caller computes
every number; this module only shows them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from hansa.errors import DataError
from hansa.exposure import EXPOSURE, VERIFIED
from hansa.files import write_whole
from hansa.plan import DEFAULT_VERIFY_COUNTS, MASKED


@dataclass(frozen=True)
class PartyTraffic:
    """Bytes that one party sent (`bytes_up`) and received (`bytes_down`) during one run."""

    bytes_up: int
    bytes_down: int


@dataclass(frozen=True)
class PartyResult:
    """One organisation: its rows, and the metric of a model trained on nothing else.

    Attributes:
        rows: training rows. test_rows: its rows that were held out; `alone` and `together` are computed on
        them. positive_share: share of ones among its training labels, 0 to 1; None for a regression. alone:
        metric on its test rows; None where it could not train or be judged alone, as with one class only.
    """

    name: str
    rows: int
    test_rows: int
    positive_share: float | None
    alone: float | None


@dataclass(frozen=True)
class SentMessage:
    """One kind of message that left the organisations: what it holds, and who could read it."""

    what: str
    readable_by: str


@dataclass(frozen=True)
class ModeResult:
    """One run of the protocol in one mode.

    Attributes:
        mode: "federated", "secure-aggregation", ...
        together: party -> metric on its test rows; None where its test rows have one class only.
        traffic: party -> bytes.
        metric: metric on the test rows of all parties together.
        seconds: wall-clock time of the whole run.
        round_trips_per_tree: messages that a party waits for, per tree.
        sent: what left the organisations; `SENT` has the texts per mode.
        guarantee: what this mode protects and what it does not; `GUARANTEE` has the texts.
    """

    mode: str
    together: Mapping[str, float | None]
    traffic: Mapping[str, PartyTraffic]
    metric: float
    seconds: float
    round_trips_per_tree: float
    sent: Sequence[SentMessage]
    guarantee: str


@dataclass(frozen=True)
class CaseResult:
    """All that the page shows of one case.

    Attributes:
        title, description: plain text. simulated: True where no row was ever measured. metric: name as
        printed, such as "AUC" or "RMSE (%)". higher_is_better: False for errors such as RMSE. trees: number
        of trees in the model. parties: in the order to show. modes: at least one run, in the order to show;
        every run names the same parties. pooled: name -> test metric of a model trained on all rows in one
        place, such as "XGBoost" and "Hansa". curves: series -> metric after each tree; a series may stop
        early. importance: feature -> gain, any positive unit; the page shows shares of the sum, the largest
        15.
    """

    title: str
    description: str
    simulated: bool
    metric: str
    higher_is_better: bool
    trees: int
    parties: Sequence[PartyResult]
    modes: Sequence[ModeResult]
    pooled: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    importance: Mapping[str, float] = field(default_factory=dict)


_STATISTICS = (
    "Counts of rows per cell of each feature's range, refined in a few rounds, to place the cut points",
    "For each tree node, the sums of gradients and hessians per bin of each feature",
    "For each tree, the sums that set the gradient scale, and label counts",
    "Histograms of scores per class, from which metrics are computed",
)
_BROADCAST = SentMessage(
    "Downwards: cut points, base score, each split and leaf of the growing model, metrics", "every member"
)
_ROW_COUNT = SentMessage("The number of its rows", "the aggregator")

SENT: Mapping[str, tuple[SentMessage, ...]] = {
    "federated": (
        *(SentMessage(what, "the aggregator, party by party") for what in _STATISTICS),
        _ROW_COUNT,
        _BROADCAST,
    ),
    "secure-aggregation": (
        *(SentMessage(what, "nobody; the aggregator reads the sum over all parties") for what in _STATISTICS),
        _ROW_COUNT,
        _BROADCAST,
    ),
    "coopetitive": (
        SentMessage(
            "rows and labels, as three parts of which each alone is noise",
            "nobody; each of the three servers holds two",
        ),
        SentMessage(
            "answers to the search for cuts: counts, in parts", "nobody; the servers see on which side a cut lies"
        ),
        _ROW_COUNT,
    ),
}
"""Mode -> what leaves a party in that mode."""

GUARANTEE: Mapping[str, str] = {
    mode: " ".join([*sentences, VERIFIED[DEFAULT_VERIFY_COUNTS]] if mode == MASKED else sentences)
    for mode, sentences in EXPOSURE.items()
}
"""Mode -> who can read what in it, with what the demo's plans leave at its default."""

TOP_FEATURES = 15

# Key colour in matplotlib -> CSS variable in the page. Keys are colours that nothing else would draw.
_COLOURS = {
    "#010101": "--ink",
    "#020202": "--muted",
    "#030303": "--line",
    "#040404": "--surface",
    "#050501": "--series-1",
    "#050502": "--series-2",
    "#050503": "--series-3",
    "#050504": "--series-4",
    "#050505": "--series-5",
    "#050506": "--series-6",
}
_INK, _MUTED, _LINE, _SURFACE = list(_COLOURS)[:4]
_SERIES = list(_COLOURS)[4:]
_MARKERS = ("o", "D", "s", "^")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
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
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.7,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _INK,
    "legend.frameon": False,
}
_TAG = re.compile(r"<[^>]*>")
_IDENTIFIER = re.compile(r'(\bid="|href="#|url\(#)')
_NAMESPACE = re.compile(r'\s+xmlns(:xlink)?="[^"]*"')


def write_report(path: str | Path, cases: Sequence[CaseResult]) -> None:
    """Write the report page of all cases to `path` (UTF-8 HTML, one file, nothing loaded from elsewhere).

    Raises:
        DataError: there is no case, or a case's runs do not name the same parties as its table. OutputError: it cannot be written.
    """
    write_whole(Path(path), render_report(cases).encode("utf-8"), private=False)


def render_report(cases: Sequence[CaseResult]) -> str:
    """The page of `write_report` as text. Every string of a case is escaped. Raises DataError."""
    if not cases:
        raise DataError("write_report: no cases to show; give at least one CaseResult")
    for case in cases:
        _check(case)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"bytes": _bytes, "metric": _metric, "percent": _percent, "count": _count}
    source = resources.files("hansa.demo").joinpath("report.html.j2").read_text(encoding="utf-8")
    shown = [(case, _figures(case, f"case{index}")) for index, case in enumerate(cases, start=1)]
    return environment.from_string(source).render(shown=shown)


def _check(case: CaseResult) -> None:
    """Raise DataError where the runs of a case do not fit its parties."""
    names = [party.name for party in case.parties]
    if not case.modes:
        raise DataError(f"report: case {case.title!r} has no runs; give at least one ModeResult")
    for run in case.modes:
        for what, given in (("together", run.together), ("traffic", run.traffic)):
            if sorted(given) != sorted(names):
                raise DataError(
                    f"report: case {case.title!r}, mode {run.mode!r}: {what} names {sorted(given)}, "
                    f"the case's parties are {sorted(names)}; give one entry per party"
                )


def _figures(case: CaseResult, prefix: str) -> dict[str, Markup]:
    """Name -> inline SVG, of the figures that the case has numbers for."""
    drawings: dict[str, tuple[bool, Callable[[CaseResult], Figure]]] = {
        "parties": (True, draw_alone_against_together),
        "curves": (bool(case.curves), draw_learning_curves),
        "importance": (bool(case.importance), draw_importance),
    }
    figures = {}
    for name, (wanted, draw) in drawings.items():
        if wanted:
            with matplotlib.rc_context(_STYLE):
                figures[name] = Markup(_adopt(_svg(draw(case)), f"{prefix}-{name}"))
    return figures


def draw_alone_against_together(case: CaseResult) -> Figure:
    """Per party, the metric alone (ring) and together (filled; one marker per mode), joined by a line."""
    figure, axes = _canvas(5.4, 1.2 + 0.5 * len(case.parties))
    offsets = [0.16 * (i - (len(case.modes) - 1) / 2) for i in range(len(case.modes))]
    for row, party in enumerate(case.parties):
        for index, (run, offset) in enumerate(zip(case.modes, offsets, strict=True)):
            together = run.together[party.name]
            if together is not None and party.alone is not None:
                ends = [party.alone, together]
                axes.plot(ends, [row, row + offset], color=_MUTED, linewidth=2.2, alpha=0.45, zorder=2)
            if together is not None:
                marker = _MARKERS[index % len(_MARKERS)]
                axes.plot(
                    [together],
                    [row + offset],
                    marker,
                    color=_SERIES[index % len(_SERIES)],
                    markersize=8.5,
                    zorder=4,
                )
        if party.alone is not None:
            axes.plot([party.alone], [row], "o", color=_MUTED, markerfacecolor=_SURFACE, markersize=8, zorder=3)
    _mark_in_legend(axes, case)
    axes.set_yticks(range(len(case.parties)), [_short(party.name) for party in case.parties])
    axes.set_ylim(len(case.parties) - 0.5, -0.5)
    axes.tick_params(axis="both", length=0, pad=7)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)
    axes.set_xlabel(_axis_label(case))
    return figure


def _mark_in_legend(axes: Any, case: CaseResult) -> None:
    axes.plot([], [], "o", color=_MUTED, markerfacecolor=_SURFACE, markersize=7, label="alone")
    for index, run in enumerate(case.modes):
        label = "together" if len(case.modes) == 1 else f"together, {_short(run.mode)}"
        marker, colour = _MARKERS[index % len(_MARKERS)], _SERIES[index % len(_SERIES)]
        axes.plot([], [], marker, color=colour, markersize=7, label=label)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        handletextpad=0.3,
        columnspacing=1.4,
        borderpad=0,
    )


def draw_learning_curves(case: CaseResult) -> Figure:
    """Metric after each tree, one line per series of `case.curves`."""
    figure, axes = _canvas(5.4, 2.9)
    for index, (name, values) in enumerate(case.curves.items()):
        # Equal curves lie on each other: broken lines let the one below show.
        style = "-" if index == 0 else (0, (5, 2 + index))
        colour = _SERIES[index % len(_SERIES)]
        trees = range(1, len(values) + 1)
        axes.plot(trees, values, color=colour, linewidth=1.9, linestyle=style, label=_short(name))
    axes.legend(loc="lower right" if case.higher_is_better else "upper right")
    axes.set_xlabel("trees")
    axes.set_ylabel(_axis_label(case))
    axes.tick_params(length=0, pad=6, labelcolor=_MUTED)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", visible=False)
    return figure


def draw_importance(case: CaseResult) -> Figure:
    """Horizontal bars: share of the model's total gain, per cent, of the `TOP_FEATURES` largest features."""
    total = sum(case.importance.values()) or 1.0
    ranked = sorted(case.importance.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP_FEATURES]
    shares = [100.0 * gain / total for _, gain in ranked]
    figure, axes = _canvas(5.4, 0.6 + 0.31 * len(ranked))
    axes.barh(range(len(ranked)), shares, height=0.62, color=_SERIES[0])
    for row, share in enumerate(shares):
        axes.annotate(
            f"{share:.1f}",
            (share, row),
            (5, 0),
            textcoords="offset points",
            va="center",
            color=_MUTED,
            size=9,
        )
    axes.set_yticks(range(len(ranked)), [_short(name) for name, _ in ranked])
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    axes.set_xlim(0.0, 1.1 * max(*shares, 1.0))
    axes.tick_params(axis="both", length=0, pad=6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("share of the model's gain, %")
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    """The figure as an SVG document; the same bytes for the same figure."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "hansa"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _adopt(document: str, prefix: str) -> str:
    """Make an SVG document a part of the page: no prologue, ids of its own, colours from the page."""

    def rewrite(match: re.Match[str]) -> str:
        tag = _NAMESPACE.sub("", _IDENTIFIER.sub(rf"\g<1>{prefix}-", match.group()))
        for colour, variable in _COLOURS.items():
            tag = tag.replace(colour, f"var({variable})")
        return tag

    # matplotlib escapes <, > and & in texts, so only true tags match; texts stay as they are.
    return _TAG.sub(rewrite, document[document.index("<svg") :])


def _axis_label(case: CaseResult) -> str:
    return f"{case.metric}, {'higher' if case.higher_is_better else 'lower'} is better"


def _short(name: str, limit: int = 28) -> str:
    return name if len(name) <= limit else name[: limit - 1] + "…"


def _metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100.0 * share:.2f} %"


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _bytes(size: int) -> str:
    """Decimal units, three digits."""
    if size < 1000:
        return f"{size} B"
    number = size / 1000.0
    for unit in ("kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000.0
    return f"{number:.3g} TB"
