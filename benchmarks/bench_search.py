"""How good are a plan's trials, which nobody draws, beside Optuna's, which learn from one another?

    python -m benchmarks.bench_search [--rows N] [--seeds N] [--rounds N] [--trials 5,10,20] [--data FOLDER] [--json]

Two real tables, each with its parties. Rows are drawn and split for every seed: 20 % to test on, and of the others 20 % held out by
contents. Both searches have the same space, rounds and held-out rows; every trial trains in federated mode in one process. What is
printed is the best metric of the held-out rows after so many trials, and that of the test rows under the model of this trial. Of a
plan's search each number of trials is a search of its own, as its trials are spread over the space by their number; of Optuna's the
first trials of one search.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Printed

from benchmarks.machine import console, described, machine
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.plan.search import Interval, Search, Value, given_of
from hansa.simulation.run import SimulationSettings, make_plan, member_names, score_model, split_parties
from hansa.simulation.tables import Table, read_table, split_table
from hansa.simulation.tuning import search
from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.metrics import best_round
from hansa.trees.parameters import parse_parameters

DATA = Path(__file__).resolve().parents[1] / "../shared/data"
TEST_FRACTION, HELD_OUT = 0.2, 0.2
TABLES = {
    "credit_default": ("default", "lender", "binary:logistic", "auc"),
    "lte_drop_rate": ("drop_rate", "year", "reg:squarederror", "rmse"),
}
"""Table -> label, party column, objective, metric."""

SPACE: dict[str, tuple[Any, ...]] = {
    "eta": (0.03, 0.3, "log"),
    "max_depth": (2, 8),
    "min_child_weight": (1.0, 20.0, "log"),
    "lambda": (0.5, 20.0, "log"),
    "subsample": (0.6, 1.0),
    "colsample_bytree": (0.6, 1.0),
}
"""`hansa tune`'s own, but for choices that a plan writes otherwise."""


def rows_of(path: Path, name: str, seed: int, most: int) -> tuple[Table, Table]:
    """To train on, and to test on: at most so many rows in all."""
    label, party, objective, _ = TABLES[name]
    whole = read_table(path, label, party)
    drawn = np.random.default_rng(seed).permutation(whole.n_rows)[:most]
    return split_table(whole.take(drawn), TEST_FRACTION, seed, objective.startswith("binary:"))


def settings_of(name: str, given: dict[str, Any]) -> SimulationSettings:
    """One trial's training."""
    label, _, objective, metric = TABLES[name]
    parameters = parse_parameters({"objective": objective, "eval_metric": [metric], **given})
    return SimulationSettings(parameters, label, evaluation_fraction=HELD_OUT)


def trial(name: str, given: dict[str, Any], train: Table, test: Table) -> tuple[float, float]:
    """The best value of the held-out rows, and that of the test rows under the model of that round."""
    settings, metric = settings_of(name, given), TABLES[name][3]
    parts = split_parties(train, member_names(sorted(set(train.party))))
    plan = replace(make_plan(settings, train.names, tuple(parts), categories=dict(train.categories)), min_party_rows=0)
    run = train_in_process(plan, {one: part.rows() for one, part in parts.items()}, policy=policy_of_holder(plan))
    history = run.outcome.history[metric]
    best = best_round(metric in HIGHER_IS_BETTER, history)
    value = None if best is None else history[best - 1]
    if best is None or value is None:
        return math.nan, math.nan
    found = score_model(run.outcome.ensemble.truncate(best), test).get(metric)
    return value, math.nan if found is None else found


def of_plan(
    name: str, fixed: dict[str, Any], numbers: list[int], rows: tuple[Table, Table]
) -> list[tuple[float, float]]:
    """The best trial of a plan's search with each of these numbers of trials."""
    space: tuple[tuple[str, Interval | tuple[Value, ...]], ...] = tuple(
        (one, Interval(low, high, bool(log))) for one, (low, high, *log) in SPACE.items()
    )
    found = []
    for count in numbers:
        drawn = Search(count, space).drawn(fixed["seed"])
        tried = [trial(name, {**fixed, **given_of_trial}, *rows) for given_of_trial in drawn]
        found.append(_best(name, tried))
    return found


def of_optuna(
    name: str, fixed: dict[str, Any], numbers: list[int], rows: tuple[Table, Table]
) -> list[tuple[float, float]]:
    """The best trial of the first of so many of one search of `hansa tune`."""
    given = {**given_of(settings_of(name, fixed).parameters), **fixed}
    kept = {key: value for key, value in given.items() if key not in SPACE}
    tried = search(rows[0], settings_of(name, fixed), kept, SPACE, max(numbers)).trials.trials
    higher, found = TABLES[name][3] in HIGHER_IS_BETTER, []
    for count in numbers:
        whole = [own for own in tried[:count] if own.state == "complete" and own.value is not None]
        best = max(whole, key=lambda own: own.value if higher else -own.value)  # type: ignore[operator]
        found.append(trial(name, {**fixed, **best.parameters}, *rows))
    return found


def _best(name: str, tried: list[tuple[float, float]]) -> tuple[float, float]:
    known = [own for own in tried if not math.isnan(own[0])]
    return (max if TABLES[name][3] in HIGHER_IS_BETTER else min)(known)


def measure(folder: Path, most: int, seeds: int, rounds: int, numbers: list[int]) -> list[dict[str, Any]]:
    """A line for each table, search and number of trials: held-out and test values, one a seed."""
    lines = []
    for name in TABLES:
        path = folder / f"{name}.csv.gz"
        if not path.is_file():
            continue
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for seed in range(seeds):
            rows, fixed = rows_of(path, name, seed, most), {"rounds": rounds, "seed": seed}
            found.setdefault(("XGBoost's defaults", 1), []).append(trial(name, fixed, *rows))
            for what, searched in (("a plan's trials", of_plan), ("Optuna", of_optuna)):
                for count, value in zip(numbers, searched(name, fixed, numbers, rows), strict=True):
                    found.setdefault((what, count), []).append(value)
        for (what, count), values in found.items():
            held, test = (list(own) for own in zip(*values, strict=True))
            lines.append({"table": name, "search": what, "trials": count, "held_out": held, "test": test})
    return lines


def show(lines: list[dict[str, Any]], seeds: int, rounds: int, where: str) -> None:
    """Print one table."""
    printed = Printed(
        *("table", "metric", "search", "trials", "held-out rows", "test rows"),
        title=f"Best trial, at most {rounds} rounds: mean of {seeds} seeds ± standard error\n{where}",
        title_justify="left",
    )
    for line in lines:
        values = [
            f"{statistics.fmean(own):.5f} ± {statistics.stdev(own) / math.sqrt(len(own)) if len(own) > 1 else math.nan:.5f}"
            for own in (line["held_out"], line["test"])
        ]
        printed.add_row(line["table"], TABLES[line["table"]][3], line["search"], str(line["trials"]), *values)
    console().print(printed)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--trials", default="5,10,20,40")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    numbers = [int(text) for text in options.trials.split(",")]
    lines = measure(options.data, options.rows, options.seeds, options.rounds, numbers)
    if options.json:
        print(json.dumps({"machine": machine(), "lines": lines}))
    else:
        show(lines, options.seeds, options.rounds, described())


if __name__ == "__main__":
    main()
