"""What a bank gains: its alerts of the next quarter under the common model, and under a model of its own transfers only.

python alerts.py

Investigators can look at one transfer in fifty. So a bank's threshold is the score that one in fifty of its own labelled transfers
reaches; a transfer of the next quarter that reaches it is an alert. Each bank finds its threshold alone, and shows it to nobody.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

import hansa

ALERTS = 1 / 50
"""Share of transfers that investigators can look at."""


def alerts(model: hansa.Model, past: pd.DataFrame, new: pd.DataFrame) -> np.ndarray:
    """Which of the new transfers reach the threshold that the past ones give."""
    threshold = np.quantile(model.predict_proba(past)[:, 1], 1 - ALERTS)
    return model.predict_proba(new)[:, 1] >= threshold


def train_alone(past: pd.DataFrame, plan: hansa.Plan) -> hansa.Model:
    """The plan's trees, of one bank's own transfers."""
    parameters = plan.parameters
    return hansa.fit(
        {"alone": past},
        label=plan.schema.label,
        rounds=parameters.rounds,
        eta=parameters.eta,
        max_depth=parameters.max_depth,
        max_bin=parameters.max_bin,
    ).model


def main() -> None:
    plan = hansa.read_plan(Path("plan.toml"))
    quarter = pd.read_csv("next-quarter.csv")
    print(f"{'':<10}{'':>11}{'':>12}{'found by its model':>22}{'found by the common':>22}")
    print(f"{'bank':<10}{'transfers':>11}{'laundering':>12}{'alone':>22}{'model':>22}")
    for bank in plan.receivers:
        past = pd.read_csv(f"{bank}.csv")
        new = quarter[quarter["bank"] == bank]
        guilty = new["laundering"].to_numpy() == 1
        found = [
            int((alerts(model, past, new) & guilty).sum())
            for model in (train_alone(past, plan), hansa.Model.load(f"{bank}-model.json"))
        ]
        print(f"{bank:<10}{len(new):>11}{guilty.sum():>12}{found[0]:>22}{found[1]:>22}")


if __name__ == "__main__":
    main()
