"""What a member keeps on its own disk, sealed: AES-256-GCM (NIST SP 800-38D) under a key that lies beside it.

Every record is sealed under a key of its own,

    HKDF-Expand(key of the folder, "hansa state record v1" | salt),   salt = 32 fresh random bytes

with nonce 0, so a nonce is never used twice, however often a record is written anew, and whatever a folder is put back to. Associated
data say which record it is: agreement, run, member, epoch, checkpoint and kind. So no record passes for another one.

A sealed record is the salt, then the ciphertext, then its 16-byte tag.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hansa.errors import StateError
from hansa.secure.keys import encode_fields
from hansa.secure.prg import KEY_BYTES, fresh_key

SALT_BYTES = 32
TAG_BYTES = 16

_NONCE = bytes(12)


class StateSealer:
    """Seals and opens the records of one member's state folder.

    Args:
        key: 32 bytes, the folder's; a copy is kept. agreement, run: 32 bytes each. member: whose folder it is.
    """

    __slots__ = ("_agreement", "_key", "_member", "_run")

    def __init__(self, key: bytes | bytearray, agreement: bytes, run: bytes, member: str) -> None:
        if len(key) != KEY_BYTES:
            raise StateError(f"the key of a state folder has {len(key)} bytes; expected {KEY_BYTES}: restore it")
        self._key = bytearray(key)
        self._agreement, self._run, self._member = agreement, run, member

    def seal(self, epoch: int, checkpoint: int, kind: str, record: bytes) -> bytes:
        """The record, sealed as what it is."""
        salt = bytes(fresh_key())
        return salt + self._aead(salt).encrypt(_NONCE, record, self._context(epoch, checkpoint, kind))

    def open(self, epoch: int, checkpoint: int, kind: str, sealed: bytes) -> bytes:
        """The record that was sealed as this one. Raises StateError."""
        if len(sealed) < SALT_BYTES + TAG_BYTES:
            raise StateError(f"a record of the state folder ({kind} of checkpoint {checkpoint}) is cut off; restore it")
        context = self._context(epoch, checkpoint, kind)
        try:
            return self._aead(sealed[:SALT_BYTES]).decrypt(_NONCE, sealed[SALT_BYTES:], context)
        except InvalidTag as error:
            raise StateError(
                f"the state folder holds no {kind} of checkpoint {checkpoint} in epoch {epoch} of this run that its key opens: it was "
                "changed, or the key is another one; restore it, or have every member remove its folder and begin a new run"
            ) from error

    def erase(self) -> None:
        """Zero the key. Safe to call twice."""
        self._key[:] = bytes(len(self._key))

    def _aead(self, salt: bytes) -> AESGCM:
        if not any(self._key):
            raise StateError("the key of this state folder was erased: erased keys are not used again")
        info = encode_fields("hansa state record v1", salt)
        return AESGCM(HKDFExpand(SHA256(), KEY_BYTES, info).derive(bytes(self._key)))

    def _context(self, epoch: int, checkpoint: int, kind: str) -> bytes:
        return encode_fields("hansa state v1", self._agreement, self._run, self._member, epoch, checkpoint, kind)
