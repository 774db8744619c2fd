"""Whether the sums of a run are over enough rows of enough parties, and what a party tells of its own for that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy, enough_of
from hansa.data.facts import TableFacts
from hansa.data.holdout import HoldOut, equal_pairs, held_out
from hansa.data.source import Rows, are_classes
from hansa.plan import COOPETITIVE, Plan
from hansa.roles.run import Roster

Admit = Callable[[bytes, Roster], None]
"""(the run's id, its roster) -> nothing; raises PlanError where this party's rows may not meet these people (`consortium.ledger`)."""


def admit_all(_run: bytes, _roster: Roster) -> None:
    """Keeps no count."""


def hold_out(plan: Plan) -> HoldOut:
    """Which rows a plan holds out; of a plan of folds those of the fold at hand."""
    seed = plan.parameters.seed
    return HoldOut(plan.evaluation_fraction, seed) if plan.fold is None else HoldOut(0.0, seed, plan.folds, plan.fold)


MOST_EQUAL_PAIRS = 0.01
"""Of rows that repeat more often, what a hash of contents draws is no fair sample: it draws as of 100 rows, or fewer."""


def repeated_rows(
    plan: Plan, features: Iterable[npt.NDArray[np.float32]], labels: npt.NDArray[np.float32]
) -> list[str]:
    """A sentence where rows are drawn by their contents, and repeat so often that the draw is no fair sample.

    Args:
        features, labels: as for `held_out`.
    """
    return _told_of_repeats(plan, equal_pairs(features, labels)) if _draws(plan) else []


def told_of(plan: Plan, facts: TableFacts, *, describes: bool = False) -> tuple[str, ...]:
    """What a party is told of its own table, however it is read, where the table joins a run of this plan.

    Args:
        describes: whether the run only describes the rows, and draws none.
    """
    texts = facts.texts(are_classes(plan.parameters.label_kind))
    if describes or not _draws(plan):
        return texts
    return (*texts, *_told_of_repeats(plan, facts.equal_pairs))


def _draws(plan: Plan) -> tuple[str, ...]:
    """What rows are drawn for by their contents."""
    held = hold_out(plan).any and plan.schema.id is None
    drawn = plan.parameters.subsample < 1 and plan.mode != COOPETITIVE
    return ("to hold out",) * held + ("for a tree",) * drawn


def _told_of_repeats(plan: Plan, share: float) -> list[str]:
    if share <= MOST_EQUAL_PAIRS:
        return []
    told = f"many rows are equal, label included: two of them are in {share:.0%} of all pairs. Equal rows are"
    texts = {
        "to hold out": f"{told} held out together or not at all, so those that are held out may be many or few, and of other labels "
        "than the rest; hold none out, or name a column of ids in the plan (schema.id), by which rows are held out then",
        "for a tree": f"{told} drawn together or not at all (subsample), so a tree may miss all rows of a kind; leave subsample at 1, "
        "or add a feature that tells rows apart",
    }
    return [texts[what] for what in _draws(plan)]


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
