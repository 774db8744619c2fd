"""A member's identity: the keys it signs with, and the certificate it shows on the network.

A member holds two Ed25519 keys. The *identity key* is pinned by everybody else and only signs. The *TLS key*
stands under a self-signed leaf certificate, which the identity key signs in turn, so that a certificate can
be renewed without anybody pinning anew. The public part of it all is the member's *card*: it goes to the
other members outside the network (by mail, on paper), and their members files hold it.

A signature covers (prefix | length of purpose | purpose | message), RFC 8032 Ed25519. The purpose is
length-prefixed, so a signature made for one purpose never verifies for another.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from hansa.consortium.key_files import Unlocking, private_pem, read_private_key, write_private
from hansa.consortium.tokens import SigningKey, TokenKey, read_token_key
from hansa.errors import IdentityError
from hansa.files import failed, make_folder, read_whole
from hansa.plan import MEMBER_NAME
from hansa.toml import write_toml

IDENTITY_KEY_FILE = "identity_key.pem"
TLS_KEY_FILE = "tls_key.pem"
TOKEN_FILE = "identity_token.toml"
CERTIFICATE_FILE = "certificate.pem"
CARD_FILE = "card.toml"

DEFAULT_DAYS = 365
_LONGEST_DAYS = 3650
_CLOCK_SKEW = timedelta(hours=1)
_SIGNATURE_PREFIX = b"hansa signature 1\0"
_CARD_PURPOSE = "member-card"


@dataclass(frozen=True)
class Card:
    """The public part of a member's identity.

    Attributes:
        name: the member's name.
        identity: raw Ed25519 public key that the others pin, 32 bytes.
        certificate: the TLS certificate, DER.
        signature: the identity's signature over (name | certificate), 64 bytes.
    """

    name: str
    identity: bytes
    certificate: bytes
    signature: bytes


@dataclass(frozen=True)
class Identity:
    """A member's keys and certificate; only that member holds it.

    Attributes:
        name: the member's name, also the certificate's common name.
        identity_key: secret, in memory or in a token (`tokens`); signs cards, plans and session keys.
        tls_key: secret; the certificate's key.
        certificate: the self-signed TLS certificate, DER.
    """

    name: str
    identity_key: SigningKey = field(repr=False)
    tls_key: Ed25519PrivateKey = field(repr=False)
    certificate: bytes = field(repr=False)

    @property
    def public(self) -> bytes:
        """The raw Ed25519 public key that the others pin, 32 bytes."""
        return self.identity_key.public_key().public_bytes_raw()

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Sign `message` for one purpose: 64 bytes, that `verify` accepts for this purpose only."""
        return self.identity_key.sign(_signed_bytes(purpose, message))

    def card(self) -> Card:
        """The public part, to be handed to the other members."""
        signature = self.sign(_CARD_PURPOSE, _card_message(self.name, self.certificate))
        return Card(self.name, self.public, self.certificate, signature)


def check_name(name: str) -> str:
    """Return `name` if it may name a member; raises IdentityError."""
    if not MEMBER_NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} cannot name a member: write 1 to 63 small letters, digits or hyphens, "
            "beginning with a letter or digit"
        )
    return name


def verify(identity: bytes, purpose: str, message: bytes, signature: bytes) -> None:
    """Check an identity's signature over `message` for one purpose.

    Args:
        identity: raw Ed25519 public key, 32 bytes.
        purpose: what the signature was made for.
        message: the bytes signed.
        signature: 64 bytes.

    Raises:
        IdentityError: the signature is not this identity's, over this message, for this purpose.
    """
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, _signed_bytes(purpose, message))
    except (InvalidSignature, ValueError) as error:
        raise IdentityError(
            f"a signature for {purpose!r} does not verify under identity {fingerprint(identity)}: "
            "it was made by another key, for another purpose or over other bytes"
        ) from error


def verify_card(card: Card) -> None:
    """Check that the card's identity signed its name and certificate; raises IdentityError."""
    verify(card.identity, _CARD_PURPOSE, _card_message(card.name, card.certificate), card.signature)


def fingerprint(identity: bytes) -> str:
    """A public key as people compare it over the telephone: its base64."""
    return base64.b64encode(identity).decode("ascii")


def read_fingerprint(text: str) -> bytes:
    """The public key, 32 bytes, whose fingerprint this is. Raises IdentityError."""
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise IdentityError(
            f"{text!r:.80} is no fingerprint; write the 44 characters that `hansa consortium show` prints"
        )
    return key


def create_identity(
    name: str, days: int = DEFAULT_DAYS, now: datetime | None = None, key: SigningKey | None = None
) -> Identity:
    """Make fresh keys and a certificate valid for `days` days from `now` (default: the clock).

    Args:
        key: the identity key, where it is made already, as in a token.

    Raises IdentityError.
    """
    return _certified(check_name(name), key or Ed25519PrivateKey.generate(), days, now)


def renew_identity(identity: Identity, days: int = DEFAULT_DAYS, now: datetime | None = None) -> Identity:
    """The same identity key with a fresh TLS key and certificate.

    The others replace the card, and pin nothing anew.
    """
    return _certified(identity.name, identity.identity_key, days, now)


def save_identity(identity: Identity, folder: Path, passphrase: bytes | None = None) -> None:
    """Write keys (mode 0600), certificate and card into `folder` (mode 0700), which may not hold any yet.

    Args:
        passphrase: of the keys (`key_files`); None leaves them in the clear, as trials on one machine do.

    Raises:
        IdentityError: the folder holds an identity already, or others can read it. OutputError: a file cannot be written; then
            none is left there.
    """
    make_folder(folder)
    if folder.stat().st_mode & 0o077:
        raise IdentityError(f"{folder}: other accounts can read this folder; run `chmod 700 {folder}`")
    key = identity.identity_key
    files = {
        **(
            {TOKEN_FILE: key.written()}
            if isinstance(key, TokenKey)
            else {IDENTITY_KEY_FILE: private_pem(key, passphrase)}
        ),
        TLS_KEY_FILE: private_pem(identity.tls_key, passphrase),
        CERTIFICATE_FILE: _certificate_pem(identity.certificate),
        CARD_FILE: card_toml(identity.card()).encode("ascii"),
    }
    taken = [name for name in (IDENTITY_KEY_FILE, TOKEN_FILE, *files) if (folder / name).exists()]
    if taken:
        raise IdentityError(f"{folder}: holds {', '.join(taken)} already; name another folder or move it away")
    made: list[Path] = []
    for name, content in files.items():
        try:
            write_private(folder / name, content)
        except OSError as error:
            for path in made:
                path.unlink(missing_ok=True)
            raise failed(folder / name, error) from error
        made.append(folder / name)


def load_identity(folder: Path, unlocking: Unlocking | None = None) -> Identity:
    """Read the identity that `save_identity` wrote; the dates of its certificate are the members file's
    business. Keys are decrypted in memory alone.

    Args:
        unlocking: where the passphrase of encrypted keys comes from; default: the environment.

    Raises:
        IdentityError: a file is missing, damaged, readable by others, or does not fit the others; a key file is named for keys that
            are in the clear; or the passphrase is another's.
    """
    source = unlocking or Unlocking()
    asked: list[bytes] = []

    def passphrase() -> bytes:
        if not asked:
            asked.append(source.passphrase(folder))
        return asked[0]

    identity_key: SigningKey
    if (folder / TOKEN_FILE).exists():
        identity_key = read_token_key(folder / TOKEN_FILE)
    else:
        identity_key = read_private_key(folder / IDENTITY_KEY_FILE, passphrase)
    tls_key = read_private_key(folder / TLS_KEY_FILE, passphrase)
    if source.key_file is not None and not asked:
        raise IdentityError(
            f"{folder}: a key file is named, {source.key_file}, and the keys are not encrypted; encrypt them by "
            "`hansa init NAME --renew FOLDER --key-file FILE`, or do not name one"
        )
    path = folder / CERTIFICATE_FILE
    try:
        certificate = x509.load_pem_x509_certificate(_read(path))
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise IdentityError(f"{path}: not a certificate that Hansa made ({error}); restore it from a copy") from error
    if not isinstance(public, Ed25519PublicKey) or public != tls_key.public_key():
        raise IdentityError(f"{path}: belongs to another key than {TLS_KEY_FILE}; restore both from one copy")
    if len(names) != 1:
        raise IdentityError(f"{path}: has {len(names)} common names, expected the member's name alone")
    der = certificate.public_bytes(serialization.Encoding.DER)
    return Identity(check_name(str(names[0].value)), identity_key, tls_key, der)


def card_toml(card: Card) -> str:
    """One card as a table of a members file, which is its members' cards one after another."""
    fields = {"identity": card.identity, "certificate": card.certificate, "signature": card.signature}
    texts = {key: base64.b64encode(value).decode("ascii") for key, value in fields.items()}
    return "[[member]]\n" + write_toml({"name": check_name(card.name), **texts})


def _signed_bytes(purpose: str, message: bytes) -> bytes:
    encoded = purpose.encode("utf-8")
    if not 0 < len(encoded) < 2**16:
        raise IdentityError(f"a signature's purpose has 1 to 65535 bytes, not {len(encoded)}")
    return _SIGNATURE_PREFIX + len(encoded).to_bytes(2, "big") + encoded + message


def _card_message(name: str, certificate: bytes) -> bytes:
    encoded = name.encode("utf-8")
    return len(encoded).to_bytes(4, "big") + encoded + certificate


def _certified(name: str, identity_key: SigningKey, days: int, now: datetime | None) -> Identity:
    """An identity whose certificate is a leaf, never an authority, and good for signatures only."""
    if not 1 <= days <= _LONGEST_DAYS:
        raise IdentityError(f"a certificate is valid for 1 to {_LONGEST_DAYS} days, not {days}")
    start = now or datetime.now(UTC)
    tls_key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(tls_key.public_key())
        .serial_number(x509.random_serial_number())
        # Clocks differ: without this margin a fresh certificate is "not yet valid" at a member whose clock is
        # behind.
        .not_valid_before(start - _CLOCK_SKEW)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_signatures_only(), critical=True)
        .sign(tls_key, algorithm=None)
    )
    return Identity(name, identity_key, tls_key, certificate.public_bytes(serialization.Encoding.DER))


def _signatures_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def _read(path: Path) -> bytes:
    try:
        return read_whole(path)
    except (OSError, ValueError) as error:  # ValueError: too large, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise IdentityError(f"{path}: {reason}; name the folder in which Hansa made this member's identity") from error
