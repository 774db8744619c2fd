"""What people see: tables and progress on the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from hansa.cli import notices
from hansa.node import logs
from hansa.printable import printable
from hansa.simulation.run import Report
from hansa.transport.notices import Notice, Notify

# Names and texts come from others: nothing in them is markup.
out = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


def without_value(name: str, why: str) -> str:
    """The sentence that says that a metric of held-out rows has no value."""
    return f"{name} of the held-out rows has no value: {why}. Training does not stop early on it."


@contextmanager
def telling(bar: bool, lines: Report | None = None) -> Iterator[tuple[Report, Notify]]:
    """What takes a run's events, and what takes notices of other members: both tell whoever watches, in every way asked for.

    Args:
        bar: whether a progress bar is shown, where standard error is a terminal.
        lines: is given every event and notice, for `--json`; None where nobody wants them.
    """
    watch = notices.NoticeWriter()
    lacking: set[str] = set()
    stages = logging.DEBUG if bar and err.is_terminal else logging.INFO
    with progress(bar) as report:

        def event(what: dict[str, Any]) -> None:
            if lines is not None:
                lines(what)
            report(what)
            for name, why in what.get("without_value", {}).items():
                if name not in lacking:
                    lacking.add(name)
                    logs.note(logging.WARNING, without_value(name, why), what)
            if sentence := watch.stage(what):
                logs.note(stages, sentence, what)

        def notify(notice: Notice) -> None:
            sentence = watch.sentence(notice)
            what = notices.as_event(notice, sentence)
            if lines is not None:
                lines(what)
            report(what)
            if watch.is_news(notice):
                logs.note(notices.LEVELS.get(notice.kind, logging.INFO), sentence, what)

        yield event, notify


@contextmanager
def progress(shown: bool) -> Iterator[Report]:
    """A progress bar on standard error, fed by a run's events; silent where not `shown`, or where that is no terminal."""
    if not shown or not err.is_terminal:
        yield lambda _: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[metrics]}", markup=False),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None, metrics="")

        def report(event: dict[str, Any]) -> None:
            match event["event"]:
                case "stage":
                    bar.update(task, description=printable(event["text"]), total=None, completed=0, metrics="")
                case "notice":
                    bar.update(task, description=printable(event["sentence"], 200))
                case "registered":
                    bar.update(task, description="counting for cuts", total=None)
                case "binned" | "tree" | "trained":
                    metrics = notices.metrics_text(event.get("metrics", {}))
                    bar.update(
                        task,
                        description="trees",
                        total=event["rounds"],
                        completed=event["trees"],
                        metrics=metrics,
                    )

        yield report


def _labels(summary: dict[str, Any]) -> tuple[str, Callable[[dict[str, Any]], str]]:
    """What the table says of each member's labels: the column's title, and its text."""
    if summary["num_class"]:
        return "classes, %", lambda member: " ".join(f"{100 * share:.0f}" for share in member["class_shares"])
    if summary["objective"] == "binary:logistic":
        return "label 1", lambda member: f"{member['label_mean']:.2%}"
    return "mean label", lambda member: _number(member["label_mean"])


def print_simulation(summaries: Sequence[dict[str, Any]]) -> None:
    """One table of the members and one of all test rows, for one or more modes on the same rows; the first has the comparisons."""
    first = summaries[0]
    metric = next(iter(first["metrics"]))
    title_of_labels, label_of = _labels(first)
    modes = [summary["mode"] for summary in summaries]
    title = f"{', '.join(modes)}; {first['transport']}; {first['trees']} trees"
    table = Table(title=title, title_justify="left")
    table.add_column("member")
    for column in ("rows", title_of_labels, f"{metric} alone"):
        table.add_column(column, justify="right")
    table.add_column("together")
    for column in (metric, "up", "down"):
        table.add_column(column, justify="right")
    for name, member in first["members"].items():
        alone = member["metrics"]["alone"]
        whose = [name, f"{member['rows']:,}", label_of(member), _number(alone and alone[metric])]
        for summary in summaries:
            part = summary["members"][name]
            together = part["metrics"]["together"]
            score = _number(together and together[metric])
            table.add_row(*whose, summary["mode"], score, size(part["bytes_up"]), size(part["bytes_down"]))
            whose = [""] * len(whose)
    out.print(table)
    scores = Table(title="all test rows", title_justify="left")
    scores.add_column("model")
    for name in (*first["metrics"], "training, s"):
        scores.add_column(name, justify="right")
    lines = [(f"together, {summary['mode']}", summary["metrics"], summary["seconds"]) for summary in summaries]
    for key, label in (("hansa", "pooled rows, Hansa"), ("xgboost", "pooled rows, XGBoost")):
        if key in first["pooled"]:
            lines.append((label, first["pooled"][key]["metrics"], first["pooled"][key]["seconds"]))
    for label, metrics, seconds in lines:
        scores.add_row(label, *(_number(value) for value in metrics.values()), f"{seconds['training']:.2f}")
    out.print(scores)
    for text in _dashes(summaries):
        out.print(text, soft_wrap=True, markup=False)
    for summary in summaries:
        seconds = summary["seconds"]
        out.print(
            f"{summary['mode']}: {summary['round_trips_per_tree']:.2f} round trips a tree; seconds: start "
            f"{seconds['startup']:.1f}, binning {seconds['binning']:.2f}, training {seconds['training']:.2f}, in all "
            f"{seconds['total']:.1f}; model {summary['model_sha256']}",
            soft_wrap=True,
        )


def _dashes(summaries: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A sentence for every reason why tables show no value."""
    whose: dict[tuple[str, ...], list[str]] = {}
    first = summaries[0]
    reasons = {
        f"{name}, {how}": m["without_value"][how]
        for name, m in first["members"].items()
        for how in ("together", "alone")
    }
    for place, found in {"all test rows": first["without_value"], **reasons}.items():
        for why in dict.fromkeys(found.values()):
            metrics = ", ".join(name for name in found if found[name] == why)
            whose.setdefault((metrics, why), []).append(place)
    for (metrics, why), places in whose.items():
        yield f"–: no {metrics} of {'; '.join(places)}: {why}"
    for summary in summaries:
        for name, why in summary["held_out"]["without_value"].items():
            yield f"{summary['mode']}: {without_value(name, why)}"


def print_aggregator_record(record: dict[str, Any]) -> None:
    """What each party sent, and how long it took."""
    table = Table(title=f"{record['mode']}, {record['trees']} trees", title_justify="left")
    for column in ("party", "rows", "held out", "up", "down"):
        table.add_column(column, justify="left" if column == "party" else "right")
    for name, rows, held in record["roster"]:
        traffic = record["traffic"][name]
        table.add_row(name, f"{rows:,}", f"{held:,}", size(traffic["bytes_up"]), size(traffic["bytes_down"]))
    out.print(table)
    for name, values in record["history"].items():
        if values and values[-1] is not None:
            out.print(f"{name} on held-out rows: {values[-1]:.5f} after {len(values)} trees")
    for name, why in record["without_value"].items():
        out.print(without_value(name, why), soft_wrap=True, markup=False)
    seconds = record["seconds"]
    out.print(
        f"binning {seconds['binning']:.2f} s, training {seconds['training']:.2f} s, model {record['model_sha256']}"
    )


def print_party_record(record: dict[str, Any], model: Path | None) -> None:
    """What this party sent and got."""
    out.print(
        f"{record['member']}: {record['rows']:,} rows stayed here; sent {size(record['bytes_up'])}, "
        f"received {size(record['bytes_down'])}"
    )
    if record["model_sha256"]:
        out.print(f"model {record['model_sha256']} written to {model}")
    else:
        out.print("the plan does not name this party a receiver: no model")


def print_hub_record(record: dict[str, Any]) -> None:
    """Who sent how much through the hub."""
    table = Table(title=f"{record['mode']}: sealed messages passed on, sealed", title_justify="left")
    for column in ("from", "to", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for sender, receiver, count in record["relayed"]:
        table.add_row(sender, receiver, size(count))
    out.print(table)


def print_member_record(record: dict[str, Any], model: Path | None) -> None:
    """What a member of a coopetitive run sent, and what was opened to it."""
    out.print(
        f"{record['member']} ({', '.join(record['roles'])}): {record['rows']:,} rows, shared and never shown; "
        f"sent {size(record['bytes_up'])} ({size(record['sealed_bytes'])} sealed), received {size(record['bytes_down'])}"
    )
    for opening in record["openings"]:
        out.print(f"opened to it: {opening}")
    if "cut" in record:
        out.print(record["cut"])
    if record["model_sha256"]:
        out.print(f"model {record['model_sha256']} written to {model}")
    else:
        out.print("the plan does not name this member a receiver: no model")
