"""The process of a collector: one line to the aggregator, and those of its parties."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from msgspec.structs import replace as replaced

from hansa.errors import HansaError, LinkLost, MemberLost, ProtocolError, RunStopped, TransportError
from hansa.node.auditing import CountingHub, RunAudit
from hansa.node.config import MemberFile
from hansa.node.events import Listening, OnEvent
from hansa.node.files import ANSWER_S, transcript_name
from hansa.node.record import CLEAR, CollectorRecord, bytes_of, first_record, keeping
from hansa.protocol import messages
from hansa.protocol.messages import Abort, AskLogs, LogsCountersigned, LogsOpened, LogsShown
from hansa.roles.run import INTERRUPTED, Progress
from hansa.roles.summed.collector import LOGS_OF_PARTIES, Collector
from hansa.transport.channel import Channel, Frame, Hub
from hansa.transport.notices import Notify
from hansa.transport.recording import RecordingChannel, RecordingHub
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls_links import HubLimits

SPIN_S = 0.001
"""Seconds that a collector looks for the next frame before it sleeps, as the aggregator."""

TURN_S = 0.02
"""Seconds that a collector waits for the end whose word comes next, before it looks at the other one."""

EVENT_S = 1.0
"""Seconds at least between two events that tell of trees."""

MOST_EARLY = 4
"""Frames of a party that are kept before the run begins: it has its `Join` to send, and why it stops."""

OWN_FRAMES = (LogsOpened, LogsShown, AskLogs, LogsCountersigned, Abort)
"""What the aggregator says to a collector's own log, and to all."""


class CollectorLine:
    """Both ends of a collector, in turns. As a channel it gives the frames that are for the collector's own log.

    Args:
        role: the collector's. aggregator: its name. channel: to the aggregator. hub: to the parties.
    """

    def __init__(self, role: Collector, aggregator: str, channel: Channel, hub: Hub) -> None:
        self._role = role
        self._aggregator = aggregator
        self._channel = channel
        self._hub = hub
        self._early: deque[tuple[str, bytes]] = deque()
        self._training = False
        self._parties_first = True

    def send(self, frame: Frame) -> None:
        """Send a frame of the collector's own to the aggregator."""
        self._channel.send(frame)

    def receive(self, timeout: float | None = None) -> memoryview:
        """The aggregator's next frame that is for this member itself; all others pass meanwhile. Raises as `Channel.receive`."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while give_up is None or time.monotonic() < give_up:
            if (frame := self._turn()) is not None:
                return frame
        raise TransportError(f"no frame from member {self._aggregator!r} in {timeout:g} s")

    def close(self) -> None:
        """The ends are closed by whoever opened them."""

    def run(self, channel: Channel, hub: Hub, audit: RunAudit, timeout: float | None) -> None:
        """Play the role to its end over ends that count their frames.

        Args:
            timeout: seconds without a frame of either end after which this member gives up; None for never.

        Raises HansaError: the run stopped; the parties and the aggregator have been told, where the cause lies here or below.
        """
        try:
            with self._training_over(channel, hub):
                for party, frame in self._taken_early():
                    audit.received(party, frame)
                    self._deliver(self._role.from_party(party, memoryview(frame)))
                self._train(timeout)
        except RunStopped:
            raise
        except KeyboardInterrupt:
            self._tell(self._role.name, INTERRUPTED, retry=True)
            raise
        except HansaError as error:
            error.run = error.run or self._role.run.hex()
            lost = isinstance(error, ProtocolError | MemberLost)
            if isinstance(error, LinkLost):
                error.blame(self._aggregator)
            told = str(error) if isinstance(error, ProtocolError | TransportError) else f"a {type(error).__name__}"
            self._tell(error.member if lost or isinstance(error, LinkLost) else self._role.name, told, error.retry)
            raise

    def _train(self, timeout: float | None) -> None:
        frame_at = time.monotonic()
        while not self._role.done:
            before = self._role.frames
            frame = self._turn()
            if frame is not None:
                raise self._stopped(frame)
            if self._role.frames != before:
                frame_at = time.monotonic()
            elif timeout is not None and time.monotonic() > frame_at + timeout:
                owed = self._role.waiting_for()
                stopped = TransportError(f"no frame in {timeout:g} s; waiting for {', '.join(owed)}")
                stopped.blame(*owed)
                raise stopped

    def _stopped(self, frame: memoryview) -> HansaError:
        """Why the aggregator stopped the run; a frame of logs has no place here."""
        message = messages.decode(self._aggregator, frame)
        if not isinstance(message, Abort):
            return ProtocolError(
                f"member {self._aggregator!r} sent {type(message).__name__} in the middle of a run",
                member=self._aggregator,
            )
        who = f" because of member {message.member!r}" if message.member else ""
        return RunStopped(
            self._aggregator,
            f"member {self._aggregator!r} stopped the run{who}: {message.reason}",
            retry=message.retry,
            member=message.member,
        )

    @contextmanager
    def _training_over(self, channel: Channel, hub: Hub) -> Iterator[None]:
        """Frames are counted from here on, and after it no more."""
        before = self._channel, self._hub
        self._channel, self._hub, self._training = channel, hub, True
        try:
            yield
        finally:
            self._channel, self._hub = before
            self._training = False

    def _taken_early(self) -> Iterator[tuple[str, bytes]]:
        while self._early:
            yield self._early.popleft()

    # --- turns ----------------------------------------------------------------------------------------------------------------

    def _turn(self) -> memoryview | None:
        """Take one frame of either end, of the one that is expected first; what is for this member itself is given back."""
        self._parties_first = self._role.awaits_parties if self._training else not self._parties_first
        if self._parties_first:
            return None if self._from_party(TURN_S) else self._from_above(0.0)
        found = self._from_above(TURN_S)
        if found is None:
            self._from_party(0.0)
        return found

    def _from_above(self, timeout: float) -> memoryview | None:
        try:
            frame = self._channel.receive(timeout)
        except TransportError as error:
            if type(error) is not TransportError:
                raise
            return None
        own = messages.kind_of(self._aggregator, frame) in OWN_FRAMES
        if not own or messages.kind_of(self._aggregator, frame) is Abort:
            self._deliver(self._role.from_above(frame))
        return frame if own else None

    def _from_party(self, timeout: float) -> bool:
        """Whether a frame of a party came."""
        try:
            party, frame = self._hub.receive(timeout)
        except MemberLost as loss:
            if self._role.has_left(loss.member) or self._role.stopped:
                return False
            raise
        except TransportError:
            return False
        if not self._training and not self._role.done and messages.kind_of(party, frame) not in LOGS_OF_PARTIES:
            if sum(who == party for who, _ in self._early) >= MOST_EARLY:
                raise ProtocolError(
                    f"member {party!r} sent more than {MOST_EARLY} frames before the run began",
                    member=party,
                    rule="a party answers what it is asked",
                )
            self._early.append((party, bytes(frame)))
        else:
            self._deliver(self._role.from_party(party, frame))
        return True

    def _deliver(self, frames: Iterable[tuple[str, Frame]]) -> None:
        for recipient, frame in frames:
            if recipient == self._aggregator:
                self._channel.send(frame)
                continue
            try:
                self._hub.send(recipient, frame)
            except MemberLost as loss:
                if not self._role.stopped:
                    self._take_last_words(loss)

    def _take_last_words(self, loss: MemberLost) -> None:
        """A party hung up: it may have said why, and that was not received yet. Raises the loss where it did not."""
        while not self._role.has_left(loss.member):
            try:
                party, frame = self._hub.receive(0.0)
            except MemberLost as other:
                if other.member == loss.member:
                    raise loss from other
                raise
            except TransportError:
                raise loss from None
            self._deliver(self._role.from_party(party, frame))

    def _tell(self, member: str, reason: str, retry: bool) -> None:
        """Why this member stops: to the aggregator, and to its parties."""
        abort = messages.abort(member, reason, retry)
        self._role.stop()
        with contextlib.suppress(HansaError):
            self._channel.send(abort)
        for party in self._role.parties:
            with contextlib.suppress(HansaError):
                self._hub.send(party, abort)


def run_collector(member: MemberFile, event: OnEvent, notify: Notify, audit: RunAudit) -> CollectorRecord:
    """Listen for this collector's parties, dial the aggregator, add up. Returns the record, which is also written where the file says.

    `event` is called with where it listens, then with the steps of the run's progress; `notify` with what happens to connections;
    `audit` takes down what the member's log keeps.
    """
    plan, name = member.plan, member.identity.name
    assert member.listen is not None  # a collector's file says it
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        if progress.stage == "tree" and now < told_at + EVENT_S:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, role.run)
        event(replaced(progress, member=name))

    with keeping(member.record, first_record(CollectorRecord, member)) as record:
        role = Collector(plan, name, identities=member.signer.identities, report=report)
        host, port = member.listen
        hub = ResumableHub.listen(
            member.credentials,
            host,
            port,
            allowed=role.parties,
            limits=HubLimits(spin_s=SPIN_S, most_bytes_per_s=member.most_bytes_per_s),
            reconnect_timeout_s=member.reconnect_timeout_s,
            notify=notify,
            owed=role.waiting_for,
            open_listener=member.open_listener,
        )
        try:
            event(Listening(host=host, port=hub.port, member=name))
            channel = ResumableChannel.connect(
                member.credentials,
                plan.aggregator,
                member.host,
                member.port,
                reconnect_timeout_s=member.reconnect_timeout_s,
                retry_for_s=member.wait_s,
                spin_s=SPIN_S,
                most_bytes_per_s=member.most_bytes_per_s,
                notify=notify,
                proxy=member.proxy,
            )
            try:
                record.count(
                    lambda: {
                        "bytes_up": channel.traffic.bytes_up,
                        "bytes_down": channel.traffic.bytes_down,
                        "clear_bytes": channel.traffic.bytes_up,
                    }
                )
                hub.wait_for(role.parties, member.wait_s)
                line = CollectorLine(role, plan.aggregator, channel, hub)
                above: Channel = channel
                below: Hub = hub
                if (folder := member.transcript) is not None:
                    above = RecordingChannel(channel, folder, transcript_name(folder, name))
                    below = RecordingHub(hub, folder, transcript_name(folder, f"{name}.hub"))
                with audit.member_side(line, member.idle_limit_s, leave_within=channel.leave_within) as counted:
                    line.run(counted(above), CountingHub(below, audit), audit, member.idle_limit_s or ANSWER_S)
                    if role.withheld:
                        audit.withheld()
                    model = role.end.model_sha256.hex() if role.end is not None else ""
                    audit.released(model or None, plan.receivers)
            finally:
                channel.close()
        finally:
            hub.close()
        return record.end(
            "withheld" if role.withheld else "finished",
            trees=0 if role.end is None else role.end.trees,
            model_sha256=model or None,
            roster=tuple((party, rows, held) for party, _, rows, held, _ in role.roster if party in role.parties),
            clear=CLEAR[plan.mode],
            traffic=bytes_of(hub.traffic),
        )
