"""Proposals and rejections that a service's member holds: each is checked as it comes, by whatever way, and kept in one folder.

A statement that came is believed by its signatures alone, under the identities that this member pinned. So it is the same whether a
person brought its file or an untrusted hub sent it: a copy adds the approvals that it has, and what adds nothing changes nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from hansa.consortium.approvals import (
    PROPOSAL_TYPE,
    REJECTION_TYPE,
    Proposal,
    RejectionPredicate,
    joined,
    proposal_digest_of,
    proposal_of,
    read_proposal,
    rejection_of,
    write_proposal,
)
from hansa.consortium.envelopes import envelope_of
from hansa.errors import PlanError
from hansa.files import make_folder, write_whole
from hansa.node.proposals import kind_of
from hansa.service.config import Consortium

MOST_FILES = 300
"""Proposals and rejections that one folder keeps; who brings more takes old ones away first."""

MOST_OF_ONE = 50
"""Of them, proposals of one member that came from others: no member takes the room of all."""

LOCK_FILE = "lock"
"""In a folder of proposals that a service keeps."""

AWAY_FOLDER = "away"
"""In a folder of proposals: which were taken away here, so that the hub does not bring them again."""


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """The folder's files are this process's to change: a console, a command and the service each read, join and write."""
    make_folder(folder)
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def keep_proposal(folder: Path, consortium: Consortium, proposal: Proposal) -> Proposal:
    """Keep a proposal, joined with the copy that is there; what is kept then. Raises PlanError, OutputError."""
    with alone(folder):
        (folder / AWAY_FOLDER / proposal.digest.hex()).unlink(missing_ok=True)
        return _joined_copy(folder, consortium, proposal)


def save_proposal(path: Path, proposal: Proposal) -> Proposal:
    """Write a proposal's file; what was written.

    In a folder that a service keeps, the file may have changed since it was read: approvals that came are kept. Raises PlanError,
    IdentityError, OutputError.
    """
    if not (path.parent / LOCK_FILE).is_file():
        write_proposal(path, proposal)
        return proposal
    with alone(path.parent):
        if path.exists() and (kept := read_proposal(path)).digest == proposal.digest:
            proposal = joined(kept, proposal)
        write_proposal(path, proposal)
    return proposal


def keep_rejection(
    folder: Path, consortium: Consortium, proposal: Proposal, rejection: RejectionPredicate, content: bytes
) -> bool:
    """Keep a rejection beside its proposal, and where the service finds what was taken back; whether it is the member's first."""
    name = f"{proposal.digest.hex()}-{rejection.member}.json"
    with alone(folder):
        new = not (folder / name).exists()
        if new:
            write_whole(folder / name, content, private=False)
    if consortium.withdrawals is not None and not (consortium.withdrawals / name).exists():
        make_folder(consortium.withdrawals)
        write_whole(consortium.withdrawals / name, content, private=False)
    return new


def forget_proposal(folder: Path, digest: str) -> None:
    """Take a proposal and its rejections away here; what comes of it over the hub changes nothing from now on."""
    with alone(folder):
        make_folder(folder / AWAY_FOLDER)
        write_whole(folder / AWAY_FOLDER / digest, b"")
        for path in (*folder.glob(f"{digest}-*.json"), folder / f"{digest}.json"):
            path.unlink(missing_ok=True)


def take(folder: Path, consortium: Consortium, content: bytes, where: str, now: datetime | None = None) -> str:
    """Take in a statement that came over the hub; a sentence on what is new, or empty where nothing is.

    Args:
        where: for errors, who sent it. now: the moment, default the clock's.

    Raises:
        PlanError: it is no statement on a plan, of a plan that gives this member no role, not signed by its proposer, out of its time,
            about an unknown proposal, or one too many. IdentityError: a signature, or an identity that it names, is wrong.
    """
    kind = kind_of(content)
    if kind == REJECTION_TYPE:
        return _take_rejection(folder, consortium, content, where)
    if kind != PROPOSAL_TYPE:
        raise PlanError(f"{where}: is no proposal and no rejection of one")
    proposal = proposal_of(envelope_of(content, where), where, consortium.members)
    name, predicate = consortium.identity.name, proposal.predicate
    if name not in predicate.members:
        raise PlanError(f"{where}: the plan {proposal.plan.name!r} gives {name!r} no role")
    if predicate.proposer not in proposal.signatures:
        raise PlanError(f"{where}: {predicate.proposer!r}, whose proposal it says to be, did not sign it")
    if (now or datetime.now(UTC)) > predicate.expires:
        raise PlanError(f"{where}: was open until {predicate.expires:%Y-%m-%d %H:%M} UTC")
    with alone(folder):
        if (folder / AWAY_FOLDER / proposal.digest.hex()).exists():
            return ""
        path = folder / f"{proposal.digest.hex()}.json"
        before = read_proposal(path, consortium.members).signatures if path.exists() else {}
        if before.keys() >= proposal.signatures.keys():
            return ""
        if not before:
            _check_room_of(folder, predicate.proposer, where)
        kept = _joined_copy(folder, consortium, proposal)
    new = ", ".join(sorted(kept.signatures.keys() - before.keys()))
    left = f"still to approve: {', '.join(kept.missing)}" if kept.missing else "all have approved"
    what = "is approved by" if before else f"was proposed by {predicate.proposer}, and is approved by"
    return f"{kept.plan.name} {what} {new}; {left}"


def _take_rejection(folder: Path, consortium: Consortium, content: bytes, where: str) -> str:
    envelope = envelope_of(content, where)
    path = folder / f"{proposal_digest_of(envelope, where)}.json"
    if not path.is_file():
        raise PlanError(f"{where}: rejects a proposal that is not here")
    proposal = read_proposal(path, consortium.members)
    rejection = rejection_of(envelope, where, proposal)
    if not keep_rejection(folder, consortium, proposal, rejection, content):
        return ""
    return f"{proposal.plan.name} is rejected by {rejection.member}: {rejection.reason}"


def _joined_copy(folder: Path, consortium: Consortium, proposal: Proposal) -> Proposal:
    path = folder / f"{proposal.digest.hex()}.json"
    if path.exists():
        proposal = joined(read_proposal(path, consortium.members), proposal)
    elif sum(1 for _ in folder.glob("*.json")) >= MOST_FILES:
        raise PlanError(f"{MOST_FILES} proposals are kept here already; take old ones away first")
    write_proposal(path, proposal)
    return proposal


def _check_room_of(folder: Path, proposer: str, where: str) -> None:
    """Raise PlanError where a member has as many proposals here as one may have."""
    own = 0
    for path in folder.glob(f"{'[0-9a-f]' * 64}.json"):
        own += read_proposal(path).predicate.proposer == proposer
    if own >= MOST_OF_ONE:
        raise PlanError(
            f"{where}: {proposer!r} has {own} proposals here already, as many as one member may; take old ones away first"
        )
