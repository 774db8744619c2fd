"""What the roles of a coopetitive run derive alike from the plan, the roster and the cuts: all of it public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.candidates import Candidates, Feature
from hansa.mpc.training import Coins, LabelScale, Settings
from hansa.plan import Coopetitive, Plan
from hansa.protocol.messages import SettleStart, to_array
from hansa.trees.ensemble import base_margin
from hansa.trees.sampling import draw_columns, draw_rows

SQUARED_ERROR = "reg:squarederror"

LEAF_BITS = {"binary:logistic": 14, SQUARED_ERROR: 16}
"""Fraction bits of an opened leaf: with its range and sign 17 bits."""

UNIT_BITS = 32
"""A label of squared error is summed in 2^-32 of the label range: 2^31 rows still fit 64 bits."""

BATCH_ROWS = 2**14
"""Rows that an owner shares at a time: no member ever holds more than one batch's shares twice."""


def coopetitive(plan: Plan) -> Coopetitive:
    """The part of the plan that only this mode has. Raises PlanError for a plan of another mode."""
    if plan.coopetitive is None:
        raise PlanError(f"the plan's mode is {plan.mode!r}; this role takes part in coopetitive mode only")
    return plan.coopetitive


def plan_cuts(plan: Plan) -> Cuts | None:
    """The cuts that the plan gives, or None where they are searched."""
    more = coopetitive(plan)
    if more.cuts is None:
        return None
    arrays = [np.array(cuts, np.float32) + np.float32(0) for cuts in more.cuts]
    return Cuts.from_arrays(arrays, [name in (more.missing or ()) for name in plan.schema.features])


def given_start(plan: Plan, rows: Mapping[str, int]) -> Start | None:
    """The start, where the plan says all of it; None where servers have something to find."""
    cuts, base_score = plan_cuts(plan), plan.parameters.base_score
    return None if cuts is None or base_score is None else Start(plan, rows, cuts, base_score)


def declared_missing(plan: Plan) -> npt.NDArray[np.bool_] | None:
    """bool (features,): which may lack values, as the plan says; None where it does not."""
    missing = coopetitive(plan).missing
    return None if missing is None else np.array([name in missing for name in plan.schema.features])


def label_units(labels: npt.NDArray[np.float64], plan: Plan) -> int:
    """The sum of an owner's labels in whole units: rows with label 1, or 2^-32 of the label range above its lowest."""
    bounds = coopetitive(plan).label_range
    if bounds is None:
        return int(labels.sum())
    shares = np.clip((labels - bounds[0]) / (bounds[1] - bounds[0]), 0, 1)
    return int(np.round(shares * 2.0**UNIT_BITS).astype(np.int64).sum())


def base_score_of(units: int, rows: int, plan: Plan) -> float:
    """The pooled mean label as a float32, from the pooled sum of `label_units`. Raises PlanError where no model could start."""
    bounds = coopetitive(plan).label_range
    if bounds is not None:
        return float(np.float32(bounds[0] + (bounds[1] - bounds[0]) * (units / 2.0**UNIT_BITS / rows)))
    if not 0 < units < rows:
        raise PlanError(f"all {rows} labels are the same; binary:logistic needs rows of both classes, or a base_score")
    return float(np.float32(units / rows))


@dataclass(frozen=True)
class Start:
    """What training starts from. Public to servers, owners and receivers.

    Attributes:
        plan: as every member holds it.
        rows: owner -> how many rows it shares, by name.
        cuts: of every feature.
        base_score: in label space.
    """

    plan: Plan
    rows: Mapping[str, int]
    cuts: Cuts
    base_score: float

    @cached_property
    def features(self) -> npt.NDArray[np.int64]:
        """The features that have a candidate split, ascending: the others are constant."""
        used = np.flatnonzero((np.diff(self.cuts.offsets) > 0) | self.cuts.has_missing)
        if not used.size:
            raise PlanError(
                "no feature has a cut: a tree could not split. Give other features, or a smaller min_cell_rows"
            )
        return used

    @cached_property
    def candidates(self) -> Candidates:
        """Of the features in `features`."""
        sizes = np.diff(self.cuts.offsets)
        return Candidates(
            tuple(Feature(int(sizes[f]), has_missing=bool(self.cuts.has_missing[f])) for f in self.features)
        )

    @cached_property
    def settings(self) -> Settings:
        """How to grow trees on shares. Raises PlanError where the plan asks for what shares cannot hold."""
        return settings_of(self.plan, self.base_score)

    @cached_property
    def label_scale(self) -> LabelScale | None:
        """How labels of squared error become words; None for binary:logistic."""
        return label_scale(self.plan, self.base_score)

    @property
    def coins(self) -> Coins:
        """The public draws of each tree, from the plan's seed."""
        parameters = self.plan.parameters

        def rows(tree: int) -> npt.NDArray[np.bool_] | None:
            if parameters.subsample >= 1:
                return None
            drawn = [
                draw_rows(count, parameters.subsample, parameters.seed, tree, owner)
                for owner, count in sorted(self.rows.items())
            ]
            return np.concatenate(drawn)

        def features(tree: int) -> npt.NDArray[Any] | None:
            if parameters.colsample_bytree >= 1:
                return None
            drawn = draw_columns(len(self.features), parameters.colsample_bytree, parameters.seed, tree)
            return drawn.astype(np.int64)

        return Coins(rows, features)


def label_scale(plan: Plan, base_score: float) -> LabelScale | None:
    """How labels of squared error become words; None for binary:logistic. Raises PlanError."""
    bounds = coopetitive(plan).label_range
    return None if bounds is None else LabelScale.of_range(*bounds, base_score)


def settings_of(plan: Plan, base_score: float) -> Settings:
    """The parameters of training on shares. Raises PlanError naming what shares cannot hold."""
    given = plan.parameters
    scale = label_scale(plan, base_score)
    # "auto" is negatives over positives, which the pooled mean tells.
    weight = (1 - base_score) / base_score if isinstance(given.scale_pos_weight, str) else given.scale_pos_weight
    return Settings(
        objective="binary:logistic" if scale is None else "reg:squarederror",
        rounds=given.rounds,
        eta=given.eta,
        max_depth=given.max_depth,
        reg_lambda=given.lambda_,
        gamma=given.gamma if scale is None else given.gamma / scale.scale**2,
        min_child_weight=given.min_child_weight,
        scale_pos_weight=weight,
        base_margin=float(base_margin(given.objective, base_score)) if scale is None else 0.0,
        leaf_bits=LEAF_BITS[given.objective],
    )


def batches(rows: int) -> list[tuple[int, int]]:
    """(first, count) of the batches that an owner shares its rows in."""
    return [(first, min(BATCH_ROWS, rows - first)) for first in range(0, rows, BATCH_ROWS)]


def start_of(servers: str, message: SettleStart, plan: Plan, rows: Mapping[str, int]) -> Start:
    """The start that the servers found, held to the plan. Raises ProtocolError naming them.

    Args:
        servers: their names, for errors. rows: of every owner.
    """
    features = len(plan.schema.features)
    try:
        cuts = Cuts(
            to_array(servers, "offsets", message.offsets, np.int64, (features + 1,)).copy(),
            to_array(servers, "values", message.values, np.float32, (None,)).copy(),
            to_array(servers, "has_missing", message.has_missing, np.uint8, (features,)).astype(np.bool_),
        )
    except DataError as error:
        raise ProtocolError(f"servers {servers} found cuts that are none: {error}") from error
    given, declared, base_score = plan_cuts(plan), declared_missing(plan), plan.parameters.base_score
    if given is not None and not all(
        np.array_equal(getattr(cuts, name), getattr(given, name)) for name in ("offsets", "values", "has_missing")
    ):
        raise ProtocolError(f"servers {servers} told other cuts than the plan gives")
    if declared is not None and not np.array_equal(cuts.has_missing, declared):
        raise ProtocolError(f"servers {servers} told other features with missing values than the plan declares")
    if base_score is not None and message.base_score != base_score:
        raise ProtocolError(f"servers {servers} told base score {message.base_score}, and the plan gives {base_score}")
    if cuts.n_codes.max() > plan.parameters.max_bin + 1:
        raise ProtocolError(f"servers {servers} found more bins of a feature than max_bin {plan.parameters.max_bin}")
    try:
        base_margin(plan.parameters.objective, message.base_score)
    except DataError as error:
        raise ProtocolError(f"servers {servers} told a base score that is none: {error}") from error
    return Start(plan, rows, cuts, message.base_score)
