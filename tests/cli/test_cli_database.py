"""A member whose rows are in a database: checked, joined and trained as any other, and its password is nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

import hansa as library
from hansa.data.source import read_rows
from hansa.node.in_process import train_in_process
from hansa.plan import read_plan
from made_consortium import HUB, PARTIES, PLAN, Consortium, assert_refused, cells, hansa, write_member, write_table
from postgresql import Server

THIRD = "cirrus"
SQL = "SELECT prb AS load, signal::numeric AS rsrp, alarms, fault = 'yes' AS fault FROM {} ORDER BY place"


@pytest.fixture
def tables(postgresql: Server, consortium: Consortium) -> Consortium:
    """Three parties: the first one's rows in the server under other names and types, then Parquet, then CSV; labels are texts."""
    folder = consortium.folder
    assert hansa("init", "--no-passphrase", THIRD, "--folder", folder / f"{THIRD}.identity").exit_code == 0
    cards = [folder / f"{name}.identity" / "card.toml" for name in (HUB, *PARTIES, THIRD)]
    (folder / "members.toml").unlink()
    assert hansa("members", *cards, "--save", folder / "members.toml").exit_code == 0
    plan = PLAN.replace('"borealis"]', f'"borealis", "{THIRD}"]').replace(
        "[privacy]", "[evaluation]\nfraction = 0.25\n[privacy]"
    )
    (folder / "plan.toml").write_text(plan.replace('label = "fault"', 'label = "fault"\nclasses = ["no", "yes"]'))
    for seed, name in enumerate((*PARTIES, THIRD)):
        rows = cells(60 + 20 * seed, seed)
        write_table(folder / f"{name}.csv", rows | {"fault": np.array(["no", "yes"])[rows["fault"]]})
    table = csv.read_csv(folder / f"{PARTIES[0]}.csv")
    postgresql.load("aurora_csv", table.append_column("place", [list(range(len(table)))]))
    postgresql.run(
        "DROP TABLE IF EXISTS aurora",
        "CREATE TABLE aurora AS SELECT place, load::real AS prb, rsrp AS signal, alarms::smallint AS alarms,"
        " fault FROM aurora_csv",
    )
    pq.write_table(csv.read_csv(folder / f"{PARTIES[1]}.csv"), folder / "borealis.parquet")
    return consortium


def secret(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "db.pass"
    path.write_text(text + "\n")
    path.chmod(mode)
    return path.name


def from_database(postgresql: Server, folder: Path, **changes: Any) -> dict[str, Any]:
    """Changes of the first party's file, whose rows are in the server."""
    source = {"database": postgresql.url, "query": SQL.format("aurora"), "password_file": "db.pass"}
    secret(folder, postgresql.password)
    return {"table": None, "source": source | changes}


def assert_nowhere(password: str, folder: Path, *said: str) -> None:
    """The password stands in no file of the folder but its own, and in nothing that was said."""
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "db.pass":
            assert password.encode() not in path.read_bytes(), path
    for text in said:
        assert password not in text


def test_a_run_of_three_with_rows_from_postgresql_parquet_and_csv(postgresql: Server, tables: Consortium):
    folder = tables.folder
    hub, port = tables.start_hub(transcript="frames")
    sources = {
        PARTIES[0]: from_database(postgresql, folder),
        PARTIES[1]: {"table": "borealis.parquet"},
        THIRD: {},
    }
    parties = {
        name: tables.start_party(name, port, transcript="frames", **changes) for name, changes in sources.items()
    }
    said = []
    for name, party in parties.items():
        status, *streams = party.end()
        assert status == 0, (name, streams)
        said += streams
    hub_record = hub.event("record")["record"]
    status, *streams = hub.end()
    assert status == 0
    models = {path.read_bytes() for path in tables.models()}
    plan = read_plan(folder / "plan.toml")
    rows = {
        name: read_rows(folder / f"{name}.csv", plan.schema, label_kind=plan.parameters.label_kind)
        for name in plan.parties
    }
    alone = train_in_process(plan, rows).outcome
    assert models == {alone.model}
    assert hub_record["history"]["logloss"] == list(alone.history["logloss"])
    scored = hansa("predict", folder / "aurora-model.json", folder / "cirrus.csv", "--save", folder / "scores.csv")
    assert "100 predictions written" in scored.output
    record = json.loads((folder / "aurora-record.json").read_text())
    assert record["rows"] == 60
    assert "database" not in json.dumps(record)
    assert_nowhere(postgresql.password, folder, *said, *streams)


def test_check_reads_it_without_a_change(postgresql: Server, tables: Consortium):
    folder = tables.folder
    path = write_member(folder, PARTIES[0], 1, **from_database(postgresql, folder))
    checked = hansa("check", folder / "plan.toml", "--member", path)
    assert checked.exit_code == 0, checked.output
    assert f"the result of {path}, source.query: 60 rows, fits the schema" in checked.stdout
    told = hansa("check", folder / "plan.toml", "--member", path, "--json")
    assert json.loads(told.stdout)["rows"] == 60
    assert_nowhere(postgresql.password, folder, checked.output, told.output)


@pytest.mark.slow
def test_join_reads_it_without_a_change(postgresql: Server, tables: Consortium):
    folder = tables.folder
    _, port = tables.start_hub()
    others = [tables.start_party(name, port) for name in (PARTIES[1], THIRD)]
    record = library.join(write_member(folder, PARTIES[0], port, **from_database(postgresql, folder)))
    assert record.rows == 60
    assert [party.end()[0] for party in others] == [0, 0]
    assert_nowhere(postgresql.password, folder, repr(record))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"query": "SELECT * FROM nowhere"}, 'found: ERROR: relation "nowhere" does not exist; mend the query'),
        (
            {"query": "SELECT array[1] AS load, 1 AS rsrp, 1 AS alarms, 1 AS fault"},
            "found the type _int4, which is not read",
        ),
        ({"database": "postgresql://hansa@127.0.0.1:1/postgres"}, "Connection refused"),
        ({"database": "postgresql://nobody@127.0.0.1:PORT/postgres"}, 'authentication failed for user "nobody"'),
        ({"database": "postgresql://[::1/postgres"}, "expected a URL, found one that cannot be taken apart"),
        ({"query": "SELECT 'planted' AS load, 1 AS rsrp, 1 AS alarms, true AS fault"}, "row 1, column 'load'"),
    ],
)
def test_what_goes_wrong_is_one_sentence_without_the_password(postgresql: Server, tables: Consortium, changes, said):
    folder = tables.folder
    changes = {key: value.replace("PORT", str(postgresql.port)) for key, value in changes.items()}
    path = write_member(folder, PARTIES[0], 1, **from_database(postgresql, folder, **changes))
    party = hansa("party", path)
    assert_refused(party, said)
    checked = hansa("check", folder / "plan.toml", "--member", path)
    assert said in checked.output
    assert_nowhere(postgresql.password, folder, party.output, checked.output, repr(party.exception))


# --- the file ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"database": "postgresql://u:planted-word@h/db"},
            "source.database: expected a URL without a password, found one",
        ),
        ({"database": "postgresql://h/db?password=planted-word"}, "source.database: expected a URL without a password"),
        ({"database": "planted-word"}, "source.database: expected a URL such as"),
        ({"database": ["planted-word"]}, "source.database is not of its kind (it is not shown"),
        ({"password_file": "db.pass"}, "source.password_file goes with source.database only"),
        ({"database": "postgresql://h/db", "files": {"t": "t.csv"}}, "source.files and source.database are both given"),
        (
            {"database": "postgresql://h/db", "password_file": "open.pass"},
            "open.pass: others can read this password; run: chmod 600",
        ),
        ({"database": "postgresql://h/db", "password_file": "no.pass"}, "the database's password cannot be read"),
    ],
)
def test_what_a_file_may_not_say_of_a_database(consortium: Consortium, source, said):
    folder = consortium.folder
    (folder / "open.pass").write_text("planted-word")
    (folder / "open.pass").chmod(0o640)
    path = write_member(folder, PARTIES[0], 1, table=None, source={"query": "SELECT 1", **source})
    result = hansa("party", path)
    assert_refused(result, said)
    assert "planted-word" not in result.output


def test_an_output_may_not_take_the_place_of_the_password(consortium: Consortium):
    folder = consortium.folder
    source = {"query": "SELECT 1", "database": "postgresql://h/db", "password_file": secret(folder, "word")}
    path = write_member(folder, PARTIES[0], 1, table=None, source=source, record="db.pass")
    assert_refused(hansa("party", path), "is the same file as source.password_file, which is read")
