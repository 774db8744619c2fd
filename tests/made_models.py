"""Models of every kind that is written, and rows to score them on."""

from __future__ import annotations

import functools

import numpy as np

from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.trees.ensemble import Ensemble, Tree
from hansa.trees.parameters import parse_parameters

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
    "reg:absoluteerror": {},
    "reg:quantileerror": {"quantile_alpha": [0.1, 0.5]},
    "multi:softprob": {"num_class": 3},
    "multi:softmax": {"num_class": 3},
}


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


def trained(objective, *, numbers=False, **given):
    """Five rounds of one party's rows. numbers: without the features that are categories."""
    features, signal = made_rows()
    names = NAMES[:2] if numbers else NAMES
    categories = ((), (), *(tuple(f"level {i}" for i in range(n)) for n in LEVELS))[: len(names)]
    rows = Rows(features[: len(names)], labels_of(objective, signal).astype(np.float32), None)
    plan = Plan(
        name="models",
        mode="federated",
        aggregator="hub",
        parties=("a",),
        receivers=("a",),
        minimum_parties=1,
        schema=Schema(names, "y", categories=categories),
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


@functools.cache
def made_models():
    """Every kind of model, by name. Those named "numbers" have no categories."""
    found = {}
    for objective in KINDS:
        name = objective.replace(":", "-")
        found[name], found[f"numbers {name}"] = trained(objective), trained(objective, numbers=True)
    for objective in ("binary:logistic", "multi:softprob"):
        found[f"forest of {objective.replace(':', '-')}"] = trained(
            objective, num_parallel_tree=3, subsample=0.7, rounds=2
        )
    found["given base score"] = trained("multi:softprob", base_score=0.2)
    found["one-hot"] = trained("reg:squarederror", max_cat_to_onehot=100)
    found["one against the rest"] = classes_against_the_rest()
    return found


def features_of(name):
    """float32 (features, rows) that a model of this name takes."""
    features, _ = made_rows()
    return features[:2] if name.startswith("numbers ") else features
