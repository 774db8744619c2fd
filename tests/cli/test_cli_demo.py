"""`hansa demo`, whole: in time, and with a page that needs nothing else."""

from __future__ import annotations

import json
import re
import time

import pytest
from made_consortium import hansa

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.mark.slow
def test_the_demo_ends_in_time_with_a_page_that_needs_nothing_else(tmp_path):
    started = time.monotonic()
    result = hansa("demo", "--report", tmp_path / "report.html", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert time.monotonic() - started < 120
    summaries = json.loads(result.stdout)
    assert set(summaries) == {"sleeping_cell", "hardware_fault", "dropped_call_rate", "malignant"}
    for name, summary in summaries.items():
        metric = "rmse" if name == "dropped_call_rate" else "auc"
        assert summary["transport"] == "mutual TLS 1.3"
        assert len(summary["members"]) == 3
        for member in summary["members"].values():
            assert member["test_rows"] > 0
            assert isinstance(member["metrics"]["together"][metric], float), (name, member)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']\s*(https?:)?//""", page)
    assert "simulated" in page
    for summary in summaries.values():
        for member in summary["members"]:
            assert member in page
