"""A plan that its members sign: a proposal, and one signature a member, in one file that other tools can check too (`envelopes`).

The statement's subject is the plan's digest. Its predicate has the plan's own text, the identities of all members with a role, who
proposed it, and from when to when it may be approved and run. A proposal has a nonce: approvals of one are none of another, though
both be of the same plan.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.consortium.envelopes import (
    STATEMENT_TYPE,
    Digest,
    EnvelopeJson,
    Hex32,
    InTotoStatement,
    Moment,
    Subject,
    encoded,
    opened,
    read_envelope,
    sealed,
    sign,
    verified,
    written,
)
from hansa.consortium.identity import Identity
from hansa.consortium.members import Members
from hansa.errors import IdentityError, PlanError
from hansa.files import write_whole
from hansa.plan import Plan, parse_plan, write_plan

PROPOSAL_TYPE: Final = "urn:hansa:plan-proposal:1"
REJECTION_TYPE: Final = "urn:hansa:plan-rejection:1"

DEFAULT_DAYS, MOST_DAYS = 30, 365
MOST_REASON = 1000
NONCE_BYTES = 16

Nonce = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class ProposalPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a proposal says of its plan.

    Attributes:
        plan: its text, as `plan.write_plan` writes it. members: of everybody with a role, the identity key in hex.
        proposer: one of them. created, expires: moments; outside them nobody approves or runs it. nonce: of this proposal alone.
    """

    plan: str
    members: dict[str, Hex32]
    proposer: str
    created: Moment
    expires: Moment
    nonce: Nonce


class RejectionPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a member does not approve a proposal, or no longer does. `proposal` is the SHA-256 of its statement."""

    proposal: Hex32
    member: str
    reason: Annotated[str, Meta(max_length=MOST_REASON)]
    created: Moment


class ProposalStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """A proposal. The subject is the plan."""

    predicate_type: Literal["urn:hansa:plan-proposal:1"] = msgspec.field(name="predicateType")
    predicate: ProposalPredicate


class RejectionStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """A rejection. The subject is the plan."""

    predicate_type: Literal["urn:hansa:plan-rejection:1"] = msgspec.field(name="predicateType")
    predicate: RejectionPredicate


@dataclass(frozen=True)
class Proposal:
    """A proposal and the approvals that it has; made by `propose` or `read_proposal`, which check every signature.

    Attributes:
        plan: what is proposed. predicate: what stands around it. payload: the statement's bytes, which are signed.
        signatures: of those members that approved, 64 bytes each.
    """

    plan: Plan
    predicate: ProposalPredicate
    payload: bytes
    signatures: Mapping[str, bytes]

    @property
    def digest(self) -> bytes:
        """SHA-256 of the statement, 32 bytes: what tells this proposal from all others."""
        return hashlib.sha256(self.payload).digest()

    @property
    def missing(self) -> tuple[str, ...]:
        """Members with a role that have not approved."""
        return tuple(name for name in self.plan.members if name not in self.signatures)

    @property
    def envelope(self) -> EnvelopeJson:
        """The statement with its signatures."""
        members = self.predicate.members
        signatures = {bytes.fromhex(members[name]): own for name, own in sorted(self.signatures.items())}
        return sealed(self.payload, signatures)


def propose(
    plan: Plan, members: Members, proposer: Identity, days: int = DEFAULT_DAYS, now: datetime | None = None
) -> Proposal:
    """A proposal of a plan, approved by its proposer.

    Args:
        members: all of the plan's are in it. proposer: has a role in the plan. days: for which it may be approved and run.

    Raises:
        PlanError, IdentityError: the proposer or a member is not who the plan or the members file names.
    """
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    if not 1 <= days <= MOST_DAYS:
        raise PlanError(f"a proposal is for 1 to {MOST_DAYS} days, not {days}")
    predicate = ProposalPredicate(
        plan=write_plan(plan),
        members=identities_of(plan, members),
        proposer=proposer.name,
        created=moment,
        expires=moment + timedelta(days=days),
        nonce=secrets.token_hex(NONCE_BYTES),
    )
    statement = ProposalStatement(STATEMENT_TYPE, _subject(plan), PROPOSAL_TYPE, predicate)
    payload = encoded(statement)
    return approve(Proposal(plan, predicate, payload, {}), proposer, moment)


def approve(proposal: Proposal, member: Identity, now: datetime | None = None) -> Proposal:
    """The proposal with this member's approval. Raises PlanError, IdentityError where it has no role, or the time is over."""
    _check_time(proposal, now or datetime.now(UTC))
    _check_role(proposal, member)
    return replace(proposal, signatures={**proposal.signatures, member.name: sign(member, proposal.payload)})


def joined(first: Proposal, *others: Proposal) -> Proposal:
    """One proposal with the approvals of all copies. Raises PlanError where they are of several proposals."""
    found = dict(first.signatures)
    for other in others:
        if other.payload != first.payload:
            raise PlanError(
                f"these are two proposals ({first.digest.hex()[:16]} and {other.digest.hex()[:16]}): approvals of one are none of the "
                "other; join copies of one file"
            )
        found |= other.signatures
    return replace(first, signatures=found)


def require_approved(proposal: Proposal, where: str, now: datetime | None = None) -> None:
    """Raise PlanError unless every member with a role has approved, and the time is not over."""
    if proposal.missing:
        raise PlanError(
            f"{where}: {', '.join(proposal.missing)} did not approve this plan; nothing runs until every member with a role has: "
            "ask for their files, and join them by `hansa plan join`",
            rule="every member with a role has approved",
            cure="ask the missing members to approve",
        )
    _check_time(proposal, now or datetime.now(UTC), where)


def write_proposal(path: Path, proposal: Proposal) -> None:
    """Write the file. Raises OutputError."""
    write_whole(path, written(proposal.envelope), private=False)


def read_proposal(path: Path, members: Members | None = None, *, past: bool = False) -> Proposal:
    """Read a proposal; every signature in it is checked. See `proposal_of`."""
    return proposal_of(read_envelope(path), str(path), members, past=past)


def proposal_of(envelope: EnvelopeJson, where: str, members: Members | None = None, *, past: bool = False) -> Proposal:
    """The proposal in an envelope; every signature in it is checked.

    Args:
        members: as this member pinned them: the proposal must name the same identities. None checks signatures against those that the
            proposal itself names, which says nothing of who they are.
        past: whether it is of a run that is over: then it may name keys that members had then, and ones that were revoked since.

    Raises:
        PlanError: it is none, damaged, or of other members than the plan's. IdentityError: a signature or an identity is wrong.
    """
    statement, payload, signatures = opened(envelope, ProposalStatement, where)
    predicate = statement.predicate
    plan = parse_plan(predicate.plan, where)
    if statement.subject != _subject(plan):
        raise PlanError(
            f"{where}: the statement names another plan than the one that it holds; do not approve it",
            rule="a proposal names the plan that it holds",
        )
    if set(predicate.members) != set(plan.members) or predicate.proposer not in predicate.members:
        raise PlanError(
            f"{where}: the statement names other members than the plan that it holds; do not approve it",
            rule="a proposal names the members of its plan",
        )
    if members is not None and not past:
        check_not_revoked(where, predicate.members, members)
    if members is not None and not _pinned(predicate.members, plan, members, past):
        differ = [
            name
            for name, own in predicate.members.items()
            if name not in members or members[name].identity.hex() != own
        ]
        raise IdentityError(
            f"{where}: the proposal was made for another identity of {', '.join(differ)} than your members file has; compare "
            "fingerprints by telephone, and propose the plan anew under the members file that holds",
            rule="a proposal names the keys that this member pins",
            cure="propose the plan anew under one members file",
        )
    identities = {name: bytes.fromhex(own) for name, own in predicate.members.items()}
    return Proposal(plan, predicate, payload, verified(where, payload, signatures, identities))


def reject(proposal: Proposal, member: Identity, reason: str, now: datetime | None = None) -> bytes:
    """A signed statement that this member does not approve, or no longer does: a DSSE envelope, to be sent to the others.

    Raises PlanError, IdentityError where it has no role, or the reason is too long.
    """
    _check_role(proposal, member)
    if len(reason) > MOST_REASON:
        raise PlanError(f"a reason has at most {MOST_REASON} characters, this one {len(reason)}")
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    predicate = RejectionPredicate(proposal.digest.hex(), member.name, reason, moment)
    statement = RejectionStatement(STATEMENT_TYPE, _subject(proposal.plan), REJECTION_TYPE, predicate)
    payload = encoded(statement)
    return written(sealed(payload, {member.public: sign(member, payload)}))


def withdraw(proposal: Proposal, member: Identity, reason: str, now: datetime | None = None) -> bytes:
    """A signed statement that this member takes back its approval: a rejection, by one whose signature the proposal has.

    Raises PlanError, IdentityError where it did not approve, or the reason is too long.
    """
    if member.name not in proposal.signatures:
        raise PlanError(
            f"{member.name!r} has not approved this proposal, so there is nothing to take back; `hansa plan reject` rejects it"
        )
    return reject(proposal, member, reason, now)


def proposal_digest_of(envelope: EnvelopeJson, where: str) -> str:
    """Which proposal a rejection is of, as it says itself: no signature is checked. Raises PlanError."""
    statement, _, _ = opened(envelope, RejectionStatement, where)
    return statement.predicate.proposal


def read_rejection(path: Path, proposal: Proposal) -> RejectionPredicate:
    """Read a rejection. See `rejection_of`."""
    return rejection_of(read_envelope(path), str(path), proposal)


def rejection_of(envelope: EnvelopeJson, where: str, proposal: Proposal) -> RejectionPredicate:
    """A member's rejection of this proposal, its signature checked. Raises PlanError, IdentityError."""
    statement, payload, signatures = opened(envelope, RejectionStatement, where)
    predicate = statement.predicate
    if predicate.proposal != proposal.digest.hex() or statement.subject != _subject(proposal.plan):
        raise PlanError(f"{where}: rejects another proposal ({predicate.proposal[:16]})")
    if predicate.member not in proposal.predicate.members:
        raise PlanError(f"{where}: {predicate.member!r} has no role in the plan that it rejects")
    own = {predicate.member: bytes.fromhex(proposal.predicate.members[predicate.member])}
    if not verified(where, payload, signatures, own):
        raise IdentityError(f"{where}: is not signed by {predicate.member!r}, whose rejection it says to be")
    return predicate


def is_proposal(content: bytes) -> bool:
    """Whether a file that holds a plan holds a proposal of one: JSON, where a plan is TOML."""
    return content.lstrip().startswith(b"{")


def _subject(plan: Plan) -> tuple[Subject]:
    return (Subject(plan.name, Digest(plan.digest().hex())),)


def identities_of(plan: Plan, members: Members) -> dict[str, str]:
    """Of everybody with a role. Raises IdentityError."""
    absent = [name for name in plan.members if name not in members]
    if absent:
        raise IdentityError(f"the plan's member {absent[0]!r} is not in the members file; add its card at every member")
    return {name: members[name].identity.hex() for name in plan.members}


def check_not_revoked(where: str, identities: Mapping[str, str], members: Members) -> None:
    """Raise IdentityError where a key (hex, by member) is trusted no more."""
    for name, own in identities.items():
        if why := members.revoked(bytes.fromhex(own)):
            raise IdentityError(
                f"{where}: names the key of {name!r} that was revoked in version {why.version} of the consortium's file "
                f"({why.reason}); do not trust it, and propose the plan anew with those who are members now",
                member=name,
                rule="no key with a role was revoked",
                cure="propose the plan anew with those who are members now",
            )


def _pinned(identities: Mapping[str, str], plan: Plan, members: Members, past: bool) -> bool:
    """Whether a proposal names the keys that this member pins, or pinned then."""
    if not past:
        return dict(identities) == identities_of(plan, members)
    keys = {name: bytes.fromhex(own) for name, own in identities.items()}
    return all(members.had(name, key) or members.revoked(key) is not None for name, key in keys.items())


def _check_role(proposal: Proposal, member: Identity) -> None:
    given = proposal.predicate.members.get(member.name)
    if given is None:
        raise PlanError(
            f"{member.name!r} has no role in this plan, whose members are {', '.join(proposal.plan.members)}; name another identity"
        )
    if given != member.public.hex():
        raise IdentityError(
            f"the proposal names another key of {member.name!r} than this identity's; propose the plan anew under the members file "
            "that holds this key"
        )


def _check_time(proposal: Proposal, now: datetime, where: str = "the proposal") -> None:
    created, expires = proposal.predicate.created, proposal.predicate.expires
    if now > expires:
        raise PlanError(f"{where}: was open until {expires:%Y-%m-%d %H:%M} UTC; propose the plan anew")
    if now + timedelta(hours=1) < created:
        raise PlanError(
            f"{where}: is of {created:%Y-%m-%d %H:%M} UTC, and this machine's clock says {now:%Y-%m-%d %H:%M}; set the clock right"
        )
