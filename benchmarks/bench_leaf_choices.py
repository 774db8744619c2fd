"""What coarse leaf values cost: AUC and log loss on fresh rows, less those of the same model with leaves as they are.

    python -m benchmarks.bench_leaf_choices [--quick] [--json]

Bits are given (`release.leaf_bits`) or follow from the number of rows (`release.least_choices`). Margins take the rounded leaves, so
that later trees mend what rounding did to earlier ones. Each line is a mean over tables made from other seeds, +- 2 standard errors.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.contestants import TEST_ROWS, TEST_SEED, Job, dealt, made_rows, plan_of
from benchmarks.machine import console, described, machine
from hansa.data.source import Rows
from hansa.node.cores import cores
from hansa.node.in_process import train_in_process
from hansa.plan import Release
from hansa.simulation.scores import auc
from hansa.trees.leaf_choices import leaf_bits_for

SIZES = {614: 20, 5_000: 8, 60_000: 2}
"""Rows -> tables of so many rows."""

BITS = (10, 8, 7, 6, 5, 4)
CHOICES = 1000
TREES, ETA = 100, 0.3


def scores(rows: Rows, test: Rows, trees: int, release: Release) -> tuple[float, float]:
    """AUC and log loss on `test` of a model trained on `rows`."""
    job = Job(rows=rows.n_rows, parties=1, trees=trees, eta=ETA)
    party = dealt(rows, 1)
    plan = replace(plan_of(job, party), release=release)
    given = train_in_process(plan, party, threads=cores()).outcome.ensemble.predict(test.features, cores())
    predicted, label = given.astype(np.float64), test.label.astype(np.float64)
    loss = -np.mean(label * np.log(predicted) + (1 - label) * np.log(1 - predicted))
    return auc(predicted, label), float(loss)


def measure(sizes: dict[int, int], trees: int) -> dict[str, Any]:
    """One line for each number of rows and way to round."""
    test = made_rows(TEST_ROWS, TEST_SEED)
    lines = []
    for n_rows, repeats in sizes.items():
        found: dict[str, list[tuple[float, float]]] = {}
        bits = []
        for repeat in range(repeats):
            rows = made_rows(n_rows, 100 + repeat)
            job = Job(rows=n_rows, parties=1, trees=trees, eta=ETA)
            bits.append(leaf_bits_for(CHOICES, n_rows, job.parameters, float(rows.label.mean()), 1.0))
            ways = {"as they are": Release(), "least_choices": Release(statistics=False, least_choices=CHOICES)}
            ways |= {f"{given} bits": Release(leaf_bits=given) for given in BITS}
            for name, release in ways.items():
                found.setdefault(name, []).append(scores(rows, test, trees, release))
        plain = np.array(found.pop("as they are"))
        for name, values in found.items():
            differences = np.array(values) - plain
            error = 2 * differences.std(axis=0, ddof=1) / np.sqrt(repeats) if repeats > 1 else np.zeros(2)
            lines.append(
                {
                    "rows": n_rows,
                    "leaves": name,
                    "bits": bits if name == "least_choices" else None,
                    "auc": float(differences[:, 0].mean()),
                    "auc_error": float(error[0]),
                    "logloss": float(differences[:, 1].mean()),
                    "logloss_error": float(error[1]),
                    "plain": plain.mean(axis=0).tolist(),
                }
            )
    return {"machine": machine(), "trees": trees, "eta": ETA, "choices": CHOICES, "lines": lines}


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        "rows",
        "leaves",
        "AUC less that of exact leaves",
        "log loss less that of exact leaves",
        "AUC, log loss of exact leaves",
        title=f"{result['trees']} trees of depth 6, eta {result['eta']:g}; {result['choices']:,} choices\n"
        f"{described(result['machine'])}",
        title_justify="left",
    )
    for line in result["lines"]:
        bits = f" ({min(line['bits'])} to {max(line['bits'])} bits)" if line["bits"] else ""
        table.add_row(
            f"{line['rows']:,}",
            line["leaves"] + bits,
            f"{line['auc']:+.4f} +- {line['auc_error']:.4f}",
            f"{line['logloss']:+.4f} +- {line['logloss_error']:.4f}",
            f"{line['plain'][0]:.4f}, {line['plain'][1]:.4f}",
        )
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, tables and trees: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    result = measure({614: 2}, 5) if options.quick else measure(SIZES, TREES)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
