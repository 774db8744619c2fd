"""What a plan says of reading cells, as the model tells it to whoever predicts."""

from __future__ import annotations

from hansa.plan import Plan
from hansa.trees.ensemble import Reading, Unseen


def reading_of(plan: Plan) -> Reading:
    """How a model of this plan has cells read."""
    unseen: Unseen = "error" if plan.schema.unseen == "error" else "missing"
    labels = plan.schema.labels if len(plan.schema.labels) > 1 else ()
    return Reading(unseen, plan.schema.dates, tuple(name for name, _ in plan.schema.rare_levels), labels)
