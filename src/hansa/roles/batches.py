"""Whether the sums of a run are over enough rows of enough parties, and what a party tells of its own for that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy, enough_of
from hansa.data.holdout import HoldOut, held_out
from hansa.data.source import Rows
from hansa.plan import Plan
from hansa.roles.run import Roster

Admit = Callable[[bytes, Roster], None]
"""(the run's id, its roster) -> nothing; raises PlanError where this party's rows may not meet these people (`consortium.ledger`)."""


def admit_all(_run: bytes, _roster: Roster) -> None:
    """Keeps no count."""


def hold_out(plan: Plan) -> HoldOut:
    """Which rows a plan holds out; of a plan of folds those of the fold at hand."""
    seed = plan.parameters.seed
    return HoldOut(plan.evaluation_fraction, seed) if plan.fold is None else HoldOut(0.0, seed, plan.folds, plan.fold)


LabelCounts = dict[tuple[int, int], int]
"""Rows by number of the label and its value, of values that are whole numbers."""


def label_counts(labels: npt.NDArray[np.float32], held: npt.NDArray[np.bool_]) -> tuple[LabelCounts, LabelCounts]:
    """Of the rows trained on, and of those held out: labels float32 (rows,), or (labels, rows) of several; held bool (rows,)."""
    each = np.atleast_2d(labels)
    return _counts(each[:, ~held]), _counts(each[:, held])


def enough_rows(plan: Plan, trained: LabelCounts, held_out: LabelCounts) -> bytes:
    """`Join.enough` of a party with so many rows. Empty in federated mode."""
    if plan.mode == "federated":
        return b""
    bits = enough_of(plan, trained, held_out)
    return bits.to_bytes(-(-bits.bit_length() // 8), "little")


def _counts(labels: npt.NDArray[Any]) -> LabelCounts:
    found: LabelCounts = {}
    for number, own in enumerate(labels):
        values, counts = np.unique(own[own == np.floor(own)], return_counts=True)
        found |= {(number, int(value)): int(count) for value, count in zip(values, counts, strict=True)}
    return found


def claim(plan: Plan, name: str, rows: Rows) -> tuple[str, bytes, int, int, bytes]:
    """A party's line of a roster, its nonce empty, as it will say it in `Join`."""
    held = held_out(rows.features, rows.label, hold_out(plan), rows.subject)
    count = int(held.sum())
    return name, b"", rows.n_rows - count, count, enough_rows(plan, *label_counts(rows.label, held))


def check_roster(policy: Policy, plan: Plan, own: str, roster: Roster) -> None:
    """Hold a roster to a party's policy. Raises ProtocolError (see `Policy.check_roster`)."""
    policy.check_roster(
        plan,
        own,
        [(name, rows, held) for name, _, rows, held, _ in roster],
        {name: int.from_bytes(enough, "little") for name, _, _, _, enough in roster},
    )
