"""Pairwise masks: the aggregator learns the sum of all parties' vectors and nothing else about them.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), section
4.1, on the complete graph, with one key set-up a run and without recovery of drop-outs. Party i uploads, in
Z_2^w,

    y_i = x_i + sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij)      (lower id adds)

    PRG(k_ij): the streams of names n_ij, n_ij + 1, n_ij + 2, ... under t_ij (`prg.NamedStreams`), `ROOM_BYTES` of each
    t_ij = HKDF-Expand(K_ij, purpose | algorithm)
    n_ij = the first 8 bytes of HKDF-Expand(K_ij, purpose | algorithm | label), little-endian, modulo 2^64

and the masks cancel in the sum of all y_i. To whoever holds none of the keys between the honest parties,
their uploads are uniform vectors of which only the sum means anything. A name is as secret as the key: whoever looks
for two labels of one name can only guess.

A label names one vector of one run and binds it to the roster and to everything that the coordinator
broadcast before. A coordinator that told two parties different things gets noise; the last word of every
vector is a zero that must sum to zero, so that an honest one notices.
"""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.secure.keys import HASH_BYTES, PairKey, encode_fields
from hansa.secure.prg import NAME_BYTES, ROOM_BYTES, TAG_BYTES, Algorithm, NamedStreams

Combine = Callable[..., Any]
"""np.add or np.subtract: they wrap around in the ring."""

RingBits = Literal[32, 64]
"""w of Z_2^w."""
RingVector = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""A vector over the ring: uint32 for w = 32, uint64 for w = 64."""

Place = tuple[bytes, int, int, int, str]
"""Run, epoch, tree, step, tensor."""

_INTEGER_LIMIT = 2**63


class Label(msgspec.Struct, frozen=True):
    """The name of one masked vector, the same at every party. All public.

    Attributes:
        run: 32 bytes, the run's id.
        epoch: the run's epoch.
        tree, step: where in the run; both from 0.
        tensor: what is summed, for example "histogram".
        roster_hash: 32 bytes, `keys.roster_hash`.
        transcript_hash: 32 bytes, `Transcript.digest` of the coordinator's broadcasts so far.
        length: words of the vector, the closing zero word included.
        ring: 32 or 64, bits of a word.

    Raises ProtocolError where a field is out of range.
    """

    run: bytes
    epoch: int
    tree: int
    step: int
    tensor: str
    roster_hash: bytes
    transcript_hash: bytes
    length: int
    ring: RingBits

    def __post_init__(self) -> None:
        # One is made in every exchange: a right one passes by these lines alone.
        run, roster, transcript = self.run, self.roster_hash, self.transcript_hash
        tree, step, length = self.tree, self.step, self.length
        if not (
            type(run) is type(roster) is type(transcript) is bytes
            and len(run) == len(roster) == len(transcript) == HASH_BYTES
            and type(tree) is type(step) is type(length) is type(self.epoch) is int
            and 0 <= tree < _INTEGER_LIMIT
            and 0 <= step < _INTEGER_LIMIT
            and 0 < length < _INTEGER_LIMIT
            and 0 <= self.epoch < _INTEGER_LIMIT
            and self.tensor
            and self.ring in (32, 64)
        ):
            self._refuse()

    def _refuse(self) -> NoReturn:
        for name in ("run", "roster_hash", "transcript_hash"):
            value = getattr(self, name)
            if not isinstance(value, bytes) or len(value) != HASH_BYTES:
                raise ProtocolError(f"label: {name} has {HASH_BYTES} bytes, not {value!r}")
        for name, least in (("epoch", 0), ("tree", 0), ("step", 0), ("length", 1)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value < _INTEGER_LIMIT:
                raise ProtocolError(f"label: {name} is a whole number from {least} to 2^63 - 1, not {value!r}")
        raise ProtocolError(f"label: a tensor's name and ring 32 or 64 expected, not {self.tensor!r}, {self.ring!r}")

    def encode(self) -> bytes:
        """Canonical bytes: two labels that differ in any field have different ones."""
        before, between, behind, last, end = _around(self.run, self.epoch, self.tensor, self.roster_hash, self.ring)
        tree, step, length = (
            self.tree.to_bytes(8, "little"),
            self.step.to_bytes(8, "little"),
            self.length.to_bytes(8, "little"),
        )
        return b"".join((before, tree, between, step, behind, self.transcript_hash, last, length, end))

    def place(self) -> Place:
        """Where in the run the vector stands, whatever was broadcast before it."""
        return self.run, self.epoch, self.tree, self.step, self.tensor

    def describe(self) -> str:
        """The label in words, for errors."""
        place = f"epoch {self.epoch}, tree {self.tree}, step {self.step}"
        return f"vector {self.tensor!r} of run {self.run.hex()[:8]}, {place}"


@functools.lru_cache(maxsize=256)
def _around(
    run: bytes, epoch: int, tensor: str, roster_hash: bytes, ring: RingBits
) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """What stands before, between and behind tree, step, transcript hash and length in a label's canonical bytes."""
    fields = (run, epoch, 0, 0, tensor, roster_hash, bytes(HASH_BYTES), 1, ring)
    whole = encode_fields("hansa label v1", *fields)
    # A list of fields is encoded as its number and then each in turn, behind its type and length.
    ends = [len(encode_fields("hansa label v1", *fields[:count])) for count in range(len(fields) + 1)]
    cuts = [(0, ends[3] - 8), (ends[3], ends[4] - 8), (ends[4], ends[7] - HASH_BYTES), (ends[7], ends[8] - 8)]
    before, between, behind, last = (whole[start:stop] for start, stop in cuts)
    return before, between, behind, last, whole[ends[8] :]


@functools.lru_cache(maxsize=64)
def _before_length(kind: str) -> bytes:
    """What stands before a broadcast's length in its canonical bytes."""
    return encode_fields("hansa broadcast v1", kind, 0)[:-8]


class Transcript:
    """A running SHA-256 hash of the coordinator's broadcasts, kept by every party and by the coordinator.

    Relayed messages, acknowledgements and resent frames are not broadcasts and are not absorbed.
    """

    __slots__ = ("_hash",)

    def __init__(self, start: bytes) -> None:
        """Begin from what the members agreed on before: the plan and run, or H(checkpoint | epoch)."""
        self._hash = hashlib.sha256(encode_fields("hansa transcript v1", start))

    def absorb(self, kind: str, frame: bytes | bytearray | memoryview) -> None:
        """Add one broadcast: its kind and its bytes as sent. Injective in the list of broadcasts."""
        view = memoryview(frame)
        self._hash.update(b"".join((_before_length(kind), view.nbytes.to_bytes(8, "little"), view)))

    def digest(self) -> bytes:
        """32 bytes over all broadcasts so far; more may be absorbed after."""
        return self._hash.digest()


class Masker:
    """One party's masks in one run and epoch. Not for use by two threads at once.

    Holds the party's pair keys and the labels used so far. A label masks one vector, ever, and so does a
    place in the run (epoch, tree, step, tensor): a coordinator that asks again after telling something else
    is refused. A retry after a lost link resends the bytes that were sent. Vectors are masked one after the other.
    """

    def __init__(self, member: str, pair_keys: Mapping[str, PairKey], algorithm: Algorithm) -> None:
        """Mask for `member` against every peer in `pair_keys` (`keys.derive_pair_keys`).

        Raises ProtocolError where there is no peer (the vector would go out as it is) or a key is another's.
        """
        if not pair_keys:
            raise ProtocolError(f"member {member!r}: masking needs a peer; rule: no vector goes out unmasked")
        for peer, key in pair_keys.items():
            if (key.member, key.peer) != (member, peer):
                raise ProtocolError(
                    f"the pair key of {key.member!r} and {key.peer!r} is not of {member!r} and {peer!r}"
                )
            key.claim("masking")
        self.member = member
        self._algorithm = Algorithm(algorithm)
        self._keys = {peer: pair_keys[peer] for peer in sorted(pair_keys)}
        self._used: dict[Place, int] = {}
        self._room = np.zeros(ROOM_BYTES + TAG_BYTES, np.uint8)
        words = self._room[:ROOM_BYTES]
        self._words: dict[RingBits, RingVector] = {32: words.view(np.uint32), 64: words.view(np.uint64)}
        self._purpose = encode_fields("hansa mask name v3", self._algorithm.value)
        self._streams = [(_direction(member, peer), self._family(key)) for peer, key in self._keys.items()]
        self._open: MaskedVector | None = None

    def open(self, label: Label) -> MaskedVector:
        """Begin the one vector that `label` will ever mask; the vector before it takes no more words.

        Raises ProtocolError where the label was used before.
        """
        self._open = MaskedVector(label, self._streams, self._names(label), self._words[label.ring], self._room)
        return self._open

    def mask(self, label: Label, words: RingVector) -> int:
        """Mask a whole vector in place; returns its masked zero word. As `open`, `mask_into` and `finish`, in fewer steps.

        Args:
            words: shape (`label.length` - 1,), uint32 or uint64 as the label's ring says, contiguous.

        Raises ProtocolError where the label was used before, or shape or dtype differ.
        """
        room = self._words[label.ring]
        if words.dtype != room.dtype or words.shape != (label.length - 1,):
            raise ProtocolError(
                f"{label.describe()}: {label.length - 1} words of {room.dtype.name} expected, not"
                f" {words.dtype.name} of shape {words.shape}"
            )
        if label.length > len(room):
            vector = self.open(label)
            vector.mask_into(words, words)
            return vector.finish()
        stream, zero = room[: label.length], 0
        body, octets = stream[:-1], self._room[: stream.nbytes + TAG_BYTES]
        for (combine, streams), name in zip(self._streams, self._names(label), strict=True):
            streams.fill_room(name, octets)
            if sys.byteorder != "little":
                stream.byteswap(inplace=True)
            combine(words, body, words)
            zero += stream.item(-1) if combine is np.add else -stream.item(-1)
        return zero % (1 << label.ring)

    def _names(self, label: Label) -> list[bytes]:
        """What every peer's streams of this vector are named by: every label passes here, once. Ends the vector before."""
        # In every exchange, and in caches that others have emptied: calls within calls are felt.
        encoded, place = label.encode(), label.place()
        if place in self._used:
            self._refuse(label, encoded)
        self._used[place] = hash(encoded)
        if self._open is not None:
            self._open.erase()
            self._open = None
        # Every pair's key is its own; what it is expanded by is the same.
        info = self._purpose + encoded
        return [bytes(key.expand(info)[:NAME_BYTES]) for key in self._keys.values()]

    def erase(self) -> None:
        """Zero the pair keys, the streams' keys and the scratch words. Refuses further use."""
        for key in self._keys.values():
            key.erase()
        for _, streams in self._streams:
            streams.erase()
        self._room[:] = 0

    def _refuse(self, label: Label, encoded: bytes) -> NoReturn:
        same = self._used[label.place()] == hash(encoded)
        changed = "" if same else " after other broadcasts or with another size"
        raise ProtocolError(
            f"{label.describe()}: the coordinator asked for it a second time{changed}; rule: a mask is"
            " used once. A retry resends the stored bytes; a member that lost them starts a new epoch"
        )

    def _family(self, key: PairKey) -> NamedStreams:
        secret = key.expand(encode_fields("hansa mask key v3", self._algorithm.value))
        streams = NamedStreams(secret, self._algorithm)
        secret[:] = bytes(len(secret))
        return streams


def _direction(member: str, peer: str) -> Combine:
    return np.add if member < peer else np.subtract


class MaskedVector:
    """One vector on its way out: consumed fragment by fragment (node by node), closed by its zero word.

    Made by `Masker.open`.

    Attributes:
        label: the vector's name.
        remaining: words still to come, the zero word not counted.
        finished: whether the zero word was given out.
    """

    __slots__ = (
        "_at",
        "_closed",
        "_names",
        "_room",
        "_streams",
        "_words",
        "_zero",
        "finished",
        "label",
        "remaining",
    )

    def __init__(
        self,
        label: Label,
        streams: list[tuple[Combine, NamedStreams]],
        names: list[bytes],
        words: RingVector,
        room: npt.NDArray[np.uint8],
    ) -> None:
        self.label = label
        self.remaining = label.length - 1
        self.finished = False
        self._streams, self._names = streams, names
        self._words, self._room = words, room
        self._at = 0
        self._closed = False
        self._zero = 0

    def mask_into(self, values: RingVector, out: RingVector) -> None:
        """Write the next fragment, masked, to `out`.

        Args:
            values: this party's secret words, shape (m,), uint32 or uint64 as the label's ring says.
            out: shape (m,), same dtype; may be `values` itself, but may not overlap it otherwise.

        Raises ProtocolError where shape or dtype differ, or where the label has fewer than m words left.
        """
        self._check_fragment(values, out)
        self.remaining -= len(values)
        self._combine(values, out)

    def finish(self) -> int:
        """The closing zero word, masked. Raises ProtocolError too early or on a second call."""
        if self.finished or self.remaining:
            raise ProtocolError(
                f"{self.label.describe()}: a vector is finished once, after all its words;"
                f" {self.remaining} of {self.label.length - 1} are left"
            )
        if not self._closed:
            self._combine(empty := self._words[:0], empty)
        self.finished = True
        self.erase()
        zero: int = self._zero % 2**self.label.ring
        return zero

    def erase(self) -> None:
        """End the vector: it refuses further words."""
        self._streams = []

    def _check_fragment(self, values: RingVector, out: RingVector) -> None:
        count, dtype = len(values), self._words.dtype
        if not (values.dtype == out.dtype == dtype and values.ndim == out.ndim == 1 and len(out) == count):
            found = next(array for array in (values, out) if array.dtype != dtype or array.shape != (count,))
            raise ProtocolError(
                f"{self.label.describe()}: {count} words of {dtype.name} expected, not"
                f" {found.dtype.name} of shape {found.shape}"
            )
        if count > self.remaining:
            raise ProtocolError(
                f"{self.label.describe()}: {count} words to mask but {self.remaining} left; rule: a"
                " vector has the length that its label says"
            )
        if values is not out and np.may_share_memory(values, out) and not _same_words(values, out):
            raise ProtocolError(
                f"{self.label.describe()}: masked words may replace the values, not overlap them otherwise"
            )

    def _combine(self, values: RingVector, out: RingVector) -> None:
        """Mask a fragment and, behind the last one, the zero word.

        Chunk by chunk over all peers: a chunk of the sum stays in the cache while every stream joins it.
        """
        if not self._streams:
            raise ProtocolError(f"{self.label.describe()}: another vector was begun; rule: one after the other")
        closes = not (self.remaining or self._closed)
        self._closed = self._closed or closes
        at, end = self._at, self._at + len(values) + closes
        per_chunk, length = len(self._words), self.label.length
        while at < end:
            number, start = divmod(at, per_chunk)
            count = min(per_chunk - start, end - at)
            whole = count == min(per_chunk, length - number * per_chunk)
            at += count
            last = closes and at == end  # the zero word, behind the values
            words = self._words[:count]
            body = words[:-1] if last else words
            part, result = (values, out) if at == end else (values[:count], out[:count])
            for (combine, streams), first in zip(self._streams, self._names, strict=True):
                name = _chunk_name(first, number) if number else first
                if whole:
                    streams.fill_room(name, self._room[: words.nbytes + TAG_BYTES])
                    if sys.byteorder != "little":
                        words.byteswap(inplace=True)
                else:
                    if start == 0:
                        streams.begin(name, min(per_chunk, length - number * per_chunk) * words.itemsize)
                    streams.go_on(words)
                combine(part, body, result)
                if last:
                    self._zero += words.item(count - 1) if combine is np.add else -words.item(count - 1)
                part = result
            if at < end:
                values, out = values[count:], out[count:]
        self._at = at


def _chunk_name(first: bytes, number: int) -> bytes:
    """The name of a vector's chunk, counted from 0."""
    name = (int.from_bytes(first, "little") + number) % (1 << 8 * NAME_BYTES)
    return name.to_bytes(NAME_BYTES, "little")


def _same_words(values: RingVector, out: RingVector) -> bool:
    return values.ctypes.data == out.ctypes.data and values.strides == out.strides
