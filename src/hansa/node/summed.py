"""Processes of the federated and secure-aggregation modes: the aggregator, and a party."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable

from msgspec.structs import replace as replaced

from hansa.data.columns import Columns
from hansa.data.description import Description
from hansa.data.streamed import open_rows
from hansa.errors import LinkLost, PlanError, ProtocolError
from hansa.node import logs
from hansa.node.config import MemberFile
from hansa.node.events import Listening, OnEvent
from hansa.node.evidence import beside, keep_evidence
from hansa.node.files import ANSWER_S, admission, check_files, put_model, read_start_model, warn
from hansa.node.functions import read_gradient_function
from hansa.node.record import CLEAR, AggregatorRecord, PartyRecord, RunRecord, Seconds, bytes_of, first_record, keeping
from hansa.node.warm_up import prepare
from hansa.roles.run import Progress, Purpose, run_hub, run_member
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.party import Party
from hansa.transport.channel import Channel, Hub
from hansa.transport.notices import Notify
from hansa.transport.recording import RecordingChannel, RecordingHub
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls import HubLimits
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
    member: MemberFile, event: OnEvent, notify: Notify, keep: KeepDescription | None = None
) -> AggregatorRecord:
    """Listen, register the plan's parties, train, or describe where there is a `keep`. Returns the record, which is also written where
    the file says.

    `event` is called with where it listens, then with every step of the run's progress; `notify` with what happens to connections.
    """
    check_files(member, [member.plan.aggregator])
    with keeping(member.record, first_record(AggregatorRecord, member, purpose=_purpose(keep))) as record:
        return _aggregate(member, event, notify, record, keep)


def _purpose(keep: KeepDescription | None) -> Purpose:
    return "train" if keep is None else "describe"


def _aggregate(
    member: MemberFile,
    event: OnEvent,
    notify: Notify,
    record: RunRecord[AggregatorRecord],
    keep: KeepDescription | None,
) -> AggregatorRecord:
    plan = member.plan
    inner = ResumableHub.listen(
        member.credentials,
        member.host,
        member.port,
        allowed=plan.parties,
        limits=HubLimits(spin_s=SPIN_S, most_bytes_per_s=member.most_bytes_per_s),
        reconnect_timeout_s=member.reconnect_timeout_s,
        notify=notify,
        owed=lambda: aggregator.waiting_for(),
    )
    hub: Hub = inner
    at: dict[str, float] = {}
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        at.setdefault(progress.stage, now)
        if progress.stage == "tree" and now < told_at + TREE_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, aggregator.run)
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
    )
    try:
        if member.transcript is not None:
            hub = RecordingHub(inner, member.transcript, plan.aggregator)
        record.count(counts)
        if keep is None:  # a description uses none of these kernels
            prepare(plan)
        event(Listening(host=member.host, port=inner.port, member=plan.aggregator))
        inner.wait_for(plan.parties, member.wait_s)
        run_hub(aggregator, hub, ANSWER_S)
    finally:
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
    outcome = aggregator.outcome
    if outcome is None:  # run_hub returns only once the role is done
        raise PlanError("the run ended without a model")
    if plan.aggregator in plan.receivers:
        put_model(member, outcome.model)
    return record.end(
        "finished",
        trees=len(outcome.ensemble.trees),
        trees_grown=outcome.trees_grown,
        exchanges=outcome.exchanges,
        history={name: tuple(values) for name, values in outcome.history.items()},
        without_value=outcome.without_value,
        model_sha256=hashlib.sha256(outcome.model).hexdigest(),
        roster=aggregator.roster,
        clear=CLEAR[plan.mode],
        seconds=Seconds(binning=at["binned"] - at["registered"], training=at["trained"] - at["binned"]),
        traffic=bytes_of(hub.traffic),
    )


def run_party(member: MemberFile, event: OnEvent, notify: Notify, keep: KeepDescription | None = None) -> PartyRecord:
    """Connect to the hub, train, keep the model; or describe where there is a `keep`. Returns the record, which is also written where
    the file says.

    `event` is called with every step of the run's progress; `notify` with what happens to connections.
    """
    plan, name = member.plan, member.identity.name
    if member.table is None:
        raise PlanError(
            f"{member.path}: table is missing; name the file with this party's rows, or give a source",
            cure="name the file with this party's rows as table",
        )
    if name in plan.receivers and member.model is None and keep is None:
        raise PlanError(
            f"{member.path}: model is missing; this party receives the model: say where to put it",
            cure="say where to put the model",
        )
    if plan.mode != "federated" and member.ledger is None:
        raise PlanError(
            f"{member.path}: ledger is missing; name a file that keeps count of which people these rows have met",
            cure="name a file as ledger",
        )
    check_files(member, [name])
    with (
        keeping(member.record, first_record(PartyRecord, member, purpose=_purpose(keep))) as record,
        open_rows(
            member.table, member.schema, label_kind=plan.parameters.label_kind, by_column=member.by_column
        ) as rows,
    ):
        warn(rows.warnings)
        given = [rows]
        del rows  # the party alone holds them, and lets them go
        return _contribute(member, given, event, notify, record, keep)


def _contribute(
    member: MemberFile,
    given: list[Columns],
    event: OnEvent,
    notify: Notify,
    record: RunRecord[PartyRecord],
    keep: KeepDescription | None,
) -> PartyRecord:
    """A party's run; `given` is its rows alone, which are taken out."""
    plan, name = member.plan, member.identity.name
    n_rows, warnings = given[0].n_rows, given[0].warnings
    admit = admission(member, given[0])
    if keep is None:
        prepare(plan)
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        if progress.stage == "tree" and now < told_at + PARTY_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, party.run)
        event(replaced(progress, member=name))

    def counts() -> dict[str, int]:
        traffic = inner.traffic
        return {
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "masked_bytes": party.masked_bytes,
            "clear_bytes": traffic.bytes_up - party.masked_bytes,
        }

    member.policy.check_plan(plan)  # before the file of a custom objective is run
    party = Party(
        plan,
        name,
        given.pop(),
        nonce=secrets.token_bytes(32),
        pool=WorkerPool(member.threads),
        signer=member.signer,
        policy=member.policy,
        admit=admit,
        report=report,
        start=None if keep else read_start_model(member),
        purpose=_purpose(keep),
        function=None if keep else read_gradient_function(plan, member.custom_objective),
    )
    inner = ResumableChannel.connect(
        member.credentials,
        plan.aggregator,
        member.host,
        member.port,
        reconnect_timeout_s=member.reconnect_timeout_s,
        retry_for_s=member.wait_s,
        spin_s=PARTY_SPIN_S,
        most_bytes_per_s=member.most_bytes_per_s,
        notify=notify,
        proxy=member.proxy,
    )
    channel: Channel = inner
    try:
        if member.transcript is not None:
            channel = RecordingChannel(inner, member.transcript, name)
        record.count(counts)
        run_member(party, channel, member.idle_limit_s)
    except LinkLost as loss:
        loss.blame(plan.aggregator)
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
        channel.close()
    if keep is not None and party.description is not None:
        keep(party.description)
    put_model(member, party.model)
    return record.end(
        "finished",
        rows=n_rows,
        warnings=warnings,
        model_sha256=None if party.model is None else hashlib.sha256(party.model).hexdigest(),
        clear=CLEAR[plan.mode],
    )
