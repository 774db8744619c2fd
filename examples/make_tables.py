"""Make the tables of README's tour: three simulated operators' cells, from a fixed seed.

python examples/make_tables.py FOLDER

cells.csv       every operator's cells, with a column that says whose each row is
OPERATOR.csv    one operator's cells, without that column: what a party brings
new-cells.csv   other cells, without the answer: what the model is to score
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hansa.demo.telecom import OPERATOR_COLUMN, simulate_operators, telecom_case, write_csv

TARGET = "sleeping_cell"
AGREED = (
    "hour_of_day",
    "rrc_connections",
    "traffic_gb",
    "traffic_last_week_gb",
    "neighbour_traffic_gb",
    "active_alarms",
    TARGET,
)
"""The columns that the tour's plan names."""

SEED, NEW_SEED = 7, 8


def make_tables(folder: Path) -> list[Path]:
    """Write the tables into `folder`; returns their paths."""
    cells = telecom_case(simulate_operators(SEED), TARGET)
    operators = np.unique(cells[OPERATOR_COLUMN])
    tables = {"cells": cells}
    for operator in operators:
        rows = cells[OPERATOR_COLUMN] == operator
        tables[str(operator)] = {name: cells[name][rows] for name in AGREED}
    new = telecom_case(simulate_operators(NEW_SEED, cells=(400, 300, 200)), TARGET)
    tables["new-cells"] = {name: column for name, column in new.items() if name not in (OPERATOR_COLUMN, TARGET)}
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        write_csv(path, table)
        paths.append(path)
    return paths


if __name__ == "__main__":
    destination = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    destination.mkdir(parents=True, exist_ok=True)
    for written in make_tables(destination):
        print(written)
