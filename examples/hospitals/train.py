"""Three hospitals train on secret shares, in this process; prints what each gains, and everything that was opened, to whom.

python train.py
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from sklearn.metrics import roc_auc_score

import hansa

LABEL = "malignant"
TREES = {"rounds": 20, "max_depth": 3, "eta": 0.2, "max_bin": 16, "base_score": 0.4}
"""A base score that is agreed need not follow from the labels: then their sum is not opened."""


def auc(model: hansa.Model, patients: pd.DataFrame) -> float:
    return float(roc_auc_score(patients[LABEL], model.predict_proba(patients)[:, 1]))


def train(hospitals: Mapping[str, pd.DataFrame]) -> hansa.Run:
    return hansa.fit(hospitals, label=LABEL, mode="coopetitive", **TREES)


def main() -> None:
    hospitals = hansa.split(pd.read_csv("patients.csv"), by="hospital")
    later = pd.read_csv("later.csv")
    run = train(hospitals)
    print("model of                  rows   auc on later patients")
    for name, patients in hospitals.items():
        alone = hansa.fit({name: patients}, label=LABEL, **TREES).model
        print(f"{name + ' alone':<22}{len(patients):>8}{auc(alone, later):>24.3f}")
    rows = sum(map(len, hospitals.values()))
    print(f"{'all three together':<22}{rows:>8}{auc(run.model, later):>24.3f}")
    print()
    print("everything that was opened:")
    for opening in run.openings:
        print(f"  to {opening.to}: {opening.what}")
    run.model.save("model.json")


if __name__ == "__main__":
    main()
