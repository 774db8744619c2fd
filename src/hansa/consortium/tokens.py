"""Identity keys in a token (a smart card, an HSM) by PKCS#11: made there, used there, and never outside (extra `hansa[pkcs11]`).

The folder of such an identity holds, in place of the key, a file that says where it is:

    module = "/usr/lib/softhsm/libsofthsm2.so"   # the vendor's PKCS#11 library
    token = "north"                              # the token's label
    id = "…"                                     # CKA_ID of the key, in hex
    public = "…"                                 # its public key, which the token must give again, in base64
    pin_file = "/etc/hansa/north.pin"            # optional: a file of mode 0600; default: HANSA_PKCS11_PIN

The key is Ed25519 (CKK_EC_EDWARDS, mechanism CKM_EDDSA of PKCS#11 3.0), made sensitive and not extractable. Whoever holds the PIN and
the token can sign with it; nobody can copy it.
"""

from __future__ import annotations

import base64
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hansa.consortium.key_files import read_pin
from hansa.declared import decode
from hansa.errors import IdentityError, in_words
from hansa.toml import read_toml, write_toml

PIN_VARIABLE: Final = "HANSA_PKCS11_PIN"

_ID_BYTES = 16
_PUBLIC_BYTES = 32
# PKCS#11 3.0, 2.3.10: a curve by its name, as a PrintableString in DER; a point as an OCTET STRING.
_EDWARDS_25519 = b"\x13\x0cedwards25519"
_POINT_HEAD = b"\x04\x20"


class TokenFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a key is, as the folder of an identity says it."""

    module: str
    token: str
    id: str
    public: str
    pin_file: str | None = None


@dataclass(frozen=True)
class TokenKey:
    """A key in a token, with a session that is logged in.

    Attributes:
        place: where it is. public: 32 bytes. private: the token's handle of it.
    """

    place: TokenFile
    public: bytes
    private: Any = field(repr=False)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def sign(self, data: bytes, /) -> bytes:
        """64 bytes, made in the token. Raises IdentityError."""
        import pkcs11

        with self.lock, _told(self.place):  # a session does one thing at a time
            return bytes(self.private.sign(data, mechanism=pkcs11.Mechanism.EDDSA))

    def public_key(self) -> Ed25519PublicKey:
        """As that of a key in memory."""
        return Ed25519PublicKey.from_public_bytes(self.public)

    def written(self) -> bytes:
        """The file that says where the key is."""
        fields = {key: value for key, value in msgspec.structs.asdict(self.place).items() if value is not None}
        return write_toml(fields, "The identity key is in a token.").encode()


SigningKey = Ed25519PrivateKey | TokenKey
"""What an identity signs with: a key in memory, or in a token."""


def make_token_key(module: Path, label: str, name: str, pin_file: Path | None) -> TokenKey:
    """A new key in a token. Raises IdentityError.

    Args:
        module: the vendor's library. label: the token's. name: the member's, by which the token lists the key.
    """
    place = TokenFile(
        module=str(module.absolute()),
        token=label,
        id=secrets.token_hex(_ID_BYTES),
        public="",
        pin_file=None if pin_file is None else str(pin_file.absolute()),
    )
    session = _session(place, write=True)
    import pkcs11

    with _told(place):
        curve = session.create_domain_parameters(
            pkcs11.KeyType.EC_EDWARDS, {pkcs11.Attribute.EC_PARAMS: _EDWARDS_25519}, local=True
        )
        public, private = curve.generate_keypair(
            mechanism=pkcs11.Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
            store=True,
            label=f"hansa {name}",
            id=bytes.fromhex(place.id),
            private_template={pkcs11.Attribute.SENSITIVE: True, pkcs11.Attribute.EXTRACTABLE: False},
        )
        raw = _point(public, place)
    return TokenKey(msgspec.structs.replace(place, public=base64.b64encode(raw).decode("ascii")), raw, private)


def read_token_key(path: Path) -> TokenKey:
    """The key that a file names, in its token. Raises IdentityError: the token is not there, or holds another key."""
    document = read_toml(path, IdentityError, "name the folder in which Hansa made this member's identity")
    place = decode(document, TokenFile, str(path), IdentityError)
    try:
        number = bytes.fromhex(place.id)
    except ValueError as error:
        raise IdentityError(f"{path}: id is no hex; restore the file from a copy") from error
    session = _session(place, write=False)
    import pkcs11

    with _told(place):
        private = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, id=number)
        public = _point(session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, id=number), place)
    if base64.b64encode(public).decode("ascii") != place.public:
        raise IdentityError(
            f"{path}: token {place.token!r} holds another key under this id; give the token that was used"
        )
    return TokenKey(place, public, private)


def _point(key: Any, place: TokenFile) -> bytes:
    import pkcs11

    point = bytes(key[pkcs11.Attribute.EC_POINT])
    raw = point.removeprefix(_POINT_HEAD) if len(point) > _PUBLIC_BYTES else point
    if len(raw) != _PUBLIC_BYTES:
        raise IdentityError(f"{place.module}: token {place.token!r} gives a public key that is not Ed25519's")
    return raw


def _session(place: TokenFile, *, write: bool) -> Any:
    """A session of the token, logged in."""
    try:
        import pkcs11
    except ImportError as error:
        raise IdentityError(
            "keys in a token need the package python-pkcs11; run: pip install 'hansa[pkcs11]'",
            cure="install hansa[pkcs11]",
        ) from error
    pin = _pin(place)
    with _told(place):
        token = pkcs11.lib(place.module).get_token(token_label=place.token)
        try:
            return token.open(rw=write, user_pin=pin)
        except pkcs11.exceptions.UserAlreadyLoggedIn:  # a process logs in once, for all its sessions
            return token.open(rw=write)


def _pin(place: TokenFile) -> str:
    if place.pin_file is not None:
        return read_pin(Path(place.pin_file))
    given = os.environ.get(PIN_VARIABLE)
    if not given:
        raise IdentityError(
            f"the identity key is in token {place.token!r}, and there is no PIN; set {PIN_VARIABLE}, or make the identity with "
            "--pin-file",
            cure=f"set {PIN_VARIABLE}",
        )
    return given


@contextmanager
def _told(place: TokenFile) -> Iterator[None]:
    """Errors of the token as our own; none quotes the PIN."""
    import pkcs11

    known: dict[type[Exception], str] = {
        pkcs11.exceptions.PinIncorrect: "the PIN is wrong; give the right one before the token locks itself",
        pkcs11.exceptions.PinLocked: "the PIN is locked after wrong ones; the token's owner unlocks it",
        pkcs11.exceptions.NoSuchToken: "there is no token of this label; connect it, or write its label as the vendor's tool lists it",
        pkcs11.exceptions.NoSuchKey: "the token does not hold this member's key; give the token that was used",
        pkcs11.exceptions.MechanismInvalid: "the token has no Ed25519 (CKM_EDDSA); take one that has",
    }
    try:
        yield
    except (pkcs11.exceptions.PKCS11Error, RuntimeError, OSError) as error:
        why = next((text for kind, text in known.items() if isinstance(error, kind)), "")
        text = why or f"the token refuses ({type(error).__name__} {in_words(error)}); look at its vendor's tool"
        raise IdentityError(f"{place.module}, token {place.token!r}: {text}", cure=why) from error
