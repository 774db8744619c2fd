"""A member's audit log while it takes part in a run: what is written, when it is shown to others, and what is counted of messages."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from blake3 import blake3

from hansa.consortium.audit_entries import (
    Counted,
    MessagesCounted,
    ModelReleased,
    RunBegun,
    RunOver,
    RunRefused,
    State,
)
from hansa.consortium.audit_log import AuditLog, now
from hansa.errors import HansaError, MemberLost, OutputError, ProtocolError, TransportError
from hansa.node import logs
from hansa.node.config import MemberFile
from hansa.node.pauses import passes
from hansa.protocol import messages
from hansa.protocol.messages import Abort, OpenLogs, Relay, Resume, ShowLog, Welcome
from hansa.roles.auditing import NONCE_BYTES, HubLogs, LogExchange, MemberLogs, ReleasingHub
from hansa.roles.run import HubRole, Purpose, run_hub, run_member
from hansa.transport.channel import Channel, Frame, Hub, Traffic
from hansa.version import __version__

COUNTING_S = 10.0
"""Seconds at least between two entries that count messages."""

MEMBER_CLOSING_S, HUB_CLOSING_S = 30.0, 10.0
"""Seconds that a member and the hub wait for logs at the end of a run."""

STALE_ABORTS = 3
"""Of a run that failed, that may still come before the hub asks for logs."""

RELEASING = -1
"""Stands for the epoch where the model was made before."""

Pair = tuple[str, str]

MOST_KEPT_BYTES = 2**24
"""Of a frame that is counted later, when the others are at work: a greater one is counted at once, and not kept."""


class FrameTally:
    """Counts and hashes (BLAKE3) frames by sender and receiver; a sealed message by its own, not by who relays it.

    Attributes:
        counts: (sender, receiver, kind) -> [messages, bytes] since `take`.
    """

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str, str], list[int]] = {}
        self._hashes: dict[Pair, Any] = {}

    def note(self, sender: str, receiver: str, kind: str, frame: Frame) -> None:
        """Take one frame in."""
        size = len(frame)
        count = self.counts.setdefault((sender, receiver, kind), [0, 0])
        count[0] += 1
        count[1] += size
        digest = self._hashes.get((sender, receiver))
        if digest is None:
            digest = self._hashes[sender, receiver] = blake3(b"hansa frames\x00")
        digest.update(size.to_bytes(8, "big"))
        digest.update(frame)

    def take(self) -> tuple[Counted, ...]:
        """What was counted since the last time."""
        found = tuple(Counted(*key, *count) for key, count in sorted(self.counts.items()))
        self.counts = {}
        return found

    def transcript(self) -> dict[str, str]:
        """The hash over all frames of each pair, by "SENDER>RECEIVER"."""
        return {f"{sender}>{receiver}": each.hexdigest() for (sender, receiver), each in sorted(self._hashes.items())}


class RunAudit:
    """One member's log during one call of `node.run.run`. Made by `auditing`.

    Args:
        member: the member's file. log: its log. purpose: what the run is for.
    """

    def __init__(self, member: MemberFile, log: AuditLog, purpose: Purpose) -> None:
        self._member = member
        self._plan, self._name = member.plan, member.identity.name
        self._log = log
        self._purpose = purpose
        self._run = b""
        self._epoch = RELEASING
        self._tally = FrameTally()
        self._later: list[tuple[str, str, type[messages.Message], Frame]] = []
        self._counted_at = time.monotonic()
        self._withheld = False
        self._noted: BaseException | None = None
        self._transcript: dict[str, str] = {}

    @property
    def transcript(self) -> dict[str, str]:
        """Of the last epoch that ended, as `RunOver` has it."""
        return dict(self._transcript)

    def transcript_of(self, run: str) -> dict[str, str]:
        """The same of a run that the log says is over; empty where it says nothing of it. run: its id, in hex."""
        return next((dict(over.transcript) for over in reversed([*self._log.entries(RunOver)]) if over.run == run), {})

    # --- frames --------------------------------------------------------------------------------------------------------------

    def begins(self, link: str, frame: Frame) -> None:
        """Note an epoch that begins with a frame, before it goes to the member at the other end of a link."""
        if link != self._name and messages.kind_of(self._name, frame) in (Welcome, Resume):
            self._begin(messages.decode(self._name, frame))

    def sent(self, link: str, frame: Frame) -> None:
        """Count a frame that went to the member at the other end of a link, from here or relayed."""
        if link == self._name:
            return
        kind = messages.kind_of(self._name, frame)
        if kind is Relay:
            relay = messages.decode(self._name, frame)
            assert isinstance(relay, Relay)  # its kind
            if relay.sender == self._name:
                self._note(self._name, relay.receiver, kind, frame)
            return
        self._note(self._name, link, kind, frame)

    def received(self, link: str, frame: Frame) -> None:
        """Count a frame that came from the member at the other end of a link."""
        if link == self._name:
            return
        try:
            kind = messages.kind_of(link, frame)
            if kind is Relay:
                relay = messages.decode(link, frame)
                assert isinstance(relay, Relay)  # its kind
                self._note(relay.sender, relay.receiver, kind, frame)
                return
        except ProtocolError:
            return  # no message: the role refuses it next
        self._note(link, self._name, kind, frame)

    def _note(self, sender: str, receiver: str, kind: type[messages.Message], frame: Frame) -> None:
        if kind in (OpenLogs, ShowLog):
            return
        if kind in (Welcome, Resume) and sender in (self._plan.hub, self._plan.above(self._name)):
            self._begin(messages.decode(sender, frame))
        self._later.append((sender, receiver, kind, frame))
        # Of a frame that was sent nobody promises that it stays as it is, but of bytes.
        changes = sender == self._name and not isinstance(frame, bytes)
        if changes or len(frame) > MOST_KEPT_BYTES:
            self.settle()

    def settle(self) -> None:
        """Count the frames since the last time: while others work, and before what was received is overwritten."""
        for sender, receiver, kind, frame in self._later:
            self._tally.note(sender, receiver, kind.__name__, frame)
        self._later.clear()
        if self._epoch != RELEASING and time.monotonic() - self._counted_at > COUNTING_S:
            self._count()

    def _begin(self, message: messages.AnyMessage) -> None:
        """An epoch began: note it, once."""
        left_out: tuple[str, ...] = ()
        if isinstance(message, Welcome):
            epoch = 0
            roster = tuple((name, rows, held) for name, _, rows, held, _ in message.roster)
        elif isinstance(message, Resume):
            epoch, roster = message.epoch, ()
            there = {name for name, _ in message.claims}
            left_out = tuple(name for name in self._plan.parties if name not in there)
        else:
            return
        if (self._run, self._epoch) == (message.run, epoch):
            return
        self._run, self._epoch, self._counted_at = message.run, epoch, time.monotonic()
        proposal = self._member.proposal
        self._log.append(
            RunBegun(
                at=now(),
                run=message.run.hex(),
                epoch=epoch,
                plan=self._plan.digest().hex(),
                mode=self._plan.mode,
                purpose=self._purpose,
                hub=self._plan.hub,
                hansa=__version__,
                members={name: self._member.members[name].identity.hex() for name in self._plan.members},
                roster=roster,
                proposal="" if proposal is None else proposal.digest.hex(),
                approved_by=() if proposal is None else tuple(sorted(proposal.signatures)),
                left_out=left_out,
            )
        )

    def _count(self) -> None:
        self._counted_at = time.monotonic()
        counts = self._tally.take()
        if counts:
            self._log.append(MessagesCounted(at=now(), run=self._run.hex(), epoch=self._epoch, counts=counts))

    # --- what happens ----------------------------------------------------------------------------------------------------------

    def released(self, model_sha256: str | None, receivers: Iterable[str]) -> None:
        """Note the model that the run made, where this member knows it."""
        if model_sha256 is not None and self._run:
            self._log.append(
                ModelReleased(at=now(), run=self._run.hex(), model=model_sha256, receivers=tuple(sorted(receivers)))
            )

    def refused(self, error: HansaError) -> None:
        """Note an error that ended the run, once."""
        if self._noted is error:
            return
        self._noted = error
        self._log.append(
            RunRefused(
                at=now(),
                run=error.run or self._run.hex(),
                kind=type(error).__name__,
                rule=error.rule,
                member=error.member,
                suspects=error.suspects,
            )
        )

    def put_later(self, run: bytes, model: bytes | None) -> None:
        """Note the end of a run whose model was here already when the process before this one ended."""
        self._run = run
        self.released(None if model is None else hashlib.sha256(model).hexdigest(), self._plan.receivers)
        self._over("finished")

    def over_alone(self, *, withheld: bool) -> None:
        """Note the end of a run whose model others may have, and did not say so."""
        self._over("withheld" if withheld else "finished")

    def withheld(self) -> None:
        """The run ends, and nobody gets the model."""
        self._withheld = True

    def went_on(self, run: bytes) -> None:
        """Which run it is, where only the model was missing and no frame says so."""
        self._run = self._run or run

    def _over(self, state: State) -> None:
        self.settle()
        if state in ("failed", "interrupted") and self._epoch == RELEASING:
            return  # no epoch began
        self._count()
        self._transcript = self._tally.transcript()
        self._log.append(
            RunOver(at=now(), run=self._run.hex(), epoch=self._epoch, state=state, transcript=self._transcript)
        )
        self._tally = FrameTally()

    # --- the exchange with others ------------------------------------------------------------------------------------------------

    def _exchange(self) -> LogExchange:
        """Before an epoch, of which there is none yet."""
        self._epoch = RELEASING
        return self._another_exchange()

    def _another_exchange(self) -> LogExchange:
        nonce = secrets.token_bytes(NONCE_BYTES)
        new_logs = self._member.policy.new_logs
        return LogExchange(self._plan, self._name, self._log, self._member.signer, new_logs, nonce)

    @contextlib.contextmanager
    def member_side(
        self,
        channel: Channel,
        limit_s: float | None,
        *,
        goes_on: bool = False,
        survives: bool = False,
        leave_within: Callable[[float], None] = lambda _: None,
    ) -> Iterator[Callable[[Channel], Channel]]:
        """Show the logs, run what stands inside, and show them anew, however it ended.

        What stands inside runs over a channel that is passed through what this gives.

        Args:
            channel: to the hub. limit_s: seconds to wait for each frame before the run, or None.
            goes_on: whether this member has a state of the run, so that the run may be over. survives: whether it will try again.
            leave_within: called with the seconds that the exchange after the run may take, where the channel mends losses.

        Raises ProtocolError where a member's log is not what it was; HansaError as what stands inside.
        """
        shown = MemberLogs(self._exchange(), alone=goes_on)
        run_member(shown, channel, limit_s, lambda: (self._plan.hub,))
        with self._ending(survives, shown.closing, lambda: _close_member(shown, channel, leave_within)):
            yield lambda counted: CountingChannel(counted, self, self._plan.above(self._name))

    @contextlib.contextmanager
    def hub_side(
        self,
        hub: Hub,
        members: Iterable[str],
        answer_s: float,
        *,
        survives: bool = False,
        owes: Callable[[Callable[[], list[str]] | None], None] = lambda _: None,
    ) -> Iterator[Callable[[Hub], Hub]]:
        """The same at the hub; what stands inside runs over a hub that is passed through what this gives.

        `owes` is told who can say whose word is owed, and None once that is the run's own role.
        """
        shown = HubLogs(self._exchange(), members)
        owes(shown.waiting_for)
        run_hub(shown, hub, answer_s)
        owes(None)
        with self._ending(survives, True, lambda: _close_hub(shown, hub)):
            yield lambda counted: CountingHub(counted, self)

    @contextlib.contextmanager
    def releasing_side(self, role: HubRole) -> Iterator[ReleasingHub]:
        """The role of an aggregator that only tells the model again, which shows its log to each party that comes for it."""
        self.went_on(role.run)
        self._exchange()
        with self._ending(True, False, tuple):
            yield ReleasingHub(role, lambda member: HubLogs(self._exchange(), (member,)))

    def taking_back(self, role: HubRole) -> ReleasingHub:
        """A hub's role of a run that goes on or is over, and the exchange with each member that left and is here again, apart."""
        return ReleasingHub(role, lambda member: HubLogs(self._another_exchange(), (member,)))

    @contextlib.contextmanager
    def _ending(self, survives: bool, closing: bool, close: Callable[[], tuple[str, ...]]) -> Iterator[None]:
        try:
            yield
        except HansaError as error:
            goes_on = survives and passes(error)
            if not goes_on:
                self.refused(error)
            self._over("failed")
            # Where a line is lost nobody is there; a member that is lost to the hub leaves the others.
            if closing and not goes_on and (isinstance(error, MemberLost) or not isinstance(error, TransportError)):
                with contextlib.suppress(HansaError):
                    close()
            raise
        except BaseException:
            with contextlib.suppress(OutputError):
                self._over("interrupted")
            raise
        self._over("withheld" if self._withheld else "finished")
        if closing:
            try:
                unsigned = close()
                if unsigned:
                    logs.note(
                        logging.WARNING,
                        f"{', '.join(unsigned)} did not countersign what this member was shown of all logs at the end of the run, so "
                        "they may have been shown something else; `hansa audit compare` tells",
                    )
            except TransportError as error:
                logs.note(
                    logging.WARNING,
                    f"the other members did not countersign this member's log at the end of the run: {error}",
                )


class CountingChannel:
    """A channel whose frames are counted in the member's log. See `channel.Channel`. above: the member at its other end."""

    def __init__(self, channel: Channel, audit: RunAudit, above: str) -> None:
        self._channel = channel
        self._audit = audit
        self._hub = above

    def send(self, frame: Frame) -> None:
        """Send the frame and count it, whether it arrives or not."""
        try:
            self._channel.send(frame)
        finally:
            self._audit.sent(self._hub, frame)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Receive a frame, and count it before the next."""
        self._audit.settle()
        frame = self._channel.receive(timeout)
        self._audit.received(self._hub, frame)
        return frame

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class CountingHub:
    """A hub whose frames are counted in the member's log. See `channel.Hub`."""

    def __init__(self, hub: Hub, audit: RunAudit) -> None:
        self._hub = hub
        self._audit = audit

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """The counted hub's."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """Send the frame and count it, whether it arrives or not."""
        self._audit.begins(member, frame)
        try:
            self._hub.send(member, frame)
        finally:
            self._audit.sent(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Receive a frame, and count it before the next."""
        self._audit.settle()
        member, frame = self._hub.receive(timeout)
        self._audit.received(member, frame)
        return member, frame

    def drop(self, member: str, reason: str) -> None:
        """Drop a member from the counted hub."""
        self._hub.drop(member, reason)

    def close(self) -> None:
        """Close the hub."""
        self._hub.close()


def _close_member(shown: MemberLogs, channel: Channel, leave_within: Callable[[float], None]) -> tuple[str, ...]:
    """A member's side of the exchange after the run; who did not countersign. What was under way when a run failed is left."""
    leave_within(MEMBER_CLOSING_S)
    shown.ask_again()
    give_up = time.monotonic() + MEMBER_CLOSING_S
    aborts = 0
    while not shown.done:
        frame = channel.receive(max(0.0, give_up - time.monotonic()))
        if messages.kind_of("", frame) is Abort:
            aborts += 1
            if aborts > STALE_ABORTS:
                raise TransportError("the hub stopped the run, and asked for no logs")
        elif shown.is_legal(frame):
            for answer in shown.handle(frame):
                channel.send(answer)
    return shown.unsigned


def _close_hub(shown: HubLogs, hub: Hub) -> tuple[str, ...]:
    """The hub's side of it; who did not countersign. Whoever is gone, or does not answer, is left out."""
    give_up = time.monotonic() + HUB_CLOSING_S
    _deliver(shown, hub, shown.ask())
    while not shown.done:
        try:
            member, frame = hub.receive(max(0.0, give_up - time.monotonic()))
        except MemberLost as loss:
            _deliver(shown, hub, shown.go_on_without([loss.member]))
            continue
        except TransportError:
            _deliver(shown, hub, shown.go_on_without(shown.waiting_for()))
            continue
        if messages.kind_of(member, frame) is not Abort and shown.is_legal(member, frame):
            _deliver(shown, hub, shown.handle(member, frame))
    return shown.unsigned


def _deliver(shown: HubLogs, hub: Hub, frames: Iterable[tuple[str, bytes]]) -> None:
    lost = []
    for recipient, answer in frames:
        try:
            hub.send(recipient, answer)
        except MemberLost as loss:
            lost.append(loss.member)
    if lost:
        _deliver(shown, hub, shown.go_on_without(lost))


@contextlib.contextmanager
def auditing(member: MemberFile, purpose: Purpose) -> Iterator[RunAudit]:
    """A member's log, open for one run; an error that passes is noted in it. Raises StateError, OutputError where it cannot be kept."""
    log = AuditLog(member.audit, member.identity, lambda key: member.members.had(member.identity.name, key))
    audit = RunAudit(member, log, purpose)
    try:
        yield audit
    except HansaError as error:
        with contextlib.suppress(HansaError):
            audit.refused(error)
        raise
    finally:
        log.close()
