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

import numpy as np
import pytest

from hansa.errors import ProtocolError
from hansa.mpc import comparison as cmp
from hansa.mpc import evaluation as ev
from hansa.mpc import replicated as rep
from hansa.mpc.lockstep import Record, run_three
from hansa.mpc.ring import BITS, RING32, Ring, pack_bits, unpack_bits

Z2 = Ring("Z2", 2, np.uint32)
Z3 = Ring("Z3", 3, np.uint32)
Z5 = Ring("Z5", 5, np.uint32)
PLACE = rep.Address(0, 0, 0, "view")


class Enumerated:
    """Draws for all elements at once: those of the viewer's streams fixed, those of the third enumerated."""

    def __init__(self, viewer, count, fixed_index, coin_index, table_bits):
        self.missing = (viewer + 2) % 3
        self.count, self.fixed_index, self.coin_index = count, fixed_index, coin_index
        self.table_bits = table_bits
        self.values, self.coin_bits = {}, 0

    def stream(self, number, address, use):
        raise AssertionError("bulk draws are not enumerated")

    def draw(self, number, address, use, ring, shape):
        name = (number, address, use)
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
    if array.dtype == np.uint64 and array.shape[-1] == count // 64:
        return list(unpack_bits(array, count).reshape(-1, count).astype(np.uint64))
    axis = array.shape.index(count)
    return list(np.moveaxis(array, axis, -1).reshape(-1, count).astype(np.uint64))


def views_agree(program, viewer, rings, fixed=24, table_bits=0):
    """Run `program(server, shares)` on all secrets and missing coins; do the viewer's views agree?

    Args:
        rings: of the secret inputs; BITS for packed bits.
    """
    widths = [1 if ring == BITS else ring.bits for ring in rings]
    secrets = 2 ** sum(widths)
    coin_bits = 0
    while True:
        # At least 64 elements, so that packed bits fill words; coins beyond the needed ones repeat.
        coins = 2 ** max(coin_bits, 6)
        count = fixed * secrets * coins
        index = np.arange(count, dtype=np.uint64)
        fixed_index = (index // np.uint64(secrets * coins)).astype(np.int64)
        secret = (index // np.uint64(coins)) % np.uint64(secrets)
        sources = Enumerated(viewer, count, fixed_index, index % np.uint64(coins), table_bits)
        shares = make_shares(viewer, rings, widths, secret, fixed_index)
        record = Record()
        run_three([program(rep.Server(i, sources), shares[i]) for i in range(3)], record, keep_views=True)
        if sources.coin_bits <= max(coin_bits, 6):
            break
        coin_bits = sources.coin_bits
        assert coin_bits <= 17, f"{coin_bits} coins are too many to enumerate"
    code = np.zeros(count, np.uint64)
    for _, _, array in record.views[viewer]:
        for column in columns_of(array, count):
            code = (code + column + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    codes = np.sort(code.reshape(fixed, secrets, coins), axis=2)
    return bool((codes == codes[:, :1]).all()), len(record.views[viewer])


def make_shares(viewer, rings, widths, secret, fixed_index):
    """Three pairs for each input: the viewer's parts fixed, the third what the secret asks for."""
    result = [[], [], []]
    shift = 0
    for number, (ring, width) in enumerate(zip(rings, widths, strict=True)):
        value = (secret >> np.uint64(shift)) & np.uint64((1 << width) - 1)
        shift += width
        rng = np.random.default_rng(1000 + number)
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
    part = rep.dot_part(Z3, np.stack(inputs, axis=1), np.stack(inputs, axis=1), 0)
    deals = [rep.Deal(Z3, part.shape, lambda r: r >> np.uint32(2))]
    return (yield from rep.open_and_deal(server, Z3, part, PLACE, deals))


def histogram(server, inputs):
    """One-hots of S_2's part, dealt and turned round."""
    return (yield from ev.histogram_part(server, Z2, Z2, inputs[0][0], PLACE))


def refresh(server, inputs):
    return (yield from rep.refresh(server, Z3, inputs[0], PLACE))


def chosen_bit(server, inputs):
    """As the search for cuts: b ? y : x of bits, and what of b is not stopped by it."""
    choice, x, y = inputs
    picked = yield from rep.multiply(server, BITS, choice, x ^ y, PLACE.named("chosen"))
    go_on = rep.add_public(server, BITS, x ^ picked, np.full(x.shape[1:], 2**64 - 1, np.uint64))
    return (yield from rep.multiply(server, BITS, choice, go_on, PLACE.named("right")))


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
