"""Shares that outlive a process: copies are compared, and parts are new."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.errors import ServersDisagree
from hansa.mpc.refresh import compare_copies, refresh
from hansa.mpc.replicated import Address
from hansa.mpc.ring import BYTES, RING32, RING64
from lockstep import run_three
from three_servers import make_servers, reveal, share

PLACE = Address(1, 3, 0, "kept")


@pytest.fixture
def kept():
    """Margins, leaves, a metric and splits, as three servers keep them."""
    draw = np.random.Generator(np.random.PCG64(5))
    values = {
        RING32: [draw.integers(0, 2**32, shape, np.uint32) for shape in ((40,), (3, 4))],
        RING64: [draw.integers(0, 2**64, (1,), np.uint64)],
        BYTES: [draw.integers(0, 2, (4, 9), np.uint8)],
    }
    pairs = {ring: [share(ring, own, seed) for seed, own in enumerate(arrays)] for ring, arrays in values.items()}
    return values, [{ring: [pair[i] for pair in own] for ring, own in pairs.items()} for i in range(3)]


def flat(arrays):
    return [array for own in arrays.values() for array in own]


def test_refreshed_parts_are_new_and_the_values_the_same(kept):
    values, before = kept
    servers = make_servers()
    after = run_three([refresh(server, before[i], PLACE) for i, server in enumerate(servers)])
    for ring, own in values.items():
        for place, value in enumerate(own):
            parts = [after[i][ring][place] for i in range(3)]
            assert np.array_equal(reveal(ring, parts), value)
            for i in range(3):
                assert parts[i].shape == before[i][ring][place].shape
                assert not np.array_equal(parts[i][0], before[i][ring][place][0])


def test_nothing_to_refresh_takes_no_round(kept):
    servers = make_servers()
    assert run_three([refresh(server, {RING32: []}, PLACE) for server in servers]) == [{RING32: []}] * 3


def test_copies_that_agree_give_all_servers_the_same_commitments(kept):
    _, before = kept
    found = run_three([compare_copies(server, flat(before[i]), PLACE) for i, server in enumerate(make_servers())])
    assert found[0] == found[1] == found[2]
    assert len({*found[0]}) == 3
    # Under the keys of another epoch they are others: nobody can hold them against parts of before.
    again = run_three([compare_copies(s, flat(before[i]), PLACE) for i, s in enumerate(make_servers())])
    assert set(again[0]).isdisjoint(found[0])


@pytest.mark.parametrize("liar", range(3))
@pytest.mark.parametrize("half", range(2))
def test_a_changed_part_is_found_by_its_other_holder_whatever_the_part(kept, liar, half):
    _, before = kept
    before[liar][RING32][0][half, 7] ^= np.uint32(1 << 19)
    servers = make_servers()
    with pytest.raises(ServersDisagree, match="copies of a part that two servers keep differ"):
        run_three([compare_copies(server, flat(before[i]), PLACE) for i, server in enumerate(servers)])
