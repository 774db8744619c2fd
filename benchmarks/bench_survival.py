"""What it costs that a run survives its processes: the same run over TLS with state folders and without, in turn.

    python -m benchmarks.bench_survival [--repeats N] [--mode federated]

Ratios within one run on one machine; anything else that works there meanwhile spoils them.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.contestants import Job, as_table, dealt, made_rows, plan_of
from hansa.simulation.processes import train_in_processes

PARTIES, ROWS, TREES = 3, 60_000, 100


def seconds(job: Job, on_dropout: str) -> float:
    """Of training, as the aggregator has it."""
    parties = dealt(made_rows(job.rows), job.parties)
    plan = replace(plan_of(job, parties), on_dropout=on_dropout)
    tables = {name: as_table(rows) for name, rows in parties.items()}
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        together = train_in_processes(Path(folder), plan, tables, threads=1, transcript=None, report=lambda _: None)
    return together.seconds.training


def main() -> None:
    """Print a table."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--repeats", type=int, default=5)
    reader.add_argument("--mode", default="federated")
    given = reader.parse_args()
    job = Job(
        rows=ROWS,
        parties=PARTIES,
        trees=TREES,
        mode=given.mode,
        verify_counts="off" if given.mode == "federated" else "tree",
    )
    found: dict[str, list[float]] = {"abort": [], "wait": []}
    for _ in range(given.repeats):
        for on_dropout, times in found.items():
            times.append(seconds(job, on_dropout))
    least = {name: min(times) for name, times in found.items()}
    print(f"{PARTIES} parties, {ROWS} rows, {TREES} trees, {given.mode}: seconds of training")
    for name, times in found.items():
        print(f"  on_dropout = {name!r}: least {least[name]:.2f}, all {', '.join(f'{each:.2f}' for each in times)}")
    print(f"  with state folders / without: {least['wait'] / least['abort']:.3f}")


if __name__ == "__main__":
    main()
