"""Sealed messages between two members, sealed end to end and cut into fragments, each the content of one `Relay`.

A sealed message is a kind, eight bytes of name and a body. Its bytes are

    length of the body, 8 bytes little-endian | name, 8 bytes | body

cut every `FRAGMENT_BYTES` and sealed fragment by fragment (`secure.sealing`: in order, once, for this run, sender, receiver and kind).
A hub therefore cannot change, leave out, repeat or exchange fragments unnoticed; it can only withhold them.

What is longer than `SEALED_LIMIT` goes as parts: messages of just that length, and behind them a shorter one, which may be empty. A
receiver makes room for one part at a time, so that nobody has memory kept for bytes that never come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hansa.errors import ProtocolError
from hansa.protocol import messages
from hansa.protocol.messages import Relay
from hansa.secure.keys import PairKey, RunNames
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener, Sealer

FRAGMENT_BYTES = 2**20
"""Of a sealed message in one frame: many fragments are under way at once, so that sealing, relaying and opening overlap."""

NAME_BYTES = 8
HEADER_BYTES = 8 + NAME_BYTES

SEALED_LIMIT = 2**31
"""Bytes that one sealed message, or part of one, may have: one of just so many is a part with another behind it."""

MOST_PARTS = 64
"""Parts of what is sent at once: 128 GiB."""

KINDS = ("message", "round")

NO_NAME = bytes(NAME_BYTES)

_FIRST_ROOM = 16 * FRAGMENT_BYTES
"""Bytes that are made room for at a sealed message's first fragment, at most."""


@dataclass(frozen=True)
class SealedMessage:
    """A whole sealed message, opened. Secret to its receiver.

    Attributes:
        sender: authenticated by the seal. kind: one of `KINDS`.
        name: 8 bytes. body: starts at an address that is a multiple of 8, for arrays to be read in place.
    """

    sender: str
    kind: str
    name: bytes
    body: memoryview


class _Incoming:
    """A sealed message of which some fragments are here. Its buffer grows with the bytes that came, never with those announced."""

    def __init__(self, kind: str, name: bytes, length: int) -> None:
        self.kind, self.name, self.length = kind, name, length
        self.body = memoryview(bytearray(min(length, _FIRST_ROOM)))
        self.have = 0

    def add(self, part: bytes) -> None:
        """Put the next bytes behind the others; they are no more than it lacks."""
        end = self.have + len(part)
        if end > len(self.body):
            larger = memoryview(bytearray(min(self.length, max(end, 4 * len(self.body)))))
            larger[: self.have] = self.body[: self.have]
            self.body = larger
        self.body[self.have : end] = part
        self.have = end


class SecureChannel:
    """One member's sealed messages to and from every other one.

    Args:
        member: this member. keys: its confirmed pair keys. run, algorithm: as agreed.

    Attributes:
        sealed_bytes: bytes of sealed fragments sent so far. sealed_messages: how many sealed messages were sent, by kind.
    """

    def __init__(self, member: str, keys: Mapping[str, PairKey], run: RunNames, algorithm: Algorithm) -> None:
        self.sealed_bytes = 0
        self._member = member
        self._sealers = {peer: Sealer(key, run, algorithm) for peer, key in keys.items()}
        self._openers = {peer: Opener(key, run, algorithm) for peer, key in keys.items()}
        self._incoming: dict[str, _Incoming] = {}
        self._parts: dict[str, list[SealedMessage]] = {}

    def post(self, to: str, kind: str, body: Sequence[memoryview], name: bytes = NO_NAME) -> Iterator[bytes]:
        """The frames that carry a sealed message; each fragment is sealed when it is asked for.

        Args:
            to: another member. kind: one of `KINDS`. body: byte views, sent one after the other.
        """
        for part in _parts(body):
            length = sum(view.nbytes for view in part)
            header = memoryview(length.to_bytes(8, "little") + name)
            for fragment in _fragments([header, *part], FRAGMENT_BYTES):
                sealed = self._sealers[to].seal(kind, b"".join(fragment) if len(fragment) > 1 else fragment[0])
                self.sealed_bytes += len(sealed)
                yield messages.encode(Relay(self._member, to, kind, memoryview(sealed)))

    def take(self, relay: Relay) -> SealedMessage | None:
        """Open a fragment; the sealed message, where this fragment completes it.

        Raises:
            ProtocolError: naming the member in whose name a fragment came that is not its next one.
        """
        opener = self._openers.get(relay.sender)
        if opener is None or relay.receiver != self._member or relay.kind not in KINDS:
            raise ProtocolError(
                f"a sealed message of kind {relay.kind[:20]!r} in the name of member {relay.sender[:63]!r} to {relay.receiver[:63]!r} "
                f"came to {self._member!r}; expected one to it, of kind {' or '.join(KINDS)}, from another member of the run",
                suspects=(relay.sender[:63],),
            )
        fragment = opener.open(relay.kind, relay.sealed)
        sealed = self._incoming.get(relay.sender)
        if sealed is None:
            whole = self._begun(relay, fragment)
            if whole is not None:
                return self._joined(whole)
            sealed = self._incoming[relay.sender]
            fragment = fragment[HEADER_BYTES:]
        if sealed.kind != relay.kind or not 0 < len(fragment) <= sealed.length - sealed.have:
            raise ProtocolError(
                f"member {relay.sender!r} sent {len(fragment)} bytes of kind {relay.kind!r} inside a message of kind {sealed.kind!r} "
                f"that lacks {sealed.length - sealed.have}; rule: a sealed message is finished before another begins",
                member=relay.sender,
                rule="a sealed message is finished before another begins",
            )
        sealed.add(fragment)
        if sealed.have < sealed.length:
            return None
        del self._incoming[relay.sender]
        return self._joined(SealedMessage(relay.sender, sealed.kind, sealed.name, sealed.body))

    def _joined(self, sealed: SealedMessage) -> SealedMessage | None:
        """The sealed message, behind the parts that came before it; None where it is a part with another to come."""
        parts = self._parts.setdefault(sealed.sender, [])
        if parts and (parts[0].kind, parts[0].name) != (sealed.kind, sealed.name):
            raise ProtocolError(
                f"member {sealed.sender!r} sent a message of kind {sealed.kind!r} between the parts of one of kind {parts[0].kind!r}; "
                "rule: a sealed message is finished before another begins",
                member=sealed.sender,
                rule="a sealed message is finished before another begins",
            )
        if len(sealed.body) < SEALED_LIMIT:
            del self._parts[sealed.sender]
            if not parts:
                return sealed
            body = memoryview(b"".join(part.body for part in (*parts, sealed)))
            return SealedMessage(sealed.sender, sealed.kind, sealed.name, body)
        parts.append(sealed)
        if len(parts) == MOST_PARTS:
            raise ProtocolError(
                f"member {sealed.sender!r} sent {MOST_PARTS} parts of one sealed message, of {SEALED_LIMIT} bytes each; expected fewer",
                member=sealed.sender,
            )
        return None

    def _begun(self, relay: Relay, fragment: bytes) -> SealedMessage | None:
        """The first fragment of a sealed message: the sealed message, where it is the only one."""
        length = int.from_bytes(fragment[:8], "little")
        rest = len(fragment) - HEADER_BYTES
        if rest < 0 or length > SEALED_LIMIT or rest > length:
            raise ProtocolError(
                f"member {relay.sender!r} began a sealed message of {length} bytes with a fragment of {len(fragment)}; "
                f"expected at most {SEALED_LIMIT}, and no fragment longer than its sealed message",
                member=relay.sender,
            )
        name = fragment[8:HEADER_BYTES]
        if rest == length:
            return SealedMessage(relay.sender, relay.kind, name, memoryview(fragment)[HEADER_BYTES:])
        if not rest:
            raise ProtocolError(
                f"member {relay.sender!r} began a sealed message with a fragment that holds none of it",
                member=relay.sender,
            )
        self._incoming[relay.sender] = _Incoming(relay.kind, name, length)
        return None

    def erase(self) -> None:
        """Zero all sealing keys and forget what came in part."""
        self._incoming.clear()
        self._parts.clear()
        for sealer in self._sealers.values():
            sealer.erase()
        for opener in self._openers.values():
            opener.erase()


def _parts(body: Sequence[memoryview]) -> Iterator[list[memoryview]]:
    """The body cut every `SEALED_LIMIT` bytes; the last part is shorter, and may be empty."""
    last = 0
    for part in _fragments(body, SEALED_LIMIT):
        yield part
        last = sum(view.nbytes for view in part)
    if last in (0, SEALED_LIMIT):
        yield []


def _fragments(parts: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The parts' bytes in fragments of `size`, the last one shorter, as views; nothing is copied."""
    fragment: list[memoryview] = []
    room = size
    for part in parts:
        while part.nbytes:
            taken, part = part[:room], part[room:]
            fragment.append(taken)
            room -= taken.nbytes
            if not room:
                yield fragment
                fragment, room = [], size
    if fragment:
        yield fragment
