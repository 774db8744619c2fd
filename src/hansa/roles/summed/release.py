"""Which rounds of a run become the model, and whether the plan's condition lets anybody have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hansa.plan import Plan
from hansa.trees.metrics import best_round

History = Mapping[str, Sequence[float | None]]


def kept_rounds(plan: Plan, history: History, trees_grown: int) -> int:
    """How many rounds the model has: up to the best one where training may stop early, else all."""
    rounds = trees_grown // plan.parameters.trees_per_round
    if plan.parameters.early_stopping_rounds is None:
        return rounds
    # Without any value there is no best round: the whole model stays.
    return best_round(plan.maximizes, history.get(plan.metrics[-1], ())) or rounds


def released_value(plan: Plan, history: History, trees_grown: int) -> float | None:
    """The value, at the model's last round, of the metric that the plan's release depends on; None where it has none."""
    values = history.get(plan.release.metric, ())
    rounds = kept_rounds(plan, history, trees_grown)
    return values[rounds - 1] if 1 <= rounds <= len(values) else None
