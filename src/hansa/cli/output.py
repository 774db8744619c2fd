"""What people see: tables and progress on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
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

from hansa.cli.scores import main_metric
from hansa.cli.simulation import Report

out = Console()
err = Console(stderr=True)


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"


@contextmanager
def progress(shown: bool) -> Iterator[Report]:
    """A progress bar on standard error, fed by a run's events; silent where not `shown`."""
    if not shown:
        yield lambda _: None
        return
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[metrics]}"),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task("starting", total=None, metrics="")

        def report(event: dict[str, Any]) -> None:
            match event["event"]:
                case "stage":
                    bar.update(task, description=event["text"], total=None, completed=0, metrics="")
                case "gathered":
                    bar.update(task, description="counting for cuts", total=None)
                case "binned" | "tree" | "trained":
                    metrics = "  ".join(f"{name} {value:.5f}" for name, value in event.get("metrics", {}).items())
                    bar.update(
                        task,
                        description="trees",
                        total=event["rounds"],
                        completed=event["trees"],
                        metrics=metrics,
                    )

        yield report


def print_simulation(summary: dict[str, Any]) -> None:
    """One table of the members, and one of the pooled test rows."""
    metric = main_metric(summary["objective"])
    table = Table(title=f"{summary['mode']}, {summary['transport']}, {summary['trees']} trees", title_justify="left")
    table.add_column("member")
    binary = summary["objective"] == "binary:logistic"
    columns = (
        "rows",
        "label 1" if binary else "mean label",
        "up",
        "down",
        f"{metric} alone",
        f"{metric} together",
    )
    for column in columns:
        table.add_column(column, justify="right")
    for name, member in summary["members"].items():
        alone, together = member["metrics"]["alone"], member["metrics"]["together"]
        table.add_row(
            name,
            f"{member['rows']:,}",
            f"{member['label_mean']:.2%}" if binary else _number(member["label_mean"]),
            size(member["bytes_up"]),
            size(member["bytes_down"]),
            _number(alone and alone[metric]),
            _number(together and together[metric]),
        )
    out.print(table)
    scores = Table(title="all test rows", title_justify="left")
    scores.add_column("model")
    for name in summary["metrics"]:
        scores.add_column(name, justify="right")
    scores.add_column("seconds of training", justify="right")
    scores.add_row(
        "Hansa, together",
        *(_number(v) for v in summary["metrics"].values()),
        f"{summary['seconds']['training']:.2f}",
    )
    for name, label in (("hansa", "Hansa, pooled rows"), ("xgboost", "XGBoost, pooled rows")):
        if name in summary["pooled"]:
            result = summary["pooled"][name]
            scores.add_row(
                label,
                *(_number(v) for v in result["metrics"].values()),
                f"{result['seconds']['training']:.2f}",
            )
    out.print(scores)
    seconds = summary["seconds"]
    out.print(
        f"{summary['round_trips_per_tree']:.2f} round trips a tree; seconds: start {seconds['startup']:.1f}, "
        f"binning {seconds['binning']:.2f}, training {seconds['training']:.2f}, in all {seconds['total']:.1f}; "
        f"model {summary['model_sha256'][:16]}"
    )


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
        out.print(f"{name} on held-out rows: {values[-1]:.5f} after {len(values)} trees")
    seconds = record["seconds"]
    out.print(
        f"binning {seconds['binning']:.2f} s, training {seconds['training']:.2f} s, model {record['model_sha256'][:16]}"
    )


def print_party_record(record: dict[str, Any], model: Path | None) -> None:
    """What this party sent and got."""
    out.print(
        f"{record['member']}: {record['rows']:,} rows stayed here; sent {size(record['bytes_up'])}, "
        f"received {size(record['bytes_down'])}"
    )
    if record["model_sha256"]:
        out.print(f"model {record['model_sha256'][:16]} written to {model}")
    else:
        out.print("the plan does not name this party a receiver: no model")
