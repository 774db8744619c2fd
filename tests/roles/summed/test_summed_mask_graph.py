"""Masks over a drawn graph, from 64 parties up: the attacks on who chooses the graph first, then the law and the count of masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

from conversation import Conversation, identities, identity
from hansa.errors import ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.protocol.messages import (
    AnnounceKey,
    CommitKey,
    ConfirmKeys,
    Contribution,
    CountMagnitudes,
    ExchangeKeys,
    KeysCommitted,
    KeysConfirmed,
    Message,
    Resume,
    decode,
    encode,
)
from hansa.roles.run import agreement, run_id
from hansa.roles.summed.sum_masking import SumMasking
from hansa.secure.keys import SIGNING_PURPOSE, RunNames, announced_bytes, commitment, fresh_key_pair
from hansa.secure.mask_graph import LEAST_PARTIES, neighbours_needed
from hansa.secure.prg import Algorithm
from hansa.transport.recording import RecordingHub, read_transcript
from made_tables import plan, table, take
from surviving import Survivors, crash_at
from uniformity import looks_uniform

N = LEAST_PARTIES
PARTIES = tuple(f"party-{number:03}" for number in range(N))
ME_AT = 7
ME, CORRUPT = PARTIES[ME_AT], PARTIES[40]
SMALL = {"rounds": 1, "max_depth": 2, "max_bin": 4}


def tables_of(parties: tuple[str, ...]):
    rows = table(3 * len(parties))
    return {name: take(rows, np.arange(at, rows.n_rows, len(parties))) for at, name in enumerate(parties)}


def masked(parties: tuple[str, ...] = PARTIES, when: str = "off", **parameters: object) -> Plan:
    return replace(plan(parties, mode="secure-aggregation", **{**SMALL, **parameters}), verify_counts=when)


def conversation(when: str = "off") -> Conversation:
    return Conversation(masked(when=when), tables_of(PARTIES))


def run_of(talk: Conversation) -> RunNames:
    joins = {name: party.join for name, party in talk.parties.items()}
    roster = tuple((name, j.nonce, j.rows, j.evaluation_rows, j.enough) for name, j in sorted(joins.items()))
    agreed = agreement(talk.plan, identities(talk.plan))
    return RunNames(agreed, run_id(agreed, roster))


def another_key(talk: Conversation, member: str, by: str) -> tuple[bytes, tuple[str, bytes, str, bytes]]:
    """A commitment to another key of `member`, and the key, signed by the identity of `by`."""
    cipher, key = Algorithm(next(iter(talk.parties.values()))._masking._setup.algorithm), fresh_key_pair().public_key
    signature = identity(by).sign(SIGNING_PURPOSE, announced_bytes(run_of(talk), member, key, cipher))
    return commitment(run_of(talk), member, key, cipher), (member, key, cipher.value, signature)


def refused(talk: Conversation, message: Message, *rules: str, party: str = ME) -> None:
    """The party says nothing, says which rule was broken, and holds no keys any more."""
    before = len(talk.up)
    with pytest.raises(ProtocolError) as caught:
        talk.deliver(party, encode(message))
    assert len(talk.up) == before
    for rule in rules:
        assert rule in str(caught.value), str(caught.value)
    setup = talk.parties[party]._masking._setup
    assert setup._pair._private is None
    assert all(key._key is None for key in setup.keys.values())
    with pytest.raises(ProtocolError, match="'aborted'"):
        talk.tell(party, CountMagnitudes())


# --- attacks ----------------------------------------------------------------------------------------------------------


def test_attack_keys_before_commitments_are_refused():
    """An aggregator that skips the step, to choose the last keys when it has seen the others'."""
    talk = conversation()
    talk.until(KeysCommitted, ME)
    entry = another_key(talk, ME, "hub")[1]
    refused(talk, ExchangeKeys((entry,)), "keys came before commitments")


def test_attack_a_party_shows_its_key_to_nobody_before_all_are_bound():
    talk = conversation()
    talk.until(KeysCommitted, PARTIES[0])
    assert not [frame for name, frame in talk.up if isinstance(decode(name, frame), AnnounceKey)]
    with pytest.raises(ProtocolError, match="before the others are bound"):
        talk.parties[ME]._masking._setup.announcement()


def test_attack_a_key_chosen_after_the_others_is_refused():
    """A party in league with the aggregator waits for all keys, and takes the one that isolates its victim."""
    talk = conversation()
    message = talk.until(ExchangeKeys, ME)
    _, late = another_key(talk, CORRUPT, CORRUPT)
    keys = tuple(late if entry[0] == CORRUPT else entry for entry in message.keys)
    refused(talk, ExchangeKeys(keys), repr(CORRUPT), "not the one that it committed to")


def test_attack_two_graphs_for_two_parties_end_in_wrong_confirmations():
    """A corrupt party commits to two keys; one party is told the first, all others the second. Nobody's masks meet."""
    talk = conversation()
    message = talk.until(KeysCommitted, ME)
    bound, other = another_key(talk, CORRUPT, CORRUPT)
    talk.deliver(ME, encode(KeysCommitted(message.commitments | {CORRUPT: bound})))
    exchange = talk.until(ExchangeKeys, ME)
    keys = tuple(other if entry[0] == CORRUPT else entry for entry in exchange.keys)
    (confirmed,) = talk.tell(ME, ExchangeKeys(keys))
    assert len(confirmed.tags) == neighbours_needed(N)
    # The aggregator may pass on whatever proofs it has: those of the others are for another roster.
    talk.up.append((ME, encode(confirmed)))
    tags = dict.fromkeys(confirmed.tags, b"")
    while talk.up or talk.down:
        at = talk.up or talk.down
        name, frame = at.popleft()
        said = decode(name, frame)
        if at is talk.up and isinstance(said, ConfirmKeys) and name in tags and name != ME:
            tags[name] = said.tags.get(ME, bytes(32))
        if at is talk.up and isinstance(said, ConfirmKeys):
            continue
        (talk.submit if at is talk.up else talk.deliver)(name, frame)
    refused(talk, KeysConfirmed(tags), "key confirmation is wrong")


def test_attack_the_aggregators_key_in_a_neighbours_place_is_refused():
    """With a commitment to match. Whoever is no neighbour in the graph that follows is checked by its own neighbours."""
    for name in PARTIES[:ME_AT]:
        talk = conversation()
        message = talk.until(KeysCommitted, ME)
        bound, forged = another_key(talk, name, "hub")
        talk.deliver(ME, encode(KeysCommitted(message.commitments | {name: bound})))
        exchange = talk.until(ExchangeKeys, ME)
        keys = ExchangeKeys(tuple(forged if entry[0] == name else entry for entry in exchange.keys))
        if names_the_forged(talk, keys, name):
            return
    raise AssertionError(f"none of {ME_AT} parties was a neighbour: this test shows nothing")


def names_the_forged(talk: Conversation, keys: ExchangeKeys, name: str) -> bool:
    """Whether the party refuses the key of `name`; otherwise it shares none with it."""
    setup = talk.parties[ME]._masking._setup
    try:
        talk.tell(ME, keys)
    except ProtocolError as error:
        return repr(name) in str(error) and "did not sign" in str(error)
    assert name not in setup.keys
    return False


SHOWN = {
    "one left out": (lambda m: {k: v for k, v in m.items() if k != CORRUPT}, "expected one of each of 64 members"),
    "a party that nobody knows": (lambda m: m | {"zoe": bytes(32)}, "expected one of each of 64 members"),
    "a short one": (lambda m: m | {CORRUPT: b"short"}, "has 32 bytes, not 5"),
    "another one for me": (lambda m: m | {ME: bytes(32)}, "bound to another key than its own"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_attack_wrong_commitments_are_refused(name):
    change, rule = SHOWN[name]
    talk = conversation()
    message = talk.until(KeysCommitted, ME)
    refused(talk, KeysCommitted(change(message.commitments)), rule)


def test_attack_confirmations_of_other_parties_are_refused():
    talk = conversation()
    message = talk.until(KeysConfirmed, ME)
    stranger = next(name for name in PARTIES if name != ME and name not in message.tags)
    one = next(iter(message.tags))
    tags = {name: tag for name, tag in message.tags.items() if name != one}
    refused(talk, KeysConfirmed(tags | {stranger: message.tags[one]}), "expected one from each of")


def test_attack_fewer_parties_are_told_of_no_commitments():
    few = PARTIES[: N - 1]
    talk = Conversation(masked(few), tables_of(few))
    talk.until(ExchangeKeys, ME)
    refused(talk, KeysCommitted(dict.fromkeys(few, bytes(32))), "draws no graph")


def test_the_aggregator_refuses_a_second_commitment_and_confirmations_that_do_not_meet():
    talk = conversation()
    said = talk.until_up(CommitKey, ME)
    talk.submit(ME, encode(said))
    with pytest.raises(ProtocolError, match=f"'{ME}' committed to two keys"):
        talk.submit(ME, encode(said))
    talk = conversation()
    said = talk.until_up(ConfirmKeys, ME)
    changed = dict(said.tags)
    del changed[next(iter(changed))]
    talk.submit(ME, encode(ConfirmKeys(changed)))
    with pytest.raises(ProtocolError, match=rf"confirmed a key with '{ME}', which did not"):
        talk.finish()
    with pytest.raises(ProtocolError, match="confirmed its keys twice, or not with each"):
        conversation_with_stranger()


def conversation_with_stranger() -> None:
    talk = conversation()
    said = talk.until_up(ConfirmKeys, ME)
    talk.submit(ME, encode(msgspec.structs.replace(said, tags=said.tags | {"zoe": bytes(32)})))


# --- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parties", "when"), [(N, "off"), (N + 1, "tree"), (N, "before")])
def test_the_model_is_federated_modes_and_each_party_has_so_many_masks(parties, when):
    names = tuple(f"party-{number:03}" for number in range(parties))
    chosen, tables = masked(names, when), tables_of(names)
    run = train_in_process(chosen, tables)
    expected = train_in_process(replace(chosen, mode="federated", verify_counts="off"), tables)
    assert run.outcome.model == expected.outcome.model
    assert {party.model for party in run.parties.values()} == {expected.outcome.model}
    for party in run.parties.values():
        assert isinstance(party._masking, SumMasking)
        assert len(party._masking._setup.neighbours) == neighbours_needed(parties) < parties - 1
        # With verified counts every party proves its counts to all others, and so shares a key with each.
        assert len(party._masking._setup.keys) == (neighbours_needed(parties) if when == "off" else parties - 1)


def test_one_party_fewer_masks_with_all_and_says_nothing_new(tmp_path: Path):
    names = PARTIES[: N - 1]
    run = train_in_process(masked(names), tables_of(names), wrap=lambda hub: RecordingHub(hub, tmp_path))
    assert {len(party._masking._setup.neighbours) for party in run.parties.values()} == {N - 2}
    kinds = Counter(type(decode(r.member, r.frame)) for r in read_transcript(tmp_path / "hub.frames"))
    assert not kinds[CommitKey]
    assert not kinds[KeysCommitted]
    assert kinds[ExchangeKeys] == N - 1


def test_sums_of_a_party_and_any_of_its_neighbours_look_uniform(tmp_path: Path):
    """Only the sum over all parties means anything: here of one party, its neighbours but one, and all but one party."""
    chosen = masked(rounds=3, max_depth=5, max_bin=64, histogram_bits=64)
    run = train_in_process(chosen, tables_of(PARTIES), wrap=lambda hub: RecordingHub(hub, tmp_path))
    found: dict[str, dict[tuple[object, ...], np.ndarray]] = {}
    for record in read_transcript(tmp_path / "hub.frames"):
        message = decode(record.member, record.frame)
        if isinstance(message, Contribution) and message.quantity != "cells":
            place = (message.tree, message.step, message.quantity, message.first)
            found.setdefault(record.member, {})[place] = np.frombuffer(message.values.data, "<u8")
    around = run.parties[ME]._masking._setup.neighbours
    for members in ((ME,), (ME, *around), (ME, *around[1:]), [name for name in PARTIES if name != around[0]]):
        sums = [sum(found[name][place] for name in members) for place in found[ME]]
        assert looks_uniform(sums)
    whole = [sum(found[name][place] for name in PARTIES) for place in found[ME]]
    assert not looks_uniform(whole)


@pytest.mark.slow
def test_a_later_epoch_draws_a_graph_of_its_own(tmp_path: Path):
    """A process ends in a tree: all go on from the checkpoint, under fresh keys that were committed to first."""
    chosen, tables = masked(rounds=2), tables_of(PARTIES)
    expected = train_in_process(chosen, tables).outcome.model
    run = Survivors(tmp_path, chosen, tables)
    run.finish(crash_at(20 * N))
    assert run.epochs == 2
    assert set(run.models.values()) == {expected}
    kinds = Counter(type(decode(sender, frame)) for sender, _, frame in run.frames)
    assert kinds[Resume] == kinds[CommitKey] == kinds[KeysCommitted] == kinds[ExchangeKeys] == N
    assert {
        len(decode(sender, frame).tags)
        for sender, to, frame in run.frames
        if type(decode(sender, frame)) is ConfirmKeys
    } == {neighbours_needed(N)}
