"""Messages between two members that the hub relays but cannot read, change, reorder or repeat.

One AEAD key per direction, derived from K_ij: AES-256-GCM (NIST SP 800-38D), or ChaCha20-Poly1305 (RFC 8439)
where the run agreed on ChaCha20. The n-th message of a direction (from 0) has nonce n, so that no nonce
repeats under a key, and associated data

    plan hash | run id | epoch | from | to | kind | n

A sealed message is n as 8 little-endian bytes, then the ciphertext, then its 16-byte tag.
"""

from __future__ import annotations

import functools

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from hansa.errors import ProtocolError
from hansa.secure.keys import PairKey, RunNames, encode_fields
from hansa.secure.prg import Algorithm

COUNTER_BYTES = 8
TAG_BYTES = 16
MESSAGE_LIMIT = 2**32
"""Messages that one direction's key may seal."""

Aead = AESGCM | ChaCha20Poly1305


class Sealer:
    """Seals what `pair.member` sends to `pair.peer`. One per pair key: a second would repeat nonces."""

    __slots__ = ("_aead", "_key", "_limit", "_receiver", "_run", "_sender", "_sent")

    def __init__(self, pair: PairKey, run: RunNames, algorithm: Algorithm, limit: int = MESSAGE_LIMIT) -> None:
        pair.claim("sealing")
        self._sender, self._receiver = pair.member, pair.peer
        self._key = _direction_key(pair, self._sender, self._receiver, algorithm)
        self._aead: Aead | None = _aead(self._key, algorithm)
        self._run, self._limit, self._sent = run, min(limit, MESSAGE_LIMIT), 0

    def seal(self, kind: str, message: bytes | bytearray | memoryview) -> bytes:
        """The next message, sealed. Raises ProtocolError once the direction's counters are spent."""
        aead = _usable(self._aead, self._receiver)
        if self._sent >= self._limit:
            raise ProtocolError(
                f"{self._limit} messages were sealed for member {self._receiver!r}; rule: a counter is used"
                " once. Start a new epoch, which brings fresh keys"
            )
        counter, self._sent = self._sent, self._sent + 1
        context = _context(self._run, self._sender, self._receiver, kind, counter)
        return _counter_bytes(counter) + aead.encrypt(_nonce(counter), message, context)

    def erase(self) -> None:
        """Zero the key. The sealer refuses further use."""
        self._key[:] = bytes(len(self._key))
        self._aead = None


class Opener:
    """Opens what `pair.peer` sealed for `pair.member`, in the order sealed, each once. One per pair key."""

    __slots__ = ("_aead", "_key", "_opened", "_receiver", "_run", "_sender")

    def __init__(self, pair: PairKey, run: RunNames, algorithm: Algorithm) -> None:
        pair.claim("opening")
        self._sender, self._receiver = pair.peer, pair.member
        self._key = _direction_key(pair, self._sender, self._receiver, algorithm)
        self._aead: Aead | None = _aead(self._key, algorithm)
        self._run, self._opened = run, 0

    def open(self, kind: str, sealed: bytes | bytearray | memoryview) -> bytes:
        """The message inside `sealed`, which must be the sender's next one and of this kind.

        Raises ProtocolError naming the sender and the rule; the next right message is still taken.
        """
        aead = _usable(self._aead, self._sender)
        view = memoryview(sealed)
        if view.nbytes < COUNTER_BYTES + TAG_BYTES:
            raise self._refusal(kind, f"{view.nbytes} bytes are too few; rule: a sealed message is whole")
        counter = int.from_bytes(view[:COUNTER_BYTES], "little")
        if counter < self._opened:
            raise self._refusal(kind, f"number {counter} came before; rule: a message is taken once")
        if counter > self._opened or counter >= MESSAGE_LIMIT:
            raise self._refusal(kind, f"number {counter} came instead of {self._opened}; rule: messages come in order")
        context = _context(self._run, self._sender, self._receiver, kind, counter)
        try:
            message = aead.decrypt(_nonce(counter), view[COUNTER_BYTES:], context)
        except InvalidTag as error:
            raise self._refusal(
                kind,
                "the seal is broken; rule: messages arrive unchanged, from their sender, as the kind, plan,"
                " run and epoch they were sealed for",
            ) from error
        self._opened += 1
        return message

    def erase(self) -> None:
        """Zero the key. The opener refuses further use."""
        self._key[:] = bytes(len(self._key))
        self._aead = None

    def _refusal(self, kind: str, what: str) -> ProtocolError:
        return ProtocolError(
            f"message {kind!r} in the name of member {self._sender!r} to {self._receiver!r}: {what}",
            suspects=(self._sender,),
        )


def _direction_key(pair: PairKey, sender: str, receiver: str, algorithm: Algorithm) -> bytearray:
    return pair.expand(encode_fields("hansa sealing key v1", algorithm.value, sender, receiver))


def _aead(key: bytearray, algorithm: Algorithm) -> Aead:
    return AESGCM(key) if algorithm is Algorithm.AES_256_CTR else ChaCha20Poly1305(key)


def _usable(aead: Aead | None, peer: str) -> Aead:
    if aead is None:
        raise ProtocolError(f"the sealing key shared with member {peer!r} was erased: erased keys are not used again")
    return aead


def _context(run: RunNames, sender: str, receiver: str, kind: str, counter: int) -> bytes:
    # The counter's bytes stand last in what is encoded.
    return _context_of_first(run, sender, receiver, kind)[:-COUNTER_BYTES] + _counter_bytes(counter)


@functools.lru_cache(maxsize=1024)
def _context_of_first(run: RunNames, sender: str, receiver: str, kind: str) -> bytes:
    return encode_fields("hansa sealed message v1", run.plan_hash, run.run_id, run.epoch, sender, receiver, kind, 0)


def _counter_bytes(counter: int) -> bytes:
    return counter.to_bytes(COUNTER_BYTES, "little")


def _nonce(counter: int) -> bytes:
    return bytes(4) + _counter_bytes(counter)
