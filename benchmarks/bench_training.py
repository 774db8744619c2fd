"""Pooled XGBoost against Hansa pooled, federated in one process, and federated over mutual TLS, in one run.

    python -m benchmarks.bench_training [--quick] [--json]

XGBoost runs in its own process with its own choice of threads. The four take turns, so that a change of the
machine's speed hits all of them. Where XGBoost's median exceeds 1.15 x its minimum something else was
running, and the run is void.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.table import Table

from benchmarks.contestants import N_FEATURES, Job, Run, in_process, over_tls, xgboost
from benchmarks.machine import console, described, machine
from hansa.node.warm_up import warm_up

PARTIES = 3
JOB = Job(rows=60_000, parties=PARTIES, trees=100)
QUICK_JOB = Job(rows=6_000, parties=PARTIES, trees=10)
STEADY = 1.15

CONTESTANTS: dict[str, Callable[[Job], Run]] = {
    "XGBoost, pooled": lambda job: xgboost(replace(job, parties=1)),
    "Hansa, pooled": lambda job: in_process(replace(job, parties=1)),
    "Hansa, in process": in_process,
    "Hansa, mutual TLS": over_tls,
}
YARDSTICK = next(iter(CONTESTANTS))


def measure(job: Job, repeats: int) -> dict[str, Any]:
    """Take turns `repeats` times. Asserts that Hansa's three models are one and the same file."""
    found = machine()
    warm_up(job.parameters)
    runs: dict[str, list[Run]] = {name: [] for name in CONTESTANTS}
    for _ in range(repeats):
        for name, contestant in CONTESTANTS.items():
            runs[name].append(contestant(job))
    models = {run.model_sha256 for several in runs.values() for run in several} - {None}
    assert len(models) == 1, f"Hansa's models differ between transports: {models}"
    yardstick = runs[YARDSTICK]
    training = [run.training for run in yardstick]
    return {
        "machine": found,
        "rows": job.rows,
        "features": N_FEATURES,
        "parties": job.parties,
        "trees": job.trees,
        "repeats": repeats,
        "void": statistics.median(training) > STEADY * min(training),
        "contestants": {name: summary(job, several, yardstick) for name, several in runs.items()},
    }


def summary(job: Job, runs: list[Run], yardstick: list[Run]) -> dict[str, Any]:
    """Times of one contestant beside the yardstick's; traffic a party and tree, the set-up's included."""
    last = runs[-1]
    return {
        "training": spread([run.training for run in runs], [run.training for run in yardstick]),
        "whole": spread([run.whole for run in runs], [run.whole for run in yardstick]),
        "bytes_up": last.bytes_up / job.trees,
        "bytes_down": last.bytes_down / job.trees,
        "round_trips": last.round_trips,
        "auc": last.auc,
        "model_sha256": last.model_sha256,
    }


def spread(seconds: list[float], yardstick: list[float]) -> dict[str, float]:
    """Minimum, median, and the median as a multiple of the yardstick's."""
    median = statistics.median(seconds)
    return {"min": min(seconds), "median": median, "ratio": median / statistics.median(yardstick)}


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        title=f"{result['parties']} parties, {result['rows']:,} rows x {result['features']} in all, "
        f"256 bins, depth 6, {result['trees']} trees; {result['repeats']} turns\n"
        f"{described(result['machine'])}",
        caption="seconds; ratio of medians to XGBoost's; bytes of the whole run, a party and tree. "
        "Wanted: pooled at most .8, mutual TLS at most 1.5, 2.1 MB up and 20 kB down.",
        title_justify="left",
    )
    table.add_column("learner")
    for column in (
        "training",
        "median",
        "ratio",
        "with binning",
        "median",
        "ratio",
        "kB up",
        "kB down",
        "trips a tree",
        "AUC",
        "model",
    ):
        table.add_column(column, justify="right")
    for name, row in result["contestants"].items():
        training, whole = row["training"], row["whole"]
        table.add_row(
            name,
            f"{training['min']:.3f}",
            f"{training['median']:.3f}",
            f"{training['ratio']:.2f}",
            f"{whole['min']:.3f}",
            f"{whole['median']:.3f}",
            f"{whole['ratio']:.2f}",
            f"{row['bytes_up'] / 1e3:,.0f}" if row["bytes_up"] else "–",
            f"{row['bytes_down'] / 1e3:.1f}" if row["bytes_down"] else "–",
            f"{row['round_trips']:.2f}" if row["round_trips"] else "–",
            f"{row['auc']:.4f}",
            (row["model_sha256"] or "–")[:12],
        )
    if result["void"]:
        table.add_section()
        table.add_row(f"VOID: XGBoost's median exceeds {STEADY} x its minimum; run again with nothing else running")
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small job, two turns: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure(QUICK_JOB, 2) if options.quick else measure(JOB, 5)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
