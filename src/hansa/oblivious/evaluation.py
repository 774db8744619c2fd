"""Metrics under shares: held-out rows go down each tree obliviously, and only a metric is opened, or one bit.

Rows that owners hold out are shared as training rows are (`shared_rows.Block`). `tree_margins` adds a tree to
their margins; `metric_share` computes a metric that stays shared; `open_metric` opens it to the three servers;
`improved` opens only whether it beats the best so far, `reached` only whether it is what a plan demands; `has_value` opens whether
there is anything to compute. Formulas and names are XGBoost's:

    logloss  mean of log(1 + e^x) - y x, by the Fourier series of `fourier.loss_part`: no row's probability is clipped
    error    share of rows where [x > 0] is not y
    auc      from a histogram of scores, 512 buckets of 1/32 log-odds over +-8; a row falls in one of the two nearest,
             at random without bias, and rows of one bucket count as ties
    aucpr    from the same histogram: XGBoost's area under precision over recall, bucket by bucket from the highest down
    rmse     root of the mean of (F - y)^2, opened as the mean, in units of the labels' scale; p, or the mean m of counts, for F
    mae      mean of |F - y|
    poisson-nloglik  mean of m - y log m + log y!, in units of the labels' scale; owners share log y!
    mlogloss, merror  see `class_metrics`

Of rows with weights the histogram is of weights: S_2 deals two tables of words a row, not one of half words (`weighted_part`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numba import njit

from hansa.errors import PlanError
from hansa.mpc.comparison import bits_to_arithmetic, extend, sign_part, signs, truncate
from hansa.mpc.fourier import EXPONENTIAL_FRACTION, LOSS_AT_16, LOSS_BITS, MARGIN_BITS, logistic, loss_part
from hansa.mpc.reciprocal import NORMAL_BITS, mantissa, normaliser, threshold_parts
from hansa.mpc.replicated import (
    DEALER,
    Address,
    Deal,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    open_and_deal,
    open_to_all,
    product_part,
    reshare,
    together,
)
from hansa.mpc.ring import BITS, RING32, RING64, Ring, ShareArray
from hansa.oblivious.candidates import Candidates
from hansa.oblivious.class_metrics import class_losses, right_classes, rows_beyond
from hansa.oblivious.growth import TreeShares
from hansa.oblivious.paths import Paths, extend_paths, leaf_of_paths, upper_levels
from hansa.oblivious.routing import route
from hansa.oblivious.shared_rows import Block
from hansa.oblivious.training import MEAN_SHIFT, POISSON, SOFTPROB, BoostingSettings, mean_part, rounds_in_range

METRICS = ("logloss", "error", "auc", "aucpr", "rmse", "mae", "poisson-nloglik", "mlogloss", "merror")
HIGHER_IS_BETTER = ("auc", "aucpr")
"""Those of the order of scores."""

OF_CLASSES = ("mlogloss", "merror")
"""Of the margins of all classes."""

VALUE_BITS = 28
"""Fraction bits of a shared metric."""

SCORE_BUCKETS = 512
BUCKET_BITS = 5
"""A bucket is 2^-5 of log-odds wide."""

INDEX = Ring("Z10", 10, np.uint16)
"""Twice the bucket, plus the label."""

COUNTS = Ring("Z16", 16, np.uint16)
CHUNK_ROWS = 8192
"""Rows whose histogram fits `COUNTS`."""

WEIGHTED_CHUNK_ROWS = 1024
"""Rows of which S_2 deals 8 MB."""

STEP_MEAN = (
    185806536, -100726018, -19705736, -45768925, -76582709, 76705070, 132949578, -64424206, -88253586,
)  # fmt: skip
"""phi of `_precisions`, a polynomial in 2 y - 1, times 2^VALUE_BITS: by least squares, within .0073 (.003 below y = .9); 0 at 1."""

ROWS_PER_SUM = 2**16
"""Rows whose words are summed in Z_2^32 at a time."""

SQUARE_BITS = 26
PROBABILITY_BITS = 20


def check_metric(name: str, settings: BoostingSettings) -> None:
    """Raise PlanError, naming the metric, unless it can be had under shares for this plan."""
    if name not in METRICS:
        raise PlanError(f"eval_metric {name!r} cannot be had in coopetitive mode; expected one of {', '.join(METRICS)}")
    if (name in OF_CLASSES) != (settings.objective == SOFTPROB):
        raise PlanError(f"eval_metric {name!r} does not go with {settings.objective}")
    if name == "poisson-nloglik" and settings.objective != POISSON:
        raise PlanError(f"eval_metric {name!r} needs the objective {POISSON}")
    if name in ("logloss", "error", *HIGHER_IS_BETTER) and settings.objective != "binary:logistic":
        raise PlanError(f"eval_metric {name!r} needs the objective binary:logistic")


def tree_margins(
    server: Server, candidates: Candidates, blocks: list[Block], tree: TreeShares, address: Address
) -> Program[ShareArray]:
    """What a tree adds to the margins of held-out rows: shared in Z_2^32, (2, rows). At most 4 rounds a level and 2.

    Args:
        address: of the evaluation of this tree; steps are the levels.
    """
    depth = len(tree.splits)
    rows = sum(block.rows for block in blocks)
    members = np.zeros((2, rows, 1), np.uint8)
    paths = Paths(upper_levels(depth, False))
    for level, one_hots in enumerate(tree.splits):
        place = address._replace(step=level)
        last = level == depth - 1
        left_bit, members = yield from route(
            server, candidates, blocks, one_hots, members, level, last, place.named("route")
        )
        yield from extend_paths(server, paths, left_bit, level, depth, place.named("paths"))
    return (yield from leaf_of_paths(server, paths, tree.leaves, address._replace(step=depth).named("margins")))


def metric_share(
    server: Server,
    name: str,
    settings: BoostingSettings,
    margins: ShareArray,
    labels: ShareArray,
    weights: ShareArray | None,
    address: Address,
    counts: CountTerms | None = None,
) -> Program[ShareArray]:
    """A metric of held-out rows as a shared number: (2,) in Z_2^64 with 28 fraction bits; of rmse, its square.

    0 where it has no meaning (`has_value`): no weight, or one class only in auc.

    Args:
        margins: shared in Z_2^32 with 26 fraction bits, (2, rows), within +-16 (`all_in_range`); of mlogloss and merror (2, K, rows).
        labels: shared in Z_2^32, (2, rows): 0 or 1, or scaled labels; as margins.
        weights: `shared_rows.weights_of` these rows, (2, 2, rows), or None. Their words add up to about 2^29 at most.
        counts: for poisson-nloglik.

    Raises:
        PlanError: a metric that cannot be had, by name.
    """
    check_metric(name, settings)
    rows = margins.shape[-1]
    if name == "auc" and weights is None:
        return (yield from _auc(server, margins, labels, address.named(name)))
    if name in HIGHER_IS_BETTER:
        negative, positive = yield from _score_histogram(server, margins, labels, weights, address.named(name))
        of_buckets = _wins if name == "auc" else _precisions
        shares = yield from of_buckets(server, negative, positive, address.named("shares"))
        return (yield from _mean_of_positives(server, shares, positive, address.named("mean")))
    place = address.named(name)
    if name == "error":
        total, bits, value_bits = yield from _error_sum(server, margins, labels, weights, place)
    elif name == "merror":
        total, bits, value_bits = yield from _class_error_sum(server, margins, labels, weights, place)
    else:
        if counts is not None and name == "poisson-nloglik":
            values, bits, value_bits = yield from _count_losses(server, margins, labels, counts, place)
        elif name == "mlogloss":
            values, bits, value_bits = yield from class_losses(server, margins, labels, place)
        else:
            values, bits, value_bits = yield from _values(server, name, settings, margins, labels, place)
        if weights is None:
            total = values.sum(axis=1, dtype=np.uint64)[0]
        else:
            wide = yield from extend(server, weights[0, 0], address.named("weights"))
            total = product_part(RING64, values, wide).sum(dtype=np.uint64)
    part = np.asarray(total).reshape(1)
    if weights is None:
        return (yield from _mean(server, part, bits, rows, address.named("mean")))
    # A weighted sum has the weights' bits too; they cancel in the ratio.
    if bits + value_bits > 30:
        part = (yield from truncate(server, RING64, part, bits + value_bits - 30, address.named("short")))[0]
        bits = 30 - value_bits
    total_weight = yield from _sum_of_words(server, weights[0, 0], address.named("total weight"))
    both = np.stack([part, total_weight])
    shared = yield from reshare(server, RING64, both, address.named("sums"))
    return (yield from _ratio(server, shared[:, 0], shared[:, 1], bits, value_bits, address.named("ratio")))


def open_metric(server: Server, name: str, share: ShareArray, address: Address) -> Program[float]:
    """Open a shared metric to the three servers."""
    opened = yield from open_to_all(server, RING64, share, address.named("metric"))
    return metric_of_word(name, int(opened.view(np.int64)[0]))


def metric_of_word(name: str, word: int) -> float:
    """The metric that an opened word stands for; no less where the word is greater."""
    value = word * 2.0**-VALUE_BITS
    return math.sqrt(max(0.0, value)) if name == "rmse" else value


def has_value(
    server: Server, name: str, labels: ShareArray, weights: ShareArray | None, address: Address
) -> Program[bool]:
    """Whether a metric of these rows has a value; opens one bit to the three servers where that is no public fact.

    Rows with weights: is the sum of weights above 0? auc and aucpr: are there rows of both labels, with weights? The sign of sum w - 1
    tells, or that of P (sum w - P) - 1, or the signs of P - 1 and rows - 1 - P, of which one at most is set.

    Args:
        labels, weights: as `metric_share`.
    """
    if weights is not None and name in HIGHER_IS_BETTER:
        both = yield from together(
            *(
                _shared_sum(server, weights[0, place], address.named(f"weight {place}"))
                for place in range(weights.shape[1])
            )
        )
        product = product_part(RING64, both[1], both[0] - both[1])
        lacking = yield from sign_part(server, RING64, add_to_part(server, RING64, product, -1), address.named("sign"))
    elif weights is not None:
        total = yield from _sum_of_words(server, weights[0, 0], address.named("total weight"))
        lacking = yield from sign_part(server, RING64, add_to_part(server, RING64, total, -1), address.named("sign"))
    elif name in HIGHER_IS_BETTER:
        positives = labels[0].sum(dtype=np.uint32).reshape(1)
        fewer = add_to_part(server, RING32, positives, -1)
        others = add_to_part(server, RING32, np.zeros_like(positives) - positives, labels.shape[1] - 1)
        signs_of_both = yield from sign_part(server, RING32, np.concatenate([fewer, others]), address.named("sign"))
        lacking = signs_of_both ^ (signs_of_both >> np.uint64(1))
    else:
        return True
    shared = yield from reshare(server, BITS, lacking & np.uint64(1), address.named("bit"))
    opened = yield from open_to_all(server, BITS, shared & np.uint64(1), address.named("lacking"))
    return not opened[0]


def improved(
    server: Server, name: str, share: ShareArray, best: ShareArray, address: Address, min_delta: float = 0.0
) -> Program[bool]:
    """Opens one bit to the three servers: is the metric better than the best so far, by more than `min_delta`?

    Args:
        share, best: from `metric_share`.

    Raises:
        PlanError: rmse with a min_delta: only its square is known on shares.
    """
    if name == "rmse" and min_delta:
        raise PlanError("early stopping on rmse takes no min_delta in coopetitive mode")
    worse = best - share if name in HIGHER_IS_BETTER else share - best
    part = add_to_part(server, RING64, worse[0], round(min_delta * 2**VALUE_BITS))
    bits = yield from sign_part(server, RING64, part, address.named("sign"))
    shared = yield from reshare(server, BITS, bits & np.uint64(1), address.named("bit"))
    opened = yield from open_to_all(server, BITS, shared & np.uint64(1), address.named("improved"))
    return bool(opened[0])


MOST_WORD = 1 << 61
"""Differences of a metric's word and of one up to this do not wrap."""


def least_word(holds: Callable[[int], bool]) -> int | None:
    """The least word within +-MOST_WORD of which `holds` is true, where it is true of all greater ones; None where it is of none.

    >>> least_word(lambda word: metric_of_word("auc", word) >= 0.75) == 3 << (VALUE_BITS - 2)
    True
    """
    low, high = -MOST_WORD, MOST_WORD
    if not holds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def reached(
    server: Server, share: ShareArray, at_least: Callable[[int], bool], below: bool, address: Address
) -> Program[bool]:
    """Opens one bit to the three servers: is a shared metric at least a bound (`below`: not at least it)?

    The answer is that of the opened word, to the bit: the bound is the least word that holds.

    Args:
        share: from `metric_share`. at_least: whether a word is at least the bound.
    """
    bound = least_word(at_least)
    if bound is None or bound == -MOST_WORD:  # whatever the metric is
        return (bound is None) == below
    part = add_to_part(server, RING64, share[0], -bound)
    bits = yield from sign_part(server, RING64, part, address.named("sign"))
    shared = yield from reshare(server, BITS, bits & np.uint64(1), address.named("bit"))
    opened = yield from open_to_all(server, BITS, shared & np.uint64(1), address.named("reached"))
    return bool(opened[0]) == below


def all_in_range(server: Server, margins: ShareArray, address: Address) -> Program[bool]:
    """Whether every margin lies within +-16, opened to the three servers: the sign of x + 16 in Z_2^32 tells.

    Of classes (2, K, rows): whether their differences are such as mlogloss and merror stand.
    """
    if margins.ndim == 3:
        beyond = yield from rows_beyond(server, margins, address.named("classes"))
        good = yield from rounds_in_range(server, [beyond], margins.shape[2], address)
        return good == 1
    part = add_to_part(server, RING32, margins[0], 1 << (MARGIN_BITS + 4))
    bits = yield from sign_part(server, RING32, part, address.named("sign"))
    outside = yield from reshare(server, BITS, bits, address.named("bits"))
    good = yield from rounds_in_range(server, [[outside]], margins.shape[1], address)
    return good == 1


def _values(
    server: Server, name: str, settings: BoostingSettings, margins: ShareArray, labels: ShareArray, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """Each row's value, shared in Z_2^64 (2, rows); its fraction bits; and v where no value exceeds 2^v."""
    if name == "logloss":
        return (yield from _losses(server, margins, labels, address))
    if settings.objective == "binary:logistic":
        (p, _), _ = yield from logistic(server, margins, PROBABILITY_BITS, address.named("logistic"))
        part, bits = p[0] - (labels[0] << np.uint32(PROBABILITY_BITS)), PROBABILITY_BITS
    elif settings.objective == POISSON:
        means, _ = yield from mean_part(server, margins, address.named("means"))
        m = yield from truncate(server, RING64, means, EXPONENTIAL_FRACTION - MARGIN_BITS, address.named("m"), RING32)
        part, bits = m[0] - labels[0], MARGIN_BITS
    else:
        part, bits = margins[0] - labels[0], MARGIN_BITS
    wide = yield from extend(server, part, address.named("wide"))
    if name == "rmse":
        squares = product_part(RING64, wide, wide)
        shift = 2 * bits - SQUARE_BITS
        return (yield from truncate(server, RING64, squares, shift, address.named("squares"))), SQUARE_BITS, 1
    negative = yield from signs(server, RING64, wide[0], address.named("sign"))
    twice = yield from multiply(server, RING64, wide + wide, negative, address.named("negative"))
    return np.asarray(wide - twice), bits, 1


def _losses(
    server: Server, margins: ShareArray, labels: ShareArray, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """log(1 + e^t) = 8 + c(t) + t / 2 with t = (1 - 2 y) x, where c is even: c(t) = c(x)."""
    even = yield from loss_part(server, margins, address.named("series"))
    cross = product_part(RING32, labels, margins)
    parts = np.stack([even, margins[0] - cross - cross])
    wide = yield from extend(server, parts, address.named("wide"))
    # With 27 fraction bits t / 2 is the word of t.
    values = wide[:, 0] + wide[:, 0] + wide[:, 1]
    return add_public(server, RING64, values, LOSS_AT_16 << (LOSS_BITS + 1)), LOSS_BITS + 1, 5


@dataclass(frozen=True)
class CountTerms:
    """What poisson-nloglik needs beside labels and margins.

    Attributes:
        factorials: log y! in the labels' scale with 26 fraction bits, shared in Z_2^32, (2, rows). scale: of the labels, public.
    """

    factorials: ShareArray
    scale: float


def _count_losses(
    server: Server, margins: ShareArray, labels: ShareArray, counts: CountTerms, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """m - y log m + log y!, where log m = margin - 16 + log(scale) and m, y and log y! are in units of the scale."""
    means, _ = yield from mean_part(server, margins, address.named("means"))
    parts = np.stack([margins[0], labels[0], counts.factorials[0]])
    wide = yield from extend(server, parts, address.named("wide"))
    constant = round((math.log(counts.scale) - MEAN_SHIFT) * 2.0**MARGIN_BITS)
    logarithm = add_public(server, RING64, wide[:, 0], constant)
    # y is at most 1/2 and |log m| at most 62: a product has 52 fraction bits.
    cross = product_part(RING64, wide[:, 1], logarithm)
    short = yield from together(
        truncate(server, RING64, means, EXPONENTIAL_FRACTION - MARGIN_BITS, address.named("m")),
        truncate(server, RING64, cross, MARGIN_BITS, address.named("y log m")),
    )
    return short[0] - short[1] + wide[:, 2], MARGIN_BITS, 5


def _error_sum(
    server: Server, margins: ShareArray, labels: ShareArray, weights: ShareArray | None, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """sum_i w_i [x_i > 0] + w_i y_i - 2 w_i y_i [x_i > 0], as an additive part in Z_2^64."""
    rows = margins.shape[1]
    bits = yield from sign_part(server, RING32, np.zeros_like(margins[0]) - margins[0], address.named("sign"))
    positive = yield from bits_to_arithmetic(server, bits, rows, RING32, address.named("positive"))
    if weights is None:
        cross = product_part(RING32, labels, positive)
        part = positive[0] + labels[0] - cross - cross
    else:
        cross = product_part(RING32, weights[:, 1], positive)
        part = product_part(RING32, weights[:, 0], positive) + weights[0, 1] - cross - cross
    return (yield from _sum_of_words(server, part, address.named("sum")))[0], 0, 1


def _class_error_sum(
    server: Server, margins: ShareArray, labels: ShareArray, weights: ShareArray | None, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """sum_i w_i [row i is taken for another class], as an additive part in Z_2^64."""
    right = yield from right_classes(server, margins, labels, address.named("right"))
    wrong = add_public(server, RING32, np.zeros_like(right) - right, 1)
    part = wrong[0] if weights is None else product_part(RING32, weights[:, 0], wrong)
    return (yield from _sum_of_words(server, part, address.named("sum")))[0], 0, 1


def _shared_sum(server: Server, part: ShareArray, address: Address) -> Program[ShareArray]:
    """As `_sum_of_words`, shared: (2, 1). Three rounds."""
    total = yield from _sum_of_words(server, part, address)
    return (yield from reshare(server, RING64, total, address.named("shared")))


def _sum_of_words(server: Server, part: ShareArray, address: Address) -> Program[ShareArray]:
    """The sum of additive parts (rows,) of words, of which so many add up to less than 2^30, as an additive part (1,) in Z_2^64."""
    edges = np.arange(0, len(part), ROWS_PER_SUM)
    wide = yield from extend(server, np.add.reduceat(part, edges, dtype=np.uint32), address)
    total: ShareArray = wide[0].sum(dtype=np.uint64).reshape(1)
    return total


def _mean(server: Server, part: ShareArray, bits: int, rows: int, address: Address) -> Program[ShareArray]:
    """A sum over a public number of rows, divided by it: (2, 1) with VALUE_BITS.

    With b = floor(log2 rows): (sum / 2^b) * round(2^(29 + b) / rows) / 2^(bits + 29 - VALUE_BITS).
    """
    part = part << np.uint64(max(0, LOSS_BITS - bits))
    bits = max(bits, LOSS_BITS)
    b = rows.bit_length() - 1
    short = yield from _divided(server, part, b, address.named("short"))
    factor = np.uint64(round((1 << (29 + b)) / rows))
    return (yield from truncate(server, RING64, short[0] * factor, bits + 29 - VALUE_BITS, address.named("value")))


def _divided(server: Server, part: ShareArray, shift: int, address: Address) -> Program[ShareArray]:
    """Additive parts over 2^shift, shared."""
    if shift == 0:
        return (yield from reshare(server, RING64, part, address))
    return (yield from truncate(server, RING64, part, shift, address))


def _ratio(
    server: Server, x: ShareArray, y: ShareArray, bits: int, value_bits: int, address: Address
) -> Program[ShareArray]:
    """x / (y 2^bits), with VALUE_BITS, where 0 <= x <= y 2^(bits + value_bits), y < 2^31, bits + value_bits <= 30.

    0 where y = 0. As leaves do: x times a power of two brings it in range, then times the mantissa of 1 / y.
    """
    parts = threshold_parts(server, y, 0)
    below = yield from signs(server, RING64, parts.reshape(-1), address.named("below"))
    c = normaliser(server, below.reshape(2, *parts.shape), 0)
    inverse = yield from mantissa(server, y, c, address.named("mantissa"))
    shift = bits + value_bits + 1
    scaled = yield from truncate(server, RING64, product_part(RING64, x, c), shift, address.named("scaled"))
    # x c / 2^shift times 2^30 / nu, nu = y c / 2^31.
    rest = NORMAL_BITS + 30 - shift + bits - VALUE_BITS
    return (yield from truncate(server, RING64, product_part(RING64, scaled, inverse), rest, address.named("value")))


# --- auc ---------------------------------------------------------------------------------------------------------------


def _auc(server: Server, margins: ShareArray, labels: ShareArray, address: Address) -> Program[ShareArray]:
    """sum_k pos_k (2 neg_below_k + neg_k) / (2 P Q), from the histogram of scores."""
    rows = margins.shape[1]
    negative, positive = yield from _score_histogram(server, margins, labels, None, address)
    below = np.cumsum(negative, axis=1, dtype=np.uint64) - negative
    wins = product_part(RING64, positive, below + below + negative).sum(dtype=np.uint64)
    losers, winners = (own.sum(axis=1, dtype=np.uint64)[:, None] for own in (negative, positive))
    pairs = product_part(RING64, losers, winners + winners)
    # 2 P Q <= rows^2 / 2.
    shift = max(0, 2 * rows.bit_length() - 1 - NORMAL_BITS)
    both = yield from _divided(server, np.stack([wins.reshape(1), pairs]), shift, address.named("sums"))
    return (yield from _ratio(server, both[:, 0], both[:, 1], 0, 0, address.named("ratio")))


def _score_histogram(
    server: Server, margins: ShareArray, labels: ShareArray, weights: ShareArray | None, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """Rows, or their weights, of either label by bucket, from the lowest up: shared in Z_2^64, (2, SCORE_BUCKETS) each."""
    rows = margins.shape[1]
    buckets = yield from _buckets(server, margins, address.named("buckets"))
    index = INDEX.reduce(buckets + buckets + INDEX.reduce(labels.astype(np.uint16)))
    size, counts = (CHUNK_ROWS, COUNTS) if weights is None else (WEIGHTED_CHUNK_ROWS, RING32)
    parts = np.zeros((-(-rows // size), 2 * SCORE_BUCKETS), counts.dtype)
    for number, start in enumerate(range(0, rows, size)):
        place, chunk = address.named(f"rows {number}"), slice(start, start + size)
        if weights is None:
            parts[number] = yield from histogram_part(server, INDEX, COUNTS, index[0, chunk], place)
        else:
            own = np.ascontiguousarray(weights[:, 0, chunk])
            parts[number] = yield from weighted_part(server, INDEX, index[0, chunk], own, place)
    wide = yield from extend(server, parts, address.named("counts"), counts, RING64)
    # Buckets are signed: -256 comes first.
    both = np.roll(wide.sum(axis=1, dtype=np.uint64).reshape(2, SCORE_BUCKETS, 2), SCORE_BUCKETS // 2, axis=1)
    return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])


def _wins(server: Server, negative: ShareArray, _: ShareArray, address: Address) -> Program[ShareArray]:
    """Of every bucket, which share of all negatives lies below, ties counting half: (2, buckets) with VALUE_BITS."""
    below = np.cumsum(negative, axis=1, dtype=np.uint64) - negative
    total = np.repeat(negative.sum(axis=1, dtype=np.uint64)[:, None], negative.shape[1], axis=1)
    return (yield from _ratio(server, below + below + negative, total + total, 0, 0, address))


def _precisions(server: Server, negative: ShareArray, positive: ShareArray, address: Address) -> Program[ShareArray]:
    """Of every bucket, the mean precision over the recall that it adds: (2, buckets) with VALUE_BITS.

    From the highest bucket down, with t positives among n rows above a bucket, and p positives among its own d rows. Along it positives
    grow with rows evenly, so that precision at a share s of it is (t + s p) / (n + s d) (Davis & Goadrich 2006, section 3, as XGBoost
    has it). Its mean over s is

        c phi + (p / d) (1 - phi),   c = t / n,   phi = ln(1 + x) / x with x = d / n
                                              = -(1 - y) ln(1 - y) / y with y = d / (n + d)

    phi is the polynomial `STEP_MEAN`. Where there is nothing above, y is 1 and phi 0.

    >>> t, n, p, d = 3, 5, 2, 8
    >>> steps = [(t + s / 1000 * p) / (n + s / 1000 * d) for s in range(1001)]
    >>> phi = math.log(1 + d / n) / (d / n)
    >>> round(sum(steps) / 1001, 3), round(t / n * phi + p / d * (1 - phi), 3)
    (0.39, 0.39)
    """
    rows = negative + positive
    upward = np.cumsum(np.stack([rows, positive], axis=1)[:, :, ::-1], axis=2, dtype=np.uint64)[:, :, ::-1]
    upto, hits_upto = upward[:, 0], upward[:, 1]
    x = np.stack([hits_upto - positive, positive, rows], axis=1)
    y = np.stack([upto - rows, rows, upto], axis=1)
    shares = yield from _ratio(server, x, y, 0, 0, address.named("shares"))
    before, own, step = (np.ascontiguousarray(shares[:, place]) for place in range(3))
    t = add_public(server, RING64, step + step, -1 << VALUE_BITS)
    phi = t * np.uint64(STEP_MEAN[-1] % 2**64)
    phi = yield from truncate(server, RING64, phi[0], VALUE_BITS, address.named("phi top"))
    for number, coefficient in enumerate(reversed(STEP_MEAN[1:-1])):
        phi = add_public(server, RING64, phi, coefficient)
        part = product_part(RING64, phi, t)
        phi = yield from truncate(server, RING64, part, VALUE_BITS, address.named(f"phi {number}"))
    phi = add_public(server, RING64, phi, STEP_MEAN[0])
    mixed = yield from truncate(
        server, RING64, product_part(RING64, phi, before - own), VALUE_BITS, address.named("mixed")
    )
    return np.asarray(mixed + own)


def _mean_of_positives(
    server: Server, values: ShareArray, positive: ShareArray, address: Address
) -> Program[ShareArray]:
    """The mean of buckets' values, (2, buckets) with VALUE_BITS and at most 1, over the positives in them: (2, 1); 0 without any."""
    total = product_part(RING64, values, positive).sum(dtype=np.uint64).reshape(1)
    shared = yield from reshare(server, RING64, total, address.named("sum"))
    positives = positive.sum(axis=1, dtype=np.uint64)[:, None]
    return (yield from _ratio(server, shared, positives, VALUE_BITS, 0, address.named("ratio")))


def _buckets(server: Server, margins: ShareArray, address: Address) -> Program[ShareArray]:
    """Margins clamped to [-8, 8 - 1/16], times 32, rounded at random: shared in Z_2^10, (2, rows)."""
    low = -(SCORE_BUCKETS // 2) << (MARGIN_BITS - BUCKET_BITS)
    high = (SCORE_BUCKETS // 2 - 2) << (MARGIN_BITS - BUCKET_BITS)
    parts = [
        add_to_part(server, RING32, margins[0], -low),
        add_to_part(server, RING32, np.zeros_like(margins[0]) - margins[0], high),
    ]
    # |x| < 16, so neither difference wraps.
    names = ("low", "high")
    packed = yield from together(
        *(sign_part(server, RING32, part, address.named(name)) for part, name in zip(parts, names, strict=True))
    )
    beyond = yield from together(
        *(
            bits_to_arithmetic(server, bits, margins.shape[1], RING32, address.named(f"{name} word"))
            for bits, name in zip(packed, names, strict=True)
        )
    )
    part = margins[0].copy()
    for bit, bound in zip(beyond, (low, high), strict=True):
        difference = add_public(server, RING32, np.zeros_like(margins) - margins, bound)
        part = part + product_part(RING32, bit, difference)
    return (yield from truncate(server, RING32, part, MARGIN_BITS - BUCKET_BITS, address.named("short"), INDEX))


def histogram_part(
    server: Server, index: Ring, counts: Ring, part: ShareArray, address: Address
) -> Program[ShareArray]:
    """How many shared numbers take each value of their ring: an additive part in `counts`, (2^index.bits,).

    With z = w - r opened under its mask, S_2 deals one-hots of r, and S_0 and S_1 add them up turned round by w:

        hist[j] = sum_i [z_i = j] = sum_i [r_i = w_i - j].

    One round; 2^index.bits words of `counts` a number from S_2.

    Args:
        part: additive parts in `index`, (count,).
    """
    size = 1 << index.bits

    def one_hots(r: ShareArray) -> ShareArray:
        table = np.zeros((len(r), size), counts.dtype)
        table[np.arange(len(r)), r] = 1
        return table

    opened = yield from open_and_deal(
        server, index, part, address.named("index"), [Deal(counts, (len(part), size), one_hots)]
    )
    out = np.zeros(size, counts.dtype)
    if server.index != 2:
        add_turned(opened.dealt[0], opened.value.astype(np.int64), out)
    return counts.reduce(out)


def weighted_part(
    server: Server, index: Ring, part: ShareArray, weights: ShareArray, address: Address
) -> Program[ShareArray]:
    """As `histogram_part`, of words: sum_i v_i [z_i = j], an additive part in Z_2^32.

    With v = v_0 + v_1 + v_2 and one-hots o of r: S_2 knows r and v_0 + v_2, and deals o and (v_0 + v_2) o; S_0 and S_1 both know
    v_1, and v o = (v_0 + v_2) o + v_1 o is linear in what is dealt. One round; 2 2^index.bits words a number from S_2.

    Args:
        part: additive parts in `index`, (count,). weights: shared in Z_2^32, (2, count).
    """
    count, size = len(part), 1 << index.bits

    def one_hots(r: ShareArray) -> ShareArray:
        table = np.zeros((count, size), np.uint32)
        table[np.arange(count), r] = 1
        return table

    # At S_2 these are v_2 and v_0.
    known = weights[0] + weights[1]
    deals = [
        Deal(RING32, (count, size), one_hots),
        Deal(RING32, (count, size), lambda r: one_hots(r) * known[:, None]),
    ]
    opened = yield from open_and_deal(server, index, part, address.named("index"), deals)
    out = np.zeros(size, np.uint32)
    if server.index != DEALER:
        middle = weights[1 - server.index][:, None]
        add_turned(opened.dealt[1] + middle * opened.dealt[0], opened.value.astype(np.int64), out)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def add_turned(tables, turns, out):  # type: ignore[no-untyped-def]
    """out[(turns[i] - k) mod size] += tables[i, k], size a power of two; wraps around in the arrays' type."""
    size = out.shape[0]
    for i in range(tables.shape[0]):
        for k in range(size):
            out[(turns[i] - k) & (size - 1)] += tables[i, k]
