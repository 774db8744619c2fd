"""A hub whose process plays a member too: the run is that of any hub, and what stops the member is told as any member tells it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from hansa.errors import DataError, HansaError, LinkLost, ProtocolError, TransportError
from hansa.protocol.messages import SEALED, Abort, Close, Join, Relay, Welcome, decode, encode
from hansa.roles.run import LocalMemberRole, run_hub, run_member
from hansa.roles.shared.compute_server import RoundMessage
from hansa.roles.shared.member import SharedMember
from hansa.roles.shared.relay import RelayHub
from hansa.transport.in_process import InProcessHub
from hansa.transport.local_member import HubWithLocalMember
from hansa.transport.recording import RecordingHub, RecordingLocalMember, read_transcript
from hansa.trees.xgboost_json import from_json
from made_tables import OPEN
from shares import SharedTalk, nth, shared_plan, shared_tables, signer, twisted

PLAN = shared_plan(hub="aurora")
TABLES = shared_tables()


class Joint:
    """A run whose hub's process plays the plan's `hub` too, the others in handlers.

    Attributes:
        error: what the hub's driver raised. told: what the others were told, by member.
    """

    def __init__(self, plan=PLAN, tables=TABLES, *, folder=None, answer_s=None, silent=(), twists=None) -> None:
        self.members = {
            name: SharedMember(
                plan, name, tables.get(name), nonce=bytes([i]) * 32, signer=signer(plan, name), policy=OPEN
            )
            for i, name in enumerate(plan.participants)
        }
        for name, twist in (twists or {}).items():
            twisted(self.members[name], twist)
        own, others = plan.hub, [name for name in plan.participants if name != plan.hub]
        self.told = {name: [] for name in others}
        openings = {name: [] if name in silent else self.members[name].opening() for name in others}
        inner = InProcessHub({name: self._handler(name) for name in others}, opening=openings)
        self.relay = RelayHub(plan, signer(plan, own).identities)
        role = self.members[own]
        self.seat = LocalMemberRole(role, own, lambda: self.relay.waiting_for())
        local_member = self.seat if folder is None else RecordingLocalMember(self.seat, folder, own)
        self.hub = HubWithLocalMember(inner, own, local_member, answer_s=answer_s)
        hub = self.hub if folder is None else RecordingHub(self.hub, folder, f"{own}.hub")
        self.error = None
        try:
            run_hub(self.relay, hub)
        except HansaError as error:
            self.error = error
        self.hub.settle()
        for party in inner._parties.values():
            while party.has_work():
                party.advance()
        if folder is not None:
            local_member.close()
            hub.close()

    def _handler(self, name):
        def handle(frame):
            message = decode(name, bytes(frame))
            self.told[name].append(message)
            try:
                yield from self.members[name].handle(frame)
            except HansaError as error:
                if not isinstance(message, Abort):
                    yield encode(Abort("", str(error)))

        return handle

    def assert_failed_closed(self):
        assert self.error is not None
        for name, member in self.members.items():
            assert member._session.state == "aborted", name
            assert member.model is None
            assert member._secure_channel is None or all(
                e._aead is None for e in member._secure_channel._sealers.values()
            )
        for said in self.told.values():
            assert isinstance(said[-1], Abort)
            assert said[-1].reason == str(self.error)


@pytest.mark.parametrize("hub", ["aurora", "cirrus", "dune", "reader"], ids=["S_0", "S_2", "owner", "receiver"])
def test_the_model_is_that_of_a_hub_apart(hub):
    plan = shared_plan(hub=hub, receivers=("aurora", "reader"))
    run = Joint(plan)
    assert run.error is None
    assert all(member.done for member in run.members.values())
    assert run.seat.error is None
    apart = SharedTalk(shared_plan(receivers=("aurora", "reader")), TABLES).run()
    one, other = (from_json(members["aurora"].model) for members in (run.members, apart.members))
    for tree, same in zip(one.trees, other.trees, strict=True):
        assert np.array_equal(tree.split_indices, same.split_indices)
        assert np.abs(tree.split_conditions - same.split_conditions).max() <= 3 * 2.0**-14
    assert run.members["reader"].model == run.members["aurora"].model
    # What the hub passes on it passes on for its own member as for others.
    assert run.relay.relayed == apart.hub.relayed
    assert run.hub.traffic[hub].bytes_up > run.members[hub].sealed_bytes


def test_hub_and_member_leave_a_transcript_each(tmp_path):
    run = Joint(folder=tmp_path)
    assert run.error is None
    hub, own = (list(read_transcript(tmp_path / f"{end}.frames")) for end in ("aurora.hub", "aurora"))
    assert {record.member for record in own} == {"aurora"}
    for direction in ("up", "down"):
        seen = [r.frame for r in hub if (r.direction, r.member) == (direction, "aurora")]
        assert seen == [r.frame for r in own if r.direction == direction]
        assert len(seen) > 100
    messages = [decode("x", record.frame) for record in hub]
    assert not any(isinstance(message, SEALED) for message in messages)
    assert sum(isinstance(message, Close) for message in messages) == 4
    sealed_messages = {(m.sender, m.receiver) for m in messages if isinstance(m, Relay)}
    assert {("aurora", "borealis"), ("borealis", "aurora"), ("borealis", "cirrus")} <= sealed_messages


def test_what_its_own_rows_break_is_told_to_nobody():
    plan = shared_plan(hub="aurora", objective="reg:squarederror")
    tables = shared_tables(objective="reg:squarederror")
    tables["aurora"].label[:] *= np.float32(1e-6)  # too close together for the plan's range
    run = Joint(plan, tables)
    assert isinstance(run.seat.error, DataError)
    assert "labels.range" in str(run.seat.error)
    assert str(run.error) == "member 'aurora' stopped the run: it stopped with a DataError; its own log says why"
    run.assert_failed_closed()
    assert all(said[-1].member == "aurora" for said in run.told.values())


def test_a_rule_that_another_breaks_at_the_hubs_member_is_told_by_name():
    run = Joint(twists={"borealis": nth(RoundMessage, 5, lambda said: RoundMessage(bytes(8), said.body), to="aurora")})
    assert re.search("'borealis' sent the numbers of another step", str(run.seat.error))
    assert str(run.error) == f"member 'aurora' stopped the run: {run.seat.error}"
    run.assert_failed_closed()


def test_another_members_end_is_the_hubs_members_end():
    tables = shared_tables()
    tables["dune"].features[0, 3] = np.nan
    run = Joint(PLAN, tables)
    assert re.search("member 'dune' stopped the run", str(run.error))
    assert re.search("'aurora' stopped the run because of member 'dune'", str(run.seat.error))
    run.assert_failed_closed()


def test_a_member_that_is_waited_for_in_vain_is_named():
    run = Joint(PLAN, TABLES, answer_s=1e-6, silent=("cirrus",))
    text = "no frame for member 'aurora' in 1e-06 s; waiting for cirrus"
    assert isinstance(run.seat.error, TransportError)
    assert str(run.seat.error) == text
    assert str(run.error) == f"member 'aurora' stopped the run: {text}"


class Gone:
    """A channel whose hub said something, and hung up while the member was sending."""

    def __init__(self, *said):
        self.said = list(said)

    def send(self, frame):
        raise LinkLost("the hub is gone while a frame of 9 bytes was sent")

    def receive(self, timeout=None):
        if not self.said:
            raise LinkLost("the hub is gone: the connection was closed")
        return memoryview(self.said.pop(0))


@pytest.mark.parametrize("said", [[], [encode(Welcome(b"", ()))]])
def test_a_hub_that_hung_up_in_silence_is_gone(said):
    role = SharedTalk(PLAN, TABLES).members["dune"]
    with pytest.raises(TransportError, match="the hub is gone while"):
        run_member(role, Gone(*said), 1.0)


def test_why_a_hub_hung_up_is_received_though_the_member_was_sending():
    role = SharedTalk(PLAN, TABLES).members["dune"]
    with pytest.raises(HansaError, match="'aurora' stopped the run because of member 'cirrus': it fell silent"):
        run_member(role, Gone(encode(Welcome(b"", ())), encode(Abort("cirrus", "it fell silent"))), 1.0)
    assert role._session.state == "aborted"


class Once:
    """A role that says what it is told to."""

    def __init__(self, error=None):
        self.done = False
        self.run = b""
        self._error = error

    def opening(self):
        yield encode(Join(1, b"", b"", 0, 0, b""))

    def handle(self, frame):
        yield bytes(frame)
        if self._error is not None:
            raise self._error
        self.done = True


def test_a_role_that_is_over_says_no_more():
    for error in (None, ProtocolError("member 'b' broke a rule"), DataError("row 7: 300.5")):
        seat = LocalMemberRole(Once(error), "a")
        assert len(list(seat.opening())) == 1
        said = list(seat.handle(memoryview(b"x")))
        assert said[0] == b"x"
        assert seat.error is error
        if error is not None:
            (abort,) = (decode("a", frame) for frame in said[1:])
            told = (
                str(error) if isinstance(error, ProtocolError) else "it stopped with a DataError; its own log says why"
            )
            assert abort == Abort("", told)
        assert list(seat.handle(memoryview(b"x"))) == []
        assert list(seat.waited(1.0)) == []
        assert seat.error is error


def test_a_mistake_of_the_program_is_no_word_of_the_protocol():
    """Only Hansa's own errors are told; any other ends the process."""
    seat = LocalMemberRole(Once(ZeroDivisionError("a bug")), "a")
    with pytest.raises(ZeroDivisionError):
        list(seat.handle(memoryview(b"x")))
