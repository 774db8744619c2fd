"""Who masks with whom: attacks first, then the chance that honest parties fall apart, counted, drawn and bounded."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction
from math import ceil, comb, log2

import numpy as np
import pytest

from hansa.errors import ProtocolError
from hansa.secure.keys import announce, check_commitments, commitment, fresh_key_pair, roster_hash
from hansa.secure.mask_graph import (
    CORRUPT,
    LEAST_PARTIES,
    SECURITY_BITS,
    chance_apart,
    is_drawn,
    neighbours,
    neighbours_needed,
    ring,
)
from hansa.secure.prg import Algorithm

AES = Algorithm.AES_256_CTR
MANY = tuple(f"party-{number:04}" for number in range(1_000))


def connected(honest: set[int], parties: int, k: int) -> bool:
    """Whether these places of a ring hang together, walked edge by edge: the naive twin."""
    start = min(honest)
    seen, waiting = {start}, [start]
    while waiting:
        at = waiting.pop()
        for step in range(1, k // 2 + 1):
            for to in ((at + step) % parties, (at - step) % parties):
                if to in honest and to not in seen:
                    seen.add(to)
                    waiting.append(to)
    return seen == honest


def exact_chance(parties: int, corrupt: int, k: int) -> Fraction:
    """The chance itself: inclusion and exclusion over which of the gaps between honest parties are long."""
    honest, m = parties - corrupt, k // 2
    total = comb(corrupt + honest - 1, honest - 1)
    signed = (
        (-1) ** j * (j - 1) * comb(honest, j) * comb(corrupt - j * m + honest - 1, honest - 1)
        for j in range(2, corrupt // m + 1)
        if j <= honest
    )
    return Fraction(sum(signed), total)


# --- attacks ----------------------------------------------------------------------------------------------------------


def seeds_of_a_last_key(group, last: str, tries: int):
    """What a party that sees all other keys first can choose from: a seed for each key that it makes."""
    for _ in range(tries):
        own = announce(fresh_key_pair(), group.run, last, AES, group.sign(last))
        yield own, roster_hash(group.run, {**group.announcements, last: own})


def test_attack_whoever_chooses_its_key_last_isolates_a_party_and_commitments_stop_that(make_consortium):
    """Without commitments a few thousand keys are enough to surround a party that four neighbours should protect."""
    group = make_consortium(12)
    names = tuple(group.announcements)
    victim, corrupt = names[0], {*names[-5:]}
    bound = {
        name: commitment(group.run, name, each.public_key, each.algorithm) for name, each in group.announcements.items()
    }

    def surrounded(seed: bytes) -> bool:
        order = ring(names, seed)
        at = order.index(victim)
        return {order[(at + step) % 12] for step in (-2, -1, 1, 2)} <= corrupt

    own = next((own for own, seed in seeds_of_a_last_key(group, names[-1], 5_000) if surrounded(seed)), None)
    assert own is not None, "the attack did not find a key: this test shows nothing"
    with pytest.raises(ProtocolError, match=rf"{names[-1]}.*not the one that it committed to"):
        check_commitments([*list(group.announcements.values())[:-1], own], group.run, bound)
    assert check_commitments(group.announcements.values(), group.run, bound) == group.announcements


def test_attack_a_repeated_commitment_opens_to_nothing(three):
    """A party in league with the aggregator repeats another's commitment, and then its key: the keys would cancel in no seed."""
    first = three.announcements["party-00"]
    bound = {name: commitment(three.run, "party-00", first.public_key, AES) for name in ("party-00", "party-01")}
    copied = announce(three.pairs["party-00"], three.run, "party-01", AES, three.sign("party-01"))
    with pytest.raises(ProtocolError, match="party-01"):
        check_commitments([first, copied], three.run, bound)


def test_attack_keys_of_parties_that_nobody_knows_are_refused(three):
    """An aggregator that adds parties of its own to surround others; that leaves one out; that names one twice."""
    bound = {name: commitment(three.run, name, e.public_key, AES) for name, e in three.announcements.items()}
    honest = list(three.announcements.values())
    sybil = announce(fresh_key_pair(), three.run, "zoe", AES, three.sign("party-00"))
    for given in ([*honest, sybil], honest[1:], [*honest, honest[0]]):
        with pytest.raises(ProtocolError, match="one of each member that committed"):
            check_commitments(given, three.run, bound)


def test_attack_one_key_under_two_names_is_refused(three):
    first = three.announcements["party-00"]
    second = replace(first, member="party-01")
    bound = {e.member: commitment(three.run, e.member, e.public_key, AES) for e in (first, second)}
    with pytest.raises(ProtocolError, match="same run key"):
        check_commitments([first, second], three.run, bound)


def test_a_commitment_binds_run_epoch_member_key_and_cipher(three):
    key = three.announcements["party-00"].public_key
    all_of_them = {
        commitment(three.run, "party-00", key, AES),
        commitment(replace(three.run, run_id=b"x" * 32), "party-00", key, AES),
        commitment(replace(three.run, plan_hash=b"x" * 32), "party-00", key, AES),
        commitment(replace(three.run, epoch=1), "party-00", key, AES),
        commitment(three.run, "party-01", key, AES),
        commitment(three.run, "party-00", bytes(32), AES),
        commitment(three.run, "party-00", key, Algorithm.CHACHA20),
    }
    assert len(all_of_them) == 7


# --- the chance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parties", "corrupt", "k"), [(9, 4, 2), (10, 5, 4), (11, 5, 4), (12, 7, 6), (10, 3, 2)])
def test_the_chance_is_what_counting_every_placement_gives(parties, corrupt, k):
    placements = [set(range(parties)) - set(each) for each in itertools.combinations(range(parties), corrupt)]
    apart = sum(not connected(honest, parties, k) for honest in placements)
    assert exact_chance(parties, corrupt, k) == Fraction(apart, len(placements))
    assert chance_apart(parties, corrupt, k) >= exact_chance(parties, corrupt, k)


def test_drawn_rings_fall_apart_as_often_as_computed():
    """At a weak k, where it happens: 4,000 seeds of 90 parties, 30 of them corrupt, 6 neighbours."""
    names = MANY[:90]
    corrupt = {*names[:30]}
    draws = 4_000
    apart = 0
    for number in range(draws):
        order = ring(names, number.to_bytes(32, "little"))
        honest = {at for at, name in enumerate(order) if name not in corrupt}
        apart += not connected(honest, 90, 6)
    chance = float(exact_chance(90, 30, 6))
    assert 0.05 < chance < 0.95
    assert abs(apart / draws - chance) < 5 * np.sqrt(chance * (1 - chance) / draws)


SIZES = [64, 65, 100, 127, 256, 500, 1_000, 3_000]


@pytest.mark.parametrize("parties", SIZES)
def test_a_third_of_the_parties_cannot_part_the_others_but_for_2_to_the_minus_40(parties):
    """All views that a lying aggregator can show, one for each honest party, together; and the bound is not far from the truth."""
    k, allowed = neighbours_needed(parties), Fraction(1, 2**SECURITY_BITS)
    corrupt = int(parties * CORRUPT)
    assert k % 2 == 0
    assert parties * exact_chance(parties, corrupt, k) <= parties * chance_apart(parties, corrupt, k) <= allowed
    assert parties * exact_chance(parties, corrupt, k - 4) > allowed
    assert all(chance_apart(parties, fewer, k) <= chance_apart(parties, corrupt, k) for fewer in range(0, corrupt, 16))


@pytest.mark.parametrize("parties", SIZES)
def test_it_is_fewer_than_the_papers_condition_asks_for_and_grows_with_the_logarithm(parties):
    """No run of k / 2 corrupt parties anywhere, by the union bound over where it begins: n (c / n)^(k / 2) <= 2^-40 / n."""
    paper = 2 * ceil((SECURITY_BITS + 2 * log2(parties)) / log2(1 / CORRUPT))
    assert neighbours_needed(parties) <= paper
    assert neighbours_needed(parties) <= 4.5 * log2(parties)


def test_how_many_a_party_masks_with():
    assert [neighbours_needed(n) for n in (64, 256, 1_000, 10_000)] == [22, 36, 42, 50]


# --- the graph --------------------------------------------------------------------------------------------------------


def test_fewer_parties_mask_with_everybody():
    names = MANY[: LEAST_PARTIES - 1]
    assert not is_drawn(len(names))
    for name in names[:3]:
        assert neighbours(name, names, bytes(32)) == tuple(other for other in names if other != name)


@pytest.mark.parametrize("parties", [64, 65, 300])
def test_all_draw_the_same_graph_whatever_order_they_list_parties_in(parties):
    names, seed = MANY[:parties], b"s" * 32
    drawn = {name: neighbours(name, names if at % 2 else names[::-1], seed) for at, name in enumerate(names)}
    assert {len(each) for each in drawn.values()} == {neighbours_needed(parties)}
    for name, each in drawn.items():
        assert name not in each
        assert list(each) == sorted({*each})
        assert all(name in drawn[other] for other in each)


def test_another_seed_draws_another_graph_and_places_are_even():
    names = MANY[:64]
    first = [ring(names, number.to_bytes(32, "little")).index(names[0]) for number in range(6_400)]
    counts = np.bincount(first, minlength=64)
    assert ((counts - 100) ** 2 / 100).sum() < 63 + 5 * np.sqrt(2 * 63)


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ProtocolError, match="seed has 32 bytes"):
        neighbours(MANY[0], MANY, b"short")
