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
from numba import njit

from hansa.errors import ServersDisagree
from hansa.mpc.replicated import WRONG, Address, Program, Server, check_zero, open_to_all, pass_on
from hansa.mpc.ring import BITS, ShareArray, pack_bits, unpack_bits, words_for
from hansa.secure.prg import Algorithm, KeyStream

MISSED_BITS = 40
"""A wrong triple passes with probability at most 2^-40."""

LEAST_TRIPLES, MOST_TRIPLES = 2**8, 2**17
"""Words of triples made at once: buckets of few triples must be larger; the most take 60 MB."""


WIDTHS = (16, 8, 4, 2, 1)
"""Words of triples that are shuffled as one."""


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

    def take(self, count: int) -> ShareArray:
        """The next words of them, shared bits a, b and c = a AND b: uint64 (3, 2, count)."""
        taken, self._stock = self._stock[..., :count], self._stock[..., count:]
        return taken

    def make(self, server: Server, count: int, address: Address) -> Program[None]:
        """Add verified words of triples to the stock. Four rounds for each `MOST_TRIPLES`.

        Bytes a word and server: 8 for each of its bucket's triples, and 16 for each but the first.

        Args:
            count: words, `LEAST_TRIPLES` at least; the same at all servers.

        Raises:
            ServersDisagree: a triple is wrong, or what was opened for the check.
        """
        while count > MOST_TRIPLES:
            yield from self._make(server, MOST_TRIPLES, address)
            count -= MOST_TRIPLES
        yield from self._make(server, max(count, LEAST_TRIPLES), address)

    def _make(self, server: Server, count: int, address: Address) -> Program[None]:
        place = address.named(f"triples {self._batches}")
        self._batches += 1
        size = bucket_size(count)
        # Packs of words side by side are as good as words, where there are so many that buckets need be no larger.
        width = next(width for width in WIDTHS if bucket_size(-(-count // width)) == size)
        count = -(-count // width)
        total = (count + 1) * size
        own, after = (_random(server, number, (total, 2, width), place) for number in (server.index, server.following))
        products = yield from _multiplied(server, own, after, place.named("products"))
        # The coin: of its three parts each server lacks one, which it gets once both others have their part of the products.
        coin = np.stack(
            [_random(server, number, (4,), place.named("coin")) for number in (server.index, server.following)]
        )
        coin = yield from open_to_all(server, BITS, coin, place.named("coin"))
        order = _permutation(coin, total)
        triples = own, after, products
        yield from check_triples(server, triples, order[:size], order[size:].reshape(size, count), place)
        stock = np.empty((3, 2, self.left + count * width), np.uint64)
        stock[..., : self.left] = self._stock
        gather(*triples, order[size : size + count], stock[..., self.left :])
        self._stock = stock


Parts = tuple[ShareArray, ShareArray, ShareArray]
"""Triples as a server holds them: its first part of a and of b, uint64 (packs, 2, words of a pack); the second part of both, alike;
and both parts of c, uint64 (2, packs, words of a pack)."""


def _multiplied(server: Server, own: ShareArray, after: ShareArray, address: Address) -> Program[ShareArray]:
    """a AND b of shared bits, by the semi-honest product: shared, uint64 (2, packs, words of a pack). One round.

    Args:
        own, after: as of `Parts`.
    """
    shape = (own.shape[0], own.shape[2])
    masks = [server.source.draw(j, address, "reshare", BITS, shape) for j in (server.index, server.following)]
    shared = np.empty((2, *shape), np.uint64)
    product_parts(own, after, masks[0], masks[1], shared[0])
    return (yield from pass_on(server, shared, address))


@njit(cache=True, nogil=True, error_model="numpy")
def product_parts(own, after, mask_own, mask_after, out):  # type: ignore[no-untyped-def]
    """out = a_i b_i XOR a_i b_{i+1} XOR a_{i+1} b_i XOR the masks, as `replicated.product_part`.

    Args:
        own, after: uint64 (packs, 2, width), a and b. mask_own, mask_after, out: uint64 (packs, width); out is overwritten.
    """
    for i in range(out.shape[0]):
        for w in range(out.shape[1]):
            product = (own[i, 0, w] & (own[i, 1, w] ^ after[i, 1, w])) ^ (after[i, 0, w] & own[i, 1, w])
            out[i, w] = product ^ mask_own[i, w] ^ mask_after[i, w]


def check_triples(
    server: Server, triples: Parts, shown: ShareArray, buckets: ShareArray, address: Address
) -> Program[None]:
    """Whether c = a AND b in some triples, which are opened, and alike or nowhere wrong in each bucket. Two rounds.

    A bucket's first triple (a, b, c) and another (a', b', c') differ by u = a XOR a' and v = b XOR b', which are opened:

        c XOR c' XOR u b' XOR v a' XOR u v = 0    where both are right or both wrong by the same

    Args:
        shown: int64, which packs are opened. buckets: int64 (packs of a bucket, buckets).

    Raises:
        ServersDisagree: a triple is wrong, or what was opened.
    """
    width = triples[2].shape[2]
    few, size = 3 * len(shown) * width, buckets[1:].size * width
    values, first = np.empty((2, few + 2 * size), np.uint64), np.empty((3, 2, few // 3), np.uint64)
    gather(*triples, shown, first)
    values[:, :few] = first.swapaxes(0, 1).reshape(2, -1)
    differences(triples[0], triples[1], buckets, values[:, few:])
    opened = yield from open_to_all(server, BITS, values, address.named("buckets"))
    a, b, c = opened[:few].reshape(3, -1)
    if np.any(a & b != c):
        raise ServersDisagree((server.previous, server.following), WRONG, address.named("buckets").tensor)
    wrong = np.empty((2, size), np.uint64)
    errors(*triples, buckets, opened[few:], -server.index % 3, wrong)
    yield from check_zero(server, wrong, address.named("zero"))


@njit(cache=True, nogil=True, error_model="numpy")
def gather(own, after, products, places, out):  # type: ignore[no-untyped-def]
    """Some packs of `Parts`, as shared a, b and c: out is uint64 (3, 2, places times width), overwritten."""
    width = own.shape[2]
    for i in range(places.shape[0]):
        place = places[i]
        for w in range(width):
            at = i * width + w
            for number in range(2):
                out[number, 0, at] = own[place, number, w]
                out[number, 1, at] = after[place, number, w]
                out[2, number, at] = products[number, place, w]


@njit(cache=True, nogil=True, error_model="numpy")
def differences(own, after, buckets, out):  # type: ignore[no-untyped-def]
    """out = a XOR a', then b XOR b', of a bucket's first triple and each other one, pack by pack, row by row of the buckets.

    Args:
        own, after: uint64 (packs, 2, width). buckets: int64 (size, count). out: uint64 (2, 2 (size - 1) count width), overwritten.
    """
    size, count = buckets.shape
    width = own.shape[2]
    behind = (size - 1) * count * width
    for k in range(1, size):
        for i in range(count):
            first, other, at = buckets[0, i], buckets[k, i], ((k - 1) * count + i) * width
            for number in range(2):
                for w in range(width):
                    out[0, number * behind + at + w] = own[first, number, w] ^ own[other, number, w]
                    out[1, number * behind + at + w] = after[first, number, w] ^ after[other, number, w]


@njit(cache=True, nogil=True, error_model="numpy")
def errors(own, after, products, buckets, uv, public, out):  # type: ignore[no-untyped-def]
    """out = c XOR c' XOR u b' XOR v a' of a bucket's first triple and each other one; XOR u v in the part `public`, if it is 0 or 1.

    Args:
        own, after: uint64 (packs, 2, width). products: uint64 (2, packs, width). buckets: int64 (size, count).
        uv: uint64 (2 (size - 1) count width,), in the order of `differences`. out: uint64 (2, (size - 1) count width), overwritten.
    """
    size, count = buckets.shape
    width = own.shape[2]
    behind = (size - 1) * count * width
    for k in range(1, size):
        for i in range(count):
            first, other, at = buckets[0, i], buckets[k, i], ((k - 1) * count + i) * width
            for w in range(width):
                u, v = uv[at + w], uv[behind + at + w]
                both = u & v
                mine = products[0, first, w] ^ products[0, other, w] ^ (u & own[other, 1, w]) ^ (v & own[other, 0, w])
                following = (
                    products[1, first, w] ^ products[1, other, w] ^ (u & after[other, 1, w]) ^ (v & after[other, 0, w])
                )
                out[0, at + w] = mine ^ both if public == 0 else mine
                out[1, at + w] = following ^ both if public == 1 else following


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


def _random(server: Server, number: int, shape: tuple[int, ...], address: Address) -> ShareArray:
    """A part of shared random bits that nobody knows: part j is stream j; local."""
    return server.source.draw(number, address, "random", BITS, shape)


def _permutation(coin: ShareArray, count: int) -> ShareArray:
    """The order that a public coin of 32 bytes gives, int64 (count,)."""
    order = np.arange(count)
    shuffle(KeyStream(coin.astype("<u8").tobytes(), Algorithm.CHACHA20, size=8 * count).words64(count), order)
    return order


@njit(cache=True, nogil=True, error_model="numpy")
def shuffle(words, order):  # type: ignore[no-untyped-def]
    """Exchange each entry, the last one first, with one of those up to it (Durstenfeld 1964): of n entries number floor(n w / 2^64).

    Args:
        words: uint64 (count,), random. order: int64 (count,), fewer than 2^32, changed.
    """
    low = np.uint64(2**32 - 1)
    for i in range(order.shape[0] - 1, 0, -1):
        n = np.uint64(i + 1)
        rest = ((words[i] & low) * n) >> np.uint64(32)
        other = np.int64(((words[i] >> np.uint64(32)) * n + rest) >> np.uint64(32))
        order[i], order[other] = order[other], order[i]


def products(server: Server, triples: Triples, x: ShareArray, y: ShareArray, address: Address) -> Program[ShareArray]:
    """x AND y of packed bits, shared uint64 (2, ...), with triples of the stock; more are made where it has too few. One round.

        a b XOR (x XOR a) b XOR (y XOR b) a XOR (x XOR a) (y XOR b) = x y

    Raises:
        ServersDisagree: a server lied.
    """
    count = prod(x.shape[1:])
    if triples.left < count:
        yield from triples.make(server, count - triples.left, address)
    stock, masked = triples.take(count), np.empty((2, 2, count), np.uint64)
    mask_factors(x.reshape(2, count), y.reshape(2, count), stock, masked)
    opened = yield from open_to_all(server, BITS, masked, address)
    result = np.empty((2, count), np.uint64)
    unmask_products(stock, opened, -server.index % 3, result)
    return result.reshape(x.shape)


@njit(cache=True, nogil=True, error_model="numpy")
def mask_factors(x, y, triples, out):  # type: ignore[no-untyped-def]
    """out[half, 0 and 1] = x XOR a, y XOR b.

    Args:
        x, y: uint64 (2, words). triples: uint64 (3, 2, words). out: uint64 (2, 2, words), overwritten.
    """
    for half in range(2):
        for i in range(x.shape[1]):
            out[half, 0, i] = x[half, i] ^ triples[0, half, i]
            out[half, 1, i] = y[half, i] ^ triples[1, half, i]


@njit(cache=True, nogil=True, error_model="numpy")
def unmask_products(triples, uv, public, out):  # type: ignore[no-untyped-def]
    """out[half] = c XOR u b XOR v a, and XOR u v in the half `public`, if it is 0 or 1.

    Args:
        triples: uint64 (3, 2, words). uv: uint64 (2, words). out: uint64 (2, words), overwritten.
    """
    for half in range(2):
        for i in range(out.shape[1]):
            found = triples[2, half, i] ^ (uv[0, i] & triples[1, half, i]) ^ (uv[1, i] & triples[0, half, i])
            out[half, i] = found ^ (uv[0, i] & uv[1, i]) if half == public else found


def products_of_bytes(
    server: Server, triples: Triples, factors: Sequence[tuple[ShareArray, ShareArray]], address: Address
) -> Program[list[ShareArray]]:
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


def negative(server: Server, triples: Triples, x: ShareArray, bits: int, address: Address) -> Program[ShareArray]:
    """The sign of shared numbers of Z_2^64 in [-2^(bits - 1), 2^(bits - 1)), as packed shared bits, (2, words).

    Only the low `bits` bits of the parts count. With the parts' bits p, q, r, in every place

        s = p XOR q XOR r,    c = (p XOR r)(q XOR r) XOR r   (its carry to the next place),

    and s and c together carry into the highest place what a tree of groups of places finds (Kogge & Stone 1973; the last carry alone):
    a place makes g = s c and lets through t = s XOR c, two groups make g XOR t g' and let through t t', with g', t' of the lower one.
    About 3.5 products a place.

    Rounds: 2 and log2 of bits - 2, rounded up.

    Args:
        x: uint64 (2, count). bits: at least 3.
    """
    planes = _planes(x, bits)
    held = [(server.index + half) % 3 for half in range(2)]
    zero = np.zeros_like(planes[0])

    def of_parts(*parts: int) -> ShareArray:
        """The XOR of the bits of these parts, as shares: no word is needed."""
        return np.stack([planes[half] if part in parts else zero for half, part in enumerate(held)])

    sums, last = of_parts(0, 1, 2), of_parts(2)
    factors = of_parts(0, 2)[:, :-1], of_parts(1, 2)[:, :-1]
    carries = yield from products(server, triples, *factors, address.named("carries"))
    carries ^= last[:, :-1]
    own, carried = sums[:, 1:-1], carries[:, :-1]
    through = own ^ carried
    low, high = slice(0, None, 2), slice(1, None, 2)
    pairs = own.shape[1] // 2
    # Of two places only the lower one's product is needed: the upper one makes s where t is 0, and else what comes in.
    # Nothing comes into the lowest pair, so nothing has to go through it.
    x = np.concatenate([own[:, low], through[:, high][:, 1:]], axis=1)
    y = np.concatenate([carried[:, low], through[:, low][:, 1:pairs]], axis=1)
    found = yield from products(server, triples, x, y, address.named("lower places"))
    makes, both = found[:, : own.shape[1] - pairs], found[:, own.shape[1] - pairs :]
    if pairs:
        upper, into = own[:, high], makes[:, :pairs]
        passed = yield from products(server, triples, through[:, high], upper ^ into, address.named("upper places"))
        makes = np.concatenate([upper ^ passed, makes[:, pairs:]], axis=1)
        through = np.concatenate([through[:, :1] & np.uint64(0), both, through[:, 2 * pairs :]], axis=1)
    while (groups := makes.shape[1]) > 1:
        pairs = groups // 2
        low, high, rest = slice(0, 2 * pairs, 2), slice(1, 2 * pairs, 2), slice(2 * pairs, groups)
        x = np.concatenate([through[:, high], through[:, high][:, 1:]], axis=1)
        y = np.concatenate([makes[:, low], through[:, low][:, 1:]], axis=1)
        found = yield from products(server, triples, x, y, address.named(f"groups {groups}"))
        makes = np.concatenate([makes[:, high] ^ found[:, :pairs], makes[:, rest]], axis=1)
        through = np.concatenate([through[:, :1] & np.uint64(0), found[:, pairs:], through[:, rest]], axis=1)
    return np.asarray(sums[:, -1] ^ carries[:, -1] ^ makes[:, 0])


def words_of_signs(bits: int, count: int) -> int:
    """Words of triples that `negative` takes."""
    places = bits - 2
    found = bits - 1 + places + max(0, places // 2 - 1)
    groups = places - places // 2
    while groups > 1:
        found += 2 * (groups // 2) - 1
        groups -= groups // 2
    return found * words_for(count)


def _planes(x: ShareArray, bits: int) -> ShareArray:
    """The low bits of words, each bit's packed: uint64 (2, count) to (2, bits, ceil(count / 64))."""
    octets = np.ascontiguousarray(x).astype("<u8", copy=False).view(np.uint8).reshape(*x.shape, 8)[..., : -(-bits // 8)]
    by_bit = np.unpackbits(octets, axis=-1, count=bits, bitorder="little").swapaxes(1, 2)
    return pack_bits(np.ascontiguousarray(by_bit))
