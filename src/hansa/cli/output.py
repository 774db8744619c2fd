"""What people see: tables and progress on the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from hansa.node import logs, notices
from hansa.node.events import Event, FoldBegan, Noticed, OnEvent, Stage, TrialBegan, line_of
from hansa.node.fold_scores import FoldScores, scores_table
from hansa.node.record import (
    AggregatorRecord,
    Bytes,
    CollectorRecord,
    HubRecord,
    PartyRecord,
    Record,
    SharedRecord,
    known,
)
from hansa.node.trial_scores import SearchScores
from hansa.printable import printable, size
from hansa.roles.run import Progress, Registered
from hansa.simulation.summary import PartySummary, Summary
from hansa.trees.losses import is_binary

# Names and texts come from others: nothing in them is markup.
out = Console(width=None if sys.stdout.isatty() else 120, markup=False, emoji=False)
err = Console(stderr=True, markup=False, emoji=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


def without_value(name: str, why: str) -> str:
    """The sentence that says that a metric of held-out rows has no value."""
    return f"{name} of the held-out rows has no value: {why}. Training does not stop early on it."


def print_line(line: msgspec.Struct) -> None:
    """One line of `--json`, for a program that waits for it."""
    sys.stdout.write(line_of(line) + "\n")
    sys.stdout.flush()


@contextmanager
def telling(bar: bool, lines: bool = False) -> Iterator[OnEvent]:
    """What takes a run's events, and tells whoever watches in every way asked for.

    Args:
        bar: whether a progress bar is shown, where standard error is a terminal.
        lines: whether every event is a line of JSON on standard output.
    """
    writer = notices.NoticeWriter()
    lacking: set[str] = set()
    stages = logging.DEBUG if bar and err.is_terminal else logging.INFO
    with progress(bar) as report:

        def tell(event: Event) -> None:
            if lines:
                print_line(event)
            report(event)
            if isinstance(event, Noticed):
                if writer.is_news(event):
                    logs.note(notices.LEVELS.get(event.kind, logging.INFO), event.sentence, event)
                return
            if isinstance(event, Progress):
                for name, why in event.without_value.items():
                    if name not in lacking:
                        lacking.add(name)
                        logs.note(logging.WARNING, without_value(name, why), event)
            if sentence := writer.stage(event):
                logs.note(stages, sentence, event)

        yield tell


@contextmanager
def progress(shown: bool) -> Iterator[OnEvent]:
    """A progress bar on standard error, fed by a run's events; silent where not `shown`, or where that is no terminal."""
    if not shown or not err.is_terminal:
        yield lambda _: None
        return
    bar = Bar(
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

        def report(event: Event) -> None:
            match event:
                case Stage():
                    bar.update(task, description=printable(event.text), total=None, completed=0, metrics="")
                case Noticed():
                    bar.update(task, description=printable(event.sentence, 200))
                case FoldBegan():
                    bar.console.print(f"fold {event.fold} of {event.folds}")
                case TrialBegan():
                    given = ", ".join(f"{name} = {value}" for name, value in event.parameters.items())
                    bar.console.print(f"trial {event.trial} of {event.trials}: {given}", markup=False)
                case Registered():
                    bar.update(task, description="counting for cuts", total=None)
                case Progress():
                    metrics = notices.metrics_text(event.metrics)
                    bar.update(task, description="trees", total=event.rounds, completed=event.trees, metrics=metrics)

        yield report


def print_tables(facts: str, tables: Sequence[Sequence[Sequence[str]]]) -> None:
    """Tables of texts; the first row of each is its head."""
    out.print(printable(facts), soft_wrap=True)
    for head, *rows in tables:
        table = Table(*map(printable, head))
        for column in table.columns[1:]:
            column.justify = "right"
        for row in rows:
            table.add_row(*map(printable, row))
        out.print(table)


def _labels(summary: Summary) -> tuple[str, Callable[[PartySummary], str]]:
    """What the table says of each member's labels: the column's title, and its text."""
    if summary.num_class:
        return "classes, %", lambda member: " ".join(f"{100 * share:.0f}" for share in member.class_shares)
    if is_binary(summary.objective):
        return "label 1", lambda member: f"{member.label_mean:.2%}"
    return "mean label", lambda member: _number(member.label_mean)


def print_simulation(summaries: Sequence[Summary]) -> None:
    """One table of the members and one of all test rows, for one or more modes on the same rows; the first has the comparisons."""
    first = summaries[0]
    metric = next(iter(first.metrics))
    title_of_labels, label_of = _labels(first)
    modes = [summary.mode for summary in summaries]
    table = Table(title=f"{', '.join(modes)}; {first.transport}; {first.trees} trees", title_justify="left")
    table.add_column("member")
    for column in ("rows", title_of_labels, f"{metric} alone"):
        table.add_column(column, justify="right")
    table.add_column("together")
    for column in (metric, "up", "down"):
        table.add_column(column, justify="right")
    for name, member in first.members.items():
        alone = member.metrics.alone
        whose = [name, f"{member.rows:,}", label_of(member), _number(alone[metric] if alone else None)]
        for summary in summaries:
            part = summary.members[name]
            together = part.metrics.together
            score = _number(together[metric] if together else None)
            table.add_row(*whose, summary.mode, score, size(part.bytes_up), size(part.bytes_down))
            whose = [""] * len(whose)
    out.print(table)
    scores = Table(title="all test rows", title_justify="left")
    scores.add_column("model")
    for name in (*first.metrics, "training, s"):
        scores.add_column(name, justify="right")
    for summary in summaries:
        values = map(_number, summary.metrics.values())
        scores.add_row(f"together, {summary.mode}", *values, f"{summary.seconds.training:.2f}")
    labels = {"hansa": "pooled rows, Hansa", "xgboost": "pooled rows, XGBoost"}
    for key, pooled in first.pooled.by_name().items():
        scores.add_row(labels[key], *map(_number, (pooled.metrics or {}).values()), f"{pooled.seconds.training:.2f}")
    out.print(scores)
    for text in (*_dashes(summaries), *(text for summary in summaries for text in summary.advice)):
        out.print(printable(text), soft_wrap=True, markup=False)
    for summary in summaries:
        seconds = summary.seconds
        out.print(
            f"{summary.mode}: {summary.round_trips_per_tree:.2f} round trips a tree; seconds: start "
            f"{seconds.startup:.1f}, binning {seconds.binning:.2f}, training {seconds.training:.2f}, in all "
            f"{seconds.total:.1f}; model {summary.model_sha256}",
            soft_wrap=True,
        )


def _dashes(summaries: Sequence[Summary]) -> Iterator[str]:
    """A sentence for every reason why tables show no value."""
    whose: dict[tuple[str, ...], list[str]] = {}
    first = summaries[0]
    reasons = {"all test rows": first.without_value}
    for name, member in first.members.items():
        reasons[f"{name}, together"] = member.without_value.together
        reasons[f"{name}, alone"] = member.without_value.alone
    for place, found in reasons.items():
        for why in dict.fromkeys(found.values()):
            metrics = ", ".join(name for name in found if found[name] == why)
            whose.setdefault((metrics, why), []).append(place)
    for (metrics, why), places in whose.items():
        yield f"–: no {metrics} of {'; '.join(places)}: {why}"
    for summary in summaries:
        for name, why in summary.held_out.without_value.items():
            yield f"{summary.mode}: {without_value(name, why)}"


def print_record(record: Record, model: Path | None) -> None:
    """What a member sent and got; `model` is where it went."""
    match record:
        case AggregatorRecord() if record.cross_validation is not UNSET:
            _print_folds(record, known(record.cross_validation))
        case AggregatorRecord() if record.search is not UNSET:
            _print_search(known(record.search))
        case AggregatorRecord():
            _print_aggregator(record)
        case PartyRecord():
            out.print(
                f"{record.member}: {known(record.rows):,} rows stayed here; sent {size(known(record.bytes_up))}, "
                f"received {size(known(record.bytes_down))}"
            )
            _print_model(record.model_sha256, model, "party")
        case CollectorRecord():
            table = Table(title=f"{record.member}: sums of {len(known(record.roster))} parties", title_justify="left")
            _add_traffic(table, known(record.roster), known(record.traffic))
            out.print(table)
            out.print(
                f"sent {size(known(record.bytes_up))} to the aggregator, received {size(known(record.bytes_down))}"
            )
        case HubRecord():
            _print_hub(record)
            if len(record.roles) > 1:
                _print_member(record, model)
        case SharedRecord():
            _print_member(record, model)


def _print_folds(record: AggregatorRecord, found: FoldScores) -> None:
    """Scores over folds."""
    rows = sum(training + held for _, training, held in known(record.roster))
    facts = (
        f"{record.mode}: {found.folds} folds of {rows:,} rows, {len(known(record.roster))} parties; best round {found.best_round}, by "
        f"{found.metric}; received {size(known(record.bytes_up))}, sent {size(known(record.bytes_down))}"
    )
    print_tables(facts, [scores_table(found.best_round, found.history)])


def _print_search(found: SearchScores) -> None:
    """The trials, and what to train with."""
    chosen = ", ".join(f"{name} = {value}" for name, value in found.best_parameters.items())
    best = (
        f"best trial {found.best}: {chosen}" if found.best is not None else f"{found.metric} has no value in any trial"
    )
    print_tables(f"{len(found.trials)} trials; {found.direction} {found.metric}; {best}", [found.table()])


def _add_traffic(table: Table, roster: tuple[tuple[str, int, int], ...], traffic: Mapping[str, Bytes]) -> None:
    """A line for each party with its rows and bytes; without bytes where it has a collector, whose line comes behind them."""
    for column in ("party", "rows", "held out", "up", "down"):
        table.add_column(column, justify="left" if column == "party" else "right")
    for name, rows, held in roster:
        own = traffic.get(name)
        sizes = ("", "") if own is None else (size(own.bytes_up), size(own.bytes_down))
        table.add_row(name, f"{rows:,}", f"{held:,}", *sizes)
    parties = {name for name, _, _ in roster}
    for name, own in traffic.items():
        if name not in parties:
            table.add_row(f"{name} (collector)", "", "", size(own.bytes_up), size(own.bytes_down))


def _print_aggregator(record: AggregatorRecord) -> None:
    """What each party sent, and how long it took."""
    table = Table(title=f"{record.mode}, {record.trees} trees", title_justify="left")
    _add_traffic(table, known(record.roster), known(record.traffic))
    out.print(table)
    for name, values in known(record.history).items():
        if values and values[-1] is not None:
            out.print(f"{name} on held-out rows: {values[-1]:.5f} after {len(values)} trees")
    for name, why in known(record.without_value).items():
        out.print(without_value(name, why), soft_wrap=True, markup=False)
    seconds = known(record.seconds)
    out.print(f"binning {seconds.binning:.2f} s, training {seconds.training:.2f} s, model {record.model_sha256}")


def _print_hub(record: HubRecord) -> None:
    """Who sent how much through the hub."""
    table = Table(title=f"{record.mode}: sealed messages passed on", title_justify="left")
    for column in ("from", "to", "bytes"):
        table.add_column(column, justify="right" if column == "bytes" else "left")
    for sender, receiver, count in known(record.relayed):
        table.add_row(sender, receiver, size(count))
    out.print(table)


def _print_member(record: SharedRecord, model: Path | None) -> None:
    """What a member of a coopetitive run sent, and what was opened to it."""
    out.print(
        f"{record.member} ({', '.join(record.roles)}): {known(record.rows):,} rows, shared and never shown; "
        f"sent {size(known(record.bytes_up))} ({size(known(record.sealed_bytes))} sealed), "
        f"received {size(known(record.bytes_down))}"
    )
    if record.cross_validation is not UNSET:
        found = known(record.cross_validation)
        facts = f"{record.mode}: {found.folds} folds; best round {found.best_round}, by {found.metric}"
        print_tables(facts, [scores_table(found.best_round, found.history)])
    if record.search is not UNSET:
        _print_search(known(record.search))
    for opening in known(record.openings):
        out.print(f"opened to it: {opening}")
    if record.cut is not UNSET:
        out.print(record.cut)
    _print_model(record.model_sha256, model, "member")


def _print_model(sha256: str | msgspec.UnsetType | None, model: Path | None, who: str) -> None:
    if sha256:
        out.print(f"model {sha256} written to {model}")
    else:
        out.print(f"the plan does not name this {who} a receiver: no model")
