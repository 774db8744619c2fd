"""What a party is told of its own table: the same in every way in which the table is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hansa.data.query import DatabaseQuery
from hansa.data.streamed import open_rows
from hansa.engines.shard import ShardWorker
from hansa.engines.sharded_rows import added
from hansa.errors import HansaError
from hansa.library.fit import read_parties
from hansa.node import own_rows
from hansa.node.check import check_table
from hansa.node.config import read_member_file
from hansa.plan import read_plan
from hansa.roles.batches import told_of
from hansa.simulation.tables import read_table
from hansa.trees.parameters import Parameters
from made_consortium import PLAN, make_consortium, write_member

AURORA = "aurora"
N, FILES, WORKERS = 400, 4, 3

HELD_OUT = PLAN + "\n[evaluation]\nfraction = 0.2\n"
IDS = HELD_OUT.replace('label = "fault"', 'label = "fault"\nid = "who"')
WEIGHTS = HELD_OUT.replace('label = "fault"', 'label = "fault"\nweight = "w"')
UNION = HELD_OUT.replace("[schema]", '[schema]\nunion = ["load"]')
LEVELS = HELD_OUT + '\n[categories]\nload = ["high", "low"]\n'
DATES = HELD_OUT.replace('label = "fault"', 'label = "fault"\ndates = { load = "days" }')
NUMBERS = HELD_OUT.replace("binary:logistic", "reg:squarederror")


class Here:
    """Workers of an engine in this process: the same shards, no cluster."""

    def __init__(self, _settings: Any, sources: list[Any]) -> None:
        self._workers = [ShardWorker(source) for source in sources]

    def __len__(self) -> int:
        return len(self._workers)

    def ask(self, worker: int, method: str, arguments: tuple[Any, ...]) -> Any:
        return worker, method, arguments

    def answer(self, call: Any) -> Any:
        worker, method, arguments = call
        return self._workers[worker].call(method, arguments)

    def total(self, calls: Any) -> Any:
        return added([self.answer(call) for call in calls])

    def close(self) -> None:
        self._workers = []


def good() -> dict[str, list[Any]]:
    draw = np.random.default_rng(1)
    return {
        "load": [float(np.float32(own)) for own in draw.normal(size=N)],
        "rsrp": [float(own) for own in np.round(draw.normal(-95, 8, N), 1)],
        "alarms": draw.integers(0, 4, N).tolist(),
        "fault": draw.integers(0, 2, N).tolist(),
    }


GOOD = good()
TEXTS = [f"{own:.3f}" for own in GOOD["load"]]


def last(column: str, *cells: Any) -> dict[str, list[Any]]:
    """The good column, these cells in place of its last ones."""
    own = TEXTS if isinstance(cells[0], str) else GOOD[column]
    return {column: [*own[: -len(cells)], *cells]}


@dataclass(frozen=True)
class Case:
    """A table that is not as it should be.

    Attributes:
        columns: in place of the good ones, None to leave one out. told: a part of the sentence, or of the refusal; "" for none.
        plan: that it is read for.
        own_words: where `hansa simulate` and `hansa.fit`, which have no plan, say something else.
    """

    columns: Mapping[str, list[Any] | None]
    told: str
    plan: str = HELD_OUT
    own_words: str | None = None


CASES = {
    "nothing wrong": Case({}, ""),
    "rows that repeat": Case(
        {name: [cells[0], cells[1], cells[2], cells[3]] * (N // 4) for name, cells in GOOD.items()},
        "many rows are equal, label included: two of them are in 25% of all pairs",
        own_words="label 'fault' has one class only",  # it tells of equal rows when it knows what is drawn
    ),
    "a constant": Case({"load": [5.0] * N}, "feature 'load' is constant"),
    "a constant that is a text in each shard": Case({"load": ["low"] * N}, "feature 'load' is constant", UNION),
    "other texts in each shard": Case({"load": [f"site {row // (N // FILES)}" for row in range(N)]}, "", UNION),
    "two constants": Case({"load": [5.0] * N, "alarms": [0] * N}, "features 'load', 'alarms' are constant"),
    "constant in each shard": Case({"load": [float(row // (N // FILES)) for row in range(N)]}, ""),
    "nothing in a column": Case({"load": [None] * N}, "feature 'load' is missing in every row"),
    "nothing in a shard": Case({"load": [None] * (N // 2) + GOOD["load"][N // 2 :]}, ""),
    "one class": Case({"fault": [1] * N}, "label 'fault' has one class only"),
    "one class in each shard": Case({"fault": [row * 2 // N for row in range(N)]}, ""),
    "one value": Case({"fault": [7.5] * N}, "label 'fault' has one value only", NUMBERS),
    "identifiers": Case(
        {"load": [2**24 + 1 + row for row in range(N)]}, "column 'load': float32 cannot hold its values apart: 16777217"
    ),
    "an infinite value": Case(last("load", float("inf")), "expected a finite number, found 'inf'"),
    "a number beyond float32": Case(
        last("load", 1e39), "found '1e+39' (a number beyond float32); write a number of at"
    ),
    "a number beyond float32, as a text": Case(last("load", "1e39"), "found '1e39' (a number beyond float32)"),
    "units": Case(
        {"load": [f"{cell} ms" for cell in TEXTS]}, "found '0.346 ms' (a number with a unit); write the number alone"
    ),
    "one unit": Case(last("load", "4.2ms"), "found '4.2ms' (a number with a unit)", own_words="found '4.2ms' among"),
    "one dash": Case(last("load", "-"), "found '-'; leave the cell empty", own_words="found '-' among"),
    "texts": Case({"load": ["high", "low"] * (N // 2)}, "found 'high'; leave the cell empty", own_words=""),
    "a date": Case({"load": ["2024-03-01"] * N}, "found '2024-03-01' (a date or time)"),
    "a date that is none": Case(
        {"load": ["2024-03-01", "1.3.2024"] * (N // 2)}, "expected a date such as 2024-03-01", DATES, own_words="found"
    ),
    "an unknown text": Case(
        {"load": ["high", "low"] * (N // 2 - 1) + ["low", "LOW"]}, "one of the plan's 2 levels", LEVELS, own_words=""
    ),
    "truth values in other words": Case(
        {"load": ["true", "Falsch"] * (N // 2)}, "found 'Falsch' (a truth value in other words); write true and false"
    ),
    "levels that differ by a space": Case(
        {"load": ["high", "high "] * (N // 2)},
        "column 'load': 'high', 'high ' differ by spaces or capitals only",
        HELD_OUT + '\n[categories]\nload = ["high", "high "]\n',
    ),
    "levels that differ in another shard": Case(
        {"load": ["Nord"] * (N // 2) + ["nord", "süd"] * (N // 4)},
        "column 'load': 'Nord', 'nord' differ by spaces or capitals only",
        UNION,
    ),
    "a column of almost this name": Case(
        {"Load ": GOOD["load"], "load": None},
        "rename the column 'Load ', which differs by spaces or cap",
        own_words="",
    ),
    "no label": Case({"fault": [*GOOD["fault"][:-1], None]}, "expected a label in every row, found a missing value"),
    "labels of texts": Case(
        {"fault": ["yes" if own else "no" for own in GOOD["fault"]]}, "found 'no'; write the label"
    ),
    "a third class": Case({"fault": [*GOOD["fault"][:-1], 2]}, "expected label 0 or 1, found '2'"),
    "only weights of zero": Case({"w": [0.0] * N}, "expected a positive weight in some row, found only zeros", WEIGHTS),
    "a negative weight": Case({"w": [1.0] * (N - 1) + [-1.0]}, "expected a weight of 0 or more, found '-1.0'", WEIGHTS),
    "no id": Case({"who": [f"p{row}" for row in range(N - 1)] + [None]}, "expected an id in every row", IDS),
    "ids, and rows that repeat": Case(
        {name: [cells[0], cells[3], cells[4], cells[6]] * (N // 4) for name, cells in GOOD.items()}
        | {"who": [f"p{row}" for row in range(N)]},
        "",
        IDS,
    ),
    "only weights of zero in a shard": Case({"w": [0.0] * (N // 2) + [1.0] * (N // 2)}, "", WEIGHTS),
    "texts in one shard only": Case({"load": [None] * (N // 2) + ["high", "low"] * (N // 4)}, "", UNION),
    "no text at all": Case({"load": [""] * N}, "expected a text in some row, found none", UNION),
}


def place_apart(text: str) -> str:
    """A sentence without the file and the row, and without the number of rows, of which a shard has fewer."""
    text = re.sub(r"^.*?(?=column ')|^.*?(?=expected )", "", text, count=1)
    text = re.sub(r"( in row \d+) of \S+", r"\1", text)
    text = re.sub(r", and \d+ of \d+ different values( of the [\d,]+ rows looked at)?", ", and others", text)
    return re.sub(r" \(and [\d,]+ more rows\)", "", text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_consortium(tmp_path_factory.mktemp("told") / "aurora-told", HELD_OUT)
    (made / "aurora-disk").mkdir()
    return made


@pytest.fixture
def ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Case], dict[str, Callable[[], Any]]]:
    """By way of reading, what tells of a case's table."""
    monkeypatch.setattr(own_rows, "RayWorkers", Here)
    rows, whole = folder / "aurora-rows", folder / "aurora-whole.parquet"

    def member(**given: Any) -> tuple[str, ...]:
        path = write_member(folder, AURORA, 1, **given)
        with own_rows.own_rows(read_member_file(path), describes=False) as (read,):
            return read.warnings

    def check() -> tuple[str, ...]:
        found = check_table(folder / "plan.toml", rows)
        if not found.table.ok:
            raise HansaError(str(found.table.violations[0]))
        return found.report().warnings

    def given(case: Case) -> dict[str, Callable[[], Any]]:
        (folder / "plan.toml").write_text(case.plan)
        table = pa.table({name: cells for name, cells in (GOOD | case.columns).items() if cells is not None})
        rows.mkdir(exist_ok=True)
        for number in range(FILES):
            pq.write_table(table.slice(number * N // FILES, N // FILES), rows / f"{number}.parquet")
        pq.write_table(table.append_column("party", pa.array(["aurora", "borealis"] * (N // 2))), whole)
        query = {"table": None, "source": {"query": "SELECT * FROM t", "files": {"t": rows.name}}}
        ray = {"kind": "ray", "workers": WORKERS}
        return {
            "in memory": lambda: member(table=rows.name, by_column=False),
            "by column": lambda: member(table=rows.name, by_column=True),
            "on disk": lambda: member(table=rows.name, engine={"kind": "disk", "folder": "aurora-disk"}),
            "Ray, in memory": lambda: member(table=rows.name, by_column=False, engine=ray),
            "Ray, by column": lambda: member(table=rows.name, by_column=True, engine=ray),
            "a query": lambda: member(**query),
            "a query, by column": lambda: member(**query, by_column=True),
            "hansa check": check,
        }

    return given


def outcome(way: Callable[[], Any]) -> str:
    try:
        return "\n".join(place_apart(text) for text in way())
    except HansaError as error:
        return f"refused: {place_apart(str(error))}"


@pytest.mark.parametrize("name", CASES)
def test_every_way_of_reading_tells_the_same(ways, name):
    case = CASES[name]
    found = {way: outcome(read) for way, read in ways(case).items()}
    assert len(set(found.values())) == 1, found
    assert (case.told in found["in memory"]) if case.told else not found["in memory"], found


@pytest.mark.parametrize("name", CASES)
def test_a_query_to_a_database_tells_the_same(ways, folder, postgresql, name):
    case = CASES[name]
    expected = outcome(ways(case)["in memory"])
    postgresql.load("told", pq.read_table(folder / "aurora-rows"))
    plan = read_plan(folder / "plan.toml")
    asked = DatabaseQuery(postgresql.url, "SELECT * FROM told", postgresql.password, None, "aurora.toml, source.query")

    def told(by_column: bool) -> tuple[str, ...]:
        with open_rows(asked, plan.schema, label_kind=plan.parameters.label_kind, by_column=by_column) as rows:
            return told_of(plan, rows.facts)

    assert [outcome(lambda way=way: told(way)) for way in (False, True)] == [expected] * 2


def test_files_without_rows_are_no_workers(folder, ways):
    """More workers than files with rows, and no row at all."""
    tell = ways(CASES["a constant"])
    empty = pq.read_table(folder / "aurora-rows/0.parquet").slice(0, 0)
    for number in range(1, FILES):
        pq.write_table(empty, folder / f"aurora-rows/{number}.parquet")
    assert {outcome(read) for read in tell.values()} == {outcome(tell["in memory"])}
    pq.write_table(empty, folder / "aurora-rows/0.parquet")
    found = {way: outcome(read) for way, read in tell.items()}
    assert set(found.values()) == {"refused: expected at least one row, found no rows; give a table with rows"}, found


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.plan in (HELD_OUT, WEIGHTS, NUMBERS)])
def test_whoever_holds_all_rows_is_told_it_too(ways, folder, name):
    """`hansa simulate` and `hansa.fit`: up to the cure, which is another one without a plan."""
    case = CASES[name]
    ways(case)
    weight = "w" if "w" in case.columns else None
    kind = "numeric" if case.plan is NUMBERS else "binary"
    objective = "reg:squarederror" if case.plan is NUMBERS else "binary:logistic"
    table = pq.read_table(folder / "aurora-rows").to_pandas()
    found = {
        "simulate": outcome(
            lambda: read_table(folder / "aurora-whole.parquet", "fault", "party", weight, label_kind=kind).warnings
        ),
        "fit": outcome(
            lambda: read_parties({AURORA: table}, "fault", weight, Parameters(objective=objective)).table.warnings
        ),
    }
    assert len(set(found.values())) == 1, found
    told = (case.told if case.own_words is None else case.own_words).split(";")[0]
    assert (told in found["fit"]) if told else not found["fit"], found
