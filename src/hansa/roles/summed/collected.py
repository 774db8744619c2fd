"""How an aggregator holds collectors to what they may say, and their sums to the rows of their parties."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from hansa.errors import ProtocolError, RunStopped
from hansa.plan import Plan
from hansa.protocol.messages import Abort, Awaited, Contribution, Message
from hansa.roles.run import Roster
from hansa.roles.summed.row_bounds import counted_rows, fault_of


class Collected:
    """The collectors of a run, and the sums that are awaited of their parties.

    Attributes:
        parties: by collector.
    """

    def __init__(self, plan: Plan) -> None:
        self.parties = dict(plan.collectors)
        self._plan = plan
        self._awaited: dict[str, list[Awaited]] = {}
        self._rows: dict[str, tuple[int, int]] = {}

    def of(self, member: str) -> tuple[str, ...]:
        """The parties of a collector; a party itself."""
        return self.parties.get(member, (member,))

    def begin(self, roster: Roster) -> None:
        """Sum the rows of each collector's parties, trained on and held out."""
        counts = {name: (rows, held) for name, _, rows, held, _ in roster}
        self._rows = {
            collector: (sum(counts[party][0] for party in own), sum(counts[party][1] for party in own))
            for collector, own in self.parties.items()
        }

    def expect(self, awaited: Iterable[Awaited]) -> tuple[Awaited, ...]:
        """These sums are awaited, in the order in which a party sends them."""
        told = tuple(awaited)
        self._awaited = {own.quantity: [each for each in told if each.quantity == own.quantity] for own in told}
        return told

    def check_sender(self, member: str, kind: type[Message]) -> None:
        """Refuse what a collector says in its own name beside sums and why it stops, and sums of a party that has a collector."""
        if member in self.parties and kind not in (Contribution, Abort):
            raise ProtocolError(
                f"collector {member!r} sent {kind.__name__} in its own name, which only parties send", member=member
            )
        if kind is Contribution and member in self._plan.parties and member not in self._plan.branches:
            raise ProtocolError(
                f"member {member!r} sent {kind.__name__}; its collector {self._plan.above(member)!r} adds up what it sends",
                member=member,
            )

    def stopped(self, member: str, message: Abort) -> RunStopped:
        """Why a party, or a collector because of one of its parties, stopped the run."""
        if member not in self.parties:
            return RunStopped(member, f"party {member!r} stopped the run: {message.reason}", retry=message.retry)
        blamed = message.member if message.member in self.parties[member] else ""
        who = f" because of party {blamed!r}" if blamed else ""
        text = f"collector {member!r} stopped the run{who}: {message.reason}"
        return RunStopped(member, text, retry=message.retry, member=blamed)

    def fault_of(self, collector: str, message: Contribution, part: npt.NDArray[Any], place: int = 0) -> str:
        """Why its parties' rows cannot have these sums; "" where they can. place: of the tree among those awaited."""
        if message.quantity not in self._awaited or message.zero:
            return f"expected {', '.join(self._awaited)}, without a zero word"
        awaited = self._awaited[message.quantity][place]
        rows = counted_rows(message.quantity, *self._rows[collector])
        if fault := fault_of(part, awaited.planes, awaited.most, rows):
            return f"{fault}; the sums of a collector are of its parties' rows"
        return ""
