"""What a party's own security officer demands, whatever a plan says; and which rosters its rows have met."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import PlanError
from hansa.files import append_line

STRENGTH = ("federated", "secure-aggregation", "coopetitive")
"""Modes, the weakest first."""

LEAST_PARTIES = 3
"""Parties below which a sum over parties tells each of two what the other gave."""


@dataclass(frozen=True)
class Rule:
    """One rule of a policy, held to one plan: the key of the member's file, whether it is met, and what it says."""

    key: str
    met: bool
    text: str


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

    def rules(self, mode: str, parties: int) -> tuple[Rule, ...]:
        """The rules that this policy holds a run in `mode` over so many parties to, and whether it meets them."""
        least = 2 if self.allow_two_parties else LEAST_PARTIES
        rules = [
            Rule(
                "least_mode",
                STRENGTH.index(mode) >= STRENGTH.index(self.least_mode),
                f"the plan's mode is {mode!r}; this party's policy demands {self.least_mode!r} or stronger (least_mode)",
            )
        ]
        if mode == "secure-aggregation":
            rules.append(
                Rule(
                    "allow_two_parties",
                    parties >= least,
                    f"{parties} parties take part; in secure-aggregation mode this party takes part with at least {least}: "
                    "each of two parties could take its own part off the sum (allow_two_parties says otherwise)",
                )
            )
        return tuple(rules)

    def check(self, mode: str, parties: int) -> None:
        """Raise PlanError where a run in `mode` over so many parties is not allowed."""
        for rule in self.rules(mode, parties):
            if not rule.met:
                raise PlanError(rule.text)


def rows_digest(*arrays: npt.NDArray[np.float32] | None) -> tuple[str, ...]:
    """What a ledger knows a party's rows by: SHA-256 of each of its columns, in hex, sorted.

    A column is hashed by its sorted values, so that neither the order of the rows nor the choice of features in a later plan
    makes known rows look new. Rows added or taken away do: SECURITY.md says so. Two tables with as many rows may share a column
    by chance (a flag that is never set, a label as often 1): they are then taken for the same, which errs on the safe side.

    Args:
        arrays: float32, (n,) for one column or (columns, n) for several; None for a column that is not there.
    """
    columns = [column for array in arrays if array is not None for column in np.atleast_2d(array)]
    return tuple(sorted({_column_digest(column) for column in columns}))


def _column_digest(column: npt.NDArray[np.float32]) -> str:
    content = np.sort(column).tobytes()
    return hashlib.sha256(b"hansa column\x00" + repr((column.dtype.str, column.shape)).encode() + content).hexdigest()


def note_roster(ledger: Path, rows: tuple[str, ...], parties: tuple[str, ...], policy: Policy) -> None:
    """Write down, before a masked run, which parties these rows meet; refuse another set than before.

    Args:
        ledger: a file of JSON lines, made where it is not there; it never leaves the party.
        rows: `rows_digest`. parties: of the plan.

    Raises:
        PlanError: rows that share a column with these met another set of parties, and the policy does not allow that; or the
            ledger cannot be read. OutputError: the ledger cannot be written.
    """
    entry = _Entry(rows, parties)
    if entry not in check_roster(ledger, rows, parties, policy):
        append_line(ledger, msgspec.json.encode(entry) + b"\n")


def check_roster(ledger: Path, rows: tuple[str, ...], parties: tuple[str, ...], policy: Policy) -> list[_Entry]:
    """What `note_roster` refuses, without writing anything: raises PlanError. Returns what the ledger holds."""
    known = _read_ledger(ledger) if ledger.exists() else []
    met = [entry.parties for entry in known if not set(rows).isdisjoint(entry.rows)]
    other = next((names for names in met if names != parties), None)
    if other is not None and not policy.allow_other_rosters:
        raise PlanError(
            f"these rows, or a column with the same values, were trained on with {', '.join(other)}; "
            f"the plan names {', '.join(parties)}. The difference of both sums would show the part of whoever left or came; "
            f"{ledger} keeps count (allow_other_rosters says otherwise)"
        )
    return known


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a ledger: `rows_digest`, and the parties that these rows met."""

    rows: tuple[str, ...]
    parties: tuple[str, ...]


def _read_ledger(ledger: Path) -> list[_Entry]:
    try:
        return [msgspec.json.decode(line, type=_Entry) for line in ledger.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PlanError(
            f"{ledger}: not a ledger ({error}); restore it: it keeps rows from meeting other rosters"
        ) from error
