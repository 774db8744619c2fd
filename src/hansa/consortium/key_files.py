"""Private keys in files: PKCS#8 in PEM, encrypted under a passphrase or the content of a key file, or in the clear.

An encrypted key is an EncryptedPrivateKeyInfo (RFC 5958) of PBES2 (RFC 8018) with scrypt (RFC 7914) and AES-256-CBC: what
`openssl pkcs8 -topk8 -scrypt` writes, and what OpenSSL reads. The `cryptography` package reads it and does not write it: its own
encryption is PBKDF2 with 2,048 rounds, which a machine that guesses passphrases passes thousands of times as fast.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import padding, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hansa.errors import IdentityError
from hansa.files import read_whole

PASSPHRASE_VARIABLE: Final = "HANSA_PASSPHRASE"
LEAST_PASSPHRASE: Final = 12
"""Bytes of a passphrase or key file."""

KEY_FILE_BYTES = 32
_MOST_KEY_FILE = 65_536

_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1
"""16 MiB a guess. OpenSSL reads keys of twice as much only where it is told to."""

_SCRYPT_MEMORY = 2**25
_SALT_BYTES, _BLOCK_BYTES, _CIPHER_KEY_BYTES = 16, 16, 32

_ENCRYPTED = b"-----BEGIN ENCRYPTED PRIVATE KEY-----"

# Object identifiers in DER: PBES2 and scrypt as RFC 8018 and RFC 7914 number them, AES-256-CBC as NIST does.
_PBES2 = bytes.fromhex("06092a864886f70d01050d")
_SCRYPT = bytes.fromhex("06092b06010401da47040b")
_AES_256_CBC = bytes.fromhex("060960864801650304012a")


@dataclass(frozen=True)
class Unlocking:
    """Where the passphrase of encrypted keys comes from: the key file if one is named, else the environment, else a person.

    Attributes:
        key_file: its content is the passphrase, or None. ask: asks the person at the terminal, or None where there is none.
    """

    key_file: Path | None = None
    ask: Callable[[str], str] | None = None

    def passphrase(self, what: Path | str) -> bytes:
        """The passphrase of the keys in `what`. Raises IdentityError where nobody gives one."""
        if self.key_file is not None:
            return read_key_file(self.key_file)
        given = os.environ.get(PASSPHRASE_VARIABLE)
        if given:
            return given.encode("utf-8")
        if self.ask is None:
            raise IdentityError(
                f"{what}: the keys are encrypted, and nobody can be asked for the passphrase; write key_file in the member's file "
                f"(--key-file for other commands), or set {PASSPHRASE_VARIABLE}",
                cure=f"name a key file, or set {PASSPHRASE_VARIABLE}",
            )
        return self.ask(f"Passphrase of {what}").encode("utf-8")


def check_passphrase(passphrase: bytes) -> bytes:
    """The passphrase, if it may protect new keys. Raises IdentityError; never quotes it."""
    if len(passphrase) < LEAST_PASSPHRASE:
        raise IdentityError(
            f"the passphrase has {len(passphrase)} bytes, and whoever copies the files can try short ones; give at least "
            f"{LEAST_PASSPHRASE}, such as six words drawn by dice"
        )
    return passphrase


def make_key_file(path: Path) -> None:
    """A key file of 32 random bytes in base64, mode 0600; one that is there stays. Raises OSError."""
    content = base64.b64encode(secrets.token_bytes(KEY_FILE_BYTES)) + b"\n"
    try:
        write_private(path, content)
    except FileExistsError:
        return


def read_key_file(path: Path) -> bytes:
    """The passphrase in a key file: its bytes without white space at the ends. Raises IdentityError; never quotes it."""
    content = _read(path, "name the file with the passphrase of this member's keys", _MOST_KEY_FILE).strip()
    _check_mode(path, "a passphrase")
    if len(content) < LEAST_PASSPHRASE:
        raise IdentityError(
            f"{path}: the key file has {len(content)} bytes, expected at least {LEAST_PASSPHRASE}; restore it"
        )
    return content


def read_pin(path: Path) -> str:
    """The PIN of a token in a file that only its owner may read. Raises IdentityError; never quotes it."""
    content = _read(path, "name the file with the PIN of this member's token", _MOST_KEY_FILE).strip()
    _check_mode(path, "a PIN")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise IdentityError(f"{path}: the PIN is not UTF-8; write it as plain text") from error


def private_pem(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    """A key as its file holds it; in the clear without a passphrase."""
    form = serialization.PrivateFormat.PKCS8
    if passphrase is None:
        return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    inner = key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())
    salt, start = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_BLOCK_BYTES)
    derived = hashlib.scrypt(
        passphrase, salt=salt, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, maxmem=_SCRYPT_MEMORY, dklen=_CIPHER_KEY_BYTES
    )
    padder = padding.PKCS7(8 * _BLOCK_BYTES).padder()
    encryptor = Cipher(algorithms.AES256(derived), modes.CBC(start)).encryptor()
    sealed = encryptor.update(padder.update(inner) + padder.finalize()) + encryptor.finalize()
    costs = b"".join(map(_der_number, (_SCRYPT_N, _SCRYPT_R, _SCRYPT_P)))
    derivation = _der(0x30, _SCRYPT + _der(0x30, _der(0x04, salt) + costs))
    cipher = _der(0x30, _AES_256_CBC + _der(0x04, start))
    scheme = _der(0x30, _PBES2 + _der(0x30, derivation + cipher))
    text = base64.b64encode(_der(0x30, scheme + _der(0x04, sealed)))
    lines = [text[place : place + 64] for place in range(0, len(text), 64)]
    return b"\n".join([_ENCRYPTED, *lines, _ENCRYPTED.replace(b"BEGIN", b"END"), b""])


def read_private_key(path: Path, passphrase: Callable[[], bytes]) -> Ed25519PrivateKey:
    """The key in a file that only its owner may read.

    Args:
        passphrase: called where the key is encrypted, and only then.

    Raises:
        IdentityError: the file is missing, readable by others, or holds no such key; or the passphrase is another's.
    """
    content = _read(path, "name the folder in which Hansa made this member's identity")
    _check_mode(path, "a private key")
    encrypted = is_encrypted(content)
    given = passphrase() if encrypted else None
    try:
        key = serialization.load_pem_private_key(content, given)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise IdentityError(
                f"{path}: the passphrase does not open this key: it is another's, or the file was damaged; give the passphrase or key "
                "file with which the keys were made",
                cure="give the passphrase or key file with which the keys were made",
            ) from error
        raise IdentityError(f"{path}: not a private key that Hansa made; restore it from a copy") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{path}: not an Ed25519 key; restore it from a copy or make a new identity")
    return key


def is_encrypted(pem: bytes) -> bool:
    """Whether a key's file asks for a passphrase."""
    return pem.lstrip().startswith(_ENCRYPTED)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file of mode 0600. Raises OSError, FileExistsError where there is one, or a link that somebody laid."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _check_mode(path: Path, what: str) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise IdentityError(
            f"{path}: mode {mode:04o} lets other accounts at {what}; run `chmod 600 {path}`, "
            "and make a new identity if others may have read it"
        )


def _read(path: Path, cure: str, most: int = _MOST_KEY_FILE) -> bytes:
    try:
        return read_whole(path, most)
    except (OSError, ValueError) as error:  # ValueError: too large, or a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise IdentityError(f"{path}: {reason}; {cure}") from error


def _der(tag: int, content: bytes) -> bytes:
    """A value of DER with its tag and length, of fewer than 65,536 bytes."""
    size = len(content)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + content


def _der_number(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))
