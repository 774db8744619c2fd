"""Bits computed on shares so that no one server can make them wrong: verified triples, products, and the sign of a shared number.

Semi-honest primitives (`replicated`, `comparison`) trust each server's additive part, and S_2's tables. Here nothing is trusted but
that two of the three servers follow the protocol:

* A number's bits are shared by nobody: x = x_0 + x_1 + x_2, and each part is in the clear at two servers, so its bits (b, 0, 0) are a
  right sharing without a word being said. Adding three numbers bit by bit gives the sign.
* A product of bits takes a *triple* a, b, c = a b of unknown random bits (Beaver, CRYPTO 1991): x XOR a and y XOR b are opened, and the
  rest is local. Both others hold the part of them that a server lacks, so a wrong one is found at once (`replicated.open_to_all`).
* Triples are made by the semi-honest product, where one server may have added an error, and checked before use by cut and choose
  (Furukawa, Lindell, Nof & Weinstein, EUROCRYPT 2017; Araki et al., S&P 2017), in words of 64: shuffled by a coin that is tossed
  once they are fixed; some are opened; the others fall into buckets, in which the first is compared with each other one.

A wrong triple is used with probability at most 2^-40 (`bucket_size`); any other lie is found with certainty. Who lies learns nothing
from it: until something is opened on purpose, all that is sent is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lgamma, log, prod

import numpy as np

from hansa.errors import ServersDisagree
from hansa.mpc.replicated import (
    WRONG,
    Address,
    Program,
    Server,
    add_public,
    check_zero,
    open_to_all,
    product_part,
    reshare,
)
from hansa.mpc.ring import BITS, Words, pack_bits, unpack_bits, words_for
from hansa.secure.prg import Algorithm, KeyStream

MISSED_BITS = 40
"""A wrong triple passes with probability at most 2^-40."""

LEAST_TRIPLES = 256
"""Words of triples made at once, at least: buckets of few triples must be larger."""


class Triples:
    """One server's stock of verified triples, 64 in a word. Secret; every triple is used once.

    Attributes:
        left: words of them.
    """

    def __init__(self) -> None:
        self._stock = np.zeros((3, 2, 0), np.uint64)
        self._batches = 0

    @property
    def left(self) -> int:
        return self._stock.shape[2]

    def take(self, count: int) -> Words:
        """The next words of them, shared bits a, b and c = a AND b: uint64 (3, 2, count)."""
        taken, self._stock = self._stock[..., :count], self._stock[..., count:]
        return taken

    def make(self, server: Server, count: int, address: Address) -> Program[None]:
        """Add verified words of triples to the stock. Four rounds.

        Bytes a word and server: 8 for each of its bucket's triples, and 16 for each but the first.

        Args:
            count: words, `LEAST_TRIPLES` at least; the same at all servers.

        Raises:
            ServersDisagree: a triple is wrong, or what was opened for the check.
        """
        count = max(count, LEAST_TRIPLES)
        place = address.named(f"triples {self._batches}")
        self._batches += 1
        size = bucket_size(count)
        total = (count + 1) * size
        triples = np.empty((3, 2, total), np.uint64)
        for number, name in enumerate("ab"):
            triples[number] = _random(server, (total,), place.named(name))
        part = product_part(BITS, triples[0], triples[1])
        triples[2] = yield from reshare(server, BITS, part, place.named("products"))
        # The coin: of its three parts each server lacks one, which it gets once both others have their parts of the products.
        coin = _random(server, (4,), place.named("coin"))
        coin = yield from open_to_all(server, BITS, coin, place.named("coin"))
        triples = np.take(triples, _permutation(coin, total), axis=2)
        shown, buckets = triples[..., :size], triples[..., size:].reshape(3, 2, size, count)
        yield from check_triples(server, shown, buckets, place)
        self._stock = np.concatenate([self._stock, buckets[:, :, 0]], axis=2)


def check_triples(server: Server, shown: Words, buckets: Words, address: Address) -> Program[None]:
    """Whether c = a AND b in all of `shown`, which are opened, and alike or nowhere wrong in each bucket. Two rounds.

    A bucket's first triple (a, b, c) and another (a', b', c') differ by u = a XOR a' and v = b XOR b', which are opened:

        c XOR c' XOR u b' XOR v a' XOR u v = 0    where both are right or both wrong by the same

    Args:
        shown: shared, uint64 (3, 2, words). buckets: shared, (3, 2, triples of a bucket, buckets).

    Raises:
        ServersDisagree: a triple is wrong, or what was opened.
    """
    first, others = buckets[:, :, :1], buckets[:, :, 1:]
    masked = (first[:2] ^ others[:2]).swapaxes(0, 1)
    values = np.concatenate([shown.swapaxes(0, 1).reshape(2, -1), masked.reshape(2, -1)], axis=1)
    opened = yield from open_to_all(server, BITS, values, address.named("buckets"))
    a, b, c = opened[: shown[:, 0].size].reshape(3, -1)
    if np.any(a & b != c):
        raise ServersDisagree((server.previous, server.following), WRONG, address.named("buckets").tensor)
    u, v = opened[shown[:, 0].size :].reshape(masked.shape[1:])
    wrong = first[2] ^ others[2] ^ (u & others[1]) ^ (v & others[0])
    yield from check_zero(server, BITS, add_public(server, BITS, wrong, u & v), address.named("zero"))


def bucket_size(count: int) -> int:
    """Triples a bucket (and how many are opened), so that a wrong one passes with probability at most 2^-MISSED_BITS.

    Of M = (count + 1) B triples in random order B are opened and the others fall into `count` buckets of B. A bucket passes where all
    or none of it are wrong (in one place of the 64; errors in several make it worse for the liar). So with t B wrong ones

        P(t) = C(count, t) / C(M, t B),

    which is greatest for t = 1 (`tests/mpc/test_mpc_verified_bits.py` computes all). Furukawa et al., lemma 3.4, bound the same.
    """
    size = 2
    while _log2_choose((count + 1) * size, size) - log(count, 2) < MISSED_BITS:
        size += 1
    return size


def _log2_choose(n: int, k: int) -> float:
    return (lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)) / log(2)


def _random(server: Server, shape: tuple[int, ...], address: Address) -> Words:
    """Shared random bits that nobody knows, (2, *shape): part j is stream j; local."""
    return np.stack([server.source.draw(j, address, "random", BITS, shape) for j in (server.index, server.following)])


def _permutation(coin: Words, count: int) -> Words:
    """The order that a public coin of 32 bytes gives. (Two equal words among `count` would leave it open: chance count^2 / 2^65.)"""
    stream = KeyStream(coin.astype("<u8").tobytes(), Algorithm.CHACHA20, size=8 * count)
    return np.argsort(stream.words64(count))


def products(server: Server, triples: Triples, x: Words, y: Words, address: Address) -> Program[Words]:
    """x AND y of packed bits, shared uint64 (2, ...), with triples of the stock; more are made where it has too few. One round.

        a b XOR (x XOR a) b XOR (y XOR b) a XOR (x XOR a) (y XOR b) = x y

    Raises:
        ServersDisagree: a server lied.
    """
    shape = x.shape[1:]
    if triples.left < prod(shape):
        yield from triples.make(server, prod(shape) - triples.left, address)
    a, b, c = triples.take(prod(shape)).reshape(3, 2, *shape)
    u, v = yield from open_to_all(server, BITS, np.stack([x ^ a, y ^ b], axis=1), address)
    return add_public(server, BITS, c ^ (u & b) ^ (v & a), u & v)


def products_of_bytes(
    server: Server, triples: Triples, factors: Sequence[tuple[Words, Words]], address: Address
) -> Program[list[Words]]:
    """x AND y of several pairs of shared bits, uint8 (2, ...) of 0 and 1, that broadcast. One round."""
    shapes = [np.broadcast_shapes(x.shape, y.shape) for x, y in factors]
    sizes = [prod(shape[1:]) for shape in shapes]
    flat = [
        pack_bits(
            np.concatenate(
                [np.broadcast_to(own[k], shape).reshape(2, -1) for own, shape in zip(factors, shapes, strict=True)], 1
            )
        )
        for k in range(2)
    ]
    packed = yield from products(server, triples, flat[0], flat[1], address)
    bits = np.split(unpack_bits(packed, sum(sizes)), np.cumsum(sizes)[:-1], axis=1)
    return [own.reshape(shape) for own, shape in zip(bits, shapes, strict=True)]


def negative(server: Server, triples: Triples, x: Words, bits: int, address: Address) -> Program[Words]:
    """The sign of shared numbers of Z_2^64 in [-2^(bits - 1), 2^(bits - 1)), as packed shared bits, (2, words).

    Only the low `bits` bits of the parts count. With the parts' bits p, q, r, in every place

        s = p XOR q XOR r,    c = (p XOR r)(q XOR r) XOR r   (its carry to the next place),

    and the sum of s and c carries into the highest place by generating pairs, two and two (Kogge & Stone 1973; only the last carry):
    g = s c, t = s XOR c; then g XOR t g', t t', with g', t' of the places below. About 4 products a place.

    Rounds: 2 and log2 of bits - 2, rounded up.

    Args:
        x: uint64 (2, count). bits: at least 3.
    """
    planes = _planes(x, bits)
    held = [(server.index + half) % 3 for half in range(2)]
    zero = np.zeros_like(planes[0])

    def of_parts(*parts: int) -> Words:
        """The XOR of the bits of these parts, as shares: no word is needed."""
        return np.stack([planes[half] if part in parts else zero for half, part in enumerate(held)])

    sums, last = of_parts(0, 1, 2), of_parts(2)
    factors = of_parts(0, 2)[:, :-1], of_parts(1, 2)[:, :-1]
    carries = yield from products(server, triples, *factors, address.named("carries"))
    carries ^= last[:, :-1]
    through = sums[:, 1:-1] ^ carries[:, :-1]
    makes = yield from products(server, triples, sums[:, 1:-1], carries[:, :-1], address.named("pairs"))
    while (places := makes.shape[1]) > 1:
        low, high = slice(0, places - 1, 2), slice(1, places, 2)
        x_and = np.concatenate([through[:, high], through[:, high][:, 1:]], axis=1)
        y_and = np.concatenate([makes[:, low], through[:, low][:, 1:]], axis=1)
        found = yield from products(server, triples, x_and, y_and, address.named(f"places {places}"))
        half = places // 2
        rest = slice(2 * half, places)
        # Nothing comes into the lowest pair, so nothing has to go through it.
        makes = np.concatenate([makes[:, high] ^ found[:, :half], makes[:, rest]], axis=1)
        through = np.concatenate([through[:, :1] & np.uint64(0), found[:, half:], through[:, rest]], axis=1)
    return np.asarray(sums[:, -1] ^ carries[:, -1] ^ makes[:, 0])


def words_of_signs(bits: int, count: int) -> int:
    """Words of triples that `negative` takes."""
    places = bits - 2
    products_a_sign = 2 * bits - 3
    while places > 1:
        products_a_sign += 2 * (places // 2) - 1
        places -= places // 2
    return products_a_sign * words_for(count)


def _planes(x: Words, bits: int) -> Words:
    """The low bits of words, each bit's packed: uint64 (2, count) to (2, bits, ceil(count / 64))."""
    octets = np.ascontiguousarray(x).astype("<u8", copy=False).view(np.uint8).reshape(*x.shape, 8)[..., : -(-bits // 8)]
    by_bit = np.unpackbits(octets, axis=-1, count=bits, bitorder="little").swapaxes(1, 2)
    return pack_bits(np.ascontiguousarray(by_bit))
