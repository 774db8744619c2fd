"""Runs that describe the pooled table: exact counts, the same for any split of the rows and masked as in the clear, and refusals."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation import Conversation
from hansa.consortium.policy import Policy
from hansa.data.bin_counts import told_counts
from hansa.data.holdout import HoldOut, held_out
from hansa.data.quantiles import values_from_keys
from hansa.errors import HansaError, PlanError, ProtocolError
from hansa.node.in_process import describe_in_process
from hansa.protocol.messages import (
    Contribution,
    CountBins,
    CountCells,
    Described,
    Join,
    UseCuts,
    Welcome,
    decode,
    encode,
    to_array,
    to_tensor,
)
from hansa.roles.summed import describing
from made_tables import FEATURES, NAMES, coded, plan, spread, table

MODES = ("federated", "secure-aggregation")
N_ROWS = 600
LEAST = 10
ME, IT = "borealis", "aurora"

BELOW_ALL = values_from_keys(np.array([0x3B80_0000], np.uint32))[0]
"""About -1024, where a cell of 12 bits begins: a cut that was counted, below all rows."""


def described(rows, owners, mode="federated", **more):
    parts = spread(rows, owners)
    chosen = replace(plan(tuple(parts), mode=mode, **more), min_cell_rows=LEAST)
    return describe_in_process(chosen, parts)


def plainly(description):
    """What does not depend on who holds the rows."""
    columns = [msgspec.structs.replace(own, shifts={}) for own in description.columns]
    return msgspec.json.encode((columns, description.rows, description.held_out))


def pooled_values(rows, description):
    """Column -> float64 (n_rows,) of the pooled rows, missing ones NaN."""
    values = [*rows.features.astype(np.float64), rows.label.astype(np.float64)]
    return dict(zip([own.name for own in description.columns], values, strict=True))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "multi:softprob"])
def test_counts_and_quantiles_are_those_of_the_pooled_rows(mode, objective):
    rows = coded(table(N_ROWS, objective))
    run = described(rows, np.arange(N_ROWS) % 3, mode, categories=True, objective=objective, max_bin=256)
    found = run.description
    assert found.rows == N_ROWS
    assert found.parties == dict.fromkeys(NAMES[:3], N_ROWS // 3)
    for own in found.columns:
        values = pooled_values(rows, found)[own.name]
        missing = int(np.isnan(values).sum())
        assert own.missing == missing
        if own.levels:
            counts = {level: int((values == code).sum()) for code, level in enumerate(own.levels)}
            assert all(each.rows == counts[each.level] for each in own.categories)
            assert own.other == sum(counts.values()) - sum(each.rows for each in own.categories)
            assert all(each.rows >= LEAST or each.rows == 0 for each in own.categories)
            continue
        edges = [-np.inf, *(float(np.float32(each.high)) for each in own.bins[:-1]), np.inf]
        present = values[~np.isnan(values)]
        assert [each.rows for each in own.bins] == np.histogram(present, edges)[0].tolist()
        assert min(each.rows for each in own.bins) >= LEAST
        assert len(own.bins) > 2
        for each in own.quantiles:
            exact = np.quantile(present, each.percent / 100, method="inverted_cdf")
            assert (-np.inf if each.low is None else each.low) <= exact < (np.inf if each.high is None else each.high)
    if objective == "reg:squarederror":
        assert found.label.mean == pytest.approx(rows.label.mean(dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_the_mean_of_labels_tells_no_cell_that_is_not_told(objective):
    """Three rows of label 1: times the number of rows, the mean would tell them."""
    rows = table(N_ROWS)
    labels = np.zeros(N_ROWS, np.float32)
    labels[:3] = 1
    run = described(replace(rows, label=labels), np.arange(N_ROWS) % 3, objective=objective)
    assert run.description.label.mean is None
    for party in run.parties.values():
        assert party.description.label.mean is None


def test_a_quantile_of_many_values_is_close():
    rows = table(4000)
    (feature,) = [
        own for own in described(rows, np.arange(4000) % 2, max_bin=256).description.features if own.name == "a"
    ]
    values = np.sort(rows.features[0].astype(np.float64))
    for each in feature.quantiles:
        share = [np.searchsorted(values, bound) / 4000 for bound in (each.low, each.high)]
        assert share[0] <= each.percent / 100 <= share[1] <= share[0] + 0.01


SPREADS = st.lists(st.integers(0, 2), min_size=240, max_size=240).filter(lambda own: set(own) == {0, 1, 2})


@given(
    owners=SPREADS, more=st.sampled_from([{}, {"weighted": True, "objective": "reg:squarederror"}, {"evaluation": 0.3}])
)
@settings(max_examples=6, deadline=None)
def test_the_description_does_not_depend_on_who_holds_the_rows_nor_on_masks(owners, more):
    settings_of_table = {"weighted": True} if "weighted" in more else {}
    rows = coded(table(240, more.get("objective", "binary:logistic"), **settings_of_table))
    alone = described(rows, np.arange(240) % 2, categories=True, **more).description
    for mode in MODES:
        run = described(rows, np.array(owners), mode, categories=True, **more)
        assert plainly(run.description) == plainly(alone)
        for party in run.parties.values():
            assert plainly(party.description) == plainly(alone)


@pytest.mark.parametrize("verify", ["off", "tree", "after", "before"])
def test_a_description_with_verified_row_counts_is_the_same(verify):
    rows, owners = coded(table(N_ROWS)), np.arange(N_ROWS) % 3
    parts = spread(rows, owners)
    chosen = plan(tuple(parts), mode="secure-aggregation", categories=True)
    run = describe_in_process(replace(chosen, min_cell_rows=LEAST, verify_counts=verify), parts)
    assert plainly(run.description) == plainly(described(rows, owners, categories=True).description)


def test_rows_held_out_are_not_described():
    rows = table(N_ROWS)
    found = described(rows, np.arange(N_ROWS) % 2, evaluation=0.25).description
    held = held_out(rows.features, rows.label, HoldOut(0.25, 0))
    assert found.held_out == held.sum() > 0
    kept = rows.label[~held]
    assert [own.rows for own in found.label.categories] == [(kept == 0).sum(), (kept == 1).sum()]


def test_few_rows_without_a_value_are_not_told():
    rows = table(N_ROWS)
    rows.features[0, :3] = np.nan
    for mode in MODES:
        run = described(rows, np.arange(N_ROWS) % 3, mode)
        own = run.description.features[0]
        assert own.missing is None
        assert sum(each.rows for each in own.bins) == N_ROWS
        assert own.quantiles == ()


def test_only_the_federated_aggregator_learns_shifts_of_others():
    rows = table(N_ROWS)
    owners = (rows.features[0] > 0).astype(int) + (rows.features[0] > 1)  # who holds a row follows from the feature a
    for mode in MODES:
        run = described(rows, owners, mode)
        known = {name for own in run.description.columns for name in own.shifts}
        assert known == (set(NAMES[:3]) if mode == "federated" else set())
        for name, party in run.parties.items():
            assert {each for own in party.description.columns for each in own.shifts} == {name}
            assert party.description.features[0].shifts[name].psi > 1
            assert party.description.features[1].shifts[name].psi < 0.5


def test_a_mode_that_opens_no_counts_and_the_rule_of_dominance_are_refused_by_name():
    rows = spread(table(60), np.arange(60) % 2)
    with pytest.raises(PlanError, match="dominance"):
        describe_in_process(replace(plan(tuple(rows)), dominance=True), rows)


# --- attacks ----------------------------------------------------------------------------------------------------------------


def conversation(mode="federated", purpose="describe", verify="off", **more) -> Conversation:
    parts = spread(table(N_ROWS), np.arange(N_ROWS) % 3)
    chosen = replace(plan(tuple(parts), mode=mode), min_cell_rows=LEAST, verify_counts=verify)
    return Conversation(chosen, parts, purpose=purpose, **more)


def edited(message, **fields):
    return msgspec.structs.replace(message, **fields)


def array_of(tensor, dtype):
    return to_array("hub", "it", tensor, dtype, (None,)).copy()


def with_cell_of_one(message: CountBins, rows: int) -> CountBins:
    """The request with its first bin cut in two, the first part said to hold so many rows of all parties."""
    offsets, values = array_of(message.offsets, np.int64), array_of(message.values, np.float32)
    told = array_of(message.rows, np.int64)
    values = np.insert(values, 0, BELOW_ALL)
    offsets[1:] += 1
    told = np.concatenate([[rows, told[0] - rows], told[1:]])
    return edited(message, offsets=to_tensor(offsets), values=to_tensor(values), rows=to_tensor(told))


@pytest.mark.parametrize("mode", MODES)
def test_a_bin_of_one_row_is_refused(mode):
    talk = conversation(mode)
    asked = talk.until(CountBins, ME)
    with pytest.raises(ProtocolError, match=r"bin of 1 rows.*no fewer than 10") as raised:
        talk.tell(ME, with_cell_of_one(asked, 1))
    assert raised.value.member == "hub"
    with pytest.raises(ProtocolError):  # a party that refused once is done
        talk.tell(ME, asked)


@pytest.mark.parametrize("verify", ["tree", "before"])
def test_a_bin_that_is_said_to_hold_enough_and_holds_none_is_found_out_by_verified_counts(verify, monkeypatch):
    honest = describing.layout_of

    def with_empty_bin(columns, search, least):
        layout, rows = honest(columns, search, least)
        cuts = (np.insert(layout.cuts[0], 0, BELOW_ALL), *layout.cuts[1:])
        return replace(layout, cuts=cuts), np.concatenate([[least, rows[0] - least], rows[1:]])

    monkeypatch.setattr(describing, "layout_of", with_empty_bin)
    monkeypatch.setattr(describing, "tell", lambda layout, _, __, pooled, ___: told_counts(pooled, layout, 0))
    talk = conversation("secure-aggregation", verify=verify)
    asked = talk.until(CountCells, ME)
    naming = talk.aggregator._counts.naming
    bins = naming.bins

    def lax(step, layout):
        named = bins(step, layout)
        return named._replace(least=np.zeros(named.size, np.int64))

    monkeypatch.setattr(naming, "bins", lax)
    talk.down.append((ME, encode(asked)))
    with pytest.raises(ProtocolError, match="bin 1 of column 'a' holds 0 rows of all parties") as raised:
        talk.finish()
    assert "hub" in (raised.value.member, *raised.value.suspects)


def test_a_finer_bin_than_was_counted_is_refused():
    talk = conversation()
    asked = talk.until(CountBins, ME)
    values = array_of(asked.values, np.float32)
    values[0] = np.nextafter(values[0], np.float32(np.inf))
    with pytest.raises(ProtocolError, match="finer than the cells that were counted"):
        talk.tell(ME, edited(asked, values=to_tensor(values)))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda rows: rows[:-1], "one number for each bin"),
        (lambda rows: np.concatenate([[rows[0] + N_ROWS], rows[1:]]), "all parties have 600"),
        (lambda rows: np.full(len(rows), LEAST), "fewer rows of all parties than this party"),
    ],
    ids=["too short", "too many", "fewer than its own"],
)
def test_rows_of_bins_that_cannot_be_are_refused(change, rule):
    talk = conversation()
    asked = talk.until(CountBins, ME)
    with pytest.raises(ProtocolError, match=rule):
        talk.tell(ME, edited(asked, rows=to_tensor(np.ascontiguousarray(change(array_of(asked.rows, np.int64))))))


def test_categories_are_not_asked_for_in_bins():
    parts = spread(coded(table(N_ROWS)), np.arange(N_ROWS) % 3)
    talk = Conversation(replace(plan(tuple(parts), categories=True), min_cell_rows=LEAST), parts, purpose="describe")
    asked = talk.until(CountBins, ME)
    offsets, values = array_of(asked.offsets, np.int64), array_of(asked.values, np.float32)
    place = FEATURES.index("b")
    values = np.insert(values, offsets[place], np.float32(0))
    offsets[place + 1 :] += 1
    rows = array_of(asked.rows, np.int64)
    at = int(sum(offsets[i + 1] - offsets[i] + 1 for i in range(place)))
    rows = np.insert(rows, at, [300, 300])
    with pytest.raises(ProtocolError, match="'b' holds categories"):
        talk.tell(ME, edited(asked, offsets=to_tensor(offsets), values=to_tensor(values), rows=to_tensor(rows)))


@pytest.mark.parametrize("mode", MODES)
def test_bins_are_counted_once_in_a_run(mode):
    talk = conversation(mode)
    asked = talk.until(CountBins, ME)
    (answer,) = talk.tell(ME, asked)
    assert isinstance(answer, Contribution)
    with pytest.raises(ProtocolError, match=r"'describing'.*expected Described"):
        talk.tell(ME, asked)


def test_a_mask_is_used_once_even_where_the_session_would_let_it_pass():
    talk = conversation("secure-aggregation")
    asked = talk.until(CountBins, ME)
    talk.tell(ME, asked)
    party = talk.parties[ME]
    for step in (party._asker.step, party._asker.step - 1):
        quantity = "bins" if step == party._asker.step else "cells"
        party._asker.step = step
        with pytest.raises(ProtocolError, match="a second time"):
            party._contribute(quantity, np.zeros(4, np.int64))


@pytest.mark.parametrize("mode", MODES)
def test_what_a_training_run_asks_has_no_place_in_one_that_describes_and_the_other_way_round(mode):
    talk = conversation(mode)
    asked = talk.until(CountBins, ME)
    training = conversation(mode, purpose="train")
    cuts = training.until(UseCuts, ME)
    with pytest.raises(ProtocolError, match="sent UseCuts while the party was 'cutting'"):
        talk.tell(ME, cuts)
    with pytest.raises(ProtocolError, match="sent CountBins while the party was 'cutting'"):
        training.tell(ME, asked)


def told(talk, **fields):
    message = talk.until(Described, ME)
    return edited(
        message,
        **{name: to_tensor(change(array_of(getattr(message, name), np.int64))) for name, change in fields.items()},
    )


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"counts": lambda own: np.concatenate([[own[0] + 1], own[1:]])}, "its cells hold 601 rows"),
        (
            {"counts": lambda own: np.concatenate([[own[0] - 1, own[1] + 1], own[2:]])},
            "other rows are told of the bins",
        ),
        (
            {
                "counts": lambda own: np.concatenate([own[:-2], [own[-2] - 3], own[-1:]]),
                "other": lambda own: np.concatenate([own[:-1], [3]]),
            },
            "a cell of 3 rows is told",
        ),
        ({"counts": lambda own: own[:-1]}, "of shape"),
    ],
    ids=["one row more", "a row moved", "too few", "too short"],
)
def test_a_description_that_the_plan_does_not_allow_is_refused(fields, rule):
    talk = conversation()
    message = told(talk, **fields)
    with pytest.raises(ProtocolError, match=rule) as raised:
        talk.tell(ME, message)
    assert raised.value.member == "hub"
    assert talk.parties[ME].description is None


def test_a_party_under_the_minimum_keeps_all_others_from_being_counted():
    owners = np.arange(N_ROWS) % 3
    owners[np.flatnonzero(owners == 2)[5:]] = 0
    parts = spread(table(N_ROWS), owners)
    chosen = replace(plan(tuple(parts), mode="secure-aggregation"), min_party_rows=20)
    with pytest.raises(HansaError, match="only 2 of 3 parties have 20 training rows"):
        describe_in_process(chosen, parts, policy=Policy())


def test_a_policy_is_held_to_a_description_before_anything_is_sent():
    parts = spread(table(N_ROWS), np.arange(N_ROWS) % 3)
    with pytest.raises(PlanError, match="least_mode"):
        describe_in_process(plan(tuple(parts)), parts, policy=Policy(least_mode="secure-aggregation"))
    with pytest.raises(PlanError, match="least_min_cell_rows"):
        describe_in_process(plan(tuple(parts)), parts, policy=Policy(least_min_cell_rows=20))


@pytest.mark.parametrize("mode", MODES)
def test_whoever_means_another_run_is_told_so(mode):
    training, talk = conversation(mode, purpose="train"), conversation(mode)
    join = decode(IT, next(frame for name, frame in training.up if name == IT))
    assert isinstance(join, Join)
    with pytest.raises(ProtocolError, match=r"means another kind of run.*--describe") as raised:
        talk.say(IT, join)
    assert raised.value.member == IT


def test_another_plan_is_refused_in_a_description():
    talk = conversation()
    parts = spread(table(N_ROWS), np.arange(N_ROWS) % 3)
    other = Conversation(replace(talk.plan, min_cell_rows=LEAST + 1), parts, purpose="describe")
    join = decode(IT, next(frame for name, frame in other.up if name == IT))
    with pytest.raises(ProtocolError, match=r"another plan \(different: privacy\.min_cell_rows"):
        talk.say(IT, join)


def test_a_run_that_describes_has_another_id_than_one_that_trains():
    ids = {conversation(purpose=purpose).until(Welcome, ME).run for purpose in ("train", "describe")}
    assert len(ids) == 2


def test_a_party_that_counts_other_rows_is_noticed():
    talk = conversation()
    given = talk.until_up(Contribution, ME, lambda _, message: message.quantity == "bins")
    counts = array_of(given.values, np.int64)
    counts[0] += 1
    talk.finish()
    with pytest.raises(ProtocolError, match="do not add up to the 600 rows") as raised:
        talk.say(ME, edited(given, values=to_tensor(counts)))
    assert set(raised.value.suspects) == set(NAMES[:3])


def test_a_run_that_describes_ends_without_a_model():
    talk = conversation("secure-aggregation")
    talk.finish()
    assert (talk.aggregator.done, talk.aggregator.outcome) == (True, None)
    assert all(party.done and party.model is None for party in talk.parties.values())
    assert {plainly(party.description) for party in talk.parties.values()} == {plainly(talk.aggregator.description)}


def test_counts_leave_masked_where_the_mode_masks_sums():
    talk = conversation("secure-aggregation")
    given = talk.until_up(Contribution, ME, lambda _, message: message.quantity == "bins")
    own = talk.parties[ME]._bins.own
    assert own.sum() == (len(FEATURES) + 1) * N_ROWS // 3
    assert not (array_of(given.values, np.int64) == own).any()
    open_talk = conversation("federated")
    given = open_talk.until_up(Contribution, ME, lambda _, message: message.quantity == "bins")
    assert np.array_equal(array_of(given.values, np.int64), own)
