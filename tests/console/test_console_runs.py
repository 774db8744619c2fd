"""The page of a run: what a plan of folds, or of a search, found, at a member that knows it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from hansa.node.fold_scores import FoldScores, over_folds
from hansa.node.record import AggregatorRecord, PartyRecord, Record, Seconds
from hansa.node.trial_scores import SearchScores, TrialScore
from hansa.service.store import ServiceRun
from made_console import Desk
from made_consortium import make_consortium

STARTED = {
    "hansa": "0.1.0", "member": "hub", "plan": "ab" * 32, "plan_file": "cd" * 32, "mode": "federated", "identity": "x", "members": "y",
    "state": "finished", "stage": None, "run": "ef" * 32, "trees": 0, "started": "2026-01-02T03:04:05Z", "ended": None, "error": None,
}  # fmt: skip
FOLDS = FoldScores(
    folds=2,
    metric="logloss",
    best_round=2,
    history={
        "auc": over_folds([[0.5, 0.7, None], [0.5, 0.8, 0.75]]),
        "logloss": over_folds([[0.6, 0.4, 0.5], [0.6, 0.5, 0.5]]),
    },
)
TRIALS = SearchScores(
    metric="logloss",
    direction="minimize",
    trials=(
        TrialScore(trial=1, parameters={"eta": 0.25, "max_depth": 3}, state="pruned", value=0.6, best_round=1),
        TrialScore(trial=2, parameters={"eta": 0.1, "max_depth": 5}, state="complete", value=0.41, best_round=7),
    ),
    best=2,
    best_parameters={"eta": 0.1, "max_depth": 5, "rounds": 7},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def desk(folder: Path, tmp_path: Path) -> Desk:
    return Desk(folder, state=str(tmp_path / "state"))


def keep(desk: Desk, record: Record) -> None:
    """A finished run with this record."""
    own = desk.member.service.runs / "a1b2"
    own.mkdir(parents=True, exist_ok=True)
    (own / "record.json").write_bytes(msgspec.json.encode(record))
    desk.member.store.put(
        ServiceRun(run="a1b2", plan="cells", mode="federated", state="finished", folder="a1b2", rounds=3)
    )


def views(desk: Desk) -> dict[str, dict]:
    return {view["name"]: view for view in desk.signed_in("viewer").get("/api/runs/a1b2").json()["scores"]}


def test_folds_show_means_deviations_and_a_curve_for_each_metric(desk: Desk):
    keep(desk, AggregatorRecord(**STARTED, cross_validation=FOLDS))
    found = views(desk)
    assert list(found) == ["folds", "folds-0", "folds-1"]
    assert found["folds"]["table"][1:] == [["auc", "0.7500 ± 0.0500"], ["logloss", "0.4500 ± 0.0500"]]
    assert "after 2 rounds, the best by logloss" in found["folds"]["note"]
    assert found["folds-1"]["chart"]["series"][0]["y"] == [0.6, 0.45, 0.5]
    page = desk.signed_in("viewer", "another").get("/runs/a1b2").text
    assert page.count("<svg") == 2
    assert "0.4500 ± 0.0500" in page


def test_a_search_shows_every_trial_and_the_best_parameters(desk: Desk):
    keep(desk, AggregatorRecord(**STARTED, search=TRIALS))
    found = views(desk)
    assert list(found) == ["search"]
    assert found["search"]["table"] == [
        ["trial", "logloss", "rounds", "eta", "max_depth", "state"],
        ["1", "0.6000", "1", "0.25", "3", "pruned"],
        ["2", "0.4100", "7", "0.1", "5", "best"],
    ]
    assert "trial 2 is the best, with eta = 0.1, max_depth = 5, rounds = 7" in found["search"]["note"]
    assert "trial 2 is the best" in desk.signed_in("viewer", "another").get("/runs/a1b2").text
    nothing = msgspec.structs.replace(TRIALS, best=None, best_parameters={})
    keep(desk, AggregatorRecord(**STARTED, search=nothing))
    assert "no trial has a value" in views(desk)["search"]["note"]


def test_a_party_that_was_told_no_scores_shows_none(desk: Desk):
    keep(desk, PartyRecord(**STARTED))
    assert views(desk) == {}
    assert "<svg" not in desk.signed_in("viewer", "another").get("/runs/a1b2").text


def moment(second: float) -> str:
    return f"2026-01-02T03:04:{second:06.3f}Z"


def test_events_and_the_time_between_them_are_told_in_words(desk: Desk):
    """Also at a party, whose record has no seconds; of a run that went on, from the last start of its process."""
    lines: list[dict[str, object]] = [
        {"event": "run", "state": "waiting", "text": "", "time": moment(0)},
        {"event": "run", "state": "running", "text": "its process is started", "time": moment(1)},
        {"event": "registered", "time": moment(2)},
        {"event": "run", "state": "running", "text": "its process is started", "time": moment(10)},
        {"event": "registered", "trees": 0, "rounds": 3, "time": moment(12.5)},
        {"event": "binned", "trees": 0, "rounds": 3, "time": moment(13)},
        {"event": "tree", "trees": 2, "rounds": 3, "time": moment(15)},
        {"event": "trained", "trees": 3, "rounds": 3, "time": moment(17)},
    ]
    keep(desk, PartyRecord(**STARTED))
    events = desk.member.service.runs / "a1b2" / "events.jsonl"
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    client = desk.signed_in("viewer")
    shown = client.get("/api/runs/a1b2").json()
    found = [(each["name"], each["seconds"]) for each in shown["phases"]]
    assert found == [("until all had joined", 2.5), ("cuts", 0.5), ("trees", 4.0)]
    assert [each["text"] for each in reversed(shown["events"])][-5:] == [
        "running: its process is started", "all have joined", "the cuts are found", "2 of at most 3 rounds", "all trees are grown",
    ]  # fmt: skip
    assert shown["events"][-1]["text"] == "waiting"
    lines.append({"event": "record", "time": moment(17.25)})
    events.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert client.get("/api/runs/a1b2").json()["phases"][-1] == {"name": "model and record", "seconds": 0.25}
    # Seconds that the record has are more exact.
    keep(desk, AggregatorRecord(**STARTED, seconds=Seconds(binning=1.0, training=2.0)))
    assert [each["name"] for each in client.get("/api/runs/a1b2").json()["phases"]] == ["binning", "training"]
