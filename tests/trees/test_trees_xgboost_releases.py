"""Old and new releases of XGBoost, each in an environment of its own, load every kind of model that is written and predict the same.

The environments are made with pip, from the package index that this machine is set to. Where it cannot be reached, they are skipped.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.trees.ensemble import Ensemble, Tree
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import to_json

RELEASES = ("2.1.4", "3.0.5", "3.2.0")
N_ROWS, LEVELS = 600, (3, 30)
NAMES = ("load", "delay", "site", "vendor")

KINDS = {
    "binary:logistic": {},
    "binary:logitraw": {},
    "binary:hinge": {},
    "reg:squarederror": {},
    "reg:pseudohubererror": {"huber_slope": 2.0},
    "reg:squaredlogerror": {},
    "count:poisson": {},
    "reg:gamma": {},
    "reg:tweedie": {"tweedie_variance_power": 1.3},
    "multi:softprob": {"num_class": 3},
    "multi:softmax": {"num_class": 3},
}

PREDICT = """
import pathlib, sys
import numpy as np
import xgboost

folder = pathlib.Path(sys.argv[1])
features = np.load(folder / "features.npy")
for path in sorted(folder.glob("*.json")):
    booster = xgboost.Booster(model_file=str(path))
    names, types = booster.feature_names, booster.feature_types
    matrix = xgboost.DMatrix(features, feature_names=names, feature_types=types, enable_categorical=True)
    np.save(path.with_suffix("." + xgboost.__version__ + ".npy"), booster.predict(matrix))
print(xgboost.__version__)
"""


def made_rows():
    """float32 (features, rows): two of numbers, two of categories by number, all with missing values; and what labels follow."""
    rng = np.random.default_rng(5)
    columns = [rng.normal(size=N_ROWS), rng.exponential(size=N_ROWS), *(rng.integers(0, n, N_ROWS) for n in LEVELS)]
    features = np.stack(columns).astype(np.float32)
    effects = rng.normal(size=LEVELS[1])[features[3].astype(int)] + features[0] + 0.5 * (features[2] == 1)
    features[rng.random(features.shape) < 0.1] = np.nan
    return features, effects + rng.logistic(size=N_ROWS)


def labels_of(objective, signal):
    if objective.startswith("multi:"):
        return np.digitize(signal, np.quantile(signal, [0.6, 0.9]))  # shares far apart, so that base scores are
    if objective.startswith("binary:"):
        return signal > 1
    return signal if objective == "reg:squarederror" else np.exp(signal / 3)


def trained(objective, **given):
    features, signal = made_rows()
    rows = Rows(features, labels_of(objective, signal).astype(np.float32), None)
    plan = Plan(
        name="releases",
        mode="federated",
        aggregator="hub",
        parties=("a",),
        receivers=("a",),
        minimum_parties=1,
        schema=Schema(NAMES, "y", categories=((), (), *(tuple(f"level {i}" for i in range(n)) for n in LEVELS))),
        parameters=parse_parameters({"objective": objective, "rounds": 5, "max_depth": 4, **KINDS[objective], **given}),
        min_cell_rows=2,
        min_party_rows=0,
    )
    return train_in_process(plan, {"a": rows}).outcome.ensemble


def classes_against_the_rest():
    """As coopetitive mode releases it: an output a class, which started from a base score of its own."""
    tree = Tree(
        left_children=np.array([1, -1, -1], np.int32),
        right_children=np.array([2, -1, -1], np.int32),
        parents=np.array([2**31 - 1, 0, 0], np.int32),
        split_indices=np.zeros(3, np.int32),
        split_conditions=np.array([0.25, -0.5, 0.75], np.float32),
        default_left=np.array([1, 0, 0], np.uint8),
        base_weights=np.array([0.0, -0.5, 0.75], np.float32),
        loss_changes=np.array([1.0, 0, 0], np.float32),
        sum_hessian=np.array([9.0, 5, 4], np.float32),
        split_type=np.zeros(3, np.uint8),
    )
    return Ensemble("binary:logistic", (0.1, 0.3, 0.6), NAMES, (tree,) * 3).with_one_base_score()


@pytest.fixture(scope="module")
def models():
    """Every kind of model, by name."""
    found = {objective.replace(":", "-"): trained(objective) for objective in KINDS}
    for objective in ("binary:logistic", "multi:softprob"):
        found[f"forest of {objective.replace(':', '-')}"] = trained(
            objective, num_parallel_tree=3, subsample=0.7, rounds=2
        )
    found["given base score"] = trained("multi:softprob", base_score=0.2)
    found["one-hot"] = trained("reg:squarederror", max_cat_to_onehot=100)
    found["one against the rest"] = classes_against_the_rest()
    return found


@pytest.fixture(scope="module", params=RELEASES)
def python(request, tmp_path_factory):
    """The interpreter of an environment with this release."""
    folder = tmp_path_factory.mktemp(f"xgboost-{request.param}")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    executable = folder / "bin" / "python"
    install = [str(executable), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    done = subprocess.run([*install, f"xgboost-cpu=={request.param}"], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot install xgboost-cpu {request.param} here: {done.stderr.strip()[-200:]}")
    return executable


@pytest.mark.slow
def test_a_release_predicts_as_this_package_does(python, models, tmp_path):
    features, _ = made_rows()
    np.save(tmp_path / "features.npy", features.T)
    for name, ensemble in models.items():
        (tmp_path / f"{name}.json").write_bytes(to_json(ensemble))
    done = subprocess.run([str(python), "-c", PREDICT, str(tmp_path)], check=False, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    release = done.stdout.strip()
    wrong = {}
    for name, ensemble in models.items():
        found = np.load(tmp_path / f"{name}.{release}.npy")
        wanted = ensemble.predict(features)
        worst = float(np.abs(found - wanted).max()) if found.shape == wanted.shape else f"shape {found.shape}"
        if worst != pytest.approx(0, abs=1e-6 * max(1.0, float(np.abs(wanted).max()))):
            wrong[name] = worst
    assert wrong == {}
