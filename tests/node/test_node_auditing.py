"""Members' logs over real connections: what a run leaves in them, and who is refused for a past that was rewritten."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from unittest.mock import Mock, call

import pytest
from blake3 import blake3

from hansa.cli.main import main
from hansa.consortium.audit_checks import check_log, compare_logs
from hansa.consortium.audit_entries import (
    CheckpointCountersigned,
    CheckpointRefused,
    CheckpointsSeen,
    Counted,
    Head,
    MessagesCounted,
    ModelReleased,
    RunBegun,
    RunOver,
    RunRefused,
    written_line,
)
from hansa.consortium.audit_log import HEAD_PURPOSE, head_bytes, new_tree
from hansa.consortium.identity import load_identity
from hansa.consortium.members import read_members
from hansa.errors import HansaError, LinkLost, ModelWithheld
from hansa.node.auditing import CountingChannel, CountingHub, FrameTally
from hansa.node.config import read_member_file
from hansa.node.events import Listening
from hansa.node.run import run
from hansa.roles.run import Binned, Progress, Withheld
from made_consortium import cells, hansa, make_consortium, write_member, write_table
from waiting import HANG_S

NAMES = ("hub", "aurora", "borealis")

COOPETITIVE = """
name = "shared"
mode = "coopetitive"
[members]
parties = ["aurora", "borealis"]
servers = ["hub", "aurora", "borealis"]
hub = "hub"
receivers = ["aurora"]
[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"
[privacy]
min_cell_rows = 2
min_party_rows = 2
[parameters]
rounds = 1
max_depth = 1
max_bin = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_consortium(tmp_path)


def play(folder: Path, stops: str = "", at: type[Progress] = Binned, **changes) -> dict[str, HansaError | None]:
    """One run, every member in a thread; what ended it at each. `stops` ends with the cuts, or the end, and begins anew."""
    ended: dict[str, HansaError | None] = {}
    listens = threading.Event()
    port = 0

    def member(name: str, event) -> None:
        own = {} if name != "hub" else {"table": None, "model": None}
        path = write_member(folder, name, port, **{**own, **changes.get(name, {}), **changes.get("all", {})})
        try:
            try:
                run(read_member_file(path), stopping if name == stops else event)
            except KeyboardInterrupt:
                run(read_member_file(path), event)
            ended[name] = None
        except HansaError as error:
            ended[name] = error
        finally:
            listens.set()

    def stopping(event) -> None:
        if isinstance(event, at):
            raise KeyboardInterrupt

    def heard(event) -> None:
        nonlocal port
        if isinstance(event, Listening):
            port = event.port
            listens.set()

    threads = [threading.Thread(target=member, args=("hub", heard))]
    threads[0].start()
    assert listens.wait(HANG_S)
    threads += [
        threading.Thread(target=member, args=(name, lambda _: None)) for name in NAMES[1:] if "hub" not in ended
    ]
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(HANG_S)
        assert not thread.is_alive()
    return ended


def logs(folder: Path):
    members = read_members(folder / "members.toml")
    return {name: check_log(folder / f"{name}.audit", members) for name in NAMES}


def kinds(log, kind):
    return [entry for entry in log.entries if isinstance(entry, kind)]


def forge(path: Path, folder: Path, change) -> None:
    """The log with every entry as `change` has it, signed anew by its member, as only that member can."""
    identity = load_identity(folder / f"{path.stem}.identity")
    tree, lines = new_tree(), []
    for entry in map(change, check_log(path).entries):
        lines.append(written_line(entry))
        tree.append_entry(lines[-1])
    size, root = tree.get_size(), tree.get_root()
    signature = identity.sign(HEAD_PURPOSE, head_bytes(tree.get_root(1), size, root))
    lines.append(written_line(Head(size=size, root=root.hex(), signature=signature.hex())))
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def test_a_run_is_in_every_members_log_and_none_can_be_rewritten(folder):
    assert play(folder) == dict.fromkeys(NAMES)
    found = logs(folder)
    model = json.loads((folder / "hub-record.json").read_text())["model_sha256"]
    (began,) = {entry.run for log in found.values() for entry in kinds(log, RunBegun)}
    for log in found.values():
        assert [entry.state for entry in kinds(log, RunOver)] == ["finished"]
        assert [entry.model for entry in kinds(log, ModelReleased)] == [model]
        assert [entry.phase for entry in kinds(log, CheckpointsSeen)] == ["opening", "closing"]
        (signed,) = kinds(log, CheckpointCountersigned)
        assert set(signed.signatures) == set(NAMES)
        assert kinds(log, RunRefused) == []
    for first, second in (("hub", "aurora"), ("hub", "borealis"), ("aurora", "borealis")):
        compared = compare_logs(found[first], found[second], began)
        assert compared.disagreements == ()
        assert compared.epochs == (0,)
        assert compared.compared > (20 if first == "hub" else 10)

    # A lie planted afterwards in one log: found offline by what the others hold, and in the next run by everybody.
    whole = (folder / "aurora.audit").read_bytes()

    def lie(entry):
        if not isinstance(entry, MessagesCounted):
            return entry
        counts = tuple(Counted(c.sender, c.receiver, c.kind, c.messages, c.bytes + 1) for c in entry.counts)
        return MessagesCounted(at=entry.at, run=entry.run, epoch=entry.epoch, counts=counts)

    forge(folder / "aurora.audit", folder, lie)
    with pytest.raises(HansaError, match="another past than the one that it holds"):
        check_log(folder / "aurora.audit")
    ended = play(folder)
    for name in ("hub", "borealis"):
        assert (ended[name].member, ended[name].rule) == ("aurora", "a member's audit log only grows")
        assert [entry.rule for entry in kinds(logs_of(folder, name), RunRefused)] == [ended[name].rule]
        assert [entry.member for entry in kinds(logs_of(folder, name), CheckpointRefused)] == ["aurora"]
    assert "aurora" in str(ended["aurora"])
    assert not json.loads((folder / "hub-record.json").read_text()).get("model_sha256")

    # The log that it had goes on.
    (folder / "aurora.audit").write_bytes(whole)
    assert play(folder) == dict.fromkeys(NAMES)
    for name in NAMES:
        assert len(kinds(logs_of(folder, name), RunOver)) == 2


def logs_of(folder: Path, name: str):
    return check_log(folder / f"{name}.audit")


def test_a_lie_that_was_told_at_once_is_found_against_the_other_end(folder):
    """A member that writes a lie in the first place shows it to all: the member at the other end knows better."""
    assert play(folder) == dict.fromkeys(NAMES)
    found = logs(folder)
    run_id = kinds(found["hub"], RunBegun)[0].run
    lies = {
        "messages": lambda e: (
            MessagesCounted(
                at=e.at,
                run=e.run,
                epoch=e.epoch,
                counts=tuple(Counted(c.sender, c.receiver, c.kind, c.messages + 1, c.bytes) for c in e.counts),
            )
            if isinstance(e, MessagesCounted)
            else e
        ),
        "plan": lambda e: (
            RunBegun(**{f: getattr(e, f) for f in e.__struct_fields__} | {"plan": "0" * 64})
            if isinstance(e, RunBegun)
            else e
        ),
        "frames": lambda e: (
            RunOver(at=e.at, run=e.run, epoch=e.epoch, state=e.state, transcript=dict.fromkeys(e.transcript, "0" * 64))
            if isinstance(e, RunOver)
            else e
        ),
        "model": lambda e: (
            ModelReleased(at=e.at, run=e.run, model="0" * 64, receivers=e.receivers)
            if isinstance(e, ModelReleased)
            else e
        ),
        "rows": lambda e: (
            RunBegun(**{f: getattr(e, f) for f in e.__struct_fields__} | {"roster": (("aurora", 1, 0),)})
            if isinstance(e, RunBegun)
            else e
        ),
    }
    for what, lie in lies.items():
        for liar in ("aurora", "hub"):
            told = dict(found)
            entries = tuple(map(lie, found[liar].entries))
            told[liar] = type(found[liar])(
                found[liar].path, liar, found[liar].identity, found[liar].name, entries, found[liar].root_of
            )
            compared = compare_logs(told["aurora"], told["hub"], run_id[:8])
            assert any(what in each.what or each.what.endswith(what) for each in compared.disagreements) or (
                what == "messages" and compared.disagreements
            ), (what, liar)


def test_the_commands_say_the_same(folder):
    assert play(folder) == dict.fromkeys(NAMES)
    members = ("--members", folder / "members.toml")
    told = hansa("audit", "verify", folder / "aurora.audit", *members)
    assert told.exit_code == 0
    assert "none altered" in told.output
    assert "countersigned by (entries): borealis" in told.output
    report = json.loads(hansa("audit", "verify", folder / "aurora.audit", *members, "--json").output)
    assert report["member"] == "aurora"
    (run_id,) = report["runs"]
    shown = hansa("audit", "show", folder / "hub.audit", "--run", run_id[:10], "--json").output.splitlines()
    assert [json.loads(line)["line"] for line in shown][-1] == "countersigned"
    table = hansa("audit", "show", folder / "hub.audit").output
    assert "logs countersigned" in table
    assert "by aurora, borealis, hub" in table
    same = hansa("audit", "compare", folder / "hub.audit", folder / "aurora.audit", "--run", run_id[:10], *members)
    assert same.exit_code == 0
    assert "they agree" in same.output

    # A log that was cut off at a head is whole in itself, and shorter than the other member holds.
    lines = (folder / "aurora.audit").read_bytes().splitlines(keepends=True)
    heads = [place for place, line in enumerate(lines) if b'"line":"head"' in line]
    (folder / "cut.audit").write_bytes(b"".join(lines[: heads[-4] + 1]))
    assert hansa("audit", "verify", folder / "cut.audit").exit_code == 0
    cut = hansa("audit", "compare", folder / "hub.audit", folder / "cut.audit", "--run", run_id[:10], "--json")
    assert cut.exit_code == 1
    assert any("as it showed it" in each["what"] for each in json.loads(cut.output)["disagreements"])

    page = folder / "run.html"
    exported = hansa(
        *("audit", "export", folder / "aurora.audit", "--run", run_id[:8]),
        *("--identity", folder / "aurora.identity", "--out", page),
    )
    assert exported.exit_code == 0
    checked = json.loads(hansa("audit", "verify", page, *members, "--json").output)
    assert (checked["member"], checked["run"], checked["pinned"]) == ("aurora", run_id, True)
    assert "the page shows them" in hansa("audit", "verify", page).output
    content = page.read_text()
    assert "<script>" not in content
    assert "logs countersigned" in content
    for old, new in {
        "run begun": "run begum",
        "60 rows": "61 rows",
        '"payload":"': '"payload":"A',
        "</h1>": "</h1> ",
    }.items():
        assert old in content
        page.write_text(content.replace(old, new, 1))
        assert hansa("audit", "verify", page).exit_code == 1, old
    page.write_text(content.split("<script")[0])
    assert "no record of a run" in hansa("audit", "verify", page).stderr
    other = hansa(
        *("audit", "export", folder / "aurora.audit", "--run", run_id[:8]),
        *("--identity", folder / "hub.identity", "--out", page),
    )
    assert "the log's member exports its runs" in other.stderr

    for fragment, arguments in {
        "holds 0 runs": ("show", folder / "hub.audit", "--run", "ffff"),
        "give two members' logs": ("compare", folder / "hub.audit", folder / "hub.audit", "--run", run_id),
        "altered or is damaged": ("verify", folder / "plan.toml"),
    }.items():
        refused = hansa("audit", *arguments)
        assert refused.exit_code == 1
        assert fragment in refused.stderr
    assert main.commands["audit"].help


def test_a_refused_run_is_in_every_log_and_countersigned(folder):
    """A policy refuses the roster: the link stands, so all show their logs once more."""
    ended = play(folder, aurora={"policy": {"least_rows_of_others": 1000}})
    assert set(ended) == set(NAMES)
    assert all(ended.values())
    for log in logs(folder).values():
        (refused,) = kinds(log, RunRefused)
        assert refused.kind in ("ProtocolError", "RunStopped")
        assert [entry.state for entry in kinds(log, RunOver)] == ["failed"]
        assert [entry.phase for entry in kinds(log, CheckpointsSeen)] == ["opening", "closing"]
        assert len(kinds(log, CheckpointCountersigned)) == 1


def test_nothing_of_a_row_or_of_a_text_stands_in_a_log(folder):
    write_table(folder / "aurora.csv", {**cells(60, 0), "load": ["SECRET-CELL"] * 60})
    ended = play(folder, all={"wait_s": 2})
    assert "SECRET-CELL" in str(ended["aurora"])
    assert b"SECRET" not in b"".join((folder / f"{name}.audit").read_bytes() for name in NAMES)
    assert kinds(logs_of(folder, "aurora"), RunRefused)[0].kind == "DataError"


@pytest.mark.slow
def test_a_coopetitive_run_is_in_every_log_end_to_end(folder):
    """Sealed messages are told by who sent them, not by who relays them."""
    (folder / "plan.toml").write_text(COOPETITIVE)
    changes = {"table": "aurora.csv", "ledger": "aurora.ledger"}
    ended = play(
        folder,
        aurora={**changes, "policy": {"allow_two_parties": True, "least_party_rows": 0}},
        borealis={
            "table": "borealis.csv",
            "ledger": "borealis.ledger",
            "model": None,
            "policy": {"allow_two_parties": True, "least_party_rows": 0},
        },
    )
    assert ended == dict.fromkeys(NAMES)
    found = logs(folder)
    run_id = kinds(found["hub"], RunBegun)[0].run
    for first, second in (("hub", "aurora"), ("aurora", "borealis"), ("hub", "borealis")):
        compared = compare_logs(found[first], found[second], run_id)
        assert compared.disagreements == ()
        assert compared.compared > 12
    relayed = [c for e in kinds(found["aurora"], MessagesCounted) for c in e.counts if c.kind == "Relay"]
    assert {c.sender for c in relayed} >= {"aurora", "borealis"}


def test_a_tally_hashes_frames_by_pair_in_order():
    one, other = FrameTally(), FrameTally()
    frames = [bytes([n]) * (n + 1) for n in range(5)]
    for frame in frames:
        one.note("a", "b", "Join", frame)
        other.note("a", "b", "Join", memoryview(frame))
    assert one.transcript() == other.transcript()
    assert one.take() == (Counted("a", "b", "Join", 5, 15),)
    assert one.take() == ()
    # Each frame behind its length: a hash that others can compute, of frames that a member kept.
    told = b"".join(len(frame).to_bytes(8, "big") + frame for frame in frames)
    assert one.transcript() == {"a>b": blake3(b"hansa frames\x00" + told).hexdigest()}
    split = FrameTally()
    for frame in [frames[0] + frames[1], *frames[2:]]:
        split.note("a", "b", "Join", frame)
    assert split.transcript() != one.transcript()
    swapped = FrameTally()
    for frame in reversed(frames):
        swapped.note("a", "b", "Join", frame)
    assert swapped.transcript() != one.transcript()


def test_a_frame_is_hashed_when_it_is_on_its_way_and_before_the_next_overwrites_it():
    """Others wait for what is sent; what was received stands where the next one comes."""
    for made, named in ((CountingChannel, False), (CountingHub, True)):
        both = Mock()
        counted = made(both.line, both.audit, "hub") if not named else made(both.line, both.audit)
        to = ("aurora",) if named else ()
        both.line.receive.return_value = ("aurora", memoryview(b"answer")) if named else memoryview(b"answer")
        both.line.send.side_effect = [None, LinkLost("gone")]
        counted.send(*to, b"asked")
        counted.receive()
        with pytest.raises(LinkLost):
            counted.send(*to, b"lost")
        other = "aurora" if named else "hub"
        steps = [each for each in both.mock_calls if each[0] != "audit.begins"]
        assert steps == [
            call.line.send(*to, b"asked"),
            call.audit.sent(other, b"asked"),
            call.audit.settle(),
            call.line.receive(None),
            call.audit.received(other, memoryview(b"answer")),
            call.line.send(*to, b"lost"),
            call.audit.sent(other, b"lost"),
        ]
        if named:
            # An epoch is in the log before anybody hears of it.
            assert both.mock_calls[:2] == [call.audit.begins("aurora", b"asked"), call.line.send("aurora", b"asked")]


def test_a_model_that_is_not_good_enough_is_withheld_from_all(folder):
    text = (folder / "plan.toml").read_text()
    condition = '[evaluation]\nfraction = 0.3\n[release]\nmetric = "logloss"\nat_most = 0.001\n'
    (folder / "plan.toml").write_text(text.replace("[parameters]", f"{condition}[parameters]"))
    ended = play(folder)
    for name, error in ended.items():
        assert isinstance(error, ModelWithheld), (name, error)
        assert error.rule == "release: logloss at most 0.001"
        record = json.loads((folder / f"{name}-record.json").read_text())
        assert record["state"] == "withheld"
        assert not record.get("model_sha256")
        log = logs_of(folder, name)
        assert [entry.state for entry in kinds(log, RunOver)] == ["withheld"]
        assert kinds(log, ModelReleased) == []
        assert kinds(log, RunRefused) == []
        assert len(kinds(log, CheckpointCountersigned)) == 1
    assert list(folder.glob("*-model.json")) == []
    assert list(folder.glob("*.state")) == []


def test_a_later_epoch_shows_the_logs_anew(folder):
    """A party stops, and comes back: logs are shown once more, and the frames of the last epoch are held to each other."""
    assert play(folder, stops="borealis") == dict.fromkeys(NAMES)
    found = logs(folder)
    (run_id,) = {entry.run for log in found.values() for entry in kinds(log, RunBegun)}
    for log in found.values():
        assert [entry.epoch for entry in kinds(log, RunBegun)] == [0, 1]
        assert [entry.state for entry in kinds(log, RunOver)][-1] == "finished"
        assert [entry.phase for entry in kinds(log, CheckpointsSeen)] == ["opening", "opening", "closing"]
    assert [entry.state for entry in kinds(found["borealis"], RunOver)] == ["interrupted", "finished"]
    compared = compare_logs(found["borealis"], found["hub"], run_id)
    assert compared.disagreements == ()
    assert compared.epochs == (0, 1)
    assert compared.compared > 25


def test_a_party_that_comes_back_for_the_end_alone_is_shown_the_aggregators_log(folder):
    """It stops when it is told the end, before it says so: the others are gone when it is told again."""
    text = (folder / "plan.toml").read_text()
    condition = '[evaluation]\nfraction = 0.3\n[release]\nmetric = "logloss"\nat_most = 0.001\n'
    (folder / "plan.toml").write_text(text.replace("[parameters]", f"{condition}[parameters]"))
    # Where aurora's last word was under way when borealis stopped, the aggregator waits for it in vain.
    ended = play(folder, stops="borealis", at=Withheld, all={"wait_s": 4})
    assert {type(error) for error in ended.values()} == {ModelWithheld}
    members = read_members(folder / "members.toml")
    own = kinds(check_log(folder / "borealis.audit", members), CheckpointsSeen)
    assert [set(entry.shown) for entry in own] == [set(NAMES), {"hub", "borealis"}]
    assert kinds(logs_of(folder, "hub"), RunOver)[-1].state == "withheld"
    assert kinds(logs_of(folder, "borealis"), RunOver)[-1].state == "withheld"
    assert not list(folder.glob("*.state"))
    assert set(play(folder, all={"policy": {}})) == set(NAMES)  # and the logs go on
    assert len(kinds(logs_of(folder, "borealis"), RunBegun)) == 2
