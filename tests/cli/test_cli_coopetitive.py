"""Coopetitive runs as people start them: one process a member over mutual TLS, and what happens when one of them stops."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hansa.errors import HansaError
from hansa.node import shared
from hansa.node.auditing import RunAudit
from hansa.node.events import Ended, read_line
from hansa.node.phases import PhaseTimes, phase_of
from hansa.node.record import HubRecord, Record, SharedRecord
from hansa.protocol.messages import SEALED, Abort, Relay, decode
from hansa.transport.recording import read_transcript
from hansa.transport.tls_hub import TlsHub
from hansa.trees.xgboost_json import from_json
from made_consortium import AGAIN, assert_refused, cells, hansa, write_table
from sharing_hands import COMMANDS, N_ROWS, PARTIES, PLAN, Hand
from waiting import HANG_S

OPERATORS = ("aurora", "borealis", "cirrus", "dune")
BASE = ("--label", "fault", "--party-column", "operator", "--mode", "coopetitive", "--json")
QUICK = ("--rounds", "2", "--set", "max_depth=2", "--set", "max_bin=8", "--min-cell-rows", "5", "--least-choices", "0")
"""A small run; its leaves are as fine as shares allow, so that runs can be compared."""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    columns = cells(N_ROWS, 5)
    operator = np.array(OPERATORS, object)[np.arange(N_ROWS) % 4]
    return write_table(tmp_path_factory.mktemp("tables") / "cells.csv", {"operator": operator, **columns})


def simulated(table, folder, *options):
    done = subprocess.run(
        [sys.executable, "-m", "hansa", "simulate", str(table), *BASE, *QUICK, *map(str, options)],
        capture_output=True, text=True, cwd=folder, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert all("WARNING real members" in line for line in done.stderr.splitlines()), done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def over_tls(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    summary = simulated(
        table, folder, "--servers", "dune,aurora,outside", "--receivers", "borealis,cirrus",
        "--save", folder / "model.json", "--transcript", folder / "frames",
    )  # fmt: skip
    return folder, summary


def test_a_simulation_over_tls_gives_a_model(over_tls):
    folder, summary = over_tls
    assert summary["mode"] == "coopetitive"
    assert summary["transport"] == "mutual TLS 1.3"
    assert summary["trees"] == 2
    assert set(summary["members"]) == set(OPERATORS)
    assert 60 < summary["round_trips_per_tree"] < 250
    assert summary["metrics"]["auc"] > 0.6
    assert set(summary["seconds"]) == {"total", "startup", "binning", "training"}
    assert len(from_json((folder / "model.json").read_bytes()).trees) == 2
    members = summary["members"]
    # Servers compute; owners that are none share once, and a receiver gets little.
    assert members["dune"]["bytes_up"] > 2 * members["cirrus"]["bytes_up"]
    assert members["cirrus"]["bytes_down"] < members["aurora"]["bytes_down"] / 3


def test_in_one_process_the_trees_are_the_same(over_tls, table, tmp_path):
    folder, _ = over_tls
    summary = simulated(
        table, tmp_path, "--in-process", "--save", tmp_path / "model.json", "--servers", "dune,aurora,outside"
    )
    assert summary["transport"] == "in-process"
    one, other = (from_json((where / "model.json").read_bytes()) for where in (folder, tmp_path))
    assert one.base_score == other.base_score
    for tree, same in zip(one.trees, other.trees, strict=True):
        assert np.array_equal(tree.split_indices, same.split_indices)
        assert np.abs(tree.split_conditions - same.split_conditions).max() <= 3 * 2.0**-14


@pytest.fixture(scope="module")
def vendors(tmp_path_factory):
    """A table whose labels follow a text and a number that has no order; each lacks values."""
    draw = np.random.default_rng(8)
    vendor, site = draw.integers(4, size=600), draw.integers(5, size=600)
    fault = ((vendor == 2) ^ (site == 3) ^ (draw.random(600) < 0.1)).astype(int)
    columns = {
        "operator": np.array(OPERATORS, object)[np.arange(600) % 4],
        "load": np.round(draw.normal(size=600), 2),
        "vendor": np.where(draw.random(600) < 0.1, None, np.array(["south", "it's", "naïve", "north"], object)[vendor]),
        "site": np.where(draw.random(600) < 0.1, None, np.array([40, 7, 1000, -1, 12], object)[site]),
        "fault": fault,
    }
    return write_table(tmp_path_factory.mktemp("vendors") / "cells.csv", columns)


@pytest.mark.parametrize("where", ["--in-process", "--threads=1"], ids=["in process", "over TLS"])
def test_a_simulation_with_categories(vendors, tmp_path, where):
    """A model of one-hot splits that XGBoost loads, and that scores tables of texts, with no plan."""
    xgboost = pytest.importorskip("xgboost")
    options = ("--categorical", "vendor", "--categorical", "site", "--rounds", "3", "--set", "max_depth=3", "--pooled")
    summary = simulated(vendors, tmp_path, where, *options, "--save", tmp_path / "model.json")
    ensemble = from_json((tmp_path / "model.json").read_bytes())
    assert ensemble.feature_names == ("load", "vendor", "site")
    assert ensemble.categories == (None, ("it's", "naïve", "north", "south"), (-1, 7, 12, 40, 1000))
    assert sum(int(tree.split_type.sum()) for tree in ensemble.trees) >= 6
    assert summary["metrics"]["auc"] > 0.75
    assert summary["pooled"]["xgboost"]["metrics"]["auc"] == pytest.approx(summary["metrics"]["auc"], abs=0.02)

    rows = {
        "site": [-1, None, 1000, 8, 40, 12], "vendor": ["naïve", "south", None, "it's", "west", "north"], "load": [0.5] * 6,
    }  # fmt: skip
    fresh = write_table(tmp_path / "fresh.csv", rows)
    result = hansa("predict", tmp_path / "model.json", fresh, "--save", tmp_path / "out.csv", "--margin")
    assert result.exit_code == 0, result.output
    assert "6 predictions" in result.stdout
    assert "2 cells hold levels that the model does not know" in result.stdout
    codes = np.array([[0.5] * 6, [1, 3, np.nan, 0, 77, 2], [0, np.nan, 4, 77, 3, 2]], np.float32)
    booster = xgboost.Booster(model_file=str(tmp_path / "model.json"))
    matrix = xgboost.DMatrix(
        codes.T, feature_names=["load", "vendor", "site"], feature_types=["q", "c", "c"], enable_categorical=True
    )
    written = np.loadtxt(tmp_path / "out.csv", skiprows=1)
    np.testing.assert_allclose(written, booster.predict(matrix, output_margin=True), rtol=0, atol=1e-6)
    assert len(set(written)) >= 3


def test_every_frame_of_numbers_is_sealed(over_tls):
    folder, _ = over_tls
    ends = {path.stem: list(read_transcript(path)) for path in (folder / "frames").glob("*.frames")}
    assert set(ends) == {"hub", "outside", *OPERATORS}
    kinds = set()
    for records in ends.values():
        for record in records:
            message = decode("x", record.frame)
            kinds.add(type(message))
            assert not isinstance(message, SEALED)
            if not isinstance(message, Relay):
                assert len(record.frame) < 4000
    assert Relay in kinds
    assert Abort not in kinds
    # What the model's file says stands in no frame.
    model = (folder / "model.json").read_bytes()
    cuts = from_json(model).trees[0].split_conditions
    frames = b"".join(record.frame for record in ends["hub"])
    assert not any(cut.tobytes() in frames for cut in cuts if cut not in (0, 1))


# --- by hand ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(tmp_path):
    hands = []

    def make(rounds=2, links="hub", three=False, **changes):
        hands.append(Hand(tmp_path, rounds, links, three, **changes))
        return hands[0]

    yield make
    for hand in hands:
        for process in hand.processes.values():
            process.kill()
            process.communicate()


@pytest.mark.parametrize("links", ["hub", "direct"])
def test_members_are_run_by_hand(by_hand, links):
    hand = by_hand(links=links)
    hand.start("post", "vault", "aurora", "borealis", "cirrus", "reader")
    ended = hand.ended()
    assert {name: status for name, (status, _, _) in ended.items()} == dict.fromkeys(COMMANDS, 0), ended
    for name, (_, out, _) in ended.items():
        events = [read_line(line) for line in out.splitlines()]
        assert isinstance(events[-1], Ended)
        written = msgspec.json.decode((hand.folder / f"{name}-record.json").read_bytes(), type=Record)
        assert isinstance(written, HubRecord if name == "post" else SharedRecord)
        assert events[-1].record == written
    models = {path.name: path.read_bytes() for path in hand.folder.glob("*-model.json")}
    assert set(models) == {"borealis-model.json", "reader-model.json"}
    assert len(set(models.values())) == 1
    records = {name: json.loads((hand.folder / f"{name}-record.json").read_text()) for name in COMMANDS}
    assert len({record["plan"] for record in records.values()}) == 1
    assert len({record["run"] for record in records.values()}) == 1
    assert records["vault"]["roles"] == ["server"]
    assert records["post"]["roles"] == ["hub"]
    assert {name for name, record in records.items() if record.get("model_sha256")} == {"borealis", "reader"}
    assert all(record["mode"] == "coopetitive" for record in records.values())
    vault = records["vault"]
    assert vault["sealed_bytes"] + vault["clear_bytes"] == vault["bytes_up"]
    assert vault["clear_bytes"] < 0.2 * vault["bytes_up"]
    assert len(vault["tree_seconds"]) == 2
    assert {"score", "tournament", "routing", "leaves"} <= set(vault["phases"])
    relayed = {(sender, receiver): count for sender, receiver, count in records["post"]["relayed"]}
    sealed = sum(count for (sender, _), count in relayed.items() if sender == "vault")
    among = {ends for ends in relayed if set(ends) <= {"aurora", "vault", "cirrus"}}
    if links == "hub":
        assert sealed == vault["sealed_bytes"]
        assert len(among) == 6
    else:
        # The hub sees what owners and receivers get, and none of the computation.
        assert sealed < 0.1 * vault["sealed_bytes"]
        assert not among
    assert not any("reader" in ends and "borealis" not in ends and ends[1] != "reader" for ends in relayed)


@pytest.mark.parametrize(
    ("how", "victim", "links"),
    [
        pytest.param(signal.SIGKILL, "vault", "hub", id="killed-vault-hub"),
        pytest.param(signal.SIGKILL, "vault", "direct", id="killed-vault-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "aurora", "hub", id="killed-aurora-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "aurora", "direct", id="killed-aurora-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "vault", "hub", id="stopped-vault-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "vault", "direct", id="stopped-vault-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "aurora", "hub", id="stopped-aurora-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "aurora", "direct", id="stopped-aurora-direct"),
    ],
)
def test_a_server_that_stops_is_named_and_the_run_ends_for_all(by_hand, victim, how, links):
    hand = by_hand(rounds=2000, links=links)
    hand.start("post", *(name for name in COMMANDS if name != "post"))
    hand.wait_for_tree("cirrus", 2)
    os.kill(hand.processes[victim].pid, how)
    ended = hand.ended()
    assert all(status != 0 for status, _, _ in ended.values())
    for name, (_, _, errors) in ended.items():
        if name != victim:
            assert re.search(f"member '{victim}'", errors), (name, errors)
    assert not list(hand.folder.glob("*-model.json"))


# --- waiting -----------------------------------------------------------------------------------------------------------


def test_who_only_receives_waits_for_ever_unless_its_file_says_how_long(by_hand):
    hand = by_hand()
    hand.start("post")
    hand.write("reader", idle_limit_s=0.5)
    hand.start("reader")
    assert_refused_text(hand.processes["reader"], "no frame from the hub in 0.5 s; waiting for post", status=AGAIN)


@pytest.mark.parametrize(
    ("name", "three", "links", "limit"),
    [
        ("post", False, "hub", shared.ANSWER_S),
        # Of what servers write to each other directly the hub hears nothing: a long training must not look like silence.
        ("post", False, "direct", None),
        ("aurora", True, "hub", shared.ANSWER_S),
        ("aurora", True, "direct", None),
    ],
)
def test_how_long_the_hub_waits_for_a_word(by_hand, monkeypatch, name, three, links, limit):
    seen = []

    def run_hub(_, hub, timeout):
        seen.append((timeout, getattr(hub, "_answer_s", None)))
        raise HansaError("enough")

    @contextlib.contextmanager
    def logs_shown(*_, **__):
        yield lambda hub: hub

    monkeypatch.setattr(shared, "run_hub", run_hub)
    monkeypatch.setattr(RunAudit, "hub_side", logs_shown)
    monkeypatch.setattr(TlsHub, "wait_for", lambda *_: None)
    hand = by_hand(links=links, three=three)
    assert_refused(hansa("hub", hand.folder / f"{name}.toml", "--json"), "enough")
    assert seen == [(limit, HANG_S if three else None)]


# --- three parties and nobody else ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", ["hub", "direct"])
def test_three_parties_need_nobody_else(by_hand, links):
    hand = by_hand(links=links, three=True, transcript="frames")
    hand.start("aurora", "borealis", "cirrus")
    ended = hand.ended()
    assert {name: status for name, (status, _, _) in ended.items()} == dict.fromkeys(PARTIES, 0), ended
    models = {path.name: path.read_bytes() for path in hand.folder.glob("*-model.json")}
    assert set(models) == {"aurora-model.json", "borealis-model.json"}
    assert len(set(models.values())) == 1
    assert len(from_json(models["aurora-model.json"]).trees) == 2
    records = {name: json.loads((hand.folder / f"{name}-record.json").read_text()) for name in PARTIES}
    joint, other = records["aurora"], records["cirrus"]
    assert joint["roles"] == ["hub", "owner", "server", "receiver"]
    assert set(other) <= set(joint)
    assert {"roster", "relayed", "traffic"} <= set(joint)
    assert {"total", "binning", "training"} == set(joint["seconds"])
    assert len({record["run"] for record in records.values()}) == 1
    assert joint["rows"] == other["rows"] == N_ROWS / 3
    assert joint["rounds"] == other["rounds"] > 100
    assert joint["sealed_bytes"] + joint["clear_bytes"] == joint["bytes_up"]
    assert {"score", "tournament", "routing", "leaves"} <= set(joint["phases"])
    assert joint["traffic"]["aurora"] == {key: joint[key] for key in ("bytes_up", "bytes_down")}
    relayed = {(sender, receiver): count for sender, receiver, count in joint["relayed"]}
    assert sum(count for (sender, _), count in relayed.items() if sender == "aurora") == joint["sealed_bytes"]
    assert sum(count for (_, to), count in relayed.items() if to == "aurora") > 50_000
    # With direct links what the two others write to each other as servers passes nobody; what they write as owners and receivers
    # takes the same way.
    assert (("borealis", "cirrus") in relayed) == (links == "hub")
    # The hub's end of the resident's connection, and the resident's own, tell the same.
    ends = {path.stem: list(read_transcript(path)) for path in (hand.folder / "frames").glob("*.frames")}
    assert set(ends) == {"aurora", "aurora.hub", "borealis", "cirrus"}
    for direction in ("up", "down"):
        own = [r.frame for r in ends["aurora"] if r.direction == direction]
        assert own == [r.frame for r in ends["aurora.hub"] if (r.direction, r.member) == (direction, "aurora")]
    for record in itertools.chain.from_iterable(ends.values()):
        message = decode("x", record.frame)
        assert not isinstance(message, (*SEALED, Abort))


@pytest.mark.parametrize(
    ("how", "victim", "links"),
    [
        pytest.param(signal.SIGKILL, "aurora", "hub", id="killed-aurora-hub"),
        pytest.param(signal.SIGKILL, "aurora", "direct", id="killed-aurora-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "borealis", "hub", id="killed-borealis-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, "borealis", "direct", id="killed-borealis-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "aurora", "hub", id="stopped-aurora-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "aurora", "direct", id="stopped-aurora-direct", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "borealis", "hub", id="stopped-borealis-hub", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "borealis", "direct", id="stopped-borealis-direct"),
    ],
)
def test_whichever_of_three_stops_is_named_and_the_run_ends_for_all(by_hand, victim, how, links):
    hand = by_hand(rounds=2000, links=links, three=True)
    hand.start("aurora", "borealis", "cirrus")
    hand.wait_for_tree("cirrus", 2)
    os.kill(hand.processes[victim].pid, how)
    ended = hand.ended()
    assert all(status != 0 for status, _, _ in ended.values())
    for name, (_, _, errors) in ended.items():
        if name != victim:
            assert re.search(f"member '{victim}'", errors), (name, errors)
    assert not list(hand.folder.glob("*-model.json"))


@pytest.mark.parametrize(
    "poor", [pytest.param("aurora", id="the hub"), pytest.param("cirrus", id="another", marks=pytest.mark.slow)]
)
def test_too_little_memory_at_any_of_three_ends_the_run_for_all(by_hand, poor):
    hand = by_hand(three=True)
    hand.write(poor, memory_mb=0.01)
    hand.start("aurora")
    if poor == "cirrus":
        hand.write("cirrus", memory_mb=0.01)
    hand.start("borealis", "cirrus")
    ended = hand.ended()
    assert all(status != 0 for status, _, _ in ended.values())
    assert "this run takes about" in ended[poor][2]
    for name in set(PARTIES) - {poor}:
        assert f"member '{poor}' stopped the run: it stopped with a PlanError" in ended[name][2]
        assert "MB" not in ended[name][2]


@pytest.mark.parametrize(
    ("command", "name", "changes", "fragments"),
    [
        ("party", "aurora", {}, ("'aurora' is the plan's hub", "`hansa hub`", "its other roles too")),
        ("server", "aurora", {}, ("run `hansa hub`",)),
        ("hub", "borealis", {}, ("is not the plan's hub 'aurora'",)),
        ("hub", "aurora", {"table": None}, ("table is missing",)),
        ("hub", "aurora", {"model": None}, ("model is missing",)),
        ("hub", "aurora", {"table": "gone.csv"}, ("gone.csv",)),
        (
            "party",
            "borealis",
            {"servers": dict.fromkeys(PARTIES, "127.0.0.1:1")},
            (
                "servers names aurora, borealis, cirrus",
                "the plan's servers borealis, cirrus (that of aurora is the key hub)",
            ),
        ),
        ("party", "borealis", {"servers": None}, ("servers is missing", 'borealis = "')),
    ],
)
def test_a_wrong_command_or_file_of_three_is_refused_with_what_to_do(by_hand, command, name, changes, fragments):
    hand = by_hand(links="direct", three=True)
    hand.write(name, **{key: value for key, value in changes.items() if value is not None})
    path = hand.folder / f"{name}.toml"
    gone = [key for key, value in changes.items() if value is None]
    path.write_text("".join(line for line in path.read_text().splitlines(True) if line.split(" = ")[0] not in gone))
    assert_refused(hansa(command, path, "--json"), *fragments)


@pytest.mark.parametrize(
    "where", ["--server-links=direct", pytest.param("--server-links=hub", marks=pytest.mark.slow), "--in-process"]
)
def test_a_simulation_of_three_parties_and_nobody_else(table, tmp_path, where):
    text = table.read_text().replace("dune", "cirrus")
    (tmp_path / "three.csv").write_text(text)
    summary = simulated(
        tmp_path / "three.csv", tmp_path, where, "--hub", "borealis",
        "--save", tmp_path / "model.json", "--transcript", tmp_path / "frames",
    )  # fmt: skip
    assert set(summary["members"]) == set(PARTIES)
    ends = {path.stem for path in (tmp_path / "frames").glob("*.frames")}
    assert ends == {"borealis.hub"} | ({*PARTIES} if where != "--in-process" else set())
    assert len(from_json((tmp_path / "model.json").read_bytes()).trees) == 2
    assert all(member["bytes_up"] > 100_000 for member in summary["members"].values())


def test_a_server_that_is_started_again_does_not_get_back_into_its_run(by_hand):
    hand = by_hand(rounds=2000)
    hand.start("post", *(name for name in COMMANDS if name != "post"))
    hand.wait_for_tree("cirrus", 1)
    hand.processes["vault"].kill()
    hand.processes["vault"].communicate()
    hand.write("vault", wait_s=3)
    hand.start("vault")
    ended = hand.ended()
    assert all(status != 0 for status, _, _ in ended.values())
    assert "member 'vault'" in ended["cirrus"][2]
    assert not list(hand.folder.glob("*-model.json"))


@pytest.mark.parametrize(
    ("command", "name", "changes", "fragments"),
    [
        ("aggregator", "post", {}, ("has no aggregator", "`hansa hub`")),
        ("hub", "aurora", {}, ("is not the plan's hub 'post'",)),
        ("server", "post", {}, ("'post' is the plan's hub", "`hansa hub`")),
        ("party", "borealis", {"table": "aurora.csv", "model": None}, ("model is missing",)),
        ("party", "borealis", {"table": None}, ("table is missing",)),
        ("server", "vault", {"table": "aurora.csv"}, ("does not name 'vault' a party",)),
        ("server", "vault", {"memory_mb": -1}, ("memory_mb is -1; expected a number above 0",)),
        ("receiver", "reader", {"idle_limit_s": 0}, ("idle_limit_s is 0; expected a number above 0",)),
        ("receiver", "reader", {"idle_limit_s": "a day"}, ("idle_limit_s is 'a day'",)),
        ("party", "borealis", {"policy": {"least_mode": "open"}}, ("least_mode",)),
        ("server", "vault", {"servers": {"vault": "127.0.0.1:1"}}, ('server_links = "direct" only',)),
    ],
)
def test_a_wrong_command_or_file_is_refused_with_what_to_do(by_hand, command, name, changes, fragments):
    hand = by_hand()
    hand.write(name, **{key: value for key, value in changes.items() if value is not None})
    path = hand.folder / f"{name}.toml"
    gone = [key for key, value in changes.items() if value is None]
    path.write_text("".join(line for line in path.read_text().splitlines(True) if line.split(" = ")[0] not in gone))
    assert_refused(hansa(command, path, "--json"), *fragments)


@pytest.mark.parametrize(
    ("servers", "fragments"),
    [
        ({}, ("servers is missing", "where 'vault' listens")),
        ({"vault": "127.0.0.1:1", "aurora": "127.0.0.1:2"}, ("servers names aurora, vault", "aurora, vault, cirrus")),
        (
            {"vault": "here", "aurora": "127.0.0.1:2", "cirrus": "127.0.0.1:3"},
            ("servers.vault is 'here'", "address:port"),
        ),
    ],
)
def test_direct_links_need_every_servers_address(by_hand, servers, fragments):
    hand = by_hand(links="direct")
    hand.write("vault", servers=servers)
    assert_refused(hansa("server", hand.folder / "vault.toml", "--json"), *fragments)


def test_a_server_that_somebody_else_answers_for_is_refused(by_hand):
    hand = by_hand(links="direct")
    hand.start("post")
    # Where cirrus should find aurora, the hub listens.
    hand.write("cirrus", servers={**hand.servers, "aurora": f"127.0.0.1:{hand.port}"}, wait_s=5)
    hand.start("cirrus")
    assert_refused_text(hand.processes["cirrus"], "member 'aurora' at 127.0.0.1", "certificate")


def assert_refused_text(process, *fragments, status=1):
    _, errors = process.communicate(timeout=HANG_S)
    assert process.returncode == status
    assert all(fragment in errors for fragment in fragments), errors


def test_roles_of_other_modes_are_not_run_as_these(by_hand):
    hand = by_hand()
    other = PLAN.replace("coopetitive", "federated").replace("ROUNDS", "2")
    other = re.sub(r"hub = .*\nservers = .*\nserver_links = .*\n", 'aggregator = "post"\n', other).replace(
        '"reader"', '"cirrus"'
    )
    (hand.folder / "plan.toml").write_text(other)
    for command, name in (("hub", "post"), ("server", "aurora"), ("receiver", "borealis")):
        assert_refused(hansa(command, hand.folder / f"{name}.toml", "--json"), "the plan's mode is 'federated'")


def test_a_server_with_too_little_memory_says_so_before_anything_is_shared(by_hand):
    hand = by_hand()
    hand.start("post")
    hand.write("vault", memory_mb=0.01)
    hand.start("vault", "aurora", "borealis", "cirrus", "reader")
    ended = hand.ended()
    assert "this run takes about" in ended["vault"][2]
    assert "memory_mb" in ended["vault"][2]
    assert all(status != 0 for status, _, _ in ended.values())


# --- phases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "phase"),
    [
        ("tree/gradients/logistic", "gradients"),
        ("tree/sums/columns + tree/sums/absolute", "histogram"),
        ("cuts/bits 3/sign", "cuts"),
        ("tree/split/tournament/round 1", "tournament"),
        ("tree/leaves/clamped", "leaves"),
        ("evaluation/route", "evaluation"),
    ],
)
def test_a_step_belongs_to_a_phase(step, phase):
    assert phase_of(step) == phase


def test_a_ledger_adds_up_what_rounds_cost():
    ledger = PhaseTimes()
    for _ in range(3):
        sum(range(200_000))
        ledger.note("tree/score/a", 10)
    ledger.note("cuts/x", 5)
    found = ledger.costs()
    assert found["score"].bytes == 30
    assert found["score"].rounds == 3
    assert found["score"].cpu_s > 0.005
    assert (found["cuts"].bytes, found["cuts"].rounds) == (5, 1)
    ledger.clear()
    assert ledger.costs() == {}


def test_a_plan_of_categories_is_shown_and_checked(by_hand):
    hand = by_hand()
    plan, table = hand.folder / "plan.toml", hand.folder / "aurora.csv"
    result = hansa("plan", "show", plan)
    assert "categories:" not in result.stdout
    plan.write_text(plan.read_text() + "\n[categories]\nalarms = [0, 1, 2, 3, 4]\n")
    result = hansa("plan", "show", plan)
    assert "alarms: 5 categories: 0, 1, 2, 3, 4" in result.stdout
    answer = json.loads(hansa("check", plan, table, "--json").stdout)
    assert answer["ok"]
    rows = next(sent for sent in answer["sent"] if sent["often"] == "per row")
    assert rows["bytes_at_most"] == 2 * (4 * (2 * 8 + 6) + 8 + 4)
    plan.write_text(plan.read_text().replace("alarms = [0, 1, 2, 3, 4]", "alarms = [17]"))
    result = hansa("check", plan, table)
    assert result.exit_code == 1
    for text in (
        str(table),
        "row 1",
        "column 'alarms'",
        "one of the plan's 1 levels 17",
        "add its value to [categories]",
    ):
        assert text in result.stdout


def test_check_says_what_would_be_sent(by_hand):
    hand = by_hand()
    result = hansa("check", hand.folder / "plan.toml", hand.folder / "aurora.csv")
    assert result.exit_code == 0, result.output
    for text in ("shares of the sums of labels", "shares of counts", "shares of which bin", "aurora, vault, cirrus"):
        assert text in result.stdout
    answer = json.loads(hansa("check", hand.folder / "plan.toml", hand.folder / "aurora.csv", "--json").stdout)
    rows = next(sent for sent in answer["sent"] if sent["often"] == "per row")
    record_bytes = sum(sent["bytes_at_most"] for sent in answer["sent"]) + N_ROWS * rows["bytes_at_most"]
    assert record_bytes < 10**7
    assert rows["bytes_at_most"] == 2 * (4 * 3 * 8 + 8 + 4)


# --- several classes ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Four operators' cells of classes 0, 1 and 2; dune has no cell of class 2."""
    columns = cells(N_ROWS, 5)
    operator = np.array(OPERATORS, object)[np.arange(N_ROWS) % 4]
    load = np.asarray(columns["load"], float)
    severity = np.digitize(load + columns["fault"], np.quantile(load + columns["fault"], [0.4, 0.8]))
    severity = np.where(operator == "dune", np.minimum(severity, 1), severity)
    columns = {name: values for name, values in columns.items() if name != "fault"}
    folder = tmp_path_factory.mktemp("classes")
    return write_table(folder / "cells.csv", {"operator": operator, **columns, "severity": severity})


def test_several_classes_are_simulated_beside_alone_and_pooled(classes, tmp_path):
    pytest.importorskip("xgboost")
    options = ("--rounds", "6", "--set", "max_depth=2", "--set", "max_bin=8", "--min-cell-rows", "5", "--set", "num_class=3",
               "--set", "eval_metric=logloss", "--set", "early_stopping_rounds=5",
               "--evaluation-fraction", "0.2", "--alone", "--pooled", "--save", str(tmp_path / "model.json"))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "hansa", "simulate", str(classes), "--label", "severity", *BASE[2:], *options],
        capture_output=True, text=True, cwd=tmp_path, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    model = from_json((tmp_path / "model.json").read_bytes())
    assert summary["num_class"] == model.outputs == 3
    assert summary["trees"] == len(model.trees) == 3 * model.rounds
    for metrics in (summary["metrics"], *(summary["pooled"][key]["metrics"] for key in ("hansa", "xgboost"))):
        assert list(metrics) == ["auc_ovr", "merror", "logloss", "error"]
        assert metrics["auc_ovr"] > 0.8
        assert metrics["merror"] < 0.45
    assert summary["metrics"]["auc_ovr"] == pytest.approx(summary["pooled"]["hansa"]["metrics"]["auc_ovr"], abs=0.05)
    for name, member in summary["members"].items():
        assert sum(member["class_shares"]) == pytest.approx(1)
        assert (member["class_shares"][2] == 0) == (name == "dune")
        assert set(member["metrics"]["alone"]) == {"auc_ovr", "merror", "logloss", "error"}


def test_classes_are_printed_as_a_table(classes):
    options = ("--rounds", "1", "--set", "max_depth=2", "--set", "max_bin=8", "--set", "num_class=3", "--in-process")
    result = hansa("simulate", classes, "--label", "severity", *BASE[2:-1], *options)
    assert result.exit_code == 0, (result.output, result.exception)
    for text in ("classes, %", "auc_ovr", "merror", "3 trees"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (("--mode", "federated", "--set", "num_class=3"), "write objective = 'multi:softprob'"),
        (("--set", "num_class=4", "--mode", "secure-aggregation"), "write objective = 'multi:softprob'"),
        ((), "for classes 0, 1, 2, ... multi:softprob and num_class"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(classes, options, fragment):
    result = hansa("simulate", classes, "--label", "severity", "--party-column", "operator", "--json", *options)
    assert_refused(result, fragment)


def test_a_label_that_is_no_class_is_named(table):
    options = ("--set", "num_class=3", "--mode", "coopetitive", "--party-column", "operator")
    result = hansa("simulate", table, "--label", "load", *options)
    assert_refused(result, "row 1, column 'load'", "expected a class, a whole number from 0 to 2")
