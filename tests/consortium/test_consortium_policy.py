"""A party's own conditions, and the ledger of which parties its rows have met."""

from __future__ import annotations

import json
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.consortium.policy import LEAST_PARTIES, STRENGTH, Policy, note_roster, rows_digest
from hansa.errors import PlanError

THREE = ("aurora", "borealis", "cirrus")
TWO = ("aurora", "borealis")
FOUR = (*THREE, "dune")


def columns(seed: int = 0, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(3, n)).astype(np.float32)
    features[1, ::7] = np.nan
    return features, (np.arange(n) < 9 + seed).astype(np.float32)


def digest(seed: int = 0) -> tuple[str, ...]:
    return rows_digest(*columns(seed))


# --- modes and numbers of parties -------------------------------------------------------------------------------------


@given(st.sampled_from(STRENGTH), st.sampled_from(STRENGTH), st.booleans(), st.integers(1, 9))
def test_a_policy_takes_its_mode_or_a_stronger_one_with_enough_parties(least, mode, two, parties):
    policy = Policy(least, two)
    weaker = STRENGTH.index(mode) < STRENGTH.index(least)
    few = mode == "secure-aggregation" and parties < (2 if two else LEAST_PARTIES)
    if not weaker and not few:
        policy.check(mode, parties)
        return
    with pytest.raises(PlanError, match=r"\(least_mode\)" if weaker else r"\(allow_two_parties says otherwise\)"):
        policy.check(mode, parties)


def test_one_party_is_never_enough_for_masks():
    with pytest.raises(PlanError, match=r"1 parties take part.*with at least 2"):
        Policy(allow_two_parties=True).check("secure-aggregation", 1)


def test_the_default_is_the_careful_one_but_for_the_mode():
    assert Policy() == Policy("federated", False, False)
    Policy().check("federated", 1)


@pytest.mark.parametrize("mode", ["", "secure", "Federated", "none"])
def test_a_mode_that_is_none_is_refused(mode):
    with pytest.raises(PlanError, match="expected one of federated, secure-aggregation, coopetitive"):
        Policy(least_mode=mode)


# --- what rows are known by -------------------------------------------------------------------------------------------


def test_rows_are_known_by_their_columns():
    features, label = columns()
    assert len(rows_digest(features, label, None)) == 4
    assert all(len(each) == 64 and int(each, 16) >= 0 for each in digest())
    assert digest(0) == digest(0)
    assert set(digest(0)).isdisjoint(digest(1))


@settings(deadline=None)
@given(st.permutations(range(40)), st.permutations(range(3)))
def test_the_order_of_rows_and_columns_makes_nothing_new(rows, order):
    features, label = columns()
    moved = np.ascontiguousarray(features[np.ix_(order, rows)])
    assert rows_digest(moved, label[rows]) == digest()


def test_a_column_with_the_same_values_in_another_table_is_taken_for_the_same(tmp_path):
    """Two labels as often 1 in as many rows: refused, though perhaps by chance. Better than the other way about."""
    note_roster(tmp_path / "ledger", rows_digest(None, columns(0)[1]), THREE, Policy())
    with pytest.raises(PlanError, match="or a column with the same values"):
        note_roster(tmp_path / "ledger", rows_digest(columns(1)[0], columns(0)[1][::-1]), FOUR, Policy())


def test_any_other_value_is_another_column():
    features, label = columns()
    for at in ((0, 3), (2, 39), (1, 0)):
        other = features.copy()
        other[at] = 5
        assert len(set(rows_digest(other, label)) & set(digest())) == 3
    weighted = rows_digest(features, label, np.full(40, 2, np.float32))
    assert set(digest()) < set(weighted)


# --- the ledger -------------------------------------------------------------------------------------------------------


def lines(ledger) -> list[dict[str, list[str]]]:
    return [json.loads(line) for line in ledger.read_text().splitlines()]


def test_rows_meet_the_same_parties_as_often_as_they_like(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    for _ in range(3):
        note_roster(ledger, digest(), THREE, Policy())
    assert lines(ledger) == [{"rows": list(digest()), "parties": list(THREE)}]
    assert not stat.S_ISDIR(ledger.stat().st_mode)


@pytest.mark.parametrize("other", [TWO, FOUR, ("aurora", "borealis", "dune"), ("x", "y", "z")])
def test_rows_that_met_other_parties_are_refused_and_nothing_is_written(tmp_path, other):
    ledger = tmp_path / "ledger.jsonl"
    note_roster(ledger, digest(), THREE, Policy())
    before = ledger.read_bytes()
    with pytest.raises(PlanError) as caught:
        note_roster(ledger, digest(), other, Policy())
    for part in ("aurora, borealis, cirrus", ", ".join(other), str(ledger), "allow_other_rosters"):
        assert part in str(caught.value)
    assert ledger.read_bytes() == before
    note_roster(ledger, digest(), THREE, Policy())


def test_one_column_in_common_is_enough(tmp_path):
    """A later plan that leaves features out, or has another label: the label counts alone would tell a party's part."""
    ledger = tmp_path / "ledger.jsonl"
    features, label = columns()
    note_roster(ledger, digest(), FOUR, Policy())
    for part in (rows_digest(features[:1], None), rows_digest(None, label), rows_digest(features[2:], 1 - label)):
        with pytest.raises(PlanError, match="dune"):
            note_roster(ledger, part, THREE, Policy())


def test_other_rows_may_meet_other_parties(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    note_roster(ledger, digest(0), THREE, Policy())
    note_roster(ledger, digest(1), FOUR, Policy())
    assert [entry["parties"] for entry in lines(ledger)] == [list(THREE), list(FOUR)]


def test_the_policy_may_allow_it_and_it_is_written_down(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    note_roster(ledger, digest(), THREE, Policy())
    note_roster(ledger, digest(), FOUR, Policy(allow_other_rosters=True))
    assert [entry["parties"] for entry in lines(ledger)] == [list(THREE), list(FOUR)]
    # From then on no set is the only one that the rows have met.
    for parties in (THREE, FOUR):
        with pytest.raises(PlanError, match="trained on with"):
            note_roster(ledger, digest(), parties, Policy())


@pytest.mark.parametrize(
    "content",
    [
        "not json\n",
        "{}\n",
        "[]\n",
        "\n",
        "5\n",
        '{"rows": "abc", "parties": ["aurora"]}\n',
        '{"rows": ["abc"], "parties": 5}\n',
        '{"rows": ["abc"]}\n',
        '{"rows": ["abc"], "parties": [1]}\n',
        '{"rows": ["abc"], "parties": ["a"], "more": 1}\n',
        '{"rows": ["abc"], "parties": ["a"]',
    ],
)
def test_a_ledger_that_cannot_be_read_is_refused_not_begun_anew(tmp_path, content):
    ledger = tmp_path / "ledger.jsonl"
    ledger.write_text(content)
    with pytest.raises(PlanError, match=r"not a ledger.*restore it"):
        note_roster(ledger, digest(), THREE, Policy())
    with pytest.raises(PlanError, match="not a ledger"):
        note_roster(ledger, digest(), THREE, Policy(allow_other_rosters=True))
    assert ledger.read_text() == content


def test_a_ledger_cut_off_in_its_last_line_is_refused(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    note_roster(ledger, digest(0), THREE, Policy())
    note_roster(ledger, digest(1), THREE, Policy())
    ledger.write_bytes(ledger.read_bytes()[:-20])
    with pytest.raises(PlanError, match="not a ledger"):
        note_roster(ledger, digest(0), THREE, Policy())


def test_a_ledger_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(PlanError, match="not a ledger"):
        note_roster(tmp_path, digest(), THREE, Policy())


def test_the_ledger_holds_no_value_of_a_row(tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    features, label = columns()
    note_roster(ledger, rows_digest(features, label), THREE, Policy())
    content = ledger.read_bytes()
    for value in features[0]:
        assert value.tobytes() not in content
        assert str(float(value)).encode() not in content
