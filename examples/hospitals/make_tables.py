"""Deal scikit-learn's breast-cancer table (569 real tumours) to three invented hospitals, from a fixed seed.

python make_tables.py

patients.csv      seven tumours in ten, with a column that says whose each row is
HOSPITAL.csv      one hospital's of these, without that column: what a member brings
later.csv         the other three in ten, of all hospitals: what the models are scored on
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

RECORDED = (
    "mean_texture",
    "mean_smoothness",
    "mean_symmetry",
    "mean_fractal_dimension",
    "texture_error",
    "smoothness_error",
    "concavity_error",
    "symmetry_error",
)
"""The features that all three hospitals record. Without the sizes of tumours, the label is harder to tell."""

SHARES = {"riverside": (0.5, 0.45), "hillcrest": (0.3, 0.3), "lakeside": (0.2, 0.25)}
"""Hospital -> its share of the malignant rows, and of the benign ones."""

LATER = 0.3
SEED = 3


def main() -> None:
    bunch = load_breast_cancer(as_frame=True)
    patients = bunch.data.rename(columns=lambda name: name.replace(" ", "_"))
    patients = patients[list(RECORDED)].assign(malignant=1 - bunch.target)  # there 0 is malignant
    rng = np.random.default_rng(SEED)
    hospital = np.empty(len(patients), object)
    for label, share in ((1, 0), (0, 1)):
        rows = rng.permutation(np.flatnonzero(patients["malignant"] == label))
        ends = np.rint(np.cumsum([shares[share] for shares in SHARES.values()]) * len(rows)).astype(int)
        for name, part in zip(SHARES, np.split(rows, ends[:-1]), strict=True):
            hospital[part] = name
    patients.insert(0, "hospital", hospital)
    later = rng.random(len(patients)) < LATER
    patients[later].to_csv("later.csv", index=False)
    patients = patients[~later]
    patients.to_csv("patients.csv", index=False)
    for name, part in patients.groupby("hospital"):
        part.drop(columns="hospital").to_csv(f"{name}.csv", index=False)
    print("tables:", ", ".join(sorted(path.name for path in Path().glob("*.csv"))))


if __name__ == "__main__":
    main()
