"""Processes of a coopetitive run: the hub that relays, and every other member with whichever roles the plan gives it.

A hub that the plan gives other roles too plays them in its own process, as a local member of its transport.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import hashlib
import resource
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypedDict, TypeVar

from msgspec.structs import replace as replaced

from hansa.data.source import Rows, read_rows
from hansa.errors import HansaError, LinkLost, MemberLost, PlanError, TransportError
from hansa.node.auditing import RunAudit
from hansa.node.config import MemberFile
from hansa.node.events import Listening, OnEvent
from hansa.node.files import ANSWER_S, admission, hub_end, put_model, survives, transcript_name, warn
from hansa.node.links import BACKLOG_BYTES, SPIN_S, connect, is_direct, limits_of
from hansa.node.memory import free_memory
from hansa.node.own_rows import RowsHere
from hansa.node.pauses import Pauses
from hansa.node.phases import PhaseCost, PhaseTimes
from hansa.node.record import HubRecord, RunRecord, Seconds, SharedRecord, bytes_of, first_record, keeping
from hansa.node.shared_state import SharedState
from hansa.node.state import State, fingerprint
from hansa.node.warm_up import prepare
from hansa.plan import Plan
from hansa.roles.batches import Admit, admit_all, told_of
from hansa.roles.run import LocalMemberRole, Progress, agreement, run_hub, run_member
from hansa.roles.shared.member import SharedMember
from hansa.roles.shared.relay import Closing, RelayHub
from hansa.transport.channel import Channel, Hub, Traffic
from hansa.transport.local_member import HubWithLocalMember, LocalMember
from hansa.transport.notices import Notify
from hansa.transport.recording import RecordingChannel, RecordingHub, RecordingLocalMember
from hansa.transport.tls_hub import TlsHub
from hansa.trees.worker_pool import WorkerPool

RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of `ru_maxrss`."""


class _Ending(TypedDict, total=False):
    """Fields of `SharedRecord` that are known at the end."""

    roles: tuple[str, ...]
    run: str
    rounds: int
    history: dict[str, tuple[tuple[int, float | None], ...]]
    without_value: dict[str, str]
    openings: tuple[str, ...]
    cut: str
    rows: int
    warnings: tuple[str, ...]
    model_sha256: str | None
    training_rounds: int
    tree_seconds: tuple[float, ...]
    phase_trees: int
    phases: dict[str, PhaseCost]
    peak_bytes: int
    seconds: Seconds


@dataclass
class _Attempt:
    """An attempt to take part in an epoch, and what the next one needs to know.

    Attributes:
        port: where the hub listens. wait_s: seconds to wait for others. began: whether the epoch began.
        model: of a receiver, once all receivers have it; then all that may be missing is that the others are told of the end.
        withheld: whether it is decided that nobody gets it; the same holds.
    """

    port: int
    wait_s: float
    began: bool = False
    model: bytes | None = None
    withheld: bool = False


class _Played:
    """This member's roles, ready to be driven, and what is noted of them while they are. Use as a context.

    Attributes:
        role: all of them. limit_s: seconds to wait for each word of the hub, or None.
    """

    def __init__(
        self,
        member: MemberFile,
        event: OnEvent,
        record: RunRecord[SharedRecord] | RunRecord[HubRecord],
        attempt: _Attempt,
    ) -> None:
        plan, name = member.plan, member.identity.name
        self._member = member
        self._record = record
        self._attempt = attempt
        self._rows = _rows_of(member)
        self._state = _state_of(member, self._rows) if survives(member) else None
        self._at: dict[str, float] = {}
        self._rounds_before = 0
        self._tree_seconds: list[float] = []
        self._report = _reporter(name, event)
        self._ledger = PhaseTimes()
        try:
            self.role = SharedMember(
                plan,
                name,
                self._rows,
                nonce=secrets.token_bytes(32) if self._state is None else self._state.nonce,
                signer=member.signer,
                policy=member.policy,
                admit=self._admission(),
                memory_limit=member.memory_limit or free_memory(),
                report=self._note,
                observe=self._ledger.note,
                journal=self._state,
                clock=time.time,
                pool=WorkerPool(member.threads if name in plan.servers else 1),
            )
        except BaseException:
            if self._state is not None:
                self._state.close()
            raise
        # Whoever only owns or receives waits while others compute, for as long as that takes: it is told the end.
        self.limit_s = member.wait_s if "server" in self.role.roles else member.idle_limit_s
        prepare(plan)
        if "server" in self.role.roles:
            _keep_freed_memory()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._attempt.began = self.role.began
        if self._state is not None:
            self._attempt.model = self._state.model
            self._attempt.withheld = self._state.withheld
            self._state.close()

    def _admission(self) -> Admit:
        """What writes a run down in the ledger, once however many epochs it has."""
        if self._rows is None:
            return admit_all
        admit = admission(self._member, RowsHere(self._rows, self._rows.warnings).ledger_columns)
        claim = None if self._state is None else self._state.claim
        return lambda run, roster: None if claim is not None and claim.run == run else admit(run, roster)

    @property
    def goes_on(self) -> bool:
        """Whether there is a state of the run, which may be over."""
        return self._state is not None and self._state.claim is not None

    @property
    def state(self) -> Literal["finished", "withheld"]:
        """How the run ended for these roles."""
        return "withheld" if self.role.withheld else "finished"

    def forget(self) -> None:
        """The run is over: nothing of it stays."""
        if self._state is not None:
            self._state.remove()
            self._state = None

    def _note(self, progress: Progress) -> None:
        if progress.stage == "binned":
            self._rounds_before = self.role.rounds
            self._ledger.clear()
        if progress.stage == "tree":
            self._tree_seconds.append(time.perf_counter() - self._at["binned"] - sum(self._tree_seconds))
            if progress.trees == 1 < progress.rounds:
                # The first tree is cheaper than the others, which the phases are to tell of.
                self._ledger.clear()
        self._at.setdefault(progress.stage, time.perf_counter())
        self._record.stage(progress.stage, progress.trees, self.role.run)
        self._report(progress)

    def counts(self, traffic: Traffic) -> dict[str, int]:
        """What left so far."""
        return {
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "sealed_bytes": self.role.sealed_bytes,
            "clear_bytes": traffic.bytes_up - self.role.sealed_bytes,
        }

    def ended(self) -> _Ending:
        """Put the model where the file says; what the record says of these roles once the run is over."""
        role, rows, at = self.role, self._rows, self._at
        model = role.model if self._state is None else self._state.model
        put_model(self._member, model)
        facts: _Ending = {
            "roles": role.roles,
            "run": role.run.hex(),
            "rounds": role.rounds,
            "history": {name: tuple(values) for name, values in role.history.items()},
            "without_value": role.without_value,
            "openings": tuple(role.openings),
            "rows": 0 if rows is None else rows.n_rows,
            "warnings": () if rows is None else tuple(rows.warnings),
            "model_sha256": None if model is None else hashlib.sha256(model).hexdigest(),
        }
        if role.cut:
            facts["cut"] = role.cut
        if "trained" in at:
            facts["training_rounds"] = role.rounds - self._rounds_before
            facts["tree_seconds"] = tuple(self._tree_seconds)
            facts["phase_trees"] = max(1, len(self._tree_seconds) - 1)
            facts["phases"] = self._ledger.costs()
            facts["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT
            facts["seconds"] = Seconds(binning=at["binned"] - at["registered"], training=at["trained"] - at["binned"])
        return facts


def check_keys(member: MemberFile) -> None:
    """Raise PlanError where the member's file lacks a path that its roles need, or gives a table that nobody wants."""
    plan, name = member.plan, member.identity.name
    if name in plan.parties and member.table is None:
        raise PlanError(
            f"{member.path}: table is missing; name the file with this party's rows, or give a source",
            cure="name the file with this party's rows as table",
        )
    if name not in plan.parties and member.table is not None:
        raise PlanError(
            f"{member.path}: table (or source) is given, and the plan does not name {name!r} a party; leave it out",
            cure="leave table out",
        )
    if name in plan.receivers and member.model is None:
        raise PlanError(
            f"{member.path}: model is missing; this member receives the model: say where to put it",
            cure="say where to put the model",
        )


def _rows_of(member: MemberFile) -> Rows | None:
    """The member's table, where it is a party."""
    if member.table is None:
        return None
    rows = read_rows(member.table, member.schema, label_kind=member.plan.parameters.label_kind)
    told = told_of(member.plan, rows.facts)
    warn(told)
    return dataclasses.replace(rows, warnings=told)


def _state_of(member: MemberFile, rows: Rows | None) -> SharedState:
    """This member's state folder. The order of rows counts: shares of margins have no other name for them."""
    agreed = agreement(member.plan, member.signer.identities)
    of_rows = b"" if rows is None else fingerprint(rows, member.signer, agreed, ordered=True)
    return SharedState(member.state, agreed, member.identity.name, of_rows)


R = TypeVar("R", HubRecord, SharedRecord)


def _epoch_after_epoch(
    member: MemberFile, event: OnEvent, record: RunRecord[R], audit: RunAudit, play: Callable[[_Attempt], R]
) -> R:
    """Play until the run is over; where it survives, again after whatever passes by itself."""
    attempt = _Attempt(member.port, member.wait_s)
    if not survives(member):
        return play(attempt)
    pauses = Pauses(member.wait_s, member.identity.name, event)
    while True:
        try:
            return play(attempt)
        except HansaError as error:
            try:
                pauses.after(error, began=attempt.began)
            except HansaError:
                if (attempt.model is None and not attempt.withheld) or pauses.left_s > 0:
                    raise
                audit.over_alone(withheld=attempt.withheld)
                why = "nobody gets the model" if attempt.withheld else "all receivers have the model"
                warn([f"nobody said that the run is over; {why}, so it is"])
                return _left_alone(member, record, attempt.model)
        attempt.began, attempt.wait_s = False, pauses.left_s


def _left_alone(member: MemberFile, record: RunRecord[R], model: bytes | None) -> R:
    """The record of a member that has the model, or knows that nobody gets it (None), and whom nobody told that the run is over."""
    put_model(member, model)
    with _state_of(member, _rows_of(member)) as state:
        state.remove()
    if model is None:
        return record.end("withheld")
    return record.end("finished", model_sha256=hashlib.sha256(model).hexdigest())


def run_hub_of_members(member: MemberFile, event: OnEvent, notify: Notify, audit: RunAudit) -> HubRecord:
    """Listen, register the plan's members, relay until all are through; beside, play the other roles that the plan gives this member.

    `event` is called with where it listens, then with the run's progress as far as this member knows it; `notify` with what happens
    to connections; `audit` takes down what the member's log keeps.

    Returns:
        The record, also written where the file says: the hub's, with that of its other roles in it.
    """
    plan = member.plan
    plays = plan.hub in plan.participants
    with contextlib.ExitStack() as opened:
        record = opened.enter_context(keeping(member.record, first_record(HubRecord, member, roles=("hub",))))
        alone: State | None = None
        if survives(member) and not plays:  # it keeps nothing; the folder has one process
            agreed = agreement(plan, member.signer.identities)
            alone = opened.enter_context(State(member.state, agreed, plan.hub))

        def play(attempt: _Attempt) -> HubRecord:
            with contextlib.ExitStack() as stack:
                played = stack.enter_context(_Played(member, event, record, attempt)) if plays else None
                return _run_hub(member, event, notify, audit, record, played, attempt)

        ended = _epoch_after_epoch(member, event, record, audit, play)
        if alone is not None:
            alone.remove()
        return ended


def _run_hub(
    member: MemberFile,
    event: OnEvent,
    notify: Notify,
    audit: RunAudit,
    record: RunRecord[HubRecord],
    played: _Played | None,
    attempt: _Attempt,
) -> HubRecord:
    plan = member.plan
    tell = _reporter(plan.hub, event)

    def report(progress: Progress) -> None:
        if played is None:
            record.stage(progress.stage, progress.trees, relay.run)
            tell(progress)

    relay = RelayHub(plan, member.signer.identities, report)
    allowed = tuple(name for name in plan.members if name != plan.hub)
    spins = is_direct(plan) and plan.hub in plan.servers
    limits = limits_of(member, SPIN_S if spins else 0.0)
    owes_logs: Callable[[], list[str]] | None = None

    def owes(waiting_for: Callable[[], list[str]] | None) -> None:
        nonlocal owes_logs
        owes_logs = waiting_for

    def owed() -> list[str]:
        if owes_logs is not None:
            return owes_logs()
        return relay.waiting_for() if played is None else _others_owed(relay, played.role, plan.hub)

    inner = TlsHub.listen(
        member.credentials,
        member.host,
        attempt.port,
        allowed=allowed,
        limits=limits,
        notify=notify,
        owed=owed,
        open_listener=member.open_listener,
    )
    attempt.port = inner.port
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.callback(inner.close)
        record.count(lambda: _relayed_bytes(inner))
        event(Listening(host=member.host, port=inner.port, member=plan.hub))
        try:
            inner.wait_for(allowed, attempt.wait_s)
            with audit.hub_side(inner, allowed, ANSWER_S, survives=survives(member), owes=owes) as counted:
                hub = _relay(member, relay, inner, played, stack, audit, counted)
                facts: _Ending = {"run": relay.run.hex(), "roles": ("hub",)}
                total = time.perf_counter() - started
                if played is not None:
                    own = hub.traffic[plan.hub]
                    record.count(lambda: played.counts(own))
                    facts = played.ended()
                    facts["roles"] = ("hub", *facts["roles"])
                    _note_release(audit, played, facts, plan)
        finally:
            attempt.began = relay.began
        if relay.away:
            _tell_those_away(relay, inner, audit, member.wait_s)
    facts["seconds"] = replaced(facts.get("seconds", Seconds()), total=total)
    ended = record.end(
        "finished" if played is None else played.state,
        roster=tuple((name, rows, held) for name, _, rows, held, _ in relay.roster),
        relayed=tuple((*ends, count) for ends, count in sorted(relay.relayed.items())),
        traffic=bytes_of(hub.traffic),
        **facts,
    )
    if played is not None:
        played.forget()
    return ended


def _note_release(audit: RunAudit, played: _Played, facts: _Ending, plan: Plan) -> None:
    """In the audit log: the model, or that nobody gets it."""
    if played.state == "withheld":
        audit.withheld()
    audit.released(facts["model_sha256"], plan.receivers)


def _tell_those_away(relay: RelayHub, hub: Hub, audit: RunAudit, wait_s: float) -> None:
    """The run is over: wait for those who left it when they had nothing more to do."""
    closing = Closing(relay.run, relay.away)
    try:
        run_hub(audit.taking_back(closing), hub, wait_s)
    except HansaError as error:  # whatever one of them says now: the run is over
        warn([f"{', '.join(closing.waiting_for())} did not come back to be told that the run is over: {error}"])


def _relayed_bytes(hub: TlsHub) -> dict[str, int]:
    traffic = hub.traffic.values()
    return {"bytes_up": sum(t.bytes_up for t in traffic), "bytes_down": sum(t.bytes_down for t in traffic)}


def _relay(
    member: MemberFile,
    relay: RelayHub,
    inner: TlsHub,
    played: _Played | None,
    stack: contextlib.ExitStack,
    audit: RunAudit,
    counted: Callable[[Hub], Hub],
) -> Hub:
    """Relay, and play what is to be played, to the end of the run; the hub as its traffic is to be read from."""
    plan, transcript = member.plan, member.transcript
    # Over direct links the hub may receive nothing while servers compute, for as long as that takes: they watch each other.
    answer_s = None if is_direct(plan) else ANSWER_S
    relaying = audit.taking_back(relay) if survives(member) else relay

    def recorded(hub: Hub) -> Hub:
        if transcript is None:
            return hub
        name = transcript_name(transcript, hub_end(plan))
        return stack.enter_context(contextlib.closing(RecordingHub(hub, transcript, name)))

    if played is None:
        hub = counted(recorded(inner))
        run_hub(relaying, hub, answer_s)
        return hub
    role = played.role
    played_here = LocalMemberRole(role, plan.hub, lambda: _others_owed(relay, role, plan.hub))
    stack.callback(played_here.erase)
    local_member: LocalMember = played_here
    if transcript is not None:
        name = transcript_name(transcript, plan.hub)
        local_member = stack.enter_context(contextlib.closing(RecordingLocalMember(played_here, transcript, name)))
    within = HubWithLocalMember(inner, plan.hub, local_member, answer_s=played.limit_s, backlog_bytes=BACKLOG_BYTES)
    hub = counted(recorded(within))
    try:
        run_hub(relaying, hub, answer_s)
    except HansaError as error:
        cause = played_here.error
        within.settle()
        if cause is not None:
            raise cause from error
        raise
    within.settle()
    if played_here.error is not None:
        raise played_here.error
    return hub


def _others_owed(relay: RelayHub, role: SharedMember, hub: str) -> list[str]:
    """Whom the hub and the roles beside it wait for."""
    return [name for name in role.waiting_for() if name != hub] or relay.waiting_for()


def run_member_of_hub(member: MemberFile, event: OnEvent, notify: Notify, audit: RunAudit) -> SharedRecord:
    """Connect to the hub and play this member's roles. Returns the record, which is also written where the file says.

    `event` is called with the run's progress as far as this member knows it; `notify` with what happens to connections; `audit` takes
    down what the member's log keeps.
    """
    with keeping(member.record, first_record(SharedRecord, member, roles=())) as record:

        def play(attempt: _Attempt) -> SharedRecord:
            with _Played(member, event, record, attempt) as played:
                return _play(member, notify, audit, record, played, attempt)

        return _epoch_after_epoch(member, event, record, audit, play)


def _play(
    member: MemberFile,
    notify: Notify,
    audit: RunAudit,
    record: RunRecord[SharedRecord],
    played: _Played,
    attempt: _Attempt,
) -> SharedRecord:
    plan, name = member.plan, member.identity.name
    role = played.role
    inner = connect(member, "server" in role.roles, notify, role.waiting_for, attempt.wait_s)
    channel: Channel = inner
    try:
        if member.transcript is not None:
            channel = RecordingChannel(inner, member.transcript, transcript_name(member.transcript, name))
        record.count(lambda: played.counts(inner.traffic))
        goes_on, survived = played.goes_on, survives(member)
        with audit.member_side(inner, played.limit_s, goes_on=goes_on, survives=survived) as counted:
            run_member(role, counted(channel), played.limit_s, role.waiting_for)
            facts = played.ended()
            _note_release(audit, played, facts, plan)
        if plan.is_one_of_many:  # the next run is another one: it begins once the hub has ended the connection
            with contextlib.suppress(TransportError):
                channel.receive(attempt.wait_s)
    except TransportError as error:
        lost = error if isinstance(error, LinkLost) else error.__cause__
        if isinstance(lost, LinkLost):
            hub_lost = MemberLost(plan.hub, str(lost))
            hub_lost.run = error.run
            raise hub_lost from error
        raise
    finally:
        channel.close()
    ended = record.end(played.state, **facts)
    played.forget()
    return ended


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of `mallopt` in glibc's malloc.h."""


def _keep_freed_memory() -> None:
    """Have the C library reuse large arrays' memory instead of returning it: every level needs the same again.

    Fresh pages cost a fifth of a server's time at a million rows. Where the C library is another, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 * 2**20)):
            mallopt(name, value)


def _reporter(name: str, event: OnEvent) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        event(replaced(progress, member=name))

    return report
