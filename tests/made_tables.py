"""Made-up tables, plans over them, and ways to spread their rows over parties."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hansa.consortium.policy import Policy
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.plan import Plan
from hansa.trees.guided_search import FeatureRules
from hansa.trees.losses import LOSSES
from hansa.trees.parameters import parse_parameters

FEATURES = ("a", "b", "c", "d", "e")
CATEGORIES = ((), tuple(range(3)), tuple(range(17)), (), ())
"""Levels of the features of `coded` rows: few are told apart one by one, many are sorted."""

CLASSES = 3
"""Of labels with several classes."""

QUANTILE = 0.3
"""That reg:quantileerror predicts where no other is asked for."""

OPEN = Policy(least_party_rows=0)
"""Asks for no minimum of rows: made tables are small."""

NAMES = ("aurora", "borealis", "cirrus", "dune", "ember", "fjord")


def table(n_rows: int, objective: str = "binary:logistic", *, weighted: bool = False, seed: int = 0) -> Rows:
    """Rows with a continuous feature, two with few values, two with missing values (one of them mostly)."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(5, n_rows)).astype(np.float32)
    features[1] = rng.integers(0, 3, n_rows)
    features[2] = np.round(features[2], 1) + np.float32(0)
    signal = features[0] + features[1] * features[2] + features[3]
    features[3, rng.random(n_rows) < 0.2] = np.nan
    features[4, rng.random(n_rows) < 0.9] = np.nan
    noisy = signal + rng.logistic(size=n_rows)
    label = (noisy > 1).astype(np.float32) if objective.startswith("binary:") else (20 * noisy).astype(np.float32)
    if objective == "count:poisson":
        label = np.floor(np.exp(0.3 * noisy)).astype(np.float32)
    elif LOSSES[objective].labels == "classes":
        label = np.digitize(noisy, np.quantile(noisy, (0.5, 0.8))).astype(np.float32)
    elif not objective.startswith("binary:") and LOSSES[objective].labels != "numeric":
        label = np.exp(0.3 * noisy).astype(np.float32)
        if objective == "reg:tweedie":
            label[noisy < 0] = 0
        if objective == "reg:squaredlogerror":
            label -= np.float32(0.25)
    weight = rng.gamma(2, size=n_rows).astype(np.float32) if weighted else None
    if weight is not None:
        weight[::17] = 0
    return Rows(features, label, weight)


def plan(
    parties: Sequence[str],
    *,
    weighted: bool = False,
    evaluation: float = 0.0,
    mode: str = "federated",
    categories: bool = False,
    label: str | tuple[str, ...] = "y",
    **parameters: object,
) -> Plan:
    """A plan over `parties` with aggregator "hub"; all parties are receivers.

    label: of the schema. categories: whether b and c are categorical, as in `coded` rows.
    """
    given = {"rounds": 3, "max_depth": 3, "eta": 0.3, "max_bin": 32} | parameters
    if str(given.get("objective", "")).startswith("multi:"):
        given = {"num_class": CLASSES} | given
    if given.get("objective") == "reg:quantileerror":
        given = {"quantile_alpha": QUANTILE} | given
    return Plan(
        name="test",
        mode=mode,
        aggregator="hub",
        parties=tuple(parties),
        receivers=tuple(parties),
        minimum_parties=len(parties),
        schema=Schema(FEATURES, label, "w" if weighted else None, categories=CATEGORIES if categories else ()),
        parameters=parse_parameters(given),
        min_cell_rows=2,
        evaluation_fraction=evaluation,
        min_party_rows=0,
    )


def with_labels(rows: Rows, n_labels: int, objective: str) -> Rows:
    """The rows with so many labels: their own, and others of the same kind that differ from it in rows and size."""
    scale = 50.0 if LOSSES[objective].labels == "numeric" else 1.0
    others = [np.roll(rows.label, 7 * number) * np.float32(scale**number) for number in range(n_labels)]
    half = rows.n_rows // 2  # the first half keeps its own label, so that features tell something of all
    for own in others[1:]:
        own[:half] = rows.label[:half] * (own.max() / max(rows.label.max(), 1))
    if objective.startswith("binary:"):
        others = [(own > 0).astype(np.float32) for own in others]
    return Rows(rows.features, np.stack(others).astype(np.float32), rows.weight, base_margin=rows.base_margin)


def no_rules(n_features: int) -> FeatureRules:
    """No feature is categorical or constrained."""
    return FeatureRules(
        np.zeros(n_features, np.int32), np.zeros(n_features, np.int8), np.zeros((0, n_features), np.bool_), 4, 64
    )


def coded(rows: Rows) -> Rows:
    """The rows with codes of categories in b and c, some of them missing."""
    features = rows.features.copy()
    features[1, ::11] = np.nan
    features[2] = np.clip(np.round(3 * features[2]) + 8, 0, 16)
    return Rows(features, rows.label, rows.weight)


def take(rows: Rows, which: np.ndarray) -> Rows:
    """The rows at `which`, as a table of their own."""
    return Rows(
        np.ascontiguousarray(rows.features[:, which]),
        rows.label[..., which],
        None if rows.weight is None else rows.weight[which],
        base_margin=None if rows.base_margin is None else np.ascontiguousarray(rows.base_margin[:, which]),
        subject=None if rows.subject is None else rows.subject[which],
    )


def spread(rows: Rows, owners: np.ndarray) -> dict[str, Rows]:
    """Party name -> its rows; owners int (n_rows,) says whose each row is. No party is without rows."""
    return {NAMES[i]: take(rows, np.flatnonzero(owners == i)) for i in range(int(owners.max()) + 1)}
