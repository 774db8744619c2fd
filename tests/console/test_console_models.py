"""Models and Data: what a member's people see of the models that it received and of its own tables; sums, never a row."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest

import hansa as library
from hansa.console import data, models
from hansa.console.data import _shape
from hansa.console.member import LEAST_ROWS, warning_without_cells, without_cells
from hansa.console.pages import PAGES, api_path
from hansa.consortium.approvals import read_proposal
from hansa.data import files
from hansa.data.facts import FactsReader, told_of_levels
from hansa.data.files import open_sample, open_table
from hansa.errors import DataError
from hansa.node.record import Failure, PartyRecord
from hansa.roles.batches import repeated_rows
from hansa.service.store import ServiceRun
from hansa.views.palette import DARK, LIGHT, SERIES
from made_console import Desk, put_model, send
from made_consortium import FEATURES, PLAN, cells, hansa, make_consortium, write_table
from made_services import approved
from made_tables import plan as made_plan
from waiting import HANG_S

HELD_OUT = PLAN + "\n[evaluation]\nfraction = 0.3\n"
STARTED = {
    "hansa": "0.1.0", "member": "aurora", "plan": "ab" * 32, "plan_file": "cd" * 32, "mode": "federated", "identity": "x",
    "members": "y",
    "state": "failed", "stage": None, "run": "ef" * 32, "trees": 0, "started": "2026-01-02T03:04:05Z", "ended": None, "error": None,
}  # fmt: skip
HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A consortium, a plan that all approved, and two models of its rows."""
    folder = make_consortium(tmp_path_factory.mktemp("consortium"))
    write_table(folder / "aurora.csv", cells(300, 5))
    approved(folder, HELD_OUT)
    parties = {name: pd.read_csv(folder / f"{name}.csv")[[*FEATURES, "fault"]] for name in ("aurora", "borealis")}
    for rounds in (1, 6):
        model = library.fit(parties, label="fault", rounds=rounds, max_depth=2, alone=False, progress=False).model
        model.save(folder / f"model{rounds}.json")
    return folder


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    """A console whose service finished two runs."""
    made = Desk(folder, state=str(tmp_path / "state"))
    for run, rounds in (("a1b2", 6), ("c3d4", 1)):
        shown = ServiceRun(run=run, plan="cells", mode="federated", trees=rounds, rounds=6)
        put_model(
            made.member.store, made.member.service, folder / "approved.json", folder / f"model{rounds}.json", shown
        )
    made.put(run="e5f6", state="failed", text='"model_sha256": "" is not there')
    return made


def test_the_list_has_the_runs_that_gave_a_model(desk: Desk):
    client = desk.signed_in("viewer")
    shown = client.get("/api/models").json()
    assert {run["run"] for run in shown["runs"]} == {"a1b2", "c3d4"}
    assert shown["paging"]["rows"] == 2
    page = client.get("/models").text
    assert "a1b2" in page
    assert "e5f6" not in page
    assert "None yet" in Desk(desk.member.service.path.parent, "borealis").signed_in("viewer").get("/models").text


def test_a_model_shows_its_curves_and_what_it_looks_at(desk: Desk, folder: Path):
    client = desk.signed_in("viewer")
    shown = client.get("/api/models/a1b2").json()
    assert (shown["objective"], shown["rounds"], shown["own_rows"]) == ("binary:logistic", 6, True)
    assert [each["run"] for each in shown["others"]] == ["c3d4"]
    views = {view["name"]: view for view in shown["views"]}
    assert views["curves-0"]["chart"]["series"][0]["y"] == [1 / k for k in range(1, 7)]
    gains = library.Model.load(folder / "model6.json").importance("total_gain")
    largest = max(gains, key=gains.get)
    assert views["importance"]["chart"]["bars"][0]["name"] == largest
    page = client.get("/models/a1b2").text
    assert page.count("<svg") == 2
    assert f"{100 * gains[largest] / sum(gains.values()):.2f}" in page
    assert "Save the model" in page


def test_a_page_with_pictures_passes_the_strict_policy(desk: Desk):
    client = desk.signed_in("viewer")
    for path in ("/models/a1b2", "/models/a1b2/rows", "/models/a1b2/alone", "/models/a1b2/against/c3d4", "/data/1"):
        answer = client.get(path)
        assert answer.status_code == 200, (path, answer.text)
        assert "<svg" in answer.text, path
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert not re.search(r"\sstyle=|<style|javascript:|\son\w+=", answer.text), path
        assert not re.search(r'(?:src|href)="(?:https?:)?//', answer.text), path
        ids = re.findall(r'\bid="([^"]+)"', answer.text)
        assert len(ids) == len(set(ids)), path
        assert all(f'aria-label="{name}"' not in answer.text for name in ("", " ")), path
        assert len(answer.content) < 300_000, path


def test_on_own_rows_it_is_what_the_command_says(desk: Desk, folder: Path):
    client = desk.signed_in("viewer")
    shown = client.get("/api/models/a1b2/rows?threshold=0.3").json()
    (folder / "held.toml").write_text(HELD_OUT)
    given = (
        folder / "model6.json",
        folder / "aurora.csv",
        "--plan",
        folder / "held.toml",
        "--threshold",
        "0.3",
        "--json",
    )
    assert shown["found"] == as_shown(json.loads(hansa("evaluate", *given).stdout))
    assert shown["found"]["held_out"]
    assert 0 < shown["found"]["rows"] < 150
    page = client.get("/models/a1b2/rows?threshold=0.3").text
    assert "<option selected>0.3</option>" in page
    assert f"<td>{shown['found']['metrics']['auc']:.4f}</td>" in page
    for asked, taken in (("x", 0.5), ("nan", 0.5), ("0.31", 0.3), ("7", 0.9), ("-1", 0.05), ("0.05", 0.05)):
        found = client.get(f"/api/models/a1b2/rows?threshold={asked}").json()["found"]
        assert found["confusion"]["threshold"] == taken


def as_shown(told: dict) -> dict:
    """What the command tells of one model or of two, without the share of labels in parts of few rows."""
    few = [
        own
        for found in ([told] if "calibration" in told else [told["first"], told["second"]])
        for each in found["calibration"]
        for own in each["bins"]
        if 0 < own["rows"] < LEAST_ROWS
    ]
    assert few
    for own in few:
        own |= {"predicted": None, "found": None}
    return told


def test_two_models_are_compared_on_own_rows(desk: Desk):
    shown = desk.signed_in("viewer").get("/api/models/a1b2/against/c3d4").json()
    assert shown["found"]["first"]["rounds"] == 6
    assert shown["found"]["second"]["rounds"] == 1
    assert shown["found"]["first_loss"] < shown["found"]["second_loss"]
    assert shown["found"] == as_shown(json.loads(json.dumps(shown["found"])))


def test_a_model_stands_beside_one_of_own_rows_alone(desk: Desk, folder: Path):
    client = desk.signed_in("viewer")
    assert client.get("/api/models/a1b2").json()["held_out"] is True
    assert '<a href="/models/a1b2/alone">' in client.get("/models/a1b2").text
    shown = client.get("/api/models/a1b2/alone").json()
    (folder / "held.toml").write_text(HELD_OUT)
    given = (folder / "model6.json", folder / "aurora.csv", "--plan", folder / "held.toml", "--alone", "--json")
    assert shown["found"] == as_shown(json.loads(hansa("evaluate", *given).stdout))
    assert shown["found"]["names"] == ["common", "own"]
    page = client.get("/models/a1b2/alone").text
    assert '<th scope="col">own</th>' in page or ">own<" in page
    assert shown["facts"] in page.replace("&#39;", "'")


def test_one_model_of_own_rows_is_trained_at_a_time(desk: Desk):
    """Many who ask for it do not train as many models."""
    client = desk.signed_in("viewer")
    models._beside_own.cache_clear()
    with models._training:
        refused = client.get("/models/a1b2/alone")
    assert refused.status_code == 404
    assert "a model of own rows is being trained here" in refused.text
    assert client.get("/models/a1b2/alone").status_code == 200
    assert models._beside_own.cache_info().currsize == 1


def test_files_are_saved_and_a_changed_model_is_not_shown(desk: Desk, folder: Path):
    client = desk.signed_in("viewer")
    answer = client.get("/models/a1b2/file")
    assert answer.content == (folder / "model6.json").read_bytes()
    assert "attachment" in answer.headers["content-disposition"]
    assert client.get("/models/a1b2/provenance").status_code == 404
    assert client.get("/models/e5f6").status_code == 404
    assert client.get("/models/nothing").status_code == 404
    path = desk.member.service.runs / "a1b2" / "model.json"
    path.write_bytes(path.read_bytes().replace(b"load", b"lood", 1))
    for page in ("/models/a1b2", "/models/a1b2/rows", "/models/a1b2/file"):
        refused = client.get(page)
        assert refused.status_code == 422, page
        assert "is not the model of run a1b2 any more; restore it from a back-up" in refused.text


def test_a_member_without_a_table_is_told_so(folder: Path, desk: Desk, tmp_path: Path):
    bare = Desk(folder, state=str(desk.member.service.state), sources=None)
    client = bare.signed_in("viewer", "someone")
    assert client.get("/api/models/a1b2").json()["own_rows"] is False
    refused = client.get("/models/a1b2/rows")
    assert refused.status_code == 404
    assert "this member has no table that is a file for plan" in refused.text
    assert "None: this member" in client.get("/data").text


def test_data_shows_columns_and_never_a_row(desk: Desk, folder: Path):
    client = desk.signed_in("viewer")
    shown = client.get("/api/data").json()
    assert [(each["kind"], each["name"]) for each in shown["sources"]] == [("table", "aurora.csv")]
    table = pd.read_csv(folder / "aurora.csv")
    found = client.get("/api/data/1").json()
    assert found["rows"] == len(table)
    columns = {each["name"]: each for each in found["columns"]}
    assert columns["rsrp"]["missing"] == int(table["rsrp"].isna().sum())
    assert columns["alarms"]["distinct"] == 4
    assert columns["load"]["mean"] == pytest.approx(table["load"].mean(), rel=1e-5)
    page = client.get("/data/1").text
    exact = {f"{value:.7g}" for value in table["load"]} - {f"{table['load'].min():.6g}", f"{table['load'].max():.6g}"}
    assert not [value for value in exact if len(value) > 8 and value in page]
    assert client.get("/data/2").status_code == 404
    assert client.get("/data/%2e%2e").status_code == 404


def test_a_table_is_checked_against_a_plan_that_was_brought(desk: Desk, folder: Path, tmp_path: Path):
    client = desk.signed_in("officer")
    answer = send(client, "/plans/bring", file=(folder / "approved.json").read_bytes())
    assert answer.status_code == 303, answer.text
    (plan,) = client.get("/api/data").json()["plans"]
    found = client.get(f"/api/data/check/{plan['proposal']}").json()
    assert found["report"]["ok"]
    assert found["report"]["rows"] == 300
    assert "The table fits the plan." in client.get(f"/data/check/{plan['proposal']}").text
    write_table(tmp_path / "broken.csv", {**cells(40, 1), "fault": [2] * 40})
    broken = Desk(folder, state=str(desk.member.service.state), sources=[{"table": str(tmp_path / "broken.csv")}])
    page = broken.signed_in("viewer", "someone").get(f"/data/check/{plan['proposal']}").text
    assert "The table does not fit the plan." in page
    assert "fault" in page
    assert client.get(f"/data/check/{'0' * 64}").status_code == 404


def test_names_with_markup_are_texts(folder: Path, tmp_path: Path):
    write_table(
        tmp_path / "hostile.csv", {HOSTILE: [float(k % 50) for k in range(300)], "vendor\u202e": [HOSTILE] * 300}
    )
    desk = Desk(folder, state=str(tmp_path / "state"), sources=[{"table": str(tmp_path / "hostile.csv")}])
    page = desk.signed_in("viewer").get("/data/1").text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "\u202e" not in page


def test_the_colours_of_pictures_are_those_of_the_palette():
    css = (Path(library.__file__).parent / "console" / "static" / "console.css").read_text(encoding="utf-8")
    light, dark = css[css.index("/* Pictures") :].split("@media (prefers-color-scheme: dark)")
    for text, colours in ((light, LIGHT), (dark, DARK)):
        for name in (*SERIES, "ink"):
            assert f"--{name}: {colours[name]};" in text


@pytest.mark.parametrize("column", ["load", "fault"])
def test_what_is_wrong_with_a_table_is_told_without_its_cells(tmp_path: Path, column: str):
    """Neither by the page of a table and a plan, nor by what a page or a form refuses."""
    folder = make_consortium(tmp_path)
    approved(folder, PLAN)
    table = pd.read_csv(folder / "aurora.csv").astype(object)
    table.loc[7, column] = "secret, found 8; x"
    table.to_csv(folder / "aurora.csv", index=False)
    desk = Desk(folder)
    client = desk.signed_in()
    send(client, "/plans/bring", (folder / "approved.json").read_bytes())
    digest = client.get("/api/plans").json()["plans"][0]["proposal"]["proposal"]
    for path in (f"/data/check/{digest}", f"/api/data/check/{digest}"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "secret" not in answer.text
        assert str(folder) not in answer.text
        assert "<td>8</td>" in answer.text or '"row":8' in answer.text
    put_model(
        desk.member.store,
        desk.member.service,
        folder / "approved.json",
        saved_model(folder),
        ServiceRun(run="a1b2", plan="cells", mode="federated", trees=1, rounds=1),
    )
    for path in ("/models/a1b2/rows", "/api/models/a1b2/rows", "/data/1", "/api/data/1"):
        assert "secret, found" not in client.get(path).text, path
    given = {
        "name": "x",
        "source": "0",
        "label": "fault",
        "mode": "federated",
        "hub": "hub",
        "objective": "reg:squarederror",
    }
    assert "secret, found" not in send(client, "/new-plan/write", rounds="3", **given).text
    assert "secret, found" not in client.get("/actions").text


SECRET = 987654321.0
"""A cell of one row, far from all others, which float32 cannot hold either."""


def test_no_end_of_a_column_is_shown(tmp_path: Path):
    """The least and the greatest value are cells of rows: neither the page of a table nor that of a table and a plan has them."""
    folder = make_consortium(tmp_path)
    approved(folder, PLAN)
    table = pd.read_csv(folder / "aurora.csv").astype({"load": float})
    table.loc[3, "load"], table.loc[4, "load"] = SECRET, -SECRET
    table["few"] = [SECRET if row < LEAST_ROWS - 1 else None for row in range(len(table))]
    table["some"] = [SECRET if row < LEAST_ROWS else None for row in range(len(table))]
    table.to_csv(folder / "aurora.csv", index=False)
    desk = Desk(folder)
    client = desk.signed_in()
    found = {own["name"]: own for own in client.get("/api/data/1").json()["columns"]}
    ordered = sorted(table["load"])
    assert found["load"]["low"] == float(f"{ordered[LEAST_ROWS - 1]:.3g}")
    assert found["load"]["high"] == float(f"{ordered[-LEAST_ROWS]:.3g}")
    assert [found["few"][name] for name in ("low", "mean", "high")] == [None, None, None]
    assert found["some"]["mean"] == np.float32(SECRET)  # so many rows have it
    table.drop(columns=["few", "some"]).to_csv(folder / "aurora.csv", index=False)
    send(client, "/plans/bring", (folder / "approved.json").read_bytes())
    digest = client.get("/api/plans").json()["plans"][0]["proposal"]["proposal"]
    answers = [
        client.get(path) for path in ("/data/1", "/api/data/1", f"/data/check/{digest}", f"/api/data/check/{digest}")
    ]
    for answer in answers:
        assert answer.status_code == 200
        assert not re.search("987.?654|9\\.8765|9.88e", answer.text), answer.url
    assert "float32 cannot hold its values apart" in answers[2].text


def test_a_warning_says_what_it_is_of_without_its_values():
    """Each kind of sentence that a table's owner is told; one of a new kind keeps its column alone."""
    (levels,) = told_of_levels({"region": ["Secret", "secret "]})
    told = warning_without_cells(levels)
    assert "ecret" in levels
    assert told.startswith("column 'region': texts differ by spaces or capitals only, and are different levels; write")
    assert "ecret" not in told
    plan = replace(made_plan(["aurora"]), evaluation_fraction=0.5)
    (repeats,) = repeated_rows(plan, np.zeros((1, 40), np.float32), np.zeros(40, np.float32))
    told = warning_without_cells(repeats)
    assert "100%" in repeats
    assert told.startswith("many rows are equal, label included. Equal rows are held out together or not at all")
    assert "%" not in told
    facts = FactsReader(2)
    facts.take("load", np.full(2, 7.5, np.float32), role="feature")
    facts.take("fault", np.ones(2, np.float32), role="label")
    for text in facts.facts().texts(has_classes=True):
        assert warning_without_cells(text) == text
    assert "7.5" not in warning_without_cells("column 'load': 7.5 is odd; mend it")
    assert "7.5" not in warning_without_cells("7.5 is odd; mend it")


def test_a_picture_ends_where_so_many_rows_are_beyond_it():
    values = np.arange(20.0 * LEAST_ROWS)
    values[0], values[-1] = -SECRET, SECRET
    (shape,) = _shape("load", values).shapes
    assert shape.bins[0][0] == LEAST_ROWS - 1
    assert shape.bins[-1][1] == len(values) - LEAST_ROWS


WRONG: dict[str, str] = {
    "a text among numbers": "vvoltt",
    "a label that is no class": "secret7",
    "a number beyond float32": "7.7e77",
    "a date": "1977-07-07x",
}


@pytest.mark.parametrize("cell", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("column", ["load", "fault"])
def test_a_run_that_a_table_ended_is_told_without_its_cells(folder: Path, tmp_path: Path, column: str, cell: str):
    """Wherever a page, its JSON or an event tells what happened to a run."""
    table = pd.read_csv(folder / "aurora.csv").astype(object)
    table.loc[7, column] = cell
    table.to_csv(tmp_path / "wrong.csv", index=False)
    schema = library.Schema(tuple(FEATURES), "fault")
    with pytest.raises(DataError, match=re.escape(cell)) as refused:
        library.read_rows(tmp_path / "wrong.csv", schema, label_kind="binary")
    _shows_no_cell(Desk(folder, state=str(tmp_path / "state")), str(refused.value), cell)


@pytest.mark.parametrize(
    "text",
    [
        "x.csv: expected a readable table, found: Conversion Error: Could not convert string 'CELL' to INT32; repair the file",
        'source.query: expected one SELECT statement that the database answers, found: invalid input for integer: "CELL"; mend it',
        "source.query: expected one SELECT statement of DuckDB's SQL that reads the tables 'a' only, found: CELL; mend the query",
        "x.csv, row 12, column 'load': holds CELL; mend it",
    ],
)
def test_nor_do_words_of_a_database_bring_a_cell(folder: Path, tmp_path: Path, text: str):
    _shows_no_cell(Desk(folder, state=str(tmp_path / "state")), text, "CELL")
    cut = without_cells(f"{text}; it is started again in 4 s")
    assert "CELL" not in cut
    assert cut.endswith("; it is started again in 4 s")


def _shows_no_cell(desk: Desk, text: str, cell: str) -> None:
    runs = {"failed": "a1b2", "waiting": "c3d4"}
    approval = read_proposal(
        desk.member.service.path.parent / "approved.json", desk.member.service.consortia[0].members
    )
    for state, run in runs.items():
        own = desk.member.service.runs / run
        own.mkdir(parents=True)
        failure = Failure(kind="DataError", text=text, retry=False)
        record = PartyRecord(**STARTED | {"member": "aurora", "state": "failed", "error": failure})
        (own / "record.json").write_bytes(msgspec.json.encode(record))
        (own / "events.jsonl").write_text(json.dumps({"event": "error", "text": text}) + "\n")
        desk.put(run=run, state=state, text=text, folder=run, id=run * 16, model_sha256="ab" * 32)
    desk.put(run=approval.digest.hex()[:16], proposal=approval.digest.hex(), state="failed", text=text)
    client = desk.signed_in()
    send(client, "/plans/bring", (desk.member.service.path.parent / "approved.json").read_bytes())
    told = 0
    for page in PAGES:
        for run in runs.values():
            path = page.path.format(run=run, against=run, place=1, draft="x", proposal=approval.digest.hex())
            for answer in (client.get(path), client.get(api_path(page).replace(page.path, path))):
                assert cell not in answer.text, (str(answer.url), answer.text)
                told += "what stands there" in answer.text
    assert told >= 12


def saved_model(folder: Path) -> Path:
    """A model of the table of another member."""
    parties = {"borealis": pd.read_csv(folder / "borealis.csv")[[*FEATURES, "fault"]]}
    library.fit(parties, label="fault", rounds=1, max_depth=2, alone=False, progress=False).model.save(
        folder / "model.json"
    )
    return folder / "model.json"


def sources_of(folder: Path, state: Path, *sources: dict[str, object]) -> Desk:
    """A console over these sources."""
    return Desk(folder, state=str(state), sources=[*sources])


def test_folders_and_queries_are_drawn_as_the_file_with_the_same_rows(folder: Path, tmp_path: Path):
    table = pd.read_csv(folder / "aurora.csv")
    (tmp_path / "parts").mkdir()
    for place, start in enumerate(range(0, len(table), 70)):
        table[start : start + 70].to_parquet(tmp_path / "parts" / f"{place}.parquet", index=False)
    query = {"query": "SELECT * FROM a", "files": {"a": str(folder / "aurora.csv")}}
    desk = sources_of(
        folder, tmp_path / "state", {"table": "aurora.csv"}, {"table": str(tmp_path / "parts")}, {"source": query}
    )
    client = desk.signed_in("viewer")
    whole, parts, asked = (client.get(f"/api/data/{place}").json() for place in (1, 2, 3))
    for other in (parts, asked):
        assert other["rows"] == whole["rows"] == len(table)
        assert not other["sample"]
        assert other["columns"] == whole["columns"]
        assert other["views"] == whole["views"]
    size = sum(path.stat().st_size for path in (tmp_path / "parts").iterdir())
    shown = client.get("/api/data").json()["sources"]
    assert [(each["kind"], each["drawn"]) for each in shown] == [("table", True), ("table", True), ("query", True)]
    assert [each["bytes"] for each in shown[1:]] == [size, None]
    assert 'href="/data/3"' in client.get("/data").text
    # What was found counts until a file of it changes.
    table[:7].to_parquet(tmp_path / "parts" / "0.parquet", index=False)
    assert client.get("/api/data/2").json()["rows"] == len(table) - 63


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder"])
def test_of_a_large_table_a_sample_is_drawn(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    monkeypatch.setattr(data, "MOST_TABLE_BYTES", 1000)
    monkeypatch.setattr(data, "SAMPLED_ROWS", 2000)
    table = pd.DataFrame({"load": np.arange(20_000.0), "vendor": ["a", "b"] * 10_000})
    path = tmp_path / ("big" if kind == "folder" else f"big.{kind}")
    if kind == "csv":
        table.to_csv(path, index=False)
    elif kind == "parquet":
        table.to_parquet(path, index=False)
    else:
        path.mkdir()
        for part in (0, 1):
            table[part::2].to_parquet(path / f"{part}.parquet", index=False)
    client = sources_of(folder, tmp_path / "state", {"table": str(path)}).signed_in("viewer")
    found = client.get("/api/data/1").json()
    assert (found["rows"], found["sample"]) == (2000, True)
    load, vendor = found["columns"]
    # Of 2,000 rows of 20,000 the mean is within 1/8 of the truth but for one time in 10^20.
    assert abs(load["mean"] - table["load"].mean()) < 1250
    assert (load["kind"], vendor["kind"], vendor["distinct"]) == ("numbers", "texts", 2)
    assert len(found["views"]) == 2
    assert "which chance chose" in client.get("/data/1").text


def test_what_cannot_be_drawn_says_what_to_do(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pa.feather.write_feather(pd.DataFrame({"load": [1.0] * 50}), tmp_path / "big.feather")
    query = {"query": "SELECT * FROM a", "files": {"a": str(folder / "aurora.csv")}}
    wrong = {"query": "SELECT * FROM b", "files": {"a": str(folder / "aurora.csv")}}
    sources = (
        {"table": str(tmp_path / "big.feather")},
        {"source": query},
        {"source": {"query": "SELECT 1", "database": "postgresql://u@nowhere.example/x"}},
        {"table": str(tmp_path / "gone.csv")},
        {"source": wrong},
    )
    client = sources_of(folder, tmp_path / "state", *sources).signed_in("viewer")
    assert client.get("/data/5").status_code == 422
    monkeypatch.setattr(data, "MOST_TABLE_BYTES", 10)
    for place, cure in ((1, "write it as Parquet"), (2, "hansa schema --member"), (3, "hansa schema --member")):
        answer = client.get(f"/api/data/{place}")
        assert answer.status_code in (404, 422)
        assert cure in answer.json()["error"]
    assert client.get("/data/4").status_code == 404
    listed = client.get("/api/data").json()["sources"]
    assert [each["drawn"] for each in listed] == [True, True, False, False, True]


def test_a_sample_that_takes_too_long_is_given_up(tmp_path: Path):
    pd.DataFrame({"load": np.arange(3000)}).to_parquet(tmp_path / "t.parquet", index=False)
    with open_table(tmp_path / "t.parquet") as table:
        endless = replace(table, relation="range(1000000000000000) AS t(c0)", parameters=())
        with pytest.raises(DataError, match=r"no sample of 1,000 rows was drawn within 0\.05 s; `hansa schema`"):
            endless.sample(1000, 0.05)
        assert table.sample(1000, HANG_S).count_rows() == 1000


def test_a_wide_table_has_a_sample_of_fewer_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "SAMPLE_CELLS", 3000)
    pd.DataFrame(np.zeros((500, 300))).rename(columns=str).to_csv(tmp_path / "t.csv", index=False)
    with open_sample(tmp_path / "t.csv", 400, HANG_S) as table:
        assert table.count_rows() == 11
