"""What an aggregator signed, as a file: a party whose row counts were refused keeps it, and anybody who has the plan can judge it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.consortium.identity import verify
from hansa.consortium.versions import read_pinned
from hansa.errors import HansaError, IdentityError, PlanError, ProtocolError
from hansa.files import read_whole, write_whole
from hansa.plan import Plan, read_plan
from hansa.printable import printable
from hansa.protocol import messages
from hansa.protocol.messages import SETUP, CountCells, CountResiduals, ShowRows, SplitNodes
from hansa.roles.summed.verified_counts import SIGNING_PURPOSE, Evidence, check_evidence, signed_bytes
from hansa.trees.losses import is_logistic, tells_rows

SUFFIX = ".evidence.json"
MOST_BYTES = 2**28
"""Of a file: more than a section of broadcasts takes."""

ROUNDING = 7 / 8
"""Hessians are summed in whole numbers: at the coarsest scale that a party takes, a row counts up to an eighth more than it has."""


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Pooled row counts that the aggregator showed.

    Attributes:
        of: what was counted. count: how many numbers. least: the smallest of them. allowed: the least that the plan allows.
    """

    of: str
    count: int
    least: int
    allowed: int

    @property
    def broken(self) -> bool:
        """Whether the plan was broken."""
        return self.least < self.allowed


class Judgement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What signed broadcasts show.

    Attributes:
        broken: whether they convict the aggregator. aggregator: who signed. run: the run's id, hex. shown: in order.
        two_histories: whether the second file holds other broadcasts of the same place in the same run, signed too.
    """

    broken: bool
    aggregator: str
    run: str
    shown: tuple[Shown, ...]
    two_histories: bool

    def text(self) -> str:
        """For people."""
        lines = [f"member {self.aggregator!r} signed these broadcasts of run {self.run}"]
        lines += [
            f"  pooled rows of {each.count} {printable(each.of)}: the least is {each.least}; the plan allows no fewer than "
            f"{each.allowed}{': BROKEN' if each.broken else ''}"
            for each in self.shown
        ]
        if self.two_histories:
            lines.append("  and others in their place, which another member received: BROKEN")
        broken = "the aggregator broke the plan" if self.broken else "nothing in them breaks the plan"
        return "\n".join([*lines, broken])


def beside(record: Path, run: bytes) -> Path:
    """Where the evidence of a run goes, by its record: each run has a file of its own."""
    return record.with_name(f"{record.name.removesuffix('.json')}.{run.hex()[:8]}{SUFFIX}")


def keep_evidence(path: Path, evidence: Evidence) -> None:
    """Write the file, mode 0600. Raises OutputError."""
    write_whole(path, msgspec.json.encode(evidence))


def read_evidence(path: Path) -> Evidence:
    """Read what `keep_evidence` wrote. Raises HansaError naming the file."""
    try:
        return msgspec.json.decode(read_whole(path, MOST_BYTES), type=Evidence)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or too large
        raise HansaError(
            f"{path}: is not the evidence of a run: {error}; expected a file {SUFFIX} that a party wrote"
        ) from error


def judge(first: Path, second: Path | None, plan_file: Path, members_file: Path) -> Judgement:
    """Check the aggregator's signatures, and hold the row counts that it showed to the plan.

    Raises PlanError, IdentityError for a signature that is not the aggregator's, ProtocolError for what is no run's broadcasts.
    """
    plan = read_plan(plan_file)
    members = read_pinned(members_file)
    if plan.verify_counts == "off":
        raise PlanError(f"{plan_file}: privacy.verify_counts is 'off': in such a run nobody signs broadcasts")
    if plan.aggregator not in members:
        raise PlanError(f"{members_file}: has no card of the plan's aggregator {plan.aggregator!r}")
    evidence = read_evidence(first)
    key = _signing_key(evidence, members.keys_of(plan.aggregator))
    shown = _shown(evidence, plan, check_evidence(evidence, key, len(plan.parties)))
    twice = False
    if second is not None:
        other = read_evidence(second)
        check_evidence(other, key, len(plan.parties))
        if (other.run, other.start) != (evidence.run, evidence.start):
            raise ProtocolError(
                f"{first} and {second} are of other runs, or of other places in one: nothing follows from both"
            )
        twice = other.end != evidence.end
    broken = twice or any(each.broken for each in shown)
    return Judgement(broken, plan.aggregator, evidence.run.hex(), shown, twice)


def _signing_key(evidence: Evidence, keys: Sequence[bytes]) -> bytes:
    """The key of these that signed: the aggregator's, or one that it had before it took another; the first where none did."""
    for key in keys:
        with contextlib.suppress(IdentityError):
            verify(key, SIGNING_PURPOSE, signed_bytes(evidence.run, evidence.end), evidence.signature)
            return key
    return keys[0]


def _shown(evidence: Evidence, plan: Plan, counts: list[npt.NDArray[np.int64]]) -> tuple[Shown, ...]:
    found: list[Shown] = []
    of, allowed = "children", 0
    left = iter(counts)
    for kind, frame in evidence.broadcasts:
        if kind == ShowRows.__name__:
            numbers = next(left)
            found.append(Shown(of, len(numbers), int(numbers.min(initial=2**62)), allowed))
        elif kind in (CountCells.__name__, CountResiduals.__name__, SplitNodes.__name__):
            message = messages.decode(plan.aggregator, frame)
            if isinstance(message, CountCells):
                of, allowed = f"cells of {message.bits} bits", plan.min_cell_rows + 1
            elif isinstance(message, CountResiduals):
                where = "labels" if message.tree == SETUP else f"residuals in the leaves of tree {message.tree}"
                of, allowed = f"cells of {message.bits} bits of {where}", plan.min_cell_rows + 1
            elif isinstance(message, SplitNodes):
                trees = [str(own.tree) for own in message.trees]
                of = f"children in tree{'s' * (len(trees) > 1)} {', '.join(trees)}"
                allowed = _least_rows(plan)
    return tuple(found)


def _least_rows(plan: Plan) -> int:
    """Rows that a child has in an honest run, from the plan alone: `min_child_rows` where more than that counts."""
    parameters = plan.parameters
    scale = parameters.scale_pos_weight
    if plan.weighted or isinstance(scale, str) or not tells_rows(parameters.objective):
        return plan.min_child_rows
    heaviest = max(1.0, scale) / (4 if is_logistic(parameters.objective) else 1)
    return max(plan.min_child_rows, math.ceil(parameters.min_child_weight / heaviest * ROUNDING))
