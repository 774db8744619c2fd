"""The hub without sockets keeps the promises of a transport, and lets a test choose the order of arrival."""

from __future__ import annotations

import itertools

import pytest

from hansa.errors import MemberLost, TransportError
from hansa.transport.channel import Traffic
from hansa.transport.in_process import InProcessHub


def counting(name: bytes, count: int):
    def handler(frame):
        for place in range(count):
            yield name + bytes(frame) + b"%d" % place

    return handler


def everything(hub: InProcessHub) -> list[tuple[str, bytes]]:
    frames = []

    def collect() -> None:
        while True:
            member, frame = hub.receive()
            frames.append((member, bytes(frame)))

    with pytest.raises(TransportError, match="deadlock"):
        collect()
    return frames


def test_round_robin_and_traffic():
    hub = InProcessHub({"a": counting(b"A", 2), "b": counting(b"B", 1)})
    hub.send("a", b"x")
    hub.send("b", b"yy")
    hub.send("a", b"z")
    assert everything(hub) == [("a", b"Ax0"), ("b", b"Byy0"), ("a", b"Ax1"), ("a", b"Az0"), ("a", b"Az1")]
    assert hub.traffic == {"a": Traffic(28, 10, 4, 2), "b": Traffic(8, 6, 1, 1)}


def test_every_order_of_arrival_can_be_asked_for():
    orders = set()
    for wish in itertools.permutations("abc"):
        rank = wish.index
        hub = InProcessHub({name: counting(name.encode(), 1) for name in "abc"}, lambda busy, r=rank: min(busy, key=r))
        for name in "abc":
            hub.send(name, b"!")
        orders.add("".join(member for member, _ in everything(hub)))
    assert len(orders) == 6


def test_each_members_frames_keep_their_order_whatever_the_order_of_members():
    hub = InProcessHub({"a": counting(b"A", 3), "b": counting(b"B", 3)}, lambda busy: busy[-1])
    for name in ("a", "b", "a"):
        hub.send(name, b"f")
    frames = everything(hub)
    assert [frame for member, frame in frames if member == "a"] == [b"Af0", b"Af1", b"Af2"] * 2
    assert [member for member, _ in frames] == ["b"] * 3 + ["a"] * 6


def test_parties_work_lazily_frame_by_frame():
    steps = []

    def handler(frame):
        for place in range(2):
            steps.append(place)
            yield b"%d" % place

    hub = InProcessHub({"a": handler})
    hub.send("a", b"go")
    assert steps == []
    hub.receive()
    assert steps == [0]


def test_parties_may_speak_first_and_may_stay_silent():
    hub = InProcessHub({"a": lambda frame: [], "b": lambda frame: [b"re:" + frame]}, opening={"a": [b"hello"]})
    hub.send("a", b"1")
    hub.send("b", b"2")
    assert everything(hub) == [("a", b"hello"), ("b", b"re:2")]
    with pytest.raises(TransportError, match="opening frames of c"):
        InProcessHub({}, opening={"c": [b"x"]})


def test_a_frame_is_copied_on_its_way_to_a_party():
    hub = InProcessHub({"a": lambda frame: [bytes(frame)]})
    buffer = bytearray(b"first")
    hub.send("a", memoryview(buffer))
    buffer[:] = b"XXXXX"
    assert bytes(hub.receive()[1]) == b"first"


def test_what_a_handler_raises_passes_through():
    def handler(frame):
        raise ZeroDivisionError("mine")
        yield b""

    hub = InProcessHub({"a": handler})
    hub.send("a", b"x")
    with pytest.raises(ZeroDivisionError, match="mine"):
        hub.receive()


@pytest.mark.parametrize("bad", [b"", b"12345"])
def test_frames_no_transport_carries_cost_the_sender_its_place(bad):
    hub = InProcessHub({"a": lambda frame: [bad], "b": lambda frame: [b"ok"]}, frame_limit=4)
    hub.send("a", b"x")
    hub.send("b", b"x")
    with pytest.raises(MemberLost, match=f"'a': announced a frame of {len(bad)} bytes") as caught:
        hub.receive()
    assert caught.value.member == "a"
    assert hub.receive()[0] == "b"
    with pytest.raises(TransportError, match="'a' is not connected"):
        hub.send("a", b"x")
    with pytest.raises(TransportError, match="cannot send"):
        hub.send("b", b"12345")


def test_dropped_members_and_closed_hubs_are_silent():
    hub = InProcessHub({"a": counting(b"A", 1), "b": counting(b"B", 1)})
    hub.send("a", b"x")
    hub.send("b", b"x")
    hub.drop("a", "left")
    assert everything(hub) == [("b", b"Bx0")]
    hub.close()
    hub.close()
    with pytest.raises(TransportError, match="not connected"):
        hub.send("b", b"x")
