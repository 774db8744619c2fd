"""The members file: the cards of all members, which each member gets outside the network.

Whoever stands in it may connect, under the name and with the certificate written there and no other. It is
TOML: one `[[member]]` table per member with `name`, and `identity`, `certificate`, `signature` in base64.
Joining the members' `card.toml` files one after another makes a members file. Everything in it is public;
what matters is that all members hold the same one, which `Members.digest` lets them compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID
from msgspec import Meta

from hansa.consortium.identity import Card, card_toml, check_name, verify_card
from hansa.declared import decode, shown
from hansa.errors import IdentityError
from hansa.files import write_whole
from hansa.toml import read_toml, write_toml

_DIGEST_PREFIX = b"hansa members 1\0"
_FIELD_PRIME = 2**255 - 19
# The points of edwards25519 whose order divides 8, by y: for them one signature fits many messages.
_SMALL_ORDER = frozenset(
    (
        0,
        1,
        _FIELD_PRIME - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
    )
)
_NEW_CARD = "ask that member for a new card"

Base64 = Annotated[bytes, Meta(description=f"base64; {_NEW_CARD}")]


@dataclass(frozen=True)
class Revoked:
    """Why a key is trusted no more: whose it was, the version of the consortium's file that says so, and the reason."""

    member: str
    version: int
    reason: str


@dataclass(frozen=True)
class Standing:
    """What a signed file of members says beside their cards (`versions`).

    Attributes:
        name: of the consortium. digests: of every version's statement, in hex, the first version's first.
        signers: keys that signed any version. earlier: key -> member, of keys that members had before they took others; beside the
            members of an earlier version also those that they took since.
        revoked: key -> why. former: certificate (DER) that is trusted no more -> whose it was, and why not, in words.
    """

    name: str
    digests: tuple[str, ...]
    signers: frozenset[bytes]
    earlier: Mapping[bytes, str]
    revoked: Mapping[bytes, Revoked]
    former: Mapping[bytes, str]

    @property
    def version(self) -> int:
        """The number of the last version."""
        return len(self.digests)

    @property
    def digest(self) -> str:
        """Of the last version's statement, in hex."""
        return self.digests[-1]

    @property
    def founded(self) -> str:
        """Of the first version's statement, by which two consortia of one name are told apart."""
        return self.digests[0]


@dataclass(frozen=True)
class Members(Mapping[str, Card]):
    """All members by name. Made by `members_of`, `read_members` or `versions.read_pinned`, which check every card.

    `standing` is what a consortium's signed file adds; None where the members stand in a members file, which nobody signs.
    """

    cards: Mapping[str, Card]
    standing: Standing | None = None

    def __getitem__(self, name: str) -> Card:
        return self.cards[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.cards)

    def __len__(self) -> int:
        return len(self.cards)

    def state(self) -> str:
        """What tells one state of the file from another, in hex: of the last version, or of all cards where nobody signs it."""
        return self.digest().hex() if self.standing is None else self.standing.digest

    def certificates(self) -> dict[str, bytes]:
        """Member name -> certificate (DER), as the transport wants them; none of a member whose key was revoked since."""
        return {name: card.certificate for name, card in self.cards.items() if self.revoked(card.identity) is None}

    def former_certificates(self) -> Mapping[bytes, str]:
        """Certificate (DER) that is trusted no more -> whose it was, and why not, in words; none of a file that nobody signs."""
        return {} if self.standing is None else self.standing.former

    def revoked(self, identity: bytes) -> Revoked | None:
        """Why this key is trusted no more; None where nothing is known against it."""
        return None if self.standing is None else self.standing.revoked.get(identity)

    def had(self, name: str, identity: bytes) -> bool:
        """Whether this is, or was until it took another, the member's key; a revoked key never is."""
        if name in self.cards and self.cards[name].identity == identity:
            return True
        return self.standing is not None and self.standing.earlier.get(identity) == name

    def keys_of(self, name: str) -> tuple[bytes, ...]:
        """The member's key, and those that it had until it took another."""
        before = {} if self.standing is None else self.standing.earlier
        return (self.cards[name].identity, *(key for key, member in before.items() if member == name))

    def digest(self) -> bytes:
        """SHA-256 of the cards in the order of their names: 32 bytes that no layout of the file changes."""
        fields = (
            field
            for name, card in sorted(self.cards.items())
            for field in (name.encode("ascii"), card.identity, card.certificate, card.signature)
        )
        content = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
        return hashlib.sha256(_DIGEST_PREFIX + content).digest()


def members_of(cards: Iterable[Card], now: datetime | None = None, *, dated: bool = True) -> Members:
    """Check every card, and that no two share a name or a key (and so a certificate).

    Args:
        cards: the members' cards, in any order.
        now: moment at which certificates must be valid, with a time zone; default: the clock. dated: False does not ask that.

    Raises:
        IdentityError: names the member, what is wrong with its card, and the cure.
    """
    listed = list(cards)
    moment = now or datetime.now(UTC)
    for card in listed:
        _check_card(card, moment if dated else None)
    _check_distinct(listed, "name", lambda card: card.name.encode("ascii"))
    _check_distinct(listed, "identity key", lambda card: card.identity)
    _check_distinct(listed, "TLS key", _tls_public)
    return Members(MappingProxyType({card.name: card for card in sorted(listed, key=lambda card: card.name)}))


def read_members(path: Path, now: datetime | None = None) -> Members:
    """Read and check a members file; raises IdentityError with the file, the member and the cure."""
    content = read_toml(
        path, IdentityError, "name the members file that all members agreed on, or join their card.toml files anew"
    )
    tables = content.pop("member", None)
    if content or not isinstance(tables, list) or not tables:
        raise IdentityError(f"{path}: expected [[member]] tables and nothing else, found {_found(content)}")
    try:
        return members_of([_card(table, place) for place, table in enumerate(tables, start=1)], now)
    except IdentityError as error:
        raise IdentityError(f"{path}: {error}") from error


def write_members(path: Path, members: Members) -> None:
    """Write the members file, in the order of names. Raises OutputError."""
    heading = write_toml({}, f"Hansa members file. SHA-256 of its members: {members.digest().hex()}")
    tables = [card_toml(card) for _, card in sorted(members.items())]
    write_whole(path, "\n".join([heading, *tables]).encode("ascii"), private=False)


def _found(rest: Mapping[str, object]) -> str:
    return ", ".join(sorted(rest)) if rest else "none"


class CardTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """[[member]], as it is written."""

    name: str
    identity: Base64
    certificate: Base64
    signature: Base64


def _card(table: object, place: int) -> Card:
    """One parsed `[[member]]` table as a card; nothing missing, nothing more."""
    if not isinstance(table, dict):
        raise IdentityError(f"member {place} is not a [[member]] table")
    return card_of(decode(table, CardTable, f"member {place} ({shown(table.get('name', 'no name'))})", IdentityError))


def card_of(table: CardTable) -> Card:
    """The card that stands in a file; `members_of` checks it."""
    return Card(table.name, table.identity, table.certificate, table.signature)


def table_of(card: Card) -> CardTable:
    """A card as it is written."""
    return CardTable(card.name, card.identity, card.certificate, card.signature)


def _check_card(card: Card, now: datetime | None) -> None:
    check_name(card.name)
    who = f"member {card.name!r}"
    if len(card.identity) != 32:
        raise IdentityError(f"{who}: the identity key has {len(card.identity)} bytes, expected 32; {_NEW_CARD}")
    if int.from_bytes(card.identity, "little") % 2**255 % _FIELD_PRIME in _SMALL_ORDER:
        raise IdentityError(f"{who}: anybody can sign under this identity key (small order); {_NEW_CARD}")
    certificate = _parsed(card.certificate, who)
    _check_certificate(certificate, card.name, who)
    if now is not None:
        _check_dates(certificate, now, who)
    if _tls_public(card) == card.identity:
        raise IdentityError(f"{who}: identity key and TLS key are one and the same; {_NEW_CARD}")
    try:
        verify_card(card)
    except IdentityError as error:
        raise IdentityError(
            f"{who}: the card is not signed by its identity key, so it was damaged or somebody changed it; "
            f"{_NEW_CARD} and compare the identity key with it by telephone"
        ) from error


def _parsed(der: bytes, who: str) -> x509.Certificate:
    try:
        certificate = x509.load_der_x509_certificate(der)
        if not isinstance(certificate.public_key(), Ed25519PublicKey):
            raise IdentityError(f"{who}: the certificate's key is not Ed25519; {_NEW_CARD}")
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.InvalidVersion) as error:
        raise IdentityError(f"{who}: the certificate is damaged or not self-signed ({error}); {_NEW_CARD}") from error
    return certificate


def _check_certificate(certificate: x509.Certificate, name: str, who: str) -> None:
    """Refuse whatever could do more than stand for this one member, such as issuing certificates."""
    names = [attribute.value for attribute in certificate.subject]
    if names != [name] or not certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        raise IdentityError(
            f"{who}: the certificate names {certificate.subject.rfc4514_string()!r}, expected 'CN={name}'; {_NEW_CARD}"
        )
    try:
        extensions = {extension.oid: extension for extension in certificate.extensions}
    except (ValueError, x509.DuplicateExtension) as error:
        raise IdentityError(f"{who}: the certificate's extensions are damaged ({error}); {_NEW_CARD}") from error
    constraints = extensions.pop(x509.BasicConstraints.oid, None)
    if constraints is None or not constraints.critical or constraints.value.ca:
        raise IdentityError(
            f"{who}: the certificate must say CA:FALSE (critical): one that is an authority could issue "
            f"certificates for others; {_NEW_CARD}"
        )
    usage = extensions.pop(x509.KeyUsage.oid, None)
    if usage is None or not usage.critical or _usages(usage.value) != {"digital_signature"}:
        raise IdentityError(f"{who}: the certificate's keyUsage must be digitalSignature alone (critical); {_NEW_CARD}")
    if x509.ExtendedKeyUsage.oid in extensions:
        raise IdentityError(f"{who}: the certificate has an extendedKeyUsage, expected none; {_NEW_CARD}")
    if extensions:
        unknown = ", ".join(sorted(oid.dotted_string for oid in extensions))
        raise IdentityError(f"{who}: the certificate has unexpected extensions {unknown}; {_NEW_CARD}")


def _usages(usage: x509.KeyUsage) -> set[str]:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
    )
    return {name for name in names if getattr(usage, name)}


def _check_dates(certificate: x509.Certificate, now: datetime, who: str) -> None:
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    form = "%Y-%m-%d %H:%M"
    valid = f"valid from {first:{form}} to {last:{form}} UTC, and this machine's clock says {now:{form}} UTC"
    if now > last:
        raise IdentityError(
            f"{who}: the certificate expired at {last:{form}} UTC (it is {valid}): that member renews its identity and sends the "
            "new card to all, unless this machine's clock is wrong"
        )
    if now < first:
        raise IdentityError(
            f"{who}: the certificate is not valid before {first:{form}} UTC (it is {valid}): either this machine's clock is "
            "wrong, or that member's was when it made the certificate; set the clock right, or wait"
        )


def _tls_public(card: Card) -> bytes:
    public = x509.load_der_x509_certificate(card.certificate).public_key()
    assert isinstance(public, Ed25519PublicKey)  # _parsed refused all others
    return public.public_bytes_raw()


def _check_distinct(cards: list[Card], what: str, key: Callable[[Card], bytes]) -> None:
    owner: dict[bytes, str] = {}
    for card in cards:
        if key(card) in owner:
            raise IdentityError(
                f"members {owner[key(card)]!r} and {card.name!r} have the same {what}; "
                "list each member once, with the card that it made itself"
            )
        owner[key(card)] = card.name
