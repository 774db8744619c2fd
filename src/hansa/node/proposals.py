"""The signed proposals in a folder, who approved or rejected each, and approvals that were taken back."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from hansa.consortium.approvals import (
    PROPOSAL_TYPE,
    REJECTION_TYPE,
    Proposal,
    RejectionPredicate,
    proposal_digest_of,
    read_proposal,
    read_rejection,
)
from hansa.consortium.envelopes import MOST_BYTES, EnvelopeJson, read_envelope
from hansa.consortium.members import Members
from hansa.errors import HansaError, PlanError
from hansa.files import read_whole
from hansa.printable import printable

State = Literal["approved", "open", "rejected", "withdrawn", "expired"]


class ListedProposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proposal, of one file or of several copies of it.

    Attributes:
        files: names of the copies. plan, proposal: digests. name, mode, proposer, expires: of it. approved: who signed one of the
            copies. missing: who did not. rejected: who rejected it, or took its approval back. state: what follows;
            "withdrawn" where somebody who had approved it took that back.
    """

    files: tuple[str, ...]
    name: str
    mode: str
    plan: str
    proposal: str
    proposer: str
    expires: datetime
    approved: tuple[str, ...]
    missing: tuple[str, ...]
    rejected: tuple[str, ...]
    state: State


class Unreadable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that says that it is a proposal or a rejection, and is refused."""

    file: str
    text: str


class Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa plan list --json` prints."""

    proposals: tuple[ListedProposal, ...]
    refused: tuple[Unreadable, ...]

    def lines(self) -> list[str]:
        """For people."""
        lines = []
        for own in self.proposals:
            lines.append(f"{', '.join(own.files)}: {own.name}, mode {own.mode}, plan {own.plan[:16]}: {own.state}")
            lines.append(
                f"  by {own.proposer}, until {own.expires:%Y-%m-%d %H:%M} UTC; approved by {', '.join(own.approved)}"
            )
            lines += [f"  not by {', '.join(own.missing)}"] if own.missing else []
            lines += [f"  rejected by {', '.join(own.rejected)}"] if own.rejected else []
        lines += [f"REFUSED {own.text}" for own in self.refused]
        return [printable(line) for line in lines] or ["no proposals"]


class _Kind(msgspec.Struct, frozen=True):
    """Of any statement."""

    predicateType: str


def list_proposals(
    folder: Path,
    members: Members | None,
    now: datetime | None = None,
    read: Callable[[Path], Proposal] | None = None,
) -> Listed:
    """All proposals in a folder's JSON files; copies of one are counted together, and other files are passed over.

    Args:
        members: as `approvals.read_proposal` takes them. read: reads and checks a proposal in its place.

    Raises PlanError where the folder cannot be read.
    """
    moment = now or datetime.now(UTC)
    found: dict[str, tuple[Proposal, list[str], set[str]]] = {}
    refused: list[Unreadable] = []
    rejections: list[Path] = []
    for path in _files(folder):
        kind = _kind(path)
        if kind == REJECTION_TYPE:
            rejections.append(path)
        if kind != PROPOSAL_TYPE:
            continue
        try:
            proposal = read_proposal(path, members) if read is None else read(path)
        except HansaError as error:
            refused.append(Unreadable(path.name, str(error)))
            continue
        _, names, signed = found.setdefault(proposal.digest.hex(), (proposal, [], set()))
        names.append(path.name)
        signed |= set(proposal.signatures)
    against: dict[str, set[str]] = {}
    for path in rejections:
        try:
            of = proposal_digest_of(read_envelope(path), str(path))
            if of in found:
                against.setdefault(of, set()).add(read_rejection(path, found[of][0]).member)
        except HansaError as error:
            refused.append(Unreadable(path.name, str(error)))
    listed = (
        _listed(proposal, names, signed, against.get(digest, set()), moment)
        for digest, (proposal, names, signed) in found.items()
    )
    return Listed(tuple(sorted(listed, key=lambda own: own.files)), tuple(refused))


def withdrawals(folder: Path, proposal: Proposal) -> tuple[RejectionPredicate, ...]:
    """The rejections of this proposal in a folder's JSON files, by members that never approved or took it back.

    Raises PlanError, IdentityError: the folder or a file in it cannot be read, or a file that says to be a rejection of it is damaged
    or forged. A file that is no statement is refused too: it may be what is left of one that took an approval back.
    """
    found = []
    for path in _files(folder):
        kind = _kind(path)
        if not kind:
            raise PlanError(
                f"{path}: is no member's statement, in the folder of withdrawals; ask for the file anew, or take it out",
                cure="ask for the file anew, or take it out of the folder",
            )
        if kind == REJECTION_TYPE and proposal_digest_of(read_envelope(path), str(path)) == proposal.digest.hex():
            found.append(read_rejection(path, proposal))
    return tuple(found)


def _files(folder: Path) -> Sequence[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.is_file())
    except OSError as error:
        raise PlanError(f"{folder}: cannot be read: {error.strerror}; name a folder") from error


def _kind(path: Path) -> str:
    """The type of the statement in a file, unchecked; empty where it holds none."""
    try:
        return kind_of(read_whole(path, MOST_BYTES))
    except (OSError, ValueError):
        return ""


def kind_of(content: bytes) -> str:
    """The type of the statement in a file's bytes, unchecked; empty where they hold none."""
    try:
        envelope = msgspec.json.decode(content, type=EnvelopeJson)
        return msgspec.json.decode(base64.b64decode(envelope.payload), type=_Kind).predicateType
    except (ValueError, RecursionError, msgspec.MsgspecError):
        return ""


def _listed(
    proposal: Proposal, names: Sequence[str], signed: set[str], against: set[str], now: datetime
) -> ListedProposal:
    missing = tuple(name for name in proposal.plan.members if name not in signed)
    state: State = "open" if missing else "approved"
    if against:
        state = "withdrawn" if against & signed else "rejected"
    elif now > proposal.predicate.expires:
        state = "expired"
    return ListedProposal(
        files=tuple(names),
        name=proposal.plan.name,
        mode=proposal.plan.mode,
        plan=proposal.plan.digest().hex(),
        proposal=proposal.digest.hex(),
        proposer=proposal.predicate.proposer,
        expires=proposal.predicate.expires,
        approved=tuple(name for name in proposal.plan.members if name in signed),
        missing=missing,
        rejected=tuple(sorted(against)),
        state=state,
    )
