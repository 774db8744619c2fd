"""Processes that end and lines that fail, on hosts of their own: who goes on, who ends, and whether each member says why.

`python tests/cli/outages.py` prints what every member says, and when.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from outages import FAULTS, OTHER, VICTIM, Outage, happened

from made_consortium import HUB, PARTIES
from namespaces import why_not

REASON = why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON or "possible")


@pytest.fixture
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Outage:
    if request.param == "forgotten" and shutil.which("nft") is None:
        pytest.skip("the router cannot forget connections without `nft`")
    return happened(request.param, tmp_path)


def of(*names: str, slow: bool = True) -> pytest.MarkDecorator:
    assert set(names) <= set(FAULTS)
    marks = [pytest.mark.slow] if slow else []
    return pytest.mark.parametrize("outage", [pytest.param(name, marks=marks) for name in names], indirect=True)


def goes_on(outage: Outage) -> bool:
    return all(outage.end(name) is None for name in (HUB, *PARTIES))


@of("moved", slow=False)
def test_a_member_whose_address_changes_is_missed_and_comes_back(outage):
    assert goes_on(outage), outage.voices
    assert VICTIM in outage.text(HUB)
    assert "acknowledged" in outage.text(HUB) + outage.text(VICTIM)
    assert "hub" in outage.text(VICTIM)


@of("forgotten")
def test_a_member_whose_connection_a_middlebox_forgets_is_missed_and_comes_back(outage):
    assert goes_on(outage), outage.voices
    assert VICTIM in outage.text(HUB)
    assert "acknowledged" in outage.text(HUB) + outage.text(VICTIM)


@of("cut-for-a-moment", "stopped")
def test_a_line_that_heals_and_a_process_that_only_sleeps_are_not_cut(outage):
    assert goes_on(outage), outage.voices
    assert "did not come back" not in outage.text(HUB)


@of("cut")
def test_a_line_that_stays_cut_ends_the_run_for_all_and_all_say_why(outage):
    assert all(outage.end(name) for name in (HUB, *PARTIES)), outage.voices
    assert VICTIM in outage.text(HUB)
    assert VICTIM in outage.text(OTHER)
    assert "hub" in outage.text(VICTIM)


@of("killed", "terminated")
def test_a_party_that_ends_ends_the_run_for_all_and_is_named(outage):
    assert all(outage.end(name) for name in (HUB, OTHER)), outage.voices
    assert VICTIM in outage.text(HUB)
    assert VICTIM in outage.text(OTHER)


@of("aggregator-killed", "aggregator-terminated")
def test_an_aggregator_that_ends_ends_the_run_for_all(outage):
    assert all(outage.end(name) for name in PARTIES), outage.voices
    for name in PARTIES:
        assert "hub" in outage.text(name)


@of("full-disk")
def test_a_full_disk_is_said_in_one_sentence(outage):
    assert outage.end(VICTIM)
    assert "Traceback" not in outage.text(VICTIM)
    assert "model.json" in outage.text(VICTIM)
