"""Training time on real tables with categories and with classes, beside pooled XGBoost in the same run.

    python -m benchmarks.bench_table_training [--pooled] [--quick] [--json]

Hansa over mutual TLS with a process for each party of the table's party column, Hansa on the pooled rows, and XGBoost on the pooled
rows in a process of its own take turns. The least time of each counts: on a machine that others use, the others lengthen the rest.
With --pooled nobody trains over mutual TLS.
"""

from __future__ import annotations

import argparse

import msgspec
from rich.table import Table as Printed

from benchmarks.bench_parity import (
    CASES,
    FEDERATED,
    FOLDER,
    SUMMED_SETUP,
    TEST_FRACTION,
    parameters_of,
    read_case,
    setup_of,
)
from benchmarks.machine import console, described, machine
from hansa.simulation.run import SimulationSettings, simulate
from hansa.simulation.tables import split_table

TABLES = ("adult", "telstra_faults")
WANTED_POOLED, WANTED_TLS = 1.0, 1.8
REPEATS = 3


class Timed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of training, of each turn; of mutual TLS none where it was left out."""

    table: str
    rows: int
    features: int
    categorical: int
    classes: int
    parties: int
    trees: int
    xgboost: tuple[float, ...]
    pooled: tuple[float, ...]
    mutual_tls: tuple[float, ...]


def measure(name: str, repeats: int, quick: bool, pooled_alone: bool) -> Timed | None:
    """Train one table so often; None where it is not there."""
    whole = read_case(name, FOLDER)
    if whole is None:
        return None
    case, setup = CASES[name], setup_of(FEDERATED, quick)
    train, test = split_table(whole, TEST_FRACTION, 0, stratified=True)
    parameters = parameters_of(case, setup)
    settings = SimulationSettings(parameters=parameters, label=case.label, pooled=True, in_process=pooled_alone)
    found = [simulate(train, test, settings).summary for _ in range(repeats)]
    pooled = [one.pooled.by_name() for one in found]
    return Timed(
        table=name,
        rows=train.n_rows,
        features=len(train.names),
        categorical=len(train.categories),
        classes=case.classes,
        parties=len(found[0].members),
        trees=found[0].trees,
        xgboost=tuple(one["xgboost"].seconds.training for one in pooled),
        pooled=tuple(one["hansa"].seconds.training for one in pooled),
        mutual_tls=() if pooled_alone else tuple(one.seconds.training for one in found),
    )


def show(results: list[Timed]) -> None:
    """Print one table."""
    printed = Printed(
        *(
            "table",
            "rows x features",
            "parties",
            "trees",
            "XGBoost",
            "Hansa, pooled",
            "ratio",
            "Hansa, mutual TLS",
            "ratio",
        ),
        title=f"Training, least seconds of the turns; {SUMMED_SETUP.in_words.partition(';')[0]}\n"
        f"{described(machine())}",
        caption=f"ratios to XGBoost's; wanted: pooled at most {WANTED_POOLED:g}, mutual TLS at most {WANTED_TLS:g}",
        title_justify="left",
    )
    for one in results:
        least = min(one.xgboost)
        ours = [
            cell
            for times in (one.pooled, one.mutual_tls)
            for cell in ((f"{min(times):.2f}", f"{min(times) / least:.2f}") if times else ("", ""))
        ]
        printed.add_row(
            one.table, f"{one.rows:,} x {one.features}", str(one.parties), str(one.trees), f"{least:.2f}", *ours
        )  # fmt: skip
    console().print(printed)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pooled", action="store_true", help="leave mutual TLS out")
    parser.add_argument("--quick", action="store_true", help="one turn of few trees: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    repeats = 1 if options.quick else REPEATS
    found = [measure(name, repeats, options.quick, options.pooled) for name in TABLES]
    results = [one for one in found if one is not None]
    if options.json:
        print(msgspec.json.encode({"results": results}).decode())
    else:
        show(results)


if __name__ == "__main__":
    main()
