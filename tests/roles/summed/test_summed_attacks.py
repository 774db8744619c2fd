"""Attacks on a masked run by a hostile aggregator or party, over the real roles and frames.

Each ends in an error that names the member and the rule, and none in a sum or a part that could be read.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
from conversation import Conversation, identities, identity, signer
from hansa.consortium.ledger import Entry, Ledger, Met
from hansa.consortium.policy import Policy
from hansa.errors import HansaError, IdentityError, MemberLost, PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.protocol.messages import (
    Abort,
    AnnounceKey,
    ConfirmKeys,
    Contribution,
    CountCells,
    CountMagnitudes,
    ExchangeKeys,
    Finish,
    Join,
    KeysConfirmed,
    Message,
    QuantiseGradients,
    SplitNodes,
    SumLabels,
    UseCuts,
    Welcome,
    decode,
    encode,
    to_tensor,
)
from hansa.roles.run import agreement, run_hub, run_id
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import MaskingNotReady, SumMasking
from hansa.secure.keys import SIGNING_PURPOSE, RunNames, announced_bytes, fresh_key_pair
from hansa.secure.prg import Algorithm
from hansa.transport.in_process import InProcessHub
from made_tables import NAMES, OPEN, plan, spread, table
from uniformity import LEAST_EXPECTED, looks_uniform

ME, OTHER, THIRD = "borealis", "aurora", "cirrus"
PARTIES = NAMES[:3]
FIRST = PARTIES[0]
"""Who hears a broadcast first: nobody has answered it yet."""

ROWS = table(900)
TABLES = spread(ROWS, np.arange(900) % 3)
GIVEN = {"max_bin": 256, "histogram_bits": 64, "rounds": 2, "mode": "secure-aggregation"}


def conversation(**options: object) -> Conversation:
    return Conversation(plan(PARTIES, **GIVEN), TABLES, nodes_per_frame=1, **options)


def edited(message: Message, **fields: object) -> Message:
    return msgspec.structs.replace(message, **fields)


def refused(talk: Conversation, message: Message, *rules: str, party: str = ME) -> None:
    """The party says nothing, names the aggregator and the rule, holds no keys any more and takes nothing more."""
    before = len(talk.up)
    with pytest.raises(ProtocolError) as caught:
        talk.deliver(party, encode(message))
    assert len(talk.up) == before
    for rule in ("'hub'", *rules):
        assert rule in str(caught.value), str(caught.value)
    assert_silent(talk, party)


def assert_silent(talk: Conversation, party: str) -> None:
    """The party has no keys and answers no request."""
    masking = talk.parties[party]._masking
    if isinstance(masking, SumMasking):
        assert masking._setup._pair._private is None
        assert all(key._key is None for key in masking._setup.keys.values())
    for kind in (CountMagnitudes(), SumLabels(-40, -40), Abort("", "")):
        with pytest.raises(ProtocolError, match="'aborted'"):
            talk.tell(party, kind)


def refused_up(talk: Conversation, member: str, message: Message, *rules: str) -> None:
    """The aggregator says nothing, and names the member and the rule."""
    before = len(talk.down)
    with pytest.raises(ProtocolError) as caught:
        talk.submit(member, encode(message))
    assert len(talk.down) == before
    for rule in (repr(member), *rules):
        assert rule in str(caught.value), str(caught.value)


def run_of(talk: Conversation) -> RunNames:
    roster = tuple(
        sorted(
            (name, p._join.nonce, p._join.rows, p._join.evaluation_rows, p._join.enough)
            for name, p in talk.parties.items()
        )
    )
    agreed = agreement(talk.plan, identities(talk.plan))
    return RunNames(agreed, run_id(agreed, roster))


def signed(
    talk: Conversation, by: str, as_member: str, public: bytes | None = None, algorithm: str = "aes-256-ctr"
) -> tuple[str, bytes, str, bytes]:
    """An entry of ExchangeKeys for `as_member`, signed by the identity of `by`."""
    key = fresh_key_pair().public_key if public is None else public

    class Named:
        value = algorithm

    signature = identity(by).sign(SIGNING_PURPOSE, announced_bytes(run_of(talk), as_member, key, Named))
    return as_member, key, algorithm, signature


def with_entry(message: ExchangeKeys, entry: tuple[str, bytes, str, bytes], at: str | None = None) -> ExchangeKeys:
    name = at or entry[0]
    return ExchangeKeys(tuple(sorted([e for e in message.keys if e[0] != name] + [entry])))


# --- keys -------------------------------------------------------------------------------------------------------------


def earlier(kind: type[Message], to: str = ME) -> Message:
    """What an earlier run of the same plan and members said."""
    return conversation(first_nonce=100).until(kind, to)


def entry_of(message: ExchangeKeys, name: str) -> tuple[str, bytes, str, bytes]:
    return next(entry for entry in message.keys if entry[0] == name)


SUBSTITUTIONS: dict[str, tuple[Callable[[Conversation, ExchangeKeys], ExchangeKeys], tuple[str, ...]]] = {
    "another key under the old signature": (
        lambda t, m: with_entry(m, (OTHER, fresh_key_pair().public_key, *entry_of(m, OTHER)[2:])),
        (repr(OTHER), "did not sign"),
    ),
    "a key that the aggregator signed": (
        lambda t, m: with_entry(m, signed(t, "hub", OTHER)),
        (repr(OTHER), "did not sign"),
    ),
    "a key that another party signed": (
        lambda t, m: with_entry(m, signed(t, THIRD, OTHER)),
        (repr(OTHER), "did not sign"),
    ),
    "a key without a signature": (
        lambda t, m: with_entry(m, (*entry_of(m, OTHER)[:3], b"")),
        (repr(OTHER), "did not sign"),
    ),
    "an earlier run's key": (
        lambda t, m: with_entry(m, entry_of(earlier(ExchangeKeys), OTHER)),
        (repr(OTHER), "this plan, run and epoch"),
    ),
    "an earlier run's keys": (lambda t, m: earlier(ExchangeKeys), ("did not sign",)),
    "two keys exchanged": (
        lambda t, m: ExchangeKeys(
            (
                (OTHER, *entry_of(m, THIRD)[1:]),
                entry_of(m, ME),
                (THIRD, *entry_of(m, OTHER)[1:]),
            )
        ),
        ("did not sign",),
    ),
    "another key for me": (lambda t, m: with_entry(m, signed(t, "hub", ME)), (repr(ME), "did not sign")),
    "my name on another's key": (
        lambda t, m: with_entry(m, (ME, *entry_of(m, OTHER)[1:])),
        (repr(ME), "did not sign"),
    ),
    "a party left out": (lambda t, m: ExchangeKeys(m.keys[1:]), ("no run key of", OTHER)),
    "me left out": (lambda t, m: ExchangeKeys((m.keys[0], m.keys[2])), ("no run key of", ME)),
    "nobody's keys": (lambda t, m: ExchangeKeys(()), ("no run key of",)),
    "the aggregator among the parties": (
        lambda t, m: ExchangeKeys((*m.keys, signed(t, "hub", "hub"))),
        ("'hub'", "does not take part"),
    ),
    "a stranger among the parties": (
        lambda t, m: ExchangeKeys((*m.keys, signed(t, "hub", "zoe"))),
        ("'zoe'", "does not take part"),
    ),
    "a party twice": (lambda t, m: ExchangeKeys((m.keys[0], *m.keys)), (repr(OTHER), "two run keys")),
    "a key cut short": (
        lambda t, m: with_entry(m, signed(t, OTHER, OTHER, b"k" * 31)),
        (repr(OTHER), "32 bytes"),
    ),
    "two parties with one key": (
        lambda t, m: with_entry(m, signed(t, OTHER, OTHER, entry_of(m, THIRD)[1])),
        (repr(OTHER), repr(THIRD), "same run key"),
    ),
    "a cipher of the aggregator's choice": (
        lambda t, m: with_entry(
            m, (*entry_of(m, OTHER)[:2], other_algorithm(entry_of(m, OTHER)[2]), entry_of(m, OTHER)[3])
        ),
        (repr(OTHER), "did not sign"),
    ),
    "a cipher of the aggregator's choice for all": (
        lambda t, m: ExchangeKeys(tuple((n, k, other_algorithm(a), s) for n, k, a, s in m.keys)),
        ("did not sign",),
    ),
    "a cipher that nobody knows": (
        lambda t, m: with_entry(m, signed(t, OTHER, OTHER, algorithm="xor")),
        (repr(OTHER), "unknown stream cipher 'xor'"),
    ),
    "no cipher": (
        lambda t, m: with_entry(m, signed(t, OTHER, OTHER, algorithm="")),
        (repr(OTHER), "unknown stream cipher"),
    ),
}


def other_algorithm(name: str) -> str:
    return next(a.value for a in Algorithm if a.value != name)


@pytest.mark.parametrize("name", SUBSTITUTIONS)
def test_a_key_in_the_middle_is_refused(name):
    change, rules = SUBSTITUTIONS[name]
    talk = conversation()
    message = talk.until(ExchangeKeys, ME)
    changed = change(talk, message)
    assert changed != message
    refused(talk, changed, *rules)


def test_the_honest_keys_would_have_been_taken():
    talk = conversation()
    talk.deliver(ME, encode(talk.until(ExchangeKeys, ME)))
    talk.finish()
    assert all(party.done for party in talk.parties.values())


SMALL_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    *((2**255 - 19 + d).to_bytes(32, "little") for d in (-1, 0, 1)),
    bytes(31) + b"\x80",
]


@pytest.mark.parametrize("public", SMALL_ORDER, ids=lambda key: key.hex()[:8])
@pytest.mark.parametrize("hostile", [OTHER, THIRD])
def test_a_key_of_small_order_is_refused_though_its_owner_signed_it(public, hostile):
    """A party in league with the aggregator would make its pairs' masks known to all."""
    talk = conversation()
    message = talk.until(ExchangeKeys, ME)
    refused(talk, with_entry(message, signed(talk, hostile, hostile, public)), repr(hostile), "small order")


def test_a_party_that_announces_a_key_of_small_order_ends_the_run_by_name():
    talk = conversation()
    talk.until_up(AnnounceKey, OTHER)
    _, key, algorithm, signature = signed(talk, OTHER, OTHER, bytes(32))
    talk.submit(OTHER, encode(AnnounceKey(key, algorithm, signature)))
    with pytest.raises(ProtocolError, match=r"'aurora'.*small order"):
        talk.finish()
    assert not [m for m in map(decoded, talk.up) if isinstance(m, Contribution)]


def decoded(item: tuple[str, bytes]) -> Message:
    return decode(*item)


def test_a_party_with_another_cipher_decides_for_all_and_the_run_goes_on():
    """ChaCha20 where one machine has no AES: not a downgrade, both are sound; all take the same."""
    talk = conversation()
    talk.until_up(AnnounceKey, OTHER)
    masking = talk.parties[OTHER]._masking
    assert isinstance(masking, SumMasking)
    masking._setup.algorithm = Algorithm.CHACHA20
    talk.submit(OTHER, encode(masking.opening()))
    talk.finish()
    assert {party._masking._setup.algorithm for party in talk.parties.values()} == {Algorithm.CHACHA20}
    assert all(party.done for party in talk.parties.values())


TAGS: dict[str, tuple[Callable[[Conversation, KeysConfirmed], dict[str, bytes]], tuple[str, ...]]] = {
    "missing": (lambda t, m: {OTHER: m.tags[OTHER]}, ("key confirmations came from ['aurora']",)),
    "all missing": (lambda t, m: {}, ("expected one from each",)),
    "swapped": (lambda t, m: {OTHER: m.tags[THIRD], THIRD: m.tags[OTHER]}, ("key confirmation is wrong",)),
    "reflected": (lambda t, m: dict(own_tags(t)), ("'aurora'", "key confirmation is wrong")),
    "empty": (lambda t, m: m.tags | {THIRD: b""}, ("'cirrus'", "key confirmation is wrong")),
    "cut short": (lambda t, m: m.tags | {THIRD: m.tags[THIRD][:31]}, ("'cirrus'", "key confirmation is wrong")),
    "one bit other": (
        lambda t, m: m.tags | {THIRD: bytes([m.tags[THIRD][0] ^ 1]) + m.tags[THIRD][1:]},
        ("'cirrus'", "key confirmation is wrong"),
    ),
    "one more": (lambda t, m: m.tags | {"hub": bytes(32)}, ("expected one from each",)),
    "mine as well": (lambda t, m: m.tags | {ME: bytes(32)}, ("expected one from each",)),
    "an earlier run's": (lambda t, m: earlier(KeysConfirmed).tags, ("key confirmation is wrong",)),
    "for another party": (
        lambda t, m: {OTHER: m.tags[OTHER], THIRD: tag_for(t, THIRD, OTHER)},
        ("'cirrus'", "is wrong"),
    ),
}


def own_tags(talk: Conversation) -> dict[str, bytes]:
    return talk.aggregator._registration.tags[ME].tags


def tag_for(talk: Conversation, sender: str, receiver: str) -> bytes:
    return talk.aggregator._registration.tags[sender].tags[receiver]


@pytest.mark.parametrize("name", TAGS)
def test_a_wrong_key_confirmation_is_refused(name):
    change, rules = TAGS[name]
    talk = conversation()
    message = talk.until(KeysConfirmed, ME)
    refused(talk, KeysConfirmed(change(talk, message)), *rules)


@pytest.mark.parametrize(
    "change",
    [
        lambda tags: {},
        lambda tags: {OTHER: tags[OTHER]},
        lambda tags: tags | {"zoe": bytes(32)},
        lambda tags: tags | {ME: bytes(32)},
    ],
    ids=range(4),
)
def test_a_party_confirms_with_each_of_the_others(change):
    talk = conversation()
    message = talk.until_up(ConfirmKeys, ME)
    refused_up(talk, ME, ConfirmKeys(change(message.tags)), "confirmed its keys twice, or not with each")


def test_keys_are_announced_and_confirmed_once():
    talk = conversation()
    message = talk.until_up(AnnounceKey, ME)
    talk.submit(ME, encode(message))
    refused_up(talk, ME, message, "announced two keys")
    talk = conversation()
    message = talk.until_up(ConfirmKeys, ME)
    talk.submit(ME, encode(message))
    refused_up(talk, ME, message, "twice")


@pytest.mark.parametrize("before", [ExchangeKeys, KeysConfirmed])
@pytest.mark.parametrize(
    "asked", [CountMagnitudes, SumLabels, CountCells, UseCuts, QuantiseGradients, SplitNodes, Finish]
)
def test_no_sum_is_given_before_the_keys_are_confirmed(before, asked):
    """The key exchange skipped, or its confirmation."""
    talk = conversation()
    talk.until(before, ME)
    refused(talk, earlier(asked), "expected " + before.__name__)


def test_masks_need_confirmed_keys_whatever_the_state_machine_lets_pass():
    talk = conversation()
    talk.until(KeysConfirmed, ME)
    masking = talk.parties[ME]._masking
    values = np.arange(5)
    with pytest.raises(ProtocolError, match="no vector goes out unmasked"):
        masking.mask(-1, 0, "magnitudes", values, True, 5)


# --- another's name ---------------------------------------------------------------------------------------------------


def test_a_party_that_announces_anothers_key_is_named():
    """The transport says who sent a frame; a copied announcement has the wrong signature for that name."""
    talk = conversation()
    message = talk.until_up(AnnounceKey, OTHER)
    talk.submit(OTHER, encode(message))
    talk.until_up(AnnounceKey, ME)
    talk.submit(ME, encode(message))
    with pytest.raises(ProtocolError, match="'borealis': its pinned identity did not sign"):
        talk.finish()


def test_a_party_that_gives_anothers_vector_as_its_own_makes_noise():
    talk = conversation()
    first = talk.until_up(Contribution, OTHER)
    talk.submit(OTHER, encode(first))
    talk.until_up(Contribution, ME)
    talk.submit(ME, encode(first))
    with pytest.raises(ProtocolError, match="aurora, borealis, cirrus do not cancel"):
        talk.finish()


@pytest.mark.parametrize("rejected_peer", ["zoe", "hub", "Borealis", "borealis "])
def test_whoever_is_no_party_is_not_received(rejected_peer):
    talk = conversation()
    message = talk.until_up(Contribution, ME)
    refused_up(talk, rejected_peer, message, "not a party of the plan")


def test_a_party_with_another_members_file_does_not_take_part():
    """Somebody who could plant a key in one party's members file would be in the middle: the files are compared."""
    chosen = plan(PARTIES, **GIVEN)
    talk = conversation()
    planted = identities(chosen) | {OTHER: identity("mallory").public}
    honest = signer(chosen, ME)
    party = Party(chosen, ME, TABLES[ME], nonce=bytes(32), signer=replace(honest, identities=planted), policy=OPEN)
    refused_up(
        talk, ME, decode(ME, next(party.opening())), "holds another members file (different: identity of aurora)"
    )


# --- asked twice, told apart ------------------------------------------------------------------------------------------


def changed_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Message], Message]:
    def edit(message: Message) -> Message:
        tensor = getattr(message, name)
        array = np.frombuffer(tensor.data, tensor.dtype).reshape(tensor.shape).copy()
        return edited(message, **{name: to_tensor(np.ascontiguousarray(change(array)))})

    return edit


def other_cell(prefixes: np.ndarray) -> np.ndarray:
    """One cell less that is split, one more that is not: its neighbour, where there is one."""
    parents = set(prefixes.tolist())
    at = next(i for i, p in enumerate(prefixes.tolist()) if p + 1 not in parents and p % 32 < 31)
    prefixes[at] += 1
    return prefixes


APART: dict[str, tuple[type[Message], int, Callable[[Message], Message]]] = {
    "units": (SumLabels, 1, lambda m: edited(m, label_unit=m.label_unit + 1)),
    "cells": (CountCells, 3, changed_array("prefixes", other_cell)),
    "start": (UseCuts, 1, lambda m: edited(m, base_scores=(0.4,))),
    "bounds": (UseCuts, 1, lambda m: edited(m, gradient_bound=m.gradient_bound * 2)),
    "weight of positives": (UseCuts, 1, lambda m: edited(m, hessian_bound=m.hessian_bound * 1.5)),
    "gradient scale": (QuantiseGradients, 1, lambda m: edited(m, gradient_scale=m.gradient_scale / 2)),
    "hessian scale": (QuantiseGradients, 1, lambda m: edited(m, hessian_scale=m.hessian_scale / 2)),
    "splits": (SplitNodes, 1, changed_array("bin", lambda a: np.where(a > 0, a - 1, a + 1))),
    "default directions": (SplitNodes, 1, changed_array("missing_left", lambda a: 1 - a)),
    "later splits": (SplitNodes, 2, changed_array("bin", lambda a: np.where(a > 0, a - 1, a + 1))),
    "leaves": (SplitNodes, 3, changed_array("child_leaf", lambda a: a + np.float32(0.5))),
}


def collect(talk: Conversation) -> dict[str, dict[tuple[object, ...], Contribution]]:
    """Deliver all that waits for parties; what each says, by place; the aggregator gets none of it."""
    while talk.down:
        talk.deliver(*talk.down.popleft())
    said: dict[str, dict[tuple[object, ...], Contribution]] = {name: {} for name in PARTIES}
    for name, frame in talk.up:
        message = decode(name, frame)
        assert isinstance(message, Contribution)
        said[name][message.tree, message.step, message.quantity, message.first] = message
    return said


def words(message: Contribution) -> np.ndarray:
    return np.frombuffer(message.values.data, "<u4" if message.quantity == "cells" else "<u8")


@pytest.mark.parametrize("name", APART)
def test_parties_told_different_things_give_noise(name):
    kind, count, change = APART[name]
    talk = conversation()
    message = talk.until(kind, FIRST, count)
    assert change(message) != message
    talk.deliver(FIRST, encode(change(message)))
    said = collect(talk)
    honest = conversation()
    honest.deliver(FIRST, encode(honest.until(kind, FIRST, count)))
    told_alike = collect(honest)
    assert said[FIRST].keys() == said[ME].keys() == said[THIRD].keys()
    assert said[FIRST]
    # What the aggregator would have to read is no sum of anything, with or without who was lied to.
    for place in said[FIRST]:
        lied_to, second, third = (words(said[n][place]) for n in PARTIES)
        true = sum(words(told_alike[n][place]) for n in PARTIES)
        for total in (lied_to + second + third, second + third):
            assert not (total == true).any(), place
            top = (total >> (total.itemsize * 8 - 12)).astype(
                np.int64
            )  # the twelve highest bits: of a sum, all alike or nearly
            assert np.bincount(top).max() <= max(2, len(top) // 100), place
        if lied_to.nbytes >= LEAST_EXPECTED * 256:
            assert looks_uniform([lied_to + second + third])
            assert looks_uniform([second + third])
    # An honest aggregator notices at once, and says nothing more.
    with pytest.raises(ProtocolError, match="do not cancel: the zero words do not sum to zero"):
        talk.finish()
    assert not talk.down


def test_what_is_said_later_stays_noise():
    """The lie is in every later label: the next, honest and large, answers do not cancel either."""
    talk = conversation()
    message = talk.until(SumLabels, FIRST)
    request = conversation().until(CountCells, FIRST)
    talk.deliver(FIRST, encode(edited(message, label_unit=message.label_unit + 1)))
    collect(talk)
    talk.up.clear()
    for name in PARTIES:
        talk.deliver(name, encode(request))
    sent = [words(decoded(item)) for item in talk.up]
    assert [len(w) for w in sent] == [5 * 4096] * 3
    assert looks_uniform([sent[0] + sent[1] + sent[2]])
    # Told alike, they cancel: the sum is of counts.
    honest = conversation()
    honest.until(CountCells, PARTIES[0])
    honest.down.clear()
    for name in PARTIES:
        honest.deliver(name, encode(request))
    sent = [words(decoded(item)) for item in honest.up]
    assert (sent[0] + sent[1] + sent[2]).max() <= 900
    assert all(looks_uniform([w]) for w in sent)


AGAIN = {name: at for name, at in APART.items() if name != "later splits"}


@pytest.mark.parametrize("name", AGAIN)
@pytest.mark.parametrize("changed", [False, True], ids=["the same", "another"])
def test_an_answered_request_is_not_answered_again(name, changed):
    """Rewinding: the same step with other splits, cuts, scales, units; and the same request once more."""
    kind, count, change = AGAIN[name]
    talk = conversation()
    message = talk.until(kind, ME, count)
    talk.deliver(ME, encode(message))
    assert talk.up or name == "leaves"  # the totals after those leaves go out with the next root
    refused(talk, change(message) if changed else message)


def test_a_place_is_masked_once_whatever_the_state_machine_lets_pass():
    talk = conversation()
    talk.until(SumLabels, ME)
    masking = talk.parties[ME]._masking
    with pytest.raises(ProtocolError, match=r"a second time; rule: a mask is used once"):
        masking.mask(-1, 0, "magnitudes", np.zeros((2, 256), np.int64), True, 512)
    masking.absorb("SumLabels", memoryview(b"something else"))
    with pytest.raises(ProtocolError, match="after other broadcasts or with another size"):
        masking.mask(-1, 0, "magnitudes", np.zeros((2, 256), np.int64), True, 512)
    with pytest.raises(ProtocolError, match="a second time"):
        masking.mask(-1, 0, "magnitudes", np.zeros(3, np.int64), True, 3)


# --- other runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (Welcome, "another nonce"),
        (ExchangeKeys, "did not sign"),
        (KeysConfirmed, "key confirmation is wrong"),
    ],
)
def test_an_earlier_runs_messages_are_refused(kind, rule):
    talk = conversation()
    talk.until(kind, ME)
    refused(talk, earlier(kind), rule)


def test_a_party_that_gives_an_earlier_runs_vector_makes_noise():
    before = conversation(first_nonce=100)
    old = before.until_up(Contribution, ME)
    talk = conversation()
    talk.until_up(Contribution, ME)
    talk.submit(ME, encode(old))
    with pytest.raises(ProtocolError, match="aurora, borealis, cirrus do not cancel"):
        talk.finish()


def contributions(talk: Conversation) -> list[tuple[str, Contribution]]:
    """Run to the end; everything contributed, in order of place and member."""
    found = []
    while talk.up or talk.down:
        if talk.up:
            name, frame = talk.up.popleft()
            if isinstance(message := decode(name, frame), Contribution):
                found.append((name, message))
            talk.submit(name, frame)
        else:
            talk.deliver(*talk.down.popleft())
    return sorted(found, key=lambda f: (f[0], f[1].tree, f[1].step, f[1].quantity, f[1].first))


def test_after_a_restart_the_same_answers_are_masked_anew():
    """The same rows, plan and requests: between two runs no word repeats and no difference means anything."""
    first, second = contributions(conversation()), contributions(conversation(first_nonce=50))
    differences = []
    for (name, one), (again, other) in zip(first, second, strict=True):
        assert (name, one.step, one.quantity, one.values.shape) == (
            again,
            other.step,
            other.quantity,
            other.values.shape,
        )
        assert not (words(one) == words(other)).any()
        differences.append(words(one) - words(other))
    assert looks_uniform(differences)


def test_after_a_restart_old_frames_are_refused_even_under_the_old_nonce():
    """A process that lost its state has other keys, were its nonce the same: the old roster does not hold its key."""
    before = conversation()
    message = before.until(ExchangeKeys, ME)
    talk = conversation()
    talk.until(ExchangeKeys, ME)
    assert run_of(talk) == run_of(before)
    refused(talk, message, repr(ME), "does not hold the run key that this member announced")


def test_after_a_restart_confirmations_of_old_keys_are_refused():
    message = conversation().until(KeysConfirmed, ME)
    talk = conversation()
    talk.until(KeysConfirmed, ME)
    refused(talk, message, "key confirmation is wrong")


def test_nothing_of_a_runs_keys_can_be_taken_up_again():
    """The private half is gone once the pair keys are derived, and those when the run is over, however it ends."""
    talk = conversation()
    message = talk.until(ExchangeKeys, ME)
    talk.deliver(ME, encode(message))
    masking = talk.parties[ME]._masking
    with pytest.raises(ProtocolError, match="was erased"):
        masking.exchange(message)
    talk.finish()
    for party in talk.parties.values():
        assert all(key._key is None for key in party._masking._setup.keys.values())
        with pytest.raises(ProtocolError, match="erased"):
            party._masking.mask(99, 0, "totals", np.zeros(2, np.int64), True, 2)


def test_a_masked_request_in_a_federated_runs_name_is_refused():
    """Weaker mode by sleight of hand: the mode is in the plan, the plan is in the run's id."""
    masked_plan = plan(PARTIES, **GIVEN)
    plain = replace(masked_plan, mode="federated")
    aggregator = Aggregator(plain)
    talk = conversation()
    join = talk.until_up(Join, ME)
    talk.submit(ME, encode(join))
    with pytest.raises(ProtocolError, match="'borealis' holds another plan"):
        list(aggregator.handle(ME, memoryview(encode(join))))
    welcome = talk.until(Welcome, ME)
    refused(talk, edited(welcome, run=run_id(plain.digest(), welcome.roster)), "run's id")


def test_a_party_in_a_masked_plan_answers_no_federated_request():
    talk = conversation()
    talk.deliver(ME, encode(talk.until(Welcome, ME)))
    refused(talk, CountMagnitudes(), "expected ExchangeKeys")


# --- rosters ----------------------------------------------------------------------------------------------------------

FOUR = NAMES[:4]


@functools.cache
def four() -> dict[str, object]:
    return spread(ROWS, np.arange(900) % 4)


def four_of(minimum: int) -> Conversation:
    chosen = replace(plan(FOUR, **GIVEN), minimum_parties=minimum)
    return Conversation(chosen, four())


def welcome_to(talk: Conversation, roster) -> Welcome:
    return Welcome(run_id(agreement(talk.plan, identities(talk.plan)), roster), tuple(roster))


def test_a_roster_without_a_live_party_is_refused_though_the_plan_would_do_with_fewer():
    """Three of four now and all four later: the difference is the fourth's part."""
    talk = four_of(3)
    roster = talk.until(Welcome, ME).roster
    short = tuple(entry for entry in roster if entry[0] != "dune")
    refused(talk, welcome_to(talk, short), "leaves out dune", "every party of the plan takes part")


@pytest.mark.parametrize("minimum", [2, 3, 4])
def test_a_roster_below_any_minimum_is_refused(minimum):
    talk = four_of(minimum)
    roster = talk.until(Welcome, ME).roster
    for kept in ((OTHER, ME), (ME,)):
        talk = four_of(minimum)
        talk.until(Welcome, ME)
        refused(talk, welcome_to(talk, tuple(e for e in roster if e[0] in kept)), "leaves out")


def test_a_roster_with_one_more_is_refused():
    talk = conversation()
    roster = talk.until(Welcome, ME).roster
    refused(talk, welcome_to(talk, (*roster, ("zoe", bytes(32), 5, 0, b""))), "roster")


def test_the_whole_roster_is_taken():
    talk = four_of(3)
    talk.finish()
    assert all(party.done for party in talk.parties.values())


@pytest.mark.parametrize("names", [PARTIES[:2], PARTIES[:1]])
@pytest.mark.parametrize("policy", [OPEN, Policy(least_mode="secure-aggregation", least_party_rows=0)])
def test_two_parties_and_one_are_refused(names, policy):
    tables = spread(ROWS, np.arange(900) % len(names))
    with pytest.raises(PlanError, match=r"at least 2 parties|fewer than 3|at least 3"):
        train_in_process(plan(names, **GIVEN), tables, policy=policy)


def test_two_parties_may_where_both_policies_say_so():
    tables = spread(ROWS, np.arange(900) % 2)
    chosen = plan(PARTIES[:2], **GIVEN)
    run = train_in_process(chosen, tables, policy=Policy(allow_two_parties=True, least_party_rows=0))
    federated = train_in_process(replace(chosen, mode="federated"), tables)
    assert run.outcome.model == federated.outcome.model
    with pytest.raises(PlanError, match="allow_two_parties"):
        Party(chosen, ME, tables[ME], nonce=bytes(32), signer=signer(chosen, ME), policy=OPEN)


def test_a_weaker_mode_than_the_policy_is_refused():
    policy = Policy(least_mode="secure-aggregation")
    federated = replace(plan(PARTIES, **GIVEN), mode="federated")
    with pytest.raises(PlanError, match=r"'federated' \(demanded: 'secure-aggregation' or stronger"):
        Party(federated, ME, TABLES[ME], nonce=bytes(32), policy=policy)


def test_masks_without_an_identity_are_refused():
    with pytest.raises(IdentityError, match="needs this member's identity"):
        Party(plan(PARTIES, **GIVEN), ME, TABLES[ME], nonce=bytes(32), policy=OPEN)


def test_the_difference_of_two_rosters_is_a_partys_part_and_the_ledger_says_no(tmp_path):
    """The attack works on sums; the parties that stay refuse the second plan, one feature fewer or rows reordered or not."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with_all, without = plan(FOUR, **GIVEN), plan(FOUR[:3], **GIVEN)
    counted = [
        sum(label_counts(chosen, {name: four()[name] for name in chosen.parties})) for chosen in (with_all, without)
    ]
    assert counted[0] - counted[1] == np.count_nonzero(four()["dune"].label == 1)
    rows = four()[ME]

    def entry(chosen: Plan, *columns: np.ndarray) -> Entry:
        met = tuple(Met(name, identity(name).public.hex(), four()[name].n_rows, 0) for name in chosen.parties)
        return Entry(ledger.columns(*columns), chosen.mode, met, "00" * 32)

    ledger.admit(entry(with_all, rows.features, rows.label), Policy())
    order = np.random.default_rng(0).permutation(rows.n_rows)
    for features, label in (
        (rows.features, rows.label),
        (rows.features[1:], rows.label),
        (rows.features[:, order], rows.label[order]),
        (rows.features[:1], 1 - rows.label),
    ):
        with pytest.raises(PlanError, match=r"then aurora, borealis, cirrus, dune; now aurora, borealis, cirrus\."):
            ledger.admit(entry(without, features, label), Policy())


def label_counts(chosen: Plan, tables) -> list[int]:
    """Rows with label 1, as each masked run's aggregator learns it: the sum over the parties' parts."""
    talk = Conversation(chosen, tables)
    counts = []
    while len(counts) < len(tables):
        if talk.up:
            name, frame = talk.up.popleft()
            message = decode(name, frame)
            if isinstance(message, Contribution) and message.quantity == "labels":
                counts.append(words(message)[2])
            talk.submit(name, frame)
        else:
            talk.deliver(*talk.down.popleft())
    return [int(np.sum(np.array(counts, np.uint64), dtype=np.uint64))]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_late_vector_after_a_drop_out_is_refused_and_none_is_asked_for():
    """One party stops the run: another's vector that comes late is not taken, and nobody answers any more."""
    talk = conversation()
    late = talk.until_up(Contribution, THIRD, lambda _, m: m.quantity == "histograms")
    with pytest.raises(HansaError, match="'aurora' stopped the run: the power is gone"):
        talk.submit(OTHER, encode(Abort("", "the power is gone")))
    refused_up(talk, THIRD, late, "'aborted'")
    for name in (ME, THIRD):
        with pytest.raises(HansaError, match="because of member 'aurora'"):
            talk.deliver(name, encode(Abort(OTHER, "gone")))
        assert_silent(talk, name)


def test_a_hidden_vector_is_worth_nothing():
    """The aggregator keeps one party's vector back: the others' sum is noise, and there is no going on without it."""
    talk = conversation()
    talk.deliver(FIRST, encode(talk.until(CountCells, FIRST)))
    said = collect(talk)
    place = next(iter(said[FIRST]))
    total = {name: words(said[name][place]) for name in PARTIES}
    assert looks_uniform([total[OTHER] + total[THIRD]])
    assert looks_uniform([total[ME] + total[THIRD]])
    assert (total[OTHER] + total[ME] + total[THIRD]).max() <= 900


def test_keys_are_gone_when_a_run_is_stopped():
    talk = conversation()
    talk.until(QuantiseGradients, ME)
    with pytest.raises(HansaError, match="stopped the run"):
        talk.deliver(ME, encode(Abort("", "enough")))
    assert_silent(talk, ME)


# --- frames that are mistreated ---------------------------------------------------------------------------------------

SMALL = plan(PARTIES, rounds=1, max_depth=2, max_bin=8, mode="secure-aggregation")
FEW = spread(table(90), np.arange(90) % 3)

FRAMES_DOWN = 15
"""Frames that a party of this run hears; so many and no more are tried."""


def mistreated(**wrong: object):
    return train_in_process(SMALL, FEW, nodes_per_frame=1, wrap=lambda hub: faults.FaultyHub(hub, **wrong))


@pytest.mark.parametrize("place", range(FRAMES_DOWN - 1))
@pytest.mark.parametrize(
    "fault", [faults.dropping, faults.duplicating, faults.swapping, lambda n: faults.truncating(n, 5)]
)
@pytest.mark.parametrize("way", ["sending", "receiving"])
def test_frames_lost_repeated_reordered_or_cut_end_the_run(way, fault, place):
    """No matter where and which way: the run ends in an error, by name where somebody can be named."""
    with pytest.raises(HansaError) as caught:
        mistreated(**{way: {ME: fault(place)}})
    text = str(caught.value)
    assert "'hub'" in text or repr(ME) in text or "deadlock" in text or "do not cancel" in text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, FRAMES_DOWN - 1), st.integers(0, 2**20), st.sampled_from(PARTIES))
def test_a_bit_flipped_on_the_way_to_a_party_never_gives_a_model(place, bit, party):
    with pytest.raises(HansaError):
        mistreated(sending={party: faults.flipping(place, bit)})


@settings(max_examples=60, deadline=None)
@given(st.integers(0, FRAMES_DOWN - 1), st.integers(0, 2**20), st.sampled_from(PARTIES))
def test_a_bit_flipped_on_the_way_up_ends_in_an_error_or_in_other_sums(place, bit, party):
    """TLS sees it on the line; a party that lies so changes a sum, as it could by lying about its rows."""
    flipped: list[tuple[Message, bytes]] = []

    def fault(index: int, frame: bytes):
        changed = faults.flipping(place, bit)(index, frame)
        if index == place:
            flipped.append((decode(party, frame), changed[0]))
        return changed

    try:
        mistreated(receiving={party: fault})
    except HansaError:
        return
    for message, changed in flipped:
        assert isinstance(message, Contribution)
        after = decode(party, changed)
        assert edited(after, values=message.values) == message


def test_the_frames_tried_are_those_that_there_are():
    counts = {"down": 0, "up": 0}

    def counting(way: str):
        def fault(index: int, frame: bytes):
            counts[way] = index + 1
            return [frame]

        return fault

    run = mistreated(sending={ME: counting("down")}, receiving={ME: counting("up")})
    assert run.outcome.trees_grown == 1
    assert counts["down"] == FRAMES_DOWN
    assert counts["up"] >= FRAMES_DOWN


def test_an_oversized_frame_drops_its_sender_by_name():
    chosen, limit = plan(PARTIES, **GIVEN), 2**16
    parties = {
        n: Party(chosen, n, TABLES[n], nonce=bytes([i]) * 32, signer=signer(chosen, n), policy=OPEN)
        for i, n in enumerate(PARTIES)
    }

    def swollen(frame: memoryview):
        for answer in parties[ME].handle(frame):
            yield answer if b"AnnounceKey" not in answer else answer + bytes(limit)

    handlers = {name: party.handle for name, party in parties.items()} | {ME: swollen}
    hub = InProcessHub(handlers, opening={n: p.opening() for n, p in parties.items()}, frame_limit=limit)
    with pytest.raises(MemberLost, match="'borealis': announced a frame of"):
        run_hub(Aggregator(chosen, identities=identities(chosen)), hub)


# --- overflow ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fields", "rule"),
    [
        (SumLabels, {"label_unit": -1000}, "2^-1000"),
        (SumLabels, {"weight_unit": -62}, "2^-62"),
        (SumLabels, {"label_unit": -(2**40)}, "2^-1099511627776"),
        (UseCuts, {"gradient_bound": 1e308}, "bound"),
        (UseCuts, {"gradient_bound": math.inf}, "bound"),
        (UseCuts, {"hessian_bound": 1e-300}, "bound"),
        (UseCuts, {"gradient_bound": 0.01}, "exceeds the bound"),
        (UseCuts, {"weight_exponent": 10**6}, "weight_exponent"),
        (UseCuts, {"label_exponent": 2**62}, "label_exponent"),
        (QuantiseGradients, {"gradient_scale": 2.0**62}, "overflow"),
        (QuantiseGradients, {"hessian_scale": 1e300}, "overflow"),
        (QuantiseGradients, {"gradient_scale": math.inf}, "overflow"),
        (QuantiseGradients, {"hessian_scale": math.nan}, "no number"),
        (QuantiseGradients, {"gradient_scale": -(2.0**40)}, "no number"),
    ],
    ids=str,
)
def test_numbers_that_would_overflow_are_refused(kind, fields, rule):
    talk = conversation()
    refused(talk, edited(talk.until(kind, ME), **fields), rule)


@pytest.mark.parametrize("added", [2**31, 2**32 - 1, 5])
def test_counts_that_a_party_blows_up_are_noticed(added):
    """Its masks still cancel, so the sum is wrong by `added`: it does not add up with the counts before."""
    talk = conversation()
    message = talk.until_up(Contribution, ME, lambda _, m: m.quantity == "cells" and m.step == 4)
    counts = words(message).copy()
    counts[7:8] += np.uint32(added)
    talk.submit(ME, encode(edited(message, values=to_tensor(counts))))
    with pytest.raises(HansaError, match=r"cut|cell"):
        talk.finish()


@pytest.mark.parametrize("change", [lambda z: (z + 1) % 2**64, lambda z: 0, lambda z: z ^ 2**63], ids=range(3))
def test_a_wrong_zero_word_ends_the_run(change):
    talk = conversation()
    message = talk.until_up(Contribution, ME, lambda _, m: m.quantity == "totals")
    talk.submit(ME, encode(edited(message, zero=change(message.zero))))
    with pytest.raises(ProtocolError, match="do not cancel"):
        talk.finish()


def test_a_vector_of_another_size_or_ring_is_refused():
    talk = conversation()
    message = talk.until_up(Contribution, ME, lambda _, m: m.quantity == "cells")
    counts = words(message).copy()
    refused_up(talk, ME, edited(message, values=to_tensor(counts[:-1])), "of shape")
    refused_up(talk, ME, edited(message, values=to_tensor(counts.astype(np.int64))), "'<u4'")


def test_the_receivers_model_is_checked_against_the_splits_that_were_masked_for():
    talk = conversation()
    message = talk.until(Finish, ME)
    refused(talk, edited(message, model_sha256=hashlib.sha256(b"").digest()), "hash")


def test_nothing_passes_before_a_masked_run_has_keys():
    """Even where the session table failed: a protected mode never starts from the clear one."""
    with pytest.raises(ProtocolError, match="no vector goes out unmasked"):
        MaskingNotReady().mask(-1, 0, "magnitudes", np.zeros(2, np.int64), True, 2)
