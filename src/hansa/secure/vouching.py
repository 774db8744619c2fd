"""Proofs between two members that one of them said something: the hub passes them on and can make none.

    tag_ij(content) = the first 16 bytes of HMAC-SHA256(v_ij, SHA-256(content))
    v_ij = HKDF-Expand(K_ij, purpose | from i | to j)

(RFC 2104, RFC 5869). Only i and j can make v_ij, and it differs from v_ji: a tag sent back proves nothing. Masks, sealed messages
and key confirmations have other purposes, and so other keys.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from hansa.errors import ProtocolError
from hansa.secure.keys import PairKey, encode_fields

VOUCH_BYTES = 16
"""Bytes of a tag: a forger's chance is 2^-128 a try, and the first wrong tag ends the run."""


class Vouching:
    """One member's keys for making and checking proofs, in one run and epoch.

    Args:
        pair_keys: this member's key with every other member, by peer.

    Raises ProtocolError where a key has this use already.
    """

    def __init__(self, pair_keys: Mapping[str, PairKey]) -> None:
        self._makes: dict[str, bytearray] = {}
        self._checks: dict[str, bytearray] = {}
        for peer in sorted(pair_keys):
            key = pair_keys[peer]
            key.claim("vouching")
            self._makes[peer] = key.expand(encode_fields("hansa vouching v1", key.member, peer))
            self._checks[peer] = key.expand(encode_fields("hansa vouching v1", peer, key.member))

    def make(self, content: bytes) -> bytes:
        """A tag for each other member, in the order of their names, one behind the other; content is public or masked."""
        digest = hashlib.sha256(content).digest()
        return b"".join(hmac.digest(key, digest, "sha256")[:VOUCH_BYTES] for key in self._keys(self._makes).values())

    def check(self, peer: str, content: bytes, tag: bytes) -> bool:
        """Whether `peer` made this tag for this member over this content."""
        expected = hmac.digest(self._keys(self._checks)[peer], hashlib.sha256(content).digest(), "sha256")
        return hmac.compare_digest(expected[:VOUCH_BYTES], tag)

    def erase(self) -> None:
        """Zero the keys. The object refuses further use; calling twice is safe."""
        for keys in (self._makes, self._checks):
            for key in keys.values():
                key[:] = bytes(len(key))
            keys.clear()

    def _keys(self, keys: dict[str, bytearray]) -> dict[str, bytearray]:
        if not keys:
            raise ProtocolError("the keys for vouching were erased: erased keys are not used again; start a new run")
        return keys
