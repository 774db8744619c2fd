"""The only source of secret randomness: fresh keys from the operating system, and key streams under them.

A key stream is the encryption of zeros: AES-256 in counter mode (NIST SP 800-38A, section 6.5), or ChaCha20
(RFC 8439, section 2.4) for processors without AES instructions, where AES in software is slow and leaks
through the cache. All members use one algorithm, so it is announced, signed (`keys.Announcement`) and part of
every stream key's derivation.

Every key keys one stream, from its start, once. Or it keys a family of streams with names (`NamedStreams`): a name is eight
bytes of the cipher's input block, which the counter never reaches, and is used once.

AES numbers blocks from 2, as GCM numbers those of its plaintext under a nonce of 12 bytes (SP 800-38D, section 7.1: the name and
four zeros). So AES-GCM makes the very bytes of counter mode, and OpenSSL does so at twice the speed where the processor has vector AES:
long streams are made that way there, and short ones where there is room for the tag, which nobody looks at.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.errors import ProtocolError

KEY_BYTES = 32
CHUNK_BYTES = 256 * 1024
"""Bytes that one call of the cipher makes of a stream of any length: few enough to stay in a core's second-level cache."""
ROOM_BYTES = 512 * 1024
"""Bytes of a stream that `NamedStreams.fill_room` makes at most."""
STREAM_LIMIT_BYTES = 2**35
"""Bytes one stream may give (32 GiB): GCM's 32-bit block counter ends before 64 GiB, ChaCha20's at 256 GiB."""
GCM_BYTES = 2**16
"""Bytes of a stream from which GCM is worth a cipher of its own."""
TAG_BYTES = 16
"""Bytes behind a stream that GCM's tag takes."""
NAME_BYTES = 8
NO_NAME = bytes(NAME_BYTES)

Word = TypeVar("Word", np.uint32, np.uint64)

_WORD_TYPES = (np.dtype(np.uint32), np.dtype(np.uint64))
_NOT_CONTIGUOUS = "a contiguous array expected: another would be left as it is, without a mask"
_ZEROS = memoryview(bytes(ROOM_BYTES))
_CPU_DESCRIPTION = Path("/proc/cpuinfo")


class Algorithm(StrEnum):
    """Stream ciphers that members may announce."""

    AES_256_CTR = "aes-256-ctr"
    CHACHA20 = "chacha20"


def fresh_key() -> bytearray:
    """32 secret bytes from the operating system, in a buffer that its holder zeroes after use."""
    return bytearray(os.urandom(KEY_BYTES))


def has_aes(cpu_description: str) -> bool:
    """Does this text of /proc/cpuinfo (x86 `flags`, ARM `Features`) list AES instructions?"""
    return _has(cpu_description, {"aes"})


def has_vector_aes(cpu_description: str) -> bool:
    """Does it list what OpenSSL's fastest AES-GCM needs?"""
    return _has(cpu_description, {"vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512dq", "avx512vl"})


def _has(cpu_description: str, wanted: set[str]) -> bool:
    lines = (line.partition(":") for line in cpu_description.splitlines())
    return any(key.strip() in {"flags", "Features"} and wanted <= set(value.split()) for key, _, value in lines)


def preferred_algorithm(cpu_description: Path = _CPU_DESCRIPTION) -> Algorithm:
    """What this machine announces: AES-256-CTR with AES instructions, else ChaCha20.

    A machine that does not say counts as one without: ChaCha20 is safe and fast in software on any of them.
    """
    return Algorithm.AES_256_CTR if has_aes(_described(cpu_description)) else Algorithm.CHACHA20


def _described(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


@functools.cache
def _gcm_is_faster() -> bool:
    return has_vector_aes(_described(_CPU_DESCRIPTION))


def agreed_algorithm(announced: Iterable[Algorithm]) -> Algorithm:
    """The one algorithm of a run, from what all its members announced: AES only where all have it."""
    everyone = {Algorithm(algorithm) for algorithm in announced}
    return Algorithm.AES_256_CTR if everyone == {Algorithm.AES_256_CTR} else Algorithm.CHACHA20


class KeyStream:
    """Ring words under one secret key, consumed from first to last; never rewinds, never repeats.

    Not for use by two threads at once. Words are the cipher's output bytes in order, read as little-endian
    unsigned integers, so word k of a stream of 32-bit words is its bytes 4k to 4k + 3.
    """

    __slots__ = ("_encryptor", "_left")

    def __init__(self, key: bytes | bytearray, algorithm: Algorithm, name: bytes = NO_NAME, size: int = 0) -> None:
        """Start the stream of a 32-byte secret `key`, which must never key another (but see `NamedStreams`).

        `size`: bytes that will be wanted, where that is known; it changes the speed alone. Raises ProtocolError.
        """
        if len(key) != KEY_BYTES:
            raise ProtocolError(f"a stream key has {KEY_BYTES} bytes, not {len(key)}")
        self._encryptor: CipherContext | None = _encryptor(key, Algorithm(algorithm), name, size)
        self._left = STREAM_LIMIT_BYTES

    def words32(self, count: int, out: npt.NDArray[np.uint32] | None = None) -> npt.NDArray[np.uint32]:
        """The next `count` secret 32-bit words: a view of `out`'s first ones, or a new array."""
        return self.words(count, np.empty(count, np.uint32) if out is None else out)

    def words64(self, count: int, out: npt.NDArray[np.uint64] | None = None) -> npt.NDArray[np.uint64]:
        """The next `count` secret 64-bit words: a view of `out`'s first ones, or a new array."""
        return self.words(count, np.empty(count, np.uint64) if out is None else out)

    def words(self, count: int, out: npt.NDArray[Word]) -> npt.NDArray[Word]:
        """The next `count` secret words of `out`'s width, written to `out[:count]`, which is returned.

        Args:
            count: at most `len(out)`.
            out: contiguous vector, uint32 or uint64.

        Raises ProtocolError for another `out`, after `erase`, and past the key's limit.
        """
        words = out[:count]
        if out.dtype not in _WORD_TYPES or words.shape != (count,) or not words.flags.c_contiguous:
            raise ProtocolError(
                f"a contiguous vector of at least {count} uint32 or uint64 words expected,"
                f" not {out.dtype.name} of shape {out.shape}"
            )
        self._fill(words.view(np.uint8).data)
        return words if sys.byteorder == "little" else words.byteswap(inplace=True)

    def erase(self) -> None:
        """Free the cipher's state (OpenSSL zeroes it). The stream refuses further use."""
        self._encryptor = None

    def _fill(self, buffer: memoryview) -> None:
        if self._encryptor is None:
            raise ProtocolError("this key stream was erased; rule: an erased key is not used again")
        if buffer.nbytes > self._left:
            raise ProtocolError(f"a stream gives at most {STREAM_LIMIT_BYTES} bytes: use a key per vector")
        self._left -= buffer.nbytes
        _encrypt_zeros(self._encryptor, buffer)


class NamedStreams:
    """Key streams under one secret key, told apart by names of 8 bytes; a name is used once.

    Stream `name` is the cipher under the key with the input blocks name || block number (AES: 64-bit numbers, big-endian, from 2;
    ChaCha20: the name as the nonce's last 8 bytes), so no two names share a block. A short draw costs no new cipher.
    """

    __slots__ = ("_algorithm", "_around", "_current", "_encryptor", "_gcm", "_gcm_from", "_key", "_left", "_used")

    def __init__(self, key: bytes | bytearray, algorithm: Algorithm) -> None:
        """`key`: 32 secret bytes, copied, which must never key another stream or family. Raises ProtocolError."""
        if len(key) != KEY_BYTES:
            raise ProtocolError(f"a stream key has {KEY_BYTES} bytes, not {len(key)}")
        self._key, self._algorithm = bytearray(key), Algorithm(algorithm)
        self._encryptor: CipherContext | None = _encryptor(key, self._algorithm)
        self._around = _AROUND_NAME[self._algorithm]
        faster = _worth_gcm(self._algorithm, GCM_BYTES)
        self._gcm = AESGCM(self._key) if faster else None
        self._gcm_from = GCM_BYTES if faster else sys.maxsize
        self._current: CipherContext | None = None
        self._left = 0
        self._used: set[bytes] = set()

    def stream(self, name: bytes, size: int) -> KeyStream:
        """The stream of a name, to be consumed fragment by fragment beside others; `size` as of `KeyStream`.

        Raises ProtocolError for a name used before, or none.
        """
        self._spend(name)
        return KeyStream(self._key, self._algorithm, name, size)

    def begin(self, name: bytes, size: int) -> None:
        """Begin the stream of a name, which `go_on` gives fragment by fragment until another is begun; `size` as of `KeyStream`.

        Raises ProtocolError for a name used before, or none.
        """
        encryptor = self._spend(name)
        if size < self._gcm_from:
            before, behind = self._around
            encryptor.reset_nonce(before + name + behind)
            self._current = encryptor
        else:
            self._current = _encryptor(self._key, self._algorithm, name, size)
        self._left = STREAM_LIMIT_BYTES

    def go_on(self, out: npt.NDArray[np.generic]) -> None:
        """Write what comes next of the stream begun last into a contiguous array; words are little-endian, as in `KeyStream.words`.

        Raises ProtocolError where none was begun, for an array that is not contiguous, and past a stream's limit.
        """
        current, buffer = self._current, out.data
        size = buffer.nbytes
        if current is None:
            raise ProtocolError(
                "no stream of these was begun, or they were erased; rule: an erased key is not used again"
            )
        if not buffer.c_contiguous:
            raise ProtocolError(_NOT_CONTIGUOUS)
        if size > self._left:
            raise ProtocolError(f"a stream gives at most {STREAM_LIMIT_BYTES} bytes: use a name per vector")
        self._left -= size
        if size:
            _encrypt_zeros(current, buffer.cast("B"))
            if sys.byteorder != "little":
                out.byteswap(inplace=True)

    def fill(self, name: bytes, out: npt.NDArray[np.generic]) -> None:
        """Write the stream of a name, wanted as one array; otherwise as `begin` and `go_on`."""
        if not out.data.c_contiguous:  # before the name is spent
            raise ProtocolError(_NOT_CONTIGUOUS)
        self.begin(name, out.nbytes)
        self.go_on(out)
        self._current = None

    def fill_room(self, name: bytes, room: npt.NDArray[np.uint8]) -> None:
        """Write the stream of a name to all of `room` but its last `TAG_BYTES`, which hold nothing of use after.

        Args:
            room: contiguous; at most `ROOM_BYTES` and the tag's. Bytes, not words: on a big-endian machine the caller swaps them.

        Raises ProtocolError for a name used before, or none.
        """
        size = len(room) - TAG_BYTES
        if self._gcm is None:
            self.begin(name, size)
            self.go_on(room[:size])
            self._current = None
            return
        self._spend(name)
        self._gcm.encrypt_into(name + _REST_OF_NONCE, _ZEROS[:size], None, room.data)

    def erase(self) -> None:
        """Zero the key and free the cipher's state. The family refuses further use."""
        self._key[:] = bytes(len(self._key))
        self._encryptor = self._current = self._gcm = None

    def _spend(self, name: bytes) -> CipherContext:
        """Note that a name is used: every stream passes here. Returns the family's cipher."""
        if self._encryptor is None:
            raise ProtocolError("these key streams were erased; rule: an erased key is not used again")
        if len(name) != NAME_BYTES:
            raise ProtocolError(f"a stream's name has {NAME_BYTES} bytes, not {len(name)}")
        if name in self._used:
            raise ProtocolError(f"the stream named {name.hex()} was drawn before; rule: a draw's name is used once")
        self._used.add(name)
        return self._encryptor


def _encrypt_zeros(encryptor: CipherContext, buffer: memoryview) -> None:
    if buffer.nbytes <= CHUNK_BYTES:
        encryptor.update_into(_ZEROS[: buffer.nbytes], buffer)
        return
    for start in range(0, buffer.nbytes, CHUNK_BYTES):
        fragment = buffer[start : start + CHUNK_BYTES]
        encryptor.update_into(_ZEROS[: fragment.nbytes], fragment)


_AROUND_NAME = {
    Algorithm.AES_256_CTR: (b"", (2).to_bytes(8, "big")),
    Algorithm.CHACHA20: (bytes(8), b""),
}
"""What stands before and behind a name in the cipher's first input: for AES block number 2; for ChaCha20 its 4-byte number, then
4 bytes of its nonce."""


_REST_OF_NONCE = bytes(4)


def _encryptor(key: bytes | bytearray, algorithm: Algorithm, name: bytes = NO_NAME, size: int = 0) -> CipherContext:
    if _worth_gcm(algorithm, size):
        return Cipher(algorithms.AES(key), modes.GCM(name + _REST_OF_NONCE)).encryptor()
    before, behind = _AROUND_NAME[algorithm]
    first = before + name + behind
    if algorithm is Algorithm.AES_256_CTR:
        return Cipher(algorithms.AES(key), modes.CTR(first)).encryptor()
    return Cipher(algorithms.ChaCha20(key, first), mode=None).encryptor()


def _worth_gcm(algorithm: Algorithm, size: int) -> bool:
    return size >= GCM_BYTES and algorithm is Algorithm.AES_256_CTR and _gcm_is_faster()
