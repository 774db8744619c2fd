"""Consortium: its members with what people compare by telephone, the versions of its file, and invitations."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from hansa.console.actions import Done, Form, Offered
from hansa.console.member import Asked, Member, NotThere
from hansa.console.signing import asks_passphrase, signer
from hansa.consortium.identity import fingerprint
from hansa.consortium.invitations import DEFAULT_DAYS, invite
from hansa.consortium.members import Members
from hansa.consortium.versions import is_consortium, read_consortium
from hansa.consortium.words import words_of
from hansa.errors import PlanError
from hansa.files import make_folder, read_whole, write_whole
from hansa.plan import MEMBER_NAME
from hansa.service.config import Consortium


class MemberKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member: its fingerprint in base64 and as words, until when its certificate is valid, and whether it is this one."""

    name: str
    fingerprint: str
    words: str
    valid_until: datetime
    own: bool


class VersionShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of the consortium's file: what it changes, of whom, who signed it, and its digest."""

    version: int
    created: datetime
    kind: str
    members: tuple[str, ...]
    signed_by: tuple[str, ...]
    digest: str


class RevokedShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key that is trusted no more: whose it was, as people compare it, since which version, and why."""

    member: str
    fingerprint: str
    version: int
    reason: str


class ConsortiumShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One consortium of this member.

    Attributes:
        name: in the service's file; empty where it has one alone. called: its name in its file; empty where members stand in a members
            file, which nobody signs. digest: of the members, as `hansa members` prints it. members, versions, revoked: of it.
        hub: where the hub listens or is found. passphrase: whether one is asked for to sign. invited: members with an invitation here.
    """

    name: str
    called: str
    digest: str
    members: tuple[MemberKeys, ...]
    versions: tuple[VersionShown, ...]
    revoked: tuple[RevokedShown, ...]
    hub: str
    passphrase: bool
    invited: tuple[str, ...]


class ConsortiumView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Consortium shows."""

    consortia: tuple[ConsortiumShown, ...]


def consortium(member: Member, _: Asked) -> ConsortiumView:
    """Every consortium of this member."""
    return ConsortiumView(consortia=tuple(_shown(member, own) for own in member.service.consortia))


def _shown(member: Member, own: Consortium) -> ConsortiumShown:
    signed = is_consortium(own.members_path)
    versions = read_consortium(own.members_path).versions if signed else ()
    standing = own.members.standing
    folder = _folder(member, own)
    return ConsortiumShown(
        name=own.name,
        called="" if standing is None else standing.name,
        digest=own.members.digest().hex(),
        members=tuple(_keys(own.members, own.identity.name)),
        versions=tuple(
            VersionShown(
                version=each.predicate.version,
                created=each.predicate.created,
                kind=each.change.kind,
                members=each.change.members,
                signed_by=tuple(sorted(each.signatures)),
                digest=each.digest,
            )
            for each in reversed(versions)
        ),
        revoked=tuple(
            RevokedShown(member=why.member, fingerprint=fingerprint(key), version=why.version, reason=why.reason)
            for key, why in ({} if standing is None else standing.revoked).items()
        ),
        hub=own.hub,
        passphrase=asks_passphrase(own),
        invited=tuple(sorted(path.stem for path in folder.glob("*.json"))) if folder.is_dir() else (),
    )


def _keys(members: Members, own: str) -> list[MemberKeys]:
    return [
        MemberKeys(
            name=name,
            fingerprint=fingerprint(card.identity),
            words=words_of(card.identity),
            valid_until=x509.load_der_x509_certificate(card.certificate).not_valid_after_utc,
            own=name == own,
        )
        for name, card in members.items()
    ]


def invite_member(member: Member, form: Form) -> Done:
    """Write an invitation; its code is told once, to the person who asked."""
    own, name = member.service.consortium(form.get("consortium")), form.get("name").strip()
    if not is_consortium(own.members_path):
        raise PlanError(
            f"{own.members_path.name}: is a members file, which nobody signs; found a consortium by `hansa consortium found` to invite"
        )
    days = form.get("days") or str(DEFAULT_DAYS)
    if not days.isascii() or not days.isdigit() or len(days) > 4:
        raise PlanError("days: write a whole number")
    held = read_consortium(own.members_path)
    content, code = invite(held, name, signer(own, form.get("passphrase")), int(days))
    folder = _folder(member, own)
    make_folder(folder)
    write_whole(folder / f"{name}.json", content, private=False)
    return Done(
        text=f"{name} is invited for {days} days; send the file, and tell the code by telephone.",
        to="/consortium",
        about=name,
        secret=f"The code, which is shown this once: {code}",
    )


def invitation_file(member: Member, asked: Asked) -> Offered:
    """An invitation, to be sent to the member that it is for."""
    name = asked.get("member")
    if MEMBER_NAME.fullmatch(name):
        for own in member.service.consortia:
            path = _folder(member, own) / f"{name}.json"
            if path.is_file():
                return Offered(name=f"invitation-{name}.json", kind="application/json", content=read_whole(path))
    raise NotThere(f"{name!r:.80} was not invited here")


def _folder(member: Member, own: Consortium) -> Path:
    return member.service.state / "invitations" / (own.name or "only")
