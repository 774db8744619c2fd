"""What a party sends under a plan, from the plan alone. Sizes are those of the protocol's own arrays, as its encoders make them."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import FIRST_BITS, REFINEMENTS, STEP_BITS
from hansa.data.residuals import FIRST_CELLS
from hansa.oblivious.quantile_search import MOST_REQUESTS, PROBES
from hansa.oblivious.shared_rows import RowShares, share_rows
from hansa.oblivious.shared_vectors import share_vector
from hansa.plan import COOPETITIVE, MASKED, Plan
from hansa.roles.shared.sharing import n_label_sums, plain_scale, plan_cuts, widest_candidates
from hansa.roles.summed.levels import level_counts
from hansa.roles.summed.margin_bounds import TOTALS
from hansa.roles.summed.statistics import EXPONENTS, base_is_quantile, label_sums
from hansa.secure.prg import preferred_algorithm
from hansa.secure.vouching import VOUCH_BYTES
from hansa.trees.metrics import sums_length

SUM = np.dtype(np.int64).itemsize
"""Bytes of one number of a sum, and of a number of rows."""

COUNT = np.dtype(np.uint32).itemsize
"""Bytes of one number of rows in a cell."""


class SentKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of thing that a party sends: what it is, at most how many bytes, and how often."""

    what: str
    bytes_at_most: int
    often: str


BESIDE = "Beside that it sends names, keys, signatures and hashes, and how long its audit log is, which tells how busy it is."
"""What leaves a member that says nothing of its rows."""


def sent_under(plan: Plan) -> tuple[SentKind, ...]:
    """What a party sends under `plan`."""
    if plan.mode == COOPETITIVE:
        return _shared_under(plan)
    parameters = plan.parameters
    features = len(plan.schema.features)
    planes = 2 if parameters.histogram_bits == 64 else 1
    levels = level_counts(plan)
    outputs, nodes = parameters.outputs, parameters.most_leaves // 2
    coarse = features * 2**FIRST_BITS
    parts = features * 4 * parameters.max_bin * 2**STEP_BITS
    refined = f"in each of at most {REFINEMENTS} rounds"
    sent = [
        SentKind("number of rows, and of held-out rows", 2 * SUM, "once"),
        SentKind("rows by binary exponent of label and weight", (parameters.num_target + 1) * EXPONENTS * SUM, "once"),
        SentKind("sums of labels and weights, rows with label 1", label_sums(parameters) * SUM, "once"),
        *(
            [SentKind("rows by level of the features whose rare levels become one", levels * SUM, "once")]
            if levels
            else []
        ),
        SentKind("rows in the coarse cells of each feature", coarse * COUNT, "once"),
        SentKind("rows in the parts of cells", parts * COUNT, refined),
        SentKind("sums of |gradient| and hessian", outputs * TOTALS * SUM, "per round"),
        *_residuals_under(plan),
        *_shap_under(plan),
        SentKind(
            "histograms of gradients and hessians",
            nodes * features * (parameters.max_bin + 1) * SUM * planes,
            "per tree, twice as many where weights or labels need 64 bits"
            if parameters.histogram_bits == "auto"
            else "per tree",
        ),
    ]
    if plan.weighted:
        most = max(coarse, parts) * SUM
        sent.insert(
            5 + (levels > 0),
            SentKind("sums of weights in these cells", most, f"in each of at most {REFINEMENTS + 1} rounds"),
        )
    if plan.evaluation_fraction > 0:
        sent += [
            SentKind(f"sums for {name} on held-out rows", sums_length(name) * SUM, "per round")
            for name in parameters.metrics
        ]
    if plan.custom_metric is not None:
        sent.append(SentKind(f"sums for {plan.custom_metric.name} on held-out rows", 2 * SUM, "per round"))
    if plan.mode == MASKED and plan.verify_counts != "off":
        # Behind the counts come a zero word and, for each other party, a proof that they are this party's.
        more = SUM + VOUCH_BYTES * (len(plan.parties) - 1)
        cells, children = features * 4 * parameters.max_bin, 2 * parameters.most_leaves - 2
        messages = 1 if plan.verify_counts == "tree" else parameters.most_depth
        sent += [
            SentKind("masked numbers of rows in the cells that are parted", cells * SUM + more, refined),
            SentKind("masked numbers of rows in the nodes of the tree", children * SUM + messages * more, "per tree"),
        ]
    return tuple(sent)


def _shap_under(plan: Plan) -> tuple[SentKind, ...]:
    """What a party sends of SHAP values, where the plan has a summary of them."""
    if not plan.shap:
        return ()
    return (SentKind("sums of the sizes of SHAP values by feature", len(plan.schema.features) * SUM, "once"),)


def _residuals_under(plan: Plan) -> tuple[SentKind, ...]:
    """What a party sends of residuals, where leaves are refitted to quantiles of them."""
    parameters = plan.parameters
    if not parameters.quantiles:
        return ()
    each = COUNT + SUM * plan.weighted
    what = "rows" + (" and sums of weights" if plan.weighted else "")
    refined = f"in each of at most {REFINEMENTS} rounds"
    of_labels = 2 * len(parameters.quantiles) * 2**STEP_BITS * each
    of_leaves = 2 * parameters.most_leaves * 2**STEP_BITS * each
    kinds = [
        SentKind(
            f"{what} by cell of the residual, in each leaf", parameters.most_leaves * FIRST_CELLS * each, "per tree"
        ),
        SentKind(f"{what} in the parts of these cells that hold a leaf's quantile", of_leaves, f"per tree, {refined}"),
    ]
    if base_is_quantile(plan):
        kinds += [
            SentKind(f"{what} by cell of the label", parameters.num_target * FIRST_CELLS * each, "once"),
            SentKind(f"{what} in the parts of these cells that hold a quantile", of_labels, refined),
        ]
    if plan.mode == MASKED and plan.verify_counts != "off":
        more = SUM + VOUCH_BYTES * (len(plan.parties) - 1)
        cells = 2 * parameters.most_leaves * SUM + more
        kinds.append(SentKind("masked numbers of rows in the cells that are parted", cells, f"per tree, {refined}"))
    return tuple(kinds)


def _shared_under(plan: Plan) -> tuple[SentKind, ...]:
    """What an owner sends in coopetitive mode, to all servers together."""
    sent = [SentKind("number of rows, and of held-out rows", 2 * SUM, "once")]
    if plan.parameters.base_score is None:
        sent.append(SentKind("shares of the sums of labels and weights", _vector(n_label_sums(plan)), "once"))
    if plan_cuts(plan) is None:
        weighted = plan.schema.weight is not None
        most = len(plan.schema.features) * 4 * PROBES * (1 + weighted)
        sent.append(
            SentKind(
                f"shares of counts of rows{' and of sums of weights' if weighted else ''} at points that the servers ask for",
                _vector(most),
                f"in each of at most {MOST_REQUESTS} requests",
            )
        )
    label = "of the label" if not plan.parameters.num_class else "of whether it is of each class"
    sent.append(SentKind(f"shares of which bin each value is in, {label} and of the weight", _row(plan), "per row"))
    return tuple(sent)


def _vector(count: int) -> int:
    """Bytes of so many numbers shared among three servers, keys included."""
    shares = share_vector(np.zeros(count, np.int64), preferred_algorithm())
    keys = sum(len(key) for share in shares for key in share.keys if key is not None)
    return keys + sum(share.part.nbytes for share in shares if share.part is not None)


def _row(plan: Plan) -> int:
    """Bytes of one row shared among three servers by an owner that is none of them; without keys, of which a batch has a few."""
    candidates, outputs = widest_candidates(plan), plan.parameters.outputs
    scale = plan.parameters.scale_pos_weight
    weighted = plan.schema.weight is not None or not isinstance(scale, float) or not plain_scale(scale)
    weights: npt.NDArray[np.uint32] | None = np.zeros((outputs, 2, 1), np.uint32) if weighted else None
    codes = np.zeros((1, len(plan.schema.features)), np.uint16)
    shares = share_rows(candidates, codes, np.zeros((outputs, 1), np.uint32), preferred_algorithm(), weights=weights)
    return sum(map(_explicit, shares))


def _explicit(share: RowShares) -> int:
    return sum(array.nbytes for part in share.parts if part is not None for array in part)
