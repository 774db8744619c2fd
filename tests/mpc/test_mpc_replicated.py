"""Sharing, multiplication, open-and-deal, draws, and the lockstep driver's strictness."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.errors import ProtocolError
from hansa.mpc import replicated as rep
from hansa.mpc.ring import BITS, BYTES, RING32, RING64, Ring
from lockstep import LockstepRecord, run_three
from three_servers import make_servers, reveal, share

RINGS = [RING32, RING64, BITS, BYTES, Ring("Z3", 3, np.uint32)]


def multiply_plainly(ring, x, y):
    return x & y if ring.xor else ring.reduce(x * y)


@pytest.mark.parametrize("ring", RINGS, ids=lambda ring: ring.name)
def test_multiply(ring, servers, place):
    rng = np.random.default_rng(1)
    x, y = (ring.reduce(rng.integers(0, 2**8, 500).astype(ring.dtype)) for _ in range(2))
    xs, ys = share(ring, x, 1), share(ring, y, 2)
    record = LockstepRecord()
    z = run_three([rep.multiply(s, ring, xs[s.index], ys[s.index], place) for s in servers], record)
    assert np.array_equal(reveal(ring, z), multiply_plainly(ring, x, y))
    assert record.rounds == 1
    assert record.sent == [x.nbytes] * 3


def test_reshare_of_evaluators_and_open_to_all(servers, place):
    x = np.arange(100, dtype=np.uint64)
    parts = [x + np.uint64(7), np.zeros_like(x) - np.uint64(7), np.zeros_like(x)]

    def program(server):
        shared = yield from rep.reshare_of_evaluators(server, RING64, parts[server.index], place)
        fresh = yield from rep.reshare(server, RING64, shared[0], place.named("fresh"))
        opened = yield from rep.open_to_all(server, RING64, fresh, place.named("open"))
        return shared, fresh, opened

    record = LockstepRecord()
    results = run_three([program(s) for s in servers], record)
    assert np.array_equal(reveal(RING64, [r[0] for r in results]), x)
    assert np.array_equal(reveal(RING64, [r[1] for r in results]), x)
    assert not np.array_equal(results[0][0], results[0][1])
    assert all(np.array_equal(r[2], x) for r in results)
    assert record.sent_by_step["test"] == [800, 800, 0]


def test_open_and_deal(servers, place):
    x = np.random.default_rng(3).integers(0, 2**64, 100, dtype=np.uint64)
    xs = share(RING64, x)
    deals = [rep.Deal(RING32, (100,), lambda r: (r >> np.uint64(3)).astype(np.uint32))]
    masked = run_three([rep.open_and_deal(s, RING64, xs[s.index][0], place, deals) for s in servers])
    assert np.array_equal(masked[0].value, masked[1].value)
    r = masked[2].value
    assert np.array_equal(masked[0].value - r, x)
    dealt = masked[0].dealt[0] + masked[1].dealt[0]
    assert np.array_equal(dealt, (r >> np.uint64(3)).astype(np.uint32))


def test_zero_shares_add_to_nothing_and_differ_by_use(servers, place):
    def parts(use, address=place):
        return [rep.zero_share(s, RING64, (50,), address, use) for s in servers]

    first, second = parts("a"), parts("b")
    other = parts("a", place.named("x"))
    assert not sum(first).any()
    assert not sum(second).any()
    assert not (first[0] == second[0]).any()
    assert not (first[0] == other[0]).any()


def test_a_name_is_drawn_once(servers, place):
    rep.zero_share(servers[0], RING64, (5,), place, "reshare")
    with pytest.raises(ProtocolError, match="used once"):
        rep.zero_share(servers[0], RING64, (5,), place, "reshare")
    with pytest.raises(ProtocolError, match="used once"):
        servers[0].source.stream(0, place, "reshare", 4)


def test_earlier_trees_are_over(servers, place):
    rep.zero_share(servers[0], RING64, (5,), place._replace(tree=4), "reshare")
    with pytest.raises(ProtocolError, match="any more"):
        rep.zero_share(servers[0], RING64, (5,), place._replace(tree=3), "reshare")
    rep.zero_share(servers[0], RING64, (5,), place._replace(epoch=1, tree=0), "reshare")


def test_draws_depend_on_every_part_of_the_address(place):
    secrets = {pair: bytes([n]) * 32 for n, pair in enumerate(((0, 1), (1, 2), (0, 2)))}

    def drawn(address, use="u", number=0):
        server = make_servers(secrets)[0]
        return server.source.draw(number, address, use, RING64, (2,)).tobytes()

    places = [
        place,
        place._replace(epoch=1),
        place._replace(tree=1),
        place._replace(step=1),
        place.named("x"),
    ]
    words = [drawn(p) for p in places] + [drawn(place, "v"), drawn(place, "u", 1)]
    assert len(set(words)) == len(words)
    assert drawn(place) == words[0]


def test_together_shares_rounds(servers, place):
    x = share(RING64, np.arange(10))

    def program(server):
        return (
            yield from rep.together(
                rep.multiply(server, RING64, x[server.index], x[server.index], place.named("a")),
                rep.reshare(server, RING64, x[server.index][0], place.named("b")),
            )
        )

    record = LockstepRecord()
    results = run_three([program(s) for s in servers], record)
    assert record.rounds == 1
    assert np.array_equal(reveal(RING64, [r[0] for r in results]), np.arange(10) ** 2)
    assert np.array_equal(reveal(RING64, [r[1] for r in results]), np.arange(10))


def test_a_wrong_length_is_blamed(servers, place):
    def program(server, size):
        return (yield from rep.reshare(server, RING64, np.zeros(size, np.uint64), place))

    with pytest.raises(ProtocolError, match=r"server 1.*test.*takes arrays"):
        run_three([program(servers[0], 5), program(servers[1], 4), program(servers[2], 5)])


def test_a_server_that_ends_early_is_named(servers, place):
    def silent():
        return
        yield

    x = np.zeros(3, np.uint64)
    with pytest.raises(ProtocolError, match=r"\[2\] ended"):
        run_three(
            [
                rep.reshare(servers[0], RING64, x, place),
                rep.reshare(servers[1], RING64, x, place),
                silent(),
            ]
        )


def test_a_server_needs_both_neighbours_keys(servers):
    with pytest.raises(ProtocolError, match="both others"):
        rep.PairStreams(0, {}, servers[0].source._algorithm)
