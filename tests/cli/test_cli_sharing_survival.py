"""Processes of a coopetitive run that end, over mutual TLS: started again with the same command, the run goes on."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from hansa.consortium.audit_checks import check_log
from hansa.consortium.audit_entries import RunOver
from hansa.errors import WITHHELD
from hansa.trees.xgboost_json import from_json
from made_consortium import AGAIN, cells, refused
from sharing_hands import COMMANDS, COMMANDS_OF_THREE, N_ROWS, Hand
from waiting import HANG_S

ROUNDS = 12


@pytest.fixture
def by_hand(tmp_path):
    hands = []

    def make(**changes):
        hands.append(Hand(tmp_path, ROUNDS, changes.pop("links", "hub"), waits=True, **changes))
        return hands[0]

    yield make
    for hand in hands:
        for name in hand.processes:
            hand.kill(name)


def auc(model: bytes) -> float:
    """Of the parties' own rows."""
    table = cells(N_ROWS, 5)
    features = np.stack([np.asarray(table[name], np.float32) for name in ("load", "rsrp", "alarms")])
    scores, labels = from_json(model).predict(features), np.asarray(table["fault"])
    ranks = scores.argsort().argsort()
    ones = labels == 1
    return float((ranks[ones].sum() - ones.sum() * (ones.sum() - 1) / 2) / (ones.sum() * (~ones).sum()))


def finished(hand: Hand) -> bytes:
    """The model that all receivers hold, once everybody has ended well; nothing else of the run stays."""
    ended = hand.ended()
    assert {name: status for name, (status, _, _) in ended.items()} == dict.fromkeys(hand.commands, 0), ended
    models = {path.read_bytes() for path in hand.folder.glob("*-model.json")}
    assert len(models) == 1
    assert len(list(hand.folder.glob("*-model.json"))) == 2
    assert not list(hand.folder.glob("*.state")), "nothing of a run stays when it is over"
    return models.pop()


def assert_good(model: bytes) -> None:
    ensemble = from_json(model)
    assert len(ensemble.trees) == ROUNDS
    assert auc(model) > 0.85


def test_a_killed_server_is_started_again_and_the_run_goes_on(by_hand):
    hand = by_hand(three=True)
    hand.start(*COMMANDS_OF_THREE)
    hand.wait_for_tree("cirrus", 3)
    hand.kill("cirrus")
    state = hand.folder / "cirrus.state"
    assert state.stat().st_mode & 0o777 == 0o700
    assert {path.suffix for path in state.iterdir()} >= {".sqlite", ".key"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in state.iterdir())
    hand.start("cirrus")
    resumed = hand.event("cirrus", "resumed")
    assert resumed["epoch"] == 1
    assert resumed["trees"] in (2, 3, 4)
    assert hand.event("borealis", "paused")["waiting_for"] == ["cirrus"]
    model = finished(hand)
    assert_good(model)
    ledger = (hand.folder / "cirrus-ledger.jsonl").read_text().splitlines()
    assert len(ledger) == 2, "a heading, and one line a run, whatever happened to its processes"


CONDITION = 'eval_metric = ["auc"]\n[evaluation]\nfraction = 0.4\n[release]\nmetric = "auc"\nat_least = 0.9999\n'


@pytest.mark.parametrize("three", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_below_the_bound_nobody_has_the_model_and_all_who_know_it_say_so(by_hand, three):
    hand = by_hand(three=three, more=CONDITION, policy={"least_party_rows": 0})
    plan = hand.folder / "plan.toml"
    plan.write_text(plan.read_text().replace("[privacy]\n", "[privacy]\nmin_party_rows = 0\n"))
    hand.start(hand.hub, *(name for name in hand.commands if name != hand.hub))
    told = {name for name in hand.commands if name != "post"}
    for name, (status, out, errors) in hand.ended().items():
        # A hub that is nothing else knows no more than that the run is over.
        assert status == (WITHHELD if name in told else 0), (name, errors)
        record = json.loads((hand.folder / f"{name}-record.json").read_text())
        assert record["state"] == ("withheld" if name in told else "finished")
        assert not record.get("model_sha256")
        assert ("auc at least 0.9999" in errors) == (name in told)
        assert ('"event": "withheld"' in out) == (name in told)
        over = [entry for entry in check_log(hand.folder / f"{name}.audit").entries if isinstance(entry, RunOver)]
        assert [entry.state for entry in over] == [record["state"]]
    assert not list(hand.folder.glob("*-model.json"))
    assert not list(hand.folder.glob("*.state"))


@pytest.mark.slow
@pytest.mark.parametrize("links", ["hub", "direct"])
@pytest.mark.parametrize(
    "victims", [("post",), ("vault",), ("aurora",), ("post", "cirrus"), ("aurora", "vault", "cirrus"), tuple(COMMANDS)], ids=str
)  # fmt: skip
def test_whoever_is_killed_the_run_goes_on(by_hand, victims, links):
    hand = by_hand(links=links)
    hand.start("post", *(name for name in COMMANDS if name != "post"))
    hand.wait_for_tree("cirrus", 3)
    hand.kill(*victims)
    hand.start_again(*victims)
    assert hand.event("vault", "resumed")["epoch"] >= 1
    assert_good(finished(hand))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reader", "borealis"])
def test_a_member_that_is_no_server_may_leave_and_return(by_hand, name):
    hand = by_hand()
    hand.start("post", *(each for each in COMMANDS if each != "post"))
    hand.wait_for_tree("cirrus", 2)
    hand.kill(name)
    hand.wait_for_tree("vault", 5)
    hand.start_again(name)
    assert_good(finished(hand))


@pytest.mark.slow
def test_a_stopped_server_is_waited_for(by_hand):
    """SIGTERM, as from a system that restarts it."""
    hand = by_hand()
    hand.start("post", *(name for name in COMMANDS if name != "post"))
    hand.wait_for_tree("cirrus", 3)
    hand.processes["vault"].send_signal(signal.SIGTERM)
    hand.processes["vault"].communicate(timeout=HANG_S)
    assert hand.processes["vault"].returncode == 143
    hand.start_again("vault")
    assert_good(finished(hand))


@pytest.mark.slow
def test_a_server_killed_in_set_up_and_one_at_the_end(by_hand):
    hand = by_hand()
    hand.start("post", *(name for name in COMMANDS if name != "post"))
    hand.event("vault", "registered")
    hand.kill("vault")
    hand.start_again("vault")
    hand.event("cirrus", "trained")
    if hand.processes["cirrus"].poll() is None:
        hand.kill("cirrus")
        hand.start_again("cirrus")
    ended = hand.ended()
    models = {path.read_bytes() for path in hand.folder.glob("*-model.json")}
    assert len(models) == 1
    assert_good(models.pop())
    # Whoever is killed right after it heard that all are through finds nobody to ask any more.
    assert {status for name, (status, _, _) in ended.items() if name != "cirrus"} == {0}, ended


@pytest.mark.slow
def test_a_full_disk_stops_its_member_alone(by_hand):
    hand = by_hand()
    hand.start("post", *(name for name in COMMANDS if name not in ("post", "vault")))
    full = subprocess.Popen(
        [sys.executable, "-m", "hansa", "server", str(hand.folder / "vault.toml"), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)),
    )
    out, err = full.communicate(timeout=HANG_S)
    refused((full.returncode, out, err), "the state of the run cannot be kept", "free space", status=AGAIN)
    hand.start("vault")
    assert_good(finished(hand))
