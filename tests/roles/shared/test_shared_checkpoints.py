"""Which claims lead where, and which are refused: of three servers, an owner and a receiver."""

from __future__ import annotations

import pytest
from msgspec import structs

from hansa.errors import ProtocolError, StateError
from hansa.protocol.messages import Claim, Mark
from hansa.roles.shared.checkpoints import (
    agree,
    check_before,
    first_claim,
    last_checkpoint,
    round_kept,
    started,
    trained,
)
from hansa.roles.summed.checkpoints import SignedCheckpoint
from shares import SERVERS, shared_plan

PLAN = shared_plan(rounds=6, receivers=("dune", "reader"))
RUN, AGREEMENT = bytes([3]) * 32, bytes(32)
COMMITMENTS = (b"0" * 32, b"1" * 32, b"2" * 32)

CHAIN = [Mark(0, RUN), started(RUN, b"setup")]
for _ in range(6):
    CHAIN.append(round_kept(CHAIN[-1], COMMITMENTS))
OVER = trained(PLAN, CHAIN[-1], 5)


def at(number, now=None, epoch=0):
    """A server's claim at a checkpoint."""
    if number == 0:
        return structs.replace(first_claim(RUN), epoch=epoch)
    head, before = (OVER, CHAIN[-1]) if number == last_checkpoint(PLAN) else (CHAIN[number], CHAIN[number - 1])
    return Claim(RUN, epoch, number, before, head, before if now is None else head)


def claims(first, second, third, **more):
    found = dict(zip(SERVERS, (first, second, third), strict=True))
    return {name: found.get(name) or more.get(name) or first_claim(RUN) for name in PLAN.participants}


def agreed(given, epoch=1):
    return agree(PLAN, AGREEMENT, RUN, epoch, given)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((0, 0, 0), 0), ((1, 0, 1), 0), ((1, 1, 1), 1), ((4, 5, 5), 4), ((5, 5, 5), 5), ((8, 7, 8), 7), ((8, 8, 8), 8)],
)
def test_the_last_checkpoint_that_all_servers_have(numbers, expected):
    found = agreed(claims(*(at(number) for number in numbers)))
    assert found.checkpoint == expected
    assert found.mark == (OVER if expected == 8 else CHAIN[expected])
    assert len(found.claims) == len(PLAN.participants)


@pytest.mark.parametrize("numbers", [(3, 5, 5), (5, 3, 5), (0, 2, 2), (6, 8, 8), (1, 8, 8)])
def test_a_server_two_behind_is_named(numbers):
    least = SERVERS[numbers.index(min(numbers))]
    with pytest.raises(StateError, match=f"{least!r} is at checkpoint {min(numbers)}.*put back") as error:
        agreed(claims(*(at(number) for number in numbers)))
    assert error.value.member == least


@pytest.mark.parametrize(
    "given", [(at(5), at(3), at(4)), (at(5, now="head"), at(4), at(5)), (at(4), at(5, now="head"), at(4))]
)
def test_the_word_of_one_server_against_another_convicts_neither(given):
    """A lying server may claim that all kept a round that one of them had not."""
    with pytest.raises(StateError, match=r"put back to an earlier state, or '.*' claims what was not") as error:
        agreed(claims(*given))
    assert error.value.member == ""
    assert len(error.value.suspects) == 2


def test_one_behind_what_another_knows_all_to_have_kept_is_refused():
    assert agreed(claims(at(4), at(5), at(5))).checkpoint == 4
    with pytest.raises(StateError, match=r"'aurora' is at checkpoint 4.*knows that all servers kept a later one"):
        agreed(claims(at(4), at(5, now="head"), at(5)))


def test_a_server_behind_a_start_that_an_owner_was_told_is_refused():
    told = at(1)
    with pytest.raises(StateError, match=r"is at checkpoint 0.*'dune' knows"):
        agreed(claims(at(0), at(0), at(0), dune=told))
    assert agreed(claims(at(2), at(2), at(2), dune=told)).checkpoint == 2


@pytest.mark.parametrize(("numbers", "who"), [((4, 4, 4), "borealis"), ((4, 5, 4), "borealis")])
def test_servers_with_other_chains_are_named(numbers, who):
    given = claims(*(at(number) for number in numbers))
    other = Mark(4, b"x" * 32)
    claim = given[who]
    changed = {"head": other, "now": claim.before} if claim.checkpoint == 4 else {"before": other, "now": claim.head}
    given[who] = structs.replace(claim, **(changed if claim.checkpoint == 4 else {"before": other, "now": other}))
    with pytest.raises(StateError, match="differ at checkpoint 4") as error:
        agreed(given)
    assert who in error.value.suspects


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("aurora", {"checkpoint": 3}),
        ("aurora", {"checkpoint": 4, "head": CHAIN[4], "before": None}),
        ("aurora", {"before": CHAIN[4]}),
        ("aurora", {"now": Mark(4, bytes(32))}),
        ("aurora", {"epoch": -1}),
        ("aurora", {"head": Mark(9, bytes(32)), "checkpoint": 9}),
        ("dune", {"checkpoint": 2, "head": CHAIN[2], "before": CHAIN[1]}),
    ],
)
def test_a_claim_that_no_run_has_is_refused(member, change):
    given = claims(at(4), at(4), at(4))
    given[member] = structs.replace(given[member], **change)
    with pytest.raises(ProtocolError, match=f"{member!r} claims a state that no run has"):
        agreed(given)


def test_another_run_and_another_epoch_are_refused():
    given = claims(at(4), at(4), at(4))
    given["dune"] = structs.replace(given["dune"], run=bytes(32))
    with pytest.raises(StateError, match="'dune' has the state of run 00000000"):
        agreed(given)
    with pytest.raises(ProtocolError, match="epoch 5 is begun; expected 4"):
        agreed(claims(at(4, epoch=3), at(4, epoch=2), at(4)), epoch=5)


def test_nobody_goes_back_behind_what_it_signed():
    signed = SignedCheckpoint(agreed(claims(at(4), at(4), at(4))), {})
    later = {"epoch": 1}
    owner = structs.replace(first_claim(RUN), epoch=1)
    others = dict.fromkeys(("dune", "reader"), owner)
    check_before(PLAN, agreed(claims(at(5, **later), at(4, **later), at(5, **later), **others), epoch=2), signed)
    check_before(PLAN, agreed(claims(at(4), at(4), at(4))), None)
    with pytest.raises(
        StateError, match="'aurora' claims epoch 1 and checkpoint 3, but signed epoch 1 from checkpoint 4"
    ):
        check_before(PLAN, agreed(claims(*[at(3, **later)] * 3, **others), epoch=2), signed)
    with pytest.raises(StateError, match="'dune' claims epoch 0"):
        check_before(PLAN, agreed(claims(*[at(4, **later)] * 3, reader=owner), epoch=2), signed)


def test_chains_tell_everything_apart():
    assert len({*(mark.chain for mark in CHAIN), OVER.chain}) == len(CHAIN) + 1
    assert started(RUN, b"other").chain != CHAIN[1].chain
    assert round_kept(CHAIN[1], COMMITMENTS[::-1]).chain != CHAIN[2].chain
    assert trained(PLAN, CHAIN[-1], 4).chain != OVER.chain
    assert OVER.number == last_checkpoint(PLAN) == 8
