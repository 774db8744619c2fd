"""What the roles of a coopetitive run derive alike from plan, roster and start: all of it public."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.candidates import Candidates, Feature
from hansa.mpc.release import Statistics
from hansa.mpc.shared_rows import BATCH_ROWS
from hansa.mpc.training import Coins, LabelScale, Settings, growth_of
from hansa.plan import Coopetitive, Plan
from hansa.protocol.messages import SettleStart, to_array, to_tensor
from hansa.roles.statistics import estimated_base
from hansa.trees.ensemble import base_margin
from hansa.trees.sampling import draw_columns, draw_rows

SQUARED_ERROR = "reg:squarederror"

LEAF_BITS = {"binary:logistic": 14, SQUARED_ERROR: 16}
"""Fraction bits of an opened leaf: with its range and sign 17 bits."""

COVER_BITS = 4
"""Fraction bits of an opened cover, where the plan releases statistics."""

LABEL_BITS, WEIGHT_BITS = 32, 20
"""A label of squared error is summed in 2^-32 of the label range, and a weight in 2^-20 of its limit; labels times weights in
2^-40: the sums of 2^22 rows fit 63 bits."""


@dataclass(frozen=True)
class Counts:
    """How many rows every owner shares: `training` and `held` out, by name. Public."""

    training: Mapping[str, int]
    held: Mapping[str, int]

    @property
    def total(self) -> int:
        """Rows of all owners that are trained on."""
        return sum(self.training.values())

    @property
    def total_held(self) -> int:
        """Rows of all owners that are held out."""
        return sum(self.held.values())

    def batches(self, owner: str) -> list[tuple[bool, int, int]]:
        """(held out?, first, count) of the batches that an owner shares its rows in."""
        return [
            (held, first, min(BATCH_ROWS, rows - first))
            for held, rows in ((False, self.training[owner]), (True, self.held[owner]))
            for first in range(0, rows, BATCH_ROWS)
        ]


def coopetitive(plan: Plan) -> Coopetitive:
    """The part of the plan that only this mode has. Raises PlanError for a plan of another mode."""
    if plan.coopetitive is None:
        raise PlanError(f"the plan's mode is {plan.mode!r}; this role takes part in coopetitive mode only")
    return plan.coopetitive


def plan_cuts(plan: Plan) -> Cuts | None:
    """The cuts that the plan gives, or None where they are searched; a categorical feature has none."""
    more = coopetitive(plan)
    if more.cuts is None and (more.missing is None or not categorical(plan).all()):
        return None
    arrays = [np.array(cuts, np.float32) + np.float32(0) for cuts in more.cuts or ((),) * len(plan.schema.features)]
    return Cuts.from_arrays(arrays, [name in (more.missing or ()) for name in plan.schema.features])


def declared_missing(plan: Plan) -> npt.NDArray[np.bool_] | None:
    """bool (features,): which may lack values, as the plan says; None where it does not."""
    missing = coopetitive(plan).missing
    return None if missing is None else np.array([name in missing for name in plan.schema.features])


def categorical(plan: Plan) -> npt.NDArray[np.bool_]:
    """bool (features,): which are categorical, as the plan says."""
    return np.array([name in plan.schema.levels for name in plan.schema.features])


# --- base score --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Values:
    """The numbers that training starts from. Public.

    Attributes:
        base_score: of each output, in label space. scale_pos_weight: a number.
        total_weight: for each output, bounds the sum of weights; 0 for unknown.
    """

    base_score: tuple[float, ...]
    scale_pos_weight: float
    total_weight: tuple[float, ...]


def given_values(plan: Plan) -> Values | None:
    """The values, where the plan gives a base score; None where the servers open sums to find it."""
    given = plan.parameters
    if given.base_score is None:
        return None
    return _same_for_all(given.base_score, float(given.scale_pos_weight), plan)


def _same_for_all(base_score: float, scale_pos_weight: float, plan: Plan) -> Values:
    """One base score for every output, and nothing known of weights."""
    outputs = plan.parameters.outputs
    return Values((base_score,) * outputs, scale_pos_weight, (0.0,) * outputs)


def output_labels(labels: npt.NDArray[np.float32], plan: Plan) -> npt.NDArray[np.float64]:
    """What each output learns, float64 (outputs, rows): the labels, or of each class whether a row is of it. Secret."""
    classes = plan.parameters.num_class
    return (labels == np.arange(classes)[:, None] if classes else labels[None]).astype(np.float64)


def label_sums(
    labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None, plan: Plan
) -> npt.NDArray[np.int64]:
    """An owner's sums in whole units, int64 (n_label_sums,): of labels, with weights of weight times label, and of weights.

    Of each output in turn. A label of binary:logistic is 0 or 1 units; one of squared error is counted from the lowest of the
    plan's range. Secret.
    """
    return np.concatenate([_sums_of_output(own, weights, plan) for own in output_labels(labels, plan)])


def _sums_of_output(
    labels: npt.NDArray[np.float64], weights: npt.NDArray[np.float32] | None, plan: Plan
) -> npt.NDArray[np.int64]:
    more, shares = coopetitive(plan), labels
    if more.label_range is not None:
        low, high = more.label_range
        shares = np.clip((shares - low) / (high - low), 0, 1)
    if weights is None or more.weight_limit is None:
        bits = LABEL_BITS if more.label_range is not None else 0
        return np.array([np.round(shares * 2.0**bits).astype(np.int64).sum()])
    parts = weights.astype(np.float64) / more.weight_limit
    products = np.round(parts * shares * 2.0 ** (2 * WEIGHT_BITS)).astype(np.int64)
    units = np.round(parts * 2.0**WEIGHT_BITS).astype(np.int64)
    return np.array([products.sum(), units.sum(), np.count_nonzero(labels == 1)])


def n_label_sums(plan: Plan) -> int:
    """How many sums `label_sums` gives."""
    return plan.parameters.outputs * (1 if plan.schema.weight is None else 3)


def values_of(sums: list[int], rows: int, plan: Plan) -> Values:
    """The values that pooled `label_sums` give, by the rule of the other modes. Raises PlanError where no model could start."""
    each = len(sums) // plan.parameters.outputs
    starts = [_start_of_output(sums[first : first + each], rows, plan) for first in range(0, len(sums), each)]
    classes = plan.parameters.num_class
    for number, start in enumerate(starts):
        if start is None and classes:
            raise PlanError(
                f"of all {rows} rows none, or every one, is of class {number}; num_class = {classes} needs rows of each class from "
                f"0 to {classes - 1}, or a base_score"
            )
        if start is None:
            raise PlanError(
                f"all {rows} labels are the same; binary:logistic needs rows of both classes, or a base_score"
            )
    found = [start for start in starts if start is not None]
    return Values(tuple(base for base, _, _ in found), found[0][1], tuple(total for _, _, total in found))


def _start_of_output(sums: list[int], rows: int, plan: Plan) -> tuple[float, float, float] | None:
    """(base score, scale_pos_weight, total weight) of one output; None where a logistic one has rows of one class only."""
    more, given = coopetitive(plan), plan.parameters
    if more.weight_limit is None:
        weight, positives = float(rows), sums[0]
        mean = sums[0] / rows / (1 if more.label_range is None else 2.0**LABEL_BITS)
    else:
        weight, positives = sums[1] * 2.0**-WEIGHT_BITS * more.weight_limit, sums[2]
        if sums[1] <= 0:
            raise PlanError("all rows of all owners have weight 0; there is nothing to learn")
        mean = sums[0] / sums[1] * 2.0**-WEIGHT_BITS
    if more.label_range is not None:
        low, high = more.label_range
        return float(np.float32(low + (high - low) * mean)), 1.0, _bound(weight, rows, 1.0, plan)
    if not 0 < positives < rows or not 0 < float(np.float32(mean)) < 1:
        return None
    scale = given.scale_pos_weight if isinstance(given.scale_pos_weight, float) else (rows - positives) / positives
    total = weight * (1 - mean) + scale * weight * mean
    return float(np.float32(estimated_base(mean, scale))), scale, _bound(total, rows, scale, plan)


def _bound(weight: float, rows: int, scale: float, plan: Plan) -> float:
    """What the sum of the rows' rounded weights cannot exceed."""
    limit = coopetitive(plan).weight_limit
    return weight if limit is None else weight + rows * 2.0**-11 * limit * max(1.0, scale)


# --- the start ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """What training starts from. Public to servers, owners and receivers.

    Attributes:
        plan: as every member holds it.
        counts: of every owner's rows.
        cuts: of every feature.
        values: base scores and weights.
    """

    plan: Plan
    counts: Counts
    cuts: Cuts
    values: Values

    @cached_property
    def features(self) -> npt.NDArray[np.int64]:
        """The features that have a candidate split, ascending: the others are constant."""
        used = np.flatnonzero((np.diff(self.cuts.offsets) > 0) | self.cuts.has_missing | categorical(self.plan))
        if not used.size:
            raise PlanError(
                "no feature has a cut: a tree could not split. Give other features, or a smaller min_cell_rows"
            )
        return used

    @cached_property
    def candidates(self) -> Candidates:
        """Of the features in `features`."""
        return Candidates(
            tuple(_feature(self.plan, f, len(self.cuts.of(f)), bool(self.cuts.has_missing[f])) for f in self.features)
        )

    @cached_property
    def output_settings(self) -> tuple[Settings, ...]:
        """How to grow each output's trees on shares. Raises PlanError where the plan asks for what shares cannot hold."""
        signs = coopetitive(self.plan).monotone
        monotone = tuple(signs[feature] for feature in self.features) if signs else ()
        outputs = range(self.plan.parameters.outputs)
        return tuple(replace(settings_of(self.plan, self.values, output), monotone=monotone) for output in outputs)

    @property
    def settings(self) -> Settings:
        """Of the first output, for what is the same for all: everything but base_margin and total_weight."""
        return self.output_settings[0]

    @cached_property
    def label_scale(self) -> LabelScale | None:
        """How labels of squared error become words; None for binary:logistic."""
        return label_scale(self.plan, self.values.base_score[0])

    @cached_property
    def statistics(self) -> tuple[Statistics, ...] | None:
        """How a receiver makes covers and gains of each output, where the plan releases them."""
        found = []
        for settings in self.output_settings:
            bits = growth_of(settings, self.candidates, self.counts.total).cover_bits
            if bits is None:
                return None
            found.append(Statistics(bits, settings.eta, settings.reg_lambda))
        return tuple(found)

    @property
    def coins(self) -> Coins:
        """The public draws of each tree, from the plan's seed: those of each output's tree are its own, as in XGBoost."""
        parameters = self.plan.parameters

        def rows(tree: int) -> npt.NDArray[np.bool_] | None:
            if parameters.subsample >= 1:
                return None
            drawn = [
                draw_rows(count, parameters.subsample, parameters.seed, tree, owner)
                for owner, count in sorted(self.counts.training.items())
            ]
            return np.concatenate(drawn)

        def features(tree: int) -> npt.NDArray[Any] | None:
            if parameters.colsample_bytree >= 1:
                return None
            drawn = draw_columns(len(self.features), parameters.colsample_bytree, parameters.seed, tree)
            return drawn.astype(np.int64)

        return Coins(rows, features)

    def evaluated_after(self, rounds: int) -> bool:
        """Whether the plan has the metrics opened after so many rounds."""
        if self.plan.evaluation_fraction == 0:
            return False
        return rounds in (coopetitive(self.plan).steps or (self.settings.rounds,))

    def message(self) -> SettleStart:
        """What servers tell owners and receivers."""
        return SettleStart(
            to_tensor(self.cuts.offsets),
            to_tensor(self.cuts.values),
            to_tensor(self.cuts.has_missing.astype(np.uint8)),
            self.values.base_score,
            self.values.scale_pos_weight,
            self.values.total_weight,
        )


def _feature(plan: Plan, number: int, cuts: int, has_missing: bool) -> Feature:
    levels = plan.schema.levels.get(plan.schema.features[number])
    return Feature(cuts, False, has_missing) if levels is None else Feature(len(levels), True, has_missing)


def given_start(plan: Plan, counts: Counts) -> Start | None:
    """The start, where the plan says all of it; None where servers have something to find."""
    cuts, values = plan_cuts(plan), given_values(plan)
    return None if cuts is None or values is None else Start(plan, counts, cuts, values)


def start_of(servers: str, message: SettleStart, plan: Plan, counts: Counts) -> Start:
    """The start that the servers found, held to the plan. Raises ProtocolError naming them.

    Args:
        servers: their names, for errors. counts: of every owner's rows.
    """
    features, outputs = len(plan.schema.features), plan.parameters.outputs
    if (len(message.base_score), len(message.total_weight)) != (outputs, outputs):
        raise ProtocolError(
            f"servers {servers} told {len(message.base_score)} base scores and {len(message.total_weight)} sums of weights; expected "
            f"{outputs} of each, one for every output"
        )
    try:
        cuts = Cuts(
            to_array(servers, "offsets", message.offsets, np.int64, (features + 1,)).copy(),
            to_array(servers, "values", message.values, np.float32, (None,)).copy(),
            to_array(servers, "has_missing", message.has_missing, np.uint8, (features,)).astype(np.bool_),
        )
        for score in message.base_score:
            base_margin(plan.parameters.objective, score)
    except DataError as error:
        raise ProtocolError(f"servers {servers} told a start that is none: {error}") from error
    values = Values(message.base_score, message.scale_pos_weight, message.total_weight)
    given, declared, given_numbers = plan_cuts(plan), declared_missing(plan), given_values(plan)
    if given is not None and not all(
        np.array_equal(getattr(cuts, name), getattr(given, name)) for name in ("offsets", "values", "has_missing")
    ):
        raise ProtocolError(f"servers {servers} told other cuts than the plan gives")
    if np.diff(cuts.offsets)[categorical(plan)].any():
        raise ProtocolError(f"servers {servers} told cuts of a categorical feature, which has none")
    if declared is not None and not np.array_equal(cuts.has_missing, declared):
        raise ProtocolError(f"servers {servers} told other features with missing values than the plan declares")
    if given_numbers is not None and values != given_numbers:
        raise ProtocolError(
            f"servers {servers} told base score {message.base_score} and weights; the plan gives {given_numbers}"
        )
    weight = plan.parameters.scale_pos_weight
    if weight != "auto" and message.scale_pos_weight != weight:
        raise ProtocolError(
            f"servers {servers} told scale_pos_weight {message.scale_pos_weight}; the plan gives {weight}"
        )
    if cuts.n_bins.max() > plan.parameters.max_bin:
        raise ProtocolError(f"servers {servers} found more bins of a feature than max_bin {plan.parameters.max_bin}")
    start = Start(plan, counts, cuts, values)
    try:
        start.output_settings  # noqa: B018 - refuses numbers that no training takes
    except PlanError as error:
        raise ProtocolError(f"servers {servers} told a start that is none: {error}") from error
    return start


def label_scale(plan: Plan, base_score: float) -> LabelScale | None:
    """How labels of squared error become words; None for binary:logistic. Raises PlanError."""
    bounds = coopetitive(plan).label_range
    return None if bounds is None else LabelScale.of_range(*bounds, base_score)


def some_values(plan: Plan) -> Values:
    """The plan's values, or such in range where they are found later: for estimates."""
    bounds = coopetitive(plan).label_range
    given = given_values(plan)
    return given or _same_for_all(0.5 if bounds is None else sum(bounds) / 2, 1.0, plan)


def settings_of(plan: Plan, values: Values, output: int = 0) -> Settings:
    """The parameters of training one output on shares. Raises PlanError naming what shares cannot hold."""
    given, more = plan.parameters, coopetitive(plan)
    base_score, total_weight = values.base_score[output], values.total_weight[output]
    scale = label_scale(plan, base_score)
    return Settings(
        objective="binary:logistic" if scale is None else "reg:squarederror",
        rounds=given.rounds,
        eta=given.eta,
        max_depth=given.max_depth,
        reg_lambda=given.lambda_,
        gamma=given.gamma if scale is None else given.gamma / scale.scale**2,
        min_child_weight=given.min_child_weight,
        scale_pos_weight=values.scale_pos_weight,
        base_margin=float(base_margin(given.objective, base_score)) if scale is None else 0.0,
        leaf_bits=LEAF_BITS[given.objective],
        weight_limit=more.weight_limit,
        total_weight=total_weight or None,
        cover_bits=COVER_BITS if more.statistics else None,
    )


def widest_candidates(plan: Plan) -> Candidates:
    """The most candidate splits that the plan's cuts, found or given, can have."""
    cuts = plan_cuts(plan)
    if cuts is None:
        most = plan.parameters.max_bin - 1
        return Candidates(tuple(_feature(plan, number, most, True) for number in range(len(plan.schema.features))))
    return Start(plan, Counts({}, {}), cuts, some_values(plan)).candidates
