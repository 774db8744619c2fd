"""Signed statements: in-toto Statements (version 1) in DSSE envelopes (Dead Simple Signing Envelope, version 1), which other tools
check too.

A signature is one of Ed25519 under a member's identity key over the envelope's pre-authentication encoding, which begins with
"DSSEv1"; other signatures of an identity begin with "hansa signature" (`identity`), so none is ever taken for one of the other kind.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Signature, SSlibKey

from hansa.consortium.identity import Identity
from hansa.errors import IdentityError, PlanError, in_words
from hansa.files import read_whole

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"

MOST_BYTES = 16 * 2**20

Statement = TypeVar("Statement", bound=msgspec.Struct)

Hex32 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Moment = Annotated[datetime, Meta(tz=True)]


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a subject."""

    sha256: Hex32


class Subject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a statement is about, by its name and digest."""

    name: str
    digest: Digest


class InTotoStatement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every statement has of in-toto's, under its names; each kind adds its `predicate_type` and `predicate`."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Subject]


class SignatureJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A signature of an envelope, in base64."""

    keyid: str
    sig: str


class EnvelopeJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A DSSE envelope as its file holds it."""

    payload: str
    payload_type: str = msgspec.field(name="payloadType")
    signatures: tuple[SignatureJson, ...]


def key_of(identity: bytes) -> SSlibKey:
    """A member's identity key as DSSE's verifiers take it, with the key id that a signature names."""
    return SSlibKey.from_crypto(Ed25519PublicKey.from_public_bytes(identity))


def sign(member: Identity, payload: bytes) -> bytes:
    """The member's signature of an envelope that holds this statement, 64 bytes."""
    return member.identity_key.sign(Envelope(payload, PAYLOAD_TYPE, {}).pae())


def sealed(payload: bytes, signatures: Mapping[bytes, bytes]) -> EnvelopeJson:
    """An envelope. `signatures`: by identity key."""
    return EnvelopeJson(
        _base64(payload),
        PAYLOAD_TYPE,
        tuple(SignatureJson(key_of(identity).keyid, _base64(own)) for identity, own in signatures.items()),
    )


def written(envelope: EnvelopeJson) -> bytes:
    """The file of an envelope."""
    return msgspec.json.format(msgspec.json.encode(envelope), indent=2) + b"\n"


def read_envelope(path: Path) -> EnvelopeJson:
    """The envelope in a file. Raises PlanError."""
    try:
        content = read_whole(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        raise PlanError(f"{path}: is no signed statement ({in_words(error)}); ask for the file anew") from error
    return envelope_of(content, str(path))


def envelope_of(content: bytes, where: str) -> EnvelopeJson:
    """The envelope in a file's bytes. Raises PlanError."""
    try:
        return msgspec.json.decode(content, type=EnvelopeJson, strict=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise PlanError(f"{where}: is no signed statement ({error}); ask for the file anew") from error


def opened(
    envelope: EnvelopeJson, kind: type[Statement], where: str
) -> tuple[Statement, bytes, list[tuple[str, bytes]]]:
    """The statement in an envelope, its bytes, and key id and signature of each signature, none of them checked. Raises PlanError."""
    if envelope.payload_type != PAYLOAD_TYPE:
        raise PlanError(
            f"{where}: holds {envelope.payload_type!r:.100}, expected {PAYLOAD_TYPE!r}; ask for the file anew"
        )
    try:
        payload = base64.b64decode(envelope.payload, validate=True)
        signatures = [(own.keyid, base64.b64decode(own.sig, validate=True)) for own in envelope.signatures]
        statement = msgspec.json.decode(payload, type=kind, strict=True)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise PlanError(f"{where}: the statement in it is of another kind, or damaged ({error})") from error
    if encoded(statement) != payload:
        raise PlanError(f"{where}: the statement is not written as Hansa writes it; ask for the file anew")
    return statement, payload, signatures


def encoded(statement: msgspec.Struct) -> bytes:
    """The one way in which a statement is written."""
    return msgspec.json.encode(statement, order="sorted")


def verified(
    where: str, payload: bytes, signatures: list[tuple[str, bytes]], identities: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Signatures by member. Raises IdentityError on one that is wrong, twice there, or of nobody in `identities`."""
    keys = {key_of(own).keyid: (name, own) for name, own in identities.items()}
    found: dict[str, bytes] = {}
    for keyid, own in signatures:
        if keyid not in keys:
            raise IdentityError(
                f"{where}: is signed by a key ({keyid!r:.80}) of no member with a role; do not trust this file",
                rule="only members with a role sign",
            )
        name, identity = keys[keyid]
        if name in found:
            raise IdentityError(
                f"{where}: is signed twice by {name!r}; ask for the file anew", rule="a member signs once"
            )
        envelope = Envelope(payload, PAYLOAD_TYPE, {keyid: Signature(keyid, own.hex())})
        try:
            envelope.verify([key_of(identity)], 1)
        except VerificationError as error:
            raise IdentityError(
                f"{where}: the signature of {name!r} does not verify: the file was changed after it was signed, or another key "
                "signed it; ask that member for its file anew",
                member=name,
                rule="a signature is its member's, over these bytes",
                cure="ask that member for its file anew",
            ) from error
        found[name] = own
    return found


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
