"""Who holds a party's rows: what the workers of an engine are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hansa.engines.settings import RaySettings
from hansa.node import own_rows


@pytest.mark.parametrize("table", ["rows", "rows/*.parquet"])
def test_workers_that_start_in_other_folders_find_the_files(tmp_path, monkeypatch, table):
    (tmp_path / "rows").mkdir()
    for number in range(5):
        (tmp_path / f"rows/{number}.parquet").touch()
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
    assert [file for own in given for file in own.parts.files] == [tmp_path / f"rows/{n}.parquet" for n in range(5)]
