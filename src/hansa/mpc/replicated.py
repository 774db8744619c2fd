"""Replicated secret sharing among three servers, its multiplication, and the two-round open-and-deal.

A value is x = x_0 + x_1 + x_2 in its ring, and server S_i holds (x_i, x_{i+1}) (Araki, Furukawa, Lindell,
Nof & Ohara, CCS 2016; indices wrap at 3). In memory a shared array is one array whose first axis is the
pair, so that adding shared arrays, scaling them by public integers and indexing them are plain numpy.

Each server's program is a generator: every `yield` is one round of messages (`Round`), and it is resumed with
what arrived. Whoever drives it owns the network.

Randomness. Stream j is a key that exactly S_{j-1} and S_j hold. A draw from it is named by an address (epoch,
tree, step, tensor) and a use, never by a running counter, and a second draw under one name is refused: a mask
that is used twice is no mask. The *zero-sharing rule*: every additive part gets a fresh zero-sharing

    a_i = stream_i - stream_{i+1},      a_0 + a_1 + a_2 = 0

before it leaves its server. S_2's part thereby carries both the stream that S_1 lacks and the one that S_0
lacks. An open and a reshare of one value use two of them; with one, S_1 would get z_0 from the open, z_2
from the reshare, and know z.
"""

from __future__ import annotations

import functools
import hashlib
import math
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from cryptography.hazmat.primitives.poly1305 import Poly1305

from hansa.errors import ProtocolError, ServersDisagree
from hansa.mpc.ring import BITS, Ring, ShareArray
from hansa.mpc.threads import ALONE, LEAST_BYTES, Threads
from hansa.secure.keys import PairKey, encode_fields
from hansa.secure.prg import NAME_BYTES, Algorithm, KeyStream, NamedStreams

DEALER = 2
"""S_2 deals; S_0 and S_1, the evaluators, see masked values."""

T = TypeVar("T")


class Address(NamedTuple):
    """Where in a run a draw stands. Public, and the same at all servers.

    Attributes:
        epoch: of the run; one more after every restart.
        tree, step: the tree and the level within it.
        tensor: what is drawn for; parts are joined by slashes.
    """

    epoch: int
    tree: int
    step: int
    tensor: str

    def named(self, part: str) -> Address:
        """The address of a part of this tensor."""
        return Address(self.epoch, self.tree, self.step, f"{self.tensor}/{part}")


class Shape(NamedTuple):
    """What a receiver expects: dtype and shape, both public beforehand."""

    dtype: Any
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Round:
    """One round: what this server sends, and what it will receive, by server.

    Attributes:
        step: the name of what happens, for errors and for measuring.
        send: arrays for each other server; they may still be read by the sender, never written.
        expect: dtype and shape of each array that arrives, in order.
    """

    step: str
    send: Mapping[int, Sequence[ShareArray]]
    expect: Mapping[int, Sequence[Shape]]


RoundArrays = Mapping[int, Sequence[ShareArray]]
Program = Generator[Round, RoundArrays, T]


class Source(Protocol):
    """Where draws come from."""

    def stream(self, number: int, address: Address, use: str, size: int) -> KeyStream:
        """The words of stream `number` under a name that was never used before; `size` bytes of them will be wanted."""

    def draw(self, number: int, address: Address, use: str, ring: Ring, shape: tuple[int, ...]) -> ShareArray:
        """As `stream`, as ring elements of a shape."""


class PairStreams:
    """A server's two streams, under the keys that it shares with its two neighbours.

    Every tree has a key of its own in each stream, and every (step, tensor, use) is the name of a stream under that
    (`secure.prg.NamedStreams`), which refuses a name that was used before.
    """

    def __init__(self, index: int, keys: Mapping[int, PairKey], algorithm: Algorithm) -> None:
        """`keys`: this server's pair key with each of the other two, by their index."""
        if set(keys) != {0, 1, 2} - {index}:
            raise ProtocolError(f"server {index} needs its keys with both others, not with {sorted(keys)}")
        self._pairs = {index: keys[(index - 1) % 3], (index + 1) % 3: keys[(index + 1) % 3]}
        for pair in self._pairs.values():
            pair.claim("replicated sharing")
        self._algorithm = algorithm
        self._tree: tuple[int, int] = (-1, -1)
        self._families: dict[int, NamedStreams] = {}
        self._lock = (
            threading.Lock()
        )  # of what changes with the tree: a server's threads draw from both streams at once

    def stream(self, number: int, address: Address, use: str, size: int) -> KeyStream:
        """Raises ProtocolError where the name was used before, or its tree is over."""
        return self._family(number, address).stream(draw_name(address.step, address.tensor, use), size)

    def draw(self, number: int, address: Address, use: str, ring: Ring, shape: tuple[int, ...]) -> ShareArray:
        """As `stream`, as ring elements of a shape."""
        words = np.empty(shape, ring.dtype)
        self._family(number, address).fill(draw_name(address.step, address.tensor, use), words)
        return ring.reduce(words)

    def erase(self) -> None:
        """Zero the keys of the tree that is under way."""
        for family in self._families.values():
            family.erase()

    def _family(self, number: int, address: Address) -> NamedStreams:
        with self._lock:
            place = (address.epoch, address.tree)
            if place < self._tree:
                raise ProtocolError(f"draws of {self._tree} have begun, so none of {place} may be made any more")
            if place > self._tree:
                self._tree = place
                self.erase()
                info = encode_fields("hansa replicated sharing v2", *place)
                self._families = {
                    number: NamedStreams(pair.expand(info), self._algorithm) for number, pair in self._pairs.items()
                }
            return self._families[number]


@functools.lru_cache(maxsize=2**14)
def draw_name(step: int, tensor: str, use: str) -> bytes:
    """The name of a draw's stream within its tree: 8 bytes of SHA-256. Two draws of one hash would be refused, not masked alike."""
    return hashlib.sha256(encode_fields("draw", step, tensor, use)).digest()[:NAME_BYTES]


@dataclass(frozen=True)
class Server:
    """One of the three: its number, its streams and its threads."""

    index: int
    source: Source
    threads: Threads = ALONE

    @property
    def previous(self) -> int:
        """S_{i-1}: gets this server's parts in a reshare."""
        return (self.index - 1) % 3

    @property
    def following(self) -> int:
        """S_{i+1}: sends its parts in a reshare."""
        return (self.index + 1) % 3


def together(*programs: Program[Any]) -> Program[list[Any]]:
    """Run one server's programs side by side: each round carries the messages of all. Results, in order."""
    results: list[Any] = [None] * len(programs)
    rounds: dict[int, Round] = {}
    for number, program in enumerate(programs):
        _advance(number, program, None, rounds, results)
    while rounds:
        received = yield _merged(list(rounds.values()))
        taken = dict.fromkeys(received, 0)
        for number, step in list(rounds.items()):
            own: dict[int, Sequence[ShareArray]] = {}
            for peer, shapes in step.expect.items():
                own[peer] = received[peer][taken[peer] : taken[peer] + len(shapes)]
                taken[peer] += len(shapes)
            del rounds[number]
            _advance(number, programs[number], own, rounds, results)
    return results


def _advance(
    number: int,
    program: Program[Any],
    received: RoundArrays | None,
    rounds: dict[int, Round],
    results: list[Any],
) -> None:
    try:
        rounds[number] = next(program) if received is None else program.send(received)
    except StopIteration as stop:
        results[number] = stop.value


def _merged(rounds: list[Round]) -> Round:
    send: dict[int, list[ShareArray]] = {}
    expect: dict[int, list[Shape]] = {}
    for step in rounds:
        for peer, arrays in step.send.items():
            send.setdefault(peer, []).extend(arrays)
        for peer, shapes in step.expect.items():
            expect.setdefault(peer, []).extend(shapes)
    return Round(" + ".join(step.step for step in rounds), send, expect)


def shape_of(array: ShareArray) -> Shape:
    """Dtype and shape of an array like the one to expect."""
    return Shape(array.dtype, array.shape)


def zero_share(server: Server, ring: Ring, shape: tuple[int, ...], address: Address, use: str) -> ShareArray:
    """a_i = stream_i - stream_{i+1}: this server's part of zero; local, fresh per address and use."""
    numbers = server.index, server.following
    drawn: list[ShareArray] = [np.empty(0, ring.dtype)] * 2

    def draw(first: int, last: int) -> None:
        for place in range(first, last):
            drawn[place] = server.source.draw(numbers[place], address, use, ring, shape)

    size = math.prod(shape) * np.dtype(ring.dtype).itemsize
    (server.threads if size >= LEAST_BYTES else ALONE).share(draw, 2)
    return ring.subtract(*drawn)


def public(server: Server, ring: Ring, value: ShareArray) -> ShareArray:
    """A public value as a shared one: x_0 = value, x_1 = x_2 = 0. Shape (2, ...); local."""
    shared = np.zeros((2, *np.shape(value)), ring.dtype)
    if server.index == 0:
        shared[0] = value
    if server.index == 2:
        shared[1] = value
    return shared


def add_public(server: Server, ring: Ring, x: ShareArray, value: Any) -> ShareArray:
    """x + value for a public integer or an array that broadcasts to x's shape; local."""
    total = x.copy()
    if server.index in (0, 2):
        half = 0 if server.index == 0 else 1
        total[half] = ring.add(total[half], ring.constant(value) if isinstance(value, int) else value)
    return total


def add_to_part(server: Server, ring: Ring, part: ShareArray, value: int) -> ShareArray:
    """A public integer added to an additive value: S_0 adds it to its part; local."""
    return ring.add(part, ring.constant(value)) if server.index == 0 else part


def product_part(ring: Ring, x: ShareArray, y: ShareArray) -> ShareArray:
    """z_i = x_i y_i + x_i y_{i+1} + x_{i+1} y_i, S_i's part of x y (Araki et al. 2016, section 2.2); local.

    Args:
        x, y: shared, of shapes that broadcast behind the first axis.
    """
    if ring.xor:
        return np.asarray((x[0] & (y[0] ^ y[1])) ^ (x[1] & y[0]))
    return ring.reduce(x[0] * (y[0] + y[1]) + x[1] * y[0])


def reshare(server: Server, ring: Ring, part: ShareArray, address: Address) -> Program[ShareArray]:
    """Additive parts to a replicated sharing: S_i sends z_i + a_i to S_{i-1}. One round, one word each.

    Source: Araki et al. 2016, section 2.2. What S_i receives is uniform: a_{i+1} holds stream_{i+2}.
    """
    shared = np.empty((2, *part.shape), ring.dtype)
    shared[0] = ring.add(part, zero_share(server, ring, part.shape, address, "reshare"))
    return (yield from pass_on(server, shared, address))


def pass_on(server: Server, shared: ShareArray, address: Address) -> Program[ShareArray]:
    """The round of a reshare: shared[0], already masked, goes to S_{i-1}; shared[1] is filled."""
    received = yield Round(address.tensor, {server.previous: [shared[0]]}, {server.following: [shape_of(shared[0])]})
    shared[1] = received[server.following][0]
    return shared


def reshare_of_evaluators(server: Server, ring: Ring, part: ShareArray, address: Address) -> Program[ShareArray]:
    """As `reshare`, where S_2's part is zero (its argument counts for its shape only): S_2 sends nothing.

        x_0 = stream_0 (S_2, S_0),  x_2 = stream_2 (S_1, S_2),  x_1 = (z_0 - x_0) + (z_1 - x_2)

    S_0 and S_1 tell each other their bracket. S_0 lacks stream_2 and S_1 lacks stream_0, so each receives a
    uniform word. One round, one word from S_0 and from S_1.
    """
    shared = np.empty((2, *part.shape), ring.dtype)
    if server.index == DEALER:
        shared[0] = server.source.draw(2, address, "third", ring, part.shape)
        shared[1] = server.source.draw(0, address, "first", ring, part.shape)
        yield Round(address.tensor, {}, {})
        return shared
    number, use = ((0, "first"), (2, "third"))[server.index]
    own = server.source.draw(number, address, use, ring, part.shape)
    bracket = ring.subtract(part, own)
    other = 1 - server.index
    received = yield Round(address.tensor, {other: [bracket]}, {other: [shape_of(bracket)]})
    shared[server.index] = own
    shared[1 - server.index] = ring.add(bracket, received[other][0])
    return shared


def multiply(server: Server, ring: Ring, x: ShareArray, y: ShareArray, address: Address) -> Program[ShareArray]:
    """x y of two shared arrays. One round, one word an element and server."""
    return (yield from reshare(server, ring, product_part(ring, x, y), address))


@dataclass(frozen=True)
class Deal:
    """What S_2 shares between S_0 and S_1 beside an open: a function of its own part.

    Attributes:
        ring: of the dealt values.
        shape: of the dealt values.
        function: from r (S_2's part, negated) to the values; only S_2 calls it.
    """

    ring: Ring
    shape: tuple[int, ...]
    function: Callable[[ShareArray], ShareArray]


class MaskedValue(NamedTuple):
    """What one server holds after `open_and_deal`.

    Attributes:
        value: w at S_0 and S_1; r at S_2; z = w - r.
        dealt: this evaluator's additive part of each deal; zeros at S_2.
    """

    value: ShareArray
    dealt: list[ShareArray]


def open_and_deal(
    server: Server, ring: Ring, part: ShareArray, address: Address, deals: Sequence[Deal]
) -> Program[MaskedValue]:
    """Open z, masked by S_2's part, to S_0 and S_1, while S_2 deals functions of the mask.

        z = z_0 + z_1 + z_2,   w = z_0 + z_1   (S_0 and S_1 tell each other),   r = -z_2,   z = w - r

    Of each dealt f(r), S_0's part is stream_0 and S_1 gets f(r) - stream_0. w is uniform for S_0, because z_2
    holds stream_2, and for S_1, because it holds stream_0; S_2 receives nothing. One round: a word each from
    S_0 and S_1, and the deals from S_2.
    """
    masked = ring.add(part, zero_share(server, ring, part.shape, address, "open"))
    uses = [(deal, f"deal {number}") for number, deal in enumerate(deals)]
    if server.index == 1:
        expect = {0: [shape_of(masked)], 2: [Shape(np.dtype(d.ring.dtype), d.shape) for d in deals]}
        received = yield Round(address.tensor, {0: [masked]}, expect if deals else {0: expect[0]})
        return MaskedValue(ring.add(masked, received[0][0]), list(received[2]) if deals else [])
    masks = [server.source.draw(0, address, use, deal.ring, deal.shape) for deal, use in uses]
    if server.index == 0:
        received = yield Round(address.tensor, {1: [masked]}, {1: [shape_of(masked)]})
        return MaskedValue(ring.add(masked, received[1][0]), masks)
    r = ring.subtract(np.zeros_like(masked), masked)
    parts = [d.ring.subtract(d.function(r), mask) for d, mask in zip(deals, masks, strict=True)]
    yield Round(address.tensor, {1: parts} if parts else {}, {})
    return MaskedValue(r, [np.zeros(d.shape, d.ring.dtype) for d in deals])


def open_to_all(server: Server, ring: Ring, x: ShareArray, address: Address) -> Program[ShareArray]:
    """Open a shared array to the three servers, so that no one of them can change what another gets. One round.

    Both others hold the part that a server lacks: S_{i-1} sends it to S_i, and S_{i+1} a tag of it. A word an element and 16 bytes
    each. Only what `openings.OPENINGS` lists may be opened.

    Raises:
        ServersDisagree: part and tag do not fit.
    """
    received = yield Round(
        address.tensor,
        {server.following: [x[0]], server.previous: [tag(server, server.index, address, "opened", x[1])]},
        {server.previous: [Shape(x.dtype, x.shape[1:])], server.following: [TAG]},
    )
    lacked = received[server.previous][0]
    if not np.array_equal(received[server.following][0], tag(server, server.following, address, "opened", lacked)):
        found = "they told different parts of what is opened"
        raise ServersDisagree((server.previous, server.following), found, address.tensor)
    return ring.add(ring.add(x[0], x[1]), lacked)


def tell_others(server: Server, told: ShareArray, tensor: str) -> Program[dict[int, ShareArray]]:
    """What each of the other two servers tells both others, by server, for the same shape of this server's. One round.

    Only what `openings.OPENINGS` lists may be told: no part of a value may.
    """
    others = (server.following, server.previous)
    received = yield Round(tensor, {n: [told] for n in others}, {n: [shape_of(told)] for n in others})
    return {number: received[number][0] for number in others}


def check_zero(server: Server, x: ShareArray, address: Address) -> Program[None]:
    """Whether all of some shared packed bits are 0: S_i shows S_{i+1} a tag of the part that this then knows it holds. One round.

    Where x is not 0, one of two honest servers finds it and stops, whatever the third says: S_i and S_{i+1} are two, or S_{i-1} and
    S_i, or S_{i+1} and S_{i-1}. The other needs its words to go on.

    Raises:
        ServersDisagree: something is not 0.
    """
    shown = tag(server, server.following, address, "zero", x[0])
    received = yield Round(address.tensor, {server.following: [shown]}, {server.previous: [TAG]})
    if not np.array_equal(received[server.previous][0], tag(server, server.index, address, "zero", x[0] ^ x[1])):
        raise ServersDisagree((server.previous, server.following), WRONG, address.tensor)


def check_copies(server: Server, vectors: Mapping[str, ShareArray], address: Address) -> Program[None]:
    """Whether the two servers that hold a part of an owner's vector were given the same. One round, 16 bytes an owner.

    S_i shows S_{i+1} tags of what both hold. Of two honest servers one finds a difference and stops; the other needs its words.

    Args:
        vectors: each owner's pair, (2, count), in the same order at all servers.

    Raises:
        ServersDisagree: naming the owner.
    """

    def tags(number: int, half: int) -> ShareArray:
        own = [tag(server, number, address, f"owner {n}", pair[half]) for n, pair in enumerate(vectors.values())]
        return np.array(own, np.uint8)

    given, held = tags(server.following, 1), tags(server.index, 0)
    received = yield Round(address.tensor, {server.following: [given]}, {server.previous: [shape_of(held)]})
    for name, own, told in zip(vectors, held, received[server.previous][0], strict=True):
        if not np.array_equal(own, told):
            found = f"the copies of what owner {name!r} shared differ"
            raise ServersDisagree((server.previous,), found, address.tensor, name)


WRONG = "a triple of bits is wrong"

TAG = Shape(np.uint8, (16,))

KEYED_BYTES = 2**15
"""Bytes from which on a keyed tag is quicker than a digest."""


def tag(server: Server, number: int, address: Address, use: str, array: ShareArray) -> ShareArray:
    """What shows the other server with stream `number` that this one holds an array, uint8 (16,).

    Of a short array the first half of its SHA-256 digest. Of a longer one Poly1305 (RFC 8439, section 2.5) under a drawn key, which
    serves once and which the third server does not know: another array has the same tag with a chance of 2^-80 at most, even of 256 MB.
    """
    octets = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    if octets.nbytes < KEYED_BYTES:
        return np.frombuffer(hashlib.sha256(octets).digest()[: TAG.shape[0]], np.uint8)
    key = server.source.draw(number, address, f"tag {use}", BITS, (4,))
    return np.frombuffer(Poly1305.generate_tag(key.astype("<u8").tobytes(), octets), np.uint8)
