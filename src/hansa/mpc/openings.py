"""Every place where something is opened: who learns what, and why that may be. A test holds the code to it.

A *masked* opening shows S_0 and S_1 a value plus S_2's part of it, which is uniform to each of them
(`replicated.open_and_deal`), or to all three bits under a triple that is used once (`verified_bits`). It says nothing; the others say
something.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Opening:
    """One call in the code that opens something.

    Attributes:
        module, function: where the call stands.
        call: the function that opens.
        to: who learns it.
        what: what they learn.
        why: what it is for, or why it may be known.
        masked: what is learnt is uniform, whatever the data.
    """

    module: str
    function: str
    call: str
    to: str
    what: str
    why: str
    masked: bool


EVALUATORS = "S_0 and S_1"

OPENINGS = (
    Opening(
        "comparison",
        "sign_part",
        "open_and_deal",
        EVALUATORS,
        "a value less a mask",
        "its digits pick entries of S_2's tables",
        True,
    ),
    Opening(
        "comparison",
        "bit_products",
        "open_and_deal",
        EVALUATORS,
        "bits under masks",
        "their products, from S_2's products of the masks",
        True,
    ),
    Opening(
        "comparison",
        "bits_to_arithmetic",
        "open_and_deal",
        EVALUATORS,
        "a bit under a mask",
        "bit to ring element",
        True,
    ),
    Opening(
        "comparison",
        "extend",
        "open_and_deal",
        EVALUATORS,
        "a 32-bit sum less a mask",
        "32-bit to 64-bit shares",
        True,
    ),
    Opening(
        "comparison",
        "truncate",
        "open_and_deal",
        EVALUATORS,
        "a value less a mask",
        "dropping low bits",
        True,
    ),
    Opening(
        "fourier",
        "logistic",
        "open_and_deal",
        EVALUATORS,
        "margins less masks",
        "the logistic series, and whether a margin is in range",
        True,
    ),
    Opening(
        "verified_bits",
        "_make",
        "open_to_all",
        "all three servers",
        "a coin of 256 random bits",
        "the order in which triples are checked, tossed once they are fixed",
        True,
    ),
    Opening(
        "verified_bits",
        "check_triples",
        "open_to_all",
        "all three servers",
        "random bits that are then thrown away, and differences of random bits",
        "no server has made a triple wrong",
        True,
    ),
    Opening(
        "verified_bits",
        "products",
        "open_to_all",
        "all three servers",
        "bits under a triple's random bits",
        "products of bits that no server can make wrong",
        True,
    ),
    Opening(
        "refresh",
        "compare_copies",
        "tell_others",
        "all three servers",
        "hashes of shares, behind 32 random bytes that who lacks the share lacks too",
        "after each round, and on return, both servers that keep a share keep the same one; only where a run survives its processes",
        True,
    ),
    Opening(
        "quantile_search",
        "_open_path",
        "open_to_all",
        "all three servers",
        "per wanted quantile: in which half of a cell of keys it lies, until that half holds at most min_cell_rows rows",
        "the path to a cut; the found cells imply it, and every cell named holds more than min_cell_rows pooled rows",
        False,
    ),
    Opening(
        "quantile_search",
        "_open_gaps",
        "open_to_all",
        "all three servers",
        "per gap between cuts that more cuts could divide: does it hold more than min_cell_rows rows; and, where the plan "
        "does not declare it, per feature: does any pooled row lack it",
        "where cuts that a heavy value saves are spent; the cuts, and the missing bin that they have, imply it",
        False,
    ),
    Opening(
        "base_score",
        "pooled_sums",
        "open_to_all",
        "all three servers",
        "where the plan gives no base score: the sum of all labels; with weights the sums of weight times label and of weights, "
        "and the number of positive rows (of squared error and counts: the sum of labels); with num_class each of these for every "
        "class",
        "the base score is part of the model, and the servers need it to start; they tell owners and receivers",
        False,
    ),
    Opening(
        "base_score",
        "spread_exponent",
        "open_to_all",
        "all three servers",
        "of squared error, where the plan gives no base score: the power of four below the pooled variance of the labels",
        "labels, gradients and leaf values get their unit by it; they tell owners and receivers; the leaf values show it too",
        False,
    ),
    Opening(
        "fourier",
        "exponential_part",
        "open_and_deal",
        EVALUATORS,
        "margins less masks",
        "the series of e^margin of count:poisson, or of several classes, and whether a margin is in range",
        True,
    ),
    Opening(
        "fourier",
        "softplus_part",
        "open_and_deal",
        EVALUATORS,
        "differences of margins less masks",
        "the series of log(1 + e^x) of several classes, and whether a difference is in range",
        True,
    ),
    Opening(
        "fourier",
        "loss_part",
        "open_and_deal",
        EVALUATORS,
        "margins less masks",
        "the series of log loss",
        True,
    ),
    Opening(
        "evaluation",
        "weighted_part",
        "open_and_deal",
        EVALUATORS,
        "twice a score's bucket plus the label, less a mask",
        "as histogram_part, of rows' weights",
        True,
    ),
    Opening(
        "evaluation",
        "histogram_part",
        "open_and_deal",
        EVALUATORS,
        "twice a score's bucket plus the label, less a mask",
        "S_2's one-hots, turned round by it, add up to the histogram of scores, which stays shared",
        True,
    ),
    Opening(
        "evaluation",
        "open_metric",
        "open_to_all",
        "all three servers",
        "one metric of the held-out rows, a mean over rows and classes",
        "the plan names it, and the steps at which it is computed",
        False,
    ),
    Opening(
        "evaluation",
        "has_value",
        "open_to_all",
        "all three servers",
        "one bit a run: for auc and aucpr, do the held-out rows (of some weight) have both labels; with weights, has any a weight",
        "a metric without a value is no 0, and neither stops training nor cuts the model back",
        False,
    ),
    Opening(
        "evaluation",
        "improved",
        "open_to_all",
        "all three servers",
        "one bit a round: is the metric better than the best so far",
        "early stopping, where the plan asks for it",
        False,
    ),
    Opening(
        "evaluation",
        "reached",
        "open_to_all",
        "all three servers",
        "one bit a run: is the metric of the model's last round what the plan's release demands",
        "the plan's condition, where it does not have the metric itself opened; the servers tell the receivers",
        False,
    ),
    Opening(
        "training",
        "rounds_in_range",
        "open_to_all",
        "all three servers",
        "where a margin could leave +-16: at the end of training, how many rounds began with every margin within it; at an "
        "evaluation, one bit: whether every held-out one is",
        "trees of later rounds are noise and are not released; the number of trees of the model is the same number",
        False,
    ),
    Opening(
        "release",
        "open_tree",
        "reconstruct",
        "the receivers that the plan names",
        "splits and rounded leaf values of every tree",
        "the model is what they trained for",
        False,
    ),
    Opening(
        "release",
        "_open_covers",
        "reconstruct",
        "the receivers that the plan names",
        "rounded sums of hessians of every leaf",
        "covers, and gains that follow from them; only where the plan makes statistics part of the model",
        False,
    ),
)
"""All openings, in the order of the modules."""
