"""What one server sees is independent of the secrets: exhaustively, over its joint view, on tiny rings.

A view is a server's parts of the inputs, its draws, and all it receives. Parts and draws that it holds are
fixed at random a few dozen times; the draws that it lacks (one stream of three) are enumerated exhaustively,
for every value of the secrets. Given the fixed things, the multiset of received messages must then be one
and the same for every secret. Bytes that look uniform cannot show a mask that is used twice; this does, and
the last tests show that it does.

All elements of one array run at once: element e stands for one (fixed things, secrets, missing draws).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from hansa.errors import ProtocolError
from hansa.mpc import comparison as cmp
from hansa.mpc import refresh as fresh
from hansa.mpc import replicated as rep
from hansa.mpc import verified_bits as vb
from hansa.mpc.ring import BITS, RING32, Ring, pack_bits, unpack_bits
from hansa.oblivious import evaluation as ev
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.shared_rows import RowShares, receive_rows, routing_part, sums_part
from lockstep import LockstepRecord, run_three

Z2 = Ring("Z2", 2, np.uint32)
Z3 = Ring("Z3", 3, np.uint32)
Z5 = Ring("Z5", 5, np.uint32)
BIT = Ring("bit", 1, np.uint8, xor=True)
PLACE = rep.Address(0, 0, 0, "view")


@dataclass(frozen=True)
class Owned:
    """A secret bit of one server's own, in the clear at it and unknown to the others."""

    owner: int
    bits: int = 1
    xor: bool = True


class Enumerated:
    """Draws for all elements at once: those of the viewer's streams fixed, those of the third enumerated."""

    def __init__(self, viewer, count, fixed_index, coin_index, table_bits):
        self.missing = (viewer + 2) % 3
        self.count, self.fixed_index, self.coin_index = count, fixed_index, coin_index
        self.table_bits = table_bits
        self.values, self.coin_bits = {}, 0

    def stream(self, number, address, use, size):
        raise AssertionError("bulk draws are not enumerated")

    def draw(self, number, address, use, ring, shape):
        name = (number, address, use)
        if use.startswith("tag "):
            return np.zeros(shape, ring.dtype)
        if name not in self.values:
            self.values[name] = self.make(number, name, ring, shape)
        return self.values[name].copy()

    def make(self, number, name, ring, shape):
        packed = ring == BITS
        width = 1 if packed else (self.table_bits if ring == cmp.TABLES else ring.bits)
        axis = next(a for a, n in enumerate(shape) if n == (self.count // 64 if packed else self.count))
        others = [n for a, n in enumerate(shape) if a != axis]
        columns = []
        for k in range(int(np.prod(others, dtype=int))):
            if number == self.missing:
                columns.append((self.coin_index >> np.uint64(self.coin_bits)) & np.uint64((1 << width) - 1))
                self.coin_bits += width
            else:
                rng = np.random.default_rng(zlib.crc32(repr((name, k)).encode()))
                table = rng.integers(0, 1 << width, int(self.fixed_index.max()) + 1, dtype=np.uint64)
                columns.append(table[self.fixed_index])
        array = np.stack(columns, axis=-1).reshape(self.count, *others)
        array = np.moveaxis(array, 0, axis)
        if packed:
            assert axis == len(shape) - 1
            return pack_bits(array.astype(np.uint8))
        return np.ascontiguousarray(array.astype(ring.dtype))


def columns_of(array, count):
    """Integers by element from one received array, whichever axis runs over the elements."""
    if array.dtype == np.uint64 and array.shape[-1] % (count // 64) == 0:
        # Several arrays may come as one, one behind the other.
        array = array.reshape(-1, count // 64)
        return list(unpack_bits(array, count).reshape(-1, count).astype(np.uint64))
    axis = array.shape.index(count)
    return list(np.moveaxis(array, axis, -1).reshape(-1, count).astype(np.uint64))


def views_agree(program, viewer, rings, fixed=24, table_bits=0):
    """Run `program(server, shares)` on all secrets and missing sampling; do the viewer's views agree?

    Args:
        rings: of the secret inputs; BITS for packed bits, Owned for what one server has in the clear.
    """
    widths = [1 if ring == BITS else 0 if is_own(ring, viewer) else ring.bits for ring in rings]
    secrets = 2 ** sum(widths)
    coin_bits = 0
    while True:
        # At least 64 elements, so that packed bits fill words; sampling beyond the needed ones repeat.
        sampling = 2 ** max(coin_bits, 6)
        count = fixed * secrets * sampling
        index = np.arange(count, dtype=np.uint64)
        fixed_index = (index // np.uint64(secrets * sampling)).astype(np.int64)
        secret = (index // np.uint64(sampling)) % np.uint64(secrets)
        sources = Enumerated(viewer, count, fixed_index, index % np.uint64(sampling), table_bits)
        shares = make_shares(viewer, rings, widths, secret, fixed_index)
        record = LockstepRecord()
        run_three([program(rep.Server(i, sources), shares[i]) for i in range(3)], record, keep_views=True)
        if sources.coin_bits <= max(coin_bits, 6):
            break
        coin_bits = sources.coin_bits
        assert coin_bits <= 17, f"{coin_bits} sampling are too many to enumerate"
    code = np.zeros(count, np.uint64)
    for _, _, array in record.views[viewer]:
        if (array.dtype, array.shape) == (np.uint8, (16,)):
            # A tag under a key of the viewer's own, of a part that it is sent in the same round, or knows.
            continue
        for column in columns_of(array, count):
            code = (code + column + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    codes = np.sort(code.reshape(fixed, secrets, sampling), axis=2)
    return bool((codes == codes[:, :1]).all()), len(record.views[viewer])


def is_own(ring, viewer):
    return isinstance(ring, Owned) and ring.owner == viewer


def make_shares(viewer, rings, widths, secret, fixed_index):
    """Three pairs for each input: the viewer's parts fixed, the third what the secret asks for.

    Of an owned one the owner gets the value, a fixed one where the owner is the viewer, and the others None.
    """
    result = [[], [], []]
    shift = 0
    for number, (ring, width) in enumerate(zip(rings, widths, strict=True)):
        value = (secret >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        rng = np.random.default_rng(1000 + number)
        if isinstance(ring, Owned):
            if ring.owner == viewer:
                value = rng.integers(0, 2, int(fixed_index.max()) + 1, dtype=np.uint64)[fixed_index]
            for i in range(3):
                result[i].append(value if i == ring.owner else None)
            continue
        tables = rng.integers(0, 1 << width, (2, int(fixed_index.max()) + 1), dtype=np.uint64)
        mask = np.uint64((1 << width) - 1)
        parts = [None] * 3
        for k in range(2):
            parts[(viewer + k) % 3] = tables[k][fixed_index]
        known = parts[viewer] ^ parts[(viewer + 1) % 3] if ring.xor else parts[viewer] + parts[(viewer + 1) % 3]
        parts[(viewer + 2) % 3] = (value ^ known) if ring.xor else (value - known) & mask
        if ring == BITS:
            arrays = [pack_bits(part.astype(np.uint8)) for part in parts]
        else:
            arrays = [part.astype(ring.dtype) for part in parts]
        for i in range(3):
            result[i].append(np.stack([arrays[i], arrays[(i + 1) % 3]]))
    return result


def multiply(ring):
    def program(server, inputs):
        return (yield from rep.multiply(server, ring, inputs[0], inputs[1], PLACE))

    return program


def extend(server, inputs):
    return (yield from cmp.extend(server, inputs[0][0], PLACE, Z3, Z5))


def truncate(server, inputs):
    return (yield from cmp.truncate(server, Z3, inputs[0][0], 1, PLACE))


def to_arithmetic(server, inputs):
    count = inputs[0].shape[1] * 64
    return (yield from cmp.bits_to_arithmetic(server, inputs[0][0], count, Z3, PLACE))


def sign(digit_bits):
    def program(server, inputs):
        part = yield from cmp.sign_part(server, Z3, inputs[0][0], PLACE, digit_bits)
        return (yield from rep.reshare(server, BITS, part, PLACE.named("result")))

    return program


def products_of_bits(products, ring=None):
    """As a comparison and a tournament do: products of bits, one of them negated; and the reshares that follow."""

    def program(server, inputs):
        count = inputs[0].shape[1] * 64
        part = np.stack([own[0] for own in inputs])
        bits, words = yield from cmp.bit_products(server, part, products, PLACE, ring, count)
        yield from rep.reshare(server, BITS, bits, PLACE.named("bits"))
        if ring is not None:
            yield from rep.reshare_of_evaluators(server, ring, words, PLACE.named("words"))

    return program


def open_and_reshare(server, inputs):
    """An open and a reshare of one product, as the tournament does: two zero-sharings."""
    part = rep.product_part(Z3, inputs[0], inputs[1])
    return (
        yield from rep.together(rep.open_and_deal(server, Z3, part, PLACE, []), rep.reshare(server, Z3, part, PLACE))
    )


def squared_and_opened(server, inputs):
    """A dot product of length two, opened with a dealt function of the mask."""
    products = rep.product_part(Z3, np.stack(inputs, axis=1), np.stack(inputs, axis=1))
    part = Z3.reduce(products.sum(axis=0, dtype=Z3.dtype))
    deals = [rep.Deal(Z3, part.shape, lambda r: r >> np.uint32(2))]
    return (yield from rep.open_and_deal(server, Z3, part, PLACE, deals))


def histogram(server, inputs):
    """One-hots of S_2's part, dealt and turned round."""
    return (yield from ev.histogram_part(server, Z2, Z2, inputs[0][0], PLACE))


def refresh(server, inputs):
    return (yield from fresh.refresh(server, {Z3: [inputs[0]]}, PLACE))


def chosen_bit(server, inputs):
    """As the search for cuts: b ? y : x of bits, and what of b is not stopped by it."""
    choice, x, y = inputs
    picked = yield from rep.multiply(server, BITS, choice, x ^ y, PLACE.named("chosen"))
    go_on = rep.add_public(server, BITS, x ^ picked, np.full(x.shape[1:], 2**64 - 1, np.uint64))
    return (yield from rep.multiply(server, BITS, choice, go_on, PLACE.named("right")))


class Made:
    """Triples made on the way, from draws of their own, in words of every element's bits: as `verified_bits.Triples.make` does before
    it checks them."""

    def __init__(self, server, words):
        self.server, self.words, self.left = server, words, 0

    def make(self, count, name):
        streams = (self.server.index, self.server.following)
        drawn = [vb._random(self.server, number, (2, count, self.words), PLACE.named(name)) for number in streams]
        own, after = (np.ascontiguousarray(parts.reshape(2, -1, 1).swapaxes(0, 1)) for parts in drawn)
        part = np.empty((own.shape[0], 1), np.uint64)
        vb.product_parts(own, after, np.zeros_like(part), np.zeros_like(part), part)
        part = part.reshape(count, self.words)
        products = yield from rep.reshare(self.server, BITS, part, PLACE.named(f"{name} products"))
        self.left += count * self.words
        self.parts = own, after, products.reshape(2, -1, 1)
        self.stock = np.stack([np.stack(own) for own in zip(*drawn, strict=True)] + [products])

    def take(self, count):
        taken, self.stock = self.stock[:, :, : count // self.words], self.stock[:, :, count // self.words :]
        self.left -= count
        return taken.reshape(3, 2, count)


def verified_product(server, inputs):
    """Two triples, of which one is compared with the other, and a product with it."""
    words = inputs[0].shape[1]
    triples = Made(server, words)
    yield from triples.make(2, "triples")
    buckets = np.arange(2 * words).reshape(2, words)
    yield from vb.check_triples(server, triples.parts, buckets[0, :0], buckets, PLACE.named("check"))
    return (yield from vb.products(server, triples, inputs[0][:, None], inputs[1][:, None], PLACE))


def verified_sign(server, inputs):
    triples = Made(server, inputs[0].shape[1] // 64)
    yield from triples.make(3, "triples")
    return (yield from vb.negative(server, triples, inputs[0].astype(np.uint64), 3, PLACE))


PROTOCOLS = {
    "multiply": (multiply(Z3), [Z3, Z3], 0),
    "and": (multiply(BITS), [BITS, BITS], 0),
    "extend": (extend, [Z3], 0),
    "truncate": (truncate, [Z3], 0),
    "bits to arithmetic": (to_arithmetic, [BITS], 0),
    "sign, one digit": (sign(3), [Z3], 8),
    "sign, two digits": (sign(2), [Z3], 4),
    "products of bits": (products_of_bits(((0, 1, ~2), (1, 2))), [BITS, BITS, BITS], 0),
    "products of bits in a ring": (products_of_bits(((0, ~1),), Z2), [BITS, BITS], 0),
    "open and reshare": (open_and_reshare, [Z3, Z3], 0),
    "dot, opened with a deal": (squared_and_opened, [Z3, Z3], 0),
    "histogram": (histogram, [Z2], 0),
    "refresh": (refresh, [Z3], 0),
    "chosen bit": (chosen_bit, [BITS, BITS, BITS], 0),
    "verified product": (verified_product, [BITS, BITS], 0),
    "verified sign": (verified_sign, [Z3], 0),
}


@pytest.mark.parametrize("viewer", [0, 1, 2])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_view_says_nothing(name, viewer):
    program, rings, table_bits = PROTOCOLS[name]
    agree, messages = views_agree(program, viewer, rings, 2 if "sign" in name else 12, table_bits)
    assert agree
    receives_nothing = viewer == 2 and name in {"bits to arithmetic", "dot, opened with a deal", "histogram"}
    assert (messages == 0) == receives_nothing


def double_use(server, inputs):
    """The trap: an open and a reshare of one product under one zero-sharing."""
    part = rep.product_part(Z3, inputs[0], inputs[1])
    z = Z3.add(part, rep.zero_share(server, Z3, part.shape, PLACE, "once"))
    send = {server.previous: [z]}
    expect = {server.following: [rep.shape_of(z)]}
    if server.index < 2:
        # The open, between S_0 and S_1: S_1 tells S_0 z_1 in the reshare already.
        send.setdefault(1 - server.index, []).append(z)
        expect.setdefault(1 - server.index, []).append(rep.shape_of(z))
    yield rep.Round("trap", send, expect)


def test_double_use_of_a_zero_sharing_is_found():
    # S_1 gets z_0 from the open and z_2 from the reshare, has z_1, and so knows z = x y.
    assert not views_agree(double_use, 1, [Z3, Z3])[0]
    # S_0 gets z_1 twice, and S_2 z_0 only: they still learn nothing, which is why it is a trap.
    assert views_agree(double_use, 0, [Z3, Z3])[0]
    assert views_agree(double_use, 2, [Z3, Z3])[0]


# Rows that a server owns: one column, of one bit; the parts are of the small ring, the products those of `oblivious.shared_rows`.

COLUMN = Candidates((Feature(1),))


def row_shares(server, owner, ring, bit, arrays):
    """The owner's row of every element, as `share_rows` shares it: (columns, bits, labels) masked by stream p, and sent.

    `arrays` tells which of the three the bit goes into; the others hold zeros.
    """
    sent = {}
    count = server.source.count
    mask = None
    if server.index in (owner, (owner + 2) % 3):
        mask = server.source.draw(owner, PLACE, "rows", ring, (count,))
    masked = ring.subtract(bit.astype(ring.dtype), mask) if server.index == owner else None
    if server.index == owner:
        sent = {(owner + 1) % 3: [masked]}
    expect = {owner: [rep.Shape(np.dtype(ring.dtype), (count,))]} if server.index == (owner + 1) % 3 else {}
    received = yield rep.Round("rows", sent, expect)
    if server.index == (owner + 1) % 3:
        masked = received[owner][0]
    by_number = {owner: mask, (owner + 1) % 3: masked}
    parts = [by_number.get(number) for number in (server.index, (server.index + 1) % 3)]
    shares = RowShares(count, (None, None), tuple(None if p is None else as_arrays(p, arrays) for p in parts), owner)
    codes = None if server.index != owner else (1 - bit).astype(np.uint16)[:, None]
    return receive_rows(COLUMN, server.index, shares, None, codes)


def as_arrays(part, arrays):
    zeros = np.zeros_like(part)
    columns, bits = (part if name in arrays else zeros for name in ("columns", "bits"))
    return columns.astype(np.uint32)[:, None], bits.astype(np.uint64)[:, None], zeros.astype(np.uint32)[None]


def assisted_sums(owner):
    """C v of the owner's C, reshared."""

    def program(server, inputs):
        block = yield from row_shares(server, owner, Z3, inputs[0], {"columns"})
        v = inputs[1]
        part = np.array([sums_part(COLUMN, block[e : e + 1], v[:, None, e : e + 1])[0, 0] for e in range(v.shape[1])])
        return (yield from rep.reshare(server, Z3, Z3.reduce(part), PLACE.named("sums")))

    return program


def assisted_routing(owner):
    """C and a bit that chooses the column, both under XOR, reshared."""

    def program(server, inputs):
        block = yield from row_shares(server, owner, BIT, inputs[0], {"bits"})
        chosen = inputs[1].astype(np.uint64)
        part = np.zeros((chosen.shape[1], 1), np.uint8)
        for e in range(chosen.shape[1]):
            routing_part(block[e : e + 1], chosen[:, e].reshape(2, 1, 1), part[e : e + 1])
        return (yield from rep.reshare(server, BIT, part[:, 0], PLACE.named("bits")))

    return program


ASSISTED = {"sums": (assisted_sums, Z3), "routing": (assisted_routing, BIT)}


@pytest.mark.parametrize("viewer", [0, 1, 2])
@pytest.mark.parametrize("owner", [0, 1, 2])
@pytest.mark.parametrize("name", ASSISTED)
def test_a_view_of_rows_that_a_server_owns_says_nothing(name, owner, viewer):
    """Of the owner's rows to the two others, of the other factor to all three; the owner's own rows are fixed in its view."""
    program, ring = ASSISTED[name]
    agree, messages = views_agree(program(owner), viewer, [Owned(owner), ring], fixed=4)
    assert agree
    assert messages == (2 if viewer == (owner + 1) % 3 else 1)


@pytest.mark.parametrize("owner", [0, 1, 2])
@pytest.mark.parametrize("name", ASSISTED)
def test_products_with_rows_that_a_server_owns_are_right(name, owner):
    program, ring = ASSISTED[name]
    sampling, secrets = 64, 2 * 2**ring.bits
    index = np.arange(4 * secrets * sampling, dtype=np.uint64)
    coin, secret = index % np.uint64(sampling), (index // np.uint64(sampling)) % np.uint64(secrets)
    fixed = (index // np.uint64(secrets * sampling)).astype(np.int64)
    # To a viewer that is not the owner the owner's bit is secret, and so enumerated.
    viewer = (owner + 1) % 3
    sources = Enumerated(viewer, len(index), fixed, coin, 0)
    shares = make_shares(viewer, [Owned(owner), ring], [1, ring.bits], secret, fixed)
    results = run_three([program(owner)(rep.Server(i, sources), shares[i]) for i in range(3)], LockstepRecord())
    total = ring.add(ring.add(results[0][0], results[1][0]), results[2][0])
    assert np.array_equal(total, (secret & np.uint64(1)) * (secret >> np.uint64(1)))


def test_one_mask_for_two_arrays_of_a_row_is_found():
    """Why columns, bits, labels and weights have a key stream each: S_{p+1} would learn their differences."""

    def program(server, inputs):
        sent, expect = {}, {}
        if server.index == 0:
            mask = server.source.draw(0, PLACE, "rows", Z3, inputs[0].shape)
            sent = {1: [Z3.subtract(value.astype(np.uint32), mask) for value in inputs]}
        if server.index == 1:
            expect = {0: [rep.Shape(np.dtype(np.uint32), (server.source.count,))] * 2}
        yield rep.Round("rows", sent, expect)

    assert not views_agree(program, 1, [Owned(0), Owned(0)])[0]


def test_a_triple_that_is_used_twice_is_found():
    def program(server, inputs):
        triples = Made(server, inputs[0].shape[1])
        yield from triples.make(1, "triples")
        stock = triples.stock
        for number, (x, y) in enumerate(((0, 1), (1, 0))):
            triples.stock, triples.left = stock, stock[0, 0].size
            yield from vb.products(server, triples, inputs[x][:, None], inputs[y][:, None], PLACE.named(str(number)))

    assert not any(views_agree(program, viewer, [BITS, BITS])[0] for viewer in range(3))


def test_an_unmasked_part_is_found():
    def program(server, inputs):
        part = rep.product_part(Z3, inputs[0], inputs[1])
        yield rep.Round("bare", {server.previous: [part]}, {server.following: [rep.shape_of(part)]})

    assert not all(views_agree(program, viewer, [Z3, Z3])[0] for viewer in range(3))


def test_the_library_refuses_the_double_use(servers):
    part = np.zeros(4, np.uint32)

    def program(server):
        yield from rep.reshare(server, RING32, part, PLACE)
        return (yield from rep.reshare(server, RING32, part, PLACE))

    with pytest.raises(ProtocolError, match="used once"):
        run_three([program(s) for s in servers])
