"""The signed members file of a consortium: its versions, each signed by the members and chained to the one before (`envelopes`).

A version changes one thing: it founds the consortium, adds members, removes one, revokes a key, rotates one (a member takes another
identity key) or renews a card (another certificate under the same key). Who must have signed it:

* founded: every member.
* added: every member before, and every new one.
* removed: all that stay.
* revoked: the revoked key itself, or all that stay; of a key that its member had before, the member alone.
* rotated: the old and the new key, or the new key and all other members.
* renewed: the member's own key.

A file with a version that lacks a signature is refused wherever members are read from it. A key that was revoked, or that was another
member's, never stands in a later version. Everything in the file is public.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hansa.consortium.envelopes import (
    MOST_BYTES,
    STATEMENT_TYPE,
    Digest,
    EnvelopeJson,
    Hex32,
    InTotoStatement,
    Moment,
    Subject,
    encoded,
    opened,
    sealed,
    sign,
    verified,
)
from hansa.consortium.identity import Card, Identity, fingerprint
from hansa.consortium.members import CardTable, Members, Revoked, Standing, card_of, members_of, read_members, table_of
from hansa.errors import IdentityError, in_words
from hansa.files import read_whole, write_whole
from hansa.plan import MEMBER_NAME

VERSION_TYPE: Final = "urn:hansa:consortium-version:1"
MOST_REASON = 1000
SIGNED_FILE = "a consortium's file"

Kind = Literal["founded", "added", "removed", "revoked", "rotated", "renewed"]
Reason = Annotated[str, Meta(min_length=1, max_length=MOST_REASON)]


class RevokedKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that nobody may trust any more: whose it was, the key in hex, the version that revoked it, and why."""

    member: str
    identity: Hex32
    version: int
    reason: Reason


class VersionPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version says.

    Attributes:
        consortium: its name. version: 1, 2, ... previous: SHA-256 of the statement before; None for the first.
        created: when it was made. members: everybody's card, in the order of names. revoked: all keys revoked so far, in this order.
        invitations: SHA-256 of the invitations that were used so far, each for one member once.
    """

    consortium: str
    version: Annotated[int, Meta(ge=1)]
    previous: Hex32 | None
    created: Moment
    members: tuple[CardTable, ...]
    revoked: tuple[RevokedKey, ...]
    invitations: tuple[Hex32, ...]


class VersionStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """The subject's digest is that of the members, as `hansa members` prints it."""

    predicate_type: Literal["urn:hansa:consortium-version:1"] = msgspec.field(name="predicateType")
    predicate: VersionPredicate


class ConsortiumJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A consortium's file: one envelope for each version, the first one first."""

    versions: Annotated[tuple[EnvelopeJson, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class Change:
    """What a version changes.

    Attributes:
        kind, members: what, and of whom. keys: every key that may sign, by the name that errors give it.
        enough: sets of those names; the version holds once all of one of them have signed.
    """

    kind: Kind
    members: tuple[str, ...]
    keys: Mapping[str, bytes]
    enough: tuple[frozenset[str], ...]


@dataclass(frozen=True)
class Version:
    """A version, its signatures checked. `signatures`: name of the key (`Change.keys`) -> 64 bytes; `payload` is what is signed."""

    predicate: VersionPredicate
    members: Members
    change: Change
    payload: bytes
    signatures: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 of the statement, in hex."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def missing(self) -> tuple[str, ...]:
        """The keys that must still sign, on the way that needs fewest."""
        left = (tuple(sorted(names - self.signatures.keys())) for names in self.change.enough)
        return sorted(left, key=len)[0]

    @property
    def envelope(self) -> EnvelopeJson:
        """The statement with its signatures."""
        by_key = {self.change.keys[name]: own for name, own in sorted(self.signatures.items())}
        return sealed(self.payload, by_key)


@dataclass(frozen=True)
class Consortium:
    """The versions of a consortium, of which only the last may lack signatures. Made by `found`, `changed` and `read_consortium`."""

    versions: tuple[Version, ...]

    @property
    def name(self) -> str:
        """The consortium's name."""
        return self.head.predicate.consortium

    @property
    def head(self) -> Version:
        """The last version."""
        return self.versions[-1]

    def standing(self, version: int | None = None) -> Standing:
        """What the whole file says of keys, beside the members of its last version, or of an earlier one.

        Args:
            version: whose members they are; it is there. What later versions revoked is revoked for it too.
        """
        members = (self.head if version is None else self.versions[version - 1]).members
        revoked = {
            bytes.fromhex(own.identity): Revoked(own.member, own.version, own.reason)
            for own in self.head.predicate.revoked
        }
        present = {card.identity for card in members.values()}
        ever = {card.identity: name for own in self.versions for name, card in own.members.items()}
        return Standing(
            name=self.name,
            digests=tuple(own.digest for own in self.versions),
            signers=frozenset(own.change.keys[name] for own in self.versions for name in own.signatures),
            earlier={key: name for key, name in ever.items() if key not in present and key not in revoked},
            revoked=revoked,
            former=self._former(members, revoked),
        )

    def _former(self, members: Members, revoked: Mapping[bytes, Revoked]) -> dict[bytes, str]:
        """Certificates of any version that these members do not have, or whose keys were revoked, and why they are not trusted."""
        present = {card.certificate for card in members.values() if card.identity not in revoked}
        found = {}
        for own in self.versions:
            for name, card in own.members.items():
                if card.certificate in present:
                    continue
                if (why := revoked.get(card.identity)) is not None:
                    text = f"of {name!r}, whose key was revoked in version {why.version} of the consortium's file ({why.reason})"
                elif name in members:
                    text = f"that {name!r} had before; it is to use its present keys"
                else:
                    text = f"of {name!r}, who is no member any more"
                found[card.certificate] = text
        return found


def found(name: str, cards: Iterable[Card], founder: Identity, now: datetime | None = None) -> Consortium:
    """A consortium's first version, signed by its founder; its other members have to sign too.

    Args:
        name: as a member's may be. cards: of all members; the founder's own is added where it is not among them.

    Raises IdentityError.
    """
    if not MEMBER_NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} cannot name a consortium: write 1 to 63 small letters, digits or hyphens, beginning with a letter or digit"
        )
    listed = list(cards)
    if founder.card() not in listed:
        listed.append(founder.card())
    return signed(_next(None, listed, now=now, name=name), founder)


def added(
    held: Consortium, cards: Iterable[Card], invitations: Iterable[str], member: Identity, now: datetime | None = None
) -> Consortium:
    """The next version, with more members. `invitations`: digests of those that the new members had. Raises IdentityError."""
    new = list(cards)
    known = [card.name for card in new if card.name in held.head.members]
    if known:
        raise IdentityError(
            f"{known[0]!r} is a member already; `hansa consortium rotate` changes a member's key or card"
        )
    used = held.head.predicate.invitations
    for each in invitations:
        if each in used:
            raise IdentityError(
                f"invitation {each[:16]} was used before, and each is for one time; invite that member again",
                rule="an invitation is used once",
                cure="invite that member again",
            )
        used = (*used, each)
    return signed(_next(held, [*held.head.members.values(), *new], invitations=used, now=now), member)


def removed(held: Consortium, name: str, member: Identity, now: datetime | None = None) -> Consortium:
    """The next version, without a member. Raises IdentityError."""
    return signed(_next(held, _without(held, name), now=now), member)


def revoked(
    held: Consortium, name: str, reason: str, member: Identity, key: bytes | None = None, now: datetime | None = None
) -> Consortium:
    """The next version, in which nobody trusts a key any more.

    Args:
        name: whose key it is. key: one that the member had before, and then it stays a member; None for the present one, and then it is
            none any more.

    Raises IdentityError.
    """
    if not 1 <= len(reason) <= MOST_REASON:
        raise IdentityError(f"a reason has 1 to {MOST_REASON} characters, not {len(reason)}")
    present = held.head.members.get(name)
    if key is None or (present is not None and present.identity == key):
        left = _without(held, name)
        key = held.head.members[name].identity
    else:
        left = list(held.head.members.values())
        if held.standing().earlier.get(key) != name:
            raise IdentityError(
                f"{name!r} never had the key {fingerprint(key)}, or it was revoked before; `hansa consortium show` lists keys"
            )
    lost = RevokedKey(name, key.hex(), held.head.predicate.version + 1, reason)
    return signed(_next(held, left, revoked=(*held.head.predicate.revoked, lost), now=now), member)


def rotated(held: Consortium, new: Identity, members: Sequence[Identity], now: datetime | None = None) -> Consortium:
    """The next version, with another card of a member: of another identity key (rotated), or of the same one (renewed).

    Args:
        new: the member's identity as it is to be. members: who signs now, such as the old identity and the new one.

    Raises IdentityError.
    """
    if new.name not in held.head.members:
        raise IdentityError(f"{new.name!r} is no member of {held.name}, so there is nothing to change; invite it")
    cards = [new.card() if name == new.name else card for name, card in held.head.members.items()]
    made = _next(held, cards, now=now)
    for member in members:
        made = signed(made, member)
    return made


def signed(consortium: Consortium, member: Identity) -> Consortium:
    """The consortium with a member's signature under its last version. Raises IdentityError where this key has no say in it."""
    head = consortium.head
    names = [name for name, key in head.change.keys.items() if key == member.public]
    if not names:
        raise IdentityError(
            f"version {head.predicate.version} of {consortium.name} does not name this identity's key of {member.name!r}; its keys are "
            f"those of {', '.join(sorted(head.change.keys))}"
        )
    head = replace(head, signatures={**head.signatures, names[0]: sign(member, head.payload)})
    return Consortium((*consortium.versions[:-1], head))


def without_pending(consortium: Consortium) -> Consortium:
    """The consortium without a last version that lacks signatures. Raises IdentityError where that leaves nothing."""
    if not consortium.head.missing:
        return consortium
    if len(consortium.versions) == 1:
        raise IdentityError(f"{consortium.name} was never signed by all of its founders; found it anew")
    return Consortium(consortium.versions[:-1])


def merged(first: Consortium, *others: Consortium) -> Consortium:
    """One consortium with the signatures of all copies, and as many versions as the longest.

    Raises IdentityError where one is not a part of another: two different versions follow one.
    """
    whole = first
    for other in others:
        longer, shorter = (whole, other) if len(whole.versions) >= len(other.versions) else (other, whole)
        versions = list(longer.versions)
        for place, own in enumerate(shorter.versions):
            if own.payload != versions[place].payload:
                raise IdentityError(
                    f"these are two histories of {whole.name}: their versions {own.predicate.version} differ ({own.digest[:16]} and "
                    f"{versions[place].digest[:16]}); ask who made and who signed each, and go on from one",
                    rule="a version follows the one that this member holds",
                    cure="ask who made and who signed each version",
                )
            signatures = {**versions[place].signatures, **own.signatures}
            versions[place] = replace(versions[place], signatures=signatures)
        whole = Consortium(tuple(versions))
    return whole


def read_consortium(path: Path) -> Consortium:
    """`consortium_of` of a file."""
    try:
        content = read_whole(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"{path}: is no {SIGNED_FILE.removeprefix('a ')} ({in_words(error)}); ask a member for its copy"
        ) from error
    return consortium_of(content, str(path))


def consortium_of(content: bytes, where: str) -> Consortium:
    """A consortium's file, every version and signature checked; its last version may lack signatures.

    Args:
        where: for errors, what it came by.

    Raises IdentityError, PlanError for what is no statement.
    """
    try:
        read = msgspec.json.decode(content, type=ConsortiumJson, strict=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise IdentityError(
            f"{where}: is no {SIGNED_FILE.removeprefix('a ')} ({error}); ask a member for its copy"
        ) from error
    versions: list[Version] = []
    for envelope in read.versions:
        at = f"{where}, version {len(versions) + 1}"
        if versions and versions[-1].missing:
            raise IdentityError(
                f"{where}: version {len(versions)} lacks the signature of {', '.join(versions[-1].missing)}, and another follows it",
                rule="every version is signed as it must be",
            )
        statement, payload, signatures = opened(envelope, VersionStatement, at)
        version = _version(at, statement.predicate, payload, versions[-1] if versions else None, versions)
        if statement.subject != _subject(statement.predicate, version.members):
            raise IdentityError(f"{at}: names another subject than the members that it lists; do not trust this file")
        versions.append(replace(version, signatures=verified(at, payload, signatures, version.change.keys)))
    return Consortium(tuple(versions))


def write_consortium(path: Path, consortium: Consortium) -> None:
    """Write the file. Raises OutputError."""
    content = ConsortiumJson(tuple(own.envelope for own in consortium.versions))
    write_whole(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n", private=False)


def read_pinned(path: Path, now: datetime | None = None, version: int | None = None) -> Members:
    """The members that this member pins: of a consortium's file, which all must have signed, or of a members file (`members`).

    Args:
        now: the moment, default the clock's. version: of the consortium's file, whose members they are; default: the last one. What is
            known since of revoked keys counts all the same.

    Raises IdentityError, PlanError.
    """
    if not is_consortium(path):
        if version is not None:
            raise IdentityError(
                f"{path}: is a members file, which has no versions, and version {version} is asked for; name the consortium's file"
            )
        return read_members(path, now)
    return pinned_of(read_consortium(path), str(path), now, version)


def pinned_of(consortium: Consortium, where: str, now: datetime | None = None, version: int | None = None) -> Members:
    """`read_pinned` of a consortium's file that was read already, from `where`. Raises IdentityError."""
    require_signed(consortium, where)
    if version is not None and version > len(consortium.versions):
        raise IdentityError(
            f"{where}: has {len(consortium.versions)} versions, and version {version} is asked for; ask a member for its newest copy"
        )
    head = consortium.head if version is None else consortium.versions[version - 1]
    try:
        members = members_of(head.members.values(), now)
    except IdentityError as error:
        raise IdentityError(f"{where}: {error}") from error
    return replace(members, standing=consortium.standing(version))


def require_signed(consortium: Consortium, where: str) -> None:
    """Raise IdentityError where the last version lacks a signature."""
    head = consortium.head
    if head.missing:
        raise IdentityError(
            f"{where}: version {head.predicate.version} of {consortium.name} still lacks the signature of {', '.join(head.missing)}; "
            "they sign it by `hansa consortium sign`",
            rule="every version is signed as it must be",
            cure="ask the missing members to sign",
        )


def is_consortium(path: Path) -> bool:
    """Whether a file of members is a consortium's: JSON, where a members file is TOML. A file that cannot be read is not."""
    try:
        return read_whole(path, MOST_BYTES).lstrip().startswith(b"{")
    except (OSError, ValueError):
        return False


def _without(held: Consortium, name: str) -> list[Card]:
    if name not in held.head.members:
        raise IdentityError(f"{name!r} is no member of {held.name}; its members are {', '.join(held.head.members)}")
    return [card for own, card in held.head.members.items() if own != name]


def _next(
    held: Consortium | None,
    cards: Iterable[Card],
    *,
    revoked: tuple[RevokedKey, ...] | None = None,
    invitations: tuple[str, ...] | None = None,
    now: datetime | None = None,
    name: str = "",
) -> Consortium:
    """The consortium with one more version, which nobody has signed."""
    before = () if held is None else held.versions
    last = None if held is None else held.head
    if held is not None:
        require_signed(held, held.name)
    moment = (now or datetime.now(UTC)).replace(microsecond=0)
    predicate = VersionPredicate(
        consortium=name if last is None else last.predicate.consortium,
        version=len(before) + 1,
        previous=None if last is None else last.digest,
        created=moment if last is None else max(moment, last.predicate.created),  # clocks differ
        members=tuple(table_of(card) for card in sorted(cards, key=lambda card: card.name)),
        revoked=revoked if revoked is not None else () if last is None else last.predicate.revoked,
        invitations=invitations if invitations is not None else () if last is None else last.predicate.invitations,
    )
    members = _members(predicate, "the new version")
    payload = encoded(VersionStatement(STATEMENT_TYPE, _subject(predicate, members), VERSION_TYPE, predicate))
    return Consortium((*before, _version("the new version", predicate, payload, last, before)))


def _subject(predicate: VersionPredicate, members: Members) -> tuple[Subject]:
    return (Subject(predicate.consortium, Digest(members.digest().hex())),)


def _members(predicate: VersionPredicate, where: str) -> Members:
    try:
        members = members_of([card_of(table) for table in predicate.members], dated=False)
    except IdentityError as error:
        raise IdentityError(f"{where}: {error}") from error
    if [table.name for table in predicate.members] != list(members):
        raise IdentityError(f"{where}: does not list members in the order of their names; ask for the file anew")
    if not members:
        raise IdentityError(f"{where}: has no member left; a consortium has at least one")
    return members


def _version(
    where: str, predicate: VersionPredicate, payload: bytes, last: Version | None, before: Sequence[Version]
) -> Version:
    """A version without signatures, held to those before it. Raises IdentityError."""
    members = _members(predicate, where)
    if last is None:
        fits = predicate.version == 1 and predicate.previous is None
    else:
        fits = (
            predicate.version == last.predicate.version + 1
            and predicate.previous == last.digest
            and predicate.consortium == last.predicate.consortium
            and predicate.created >= last.predicate.created
        )
    if not fits:
        raise IdentityError(
            f"{where}: does not follow the version before it; a version was left out, put in or changed: ask for the file anew",
            rule="each version names the one before it",
        )
    _check_keys(where, predicate, members, before)
    change = _change(where, predicate, members, before)
    return Version(predicate, members, change, payload, {})


def _check_keys(where: str, predicate: VersionPredicate, members: Members, before: Sequence[Version]) -> None:
    """Refuse keys that were revoked, were another member's, or are in use both as identity and for TLS, ever."""
    refused = {bytes.fromhex(own.identity): own for own in predicate.revoked}
    owners = {card.identity: name for own in before for name, card in own.members.items()}
    for name, card in members.items():
        if own := refused.get(card.identity):
            raise IdentityError(
                f"{where}: {name!r} has a key that was revoked in version {own.version} ({own.reason})",
                member=name,
                rule="a revoked key is never taken again",
            )
        if owners.get(card.identity, name) != name:
            raise IdentityError(
                f"{where}: the key of {name!r} was that of {owners[card.identity]!r}",
                rule="a key is one member's for ever",
            )


def _was_key(lost: RevokedKey, version: int, versions: Sequence[Version]) -> bool:
    """Whether a member had this key in some version, and this version says that it revokes it."""
    had = any(
        name == lost.member and card.identity.hex() == lost.identity
        for own in versions
        for name, card in own.members.items()
    )
    return had and lost.version == version


def _change(where: str, predicate: VersionPredicate, members: Members, versions: Sequence[Version]) -> Change:
    """What a version changes, which is one thing. Raises IdentityError."""
    own = {name: card.identity for name, card in members.items()}
    if not versions:
        if predicate.revoked or predicate.invitations:
            raise IdentityError(f"{where}: the first version can revoke no key and use no invitation")
        return Change("founded", tuple(own), own, (frozenset(own),))
    last = versions[-1]
    before = {name: card.identity for name, card in last.members.items()}
    new, gone = [name for name in own if name not in before], [name for name in before if name not in own]
    rotated = [name for name in own if name in before and own[name] != before[name]]
    renewed = [
        name for name in own if name in before and own[name] == before[name] and members[name] != last.members[name]
    ]
    count, used = len(last.predicate.revoked), len(last.predicate.invitations)
    lost, invited = predicate.revoked[count:], predicate.invitations[used:]
    kept = (
        predicate.revoked[:count] == last.predicate.revoked
        and predicate.invitations[:used] == last.predicate.invitations
    )
    if not kept or len(set(predicate.invitations)) < len(predicate.invitations) or len(invited) > len(new):
        raise IdentityError(
            f"{where}: the keys revoked before, or the invitations used before, are not those of the version before it",
            rule="what was revoked or used stays so",
        )
    everybody = {**{f"{name} (earlier key)": before[name] for name in rotated}, **before, **own}
    match (bool(new), len(gone), len(rotated), len(renewed), len(lost)):
        case (True, 0, 0, 0, 0):
            return Change("added", tuple(new), everybody, (frozenset(own),))
        case (False, 1, 0, 0, 0):
            return Change("removed", (gone[0],), everybody, (frozenset(own),))
        case (False, 1, 0, 0, 1) if lost[0] == RevokedKey(
            gone[0], before[gone[0]].hex(), predicate.version, lost[0].reason
        ):
            return Change("revoked", (gone[0],), everybody, (frozenset(gone), frozenset(own)))
        case (False, 0, 0, 0, 1) if _was_key(lost[0], predicate.version, versions) and lost[0].identity not in {
            key.hex() for key in own.values()
        }:
            name, earlier = lost[0].member, f"{lost[0].member} (earlier key)"
            ways = [frozenset({earlier}), frozenset(own), *([frozenset({name})] if name in own else [])]
            return Change("revoked", (name,), {earlier: bytes.fromhex(lost[0].identity), **own}, tuple(ways))
        case (False, 0, 1, 0, 0):
            name = rotated[0]
            ways = [frozenset({f"{name} (earlier key)", name})]
            if len(own) > 1:  # alone, a new key would vouch for itself
                ways.append(frozenset(own))
            return Change("rotated", (name,), everybody, tuple(ways))
        case (False, 0, 0, 1, 0):
            return Change("renewed", (renewed[0],), everybody, (frozenset(renewed),))
    raise IdentityError(
        f"{where}: changes nothing, or more than one thing, or does not say whose key it revokes; make one change a version",
        rule="a version changes one thing",
    )
