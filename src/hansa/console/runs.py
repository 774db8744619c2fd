"""Runs: the list, and one run as it goes on: its trees with their metrics, its bytes, where its time went, and on whom it waits."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from hansa.console.actions import Done, Form
from hansa.console.member import PAGE_ROWS, Asked, Member, NotThere, Paging, first_row, shown_run, without_cells
from hansa.errors import HansaError
from hansa.node.fold_scores import FoldScores
from hansa.node.record import AggregatorRecord, Failure, PartyRecord, Record, read_record
from hansa.node.trial_scores import SearchScores
from hansa.service.store import ServiceRun
from hansa.service.supervisor import EVENTS_FILE
from hansa.simulation.evaluation import is_higher_better, shap_view
from hansa.views.chart import View, number
from hansa.views.training import curves_view

LAST_EVENTS = 50
"""Of a run, on its page."""

READ_BYTES = 2**20
"""Of the end of a file of events, which the last lines are in."""

MOST_LINES = 5000

_HAPPENED = {
    "registered": "all have joined",
    "binned": "the cuts are found",
    "trained": "all trees are grown",
    "record": "the record of the run is written",
}
"""Events that are a moment, in words."""

_PARTS = {
    "registered": "until all had joined",
    "binned": "cuts",
    "trained": "trees",
    "record": "model and record",
}
"""What ends with an event."""


class RunsView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of the list of runs, the newest first."""

    runs: tuple[ServiceRun, ...]
    paging: Paging


class ShownEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a run's events: when, of which kind, and in words."""

    at: str
    kind: str
    text: str


class TreeMetrics(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics of the held-out rows after so many rounds of boosting."""

    trees: int
    metrics: dict[str, float | None]


class PhaseTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a run, and how many seconds it took."""

    name: str
    seconds: float


class RunView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run as this member sees it.

    Attributes:
        run: as the service keeps it. over: whether nothing of it is left to do. started, ended: of its record; empty where not known.
        trees: metrics by tree. bytes_up, bytes_down: what left this member so far, and came. phases: where its time went.
        rows: of this member's table, or None. failure: what ended it, or None. events: the last ones, the newest first.
        scores: what a plan of folds, or of a search, found, at the members that know it: the aggregator, or compute servers.
        record: whether there is one to look at.
    """

    run: ServiceRun
    over: bool
    started: str
    ended: str
    trees: tuple[TreeMetrics, ...]
    bytes_up: int
    bytes_down: int
    phases: tuple[PhaseTime, ...]
    rows: int | None
    failure: Failure | None
    events: tuple[ShownEvent, ...]
    scores: tuple[View, ...]
    record: bool


def runs(member: Member, asked: Asked) -> RunsView:
    """A page of the list."""
    paging = asked.paging(member.store.count())
    found = member.store.page(first_row(paging), PAGE_ROWS)
    return RunsView(runs=tuple(map(shown_run, found)), paging=paging)


def run_of(member: Member, name: str) -> ServiceRun:
    """The run of this name, as pages show it. Raises NotThere."""
    found = member.store.named(name)
    if found is None:
        raise NotThere(f"this member has no run {name!r:.80}")
    return shown_run(found)


def run(member: Member, asked: Asked) -> RunView:
    """One run as it is now. Raises NotThere."""
    found = run_of(member, asked.get("run"))
    folder = member.service.runs / found.folder if found.folder else None
    record = None if folder is None else record_of(folder)
    events = [] if folder is None else list(_events(folder / EVENTS_FILE))
    return RunView(
        run=found,
        over=found.over,
        started="" if record is None else record.started,
        ended=(record.ended or "") if record is not None else "",
        trees=_trees(record, events),
        bytes_up=0 if record is None or record.bytes_up is UNSET else record.bytes_up,
        bytes_down=0 if record is None or record.bytes_down is UNSET else record.bytes_down,
        phases=_phases(record, events),
        rows=_rows(record),
        failure=_failure(record),
        events=tuple(_shown(event) for event in list(reversed(events))[:LAST_EVENTS]),
        scores=() if record is None else scores_of(record),
        record=record is not None,
    )


def curves_of(member: Member, found: ServiceRun) -> tuple[View, ...]:
    """Learning curves of a run: a view for each metric of the held-out rows."""
    folder = member.service.runs / found.folder
    trees = _trees(record_of(folder), list(_events(folder / EVENTS_FILE))) if found.folder else ()
    return curves(trees)


def shap_of(member: Member, found: ServiceRun) -> tuple[View, ...]:
    """A run's mean sizes of SHAP values over all parties' rows; none where its plan asked for none."""
    record = record_of(member.service.runs / found.folder) if found.folder else None
    shap = record.shap if isinstance(record, PartyRecord | AggregatorRecord) else UNSET
    return (shap_view(shap, "all parties' rows"),) if shap is not UNSET and shap else ()


def scores_of(record: Record) -> tuple[View, ...]:
    """Means over folds, round by round, or all trials of a search; nothing where the plan has neither, or this member does not know."""
    views: list[View] = []
    folds = getattr(record, "cross_validation", UNSET)
    if isinstance(folds, FoldScores):
        at = folds.best_round
        rows = [
            (name, f"{number(own.mean[at - 1])} ± {number(own.std[at - 1])}") for name, own in folds.history.items()
        ]
        views.append(
            View(
                name="folds",
                title=f"{folds.folds} folds",
                note=f"Mean ± standard deviation over folds after {at} rounds, the best by {folds.metric}. No model was released.",
                table=(("metric", "mean ± deviation"), *rows),
            )
        )
        for place, (name, own) in enumerate(folds.history.items()):
            points = {f"{name}, mean over folds": list(enumerate(own.mean, 1))}
            view = curves_view(name, is_higher_better(name), points)
            views.append(msgspec.structs.replace(view, name=f"folds-{place}"))
    search = getattr(record, "search", UNSET)
    if isinstance(search, SearchScores):
        found = "no trial has a value" if search.best is None else f"trial {search.best} is the best"
        given = ", ".join(f"{name} = {value}" for name, value in search.best_parameters.items())
        views.append(
            View(
                name="search",
                title=f"{len(search.trials)} trials",
                note=f"{search.direction} {search.metric}: {found}{f', with {given}' if given else ''}. No model was released.",
                table=tuple(map(tuple, search.table())),
            )
        )
    return tuple(views)


def curves(trees: tuple[TreeMetrics, ...]) -> tuple[View, ...]:
    """A learning curve for each metric."""
    names = dict.fromkeys(name for each in trees for name in each.metrics)
    views = []
    for place, name in enumerate(names):
        points = [(each.trees, each.metrics.get(name)) for each in trees if name in each.metrics]
        view = curves_view(name, is_higher_better(name), {f"{name} of held-out rows": points})
        views.append(msgspec.structs.replace(view, name=f"curves-{place}"))
    return tuple(views)


def record_of(folder: Path) -> Record | None:
    """The record in a run's folder, where this version can read it."""
    try:
        return read_record(folder / "record.json")
    except (OSError, ValueError):
        return None  # not there yet, or of another version: the page shows what it has


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """The last events of a run, the oldest first; a line that is no event is passed over."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - READ_BYTES))
            lines = deque(file.read(2 * READ_BYTES).splitlines(), maxlen=MOST_LINES)
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict):
                yield event


def _shown(event: dict[str, Any]) -> ShownEvent:
    kind = str(event.get("event", ""))
    text = str(event.get("sentence") or event.get("text") or "")
    if kind == "run":
        text = ": ".join(filter(None, (str(event.get("state", "")), text)))
    elif kind in _HAPPENED:
        text = text or _HAPPENED[kind]
    elif not text and "trees" in event:
        text = f"{event['trees']} of at most {event.get('rounds')} rounds"
    return ShownEvent(at=str(event.get("time", "")), kind=kind, text=without_cells(text))


def _failure(record: Record | None) -> Failure | None:
    """What ended a run, without a cell of this member's table."""
    error = None if record is None else record.error
    return None if error is None else msgspec.structs.replace(error, text=without_cells(error.text))


def _trees(record: Record | None, events: list[dict[str, Any]]) -> tuple[TreeMetrics, ...]:
    """Metrics by tree: of the record where the run is over, else of the events so far."""
    found: dict[int, dict[str, float | None]] = {}
    for event in events:
        metrics, trees = event.get("metrics"), event.get("trees")
        if isinstance(metrics, dict) and metrics and isinstance(trees, int):
            found[trees] = {
                str(name): value for name, value in metrics.items() if value is None or isinstance(value, float)
            }
    history = getattr(record, "history", UNSET)
    if history is not UNSET and history:
        for name, values in history.items():
            for place, value in enumerate(values, 1):
                trees, number = value if isinstance(value, tuple) else (place, value)
                found.setdefault(trees, {})[name] = number
    return tuple(TreeMetrics(trees=trees, metrics=found[trees]) for trees in sorted(found))


def _phases(record: Record | None, events: list[dict[str, Any]]) -> tuple[PhaseTime, ...]:
    """Where a run's time went, as far as its record says; else the time between its events."""
    found = []
    seconds = getattr(record, "seconds", UNSET)
    if seconds is not UNSET and seconds is not None:
        for name in ("binning", "training", "total"):
            value = getattr(seconds, name)
            if value is not UNSET:
                found.append(PhaseTime(name=name, seconds=value))
    phases = getattr(record, "phases", UNSET)
    if phases is not UNSET and phases:
        found += [PhaseTime(name=f"{name}, of training", seconds=cost.wall_s) for name, cost in phases.items()]
    return tuple(found or _between(events))


def _between(events: list[dict[str, Any]]) -> Iterator[PhaseTime]:
    """The parts of a run by the moments of its events, from the last time that its process was started."""
    moments: dict[str, datetime] = {}
    for event in events:
        kind = str(event.get("event"))
        if kind == "run" and event.get("state") == "running":
            moments = {}
        if kind in (*_PARTS, "run"):
            with contextlib.suppress(ValueError):
                moments.setdefault(kind, datetime.fromisoformat(str(event.get("time"))))
    before = moments.get("run")
    for kind, name in _PARTS.items():
        if before is None or kind not in moments:
            return
        yield PhaseTime(name=name, seconds=(moments[kind] - before).total_seconds())
        before = moments[kind]


def _rows(record: Record | None) -> int | None:
    rows = getattr(record, "rows", UNSET)
    return rows if isinstance(rows, int) else None


def pause(member: Member, form: Form) -> Done:
    """Have a run stand still at this member until somebody resumes it."""
    return _want(member, form, "pause", "pauses; the others wait for this member")


def resume(member: Member, form: Form) -> Done:
    """Have a run go on."""
    return _want(member, form, "", "goes on")


def stop(member: Member, form: Form) -> Done:
    """Give a run up for good at this member."""
    if form.get("sure") != "yes":
        raise HansaError("nothing was stopped: tick that you are sure; a run that is stopped cannot be resumed")
    return _want(member, form, "stop", "is given up at this member")


def _want(member: Member, form: Form, what: str, told: str) -> Done:
    found = run_of(member, form.get("run"))
    member.store.want(found.run, what)
    return Done(text=f"{found.plan} {told}", to=f"/runs/{found.run}", about=found.run)
