"""All rounds of oblivious boosting: gradients from shared margins, a tree, margins again.

With several classes each has labels (is the row of this class?), margins and trees of its own: one class against the rest, or with
multi:softprob together, when gradients are of the probabilities that the margins of all classes give (`softmax`). The trees of a round
are grown side by side, in the rounds of messages of one.

Everything in `BoostingSettings` is public. Formats follow from public bounds alone:

    B = max(W g_max + A, W h_max + 2 lambda),   f = 30 - ceil(log2 B) fraction bits

so that every sum fits Z_2^32 (W bounds the sum of the rows' weights: their number, where they have none); above `rows_per_sum`
rows, sums are taken by groups, with the group's own (larger) f a row, extended to Z_2^64 and truncated as a sum.

Nothing here has a size of its own. Whoever makes `BoostingSettings` divides weights, lambda, gamma and min_child_weight by one weight
(the mean one, where it is known), which changes no tree, and labels of squared error by their spread (`LabelScale`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hansa.errors import PlanError, ProtocolError
from hansa.mpc.comparison import extend, truncate
from hansa.mpc.fourier import EXPONENTIAL_FRACTION, MARGIN_BITS, exponential_part, logistic
from hansa.mpc.panels import panel_columns
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    open_to_all,
    product_part,
    public,
    together,
)
from hansa.mpc.ring import BITS, RING32, RING64, ShareArray, words_for
from hansa.oblivious.candidates import ONLY_MISSING, Candidates
from hansa.oblivious.growth import TreeShares, grow_tree
from hansa.oblivious.shared_rows import BATCH_ROWS, Block, label_words, weights_of
from hansa.oblivious.softmax import WIDE_BITS, softmax_gradients, weighted_gradients
from hansa.oblivious.split_finding import scoring
from hansa.oblivious.tree_constants import COUNT_BITS, CountFactors, Kind, TreeConstants
from hansa.oblivious.weight_bounds import MOST_STEP

POISSON = "count:poisson"
SOFTPROB = "multi:softprob"

MEAN_SHIFT = 16
"""Added to the logarithms of means of count:poisson, so that margins within +-16 are means of e^-32 to 1 in the labels' scale."""

MOST_FRACTION_BITS = 22
"""More than the margins' noise is worth, and few enough for every shift below to stay positive."""

SAFE_MARGIN = 16
"""The series of `fourier` holds for |margin| <= 16."""

MOST_BOUNDED = 15
"""Greatest leaf_limit under monotone constraints: values are compared with bounds in Z_2^32."""

WEIGHT_BITS = 8
"""Fraction bits that scale_pos_weight is rounded to where rows have no weights."""

PLAIN_SCALES = (2.0**-WEIGHT_BITS, 2.0**WEIGHT_BITS)
"""Values of scale_pos_weight that rows without weights can have."""

LEAST_BOUND = 2**-14
"""Least eta max_delta_step: such a bound has 64 units of leaves on shares."""

LEAST_ETA = 2**-12
"""eta has 20 fraction bits."""

WEIGHT_SUM_BITS, MOST_WEIGHT_SUM_BITS = 29, 35
"""The words of the weights of all rows that are summed in Z_2^32 add up to at most 2^29, but for rounding, and those of all rows to
2^35: times a public factor of 26 bits such a sum stays below 2^62."""

MOST_LAMBDA, MOST_GAMMA = 2**26, 2**26
"""In units of the rows' mean weight. A greater lambda leaves no bits for gradients; a greater gamma says what this one says: nothing
splits. From a lambda of about 2^18 on the numerator of "no split" no longer fits under the least gamma (`split_finding.scoring`): then
splits may win that gain nothing, on leaves that are nearly 0."""

SERIES_NOISE = 2**-15
"""Times the root of the number of rows: five times what the noise of the logistic series, 6e-6 a row, makes of a sum of hessians.
Less than that is no child, and no leaf: its value would be noise."""

MEAN_NOISE = 2**-20
"""Times the weight of all rows: what the series of e^t can make of a sum of means that are 0, several times over."""

EXTRA_BITS, MOST_GROUPS, MOST_ROWS_PER_SUM = 2, 8, 2**18
"""A row's gradient keeps so many fraction bits more than sums do, unless that takes more groups of rows."""


@dataclass(frozen=True)
class BoostingSettings:
    """Public parameters, under XGBoost's names where it has them.

    Attributes:
        objective: "binary:logistic", "multi:softprob", or on labels scaled by `LabelScale` "reg:squarederror" or "count:poisson". Of
            the last, means are e^(margin - 16) in the scale, so that a margin within +-16 is a mean up to the scale; and hessians
            are means, without the factor e^d that XGBoost's have, d = max_delta_step. So eta, lambda and min_child_weight are e^-d
            times XGBoost's, gamma and max_delta_step (of leaves) e^d times. Hessians of multi:softprob are p (1 - p), half of
            XGBoost's: there the factor is 2.
        rounds, eta, max_depth, reg_lambda, gamma, min_child_weight, scale_pos_weight: as in XGBoost. gamma
            applies to the scaled labels of squared error: divide it by the scale's square.
        base_margin: where margins start. For squared error in units of the scale, within +-1/2: 0 where the scale's centre
            is the base score, or the pooled mean of the scaled labels.
        class_margins: of multi:softprob, where the margins of all classes start, its own among them.
        leaf_limit: leaf values, eta included, are clamped to +- this.
        reg_alpha, max_delta_step: as in XGBoost; 0 for none. On scaled labels of squared error both are divided by the scale.
        leaf_bits: fraction bits of an opened leaf value: with the sign and the limit about 16 bits in all. A
            sharper value of a first tree nearly gives its leaf's sums away.
        weight_limit: no row's weight exceeds this; None where rows have no weights. Weights are words with `weight_bits`
            fraction bits. With them, scale_pos_weight is folded in by the owners (`weight_words`), and may be any.
        total_weight: a public bound on the sum of all weights (scale_pos_weight included), where one is known, as it is
            once the pooled mean is opened (`base_score.pooled_sums`). Sums get the more fraction bits the smaller it is, which a
            large scale_pos_weight with few positives needs.
        cover_bits: where statistics are part of the model, the fraction bits that a leaf's cover (sum of hessians) keeps;
            None for no statistics. `release.open_tree` derives gains from covers.
        monotone: by feature 1 for increasing, -1 for decreasing, 0 for neither; empty for no constraint. Not for categorical
            features. Missing values go either way, as in XGBoost.
        rows_per_sum: rows summed in Z_2^32 at a time; None for as many as leave a row's gradient two fraction bits more than
            sums keep, but no more than eight groups. Halving it gives a bit more, for 24 bytes a column, left child and
            group of rows.

    Raises:
        PlanError: a parameter out of range, naming it.
    """

    objective: Literal["binary:logistic", "multi:softprob", "reg:squarederror", "count:poisson"]
    rounds: int
    eta: float = 0.3
    max_depth: int = 6
    reg_lambda: float = 1.0
    gamma: float = 0.0
    min_child_weight: float = 1.0
    scale_pos_weight: float = 1.0
    base_margin: float = 0.0
    class_margins: tuple[float, ...] = ()
    leaf_limit: float = 4.0
    reg_alpha: float = 0.0
    max_delta_step: float = 0.0
    leaf_bits: int = 14
    rows_per_sum: int | None = None
    weight_limit: float | None = None
    total_weight: float | None = None
    cover_bits: int | None = None
    monotone: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        ranges: dict[str, tuple[float, float]] = {
            "rounds": (1, 10**6),
            "eta": (LEAST_ETA, 1),
            "max_depth": (1, 8),
            "reg_lambda": (0, MOST_LAMBDA),
            "gamma": (0, np.inf),
            "min_child_weight": (0, np.inf),
            "scale_pos_weight": PLAIN_SCALES if self.weight_limit is None else (0, np.inf),
            "base_margin": (-SAFE_MARGIN, SAFE_MARGIN),
            "leaf_limit": (2**-10, SAFE_MARGIN),
            "leaf_bits": (4, MARGIN_BITS),
            "reg_alpha": (0, np.inf),
            "max_delta_step": (0, MOST_STEP),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise PlanError(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        self._check_monotone()
        self._check_bounds()
        if self.cover_bits is not None and not 0 <= self.cover_bits <= 8:
            raise PlanError(f"cover_bits is {self.cover_bits}; expected 0 to 8, or none")
        if self.rows_per_sum is not None and not 64 <= self.rows_per_sum <= 2**24:
            raise PlanError(f"rows_per_sum is {self.rows_per_sum}; expected 64 to 2^24, or none")
        if self.objective not in ("binary:logistic", SOFTPROB, "reg:squarederror", POISSON):
            raise PlanError(f"objective {self.objective!r} is not supported in coopetitive mode")
        if self.objective == "reg:squarederror" and (abs(self.base_margin) > 0.5 or self.scale_pos_weight != 1):
            raise PlanError("reg:squarederror takes a base_margin within +-1/2 and scale_pos_weight 1")
        if self.objective in (POISSON, SOFTPROB) and self.scale_pos_weight != 1:
            raise PlanError(f"{self.objective} takes scale_pos_weight 1")
        if (self.objective == SOFTPROB) != (self.base_margin in self.class_margins):
            raise PlanError(f"{SOFTPROB} takes class_margins, base_margin among them, and others take none")
        if self.weight_limit is not None and not 0 < self.greatest_weight < np.inf:
            raise PlanError(f"weight_limit is {self.weight_limit}; expected a positive number")
        if self.total_weight is not None and not self.total_weight > 0:
            raise PlanError(f"total_weight is {self.total_weight}; expected a positive bound")

    def _check_monotone(self) -> None:
        if any(direction not in (-1, 0, 1) for direction in self.monotone):
            raise PlanError("monotone_constraints: expected -1, 0 or 1 for each feature")
        if any(self.monotone) and (self.leaf_limit > MOST_BOUNDED or self.leaf_bits + self.max_depth >= MARGIN_BITS):
            raise PlanError(
                f"monotone_constraints take a leaf_limit of at most {MOST_BOUNDED}, and leaf_bits + max_depth below {MARGIN_BITS}"
            )

    def _check_bounds(self) -> None:
        if self.max_delta_step and self.eta * self.max_delta_step < LEAST_BOUND:
            raise PlanError(
                f"max_delta_step times eta is {self.eta * self.max_delta_step:g}; on shares expected at least {LEAST_BOUND:g}, or 0"
            )
        if (self.reg_alpha or self.max_delta_step) and self.cover_bits is not None:
            raise PlanError(
                "alpha and max_delta_step take no statistics on shares: gains do not follow from bounded leaves"
            )

    @property
    def weight(self) -> tuple[int, int]:
        """scale_pos_weight as an integer and its fraction bits; (1, 0) for none."""
        if self.scale_pos_weight == 1:
            return 1, 0
        return max(1, round(self.scale_pos_weight * 2**WEIGHT_BITS)), WEIGHT_BITS

    @property
    def leaf_bound(self) -> float:
        """No leaf value exceeds this, eta included."""
        limit = self.eta if self.objective == "reg:squarederror" else self.leaf_limit
        return min(limit, self.eta * self.max_delta_step) if self.max_delta_step else limit

    @property
    def greatest_weight(self) -> float:
        """No row's weight exceeds this, scale_pos_weight included."""
        return (1.0 if self.weight_limit is None else self.weight_limit) * max(1.0, self.scale_pos_weight)


@dataclass(frozen=True)
class LabelScale:
    """How owners bring labels of squared error to words: (y - centre) / scale, within +-1/2.

    Attributes:
        centre: the model's base score.
        scale: twice the greatest distance of a label from it, from the plan's public range. Leaves of the
            opened trees are multiplied by it.
    """

    centre: float
    scale: float

    @classmethod
    def of_range(cls, lowest: float, highest: float, base_score: float) -> LabelScale:
        """For labels in [lowest, highest], base_score among them. Raises PlanError."""
        if not lowest <= base_score <= highest or lowest == highest:
            raise PlanError(f"base_score {base_score} must lie in the label range {lowest} to {highest}")
        return cls(base_score, 2 * max(highest - base_score, base_score - lowest))

    def words(self, labels: npt.NDArray[np.float64]) -> npt.NDArray[np.uint32]:
        """Labels as words of Z_2^32 with 26 fraction bits. Raises PlanError on one out of range."""
        scaled = (labels - self.centre) / self.scale
        if not (np.abs(scaled) <= 0.5).all():
            raise PlanError(
                f"a label is further than {self.scale / 2:g} from {self.centre:g}, which labels.range, or the spread of all labels, "
                "excludes"
            )
        words: npt.NDArray[np.int32] = np.round(scaled * 2**MARGIN_BITS).astype(np.int32)
        return words.view(np.uint32)


def weight_words(
    settings: BoostingSettings,
    labels: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    bits: int,
    folded: bool = True,
) -> npt.NDArray[np.uint32]:
    """What an owner shares of its rows' weights: words of the weights, and of weights times labels.

    Args:
        labels: 0 or 1, or for squared error `LabelScale`'s scaled labels, float64 (rows,). Secret.
        weights: float64 (rows,), 0 to the settings' limit. Secret.
        bits: fraction bits: `weight_bits` for rows to train on, `held_weight_bits` for others.
        folded: times scale_pos_weight where the label is 1. Metrics do without, as XGBoost's.

    Returns:
        uint32 (2, rows), as `shared_rows.share_rows` takes them.

    Raises:
        PlanError: the plan has no weights, or a weight is out of range.
    """
    if settings.weight_limit is None:
        raise PlanError("this plan's rows have no weights; give weight_limit")
    if not ((weights >= 0) & (weights <= settings.weight_limit)).all():
        raise PlanError(f"a row's weight is out of range; expected 0 to the plan's limit {settings.weight_limit}")
    scaled = np.round(weights * np.where((labels == 1) & folded, settings.scale_pos_weight, 1) * 2.0**bits)
    words: npt.NDArray[np.int32] = np.stack([scaled, np.round(scaled * labels)]).astype(np.int32)
    return words.view(np.uint32)


def weight_bits(settings: BoostingSettings, rows: int) -> int:
    """Fraction bits of the words of weights of so many rows that are trained on; negative for large weights."""
    _, final_bits = _bounds(settings, rows)
    together = _greatest_total(settings, min(rows, _rows_per_sum(settings, rows, final_bits)))
    return min(
        WEIGHT_SUM_BITS - _log2_ceil(together), MOST_WEIGHT_SUM_BITS - _log2_ceil(_greatest_total(settings, rows))
    )


def held_weight_bits(settings: BoostingSettings, rows: int) -> int:
    """The same of rows that are held out: nothing is known of their weights but the limit."""
    return WEIGHT_SUM_BITS - _log2_ceil(max(1, rows) * (settings.weight_limit or 1.0))


def _log2_ceil(value: float) -> int:
    mantissa, exponent = np.frexp(value)
    return int(exponent) - int(mantissa == 0.5)


def _everything(_tree: int) -> None:
    """No draw: all rows, all features."""


Gradients = tuple[ShareArray, ShareArray]
"""g and h as vectors (2, 1, 2, rows), and |g| or a bound on it (2, rows)."""


@dataclass(frozen=True)
class Sampling:
    """Public draws of each tree. None stands for all. Trees are numbered in the model's order: round * outputs + output.

    Attributes:
        rows: tree number -> bool (rows,), which rows the tree uses.
        features: tree number -> the features it may split on, ascending.
    """

    rows: Callable[[int], npt.NDArray[np.bool_] | None] = _everything
    features: Callable[[int], npt.NDArray[Any] | None] = _everything


@dataclass(frozen=True)
class TrainedShares:
    """What training gives, as one server's shares.

    Attributes:
        trees: of all rounds, round by round. rounds: how many there were.
        good: how many of them, from the first on, kept every margin within +-16 (opened, or known to be all).
        checked: whether `good` was opened, because margins could leave the range.
    """

    trees: tuple[TreeShares, ...]
    rounds: int
    good: int
    checked: bool


@dataclass(frozen=True)
class Halfway:
    """Where training stands after some rounds, as one server's shares.

    Attributes:
        margins: of each output, (2, rows). trees: of all rounds so far, round by round.
        flags: of each round, XOR-shared bits of rows out of range, as `boost_round` gives them.
        stops: whether `after` ended training with the last of these rounds; None where it did not run for it.
    """

    margins: list[ShareArray]
    trees: list[TreeShares]
    flags: list[list[ShareArray]]
    stops: bool | None = None


def _never(_number: int, _grown: list[TreeShares]) -> Program[bool]:
    """No evaluation: train to the end."""
    return False
    yield  # a program of no round


def _kept_nowhere(_halfway: Halfway) -> Program[None]:
    """Training that nothing interrupts."""
    return
    yield  # a program of no round


def train(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    settings: Sequence[BoostingSettings],
    *,
    epoch: int = 0,
    sampling: Sampling | None = None,
    begun: Callable[[], None] = lambda: None,
    keep: Callable[[Halfway], Program[None]] = _kept_nowhere,
    after: Callable[[int, list[TreeShares]], Program[bool]] = _never,
    since: Halfway | None = None,
) -> Program[TrainedShares]:
    """Train all rounds. Opens at the end how many of them are good, and that only where margins could leave +-16.

    Args:
        settings: of each output; they differ in base_margin and total_weight at most.
        begun: called before the first tree. keep: run after each round, before anything is opened of it.
        after: run after each round, with its number from 0 and its trees; True ends training.
        since: where training goes on from, under keys that were never used; None for the start.
    """
    sampling = sampling or Sampling()
    outputs = yield from start_outputs(server, blocks, settings, epoch)
    begun()
    trees: list[TreeShares] = []
    flags: list[list[ShareArray]] = []
    over = False
    if since is not None:
        trees, flags = list(since.trees), list(since.flags)
        for output, margins in zip(outputs, since.margins, strict=True):
            output.margins = margins
        over = bool(since.stops)
        if since.stops is None:
            over = yield from after(len(flags) - 1, trees[-len(outputs) :])
    while len(flags) < settings[0].rounds and not over:
        number = len(flags)
        grown, outside = yield from boost_round(server, candidates, blocks, outputs, sampling, number, epoch)
        trees += grown
        flags.append(outside)
        yield from keep(Halfway([output.margins for output in outputs], trees, flags))
        over = yield from after(number, grown)
    rows = sum(block.rows for block in blocks)
    good = yield from rounds_in_range(server, flags, rows, Address(epoch, settings[0].rounds, 0, "range"))
    return TrainedShares(tuple(trees), len(flags), good, any(flags))


@dataclass
class Output:
    """One output of a model under training, at one server.

    Attributes:
        settings: its own. labels: shared in Z_2^32, (2, rows). margins: shared in Z_2^32 with 26 fraction bits, (2, rows); each
            round brings new ones.
        weights: weights, and weights times labels, shared in Z_2^64, (2, 2, rows); None where rows have none.
    """

    settings: BoostingSettings
    labels: ShareArray
    margins: ShareArray
    weights: ShareArray | None = None


def start_outputs(
    server: Server, blocks: list[Block], settings: Sequence[BoostingSettings], epoch: int = 0
) -> Program[list[Output]]:
    """Where each output starts: its labels, its rows' weights, and its base margin at every row. Two rounds with weights, else none.

    Raises:
        ProtocolError: the owners' rows and the settings disagree on whether rows have weights.
    """
    rows = sum(block.rows for block in blocks)
    outputs = [
        Output(own, label_words(blocks, number), start_margins(server, rows, own))
        for number, own in enumerate(settings)
    ]
    for number, output in enumerate(outputs):
        narrow = weights_of(blocks, number)
        if (narrow is None) != (output.settings.weight_limit is None):
            raise ProtocolError("the owners' rows and the plan disagree on whether rows have weights")
        if narrow is not None:
            place = Address(epoch, 0, number, "weights")
            output.weights = yield from extend(server, np.ascontiguousarray(narrow[0]), place)
    return outputs


def boost_round(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    outputs: list[Output],
    sampling: Sampling,
    number: int,
    epoch: int,
) -> Program[tuple[list[TreeShares], list[ShareArray]]]:
    """One round of boosting: a tree for every output, side by side; the outputs get their new margins.

    Returns:
        The trees, and XOR-shared bits of rows out of range, of each output where they are known.
    """
    of_classes: list[Gradients | None] = [None] * len(outputs)
    beyond: list[ShareArray] = []
    if outputs[0].settings.objective == SOFTPROB and number > 0:
        place = Address(epoch, number, 0, "classes")
        of_classes, beyond = yield from _class_gradients(server, candidates, outputs, number, place)
    programs = [
        boost(
            server,
            candidates,
            blocks,
            own.labels,
            own.margins,
            own.settings,
            sampling,
            number,
            epoch,
            place,
            len(outputs),
            own.weights,
            gradients,
        )
        for place, (own, gradients) in enumerate(zip(outputs, of_classes, strict=True))
    ]
    results = yield from together(*programs)
    for own, (_, margins, _) in zip(outputs, results, strict=True):
        own.margins = margins
    outside = [bits for _, _, bits in results if bits is not None]
    return [tree for tree, _, _ in results], outside + beyond


def _class_gradients(
    server: Server, candidates: Candidates, outputs: list[Output], number: int, address: Address
) -> Program[tuple[list[Gradients | None], list[ShareArray]]]:
    """`softmax.softmax_gradients` of all outputs' margins."""
    rows = outputs[0].labels.shape[1]
    growths = [growth_of(own.settings, candidates, rows) for own in outputs]
    weights = [own.weights for own in outputs if own.weights is not None]
    found, outside = yield from softmax_gradients(
        server,
        np.stack([own.margins for own in outputs], axis=1),
        [own.labels for own in outputs],
        weights or None,
        [growth.row_bits for growth in growths],
        [growth.weight_bits for growth in growths],
        address,
        may_leave_range(outputs[0].settings, number),
    )
    return list(found), outside


def may_leave_range(settings: BoostingSettings, rounds: int) -> bool:
    """Could a margin of so many rounds leave +-16, or a difference of those of classes? Public; only then is the range checked on
    shares."""
    if settings.class_margins:
        spread = max(settings.class_margins) - min(settings.class_margins) + float(np.log(len(settings.class_margins)))
        return bool(spread + 2 * rounds * settings.leaf_bound > SAFE_MARGIN)
    return abs(settings.base_margin) + rounds * settings.leaf_bound > SAFE_MARGIN


def start_margins(server: Server, rows: int, settings: BoostingSettings) -> ShareArray:
    """The public base margin of every row, as a shared array; local."""
    start = RING32.constant(_start(settings))
    return public(server, RING32, np.full(rows, start, np.uint32))


def _start(settings: BoostingSettings) -> int:
    start: int = round(settings.base_margin * 2**MARGIN_BITS)
    return start


def boost(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    labels: ShareArray,
    margins: ShareArray,
    settings: BoostingSettings,
    sampling: Sampling,
    number: int,
    epoch: int,
    output: int = 0,
    outputs: int = 1,
    weights: ShareArray | None = None,
    gradients: Gradients | None = None,
) -> Program[tuple[TreeShares, ShareArray, ShareArray | None]]:
    """One round of boosting of one output: the tree, the new margins (2, rows), XOR-shared bits of rows out of range.

    Other arguments are those of `Output`; `gradients` are given where they depend on the margins of all outputs.

    Draws are named by the round and, where there are several, by the output: no two trees share a name.
    """
    rows = labels.shape[1]
    address = Address(epoch, number, 0, "tree" if outputs == 1 else f"tree of output {output}")
    tree = number * outputs + output
    growth = growth_of(settings, candidates, rows, sampling.features(tree))
    outside: ShareArray | None = None
    absolute: ShareArray | None = None
    kind: Kind
    if settings.objective == "reg:squarederror" and weights is not None:
        kind = "gradients"
        vectors = yield from _weighted_residuals(server, margins, labels, weights, growth, address.named("residuals"))
        # |g| <= w: labels and margins are scaled so.
        absolute = vectors[:, 0, 1]
    elif settings.objective == "reg:squarederror":
        kind = "residuals"
        part = margins[0] - labels[0]
        shift = MARGIN_BITS - growth.row_bits
        gradient = yield from truncate(server, RING32, part, shift, address.named("residuals"))
        vectors = _vectors(gradient, _ones(server, rows))
    elif settings.objective == POISSON:
        kind = "gradients"
        check = may_leave_range(settings, number)
        place = address.named("gradients")
        vectors, absolute, outside = yield from poisson_gradients(
            server, margins, labels, weights, growth, check, place
        )
    elif gradients is not None:
        kind = "gradients"
        vectors, absolute = gradients
    elif number == 0:
        kind = "counts"
        if weights is None:
            vectors = _vectors(labels, _ones(server, rows))
        else:
            vectors = _vectors(weights[:, 1].astype(np.uint32), weights[:, 0].astype(np.uint32))
    else:
        kind = "gradients"
        check = may_leave_range(settings, number)
        place = address.named("gradients")
        if weights is None:
            vectors, absolute, outside = yield from logistic_gradients(
                server, margins, labels, growth.row_bits, settings.weight, check, place
            )
        else:
            shift = growth.weight_bits + WIDE_BITS - growth.row_bits
            vectors, absolute, outside = yield from _weighted_gradients(server, margins, weights, shift, check, place)
    used = sampling.rows(tree)
    if used is not None:
        mask = used.astype(np.uint32)
        vectors = vectors * mask
        absolute = None if absolute is None else absolute * mask
    with_paths = kind == "gradients" or used is not None or weights is not None
    shares, leaves = yield from grow_tree(
        server, candidates, blocks, vectors, absolute, kind, growth, with_paths, address
    )
    return shares, margins + leaves, outside


def _vectors(first: ShareArray, second: ShareArray) -> ShareArray:
    return np.ascontiguousarray(np.stack([first, second], axis=1)[:, None])


def _ones(server: Server, rows: int) -> ShareArray:
    return public(server, RING32, np.ones(rows, np.uint32))


def logistic_gradients(
    server: Server,
    margins: ShareArray,
    labels: ShareArray,
    fraction_bits: int,
    weight: tuple[int, int],
    check_range: bool,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray, ShareArray | None]]:
    """Gradients and hessians (2, 1, 2, rows), |g| (2, rows), and bits of rows out of range, from margins.

        g = p - y,  |g| = p + y - 2 y p,  h = p (1 - p)

    and with scale_pos_weight s (p_s = s p and h_s = s h come from the same series)

        g = p + y (p_s - p) - s y,  |g| = p + s y - y (p + p_s),  h = h + y (h_s - h).

    Four rounds.
    """
    results, outside = yield from logistic(
        server, margins, fraction_bits, address.named("logistic"), *weight, check_range
    )
    p, h = results[:2]
    if weight == (1, 0):
        product = yield from multiply(server, RING32, labels, p, address.named("y p"))
        ones = labels << np.uint32(fraction_bits)
        return _vectors(p - ones, h), p + ones - product - product, outside
    weighted_p, weighted_h = results[2:]
    factors = np.stack([weighted_p - p, p + weighted_p, weighted_h - h], axis=1)
    products = yield from multiply(server, RING32, labels[:, None], factors, address.named("weighted"))
    ones = labels * np.uint32((weight[0] << fraction_bits) >> weight[1])
    return _vectors(p + products[:, 0] - ones, h + products[:, 2]), p + ones - products[:, 1], outside


def _weighted_gradients(
    server: Server, margins: ShareArray, weights: ShareArray, shift: int, check_range: bool, address: Address
) -> Program[tuple[ShareArray, ShareArray, ShareArray | None]]:
    """As `logistic_gradients` for rows with weights, in Z_2^64; five rounds.

    g = w p - w y,  |g| = w p + w y - 2 (w y) p,  h = w p (1 - p)
    """
    (p, h), outside = yield from logistic(
        server, margins, WIDE_BITS, address.named("logistic"), check_range=check_range, ring=RING64
    )
    return *(yield from weighted_gradients(server, weights, p, h, shift, address)), outside


def poisson_gradients(
    server: Server,
    margins: ShareArray,
    labels: ShareArray,
    weights: ShareArray | None,
    growth: TreeConstants,
    check_range: bool,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray, ShareArray | None]]:
    """Gradients and hessians (2, 1, 2, rows), a bound on |g| (2, rows), and bits of rows out of range, of means m = e^(margin - 16).

        g = w (m - y),  h = w m,  |g| <= w (m + y)

    The bound takes the place of |g| in S: neither |G| nor H exceeds its sum. Three rounds, with weights five; four and
    six where the range is checked.
    """
    means, checks = yield from mean_part(server, margins, address.named("means"), check_range)
    if weights is None:
        m, y, *outside = yield from together(
            truncate(server, RING64, means, EXPONENTIAL_FRACTION - growth.row_bits, address.named("m"), RING32),
            truncate(server, RING32, labels[0], MARGIN_BITS - growth.row_bits, address.named("y")),
            *checks,
        )
        return _vectors(m - y, m), m + y, outside[0] if outside else None
    m, *outside = yield from together(
        truncate(server, RING64, means, EXPONENTIAL_FRACTION - WIDE_BITS, address.named("m")), *checks
    )
    w_m, w_y = product_part(RING64, weights[:, 0], m), weights[0, 1] << np.uint64(WIDE_BITS)
    shift = growth.weight_bits + WIDE_BITS - growth.row_bits
    parts = np.stack([w_m - w_y, w_m, w_m + w_y])
    words = yield from truncate(server, RING64, parts, shift, address.named("weighted"), RING32)
    return _vectors(words[:, 0], words[:, 1]), words[:, 2], outside[0] if outside else None


def mean_part(
    server: Server, margins: ShareArray, address: Address, check_range: bool = False
) -> Program[tuple[ShareArray, list[Program[ShareArray]]]]:
    """`fourier.exponential_part` of margin - 16."""
    part = add_to_part(server, RING32, margins[0], -MEAN_SHIFT << MARGIN_BITS)
    return (yield from exponential_part(server, part, address, check_range))


def _weighted_residuals(
    server: Server,
    margins: ShareArray,
    labels: ShareArray,
    weights: ShareArray,
    growth: TreeConstants,
    address: Address,
) -> Program[ShareArray]:
    """w (F - y) and w, with row_bits fraction bits, as vectors (2, 1, 2, rows). Four rounds."""
    residual = yield from extend(server, margins[0] - labels[0], address.named("wide"))
    w = weights[:, 0]
    parts = np.stack([product_part(RING64, w, residual), w[0] << np.uint64(MARGIN_BITS)])
    shift = growth.weight_bits + MARGIN_BITS - growth.row_bits
    words = yield from truncate(server, RING64, parts, shift, address.named("weighted"), RING32)
    return _vectors(words[:, 0], words[:, 1])


def growth_of(
    settings: BoostingSettings, candidates: Candidates, rows: int, features: npt.NDArray[Any] | None = None
) -> TreeConstants:
    """A tree's public constants. Raises PlanError where the bounds leave no fraction bits."""
    floor, final_bits = _bounds(settings, rows)
    rows_per_sum = _rows_per_sum(settings, rows, final_bits)
    row_bits = max(final_bits, _row_bits(settings, min(rows, rows_per_sum)))
    return TreeConstants(
        depth=settings.max_depth,
        scoring=scoring(
            final_bits,
            settings.reg_lambda,
            _gamma(settings, rows),
            _least_hessian(settings, rows),
            floor,
            settings.reg_alpha,
            settings.max_delta_step,
        ),
        row_bits=row_bits,
        rows_per_sum=rows_per_sum,
        scale_floor=int(np.ceil(floor * 2**final_bits)),
        eta=settings.eta,
        leaf_limit=settings.leaf_bound,
        leaf_bits=settings.leaf_bits,
        chosen=None if features is None else candidates.of_features(features),
        counts=_count_factors(settings) if settings.objective in ("binary:logistic", SOFTPROB) else None,
        directions=_directions(settings, candidates),
        cover_bits=None if settings.cover_bits is None else min(settings.cover_bits, final_bits),
        weight_bits=0 if settings.weight_limit is None else weight_bits(settings, rows),
    )


def _directions(settings: BoostingSettings, candidates: Candidates) -> npt.NDArray[np.int64] | None:
    """Of each candidate; a split on "missing or not" is free."""
    if not any(settings.monotone):
        return None
    if len(settings.monotone) != len(candidates.features):
        raise PlanError(
            f"monotone_constraints: expected one for each of {len(candidates.features)} features, "
            f"found {len(settings.monotone)}"
        )
    for number, (direction, feature) in enumerate(zip(settings.monotone, candidates.features, strict=True)):
        if direction and feature.categorical:
            raise PlanError(f"monotone_constraints: feature {number} is categorical and can have none")
    return np.array([0 if c.cut == ONLY_MISSING else settings.monotone[c.feature] for c in candidates.all], np.int64)


def _rows_per_sum(settings: BoostingSettings, rows: int, final_bits: int) -> int:
    """How many rows are summed in Z_2^32 at a time."""
    if settings.rows_per_sum is not None:
        return settings.rows_per_sum
    wanted = min(MOST_FRACTION_BITS, final_bits + EXTRA_BITS)
    fitting = int((2 ** (30 - wanted) - 2) / settings.greatest_weight / _most_gradient(settings))
    found = min(MOST_ROWS_PER_SUM, max(fitting, -(-rows // MOST_GROUPS), 64))
    if settings.weight_limit is not None and _row_bits(settings, min(rows, found)) <= final_bits:
        # Any group may hold the heaviest row: then smaller groups gain nothing.
        return MOST_ROWS_PER_SUM
    return found


def _row_bits(settings: BoostingSettings, rows: int) -> int:
    """Fraction bits with which the sum of so many rows fits Z_2^32, noise included."""
    total = _greatest_total(settings, rows) * _most_gradient(settings)
    return min(MOST_FRACTION_BITS, 30 - int(np.ceil(total + 1 + total / 65536)).bit_length())


def _greatest_total(settings: BoostingSettings, rows: int) -> float:
    """No sum of so many rows' weights exceeds this."""
    total = rows * settings.greatest_weight
    return total if settings.total_weight is None else min(total, settings.total_weight)


def _bounds(settings: BoostingSettings, rows: int) -> tuple[float, int]:
    """A = max(1 + W 2^-16, gamma / 6, sqrt(2 gamma lambda / 3)), and f for so many rows.

    A is the least S of a node, S = sum |g| + A, by which scores are scaled (`split_finding`). Two things need it.

    1. |e| <= S on shares, where rows have noise. What is summed for G is a row's g', p' - y with a noisy p', and for S
    it is p' where y = 0 and 1 - p' where y = 1. That is |g'|, but for its sign where p' is below 0 or above 1: there S
    loses 2 |g'| against sum |g'| >= |e|. Noise of mean 0 and sd s makes that 2 s / sqrt(2 pi) a row on average where p
    is all but y, less elsewhere. With s = 1.3e-5 (`fourier.logistic`) it is 1.04e-5 a row of weight 1, less than
    2^-16 = 1.53e-5. The other 1 is for what is left of the noise of a sum around its mean.

    2. The numerator of "no split" must stay below 2^39, so that its products with ratios stay below 2^63. In parts of 2^38 it is

        n_0 = (1/4) [G^2 lambda / (H + lambda) + gamma (H + 2 lambda)] / S^2       times (S k / 2^31)^2, which is below 1

    Rows have h <= |g|: p (1 - p) is at most p and 1 - p, squared error takes S = H + A, and count:poisson the sum of m + y, which h is
    below too. So |G| <= S and H <= S - A, and

        n_0 <= 1/4 + (gamma / 4) (S - A + 2 lambda) / S^2

    The fraction falls where S > 2 (A - 2 lambda), and grows below.
      * If 2 (A - 2 lambda) <= A, that is A <= 4 lambda, it is greatest at S = A: (gamma / 4) 2 lambda / A^2, at most 3/4 since
        A^2 >= 2 gamma lambda / 3.
      * Else it is greatest at S = 2 (A - 2 lambda) > A: gamma / (16 (A - 2 lambda)) < gamma / (8 A), at most 3/4 since A >= gamma / 6.
    So n_0 <= 1, and the numerator is at most 2^38. A factor of 2 is left. It is for noise, and for the gamma that
    `scoring` puts in place of a smaller one, 2^(4 - 2 f), of which A does not know: with it n_0 stays below 2 where
    lambda <= 2^17. (A greater lambda takes so many bits that f is small and this gamma large.)

    f: with B = max(W g_max + A, W h_max + 2 lambda + 1), all sums and S are below 2^30 in units of 2^-f.

    An example, of 10 000 rows: 1.15, 16.67 and 14.14 are the candidates for A.

    >>> settings = BoostingSettings("binary:logistic", rounds=1, gamma=100, reg_lambda=3)
    >>> floor, bits = _bounds(settings, 10_000)
    >>> round(floor, 2), bits, 10_000 + floor <= 2 ** (30 - bits)
    (16.67, 16, True)
    >>> scales = np.arange(floor, 100, 0.01)  # A > 4 lambda: greatest at S = 2 (16.67 - 6) = 21.33
    >>> values = 100 / 4 * (scales - floor + 2 * 3) / scales**2
    >>> round(float(scales[values.argmax()]), 1), round(float(values.max()), 3), round(100 / (16 * (floor - 6)), 3)
    (21.3, 0.586, 0.586)
    """
    most_hessian = 0.25 if settings.objective in ("binary:logistic", SOFTPROB) else 1
    total, gamma = _greatest_total(settings, rows), _gamma(settings, rows)
    floor = max(1 + total / 65536, gamma / 6, float(np.sqrt(2 * gamma * settings.reg_lambda / 3)))
    bound = max(total * _most_gradient(settings) + floor, total * most_hessian + 2 * settings.reg_lambda + 1)
    bits = min(MOST_FRACTION_BITS, 30 - int(np.ceil(bound)).bit_length())
    if bits < 1:
        raise PlanError(
            f"{rows} rows whose weights add up to as much as {total:g} times the mean one leave no fraction bits on shares; leave "
            "base_score out, so that the sum of all weights is known, or lower scale_pos_weight or schema.weight_limit"
        )
    return floor, bits


def _most_gradient(settings: BoostingSettings) -> float:
    """Of a row of weight 1: means of count:poisson are at most 1, labels 1/2, and what bounds |g| is their sum."""
    return 1.5 if settings.objective == POISSON else 1.0


def _gamma(settings: BoostingSettings, rows: int) -> float:
    """gamma, or where it is so great that nothing can split, a smaller one that says the same.

    No gain of squared error exceeds the sum of w g^2, where |g| <= 1.
    """
    most = MOST_GAMMA if settings.objective != "reg:squarederror" else 1 + _greatest_total(settings, rows)
    return min(settings.gamma, most)


def _least_hessian(settings: BoostingSettings, rows: int) -> float:
    """min_child_weight, or the noise in a sum of hessians; no more than all rows can have."""
    if settings.objective == "reg:squarederror":
        return min(settings.min_child_weight, 1 + _greatest_total(settings, rows))
    if settings.objective == POISSON:
        total = _greatest_total(settings, rows)
        return max(MEAN_NOISE * total, min(settings.min_child_weight, 1 + total))
    noise = SERIES_NOISE * float(np.sqrt(rows)) if settings.weight_limit is None else 0.0
    return max(noise, min(settings.min_child_weight, 1 + _greatest_total(settings, rows) / 4))


def _count_factors(settings: BoostingSettings) -> CountFactors:
    """Gradients of both classes at the base margin, times 2^26. In decimals: floats differ between hosts."""
    with localcontext() as context:
        context.prec = 50
        x = Decimal(_start(settings)) / 2**MARGIN_BITS
        if settings.objective == SOFTPROB:
            own = Decimal(settings.base_margin)
            p = 1 / sum(((Decimal(other) - own).exp() for other in settings.class_margins), Decimal(0))
        else:
            p = 1 / (1 + (-x).exp())
        # Owners fold scale_pos_weight into the rows' weights.
        folded = settings.weight_limit is not None
        weight = Decimal(1) if folded else Decimal(settings.weight[0]) / 2 ** settings.weight[1]

        def words(negative: Decimal, positive: Decimal) -> tuple[int, int]:
            return round(negative * 2**COUNT_BITS), round(positive * 2**COUNT_BITS)

        return CountFactors(
            gradient=words(p, weight * (p - 1)),
            hessian=words(p * (1 - p), weight * p * (1 - p)),
            absolute=words(p, weight * (1 - p)),
        )


def rounds_in_range(server: Server, flags: Sequence[Sequence[ShareArray]], rows: int, address: Address) -> Program[int]:
    """How many rounds, from the first on, began with every margin within +-16; opened, to the three servers.

    The trees of later rounds came of gradients that are wrong, and are not released. A bit a round says whether it is good; the AND of
    each with all before it is opened, so that nothing is told of what came after the first bad one. ANDs go by halves:
    ceil(log2(64 words)) + ceil(log2(rounds)) rounds of messages.

    Args:
        flags: of each round, XOR-shared packed bits of rows out of range, (2, words), of every output where they are known.
        rows: that the bits are of; what is behind them is noise.
    """
    first = next((number for number, own in enumerate(flags) if own), len(flags))
    if first == len(flags):
        return first
    keep = np.full(words_for(rows), 2**64 - 1, np.uint64)
    if rows % 64:
        keep[-1] = (1 << (rows % 64)) - 1
    most = max(len(own) for own in flags)
    nothing = np.zeros((2, len(keep)), np.uint64)
    outside = np.stack(
        [np.concatenate([*own, *[nothing] * (most - len(own))], axis=1) & np.tile(keep, most) for own in flags[first:]],
        axis=1,
    )
    inside = add_public(server, BITS, outside, np.uint64(2**64 - 1))
    number = 0
    while inside.shape[2] > 1:
        half = inside.shape[2] // 2
        both = yield from multiply(
            server, BITS, inside[..., :half], inside[..., half : 2 * half], address.named(f"words {number}")
        )
        inside = np.concatenate([both, inside[..., 2 * half :]], axis=2)
        number += 1
    good = inside[..., 0]
    for shift in (32, 16, 8, 4, 2, 1):
        good = yield from multiply(server, BITS, good, good >> np.uint64(shift), address.named(f"bits {shift}"))
    back = 1
    while back < good.shape[1]:
        both = yield from multiply(server, BITS, good[:, back:], good[:, :-back], address.named(f"rounds {back}"))
        good = np.concatenate([good[:, :back], both], axis=1)
        back *= 2
    opened = yield from open_to_all(server, BITS, good & np.uint64(1), address.named("rounds in range"))
    return first + int(opened.sum())


PROCESS_BYTES = 260 * 10**6
"""An interpreter with numpy and the compiled kernels."""


def memory_estimate(
    candidates: Candidates,
    rows: int,
    settings: BoostingSettings,
    assisted_rows: int = 0,
    own_rows: int = 0,
    regenerating: int | None = None,
    outputs: int = 1,
) -> int:
    """Bytes that one server holds at most, roughly: shares of the rows, a batch that arrives, and the widest level's arrays.

    Args:
        assisted_rows: rows that servers own: one dense part each instead of two.
        own_rows: those of them that this server owns: none.
        regenerating: the server's number where it regenerates what it can (`shared_rows.receive_rows`); None where it
            stores all.
        outputs: of the model: their trees are grown side by side.
    """
    parts = 2 - (0 if regenerating is None else 2 if regenerating == 0 else 1)
    row = 4 * panel_columns(candidates.n_columns)
    dense = row * (parts * (rows - assisted_rows) + assisted_rows - own_rows + min(rows, BATCH_ROWS))
    bits = 8 * words_for(candidates.n_columns) * (2 * rows - assisted_rows)
    # The last two levels' vectors, the message between them, and as much that is freed and not reused yet.
    vectors = 4 * rows * 2 * 2 ** (settings.max_depth - 1) * 4
    upper = 2 ** -(-settings.max_depth // 2)
    paths = 4 * rows * 2 * (3 * upper + 4)
    gradients = rows * (8 * 40 + 64 + (0 if settings.weight_limit is None else 96))
    # Waves in words of 64 bits: of a mean, or of a class's two series.
    gradients += rows * 8 * 48 * {POISSON: 1, SOFTPROB: 2}.get(settings.objective, 0)
    # Bounded weights take arrays of both sides.
    arrays = 150 if settings.reg_alpha or settings.max_delta_step else 60
    histograms = 2 ** (settings.max_depth - 1) * len(candidates.all) * 8 * arrays
    return int(PROCESS_BYTES + dense + bits + outputs * (vectors + paths + gradients + histograms))
