"""Who holds a party's rows: what a party is told of its own, and what the workers of an engine are told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest

from hansa.engines import disk_codes
from hansa.engines.settings import RaySettings
from hansa.errors import OutputError, StateError
from hansa.node import own_rows
from hansa.node.config import read_member_file
from hansa.node.files import check_files
from hansa.node.state import State
from made_consortium import PLAN, cells, hansa, make_consortium, parted, write_member, write_table

HELD_OUT = PLAN + "\n[evaluation]\nfraction = 0.2\n"


@pytest.mark.parametrize(
    ("plan", "describes", "told"), [(HELD_OUT, False, True), (HELD_OUT, True, False), (PLAN, False, False)]
)
def test_a_party_whose_rows_repeat_is_told_where_some_are_held_out(tmp_path, plan, describes, told):
    folder = make_consortium(tmp_path / "made", plan)
    columns = {name: np.tile(values[:4], 30) for name, values in cells(120, 3).items()}
    write_table(folder / "aurora.csv", columns)
    with own_rows.own_rows(read_member_file(write_member(folder, "aurora", 1)), describes=describes) as (given,):
        assert any("many rows are equal" in text for text in given.warnings) == told
        assert given.n_rows == 120


@pytest.mark.parametrize("table", ["rows", "rows/*.parquet"])
def test_workers_that_start_in_other_folders_find_the_files(tmp_path, monkeypatch, table):
    (tmp_path / "rows").mkdir()
    for number in range(5):
        rows = "0" if number == 3 else "1"  # a file without rows is no worker's
        duckdb.execute(f"COPY (SELECT 1 AS a LIMIT {rows}) TO '{tmp_path}/rows/{number}.parquet' (FORMAT parquet)")
    given: list[Any] = []

    class Started(Exception):
        pass

    def workers(_, sources):
        given.extend(sources)
        raise Started

    monkeypatch.setattr(own_rows, "RayWorkers", workers)
    monkeypatch.chdir(tmp_path)
    plan = SimpleNamespace(custom_objective=None, custom_metric=None)
    identity = SimpleNamespace(name="aurora")
    member: Any = SimpleNamespace(
        table=Path(table), engine=RaySettings(2), plan=plan, identity=identity, schema=None, by_column=None
    )
    with pytest.raises(Started), own_rows.own_rows(member, describes=False):
        pass
    assert [file for own in given for file in own.parts.files] == [tmp_path / f"rows/{n}.parquet" for n in (0, 1, 2, 4)]


def test_a_folder_of_codes_that_takes_none_is_told_before_the_run(tmp_path, monkeypatch):
    folder = make_consortium(tmp_path / "made", PLAN)
    (folder / "codes").mkdir()
    table = parted(folder, 2).name
    member = read_member_file(
        write_member(folder, "aurora", 1, table=table, engine={"kind": "disk", "folder": "codes"})
    )
    check_files(member)
    usage = SimpleNamespace(free=10)
    monkeypatch.setattr(disk_codes.shutil, "disk_usage", lambda _: usage)
    with (
        pytest.raises(
            OutputError,
            match=rf"^party 'aurora': engine\.folder needs [0-9]+ bytes .* {folder}/codes has 10 free; free",
        ),
        own_rows.own_rows(member, describes=False),
    ):
        pytest.fail("the run began")
    (folder / "codes").rmdir()
    with pytest.raises(OutputError, match=rf"aurora\.toml: engine\.folder: there is no folder {folder}/codes; make it"):
        check_files(member)


def test_a_query_without_a_folder_for_temporary_files_is_told_before_the_run(tmp_path, monkeypatch):
    folder = make_consortium(tmp_path / "made", PLAN)
    source = {"query": "SELECT * FROM rows", "files": {"rows": "aurora.csv"}}
    member = read_member_file(write_member(folder, "aurora", 1, table=None, source=source))
    check_files(member)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match=r"^TMPDIR: there is no folder .*missing; make it"):
        check_files(member)


FAULTS = {
    "no table": ({"table": "missing.csv"}, r"missing\.csv: expected a file"),
    "a cell": ({"table": "bad.csv"}, r"bad\.csv, row 1, column 'rsrp': expected a number"),
    "an output": ({"model": "missing/model.json"}, "there is no folder"),
    "a state folder": ({"state": "aurora.csv"}, "would hold, the file of table"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_members_own_files_names_the_member(tmp_path, fault):
    folder = make_consortium(tmp_path / "made", PLAN)
    (folder / "bad.csv").write_text("load,rsrp,alarms,fault\n1,x,3,1\n")
    changes, said = FAULTS[fault]
    result = hansa("party", write_member(folder, "aurora", 1, wait_s=0.1, **changes), "--json")
    failed = json.loads(result.stdout.splitlines()[-1])
    assert failed["member"] == "aurora"
    assert re.search(said, failed["text"])


def test_a_state_folder_that_is_open_to_others_names_the_member(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(StateError, match="others can read this state folder") as caught:
        State(tmp_path, bytes(32), "aurora")
    assert caught.value.member == "aurora"
