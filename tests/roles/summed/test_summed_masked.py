"""Secure aggregation gives federated mode's model, and an aggregator that keeps everything keeps sums and noise."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import hansa.roles.summed.sum_masking
import hansa.secure.masking
from conversation import Conversation
from hansa.data.holdout import HoldOut, held_out
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import HansaError
from hansa.node.in_process import InProcessRun, train_in_process
from hansa.plan import Plan
from hansa.protocol.messages import (
    AnnounceKey,
    ConfirmKeys,
    Contribution,
    CountMagnitudes,
    ExchangeKeys,
    Finish,
    Join,
    KeysConfirmed,
    Received,
    Welcome,
    decode,
    encode,
)
from hansa.secure.keys import PairKey
from hansa.secure.masking import Label, Masker
from hansa.simulation.tables import read_table
from hansa.transport.recording import RecordingHub, read_transcript
from hansa.trees.losses import LOSSES, is_logistic
from hansa.trees.parameters import parse_parameters
from made_tables import NAMES, plan, spread, table, take
from uniformity import looks_uniform

DATA = Path(__file__).parents[3] / "../shared/data"
PARTIES = NAMES[:3]


def masked(chosen: Plan) -> Plan:
    return replace(chosen, mode="secure-aggregation")


def same_run(first: InProcessRun, second: InProcessRun) -> None:
    assert first.outcome.model == second.outcome.model
    assert first.outcome.history == second.outcome.history
    assert first.outcome.exchanges == second.outcome.exchanges


# --- the law ----------------------------------------------------------------------------------------------------------


@st.composite
def jobs(draw):
    objective = draw(st.sampled_from(sorted(LOSSES)))
    evaluation = draw(st.sampled_from([0.0, 0.3]))
    given = {
        "objective": objective,
        "weighted": draw(st.booleans()),
        "rounds": draw(st.integers(1, 4)),
        "max_depth": draw(st.integers(1, 4)),
        "max_bin": draw(st.sampled_from([2, 7, 32, 300])),
        "colsample_bytree": draw(st.sampled_from([1.0, 0.6])),
        "histogram_bits": draw(st.sampled_from(["auto", 32, 64])),
        "subsample": draw(st.sampled_from([1.0, 1.0, 0.7])),
    }
    if is_logistic(objective):
        given["scale_pos_weight"] = draw(st.sampled_from([1, "auto", 2.5, 1e5]))
    if evaluation:
        given |= {
            "eval_metric": draw(
                st.lists(st.sampled_from(LOSSES[objective].metrics), min_size=1, max_size=2, unique=True)
            )
        }
        given |= {"evaluation": evaluation, "early_stopping_rounds": draw(st.sampled_from([None, 1])), "eta": 1.0}
        given["rounds"] = 6
    return given


@settings(max_examples=30, deadline=None)
@given(jobs(), st.integers(3, 6), st.integers(0, 2**32), st.data())
def test_the_model_is_federated_modes_to_the_byte(job, n_parties, seed, data):
    rows = table(140, job["objective"], weighted=job["weighted"], seed=seed % 5)
    rng = np.random.default_rng(seed)
    owners = rng.choice(n_parties, rows.n_rows, p=rng.dirichlet(np.full(n_parties, 0.7)))
    owners[rng.permutation(rows.n_rows)[:n_parties]] = np.arange(n_parties)
    tables = spread(rows, owners)
    held = job.get("evaluation", 0)
    for part in tables.values():
        assume(not held or not held_out(part.features, part.label, HoldOut(held, 0)).all())
    chosen = plan(tuple(tables), **job)
    turns = data.draw(st.randoms(use_true_random=False), "who is received next")
    frames = data.draw(st.sampled_from([0, 1, 3]), "nodes per frame")
    try:
        federated = train_in_process(chosen, tables)
    except HansaError as refused:  # predictions that the objective has no place for
        with pytest.raises(HansaError, match=re.escape(str(refused))):
            train_in_process(masked(chosen), tables, nodes_per_frame=frames, order=turns.choice)
        return
    secure = train_in_process(masked(chosen), tables, nodes_per_frame=frames, order=turns.choice)
    same_run(federated, secure)
    assert {party.model for party in secure.parties.values()} == {federated.outcome.model}


TABLES = {
    "cell_anomaly_4g": ("site", "unusual", "binary:logistic"),
    "lte_drop_rate": ("year", "drop_rate", "reg:squarederror"),
    "heart_disease": ("hospital", "disease", "binary:logistic"),
    "credit_default": ("lender", "default", "binary:logistic"),
    "adult": ("employer", "over_50k", "binary:logistic"),
    "higgs": ("party", "signal", "binary:logistic"),
}


@pytest.mark.parametrize("name", TABLES)
def test_on_real_tables_too(name):
    column, label, objective = TABLES[name]
    path = DATA / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    whole = read_table(path, label, column)
    members, owners = np.unique(whole.party.astype(str), return_inverse=True)
    if len(members) < 3:  # two sites, say: deal their rows to three
        owners = np.arange(whole.n_rows) % 3
    tables = {f"party-{i}": take(whole.rows(), np.flatnonzero(owners == i)) for i in range(int(owners.max()) + 1)}
    chosen = Plan(
        name=name,
        mode="federated",
        aggregator="hub",
        parties=tuple(tables),
        receivers=("hub",),
        minimum_parties=len(tables),
        schema=Schema(whole.names, label, None if whole.weight is None else "weight"),
        parameters=parse_parameters({"objective": objective, "rounds": 3, "max_depth": 5, "max_bin": 128}),
        evaluation_fraction=0.2,
    )
    federated, secure = (train_in_process(p, tables) for p in (chosen, masked(chosen)))
    same_run(federated, secure)
    assert all(tree.num_nodes > 1 for tree in secure.outcome.ensemble.trees)


# --- what the aggregator keeps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables():
    rows = table(600, weighted=True)
    return spread(rows, np.arange(600) % 3)


GIVEN = {"evaluation": 0.2, "eval_metric": ["auc", "logloss"], "weighted": True, "max_bin": 64, "rounds": 4}


def recorded(chosen: Plan, tables: dict[str, Rows], folder: Path):
    """The run, and (direction, member, message) of all that passed the hub."""
    run = train_in_process(chosen, tables, nodes_per_frame=2, wrap=lambda hub: RecordingHub(hub, folder))
    records = list(read_transcript(folder / "hub.frames"))
    return run, [(record.direction, record.member, decode(record.member, record.frame)) for record in records]


@pytest.fixture(scope="module")
def both(tables, tmp_path_factory):
    """The same plan and rows in both modes: {mode: (run, said)}."""
    chosen = plan(PARTIES, **GIVEN)
    made = {}
    for each in (chosen, masked(chosen)):
        made[each.mode] = recorded(each, tables, tmp_path_factory.mktemp(each.mode))
    return made


def parts(said) -> dict[str, dict[tuple[object, ...], np.ndarray]]:
    """member -> (tree, step, quantity, first) -> its words, unsigned."""
    found: dict[str, dict[tuple[object, ...], np.ndarray]] = {}
    for direction, member, message in said:
        if direction == "up" and isinstance(message, Contribution):
            words = np.frombuffer(message.values.data, "<u4" if message.quantity == "cells" else "<u8")
            place = (message.tree, message.step, message.quantity, message.first)
            assert place not in found.setdefault(member, {})
            found[member][place] = words
    return found


def test_every_partys_uploads_look_uniform(both):
    _, said = both["secure-aggregation"]
    found = parts(said)
    assert set(found) == set(PARTIES)
    for words in found.values():
        assert looks_uniform(words.values())


def test_so_do_the_sums_of_all_parties_but_one(both):
    _, said = both["secure-aggregation"]
    found = parts(said)
    first, second, third = found.values()
    for one, other in ((first, second), (first, third), (second, third)):
        assert looks_uniform([one[place] + other[place] for place in one])


def test_the_uniformity_test_finds_what_is_not(both):
    for words in parts(both["federated"][1]).values():
        assert not looks_uniform(words.values())
    _, said = both["secure-aggregation"]
    words = [w.copy() for w in parts(said)[PARTIES[0]].values()]
    assert looks_uniform(words)
    for w in words:
        w.view(np.uint8)[::40] = 7  # one byte in forty
    assert not looks_uniform(words)
    # The sum of all is not noise: it is what training needs.
    whole = parts(said)
    assert not looks_uniform([sum(whole[p][place] for p in PARTIES) for place in whole[PARTIES[0]]])


def test_one_mask_for_two_vectors_would_be_found(both):
    """What a party would leave if it masked neighbours with one word: differences give it away."""
    rng = np.random.default_rng(1)
    masks = rng.integers(0, 2**64, 2**17, dtype=np.uint64).repeat(2)
    assert not looks_uniform([masks + rng.integers(0, 1000, len(masks), dtype=np.uint64)])


def test_summed_over_parties_uploads_are_the_true_sums(both):
    clear, noise = (parts(both[mode][1]) for mode in ("federated", "secure-aggregation"))
    places = clear[PARTIES[0]].keys()
    assert len({quantity for _, _, quantity, _ in places}) == 9
    for member in PARTIES:
        assert noise[member].keys() == places
    for place in places:
        true, summed = (sum(found[member][place] for member in PARTIES) for found in (clear, noise))
        assert np.array_equal(true, summed), place


def test_zero_words_sum_to_zero_and_are_not_zero(both):
    totals: Counter[tuple[object, ...]] = Counter()
    words = []
    for direction, _, message in both["secure-aggregation"][1]:
        if direction == "up" and isinstance(message, Contribution):
            totals[message.tree, message.step, message.quantity] += message.zero
            words.append((message.quantity, message.zero))
    assert len(totals) > 20
    for (_, _, quantity), total in totals.items():
        assert total % (2**32 if quantity == "cells" else 2**64) == 0
        assert total > 0
    assert len({zero for _, zero in words if zero}) == sum(zero > 0 for _, zero in words)


def test_nothing_leaves_unmasked(both):
    """No word of any contribution is the true one."""
    clear, noise = (parts(both[mode][1]) for mode in ("federated", "secure-aggregation"))
    for member in PARTIES:
        for place, true in clear[member].items():
            assert not (noise[member][place] == true).any(), (member, place)


def test_what_else_a_party_says_is_the_listed_messages(both, tables):
    run, said = both["secure-aggregation"]
    kinds = {way: Counter(type(m) for d, _, m in said if d == way) for way in ("up", "down")}
    assert set(kinds["up"]) == {Join, AnnounceKey, ConfirmKeys, Contribution, Received}
    assert {ExchangeKeys, KeysConfirmed} < set(kinds["down"])
    for kind in (Join, AnnounceKey, ConfirmKeys, Received):
        assert kinds["up"][kind] == 3
    sent = sum(words.nbytes for found in parts(said).values() for words in found.values())
    assert sum(party.masked_bytes for party in run.parties.values()) == sent
    beside = sum(t.bytes_up for t in run.traffic.values()) - sent
    frames = sum(t.frames_up for t in run.traffic.values())
    assert beside < 150 * frames + 3 * 900


def test_bytes_are_federated_modes_to_within_a_hundredth(both):
    """A little table: a run of the size that the benchmark has needs still less beside the sums."""
    federated, secure = (both[mode][0].traffic for mode in ("federated", "secure-aggregation"))
    for name in PARTIES:
        assert secure[name].bytes_up < 1.01 * federated[name].bytes_up
        assert secure[name].bytes_down < federated[name].bytes_down + 2000


def test_a_party_with_other_rows_says_as_much_in_the_same_order(both, tables):
    """Other rows at every party, asked the same: same kinds, same places, same sizes; other words."""
    _, said = both["secure-aggregation"]
    rng = np.random.default_rng(3)
    others = {
        name: Rows(
            np.where(np.isnan(rows.features), np.nan, rng.permuted(rows.features, axis=1)).astype(np.float32),
            rng.permutation(rows.label),
            rng.permutation(rows.weight),
        )
        for name, rows in tables.items()
    }
    kept = {name: replace_held_out(tables[name], others[name]) for name in tables}
    talk = Conversation(masked(plan(PARTIES, **GIVEN)), kept, nodes_per_frame=2)
    talk.until(CountMagnitudes, PARTIES[0])
    talk.down.clear()
    broadcasts = [
        (member, message)
        for direction, member, message in said
        if direction == "down" and not isinstance(message, Welcome | ExchangeKeys | KeysConfirmed | Finish)
    ]
    for member, message in broadcasts:
        talk.deliver(member, encode(message))
    again = [(member, decode(member, frame)) for member, frame in talk.up]
    before = [(m, message) for d, m, message in said if d == "up" and isinstance(message, Contribution)]
    for name in PARTIES:
        shapes = [
            [(m.tree, m.step, m.quantity, m.first, m.values.shape, m.zero > 0) for who, m in each if who == name]
            for each in (before, again)
        ]
        assert len(shapes[0]) > 25
        assert shapes[0] == shapes[1]
    found = parts([("up", member, message) for member, message in again])
    for words in found.values():
        assert looks_uniform(words.values())


def replace_held_out(rows: Rows, other: Rows) -> Rows:
    """`other` where rows train, `rows` where they are held out: who is held out depends on the row, and its number is public."""
    held = held_out(rows.features, rows.label, HoldOut(GIVEN["evaluation"], 0))
    features, label = other.features.copy(), other.label.copy()
    features[:, held], label[held] = rows.features[:, held], rows.label[held]
    again = held_out(features, label, HoldOut(GIVEN["evaluation"], 0))
    wrong = again != held
    features[:, wrong], label[wrong] = rows.features[:, wrong], rows.label[wrong]
    return Rows(features, label, other.weight)


def test_rows_exchanged_between_parties_change_no_size(tables, both, tmp_path):
    """The pooled rows stay: everything but the words is the same at every party."""
    first, second, third = tables.values()
    moved = dict(zip(PARTIES, (second, third, first), strict=True))
    _, said = recorded(masked(plan(PARTIES, **GIVEN)), moved, tmp_path)
    _, before = both["secure-aggregation"]
    for name in PARTIES:
        kinds = [
            [(d, type(m), getattr(m, "values", None) and len(m.values.data)) for d, who, m in each if who == name]
            for each in (before, said)
        ]
        assert kinds[0] == kinds[1]


# --- labels and keys --------------------------------------------------------------------------------------------------


def test_no_label_and_no_stream_is_ever_used_twice(monkeypatch, tables):
    labels: list[tuple[str, Label]] = []
    drawn: list[tuple[bytes, bytes]] = []

    class Watched(Masker):
        def _names(self, label: Label) -> list[bytes]:
            labels.append((self.member, label))
            return super()._names(label)

    class Streams(hansa.secure.masking.NamedStreams):
        def __init__(self, key, algorithm):
            self.watched = bytes(key)
            super().__init__(key, algorithm)

        def _spend(self, name):
            drawn.append((self.watched, name))
            return super()._spend(name)

    monkeypatch.setattr(hansa.roles.summed.sum_masking, "Masker", Watched)
    monkeypatch.setattr(hansa.secure.masking, "NamedStreams", Streams)
    chosen = masked(plan(PARTIES, **GIVEN))
    for _ in range(2):
        train_in_process(chosen, tables)
    for member in PARTIES:
        used = [label for who, label in labels if who == member]
        assert len(used) > 40
        for name in ("encode", "place"):
            assert len({getattr(label, name)() for label in used}) == len(used)
    runs = {label.run for _, label in labels}
    assert len(runs) == 2
    for run in runs:
        said = [{label.encode() for who, label in labels if who == m and label.run == run} for m in PARTIES]
        assert said[0] == said[1] == said[2]
    # A pair's two ends, and nobody else, ever: three pairs, one key each and run, one name each and label.
    uses = Counter(drawn)
    assert set(uses.values()) == {2}
    assert len(uses) == 3 * len({label.encode() for _, label in labels})
    assert len({name for _, name in drawn}) == len(uses)
    assert len({key for key, _ in drawn}) == 3 * len(runs)


def test_keys_are_zeroed_at_the_end(monkeypatch, tables):
    made: list[PairKey] = []
    init = PairKey.__init__

    def watch(self, *args):
        init(self, *args)
        made.append(self)

    monkeypatch.setattr(PairKey, "__init__", watch)
    train_in_process(masked(plan(PARTIES, **GIVEN)), tables)
    assert len(made) == 6
    assert all(key._key is None for key in made)
