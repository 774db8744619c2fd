"""The model that a run goes on from (XGBoost's `xgb_model`): its trees come first in the new one, and rows start at its margins.

The plan names it by its hash, and every member has the file, so all start from the same trees.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, PlanError
from hansa.plan import Plan
from hansa.trees.ensemble import NO_NODE, Ensemble, base_margin
from hansa.trees.xgboost_json import from_model_file

MOST_MARGIN = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class StartModel:
    """Attributes:
    ensemble: what the file holds. size: bytes of the file.
    margin_bound: no row's margin exceeds this in size, highest_margin: nor this, at any output; where rows have base margins, what
        the trees add to them.
    """

    ensemble: Ensemble
    size: int
    margin_bound: float
    highest_margin: float

    def margins(
        self, features: npt.NDArray[np.float32], threads: int, base_margin: npt.NDArray[np.float32] | None
    ) -> npt.NDArray[np.float32]:
        """float32 (outputs, rows), of features float32 (n_features, rows); base_margin: (outputs, rows), or None for the base score."""
        found = self.ensemble.predict_margin(features, threads, base_margin)
        return np.ascontiguousarray(found.T if found.ndim == 2 else found[None])


def start_model(plan: Plan, document: bytes | None, member: str) -> StartModel | None:
    """The model that the plan goes on from; None where it names none.

    Args:
        document: the member's model file, or None. member: whose it is, for errors.

    Raises PlanError: the file is missing or another than the plan's, or its trees do not fit the plan's.
    """
    if not plan.start_model:
        if document is None:
            return None
        raise PlanError(f"member {member!r} gives a start_model, and the plan has none; leave it out")
    if document is None:
        raise PlanError(
            f"the plan goes on from the model {plan.start_model[:16]}...; member {member!r} gives none: name the file as start_model"
        )
    found = hashlib.sha256(document).hexdigest()
    if found != plan.start_model:
        raise PlanError(
            f"the plan goes on from the model {plan.start_model[:16]}...; the file of member {member!r} is {found[:16]}...: ask for "
            "the file that the plan means"
        )
    try:
        ensemble = from_model_file(document)
    except DataError as error:
        raise PlanError(f"start_model of member {member!r}: {error}") from error
    fault = why_not(plan, ensemble)
    if fault:
        raise PlanError(f"start_model: {fault}")
    bounds = [_bounds(ensemble, output, bool(plan.schema.base_margin)) for output in range(ensemble.outputs)]
    most = max(size for size, _ in bounds)
    if most > MOST_MARGIN:
        raise PlanError(
            f"start_model: its leaves may add up to {most:.4g} for a row, beyond float32, in which margins are summed; go on from "
            "another model",
            cure="go on from another model",
        )
    return StartModel(ensemble, len(document), most, max(high for _, high in bounds))


def why_not(plan: Plan, ensemble: Ensemble) -> str:
    """Why a run of this plan cannot go on from this model, and the cure; "" where it can."""
    parameters, schema = plan.parameters, plan.schema
    levels = tuple(schema.levels.get(name) for name in schema.features)
    theirs = ensemble.categories or (None,) * len(ensemble.feature_names)
    for name, found, expected in (
        ("objective", ensemble.objective, parameters.objective),
        ("feature_names", ensemble.feature_names, schema.features),
        ("quantile_alpha", ensemble.quantile_alpha, parameters.quantiles if parameters.quantile_alpha else ()),
        ("number of outputs", ensemble.outputs, parameters.outputs),
        ("num_parallel_tree", ensemble.num_parallel_tree, parameters.num_parallel_tree),
        ("categories", theirs, levels),
        ("rules of dates", ensemble.reading.dates, schema.dates),
    ):
        if found != expected:
            return f"its {name} {found!r:.200} is not the plan's {expected!r:.200}; go on with the plan that the model was trained by"
    if schema.base_margin and len(set(ensemble.base_scores)) > 1:
        return (
            f"its outputs start at different base scores {ensemble.base_scores!r:.200}, and schema.base_margin says where rows start: "
            "leave base_margin out, or go on from a model of Hansa's, whose outputs start alike"
        )
    return ""


def _bounds(ensemble: Ensemble, output: int, of_trees: bool) -> tuple[float, float]:
    """What the margins of one output do not exceed in size, and what they do not exceed; `of_trees`: without the base score."""
    base = 0.0 if of_trees else float(base_margin(ensemble.objective, ensemble.base_scores[output]))
    leaves = [
        tree.split_conditions[tree.left_children == NO_NODE].astype(np.float64) for tree in ensemble.trees_of(output)
    ]
    size = abs(base) + sum(float(np.abs(own).max()) for own in leaves)
    return size, base + sum(max(float(own.max()), 0.0) for own in leaves)
