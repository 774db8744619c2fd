"""Processes of the federated and secure-aggregation modes: the aggregator, and a party."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace as replaced

from hansa.data.description import Description
from hansa.errors import HansaError, LinkLost, MemberLost, PlanError, ProtocolError, TransportError
from hansa.node import logs
from hansa.node.auditing import RunAudit
from hansa.node.config import MemberFile
from hansa.node.events import Listening, OnEvent
from hansa.node.evidence import beside, keep_evidence
from hansa.node.files import (
    ANSWER_S,
    admission,
    put_model,
    read_start_model,
    survives,
    transcript_name,
    warn,
)
from hansa.node.functions import read_functions
from hansa.node.own_rows import OwnRows, own_rows
from hansa.node.pauses import Pauses
from hansa.node.record import CLEAR, AggregatorRecord, PartyRecord, RunRecord, Seconds, bytes_of, first_record, keeping
from hansa.node.state import AggregatorState, PartyState, fingerprint_key
from hansa.node.warm_up import prepare
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.roles.batches import Admit
from hansa.roles.run import HubRole, Progress, Purpose, agreement, run_hub, run_member
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.branches import BranchedHub
from hansa.roles.summed.custom import NO_FUNCTIONS
from hansa.roles.summed.metric_history import IsBehind
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.party import Party
from hansa.roles.summed.release import released_value
from hansa.roles.summed.surviving_aggregator import SurvivingAggregator
from hansa.roles.summed.surviving_party import SurvivingParty
from hansa.transport.channel import Channel, Frame, Hub, Traffic
from hansa.transport.notices import Notify
from hansa.transport.recording import RecordingChannel, RecordingHub
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls_links import HubLimits
from hansa.trees.worker_pool import WorkerPool

SPIN_S = 0.001
"""Seconds that the aggregator looks for a party's next frame before it sleeps: waking up costs more than most gaps between two."""


PARTY_SPIN_S = 0.003
"""Seconds that a party looks for the aggregator's next request before it sleeps: longer than most levels take there."""


TREE_EVENT_S = 0.1
"""Seconds at least between two events that tell of trees: whoever reads them would wake up for each."""


PARTY_EVENT_S = 1.0
"""The same at a party, whose aggregator tells more."""


KeepDescription = Callable[[Description], None]
"""Takes the description that a run ended with; where a member has one, its run describes in place of training."""


def run_aggregator(
    member: MemberFile,
    event: OnEvent,
    notify: Notify,
    audit: RunAudit,
    keep: KeepDescription | None = None,
    behind: IsBehind | None = None,
) -> AggregatorRecord:
    """Listen, register the plan's parties, train, or describe where there is a `keep`. Returns the record, which is also written where
    the file says.

    `event` is called with where it listens, then with every step of the run's progress; `notify` with what happens to connections;
    `audit` takes down what the member's log keeps; `behind` ends a trial early.
    """
    plan = member.plan
    with contextlib.ExitStack() as opened:
        record = opened.enter_context(
            keeping(member.record, first_record(AggregatorRecord, member, purpose=_purpose(keep)))
        )
        attempt = _Attempt(member.port, member.wait_s)
        if keep is not None or not survives(member):
            return _aggregate(member, event, notify, audit, record, keep, attempt, behind=behind)
        pauses = Pauses(member.wait_s, plan.aggregator, event)
        state = opened.enter_context(
            AggregatorState(member.state, agreement(plan, member.signer.identities), plan.aggregator)
        )
        while True:
            try:
                ended = _aggregate(member, event, notify, audit, record, keep, attempt, state)
            except HansaError as error:
                missing = _others_have_the_model(plan, pauses, error, attempt, state)
                if missing is None:
                    continue
                warn([f"{', '.join(missing)} did not say that the model arrived; the run is over"])
                ended = _trained(member, record, state.outcome[0] if state.outcome else None)
                audit.over_alone(withheld=ended.state == "withheld")
            state.remove()
            return ended


@dataclass
class _Attempt:
    """An attempt to take part in an epoch, and what the next one needs to know.

    Attributes:
        port: where the aggregator listens. wait_s: seconds to wait for others. began: whether the epoch began.
    """

    port: int
    wait_s: float
    began: bool = False


def _others_have_the_model(
    plan: Plan, pauses: Pauses, error: HansaError, attempt: _Attempt, state: AggregatorState
) -> tuple[str, ...] | None:
    """Pause, then None: try again. Where waiting lasted too long, and all that is missing is that parties say that they have the model,
    those parties; else the error is raised.
    """
    try:
        pauses.after(error, began=attempt.began)
    except HansaError:
        if state.outcome is None or pauses.left_s > 0:
            raise
        _, _, received = state.outcome
        return tuple(name for name in state.remaining or plan.parties if name not in received)
    attempt.began, attempt.wait_s = False, pauses.left_s
    return None


def _purpose(keep: KeepDescription | None) -> Purpose:
    return "train" if keep is None else "describe"


def _aggregate(
    member: MemberFile,
    event: OnEvent,
    notify: Notify,
    audit: RunAudit,
    record: RunRecord[AggregatorRecord],
    keep: KeepDescription | None,
    attempt: _Attempt,
    state: AggregatorState | None = None,
    behind: IsBehind | None = None,
) -> AggregatorRecord:
    """The aggregator's run; with a state, one epoch of it."""
    plan = member.plan
    inner = ResumableHub.listen(
        member.credentials,
        member.host,
        attempt.port,
        allowed=plan.branches,
        limits=HubLimits(spin_s=SPIN_S, most_bytes_per_s=member.most_bytes_per_s),
        reconnect_timeout_s=member.reconnect_timeout_s,
        notify=notify,
        owed=lambda: (owes_logs or role.waiting_for)(),
        processes_change=state is not None,
        open_listener=member.open_listener,
    )
    attempt.port = inner.port
    hub: Hub = inner
    at: dict[str, float] = {}
    told_at = 0.0
    owes_logs: Callable[[], list[str]] | None = None

    def owes(waiting_for: Callable[[], list[str]] | None) -> None:
        nonlocal owes_logs
        owes_logs = waiting_for

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        at.setdefault(progress.stage, now)
        if progress.stage == "tree" and now < told_at + TREE_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, role.run)
        event(replaced(progress, member=plan.aggregator))

    def counts() -> dict[str, int]:
        traffic = inner.traffic.values()
        up = sum(t.bytes_up for t in traffic)
        return {
            "bytes_up": up,
            "bytes_down": sum(t.bytes_down for t in traffic),
            "masked_bytes": aggregator.masked_bytes,
            "clear_bytes": up - aggregator.masked_bytes,
        }

    aggregator = Aggregator(
        plan,
        pool=WorkerPool(member.threads),
        report=report,
        identities=member.signer.identities,
        signer=member.signer,
        start=None if keep else read_start_model(member),
        purpose=_purpose(keep),
        behind=behind,
    )
    surviving: SurvivingAggregator | None = None
    role: HubRole = aggregator
    try:
        record.count(counts)
        if keep is None:  # a description uses none of these kernels
            prepare(plan)
        event(Listening(host=member.host, port=inner.port, member=plan.aggregator))
        here: Hub = inner
        if state is not None:
            present = _present(inner, plan, state, attempt)
            surviving = SurvivingAggregator(plan, aggregator, state, member.signer, report, present)
            role = surviving
            if surviving.left_out:
                here = hub = HubWithout(inner, surviving.left_out, plan)
        if member.transcript is not None:
            hub = RecordingHub(here, member.transcript, transcript_name(member.transcript, plan.aggregator))
        if surviving is None or not surviving.releasing:
            parties = tuple(role.parties)
            inner.wait_for(parties, attempt.wait_s)
            # Collectors last, so that a collector has passed a round of logs on once it has its own part of it.
            everybody = (*plan.parties, *dict(plan.collectors)) if plan.collectors else parties
            logs_hub = _branched(here, plan)
            with audit.hub_side(logs_hub, everybody, ANSWER_S, survives=surviving is not None, owes=owes) as counted:
                run_hub(role, _branched(counted(hub), plan), ANSWER_S)
                if aggregator.withheld:
                    audit.withheld()
                elif aggregator.outcome is not None:
                    audit.released(hashlib.sha256(aggregator.outcome.model).hexdigest(), plan.receivers)
        else:
            with audit.releasing_side(role) as releasing:
                run_hub(releasing, hub, attempt.wait_s)
                if aggregator.withheld:
                    audit.withheld()
    finally:
        attempt.began = surviving is not None and surviving.began
        hub.close()
    if keep is not None:
        description = aggregator.description
        if description is None:  # run_hub returns only once the role is done
            raise PlanError("the run ended without a description")
        keep(description)
        return record.end(
            "finished",
            roster=aggregator.roster,
            clear=CLEAR[plan.mode],
            seconds=Seconds(binning=at["described"] - at["registered"]),
            traffic=bytes_of(hub.traffic),
        )
    seconds = Seconds(
        binning=at["binned"] - at["registered"] if at.keys() >= {"binned", "registered"} else UNSET,
        training=at["trained"] - at["binned"] if at.keys() >= {"trained", "binned"} else UNSET,
    )
    return _trained(
        member,
        record,
        aggregator.outcome,
        seconds=seconds,
        traffic=bytes_of(hub.traffic),
        left_out=(surviving.left_out if surviving is not None else ()) or UNSET,
    )


def _branched(hub: Hub, plan: Plan) -> Hub:
    """The hub, as the aggregator sees it where there are collectors."""
    return BranchedHub(hub, plan) if plan.collectors else hub


def _present(inner: ResumableHub, plan: Plan, state: AggregatorState, attempt: _Attempt) -> tuple[str, ...]:
    """The parties that the next epoch has: where the plan goes on without others, those that are here after its time.

    While fewer than the plan's minimum are here, all have that time again: others may only be slow to come back.
    """
    parties, claim = state.remaining or plan.parties, state.claim
    limit_s = plan.continue_after_s
    if limit_s is None or claim is None or claim.checkpoint < 1 or state.outcome is not None:
        return parties
    give_up = time.monotonic() + attempt.wait_s
    while (left_s := give_up - time.monotonic()) >= limit_s:
        try:
            inner.wait_for(parties, limit_s)
            return parties
        except TransportError:
            here = tuple(name for name in parties if name in inner.joined)
            if len(here) >= plan.minimum_parties:
                return here
    attempt.wait_s = max(left_s, 0.0)
    return parties


class HubWithout:
    """A hub of a run that goes on without some parties: each is told so by name when it comes back, and nothing else.

    Args:
        hub: with the connections. left_out: who is gone. plan: of the run.
    """

    def __init__(self, hub: Hub, left_out: tuple[str, ...], plan: Plan) -> None:
        self._hub = hub
        self._left_out = left_out
        self._plan = plan

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """See `Hub`."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """See `Hub`."""
        self._hub.send(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """See `Hub`; of those who are left out nothing."""
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if give_up is None else max(0.0, give_up - time.monotonic())
            try:
                member, frame = self._hub.receive(left)
            except MemberLost as loss:
                if loss.member not in self._left_out:
                    raise
                continue
            if member not in self._left_out:
                return member, frame
            text = (
                f"member {member!r} was away for more than {self._plan.continue_after_s:g} s, and is left out of this run, which goes "
                "on without it, as the plan says; it gets no more of it, and no model"
            )
            with contextlib.suppress(TransportError):
                self._hub.send(member, messages.abort(member, text))

    def drop(self, member: str, reason: str) -> None:
        """See `Hub`."""
        self._hub.drop(member, reason)

    def close(self) -> None:
        """See `Hub`."""
        self._hub.close()


def _trained(
    member: MemberFile, record: RunRecord[AggregatorRecord], outcome: Outcome | None, **parts: Any
) -> AggregatorRecord:
    """The record of a run that gave a model, which is put where this member's file says; `parts`: what else stands in it."""
    plan = member.plan
    if outcome is None:  # run_hub returns only once the role is done
        raise PlanError("the run ended without a model")
    withheld = not plan.release.is_reached(released_value(plan, outcome.history, outcome.trees_grown))
    if plan.aggregator in plan.receivers and not withheld:
        put_model(member, outcome.model)
    model = UNSET if withheld else hashlib.sha256(outcome.model).hexdigest()
    return record.end(
        "withheld" if withheld else "finished",
        trees=len(outcome.ensemble.trees),
        trees_grown=outcome.trees_grown,
        exchanges=outcome.exchanges,
        history={name: tuple(values) for name, values in outcome.history.items()},
        without_value=outcome.without_value,
        shap=outcome.shap or UNSET,
        model_sha256=model,
        roster=tuple((name, rows, held) for name, _, rows, held, _ in outcome.roster),
        clear=CLEAR[plan.mode],
        **parts,
    )


def check_wait(member: MemberFile) -> None:
    """Refuse an aggregator's file that gives up before the plan goes on without a party. Raises PlanError."""
    limit_s = member.plan.continue_after_s
    if limit_s is not None and member.wait_s <= limit_s:
        raise PlanError(
            f"{member.path}: wait_s is {member.wait_s:g}, and the plan goes on without a party that is away for {limit_s:g} s "
            "(members.continue_after_s): wait longer than that",
            cure="give a wait_s above members.continue_after_s",
        )


def check_keys(member: MemberFile, *, describes: bool) -> None:
    """Refuse a party's file without the keys that its run needs. Raises PlanError."""
    plan, name = member.plan, member.identity.name
    if member.table is None:
        raise PlanError(
            f"{member.path}: table is missing; name the file with this party's rows, or give a source",
            cure="name the file with this party's rows as table",
        )
    if name in plan.receivers and member.model is None and not describes:
        raise PlanError(
            f"{member.path}: model is missing; this party receives the model: say where to put it",
            cure="say where to put the model",
        )
    if plan.mode != "federated" and member.ledger is None:
        raise PlanError(
            f"{member.path}: ledger is missing; name a file that keeps count of which people these rows have met",
            cure="name a file as ledger",
        )


def run_party(
    member: MemberFile, event: OnEvent, notify: Notify, audit: RunAudit, keep: KeepDescription | None = None
) -> PartyRecord:
    """Connect to the hub, train, keep the model; or describe where there is a `keep`. Returns the record, which is also written where
    the file says.

    `event` is called with every step of the run's progress; `notify` with what happens to connections; `audit` takes down what the
    member's log keeps.
    """
    with keeping(member.record, first_record(PartyRecord, member, purpose=_purpose(keep))) as record:
        attempt = _Attempt(member.port, member.wait_s)
        if keep is not None or not survives(member):
            with own_rows(member, describes=keep is not None) as given:
                return _contribute(member, given, event, notify, audit, record, keep, attempt)
        return _survive(member, event, notify, audit, record, attempt)


def _survive(
    member: MemberFile,
    event: OnEvent,
    notify: Notify,
    audit: RunAudit,
    record: RunRecord[PartyRecord],
    attempt: _Attempt,
) -> PartyRecord:
    """A party's run, epoch after epoch. Each reads the table anew, as another process would."""
    name, agreed = member.identity.name, agreement(member.plan, member.signer.identities)
    pauses = Pauses(member.wait_s, name, event)
    while True:
        try:
            with own_rows(member, describes=False) as given:
                of_rows = given[0].digest(fingerprint_key(member.signer, agreed))
                n_rows, warnings = given[0].n_rows, given[0].warnings
                with PartyState(member.state, agreed, name, of_rows) as state:
                    if state.over:  # this process ended before the model was put
                        put_model(member, state.model)
                        audit.put_later(b"" if state.claim is None else state.claim.run, state.model)
                        parties = member.plan.parties
                        gone = tuple(own for own in parties if own not in (state.remaining or parties))
                        ended = _received(member, record, state.model, n_rows, warnings, left_out=gone)
                    else:
                        ended = _contribute(member, given, event, notify, audit, record, None, attempt, state)
                    state.remove()
                    return ended
        except HansaError as error:
            pauses.after(error, began=attempt.began)
        attempt.began, attempt.wait_s = False, pauses.left_s


def _once(admit: Admit, state: PartyState | None) -> Admit:
    """`admit`, but for a run that was admitted when it began and goes on."""
    claim = None if state is None else state.claim
    if claim is None:
        return admit
    return lambda run, roster: None if run == claim.run else admit(run, roster)


def _received(
    member: MemberFile,
    record: RunRecord[PartyRecord],
    model: bytes | None,
    rows: int,
    warnings: tuple[str, ...],
    withheld: bool = False,
    left_out: tuple[str, ...] = (),
    shap: Mapping[str, float] = MappingProxyType({}),
) -> PartyRecord:
    """The record of a party whose run is over."""
    return record.end(
        "withheld" if withheld else "finished",
        rows=rows,
        warnings=warnings,
        model_sha256=None if model is None else hashlib.sha256(model).hexdigest(),
        clear=CLEAR[member.plan.mode],
        left_out=left_out or UNSET,
        shap=dict(shap) or UNSET,
    )


def _contribute(
    member: MemberFile,
    given: list[OwnRows],
    event: OnEvent,
    notify: Notify,
    audit: RunAudit,
    record: RunRecord[PartyRecord],
    keep: KeepDescription | None,
    attempt: _Attempt,
    state: PartyState | None = None,
) -> PartyRecord:
    """A party's run, with a state one epoch of it; `given` is its rows alone, which are taken out."""
    plan, name = member.plan, member.identity.name
    n_rows, warnings = given[0].n_rows, given[0].warnings
    warn(warnings)
    admit = _once(admission(member, given[0].ledger_columns), state)
    if keep is None:
        prepare(plan)
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        if progress.stage == "tree" and now < told_at + PARTY_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, role.run)
        event(replaced(progress, member=name))

    def counts() -> dict[str, int]:
        traffic = inner.traffic
        return {
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "masked_bytes": role.masked_bytes,
            "clear_bytes": traffic.bytes_up - role.masked_bytes,
        }

    member.policy.check_plan(plan)  # before the files of functions are run
    own = given.pop()
    party = Party(
        plan,
        name,
        own.columns,
        nonce=secrets.token_bytes(32) if state is None else state.nonce,
        pool=WorkerPool(member.threads),
        signer=member.signer,
        policy=member.policy,
        admit=admit,
        report=report,
        start=None if keep else read_start_model(member),
        purpose=_purpose(keep),
        functions=NO_FUNCTIONS if keep else read_functions(plan, member.custom_objective, member.custom_metric),
        hold=own.hold,
    )
    del own  # the party alone holds them, and lets them go
    surviving = None if state is None else SurvivingParty(plan, name, party, state, member.signer, report)
    role = surviving or party
    inner = ResumableChannel.connect(
        member.credentials,
        plan.above(name),
        member.host,
        member.port,
        reconnect_timeout_s=member.reconnect_timeout_s,
        retry_for_s=attempt.wait_s,
        spin_s=PARTY_SPIN_S,
        most_bytes_per_s=member.most_bytes_per_s,
        notify=notify,
        proxy=member.proxy,
    )
    channel: Channel = inner
    try:
        if member.transcript is not None:
            channel = RecordingChannel(inner, member.transcript, transcript_name(member.transcript, name))
        record.count(counts)
        goes_on = state is not None and state.claim is not None
        with audit.member_side(
            inner,
            member.idle_limit_s,
            goes_on=goes_on,
            survives=surviving is not None,
            leave_within=inner.leave_within,
        ) as counted:
            run_member(role, counted(channel), member.idle_limit_s)
            put_model(member, party.model)
            if party.withheld:
                audit.withheld()
            audit.released(None if party.model is None else hashlib.sha256(party.model).hexdigest(), plan.receivers)
        if plan.is_one_of_many:  # the next run is another one: it begins once the hub has ended the connection
            with contextlib.suppress(TransportError):
                channel.receive(attempt.wait_s)
    except LinkLost as loss:
        loss.blame(plan.above(name))
        raise
    except ProtocolError:
        if member.record is not None and party.evidence is not None:
            kept = beside(member.record, party.run)
            keep_evidence(kept, party.evidence)
            logs.note(
                logging.WARNING, f"{kept}: what the aggregator signed last; `hansa evidence` holds it to the plan"
            )
        raise
    finally:
        attempt.began = surviving is not None and surviving.began
        channel.close()
    if keep is not None and party.description is not None:
        keep(party.description)
    gone = () if surviving is None else surviving.left_out
    return _received(member, record, party.model, n_rows, warnings, party.withheld, gone, party.shap)
