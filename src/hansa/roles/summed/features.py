"""What a plan says of single features, as the learner takes it: both sides of a run work it out, and find the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.plan import Plan
from hansa.trees.guided_search import FeatureRules
from hansa.trees.node_columns import NodeColumns

DEFAULT_CAT_TO_ONEHOT, DEFAULT_CAT_THRESHOLD = 4, 64
"""XGBoost's."""


def feature_rules(plan: Plan) -> FeatureRules:
    """Categories and constraints of a plan's features."""
    names, parameters = plan.schema.features, plan.parameters
    place = {name: number for number, name in enumerate(names)}
    categories = plan.schema.categories or ((),) * len(names)
    monotone = np.zeros(len(names), np.int8)
    for name, sign in parameters.monotone_constraints:
        monotone[place[name]] = sign
    sets = np.zeros((len(parameters.interaction_constraints), len(names)), np.bool_)
    for number, own in enumerate(parameters.interaction_constraints):
        sets[number, [place[name] for name in own]] = True
    onehot, threshold = parameters.max_cat_to_onehot, parameters.max_cat_threshold
    return FeatureRules(
        np.array([len(own) for own in categories], np.int32),
        monotone,
        sets,
        DEFAULT_CAT_TO_ONEHOT if onehot is None else onehot,
        DEFAULT_CAT_THRESHOLD if threshold is None else threshold,
    )


def node_columns(plan: Plan, rules: FeatureRules, columns: npt.NDArray[np.uint32], tree: int) -> NodeColumns:
    """Which of a tree's columns its nodes may use."""
    parameters = plan.parameters
    return NodeColumns(
        columns, tree, parameters.seed, parameters.colsample_bylevel, parameters.colsample_bynode, rules.interactions
    )


def without_categories(
    features: npt.NDArray[np.float32], rules: FeatureRules, first: int = 0
) -> npt.NDArray[np.float32]:
    """`features` (some, n_rows), from feature `first` on, with 0 for every category: counts then tell of a categorical feature who has
    a value, no more.
    """
    categorical = rules.n_categories[first : first + len(features)] > 0
    if not categorical.any():
        return features
    return np.where(categorical[:, None] & ~np.isnan(features), np.float32(0), features)


def with_categories(cuts: Cuts, rules: FeatureRules) -> Cuts:
    """The cuts, with a bin for each category: between n categories 0, 1, ... stand the cuts 1 to n - 1.

    A categorical feature always has a code for missing values: each split sends them to its own side.
    """
    if not rules.n_categories.any():
        return cuts
    return Cuts.from_arrays(
        [
            np.arange(1, count, dtype=np.float32) if count else cuts.of(feature)
            for feature, count in enumerate(rules.n_categories.tolist())
        ],
        cuts.has_missing | (rules.n_categories > 0),
    )
