"""What a coopetitive server, and a party, need is told before the run, and what there is is what the system would give."""

from __future__ import annotations

import json
import re

import duckdb
from click.testing import CliRunner

from hansa.cli.main import main
from hansa.node import memory
from hansa.plan import parse_plan

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
    said = CliRunner().invoke(main, ["plan", "show", str(path)]).output
    found = re.search(
        r"memory of a server: about ([\d.]+) MB for 10,000 rows, .* for 1,000,000 rows, .*memory_mb", said
    )
    assert found, said
    assert float(found[1]) > 100


def test_memory_is_what_the_system_would_give(tmp_path, monkeypatch):
    """Not what lies idle: caches are given back."""
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 1000 kB\nMemFree: 10 kB\nMemAvailable: 700 kB\n")
    monkeypatch.setattr(memory, "MEMORY", path)
    assert memory.free_memory() == 700 * 1024
    monkeypatch.setattr(memory, "MEMORY", tmp_path / "none")
    assert (memory.free_memory() or 1) > 0


SUMMED = """
mode = "secure-aggregation"
[members]
aggregator = "hub"
parties = ["aurora", "borealis", "cirrus"]
[schema]
features = ["traffic", "temperature"]
label = "fault"
"""


def test_check_says_what_memory_a_party_needs(tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(SUMMED)
    rows = "\n".join(f"{i},{i % 7},{i % 2}" for i in range(40))
    (tmp_path / "rows.csv").write_text(f"traffic,temperature,fault\n{rows}\n")
    duckdb.sql(f"COPY (SELECT * FROM '{tmp_path}/rows.csv') TO '{tmp_path}/rows.parquet' (FORMAT parquet)")
    said = CliRunner().invoke(main, ["check", str(plan), str(tmp_path / "rows.parquet")]).output
    assert re.search(
        r"Memory: this party's process takes at most about [\d.]+ MB with its rows in memory, [\d.]+ MB where they are read by column "
        r"\(by_column in its file\)\. This table is read into memory; the machine can give [\d.]+ [MG]B\.",
        said,
    ), said
    said = CliRunner().invoke(main, ["check", str(plan), str(tmp_path / "rows.csv")]).output
    assert "by column" not in said
    told = json.loads(CliRunner().invoke(main, ["check", str(plan), str(tmp_path / "rows.csv"), "--json"]).output)
    assert told["memory"]["by_column"] is None
    assert told["memory"]["chosen"] == "in memory"


def test_memory_by_column_is_at_most_one_and_a_half_bytes_a_row_and_feature():
    """Of a classifier with 30 features and 256 codes; what is measured is in the benchmarks."""
    features = [f"f{i}" for i in range(30)]
    plan = parse_plan(SUMMED.replace('["traffic", "temperature"]', json.dumps(features)))
    few, many = (memory.memory_of(plan, n, lacks=False, parquet=True, by_column=None) for n in (1000, 20_000_000))
    assert (few.chosen, many.chosen) == ("in memory", "by column")
    assert (many.by_column - few.by_column) / (20_000_000 - 1000) / 30 <= 1.5
    assert many.in_memory > 2 * many.by_column
    lacking = memory.memory_of(plan, 20_000_000, lacks=True, parquet=True, by_column=None)
    assert lacking.by_column - many.by_column == 20_000_000 * 30  # codes of two bytes
    kept = memory.memory_of(plan, 20_000_000, lacks=False, parquet=True, by_column=False)
    assert kept.chosen == "in memory"
    assert memory.memory_of(plan, 20_000_000, lacks=False, parquet=False, by_column=None).by_column is None


def test_with_codes_on_disk_few_bytes_a_row_are_left_whatever_the_features():
    """`make bench-scale` measures it under a cap: 100,000,000 rows of 30 features in 2 GiB."""
    found = []
    for count in (30, 300):
        features = json.dumps([f"f{i}" for i in range(count)])
        plan = parse_plan(SUMMED.replace('["traffic", "temperature"]', features))
        few, many = (
            memory.memory_of(plan, n, lacks=False, parquet=True, by_column=None, on_disk=True)
            for n in (5 * 10**6, 10**8)
        )
        found.append((many.on_disk - few.on_disk) / (10**8 - 5 * 10**6))
        assert many.file == (count + 8) * 10**8
        assert count > 30 or many.on_disk < 2**31
    assert found[0] == found[1] <= 17
