"""What a hostile hub or member can try in a coopetitive run: it is named, the run stops for all, and no keys are left."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from conversation import identity
from faults import FaultyHub
from hansa.consortium.policy import Policy
from hansa.errors import HansaError, IdentityError, PlanError, ProtocolError, TransportError
from hansa.node.in_process import share_in_process
from hansa.oblivious import quantile_search
from hansa.protocol.messages import (
    AgreeModel,
    AnnounceKey,
    Close,
    ConfirmKeys,
    CountProbes,
    Done,
    ExchangeKeys,
    Join,
    KeysConfirmed,
    Relay,
    ReleaseTree,
    ShareCounts,
    ShareRows,
    TakeRows,
    TrainingSetup,
    Welcome,
    decode,
    encode,
    to_array,
    to_tensor,
)
from hansa.roles import secure_channel
from hansa.roles.secure_channel import FRAGMENT_BYTES, SecureChannel
from hansa.roles.shared.compute_server import RoundMessage
from hansa.roles.shared.member import SharedMember
from hansa.secure.keys import SIGNING_PURPOSE, PairKey, RunNames, announced_bytes, fresh_key_pair
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener
from made_tables import OPEN, plan
from shares import HUB, SERVERS, SharedTalk, nth, relay, shared_plan, shared_tables, signer

PLAN = shared_plan()
SEARCHING = shared_plan(given=False)
TABLES = shared_tables()


def meddled(plan=PLAN, **options):
    """A run with something wrong in it, which must fail closed."""
    talk = SharedTalk(plan, TABLES, **options).run()
    talk.assert_failed_closed()
    return talk


def at_sealed_message(number, change, sender=None, receiver=None, kind=None):
    """A meddler that changes one sealed message: change(frame) -> frames."""
    count = 0

    def meddle(_, frame):
        nonlocal count
        sealed = relay(frame)
        if sealed is None or sender not in (None, sealed.sender) or receiver not in (None, sealed.receiver):
            return [frame]
        if kind not in (None, sealed.kind):
            return [frame]
        count += 1
        return change(frame) if count == number + 1 else [frame]

    return meddle


def resealed(frame, **changes):
    """The frame with other fields of its `Relay`."""
    sealed = relay(frame)
    fields = {name: getattr(sealed, name) for name in ("sender", "receiver", "kind", "sealed")}
    return encode(Relay(**(fields | changes)))


def flipped(place):
    def change(frame):
        sealed = bytearray(relay(frame).sealed)
        sealed[place] ^= 1
        return [resealed(frame, sealed=memoryview(bytes(sealed)))]

    return change


# --- the hub ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7, 8, 30, -1], ids=str)
@pytest.mark.parametrize("number", [0, 40])
def test_a_sealed_message_that_the_hub_changed_is_refused(place, number):
    talk = meddled(down=at_sealed_message(number, flipped(place), sender="borealis", receiver="aurora"))
    assert talk.raised_by == "aurora"
    assert "in the name of member 'borealis'" in str(talk.error)


def test_a_repeated_sealed_message_is_refused():
    talk = meddled(
        down=at_sealed_message(30, lambda frame: [frame, frame], sender="borealis", receiver="aurora", kind="round")
    )
    assert talk.raised_by == "aurora"
    assert re.search(r"in the name of member 'borealis'.*came before", str(talk.error))


def test_sealed_messages_in_another_order_are_refused():
    held = []

    def swap(_, frame):
        sealed = relay(frame)
        if sealed is None or (sealed.sender, sealed.receiver) != ("cirrus", "aurora"):
            return [frame]
        if not held:
            held.append(frame)
            return []
        return [frame, held.pop()] if held[0] is not None else [frame]

    talk = meddled(down=swap)
    assert re.search(r"in the name of member 'cirrus'.*came instead of 0", str(talk.error))


def test_a_sealed_message_that_the_hub_left_out_is_noticed_with_the_next():
    talk = meddled(down=at_sealed_message(2, lambda _: [], sender="borealis", receiver="aurora"))
    assert re.search(r"in the name of member 'borealis'.*number 3 came instead of 2", str(talk.error))


def test_a_sealed_message_withheld_for_good_stops_the_run_and_nobody_has_a_model():
    withheld = SharedTalk(PLAN, TABLES, down=lambda to, f: [] if to == "aurora" and relay(f) is not None else [f]).run()
    assert withheld.error is None
    assert withheld.models == {}
    assert not any(member.done for member in withheld.members.values())
    assert set(withheld.members["aurora"].waiting_for()) <= {"borealis", "cirrus", "dune"}
    withheld.stop("no frame from the hub in 600 s")
    assert all(member._session.state == "aborted" for member in withheld.members.values())


def test_a_hub_that_withholds_is_a_deadlock_in_one_process():
    def wrap(hub):
        return FaultyHub(hub, sending={"aurora": lambda _, f: [] if relay(f) is not None else [f]})

    with pytest.raises(TransportError, match="deadlock"):
        share_in_process(PLAN, TABLES, wrap=wrap)


@pytest.mark.parametrize("other", ["cirrus", "dune", "nobody", "aurora"])
def test_a_hub_that_gives_a_sealed_message_another_sender_is_refused(other):
    change = at_sealed_message(5, lambda f: [resealed(f, sender=other)], sender="borealis", receiver="aurora")
    talk = meddled(down=change)
    assert talk.raised_by == "aurora"
    assert f"in the name of member {other!r}" in str(talk.error)


def test_a_sealed_message_for_another_member_is_refused():
    def misdirect(to, frame):
        sealed = relay(frame)
        return [resealed(frame, receiver=to)] if sealed is not None and sealed.receiver != to else [frame]

    swapped = {"aurora": "borealis"}
    talk = SharedTalk(PLAN, TABLES)
    handle = talk.hub.handle
    talk.hub.handle = lambda m, f: ((swapped.get(to, to), frame) for to, frame in handle(m, f))
    talk._down = misdirect
    talk.run()
    talk.assert_failed_closed()


@pytest.mark.parametrize("kind", ["message", "", "Round", "x" * 100])
def test_a_sealed_message_of_another_kind_is_refused(kind):
    meddled(down=at_sealed_message(0, lambda f: [resealed(f, kind=kind)], receiver="aurora", kind="round"))


def test_sealed_messages_of_another_run_are_refused():
    """The same plan, rows, names and identities: another run has other nonces, so other keys."""
    seen = []

    def keep(to, frame):
        if to == "aurora" and relay(frame) is not None:
            seen.append(frame)
        return [frame]

    assert SharedTalk(PLAN, TABLES, down=keep).run().error is None
    first = seen[0]
    talk = meddled(down=at_sealed_message(0, lambda _: [first], receiver="aurora", sender=relay(first).sender))
    assert "the seal is broken" in str(talk.error)


def substituted(change):
    def meddle(_, frame):
        message = decode("x", frame)
        return [encode(change(message))] if isinstance(message, ExchangeKeys) else [frame]

    return meddle


def entry_of(message, member):
    return next(entry for entry in message.keys if entry[0] == member)


def with_entry(message, entry):
    return ExchangeKeys(tuple(sorted(entry if other[0] == entry[0] else other for other in message.keys)))


def own_signature(message):
    """A key of the hub's own, signed by the hub's identity."""
    key = fresh_key_pair().public_key
    run = RunNames(bytes(32), bytes(32))
    signature = identity(HUB).sign(SIGNING_PURPOSE, announced_bytes(run, "borealis", key, Algorithm.AES_256_CTR))
    return with_entry(message, ("borealis", key, "aes-256-ctr", signature))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: with_entry(m, ("borealis", fresh_key_pair().public_key, *entry_of(m, "borealis")[2:])),
        own_signature,
        lambda m: with_entry(m, ("borealis", *entry_of(m, "cirrus")[1:])),
        lambda m: with_entry(m, (*entry_of(m, "borealis")[:2], "chacha20", entry_of(m, "borealis")[3])),
        lambda m: ExchangeKeys(tuple(k for k in m.keys if k[0] != "borealis")),
        lambda m: ExchangeKeys((*m.keys, m.keys[1])),
        lambda m: ExchangeKeys((*m.keys, (HUB, fresh_key_pair().public_key, "aes-256-ctr", b"s" * 64))),
    ],
    ids=["another key", "the hub's signature", "another's", "another cipher", "one left out", "one twice", "the hub's"],
)
def test_a_substituted_key_is_refused(change):
    talk = meddled(down=substituted(change))
    assert isinstance(talk.error, IdentityError | ProtocolError)
    assert "borealis" in str(talk.error) or HUB in str(talk.error)
    assert talk.hub.relayed == {}


def test_changed_confirmations_are_refused():
    def change(to, frame):
        message = decode("x", frame)
        if not isinstance(message, KeysConfirmed) or to != "aurora":
            return [frame]
        return [encode(KeysConfirmed(message.tags | {"borealis": bytes(32)}))]

    talk = meddled(down=change)
    assert "'borealis'" in str(talk.error)
    assert talk.members["aurora"]._secure_channel is None


@pytest.mark.parametrize(
    "change",
    [
        lambda w: Welcome(w.run, w.roster[1:]),
        lambda w: Welcome(bytes(32), w.roster),
        lambda w: Welcome(w.run, (*w.roster[:-1], (*w.roster[-1][:2], 99, 0, b""))),
        lambda w: Welcome(w.run, (("aurora", *w.roster[1][1:]), *w.roster[1:])),
        lambda w: Welcome(w.run, tuple((n, nonce, rows, 1, own) for n, nonce, rows, _, own in w.roster)),
    ],
    ids=["one left out", "another run", "other rows", "another nonce", "rows held out"],
)
def test_a_false_roster_is_refused(change):
    def meddle(_, frame):
        message = decode("x", frame)
        return [encode(change(message))] if isinstance(message, Welcome) else [frame]

    talk = meddled(down=meddle)
    assert f"member {HUB!r} (hub)" in str(talk.error)
    assert talk.hub.relayed == {}


@pytest.mark.parametrize(
    "message", [Close(), Done(), AgreeModel(b"x"), Join(1, b"", b"", 0, 0, b"")], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize("state", ["joining", "welcomed", "keyed", "relaying"])
def test_the_hub_may_say_only_what_its_table_lists(message, state):
    talk = SharedTalk(PLAN, TABLES)
    before = {"joining": Welcome, "welcomed": ExchangeKeys, "keyed": KeysConfirmed, "relaying": Relay}[state]

    def meddle(to, frame):
        return [encode(message)] if to == "aurora" and isinstance(decode("x", frame), before) else [frame]

    talk._down = meddle
    talk.run()
    talk.assert_failed_closed()
    assert talk.raised_by == "aurora"
    assert type(message).__name__ in str(talk.error)


# --- members, to the hub ---------------------------------------------------------------------------------------------


def test_a_member_cannot_write_in_anothers_name():
    talk = meddled(up=at_sealed_message(0, lambda f: [resealed(f, sender="cirrus")], sender="borealis"))
    assert talk.raised_by == HUB
    assert "member 'borealis' sent a sealed message in the name of 'cirrus'" in str(talk.error)


@pytest.mark.parametrize("receiver", ["borealis", HUB, "nobody"])
def test_a_sealed_message_goes_to_another_member(receiver):
    talk = meddled(up=at_sealed_message(0, lambda f: [resealed(f, receiver=receiver)], sender="borealis"))
    assert talk.raised_by == HUB
    assert "'borealis'" in str(talk.error)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (Join, lambda m: msgspec.structs.replace(m, version=0)),
        (Join, lambda m: msgspec.structs.replace(m, plan=bytes(32))),
        (Join, lambda m: msgspec.structs.replace(m, nonce=b"short")),
        (Join, lambda m: msgspec.structs.replace(m, rows=0)),
        (Join, lambda m: msgspec.structs.replace(m, rows=-5)),
        (Join, lambda m: msgspec.structs.replace(m, evaluation_rows=-1)),
        (ConfirmKeys, lambda m: ConfirmKeys(dict(list(m.tags.items())[1:]))),
        (AnnounceKey, lambda m: Done()),
        (Done, lambda m: ShareRows(False, 0, 1, (b"", b""), ())),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_the_hub_refuses_what_is_wrong_by_name(kind, changed):
    def meddle(name, frame):
        message = decode("x", frame)
        return [encode(changed(message))] if name == "borealis" and isinstance(message, kind) else [frame]

    talk = meddled(up=meddle)
    assert talk.raised_by == HUB
    assert "'borealis'" in str(talk.error)


@pytest.mark.parametrize("kind", [Join, AnnounceKey, ConfirmKeys, Done], ids=lambda k: k.__name__)
def test_a_member_that_starts_again_or_speaks_twice_ends_the_run(kind):
    """A server that restarts has lost its shares and keys: it says `Join` again, in whatever state."""
    talk = meddled(up=lambda n, f: [f, f] if n == "borealis" and isinstance(decode("x", f), kind) else [f])
    assert "'borealis'" in str(talk.error)


def test_a_server_that_restarts_in_the_middle_is_named():
    again = encode(SharedTalk(PLAN, TABLES).members["borealis"]._join)
    talk = meddled(up=at_sealed_message(60, lambda f: [again, f], sender="borealis", kind="round"))
    assert talk.raised_by == HUB
    assert "'borealis' joined twice" in str(talk.error)


def test_a_rejected_peer_is_refused():
    talk = SharedTalk(PLAN, TABLES)
    with pytest.raises(ProtocolError, match="'mallory' has no role in the plan"):
        list(talk.hub.handle("mallory", memoryview(encode(Done()))))


# --- servers ---------------------------------------------------------------------------------------------------------


def shortened(said):
    return RoundMessage(said.name, said.body[:-1])


def lengthened(said):
    return RoundMessage(said.name, (*said.body, memoryview(bytes(8))))


def renamed(said):
    return RoundMessage(bytes(8), said.body)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (shortened, "member 'borealis' sent .* expected .*: sizes are public"),
        (lengthened, "member 'borealis' sent .* expected .*: sizes are public"),
        (renamed, "member 'borealis' sent the numbers of another step"),
    ],
)
@pytest.mark.parametrize("number", [0, 100])
@pytest.mark.parametrize("plan", [PLAN, SEARCHING], ids=["given", "searching"])
def test_a_round_of_another_length_or_step_is_refused(change, text, number, plan):
    talk = meddled(plan, twists={"borealis": nth(RoundMessage, number, change)})
    assert talk.raised_by in SERVERS
    assert re.search(text, str(talk.error))


def test_rounds_by_one_who_is_no_server_are_refused():
    sealed = RoundMessage(bytes(8), (memoryview(bytes(8)),))
    talk = meddled(twists={"dune": nth(ShareRows, 0, lambda _: sealed)})
    assert "member 'dune' sent numbers of a round, and is no server" in str(talk.error)


def test_rounds_to_one_who_is_no_server_are_refused():
    sealed = RoundMessage(bytes(8), (memoryview(bytes(8)),))
    talk = meddled(twists={"aurora": nth(TakeRows, 0, lambda _: sealed, to="dune")})
    assert "sent numbers of a round to 'dune', which is no server" in str(talk.error)


def test_a_server_far_ahead_is_refused():
    talk = SharedTalk(PLAN, TABLES)
    borealis = talk.members["borealis"]
    post = borealis._post

    def flood(to, said):
        yield from post(to, said)
        if isinstance(said, RoundMessage) and to == "aurora":
            for _ in range(20):
                yield from post(to, said)

    borealis._post = flood
    talk.run()
    talk.assert_failed_closed()
    assert re.search(
        "'borealis' (is 8 rounds ahead|sent the numbers of another step|sent .* bytes for step)", str(talk.error)
    )


def other_cuts(said):
    values = np.frombuffer(said.values.data, np.float32).copy()
    values[0] -= 1
    return msgspec.structs.replace(said, values=to_tensor(values))


@pytest.mark.parametrize("to", ["dune", "aurora"])
@pytest.mark.parametrize(
    "change",
    [other_cuts, lambda s: msgspec.structs.replace(s, base_score=(s.base_score[0] + 1e-3,))],
    ids=["cuts", "base score"],
)
def test_a_server_that_tells_members_different_starts_is_named(to, change):
    talk = meddled(SEARCHING, twists={"borealis": nth(TrainingSetup, 0, change, to=to)})
    assert talk.raised_by == to
    assert "server 'borealis' told" in str(talk.error)


def test_three_different_starts_are_refused():
    talk = meddled(
        SEARCHING,
        twists={
            name: nth(TrainingSetup, 0, lambda s, n=n: msgspec.structs.replace(s, base_score=(0.1 * n,)), to="dune")
            for n, name in enumerate(SERVERS, 1)
        },
    )
    assert talk.raised_by == "dune"


def test_a_server_that_asks_one_owner_for_other_counts_is_named():
    talk = meddled(
        SEARCHING,
        twists={
            "cirrus": nth(CountProbes, 0, lambda p: CountProbes(p.offsets, p.starts, p.depths, p.bits - 1), to="dune")
        },
    )
    assert talk.raised_by == "dune"
    assert "server 'cirrus' told 'dune' another CountProbes" in str(talk.error)


def test_probes_that_all_servers_ask_are_still_held_to_the_guard():
    def finer(p):
        starts = np.frombuffer(p.starts.data, np.uint32) + np.uint32(1 << 20)
        depths = np.full(len(starts), 12, np.uint8)
        return CountProbes(p.offsets, to_tensor(starts.astype(np.uint32)), to_tensor(depths), p.bits)

    talk = meddled(SEARCHING, twists={name: nth(CountProbes, 0, finer, to="dune") for name in SERVERS})
    assert talk.raised_by == "dune"
    assert "the first request must split the whole range" in str(talk.error)


def test_no_counts_are_given_where_the_plan_gives_the_cuts():
    probes = CountProbes(
        to_tensor(np.arange(6)), to_tensor(np.zeros(5, np.uint32)), to_tensor(np.zeros(5, np.uint8)), 10
    )
    plan = shared_plan(base_score=None)
    twists = {name: nth(TrainingSetup, 0, lambda _: probes, to="dune") for name in SERVERS}
    talk = meddled(plan, twists=twists)
    assert talk.raised_by == "dune"
    assert "the plan gives the cuts" in str(talk.error)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, tree=m.tree + 1),
        lambda m: msgspec.structs.replace(m, trees=m.trees + 1),
        lambda m: msgspec.structs.replace(m, splits=m.splits[:-1]),
        lambda m: msgspec.structs.replace(m, leaves=to_tensor(np.zeros((2, 4), np.uint32))),
        lambda m: msgspec.structs.replace(m, leaves=to_tensor(np.zeros((2, 8), np.uint32))),
        lambda m: msgspec.structs.replace(m, covers=(m.leaves,)),
    ],
    ids=["another tree", "more trees", "a level less", "fewer leaves", "other leaves", "covers"],
)
def test_false_shares_of_a_tree_are_refused(change):
    talk = meddled(twists={"borealis": nth(ReleaseTree, 0, change, to="dune")})
    assert talk.raised_by == "dune"
    assert re.search("borealis|servers [012] and [012] sent different copies", str(talk.error))


def test_a_server_that_releases_another_model_to_one_receiver_is_noticed():
    """Two servers who agree on a false leaf, told to one of two receivers, are found out when receivers compare."""

    def shifted(part):
        def change(message):
            leaves = np.frombuffer(message.leaves.data, np.uint32).reshape(message.leaves.shape).copy()
            leaves[part] += np.uint32(1 << 20)
            return msgspec.structs.replace(message, leaves=to_tensor(leaves))

        return change

    talk = meddled(
        twists={
            "borealis": nth(ReleaseTree, 0, shifted(1), to="dune"),
            "cirrus": nth(ReleaseTree, 0, shifted(0), to="dune"),
        }
    )
    assert talk.raised_by in ("aurora", "dune")
    assert "put together another model" in str(talk.error)


def test_shares_for_one_who_is_no_receiver_are_refused():
    plan = shared_plan(receivers=("dune",))
    tree = ReleaseTree(0, 2, (), to_tensor(np.zeros((2, 8), np.uint32)), ())
    talk = meddled(plan, twists={"aurora": nth(TakeRows, 0, lambda _: tree, to="borealis")})
    assert talk.raised_by == "borealis"
    assert "whose roles are owner, server" in str(talk.error)


# --- owners ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, first=1),
        lambda m: msgspec.structs.replace(m, held=True),
        lambda m: msgspec.structs.replace(m, rows=m.rows - 1),
        lambda m: msgspec.structs.replace(m, rows=2**40),
        lambda m: msgspec.structs.replace(m, keys=(b"k" * 32, b"k" * 32)),
        lambda m: msgspec.structs.replace(m, keys=(b"", b"")),
        lambda m: msgspec.structs.replace(m, parts=m.parts[:2]),
        lambda m: msgspec.structs.replace(m, parts=(m.parts[1], m.parts[0], m.parts[2])),
    ],
    ids=["first", "held", "fewer", "more", "two keys", "no keys", "two arrays", "exchanged arrays"],
)
@pytest.mark.parametrize("owner", ["dune", "borealis"])
def test_row_shares_of_another_form_are_refused(change, owner, request):
    # Of owner-assisted rows S_0 holds the key of S_1's part, and S_2 the part that travels.
    to = "aurora" if owner == "borealis" and "keys" in request.node.callspec.id else "cirrus"
    talk = meddled(twists={owner: nth(ShareRows, 0, change, to=to)})
    assert talk.raised_by == to
    assert f"member {owner!r}" in str(talk.error)


def test_rows_shared_twice_are_refused():
    kept = []

    def twist(to, said):
        if to == "cirrus" and isinstance(said, ShareRows):
            kept.append(said)
        return said

    talk = SharedTalk(PLAN, TABLES, twists={"dune": twist})
    dune = talk.members["dune"]
    post = dune._post

    def again(to, said):
        yield from post(to, said)
        if to == "cirrus":
            yield from post(to, said)

    dune._post = again
    talk.run()
    talk.assert_failed_closed()
    assert "member 'dune'" in str(talk.error)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: msgspec.structs.replace(m, step=m.step + 1),
        lambda m: msgspec.structs.replace(m, count=m.count + 1),
        lambda m: msgspec.structs.replace(m, keys=(b"k" * 31, m.keys[1])),
        lambda m: msgspec.structs.replace(m, part=(*m.part, to_tensor(np.zeros(1, np.uint64)))),
        lambda m: msgspec.structs.replace(m, part=(to_tensor(np.zeros(3, np.uint64)),)),
    ],
    ids=["step", "count", "key", "more parts", "longer part"],
)
@pytest.mark.parametrize("number", [0, 2])
def test_counts_of_another_form_are_refused(change, number):
    talk = meddled(SEARCHING, twists={"dune": nth(ShareCounts, number, change, to="borealis")})
    assert talk.raised_by == "borealis"
    assert "'dune'" in str(talk.error)


def test_a_member_that_owns_no_rows_shares_none():
    plan = shared_plan(receivers=("reader",))
    rows = ShareRows(False, 0, 100, (b"k" * 32, b"k" * 32), ())
    talk = meddled(plan, twists={"aurora": nth(ReleaseTree, 0, lambda _: AgreeModel(b""), to="reader")})
    assert talk.raised_by == "reader"
    other = SharedTalk(plan, TABLES)
    reader = other.members["reader"]
    settle = reader._settle

    def first(message):
        yield from reader._post("aurora", rows)
        yield from settle(message)

    reader._settle = first
    other.run()
    other.assert_failed_closed()
    assert "member 'reader' sent ShareRows to server 'aurora', and owns no rows" in str(other.error)


# --- sealed messages, alone --------------------------------------------------------------------------------------------------


def mails():
    secret = bytes(range(32))
    run = RunNames(bytes(32), bytes(32))
    return (
        SecureChannel("a", {"b": PairKey(secret, "a", "b")}, run, Algorithm.AES_256_CTR),
        SecureChannel("b", {"a": PairKey(secret, "b", "a")}, run, Algorithm.AES_256_CTR),
    )


@pytest.mark.parametrize(
    "sizes", [(), (0,), (1,), (5, 0, 7), (FRAGMENT_BYTES - 16,), (FRAGMENT_BYTES - 15,), (3 * FRAGMENT_BYTES, 9)]
)
def test_sealed_messages_arrive_whole_whatever_their_size(sizes):
    sender, receiver = mails()
    parts = [np.random.default_rng(i).integers(0, 256, size, np.uint8) for i, size in enumerate(sizes)]
    frames = list(sender.post("b", "round", [part.data.cast("B") for part in parts if part.size], b"12345678"))
    total = sum(sizes) + 16
    assert len(frames) == -(-total // FRAGMENT_BYTES)
    assert all(len(frame) < FRAGMENT_BYTES + 200 for frame in frames)
    sealed_messages = [receiver.take(relay(frame)) for frame in frames]
    assert sealed_messages[:-1] == [None] * (len(frames) - 1)
    sealed = sealed_messages[-1]
    assert (sealed.sender, sealed.kind, sealed.name) == ("a", "round", b"12345678")
    assert bytes(sealed.body) == b"".join(part.tobytes() for part in parts)
    assert np.frombuffer(sealed.body, np.uint8).ctypes.data % 8 == 0


@pytest.mark.parametrize("size", [999, 1000, 1001, 2000, 3500])
def test_what_is_longer_than_a_sealed_message_may_be_arrives_whole(monkeypatch, size):
    monkeypatch.setattr(secure_channel, "SEALED_LIMIT", 1000)
    sender, receiver = mails()
    content = np.random.default_rng(size).integers(0, 256, size, np.uint8).tobytes()
    for _ in range(2):
        frames = list(sender.post("b", "round", [memoryview(content[:7]), memoryview(content[7:])], b"12345678"))
        sealed_messages = [receiver.take(relay(frame)) for frame in frames]
        assert len(frames) == size // 1000 + 1
        assert sealed_messages[:-1] == [None] * (len(frames) - 1)
        assert (sealed_messages[-1].sender, sealed_messages[-1].kind, sealed_messages[-1].name) == (
            "a",
            "round",
            b"12345678",
        )
        assert bytes(sealed_messages[-1].body) == content
        assert np.frombuffer(sealed_messages[-1].body, np.uint8).ctypes.data % 8 == 0


def test_parts_of_a_sealed_message_follow_each_other_and_end(monkeypatch):
    monkeypatch.setattr(secure_channel, "SEALED_LIMIT", 1000)
    sender, receiver = mails()
    assert receiver.take(relay(next(sender.post("b", "round", [memoryview(bytes(1000))], b"12345678")))) is None
    (other,) = sender.post("b", "round", [memoryview(b"x")], b"another.")
    with pytest.raises(ProtocolError, match="member 'a' sent a message of kind 'round' between the parts"):
        receiver.take(relay(other))
    sender, receiver = mails()
    *frames, last = [relay(frame) for frame in sender.post("b", "round", [memoryview(bytes(64_000))])][:64]
    assert [receiver.take(frame) for frame in frames] == [None] * 63
    with pytest.raises(ProtocolError, match="member 'a' sent 64 parts of one sealed message"):
        receiver.take(last)


def test_a_sealed_message_inside_another_is_refused():
    sender, receiver = mails()
    first = next(sender.post("b", "round", [memoryview(bytes(2 * FRAGMENT_BYTES))]))
    assert receiver.take(relay(first)) is None
    (other,) = sender.post("b", "message", [memoryview(b"x")])
    with pytest.raises(ProtocolError, match=r"member 'a' sent .* a sealed message is finished before another begins"):
        receiver.take(relay(other))


def test_an_announced_length_takes_no_memory_before_it_comes():
    sender, receiver = mails()
    for length in (2**63, 2**31 + 1):
        sealed = sender._sealers["b"].seal("round", length.to_bytes(8, "little") + bytes(8) + b"x")
        with pytest.raises(ProtocolError, match=f"member 'a' began a sealed message of {length} bytes"):
            receiver.take(Relay("a", "b", "round", memoryview(sealed)))


@pytest.mark.parametrize("content", [b"", b"short", (5).to_bytes(8, "little") + bytes(8), bytes(17)])
def test_a_first_fragment_that_fits_no_sealed_message_is_refused(content):
    sender, receiver = mails()
    sealed = sender._sealers["b"].seal("round", content)
    with pytest.raises(ProtocolError, match="member 'a' began a sealed message"):
        receiver.take(Relay("a", "b", "round", memoryview(sealed)))


def test_a_sealed_message_that_belongs_in_the_open_is_refused():
    talk = meddled(twists={"dune": nth(ShareRows, 0, lambda _: Done(), to="aurora")})
    assert "sealed a Done" in str(talk.error)


# --- a member's own conditions ---------------------------------------------------------------------------------------


def test_a_policy_of_coopetitive_mode_refuses_weaker_plans_and_takes_this_one():
    policy = Policy(least_mode="coopetitive", least_party_rows=0)
    assert SharedTalk(PLAN, TABLES, policy=policy).run().error is None
    weaker = plan(("aurora", "borealis", "cirrus"), mode="secure-aggregation")
    with pytest.raises(PlanError, match="demanded: 'coopetitive' or stronger"):
        policy.check_plan(weaker)


def test_a_member_without_a_role_or_with_rows_that_it_should_not_have_is_refused():
    rows = TABLES["aurora"]
    for name, given, text in (
        (HUB, None, "none of the plan's"),
        ("mallory", None, "none of the plan's"),
        ("aurora", None, "a table goes with a party"),
        ("vault", rows, "a table goes with a party"),
    ):
        plan = shared_plan(servers=("aurora", "vault", "cirrus"))
        with pytest.raises(HansaError, match=text):
            SharedMember(plan, name, given, nonce=bytes(32), signer=signer(plan, "aurora"), policy=OPEN)


def test_a_member_with_another_plan_is_refused():
    talk = SharedTalk(PLAN, TABLES)
    other = replace(PLAN, name="other")
    talk.members["dune"] = SharedMember(
        other, "dune", TABLES["dune"], nonce=bytes(32), signer=signer(other, "dune"), policy=OPEN
    )
    talk.run()
    talk.assert_failed_closed()
    assert "member 'dune' holds another plan (different: name;" in str(talk.error)


# --- a hub that is a server too ----------------------------------------------------------------------------------------


JOINT = shared_plan(hub="aurora")


@pytest.mark.parametrize("sender", ["borealis", "dune"])
def test_nobody_else_writes_in_the_name_of_a_server_that_is_the_hub(sender):
    talk = meddled(JOINT, up=at_sealed_message(0, lambda f: [resealed(f, sender="aurora")], sender=sender))
    assert f"member {sender!r} sent a sealed message in the name of 'aurora'" in str(talk.error)


@pytest.mark.parametrize("number", [0, 40])
def test_a_hub_that_is_a_server_cannot_change_what_it_relays(number):
    talk = meddled(JOINT, down=at_sealed_message(number, flipped(20), sender="cirrus", receiver="borealis"))
    assert talk.raised_by == "borealis"
    assert "in the name of member 'cirrus'" in str(talk.error)


def test_a_hub_that_is_a_server_can_read_its_own_sealed_messages_only():
    """No key that it holds opens a sealed message between others."""
    passed = []

    def keep(to, frame):
        passed.append(relay(frame))
        return [frame]

    talk = SharedTalk(JOINT, TABLES, down=keep)
    keys = {}
    begin = talk.members["aurora"]._begin

    def note():
        keys.update({peer: bytes(key._key) for peer, key in talk.members["aurora"]._keys.keys.items()})
        return begin()

    talk.members["aurora"]._begin = note
    assert talk.run().error is None
    assert set(keys) == {"borealis", "cirrus", "dune"}
    run = talk.members["aurora"]._keys.run
    algorithm = talk.members["aurora"]._keys.algorithm
    sealed_messages = [sealed for sealed in passed if sealed is not None]
    own = next(sealed for sealed in sealed_messages if (sealed.sender, sealed.receiver) == ("borealis", "aurora"))
    opener = Opener(PairKey(keys["borealis"], "aurora", "borealis"), run, algorithm)
    assert opener.open(own.kind, own.sealed)
    others = next(sealed for sealed in sealed_messages if (sealed.sender, sealed.receiver) == ("borealis", "cirrus"))
    for secret in keys.values():
        for ends in (("aurora", "borealis"), ("cirrus", "borealis")):
            with pytest.raises(ProtocolError, match="the seal is broken"):
                Opener(PairKey(secret, *ends), run, algorithm).open(others.kind, others.sealed)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: with_entry(m, ("borealis", fresh_key_pair().public_key, *entry_of(m, "borealis")[2:])),
        lambda m: with_entry(m, ("borealis", *entry_of(m, "aurora")[1:])),
        lambda m: ExchangeKeys(tuple(k for k in m.keys if k[0] != "aurora")),
    ],
    ids=["another key", "its own", "its own left out"],
)
def test_a_hub_that_is_a_server_cannot_substitute_keys(change):
    talk = meddled(JOINT, down=lambda to, f: substituted(change)(to, f) if to == "cirrus" else [f])
    assert talk.raised_by == "cirrus"
    assert talk.hub.relayed == {}


def test_a_hub_that_is_a_server_cannot_leave_itself_out_of_the_roster():
    def meddle(to, frame):
        message = decode("x", frame)
        if not isinstance(message, Welcome) or to == "aurora":
            return [frame]
        return [encode(Welcome(message.run, message.roster[1:]))]

    talk = meddled(JOINT, down=meddle)
    assert "member 'aurora' (hub)" in str(talk.error)
    assert "expected every party, server and receiver" in str(talk.error)


@pytest.mark.parametrize("change", [shortened, lengthened])
def test_a_round_of_another_length_by_a_server_that_is_the_hub_is_refused(change):
    talk = meddled(JOINT, twists={"aurora": nth(RoundMessage, 3, change)})
    assert talk.raised_by in SERVERS
    assert re.search("member 'aurora' sent .* expected .*: sizes are public", str(talk.error))


@pytest.mark.parametrize("liar", range(3))
def test_a_server_that_lies_in_the_search_for_cuts_is_named_with_one_other(liar, monkeypatch):
    """Both honest servers would name it; each beside the other. Nothing of the path is opened."""
    original = quantile_search.negative

    def lying(server, triples, x, bits, address):
        if server.index == liar and "bits" in address.tensor:
            x = x + np.array([[[1 << 10]], [[0]]], np.uint64).reshape(2, *[1] * (x.ndim - 1))
        return (yield from original(server, triples, x, bits, address))

    monkeypatch.setattr(quantile_search, "negative", lying)
    talk = meddled(SEARCHING)
    assert talk.raised_by in set(SERVERS) - {SERVERS[liar]}
    text = str(talk.error)
    named = {name for name in SERVERS if f"server '{name}'" in text.split(" departed ")[0]}
    assert named == set(SERVERS) - {talk.raised_by}
    assert "opened nothing more" in text
    assert "path of cuts" not in text


def test_an_owner_that_gives_two_servers_different_counts_is_named():
    """Two copies of one part that differ: the search would go on with numbers that no rows have."""

    def other(message):
        counts = to_array("dune", "counts", message.part[0], np.uint64, (None,)).copy()
        counts[0] += np.uint64(1)
        return msgspec.structs.replace(message, part=(to_tensor(counts),))

    talk = meddled(SEARCHING, twists={"dune": nth(ShareCounts, 2, other, to="borealis")})
    assert talk.raised_by in SERVERS
    assert "owner 'dune' departed from the protocol" in str(talk.error)
    assert "the copies of what owner 'dune' shared differ" in str(talk.error)
