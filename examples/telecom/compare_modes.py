"""Train on one table in all three modes, in this process, and print what each operator gains over training alone.

python compare_modes.py TABLE.csv LABEL
"""

from __future__ import annotations

import sys

import pandas as pd

import hansa

MODES = ("federated", "secure-aggregation", "coopetitive")
ROUNDS = 15


def main(path: str, label: str) -> None:
    operators = hansa.split(pd.read_csv(path), by="operator")
    print(f"{'auc on held-out cells':<24}{'alone':>8}" + "".join(f"{mode:>20}" for mode in MODES))
    runs = {}
    for mode in MODES:
        # Alone is the same in every mode, so it is trained once. Fewer cuts make a run on shares faster.
        runs[mode] = hansa.fit(
            operators,
            label=label,
            mode=mode,
            alone=not runs,
            evaluation_fraction=0.3,
            rounds=ROUNDS,
            max_depth=4,
            eta=0.3,
            max_bin=32,
            seed=5,
        )
    for operator in operators:
        alone = runs["federated"].members[operator].alone["auc"]
        together = [runs[mode].members[operator].together["auc"] for mode in MODES]
        print(f"{operator:<24}{alone:>8.3f}" + "".join(f"{auc:>20.3f}" for auc in together))
    assert runs["federated"].model == runs["secure-aggregation"].model  # masks cancel to the last bit


if __name__ == "__main__":
    main(*sys.argv[1:])
