"""Approved plans come into a service here: a file in its inbox becomes a run, or is refused with the reason."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

from hansa.consortium.approvals import Proposal, check_not_revoked, proposal_of, read_proposal, require_approved
from hansa.consortium.envelopes import MOST_BYTES, envelope_of
from hansa.consortium.members import Members
from hansa.consortium.versions import pinned_of, read_pinned
from hansa.errors import HansaError, IdentityError, OutputError, PlanError, in_words
from hansa.files import make_folder, read_whole, write_whole
from hansa.node.config import MemberFile, read_member_file
from hansa.node.run import Command, command_of
from hansa.service.config import BEGAN_KEYS, Consortium, ServiceFile, member_text
from hansa.service.store import SHOWN_DIGITS, ServiceRun
from hansa.toml import read_toml

LISTENING: tuple[Command, ...] = ("aggregator", "hub")
"""Commands that others dial: a service that is started by one of them plays both, and one of the other commands all others."""

SETTLE_S = 2.0
"""Seconds that a file which cannot be read may still be on its way into the inbox."""

REFUSED_FOLDER = "refused"


@dataclass(frozen=True)
class Arrival:
    """What came of a file in the inbox.

    Attributes:
        run: as it is to be kept; its state is "waiting" or "refused". file: the one that it came by.
    """

    run: ServiceRun
    file: Path


def arrivals(service: ServiceFile, command: Command, known: frozenset[str]) -> list[Arrival]:
    """Runs for the files that are in the inbox, by name. Files of runs in `known` are removed: each plan is taken once."""
    make_folder(service.plans)
    found = []
    files = (path for path in service.plans.glob("*.json") if path.is_file())  # no pipe, for which it would wait
    for file in sorted(files):
        try:
            content = read_whole(file, MOST_BYTES)
        except (OSError, ValueError) as error:
            content, fault = b"", f"cannot be read: {in_words(error)}"
        else:
            fault = ""
        name = hashlib.sha256(content).hexdigest()[:SHOWN_DIGITS]
        try:
            if fault:
                raise PlanError(f"{file}: {fault}")
            proposal, consortium = proposal_in(content, str(file), service)
            name = proposal.digest.hex()[:SHOWN_DIGITS]
            if name in known:
                file.unlink(missing_ok=True)
                continue
            require_approved(proposal, str(file))
            run = _prepare(service, command, proposal, consortium, content)
        except HansaError as error:
            if isinstance(error, OutputError):
                raise
            if _is_new(file):
                continue  # it may be half there
            found.append(Arrival(ServiceRun(run=name, state="refused", text=str(error), plan=file.name), file))
        else:
            found.append(Arrival(run, file))
    return found


def _is_new(file: Path) -> bool:
    """Whether a file was changed a moment ago, or is gone again."""
    try:
        return time.time() - file.stat().st_mtime < SETTLE_S
    except OSError:
        return True


def clear(arrival: Arrival, service: ServiceFile) -> None:
    """Take a file out of the inbox, once its run is kept; what was refused is put beside, with the reason."""
    if arrival.run.state != "refused":
        arrival.file.unlink(missing_ok=True)
        return
    folder = service.plans / REFUSED_FOLDER
    make_folder(folder)
    with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
        arrival.file.replace(folder / arrival.file.name)
    write_whole(folder / f"{arrival.file.name}.reason", f"{arrival.run.text}\n".encode())


def submit(service: ServiceFile, plan: Path) -> ServiceRun:
    """Put an approved plan into the inbox; the run that it will be. Raises PlanError, IdentityError where it would be refused."""
    try:
        content = read_whole(plan, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(f"{plan}: cannot be read: {in_words(error)}") from error
    proposal, consortium = proposal_in(content, str(plan), service)
    require_approved(proposal, str(plan))
    run = ServiceRun(
        run=proposal.digest.hex()[:SHOWN_DIGITS],
        proposal=proposal.digest.hex(),
        plan=proposal.plan.name,
        mode=proposal.plan.mode,
        consortium=consortium.name,
    )
    make_folder(service.plans)
    write_whole(service.plans / f"{run.run}.json", content)
    return run


def proposal_in(content: bytes, where: str, service: ServiceFile) -> tuple[Proposal, Consortium]:
    """The proposal in a file's bytes, every signature checked, and the consortium whose members file has the identities that it names.

    Of bytes that were read once: a file that is exchanged meanwhile is not another one's approvals.
    """
    envelope = envelope_of(content, where)
    unchecked = proposal_of(envelope, where)
    for consortium in service.consortia:
        own = {name: card.identity.hex() for name, card in consortium.members.items()}
        named = unchecked.predicate.members
        if all(own.get(name) == identity for name, identity in named.items()) and consortium.identity.name in named:
            return proposal_of(envelope, where, consortium.members), consortium
    for consortium in service.consortia:
        check_not_revoked(where, unchecked.predicate.members, consortium.members)
    pinned = ", ".join(str(consortium.members_path) for consortium in service.consortia)
    raise IdentityError(
        f"{where}: names other identities than {pinned}, or gives this member no role; propose the plan anew under this members file"
    )


def _prepare(
    service: ServiceFile, command: Command, proposal: Proposal, consortium: Consortium, content: bytes
) -> ServiceRun:
    """Make the folder of a run, and hold plan and member to each other. Raises PlanError, IdentityError, OutputError."""
    own = command_of(proposal.plan, consortium.identity.name)
    if (own in LISTENING) != (command in LISTENING):
        raise PlanError(
            f"the plan {proposal.plan.name!r} is for `hansa {own}`, and this service was started by `hansa {command}`; give it to the "
            f"service that `hansa {own}` starts",
            cure=f"start a service by `hansa {own}`",
        )
    run = ServiceRun(
        run=proposal.digest.hex()[:SHOWN_DIGITS],
        proposal=proposal.digest.hex(),
        plan=proposal.plan.name,
        mode=proposal.plan.mode,
        consortium=consortium.name,
        command=own,
        folder=proposal.digest.hex()[:SHOWN_DIGITS],
        rounds=proposal.plan.parameters.rounds,
    )
    folder = service.runs / run.folder
    make_folder(folder)
    write_whole(folder / "plan.json", content)
    write_member_file(service, run)
    member = read_member_file(folder / "member.toml")
    member.policy.check_plan(member.plan, member.identity.name in member.plan.parties)
    return run


def write_member_file(service: ServiceFile, run: ServiceRun) -> Path:
    """Write the member's file of a run from the service's, as that is now; members and keys of a run that began stay as they were.

    Raises PlanError, OutputError; IdentityError where the plan names keys that are not those of its members, or were revoked.
    """
    folder = service.runs / run.folder
    path = folder / "member.toml"
    consortium = service.consortium(run.consortium)
    proposal = read_proposal(folder / "plan.json", members_of_run(consortium, run))
    if proposal.digest.hex() != run.proposal:
        raise PlanError(
            f"{folder / 'plan.json'}: is not the plan of run {run.run}, which members approved; restore it, or propose the plan anew",
            rule="a service runs the plan that it took",
        )
    began = None
    if run.members_version:
        before = read_toml(path, PlanError, "restore it, or propose the plan anew")
        began = {key: before[key] for key in BEGAN_KEYS if key in before} | {"members_version": run.members_version}
    write_whole(path, member_text(service, consortium, proposal.plan, folder, began).encode())
    return path


def check_keys(member: MemberFile) -> None:
    """Raise IdentityError where a key of a run's plan was revoked since the run's process began."""
    assert member.proposal is not None  # a service runs nothing else
    members = read_pinned(member.members_path)
    check_not_revoked(str(member.plan_path), member.proposal.predicate.members, members)


def members_of_run(consortium: Consortium, run: ServiceRun) -> Members:
    """The members that a run is among: of the version that it began with, and before that of the last one. Raises IdentityError."""
    if not run.members_version:
        return consortium.members
    if consortium.signed is None:
        raise IdentityError(
            f"{consortium.members_path}: is a members file, which has no versions, and run {run.run} began with version "
            f"{run.members_version} of the consortium's file; put that back"
        )
    return pinned_of(consortium.signed, str(consortium.members_path), version=run.members_version)
