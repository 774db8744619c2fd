"""`hansa schema`: what it writes is part of a plan under which the table is read, and shows no number that nobody asked for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from hansa.node.events import line_of
from hansa.node.schema_proposal import MOST_LEVELS, SchemaProposal
from made_consortium import assert_refused, hansa, write_member

HEAD = """
mode = "coopetitive"
[members]
hub = "hub"
servers = ["s0", "s1", "s2"]
parties = ["a", "b", "c"]
[labels]
range = [0, 1000]
[parameters]
objective = "reg:squarederror"
"""

ODD = 'odd "name"; x'
LINES = [
    f'cell,load,band,day,"{ODD.replace(chr(34), chr(34) * 2)}",drops',
    *(f"n{row},{73.519 + row},{'low' if row % 3 else 'high'},2026-01-31,{row % 2},{row * 7}" for row in range(30)),
    "n30,NA,,,1,5",
]


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_the_table_is_read_under_what_is_proposed(table):
    made = hansa("schema", table, "--label", "drops")
    assert made.exit_code == 0, made.output
    assert tomllib.loads(made.stdout) == {
        "schema": {
            "features": ["load", "band", "day", ODD],
            "label": "drops",
            "ignore": ["cell"],
            "dates": {"day": "days"},
        },
        "categories": {"band": ["high", "low"]},
    }
    plan = table.with_name("plan.toml")
    plan.write_text(HEAD + made.stdout)
    checked = hansa("check", plan, table)
    assert checked.exit_code == 0, checked.output


def test_no_number_of_the_table_is_written_unless_it_is_asked_for(table):
    made = hansa("schema", table, "--label", "drops")
    for text in ("73.5", "102.5", "203", "31", "n0", "2026"):
        assert text not in made.stdout.replace(str(table), "")
    asked = hansa("schema", table, "--label", "drops", "--ranges").stdout
    assert f"#   {table}: 73.519 to 102.519, 30 different, 1 of 31 rows missing" in asked
    assert "#     'high': 10 rows" in asked
    assert tomllib.loads(asked) == tomllib.loads(made.stdout)
    assert "n0" not in asked.replace(str(table), "")


def test_without_a_label_none_is_guessed(table):
    made = hansa("schema", table)
    assert "label" not in tomllib.loads(made.stdout)["schema"]
    assert '# label = "..."' in made.stdout
    assert_refused(hansa("schema", table, "--label", "fault"), "no column 'fault', which is to be the label")
    assert_refused(hansa("schema"), "no table is named")


def test_columns_are_what_all_tables_agree_on(table, tmp_path):
    (tmp_path / "other.csv").write_text("cell,load,band,drops,own\nm1,x,mid,1,1\nm2,y,low,2,1\nm3,x,low,2,1\n")
    made = hansa("schema", table, tmp_path / "other.csv", "--label", "drops").stdout
    found = tomllib.loads(made)
    assert found["schema"]["features"] == ["band"]
    assert found["schema"]["ignore"] == ["cell", "load", "day", ODD, "own"]
    assert found["categories"] == {"band": ["high", "low", "mid"]}
    assert f"# texts in {tmp_path / 'other.csv'}, numbers in {table}: write them alike (VARCHAR)" in made
    assert f"# not in {table} (VARCHAR)" in made


def test_as_json_it_is_a_struct(table):
    made = hansa("schema", table, "--json", "--ranges", "--label", "drops")
    read = msgspec.json.decode(made.stdout, type=SchemaProposal)
    assert line_of(read) == made.stdout.rstrip("\n")
    assert read.text() == hansa("schema", table, "--ranges", "--label", "drops").stdout.rstrip("\n")
    assert [(column.name, column.role) for column in read.columns] == [
        ("cell", "ignore"),
        ("load", "feature"),
        ("band", "feature"),
        ("day", "feature"),
        (ODD, "feature"),
        ("drops", "label"),
    ]
    plain = json.loads(hansa("schema", table, "--json").stdout)
    assert all(column["ranges"] == [] for column in plain["columns"])


def test_a_members_own_file_names_the_table_before_there_is_a_plan(table, tmp_path):
    source = {"query": "SELECT cell, load, drops FROM t", "files": {"t": table.name}}
    path = write_member(tmp_path, "aurora", 1, table=None, source=source, id="cell")
    assert not (tmp_path / "plan.toml").exists()
    found = tomllib.loads(hansa("schema", "--member", path, "--label", "drops").stdout)
    assert found == {"schema": {"features": ["load"], "label": "drops"}}
    (tmp_path / "hub.toml").write_text(path.read_text().split("[source]")[0])
    assert_refused(hansa("schema", "--member", tmp_path / "hub.toml"), "table is missing")


def test_a_members_database_too(postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    sql = "SELECT 'n' || i AS cell, i::numeric / 7 AS load, i % 2 = 0 AS busy, now() AS at FROM generate_series(1, 9) AS t(i)"
    path = write_member(tmp_path, "aurora", 1, table=None, source={"database": postgresql.url, "query": sql})
    made = hansa("schema", "--member", path, "--label", "busy")
    assert tomllib.loads(made.stdout)["schema"] == {
        "features": ["load", "at"],
        "label": "busy",
        "ignore": ["cell"],
        "dates": {"at": "days"},
    }
    assert "BOOLEAN" in made.stdout


def test_money_and_dates_are_read_by_the_query_of_the_guide(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "bring-a-table.md").read_text()
    query = page.split('toml title="loans.toml"\n')[1].split("```")[0]
    (tmp_path / "loans.toml").write_text(query)
    lines = [f'"$6{row},500.50 ",{row + 1}-Feb-97,{row % 2}' for row in range(9)]
    (tmp_path / "loans.csv").write_text("\n".join(["amount,approved,default", *lines]) + "\n")
    plain = tomllib.loads(hansa("schema", tmp_path / "loans.csv", "--label", "default").stdout)["schema"]
    assert (plain["features"], plain["ignore"]) == ([], ["amount", "approved"])
    made = hansa("schema", "--member", tmp_path / "loans.toml", "--label", "default", "--ranges").stdout
    assert tomllib.loads(made)["schema"]["features"] == ["amount", "approved"]
    assert ": 60500.5 to 68500.5, 9 different" in made
    assert ": 9893 to 9901, 9 different" in made


def test_texts_of_very_many_kinds_are_no_categories(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["a,b", *(f"t{row // 2},1" for row in range(2 * MOST_LEVELS + 2))]) + "\n")
    made = hansa("schema", path).stdout
    assert "too many for categories" in made
    assert "t7" not in made.replace(str(path), "")


def test_what_is_told_of_a_table_is_told_of_its_schema_without_a_number(tmp_path):
    path = tmp_path / "odd.csv"
    path.write_text(
        "account,region,y\n" + "".join(f"{10**11 + row},{'Nord' if row % 2 else 'nord '},0\n" for row in range(9))
    )
    made = hansa("schema", path, "--label", "y").stdout
    assert "whole numbers, all different, which float32 cannot hold apart: it looks like an id" in made
    assert tomllib.loads(made)["schema"]["ignore"] == ["account"]
    assert "'Nord', 'nord ' differ by spaces or capitals only" in made
    assert "1000000" not in made


def test_a_decimal_comma_and_signs_that_move_the_cursor(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a;"b\x1b[2J"\n1,5;x\n2,5;x\n')
    made = hansa("schema", path, "--decimal", ",").stdout
    assert tomllib.loads(made)["schema"]["decimal"] == ","
    assert "\x1b" not in made
