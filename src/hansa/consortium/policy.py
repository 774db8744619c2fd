"""What a party's own security officer demands, whatever a plan says; and which rosters its rows have met."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansa.errors import PlanError

STRENGTH = ("federated", "secure-aggregation", "coopetitive")
"""Modes, the weakest first."""

LEAST_PARTIES = 3
"""Parties below which a sum over parties tells each of two what the other gave."""


@dataclass(frozen=True)
class Policy:
    """A party's own conditions.

    Attributes:
        least_mode: plans of a weaker mode are refused.
        allow_two_parties: whether sums over this party and one other may be formed in secure-aggregation mode.
        allow_other_rosters: whether rows that met one set of parties under masks may meet another: the difference of
            two sums is the part of whoever left.
    """

    least_mode: str = "federated"
    allow_two_parties: bool = False
    allow_other_rosters: bool = False

    def __post_init__(self) -> None:
        if self.least_mode not in STRENGTH:
            raise PlanError(f"least_mode is {self.least_mode!r}; expected one of {', '.join(STRENGTH)}")

    def check(self, mode: str, parties: int) -> None:
        """Raise PlanError where a run in `mode` over so many parties is not allowed."""
        if STRENGTH.index(mode) < STRENGTH.index(self.least_mode):
            raise PlanError(
                f"the plan's mode is {mode!r}; this party's policy demands {self.least_mode!r} or stronger (least_mode)"
            )
        least = 2 if self.allow_two_parties else LEAST_PARTIES
        if mode == "secure-aggregation" and parties < least:
            raise PlanError(
                f"{parties} parties take part; in secure-aggregation mode this party takes part with at least {least}: "
                "each of two parties could take its own part off the sum (allow_two_parties says otherwise)"
            )


def rows_digest(*arrays: Any) -> str:
    """SHA-256 over a party's rows (numpy arrays or None), in hex."""
    digest = hashlib.sha256(b"hansa rows\x00")
    for array in arrays:
        digest.update(b"-" if array is None else repr((array.dtype.str, array.shape)).encode())
        if array is not None:
            digest.update(memoryview(array).cast("B"))
    return digest.hexdigest()


def note_roster(ledger: Path, rows: str, parties: tuple[str, ...], policy: Policy) -> None:
    """Write down, before a masked run, which parties these rows meet; refuse another set than before.

    Args:
        ledger: a file of JSON lines, made where it is not there; it never leaves the party.
        rows: `rows_digest`. parties: of the plan.

    Raises:
        PlanError: the rows met another set of parties, and the policy does not allow that; or the ledger cannot be read.
    """
    known = []
    if ledger.exists():
        try:
            known = [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines()]
            met = [entry["parties"] for entry in known if entry["rows"] == rows]
        except (ValueError, KeyError, TypeError) as error:
            raise PlanError(
                f"{ledger}: not a ledger ({error!r}); restore it: it keeps rows from meeting other rosters"
            ) from error
        other = next((names for names in met if tuple(names) != parties), None)
        if other is not None and not policy.allow_other_rosters:
            raise PlanError(
                f"these rows were trained on with {', '.join(other)}; the plan names {', '.join(parties)}. The difference of "
                f"both sums would show the part of whoever left or came; {ledger} keeps count (allow_other_rosters says otherwise)"
            )
        if list(parties) in met:
            return
    with ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"rows": rows, "parties": list(parties)}) + "\n")
        file.flush()
        os.fsync(file.fileno())
