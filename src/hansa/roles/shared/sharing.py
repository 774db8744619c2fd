"""What the roles of a coopetitive run derive alike from plan, roster and start: all of it public."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.ring import words_for
from hansa.oblivious.base_score import LEAST_EXPONENT
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.release import Statistics
from hansa.oblivious.shared_rows import BATCH_ROWS
from hansa.oblivious.training import (
    MEAN_SHIFT,
    MOST_LAMBDA,
    PLAIN_SCALES,
    POISSON,
    SAFE_MARGIN,
    WEIGHT_BITS,
    BoostingSettings,
    LabelScale,
    Sampling,
    growth_of,
    held_weight_bits,
    memory_estimate,
    weight_bits,
)
from hansa.oblivious.weight_bounds import MOST_STEP
from hansa.plan import Coopetitive, Plan
from hansa.protocol.messages import TrainingSetup, to_array, to_tensor
from hansa.roles.summed.statistics import class_margins, estimated_base, rounded_leaf_bits
from hansa.trees.ensemble import base_margin
from hansa.trees.losses import is_softmax
from hansa.trees.sampling import draw_columns, draw_rows

SQUARED_ERROR = "reg:squarederror"

LEAF_BITS = {"binary:logistic": 14, "multi:softprob": 14, "multi:softmax": 14, SQUARED_ERROR: 16, POISSON: 14}
"""Fraction bits of an opened leaf: with its range and sign 17 bits. More where leaves are smaller for a small eta, or because few
labels are far from all others: then the higher bits say nothing of most leaves."""

MOST_LEAF_BITS = 24
"""Such a number is exact in float32."""

SMALL_ETA, NARROW_SPREAD = 2.0**-6, 2.0**-3
"""From these on, below, each halving of eta, or of the labels' spread in their unit, gives leaves another bit."""

LEAST_SPREAD = 2.0**-14
"""Least spread of labels in their unit: of a smaller one too little is left in a gradient on shares, and in its square."""

LEAST_GAIN = 1e-6
"""XGBoost's kRtEps: no split gains less, whatever gamma says."""

EXACT_SCALE = 2.0**-9
"""How far scale_pos_weight may be rounded, in relation to itself, before it is shared as weights instead."""

COVER_BITS = 4
"""Fraction bits of an opened cover, where the plan releases statistics."""

LABEL_BITS = 31
"""A label of squared error is summed in 2^-31 of the label range."""


def sum_bits(rows: int) -> int:
    """A weight, and a weight times a label, is summed in 2^-bits of the weight limit, so that the sums of all rows fit 62 bits."""
    return min(48, 62 - rows.bit_length())


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
        label_spread: of squared error, bounds the labels' standard deviation, by a factor of two at most; 0 for unknown.
        label_scale: of squared error, the labels' unit; 0 where the plan's range gives it, as it does of counts.
    """

    base_score: tuple[float, ...]
    scale_pos_weight: float
    total_weight: tuple[float, ...]
    label_spread: float = 0.0
    label_scale: float = 0.0


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
    labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None, plan: Plan, rows: int
) -> npt.NDArray[np.int64]:
    """An owner's sums in whole units, int64 (n_label_sums,): of labels, with weights of weight times label, and of weights.

    Of each output in turn. A label of binary:logistic is 0 or 1 units; one of squared error is counted from the lowest of the
    plan's range, and there the last number is the sum of squares over `rows`, those of all owners. One of count:poisson is counted as
    squared error's, without squares. Secret.
    """
    if coopetitive(plan).label_range is not None:
        return _sums_of_numbers(labels, weights, plan, rows)
    return np.concatenate([_sums_of_classes(own, weights, plan, rows) for own in output_labels(labels, plan)])


def _sums_of_classes(
    labels: npt.NDArray[np.float64], weights: npt.NDArray[np.float32] | None, plan: Plan, rows: int
) -> npt.NDArray[np.int64]:
    limit, positives = coopetitive(plan).weight_limit, np.count_nonzero(labels == 1)
    if weights is None or limit is None:
        return np.array([positives])
    units = np.round(weights.astype(np.float64) / limit * 2.0 ** sum_bits(rows)).astype(np.int64)
    return np.array([units[labels == 1].sum(), units.sum(), positives])


def _sums_of_numbers(
    labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None, plan: Plan, rows: int
) -> npt.NDArray[np.int64]:
    more = coopetitive(plan)
    low, high = more.label_range or (0.0, 1.0)
    shares = np.clip((labels.astype(np.float64) - low) / (high - low), 0, 1)
    whole = np.round(shares * 2.0**LABEL_BITS).astype(np.uint64)
    squares = whole * whole
    # The sum of squares has up to 86 bits.
    total = (int((squares >> np.uint64(32)).sum()) << 32) + int((squares & np.uint64(2**32 - 1)).sum())
    mean_square, plain = total // max(1, rows), int(whole.sum())
    last = [mean_square] if has_spread(plan) else []
    if weights is None or more.weight_limit is None:
        return np.array([plain, *last])
    parts = weights.astype(np.float64) / more.weight_limit * 2.0 ** sum_bits(rows)
    units = np.round(parts).astype(np.int64)
    products = np.round(units * shares).astype(np.int64)
    return np.array([products.sum(), units.sum(), plain, *last])


def n_label_sums(plan: Plan) -> int:
    """How many sums `label_sums` gives."""
    return plan.parameters.outputs * (1 if plan.schema.weight is None else 3) + has_spread(plan)


def has_spread(plan: Plan) -> bool:
    """Whether the labels' unit follows from their spread, where it is found: that of counts is the plan's range."""
    return plan.parameters.objective == SQUARED_ERROR


def square_of_mean(sums: list[int], rows: int) -> int:
    """The square of the labels' mean of squared error, in the units of `label_sums`' squares, from its other sums."""
    return sums[-1] ** 2 // rows**2


def values_of(sums: list[int], rows: int, plan: Plan, exponent: int | None = None) -> Values:
    """The values that pooled `label_sums` give, by the rule of the other modes. Raises PlanError where no model could start.

    Args:
        sums: without the squares of squared error, of which `base_score.spread_exponent` tells `exponent`.
    """
    if exponent is not None:
        return _values_of_numbers(sums, rows, plan, exponent)
    if plan.parameters.objective == POISSON:
        return _values_of_counts(sums, rows, plan)
    if is_softmax(plan.parameters.objective):
        return _values_of_classes(sums, rows, plan)
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
                f"all {rows} labels are the same, or the rows of one class weigh next to nothing beside the others'; binary:logistic "
                "needs rows of both classes, or a base_score"
            )
    found = [start for start in starts if start is not None]
    return Values(tuple(base for base, _, _ in found), found[0][1], tuple(total for _, _, total in found))


def _values_of_classes(sums: list[int], rows: int, plan: Plan) -> Values:
    """Of a softmax: base scores follow from the share of each class. A class may have no rows."""
    classes = plan.parameters.num_class
    if coopetitive(plan).weight_limit is None:
        weight, own = float(rows), [count / rows for count in sums]
    else:
        weight, own = _pooled_weight(sums[1], rows, plan), [count / sums[1] for count in sums[0::3]]
    if sum(share > 0 for share in own) < 2:
        raise PlanError(f"all {rows} rows of all owners are of one class, or weigh nothing; there is nothing to learn")
    scores = class_margins(np.array(own))
    return Values(tuple(float(np.float32(score)) for score in scores), 1.0, (weight,) * classes)


def _start_of_output(sums: list[int], rows: int, plan: Plan) -> tuple[float, float, float] | None:
    """(base score, scale_pos_weight, total weight) of one output; None where it has rows of one class only."""
    given = plan.parameters
    if coopetitive(plan).weight_limit is None:
        weight, positives, mean = float(rows), sums[0], sums[0] / rows
    else:
        weight, positives = _pooled_weight(sums[1], rows, plan), sums[2]
        mean = sums[0] / sums[1]
    if not 0 < positives < rows or not 0 < float(np.float32(mean)) < 1:
        return None
    scale = given.scale_pos_weight if isinstance(given.scale_pos_weight, float) else (rows - positives) / positives
    base = float(np.float32(estimated_base(given.objective, mean, scale)))
    if not 0 < base < 1 or abs(float(base_margin(given.objective, base))) > SAFE_MARGIN:
        raise PlanError(
            f"of all weight of {rows} rows a share of {mean:.3g} has label 1, or {base:.3g} once scale_pos_weight is counted: too "
            f"near 0 or 1 for shares, which hold log-odds within +-{SAFE_MARGIN}; give a base_score, or another scale_pos_weight"
        )
    return base, scale, weight * (1 - mean) + scale * weight * mean


def _pooled_weight(units: int, rows: int, plan: Plan) -> float:
    limit = coopetitive(plan).weight_limit
    if units <= 0 or limit is None:
        raise PlanError("all rows of all owners have weight 0; there is nothing to learn")
    return units * 2.0 ** -sum_bits(rows) * limit


def _values_of_numbers(sums: list[int], rows: int, plan: Plan, exponent: int) -> Values:
    """Of squared error: the base score is the mean, and the unit of labels follows from their spread.

    No label is further from the mean than the root of the number of rows times the spread, nor than the end of the plan's range.
    """
    low, high = coopetitive(plan).label_range or (0.0, 1.0)
    unit = (high - low) * 2.0**-LABEL_BITS
    plain = low + unit * sums[-1] / rows
    weighted = plan.schema.weight is not None
    weight = _pooled_weight(sums[1], rows, plan) if weighted else float(rows)
    mean = low + (high - low) * sums[0] / sums[1] if weighted else plain
    base = min(max(float(np.float32(mean)), low), high)
    spread = unit * 2.0 ** (exponent + 1)
    furthest = math.sqrt(rows) * spread * 1.001 + abs(plain - base) + unit
    scale = min(LabelScale.of_range(low, high, base).scale, 2 * furthest)
    if spread < LEAST_SPREAD * scale:
        what = "all labels are the same" if exponent == LEAST_EXPONENT else f"the labels' spread is about {spread:.3g}"
        raise PlanError(
            f"{what}, and labels.range {[low, high]} is {high - low:.3g} wide: too wide for shares. The widest range that works is "
            f"{_widest(base, spread)}; narrow labels.range at every member, and leave out or cap rows outside it"
        )
    return Values((base,), 1.0, (weight,), spread, scale)


def _values_of_counts(sums: list[int], rows: int, plan: Plan) -> Values:
    """Of count:poisson: the base score is the mean."""
    low, high = coopetitive(plan).label_range or (0.0, 1.0)
    weighted = plan.schema.weight is not None
    weight = _pooled_weight(sums[1], rows, plan) if weighted else float(rows)
    share = sums[0] / sums[1] if weighted else sums[0] * 2.0**-LABEL_BITS / rows
    base = min(float(np.float32(low + (high - low) * share)), high)
    if not base > 0:
        raise PlanError("all labels are 0; count:poisson needs some that are not, or a base_score")
    return Values((base,), 1.0, (weight,))


def _widest(centre: float, spread: float) -> str:
    half = spread / LEAST_SPREAD / 2
    return f"[{centre - half:.6g}, {centre + half:.6g}]"


# --- the start ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingStart:
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
    def output_settings(self) -> tuple[BoostingSettings, ...]:
        """How to grow each output's trees on shares. Raises PlanError where the plan asks for what shares cannot hold."""
        signs = coopetitive(self.plan).monotone
        monotone = tuple(signs[feature] for feature in self.features) if signs else ()
        outputs = range(self.plan.parameters.outputs)
        return tuple(
            replace(settings_of(self.plan, self.values, output, self.counts.total), monotone=monotone)
            for output in outputs
        )

    def check(self) -> TrainingStart:
        """This start, where training can hold it. Raises PlanError naming what it cannot hold."""
        for settings in self.output_settings:
            growth_of(settings, self.candidates, self.counts.total)
        return self

    @property
    def weighted(self) -> bool:
        """Whether owners share weights: the plan's, or such as scale_pos_weight makes."""
        return self.settings.weight_limit is not None

    @property
    def weight_unit(self) -> float:
        """What weights, lambda, gamma and min_child_weight are divided by: the mean weight of a row, or its limit."""
        return weight_unit(self.plan, self.values, self.counts.total)

    @cached_property
    def metric_settings(self) -> BoostingSettings:
        """Of metrics: in XGBoost's, scale_pos_weight is no weight."""
        if self.plan.schema.weight is not None or not self.weighted:
            return self.settings
        return replace(self.settings, weight_limit=None, total_weight=None, scale_pos_weight=1.0)

    def weight_bits(self, output: int, held: bool) -> int:
        """Fraction bits of weights' words, in units of `weight_unit`."""
        settings, counts = self.output_settings[output], self.counts
        return held_weight_bits(settings, counts.total_held) if held else weight_bits(settings, counts.total)

    @property
    def settings(self) -> BoostingSettings:
        """Of the first output, for what is the same for all: everything but base_margin and total_weight."""
        return self.output_settings[0]

    @cached_property
    def label_scale(self) -> LabelScale | None:
        """How labels of squared error or counts become words; None for binary:logistic."""
        return label_scale(self.plan, self.values)

    @property
    def leaf_unit(self) -> float:
        """What a leaf of an opened tree is multiplied by: the labels' unit of squared error."""
        scale = self.label_scale
        return scale.scale if scale is not None and self.plan.parameters.objective == SQUARED_ERROR else 1.0

    @cached_property
    def statistics(self) -> tuple[Statistics, ...] | None:
        """How a receiver makes covers and gains of each output, where the plan releases them."""
        found = []
        # Hessians of a softmax are half of XGBoost's on shares, and what follows from them.
        halves = 1 if is_softmax(self.plan.parameters.objective) else 0
        for settings in self.output_settings:
            bits = growth_of(settings, self.candidates, self.counts.total).cover_bits
            if bits is None:
                return None
            scale = 2.0**halves
            found.append(Statistics(bits - halves, settings.eta * scale, settings.reg_lambda * scale, self.weight_unit))
        return tuple(found)

    @property
    def sampling(self) -> Sampling:
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

        return Sampling(rows, features)

    def evaluated_after(self, rounds: int) -> bool:
        """Whether the plan has the metrics opened after so many rounds."""
        return rounds in self.plan.opened_steps

    def message(self) -> TrainingSetup:
        """What servers tell owners and receivers."""
        return TrainingSetup(
            to_tensor(self.cuts.offsets),
            to_tensor(self.cuts.values),
            to_tensor(self.cuts.has_missing.astype(np.uint8)),
            self.values.base_score,
            self.values.scale_pos_weight,
            self.values.total_weight,
            self.values.label_spread,
            self.values.label_scale,
        )


def _feature(plan: Plan, number: int, cuts: int, has_missing: bool) -> Feature:
    levels = plan.schema.levels.get(plan.schema.features[number])
    return Feature(cuts, False, has_missing) if levels is None else Feature(len(levels), True, has_missing)


def given_start(plan: Plan, counts: Counts) -> TrainingStart | None:
    """The start, where the plan says all of it; None where servers have something to find."""
    cuts, values = plan_cuts(plan), given_values(plan)
    return None if cuts is None or values is None else TrainingStart(plan, counts, cuts, values)


@contextmanager
def told_by_all(servers: Sequence[str]) -> Iterator[None]:
    """What is wrong with something that all servers said alike is the fault of one of them at least, and nobody knows which."""
    try:
        yield
    except ProtocolError as error:
        error.member, error.suspects = "", tuple(servers)
        raise


def start_of(servers: Sequence[str], message: TrainingSetup, plan: Plan, counts: Counts) -> TrainingStart:
    """The start that the servers found, held to the plan. Raises ProtocolError naming them.

    Args:
        servers: their names, for errors: all of them said the same. counts: of every owner's rows.
    """
    with told_by_all(servers):
        return _start_of(", ".join(servers), message, plan, counts)


def _start_of(servers: str, message: TrainingSetup, plan: Plan, counts: Counts) -> TrainingStart:
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
    values = Values(
        message.base_score,
        message.scale_pos_weight,
        message.total_weight,
        message.label_spread,
        message.label_scale,
    )
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
    start = TrainingStart(plan, counts, cuts, values)
    try:
        start.check()
    except PlanError as error:
        raise ProtocolError(f"servers {servers} told a start that is none: {error}") from error
    return start


def label_scale(plan: Plan, values: Values) -> LabelScale | None:
    """How labels of squared error or counts become words; None for binary:logistic. Raises PlanError."""
    bounds = coopetitive(plan).label_range
    if bounds is None:
        return None
    if plan.parameters.objective == POISSON:
        # Means may be twice the highest label.
        return LabelScale(0.0, 2 * bounds[1])
    widest = LabelScale.of_range(*bounds, values.base_score[0])
    if not 0 <= values.label_scale <= widest.scale or not 0 <= values.label_spread < np.inf:
        raise PlanError(f"the labels' unit is {values.label_scale}; expected at most {widest.scale}, from labels.range")
    return LabelScale(widest.centre, values.label_scale) if values.label_scale else widest


def some_values(plan: Plan) -> Values:
    """The plan's values, or such in range where they are found later: for estimates."""
    bounds, given = coopetitive(plan).label_range, plan.parameters.scale_pos_weight
    scale = given if isinstance(given, float) else 1.0
    return given_values(plan) or _same_for_all(0.5 if bounds is None else sum(bounds) / 2, scale, plan)


def label_rows(plan: Plan) -> int:
    """Rows of labels that an owner shares: one for each output, and for poisson-nloglik the logarithms of factorials."""
    return plan.parameters.outputs + has_factorials(plan)


def has_factorials(plan: Plan) -> bool:
    """Whether held-out rows are measured by poisson-nloglik."""
    return plan.evaluation_fraction > 0 and "poisson-nloglik" in plan.parameters.metrics


def weight_unit(plan: Plan, values: Values, rows: int) -> float:
    """See `TrainingStart.weight_unit`. 1 where owners share no weights."""
    limit, scale = coopetitive(plan).weight_limit, values.scale_pos_weight
    if limit is None and plain_scale(scale):
        return 1.0
    return values.total_weight[0] / rows if values.total_weight[0] and rows else (limit or 1.0) * max(1.0, scale)


def plain_scale(scale_pos_weight: float) -> bool:
    """Whether rows without weights can have this scale_pos_weight; else owners share weights that hold it."""
    least, most = PLAIN_SCALES
    rounded = round(scale_pos_weight * 2**WEIGHT_BITS) / 2**WEIGHT_BITS
    return least <= scale_pos_weight <= most and abs(rounded - scale_pos_weight) <= EXACT_SCALE * scale_pos_weight


def settings_of(plan: Plan, values: Values, output: int = 0, rows: int = 0) -> BoostingSettings:
    """The parameters of training one output on shares. Raises PlanError naming what shares cannot hold.

    Args:
        rows: of all owners, to train on; 0 where they are not known yet.
    """
    given, more = plan.parameters, coopetitive(plan)
    base_score, total_weight = values.base_score[output], values.total_weight[output]
    scale, unit = label_scale(plan, values), weight_unit(plan, values, rows)
    if given.objective == POISSON and scale is not None:
        return _settings_of_counts(plan, values, unit, scale.scale, rows)
    softmax = is_softmax(given.objective)
    # Hessians of a softmax are half of XGBoost's on shares.
    twice = 2.0 if softmax else 1.0
    limit = more.weight_limit
    if limit is None and not plain_scale(values.scale_pos_weight):
        limit = 1.0
    if given.lambda_ > MOST_LAMBDA * unit:
        raise PlanError(
            f"lambda = {given.lambda_:g} is more than 2^26 times the weight of a row, {unit:g}: its leaves would be 0 on shares; "
            "lower lambda, or give all weights in a smaller unit"
        )
    size = 1.0 if scale is None else scale.scale
    return BoostingSettings(
        objective="multi:softprob" if softmax else "binary:logistic" if scale is None else "reg:squarederror",
        rounds=given.rounds,
        eta=given.eta / twice,
        max_depth=given.max_depth,
        reg_lambda=given.lambda_ / twice / unit,
        gamma=max(given.gamma, LEAST_GAIN) * twice / size**2 / unit,
        min_child_weight=given.min_child_weight / twice / unit,
        scale_pos_weight=values.scale_pos_weight,
        base_margin=float(base_margin(given.objective, base_score)) if scale is None else 0.0,
        class_margins=tuple(float(base_margin(given.objective, own)) for own in values.base_score) if softmax else (),
        reg_alpha=given.alpha / size / unit,
        # A scaled label is within +-1/2: a weight of more than 1 does not occur.
        max_delta_step=min(given.max_delta_step * twice / size, MOST_STEP if scale is None else 1.0),
        leaf_bits=_leaf_bits(plan, values, output, scale, rows),
        weight_limit=None if limit is None else limit / unit,
        total_weight=total_weight / unit or None,
        cover_bits=COVER_BITS if more.statistics else None,
    )


def _settings_of_counts(plan: Plan, values: Values, unit: float, scale: float, rows: int) -> BoostingSettings:
    """Of count:poisson, whose hessians on shares lack the factor e^max_delta_step (`BoostingSettings`), in the labels' scale."""
    given, more = plan.parameters, coopetitive(plan)
    grown = math.exp(given.max_delta_step)
    step = min(given.max_delta_step * grown, MOST_STEP)
    own = scale * unit
    return BoostingSettings(
        objective="count:poisson",
        rounds=given.rounds,
        eta=given.eta / grown,
        max_depth=given.max_depth,
        reg_lambda=min(given.lambda_ / grown / own, MOST_LAMBDA),
        gamma=max(given.gamma, LEAST_GAIN) * grown / own,
        min_child_weight=given.min_child_weight / grown / own,
        base_margin=math.log(values.base_score[0] / scale) + MEAN_SHIFT,
        reg_alpha=given.alpha / own,
        max_delta_step=step,
        leaf_bits=_leaf_bits(plan, values, 0, None, rows),
        weight_limit=None if more.weight_limit is None else more.weight_limit / unit,
        total_weight=values.total_weight[0] / unit or None,
    )


def _leaf_bits(plan: Plan, values: Values, output: int, scale: LabelScale | None, rows: int) -> int:
    """Fraction bits of leaf values: the plan's, or as many as numbers on shares have use for, and its `least_choices` allows."""
    parameters = plan.parameters
    if plan.release.leaf_bits is not None:
        return plan.release.leaf_bits
    bits = LEAF_BITS[parameters.objective] + max(0, math.floor(math.log2(SMALL_ETA / parameters.eta)))
    if scale is not None and values.label_spread:
        bits += max(0, math.floor(math.log2(NARROW_SPREAD * scale.scale / values.label_spread)))
    # Under constraints values are compared with bounds, in fewer bits.
    most = MARGIN_BITS - 1 - parameters.max_depth if any(coopetitive(plan).monotone) else MOST_LEAF_BITS
    bits = min(bits, most)
    if rows:
        given = rounded_leaf_bits(plan, rows, values.base_score[output], values.scale_pos_weight)
        bits = bits if given is None else min(bits, given)
    return bits


def widest_candidates(plan: Plan) -> Candidates:
    """The most candidate splits that the plan's cuts, found or given, can have."""
    cuts = plan_cuts(plan)
    if cuts is None:
        most = plan.parameters.max_bin - 1
        return Candidates(tuple(_feature(plan, number, most, True) for number in range(len(plan.schema.features))))
    return TrainingStart(plan, Counts({}, {}), cuts, some_values(plan)).candidates


def memory_needed(plan: Plan, counts: Counts, server: str) -> int:
    """Bytes that a server holds at most, roughly; from the plan and numbers of rows alone."""
    candidates, rows = widest_candidates(plan), counts.training
    assisted = sum(rows.get(name, 0) for name in plan.servers)
    settings, outputs = settings_of(plan, some_values(plan)), plan.parameters.outputs
    # Of held-out rows a server keeps bits and labels.
    held = counts.total_held * (16 * words_for(candidates.n_columns) + 64 * outputs)
    own = rows.get(server, 0)
    return memory_estimate(candidates, counts.total, settings, assisted, own, outputs=outputs) + held


def assumed_counts(plan: Plan, rows: int) -> Counts:
    """So many rows, dealt evenly to the plan's parties."""
    held = round(rows * plan.evaluation_fraction)
    each = {name: (rows - held) // len(plan.parties) for name in plan.parties}
    return Counts(each, {name: held // len(plan.parties) for name in plan.parties})
