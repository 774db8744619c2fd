"""Members show each other their logs: one that rewrote its past is refused by every other, by name and rule."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from hansa.consortium.audit_checks import check_log, compare_logs, report_of
from hansa.consortium.audit_entries import (
    CheckpointRefused,
    CheckpointsSeen,
    Head,
    LogReplaced,
    RunBegun,
    RunRefused,
    written_line,
)
from hansa.consortium.audit_log import HEAD_PURPOSE, AuditLog, head_bytes, new_tree, now
from hansa.consortium.identity import create_identity
from hansa.consortium.members import members_of
from hansa.errors import HansaError, ProtocolError, RunStopped
from hansa.plan import parse_plan
from hansa.protocol import messages
from hansa.protocol.messages import Join, LogsCountersigned, LogsOpened, LogsShown, OpenLogs
from hansa.roles import auditing
from hansa.roles.auditing import GOES_ON, GROWS, HubLogs, LogExchange, MemberLogs, ReleasingHub
from hansa.roles.key_setup import Signer
from hansa.roles.shared.relay import Closing, RelayHub

PLAN = parse_plan("""
mode = "federated"
[members]
aggregator = "hub"
parties = ["north", "south", "west"]
[schema]
features = ["load"]
label = "fault"
""")
ON_SHARES = parse_plan("""
mode = "coopetitive"
[members]
hub = "hub"
parties = ["north", "south", "west"]
servers = ["north", "south", "west"]
receivers = ["north"]
[schema]
features = ["load"]
label = "fault"
""")
IDENTITIES = {name: create_identity(name, days=1) for name in PLAN.members}
MEMBERS = members_of([identity.card() for identity in IDENTITIES.values()])
PINNED = {name: identity.public for name, identity in IDENTITIES.items()}


class Network:
    """All members' sides of one exchange, and frames between them in turn. `change` alters what the hub sends to a member."""

    def __init__(self, logs, new_logs=None, change=lambda name, message: message):
        allowed = new_logs or {}

        def exchange(name):
            signer = Signer(IDENTITIES[name].sign, PINNED)
            return LogExchange(PLAN, name, logs[name], signer, allowed.get(name, ()), secrets.token_bytes(32))

        self.hub = HubLogs(exchange("hub"), PLAN.parties)
        self.members = {name: MemberLogs(exchange(name)) for name in PLAN.parties}
        self.errors: dict[str, HansaError] = {}
        self._change = change

    def open(self):
        self._run([(name, frame) for name in PLAN.parties for frame in self.members[name].opening()], [])
        return self.errors

    def close(self, absent=()):
        for name in self.members:
            self.members[name].ask_again()
        for name in absent:
            del self.members[name]
        down = list(self.hub.ask())
        down += self.hub.go_on_without(absent)
        self._run([], down)
        return self.errors

    def _run(self, up, down):
        while up or down:
            if up:
                name, frame = up.pop(0)
                try:
                    down += self.hub.handle(name, memoryview(frame))
                except HansaError as error:
                    self.errors.setdefault("hub", error)
                continue
            name, frame = down.pop(0)
            if name not in self.members or name in self.errors:
                continue
            message = self._change(name, messages.decode("hub", frame))
            try:
                up += [(name, each) for each in self.members[name].handle(memoryview(messages.encode(message)))]
            except HansaError as error:
                self.errors[name] = error


def entry(rule):
    return RunRefused(at=now(), run="", kind="ProtocolError", rule=rule, member="", suspects=())


@pytest.fixture
def logs(tmp_path: Path) -> dict[str, AuditLog]:
    return {name: AuditLog(tmp_path / f"{name}.audit", identity) for name, identity in IDENTITIES.items()}


def run_between(logs, rule="between"):
    """A run to its end: all logs are shown, something is written, all are shown and countersigned."""
    network = Network(logs)
    assert network.open() == {}
    for log in logs.values():
        log.append(entry(rule))
    assert network.close() == {}
    return network


def rewritten(log: AuditLog, old: str, new: str) -> AuditLog:
    """The same log with other words in its past, every signature of the member's own made anew."""
    lies = [
        replace_struct(each, rule=each.rule.replace(old, new)) if isinstance(each, RunRefused) else each
        for each in check_log(log.path).entries
    ]
    return forged(log.path, IDENTITIES["north"], lies)


def forged(path, identity, entries) -> AuditLog:
    """A log with these entries, as whoever has the member's key can write one."""
    tree = new_tree()
    lines = []
    for each in entries:
        lines.append(written_line(each))
        tree.append_entry(lines[-1])
    size, root = tree.get_size(), tree.get_root()
    signature = identity.sign(HEAD_PURPOSE, head_bytes(tree.get_root(1), size, root))
    lines.append(written_line(Head(size=size, root=root.hex(), signature=signature.hex())))
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    path.chmod(0o600)
    return AuditLog(path, identity)


def test_all_hold_all_others_at_the_end_of_a_run(logs):
    run_between(logs)
    run_between(logs)
    for name, log in logs.items():
        assert set(log.held()) == {*PLAN.members} - {name}
        report = report_of(check_log(log.path, MEMBERS), pinned=True)
        assert set(report.countersigned) == {*PLAN.members} - {name}
        for other, held in log.held().items():
            assert held.size <= logs[other].checkpoint.size
    assert logs["north"].held()["south"] == logs["west"].held()["south"]


def test_a_member_that_rewrote_its_past_is_refused_by_every_other(logs):
    run_between(logs)
    logs["north"] = rewritten(logs["north"], "between", "nothing")
    errors = Network(logs).open()
    assert set(errors) == {"hub", "south", "west"}
    for name, error in errors.items():
        assert isinstance(error, ProtocolError)
        assert (error.member, error.rule) == ("north", GROWS)
        assert "does not extend" in str(error)
        assert "hansa audit compare" in error.cure
        proof = list(logs[name].entries(CheckpointRefused))
        assert [each.member for each in proof] == ["north"]
        assert logs[name].held()["north"] == proof[0].before
        check_log(logs[name].path, MEMBERS)


def test_an_old_copy_that_was_put_back_is_refused(logs):
    before = logs["north"].path.read_bytes()
    run_between(logs)
    logs["north"].path.write_bytes(before)
    logs["north"] = AuditLog(logs["north"].path, IDENTITIES["north"])
    errors = Network(logs).open()
    assert {(error.member, error.rule) for error in errors.values()} == {("north", GROWS)}
    assert set(errors) == {"hub", "south", "west"}


def test_a_new_log_is_refused_until_each_member_allows_it(logs, tmp_path):
    run_between(logs)
    logs["north"] = AuditLog(tmp_path / "new.audit", IDENTITIES["north"])
    name = logs["north"].name.hex()
    errors = Network(logs).open()
    assert {(error.member, error.rule) for error in errors.values()} == {("north", GOES_ON)}
    assert f"add {name} to policy.new_logs" in errors["south"].cure
    errors = Network(logs, {"hub": (name,), "south": (name,)}).open()
    assert set(errors) == {"west"}
    network = Network(logs, dict.fromkeys(("hub", "south", "west"), (name,)))
    assert network.open() == {}
    assert network.close() == {}
    for other in ("hub", "south", "west"):
        assert [each.after for each in logs[other].entries(LogReplaced)][-1] == name
    assert run_between(logs).errors == {}  # from then on it is the log that they hold


def test_what_is_rewritten_while_a_run_goes_on_is_found_at_its_end(logs):
    logs["north"].append(entry("before"))
    network = Network(logs)
    assert network.open() == {}
    lying = rewritten(logs["north"], "before", "nothing")
    network.members["north"]._exchange._log = lying
    errors = network.close()
    assert {(error.member, error.rule) for name, error in errors.items() if name != "north"} == {("north", GROWS)}
    assert {"hub", "south", "west"} <= set(errors)


def test_the_hub_cannot_show_members_different_logs(logs):
    network = Network(logs)
    assert network.open() == {}

    def change(name, message):
        if isinstance(message, LogsShown) and name == "south":
            return replace_struct(message, logs={k: v for k, v in message.logs.items() if k != "west"})
        return message

    network._change = change
    errors = network.close()
    assert "countersigned other logs" in str(errors["south"])
    assert errors["north"].rule == errors["west"].rule == "all members are shown the same logs"
    assert "hub" in errors["north"].suspects


def replace_struct(struct, **changes):
    return msgspec.structs.replace(struct, **changes)


def with_checkpoint(message, name, **changes):
    logs = dict(message.logs)
    logs[name] = replace_struct(logs[name], **changes)
    return replace_struct(message, logs=logs)


@pytest.mark.parametrize(
    ("changed", "fragment"),
    [
        (lambda m: with_checkpoint(m, "west", size=99), "not signed by 'west' for this run"),
        (lambda m: with_checkpoint(m, "west", root=bytes(32)), "not signed by 'west' for this run"),
        (lambda m: with_checkpoint(m, "west", root=b""), "no checkpoint"),
        (lambda m: with_checkpoint(m, "south", size=99), "other than it stands"),
        (lambda m: replace_struct(m, logs={k: v for k, v in m.logs.items() if k != "west"}), "shows the logs of"),
    ],
    ids=["size", "root", "no root", "own", "left out"],
)
def test_what_the_hub_alters_is_refused(logs, changed, fragment):
    def change(name, message):
        return changed(message) if name == "south" and isinstance(message, LogsShown) else message

    errors = Network(logs, change=change).open()
    assert set(errors) == {"south"}
    assert fragment in str(errors["south"])
    assert not list(logs["south"].entries(CheckpointsSeen))


def test_a_hub_that_keeps_a_proof_back_does_not_make_a_member_guilty(logs):
    """It does not ask west for the proof that south needs, or cuts it out: else south would write down that west rewrote its past."""
    run_between(logs)

    def unasked(name, message):
        return replace_struct(message, sizes=()) if name == "west" and isinstance(message, LogsOpened) else message

    errors = Network(logs, change=unasked).open()
    for name in ("north", "south"):
        assert (errors[name].member, errors[name].suspects, errors[name].rule) == ("", ("hub", "west"), GROWS)
        assert not list(logs[name].entries(CheckpointRefused))

    def cut(name, message):
        return with_checkpoint(message, "west", proofs=()) if isinstance(message, LogsShown) else message

    errors = Network(logs, change=cut).open()
    for name in ("north", "south"):
        assert errors[name].suspects == ("hub", "west")
        assert "or what it extends, is not signed by 'west' for this run" in str(errors[name])


def test_a_checkpoint_of_another_run_is_not_taken(logs):
    kept = []
    first = Network(logs, change=lambda _, m: kept.append(m) or m)
    assert first.open() == {}
    old = next(m for m in kept if isinstance(m, LogsShown)).logs["west"]
    replayed = Network(
        logs,
        change=lambda name, m: (
            replace_struct(m, logs={**m.logs, "west": old}) if name == "south" and isinstance(m, LogsShown) else m
        ),
    )
    assert "not signed by 'west' for this run" in str(replayed.open()["south"])


@pytest.mark.parametrize(
    ("changes", "fragment"),
    [
        ({"nonces": {"north": bytes(32)}}, "give every member the same plan file"),
        ({"sizes": tuple(range(1, 9))}, "others hold 4 at most"),
    ],
)
def test_how_the_hub_opens_is_checked(logs, changes, fragment):
    def change(name, message):
        return replace_struct(message, **changes) if isinstance(message, LogsOpened) else message

    assert fragment in str(Network(logs, change=change).open()["north"])


def test_a_run_that_some_left_is_countersigned_by_the_others(logs):
    network = Network(logs)
    assert network.open() == {}
    assert network.close(absent=("west",)) == {}
    signed = report_of(check_log(logs["north"].path, MEMBERS), pinned=True).countersigned
    assert set(signed) == {"hub", "south"}


def without_signature(withheld, at="south"):
    """A hub that keeps a countersignature from one member."""

    def change(name, message):
        if name != at or not isinstance(message, LogsCountersigned):
            return message
        return replace_struct(message, signatures={k: v for k, v in message.signatures.items() if k != withheld})

    return change


def test_a_countersignature_that_the_hub_keeps_back_is_noticed(logs):
    """Else a member that forks its log with the hub's help would show each of two others another past at the end of every run."""
    network = Network(logs, change=without_signature("west"))
    assert network.open() == network.close() == {}
    assert network.members["south"].unsigned == ("west",)
    assert network.members["north"].unsigned == network.hub.unsigned == ()


@pytest.mark.parametrize("withheld", ["hub", "south"])
def test_the_hubs_own_countersignature_and_this_members_must_be_there(logs, withheld):
    network = Network(logs, change=without_signature(withheld))
    assert network.open() == {}
    assert f"shows no signature of {withheld}" in str(network.close()["south"])


def test_another_release_is_told_so(logs):
    for frame in (
        messages.encode(OpenLogs(7, bytes(32), {})),
        messages.encode(Join(7, bytes(32), bytes(32), 1, 0, b"")),
    ):
        with pytest.raises(ProtocolError, match="same release of Hansa") as refused:
            list(Network(logs).hub.handle("north", memoryview(frame)))
        assert refused.value.member == "north"


def test_an_abort_of_the_exchange_is_passed_on(logs):
    network = Network(logs)
    with pytest.raises(RunStopped, match="member 'north' stopped the run: no"):
        list(network.hub.handle("north", memoryview(messages.abort("", "no"))))
    with pytest.raises(RunStopped, match=r"member 'hub' stopped the run because of member 'south': no"):
        list(network.members["north"].handle(memoryview(messages.abort("south", "no"))))


def test_a_lie_about_the_past_is_found_in_either_log(logs):
    """What was rewritten before the last exchange: the other member's log holds what was shown."""
    run = "ab" * 32
    begun = RunBegun(
        at=now(), run=run, epoch=0, plan="00" * 32, mode="federated", purpose="train", hub="hub", hansa="1",
        members={}, roster=(("north", 5, 0),), proposal="", approved_by=(),
    )  # fmt: skip
    network = Network(logs)
    assert network.open() == {}
    for log in logs.values():
        log.append(begun, entry("told"))
    assert network.close() == {}
    found = compare_logs(check_log(logs["north"].path), check_log(logs["south"].path), run)
    assert found.disagreements == ()
    logs["north"] = rewritten(logs["north"], "told", "lied")
    with pytest.raises(HansaError, match="another past than the one that it holds"):
        check_log(logs["north"].path)  # its own entries still say what it showed


def test_a_log_that_is_shown_too_late_ends_no_run_that_is_over(logs):
    """A slow member's answer to an exchange that was closed without it comes while the hub waits for one that left."""
    network = Network(logs)
    assert network.open() == {}
    for member in network.members.values():
        member.ask_again()
    asked = dict(network.hub.ask())
    (late,) = network.members["north"].handle(memoryview(asked["north"]))
    list(network.hub.go_on_without(["north", "west"]))
    assert not network.hub.is_legal("north", memoryview(late))

    closing = Closing(b"run", {"west"})
    hub = ReleasingHub(closing, lambda member: pytest.fail(f"an exchange with {member}, which opened none"))
    assert list(hub.handle("north", memoryview(late))) == []
    assert not hub.done
    going_on = ReleasingHub(RelayHub(ON_SHARES, PINNED), lambda member: pytest.fail(member))
    with pytest.raises(ProtocolError, match="ShowLog"):
        list(going_on.handle("north", memoryview(late)))


def test_a_member_cannot_make_the_hubs_log_grow_without_end(logs, monkeypatch):
    """It comes back and shows its log again and again: each time the hub writes an entry."""
    monkeypatch.setattr(auditing, "MOST_RETURNS", 3)

    def exchange(name):
        signer = Signer(IDENTITIES[name].sign, PINNED)
        return LogExchange(PLAN, name, logs[name], signer, (), secrets.token_bytes(32))

    hub = ReleasingHub(SimpleNamespace(), lambda member: HubLogs(exchange("hub"), (member,)))

    def come_back():
        member = MemberLogs(exchange("north"), alone=True)
        up = list(member.opening())
        while up:
            down = [frame for each in up for _, frame in hub.handle("north", memoryview(each))]
            up = [answer for frame in down for answer in member.handle(memoryview(frame))]

    for _ in range(3):
        come_back()
    size = logs["hub"].checkpoint.size
    for _ in range(5):
        with pytest.raises(ProtocolError, match="opened its log more than 3 times"):
            come_back()
    assert logs["hub"].checkpoint.size == size
