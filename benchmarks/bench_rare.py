"""Do max_delta_step = 1 and base_score = .5 help where one row in a hundred is positive?

    python -m benchmarks.bench_rare [--splits N] [--quick] [--json]

The demo's simulated operators with their two rare targets, drawn anew and split at random into 80 % to train on and 20 % to test on
for every seed. Federated mode, in one process; every choice gets the same rows. Differences are paired, by seed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from typing import Any

import numpy as np
from rich.table import Table as Printed

from benchmarks.machine import console, described, machine
from hansa.demo import telecom
from hansa.simulation.run import SimulationSettings, simulate
from hansa.simulation.tables import Table, split_table
from hansa.trees.parameters import parse_parameters

TARGETS = ("sleeping_cell", "hardware_fault")
TEST_FRACTION = 0.2
METRICS = ("aucpr", "auc", "logloss")
LENGTHS = {"20 trees, eta .3": {"rounds": 20, "eta": 0.3}, "100 trees, eta .1": {"rounds": 100, "eta": 0.1}}
CHOICES: dict[str, dict[str, float]] = {
    "XGBoost's defaults": {},
    "max_delta_step 1": {"max_delta_step": 1},
    "base_score .5": {"base_score": 0.5},
    "both": {"max_delta_step": 1, "base_score": 0.5},
}


def rows_of(target: str, seed: int, cells: tuple[int, ...]) -> tuple[Table, Table]:
    """Fresh cells: to train on, and to test on."""
    columns = telecom.telecom_case(telecom.simulate_operators(seed, cells), target)
    owners = np.asarray(columns.pop(telecom.OPERATOR_COLUMN), object)
    label = np.asarray(columns.pop(target), np.float32)
    features = np.stack([np.asarray(values, np.float32) for values in columns.values()])
    table = Table(tuple(columns), features, label, None, owners, {})
    return split_table(table, TEST_FRACTION, seed, stratified=True)


def measure(splits: int, cells: tuple[int, ...], most_rounds: int) -> list[dict[str, Any]]:
    """Scores of every target, length and choice: a list for each metric, one value a seed."""
    lines = []
    for target in TARGETS:
        drawn = [rows_of(target, seed, cells) for seed in range(splits)]
        for length, trees in LENGTHS.items():
            for choice, more in CHOICES.items():
                given = {**trees, **more, "rounds": min(int(trees["rounds"]), most_rounds), "max_depth": 5}
                settings = SimulationSettings(parse_parameters(given), target, in_process=True)
                found = [simulate(train, test, settings).summary.metrics for train, test in drawn]
                scores = {name: [own[name] for own in found] for name in METRICS}
                lines.append({"target": target, "length": length, "choice": choice, **scores})
    return lines


def better(lines: list[dict[str, Any]], line: dict[str, Any]) -> tuple[float, float]:
    """By how much aucpr of this choice is above that of the defaults, and two standard errors of it."""
    first = next(own for own in lines if (own["target"], own["length"]) == (line["target"], line["length"]))
    differences = [a - b for a, b in zip(line["aucpr"], first["aucpr"], strict=True)]
    spread = 2 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else math.nan
    return statistics.fmean(differences), spread


def show(lines: list[dict[str, Any]], splits: int, where: str) -> None:
    """Print one table."""
    table = Printed(
        *("target", "trees", "choice", "AUCPR", "better by", "AUC", "log loss"),
        title=f"Rare positives, federated, depth 5: mean of {splits} seeds\n{where}",
        caption="better by: AUCPR above that of the defaults, mean difference ± 2 standard errors",
        title_justify="left",
    )
    for line in lines:
        mean, spread = better(lines, line)
        scores = {name: statistics.fmean(line[name]) for name in METRICS}
        table.add_row(
            *(line["target"], line["length"], line["choice"], f"{scores['aucpr']:.4f}"),
            f"{mean:+.4f} ± {spread:.4f}" if line["choice"] in list(CHOICES)[1:] else "",
            *(f"{scores['auc']:.4f}", f"{scores['logloss']:.5f}"),
        )
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=16, help="seeds (default 16)")
    parser.add_argument("--quick", action="store_true", help="two seeds, few cells and trees: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    splits = 2 if options.quick else options.splits
    cells = (1_800, 900, 500) if options.quick else telecom.DEFAULT_CELLS
    lines = measure(splits, cells, 5 if options.quick else 100)
    found = machine()
    if options.json:
        print(json.dumps({"machine": found, "splits": splits, "lines": lines}))
    else:
        show(lines, splits, described(found))


if __name__ == "__main__":
    main()
