"""A few of the schedules of `make chaos`, in every mode: see `chaos.py`."""

from __future__ import annotations

import chaos
import pytest


@pytest.mark.parametrize(
    ("mode", "seed"),
    [
        ("federated", 113),  # one kill
        pytest.param("federated", 3, marks=pytest.mark.slow),
        pytest.param("secure-aggregation", 3, marks=pytest.mark.slow),
        pytest.param("secure-aggregation", 113, marks=pytest.mark.slow),
        pytest.param("coopetitive", 1, marks=pytest.mark.slow),
        pytest.param("coopetitive", 2, marks=pytest.mark.slow),
    ],
)
def test_whatever_happens_to_processes_all_receivers_get_one_model(tmp_path, mode, seed):
    (schedule,) = chaos.schedules(seed, 1, mode)
    end = chaos.run_one(chaos.consortium_in(tmp_path / "made", mode), seed, mode, schedule)
    assert chaos.verdict(end) == "the same model", (schedule, end.happened)
    assert len(end.models) == 1


def test_schedules_follow_from_the_seed_alone():
    assert chaos.schedules(7, 5, "coopetitive") == chaos.schedules(7, 5, "coopetitive")
    kinds = {kind for schedule in chaos.schedules(1, 50, "federated") for _, kind in schedule}
    assert kinds == set(chaos.KINDS)


@pytest.mark.parametrize(
    ("end", "begins"),
    [
        (chaos.End([], {}, {b"model"}, True), "the same model"),
        (chaos.End([], {}, set(), True), "FAULT: no model"),
        (chaos.End([], {}, {b"model"}, False), "FAULT: another model"),
        (chaos.End([], {"aurora": "hansa: a reason"}, set(), True), "refused: aurora: hansa: a reason"),
        (chaos.End([], {"aurora": "HANGS"}, set(), True), "FAULT: hangs"),
        (chaos.End([], {"aurora": "ValueError: x"}, set(), True), "FAULT: no refusal"),
    ],
)
def test_a_verdict_tells_refusals_from_faults(end, begins):
    assert chaos.verdict(end).startswith(begins)
