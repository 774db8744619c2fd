"""Connections that break on real sockets: what is mended, who is let back in, and who is not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest

from cutting_line import HANDSHAKE_BYTES, Cut, CuttingLine, drawn_cuts
from hansa.errors import MemberLost, SessionRefused, TransportError
from hansa.transport import delivery, notices, resumable, tcp, tls, tls_handshakes, tls_hub, tls_links
from hansa.transport.channel import Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.delivery import (
    ACKNOWLEDGE,
    CLOSE,
    FLUSH,
    HEAD,
    HELLO,
    NOTICE,
    UNKNOWN,
    notice_signal,
    read_notice,
    read_welcome,
)
from hansa.transport.notices import Notice
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_links import HubLimits
from waiting import HANG_S, Clock, until

LIMITS = HubLimits(frame_bytes=16 * 2**20, handshake_s=HANG_S, send_s=HANG_S)
RECONNECT_TIMEOUT_S = HANG_S


class Net:
    """A hub that lasts, lines that are cut, and members; all are closed at the end."""

    def __init__(self, circle, threads) -> None:
        self.circle = circle
        self.threads = threads
        self.open: list = []

    def hub(self, reconnect_timeout_s: float = RECONNECT_TIMEOUT_S, port: int = 0, **options) -> ResumableHub:
        hub = ResumableHub.listen(
            self.circle.credentials("hub"),
            "127.0.0.1",
            port,
            limits=LIMITS,
            reconnect_timeout_s=reconnect_timeout_s,
            **options,
        )
        self.open.append(hub)
        return hub

    def line(self, hub: ResumableHub, cuts=()) -> CuttingLine:
        line = CuttingLine(hub.port, cuts)
        self.open.append(line)
        return line

    def dialling(
        self, port: int, who: str | Credentials, reconnect_timeout_s: float = RECONNECT_TIMEOUT_S, **options
    ) -> Future[ResumableChannel]:
        credentials = self.circle.credentials(who) if isinstance(who, str) else who

        def dial() -> ResumableChannel:
            options.setdefault("frame_limit", LIMITS.frame_bytes)
            channel = ResumableChannel.connect(
                credentials, "hub", "127.0.0.1", port, reconnect_timeout_s=reconnect_timeout_s, **options
            )
            self.open.append(channel)
            return channel

        return self.threads.submit(dial)

    def connect(self, hub: ResumableHub, name: str, port: int | None = None, **options) -> ResumableChannel:
        future = self.dialling(port or hub.port, name, **options)
        hub.wait_for([name], timeout=HANG_S)
        return future.result(HANG_S)

    def raw(self, hub: ResumableHub, name: str, hello: bytes) -> Future[TlsChannel]:
        """A member that greets and writes what it likes."""

        def dial() -> TlsChannel:
            channel = TlsChannel.connect(
                self.circle.credentials(name), "hub", "127.0.0.1", hub.port, hello=hello, frame_limit=2**25
            )
            self.open.append(channel)
            return channel

        return self.threads.submit(dial)

    def close(self) -> None:
        for each in reversed(self.open):
            if isinstance(each, ResumableChannel):
                each._reconnect_timeout_s = 0.0  # nobody answers any more
            if isinstance(each, ResumableHub):
                each._reconnect_timeout_s = 0.0
            each.close()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """The clock of hub and member, which goes on faster where a test says so."""
    clock = Clock()
    for module in (resumable, tls, tls_hub, tls_handshakes):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def net(circle, threads) -> Iterator[Net]:
    net = Net(circle, threads)
    yield net
    net.close()


def pump(hub: ResumableHub, future: Future, most_s: float = HANG_S) -> object:
    """Let the hub receive, which must hear nothing, until `future` is done; its result, or its error raised."""
    give_up = time.monotonic() + most_s
    while not future.done() and time.monotonic() < give_up:
        with pytest.raises(TransportError, match="no frame from any member"):
            hub.receive(0.02)
    return future.result(0)


def received(hub: ResumableHub, timeout: float = HANG_S) -> tuple[str, bytes]:
    member, frame = hub.receive(timeout)
    return member, bytes(frame)


def asked(hub: ResumableHub, channel: ResumableChannel, name: str) -> None:
    """One question and its answer pass."""
    channel.send(b"question")
    assert received(hub) == (name, b"question")
    hub.send(name, b"answer")
    assert bytes(channel.receive(HANG_S)) == b"answer"


def send_often(hub: ResumableHub, member: str, frame: bytes, times: int) -> None:
    for _ in range(times):
        hub.send(member, frame)


def pattern(size: int, start: int) -> bytes:
    return np.arange(start, start + size // 4 + 1, dtype=">u4").tobytes()[:size]


def not_a_notice(raw: TlsChannel) -> bytes:
    """The next of what came over a raw connection that is no notice of the hub."""
    while (delivery := bytes(raw.receive(HANG_S)))[HEAD.size :].startswith(NOTICE):
        pass
    return delivery


def gone(channel: ResumableChannel) -> str:
    """How a channel ends on which nothing more comes."""
    with pytest.raises(TransportError) as caught:
        channel.receive(HANG_S)
    return str(caught.value)


# What must work


@pytest.mark.parametrize("seed", range(8))
def test_frames_arrive_once_in_order_whole_however_often_the_line_is_cut(net, seed):
    """Cuts at drawn bytes, inside handshakes, heads and frames, in both directions; both ends send without waiting."""
    hub = net.hub()
    draw = np.random.Generator(np.random.PCG64(seed))
    line = net.line(hub, drawn_cuts(seed, 12, 60_000))
    north = net.connect(hub, "north", line.port)
    sizes = [int(size) for size in np.exp(draw.uniform(0, np.log(200_000), 60))]
    frames = [pattern(size, place) for place, size in enumerate(sizes)]

    def talk() -> list[bytes]:
        got = []
        for frame in frames:
            north.send(frame)
            got.append(bytes(north.receive()))
            got.append(bytes(north.receive()))
        return got

    talking = net.threads.submit(talk)
    for place, frame in enumerate(frames):
        assert received(hub) == ("north", frame)
        hub.send("north", frame[::-1])
        hub.send("north", b"%d" % place)
    while not talking.done():
        with contextlib.suppress(TransportError):
            hub.receive(0.02)
    expected = [each for place, frame in enumerate(frames) for each in (frame[::-1], b"%d" % place)]
    assert talking.result() == expected
    assert line.cuts >= 5
    assert hub.reconnections
    assert north.reconnections
    up, down = (sum(map(len, each)) + 4 * len(each) for each in (frames, expected))
    assert hub.traffic["north"] == north.traffic == Traffic(up, down, len(frames), len(expected))


def test_others_are_served_while_one_is_away_and_what_it_missed_waits(net):
    hub = net.hub()
    line = net.line(hub)
    north, south = net.connect(hub, "north", line.port), net.connect(hub, "south")
    asked(hub, north, "north")
    line.down = True
    line.sever()
    for _ in range(20):
        asked(hub, south, "south")
        hub.send("north", b"meanwhile")
    line.down = False
    reading = net.threads.submit(lambda: [bytes(north.receive(HANG_S)) for _ in range(20)])
    assert pump(hub, reading) == [b"meanwhile"] * 20
    asked(hub, north, "north")


def test_a_member_whose_line_died_in_silence_takes_its_session_back(net):
    """The hub has not noticed: to it the old connection still stands open."""
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    line.abandon()
    sending = net.threads.submit(lambda: (north.send(b"x"), north.send(b"y"), bytes(north.receive(HANG_S)))[2])
    assert [received(hub), received(hub)] == [("north", b"x"), ("north", b"y")]
    hub.send("north", b"z")
    assert pump(hub, sending) == b"z"
    assert line.connections == 2


def test_the_last_frame_before_leaving_is_received_though_the_line_breaks(net):
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")

    def leave() -> None:
        line.down = True
        line.sever()
        line.down = False
        north.send(b"last words")
        north.close()

    leaving = net.threads.submit(leave)
    assert received(hub) == ("north", b"last words")
    with pytest.raises(MemberLost, match="'north': the connection was closed"):
        hub.receive(HANG_S)
    leaving.result(HANG_S)


def test_what_a_send_that_failed_found_comes_before_what_the_member_says_when_it_is_back(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    for word in (b"1", b"2"):
        north.send(word)
    unread = tuple(bytes(hub._inner.receive(HANG_S)[1]) for _ in range(2))  # as `_lost_sending` reads it
    hub._note(hub._sessions["north"], MemberLost("north", "the line broke", broken=True, unread=unread))
    north.send(b"3")
    assert [received(hub) for _ in range(3)] == [("north", b"1"), ("north", b"2"), ("north", b"3")]


def test_last_words_that_ask_for_an_answer_get_none_on_a_line_that_is_gone(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    asking = north._delivery.signal(FLUSH)
    hub._inner.drop("north", "the line broke")
    hub._cut(MemberLost("north", "the line broke", broken=True, unread=(asking,)))
    assert not hub._sessions["north"].linked
    assert "north" in hub._away


def test_who_left_is_lost_to_whoever_sends_to_it(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    north.close()
    with pytest.raises(MemberLost, match="'north': the connection was closed"):
        hub.receive(HANG_S)
    with pytest.raises(MemberLost, match="'north': it is not connected any more"):
        hub.send("north", b"x")


def test_a_member_that_is_leaving_does_not_wait_for_a_hub_that_is_gone(net):
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port, reconnect_timeout_s=3600)
    asked(hub, north, "north")
    north.leave_within(0.2)
    line.down = True
    line.sever()
    assert "could not be reached again" in gone(north)


def test_the_hubs_last_frame_is_received_though_the_line_breaks(net):
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    line.sever()
    hub.send("north", b"last words")
    reading = net.threads.submit(lambda: (bytes(north.receive(HANG_S)), gone(north)))
    hub.close()
    assert reading.result(HANG_S) == (b"last words", "the hub is gone: it ended the connection")


def test_a_view_that_changes_after_it_was_sent_is_sent_again_as_it_was(net):
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    line.down = True
    line.sever()
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0.05)
    buffer = bytearray(b"as it was")
    hub.send("north", memoryview(buffer))
    buffer[:] = b"otherwise"
    line.down = False
    assert pump(hub, net.threads.submit(lambda: bytes(north.receive(HANG_S)))) == b"as it was"


def test_a_frame_in_hand_stays_as_it_is_while_the_answer_meets_a_broken_line(net):
    """The member still reads the first frame while it sends; what comes after is saved from the broken connection."""
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    for place in range(3):
        hub.send("north", pattern(20_000, 1000 * place))
    first = north.receive(HANG_S)
    hub._inner._links.by_member["north"].stream._plain.shutdown(socket.SHUT_WR)
    until(lambda: tls_links._is_over(north._link._stream), "the end of the line")
    answering = net.threads.submit(north.send, b"answer")
    while not answering.done():
        with contextlib.suppress(TransportError):
            assert received(hub, 0.05) == ("north", b"answer")
    assert north.reconnections == 1
    assert len(north._deferred) == 2
    assert first == pattern(20_000, 0)
    assert [bytes(north.receive(HANG_S)) for _ in range(2)] == [pattern(20_000, 1000), pattern(20_000, 2000)]


@pytest.mark.parametrize("end", ["hub", "member"])
def test_a_frame_in_hand_stays_as_it_is_while_an_end_waits_for_room(net, monkeypatch, end):
    monkeypatch.setattr(resumable, "KEPT_BYTES", 1_000_000)
    hub = net.hub()
    north = net.connect(hub, "north")
    here, there = (hub, north) if end == "hub" else (north, hub)

    def say(who, frame: bytes) -> None:
        who.send("north", frame) if who is hub else who.send(frame)

    def take(who):
        return who.receive(HANG_S)[1] if who is hub else who.receive(HANG_S)

    for place in range(3):
        say(there, pattern(20_000, 1000 * place))
    if end == "member":
        with contextlib.suppress(TransportError):
            hub.receive(0.05)
    first = take(here)

    def answer() -> list[bytes]:
        return [bytes(take(there)) for _ in range(3)]

    def speak() -> None:
        for place in range(3):
            say(here, pattern(600_000, place))

    if end == "hub":
        answering = net.threads.submit(answer)
        speak()
        with contextlib.suppress(TransportError):
            hub.receive(0.05) if not hub._deferred else None
        frames = answering.result(HANG_S)
    else:
        speaking = net.threads.submit(speak)
        frames = answer()
        speaking.result(HANG_S)
    assert frames == [pattern(600_000, place) for place in range(3)]
    assert first == pattern(20_000, 0)
    assert here._deferred, "nothing came while it waited for room"
    assert [bytes(take(here)) for _ in range(2)] == [pattern(20_000, 1000), pattern(20_000, 2000)]


def test_one_who_floods_a_hub_that_waits_for_room_is_dropped_by_name(net, monkeypatch):
    """North acknowledges nothing; while the hub waits for that, south sends and sends."""
    monkeypatch.setattr(resumable, "KEPT_BYTES", 3_000_000)
    hub = net.hub()
    south = net.connect(hub, "south")
    admitted_raw(net, hub)
    flood = net.threads.submit(lambda: [south.send(bytes(500_000)) for _ in range(20)])
    with pytest.raises(MemberLost, match="'south': sent more than 3000000 bytes that nobody asked for"):
        send_often(hub, "north", bytes(500_000), 10)
    with pytest.raises(TransportError, match="the hub is gone"):
        pump(hub, flood)


def test_a_hub_that_floods_a_member_that_waits_for_room_is_left(net, monkeypatch):
    monkeypatch.setattr(resumable, "KEPT_BYTES", 2_000_000)
    hub = net.hub()
    north = net.connect(hub, "north")
    monkeypatch.setattr(resumable, "KEPT_BYTES", 2**30)
    for _ in range(10):
        hub.send("north", bytes(500_000))
    for _ in range(5):
        net.threads.submit(north.send, bytes(500_000)).result(HANG_S)
    monkeypatch.setattr(resumable, "KEPT_BYTES", 2_000_000)
    sending = net.threads.submit(north.send, b"x")
    with pytest.raises(TransportError, match="it sent more than 2000000 bytes that nobody asked for"):
        sending.result(HANG_S)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_is_kept_has_a_limit_though_all_goes_one_way(net, monkeypatch, direction):
    """50 MB without an answer; each end keeps little more than the limit, and nothing is lost."""
    for module in (delivery, resumable):
        monkeypatch.setattr(module, "KEPT_BYTES", 4_000_000)
    monkeypatch.setattr(delivery, "ACKNOWLEDGE_BYTES", 1_000_000)
    hub = net.hub()
    line = net.line(hub, [Cut(direction, at, at % 2 == 1) for at in (1_500_001, 700_000, 9_000_003)])
    north = net.connect(hub, "north", line.port)
    frames = [pattern(1_000_000, place) for place in range(50)]
    most = 0
    if direction == "up":

        def say() -> int:
            most = 0
            for frame in frames:
                north.send(frame)
                most = max(most, north._delivery.kept_bytes)
            north.close()
            return most

        saying = net.threads.submit(say)
        assert [received(hub) for _ in frames] == [("north", frame) for frame in frames]
        with pytest.raises(MemberLost, match=r"the connection was closed|reset by peer"):
            hub.receive(HANG_S)
        most = saying.result(HANG_S)
    else:
        listening = net.threads.submit(lambda: [bytes(north.receive(HANG_S)) for _ in frames])
        for frame in frames:
            hub.send("north", frame)
            most = max(most, hub._sessions["north"].delivery.kept_bytes)
        assert pump(hub, listening) == frames
    assert line.cuts == 3
    assert 0 < most <= 6_000_000


# Reconnect timeout


def test_a_member_that_stays_away_is_lost_by_name_once_and_may_not_come_back(net, clock):
    hub = net.hub()
    line = net.line(hub)
    north, south = net.connect(hub, "north", line.port, reconnect_timeout_s=10 * HANG_S), net.connect(hub, "south")
    asked(hub, north, "north")
    line.down = True
    line.sever()

    def say_late() -> None:
        north.send(b"a late masked vector")  # which may leave before the loss is seen here
        north.receive(HANG_S)

    late = net.threads.submit(say_late)
    while "north" not in hub._away:  # it is the hub's own loss that the reconnect timeout begins with
        with pytest.raises(TransportError, match="no frame from any member"):
            hub.receive(0.05)
    clock.forward(RECONNECT_TIMEOUT_S)
    with pytest.raises(MemberLost, match=rf"'north': .*; it did not come back in {RECONNECT_TIMEOUT_S:g} s") as lost:
        hub.receive(HANG_S)
    assert lost.value.member == "north"
    hub.send("south", b"we go on")
    with pytest.raises(MemberLost, match="'north': it is not connected any more"):
        hub.send("north", b"x")
    line.down = False
    with pytest.raises(TransportError, match=r"the hub is gone: .*came back too late; start a new run"):
        pump(hub, late)
    asked_south = net.threads.submit(south.receive, HANG_S)
    assert pump(hub, asked_south) == b"we go on"


def test_a_member_gives_up_when_its_reconnect_timeout_is_over_and_not_before(net, clock):
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    line.down = True
    line.sever()
    waiting = net.threads.submit(north.receive)
    until(lambda: len(clock.slept) > 1, "a second try")
    assert not waiting.done()
    clock.forward(RECONNECT_TIMEOUT_S)
    with pytest.raises(
        TransportError, match=rf"the hub is gone: .*could not be reached again in {RECONNECT_TIMEOUT_S:g} s"
    ):
        waiting.result(HANG_S)
    with pytest.raises(TransportError, match="closed; connect anew"):
        north.send(b"x")


def test_without_reconnect_timeout_a_lost_connection_is_the_end_and_nobody_dials_again(net, clock):
    hub = net.hub(reconnect_timeout_s=0)
    line = net.line(hub)
    north = net.connect(hub, "north", line.port, reconnect_timeout_s=0)
    asked(hub, north, "north")
    line.sever()
    with pytest.raises(MemberLost, match="'north'"):
        hub.receive(HANG_S)
    with pytest.raises(TransportError, match="the hub is gone"):
        north.receive(HANG_S)
    assert (line.connections, clock.slept) == (1, [])


def test_losses_without_a_word_between_them_share_one_reconnect_timeout(net, clock):
    """One who lets a member in and cuts it off again and again delays a run for the reconnect timeout, and no longer."""
    hub = net.hub()
    line = net.line(hub, [Cut("up", HANDSHAKE_BYTES, place % 2 == 0) for place in range(10_000)])
    future = net.dialling(line.port, "north")
    hub.wait_for(["north"], HANG_S)
    north = future.result(HANG_S)
    sending = net.threads.submit(lambda: [north.send(bytes(100_000)), north.receive()])
    # No connection lasts as long as the reconnect timeout: all these losses are one.
    for reconnections in (3, 5, 7):
        while hub.reconnections < reconnections:
            with pytest.raises(TransportError, match="no frame from any member"):
                hub.receive(0.02)
        clock.forward(0.4 * RECONNECT_TIMEOUT_S)
    with pytest.raises(MemberLost, match="it did not come back"):
        hub.receive(HANG_S)
    with pytest.raises(TransportError, match="the hub is gone"):
        pump(hub, sending)


def test_a_close_is_a_loss_at_once(net):
    hub = net.hub(reconnect_timeout_s=10 * HANG_S)
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    net.threads.submit(north.close)
    with pytest.raises(MemberLost, match=r"'north': the connection was closed$"):
        hub.receive(HANG_S)
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)


def test_a_dropped_member_hears_that_it_is_over_and_does_not_come_back(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    hub.drop("north", "broke a rule")
    with pytest.raises(TransportError, match="the hub is gone: it ended the connection"):
        north.receive(HANG_S)
    with pytest.raises(SessionRefused, match="has left this run"):
        pump(hub, net.dialling(hub.port, "north"))


# Who may have the seat


def cut_off(net: Net, hub: ResumableHub) -> tuple[CuttingLine, ResumableChannel]:
    """North has spoken, and its line is down."""
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    line.down = True
    line.sever()
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0.05)
    return line, north


def comes_back(net: Net, hub: ResumableHub, line: CuttingLine, north: ResumableChannel) -> None:
    line.down = False
    assert received_by(net, hub, north) == b"welcome back"


def received_by(net: Net, hub: ResumableHub, north: ResumableChannel) -> bytes:
    hub.send("north", b"welcome back")
    return pump(hub, net.threads.submit(lambda: bytes(north.receive(HANG_S))))


def test_an_impostor_with_another_certificate_gets_no_session(net, tmp_path):
    hub = net.hub()
    line, north = cut_off(net, hub)
    with pytest.raises(TransportError, match="does not know this member's certificate"):
        pump(hub, net.dialling(hub.port, net.circle.outsider("north", tmp_path / "impostor")))
    comes_back(net, hub, line, north)


def test_another_member_does_not_get_the_session_with_the_session(net):
    """South has stolen north's session, but not its key: to the hub it is south, who never spoke."""
    hub = net.hub()
    line, north = cut_off(net, hub)
    hello = HELLO.pack(north._token, north._hub_session, north._delivery.received)
    with pytest.raises(SessionRefused, match="'south'"):
        pump(hub, net.raw(hub, "south", hello))
    comes_back(net, hub, line, north)


@pytest.mark.parametrize("away", [False, True])
def test_a_second_process_of_a_member_does_not_get_the_session(net, away):
    hub = net.hub()
    line, north = cut_off(net, hub)
    if not away:
        comes_back(net, hub, line, north)
    with pytest.raises(SessionRefused, match=r"'north' has a session by another process: .*lost its state"):
        pump(hub, net.dialling(hub.port, "north"))
    line.down = False
    assert received_by(net, hub, north) == b"welcome back"


def test_a_process_that_ended_before_anything_was_said_may_be_started_again(net):
    hub = net.hub()
    line = net.line(hub)
    net.connect(hub, "north", line.port)
    line.sever()
    until(lambda: tls_links._is_over(hub._inner._links.by_member["north"].stream), "the end of the line")
    again = net.dialling(hub.port, "north")
    while not again.done():
        with contextlib.suppress(TransportError):
            hub.wait_for(["south"], timeout=0.05)
    asked(hub, again.result(HANG_S), "north")


def test_while_the_first_process_lives_a_second_is_refused_though_nothing_was_said(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    with pytest.raises(SessionRefused, match="stop it"):
        pump(hub, net.dialling(hub.port, "north"))
    asked(hub, north, "north")


def test_a_hub_that_was_started_again_is_refused_by_name(net):
    hub = net.hub()
    line, north = cut_off(net, hub)
    port = hub.port
    hub._reconnect_timeout_s = 0.0
    hub.close()
    another = net.hub(port=port)
    line.down = False
    with pytest.raises(TransportError, match=r"the hub is gone: .*another process of this hub, which lost its state"):
        pump(another, net.threads.submit(north.receive))


def test_a_false_hub_process_that_lets_everybody_in_is_refused_by_the_member(net, monkeypatch):
    hub = net.hub()
    line, north = cut_off(net, hub)
    monkeypatch.setattr(hub, "admitted", lambda *_: None)
    monkeypatch.setattr(hub, "admit", lambda *_: delivery.WELCOME.pack(b"another process.", 1))
    line.down = False
    with pytest.raises(TransportError, match="another process answers, which lost the state of this run"):
        pump(hub, net.threads.submit(north.receive))


@pytest.mark.parametrize("rewound", [0, 2])
def test_a_hub_that_rewinds_gets_nothing_again(net, monkeypatch, rewound):
    """Its greeting claims to have received less than it acknowledged, or what was never sent."""
    hub = net.hub()
    line, north = cut_off(net, hub)
    assert (north._delivery.sent, north._delivery.acknowledged) == (1, 1)
    monkeypatch.setattr(hub, "admit", lambda *_: delivery.WELCOME.pack(hub._token, rewound))
    line.down = False
    with pytest.raises(TransportError, match=f"the hub is gone: .*received {rewound} frames; it acknowledged 1 of 1"):
        pump(hub, net.threads.submit(north.receive))


@pytest.mark.parametrize(
    ("received", "text"),
    [(0, "says it has received 0 frames; it acknowledged 1 of 2"), (3, "says it has received 3 frames")],
)
def test_a_member_that_rewinds_is_refused(net, received, text):
    hub = net.hub()
    line, north = cut_off(net, hub)
    hub.send("north", b"for north")
    hub._sessions["north"].delivery.take(memoryview(HEAD.pack(0, 1) + ACKNOWLEDGE))
    with pytest.raises(SessionRefused, match=text):
        pump(hub, net.raw(hub, "north", HELLO.pack(north._token, north._hub_session, received)))
    line.down = False
    assert pump(hub, net.threads.submit(lambda: bytes(north.receive(HANG_S)))) == b"for north"


@pytest.mark.parametrize(
    "hello", [b"x", bytes(35), HELLO.pack(b"s" * 16, UNKNOWN, 5), HELLO.pack(b"s" * 16, b"h" * 16, 0)]
)
def test_a_greeting_that_cannot_be_true_is_refused(net, hello):
    hub = net.hub()
    with pytest.raises(SessionRefused, match="refused this member: member 'north'"):
        pump(hub, net.raw(hub, "north", hello))
    assert hub.joined == frozenset()
    assert hub.rejected == 1
    asked(hub, net.connect(hub, "north"), "north")


def test_a_member_that_never_greets_is_hung_up_on(net, clock):
    hub = net.hub()
    credentials = net.circle.credentials("north")
    silent = net.threads.submit(TlsChannel.connect, credentials, "hub", "127.0.0.1", hub.port, timeout_s=10 * HANG_S)
    south = net.connect(hub, "south")
    asked(hub, south, "south")
    while not hub._inner._handshakes.pending:
        with pytest.raises(TransportError, match="no frame from any member"):
            hub.receive(0.05)
    clock.forward(LIMITS.handshake_s)
    with pytest.raises(TransportError, match=r"no welcome|hung up"):
        pump(hub, silent)
    assert hub.joined == {"south"}


def test_bytes_of_an_earlier_connection_are_worth_nothing(net):
    """Somebody on the line replays all that north said over TLS, handshake and all."""
    hub = net.hub()
    line = net.line(hub)
    north = net.connect(hub, "north", line.port)
    asked(hub, north, "north")
    before = hub.rejected
    replay = socket.create_connection(("127.0.0.1", hub.port))
    replay.sendall(bytes(line.upward[0]))
    give_up = time.monotonic() + HANG_S
    while hub.rejected == before and time.monotonic() < give_up:
        with pytest.raises(TransportError, match="no frame from any member"):
            hub.receive(0.05)
    replay.close()
    assert hub.rejected == before + 1
    asked(hub, north, "north")


# Old and future frames inside a session


def admitted_raw(
    net: Net, hub: ResumableHub, token: bytes = b"s" * 16, known: bytes = UNKNOWN, received: int = 0
) -> TlsChannel:
    return pump(hub, net.raw(hub, "north", HELLO.pack(token, known, received)))


def test_frames_replayed_inside_a_session_are_dropped_and_late_ones_refused(net):
    hub = net.hub()
    south = net.connect(hub, "south")
    north = admitted_raw(net, hub)
    north.send(b"first", HEAD.pack(1, 0))
    assert received(hub) == ("north", b"first")
    north.send(b"first", HEAD.pack(1, 0))
    north.send(b"first, and other bytes", HEAD.pack(1, 0))
    north.send(b"second", HEAD.pack(2, 0))
    assert received(hub) == ("north", b"second")
    assert hub._sessions["north"].delivery.repeated == 2
    north.send(b"a frame was left out", HEAD.pack(4, 0))
    with pytest.raises(MemberLost, match="'north': frame 4 came, expected frame 3"):
        hub.receive(HANG_S)
    asked(hub, south, "south")
    token, _ = read_welcome(north.greeting)
    with pytest.raises(SessionRefused, match="has left this run"):
        admitted_raw(net, hub, known=token)


@pytest.mark.parametrize(
    "sent", [HEAD.pack(1, 0), b"x", HEAD.pack(0, 0) + b"?", HEAD.pack(1, 9) + b"x", HEAD.pack(2**32 - 1, 0) + b"x"]
)
def test_frames_that_break_the_rules_end_a_member_at_once(net, sent):
    hub = net.hub()
    south = net.connect(hub, "south")
    north = admitted_raw(net, hub)
    north.send(sent)
    with pytest.raises(MemberLost, match="'north'"):
        hub.receive(HANG_S)
    asked(hub, south, "south")


def test_a_hub_that_breaks_the_rules_ends_the_member_at_once(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    asked(hub, north, "north")
    hub._inner.send("north", b"out of order", HEAD.pack(7, 1))
    with pytest.raises(
        TransportError, match="the hub is gone: it broke a rule of the connection: frame 7 came, expected frame 2"
    ):
        north.receive(HANG_S)
    assert north.reconnections == 0


def test_a_frame_over_the_limit_ends_a_member_at_once(net):
    hub = net.hub()
    north = admitted_raw(net, hub)
    net.threads.submit(north.send, bytes(LIMITS.frame_bytes + 1), HEAD.pack(1, 0))
    with pytest.raises(MemberLost, match="announced a frame of 16777225 bytes, expected 1 to 16777224"):
        hub.receive(HANG_S)


def test_signals_are_answered_and_never_handed_over(net):
    hub = net.hub()
    north = admitted_raw(net, hub)
    north.send(b"first", HEAD.pack(1, 0))
    assert received(hub) == ("north", b"first")
    north.send(HEAD.pack(0, 0) + ACKNOWLEDGE)
    north.send(HEAD.pack(0, 0) + FLUSH)
    assert pump(hub, net.threads.submit(lambda: not_a_notice(north))) == HEAD.pack(0, 1) + ACKNOWLEDGE
    north.send(HEAD.pack(0, 0) + CLOSE)
    with pytest.raises(MemberLost, match="the connection was closed"):
        hub.receive(HANG_S)


def test_frames_that_cannot_be_sent_are_refused_at_home(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    for frame in (b"", bytes(LIMITS.frame_bytes + 1)):
        for send in (north.send, lambda f: hub.send("north", f)):
            with pytest.raises(TransportError, match="cannot send a frame of"):
                send(frame)
    largest = bytes(LIMITS.frame_bytes)
    sending = net.threads.submit(north.send, largest)
    assert received(hub) == ("north", largest)
    sending.result(HANG_S)
    asked(hub, north, "north")


def test_waiting_may_end_and_go_on(net):
    hub = net.hub()
    north = net.connect(hub, "north")
    with pytest.raises(TransportError, match=r"no frame from the hub in 0\.05 s"):
        north.receive(0.05)
    with pytest.raises(TransportError, match=r"no frame from any member in 0\.05 s"):
        hub.receive(0.05)
    asked(hub, north, "north")


# Who is waited for


def kinds(told: list[Notice], *wanted: str) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(each.kind, each.member, each.waiting_for) for each in told if not wanted or each.kind in wanted]


def test_every_member_hears_who_joins_and_who_is_waited_for(net, monkeypatch):
    monkeypatch.setattr(notices, "EVERY_S", 0.5)
    monkeypatch.setattr(resumable, "LOOK_S", 0.1)
    at_hub, at_north = [], []
    hub = net.hub(notify=at_hub.append, owed=lambda: ["south"])
    waiting = net.threads.submit(hub.wait_for, ["north", "south"], 20)
    north = net.dialling(hub.port, "north", notify=at_north.append).result(HANG_S)
    listening = net.threads.submit(lambda: bytes(north.receive(HANG_S)))
    await_notice(at_north, "waiting")
    south = net.dialling(hub.port, "south").result(HANG_S)
    waiting.result(HANG_S)
    hub.send("north", b"all are here")
    assert listening.result(HANG_S) == b"all are here"
    joins = [("joined", "north", ("south",)), ("joined", "south", ())]
    delivery = [each for each in at_north if each.text == "says the hub"]
    assert kinds(at_hub, "joined") == kinds(delivery, "joined") == joins
    # On a busy machine the hub tells of a wait for both before north is there, and north of one for the hub between two words of it.
    slow = {("waiting", "", ("north", "south"))}
    assert set(kinds(at_hub, "waiting")) - slow == set(kinds(delivery, "waiting")) == {("waiting", "", ("south",))}
    assert all(each.limit_s == 20 and each.seconds > 0 for each in at_hub if each.kind == "waiting")
    assert set(kinds([each for each in at_north if each not in delivery])) <= {("waiting", "", ("hub",))}
    at_hub.clear()
    listening = net.threads.submit(lambda: bytes(north.receive(HANG_S)))
    hearing = net.threads.submit(hub.receive, 20)
    await_notice(at_hub, "waiting")
    south.send(b"here")
    assert bytes(hearing.result(HANG_S)[1]) == b"here"
    hub.send("north", b"go on")
    assert listening.result(HANG_S) == b"go on"
    assert kinds(at_hub)[0] == ("waiting", "", ("south",))


def test_a_hub_waits_without_a_limit_where_none_is_given(net, monkeypatch):
    monkeypatch.setattr(resumable, "LOOK_S", 0.02)
    hub = net.hub()
    waiting = net.threads.submit(hub.wait_for, ["north"])
    time.sleep(0.2)
    assert not waiting.done()
    net.dialling(hub.port, "north").result(HANG_S)
    waiting.result(HANG_S)
    with pytest.raises(
        TransportError, match=r"not connected after 0\.1 s: south .0 connections of others were refused"
    ):
        hub.wait_for(["north", "south"], 0.1)
    with pytest.raises(TransportError, match="the hub does not expect nobody"):
        hub.wait_for(["nobody"], 20)
    hub.close()
    with pytest.raises(TransportError, match="this hub is closed"):
        hub.wait_for(["north", "south"])


def test_every_member_hears_who_is_away_and_who_is_back(net, monkeypatch):
    monkeypatch.setattr(resumable, "EVERY_S", 0.2)
    monkeypatch.setattr(resumable, "LOOK_S", 0.1)
    at_hub, at_north, at_south = [], [], []
    hub = net.hub(notify=at_hub.append)
    line = net.line(hub)
    north = net.connect(hub, "north", line.port, notify=at_north.append)
    south = net.connect(hub, "south", notify=at_south.append)
    asked(hub, north, "north")
    line.down = True
    line.sever()
    listening = net.threads.submit(lambda: (bytes(north.receive(20)), bytes(south.receive(20))))
    receive_until(hub, at_hub, "away", 3)
    line.down = False
    receive_until(hub, at_hub, "back")
    hub.send("north", b"go on")
    hub.send("south", b"go on")
    assert pump(hub, listening, 20) == (b"go on", b"go on")
    assert set(kinds(at_hub, "away")) == set(kinds(at_south, "away")) == {("away", "north", ("north",))}
    assert kinds(at_hub, "back") == kinds(at_south, "back") == [("back", "north", ())]
    assert all(each.limit_s == RECONNECT_TIMEOUT_S for each in at_south if each.kind == "away")
    assert set(kinds(at_north, "away")) == {("away", "hub", ("hub",))}
    assert kinds(at_north, "back") == [("back", "hub", ())]


def test_every_member_hears_who_left_and_who_is_lost(net):
    at_hub, at_south = [], []
    hub = net.hub(reconnect_timeout_s=1.0, notify=at_hub.append)
    line = net.line(hub)
    net.connect(hub, "north", line.port, reconnect_timeout_s=0.0)
    south, east = net.connect(hub, "south", notify=at_south.append), net.connect(hub, "east")
    line.down = True
    line.sever()
    with pytest.raises(MemberLost, match="'north'"):
        hub.receive(20)
    net.threads.submit(east.close).result(HANG_S)
    with pytest.raises(MemberLost, match="'east'"):
        hub.receive(20)
    hub.send("south", b"we two")
    assert bytes(south.receive(HANG_S)) == b"we two"
    for told in (at_hub, at_south):
        assert kinds(told, "lost", "left") == [("lost", "north", ()), ("left", "east", ())]


def test_a_member_says_that_it_waits_for_the_hub_where_the_hub_says_nothing(net, monkeypatch):
    monkeypatch.setattr(notices, "EVERY_S", 0.3)
    monkeypatch.setattr(resumable, "LOOK_S", 0.1)
    told = []
    hub = net.hub()
    north = net.connect(hub, "north", notify=told.append)
    with pytest.raises(TransportError, match="no frame from the hub in 1 s"):
        north.receive(1)
    assert set(kinds(told, "waiting")) == {("waiting", "", ("hub",))}
    assert {each.limit_s for each in told if each.kind == "waiting"} == {1}


def test_a_member_that_nobody_hears_yet_says_whom_it_dials(net, circle, monkeypatch):
    monkeypatch.setattr(tcp, "EVERY_S", 0.2)
    told = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(TransportError, match="cannot be reached"):
        net.dialling(port, "north", notify=told.append, retry_for_s=1.0).result(HANG_S)
    assert set(kinds(told)) == {("dialling", "hub", ("hub",))}


def receive_until(hub: ResumableHub, told: list[Notice], kind: str, times: int = 1) -> None:
    """Let the hub receive, which must hear nothing, until so many notices of a kind were told."""
    give_up = time.monotonic() + 30
    while sum(each.kind == kind for each in told) < times:
        assert time.monotonic() < give_up, told
        with pytest.raises(TransportError, match="no frame from any member"):
            hub.receive(0.02)


def await_notice(told: list[Notice], kind: str, times: int = 1) -> None:
    give_up = time.monotonic() + 30
    while sum(each.kind == kind for each in told) < times:
        assert time.monotonic() < give_up, told
        time.sleep(0.01)


def test_a_member_may_send_no_notice(net):
    hub = net.hub()
    north = admitted_raw(net, hub)
    north.send(HEAD.pack(0, 0) + notice_signal(Notice("away", "south", ("south",))))
    with pytest.raises(MemberLost, match=r"'north': a signal of .* that is none of the known ones"):
        hub.receive(HANG_S)


@pytest.mark.parametrize(
    "signal",
    [
        NOTICE,
        NOTICE + bytes(9),
        NOTICE + b"\x06" + bytes(8) + b"south",
        NOTICE + b"\xff" + bytes(8) + b"south",
        NOTICE + bytes(9) + b"nobody",
        NOTICE + bytes(9) + b"south,nobody",
        NOTICE + bytes(9) + b"south,south,south",
        NOTICE + bytes(9) + b"south,south,north",
        NOTICE + bytes(9) + b",south",
        NOTICE + bytes(9) + b"so\xffuth",
        NOTICE + bytes(9) + b"south\x1b[2J",
        NOTICE + bytes(9) + b"south" + b",south" * 3000,
    ],
)
def test_a_hub_whose_notices_break_the_rules_is_left(net, signal):
    told = []
    hub = net.hub()
    north = net.connect(hub, "north", notify=told.append)
    net.connect(hub, "south")
    asked(hub, north, "north")
    told.clear()
    hub._inner.send("north", HEAD.pack(0, 1) + signal)
    with pytest.raises(TransportError, match="the hub is gone: it broke a rule of the connection: a notice"):
        north.receive(HANG_S)
    assert not told


def test_a_hub_that_floods_a_member_with_notices_is_not_received(net):
    told = []
    hub = net.hub()
    north = net.connect(hub, "north", notify=told.append)
    for _ in range(5000):
        hub._inner.send("north", HEAD.pack(0, 0) + notice_signal(Notice("away", "south", ("south",))))
    hub.send("north", b"frame")
    assert bytes(north.receive(20)) == b"frame"
    assert 0 < len(told) < 500


@pytest.mark.parametrize(
    "notice",
    [
        Notice("joined", "north", ("east", "south"), 0.0, None),
        Notice("waiting", "", ("south",), 12.345, 3600.0),
        Notice("away", "south", ("south",), 59.999, 60.0),
        Notice("back", "south", (), 10.0**9, 10.0**9),
        Notice("lost", "south"),
        Notice("left", "south"),
    ],
)
def test_notices_arrive_as_they_were_sent(notice):
    read = read_notice(notice_signal(notice), {"north", "south", "east"})
    most = (2**32 - 1) / 1000
    limit = None if notice.limit_s is None else min(notice.limit_s, (2**32 - 2) / 1000)
    assert read == replace(notice, seconds=min(notice.seconds, most), limit_s=limit, text="says the hub")


def test_more_names_than_a_notice_holds_are_not_sent():
    assert notice_signal(Notice("waiting", waiting_for=tuple(f"{place:063}" for place in range(300)))) == b""
