"""Who can read what in each mode, and what can be made of it: the one text that `hansa check`, `hansa plan show`, the demo's page and
SECURITY.md share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hansa.mpc.openings import OPENINGS, Opening
from hansa.plan import COOPETITIVE, MASKED, Plan
from hansa.secure.mask_graph import is_drawn, neighbours_needed
from hansa.trees.losses import is_logistic, is_quantile

EXPOSURE: Mapping[str, tuple[str, ...]] = {
    "federated": (
        "The aggregator can read every sum that a party sends, and knows whose it is. No other party gets it.",
        "From these sums the aggregator can reconstruct rows: which bin each value is in, and the label. "
        "Plan as if the aggregator had the binned table of every party.",
        "Every party sees every split and leaf while the model grows, whether it is a receiver or not.",
    ),
    "secure-aggregation": (
        "The aggregator can read sums over all parties, and no party's own part of them.",
        "From these sums the aggregator can reconstruct rows where few rows share a cell: which bin each value is in, and the label, "
        "but not whose row it is. Few bins, large leaves and few trees lessen this.",
        "Every party sees every split and leaf while the model grows, whether it is a receiver or not.",
    ),
    COOPETITIVE: (
        "No single server can read a row, a label or a tree: the servers compute on shares. "
        "Any two of the three servers together can read all of them.",
        "This protects against servers that follow the protocol. A server that lies is found in the search for cuts. In training it is "
        "not: it can spoil the model, and if it also gets the model it can read the label of a row whose features it knows.",
        "The servers learn what the plan opens, and nothing else that depends on the rows. "
        "The hub sees who sends how many bytes to whom, and when.",
        "Only the receivers can read the model. From its leaves a receiver can learn sums over the few rows that fall into a leaf.",
    ),
}
"""Mode -> sentences, in the order to show."""

_CHECKED = "each party checks the pooled rows of every cell and node that is asked about, and so learns these numbers."

VERIFIED: Mapping[str, str] = {
    "off": "The masks protect against an aggregator that follows the protocol. One that does not can choose splits that isolate rows.",
    "tree": "An aggregator that does not follow the protocol can isolate rows in one tree, or in one search for cuts, and is then "
    "caught, as long as no party helps it: " + _CHECKED,
    "after": "An aggregator that does not follow the protocol can isolate rows in one level of one tree, or in one search for cuts, "
    "and is then caught, as long as no party helps it: " + _CHECKED,
    "before": "An aggregator that does not follow the protocol cannot isolate rows, as long as no party helps it: before sums leave, "
    + _CHECKED,
}
"""`privacy.verify_counts` -> what a secure-aggregation run adds."""

SIDE_BY_SIDE = "The trees of a round may grow side by side: what is said of one tree holds for all of one round."
"""Where a round has several trees, added to what is said of an aggregator that lies."""
RESIDUALS: Mapping[str, str] = {
    "federated": "Leaves are quantiles of residuals: the aggregator also reads, of each party, how many rows of each leaf have a "
    "residual in each of many narrow cells. In a leaf of few rows it so learns labels nearly.",
    "secure-aggregation": "Leaves are quantiles of residuals: the aggregator also reads how many rows of all parties in each leaf "
    "have a residual in each of many narrow cells. In a leaf of few rows it so learns labels nearly, but not whose.",
}
"""Mode -> what a run adds whose leaves are refitted (`losses.is_quantile`)."""

STATISTICS: Mapping[bool, str] = {
    True: "The file holds cover and gain. In the first tree a leaf's cover tells its number of rows, and with its value "
    "how many of them have label 1.",
    False: "The file holds no cover and no gain. Whoever has it can predict, but not compute SHAP values.",
}
"""Whether the plan has statistics in the model -> what that says."""

COLLECTED = (
    "A collector can read every sum that one of its parties sends, and knows whose it is. From these sums it can reconstruct rows: "
    "which bin each value is in, and the label. Plan as if a collector had the binned table of every one of its parties.",
    "The aggregator can read the sums over each collector's parties ({}), and every sum of a party without a collector. From sums "
    "over few parties or rows it can reconstruct rows, too. A collector and the aggregator together know what the aggregator alone "
    "would know without collectors.",
)
"""What is said in a plan with collectors in place of what the aggregator can read."""

FEW_ROWS = 2000
"""A party with fewer rows is told of a base score in the plan."""


def released(plan: Plan) -> tuple[str, ...]:
    """What the model tells of rows in its leaves, under this plan."""
    if plan.only_measures:
        what = "fold" if plan.folds else "trial"
        return (f"No model file is made: each {what}'s model is measured, and then let go.",)
    bits, choices = plan.release.leaf_bits, plan.least_choices
    if bits is not None:
        rounded = f"Leaf values are rounded to {bits} fraction bits."
    elif choices:
        rounded = (
            f"Leaf values are rounded by the number of rows, so that at least {choices:,} choices of numbers of rows fit a "
            "first tree of four leaves or more."
        )
    else:
        kept = "all their bits" if plan.coopetitive is None else "14 fraction bits or more"
        rounded = (
            f"Leaf values keep {kept}: those of the first tree can tell how many rows, and with label 1, a leaf has."
        )
    return (STATISTICS[plan.statistics], rounded)


def notes_on_rows(plan: Plan, rows: int) -> tuple[str, ...]:
    """What a party with so many rows in training might change in the plan."""
    if plan.parameters.base_score is not None or not is_logistic(plan.parameters.objective) or rows >= FEW_ROWS:
        return ()
    return (
        f"with {rows:,} rows, fewer than {FEW_ROWS:,}, it is better that the plan gives the base score "
        "(parameters.base_score, a round number near the expected share of label 1): else the pooled number of rows with label 1 is "
        "known to all, and with it fewer choices of rows fit the first tree's leaves",
    )


def _has_steps(plan: Plan) -> bool:
    """Whether metrics are opened after some round: with a condition on the release only where the plan says after which."""
    return not plan.release.metric or (plan.coopetitive is not None and bool(plan.coopetitive.steps))


_ONLY_WHERE: Mapping[tuple[str, str], Callable[[Plan], bool]] = {
    ("quantile_search", "_open_path"): lambda plan: plan.coopetitive is not None and plan.coopetitive.cuts is None,
    ("quantile_search", "_open_gaps"): lambda plan: plan.coopetitive is not None and plan.coopetitive.cuts is None,
    ("base_score", "pooled_sums"): lambda plan: plan.parameters.base_score is None,
    ("base_score", "spread_exponent"): lambda plan: (
        plan.parameters.base_score is None and plan.parameters.objective == "reg:squarederror"
    ),
    ("evaluation", "has_value"): lambda plan: (
        plan.evaluation_fraction > 0 and (plan.weighted or "auc" in plan.parameters.metrics)
    ),
    ("evaluation", "open_metric"): lambda plan: plan.evaluation_fraction > 0 and _has_steps(plan),
    ("evaluation", "reached"): lambda plan: bool(plan.release.metric),
    ("evaluation", "improved"): lambda plan: plan.parameters.early_stopping_rounds is not None,
    ("release", "_open_covers"): lambda plan: plan.coopetitive is not None and plan.coopetitive.statistics,
}
"""Openings that only some plans have. One that is not listed here is always shown."""


FOLDS = {
    False: "A cross-validation: all this happens {} times, once a fold. Who takes one fold's sums from another's has sums over the "
    "pooled rows of the two folds, of which fewer than privacy.min_cell_rows may share a cell.",
    True: "A cross-validation: all this happens {} times, once a fold, and each fold's metrics are opened after every round. Who takes "
    "what one fold opens (cuts, sums of labels) from another's has it of the pooled rows of the two folds; a plan that gives cuts and "
    "base_score opens neither. No server sends its shares of a tree to anybody.",
}
"""Whether on shares -> what so many folds show."""


TRIALS = (
    "A search for parameters: all this happens {} times, once a trial, over the same rows. Every member computes what each trial tries "
    "from the plan; who has the metrics may end a trial early, and chooses nothing else."
)
"""What so many trials show."""


def _always(_: Plan) -> bool:
    return True


def openings_under(plan: Plan) -> tuple[Opening, ...]:
    """What a coopetitive run of this plan opens and to whom; none in the other modes. Masked openings say nothing and are left out."""
    if plan.coopetitive is None:
        return ()
    return tuple(
        opening
        for opening in OPENINGS
        if not opening.masked and _ONLY_WHERE.get((opening.module, opening.function), _always)(plan)
    )


def exposure(plan: Plan) -> tuple[str, ...]:
    """Who can read what under this plan, sentence by sentence."""
    refitted = (RESIDUALS[plan.mode],) if is_quantile(plan.parameters.objective) else ()
    union = plan.schema.union
    told = (
        (
            f"The aggregator learns which levels of {', '.join(union)} each party has, and every party the levels of all.",
        )
        if union
        else ()
    )
    own = tuple(
        f"The {what} {sha256[:16]}... runs in every party's own process. What it makes of a row is summed as above, and whoever "
        "wrote it chose what the sums tell."
        for what, sha256 in plan.functions
    )
    folded = (FOLDS[plan.coopetitive is not None].format(plan.folds),) if plan.folds else ()
    tried = () if plan.search is None else (TRIALS.format(plan.search.trials),)
    checked = (VERIFIED[plan.verify_counts],) if plan.mode == MASKED else ()
    several = plan.mode == MASKED and plan.parameters.trees_per_round > 1
    beside = (SIDE_BY_SIDE,) if several and plan.verify_counts in ("tree", "after") else ()
    shown = (
        "Sums with it and without it tell the aggregator its part of the tree that had begun. "
        if plan.mode == MASKED
        else ""
    )
    without = (
        (
            f"A party that stays away for more than {plan.continue_after_s:g} s is left out, and the run goes on with the others, "
            f"never with fewer than {plan.minimum_parties}. {shown}The aggregator says who is away.",
        )
        if plan.continue_after_s is not None
        else ()
    )
    masked = (
        (
            f"Each of the {len(plan.parties)} parties masks its sums with {neighbours_needed(len(plan.parties))} others that chance "
            "draws. This holds as long as no more than a third of the parties works with the aggregator, but for a chance of "
            "2^-40.",
        )
        if plan.mode == MASKED and is_drawn(len(plan.parties))
        else ()
    )
    basic = EXPOSURE[plan.mode]
    if plan.collectors:
        of_parties = "; ".join(f"{name}: {', '.join(own)}" for name, own in plan.collectors)
        basic = (*(sentence.format(of_parties) for sentence in COLLECTED), *basic[2:])
    return basic + refitted + masked + checked + beside + told + own + folded + tried + without


def exposure_lines(plan: Plan) -> list[str]:
    """Who can read what under this plan, as lines of text."""
    lines = [f"Who can read what (mode {plan.mode}):"]
    lines += [f"  {sentence}" for sentence in exposure(plan)]
    if plan.servers:
        lines.append(f"  The servers are: {', '.join(plan.servers)}.")
    lines.append(f"  The model file goes to: {', '.join(plan.receivers) or 'nobody'}.")
    lines += [f"  {sentence}" for sentence in released(plan)]
    opened = openings_under(plan)
    if opened:
        lines.append("What this plan opens:")
        lines += [f"  to {opening.to}: {opening.what}" for opening in opened]
    return lines
