"""Real XGBoost on pooled rows, in a process of its own with its own threads: the yardstick of simulations and benchmarks.

    python -m hansa.simulation.pooled_xgboost JOB.json

The job names .npy files and parameters; the answer is one JSON object on standard output and predictions in an .npy file.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from hansa.errors import HansaError
from hansa.simulation.tables import Table
from hansa.trees.losses import LOSSES, SOFTPROB, is_softmax
from hansa.trees.parameters import Parameters

ONE_HOT = 2**16
"""`max_cat_to_onehot` above any number of categories."""


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the process says: XGBoost's version, and the seconds of each repeat."""

    version: str
    binning: tuple[float, ...]
    training: tuple[float, ...]


def is_installed() -> bool:
    """Whether XGBoost can be imported."""
    return importlib.util.find_spec("xgboost") is not None


def xgboost_parameters(parameters: Parameters, positives: int, negatives: int) -> dict[str, str | float | int]:
    """The same training in XGBoost's words."""
    weight = negatives / max(positives, 1) if parameters.scale_pos_weight == "auto" else parameters.scale_pos_weight
    named: dict[str, str | float | int] = {
        "objective": parameters.objective,
        "tree_method": "hist",
        "eta": parameters.eta,
        "max_depth": parameters.max_depth,
        "max_leaves": parameters.max_leaves,
        "grow_policy": parameters.grow_policy,
        "lambda": parameters.lambda_,
        "alpha": parameters.alpha,
        "gamma": parameters.gamma,
        "min_child_weight": parameters.min_child_weight,
        "max_delta_step": parameters.max_delta_step,
        "subsample": parameters.subsample,
        "colsample_bytree": parameters.colsample_bytree,
        "colsample_bylevel": parameters.colsample_bylevel,
        "colsample_bynode": parameters.colsample_bynode,
        "num_parallel_tree": parameters.num_parallel_tree,
        "max_bin": parameters.max_bin,
        "scale_pos_weight": weight,
        "seed": parameters.seed,
    }
    shape = LOSSES[parameters.objective].shape
    if shape:
        named[shape] = parameters.shape
    for name in ("max_cat_to_onehot", "max_cat_threshold"):
        if (given := getattr(parameters, name)) is not None:
            named[name] = given
    if parameters.quantile_alpha:
        named["quantile_alpha"] = str(list(parameters.quantile_alpha))
    if is_softmax(parameters.objective):
        named |= {"objective": SOFTPROB, "num_class": parameters.num_class}
    if parameters.base_score is not None:
        named["base_score"] = parameters.base_score
    return named


def constraints_of(parameters: Parameters, names: Sequence[str]) -> dict[str, str]:
    """The constraints on features in XGBoost's words, by position."""
    own = parameters.for_features(names)
    signs = dict(own.monotone_constraints)
    sets = [[names.index(name) for name in several] for several in own.interaction_constraints]
    told = {}
    if signs:
        told["monotone_constraints"] = str(tuple(signs.get(name, 0) for name in names))
    if sets:
        told["interaction_constraints"] = json.dumps(sets)
    return told


def train_pooled_xgboost(
    folder: Path, train: Table, test: Table | None, parameters: Parameters, repeats: int = 1
) -> tuple[Answer, np.ndarray[Any, np.dtype[np.float32]] | None]:
    """Train in another process.

    Returns:
        What it says, and the predictions on `test`: (rows,), or (rows, outputs) of several.
    """
    label = train.label
    if parameters.num_class and not is_softmax(parameters.objective):
        # XGBoost trains one model a column: one class against the rest.
        label = (label[:, None] == np.arange(parameters.num_class)).astype(np.float32)
    names = {"train": train.features, "label": label if train.label.ndim == 1 else np.ascontiguousarray(label.T)}
    if train.weight is not None:
        names["weight"] = train.weight
    if test is not None:
        names["test"] = test.features
    for name, array in names.items():
        np.save(folder / f"xgboost-{name}.npy", array)
    positives = int((train.label == 1).sum())
    job = {
        "folder": str(folder),
        "arrays": sorted(names),
        "parameters": xgboost_parameters(parameters, positives, train.n_rows - positives)
        | constraints_of(parameters, train.names),
        "types": ["c" if name in train.categories else "q" for name in train.names],
        "rounds": parameters.rounds,
        "max_bin": parameters.max_bin,
        "repeats": repeats,
    }
    path = folder / "xgboost-job.json"
    path.write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "hansa.simulation.pooled_xgboost", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HansaError(f"XGBoost failed on the pooled rows: {done.stderr.strip()[-2000:]}")
    predictions = np.load(folder / "xgboost-predictions.npy") if test is not None else None
    return msgspec.json.decode(done.stdout, type=Answer), predictions


def main(path: str) -> None:
    """Do the job in the file at `path`."""
    import xgboost

    job = json.loads(Path(path).read_text())
    folder = Path(job["folder"])
    arrays = {name: np.load(folder / f"xgboost-{name}.npy") for name in job["arrays"]}
    features = np.ascontiguousarray(arrays["train"].T)
    seconds: dict[str, list[float]] = {"binning": [], "training": []}
    booster = None
    for _ in range(job["repeats"]):
        started = time.perf_counter()
        pooled = xgboost.QuantileDMatrix(
            features,
            arrays["label"],
            weight=arrays.get("weight"),
            max_bin=job["max_bin"],
            feature_types=job["types"],
            enable_categorical=True,
        )
        binned = time.perf_counter()
        booster = xgboost.train(job["parameters"], pooled, job["rounds"])
        seconds["binning"].append(binned - started)
        seconds["training"].append(time.perf_counter() - binned)
    if booster is not None and "test" in arrays:
        np.save(
            folder / "xgboost-predictions.npy",
            booster.predict(
                xgboost.DMatrix(
                    np.ascontiguousarray(arrays["test"].T), feature_types=job["types"], enable_categorical=True
                )
            ),
        )
    print(json.dumps({"version": xgboost.__version__, **seconds}))


if __name__ == "__main__":
    main(sys.argv[1])
