"""Joining a consortium by a one-time code: two public files, and six words that are told by another way, such as the telephone.

The inviter writes an invitation, the new member answers it with its card, and each proves by a tag that it knows the code. The code has
66 bits; who has both files can try codes, each at the cost of one scrypt of 16 MiB, so trying all is out of reach. Nothing secret is
kept: the inviter makes the code anew from its own signature of the invitation's number (one message, one Ed25519 signature).
Equations: key = scrypt(code, number), tag = HMAC-SHA256(key, what | statement without its tag).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
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
from hansa.consortium.identity import Card, Identity, check_name, fingerprint
from hansa.consortium.members import CardTable, card_of, members_of, table_of
from hansa.consortium.versions import Consortium, require_signed
from hansa.consortium.words import CODE_WORDS, code_of, read_words, words_of
from hansa.errors import IdentityError

INVITATION_TYPE: Final = "urn:hansa:consortium-invitation:1"
ANSWER_TYPE: Final = "urn:hansa:consortium-answer:1"

DEFAULT_DAYS, MOST_DAYS = 7, 90
NUMBER_BYTES = 16

_NO_TAG = "0" * 64
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P, _SCRYPT_MEMORY = 2**14, 8, 1, 2**25

Number = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class InvitationPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a member invites another.

    Attributes:
        consortium: its name. inviter, identity: who invites, and its key in hex. member: the name that the new member will have.
        created, expires: moments. number: of this invitation alone. tag: proves the code.
    """

    consortium: str
    inviter: str
    identity: Hex32
    member: str
    created: Moment
    expires: Moment
    number: Number
    tag: Hex32


class AnswerPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new member's card, for one invitation, which is in it as it came. `tag` proves the code."""

    consortium: str
    invitation: EnvelopeJson
    card: CardTable
    created: Moment
    tag: Hex32


class InvitationStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """The subject is the version of the consortium's file that the inviter holds."""

    predicate_type: Literal["urn:hansa:consortium-invitation:1"] = msgspec.field(name="predicateType")
    predicate: InvitationPredicate


class AnswerStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """The subject is the invitation."""

    predicate_type: Literal["urn:hansa:consortium-answer:1"] = msgspec.field(name="predicateType")
    predicate: AnswerPredicate


@dataclass(frozen=True)
class Invitation:
    """An invitation whose signature is the key's that it names.

    Attributes:
        predicate: what it says. digest: SHA-256 of the statement, in hex. envelope: as it came.
    """

    predicate: InvitationPredicate
    digest: str
    envelope: EnvelopeJson


def invite(
    consortium: Consortium, member: str, inviter: Identity, days: int = DEFAULT_DAYS, now: datetime | None = None
) -> tuple[bytes, str]:
    """An invitation's file, and the code that the inviter tells the new member by another way.

    Raises IdentityError where the inviter is no member, the name is taken or the consortium's file is not signed by all.
    """
    require_signed(consortium, consortium.name)
    members = consortium.head.members
    check_name(member)
    if member in members:
        raise IdentityError(f"{member!r} is a member of {consortium.name} already")
    _check_inviter(consortium, inviter)
    if not 1 <= days <= MOST_DAYS:
        raise IdentityError(f"an invitation is for 1 to {MOST_DAYS} days, not {days}")
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    number = secrets.token_hex(NUMBER_BYTES)
    code = _code(inviter, number)
    untagged = InvitationPredicate(
        consortium=consortium.name,
        inviter=inviter.name,
        identity=inviter.public.hex(),
        member=member,
        created=moment,
        expires=moment + timedelta(days=days),
        number=number,
        tag=_NO_TAG,
    )
    predicate = msgspec.structs.replace(untagged, tag=_tag(code, number, b"hansa invitation 1\0", untagged))
    subject = (Subject(consortium.name, Digest(consortium.head.digest)),)
    payload = encoded(InvitationStatement(STATEMENT_TYPE, subject, INVITATION_TYPE, predicate))
    return written(sealed(payload, {inviter.public: sign(inviter, payload)})), code


def read_invitation(path: Path) -> Invitation:
    """An invitation, signed by the key that it names; whose key that is, `answer` checks by the code.

    Raises IdentityError.
    """
    return invitation_of(read_envelope(path), str(path))


def invitation_of(envelope: EnvelopeJson, where: str) -> Invitation:
    """The invitation in an envelope, signed by the key that it names. Raises IdentityError, PlanError."""
    statement, payload, signatures = opened(envelope, InvitationStatement, where)
    predicate = statement.predicate
    if not verified(where, payload, signatures, {predicate.inviter: bytes.fromhex(predicate.identity)}):
        raise IdentityError(f"{where}: is not signed by {predicate.inviter!r}, whose invitation it says to be")
    return Invitation(predicate, hashlib.sha256(payload).hexdigest(), envelope)


def answer(invitation: Invitation, code: str, member: Identity, now: datetime | None = None) -> bytes:
    """The file with which a new member answers: its card, bound to the invitation by the code.

    Args:
        code: as the person typed it.

    Raises IdentityError: the code is another's, the time is over, or the invitation is for another name.
    """
    own = invitation.predicate
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    _check_time(own, moment)
    if member.name != own.member:
        raise IdentityError(
            f"the invitation is for {own.member!r}, and this identity is {member.name!r}; ask for another invitation, or make an "
            "identity of that name"
        )
    read = read_words(code, CODE_WORDS, "the code")
    untagged = msgspec.structs.replace(own, tag=_NO_TAG)
    if not hmac.compare_digest(own.tag, _tag(read, own.number, b"hansa invitation 1\0", untagged)):
        raise IdentityError(
            f"the code is not that of this invitation: either it was typed wrongly, or the invitation is not from {own.inviter!r}; ask "
            "for the code again by telephone",
            rule="the code is the invitation's",
            cure="ask the inviter for the code again by telephone",
        )
    card = table_of(member.card())
    answered = AnswerPredicate(own.consortium, invitation.envelope, card, moment, _NO_TAG)
    predicate = msgspec.structs.replace(answered, tag=_tag(read, own.number, b"hansa answer 1\0", answered))
    subject = (Subject(own.consortium, Digest(invitation.digest)),)
    payload = encoded(AnswerStatement(STATEMENT_TYPE, subject, ANSWER_TYPE, predicate))
    return written(sealed(payload, {member.public: sign(member, payload)}))


def read_answer(path: Path, consortium: Consortium, inviter: Identity, now: datetime | None = None) -> tuple[Card, str]:
    """`answer_of` of a file."""
    return answer_of(read_envelope(path), str(path), consortium, inviter, now)


def answer_of(
    envelope: EnvelopeJson, where: str, consortium: Consortium, inviter: Identity, now: datetime | None = None
) -> tuple[Card, str]:
    """The card of a new member that knew the code, and the digest of the invitation that it had.

    Args:
        where: for errors, what it came by. inviter: who made the invitation, and so knows the code.

    Raises:
        IdentityError: the card is another's than the invited member's, or was put in by somebody who did not know the code; the time
            is over; or the invitation is another's. PlanError: the file is no answer.
    """
    _check_inviter(consortium, inviter)
    moment = now or datetime.now(UTC)
    statement, payload, signatures = opened(envelope, AnswerStatement, where)
    predicate = statement.predicate
    invitation = invitation_of(predicate.invitation, where)
    own = invitation.predicate
    if own.identity != inviter.public.hex() or {own.consortium, predicate.consortium} != {consortium.name}:
        raise IdentityError(
            f"{where}: answers an invitation of {own.inviter!r} to {own.consortium!r}, and only that member can take it"
        )
    card = card_of(predicate.card)
    members_of([card], moment)
    if not verified(where, payload, signatures, {card.name: card.identity}):
        raise IdentityError(f"{where}: is not signed by the key of the card that it holds")
    _check_time(own, moment)
    untagged = msgspec.structs.replace(predicate, tag=_NO_TAG)
    tag = _tag(_code(inviter, own.number), own.number, b"hansa answer 1\0", untagged)
    if card.name != own.member or not hmac.compare_digest(predicate.tag, tag):
        raise IdentityError(
            f"{where}: whoever made this answer did not know the code of the invitation for {own.member!r}: the card in it may be "
            "another's; invite that member again, and tell it the code by telephone",
            member=own.member,
            rule="the answer proves the code",
            cure="invite that member again",
        )
    return card, invitation.digest


def told(cards: Mapping[str, Card]) -> list[str]:
    """Lines that name members and their fingerprints, to be compared by telephone."""
    return [
        f"{name:<24} {words_of(card.identity)}  {fingerprint(card.identity)}" for name, card in sorted(cards.items())
    ]


def _check_inviter(consortium: Consortium, inviter: Identity) -> None:
    card = consortium.head.members.get(inviter.name)
    if card is None or card.identity != inviter.public:
        raise IdentityError(f"{inviter.name!r} is no member of {consortium.name} with this key; name another identity")


def _check_time(own: InvitationPredicate, now: datetime) -> None:
    if now > own.expires:
        raise IdentityError(
            f"the invitation was open until {own.expires:%Y-%m-%d %H:%M} UTC; ask {own.inviter!r} for another",
            rule="an invitation has its time",
            cure=f"ask {own.inviter!r} for another invitation",
        )


def _code(inviter: Identity, number: str) -> str:
    """The code of an invitation, which only the inviter's key can make."""
    return code_of(hashlib.sha256(inviter.sign("invitation-code", bytes.fromhex(number))).digest())


def _tag(code: str, number: str, what: bytes, untagged: msgspec.Struct) -> str:
    key = hashlib.scrypt(
        code.encode("ascii"),
        salt=b"hansa invitation\0" + bytes.fromhex(number),
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        maxmem=_SCRYPT_MEMORY,
        dklen=32,
    )
    return hmac.new(key, what + encoded(untagged), hashlib.sha256).hexdigest()
