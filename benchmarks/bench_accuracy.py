"""Hansa's test metric beside pooled XGBoost's: is the model as good?

    python -m benchmarks.bench_accuracy [--mode federated|coopetitive] [--cases tables|hard] [--splits A:B]
        [--save FILE | --show FILE] [--quick] [--json] [--folder FOLDER] [NAME ...]

Tables: each real table is split at random into 80 % to train on and 20 % to test on, several times, class by class for binary
labels; both learners get the same rows. Hard: the made tables of `hard_tables`, fresh rows for every split. Hansa trains between
the parties of the table's party column, in one process (in coopetitive mode the whole protocol, three servers and sealed messages);
XGBoost trains on the pooled rows in a process of its own. A table that is not there is skipped, and said so.

With --save each finished (table, split) is one line of JSON in FILE, and what FILE has already is not trained again; --show prints
the tables of such a file.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table as Printed

from benchmarks.hard_tables import HARD, LABEL, hard_table
from benchmarks.machine import console, described, machine
from hansa.errors import HansaError
from hansa.simulation.pooled_xgboost import train_pooled_xgboost
from hansa.simulation.run import SimulationSettings, simulate
from hansa.simulation.scores import main_metric, score_table
from hansa.simulation.tables import Table, read_table, split_table
from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.parameters import Parameters, parse_parameters
from hansa.trees.xgboost_json import from_json

FOLDER = Path(__file__).parent.parent / "../shared/data"
TEST_FRACTION = 0.2
QUICK_SPLITS, QUICK_TREES = 2, 10


@dataclass(frozen=True)
class Case:
    """A table of the folder and what to learn from it."""

    party_column: str
    label: str
    objective: str = "binary:logistic"


CASES = {
    "cell_anomaly_4g": Case("site", "unusual"),
    "lte_drop_rate": Case("year", "drop_rate", "reg:squarederror"),
    "heart_disease": Case("hospital", "disease"),
    "credit_default": Case("lender", "default"),
    "adult": Case("employer", "over_50k"),
    "higgs": Case("party", "signal"),
}


@dataclass(frozen=True)
class Setup:
    """How both learners train, and what passes.

    Attributes:
        mode: of Hansa's plan. cases: "tables" or "hard".
        trees, eta, max_bin, max_depth: for both learners.
        allowed_auc: how much smaller Hansa's may be. allowed_rmse: how much larger, as a share of XGBoost's.
    """

    mode: str
    cases: str
    trees: int
    eta: float
    max_bin: int
    allowed_auc: float
    allowed_rmse: float
    max_depth: int = 6

    @property
    def title(self) -> str:
        """The parameters of both learners, in words."""
        given = f"{self.trees} trees, depth {self.max_depth}, {self.max_bin} bins, eta {self.eta:g}".replace(
            " 0.", " ."
        )
        return given + (" where a case gives no other" if self.cases == "hard" else "")

    @property
    def allowance(self) -> str:
        """What passes, in words."""
        auc = f"{self.allowed_auc:g}".removeprefix("0")
        rmse = f"{100 * self.allowed_rmse:g}".removeprefix("0")
        return f"max({auc} AUC or {rmse} % of RMSE, 2 standard errors)"

    def parameters(self, more: Mapping[str, Any]) -> Parameters:
        """Of both learners."""
        ours = {"rounds": self.trees, "max_depth": self.max_depth, "max_bin": self.max_bin, "eta": self.eta}
        return parse_parameters({**ours, **more})


SETUPS = {
    ("federated", "tables"): Setup("federated", "tables", 100, 0.1, 256, 0.0005, 0.005),
    ("federated", "hard"): Setup("federated", "hard", 20, 0.3, 256, 0.0005, 0.005),
    ("coopetitive", "tables"): Setup("coopetitive", "tables", 30, 0.3, 32, 0.002, 0.01),
    ("coopetitive", "hard"): Setup("coopetitive", "hard", 20, 0.3, 32, 0.002, 0.01),
}
SPLITS = {"federated": 10, "coopetitive": 5}


@dataclass(frozen=True)
class Pair:
    """What both learners are given.

    Attributes:
        rows: split -> (train, test). label: its column. parameters: of both.
    """

    rows: Callable[[int], tuple[Table, Table]]
    label: str
    parameters: Parameters


def pairs_of(setup: Setup, names: Iterable[str], folder: Path) -> dict[str, Pair | None]:
    """By name; None for a table that is not there."""
    return {name: _hard_pair(setup, name) if setup.cases == "hard" else _pair(setup, name, folder) for name in names}


def _pair(setup: Setup, name: str, folder: Path) -> Pair | None:
    path, case = folder / f"{name}.csv.gz", CASES[name]
    if not path.is_file():
        return None
    whole = cache(lambda: read_table(path, case.label, case.party_column))
    stratified = case.objective == "binary:logistic"
    parameters = setup.parameters({"objective": case.objective})
    return Pair(lambda seed: split_table(whole(), TEST_FRACTION, seed, stratified), case.label, parameters)


def _hard_pair(setup: Setup, name: str) -> Pair:
    return Pair(lambda seed: hard_table(name, seed), LABEL, setup.parameters(HARD[name].parameters))


def compare(setup: Setup, pair: Pair, split: int) -> dict[str, Any]:
    """Train both on one split. Where Hansa refuses, `hansa` is None and `refused` says why."""
    train, test = pair.rows(split)
    metric = main_metric(pair.parameters.objective)
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        _, predictions = train_pooled_xgboost(Path(folder), train, test, pair.parameters)
    assert predictions is not None  # test rows were given
    theirs = score_table(pair.parameters.objective, predictions, test.label)
    found = {
        "rows": train.n_rows + test.n_rows,
        "train_rows": train.n_rows,
        "features": len(train.names),
        "parties": len(set(train.party)),
        "metric": metric,
        "xgboost": theirs[metric],
        "xgboost_scores": theirs,
    }
    started = time.perf_counter()
    settings = SimulationSettings(parameters=pair.parameters, label=pair.label, mode=setup.mode, in_process=True)
    try:
        simulation = simulate(train, test, settings)
    except HansaError as error:
        return {**found, "hansa": None, "refused": str(error)}
    margins = from_json(simulation.model).predict_margin(train.features)
    return {
        **found,
        "hansa": simulation.summary.metrics[metric],
        "hansa_scores": simulation.summary.metrics,
        "largest_margin": float(np.abs(margins).max()),
        "seconds": time.perf_counter() - started,
    }


def abort_reason(setup: Setup, metric: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Mean difference (positive: Hansa is better), two standard errors (of one split: none), and whether that will do."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    differences = [sign * (a - b) for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(differences)
    two_errors = 2 * statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    fixed = setup.allowed_auc if metric in HIGHER_IS_BETTER else setup.allowed_rmse * statistics.fmean(theirs)
    allowed = max(fixed, two_errors)
    return {"difference": mean, "two_errors": two_errors, "allowed": allowed, "passes": mean >= -allowed}


def summary(setup: Setup, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What the splits of one table say together; it passes only where Hansa refused none."""
    lines = sorted(lines, key=lambda line: line["split"])
    whole = [line for line in lines if line["hansa"] is not None]
    ours, theirs = ([line[who] for line in whole] for who in ("hansa", "xgboost"))
    nothing = {"difference": math.nan, "two_errors": math.nan, "allowed": math.nan, "passes": False}
    found = abort_reason(setup, lines[0]["metric"], ours, theirs) if whole else nothing
    found["passes"] = found["passes"] and len(whole) == len(lines)
    return {
        **{key: lines[0][key] for key in ("rows", "train_rows", "features", "parties", "metric")},
        "splits": [line["split"] for line in lines],
        "hansa": ours,
        "xgboost": theirs,
        "log_loss": [[line[f"{who}_scores"].get("logloss") for line in whole] for who in ("hansa", "xgboost")],
        "largest_margin": max((line["largest_margin"] for line in whole), default=None),
        "refused": [line["refused"] for line in lines if line["hansa"] is None],
        **found,
    }


def show(setup: Setup, results: Mapping[str, Any], missing: Iterable[str], where: str) -> None:
    """Print one table."""
    hard = setup.cases == "hard"
    counts = sorted({len(row["splits"]) for row in results.values()})
    splits = " to ".join(map(str, counts[:: max(1, len(counts) - 1)]))
    drawn = "pairs of drawn tables" if hard else "paired random splits"
    more = "; log loss: Hansa's, XGBoost's; |margin|: Hansa's greatest on training rows" if hard else ""
    table = Printed(
        "table",
        "rows x features",
        "parties",
        "metric",
        f"Hansa, {setup.mode}",
        "XGBoost, pooled",
        "better by",
        "allowed",
        *(("log loss", "|margin|") if hard else ()),
        "abort reason",
        title=f"Test metric, mean of {splits} {drawn}; {setup.title}\n{where}",
        caption="better by: mean difference ± 2 standard errors, positive where Hansa is better; "
        f"allowed to be worse by {setup.allowance}{more}",
        title_justify="left",
    )
    for name, row in results.items():
        digits = 4 if row["metric"] == "auc" or hard else 6
        size = row["train_rows"] if hard else row["rows"]
        losses = [statistics.fmean(own) if own and own[0] is not None else None for own in row["log_loss"]]
        margin = row["largest_margin"] if row["metric"] == "auc" else None
        refused = f"; {len(row['refused'])} refused" if row["refused"] else ""
        table.add_row(
            name,
            f"{size:,} x {row['features']}",
            str(row["parties"]),
            row["metric"].upper(),
            f"{_mean(row['hansa']):.{digits}f}",
            f"{_mean(row['xgboost']):.{digits}f}",
            f"{row['difference']:+.{digits + 1}f}"
            + (f" ± {row['two_errors']:.{digits + 1}f}" if len(row["hansa"]) > 1 else ""),
            f"{row['allowed']:.{digits + 1}f}",
            *(
                (
                    " ".join("" if loss is None else f"{loss:.4f}" for loss in losses),
                    "" if margin is None else f"{margin:.1f}",
                )
                if hard
                else ()
            ),
            "passes"
            if row["passes"]
            else f"[bold red]worse{refused}"
            if len(row["splits"]) > 1
            else "[yellow]one split",
        )
    for name in missing:
        table.add_row(name, "[yellow]skipped: no such file")
    console().print(table)


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Saved lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def show_saved(path: Path) -> None:
    """Print a table for every setup that the file has lines of."""
    grouped: dict[Setup, dict[str, list[dict[str, Any]]]] = {}
    for line in read_lines(path):
        grouped.setdefault(Setup(**line["setup"]), {}).setdefault(line["table"], []).append(line)
    for setup, tables in grouped.items():
        order = [*(HARD if setup.cases == "hard" else CASES)]
        results = {name: summary(setup, tables[name]) for name in sorted(tables, key=order.index)}
        where = next(iter(tables.values()))[0]["machine"]
        show(setup, results, (), described(where))


def _range(text: str) -> range:
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise argparse.ArgumentTypeError(f"{text!r} is no A:B with A below B")
    return range(int(first), int(end))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="NAME", help="of tables or hard cases; default: all")
    parser.add_argument("--mode", choices=sorted(SPLITS), default="federated", help="of Hansa")
    parser.add_argument("--cases", choices=("tables", "hard"), default="tables", help="real tables, or made ones")
    parser.add_argument("--splits", type=_range, metavar="A:B", help="seeds A to B - 1 (default 0:10; coopetitive 0:5)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are")
    parser.add_argument("--quick", action="store_true", help="two splits of ten trees: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    file = parser.add_mutually_exclusive_group()
    file.add_argument("--save", type=Path, metavar="FILE", help="add a line a finished split; skip those already there")
    file.add_argument("--show", type=Path, metavar="FILE", help="print what --save wrote, and train nothing")
    return parser


def main() -> None:
    """Measure and print."""
    parser = _parser()
    options = parser.parse_args()
    if options.show:
        if not options.show.is_file():
            parser.error(f"{options.show} is no file")
        show_saved(options.show)
        return
    known = HARD if options.cases == "hard" else CASES
    if unknown := sorted(set(options.tables) - set(known)):
        parser.error(f"{unknown[0]!r} is no table of this benchmark; expected any of {', '.join(known)}")
    setup = SETUPS[options.mode, options.cases]
    if options.quick:
        setup = Setup(**{**asdict(setup), "trees": QUICK_TREES})
    splits = options.splits or range(QUICK_SPLITS if options.quick else SPLITS[options.mode])
    found = machine()
    pairs = pairs_of(setup, options.tables or known, options.folder)
    saved = [line for line in read_lines(options.save) if Setup(**line["setup"]) == setup] if options.save else []
    done = {(line["table"], line["split"]): line for line in saved}
    # Split by split, so that what a run that is stopped has saved covers all tables alike.
    there = {name: pair for name, pair in pairs.items() if pair is not None}
    for split in splits:
        for name, pair in there.items():
            if (name, split) not in done:
                line = {"table": name, "split": split, **compare(setup, pair, split)}
                done[name, split] = line
                if options.save:
                    with options.save.open("a") as file:
                        file.write(json.dumps({**line, "setup": asdict(setup), "machine": found}) + "\n")
    results = {name: summary(setup, [done[name, split] for split in splits]) for name in there}
    missing = [name for name, pair in pairs.items() if pair is None]
    if options.json:
        print(json.dumps({"machine": found, "setup": asdict(setup), "tables": results, "skipped": missing}))
    else:
        show(setup, results, missing, described(found))


if __name__ == "__main__":
    main()
