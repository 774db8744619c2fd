"""A hub with a member in its own process: to whoever drives it, a member like any other."""

from __future__ import annotations

import ssl
import time
from collections import deque

import pytest

from hansa.consortium.identity import CERTIFICATE_FILE, TLS_KEY_FILE
from hansa.errors import MemberLost, TransportError
from hansa.transport.channel import Traffic
from hansa.transport.local_member import HubWithLocalMember
from hansa.transport.recording import RecordingLocalMember, read_transcript
from waiting import HANG_S


class Echo:
    """A resident that says `says` at first, and answers each frame as often as its last digit says."""

    def __init__(self, *says: bytes) -> None:
        self.says = says
        self.received: list[bytes] = []
        self.tired: list[float] = []

    def opening(self):
        yield from self.says

    def handle(self, frame):
        self.received.append(bytes(frame))
        for number in range(int(bytes(frame[-1:]))):
            yield b"%d of %b" % (number, self.received[-1])

    def waited(self, seconds):
        self.tired.append(seconds)
        yield b"tired"


class Line:
    """A hub whose members say what stands in `coming`, and that notes how long it may wait for that."""

    def __init__(self, *coming) -> None:
        self.coming = deque(coming)
        self.waits: list[float | None] = []
        self.sent: list[tuple[str, bytes]] = []
        self.closed = False
        self.traffic = {"north": Traffic(1, 2, 3, 4)}

    def send(self, member, frame):
        self.sent.append((member, bytes(frame)))

    def receive(self, timeout=None):
        self.waits.append(timeout)
        if not self.coming:
            time.sleep(min(timeout or 0, 0.1))
            raise TransportError(f"no frame from any member in {timeout} s")
        if isinstance(self.coming[0], MemberLost):
            raise self.coming.popleft()
        return self.coming.popleft()

    def drop(self, member, reason):
        self.sent.append((member, reason.encode()))

    def close(self):
        self.closed = True


def taken(hub, count):
    return [(member, bytes(frame)) for member, frame in (hub.receive(HANG_S) for _ in range(count))]


def test_it_speaks_and_hears_like_any_other_member(network, circle):
    inner = network.hub()
    local_member = Echo(b"I join")
    hub = HubWithLocalMember(inner, "hub", local_member)
    (north,) = network.connect(inner, "north")
    assert taken(hub, 1) == [("hub", b"I join")]
    north.send(b"for the resident 2")
    assert taken(hub, 1) == [("north", b"for the resident 2")]
    hub.send("hub", b"for the resident 2")
    assert taken(hub, 2) == [("hub", b"0 of for the resident 2"), ("hub", b"1 of for the resident 2")]
    hub.send("north", b"answer")
    assert bytes(north.receive(HANG_S)) == b"answer"
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)
    assert local_member.received == [b"for the resident 2"]
    # Counted as the network counts: 4 bytes of length each.
    assert hub.traffic["hub"] == Traffic(6 + 2 * 23 + 3 * 4, 18 + 4, 3, 1)
    assert hub.traffic["north"] == north.traffic


def test_nobody_takes_the_residents_session(network, circle):
    """Not even who holds the hub's own key: a hub expects others only."""
    hub = network.hub()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(circle.folder / "hub" / CERTIFICATE_FILE, circle.folder / "hub" / TLS_KEY_FILE)
    told = network.threads.submit(lambda: context.wrap_socket(network.plain(hub)).recv(1000))
    while not told.done():
        with pytest.raises(TransportError, match="no frame"):
            hub.receive(0.05)
    assert b"member 'hub' is not expected in this run" in told.result()
    assert hub.joined == frozenset()
    with pytest.raises(TransportError, match="another end uses the name 'hub' of this hub's own member"):
        HubWithLocalMember(Line(("hub", b"it is me")), "hub", Echo()).receive(HANG_S)


def test_local_member_and_network_take_turns():
    line = Line(*(("north", b"n%d" % number) for number in range(3)))
    hub = HubWithLocalMember(line, "hub", Echo(*(b"r%d" % number for number in range(5))))
    said = [frame for _, frame in taken(hub, 8)]
    assert said == [b"r0", b"n0", b"r1", b"n1", b"r2", b"n2", b"r3", b"r4"]
    # It never sleeps while the resident has something to say.
    assert set(line.waits) == {0.0}


def test_while_the_local_member_answers_nothing_is_lost_and_order_is_kept():
    line = Line(*(("north", b"n%d" % number) for number in range(4)))
    local_member = Echo()
    hub = HubWithLocalMember(line, "hub", local_member)
    hub.send("hub", b"a2")
    hub.send("hub", b"b1")
    got = []
    for _ in range(7):
        member, frame = hub.receive(HANG_S)
        got.append((member, bytes(frame)))
        if member == "north":
            hub.send("hub", b"for it: %b0" % bytes(frame))
    assert [f for m, f in got if m == "hub"] == [b"0 of a2", b"1 of a2", b"0 of b1"]
    assert [f for m, f in got if m == "north"] == [b"n0", b"n1", b"n2", b"n3"]
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0)
    assert local_member.received == [b"a2", b"b1", *(b"for it: n%d0" % number for number in range(4))]


def test_the_network_waits_where_too_much_waits_for_the_local_member():
    line = Line(("north", b"n"))
    hub = HubWithLocalMember(line, "hub", Echo(), backlog_bytes=20)
    for number in range(4):
        hub.send("hub", b"%d: ten bytes 1" % number)
    senders = [member for member, _ in taken(hub, 5)]
    assert senders == ["hub", "hub", "hub", "north", "hub"]


def test_a_loss_reaches_the_driver_once_and_the_local_member_goes_on():
    line = Line(MemberLost("north", "the connection was closed", broken=True), ("south", b"s"))
    hub = HubWithLocalMember(line, "hub", Echo(b"r0", b"r1"))
    assert taken(hub, 1) == [("hub", b"r0")]
    with pytest.raises(MemberLost, match="member 'north': the connection was closed"):
        hub.receive(HANG_S)
    assert taken(hub, 2) == [("hub", b"r1"), ("south", b"s")]


@pytest.mark.parametrize("size", [0, 101])
def test_a_frame_that_no_transport_would_carry_is_the_residents_fault(size):
    hub = HubWithLocalMember(Line(), "hub", Echo(bytes(size), b"next"), frame_limit=100)
    with pytest.raises(MemberLost, match=f"member 'hub': gave a frame of {size} bytes, expected 1 to 100"):
        hub.receive(HANG_S)
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0)
    with pytest.raises(TransportError, match="cannot send a frame of 101 bytes"):
        hub.send("hub", bytes(101))


def test_a_local_member_that_waits_in_vain_says_so_whatever_others_say(network):
    inner = network.hub()
    local_member = Echo(b"I join")
    hub = HubWithLocalMember(inner, "hub", local_member, answer_s=0.4)
    (north,) = network.connect(inner, "north")
    assert taken(hub, 1) == [("hub", b"I join")]
    started = time.monotonic()
    north.send(b"for somebody else")
    assert taken(hub, 2) == [("north", b"for somebody else"), ("hub", b"tired")]
    assert time.monotonic() - started > 0.3
    assert local_member.tired == [0.4]
    # The driver's own reconnect timeout is another one.
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)


def test_at_the_end_the_local_member_takes_the_last_word_and_no_other():
    local_member = Echo(b"r0", b"r1")
    hub = HubWithLocalMember(Line(), "hub", local_member)
    assert taken(hub, 1) == [("hub", b"r0")]
    for frame in (b"sealed message 3", b"sealed message 2", b"the end 1"):
        hub.send("hub", frame)
    hub.settle()
    assert local_member.received == [b"the end 1"]
    hub.settle()
    assert local_member.received == [b"the end 1"]


def test_others_are_dropped_and_closed_as_before():
    line = Line()
    local_member = Echo(b"r0")
    hub = HubWithLocalMember(line, "hub", local_member)
    hub.drop("north", "why")
    assert line.sent == [("north", b"why")]
    hub.drop("hub", "why")
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0)
    hub.close()
    assert line.closed


def test_a_transcript_holds_what_the_local_member_said_and_received(tmp_path):
    noted = RecordingLocalMember(Echo(b"I join"), tmp_path, "hub")
    hub = HubWithLocalMember(Line(), "hub", noted, answer_s=0.01)
    taken(hub, 1)
    hub.send("hub", b"question 1")
    taken(hub, 1)
    time.sleep(0.02)
    taken(hub, 1)
    noted.close()
    records = [(r.direction, r.member, r.frame) for r in read_transcript(tmp_path / "hub.frames")]
    assert records == [
        ("up", "hub", b"I join"),
        ("down", "hub", b"question 1"),
        ("up", "hub", b"0 of question 1"),
        ("up", "hub", b"tired"),
    ]
