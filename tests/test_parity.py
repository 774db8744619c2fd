"""The table of alone, together and pooled (`make parity`), small; and that it can say no."""

from __future__ import annotations

import msgspec
import pytest
from benchmarks.bench_parity import FEDERATED, MODES, SECURE, Line, Report, measure, outcomes, parity, setup_of

import telstra


def test_one_small_table_is_measured():
    pytest.importorskip("xgboost")
    folder = telstra.folder()
    if folder is None:
        pytest.skip("the real tables are not there")
    finished = []
    report = measure(["heart_disease"], [FEDERATED], 2, folder, quick=True, finished=finished.append)
    (found,) = report.results
    assert (found.table, found.modes, found.splits, found.rows) == ("heart_disease", (FEDERATED,), (0, 1), 920)
    assert [one.metric for one in found.differences] == ["auc", "aucpr", "logloss", "error"]
    assert found.differences[0].first > 0.8
    assert found.held == (found.differences[0].better_by >= -found.allowed)
    assert {member.name for member in found.members} == {"cleveland", "hungarian", "switzerland", "va"}
    assert all(member.together_against_alone is not None for member in found.members)
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report
    again = measure(["heart_disease"], [FEDERATED], 2, folder, quick=True, done=finished)
    assert again.results == report.results


def made_line(split, ours, theirs, **given):
    fields = {
        "table": "made", "mode": FEDERATED, "split": split, "trees": 100, "table_rows": 9, "rows": 9, "features": 1, "categorical": 0,
        "hansa": {"auc": ours}, "xgboost": {"auc": theirs}, "test_rows": {"a": 2, "b": 1}, "model_sha256": "x", "seconds": 1.0,
        "together": {"a": {"auc": 0.7 + split / 100}, "b": {"auc": None}},
        "alone": {"a": {"auc": 0.8 + split / 50}, "b": None},
    }  # fmt: skip
    return Line(**fields | given)


@pytest.mark.parametrize(
    ("gaps", "held"), [((0.001, -0.001), True), ((-0.0004, -0.0004), True), ((-0.0006, -0.0006), False)]
)
def test_worse_by_more_than_is_allowed_does_not_hold(gaps, held):
    lines = [made_line(split, 0.9 + gap, 0.9) for split, gap in enumerate(gaps)]
    assert parity(lines, setup_of(FEDERATED, quick=False)).held == held
    assert setup_of(MODES[2], quick=False).allowed_area == 0.002


def test_a_member_that_pooling_does_not_help_is_named():
    found = parity([made_line(split, 0.9, 0.9) for split in range(3)], setup_of(FEDERATED, quick=False))
    assert [member.outcome for member in found.members] == ["costs", "alone: none"]
    assert outcomes(found.members) == "helps 0 of 2\ncosts a\nnothing alone: b"
    assert (found.alone, found.together) == (pytest.approx(0.82), pytest.approx(0.71))


@pytest.mark.parametrize("same", [True, False])
def test_two_files_of_the_modes_with_an_aggregator_do_not_hold(same):
    lines = [made_line(0, 0.9, 0.9, secure_sha256="x" if same else "y"), made_line(1, 0.9, 0.9)]
    found = parity(lines, setup_of(FEDERATED, quick=False))
    assert (found.same_models, found.held) == (same, same)
    assert found.modes == (FEDERATED, SECURE)
