"""The aggregator's hub where a plan has collectors: parties behind a collector come and go by their own names. No I/O of its own.

What a collector passes on of a party comes out as that party's frame, and what goes to such a party is handed to its collector. Sums
come in the collector's own name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from hansa.errors import MemberLost, ProtocolError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import PassOn
from hansa.roles.summed.collector import PASSED_UP
from hansa.transport.channel import Frame, Hub, Traffic


class BranchedHub:
    """See `hansa.transport.channel.Hub`.

    Args:
        hub: with the connections of collectors, and of parties that have none. plan: of the run.
    """

    def __init__(self, hub: Hub, plan: Plan) -> None:
        self._hub = hub
        self._parties = dict(plan.collectors)
        self._collector_of = {party: name for name, own in plan.collectors for party in own}
        self._lost: deque[MemberLost] = deque()

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """See `Hub`; by connection."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """See `Hub`."""
        collector = self._collector_of.get(member)
        if collector is None:
            self._hub.send(member, frame)
        else:
            self._hub.send(collector, messages.encode(PassOn(member, memoryview(frame))))

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """See `Hub`. Raises ProtocolError where a collector passes on what is not its to pass on."""
        if self._lost:
            raise self._lost.popleft()
        try:
            member, frame = self._hub.receive(timeout)
        except MemberLost as loss:
            reason = f"its collector {loss.member!r} is gone"
            self._lost += (MemberLost(party, reason) for party in self._parties.get(loss.member, ()))
            raise
        if member not in self._parties or messages.kind_of(member, frame) is not PassOn:
            return member, frame
        passed = messages.decode(member, frame)
        assert isinstance(passed, PassOn)  # its kind
        if passed.member not in self._parties[member]:
            raise ProtocolError(
                f"collector {member!r} passes on a frame of {passed.member[:63]!r}, which is no party of it",
                member=member,
            )
        kind = messages.kind_of(passed.member, passed.frame)
        if kind not in PASSED_UP:
            raise ProtocolError(
                f"collector {member!r} passes on {kind.__name__} of party {passed.member!r}; a collector adds up what parties send, "
                f"and passes on {', '.join(each.__name__ for each in PASSED_UP)} alone",
                member=member,
            )
        return passed.member, passed.frame

    def drop(self, member: str, reason: str) -> None:
        """See `Hub`."""
        self._hub.drop(member, reason)

    def close(self) -> None:
        """See `Hub`."""
        self._hub.close()
