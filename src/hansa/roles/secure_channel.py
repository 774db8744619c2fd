"""Letters between two members, sealed end to end and cut into pieces, each the content of one `Relay`.

A letter is a kind, eight bytes of name and a body. Its bytes are

    length of the body, 8 bytes little-endian | name, 8 bytes | body

cut every `PIECE_BYTES` and sealed piece by piece (`secure.sealing`: in order, once, for this run, sender, receiver and kind).
A hub therefore cannot change, leave out, repeat or exchange pieces unnoticed; it can only withhold them.

What is longer than `LETTER_LIMIT` goes as parts: letters of just that length, and a shorter one, which may be empty, behind them. A
receiver makes room for one part at a time, so that nobody has memory kept for bytes that never come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from hansa.errors import ProtocolError
from hansa.protocol import messages
from hansa.protocol.messages import Relay
from hansa.secure.keys import PairKey, Run
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener, Sealer

PIECE_BYTES = 2**20
"""Of a letter in one frame: many pieces are under way at once, so that sealing, relaying and opening overlap."""

NAME_BYTES = 8
HEADER_BYTES = 8 + NAME_BYTES

LETTER_LIMIT = 2**31
"""Bytes that one letter, or part of one, may have: one of just so many is a part with another behind it."""

MOST_PARTS = 64
"""Parts of what is said at once: 128 GiB."""

KINDS = ("message", "round")

NO_NAME = bytes(NAME_BYTES)


@dataclass(frozen=True)
class Letter:
    """A whole letter, opened. Secret to its receiver.

    Attributes:
        sender: authenticated by the seal. kind: one of `KINDS`.
        name: 8 bytes. body: starts at an address that is a multiple of 8, for arrays to be read in place.
    """

    sender: str
    kind: str
    name: bytes
    body: memoryview


class _Incoming:
    """A letter of which some pieces are here."""

    def __init__(self, kind: str, name: bytes, length: int) -> None:
        self.kind, self.name = kind, name
        self.body = memoryview(bytearray(length))
        self.have = 0


class Mail:
    """One member's letters to and from every other one.

    Args:
        member: this member. keys: its confirmed pair keys. run, algorithm: as agreed.

    Attributes:
        sealed_bytes: bytes of sealed pieces sent so far. letters: how many letters were sent, by kind.
    """

    def __init__(self, member: str, keys: Mapping[str, PairKey], run: Run, algorithm: Algorithm) -> None:
        self.sealed_bytes = 0
        self._member = member
        self._sealers = {peer: Sealer(key, run, algorithm) for peer, key in keys.items()}
        self._openers = {peer: Opener(key, run, algorithm) for peer, key in keys.items()}
        self._incoming: dict[str, _Incoming] = {}
        self._parts: dict[str, list[Letter]] = {}

    def post(self, to: str, kind: str, body: Sequence[memoryview], name: bytes = NO_NAME) -> Iterator[bytes]:
        """The frames that carry a letter; each piece is sealed when it is asked for.

        Args:
            to: another member. kind: one of `KINDS`. body: byte views, sent one after the other.
        """
        for part in _parts(body):
            length = sum(view.nbytes for view in part)
            header = memoryview(length.to_bytes(8, "little") + name)
            for piece in _pieces([header, *part], PIECE_BYTES):
                sealed = self._sealers[to].seal(kind, b"".join(piece) if len(piece) > 1 else piece[0])
                self.sealed_bytes += len(sealed)
                yield messages.encode(Relay(self._member, to, kind, memoryview(sealed)))

    def take(self, relay: Relay) -> Letter | None:
        """Open a piece; the letter, where this piece completes it.

        Raises:
            ProtocolError: naming the member in whose name a piece came that is not its next one.
        """
        opener = self._openers.get(relay.sender)
        if opener is None or relay.receiver != self._member or relay.kind not in KINDS:
            raise ProtocolError(
                f"a letter of kind {relay.kind[:20]!r} in the name of member {relay.sender[:63]!r} to {relay.receiver[:63]!r} "
                f"came to {self._member!r}; expected one to it, of kind {' or '.join(KINDS)}, from another member of the run"
            )
        piece = opener.open(relay.kind, relay.sealed)
        letter = self._incoming.get(relay.sender)
        if letter is None:
            whole = self._begun(relay, piece)
            if whole is not None:
                return self._joined(whole)
            letter = self._incoming[relay.sender]
            piece = piece[HEADER_BYTES:]
        if letter.kind != relay.kind or not 0 < len(piece) <= len(letter.body) - letter.have:
            raise ProtocolError(
                f"member {relay.sender!r} sent {len(piece)} bytes of kind {relay.kind!r} inside a letter of kind {letter.kind!r} "
                f"that lacks {len(letter.body) - letter.have}; rule: a letter is finished before another begins"
            )
        letter.body[letter.have : letter.have + len(piece)] = piece
        letter.have += len(piece)
        if letter.have < len(letter.body):
            return None
        del self._incoming[relay.sender]
        return self._joined(Letter(relay.sender, letter.kind, letter.name, letter.body))

    def _joined(self, letter: Letter) -> Letter | None:
        """The letter, behind the parts that came before it; None where it is a part with another to come."""
        parts = self._parts.setdefault(letter.sender, [])
        if parts and (parts[0].kind, parts[0].name) != (letter.kind, letter.name):
            raise ProtocolError(
                f"member {letter.sender!r} sent a letter of kind {letter.kind!r} between the parts of one of kind {parts[0].kind!r}; "
                "rule: a letter is finished before another begins"
            )
        if len(letter.body) < LETTER_LIMIT:
            del self._parts[letter.sender]
            if not parts:
                return letter
            body = memoryview(b"".join(part.body for part in (*parts, letter)))
            return Letter(letter.sender, letter.kind, letter.name, body)
        parts.append(letter)
        if len(parts) == MOST_PARTS:
            raise ProtocolError(
                f"member {letter.sender!r} sent {MOST_PARTS} parts of one letter, of {LETTER_LIMIT} bytes each; expected fewer"
            )
        return None

    def _begun(self, relay: Relay, piece: bytes) -> Letter | None:
        """The first piece of a letter: the letter, where it is the only one."""
        length = int.from_bytes(piece[:8], "little")
        rest = len(piece) - HEADER_BYTES
        if rest < 0 or length > LETTER_LIMIT or rest > length:
            raise ProtocolError(
                f"member {relay.sender!r} began a letter of {length} bytes with a piece of {len(piece)}; "
                f"expected at most {LETTER_LIMIT}, and no piece longer than its letter"
            )
        name = piece[8:HEADER_BYTES]
        if rest == length:
            return Letter(relay.sender, relay.kind, name, memoryview(piece)[HEADER_BYTES:])
        if not rest:
            raise ProtocolError(f"member {relay.sender!r} began a letter with a piece that holds none of it")
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
    """The body cut every `LETTER_LIMIT` bytes; the last part is shorter, and may be empty."""
    last = 0
    for part in _pieces(body, LETTER_LIMIT):
        yield part
        last = sum(view.nbytes for view in part)
    if last in (0, LETTER_LIMIT):
        yield []


def _pieces(parts: Sequence[memoryview], size: int) -> Iterator[list[memoryview]]:
    """The parts' bytes in pieces of `size`, the last one shorter, as views; nothing is copied."""
    piece: list[memoryview] = []
    room = size
    for part in parts:
        while part.nbytes:
            taken, part = part[:room], part[room:]
            piece.append(taken)
            room -= taken.nbytes
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece
