"""What a coopetitive server needs is told before the run, and what it has is what the system would give it."""

from __future__ import annotations

import re

from click.testing import CliRunner

from hansa.cli.main import main
from hansa.node import shared

PLAN = """
mode = "coopetitive"
[members]
hub = "post"
servers = ["aurora", "borealis", "cirrus"]
parties = ["aurora", "borealis", "cirrus"]
[schema]
features = ["traffic", "temperature"]
label = "fault"
"""


def test_plan_says_what_memory_a_server_needs(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    said = CliRunner().invoke(main, ["plan", str(path)]).output
    found = re.search(
        r"memory of a server: about ([\d.]+) MB for 10,000 rows, .* for 1,000,000 rows, .*memory_mb", said
    )
    assert found, said
    assert float(found[1]) > 100


def test_memory_is_what_the_system_would_give(tmp_path, monkeypatch):
    """Not what lies idle: caches are given back."""
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 700 kB\n")
    monkeypatch.setattr(shared, "MEMORY", path)
    assert shared.free_memory() == 700 * 1024
    monkeypatch.setattr(shared, "MEMORY", tmp_path / "none")
    assert (shared.free_memory() or 1) > 0
