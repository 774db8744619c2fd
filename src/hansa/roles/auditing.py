"""How members show each other their audit logs: before a run, and when it is over. No I/O: frames in, frames out.

Before a run every member shows where its log stands, and proves that this extends what each other member holds of it; who cannot is
refused by everyone who holds more. When the run is over, however it ended, all show their logs anew, and countersign what was shown:
from then on each holds every other to the record of this run. Nonces of all members name the exchange, so that nobody can show an old
checkpoint in the name of another. The hub passes everything on, and shows its own log as the others do.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import msgspec

from hansa.consortium.audit_entries import (
    CheckpointCountersigned,
    CheckpointJson,
    CheckpointRefused,
    CheckpointsSeen,
    Entry,
    LogReplaced,
    Phase,
)
from hansa.consortium.audit_log import (
    COUNTERSIGN_PURPOSE,
    PROVED_PURPOSE,
    SHOWN_PURPOSE,
    Checkpoint,
    Extension,
    now,
    shown_digest,
    signed_checkpoint,
    signed_proofs,
)
from hansa.consortium.identity import verify
from hansa.errors import IdentityError, ProtocolError, RunStopped
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    Abort,
    AskLogs,
    CountersignLogs,
    Join,
    LogCheckpoint,
    LogProof,
    LogsCountersigned,
    LogsOpened,
    LogsShown,
    Message,
    OpenLogs,
    ShowLog,
)
from hansa.protocol.session import LOG_HUB, LOG_MEMBER, Session
from hansa.roles.key_setup import Signer
from hansa.roles.run import HubRole
from hansa.transport.channel import Frame

NONCE_BYTES = 32
MOST_RETURNS = 1000
"""Of one member to a run, each of which adds an entry to the hub's log."""
SAME_RELEASE = "install the same release of Hansa everywhere"
GROWS = "a member's audit log only grows"
GOES_ON = "a member goes on with the audit log that it showed before"


class OwnLog(Protocol):
    """A member's own log (`consortium.audit_log.AuditLog`)."""

    def flush(self) -> Checkpoint: ...

    def append(self, *entries: Entry) -> None: ...

    def extension(self, prior: int, size: int) -> Extension: ...

    def held(self) -> dict[str, CheckpointJson]: ...


class LogExchange:
    """What both sides of the exchange do alike.

    Args:
        plan: as every member holds it. name: this member. log: its own. signer: its signature, and everybody's pinned identity.
        new_logs: names of logs, in hex, that may take the place of others (`Policy.new_logs`). nonce: 32 bytes nobody can foresee.
    """

    def __init__(
        self, plan: Plan, name: str, log: OwnLog, signer: Signer, new_logs: Iterable[str], nonce: bytes
    ) -> None:
        self.plan = plan
        self.name = name
        self.nonce = nonce
        self.session = b""
        self._log = log
        self._signer = signer
        self._new_logs = frozenset(new_logs)
        self._held = log.held()
        self._own: Checkpoint | None = None
        self._opened: dict[str, CheckpointJson] = {}
        self._signed: frozenset[str] = frozenset()

    @property
    def unsigned(self) -> tuple[str, ...]:
        """The members of whom no signature came over what this one was shown at the end: the hub may have shown them another past."""
        return tuple(name for name in self.plan.members if name not in self._signed)

    @property
    def sizes_held(self) -> dict[str, int]:
        """Of each other member's log with a role in the plan, the size of the newest checkpoint that this member holds."""
        return {name: self._held[name].size for name in self.plan.members if name in self._held}

    @property
    def opened(self) -> bool:
        """Whether all showed their logs before the run."""
        return bool(self._opened)

    def begin(self, nonces: Mapping[str, bytes]) -> None:
        """Name the exchange by everybody's nonce."""
        # Not by the plan: where plans differ, `Join` says in what.
        content = msgspec.json.encode(sorted((name, nonce.hex()) for name, nonce in nonces.items()))
        self.session = hashlib.sha256(b"hansa logs\x00" + content).digest()

    def show(self, phase: Phase, sizes: Iterable[int]) -> LogCheckpoint:
        """This member's checkpoint, with proofs that it extends logs of these sizes. What it says has reached the disk."""
        own = self._log.flush()
        priors = {size for size in sizes if 1 <= size <= own.size}
        if self._own is not None:
            priors.add(self._own.size)
        proofs = [self._log.extension(prior, own.size) for prior in sorted(priors)]
        self._own = own
        signature = self._signer.sign(SHOWN_PURPOSE, signed_checkpoint(self.session, phase, self.name, own))
        told = tuple(LogProof(p.prior, p.size, p.rule, p.subset, p.path) for p in proofs)
        proved = self._signer.sign(PROVED_PURPOSE, signed_proofs(self.session, phase, self.name, told))
        return LogCheckpoint(own.log, own.size, own.root, signature, told, proved)

    def check(self, phase: Phase, logs: Mapping[str, LogCheckpoint]) -> None:
        """Hold what members showed to what this one holds of them; note it. Raises ProtocolError naming the member and the rule."""
        before = self._held if phase == "opening" else self._opened
        shown: dict[str, CheckpointJson] = {}
        replaced: list[Entry] = []
        for name, given in sorted(logs.items()):
            checkpoint = Checkpoint(given.log, given.size, given.root)
            self._check_signature(phase, name, checkpoint, given)
            shown[name] = checkpoint.shown(given.signature)
            held = before.get(name)
            if name == self.name or held is None:
                continue
            if held.log != shown[name].log and phase == "opening" and shown[name].log in self._new_logs:
                replaced.append(LogReplaced(at=now(), member=name, before=held.log, after=shown[name].log))
                continue
            self._check_extension(phase, name, given, shown[name], held)
        self._opened = shown
        self._log.append(*replaced, CheckpointsSeen(at=now(), phase=phase, session=self.session.hex(), shown=shown))

    def countersign(self) -> bytes:
        """This member's signature over what was shown at the end of the run."""
        return self._signer.sign(COUNTERSIGN_PURPOSE, self._digest)

    def check_countersigned(self, signatures: Mapping[str, bytes]) -> None:
        """Note everybody's signature over what this member was shown. Raises ProtocolError: somebody was shown something else."""
        least = {self.name, self.plan.hub}
        if not least <= signatures.keys():
            raise ProtocolError(
                f"member {self.plan.hub!r} shows no signature of {', '.join(sorted(least - signatures.keys()))} over the logs",
                member=self.plan.hub,
            )
        for name, signature in sorted(signatures.items()):
            if name not in self._opened:
                raise ProtocolError(f"member {name[:63]!r} countersigned logs, and showed none", member=name[:63])
            try:
                verify(self._signer.identities[name], COUNTERSIGN_PURPOSE, self._digest, signature)
            except IdentityError as error:
                raise ProtocolError(
                    f"member {name!r} countersigned other logs than this member was shown: one of them was shown a different past",
                    suspects=tuple(sorted({name, self.plan.hub})),
                    rule="all members are shown the same logs",
                ) from error
        self._signed = frozenset(signatures)
        self._log.append(
            CheckpointCountersigned(
                at=now(),
                phase="closing",
                session=self.session.hex(),
                digest=self._digest.hex(),
                signatures={name: signature.hex() for name, signature in sorted(signatures.items())},
            )
        )

    @property
    def _digest(self) -> bytes:
        return shown_digest(self.session, "closing", self._opened)

    def _check_signature(self, phase: Phase, name: str, checkpoint: Checkpoint, given: LogCheckpoint) -> None:
        lengths = (len(checkpoint.log), len(checkpoint.root), len(given.signature), len(given.proofs_signature))
        if lengths != (32, 32, 64, 64) or checkpoint.size < 1:
            raise ProtocolError(f"member {name!r} showed what is no checkpoint of an audit log", member=name)
        signed = signed_checkpoint(self.session, phase, name, checkpoint)
        try:
            verify(self._signer.identities[name], SHOWN_PURPOSE, signed, given.signature)
            proved = signed_proofs(self.session, phase, name, given.proofs)
            verify(self._signer.identities[name], PROVED_PURPOSE, proved, given.proofs_signature)
        except IdentityError as error:
            raise ProtocolError(
                f"the checkpoint of the audit log of {name!r}, or what it extends, is not signed by {name!r} for this run",
                suspects=tuple(sorted({name, self.plan.hub})),
                rule="a member signs where its audit log stands",
            ) from error

    def _check_extension(
        self, phase: Phase, name: str, given: LogCheckpoint, shown: CheckpointJson, held: CheckpointJson
    ) -> None:
        rule, why, cure = "", "", ""
        asked = self.name == self.plan.hub or phase == "closing" or any(p.prior == held.size for p in given.proofs)
        if shown.log == held.log and shown.size > held.size and not asked:
            raise ProtocolError(
                f"member {name!r} shows no proof that its audit log of {shown.size} entries extends the one of {held.size} that it "
                f"showed before: it was not asked for one by {self.plan.hub!r}, or kept it back",
                suspects=tuple(sorted({name, self.plan.hub})),
                rule=GROWS,
            )
        if shown.log != held.log:
            rule = GOES_ON
            why = f"shows another audit log ({shown.log}) than the one that it showed before ({held.log})"
            cure = f"ask {name!r} what happened to its log; only where you accept the answer, add {shown.log} to policy.new_logs"
        elif shown.size < held.size or not _extends(given, held):
            rule = GROWS
            why = (
                f"shows an audit log of {shown.size} entries that does not extend the one of {held.size} that it showed before: it "
                "rewrote its record, or put an old copy back"
            )
            cure = f"ask {name!r} for the log that it had, and hold it to yours by `hansa audit compare`"
        if not rule:
            return
        refused = CheckpointRefused(
            at=now(), member=name, phase=phase, session=self.session.hex(), shown=shown, before=held
        )
        self._log.append(refused)
        raise ProtocolError(f"member {name!r} {why}; {cure}", member=name, rule=rule, cure=cure)


def _extends(given: LogCheckpoint, held: CheckpointJson) -> bool:
    if given.size == held.size:
        return given.root.hex() == held.root
    before = Checkpoint(bytes.fromhex(held.log), held.size, bytes.fromhex(held.root))
    after = Checkpoint(given.log, given.size, given.root)
    return any(
        Extension(p.prior, p.size, p.rule, p.subset, p.path).holds(before, after)
        for p in given.proofs
        if p.prior == held.size
    )


class MemberLogs:
    """A member's side of the exchange with the hub: a role of its own before the run, and one after it (`ask_again`).

    Args:
        exchange: what this member shows and checks. alone: whether the hub may show its own log only, as where a run is over and this
            member comes back for the model.

    Attributes:
        done: whether this end of the exchange is over. closing: whether the hub will ask for logs when the run is over.
    """

    run = b""

    def __init__(self, exchange: LogExchange, *, alone: bool = False) -> None:
        self.done = False
        self.closing = False
        self._exchange = exchange
        self._alone = alone
        self._session = Session("member", LOG_MEMBER, "opening")
        self._shown: LogCheckpoint | None = None
        self._names: set[str] = set()

    @property
    def unsigned(self) -> tuple[str, ...]:
        """See `LogExchange`."""
        return self._exchange.unsigned

    def opening(self) -> Iterator[bytes]:
        """The frame that a member sends before it is asked anything; none after the run."""
        if self._session.state == "opening":
            yield messages.encode(OpenLogs(PROTOCOL_VERSION, self._exchange.nonce, self._exchange.sizes_held))

    def ask_again(self) -> None:
        """The run is over: the hub's `AskLogs` comes next."""
        self.done = False

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """Answer one frame of the hub. Raises ProtocolError; RunStopped where another member stopped the run."""
        exchange, hub = self._exchange, self._exchange.plan.hub
        message = self._session.decode(hub, frame)
        match message:
            case LogsOpened():
                self._open(message)
                self._session.go(message, "showing")
                yield self._show("opening", message.sizes)
            case LogsShown():
                closing = self._session.state == "closing"
                self._check(message, closing)
                self._session.go(message, "countersigning" if closing else "open")
                if closing:
                    yield messages.encode(CountersignLogs(exchange.countersign()))
                else:
                    self.done = True
            case AskLogs():
                self._session.go(message, "closing")
                yield self._show("closing", ())
            case LogsCountersigned():
                exchange.check_countersigned(message.signatures)
                self._session.go(message, "closed")
                self.done = True
            case Abort():
                self._session.go(message, "aborted")
                who = f" because of member {message.member!r}" if message.member else ""
                raise RunStopped(
                    hub,
                    f"member {hub!r} stopped the run{who}: {message.reason}",
                    retry=message.retry,
                    member=message.member,
                )

    def is_legal(self, frame: memoryview) -> bool:
        """Whether a frame may come now; after a run that failed, what was under way may still come."""
        try:
            self._session.check(self._exchange.plan.hub, messages.kind_of(self._exchange.plan.hub, frame))
        except ProtocolError:
            return False
        return True

    def erase(self) -> None:
        """It has no key of its own."""

    def _show(self, phase: Phase, sizes: Iterable[int]) -> bytes:
        self._shown = self._exchange.show(phase, sizes)
        return messages.encode(ShowLog(self._shown))

    def _open(self, message: LogsOpened) -> None:
        exchange = self._exchange
        everybody, pair = {*exchange.plan.members}, {exchange.name, exchange.plan.hub}
        self._names = set(message.nonces)
        if self._names != everybody and not (self._alone and self._names == pair) and not self._left_out(self._names):
            raise ProtocolError(
                f"member {exchange.plan.hub!r} opens a run of {', '.join(sorted(self._names))[:1000]}; this member's plan has "
                f"{', '.join(sorted(everybody))}: give every member the same plan file",
                member=exchange.plan.hub,
                rule="all members hold the same plan and members file",
                cure="give every member the same plan file and members file",
            )
        if message.nonces[exchange.name] != exchange.nonce:
            raise ProtocolError(
                f"member {exchange.plan.hub!r} shows another nonce of this member than it sent",
                member=exchange.plan.hub,
            )
        if len(message.sizes) > len(everybody):
            raise ProtocolError(
                f"member {exchange.plan.hub!r} asks for proofs from {len(message.sizes)} sizes; others hold {len(everybody)} at most",
                member=exchange.plan.hub,
            )
        self.closing = self._names == everybody or self._left_out(self._names)
        exchange.begin(message.nonces)

    def _left_out(self, names: set[str]) -> bool:
        """Whether a run may go on with these alone: the plan leaves out parties that do not come back."""
        plan = self._exchange.plan
        there = {*plan.parties} & names
        least = plan.minimum_parties
        known = {self._exchange.name, plan.hub} <= names <= {*plan.members}
        return self._alone and plan.on_dropout == "continue" and known and len(there) >= least

    def _check(self, message: LogsShown, closing: bool) -> None:
        exchange = self._exchange
        names, least = set(message.logs), {exchange.name, exchange.plan.hub}
        fits = least <= names <= self._names if closing else names == self._names
        if not fits or message.logs[exchange.name] != self._shown:
            raise ProtocolError(
                f"member {exchange.plan.hub!r} shows the logs of {', '.join(sorted(names))[:1000]}, or this member's other than it "
                "stands",
                member=exchange.plan.hub,
            )
        exchange.check("closing" if closing else "opening", message.logs)


Outgoing = Iterator[tuple[str, bytes]]


class HubLogs:
    """The hub's side of the exchange, with its own log.

    Args:
        exchange: as for `MemberLogs`. members: whose logs are asked for, the hub's own apart.

    Attributes:
        done: whether this end of the exchange is over.
    """

    run = b""

    def __init__(self, exchange: LogExchange, members: Iterable[str]) -> None:
        self.done = False
        self._exchange = exchange
        self._members = tuple(members)
        self._session = Session("hub", LOG_HUB, "opening")
        self._opens: dict[str, OpenLogs] = {}
        self._logs: dict[str, LogCheckpoint] = {}
        self._signatures: dict[str, bytes] = {}

    @property
    def parties(self) -> tuple[str, ...]:
        """Who takes part."""
        return self._members

    @property
    def unsigned(self) -> tuple[str, ...]:
        """See `LogExchange`."""
        return self._exchange.unsigned

    def waiting_for(self) -> list[str]:
        """The members whose next frame is owed."""
        match self._session.state:
            case "opening":
                there = set(self._opens)
            case "showing" | "closing":
                there = set(self._logs)
            case _:
                there = set(self._signatures)
        return sorted({*self._members} - there)

    def has_left(self, member: str) -> bool:  # noqa: ARG002
        """Nobody may hang up before the run."""
        return False

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Take one frame of a member; yields (member, frame) to send. Raises ProtocolError, RunStopped."""
        if messages.kind_of(member, frame) is Join and self._session.state == "opening":
            raise _other_release(member, "an older version of the protocol")
        message = self._session.decode(member, frame)
        match message:
            case OpenLogs():
                yield from self._open(member, message)
            case ShowLog():
                yield from self._show(member, message)
            case CountersignLogs():
                yield from self._countersign(member, message)
            case Abort():
                self._session.go(message, "aborted")
                raise RunStopped(member, f"member {member!r} stopped the run: {message.reason}", retry=message.retry)

    def ask(self) -> Outgoing:
        """The run is over: ask those who are there where their logs stand."""
        self.done = False
        self._session = Session("hub", LOG_HUB, "closing")
        self._logs = {}
        yield from self._broadcast(AskLogs())

    def is_legal(self, member: str, frame: memoryview) -> bool:
        """Whether a frame may come now, as `MemberLogs.is_legal`; none of a member that was left out."""
        if member not in self._members:
            return False
        try:
            self._session.check(member, messages.kind_of(member, frame))
        except ProtocolError:
            return False
        return True

    def go_on_without(self, members: Iterable[str]) -> Outgoing:
        """After the run: do not wait for these, who are gone or do not answer."""
        gone = set(members)
        self._members = tuple(name for name in self._members if name not in gone)
        if self._session.state == "closing":
            self._logs = {name: log for name, log in self._logs.items() if name not in gone}
            yield from self._all_shown()
        elif self._session.state == "countersigning":
            yield from self._all_countersigned()

    def _open(self, member: str, message: OpenLogs) -> Outgoing:
        if message.version != PROTOCOL_VERSION:
            raise _other_release(member, f"protocol version {message.version}")
        if member in self._opens or len(message.nonce) != NONCE_BYTES:
            raise ProtocolError(
                f"member {member!r} opened its log twice, or with a nonce of another length", member=member
            )
        self._opens[member] = message
        complete = self._opens.keys() >= {*self._members}
        self._session.go(message, "showing" if complete else "opening")
        if not complete:
            return
        exchange = self._exchange
        nonces = {exchange.name: exchange.nonce, **{name: each.nonce for name, each in self._opens.items()}}
        exchange.begin(nonces)
        held = {exchange.name: exchange.sizes_held, **{name: each.held for name, each in self._opens.items()}}
        for name in self._members:
            yield name, messages.encode(LogsOpened(nonces, _sizes(held, name)))
        self._logs[exchange.name] = exchange.show("opening", _sizes(held, exchange.name))

    def _show(self, member: str, message: ShowLog) -> Outgoing:
        if member in self._logs or member not in self._members:
            raise ProtocolError(f"member {member!r} showed its log twice, or unasked", member=member)
        self._logs[member] = message.checkpoint
        yield from self._all_shown()

    def _all_shown(self) -> Outgoing:
        """Show everybody's log to all, once all are here, and check them as the others do."""
        if not self._logs.keys() >= {*self._members}:
            return
        closing = self._session.state == "closing"
        self._session.state = "countersigning" if closing else "open"
        exchange = self._exchange
        if closing:
            self._logs[exchange.name] = exchange.show("closing", ())
        yield from self._broadcast(LogsShown(dict(sorted(self._logs.items()))))
        exchange.check("closing" if closing else "opening", self._logs)
        self._logs = {}
        if not closing:
            self.done = True
            return
        self._signatures[exchange.name] = exchange.countersign()
        yield from self._all_countersigned()

    def _countersign(self, member: str, message: CountersignLogs) -> Outgoing:
        if member in self._signatures or member not in self._members:
            raise ProtocolError(f"member {member!r} countersigned twice, or unasked", member=member)
        self._signatures[member] = message.signature
        yield from self._all_countersigned()

    def _all_countersigned(self) -> Outgoing:
        if not self._signatures.keys() >= {*self._members}:
            return
        self._session.state = "closed"
        signatures = dict(sorted(self._signatures.items()))
        yield from self._broadcast(LogsCountersigned(signatures))
        self._exchange.check_countersigned(signatures)
        self.done = True

    def _broadcast(self, message: Message) -> Outgoing:
        frame = messages.encode(message)
        yield from ((name, frame) for name in self._members)


class ReleasingHub:
    """The role of an aggregator or hub, and the exchange with each member that comes back by itself, apart: for the model of a run that
    is over, or to a coopetitive run that goes on.

    Args:
        role: the aggregator's or hub's. logs: makes the exchange with one member.
    """

    def __init__(self, role: HubRole, logs: Callable[[str], HubLogs]) -> None:
        self._role = role
        self._make = logs
        self._logs: dict[str, HubLogs] = {}
        self._returns: Counter[str] = Counter()

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self._role.done

    @property
    def run(self) -> bytes:
        """The run's id."""
        return self._role.run

    @property
    def parties(self) -> Iterable[str]:
        """Who takes part."""
        return self._role.parties

    def waiting_for(self) -> list[str]:
        """Whose word the role waits for."""
        return self._role.waiting_for()

    def has_left(self, member: str) -> bool:
        """See the role."""
        return self._role.has_left(member)

    def handle(self, member: str, frame: memoryview) -> Iterator[tuple[str, Frame]]:
        """Take one frame of a party. Raises HansaError, as the role and `HubLogs`."""
        kind = messages.kind_of(member, frame)
        if kind is not OpenLogs and (kind is not ShowLog or member not in self._logs):
            # A log that is shown without an exchange answers one that is over: where the run is over too, that is only late.
            yield from self._role.handle(member, frame)
            return
        if kind is OpenLogs:
            self._returns[member] += 1
            if self._returns[member] > MOST_RETURNS:
                raise ProtocolError(
                    f"member {member!r} opened its log more than {MOST_RETURNS} times in one run",
                    member=member,
                    rule=f"a member comes back to a run at most {MOST_RETURNS} times",
                )
            self._logs[member] = self._make(member)
        yield from self._logs[member].handle(member, frame)


def _sizes(held: Mapping[str, Mapping[str, int]], name: str) -> tuple[int, ...]:
    """The sizes of a member's log that others hold."""
    return tuple(sorted({sizes[name] for sizes in held.values() if name in sizes}))


def _other_release(member: str, what: str) -> ProtocolError:
    return ProtocolError(
        f"member {member!r} speaks {what}, this hub version {PROTOCOL_VERSION}; {SAME_RELEASE}",
        member=member,
        rule=f"protocol version {PROTOCOL_VERSION}",
        cure=SAME_RELEASE,
    )
