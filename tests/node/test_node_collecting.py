"""Runs with a collector over real connections: the model, what stands in every member's log, and who is named when a member is gone."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from hansa.consortium.audit_checks import check_log, compare_logs
from hansa.consortium.audit_entries import CheckpointCountersigned, ModelReleased
from hansa.consortium.identity import create_identity, save_identity
from hansa.consortium.members import members_of, read_members, write_members
from hansa.data.source import read_rows
from hansa.errors import HansaError, ModelWithheld, PlanError, ProtocolError, RunStopped
from hansa.node.collecting import MOST_EARLY, CollectorLine
from hansa.node.config import read_member_file
from hansa.node.events import Listening
from hansa.node.in_process import train_in_process
from hansa.node.record import CollectorRecord, Record
from hansa.node.run import check_command, command_of, run
from hansa.plan import parse_plan, read_plan
from hansa.protocol.messages import Close, encode
from hansa.roles.run import INTERRUPTED, Binned, Registered
from hansa.roles.summed.collector import Collector
from hansa.roles.summed.party import Party
from made_consortium import Consortium, cells, hansa, write_member, write_table
from quick import quick
from waiting import HANG_S

PARTIES = ("aurora", "borealis", "cirrus")
OTHERS = ("hub", "west")
BEHIND = PARTIES[:2]

PLAN = """
mode = "federated"
[members]
aggregator = "hub"
parties = ["aurora", "borealis", "cirrus"]
receivers = ["aurora", "cirrus"]
collectors = { west = ["aurora", "borealis"] }
[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"
[privacy]
min_cell_rows = 2
[evaluation]
fraction = 0.3
[parameters]
rounds = 3
max_depth = 2
max_bin = 16
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    identities = {name: create_identity(name, days=1) for name in (*OTHERS, *PARTIES)}
    for name, identity in identities.items():
        save_identity(identity, tmp_path / f"{name}.identity")
    write_members(tmp_path / "members.toml", members_of([identity.card() for identity in identities.values()]))
    (tmp_path / "plan.toml").write_text(PLAN)
    for seed, name in enumerate(PARTIES):
        write_table(tmp_path / f"{name}.csv", cells(60 + 20 * seed, seed))
    return tmp_path


def own_file(folder: Path, name: str, port: int, **changes) -> Path:
    """A member's file; `port` is where whom it dials listens."""
    given = {"reconnect_timeout_s": 2.0}
    if name in OTHERS:
        given |= {"table": None, "model": None}
    if name == "west":
        given |= {"listen": "127.0.0.1:0"}
    return write_member(folder, name, port, **given | changes)


class Flooding:
    """The line to a collector's parties, over which one sends the same frame without end."""

    def receive(self, timeout=None):
        return "aurora", memoryview(encode(Close()))


def test_a_party_cannot_fill_a_collectors_memory_before_the_run_begins():
    role = Collector(parse_plan(PLAN), "west")
    line = CollectorLine(role, "hub", None, Flooding())
    for _ in range(MOST_EARLY):
        assert line._from_party(0.0)
    with pytest.raises(ProtocolError, match=r"'aurora' sent more than 4 frames before the run began") as refused:
        line._from_party(0.0)
    assert refused.value.member == "aurora"


@dataclass
class Ends:
    """What came of a run at each member: its record, or the error that ended it."""

    records: dict[str, Record] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)

    def named(self) -> dict[str, str]:
        return {name: getattr(error, "member", "") for name, error in self.errors.items()}


def play(folder: Path, stops: str = "", at: type = Binned, **changes) -> Ends:
    """One run, every member in a thread. `stops` is interrupted when it tells of `at`."""
    ends = Ends()
    threads: list[threading.Thread] = []
    started = threading.Lock()
    below = {"hub": ("west", "cirrus"), "west": BEHIND}

    def member(name: str, port: int) -> None:
        def event(told) -> None:
            if isinstance(told, Listening):
                for other in below[name]:
                    start(other, told.port)
            if name == stops and isinstance(told, at):
                raise KeyboardInterrupt

        try:
            path = own_file(folder, name, port, **changes.get(name, {}))
            ends.records[name] = run(read_member_file(path), event)
        except (HansaError, KeyboardInterrupt) as error:
            ends.errors[name] = error

    def start(name: str, port: int) -> None:
        with started:
            threads.append(threading.Thread(target=member, args=(name, port)))
            threads[-1].start()

    start("hub", 0)
    at_work = 0
    while at_work < len(threads):
        threads[at_work].join(HANG_S)
        assert not threads[at_work].is_alive()
        at_work += 1
    return ends


def expected(folder: Path) -> bytes:
    plan = read_plan(folder / "plan.toml")
    kind = plan.parameters.label_kind
    tables = {name: read_rows(folder / f"{name}.csv", plan.schema, label_kind=kind) for name in PARTIES}
    return train_in_process(plan, tables).outcome.model


def test_a_run_gives_the_model_and_stands_in_every_log(folder: Path):
    ends = play(folder, **{name: {"transcript": "frames"} for name in (*OTHERS, *PARTIES)})
    assert ends.errors == {}
    for name in ("aurora", "cirrus"):
        assert (folder / f"{name}-model.json").read_bytes() == expected(folder)
    assert not (folder / "borealis-model.json").exists()
    members = read_members(folder / "members.toml")
    logs = {name: check_log(folder / f"{name}.audit", members) for name in (*OTHERS, *PARTIES)}
    model = ends.records["aurora"].model_sha256
    for name, log in logs.items():
        (closed,) = (entry for entry in log.entries if isinstance(entry, CheckpointCountersigned))
        assert {*closed.signatures} == {*logs}
        assert [own.model for own in log.entries if isinstance(own, ModelReleased)] in ([model], []), name
        for other in {*logs} - {name}:
            assert compare_logs(log, logs[other], ends.records["hub"].run).disagreements == ()
    assert [own.model for own in logs["west"].entries if isinstance(own, ModelReleased)] == [model]
    assert {file.name for file in (folder / "frames").iterdir()} == {
        f"{name}.frames" for name in (*OTHERS, *PARTIES, "west.hub")
    }


def test_the_aggregator_receives_one_members_bytes_of_a_collectors_parties(folder: Path):
    ends = play(folder)
    hub, west = ends.records["hub"], ends.records["west"]
    assert isinstance(west, CollectorRecord)
    assert (west.state, west.trees, {*west.traffic}) == ("finished", 3, {*BEHIND})
    assert [(name, rows + held) for name, rows, held in west.roster] == [("aurora", 60), ("borealis", 80)]
    assert {*hub.traffic} == {"west", "cirrus"}
    below = sum(own.bytes_up for own in west.traffic.values())
    assert below > 1.5 * hub.traffic["west"].bytes_up
    assert west.bytes_up == hub.traffic["west"].bytes_up


def test_a_model_that_is_not_good_enough_is_withheld_by_a_collector_too(folder: Path):
    (folder / "plan.toml").write_text(PLAN + '[release]\nmetric = "logloss"\nat_most = 0.0001\n')
    ends = play(folder)
    assert {*ends.errors} == {*OTHERS, *PARTIES}
    assert all(isinstance(error, ModelWithheld) for error in ends.errors.values())


@pytest.mark.parametrize(
    ("stops", "at"),
    quick(
        [("west", Registered), ("aurora", Binned), ("cirrus", Binned), ("hub", Binned)],
        ("west", Registered),
        ("cirrus", Binned),
    ),
)
def test_whoever_is_interrupted_is_named_by_all(folder: Path, stops: str, at: type):
    ends = play(folder, stops, at)
    assert isinstance(ends.errors.pop(stops), KeyboardInterrupt)
    assert {*ends.errors} == {*OTHERS, *PARTIES} - {stops}
    assert set(ends.named().values()) == {stops}, ends.errors
    assert all(INTERRUPTED in str(error) for error in ends.errors.values()), ends.errors


def test_a_party_whose_part_is_cut_is_named_by_its_collector_and_so_by_all(folder: Path, monkeypatch):
    contribute = Party._contribute

    def cut(self, quantity, values, first=0, words=None):
        if self._name == "borealis" and quantity == "cells":
            values = np.ascontiguousarray(values[:-1])
        return contribute(self, quantity, values, first, words)

    monkeypatch.setattr(Party, "_contribute", cut)
    ends = play(folder)
    assert {*ends.errors} == {*OTHERS, *PARTIES}
    assert set(ends.named().values()) == {"borealis"}
    assert isinstance(ends.errors["west"], ProtocolError)
    assert isinstance(ends.errors["hub"], RunStopped)
    for name in (*OTHERS, *PARTIES):
        assert "member 'borealis' sent cells" in str(ends.errors[name])


def test_members_of_another_plan_are_told_in_what_it_differs(folder: Path):
    (folder / "other.toml").write_text(PLAN.replace("rounds = 3", "rounds = 4"))
    ends = play(folder, aurora={"plan": "other.toml"})
    assert {*ends.errors} == {*OTHERS, *PARTIES}
    assert ends.named()["hub"] == "aurora"
    assert "parameters.rounds" in str(ends.errors["hub"])
    ends = play(folder, west={"plan": "other.toml"})
    assert {*ends.errors} == {*OTHERS, *PARTIES}
    assert "give every member the same plan file" in str(ends.errors["west"])


def test_a_collectors_file_says_where_it_listens_and_no_others(folder: Path):
    with pytest.raises(PlanError, match="listen is missing; 'west' is a collector"):
        read_member_file(own_file(folder, "west", 1, listen=None))
    with pytest.raises(PlanError, match="'aurora' is none; leave it out"):
        read_member_file(own_file(folder, "aurora", 1, listen="127.0.0.1:1"))


def test_a_collector_has_a_command_of_its_own(folder: Path):
    plan = read_plan(folder / "plan.toml")
    assert [command_of(plan, name) for name in ("hub", "west", "aurora")] == ["aggregator", "collector", "party"]
    check_command(read_member_file(own_file(folder, "west", 1)), "collector")
    with pytest.raises(PlanError, match="not among the plan's parties"):
        check_command(read_member_file(own_file(folder, "west", 1)), "party")
    refused = hansa("collector", own_file(folder, "aurora", 1))
    assert "not among the plan's collectors west; run `hansa party`" in refused.stderr


@pytest.mark.parametrize("killed", quick(["west", "aurora"], "west"))
def test_a_process_that_is_killed_ends_the_run_with_its_name(folder: Path, killed: str):
    """A collector's parties lose their line to it; all others hear of it from the aggregator."""
    (folder / "plan.toml").write_text(PLAN.replace("rounds = 3", "rounds = 100000"))
    consortium = Consortium(folder)
    try:
        hub, port = consortium.start_hub(reconnect_timeout_s=2.0)
        west = consortium.start("collector", own_file(folder, "west", port), "--json")
        behind = west.event("listening")["port"]
        members = {"hub": hub, "west": west}
        for name, at in (("cirrus", port), *((name, behind) for name in BEHIND)):
            members[name] = consortium.start("party", own_file(folder, name, at), "--json")
        hub.event("tree")
        members[killed].kill()
        for name in {*members} - {killed}:
            status, _, said = members[name].end()
            assert status == 75, said  # may succeed later
            assert repr(killed) in said, (name, said)
    finally:
        consortium.stop()
