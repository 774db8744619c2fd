"""Who can read what in each mode, and what can be made of it: the one text that `hansa check`, `hansa plan`, the demo's page and
SECURITY.md share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hansa.mpc.openings import OPENINGS, Opening
from hansa.plan import COOPETITIVE, Plan

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
        "The masks protect against an aggregator that follows the protocol. One that does not can choose splits that isolate rows.",
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

_ONLY_WHERE: Mapping[tuple[str, str], Callable[[Plan], bool]] = {
    ("quantile_search", "_open_path"): lambda plan: plan.coopetitive is not None and plan.coopetitive.cuts is None,
    ("quantile_search", "_open_gaps"): lambda plan: plan.coopetitive is not None and plan.coopetitive.cuts is None,
    ("start_value", "pooled_sums"): lambda plan: plan.parameters.base_score is None,
    ("start_value", "spread_exponent"): lambda plan: (
        plan.parameters.base_score is None and plan.parameters.objective == "reg:squarederror"
    ),
    ("evaluation", "has_value"): lambda plan: (
        plan.evaluation_fraction > 0 and (plan.schema.weight is not None or "auc" in plan.parameters.metrics)
    ),
    ("evaluation", "open_metric"): lambda plan: plan.evaluation_fraction > 0,
    ("evaluation", "improved"): lambda plan: plan.parameters.early_stopping_rounds is not None,
    ("release", "_open_covers"): lambda plan: plan.coopetitive is not None and plan.coopetitive.statistics,
}
"""Openings that only some plans have. One that is not listed here is always shown."""


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


def exposure_lines(plan: Plan) -> list[str]:
    """Who can read what under this plan, as lines of text."""
    lines = [f"Who can read what (mode {plan.mode}):"]
    lines += [f"  {sentence}" for sentence in EXPOSURE[plan.mode]]
    if plan.servers:
        lines.append(f"  The servers are: {', '.join(plan.servers)}.")
    lines.append(f"  The model file goes to: {', '.join(plan.receivers) or 'nobody'}.")
    opened = openings_under(plan)
    if opened:
        lines.append("What this plan opens:")
        lines += [f"  to {opening.to}: {opening.what}" for opening in opened]
    return lines
