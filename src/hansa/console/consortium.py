"""Consortium: members with what people compare by telephone, versions of its file, invitations, and changes of members and keys.

A change is a version of the consortium's file that several sign. Until all have it lies beside the file that this member holds, which
everything else reads and which has no version that lacks a signature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from hansa.console.actions import Done, Form, Offered
from hansa.console.member import Asked, Member, NotThere
from hansa.console.signing import asks_passphrase, signer
from hansa.consortium.envelopes import envelope_of
from hansa.consortium.identity import CARD_FILE, Card, fingerprint, load_identity, read_fingerprint
from hansa.consortium.invitations import DEFAULT_DAYS, answer_of, invite
from hansa.consortium.key_files import Unlocking
from hansa.consortium.members import read_members
from hansa.consortium.versions import Consortium as Signed
from hansa.consortium.versions import (
    Version,
    added,
    consortium_of,
    merged,
    read_consortium,
    removed,
    revoked,
    rotated,
    signed,
    write_consortium,
)
from hansa.consortium.words import words_of
from hansa.errors import HansaError, IdentityError, PlanError
from hansa.files import make_folder, read_whole, write_whole
from hansa.plan import MEMBER_NAME
from hansa.service.config import Consortium
from hansa.service.proposals import alone

ONLY = "only"
"""Stands for the name of a member's one consortium, which has none, in paths."""

_FILE = "the file"


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


class ChangeShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A change that is under way: the version that it is, which not all have signed yet.

    Attributes:
        kind, members: what it changes, of whom. signed_by: who signed. missing: who still has to, for each way in which it can be
            whole. cards: of the members that it adds or gives another card. signs: whether this member's key is among those.
    """

    version: int
    created: datetime
    kind: str
    members: tuple[str, ...]
    signed_by: tuple[str, ...]
    missing: tuple[tuple[str, ...], ...]
    cards: tuple[MemberKeys, ...]
    signs: bool


class NewKeys(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other keys of this member that `hansa init` made, in a folder beside those of now.

    renewed: whether the identity key is that of now, and only the certificate is another one.
    """

    folder: str
    fingerprint: str
    words: str
    valid_until: datetime
    renewed: bool


class ConsortiumShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One consortium of this member.

    Attributes:
        name: in the service's file; empty where it has one alone. called: its name in its file; empty where members stand in a members
            file, which nobody signs. digest: of the members, as `hansa members` prints it. members, versions, revoked: of it.
        hub: where the hub listens or is found. passphrase: whether one is asked for to sign. invited: members with an invitation here.
        change: of members or keys that is under way, or None. new_keys: that this member could take.
        shown: the version that the page shows, with the change; empty where nobody signs. A form sends it back.
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
    change: ChangeShown | None
    new_keys: tuple[NewKeys, ...]
    shown: str


class ConsortiumView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Consortium shows."""

    consortia: tuple[ConsortiumShown, ...]


def consortium(member: Member, _: Asked) -> ConsortiumView:
    """Every consortium of this member."""
    return ConsortiumView(consortia=tuple(_shown(member, own) for own in member.service.consortia))


def _shown(member: Member, own: Consortium) -> ConsortiumShown:
    standing = own.members.standing
    versions = _versions(own)
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
        change=_change_shown(member, own) if versions else None,
        new_keys=tuple(_new_keys(own)) if versions else (),
        shown=_head(member, own),
    )


def _change_shown(member: Member, own: Consortium) -> ChangeShown | None:
    pending = _pending(member, own)
    if pending is None:
        return None
    head, before = pending.head, own.members
    new = {name: card for name, card in head.members.items() if before.get(name) != card}
    return ChangeShown(
        version=head.predicate.version,
        created=head.predicate.created,
        kind=head.change.kind,
        members=head.change.members,
        signed_by=tuple(sorted(head.signatures)),
        missing=_ways_left(head),
        cards=tuple(_keys(new, own.identity.name)),
        signs=any(head.change.keys[name] == own.identity.identity for way in _ways_left(head) for name in way),
    )


def _ways_left(head: Version) -> tuple[tuple[str, ...], ...]:
    """Who still has to sign a version, for each way in which it can be whole; the shortest first."""
    left = {tuple(sorted(way - head.signatures.keys())) for way in head.change.enough}
    return tuple(sorted(left, key=lambda way: (len(way), way)))


def _new_keys(own: Consortium) -> Iterator[NewKeys]:
    """Folders beside that of this member's keys which hold another card of it."""
    for path in sorted(own.folder.absolute().parent.iterdir()):
        try:
            cards = tuple(read_members(path / CARD_FILE).values()) if (path / CARD_FILE).is_file() else ()
        except HansaError:
            continue  # no card of a member
        for card in cards[:1]:
            if card.name == own.identity.name and card not in (own.identity, own.members.get(card.name)):
                (shown,) = _keys({card.name: card}, "")
                yield NewKeys(
                    folder=path.name,
                    fingerprint=shown.fingerprint,
                    words=shown.words,
                    valid_until=shown.valid_until,
                    renewed=card.identity == own.identity.identity,
                )


def _keys(members: Mapping[str, Card], own: str) -> list[MemberKeys]:
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
    own, name = _signed(member, form), form.get("name").strip()
    days = form.get("days") or str(DEFAULT_DAYS)
    if not days.isascii() or not days.isdigit() or len(days) > 4:
        raise PlanError("days: write a whole number")
    held = _file(own)
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


def add_member(member: Member, form: Form) -> Done:
    """Add the member whose answer to an invitation of this one came back."""
    own = _signed(member, form)
    held = _held(member, own)
    if not form.file:
        raise PlanError("no file came; choose the answer that the invited member sent")
    identity = signer(own, form.get("passphrase"))
    card, invitation = answer_of(envelope_of(form.file, _FILE), _FILE, held, identity)
    return _put(member, own, added(held, [card], [invitation], identity), f"{card.name} is to be a member", card.name)


def remove_member(member: Member, form: Form) -> Done:
    """Remove a member that leaves; nobody's key is revoked by that."""
    own, name = _signed(member, form), form.get("member")
    _sure(form)
    held = _held(member, own)
    _as_shown(held, form)
    made = removed(held, name, signer(own, form.get("passphrase")))
    return _put(member, own, made, f"{name} is to be a member no more", name)


def revoke_key(member: Member, form: Form) -> Done:
    """Have nobody trust a key any more: a member's present one, and then it is none, or one that it had before."""
    own, name = _signed(member, form), form.get("member")
    _sure(form)
    held = _held(member, own)
    _as_shown(held, form)
    key = read_fingerprint(form.get("key").strip()) if form.get("key").strip() else None
    made = revoked(held, name, form.get("reason").strip(), signer(own, form.get("passphrase")), key)
    return _put(member, own, made, f"a key of {name} is to be trusted no more", name)


def rotate_keys(member: Member, form: Form) -> Done:
    """Take other keys, which `hansa init` made in a folder beside those of now: a new identity key, or a renewed certificate."""
    own, folder = _signed(member, form), form.get("folder")
    _sure(form)
    held = _held(member, own)
    _as_shown(held, form)
    if folder not in {each.folder for each in _new_keys(own)}:
        raise NotThere(f"{folder!r:.80} holds no other keys of {own.identity.name}; make them by `hansa init`")
    old = signer(own, form.get("passphrase"))
    new = load_identity(
        own.folder.absolute().parent / folder, Unlocking(own.key_file, lambda _: form.get("passphrase"))
    )
    made = rotated(held, new, [new] if old.public == new.public else [old, new])
    what = f"{new.name} has other keys: write identity = {folder!r} into the service's file"
    return _put(member, own, made, what, new.name)


def bring_file(member: Member, form: Form) -> Done:
    """Take another member's copy of the consortium's file: its signatures, or a version that goes on from the one held here."""
    own = _signed(member, form)
    if not form.file:
        raise PlanError("no file came; choose the consortium's file as another member sent it")
    held, pending = _file(own), _pending(member, own)
    known = merged(held, *(() if pending is None else (pending,)))
    made = merged(known, consortium_of(form.file, _FILE))
    if made == known:
        raise PlanError("the file holds no version and no signature that is not here; ask for a newer one")
    head = made.head
    what = f"version {head.predicate.version}: {', '.join(head.change.members)} {head.change.kind}"
    return _put(member, own, made, what, head.digest)


def sign_change(member: Member, form: Form) -> Done:
    """Sign the change that is under way."""
    own = _signed(member, form)
    _sure(form)
    pending = _pending(member, own)
    if pending is None:
        raise NotThere("no change of members or keys is under way here")
    _as_shown(pending, form)
    made = signed(pending, signer(own, form.get("passphrase")))
    what = f"version {made.head.predicate.version} is signed by {own.identity.name}"
    return _put(member, own, made, what, made.head.digest)


def drop_change(member: Member, form: Form) -> Done:
    """Drop the change that is under way, here; what others signed of it stays with them."""
    own = _signed(member, form)
    pending = _pending(member, own)
    if pending is None:
        raise NotThere("no change of members or keys is under way here")
    _as_shown(pending, form)
    _change_path(member, own).unlink(missing_ok=True)
    return Done(text="the change is dropped here; tell who signed it", to="/consortium", about=pending.head.digest)


def consortium_file(member: Member, asked: Asked) -> Offered:
    """The consortium's file as this member holds it, or with the change that is under way: for the others."""
    for own in member.service.consortia:
        if (own.name or ONLY) == asked.get("consortium") and own.members.standing is not None:
            _file(own)
            pending = _change_path(member, own)
            path = pending if pending.is_file() else own.members_path
            return Offered(name="consortium.json", kind="application/json", content=read_whole(path))
    raise NotThere("there is no such consortium, or its members stand in a members file")


def _signed(member: Member, form: Form) -> Consortium:
    """The consortium that a form is about. Raises PlanError where its members stand in a file that nobody signs."""
    own = member.service.consortium(form.get("consortium"))
    if own.members.standing is None:
        raise PlanError(
            f"{own.members_path.name}: is a members file, which nobody signs; found a consortium by `hansa consortium create` "
            "to invite, and to change members and keys"
        )
    return own


def _head(member: Member, own: Consortium) -> str:
    """The digest of the version that the page shows: of the change that is under way, or of the file."""
    versions = _versions(own)
    pending = _pending(member, own) if versions else None
    return pending.head.digest if pending is not None else versions[-1].digest if versions else ""


def _as_shown(held: Signed, form: Form) -> None:
    """Raise PlanError where the consortium, or its change, is another than the page showed: nobody signs what they did not read."""
    if form.get("shown") != held.head.digest:
        raise PlanError(
            "members, keys or the change under way are others than this page showed; load it again and read it"
        )


def _sure(form: Form) -> None:
    if form.get("sure") != "yes":
        raise PlanError("nothing was done: tick that you are sure, once you have read who signs")


def _held(member: Member, own: Consortium) -> Signed:
    """The consortium that a change follows. Raises PlanError where one is under way."""
    if _pending(member, own) is not None:
        raise PlanError("a change of members or keys is under way; finish it or drop it first")
    return _file(own)


def _versions(own: Consortium) -> tuple[Version, ...]:
    """All versions of the consortium's file as this console took it."""
    return () if own.signed is None else own.signed.versions


def _file(own: Consortium) -> Signed:
    """The consortium's file as this console took it.

    Raises IdentityError where it is another one now: half written, older, or of another history. Nothing is made or signed from that.
    """
    held = read_consortium(own.members_path)
    if own.signed is None or [each.digest for each in held.versions] != [each.digest for each in own.signed.versions]:
        raise IdentityError(
            f"{own.members_path.name}: is another file than this console took; Home says whether it is wrong, else load the page again"
        )
    return held


def _pending(member: Member, own: Consortium) -> Signed | None:
    """The consortium with the change that is under way; None where there is none, or the file held here has gone past it."""
    path = _change_path(member, own)
    if not path.is_file():
        return None
    pending = read_consortium(path)
    return pending if len(pending.versions) > len(_versions(own)) else None


def _put(member: Member, own: Consortium, made: Signed, what: str, about: str) -> Done:
    """Keep a changed consortium: beside the member's file as long as somebody still has to sign, and else in its place."""
    path, missing = _change_path(member, own), made.head.missing
    ways = "; or ".join(", ".join(way) for way in _ways_left(made.head))
    with alone(path.parent):
        merged(_file(own), made)  # it goes on from the file as it is now
        if missing:
            write_consortium(path, made)
        else:
            write_consortium(own.members_path, made)
            path.unlink(missing_ok=True)
    next_ = (
        f"still to sign: {ways}. Save the file, send it to each, and bring here what comes back"
        if missing
        else "all that must have signed: save the file, and send it to every member. The service takes it now"
    )
    return Done(text=f"{what}; {next_}", to="/consortium", about=about)


def _change_path(member: Member, own: Consortium) -> Path:
    return member.service.change_of(own)


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
    return member.service.invitations_of(own)
