"""Make the tables of this project: cells of three simulated operators, from a fixed seed.

python make_tables.py

sleeping.csv, faulty.csv   all cells, with a column that says whose each row is: for the scripts
OPERATOR.csv               one operator's cells, without that column: what a member brings to a run by hand
new-cells.csv              other cells, without the label: what the model is to score
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hansa.demo.telecom import OPERATOR_COLUMN, simulate_operators, telecom_case, write_csv

LABELS = {"sleeping": "sleeping_cell", "faulty": "hardware_fault"}
"""Table -> its column to predict."""

AGREED = (
    "hour_of_day",
    "rrc_connections",
    "prb_utilisation_dl_pct",
    "traffic_gb",
    "traffic_last_week_gb",
    "neighbour_traffic_gb",
    "rach_success_pct",
    "active_alarms",
)
"""The features that the plans name."""

CELLS = (12_000, 10_000, 10_000)
NEW_CELLS = (300, 200, 150)


def main() -> None:
    cells = simulate_operators(seed=7, cells=CELLS)
    for table, label in LABELS.items():
        write_csv(f"{table}.csv", telecom_case(cells, label))
    label = LABELS["sleeping"]
    for operator in np.unique(cells[OPERATOR_COLUMN]):
        rows = cells[OPERATOR_COLUMN] == operator
        write_csv(f"{operator}.csv", {name: cells[name][rows] for name in (*AGREED, label)})
    new = simulate_operators(seed=8, cells=NEW_CELLS)
    write_csv("new-cells.csv", {name: new[name] for name in AGREED})
    print("tables:", ", ".join(sorted(path.name for path in Path().glob("*.csv"))))


if __name__ == "__main__":
    main()
