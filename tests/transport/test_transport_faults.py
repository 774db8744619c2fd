"""Transports that break their promises break exactly the ones they were told to."""

from __future__ import annotations

import time

import pytest

import faults
from faults import (
    DelayingHub,
    FaultyChannel,
    FaultyHub,
    dropping,
    duplicating,
    flipping,
    replacing,
    swapping,
    truncating,
)
from hansa.errors import MemberLost, TransportError
from hansa.transport.in_process import InProcessHub
from waiting import HANG_S, Clock

SENT = [b"zero", b"one", b"two", b"three"]


@pytest.mark.parametrize(
    ("fault", "arrives"),
    [
        (dropping(1), [b"zero", b"two", b"three"]),
        (duplicating(1), [b"zero", b"one", b"one", b"two", b"three"]),
        (truncating(3, 2), [b"zero", b"one", b"two", b"th"]),
        (flipping(2, 0), [b"zero", b"one", b"uwo", b"three"]),
        (flipping(2, 13), [b"zero", b"one", b"tWo", b"three"]),
        (swapping(1), [b"zero", b"two", b"one", b"three"]),
        (replacing(0, b"other"), [b"other", b"one", b"two", b"three"]),
    ],
)
def test_each_fault_on_the_way_up(fault, arrives):
    def speaker(frame):
        yield from SENT

    hub = FaultyHub(InProcessHub({"a": speaker, "b": speaker}), receiving={"a": fault})
    hub.send("a", b"go")
    hub.send("b", b"go")
    got = {"a": [], "b": []}
    for _ in range(len(arrives) + 4):
        member, frame = hub.receive()
        got[member].append(bytes(frame))
    assert got == {"a": arrives, "b": SENT}


@pytest.mark.parametrize("make", [lambda: dropping(1), lambda: swapping(1), lambda: duplicating(0)])
def test_faults_on_the_way_down(make):
    received = []
    inner = InProcessHub({"a": lambda frame: received.append(bytes(frame)) or []})
    hub = FaultyHub(inner, sending={"a": make()})
    for frame in SENT:
        hub.send("a", frame)
    with pytest.raises(TransportError, match="deadlock"):
        hub.receive()
    fault = make()
    assert received == [each for index, frame in enumerate(SENT) for each in fault(index, frame)]
    assert hub.traffic["a"].frames_down == len(received)


class ListChannel:
    def __init__(self) -> None:
        self.sent, self.closed = [], False
        self.coming = list(SENT)

    def send(self, frame):
        self.sent.append(bytes(frame))

    def receive(self, timeout=None):
        return memoryview(self.coming.pop(0))

    def close(self):
        self.closed = True


def test_faulty_channel_both_ways():
    inner = ListChannel()
    channel = FaultyChannel(inner, sending=dropping(0), receiving=swapping(0))
    for frame in SENT:
        channel.send(frame)
    assert inner.sent == SENT[1:]
    assert [bytes(channel.receive()) for _ in SENT] == [b"one", b"zero", b"two", b"three"]
    channel.close()
    assert inner.closed


def test_a_dropped_members_waiting_frames_are_dropped():
    hub = FaultyHub(InProcessHub({"a": lambda frame: [frame]}), receiving={"a": duplicating(0)})
    hub.send("a", b"x")
    hub.receive()
    hub.drop("a", "left")
    with pytest.raises(TransportError, match="deadlock"):
        hub.receive()
    hub.close()


# Delay

DELAY = 0.06


def test_a_question_and_its_answer_take_one_round_trip_longer():
    hub = DelayingHub(InProcessHub({"a": lambda frame: [b"re:" + frame]}), DELAY)
    start = time.monotonic()
    for place in range(3):
        hub.send("a", b"%d" % place)
        assert bytes(hub.receive()[1]) == b"re:%d" % place
    assert time.monotonic() - start >= 3 * DELAY


def test_frames_that_follow_each_other_share_the_delay(monkeypatch):
    def many(frame):
        yield from (b"%d" % place for place in range(50))

    clock = Clock()
    monkeypatch.setattr(faults, "time", clock)
    hub = DelayingHub(InProcessHub({"a": many}), DELAY)
    hub.send("a", b"go")
    assert [bytes(hub.receive()[1]) for _ in range(50)] == [b"%d" % place for place in range(50)]
    # By its own account it waited for the first frame, and for no other.
    assert 0.5 * DELAY < sum(clock.slept) <= DELAY


def test_delay_keeps_copies_and_timeouts_over_tls(network):
    inner = network.hub()
    north, south = network.connect(inner, "north", "south")
    hub = DelayingHub(inner, DELAY)
    north.send(b"n" * 1000)
    south.send(b"s" * 1000)
    start = time.monotonic()
    with pytest.raises(TransportError, match=r"no frame from any member in 0 s"):
        hub.receive(0)
    got = {member: bytes(frame) for member, frame in (hub.receive(HANG_S), hub.receive(HANG_S))}
    assert got == {"north": b"n" * 1000, "south": b"s" * 1000}
    assert time.monotonic() - start >= DELAY
    hub.send("north", b"answer")
    assert bytes(north.receive(HANG_S)) == b"answer"
    assert hub.traffic["north"].frames_down == 1
    hub.close()


def test_a_loss_follows_the_frames_that_were_sent_before_it(network):
    inner = network.hub()
    (north,) = network.connect(inner, "north")
    hub = DelayingHub(inner, DELAY)
    north.send(b"last words")
    north.close()
    assert bytes(hub.receive(HANG_S)[1]) == b"last words"
    with pytest.raises(MemberLost, match="the connection was closed"):
        hub.receive(HANG_S)


def test_dropping_forgets_what_is_on_its_way():
    hub = DelayingHub(InProcessHub({"a": lambda frame: [frame, frame]}), DELAY)
    hub.send("a", b"x")
    hub.receive()
    hub.drop("a", "left")
    with pytest.raises(TransportError, match="deadlock"):
        hub.receive()


def test_no_time_machine():
    with pytest.raises(TransportError, match="not possible"):
        DelayingHub(InProcessHub({}), -1.0)
