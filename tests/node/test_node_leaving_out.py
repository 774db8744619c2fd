"""A process that does not come back, over mutual TLS: the others go on without it, and it is told so when it is back."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import made_consortium
from hansa.consortium.audit_checks import check_log
from hansa.consortium.audit_entries import ModelReleased, RunBegun
from hansa.consortium.members import read_members
from hansa.consortium.provenance import verify_model
from hansa.errors import HansaError, PlanError, TransportError
from hansa.node import summed
from hansa.node.config import read_member_file
from hansa.node.events import Listening
from hansa.node.run import run
from hansa.plan import read_plan
from hansa.roles.run import Resumed, TreeGrown
from hansa.trees.xgboost_json import from_json
from made_consortium import HUB, PLAN, make_consortium, write_member
from made_services import approved
from waiting import HANG_S, Clock

NAMES = ("aurora", "borealis", "cirrus")
TEXT = PLAN.replace(
    '"borealis"]\n', '"borealis", "cirrus"]\nminimum_parties = 2\non_dropout = "continue"\ncontinue_after_s = 1.0\n', 1
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(made_consortium, "PARTIES", NAMES)
    made = make_consortium(tmp_path, TEXT.replace("rounds = 3", "rounds = 40"))
    approved(made, (made / "plan.toml").read_text(), members=(HUB, *NAMES))
    return made


def test_the_others_go_on_and_the_record_log_and_provenance_name_who_was_left_out(folder):
    ended: dict[str, HansaError | None] = {}
    listens, resumed, back = threading.Event(), threading.Event(), threading.Event()
    port = 0

    def member(name: str, event) -> None:
        own = {"provenance": f"{name}.statement.json", "plan": "approved.json"}
        own |= {"table": None, "model": None} if name == HUB else {}
        try:
            run(read_member_file(write_member(folder, name, port, **own)), event)
            ended[name] = None
        except HansaError as error:
            ended[name] = error
        except KeyboardInterrupt:
            ended[name] = None

    def heard(event) -> None:
        nonlocal port
        if isinstance(event, Listening):
            port = event.port
            listens.set()
        if isinstance(event, Resumed):
            assert event.left_out == ("cirrus",)
            resumed.set()
        if isinstance(event, TreeGrown) and resumed.is_set():
            back.wait(HANG_S)

    def stopping(event) -> None:
        if isinstance(event, TreeGrown):
            raise KeyboardInterrupt

    threads = [threading.Thread(target=member, args=(HUB, heard))]
    threads[0].start()
    assert listens.wait(HANG_S)
    for name in NAMES:
        threads.append(threading.Thread(target=member, args=(name, stopping if name == "cirrus" else lambda _: None)))
        threads[-1].start()
    assert resumed.wait(HANG_S)
    threads[3].join(HANG_S)
    again = threading.Thread(target=member, args=("cirrus", lambda _: None))
    again.start()
    again.join(0.5)
    back.set()
    for thread in (*threads, again):
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert {name: ended[name] for name in (HUB, "aurora", "borealis")} == dict.fromkeys((HUB, "aurora", "borealis"))
    assert "member 'cirrus' was away for more than 1 s, and is left out of this run" in str(ended["cirrus"])
    assert not (folder / "cirrus-model.json").exists()
    model = folder / "aurora-model.json"
    assert model.read_bytes() == (folder / "borealis-model.json").read_bytes()
    assert len(from_json(model.read_bytes()).trees) == 40
    members = read_members(folder / "members.toml")
    for name in (HUB, "aurora", "borealis"):
        record = json.loads((folder / f"{name}-record.json").read_text())
        assert (record["state"], record["left_out"]) == ("finished", ["cirrus"])
        log = check_log(folder / f"{name}.audit", members)
        begun = [entry.left_out for entry in log.entries if isinstance(entry, RunBegun)]
        assert begun == [(), ("cirrus",)]
        assert len([entry for entry in log.entries if isinstance(entry, ModelReleased)]) == 1
    found = verify_model(model, [folder / f"{name}.statement.json" for name in ("aurora", "borealis")], members)
    assert found.left_out == ("cirrus",)
    assert "from some tree on without cirrus" in "\n".join(found.lines())
    assert not list(folder.glob("aurora.state"))


class SlowHub:
    """Members come back at these seconds."""

    def __init__(self, comes: dict[str, float], clock: Clock) -> None:
        self.joined: set[str] = set()
        self._comes, self._clock, self._now = comes, clock, 0.0

    def wait_for(self, names, timeout: float) -> None:
        until = self._now + timeout
        back = max(self._comes.get(name, float("inf")) for name in names)
        passed = min(until, back) - self._now
        self._now += passed
        self._clock.forward(passed)
        self.joined = {name for name, at in self._comes.items() if at <= self._now}
        if not self.joined >= {*names}:
            raise TransportError("not connected")


@pytest.mark.parametrize(
    ("comes", "present"),
    [
        ({"aurora": 0.2, "borealis": 0.4, "cirrus": 0.6}, NAMES),
        ({"aurora": 0.2, "borealis": 0.4}, NAMES[:2]),
        # Whoever is slow to come back makes no run wait for one that does not come back at all.
        ({"aurora": 0.2, "borealis": 1.4}, NAMES[:2]),
        ({"aurora": 0.2, "borealis": 1.4, "cirrus": 1.9}, NAMES),
        ({"aurora": 4.5, "borealis": 4.6}, NAMES[:2]),
        ({"aurora": 0.2}, NAMES),
    ],
)
def test_fewer_than_the_minimum_are_given_the_time_again(folder, monkeypatch, comes, present):
    clock = Clock()
    monkeypatch.setattr(summed, "time", clock)
    state = SimpleNamespace(remaining=None, claim=SimpleNamespace(checkpoint=1), outcome=None)
    attempt = summed._Attempt(0, 10.5)
    hub = SlowHub(comes, clock)
    assert summed._present(hub, read_plan(folder / "plan.toml"), state, attempt) == present
    if len(comes) == 1:  # all that is left of the time is for those who are not here
        assert attempt.wait_s < 1
    assert hub.joined >= {*present} or len(comes) == 1


def test_a_plan_that_goes_on_without_somebody_needs_everybodys_signature(folder):
    file = read_member_file(write_member(folder, "aurora", 1))
    with pytest.raises(
        PlanError, match="on_dropout = 'continue' asks for a plan that every member with a role has signed"
    ):
        run(file, lambda _: None)


def test_an_aggregator_that_would_give_up_before_is_refused(folder):
    file = read_member_file(write_member(folder, HUB, 1, plan="approved.json", wait_s=1))
    with pytest.raises(PlanError, match=r"wait_s is 1, and the plan goes on without a party that is away for 1 s"):
        run(file, lambda _: None)
