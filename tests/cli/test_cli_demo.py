"""`hansa demo`, whole, with a page that needs nothing else."""

from __future__ import annotations

import json
import re

import msgspec
import pytest

from hansa.plan import COOPETITIVE, MODES
from hansa.simulation.summary import Summary
from made_consortium import hansa

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


@pytest.mark.slow
def test_the_demo_ends_with_a_page_that_needs_nothing_else(tmp_path):
    result = hansa("demo", "--report", tmp_path / "report.html", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    cases = json.loads(result.stdout)
    msgspec.json.decode(result.stdout, type=dict[str, dict[str, Summary]])
    assert set(cases) == {"sleeping_cell", "hardware_fault", "dropped_call_rate", "malignant"}
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']\s*(https?:)?//""", page)
    assert "simulated" in page
    for name, modes in cases.items():
        # The coopetitive case has bins and rounds of its own, so another model.
        assert name != "sleeping_cell" or list(modes) == list(MODES)
        in_sums = {summary["model_sha256"] for mode, summary in modes.items() if mode != COOPETITIVE}
        assert len(in_sums) == 1, "the mode changed the model"
        for mode, summary in modes.items():
            assert (summary["mode"], summary["transport"]) == (mode, "mutual TLS 1.3")
            assert len(summary["members"]) == 3
            for member, figures in summary["members"].items():
                assert member in page
                score = figures["metrics"]["together"]["rmse" if name == "dropped_call_rate" else "auc"]
                assert isinstance(score, float), (name, member)
