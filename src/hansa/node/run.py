"""One entry for a member of a run over the network, whatever its mode and roles; and which command runs which member."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Literal

from hansa.consortium import provenance
from hansa.consortium.model_signature import check_signing, sign_model
from hansa.errors import ModelWithheld, PlanError, own_fault
from hansa.node import collecting, shared, summed
from hansa.node.auditing import RunAudit, auditing
from hansa.node.config import MemberFile, check_approved
from hansa.node.events import Event, Listening, Noticed, OnEvent
from hansa.node.files import check_files
from hansa.node.folds import cross_validate
from hansa.node.notices import NoticeWriter
from hansa.node.record import AggregatorRecord, PartyRecord, Record, file_sha256, read_record
from hansa.node.trials import search
from hansa.plan import COOPETITIVE, Plan
from hansa.roles.summed.describing import check_describable
from hansa.roles.summed.metric_history import IsBehind
from hansa.transport.notices import Notice
from hansa.version import __version__

Command = Literal["aggregator", "party", "collector", "hub", "server", "receiver"]
"""The commands that run a member."""


def run(member: MemberFile, on_event: OnEvent, keep: summed.KeepDescription | None = None) -> Record:
    """Play every role that the plan gives this member; the record, which is also written where the file says.

    Args:
        member: the member's own file, read. on_event: called with the run's progress, and with what happens to connections.
        keep: takes the description of the pooled table; where it is given the run describes, and trains nothing.

    Raises HansaError and its kinds: the run was refused or stopped; ModelWithheld where it went to its end, and the plan's condition
    lets nobody have the model.
    """
    if member.plan.only_measures and keep is None:
        check_approved(member)
        if member.plan.folds:
            return cross_validate(member, lambda one, tell: _run_once(one, tell, None), on_event)
        return search(member, lambda one, tell, behind: _run_once(one, tell, None, behind), on_event)
    return _run_once(member, on_event, keep)


def _run_once(
    member: MemberFile, on_event: OnEvent, keep: summed.KeepDescription | None, behind: IsBehind | None = None
) -> Record:
    """`run`, of a plan that is one run. What is wrong with the member's files is told before its log is touched."""
    with own_fault(member.identity.name):
        _check_member(member, describes=keep is not None)
    with auditing(member, "train" if keep is None else "describe") as audit:
        check_approved(member)
        if member.model_signature is not None:
            check_signing()
        record = _play(member, on_event, keep, audit, behind)
    _release(member, record, audit.transcript)
    return record


def run_once(member: MemberFile, on_event: OnEvent) -> Record:
    """`run`, where the files that the member's file names are this run's alone, as a service's are.

    A process can die after its run is over and before it has said so. Another one for the same files then does what was still to be
    done, and gives the record; it does not begin a run that nobody else is in.

    Raises as `run`.
    """
    record = _record_of_the_end(member)
    if record is None:
        return run(member, on_event)
    shutil.rmtree(member.state, ignore_errors=True)
    if not member.plan.only_measures and (member.provenance is None or not member.provenance.exists()):
        with auditing(member, "train") as audit:
            transcript = audit.transcript_of(record.run or "")
        _release(member, record, transcript)
    return record


def _record_of_the_end(member: MemberFile) -> Record | None:
    """The record of this member's run of the plan, where it says that the run is over and no model is owed."""
    if member.record is None or not member.record.exists():
        return None
    try:
        record = read_record(member.record)
    except (OSError, ValueError):  # of another release, or torn by a fault of the disk: the run decides
        return None
    same = (record.member, record.plan) == (member.identity.name, member.plan.digest().hex())
    return record if same and record.state in ("finished", "withheld") else None


def _release(member: MemberFile, record: Record, transcript: Mapping[str, str]) -> None:
    """What follows the end of a run: the signature and the provenance of its model. Raises ModelWithheld where nobody has it."""
    if record.state == "withheld":
        raise ModelWithheld(
            f"the run is over, and nobody has the model: the plan demands {member.plan.release.condition} of held-out rows, "
            "which was not reached",
            run=record.run or "",
            rule=f"release: {member.plan.release.condition}",
            cure="agree on another plan, such as more rounds or other columns, or on another condition",
        )
    model = record.model_sha256
    if member.provenance is not None and isinstance(model, str) and isinstance(record.run, str):
        put = member.model if member.identity.name in member.plan.receivers else None
        made = provenance.FinishedRun(
            plan=member.plan,
            identities={name: member.members[name].identity for name in member.plan.members},
            model_name=member.plan.name if put is None else put.name,
            # A file of another form than JSON has another hash than the record's.
            model_sha256=model if put is None else file_sha256(put),
            run=record.run,
            hansa=__version__,
            proposal=member.proposal,
            transcript=provenance.transcript_digest(transcript),
            release_key=sign_model(put, member.model_signature) if member.model_signature and put else "",
            left_out=_left_out(record),
        )
        provenance.write_provenance(member.provenance, made, member.identity)


def _left_out(record: Record) -> tuple[str, ...]:
    """The parties that a run went on without, as its record says."""
    gone = record.left_out if isinstance(record, AggregatorRecord | PartyRecord) else ()
    return gone if isinstance(gone, tuple) else ()


def _play(
    member: MemberFile,
    on_event: OnEvent,
    keep: summed.KeepDescription | None,
    audit: RunAudit,
    behind: IsBehind | None,
) -> Record:
    """`run` behind what members agreed on."""
    plan, name = member.plan, member.identity.name
    writer = NoticeWriter()

    def event(what: Event) -> None:
        if isinstance(what, Listening):
            writer.listens()
        on_event(what)

    def notify(notice: Notice) -> None:
        on_event(
            Noticed(
                kind=notice.kind,
                member=notice.member,
                waiting_for=notice.waiting_for,
                seconds=notice.seconds,
                limit_s=notice.limit_s,
                text=notice.text,
                sentence=writer.sentence(notice),
            )
        )

    if plan.mode == COOPETITIVE:
        play = shared.run_hub_of_members if name == plan.hub else shared.run_member_of_hub
        return play(member, event, notify, audit)
    if name == plan.aggregator:
        return summed.run_aggregator(member, event, notify, audit, keep, behind)
    if name in dict(plan.collectors):
        return collecting.run_collector(member, event, notify, audit)
    return summed.run_party(member, event, notify, audit, keep)


def _check_member(member: MemberFile, *, describes: bool) -> None:
    """Refuse a member's file that lacks what the run needs of it, or names outputs that cannot be written, before anything is done."""
    plan, name = member.plan, member.identity.name
    if name not in plan.members:
        raise PlanError(
            f"{member.path}: the plan gives {name!r} no role; its members are {', '.join(plan.members)}: name another identity or plan",
            cure="name another identity or plan",
        )
    if describes:
        check_describable(plan)
    if plan.mode == COOPETITIVE:
        shared.check_keys(member)
    elif name in plan.parties:
        summed.check_keys(member, describes=describes)
    else:
        summed.check_wait(member)
    _ = member.credentials  # refuses a certificate that the members file does not have
    check_files(member)


def command_of(plan: Plan, name: str) -> Command:
    """The command that runs a member."""
    if name == plan.hub:
        return "aggregator" if plan.coopetitive is None else "hub"
    if name in plan.parties:
        return "party"
    if name in dict(plan.collectors):
        return "collector"
    return "server" if name in plan.servers else "receiver"


def check_command(member: MemberFile, command: Command) -> None:
    """Refuse a member that another command runs. Raises PlanError."""
    plan, name, path = member.plan, member.identity.name, member.path
    if command == "collector" and name not in dict(plan.collectors):
        raise PlanError(
            f"{path}: identity {name!r} is not among the plan's collectors {', '.join(dict(plan.collectors)) or '(none)'}; run "
            f"`hansa {command_of(plan, name)}`",
            cure=f"run `hansa {command_of(plan, name)}`",
        )
    if plan.mode != COOPETITIVE and command not in ("aggregator", "party", "collector"):
        raise PlanError(
            f"{path}: the plan's mode is {plan.mode!r}, which has no hub or servers apart; "
            "run `hansa aggregator` or `hansa party`",
            cure="run `hansa aggregator` or `hansa party`",
        )
    if plan.mode == COOPETITIVE and command == "aggregator":
        raise PlanError(
            f"{path}: a plan of mode {COOPETITIVE!r} has no aggregator: run `hansa hub` for its hub {plan.hub!r}, "
            "and `hansa party`, `hansa server` or `hansa receiver` for the others",
            cure=f"run `hansa {command_of(plan, name)}`",
        )
    if command == "aggregator" and name != plan.aggregator:
        raise PlanError(
            f"{path}: identity {name!r} is not the plan's aggregator {plan.aggregator!r}; run `hansa party` for a party",
            cure="run `hansa party` for a party",
        )
    if command == "hub" and name != plan.hub:
        raise PlanError(f"{path}: identity {name!r} is not the plan's hub {plan.hub!r}")
    if plan.mode == COOPETITIVE and command != "hub" and name == plan.hub:
        raise PlanError(
            f"{path}: {name!r} is the plan's hub; run `hansa hub`, which plays its other roles too",
            cure="run `hansa hub`",
        )
    if plan.mode != COOPETITIVE and command == "party" and name not in plan.parties:
        raise PlanError(f"{path}: identity {name!r} is not among the plan's parties {', '.join(plan.parties)}")
