"""`hansa demo --console`: real services and consoles of three operators, which show what trains, and end with the demo."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from hansa.demo import cases, telecom
from hansa.demo.consoles import HUB, OpenConsole, Operators, PlanChanged, consoles, plan_of, show_case
from hansa.errors import HansaError
from hansa.plan import MODES, parse_plan, write_plan
from hansa.simulation.run import refusal_of_members, split_parties
from made_consortium import assert_refused, hansa
from waiting import HANG_S, until

pytest.importorskip("sklearn")

OPERATORS = ("aurora", "borealis", "cirrus")


def few_rows(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Small tables, and few trees."""
    columns = telecom.simulate_operators(7, (900, 900, 900))
    monkeypatch.setattr(telecom, "simulate_operators", lambda _: columns)
    monkeypatch.setattr(cases, "ROUNDS", rounds)
    monkeypatch.setattr(cases, "COOPETITIVE_ROUNDS", rounds)


def processes() -> list[str]:
    """Commands of all children of this process, of whatever depth, that are services or consoles."""
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "hansa-demo-" in line or "service.toml" in line]


class Watcher:
    """Somebody who opens each console by its link, and looks at it whenever a plan is over at its operator; last of all a console's
    process is killed.
    """

    members: Operators

    def __init__(self, last: str) -> None:
        self.last = last
        self.seen: list[OpenConsole | PlanChanged] = []
        self.browsers: dict[str, httpx.Client] = {}

    def __call__(self, what: OpenConsole | PlanChanged) -> None:
        self.seen.append(what)
        if isinstance(what, OpenConsole):
            client = self.browsers[what.member] = httpx.Client(base_url=what.address, follow_redirects=True)
            assert client.get(what.link).status_code == 200
        elif what.state != "waiting":
            assert what.state == "finished", what
            self.look(what)
            over = {own.member for own in self.seen if isinstance(own, PlanChanged) and own.plan == what.plan}
            done = [own for own in self.seen if isinstance(own, PlanChanged) and own.plan == what.plan]
            if what.plan.endswith(self.last) and len(done) == 2 * len(over):
                self.members.processes["aurora-console"].kill()

    @contextmanager
    def kept(self, *arguments: Any) -> Iterator[Operators]:
        """The demo's members, which this one gets hold of."""
        with consoles(*arguments) as self.members:
            yield self.members

    def look(self, what: PlanChanged) -> None:
        if what.member == HUB:
            return
        client = self.browsers[what.member]
        run = client.get(f"/api/runs/{what.run}").json()
        assert run["run"]["state"] == "finished"
        assert run["run"]["mode"] == what.mode
        assert run["rows"] > 0
        plans = client.get("/api/plans").json()
        assert what.plan in json.dumps(plans)
        (consortium,) = client.get("/api/consortium").json()["consortia"]
        assert {own["name"] for own in consortium["members"]} == {HUB, *OPERATORS}
        assert client.get("/api/home").json()["serving"]
        assert len(client.get(f"/api/records/{what.run}").json()["entries"]) > 2


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_of_each_mode_is_one_that_the_operators_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str):
    few_rows(monkeypatch, 2)
    train, _ = cases.case_tables(cases.CASES[0], tmp_path)
    tables = split_parties(train, {name: name for name in OPERATORS})
    plan = plan_of(cases.CASES[0], mode, train, tables)
    assert (plan.mode, plan.hub, plan.parties) == (mode, HUB, OPERATORS)
    assert plan.name == f"sleeping-cell-{mode}"
    assert parse_plan(write_plan(plan), "plan") == plan
    # So few rows have too few of class 1; sums that the aggregator sees anyway are no reason to refuse.
    refused = refusal_of_members(replace(plan, min_party_rows=20), tables) is not None
    assert (refused, plan.min_party_rows) == ((False, 20) if mode == "federated" else (True, 0))


def test_a_service_that_is_gone_is_told_with_its_words(tmp_path: Path):
    with consoles(tmp_path, {}, "fault") as members:
        members.check()
        members.processes[HUB].terminate()
        members.processes[HUB].wait(HANG_S)
        with pytest.raises(HansaError, match=r"'hub' ended with status 143: .*stopped by SIGTERM"):
            members.check()


@pytest.mark.slow
@pytest.mark.parametrize("modes", [("federated",), MODES], ids=("federated", "all"))
def test_each_operator_sees_its_own_runs_until_a_process_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modes: tuple[str, ...]
):
    few_rows(monkeypatch, 2)
    watcher = Watcher(modes[-1])
    monkeypatch.setattr("hansa.demo.consoles.consoles", watcher.kept)
    with pytest.raises(HansaError, match="'aurora-console' ended with status -9"):
        show_case(replace(cases.CASES[0], modes=modes), tmp_path, watcher)
    assert tuple(watcher.browsers) == OPERATORS
    assert len({own.address for own in watcher.seen if isinstance(own, OpenConsole)}) == 3
    given = [own for own in watcher.seen if isinstance(own, PlanChanged) and own.state == "waiting"]
    assert tuple(dict.fromkeys(own.mode for own in given)) == modes
    for own in watcher.seen:
        if isinstance(own, OpenConsole):
            with pytest.raises(httpx.ConnectError):
                httpx.get(own.address)
    assert all(process.returncode is not None for process in watcher.members.processes.values())


@pytest.mark.slow
def test_the_command_trains_three_modes_and_ends_at_ctrl_c(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "hansa", "demo", "--console", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert process.stdout is not None
    events = []
    while sum(event.get("state") == "finished" for event in events) < 4 * len(MODES):
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        events.append(json.loads(line))
        assert events[-1].get("state") in (None, "waiting", "finished"), events[-1]
    assert [event["member"] for event in events[:3]] == [*OPERATORS]
    assert {event["mode"] for event in events[3:]} == {*MODES}
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=HANG_S)
    assert process.returncode == 130, text
    assert "stopped by SIGINT" in text
    until(lambda: not [line for line in processes() if str(tmp_path) in line], "all processes are gone")
    assert not [*tmp_path.glob("hansa-demo-*")]


def test_a_browser_is_opened_only_where_it_is_asked_for():
    assert_refused(hansa("demo", "--open"), "--open goes with --console")
