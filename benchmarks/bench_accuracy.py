"""Hansa's test metric beside pooled XGBoost's, on real tables: is the model as good?

    python -m benchmarks.bench_accuracy [--quick] [--json] [--folder FOLDER] [TABLE ...]

Each table is split at random into 80 % to train on and 20 % to test on, ten times, class by class for binary
labels; both learners get the same rows. Hansa trains between the parties of the table's party column, in one
process; XGBoost trains on the pooled rows in a process of its own. A table that is not there is skipped, and
said so.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.cli.pooled_xgboost import train_pooled_xgboost
from hansa.cli.scores import HIGHER_IS_BETTER, main_metric, score_table
from hansa.cli.simulation import Settings, simulate
from hansa.cli.tables import read_table, split_table
from hansa.trees.parameters import Parameters, parse_parameters

FOLDER = Path(__file__).parent.parent / "../shared/data"
SPLITS, QUICK_SPLITS = 10, 2
TEST_FRACTION = 0.2
ALLOWED_AUC = 0.0005
ALLOWED_RMSE = 0.005
"""As a share of XGBoost's."""


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


def parameters_of(case: Case) -> Parameters:
    """100 trees of depth 6, 256 bins, eta .1, for both learners."""
    return parse_parameters({"objective": case.objective, "rounds": 100, "max_depth": 6, "max_bin": 256, "eta": 0.1})


def compare(path: Path, case: Case, splits: int) -> dict[str, Any]:
    """Train both on every split; the verdict over all of them."""
    table = read_table(path, case.label, case.party_column)
    parameters = parameters_of(case)
    settings = Settings(parameters=parameters, label=case.label, in_process=True)
    metric = main_metric(case.objective)
    ours, theirs, parties = [], [], 0
    for seed in range(splits):
        train, test = split_table(table, TEST_FRACTION, seed, case.objective == "binary:logistic")
        simulation = simulate(train, test, settings)
        with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
            _, predictions = train_pooled_xgboost(Path(folder), train, test, parameters)
        assert predictions is not None  # test rows were given
        ours.append(simulation.summary["metrics"][metric])
        theirs.append(score_table(case.objective, predictions, test.label)[metric])
        parties = len(simulation.summary["members"])
    return {
        "rows": table.n_rows,
        "features": len(table.names),
        "parties": parties,
        "metric": metric,
        "hansa": ours,
        "xgboost": theirs,
        **verdict(metric, ours, theirs),
    }


def verdict(metric: str, ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Mean difference (positive: Hansa is better), two standard errors, and whether that will do."""
    sign = 1 if metric in HIGHER_IS_BETTER else -1
    differences = [sign * (a - b) for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(differences)
    two_errors = 2 * statistics.stdev(differences) / math.sqrt(len(differences))
    fixed = ALLOWED_AUC if metric in HIGHER_IS_BETTER else ALLOWED_RMSE * statistics.fmean(theirs)
    allowed = max(fixed, two_errors)
    return {"difference": mean, "two_errors": two_errors, "allowed": allowed, "passes": mean >= -allowed}


def show(results: dict[str, Any], missing: Iterable[str], splits: int, where: str) -> None:
    """Print one table."""
    table = Table(
        "table",
        "rows x features",
        "parties",
        "metric",
        "Hansa, federated",
        "XGBoost, pooled",
        "better by",
        "allowed",
        "verdict",
        title=f"Test metric, mean of {splits} paired random splits; 100 trees, depth 6, 256 bins, eta .1\n{where}",
        caption="better by: mean difference ± 2 standard errors, positive where Hansa is better; "
        "allowed to be worse by max(.0005 AUC or .5 % of RMSE, 2 standard errors)",
        title_justify="left",
    )
    for name, row in results.items():
        digits = 4 if row["metric"] == "auc" else 6
        table.add_row(
            name,
            f"{row['rows']:,} x {row['features']}",
            str(row["parties"]),
            row["metric"].upper(),
            f"{statistics.fmean(row['hansa']):.{digits}f}",
            f"{statistics.fmean(row['xgboost']):.{digits}f}",
            f"{row['difference']:+.{digits + 1}f} ± {row['two_errors']:.{digits + 1}f}",
            f"{row['allowed']:.{digits + 1}f}",
            "passes" if row["passes"] else "[bold red]worse",
        )
    for name in missing:
        table.add_row(name, "[yellow]skipped: no such file")
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"any of {', '.join(CASES)}; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the tables are")
    parser.add_argument("--quick", action="store_true", help="two splits: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if unknown := sorted(set(options.tables) - set(CASES)):
        parser.error(f"{unknown[0]!r} is no table of this benchmark; expected any of {', '.join(CASES)}")
    splits = QUICK_SPLITS if options.quick else SPLITS
    paths = {name: options.folder / f"{name}.csv.gz" for name in options.tables or CASES}
    missing = [name for name, path in paths.items() if not path.is_file()]
    found = machine()
    results = {name: compare(path, CASES[name], splits) for name, path in paths.items() if name not in missing}
    if options.json:
        print(json.dumps({"machine": found, "splits": splits, "tables": results, "skipped": missing}))
    else:
        show(results, missing, splits, described(found))


if __name__ == "__main__":
    main()
