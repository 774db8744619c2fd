"""`make demo-consortium`, whole: four hosts, three modes, a crash, models for receivers only, records that agree."""

from __future__ import annotations

from pathlib import Path

import pytest

import postgresql
from service.consortium_demo import demo


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(postgresql.why_not() is not None, reason=str(postgresql.why_not()))
def test_the_demo_of_four_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    modes = ("federated", "secure-aggregation", "coopetitive")
    demo(tmp_path, loopback=False, modes=modes, rounds=10, cells=3000)
    told = capsys.readouterr().out
    assert told.count("finished at all four hosts") == 3
    assert "the host borealis crashed" in told
