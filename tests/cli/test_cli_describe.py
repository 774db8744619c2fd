"""`hansa describe` and `hansa drift`, and members whose run describes in place of training, over mutual TLS."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.data.description import Description
from hansa.node.description_page import page
from made_consortium import (
    HUB,
    PARTIES,
    PLAN,
    Consortium,
    assert_refused,
    cells,
    make_consortium,
    refused,
    write_member,
    write_table,
)
from made_consortium import hansa as command

GIVEN = ("--label", "fault", "--party-column", "operator")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    operator = np.array(["aurora", "borealis", "cirrus"], object)[np.arange(240) % 3]
    site = np.array(["<b>north", "south", "west"], object)[np.arange(240) % 8 // 3]
    return write_table(
        tmp_path_factory.mktemp("tables") / "cells.csv", {"operator": operator, "site": site, **cells(240, 5)}
    )


def plainly(found: Description) -> tuple[object, ...]:
    """What does not change from run to run."""
    return found.columns, found.rows, found.parties


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_the_object_and_the_file_are_those_of_the_library(table, tmp_path, mode):
    saved, report = tmp_path / "then.json", tmp_path / "then.html"
    done = command("describe", table, *GIVEN, "--mode", mode, "--save", saved, "--report", report, "--json")
    assert done.exit_code == 0, done.stderr
    found = Description.from_json(done.stdout.encode())
    ours = hansa.describe(hansa.split(pd.read_csv(table), by="operator"), label="fault", mode=mode)
    assert plainly(found) == plainly(ours)
    assert Description.from_json(saved.read_bytes()) == found
    shown = report.read_text()
    assert shown == page(found)
    assert "<b>north" not in shown
    assert "&lt;b&gt;north" in shown
    assert not any(word in shown for word in ("http:", "https:", "src=", "@import"))
    # Every column has a picture, drawn as all others are.
    assert shown.count("<figure>") == len(found.columns)
    assert shown.count('<g id="') >= len(found.columns)
    for column in found.columns:
        assert f"{column.rows:,} rows without a value" in shown
    assert ("How far each party" in shown) == (mode == "federated")


def test_a_page_needs_what_draws(table, tmp_path, monkeypatch):
    monkeypatch.setattr("hansa.views.drawing.can_draw", lambda: False)
    done = command("describe", table, *GIVEN, "--report", tmp_path / "page.html")
    assert_refused(done, "hansa[views]")
    assert not (tmp_path / "page.html").exists()


def test_the_tables_have_features_categories_and_members(table):
    done = command("describe", table, *GIVEN)
    assert done.exit_code == 0, done.stderr
    assert "240 rows of 3 parties in mode federated" in done.stdout
    assert all(word in done.stdout for word in ("load", "south", "PSI to all rows", "borealis"))


def test_a_mode_that_opens_no_counts_is_refused_by_name(table):
    assert_refused(
        command("describe", table, *GIVEN, "--mode", "coopetitive"), "mode 'coopetitive' opens", "no counts of rows"
    )


def test_drift_names_what_moved_what_is_unknown_and_ends_with_a_status(table, tmp_path):
    saved, later = tmp_path / "then.json", tmp_path / "now.csv"
    assert command("describe", table, *GIVEN, "--save", saved).exit_code == 0
    now = pd.read_csv(table)
    same = command("drift", saved, table, "--most-psi", "0.1", "--json")
    assert same.exit_code == 0, same.stderr
    assert {own["psi"] for own in json.loads(same.stdout)["features"]} == {0.0}
    now["load"] += 3
    now.loc[:19, "site"] = "elsewhere"
    now.to_csv(later, index=False)
    moved = command("drift", saved, later, "--most-psi", "0.25", "--json")
    assert moved.exit_code == 1
    by_name = {own["name"]: own for own in json.loads(moved.stdout)["features"]}
    assert by_name["load"]["psi"] > 0.25
    assert by_name["load"]["ends_now"] > by_name["load"]["ends_then"]
    assert by_name["site"]["unknown"] == 20
    assert "far" in command("drift", saved, later).stdout
    assert_refused(command("drift", table, later), "no description of a table")


def test_a_report_without_a_description_is_refused(table, tmp_path):
    made = make_consortium(tmp_path)
    given = command("party", write_member(made, PARTIES[0], 1), "--report", tmp_path / "page.html")
    assert_refused(given, "--report goes with --describe")


@pytest.mark.parametrize("mode", [pytest.param("federated", marks=pytest.mark.slow), "secure-aggregation"])
def test_members_describe_their_rows_over_mutual_tls(tmp_path, mode):
    text = PLAN.replace('"federated"', f'"{mode}"').replace("min_cell_rows = 2", "min_cell_rows = 5")
    folder = make_consortium(tmp_path, text)
    consortium = Consortium(folder)
    policy = {} if mode == "federated" else {"allow_two_parties": True}
    try:
        hub = consortium.start(
            "aggregator", write_member(folder, HUB, 0), "--json", "--describe", str(folder / "hub-then.json")
        )
        port = hub.event("listening")["port"]
        parties = [
            consortium.start(
                "party",
                write_member(folder, name, port, model=None, policy=policy, ledger=f"{name}-ledger.jsonl"),
                "--describe",
                str(folder / f"{name}-then.json"),
                "--report",
                str(folder / f"{name}.html"),
            )
            for name in PARTIES
        ]
        ends = [each.end() for each in (hub, *parties)]
    finally:
        consortium.stop()
    assert [status for status, _, _ in ends] == [0, 0, 0], ends
    described = {name: Description.from_json((folder / f"{name}-then.json").read_bytes()) for name in (HUB, *PARTIES)}
    assert {found.run for found in described.values()} == {described[HUB].run}
    rows = pd.concat([pd.read_csv(folder / f"{name}.csv") for name in PARTIES])
    for found in described.values():
        assert found.rows == len(rows)
        assert {each.level: each.rows for each in found.label.categories} == rows["fault"].value_counts().to_dict()
        assert found.features[1].missing == rows["rsrp"].isna().sum()
        (alarms,) = [own for own in found.features if own.name == "alarms"]
        assert [each.rows for each in alarms.bins] == rows["alarms"].value_counts().sort_index().tolist()
    record = json.loads((folder / "aurora-record.json").read_text())
    assert (record["purpose"], record["state"]) == ("describe", "finished")
    assert consortium.models() == []
    assert (folder / "aurora.html").exists()
    if mode == "secure-aggregation":
        assert len((folder / "aurora-ledger.jsonl").read_text().splitlines()) >= 1


@pytest.mark.slow
def test_a_party_that_would_train_is_refused_by_a_hub_that_describes(tmp_path):
    folder = make_consortium(tmp_path)
    consortium = Consortium(folder)
    try:
        hub = consortium.start(
            "aggregator", write_member(folder, HUB, 0), "--json", "--describe", str(folder / "hub-then.json")
        )
        port = hub.event("listening")["port"]
        parties = [consortium.start_party(name, port) for name in PARTIES]
        ends = [each.end() for each in parties]
        end = hub.end()
    finally:
        consortium.stop()
    refused((end[0], "", end[2]), "means another kind of run", "--describe")
    assert all(status != 0 for status, _, _ in ends)
    assert not (folder / "hub-then.json").exists()
