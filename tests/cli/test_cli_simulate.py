"""`hansa simulate`: what it prints and writes, in one process and over mutual TLS, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from hansa.protocol.messages import Contribution, Finish, Join, Received, decode
from hansa.simulation.run import member_names, told_of_names
from hansa.simulation.scores import score_table
from hansa.simulation.tables import read_table, split_table
from hansa.transport.recording import read_transcript
from hansa.trees.xgboost_json import from_json
from made_consortium import assert_refused, cells, hansa, write_table
from waiting import HANG_S

N_ROWS = 240
PARTIES = {"Aurora Mobile": "aurora-mobile", "borealis": "borealis", "Cirrus": "cirrus"}
BASE = ("--label", "fault", "--party-column", "operator", "--json")
QUICK = ("--rounds", "3", "--set", "max_depth=3", "--set", "max_bin=32", "--min-cell-rows", "2")

KEYS = {
    "mode", "transport", "objective", "trees", "members", "seconds", "round_trips_per_tree", "metrics", "pooled",
    "model_sha256",
}  # fmt: skip
MEMBER_KEYS = {"rows", "bytes_up", "bytes_down", "metrics"}
SECONDS = {"total", "startup", "binning", "training"}


def operators(seed: int = 5) -> dict[str, object]:
    """Three operators' cells; Cirrus has no fault at all, and every operator writes its vendor as text."""
    columns = cells(N_ROWS, seed)
    operator = np.array(list(PARTIES), object)[np.arange(N_ROWS) % 3]
    fault = np.where(operator == "Cirrus", 0, columns["fault"])
    vendor = np.array(["north", "south", None], object)[np.arange(N_ROWS) // 2 % 3]
    return {"operator": operator, **columns, "vendor": vendor, "fault": fault}


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    return write_table(tmp_path_factory.mktemp("tables") / "cells.csv", operators())


def ran(stdout: str, folder: Path) -> SimpleNamespace:
    return SimpleNamespace(summary=json.loads(stdout), model=(folder / "model.json").read_bytes(), folder=folder)


@pytest.fixture(scope="module")
def in_process(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in-process")
    result = hansa(
        "simulate", table, *BASE, *QUICK, "--in-process", "--alone", "--pooled",
        "--save", folder / "model.json", "--transcript", folder / "frames", "--report", folder / "page.html",
    )  # fmt: skip
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stderr == ""
    return ran(result.stdout, folder)


@pytest.fixture(scope="module")
def over_tls(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    done = subprocess.run(
        [sys.executable, "-m", "hansa", "simulate", str(table), *BASE, *QUICK,
         "--save", str(folder / "model.json"), "--transcript", str(folder / "frames")],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return ran(done.stdout, folder)


def test_json_has_the_documented_keys(in_process, over_tls):
    for run, transport in ((in_process, "in-process"), (over_tls, "mutual TLS 1.3")):
        summary = run.summary
        assert summary.keys() >= KEYS
        assert summary["transport"] == transport
        assert (summary["mode"], summary["objective"]) == ("federated", "binary:logistic")
        assert summary["trees"] == 3
        assert (summary["categories"], len(summary["warnings"])) == ({"vendor": 2}, 0)
        assert set(summary["members"]) == set(PARTIES.values())
        for member in summary["members"].values():
            assert member.keys() >= MEMBER_KEYS
            assert member["metrics"].keys() == {"together", "alone"}
            assert member["metrics"]["together"].keys() >= {"auc", "logloss"}
            assert member["bytes_up"] > member["bytes_down"] > 0
        assert summary["seconds"].keys() == SECONDS
        parts = summary["seconds"]
        assert 0 < parts["startup"] + parts["binning"] + parts["training"] < parts["total"]
        # a question for each level, and one for the first totals and the last metrics
        assert summary["round_trips_per_tree"] == pytest.approx((3 * 3 + 2) / 3)
        assert 0.5 < summary["metrics"]["auc"] < 1
        assert summary["model_sha256"] == hashlib.sha256(run.model).hexdigest()


def test_pooled_has_the_documented_keys_and_hansa_gives_the_same_model_there(in_process, over_tls):
    pooled = in_process.summary["pooled"]
    assert pooled.keys() == {"hansa", "xgboost"}
    for result in pooled.values():
        assert result["metrics"].keys() == in_process.summary["metrics"].keys()
        assert result["seconds"].keys() >= {"binning", "training"}
    assert pooled["hansa"]["metrics"] == in_process.summary["metrics"]
    assert pooled["xgboost"]["metrics"]["auc"] == pytest.approx(in_process.summary["metrics"]["auc"], abs=0.1)
    assert over_tls.summary["pooled"] == {}


def test_one_process_and_many_give_the_same_model_and_say_as_much(in_process, over_tls):
    assert in_process.model == over_tls.model
    assert in_process.summary["metrics"] == over_tls.summary["metrics"]
    for name, member in in_process.summary["members"].items():
        other = over_tls.summary["members"][name]
        assert member["metrics"]["together"] == other["metrics"]["together"]
        assert member["rows"] == other["rows"]
        for key in (
            "bytes_up",
            "bytes_down",
        ):  # members of processes of their own show each other their logs, before and after
            assert 0 < other[key] - member[key] < 4000, (name, key)


def test_collectors_give_the_same_model(in_process, table, tmp_path):
    given = (*BASE, *QUICK, "--in-process", "--collectors", "2", "--save", tmp_path / "model.json")
    result = hansa("simulate", table, *given)
    assert result.exit_code == 0, (result.output, result.exception)
    assert (tmp_path / "model.json").read_bytes() == in_process.model
    assert json.loads(result.stdout)["members"].keys() == set(PARTIES.values())


def test_the_page_shows_the_numbers_and_loads_nothing(in_process):
    page = (in_process.folder / "page.html").read_text(encoding="utf-8")
    summary = in_process.summary
    assert page.count("<svg") == 3  # alone against together, importance, phases
    for values in (summary["metrics"], summary["pooled"]["hansa"]["metrics"]):
        assert all(f"<td>{value:.4f}</td>" in page for value in values.values() if value is not None)
    assert "https:" not in page
    assert "<script" not in page


def test_alone_is_none_for_a_party_of_one_class_and_only_where_asked(in_process, over_tls):
    alone = {name: m["metrics"]["alone"] for name, m in in_process.summary["members"].items()}
    assert alone["cirrus"] is None
    assert alone["borealis"].keys() == in_process.summary["metrics"].keys()
    assert alone["borealis"] != in_process.summary["members"]["borealis"]["metrics"]["together"]
    assert in_process.summary["members"]["cirrus"]["metrics"]["together"]["auc"] is None
    assert all(m["metrics"]["alone"] is None for m in over_tls.summary["members"].values())


def test_the_transcript_decodes_and_each_party_hears_only_its_own_connection(over_tls, in_process):
    frames = {path.stem: list(read_transcript(path)) for path in (over_tls.folder / "frames").iterdir()}
    assert set(frames) == {"aggregator", *PARTIES.values()}
    for name in PARTIES.values():
        own = [(record.direction, record.frame) for record in frames[name]]
        there = [(r.direction, r.frame) for r in frames["aggregator"] if r.member == name]
        assert sorted(own) == sorted(there)
        assert {record.member for record in frames[name]} == {name}
        up = {type(decode(name, frame)) for direction, frame in own if direction == "up"}
        down = {type(decode("aggregator", frame)) for direction, frame in own if direction == "down"}
        assert up == {Join, Contribution, Received}
        assert Contribution not in down
        assert Finish in down
        passed = sum(len(frame) + 4 for direction, frame in own if direction == "up")
        assert passed == in_process.summary["members"][name]["bytes_up"]


def test_the_transcript_of_one_process_is_the_hubs(in_process):
    records = list(read_transcript(in_process.folder / "frames" / "aggregator.frames"))
    assert {record.member for record in records} == set(PARTIES.values())
    assert all(decode(record.member, record.frame) for record in records)


def test_the_saved_model_loads_in_xgboost_and_gives_the_reported_metrics(in_process, table):
    xgboost = pytest.importorskip("xgboost")
    rows = read_table(table, "fault", "operator")
    _, test = split_table(rows, 0.2, 42, stratified=True)
    booster = xgboost.Booster(model_file=str(in_process.folder / "model.json"))
    predictions = booster.predict(xgboost.DMatrix(test.features.T, feature_names=list(test.names)))
    own = from_json(in_process.model).predict(test.features)
    np.testing.assert_allclose(predictions, own, rtol=0, atol=1e-6)
    assert score_table("binary:logistic", own, test.label) == in_process.summary["metrics"]


def test_a_test_table_is_scored_with_the_levels_of_the_training_table(table, tmp_path):
    columns = operators(seed=9)
    columns["vendor"] = np.where(np.arange(N_ROWS) % 5 == 0, "west", columns["vendor"])  # never seen in training
    test_path = write_table(tmp_path / "test.csv", columns)
    result = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--test", test_path, "--save", tmp_path / "m")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert sum(member["rows"] for member in summary["members"].values()) == N_ROWS
    train = read_table(table, "fault", "operator")
    test = read_table(test_path, "fault", "operator", like=train)
    assert (test.features[test.names.index("vendor")][::5] == len(train.categories["vendor"])).all()
    predictions = from_json((tmp_path / "m").read_bytes()).predict(test.features)
    assert summary["metrics"] == score_table("binary:logistic", predictions, test.label)


def test_a_test_fraction_is_set_deferred_class_by_class(table):
    result = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--test-fraction", "0.5", "--seed", "3")
    assert result.exit_code == 0, result.output
    members = json.loads(result.stdout)["members"].values()
    labels = operators()["fault"]
    kept = sum(int((labels == v).sum()) - round(0.5 * int((labels == v).sum())) for v in (0, 1))
    assert sum(member["rows"] for member in members) == kept
    assert sum(member["rows"] + member["test_rows"] for member in members) == N_ROWS


def test_alone_and_pooled_are_the_same_whatever_the_mode(in_process, table):
    """Each is a training of one table: what a mode's plan asks of several parties does not stop it."""
    result = hansa(
        "simulate", table, *BASE, *QUICK, "--in-process", "--alone", "--pooled", "--mode", "secure-aggregation"
    )
    assert result.exit_code == 0, result.output
    masked = json.loads(result.stdout)
    for name, member in in_process.summary["members"].items():
        assert masked["members"][name]["metrics"] == member["metrics"]
        assert masked["members"][name]["without_value"] == member["without_value"]
    assert masked["pooled"]["hansa"]["metrics"] == in_process.summary["pooled"]["hansa"]["metrics"]
    assert masked["model_sha256"] == in_process.summary["model_sha256"]


def test_the_tables_for_people_show_members_and_pooled_metrics(table, tmp_path):
    result = hansa("simulate", table, *BASE[:-1], *QUICK, "--in-process", "--alone", "--save", tmp_path / "model.json")
    assert result.exit_code == 0, result.output
    shown = result.stdout.split()
    assert {"borealis", "cirrus"} <= set(shown)
    assert "aurora" in result.stdout  # a narrow terminal may break the rest of the name
    assert "–" in shown  # Cirrus alone
    assert "0.00%" in shown
    assert "round trips a tree" in result.stdout
    assert "model written to" in result.stdout


def test_regression_reports_rmse(tmp_path):
    columns = operators() | {"vendor": np.zeros(N_ROWS, np.int64)}
    path = write_table(tmp_path / "cells.csv", columns)
    options = ("--label", "load", "--party-column", "operator", "--objective", "reg:squarederror", "--json")
    result = hansa("simulate", path, *options, *QUICK, "--in-process", "--evaluation-fraction", "0.2")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"].keys() == {"rmse", "mae"}


def test_quantiles_over_processes_are_those_of_one_process_and_xgboosts_nearly(tmp_path):
    rng = np.random.default_rng(3)
    load = rng.normal(size=600)
    columns = {
        "operator": np.array(list("ABC"), object)[np.arange(600) % 3],
        "load": load,
        "drops": np.round(np.exp(load) + rng.exponential(size=600), 3),
    }
    path = write_table(tmp_path / "drops.csv", columns)
    options = ("--label", "drops", "--party-column", "operator", "--objective", "reg:quantileerror", "--json", *QUICK)
    options += ("--set", "quantile_alpha=[0.1,0.9]", "--mode", "secure-aggregation")
    ends = {
        where: hansa("simulate", path, *options, *where, "--save", tmp_path / f"model{number}.json")
        for number, where in enumerate(((), ("--in-process", "--pooled")))
    }
    assert all(end.exit_code == 0 for end in ends.values()), [end.output for end in ends.values()]
    assert (tmp_path / "model0.json").read_bytes() == (tmp_path / "model1.json").read_bytes()
    assert from_json((tmp_path / "model0.json").read_bytes()).outputs == 2
    pooled = json.loads(ends["--in-process", "--pooled"].stdout)["pooled"]
    losses = [pooled[learner]["metrics"]["quantile"] for learner in ("hansa", "xgboost")]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_member_names_are_legal_and_distinct():
    names = member_names(["Aurora Mobile", "aurora-mobile", "aggregator", "Zürich", "½", "1"])
    assert list(names.values()) == ["aurora-mobile", "aurora-mobile-2", "aggregator-2", "zurich", "1-2", "1"]


def test_members_whose_names_do_not_say_whose_they_are_are_told():
    """Greek, Cyrillic, Chinese and Arabic letters are none of a name; a number behind it tells members apart."""
    assert told_of_names(member_names(["Aurora Mobile", "north", "Zürich"])) == ()
    (told,) = told_of_names(member_names(["north", "Αθήνα", "Москва 3", "北京", "hub"]))
    assert told.endswith("'Αθήνα' is party, 'Москва 3' is 3, '北京' is party-2, 'hub' is hub-2")
    (told,) = told_of_names(member_names([f"{'长' * 90}{number}" for number in range(40)]))
    assert "(40 in all)" in told
    assert len(told) < 4000


def test_a_simulation_tells_which_party_is_which(tmp_path):
    cities = ["Αθήνα", "Москва", "北京"]
    columns = cells(180, 3) | {"who": [cities[row % 3] for row in range(180)]}
    path = write_table(tmp_path / "cities.csv", columns)
    options = ("--label", "fault", "--party-column", "who", "--rounds", "2", "--in-process", "--json")
    result = hansa("simulate", path, *options)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert sorted(found["members"]) == ["party", "party-2", "party-3"]
    assert any(all(f"{city!r} is party" in text for city in cities) for text in found["warnings"])


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--label", "fualt"), ("no column 'fualt'", "cells.csv")),
        (("--party-column", "who"), ("no column 'who'",)),
        (("--weight", "kilo"), ("no column 'kilo'",)),
        (("--set", "max_dept=3"), ("max_dept", "max_depth")),
        (("--set", "eta=-1"), ("eta",)),
        (("--set", "tree_method=exact"), ("tree_method",)),
        (("--set", "eval_metric=auc,ndcg"), ("ndcg",)),
        (("--set", "early_stopping_rounds=3"), ("early_stopping_rounds", "evaluation.fraction")),
        (("--servers", "a,b,c"), ("--servers", "go with --mode coopetitive")),
        (("--hub", "a"), ("--hub", "go with --mode coopetitive")),
        (
            ("--mode", "coopetitive", "--categorical", "rsrp"),
            ("'rsrp'", "expected whole numbers below 2^53, or texts, as categories"),
        ),
        (("--mode", "coopetitive", "--categorical", "fault"), ("'fault' is to be categorical, and is no feature",)),
        (("--mode", "coopetitive", "--servers", "a,b"), ("members.servers", "three different members")),
        (("--mode", "coopetitive", "--set", "max_leaves=4"), ("max_leaves", "not supported in coopetitive mode")),
        (("--test", "TABLE", "--test-fraction", "0.2"), ("--test and --test-fraction",)),
        (("--test-fraction", "0.0001"), ("test fraction",)),
        (("--label", "vendor", "--party-column", "operator"), ("row 1", "'vendor'", "found 'north'")),
        (("--label", "rsrp"), ("row", "'rsrp'", "missing")),
        (("--label", "load"), ("expected label 0 or 1", "reg:squarederror")),
    ],
)
def test_a_bad_option_is_one_clear_line(table, options, fragments):
    chosen = [str(table) if option == "TABLE" else option for option in options]
    assert_refused(hansa("simulate", table, *BASE, *QUICK, "--in-process", *chosen), *fragments)


@pytest.mark.parametrize(
    ("name", "text", "fragments"),
    [
        ("cells.txt.bin", "operator,load,fault\na,1,0\n", ("'.bin'", "ending in one of .csv")),
        ("cells.parquet", "operator,load,fault\na,1,0\n", ("cells.parquet", "expected a readable table")),
        ("cells.csv", "operator,fault\na,1\nb,0\n", ("no column is left as a feature",)),
        ("cells.csv", "operator,load,fault\na,1,0\n,2,1\n", ("row 2", "'operator'", "says no party")),
        ("cells.csv", "operator,load,fault\na,1e39,0\nb,2,1\n", ("row 1", "'load'", "a number beyond float32")),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path, name, text, fragments):
    path = tmp_path / name
    path.write_text(text)
    assert_refused(hansa("simulate", path, *BASE, *QUICK, "--in-process"), *fragments)


def test_a_test_table_without_a_feature_is_refused(table, tmp_path):
    columns = operators()
    del columns["alarms"]
    test_path = write_table(tmp_path / "test.csv", columns)
    result = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--test", test_path)
    assert_refused(result, "test.csv", "no column 'alarms'")


def test_a_transcript_is_not_written_over(in_process, table):
    result = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--transcript", in_process.folder / "frames")
    assert_refused(result, "there is a transcript already")


def test_a_model_that_cannot_be_saved_is_one_clear_line(table, tmp_path):
    result = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--save", tmp_path / "nowhere" / "m.json")
    assert_refused(result, "nowhere")


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "none.csv", "--label", "a", "--party-column", "b"),
        ("simulate", "--label", "a"),
        ("simulate", "TABLE", "--label", "fault", "--party-column", "operator", "--rounds", "0"),
        ("simulate", "TABLE", "--label", "fault", "--party-column", "operator", "--test-fraction", "1"),
        ("simulate", "TABLE", "--label", "fault", "--party-column", "operator", "--colour"),
        ("party", "none.toml"),
        ("conquer",),
    ],
)
def test_a_wrong_command_line_is_explained_without_a_traceback(table, arguments):
    result = hansa(*(table if argument == "TABLE" else argument for argument in arguments))
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert "Error: " in result.stderr


def test_a_process_that_fails_is_named_with_its_reason(table, tmp_path):
    """The transcript's file is taken: only that member's process finds out."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "borealis.frames").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "hansa", "simulate", str(table), *BASE, *QUICK,
         "--transcript", str(tmp_path / "frames"), "--save", str(tmp_path / "model.json")],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("hansa: the process of member 'borealis' ended with status 1")
    assert "there is a file of an earlier run already" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "model.json").exists()


def test_a_killed_process_ends_a_simulation_that_waits_for_nobody(table):
    """Nobody waits for its reconnect timeout: who started the processes sees that one has ended."""
    running = subprocess.Popen(
        [sys.executable, "-m", "hansa", "simulate", str(table), *BASE, *QUICK, "--rounds", "100000"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        victim, give_up = None, time.monotonic() + HANG_S
        while victim is None and time.monotonic() < give_up:
            time.sleep(0.2)
            for child in psutil.Process(running.pid).children(recursive=True):
                # Members are forked from one process, and have its command line; each writes its errors to a file of its name.
                its = any(file.path.endswith("borealis.log") for file in child.open_files())
                if its and any(c.status == psutil.CONN_ESTABLISHED for c in child.net_connections()):
                    victim = child
        assert victim is not None
        victim.kill()
        _, text = running.communicate(timeout=HANG_S)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 1
    assert "the process of member 'borealis' ended with status -9" in text
    assert "did not come back" not in text
    assert "Traceback" not in text


SIX_FAULTS = (
    "--label", "fault", "--party-column", "op", "--rounds", "6", "--set", "max_depth=3", "--evaluation-fraction", "0.1",
    "--set", "seed=1", "--set", "early_stopping_rounds=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def six_faults(tmp_path_factory) -> Path:
    """900 rows with 6 faults, of which the seed above holds none out."""
    rng = np.random.default_rng(7)
    features = rng.uniform(size=(3, 900)).round(4)
    fault = np.zeros(900, int)
    fault[np.argsort(-features[0])[:6]] = 1
    columns = dict(zip("abc", features, strict=True))
    return write_table(
        tmp_path_factory.mktemp("six") / "six-faults.csv",
        columns | {"fault": fault, "op": rng.choice(list("xyz"), 900)},
    )


def strict(text: str) -> dict[str, object]:
    """JSON without NaN and infinities, which JSON does not have."""

    def refuse(token: str) -> float:
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("mode", "metric"),
    [("federated", "auc"), ("federated", "aucpr"), ("secure-aggregation", "auc"), ("coopetitive", "auc")],
)
def test_a_metric_of_held_out_rows_without_a_value_is_said_and_does_not_cut_the_model(six_faults, mode, metric):
    options = (*SIX_FAULTS, "--mode", mode, "--set", f"eval_metric={metric}", "--in-process")
    result = hansa("simulate", six_faults, *options, "--json")
    assert result.exit_code == 0, result.output
    summary = strict(result.stdout)
    assert summary["trees"] == 6
    assert summary["held_out"]["metrics"] == {metric: None}
    assert "one label only" in summary["held_out"]["without_value"][metric]
    shown = hansa("simulate", six_faults, *options)
    assert shown.exit_code == 0, shown.output
    for stream in (shown.stdout, shown.stderr):
        assert stream.count(f"{metric} of the held-out rows has no value: the held-out rows have one label only") == 1


def test_processes_say_so_too(six_faults, tmp_path):
    result = hansa("simulate", six_faults, *SIX_FAULTS, "--set", "eval_metric=auc", "--json")
    assert result.exit_code == 0, result.output
    summary = strict(result.stdout)
    assert (summary["trees"], summary["held_out"]["metrics"]) == (6, {"auc": None})
    assert "one label only" in summary["held_out"]["without_value"]["auc"]


def test_every_test_score_without_a_value_has_its_reason(tmp_path):
    columns = cells(200, 3)
    operator = np.array(["x", "y", "z"])[np.arange(200) % 3]
    # y has no fault. All of z's rows of weight above 0 have one.
    fault = np.where(operator == "y", 0, columns["fault"])
    weight = np.where((operator == "z") & (fault == 0), 0, 1)
    path = write_table(tmp_path / "t.csv", columns | {"fault": fault, "operator": operator, "weight": weight})
    test_rows = operator != "x"
    test_columns = {
        name: values[test_rows] for name, values in (columns | {"fault": fault, "operator": operator}).items()
    }
    test = write_table(tmp_path / "test.csv", test_columns | {"weight": weight[test_rows]})
    options = ("--label", "fault", "--party-column", "operator", "--weight", "weight", "--test", test, "--alone")
    result = hansa("simulate", path, *options, *QUICK, "--in-process", "--json")
    assert result.exit_code == 0, result.output
    members = strict(result.stdout)["members"]
    assert members["x"]["metrics"] == {"together": None, "alone": None}
    assert set(members["x"]["without_value"]["together"].values()) == {"there are no test rows"}
    assert members["y"]["metrics"]["together"]["auc"] is members["y"]["metrics"]["together"]["aucpr"] is None
    assert members["y"]["without_value"]["together"] == dict.fromkeys(
        ("auc", "aucpr"), "the test rows all have label 0"
    )
    assert members["y"]["without_value"]["alone"]["logloss"] == "its training rows all have label 0"
    assert members["z"]["metrics"]["alone"] is None
    assert members["z"]["without_value"]["alone"]["auc"] == "its training rows all have label 1"
    shown = hansa("simulate", path, *options, *QUICK, "--in-process").stdout
    assert "–: no auc, aucpr of y, together: the test rows all have label 0" in shown


def test_a_simulation_that_real_members_would_refuse_says_so_and_runs(tmp_path):
    rows = "".join(f"{i % 7},{(i * 5) % 11},{int(i % 7 > 3)},{'abc'[i % 3]}\n" for i in range(90))
    (tmp_path / "t.csv").write_text("x,z,y,op\n" + rows)
    asked = (
        "simulate",
        tmp_path / "t.csv",
        "--label",
        "y",
        "--party-column",
        "op",
        "--rounds",
        "2",
        "--in-process",
        "--json",
    )
    for mode in ("federated", "secure-aggregation"):
        result = hansa(*asked, "--mode", mode)
        assert result.exit_code == 0, result.output
        said = [text for text in json.loads(result.stdout)["warnings"] if "real members" in text]
        assert len(said) == (mode != "federated")
        assert all("privacy.min_party_rows" in text for text in said)
        assert ("would refuse this run" in result.stderr) == (mode != "federated")


def test_the_model_of_a_simulation_may_tell_less_of_leaves(table, tmp_path):
    def model(*options: str):
        path = tmp_path / "model.json"
        shown = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--save", path, *options)
        assert shown.exit_code == 0, shown.output
        return from_json(path.read_bytes())

    assert model().trees[0].sum_hessian.all()
    silent = model("--no-statistics", "--leaf-bits", "6")
    for tree in silent.trees:
        assert not tree.sum_hessian.any()
        assert not tree.loss_changes.any()
        values = 64 * tree.split_conditions[tree.left_children < 0]
        assert np.array_equal(values, np.round(values))
    refused = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--no-statistics", "--least-choices", "100000")
    assert_refused(refused, "rows in training are too few for release.least_choices = 100000", "release.leaf_bits")
    both = hansa("simulate", table, *BASE, "--statistics", "--no-statistics")
    assert_refused(both, "--statistics and --no-statistics exclude each other")


def test_a_coopetitive_simulation_of_few_rows_says_that_fewer_choices_fit(table):
    """The mode's own number is not refused; it is said that it does not hold."""
    shown = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--mode", "coopetitive")
    assert shown.exit_code == 0, shown.output
    warnings = json.loads(shown.stdout)["warnings"]
    assert [w for w in warnings if "too few for the 1,000 choices of rows" in w and "--leaf-bits" in w]
    shown = hansa("simulate", table, *BASE, *QUICK, "--in-process", "--mode", "coopetitive", "--least-choices", "0")
    assert not [w for w in json.loads(shown.stdout)["warnings"] if "choices" in w]


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_dates_rare_levels_and_a_metric_of_ones_own_pass_through_members_files(tmp_path, processes):
    n = 240
    columns = operators(seed=4)
    columns = {name: column[:n] for name, column in columns.items()}
    columns["opened"] = np.array([f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(n)], object)
    columns["vendor"] = np.where(np.arange(n) % 60 == 0, "odd", columns["vendor"])
    path = write_table(tmp_path / "dated.csv", columns)
    (tmp_path / "miss.py").write_text("def miss(predictions, labels, weights):\n    return abs(predictions - labels)\n")
    options = (
        "--date",
        "month=month of opened",
        "--rare-levels",
        "vendor=20",
        "--evaluation-fraction",
        "0.3",
        "--unseen",
        "error",
    )
    own = ("--custom-metric", tmp_path / "miss.py", "--metric-bound", "1")
    way = () if processes else ("--in-process", "--alone", "--pooled")
    result = hansa("simulate", path, *BASE, *QUICK, *way, *options, *own, "--save", tmp_path / "m.json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert list(summary["held_out"]["metrics"]) == ["logloss", "miss"]
    ensemble = from_json((tmp_path / "m.json").read_bytes())
    assert dict(ensemble.reading.dates) == {"month": "month of opened"}
    assert ensemble.categories[ensemble.feature_names.index("vendor")][-1] == "other"
    assert ensemble.reading.unseen == "error"
