"""What names a run, and the loops that drive roles over channels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Protocol

import msgspec

from hansa.errors import HansaError, LinkLost, MemberLost, OutputError, ProtocolError, RunStopped, TransportError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import Abort
from hansa.transport.channel import Channel, Frame, Hub

Roster = tuple[tuple[str, bytes, int, int, bytes], ...]
"""(member, nonce, rows, evaluation rows, `Join.enough`) of every party of a run, sorted by member; in coopetitive mode of all
`Plan.participants`, with 0 rows for those that have none."""


Purpose = Literal["train", "describe"]
"""What a run is for: a model, or a description of the pooled table. All its members must mean the same."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a run is; each of its kinds is an event (`node.events`), whose JSON says in "event" which.

    Attributes:
        trees: rounds of boosting finished, a tree of every output each. rounds: at most.
        metrics: of the held-out rows after so many rounds, if any; None for one that has no value.
        without_value: why, by metric. member: who tells it; empty where a role tells its own process.
    """

    trees: int
    rounds: int
    metrics: dict[str, float | None] = {}
    without_value: dict[str, str] = {}
    member: str = ""

    @property
    def stage(self) -> str:
        """ "registered", "resumed", "binned", "tree", "trained", "withheld" or "described"."""
        return str(self.__struct_config__.tag)


class Registered(Progress, frozen=True, tag_field="event", tag="registered"):
    """All members have joined."""


class Resumed(Progress, frozen=True, tag_field="event", tag="resumed"):
    """The run goes on in a later epoch, after a process or a line was lost; epoch: its number, from 1. left_out: without whom."""

    epoch: int
    left_out: tuple[str, ...] = ()


class Binned(Progress, frozen=True, tag_field="event", tag="binned"):
    """The cuts are found; trees follow."""


class TreeGrown(Progress, frozen=True, tag_field="event", tag="tree"):
    """A round of boosting is over."""


class Trained(Progress, frozen=True, tag_field="event", tag="trained"):
    """The last round is over."""


class Withheld(Progress, frozen=True, tag_field="event", tag="withheld"):
    """The last round is over, and nobody gets the model: a metric, whose value is told, is not what the plan demands."""


class TableDescribed(Progress, frozen=True, tag_field="event", tag="described"):
    """The pooled table is described; nothing is trained."""


INTERRUPTED = "its operator stopped its process"
"""What other members are told where a process is interrupted."""


def run_id(plan_digest: bytes, roster: Roster) -> bytes:
    """SHA-256 over the plan and the roster, nonces included: 32 bytes, another for every run."""
    return hashlib.sha256(b"hansa run\x00" + plan_digest + msgspec.json.encode(roster)).digest()


def agreement(plan: Plan, identities: Mapping[str, bytes], purpose: Purpose = "train") -> bytes:
    """What all members must hold alike, as 32 bytes: the plan's digest, its members' identities where there are any, and the purpose
    where that is not to train.
    """
    agreed = plan.digest()
    if identities:
        pinned = [(name, identities[name]) for name in plan.members]
        agreed = hashlib.sha256(b"hansa agreement\x00" + agreed + msgspec.json.encode(pinned)).digest()
    if purpose == "train":
        return agreed
    return hashlib.sha256(b"hansa purpose\x00" + purpose.encode() + b"\x00" + agreed).digest()


def agreement_parts(plan: Plan, identities: Mapping[str, bytes], purpose: Purpose = "train") -> dict[str, bytes]:
    """Digests of what makes up `agreement`, by name, so that two members find out in what theirs differ.

    "plan" is the plan's digest, 32 bytes; "purpose", each of its keys (`Plan.by_key`) and each "identity of MEMBER" has 8 bytes. They
    are for people: only `agreement` decides. Nothing secret is hashed: all members hold the plan and the members file.
    """
    content = {
        PURPOSE: purpose,
        **plan.by_key(),
        **{f"identity of {name}": identities[name] for name in plan.members if identities},
    }
    short = {
        name: hashlib.sha256(msgspec.json.encode((name, value), order="sorted")) for name, value in content.items()
    }
    return {"plan": plan.digest(), **{name: digest.digest()[:8] for name, digest in short.items()}}


PURPOSE = "purpose"
"""The name of a run's purpose among the parts of an agreement: no key of a plan."""


class MemberRole(Protocol):
    """A role that talks to the aggregator only."""

    @property
    def done(self) -> bool: ...

    @property
    def run(self) -> bytes: ...

    def opening(self) -> Iterator[bytes]: ...

    def handle(self, frame: memoryview) -> Iterator[bytes]: ...

    def erase(self) -> None:
        """Zero all keys; the run is over for this role, however it ended."""


class HubRole(Protocol):
    """The aggregator's role."""

    @property
    def done(self) -> bool: ...

    @property
    def run(self) -> bytes: ...

    @property
    def parties(self) -> Iterable[str]: ...

    def handle(self, member: str, frame: memoryview) -> Iterator[tuple[str, Frame]]: ...

    def waiting_for(self) -> list[str]:
        """The members whose next frame is owed."""

    def has_left(self, member: str) -> bool:
        """Whether this member has sent its last message, so that it may hang up."""


def run_member(
    role: MemberRole,
    channel: Channel,
    timeout: float | None = None,
    waiting_for: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Drive a member's role until the run is over. Its keys are erased at the end, whatever that is.

    Args:
        timeout: seconds to wait for each frame of the aggregator or hub; None waits for ever.
        waiting_for: names the members whose word is owed, for the error after waiting in vain.

    Raises:
        HansaError: the run stopped; where the cause lies here, the aggregator has been told.
    """
    try:
        with _naming_the_run(role):
            for frame in role.opening():
                channel.send(frame)
            while not role.done:
                for frame in role.handle(channel.receive(timeout)):
                    channel.send(frame)
    except TransportError as error:
        if isinstance(error, LinkLost) and (abort_reason := _abort_reason(role, channel)) is not None:
            raise abort_reason from error
        owed = tuple(waiting_for())
        if not owed:
            raise
        stopped = TransportError(f"{error}; waiting for {', '.join(owed)}", member=error.member, run=error.run)
        stopped.blame(*owed)
        _tell(channel, messages.abort("", str(stopped), stopped.retry))
        raise stopped from error
    except HansaError as error:
        _tell(channel, messages.abort("", _tellable(error), error.retry))
        raise
    except KeyboardInterrupt:
        _tell(channel, messages.abort("", INTERRUPTED, retry=True))
        raise
    finally:
        role.erase()


class LocalMemberRole:
    """A member's role in the hub's own process (`transport.local_member`): what `run_member` makes of one over a channel.

    What stops the role here is told to the hub, and so to all, as an `Abort` of this member.

    Args:
        role: the member's. member: its name. waiting_for: names the members whose word is owed.

    Attributes:
        error: what stopped the role; None as long as nothing has.
    """

    def __init__(self, role: MemberRole, member: str, waiting_for: Callable[[], Iterable[str]] = tuple) -> None:
        self.error: HansaError | None = None
        self._role = role
        self._member = member
        self._waiting_for = waiting_for

    def opening(self) -> Iterator[bytes]:
        """The frames that it sends before it has received anything."""
        return self._guarded(self._role.opening)

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """Its answer to a frame of the hub; none once the role is done or has stopped."""
        return self._guarded(lambda: self._role.handle(frame))

    def waited(self, seconds: float) -> Iterator[bytes]:
        """It has waited in vain for so long: it stops."""
        if self._is_over():
            return
        owed = tuple(self._waiting_for())
        self.error = TransportError(
            f"no frame for member {self._member!r} in {seconds:g} s; waiting for {', '.join(owed)}",
            run=self._role.run.hex(),
        )
        self.error.blame(*owed)
        self._role.erase()
        yield messages.abort("", str(self.error), self.error.retry)

    def erase(self) -> None:
        """Zero the role's keys; the run is over, however it ended."""
        self._role.erase()

    def _guarded(self, frames: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        if self._is_over():
            return
        try:
            with _naming_the_run(self._role):
                yield from frames()
        except HansaError as error:
            self.error = error
            yield messages.abort("", _tellable(error), error.retry)

    def _is_over(self) -> bool:
        return self._role.done or self.error is not None


@contextmanager
def _naming_the_run(role: MemberRole | HubRole) -> Iterator[None]:
    """An error that passes says in which run it was, once that has a name."""
    try:
        yield
    except HansaError as error:
        error.run = error.run or role.run.hex()
        raise


def _tellable(error: HansaError) -> str:
    """What another member may read of an error. Only the protocol's own texts: others may quote a party's cells."""
    if isinstance(error, ProtocolError):
        return str(error)
    return f"it stopped with a {type(error).__name__}; its own log says why"


def _abort_reason(role: MemberRole, channel: Channel) -> HansaError | None:
    """Why the hub stopped the run, where it said so before it hung up and this member, which was sending, has not received it yet."""
    while True:
        try:
            frame = channel.receive(0.0)
            stops = messages.kind_of("", frame) is Abort
        except HansaError:
            return None
        if stops:
            try:
                for _ in role.handle(frame):
                    pass
            except HansaError as abort_reason:
                return abort_reason
            return None


def _raise_abort_of(role: HubRole, hub: Hub, member: str) -> None:
    """Why a member stopped the run, where it said so before it hung up and the hub, which was sending, has not received it yet: the
    error that its `Abort` is, raised.
    """
    while True:
        try:
            sender, frame = hub.receive(0.0)
            stops = sender == member and messages.kind_of(member, frame) is Abort
        except MemberLost as loss:
            if loss.member == member:
                return
            continue
        except HansaError:
            return
        if stops:
            for _ in role.handle(member, frame):
                pass
            return


def _tell(channel: Channel, abort: bytes) -> None:
    try:
        channel.send(abort)
    except HansaError:
        return  # the connection is gone: nobody is left to be told, and the caller raises the cause


def run_hub(role: HubRole, hub: Hub, timeout: float | None = None) -> None:
    """Drive the aggregator's role until the run is over.

    Args:
        timeout: seconds to wait for any party's next frame; None waits for ever.

    Raises:
        HansaError: the run stopped; every party that can still be reached has been told why.
    """
    try:
        with _naming_the_run(role):
            while not role.done:
                try:
                    member, frame = hub.receive(timeout)
                except MemberLost as loss:
                    if role.has_left(loss.member):
                        continue
                    raise
                except TransportError as error:
                    owed = role.waiting_for()
                    stopped = TransportError(f"{error}; waiting for {', '.join(owed)}")
                    stopped.blame(*owed)
                    raise stopped from error
                for recipient, answer in role.handle(member, frame):
                    try:
                        hub.send(recipient, answer)
                    except MemberLost as loss:
                        if not role.has_left(loss.member):
                            _raise_abort_of(role, hub, loss.member)
                            raise
    except HansaError as error:
        _tell_all(role, hub, messages.abort(_at_fault(error), _hub_tells(error), error.retry))
        raise
    except KeyboardInterrupt:
        _tell_all(role, hub, messages.abort("", INTERRUPTED, retry=True))
        raise


def _at_fault(error: HansaError) -> str:
    """Whom the hub names to the others: who broke a rule, stopped the run or is lost. Who is only late is named in the text."""
    return error.member if isinstance(error, ProtocolError | RunStopped | MemberLost) else ""


def _hub_tells(error: HansaError) -> str:
    """What parties may read of an error at the hub: not the paths of its files."""
    return _tellable(error) if isinstance(error, OutputError) else str(error)


def _tell_all(role: HubRole, hub: Hub, abort: bytes) -> None:
    for party in role.parties:
        try:
            hub.send(party, abort)
        except TransportError:
            continue  # that party is gone already
