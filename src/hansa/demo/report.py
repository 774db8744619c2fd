"""The demo's report: cases in, one self-contained HTML page out. No network, no scripts, light, dark and on paper.

Figures are those of `views`, as SVG in the page; their colours are the page's variables. The caller computes every number; this module
only shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from hansa.errors import DataError
from hansa.exposure import EXPOSURE, VERIFIED
from hansa.files import write_whole
from hansa.plan import DEFAULT_VERIFY_COUNTS, MASKED
from hansa.simulation.evaluation import importance_view
from hansa.views.chart import View
from hansa.views.drawing import draw
from hansa.views.palette import page_variables
from hansa.views.training import curves_view, members_view


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
_BROADCAST = SentMessage("Downwards: cut points, base score, each split and leaf of the growing model", "every member")
_ROW_COUNT = SentMessage("The number of its rows", "every member")

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

LEFT: Mapping[str, str] = {
    "federated": "Rows, labels and single scores stayed where they were. The sums themselves do say something about the rows; "
    "SECURITY.md tells how much, and what to do about it.",
    "secure-aggregation": "Rows, labels and single scores stayed where they were. The sums over all of them do say something about the "
    "rows; SECURITY.md tells how much, and what to do about it.",
    "coopetitive": "Rows and labels did leave, as shares, and there is no aggregator: three servers compute on the shares, each holds "
    "two of three parts, and any two servers together could read all. SECURITY.md tells more.",
}
"""Mode -> what became of the rows."""


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
    return environment.from_string(source).render(shown=shown, left=LEFT, colours=Markup(page_variables()))


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
    views = {"parties": _parties(case)}
    if case.curves:
        series = {name: list(enumerate(values, 1)) for name, values in case.curves.items()}
        views["curves"] = curves_view(case.metric, case.higher_is_better, series)
    if case.importance:
        total = sum(case.importance.values()) or 1.0
        ranked = sorted(case.importance.items(), key=lambda pair: (-pair[1], pair[0]))
        views["importance"] = importance_view({name: gain / total for name, gain in ranked}, "gain")
    return {
        name: Markup(draw(view.chart, view.alt, "page", f"{prefix}-{name}"))
        for name, view in views.items()
        if view.chart is not None
    }


def _parties(case: CaseResult) -> View:
    alone = {party.name: party.alone for party in case.parties}
    return members_view(case.metric, case.higher_is_better, alone, {run.mode: run.together for run in case.modes})


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
