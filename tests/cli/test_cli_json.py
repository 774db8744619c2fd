"""What `--json` prints is one struct a line, and a record file one struct: each is read back strictly, and says the same."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from test_cli_evidence import MASKED, shown, signed

from hansa.node.check import TableReport
from hansa.node.events import Ended, Failed, Line, Listening, Noticed, line_of, read_line
from hansa.node.evidence import Judgement, keep_evidence
from hansa.node.plan_report import PlanReport
from hansa.node.record import AggregatorRecord, Failure, PartyRecord, Record
from hansa.roles.run import Binned, Registered, Trained, TreeGrown
from hansa.simulation.summary import Summary
from made_consortium import ABORTING, HUB, PARTIES, PLAN, Consortium, hansa, write_member


def read(text: str) -> list[Line]:
    """Every line, which says the same when it is written again."""
    lines = text.splitlines()
    events = [read_line(line) for line in lines]
    assert [line_of(event) for event in events] == lines
    return events


def record_of(folder: Path, name: str) -> Record:
    """A record's file, which says the same when it is written again."""
    content = (folder / f"{name}-record.json").read_bytes()
    found = msgspec.json.decode(content, type=Record)
    assert json.loads(line_of(found)) == json.loads(content)
    return found


def again(text: str, kind: type[msgspec.Struct]) -> msgspec.Struct:
    """One object, read strictly; it says the same when it is written again."""
    found = msgspec.json.decode(text, type=kind)
    assert line_of(found) == text.rstrip("\n")
    return found


@pytest.mark.parametrize("mode", [pytest.param("federated", marks=pytest.mark.slow), "secure-aggregation"])
def test_every_line_and_record_of_a_run_is_its_struct(consortium: Consortium, mode: str):
    folder = consortium.folder
    plan = PLAN.replace('mode = "federated"', f'mode = "{mode}"')
    plan = plan.replace("[privacy]", "[evaluation]\nfraction = 0.25\n\n[privacy]\nmin_party_rows = 0")
    (folder / "plan.toml").write_text(plan)
    more = {} if mode == "federated" else {"policy": {"allow_two_parties": True, "least_party_rows": 0}}
    hub = consortium.start("aggregator", write_member(folder, HUB, 0), "--json")
    first = hub.process.stdout.readline()
    port = read_line(first).port
    parties = {}
    for name in PARTIES:
        path = write_member(folder, name, port, ledger=f"{name}-ledger.jsonl", **more)
        parties[name] = consortium.start("party", path, "--json")
    for name, party in parties.items():
        status, out, err = party.end()
        assert status == 0, err
        events = read(out)
        kinds = {type(event) for event in events}
        assert kinds >= {Registered, Binned, TreeGrown, Trained, Ended}
        assert {event.member for event in events if isinstance(event, TreeGrown)} == {name}
        assert isinstance(events[-1], Ended)
        assert isinstance(events[-1].record, PartyRecord)
        assert events[-1].record == record_of(folder, name)
    status, out, err = hub.end()
    assert status == 0, err
    events = read(first + out)
    assert isinstance(events[0], Listening)
    assert {type(event) for event in events} >= {Noticed, Registered, Binned, TreeGrown, Trained, Ended}
    record = events[-1].record
    assert isinstance(record, AggregatorRecord)
    assert record == record_of(folder, HUB)
    assert set(record.history) == {"logloss"}
    assert len(record.history["logloss"]) == 3


def test_a_run_that_fails_ends_with_an_error_that_names_member_run_and_cure(consortium: Consortium):
    folder = consortium.folder
    (folder / "other.toml").write_text(PLAN.replace("max_depth = 2", "max_depth = 3"))
    hub, port = consortium.start_hub()
    consortium.start_party(PARTIES[0], port)
    consortium.start_party(PARTIES[1], port, plan="other.toml")
    status, out, _ = hub.end()
    assert status == 1
    failed = read(out)[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.member, failed.retry) == ("ProtocolError", PARTIES[1], False)
    assert failed.cure == "give every member the same plan file and members file"
    assert failed.rule == "all members hold the same plan and members file"
    record = record_of(folder, HUB)
    assert record.state == "failed"
    assert record.error == Failure(**msgspec.structs.asdict(failed))


def test_a_party_that_is_killed_is_the_member_of_the_error_and_the_run_is_named(consortium: Consortium):
    folder = consortium.folder
    (folder / "plan.toml").write_text(ABORTING.replace("rounds = 3", "rounds = 100000"))
    hub, port = consortium.start_hub(reconnect_timeout_s=0)
    parties = {name: consortium.start_party(name, port, reconnect_timeout_s=0) for name in PARTIES}
    hub.event("tree")
    parties[PARTIES[1]].kill()
    _, out, _ = hub.end()
    failed = read(out)[-1]
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.member) == ("MemberLost", PARTIES[1])
    parties[PARTIES[0]].end()
    for name in (HUB, PARTIES[0]):
        record = record_of(folder, name)
        assert record.error is not None
        assert record.error.member == PARTIES[1]
        assert record.error.run == record.run
        assert len(bytes.fromhex(record.run or "")) == 32


def test_a_command_that_is_refused_prints_one_error(consortium: Consortium):
    path = write_member(consortium.folder, PARTIES[0], 0)
    (failed,) = read(hansa("aggregator", path, "--json").stdout)
    assert isinstance(failed, Failed)
    assert (failed.kind, failed.member, failed.run) == ("PlanError", "", "")
    assert failed.cure == "run `hansa party` for a party"


def test_what_plan_check_and_evidence_print_is_a_struct(consortium: Consortium):
    folder = consortium.folder
    plan, table = folder / "plan.toml", folder / f"{PARTIES[0]}.csv"
    report = again(hansa("plan", "show", plan, "--json").stdout, PlanReport)
    assert report.values["parameters.rounds"] == 3
    member = write_member(folder, PARTIES[0], 1)
    checked = again(hansa("check", plan, table, "--member", member, "--json").stdout, TableReport)
    assert checked.ok
    assert checked.rules
    bad = folder / "bad.csv"
    bad.write_text("load,rsrp,fault,extra\n1,2,0,3\n1,2,7,3\n")
    assert not again(hansa("check", plan, bad, "--json").stdout, TableReport).ok
    plan.write_text(MASKED)
    keep_evidence(folder / "kept.json", signed(folder, (shown(5, 6),)))
    told = hansa("evidence", folder / "kept.json", "--plan", plan, "--members", folder / "members.toml", "--json")
    assert told.exit_code == 0, told.output
    assert again(told.stdout, Judgement).aggregator == HUB


@pytest.mark.parametrize("options", [(), ("--alone", "--pooled"), ("--evaluation-fraction", "0.3")])
def test_what_simulate_prints_is_a_struct(tmp_path: Path, options: tuple[str, ...]):
    rows = [f"{place % 10},{int(place % 10 > 4)},{'ab'[place % 2]}" for place in range(200)]
    table = tmp_path / "rows.csv"
    table.write_text("\n".join(["x,y,whose", *rows]))
    done = hansa(
        *("simulate", table, "--label", "y", "--party-column", "whose", "--in-process", "--rounds", "2", "--json"),
        *options,
    )
    assert done.exit_code == 0, done.output
    summary = again(done.stdout, Summary)
    assert summary.trees == 2
    assert set(summary.members) == {"a", "b"}
    assert bool(summary.pooled.by_name()) == ("--pooled" in options)
    assert bool(summary.held_out.metrics) == ("--evaluation-fraction" in options)


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "tree", "trees": 1, "rounds": 2, "colour": "red"}',
        '{"event": "tree", "trees": "one", "rounds": 2}',
        '{"event": "joined"}',
        '{"trees": 1}',
        '{"event": "notice", "kind": "dancing", "member": "", "waiting_for": [], "seconds": 0, "limit_s": null, '
        '"text": "", "sentence": ""}',
        '{"event": "record", "record": {"role": "party", "member": "a"}}',
        "no JSON",
    ],
)
def test_a_line_that_is_no_event_is_refused(line: str):
    with pytest.raises(msgspec.DecodeError):
        read_line(line)


def test_a_line_has_nothing_that_a_terminal_obeys():
    said = Noticed(
        kind="lost",
        member="b\x1b]0;x\x07",
        waiting_for=("\u202e",),
        seconds=1.0,
        limit_s=None,
        text="\x9b",
        sentence="é",
    )
    line = line_of(said)
    assert line.isascii()
    assert line.isprintable()
    assert read_line(line) == said
