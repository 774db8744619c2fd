"""A collector: stands between the aggregator and some parties, and adds up what they send. No I/O: frames in, frames out.

It holds no rows. Requests go down as they come; the aggregator says with each which sums it awaits (`Collect`). Each party's part is
held to its type, shape, place and rows, and a part that does not fit is refused by the party's name. Where all parts of a sum are
there the sum goes up as the collector's own `Contribution`. What the aggregator needs of single parties passes as it is (`PassOn`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    DTYPES,
    Abort,
    Awaited,
    Collect,
    Contribution,
    CountersignLogs,
    Finish,
    Join,
    KeepLevels,
    Message,
    OpenLogs,
    PassOn,
    Received,
    ShowLog,
    TellLevels,
    UseLevels,
    Welcome,
)
from hansa.protocol.session import COLLECTOR, COLLECTOR_OF_PARTIES, Session
from hansa.roles.run import Progress, Registered, Roster, Trained, agreement, run_id
from hansa.roles.summed.row_bounds import counted_rows, fault_of
from hansa.roles.summed.side_by_side import (
    COLLECTED_BYTES,
    MOST_TREES,
    Shape,
    nodes_expected,
    whole_nodes,
    words_before,
)
from hansa.transport.channel import Frame

Outgoing = Iterator[tuple[str, Frame]]
"""(a party or the aggregator, what goes to it)"""

LOGS_OF_PARTIES = (OpenLogs, ShowLog, CountersignLogs)
"""Frames of the exchange of audit logs, which both ends hold to tables of their own."""

PASSED_UP = (Join, TellLevels, Received, Abort, *LOGS_OF_PARTIES)
"""What goes up of a party alone."""


@dataclass
class _Sum:
    """A sum over parties.

    Attributes:
        awaited: what it is; histograms are awaited of one tree or more. given: how many items each party has given: of histograms
            nodes, of all trees, of another sum 1 for all of it. values: so far, of the awaited shape; of histograms one node behind the
            other. sent: how many items went up.
    """

    awaited: list[Awaited]
    given: dict[str, int]
    sent: int = 0
    values: npt.NDArray[Any] = field(init=False)
    items: int = field(init=False)

    def __post_init__(self) -> None:
        shape = (sum(map(math.prod, self.shapes)),) if self.fragments else self.awaited[0].shape
        self.values = np.zeros(shape, self.awaited[0].dtype)
        self.items = sum(nodes for nodes, _, _ in self.shapes) if self.fragments else 1

    @property
    def step(self) -> int:
        return self.awaited[0].step

    @property
    def planes(self) -> int:
        return self.awaited[0].planes

    @property
    def fragments(self) -> bool:
        """Whether it may come in several."""
        return self.awaited[0].quantity == "histograms"

    @property
    def shapes(self) -> list[Shape]:
        """Of histograms: those of each tree."""
        return [(own.shape[0], own.shape[1], own.shape[2]) for own in self.awaited]

    @property
    def complete(self) -> bool:
        return self.sent == self.items


class Collector:
    """One collector's side of a run.

    Args:
        plan: as every member holds it. name: this collector.
        identities: every member's pinned identity, as the others hold them.
        report: called with `Progress`, without metrics.

    Attributes:
        name: of this collector. parties: whose sums it makes. frames: that came so far.
        done: whether all its parties have said that they have the end of the run. run: the run's id, once known. roster: of the run.
        end: what the aggregator told at the end, without the model; None before.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        *,
        identities: Mapping[str, bytes] = MappingProxyType({}),
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.parties = dict(plan.collectors)[name]
        self.frames = 0
        self.done = False
        self.run = b""
        self.end: Finish | None = None
        self.roster: Roster = ()
        self._plan = plan
        self._agreement = agreement(plan, identities)
        self._report = report
        self._above = Session("collector", COLLECTOR, "registering")
        self._below = Session("collector", COLLECTOR_OF_PARTIES, "registering")
        self._rows: dict[str, tuple[int, int]] = {}
        self._tree = 0
        self._sums: dict[str, _Sum] = {}
        self._early: list[tuple[str, bytes]] = []
        self._joined: set[str] = set()
        self._received: set[str] = set()
        self._stopping: set[str] = set()

    @property
    def awaits_parties(self) -> bool:
        """Whether a party's word comes next."""
        joining = self._above.state == "registering" and len(self._joined) < len(self.parties)
        return joining or self._above.state in ("collecting", "finishing")

    @property
    def withheld(self) -> bool:
        """Whether the run is over and nobody gets the model, since the metric of the plan's release is not reached."""
        return self.end is not None and not self._plan.release.is_reached(self.end.metric)

    @property
    def stopped(self) -> bool:
        """Whether the run ended before its time."""
        return self._above.state == "aborted"

    def stop(self) -> None:
        """The run ends here: from now on only frames of audit logs pass."""
        self._above.state = self._below.state = "aborted"

    def waiting_for(self) -> list[str]:
        """The members whose next frame is owed."""
        match self._above.state:
            case "registering" if self.awaits_parties:
                return sorted({*self.parties} - self._joined)
            case "collecting":
                owed = {party for own in self._sums.values() for party, given in own.given.items() if given < own.items}
                return sorted(owed)
            case "finishing":
                return sorted({*self.parties} - self._received)
            case _:
                return [self._plan.aggregator]

    def has_left(self, party: str) -> bool:
        """Whether a party has sent its last message of the run, so that it may hang up: that it has the end, or why it stops."""
        return party in self._received or party in self._stopping

    # --- from the aggregator --------------------------------------------------------------------------------------------------

    def from_above(self, frame: memoryview) -> Outgoing:
        """Take one frame of the aggregator; yields what goes to whom.

        Raises ProtocolError: the aggregator broke a rule, or a party whose answer had come early.
        """
        self.frames += 1
        message = self._above.decode(self._plan.aggregator, frame)
        match message:
            case PassOn():
                if message.member not in self.parties:
                    raise self._broken_above(message, f"{message.member[:63]!r} is no party of this collector")
                yield message.member, message.frame
            case Collect():
                self._await(message)
                early, self._early = self._early, []
                for party, held in early:
                    yield from self.from_party(party, memoryview(held))
            case Finish():
                self._go(message, "finishing")
                self.end = msgspec.structs.replace(message, model=b"")
                yield from self._finish(message, frame)
            case Welcome():
                self._welcome(message)
                yield from self._to_all(frame)
            case Abort():
                self._go(message, "aborted")
                yield from self._to_all(frame)
            case _:
                self._go(message, "passing" if isinstance(message, UseLevels | KeepLevels) else "asked")
                yield from self._to_all(frame)

    def _to_all(self, frame: Frame) -> Outgoing:
        kept = bytes(frame)
        for party in self.parties:
            yield party, kept

    def _welcome(self, message: Welcome) -> None:
        """Keep how many rows each party has; the run must be the one of this member's plan."""
        if message.run != run_id(self._agreement, message.roster):
            raise self._broken_above(
                message,
                "the run's id is not the hash of this collector's plan and members file, and of the roster; give every member the same "
                "plan file and members file",
            )
        rows = {name: (training, held) for name, _, training, held, _ in message.roster}
        if not rows.keys() >= {*self.parties} or min(map(min, rows.values())) < 0:
            raise self._broken_above(
                message, "the roster leaves out a party of this collector, or gives one no number of rows"
            )
        self._go(message, "passing")
        self.run, self.roster = message.run, message.roster
        self._rows = {party: rows[party] for party in self.parties}
        self._report(Registered(trees=0, rounds=self._plan.parameters.rounds))

    def _await(self, message: Collect) -> None:
        """Make room for the sums that are awaited."""
        sizes = [math.prod(own.shape) for own in message.sums]
        awaited: dict[str, list[Awaited]] = {}
        for own in message.sums:
            awaited.setdefault(own.quantity, []).append(own)
        histograms = awaited.get("histograms", [])
        once = all(len(each) == 1 for each in awaited.values() if each is not histograms)
        fits = message.sums and once and all(own.dtype in DTYPES for own in message.sums)
        whole = all(n >= 0 for own in message.sums for n in own.shape)
        if not fits or not whole or 8 * sum(sizes) > COLLECTED_BYTES or not all(own.shape for own in message.sums):
            raise self._broken_above(message, "it awaits no sums, one twice, or such that take too much memory")
        if any(len(own.shape) != 3 or not math.prod(own.shape) or own.shape[1] != own.planes for own in histograms):
            raise self._broken_above(message, "histograms have three axes: nodes, planes and cells")
        if len({(own.step, own.dtype, own.planes) for own in histograms}) > 1 or len(histograms) > MOST_TREES:
            raise self._broken_above(
                message,
                f"histograms of one step alone are awaited together, all of one type, of {MOST_TREES} trees at most",
            )
        self._go(message, "collecting")
        self._tree = message.tree
        self._sums = {quantity: _Sum(own, dict.fromkeys(self.parties, 0)) for quantity, own in awaited.items()}

    def _finish(self, message: Finish, frame: memoryview) -> Outgoing:
        """Tell each party the end of the run, and the model to those who receive it."""
        without = messages.encode(msgspec.structs.replace(message, model=b""))
        whole = bytes(frame)
        for party in self.parties:
            yield party, whole if party in self._plan.receivers else without

    # --- from a party ---------------------------------------------------------------------------------------------------------

    def from_party(self, party: str, frame: memoryview) -> Outgoing:
        """Take one frame of a party; yields what goes to whom.

        Raises ProtocolError naming the party: it broke a rule.
        """
        if party not in self.parties:
            raise ProtocolError(f"member {party!r} is no party of collector {self.name!r}", member=party)
        self.frames += 1
        kind = messages.kind_of(party, frame)
        if kind in LOGS_OF_PARTIES:
            yield self._plan.aggregator, self._passed(party, frame)
            return
        if self.stopped:
            return  # what was under way when the run ended
        self._below.check(party, kind)
        if kind is not Contribution:
            if kind is Join:
                self._joined.add(party)
            if kind is Abort:
                self._stopping.add(party)
            if kind is Received:
                self._acknowledge(party, frame)
            yield self._plan.aggregator, self._passed(party, frame)
        elif self._below.state == "asked":
            self._keep_early(party, frame)
        else:
            message = messages.decode(party, frame)
            assert isinstance(message, Contribution)  # its kind
            yield from self._add(party, message)

    def _keep_early(self, party: str, frame: memoryview) -> None:
        """Keep an answer that is here before the aggregator's `Collect`: of one request no party has more than fits a sum."""
        held = len(frame) + sum(len(own) for who, own in self._early if who == party)
        if held > COLLECTED_BYTES // len(self.parties):
            raise ProtocolError(
                f"member {party!r} sent {held:,} bytes to collector {self.name!r} before it was asked for sums",
                member=party,
                rule="a party answers what it is asked",
            )
        self._early.append((party, bytes(frame)))

    def _passed(self, party: str, frame: Frame) -> bytes:
        return messages.encode(PassOn(party, memoryview(frame)))

    def _acknowledge(self, party: str, frame: memoryview) -> None:
        message = messages.decode(party, frame)
        if party in self._received:
            raise ProtocolError(f"member {party!r} acknowledged the end of the run twice", member=party)
        self._received.add(party)
        if len(self._received) == len(self.parties):
            self._go_below(message, "finished")
            self._above.state = "finished"
            self.done = True
            self._report(Trained(trees=0 if self.end is None else self.end.trees, rounds=self._plan.parameters.rounds))

    def _add(self, party: str, message: Contribution) -> Outgoing:
        """Add a party's part to a sum; what is then complete goes up."""
        own = self._sums.get(message.quantity)
        if own is None or (message.tree, message.step) != (self._tree, own.step):
            expected = ", ".join(f"{quantity!r} of step {each.step}" for quantity, each in self._sums.items())
            raise self._broken(party, message, f"expected {expected} of tree {self._tree}")
        if message.zero:
            raise self._broken(party, message, "it has a zero word, and no sum of this mode is masked")
        part = self._part(party, message, own)
        before = (each for each in self._sums.values() if own.planes and each is not own)
        if any(each.given[party] < each.items for each in before):
            raise self._broken(party, message, "histograms come after all other sums")
        rows = counted_rows(message.quantity, *self._rows[party])
        if own.fragments:
            self._add_nodes(party, message, own, part, rows)
        else:
            self._check_rows(party, message, own.awaited[0], part, rows)
            own.values += part
            own.given[party] = 1
        yield from self._send_up(own)
        if all(each.complete for each in self._sums.values()):
            self._go_below(message, "passing")
            self._above.state = "passing"

    def _part(self, party: str, message: Contribution, own: _Sum) -> npt.NDArray[Any]:
        """A party's part, held to its type and shape, and to what it has given before."""
        expected = (None,) if own.fragments else own.awaited[0].shape
        part = messages.to_array(party, message.quantity, message.values, own.values.dtype.type, expected)
        if not own.fragments and (message.first or own.given[party]):
            raise self._broken(party, message, "that part was given before, or does not come whole")
        return part

    def _add_nodes(self, party: str, message: Contribution, own: _Sum, part: npt.NDArray[Any], rows: int) -> None:
        """Add the histograms of whole nodes, those that come next, to the sum."""
        given, shapes = own.given[party], own.shapes
        nodes = whole_nodes(shapes, given, len(part))
        if message.first != given or not nodes:
            raise self._broken(party, message, nodes_expected(shapes, given, message.first, len(part)))
        begin = 0
        for place, _, count in nodes:
            _, planes, cells = shapes[place]
            end = begin + count * planes * cells
            self._check_rows(party, message, own.awaited[place], part[begin:end].reshape(count, planes, cells), rows)
            begin = end
        first = words_before(shapes, given)
        own.values[first : first + len(part)] += part
        own.given[party] = given + sum(count for _, _, count in nodes)

    def _check_rows(
        self, party: str, message: Contribution, awaited: Awaited, part: npt.NDArray[Any], rows: int
    ) -> None:
        if fault := fault_of(part, awaited.planes, awaited.most, rows):
            raise self._broken(party, message, f"{fault}; a party's sums are of its own rows")

    def _send_up(self, own: _Sum) -> Outgoing:
        ready = min(own.given.values())
        if ready == own.sent:
            return
        values, first = own.values, 0
        if own.fragments:
            first = own.sent
            values = values[words_before(own.shapes, first) : words_before(own.shapes, ready)]
        own.sent = ready
        sums = Contribution(self._tree, own.step, own.awaited[0].quantity, first, messages.to_tensor(values))
        yield self._plan.aggregator, messages.encode(sums)

    # --- states and errors ----------------------------------------------------------------------------------------------------

    def _go(self, message: Message, state: str) -> None:
        """Enter a state because of the aggregator's message; parties may send what goes with it."""
        self._above.go(message, state)
        self._below.state = state

    def _go_below(self, message: Message, state: str) -> None:
        self._below.go(message, state)

    def _broken(self, party: str, message: Contribution, rule: str) -> ProtocolError:
        return ProtocolError(
            f"member {party!r} sent {message.quantity[:40]!r} of tree {message.tree}, step {message.step}, to collector "
            f"{self.name!r}: {rule}",
            member=party,
            rule=rule,
        )

    def _broken_above(self, message: Message, rule: str) -> ProtocolError:
        return ProtocolError(
            f"member {self._plan.aggregator!r} (aggregator) sent {type(message).__name__} to collector {self.name!r}: {rule}",
            member=self._plan.aggregator,
            rule=rule,
        )
