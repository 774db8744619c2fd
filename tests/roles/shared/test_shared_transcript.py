"""What each server and the hub of a coopetitive run see: uniform bytes, of one kind, size and order whatever the rows are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hansa.protocol.messages import (
    Close,
    Done,
    ExchangeKeys,
    KeysConfirmed,
    Relay,
    ShareCounts,
    ShareRows,
    Welcome,
    decode,
)
from hansa.roles.shared.compute_server import ComputeServer
from made_tables import spread, table
from shares import SERVERS, SharedTalk, shared_plan, shared_tables
from uniformity import looks_uniform, sixteen_bit_chi_square

ROWS = 3000
OPENED = re.compile(r"margins in range|path of cuts|gaps of cuts|^labels$|/metric$|/improved$")
"""Steps whose words are opened: `mpc.openings` lists them, and they are no noise by design."""


def kind_of(step):
    """A step's name without what numbers it: all rounds of one primitive's one message."""
    return re.sub(r"[0-9]+", "", step).split("/", 1)[-1]


def record_views(monkeypatch):
    """server -> (kind, sender, array), in the order in which they were opened there."""
    views = {name: [] for name in SERVERS}
    received, rows, counts = ComputeServer._received, ComputeServer._take_rows, ComputeServer._take_counts

    def note_round(self, step):
        arrays = received(self, step)
        for index, several in arrays.items():
            views[self._name] += [(step.step, index, array.copy()) for array in several]
        return arrays

    def note_rows(self, sender, message, codes):
        if sender != self._name:
            for number, tensor in enumerate(message.parts):
                array = np.frombuffer(tensor.data, tensor.dtype).copy()
                views[self._name].append((f"rows/part {'abcd'[number]}", sender, array))
            views[self._name] += [("rows/keys", sender, np.frombuffer(k, np.uint8).copy()) for k in message.keys if k]
        return rows(self, sender, message, codes)

    def note_counts(self, sender, message):
        if sender != self._name:
            views[self._name] += [("counts", sender, np.frombuffer(t.data, t.dtype).copy()) for t in message.part]
        return counts(self, sender, message)

    monkeypatch.setattr(ComputeServer, "_received", note_round)
    monkeypatch.setattr(ComputeServer, "_take_rows", note_rows)
    monkeypatch.setattr(ComputeServer, "_take_counts", note_counts)
    return views


@pytest.fixture(scope="module")
def views():
    """A run with rare positives, a constant and a skewed column, held-out rows and cuts that are searched."""
    rows = table(ROWS, seed=4)
    rows.features[0] = np.exp(3 * rows.features[0])
    rows.features[1] = 7
    rows.label[:] = (np.arange(ROWS) % 50 == 0).astype(np.float32)
    patch = pytest.MonkeyPatch()
    seen = record_views(patch)
    plan = shared_plan(
        given=False, rounds=3, max_depth=3, held=0.2, steps=(2,), eval_metric=["error", "logloss"], min_child_weight=0
    )
    try:
        talk = SharedTalk(plan, spread(rows, np.arange(ROWS) % 4)).run()
    finally:
        patch.undo()
    assert talk.error is None
    return seen, talk


def by_kind(view):
    kinds = {}
    for step, sender, array in view:
        if not any(OPENED.search(part) for part in step.split(" + ")):
            kinds.setdefault((kind_of(step), str(sender), array.dtype.str), []).append(array.reshape(-1))
    return kinds


@pytest.mark.parametrize("server", SERVERS)
def test_what_a_server_receives_is_uniform_kind_by_kind(views, server):
    seen, _ = views
    checked = 0
    for kind, arrays in by_kind(seen[server]).items():
        octets = np.concatenate([array.view(np.uint8) for array in arrays])
        if len(octets) < 2**14:
            continue
        checked += 1
        assert looks_uniform([octets]), kind
    assert checked >= 15


@pytest.mark.parametrize("server", SERVERS)
def test_no_sixteen_bit_bias_in_all_that_a_server_receives(views, server):
    seen, _ = views
    octets = np.concatenate([a.view(np.uint8) for arrays in by_kind(seen[server]).values() for a in arrays])
    assert len(octets) > 2**20
    assert abs(sixteen_bit_chi_square(octets.tobytes())) < 6


@pytest.mark.parametrize("server", SERVERS)
def test_a_planted_sixteen_bit_bias_is_found(views, server):
    seen, _ = views
    octets = np.concatenate([a.view(np.uint8) for arrays in by_kind(seen[server]).values() for a in arrays])
    words = octets[: len(octets) // 2 * 2].view(np.uint16).copy()
    # One value in place of 1 word of 500: bytes alone hardly show it.
    words[::500] = 0x3A5C
    assert sixteen_bit_chi_square(words.tobytes()) > 6


def test_a_planted_bias_of_one_kind_is_found(views):
    seen, _ = views
    arrays = max(by_kind(seen["aurora"]).values(), key=lambda several: sum(a.nbytes for a in several))
    octets = np.concatenate([array.view(np.uint8) for array in arrays]).copy()
    assert looks_uniform([octets])
    octets[::50] &= 0xF0
    assert not looks_uniform([octets])


def test_rows_that_an_owner_does_not_share_are_found():
    """The control of the test itself: plain columns of bits do not pass for shares."""
    plain = (np.random.default_rng(0).random(40_000) < 0.3).astype(np.uint32)
    assert not looks_uniform([plain.view(np.uint8)])


def test_sealed_messages_at_the_hub_are_uniform(views):
    _, talk = views
    for sender in SERVERS:
        pieces = [m.sealed[8:] for _, m in talk.seen if isinstance(m, Relay) and m.sender == sender]
        octets = b"".join(pieces)
        assert len(octets) > 2**20
        assert looks_uniform([np.frombuffer(octets, np.uint8)])
        assert abs(sixteen_bit_chi_square(octets)) < 6


def shape_of_run(plan, tables):
    """What the hub sees of a run: who sent what kind of frame to whom, how long, in which order."""
    talk = SharedTalk(plan, tables).run()
    assert talk.error is None
    return [
        (name, m.receiver, m.kind, len(m.sealed)) if isinstance(m, Relay) else (name, type(m).__name__)
        for name, m in talk.seen
    ]


CHANGES = {
    "other rows": lambda rows: rows,
    "one class": lambda rows: rows.label.fill(0),
    "constant columns": lambda rows: rows.features.fill(1),
    "no value but missing ones": lambda rows: rows.features[3:].fill(np.nan),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kind_size_and_order_do_not_depend_on_the_rows(change):
    rows = table(400, seed=0)
    other = table(400, seed=9)
    CHANGES[change](other)
    first, second = (shape_of_run(shared_plan(), spread(each, np.arange(400) % 4)) for each in (rows, other))
    assert first == second
    assert len(first) > 500


def test_nor_do_they_on_the_seeds_of_nonces_and_keys():
    assert shape_of_run(shared_plan(), shared_tables()) == shape_of_run(shared_plan(), shared_tables(seed=3))


@pytest.mark.parametrize("hub", ["aurora", "cirrus", "dune"])
def test_nor_do_they_on_who_the_hub_is(hub):
    """A hub that is a server too sees of others' sealed messages what a hub apart sees."""
    assert shape_of_run(shared_plan(hub=hub), shared_tables()) == shape_of_run(shared_plan(), shared_tables(seed=3))


def test_nothing_is_opened_to_anybody_before_the_release():
    """With cuts and base score from the plan no server is told a thing: its record lists no opening."""
    talk = SharedTalk(shared_plan(receivers=("dune",)), shared_tables()).run()
    assert [talk.members[name].openings for name in SERVERS] == [[], [], []]
    seen = []

    def down(to, frame):
        seen.append((to, type(decode("x", frame))))
        return [frame]

    SharedTalk(shared_plan(), shared_tables(), down=down).run()
    assert {kind for _, kind in seen} == {Welcome, ExchangeKeys, KeysConfirmed, Relay, Close}


def test_what_owners_send_is_shares_and_counts_of_rows_they_are_asked_for():
    said = []
    plan = shared_plan(given=False, receivers=("aurora",))
    SharedTalk(plan, shared_tables(), twists={"dune": lambda to, s: (said.append((to, s)), s)[1]}).run()
    owner = [(to, type(s)) for to, s in said]
    assert {kind for to, kind in owner if to in SERVERS} == {ShareCounts, ShareRows}
    assert Done not in {kind for _, kind in owner}
    # Every vector and batch goes to all three, and travels in parts that alone are noise.
    for kind in (ShareCounts, ShareRows):
        sent = [s for _, s in said if isinstance(s, kind)]
        assert len(sent) % 3 == 0
        assert all(
            sum(bool(key) for key in s.keys) + bool(getattr(s, "parts", getattr(s, "part", ()))) == 2 for s in sent
        )
