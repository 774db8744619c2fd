"""Row counts that parties check by themselves: what an aggregator that lies gets, and what changes nothing for one that does not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from conversation import Conversation, identities, identity, signer
from hansa.consortium.policy import Policy
from hansa.data.quantiles import CutRequest
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import HansaError, IdentityError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import VERIFY_COUNTS, Plan
from hansa.protocol.messages import (
    Contribution,
    CountCells,
    Finish,
    Message,
    ShowRows,
    SplitNodes,
    UseCuts,
    VouchRows,
    decode,
    encode,
    to_tensor,
)
from hansa.roles.summed import growing_trees
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.verified_counts import SIGNING_PURPOSE, Evidence, Named, Naming, check_evidence, signed_bytes
from hansa.secure.vouching import VOUCH_BYTES
from hansa.trees import growth
from hansa.trees.level import BOTH_LEAVES, Level
from hansa.trees.losses import LOSSES, tells_rows
from hansa.trees.objective import Scales
from made_tables import NAMES, coded, plan, spread, table

PARTIES = NAMES[:3]
TWO = Policy(allow_two_parties=True, least_party_rows=0)
ROWS = table(900)
TABLES = spread(ROWS, np.arange(900) % 3)
ME, OTHER = "borealis", "aurora"
UNSHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Runs take seconds: a failing one is shown as it was drawn."""

LEAST_OF_ALL = -(2**63)
NOTHING = np.zeros(0, np.int64)


def counted(when: str = "after", parties: tuple[str, ...] = PARTIES, **given: object) -> Plan:
    return replace(plan(parties, mode="secure-aggregation", **given), verify_counts=when)


def conversation(when: str = "after", **given: object) -> Conversation:
    return Conversation(counted(when, **given), TABLES)


# --- honest runs ------------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None, phases=UNSHRUNK)
@given(
    parties=st.sampled_from([2, 3, 5, 10, 32]),
    when=st.sampled_from(["tree", "after", "before"]),
    given_=st.fixed_dictionaries(
        {
            "objective": st.sampled_from(sorted(LOSSES)),
            "weighted": st.booleans(),
            "subsample": st.sampled_from([0.3, 1.0]),
            "colsample_bytree": st.sampled_from([0.5, 1.0]),
            "histogram_bits": st.sampled_from([32, 64]),
            "min_child_weight": st.sampled_from([0.0, 1.0, 7.0]),
            "evaluation": st.sampled_from([0.0, 0.3]),
            "max_depth": st.sampled_from([1, 4]),
            "grow_policy": st.sampled_from(["depthwise", "lossguide"]),
            "max_leaves": st.sampled_from([0, 6]),
            "num_parallel_tree": st.sampled_from([1, 2]),
            "colsample_bynode": st.sampled_from([0.5, 1.0]),
            "categories": st.booleans(),
        }
    ),
    least=st.sampled_from([1, 6]),
    seed=st.integers(0, 100),
)
def test_the_model_is_the_same_with_and_without_counts_and_in_federated_mode(parties, when, given_, least, seed):
    names = tuple(f"p{i:02}" for i in range(parties))
    rows = table(640, given_["objective"], weighted=given_["weighted"], seed=seed)
    rows = coded(rows) if given_["categories"] else rows
    tables = {
        name: Rows(
            np.ascontiguousarray(rows.features[:, i::parties]),
            rows.label[i::parties],
            None if rows.weight is None else rows.weight[i::parties],
        )
        for i, name in enumerate(names)
    }
    least = 1 if not tells_rows(given_["objective"]) else least
    chosen = replace(counted(when, names, **given_), min_child_rows=least)
    if given_["evaluation"]:
        chosen = replace(chosen, parameters=replace(chosen.parameters, early_stopping_rounds=1))
    models = {
        train_in_process(each, tables, policy=TWO, nodes_per_frame=1).outcome.model
        for each in (
            chosen,
            replace(chosen, verify_counts="off"),
            replace(chosen, mode="federated", verify_counts="off"),
        )
    }
    assert len(models) == 1


def test_counts_that_come_after_take_no_exchange_more_and_counts_before_take_one_a_level():
    runs = {when: train_in_process(counted(when), TABLES) for when in VERIFY_COUNTS}
    trips = {when: run.traffic[ME].frames_up for when, run in runs.items()}
    assert trips["after"] == trips["tree"] == trips["off"]
    levels = sum(len(tree.left_children) > 1 for tree in runs["off"].outcome.ensemble.trees)
    assert trips["before"] > trips["off"] + levels


@pytest.mark.parametrize("when", ["tree", "after", "before"])
def test_what_is_shown_are_the_pooled_rows_of_every_child(when, monkeypatch):
    """Against the rows themselves, routed by the finished model."""
    seen = []
    talk = conversation(when, rounds=1)
    original = Naming.settle

    def watching(self: Naming, named: Named, counts: np.ndarray) -> None:
        seen.append((named.tree, named.step, counts.tolist()))
        original(self, named, counts)

    monkeypatch.setattr(Naming, "settle", watching)
    talk.finish()
    assert talk.aggregator.outcome is not None
    tree = talk.aggregator.outcome.ensemble.trees[0]
    rows_of = dict.fromkeys(range(len(tree.left_children)), 0)
    for row in range(ROWS.n_rows):
        node = 0
        while True:
            rows_of[node] += 1
            if tree.left_children[node] < 0:
                break
            value = ROWS.features[tree.split_indices[node], row]
            left = tree.default_left[node] if np.isnan(value) else value < tree.split_conditions[node]
            node = (tree.left_children if left else tree.right_children)[node]
    # Nodes are numbered level by level, as they are named.
    named = [
        count
        for number, _, counts in dict.fromkeys((t, s, tuple(c)) for t, s, c in seen)
        if number == 0
        for count in counts
    ]
    assert named == [rows_of[node] for node in range(1, len(tree.left_children))]


# --- an aggregator that asks what it must not --------------------------------------------------------------------------


def unchecked(named: Named) -> Named:
    """The same without a rule."""
    return named._replace(least=np.full(named.size, LEAST_OF_ALL), whole=named.whole[:0])


class Liar(Aggregator):
    """Does not check what it shows."""

    def _join(self, member, message):  # type: ignore[no-untyped-def]
        yield from super()._join(member, message)
        if self._counts is not None:
            name = self._counts.name
            self._counts.name = lambda named: name(named and unchecked(named))  # type: ignore[method-assign]


def attacked(chosen: Plan, tables: dict[str, Rows], aggregator: type[Aggregator]) -> tuple[Aggregator, dict[str, str]]:
    """A run under a lying aggregator over real parties; what each party said when it refused, if it did."""
    talk = Conversation(chosen, tables)
    talk.aggregator = aggregator(chosen, identities=identities(chosen), signer=signer(chosen, chosen.aggregator))
    refusals: dict[str, str] = {}
    while talk.down or (talk.up and not refusals):
        if talk.up and not refusals:
            talk.submit(*talk.up.popleft())
            continue
        name, frame = talk.down.popleft()
        try:
            talk.deliver(name, frame)
        except ProtocolError as error:
            refusals[name] = str(error)
    return talk.aggregator, refusals


N = 3000


@functools.cache
def continuous() -> tuple[Rows, dict[str, Rows]]:
    rng = np.random.default_rng(5)
    features = np.stack([rng.lognormal(10, 1, N), *rng.normal(size=(4, N))]).astype(np.float32)
    rows = Rows(features, (features[1] + rng.logistic(size=N) > 0).astype(np.float32), None)
    return rows, spread(rows, np.arange(N) % 3)


class Refiner(Liar):
    """Refines the lightest cells in place of the heavy ones, down to exact values."""

    def _join(self, member, message):  # type: ignore[no-untyped-def]
        self.lightest = []
        yield from super()._join(member, message)

    def _counted(self, message, counts, weights):  # type: ignore[no-untyped-def]
        last = self._refined if hasattr(self, "_refined") else self._search.request()
        child = 12 if last.bits == 0 else last.bits + 5
        if child == 32:
            self.lightest.append((child, int(counts[counts > 0].min())))
            return
        limit = min(4 * self._plan.parameters.max_bin, self._n_rows // (self._plan.min_cell_rows + 1))
        chosen = []
        for f in range(len(last.offsets) - 1):
            parts = counts[last.offsets[f] * last.split : last.offsets[f + 1] * last.split]
            cells = (
                last.prefixes[last.offsets[f] : last.offsets[f + 1]].astype(np.int64)[:, None] * last.split
            ) + np.arange(last.split)
            light = np.flatnonzero(parts)
            light = light[np.argsort(parts[light], kind="stable")][:limit]
            self.lightest.append((child, int(parts[light].min())))
            chosen.append(np.sort(cells.ravel()[light]).astype(np.uint32))
        offsets = np.concatenate([[0], np.cumsum([len(each) for each in chosen])]).astype(np.int64)
        request = self._refined = CutRequest(child, offsets, np.concatenate(chosen))
        self._step += 1
        self._expect({"cells": (request.n_counts,)}, np.uint32)
        self._session.go(message, "cutting")
        yield from self._broadcast(CountCells(child, to_tensor(offsets), to_tensor(request.prefixes)))
        if self._counts is not None:
            self._counts.name(self._counts.naming.cells(self._step, request))


@pytest.mark.parametrize(("when", "finest"), [("off", 32), ("tree", 17), ("after", 17), ("before", 12)])
def test_an_aggregator_that_refines_the_lightest_cells_is_caught(when, finest):
    """Off: it gets exact values. After: five bits more, once. Before: nothing but the first count."""
    _, tables = continuous()
    chosen = replace(counted(when, max_bin=256), min_cell_rows=50)
    liar, refusals = attacked(chosen, tables, Refiner)
    known, rows = liar.lightest[-1]
    assert known == finest
    assert rows < chosen.min_cell_rows
    assert set(refusals) == (set() if when == "off" else set(PARTIES))
    for why in refusals.values():
        assert "'hub'" in why
        assert "of 12 bits of feature 'a' holds" in why
        assert "the plan allows no fewer than 51" in why


def isolating(targets: np.ndarray, features: np.ndarray, got: list[tuple[int, bool]]):  # type: ignore[no-untyped-def]
    """A `Grower.decide` that walks to one known row a tree by three of its values; writes (rows known by, ...) to `got`."""
    state: dict[str, int] = {"tree": -1}

    def decide(self: growth.Grower) -> Level:
        depth, active, offsets = self._depth, len(self.nodes), self._layout.offsets
        if depth == 0:
            state["tree"] += 1
            state["at"] = 0
        target = targets[state["tree"]]
        cuts = state["cuts"]
        codes = [int(np.searchsorted(cuts.of(f), features[f, target], side="right")) for f in range(3)]
        running = self.nodes[state["at"], 0]
        total = int(running[int(offsets[1]) - 1])
        feature = np.full(active, -1, np.int32)
        bins = np.zeros(active, np.int32)
        f, below = divmod(depth, 2)
        children = np.zeros((0, 2), np.int64)
        alone = total & 0xFFFFFFFF
        got.append((state["tree"], depth, alone, total >> 32))
        last = depth == 6
        if not last:
            cut = max(codes[f] - below, 0) if codes[f] - below >= 0 else codes[f]
            feature[state["at"]], bins[state["at"]] = f, cut
            left = int(running[int(offsets[f]) + cut])
            children = np.array([divmod(left, 2**32), divmod(total - left, 2**32)], np.int64)
            where = np.array([state["at"]])
            state["at"] = 0 if codes[f] <= cut else 1
        level = Level(
            feature, bins, np.zeros(active, np.uint8), np.zeros(active, np.float32),
            np.zeros(0 if last else 1, np.uint8) + 1, np.zeros(0, np.float32),
        )  # fmt: skip
        if not last:
            self._below = growth._Below(where, level.build_left, children, self._bounds)
        self._decided.append(growth._Decided(level, np.zeros(active), self._totals, self._bounds, children))
        return level

    return decide, state


@pytest.mark.parametrize("when", ["off", "tree", "after", "before"])
def test_an_aggregator_that_isolates_a_row_a_tree_is_caught_at_the_first(monkeypatch, when):
    """Off: it reads a known row's label in every tree. After a tree or level: of one row in all. Before: of none."""
    rows, tables = continuous()
    targets = np.arange(40, 46)
    got: list[tuple[int, int, int, int]] = []
    decide, state = isolating(targets, rows.features, got)
    monkeypatch.setattr(growth.Grower, "decide", decide)

    class Isolating(Liar):
        def _start_training(self, cuts):  # type: ignore[no-untyped-def]
            state["cuts"] = cuts
            yield from super()._start_training(cuts)

    chosen = counted(when, rounds=len(targets), max_depth=7, max_bin=256, min_child_weight=1)
    _, refusals = attacked(chosen, tables, Isolating)
    scale = got[0][2] / (N / 4)
    isolated = {tree for tree, _, hessian, _ in got if hessian < 1.5 * scale / 4}
    read = {
        tree
        for tree, _, hessian, gradient in got
        if hessian < 1.5 * scale / 4 and (gradient < 0) == (rows.label[targets[tree]] == 1)
    }
    if when == "off":
        assert len(isolated) == len(read) == len(targets)
        return
    assert len(isolated) == (when != "before")
    assert set(refusals) == set(PARTIES)
    for why in refusals.values():
        assert "'hub'" in why
        assert "rows of all parties; the plan allows no fewer than 4" in why


def test_a_minimum_in_hessian_that_the_aggregator_ignores_binds_at_the_first_split(monkeypatch):
    """`min_child_weight` = 1e6 was a promise that only the aggregator kept; in rows of 1/4 it is 4,000,000."""
    rows, tables = continuous()
    got: list[tuple[int, int, int, int]] = []
    decide, state = isolating(np.arange(40, 46), rows.features, got)
    monkeypatch.setattr(growth.Grower, "decide", decide)

    class Isolating(Liar):
        def _start_training(self, cuts):  # type: ignore[no-untyped-def]
            state["cuts"] = cuts
            yield from super()._start_training(cuts)

    _, refusals = attacked(
        counted("after", rounds=6, max_depth=7, max_bin=256, min_child_weight=1e6), tables, Isolating
    )
    assert set(refusals) == set(PARTIES)
    assert all("child of node 0 in level 0 of tree 0" in why for why in refusals.values())
    assert all("no fewer than 4000000" in why for why in refusals.values())
    assert max(depth for _, depth, _, _ in got) == 1


# --- a hub that changes what it shows ----------------------------------------------------------------------------------


def edited(message: Message, **fields: object) -> Message:
    return msgspec.structs.replace(message, **fields)


def refused(talk: Conversation, message: Message, *rules: str, party: str = ME) -> None:
    before = len(talk.up)
    with pytest.raises(ProtocolError) as caught:
        talk.deliver(party, encode(message))
    assert len(talk.up) == before
    for rule in ("'hub'", *rules):
        assert rule in str(caught.value), str(caught.value)
    with pytest.raises(ProtocolError, match="aborted"):
        talk.deliver(party, encode(message))


def words_of(message: ShowRows) -> np.ndarray:
    return np.frombuffer(message.words, "<u8").reshape(3, -1).copy()


def with_words(message: ShowRows, words: np.ndarray) -> ShowRows:
    return edited(message, words=memoryview(words.tobytes()))  # type: ignore[return-value]


STAGES = {"cells": 1, "nodes": 5}
"""Which ShowRows to a party is of cells, and which of a tree's nodes."""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("when", ["after", "before"])
class TestChangedCounts:
    def shown(self, when: str, stage: str, party: str = ME) -> tuple[Conversation, ShowRows]:
        talk = conversation(when)
        message = talk.until(ShowRows, party, STAGES[stage])
        assert isinstance(message, ShowRows)
        return talk, message

    def test_a_changed_count_of_another_party(self, when, stage):
        talk, message = self.shown(when, stage)
        words = words_of(message)
        words[2, 0] += 1
        refused(talk, with_words(message, words), "'cirrus' that it did not vouch for")

    def test_counts_moved_between_two_others_so_that_the_sum_stays(self, when, stage):
        talk, message = self.shown(when, stage)
        words = words_of(message)
        words[0, 0] += 5
        words[2, 0] -= 5
        refused(talk, with_words(message, words), "'aurora' that it did not vouch for")

    def test_two_parties_swapped(self, when, stage):
        talk, message = self.shown(when, stage)
        tags = bytes(message.tags)
        swapped = edited(
            with_words(message, words_of(message)[[2, 1, 0]]), tags=memoryview(tags[VOUCH_BYTES:] + tags[:VOUCH_BYTES])
        )
        refused(talk, swapped, "did not vouch for")

    def test_a_changed_count_of_the_party_itself(self, when, stage):
        talk, message = self.shown(when, stage)
        words = words_of(message)
        words[1, 0] += 1
        refused(talk, with_words(message, words), "'borealis' that this party did not send")

    def test_a_party_left_out(self, when, stage):
        talk, message = self.shown(when, stage)
        refused(talk, with_words(message, words_of(message)[:2]), "expected", "from each of 3 parties")

    def test_a_proof_left_out(self, when, stage):
        talk, message = self.shown(when, stage)
        refused(talk, edited(message, tags=message.tags[VOUCH_BYTES:]), "2 proofs")

    def test_proofs_meant_for_another_party(self, when, stage):
        _, meant = self.shown(when, stage, OTHER)
        talk, message = self.shown(when, stage)
        refused(talk, edited(message, tags=meant.tags), "did not vouch for")

    def test_counts_of_another_run(self, when, stage):
        other = Conversation(counted(when), TABLES, first_nonce=100).until(ShowRows, ME, STAGES[stage])
        talk, _ = self.shown(when, stage)
        refused(talk, other, "row counts are shown as those of")

    def test_no_counts_at_all(self, when, stage):
        talk, message = self.shown(when, stage)
        empty = to_tensor(np.zeros(0, np.uint8))
        asked = CountCells(17, empty, empty) if stage == "cells" else SplitNodes(0, 0, *[empty] * 8, 1.0)
        plain = decode("hub", message.frame) if len(message.frame) else asked
        refused(talk, plain, "came before the row counts")

    def test_counts_twice(self, when, stage):
        talk, message = self.shown(when, stage)
        if when == "after":
            message = edited(message, frame=memoryview(encode(message)))
            refused(talk, message, "no request named")
        else:
            talk.deliver(ME, encode(message))
            refused(talk, message, "no request named")

    def test_a_broadcast_where_none_belongs_or_none_where_one_does(self, when, stage):
        talk, message = self.shown(when, stage)
        frame = encode(SplitNodes(0, 0, *[to_tensor(np.zeros(0, np.uint8))] * 8, 1.0)) if when == "before" else b""
        refused(talk, edited(message, frame=memoryview(frame)), "where they come")


def test_counts_of_another_level_do_not_fit():
    """Both levels have as many children, and the masks of each cancel: only the proofs tell them apart."""
    talk = conversation("after", max_depth=1)
    first = talk.until(ShowRows, ME, STAGES["nodes"])
    talk.deliver(ME, encode(first))
    second = talk.until(ShowRows, ME)
    assert len(first.words) == len(second.words)
    refused(talk, edited(second, words=first.words, tags=first.tags), "row counts are shown as those of")


def test_parties_that_received_different_splits_do_not_believe_each_other():
    """The aggregator names a node to one party and another to the next: their proofs bind what they received."""
    talk = conversation("before")
    message = talk.until(SplitNodes, OTHER)
    feature = np.frombuffer(message.bin.data, "<i4").copy()
    feature[feature > 0] -= 1
    talk.deliver(OTHER, encode(edited(message, bin=to_tensor(feature))))
    with pytest.raises(ProtocolError, match="masks do not cancel"):
        talk.finish()
    # The aggregator above is honest and stops. One that goes on is stopped by the parties.
    talk = conversation("before")
    message = talk.until(SplitNodes, OTHER)
    talk.deliver(OTHER, encode(edited(message, bin=to_tensor(feature))))
    given: dict[str, VouchRows] = {}
    while len(given) < 3:
        if talk.up:
            name, frame = talk.up.popleft()
            given[name] = decode(name, frame)
        else:
            talk.deliver(*talk.down.popleft())
    words = memoryview(b"".join(bytes(given[name].words) for name in PARTIES))
    tags = bytes(given[OTHER].tags[:VOUCH_BYTES]) + bytes(given["cirrus"].tags[VOUCH_BYTES:])
    refused(talk, ShowRows(words, memoryview(tags), b"", memoryview(b"")), "'aurora' that it did not vouch for")


def test_the_last_level_is_shown_before_the_run_may_end():
    talk = conversation(rounds=1)
    talk.until(ShowRows, ME, sum(1 for _ in shown_to(ME, conversation(rounds=1))))
    refused(talk, Finish(1, bytes(32), b""), "Finish came before the row counts")


def shown_to(party: str, talk: Conversation) -> Iterator[ShowRows]:
    """Every ShowRows that a party gets in a whole run."""
    while talk.up or talk.down:
        at = talk.up or talk.down
        name, frame = at.popleft()
        if at is talk.down and name == party and isinstance(message := decode("hub", frame), ShowRows):
            yield message
        (talk.submit if at is talk.up else talk.deliver)(name, frame)


# --- signatures --------------------------------------------------------------------------------------------------------


def test_where_cells_are_counted_and_where_every_eighth_tree_and_the_last_end_the_aggregator_signs():
    signed = [bool(message.signature) for message in shown_to(ME, conversation("after", rounds=10, max_depth=1))]
    cells = signed.index(False)
    assert cells >= 1
    assert signed[cells:] == [False] * 7 + [True, False, True]


def test_a_signature_that_is_wrong_or_missing_is_refused():
    talk = conversation()
    message = talk.until(ShowRows, ME)
    refused(talk, edited(message, signature=bytes(64)), "signature over its broadcasts is wrong")
    talk = conversation()
    refused(talk, edited(talk.until(ShowRows, ME), signature=b""), "signature over its broadcasts is wrong")
    talk = conversation()
    refused(talk, edited(talk.until(ShowRows, ME, STAGES["nodes"]), signature=bytes(64)), "where none is due")


def finished() -> Conversation:
    talk = conversation()
    talk.finish()
    return talk


def test_a_third_person_reads_the_pooled_counts_in_what_the_aggregator_signed():
    talk = finished()
    public = identity("hub").public
    held = [party.evidence for party in talk.parties.values()]
    assert held[0] == held[1] == held[2]
    counts = check_evidence(held[0], public, len(PARTIES))
    assert counts[0].sum() == ROWS.n_rows
    assert all(each.min() >= 4 for each in counts)
    forged = replace(held[0], broadcasts=held[0].broadcasts[:-1])
    with pytest.raises(IdentityError):
        check_evidence(forged, public, len(PARTIES))
    with pytest.raises(IdentityError):
        check_evidence(replace(held[0], run=bytes(32)), public, len(PARTIES))
    with pytest.raises(IdentityError):
        check_evidence(held[0], identity("aurora").public, len(PARTIES))


def test_signed_counts_below_the_minimum_convict():
    """An aggregator that signs what it shows, and shows what it did, hands out the proof."""
    words = np.array([[7, 2, 9], [2**64 - 7, 2**64 - 1, 2**64 - 5], [40, 0, 2**64 - 4]], np.uint64)
    section = Evidence(b"r" * 32, b"s" * 32, (("ShowRows", words.tobytes()),), b"")
    signed = replace(section, signature=identity("hub").sign(SIGNING_PURPOSE, signed_bytes(section.run, section.end)))
    assert [each.tolist() for each in check_evidence(signed, identity("hub").public, 3)] == [[40, 1]]
    words[0, 2] += 1
    noise = replace(section, broadcasts=(("ShowRows", words.tobytes()),))
    noise = replace(noise, signature=identity("hub").sign(SIGNING_PURPOSE, signed_bytes(noise.run, noise.end)))
    with pytest.raises(ProtocolError, match="do not cancel"):
        check_evidence(noise, identity("hub").public, 3)


def test_an_aggregator_without_an_identity_cannot_have_counts_verified():
    with pytest.raises(IdentityError, match=r"privacy.verify_counts = 'after'"):
        Aggregator(counted(), identities=identities(counted()))


# --- base scores and scales that would disarm the rule -----------------------------------------------------------------


def test_a_scale_too_coarse_to_tell_rows_is_refused():
    class Coarse(Liar):
        def _scale(self, totals):  # type: ignore[no-untyped-def]
            message = super()._scale(totals)
            self._growth.trees[0].scales = replace(self._growth.trees[0].scales, hessian=1.0)
            return edited(message, hessian_scale=1.0)

        def _start_trees(self):  # type: ignore[no-untyped-def]
            super()._start_trees()
            self._counts.naming.start_trees(self._tree, [replace(self._growth.trees[0].scales, hessian=2.0**24)], 1.0)

    _, refusals = attacked(counted(), TABLES, Coarse)
    assert set(refusals) == set(PARTIES)
    assert all("coarser than 900 rows need" in why for why in refusals.values())


def test_weights_that_the_plan_does_not_have_are_refused():
    talk = conversation()
    message = next(m for m in iter(lambda: talk.until(ShowRows, ME), None) if _delivered_unless_cuts(talk, m))
    cuts = edited(decode("hub", message.frame), weight_exponent=10)
    refused(talk, edited(message, frame=memoryview(encode(cuts))), "weights are said to exceed 1")


def _delivered_unless_cuts(talk: Conversation, message: ShowRows) -> bool:
    if isinstance(decode("hub", message.frame), UseCuts):
        return True
    talk.deliver(ME, encode(message))
    return False


# --- a party that lies -------------------------------------------------------------------------------------------------


def refused_up(talk: Conversation, member: str, message: Message, rule: str) -> None:
    before = len(talk.down)
    with pytest.raises(HansaError, match=rule):
        talk.submit(member, encode(message))
    assert len(talk.down) == before


@pytest.mark.parametrize("when", ["after", "before"])
class TestPartyThatLies:
    def vouched(self, when: str) -> tuple[Conversation, VouchRows]:
        talk = conversation(when)
        message = talk.until_up(VouchRows, ME, lambda _, m: m.tree == 0)
        assert isinstance(message, VouchRows)
        return talk, message

    def test_counts_that_do_not_add_up(self, when):
        talk, message = self.vouched(when)
        words = np.frombuffer(message.words, "<u8").copy()
        words[0] += np.uint64(1)
        talk.submit(ME, encode(edited(message, words=memoryview(words.tobytes()))))
        with pytest.raises(HansaError, match="a party's count is false"):
            talk.finish()

    def test_words_that_are_no_masked_vector(self, when):
        talk, message = self.vouched(when)
        talk.submit(ME, encode(edited(message, words=memoryview(bytes(len(message.words))))))
        with pytest.raises(ProtocolError, match="the masks do not cancel"):
            talk.finish()

    def test_counts_of_another_size(self, when):
        talk, message = self.vouched(when)
        refused_up(talk, ME, edited(message, words=message.words[8:]), "'borealis' sent row counts of")

    def test_counts_without_proofs(self, when):
        talk, message = self.vouched(when)
        refused_up(talk, ME, edited(message, tags=message.tags[1:]), "'borealis' sent row counts of")

    def test_counts_twice(self, when):
        talk, message = self.vouched(when)
        talk.submit(ME, encode(message))
        refused_up(
            talk, ME, message, "'borealis' sent row counts of tree 0, step 1, that are not due, or for a second time"
        )

    def test_counts_of_another_place(self, when):
        talk, message = self.vouched(when)
        refused_up(talk, ME, edited(message, step=7), "step 7, that are not due")

    def test_an_answer_without_counts(self, when):
        talk, message = self.vouched(when)
        answer = message.then or Contribution(0, 2, "histograms", 0, to_tensor(np.zeros((1, 1, 1), np.int64)))
        refused_up(talk, ME, answer, "'borealis' sent .* expected its row counts before or with this")

    def test_counts_with_an_answer_where_they_come_first_or_without_where_not(self, when):
        talk, message = self.vouched(when)
        answer = Contribution(0, 2, "histograms", 0, to_tensor(np.zeros((1, 1, 1), np.int64)))
        refused_up(talk, ME, edited(message, then=None if when == "after" else answer), "its answer")


def test_a_party_whose_count_exceeds_the_pooled_one_is_told_by_every_other():
    """Masks hide whose count is false; that one is, shows as soon as it is below a party's own."""
    named = Named(0, 1, 2, np.ones(2, np.int64), 900, NOTHING, NOTHING, None, False, False, [(0, 0, np.array([0]))])
    words = np.array([[5, 7, 1], [2**64 - 2, 1, 2**64 - 1]], np.uint64).tobytes()
    assert named.pooled(words, np.array([3, 8])).tolist() == [3, 8]
    with pytest.raises(ProtocolError, match="less than this party's own"):
        named.pooled(words, np.array([4, 0]))
    assert "holds 0 rows of all parties; the plan allows no fewer than 1" in named.broken(np.array([0, 900]))
    assert "all parties have 900" in named.broken(np.array([1, 901]))


# --- the rules, by themselves ------------------------------------------------------------------------------------------


@given(
    counts=st.lists(st.integers(0, 60), min_size=2, max_size=12).filter(lambda c: len(c) % 2 == 0),
    least=st.integers(1, 5),
    lie=st.sampled_from([0, 0, 1, -1, 7]),
    at=st.integers(0, 11),
)
def test_children_are_refused_if_and_only_if_one_is_too_small_or_they_do_not_add_up(counts, least, lie, at):
    whole = np.array(counts).reshape(-1, 2).sum(axis=1)
    said = np.array(counts)
    said[at % len(said)] += lie
    unnamed = np.full(len(whole), -1)
    leasts, where = np.full(len(said), least), [(0, 0, np.arange(len(said)))]
    named = Named(0, 1, len(said), leasts, 10_000, whole, unnamed, None, False, False, where)
    right = all(count >= least for count in said) and lie == 0
    assert (named.broken(said) == "") == right
    words = np.append(said, 0).astype(np.int64).tobytes()
    with contextlib.nullcontext() if right else pytest.raises(ProtocolError):
        assert named.pooled(words, np.zeros(len(said), np.int64)).tolist() == said.tolist()


def level_of(splits: list[bool], last: bool) -> Level:
    feature = np.where(splits, 0, -1).astype(np.int32)
    built = np.ones(0 if last else sum(splits), np.uint8)
    none = np.zeros(len(splits))
    return Level(
        feature, none.astype(np.int32), none.astype(np.uint8), none.astype(np.float32), built, np.zeros(0, np.float32)
    )


@given(data=st.data(), sampled=st.booleans(), depth=st.integers(1, 4))
def test_a_whole_tree_is_named_at_its_end_and_every_count_of_it_must_fit_its_parent(data, sampled, depth):
    """Against rows that fall down a tree of any shape: a count that is off by any number is refused, and where it stands is said."""
    chosen = counted("tree", max_depth=depth, min_child_weight=0, subsample=0.5 if sampled else 1.0)
    rows = 500
    naming = Naming(chosen, rows)
    naming.start(1.0)
    naming.start_trees(0, [Scales(1.0, 2.0**55, 2)], 1.0)
    active, counts, named = [rows], [], None
    for number in range(depth):
        splits = [count > 1 and data.draw(st.booleans()) for count in active]
        children = []
        for count, parted in zip(active, splits, strict=True):
            left = data.draw(st.integers(1, count - 1)) if parted else 0
            children += [left, count - left] if parted else []
        last = number == depth - 1 or not any(splits)
        named = naming.nodes(number, {0: level_of(splits, last)})
        assert last or named is None
        counts += children
        active = children
        if last:
            break
    assert (named is None) == (not counts)
    if named is None:
        return
    said = np.array(counts)
    assert named.size == len(said)
    assert named.broken(said) == ""
    words = np.append(said, 0).astype(np.int64).tobytes()
    assert named.pooled(words, np.zeros(len(said), np.int64)).tolist() == counts
    at = data.draw(st.integers(0, len(said) - 1))
    said[at] += data.draw(st.sampled_from([-3, -1, 1, 7]))
    wrong = not sampled or at > 1 or said[at] < 1  # nobody knows how many rows the draws left
    if wrong or len(said) > 2:
        with (
            contextlib.nullcontext()
            if not wrong and named.broken(said) == ""
            else pytest.raises(ProtocolError, match="tree 0")
        ):
            named.pooled(np.append(said, 0).astype(np.int64).tobytes(), np.zeros(len(said), np.int64))
    assert not wrong or "tree 0" in named.broken(said)
    assert "in level 0 of tree 0" in named.describe(1)


@pytest.mark.parametrize("when", ["tree", "after", "before"])
def test_nodes_of_best_first_trees_are_counted_in_every_setting(when):
    """Small nodes are named as a plan for more rows a node would have them refused, at the first tree."""
    given = {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 12, "min_child_weight": 0, "rounds": 3}
    honest = counted(when, **given)
    runs = [train_in_process(each, TABLES) for each in (honest, replace(honest, verify_counts="off"))]
    assert runs[0].outcome.model == runs[1].outcome.model
    sizes = [sum(tree.left_children < 0) for tree in runs[0].outcome.ensemble.trees]
    assert max(sizes) > 5


@pytest.mark.parametrize("when", ["tree", "after", "before"])
def test_an_aggregator_that_grows_best_first_below_the_least_rows_is_caught(when, monkeypatch):
    """It splits as if the plan asked for one row a node, and the plan asks for 60."""
    given = {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 12, "min_child_weight": 0, "rounds": 2}
    chosen = replace(counted(when, **given), min_child_rows=60)
    monkeypatch.setattr(growing_trees, "hessian_of", lambda *_: 1)
    _, refusals = attacked(chosen, TABLES, Liar)
    assert set(refusals) == set(PARTIES)
    assert all("'hub'" in why and "of tree 0" in why for why in refusals.values())


@given(data=st.data(), when=st.sampled_from(["tree", "after"]))
def test_counts_of_a_best_first_tree_must_fit_those_of_the_nodes_that_they_are_parts_of(data, when):
    """Rows fall down a tree one split, or a few, at a time, while other nodes wait; then one count is off."""
    chosen = counted(when, grow_policy="lossguide", max_depth=0, max_leaves=99, min_child_weight=0)
    naming = Naming(chosen, 400)
    naming.start(1.0)
    naming.start_trees(0, [Scales(1.0, 2.0**55, 2)], 1.0)
    active, wholes, counts, named = [400], [], [], None
    for number in range(data.draw(st.integers(1, 5))):
        can = [at for at, count in enumerate(active) if count > 1]
        nodes = data.draw(st.lists(st.sampled_from(can), min_size=1, max_size=3, unique=True)) if can else []
        last = not nodes or number == 4 or data.draw(st.booleans())
        children = []
        for at in nodes:
            left = data.draw(st.integers(1, active[at] - 1))
            children.append((left, active[at] - left))
            wholes.append(active[at])
        built = np.full(0 if last else len(nodes), BOTH_LEAVES, np.uint8)
        built[-1:] = 1
        order = [*nodes, *(at for at in range(len(active)) if at not in nodes)] if last else nodes
        feature = np.full(len(order), -1, np.int32)
        feature[: len(nodes)] = 0
        none = np.zeros(len(order))
        told = Level(
            feature, none.astype(np.int32), none.astype(np.uint8), none.astype(np.float32), built,
            np.zeros(2 * (len(nodes) - (not last)), np.float32), np.array(order, np.int32),
        )  # fmt: skip
        named = naming.nodes(number, {0: told})
        new = [count for pair in children for count in pair]
        counts += new
        waiting = [count for at, count in enumerate(active) if at not in nodes]
        active = [] if last else [*new[-2:], *waiting]
        if when == "after" and named is not None:
            assert named.broken(np.array(new)) == ""
            off = np.array(new)
            off[data.draw(st.integers(0, len(new) - 1))] += data.draw(st.sampled_from([-2, 1, 5]))
            assert named.broken(off) != ""
            naming.settle(named, np.array(new))
        if last:
            break
    if when == "after" or not last:
        return
    assert (named is None) == (not counts)
    if named is not None:
        assert named.broken(np.array(counts)) == ""
        off = np.array(counts)
        off[data.draw(st.integers(0, len(counts) - 1))] += data.draw(st.sampled_from([-2, 1, 5]))
        assert "tree 0" in named.broken(off)


def request(bits: int, *cells: list[int]) -> CutRequest:
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in cells])]).astype(np.int64)
    return CutRequest(bits, offsets, np.array([c for each in cells for c in each], np.uint32))


def test_cells_must_hold_more_than_the_minimum_and_no_more_than_the_cell_that_they_are_parts_of():
    chosen = replace(counted(), schema=Schema(("a", "b"), "y"), min_cell_rows=9)
    naming = Naming(chosen, 100)
    assert naming.cells(2, request(0, [0], [0])) is None
    first = naming.cells(3, request(12, [5, 9], [5]))
    assert first.broken(np.array([50, 50, 10])) == ""
    assert "cell 0x5 of 12 bits of feature 'b' holds 9 rows" in first.broken(np.array([50, 50, 9]))
    assert "said to hold 101 rows together" in first.broken(np.array([51, 50, 10]))
    naming.settle(first, np.array([50, 40, 20]))
    second = naming.cells(4, request(17, [5 * 32, 5 * 32 + 31, 9 * 32], [5 * 32 + 3]))
    assert second.broken(np.array([25, 25, 40, 20])) == ""
    assert "said to hold 51 rows together, what they are parts of 50" in second.broken(np.array([25, 26, 40, 20]))
    assert "parts of 20" in second.broken(np.array([25, 25, 40, 21]))
    naming.settle(second, np.array([25, 25, 40, 20]))
    third = naming.cells(5, request(22, [], [(5 * 32 + 3) * 32]))
    assert third.broken(np.array([20])) == ""
    assert third.broken(np.array([21])) != ""
    assert naming.cells(6, request(27, [], [])) is None


# --- min_child_rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_no_node_has_fewer_rows_than_min_child_rows(objective, mode):
    rows = table(900, objective)
    chosen = replace(plan(PARTIES, mode=mode, objective=objective, max_depth=6, min_child_weight=0), min_child_rows=25)
    run = train_in_process(chosen, spread(rows, np.arange(900) % 3))
    for tree in run.outcome.ensemble.trees:
        counts = np.zeros(len(tree.left_children), np.int64)
        for row in range(900):
            node = 0
            while tree.left_children[node] >= 0:
                value = rows.features[tree.split_indices[node], row]
                left = tree.default_left[node] if np.isnan(value) else value < tree.split_conditions[node]
                node = (tree.left_children if left else tree.right_children)[node]
            counts[node] += 1
        assert counts[tree.left_children < 0].min() >= 25
    smaller = train_in_process(replace(chosen, min_child_rows=1), spread(rows, np.arange(900) % 3))
    assert smaller.outcome.model != run.outcome.model


def test_min_child_rows_is_min_child_weight_of_so_many_rows():
    """In logistic loss 25 rows need more than 24/4: XGBoost's own parameter says the same."""
    chosen = replace(plan(PARTIES, max_depth=6, min_child_weight=0), min_child_rows=25)
    same = plan(PARTIES, max_depth=6, min_child_weight=np.nextafter(6.0, 7.0) + 1e-6)
    models = [train_in_process(each, TABLES).outcome.ensemble for each in (chosen, same)]
    assert models[0] == models[1] or all(
        np.array_equal(a.split_conditions, b.split_conditions)
        for a, b in zip(models[0].trees, models[1].trees, strict=True)
    )
