"""The finished channel on real sockets. Every attack here was written before its defence."""

from __future__ import annotations

import contextlib
import errno
import inspect
import select
import socket
import ssl
import struct
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from cryptography import x509

from hansa.errors import IdentityError, MemberLost, TransportError
from hansa.transport import notices, tcp, tls, tls_handshakes, tls_hub, tls_stream
from hansa.transport.channel import Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.notices import Notice
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from waiting import HANG_S, Clock, until

SIZES = [1, 100, 2**14 - 4, 2**14 - 3, 2**16, 2**16 + 2**14 - 4, 3_000_001]


def pattern(size: int, start: int = 0) -> bytes:
    """Bytes in which a shifted, lost or repeated fragment shows."""
    return np.arange(start, start + size // 4 + 1, dtype=">u4").tobytes()[:size]


def prefixed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


def assert_serves(hub: TlsHub, channel: TlsChannel, name: str) -> None:
    """Others are unharmed: one question and one answer pass."""
    channel.send(b"question")
    assert receive(hub) == (name, b"question")
    hub.send(name, b"answer")
    assert bytes(channel.receive(HANG_S)) == b"answer"


def receive(hub: TlsHub, timeout: float = HANG_S) -> tuple[str, bytes]:
    member, frame = hub.receive(timeout)
    return member, bytes(frame)


def loss(hub: TlsHub, timeout: float = HANG_S) -> MemberLost:
    """The loss that the next call reports, no frame before it."""
    with pytest.raises(MemberLost) as caught:
        hub.receive(timeout)
    return caught.value


def send_often(hub: TlsHub, member: str, frame: bytes, times: int) -> None:
    for _ in range(times):
        hub.send(member, frame)


# What must work


def test_frames_of_all_sizes_arrive_whole_in_order_with_their_senders(network):
    hub = network.hub()
    channels = dict(zip(("north", "south"), network.connect(hub, "north", "south"), strict=True))
    for name, channel in channels.items():
        network.threads.submit(lambda n=name, c=channel: [c.send(n.encode() + pattern(size)) for size in SIZES])
    got = {"north": [], "south": []}
    for _ in range(2 * len(SIZES)):
        member, frame = receive(hub)
        got[member].append(frame)
    for name in channels:
        assert got[name] == [name.encode() + pattern(size) for size in SIZES]
    for name, channel in channels.items():
        reading = network.threads.submit(lambda c=channel: [bytes(c.receive(HANG_S)) for _ in SIZES])
        for size in SIZES:
            hub.send(name, pattern(size, 7))
        while not reading.done():
            with pytest.raises(TransportError, match="no frame"):
                hub.receive(0.02)
        assert reading.result() == [pattern(size, 7) for size in SIZES]
        sizes = sum(SIZES) + 4 * len(SIZES)
        expected = Traffic(sizes + 5 * len(SIZES), sizes, len(SIZES), len(SIZES))
        assert hub.traffic[name] == channel.traffic == expected


def test_joined_and_wait_for(network):
    hub = network.hub()
    network.connect(hub, "north")
    assert hub.joined == {"north"}
    with pytest.raises(TransportError, match=r"not connected after 0\.1 s: east, south"):
        hub.wait_for(["south", "north", "east"], timeout=0.1)
    with pytest.raises(TransportError, match="does not expect west"):
        hub.wait_for(["west"], timeout=0.1)


def test_frames_sent_before_everybody_is_there_are_kept(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    north.send(b"early")
    network.connect(hub, "south")
    assert receive(hub) == ("north", b"early")


def test_a_member_may_start_before_the_hub(network, circle, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tried = counted_tries(monkeypatch)
    options = {"timeout_s": HANG_S, "retry_for_s": HANG_S}
    early = network.threads.submit(TlsChannel.connect, circle.credentials("north"), "hub", "127.0.0.1", port, **options)
    until(lambda: tried, "a first try")
    hub = TlsHub.listen(circle.credentials("hub"), "127.0.0.1", port)
    network.open.append(hub)
    hub.wait_for(["north"], timeout=HANG_S)
    network.open.append(early.result(HANG_S))


def test_nobody_listening_is_said_after_one_try_without_retry(circle, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tried, clock = counted_tries(monkeypatch), Clock()
    monkeypatch.setattr(tls, "time", clock)
    with pytest.raises(TransportError, match=rf"member 'hub' at 127\.0\.0\.1:{port}: cannot be reached"):
        TlsChannel.connect(circle.credentials("north"), "hub", "127.0.0.1", port)
    assert (len(tried), clock.slept) == (1, [])


def test_timeouts_leave_the_connection_usable(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    with pytest.raises(TransportError, match=r"no frame from the hub in 0\.05 s"):
        north.receive(0.05)
    with pytest.raises(TransportError, match=r"no frame from any member in 0 s"):
        hub.receive(0)
    assert_serves(hub, north, "north")


def test_a_hub_whose_machine_vanished_is_gone_not_late(network):
    """What keepalive reports after two minutes: an error of the system, though Python calls it a timeout."""
    hub = network.hub()
    (north,) = network.connect(hub, "north")

    class Vanished:
        def read(self, stream):
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

    north._reader = Vanished()
    with pytest.raises(TransportError, match=r"the hub is gone: .*Connection timed out"):
        north.receive()
    with pytest.raises(TransportError, match="connect anew"):
        north.receive()


def test_what_a_member_said_before_it_hung_up_comes_with_its_loss_where_that_is_noticed_by_sending(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    north.send(b"first")
    north.send(b"why I go")
    north.close()
    with pytest.raises(MemberLost, match="member 'north': gone while a frame was sent") as caught:
        send_often(hub, "north", pattern(500_000), 40)
    assert caught.value.unread == (b"first", b"why I go")
    assert caught.value.broken


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the system names it otherwise")
def test_both_ends_ask_within_forty_seconds_whether_the_other_is_there(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    for plain in (north._stream._plain, hub._links.by_member["north"].stream._plain):
        assert plain.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        idle, pause, count = (
            plain.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + pause * count == 40


def test_a_timeout_inside_a_frame_loses_nothing(network):
    """Half a frame arrives at the member, its receive times out, the rest arrives."""
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    frame = prefixed(pattern(100_000))
    link = hub._links.by_member["north"]
    link.stream.write(frame[:50_000])
    link.stream.flush()
    with pytest.raises(TransportError, match="no frame from the hub"):
        north.receive(0.1)
    link.stream.write(frame[50_000:])
    link.stream.flush()
    assert bytes(north.receive(HANG_S)) == pattern(100_000)


def test_many_frames_in_one_tls_record_all_arrive(network):
    hub = network.hub()
    network.raw(hub, "north").sendall(b"".join(prefixed(b"%d" % place) for place in range(500)))
    assert [receive(hub) for _ in range(500)] == [("north", b"%d" % place) for place in range(500)]


def test_a_trickling_hub_does_not_stretch_a_members_deadline(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    link, stop = hub._links.by_member["north"], threading.Event()

    def trickle() -> None:
        link.stream.write((1_000_000).to_bytes(4, "big"))
        link.stream.flush()
        while not stop.wait(0.005):
            link.stream.write(b"x")
            link.stream.flush()

    trickling = network.threads.submit(trickle)
    with pytest.raises(TransportError, match=r"no frame from the hub in 0\.2 s"):
        north.receive(0.2)
    assert not trickling.done()  # the bytes still came
    stop.set()
    trickling.result(HANG_S)


def test_two_members_that_send_each_other_large_frames_do_not_lock_up(network):
    """Both send 24 MB before they read anything; neither socket buffer holds that much."""
    hub = network.hub()
    north, south = network.connect(hub, "north", "south")

    def exchange(channel: TlsChannel) -> list[bytes]:
        for place in range(6):
            channel.send(pattern(4_000_000, place))
        return [bytes(channel.receive(HANG_S)) for _ in range(6)]

    ends = [network.threads.submit(exchange, channel) for channel in (north, south)]
    for _ in range(12):
        member, frame = hub.receive(HANG_S)
        hub.send("south" if member == "north" else "north", frame)
    while not all(end.done() for end in ends):
        with contextlib.suppress(TransportError):
            hub.receive(0.02)
    for end in ends:
        assert end.result() == [pattern(4_000_000, place) for place in range(6)]


def test_closing_the_hub_delivers_what_waits(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    hub.send("north", pattern(12_000_000))
    closing = threading.Event()
    reading = network.threads.submit(lambda: (closing.wait(HANG_S), bytes(north.receive(HANG_S)))[1])
    closing.set()
    hub.close()
    hub.close()
    assert reading.result(HANG_S) == pattern(12_000_000)
    with pytest.raises(TransportError, match="the hub is gone: the connection was closed"):
        north.receive(HANG_S)
    with pytest.raises(TransportError, match="closed; connect anew"):
        north.send(b"x")
    with pytest.raises(TransportError, match="this hub is closed"):
        hub.receive(0)


@pytest.mark.parametrize(
    "begun", [b"", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], ids=["silent", "half a greeting"]
)
def test_closing_the_hub_hangs_up_on_who_is_at_the_door(network, begun):
    hub = network.hub()
    port, dialled = hub.port, network.plain(hub)
    dialled.sendall(begun)
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0.05)
    assert len(hub._handshakes.pending) == 1
    (pending,) = hub._handshakes.pending.values()
    hub.close()
    assert (dialled.recv(1), pending.stream.fileno(), len(hub._handshakes.pending)) == (b"", -1, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=HANG_S)


# Who is let in


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        (
            "expired",
            "certificate has expired; renew it.*valid from .* to .* UTC, and this machine's clock says .*may be wrong",
        ),
        (
            "early",
            "not valid .not yet.*check the clocks.*valid from .* UTC, and this machine's clock says .*may be wrong",
        ),
    ],
)
def test_certificates_out_of_date_are_refused_and_told_why(network, attempt, name, answer):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    error = attempt(hub, network.dialling(hub, name))
    assert_matches(error, answer)
    assert hub.rejected == 1
    assert hub.joined == {"south"}
    assert_serves(hub, south, "south")


@pytest.mark.parametrize("name", ["stranger", "north"])
def test_an_unknown_certificate_is_refused_even_under_a_members_name(network, circle, attempt, tmp_path, name):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    error = attempt(hub, network.dialling(hub, circle.outsider(name, tmp_path / "outsider")))
    assert_matches(error, "member 'hub' at .*: it does not know this member's certificate")
    assert (hub.rejected, hub.joined) == (1, {"south"})
    assert_serves(hub, south, "south")


def assert_matches(error: BaseException | None, answer: str) -> None:
    with pytest.raises(TransportError, match=answer):
        raise error if error else AssertionError("was let in")


def test_a_member_not_expected_hears_so(network, attempt):
    hub = network.hub(allowed=["north"])
    error = attempt(hub, network.dialling(hub, "south"))
    assert_matches(error, "refused this member: member 'south' is not expected in this run")
    assert hub.joined == frozenset()


def test_a_refusal_is_not_retried(network, attempt):
    hub = network.hub(allowed=["north"])
    assert_matches(attempt(hub, network.dialling(hub, "south", retry_for_s=60.0)), "not expected")
    assert hub.rejected == 1


def test_a_second_connection_of_a_member_is_refused_while_the_first_lives(network, attempt):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    assert_matches(attempt(hub, network.dialling(hub, "north")), "'north' is connected already")
    assert_serves(hub, north, "north")


def test_a_member_that_came_back_is_lost_first_and_received_then(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    north.close()
    again = network.dialling(hub, "north")
    while not again.done():
        hub.wait_for(["north"], timeout=HANG_S)
        with contextlib.suppress(TransportError):
            hub.wait_for(["south"], timeout=0.05)
    again.result().send(b"here again")
    assert "a new one made" in loss(hub).reason
    assert receive(hub) == ("north", b"here again")


def test_a_send_to_a_member_that_came_back_reports_the_loss_first(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    north.close()
    again = network.dialling(hub, "north")
    while not again.done():
        with contextlib.suppress(TransportError):
            hub.wait_for(["south"], timeout=0.05)
    with pytest.raises(MemberLost, match="a new one made"):
        hub.send("north", b"meant for the one who left")
    hub.send("north", b"meant for the new one")
    assert bytes(again.result().receive(HANG_S)) == b"meant for the new one"


def test_a_member_trusts_the_hubs_certificate_alone(network, circle, attempt, tmp_path):
    """Another member, or a hub with a renewed or expired certificate, listens where the hub should."""
    posing = network.hub(credentials=circle.credentials("east"))
    assert_matches(attempt(posing, network.dialling(posing, "north")), "not the valid one of the members file")
    renewed = network.hub(credentials=circle.renewed_hub(tmp_path / "renewed"))
    assert_matches(attempt(renewed, network.dialling(renewed, "north")), "ask for its present card")


def test_a_hub_with_an_expired_certificate_is_refused(network, circle, attempt):
    old = network.hub(credentials=circle.credentials("expired"))
    dialling = network.threads.submit(
        TlsChannel.connect, circle.credentials("north"), "expired", "127.0.0.1", old.port, timeout_s=HANG_S
    )
    error = attempt(old, dialling)
    assert_matches(error, "certificate has expired.*ask for its present card. It is valid from")
    validity = circle.identities["expired"].card().certificate
    last = x509.load_der_x509_certificate(validity).not_valid_after_utc
    assert f"to {last:%Y-%m-%d %H:%M} UTC, and this machine's clock says {datetime.now(UTC):%Y-%m-%d}" in str(error)


def test_of_a_wrong_clock_nobody_is_suspected_where_dates_are_right(network, circle, attempt, tmp_path):
    hub = network.hub()
    for who in (circle.outsider("north", tmp_path / "outsider"), "north"):
        posing = hub if who != "north" else network.hub(credentials=circle.renewed_hub(tmp_path / "renewed"))
        assert "clock" not in str(attempt(posing, network.dialling(posing, who)))


def test_sessions_are_never_resumed(network, circle):
    hub = network.hub()
    first = network.raw(hub, "north")
    first.sendall(prefixed(b"x"))
    assert receive(hub) == ("north", b"x")
    session = first.session
    context = first.context
    first.close()
    loss(hub)

    def resume() -> bool:
        plain = socket.create_connection(("127.0.0.1", hub.port), timeout=HANG_S)
        with context.wrap_socket(plain, session=session) as second:
            assert second.recv(16) == b"\0\0\0\1\1"
            return bool(second.session_reused)

    resumed = network.threads.submit(resume)
    hub.wait_for(["north"], timeout=HANG_S)
    assert resumed.result(HANG_S) is False


# Strangers


def hub_meets(network, hub, rejected_peer) -> TlsChannel:
    """A stranger does its worst; meanwhile and afterwards a member gets in and is served."""
    rejected_peer()
    (north,) = network.connect(hub, "north")
    assert_serves(hub, north, "north")
    return north


def settle(hub: TlsHub, rejected: int) -> None:
    give_up = time.monotonic() + HANG_S
    while hub.rejected < rejected:
        assert time.monotonic() < give_up, f"{hub.rejected} peers were refused, expected {rejected}"
        with pytest.raises(TransportError, match="no frame"):
            hub.receive(0.05)


def test_a_client_without_a_certificate_is_refused(network, circle, attempt):
    hub = network.hub()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def dial() -> None:
        with context.wrap_socket(network.plain(hub)) as stream:
            stream.recv(1)

    error = attempt(hub, network.threads.submit(dial))
    assert isinstance(error, ssl.SSLError)
    assert "CERTIFICATE_REQUIRED" in str(error)
    assert (hub.rejected, hub.joined) == (1, frozenset())


def test_tls_1_2_is_refused(network, circle, attempt):
    hub = network.hub()
    context = circle.context("north")
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    error = attempt(hub, network.threads.submit(lambda: context.wrap_socket(network.plain(hub))))
    assert isinstance(error, ssl.SSLError)
    assert "PROTOCOL_VERSION" in str(error)
    assert hub.rejected == 1


def test_plaintext_is_refused(network):
    hub = network.hub()
    hub_meets(network, hub, lambda: network.plain(hub).sendall(b"GET / HTTP/1.1\r\n\r\n" + prefixed(b"x" * 99)))
    settle(hub, 1)
    assert hub.rejected == 1


def test_one_who_says_nothing_is_hung_up_on(network, monkeypatch):
    clock = Clock()
    for module in (tls_hub, tls_handshakes):
        monkeypatch.setattr(module, "time", clock)
    hub = network.hub()
    silent = network.plain(hub)
    hub_meets(network, hub, lambda: None)
    assert hub.rejected == 0
    clock.forward(HANG_S)
    settle(hub, 1)
    assert silent.recv(1) == b""


def test_half_a_client_hello_blocks_nobody(network):
    hub = network.hub()
    hub_meets(network, hub, lambda: network.plain(hub).sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
    assert hub.rejected == 0


def test_two_hundred_rejected_peers_at_once_keep_no_member_out(network):
    hub = network.hub(pending_handshakes=64)

    def crowd() -> None:
        for place in range(200):
            plain = network.plain(hub)
            if place % 2:
                plain.sendall(bytes(range(place % 250)))

    hub_meets(network, hub, crowd)
    assert hub.rejected >= 200 - 64
    assert len(hub._handshakes.pending) <= 64


# Members who misbehave


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (
            (3 * 2**30).to_bytes(4, "big") + b"x" * 50,
            "announced a frame of 3221225472 bytes, expected 1 to 16777216",
        ),
        (prefixed(b""), "announced a frame of 0 bytes"),
    ],
)
def test_frames_no_one_may_send_cost_the_sender_its_connection(network, sent, reason):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    network.raw(hub, "north").sendall(sent)
    lost = loss(hub)
    assert lost.member == "north"
    assert reason in lost.reason
    assert hub.joined == {"south"}
    assert_serves(hub, south, "south")
    with pytest.raises(TransportError, match="'north' is not connected") as caught:
        hub.send("north", b"x")
    assert not isinstance(caught.value, MemberLost)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "the connection was closed"),
        (prefixed(b"x" * 400)[:104], "ended inside a frame, after 100 of 400 bytes"),
        (b"\0\0", "ended inside a frame's length, after 2 of 4 bytes"),
    ],
)
@pytest.mark.parametrize("close", ["close_notify", "end of file"])
def test_an_end_of_file_is_named(network, sent, reason, close):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    north = network.raw(hub, "north")
    if sent:
        north.sendall(sent)
    if close == "close_notify":
        north.settimeout(0.05)
        with contextlib.suppress(OSError):
            north.unwrap()
    else:
        north.close()
    lost = loss(hub)
    assert lost.member == "north"
    assert reason in lost.reason
    assert_serves(hub, south, "south")


def test_a_reset_is_a_loss(network):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    north = network.raw(hub, "north")
    north.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    north.close()
    assert loss(hub).member == "north"
    assert_serves(hub, south, "south")


def test_bytes_that_are_not_tls_end_a_members_connection(network):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    north = network.raw(hub, "north")
    socket.socket.send(north, b"\x17\x03\x03\x00\x20" + b"not a record that anybody encrypted")
    assert loss(hub).member == "north"
    assert_serves(hub, south, "south")


def test_a_stall_inside_a_frame_holds_nobody_up(network):
    hub = network.hub()
    (south,) = network.connect(hub, "south")
    north = network.raw(hub, "north")
    frame = prefixed(pattern(200_000))
    north.sendall(frame[:70_000])
    for _ in range(20):
        assert_serves(hub, south, "south")
    north.sendall(frame[70_000:])
    assert receive(hub) == ("north", pattern(200_000))


def test_an_announced_frame_takes_no_memory_before_its_bytes_come(network):
    hub = network.hub()
    north = network.raw(hub, "north")
    for sent, most in ((1000, 2**16), (69_000, 2**18)):
        north.sendall((16 * 2**20).to_bytes(4, "big") * (sent == 1000) + b"x" * sent)
        with pytest.raises(TransportError, match="no frame"):
            hub.receive(0.1)
        assert len(hub._links.by_member["north"].reader._buffer) <= most


def test_trickled_bytes_do_not_stretch_the_hubs_deadline(network):
    hub = network.hub()
    north = network.raw(hub, "north")
    stop = threading.Event()

    def trickle() -> None:
        north.sendall((10_000_000).to_bytes(4, "big"))
        while not stop.wait(0.005):
            north.sendall(b"x")

    trickling = network.threads.submit(trickle)
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.2)
    assert not trickling.done()  # the bytes still came
    stop.set()
    trickling.result(HANG_S)


def test_a_flood_neither_fills_memory_nor_drowns_others(network):
    """10,000 frames that nobody asked for: they wait at the sender, and others get their turn among them."""
    hub = network.hub()
    north, south = network.connect(hub, "north", "south")
    flood = network.threads.submit(lambda: [north.send(pattern(1000)) for _ in range(10_000)])
    before_south, received = 0, 0
    south.send(b"me too")
    while received < 10_000:
        member, frame = hub.receive(HANG_S)
        if member == "south":
            before_south = received
            assert bytes(frame) == b"me too"
            continue
        assert frame == pattern(1000)
        received += 1
        assert len(hub._links.by_member["north"].reader._buffer) <= 2**16
    flood.result(HANG_S)
    assert before_south < 2000
    assert hub.traffic["north"].frames_up == 10_000


def test_a_member_that_never_reads_is_dropped_while_others_go_on(network):
    hub = network.hub(send_s=0.3)
    (south,) = network.connect(hub, "south")
    network.raw(hub, "north")
    for _ in range(8):
        hub.send("north", pattern(4_000_000))
    lost = None
    give_up = time.monotonic() + HANG_S
    while lost is None and time.monotonic() < give_up:
        try:
            assert_serves(hub, south, "south")
        except MemberLost as error:
            lost = error
    assert lost is not None
    assert lost.member == "north"
    assert "took nothing for 0.3 s" in lost.reason


def test_a_backlog_has_a_limit(network):
    hub = network.hub(send_s=0.2, backlog_bytes=5_000_000)
    (south,) = network.connect(hub, "south")
    network.raw(hub, "north")
    link = hub._links.by_member["north"]
    with pytest.raises(MemberLost, match="took nothing"):
        send_often(hub, "north", pattern(1_000_000), 40)
    assert 5_000_000 < link.stream.unsent <= 6_100_000
    assert hub.traffic["north"].frames_down < 20
    south.send(b"still here")
    assert receive(hub) == ("south", b"still here")


def test_a_loss_found_while_sending_is_raised_once(network):
    hub = network.hub()
    north = network.raw(hub, "north")
    north.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    north.close()
    with pytest.raises(MemberLost, match="'north': gone while a frame was sent"):
        send_often(hub, "north", b"x" * 1000, 100)
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)


def test_a_dropped_member_is_not_reported_again_and_may_return(network):
    hub = network.hub()
    north, south = network.connect(hub, "north", "south")
    north.send(b"unwelcome")
    hub.drop("north", "broke a rule")
    hub.drop("north", "twice does no harm")
    assert_serves(hub, south, "south")
    with pytest.raises(TransportError, match="the hub is gone"):
        north.receive(HANG_S)
    (north,) = network.connect(hub, "north")
    assert_serves(hub, north, "north")


def test_a_dropped_member_that_was_next_is_not_received(network):
    """Frames of both have arrived; the hub takes one and drops the sender of the other."""
    hub = network.hub()
    for channel in network.connect(hub, "north", "south"):
        channel.send(b"x" * 100)
    for name in ("north", "south"):
        until(lambda n=name: select.select([hub._links.by_member[n].stream.fileno()], [], [], 0)[0], "the frame")
    first, _ = receive(hub)
    hub.drop({"north": "south", "south": "north"}[first], "broke a rule")
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)
    assert hub.joined == {first}


def test_dropping_settles_a_loss_that_was_not_reported_yet(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    north.close()
    again = network.dialling(hub, "north")
    while not again.done():
        with contextlib.suppress(TransportError):
            hub.wait_for(["south"], timeout=0.05)
    hub.drop("north", "enough of it")
    with pytest.raises(TransportError, match="no frame from any member"):
        hub.receive(0.05)


def test_last_words_are_received_though_the_hub_left_much_unread(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    for _ in range(50):
        north.send(b"unread" * 1000)
    hub.send("north", b"last words" * 10_000)
    hub.drop("north", "no more of this")
    assert bytes(north.receive(HANG_S)) == b"last words" * 10_000


def test_frames_that_cannot_be_sent_are_refused_at_home(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    for frame in (b"", bytes(16 * 2**20 + 1)):
        with pytest.raises(TransportError, match="cannot send a frame of"):
            hub.send("north", frame)
        with pytest.raises(TransportError, match="cannot send a frame of"):
            north.send(frame)
    assert_serves(hub, north, "north")


# One end that dials and keeps many connections


def pump(there: TlsHub, waiting) -> None:
    """Let `there` work off what waits for others until something is done."""
    while not waiting.done():
        with contextlib.suppress(TransportError):
            there.receive(0.02)


def test_frames_go_both_ways_over_a_connection_that_was_dialled(network):
    north, south = network.server("north"), network.end("south")
    network.link(south, "south", "north", north)
    assert (north.joined, south.joined) == ({"south"}, {"north"})
    send_often(south, "north", b"to begin with", 3)
    for size in SIZES:
        south.send("north", pattern(size))
    hearing = network.threads.submit(lambda: [receive(south) for _ in SIZES])
    assert [receive(north) for _ in range(3)] == [("south", b"to begin with")] * 3
    for size in SIZES:
        assert receive(north) == ("south", pattern(size))
        north.send("south", pattern(size, 7))
    pump(north, hearing)
    assert hearing.result() == [("north", pattern(size, 7)) for size in SIZES]
    sizes = sum(SIZES) + 4 * len(SIZES)
    up, down = (sizes + 3 * 17, len(SIZES) + 3), (sizes, len(SIZES))
    assert north.traffic == {"south": Traffic(up[0], down[0], up[1], down[1])}
    assert south.traffic == {"north": Traffic(down[0], up[0], down[1], up[1])}


def test_one_end_may_listen_and_dial(network):
    """As a server does: the hub and one server are dialled, another server dials in."""
    hub, north, south = network.hub(), network.server("north", allowed=["south"]), network.end("south")
    network.link(north, "north", "hub", hub)
    network.link(south, "south", "north", north)
    hub.send("north", b"from the hub")
    assert receive(north) == ("hub", b"from the hub")
    south.send("north", b"from south")
    assert receive(north) == ("south", b"from south")
    for member, there in (("hub", hub), ("south", south)):
        north.send(member, b"to " + member.encode())
        assert receive(there) == ("north", b"to " + member.encode())
    hub.close()
    assert loss(north).member == "hub"
    south.send("north", b"still here")
    assert receive(north) == ("south", b"still here")


def test_what_arrives_with_the_welcome_is_received(network, monkeypatch):
    """The first frame may lie decrypted in memory, where waiting for the socket tells nothing of it."""

    def greet_and_speak(stream, greeting):
        for frame in (greeting, b"at once"):
            stream.write(prefixed(frame))
        stream.flush()

    north, south = network.server("north"), network.end("south")
    monkeypatch.setattr(tls_handshakes, "greet", greet_and_speak)
    network.link(south, "south", "north", north)
    assert receive(south) == ("north", b"at once")


def test_a_member_may_be_dialled_before_it_listens(network, circle, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tried = counted_tries(monkeypatch)
    south = network.end("south")
    early = network.threads.submit(south.dial, "north", "127.0.0.1", port, retry_for_s=HANG_S)
    until(lambda: tried, "a first try")
    north = TlsHub.listen(circle.credentials("north"), "127.0.0.1", port)
    network.open.append(north)
    north.wait_for(["south"], timeout=HANG_S)
    early.result(HANG_S)
    assert len(tried) > 1
    south.send("north", b"here")
    assert receive(north) == ("south", b"here")


def counted_tries(monkeypatch) -> list[tuple[str, int]]:
    """Where TCP connections were tried, one entry for each try."""
    tried = []
    look_up = socket.getaddrinfo

    def counted(host, port, **options):
        tried.append((host, port))
        return look_up(host, port, **options)

    monkeypatch.setattr(tcp.socket, "getaddrinfo", counted)
    return tried


@pytest.mark.parametrize("retry_for_s", [0.0, 0.2])
def test_whom_nobody_answers_for_is_named_with_the_cure(network, monkeypatch, retry_for_s):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    tried, south = counted_tries(monkeypatch), network.end("south")
    with pytest.raises(TransportError, match=rf"member 'north' at .*:{port}: cannot be reached .*is it started"):
        south.dial("north", "127.0.0.1", port, retry_for_s=retry_for_s)
    assert (len(tried) > 1) == (retry_for_s > 0)
    assert (south.joined, south.traffic) == (frozenset(), {})


@pytest.mark.parametrize("who", ["another member", "a renewed certificate", "an expired certificate"])
def test_whoever_answers_for_another_is_refused(network, circle, attempt, tmp_path, who):
    posing = {
        "another member": lambda: network.server("east"),
        "a renewed certificate": lambda: network.hub(credentials=circle.renewed_hub(tmp_path / "renewed")),
        "an expired certificate": lambda: network.server("expired"),
    }[who]()
    name = {"another member": "north", "a renewed certificate": "hub", "an expired certificate": "expired"}[who]
    south = network.end("south")
    error = attempt(posing, network.dial(south, name, posing))
    assert_matches(error, rf"member '{name}' at .*:{posing.port}: its certificate is not .*ask for its present card")
    assert (south.joined, south.traffic, posing.joined) == (frozenset(), {}, frozenset())
    # Nothing is left of the attempt: the right one may be dialled.
    east = network.server("east")
    network.link(south, "south", "east", east)
    south.send("east", b"the right one")
    assert receive(east) == ("south", b"the right one")


def test_whoever_is_no_hansa_is_refused(network, monkeypatch):
    """A listener that answers a TLS greeting with text, and one that hangs up."""
    south = network.end("south")
    for answer, error in (
        (b"220 mail.example ESMTP\r\n", "is it Hansa that listens there"),
        (b"", "hung up|handshake failed"),
    ):
        listener = socket.create_server(("127.0.0.1", 0))
        network.open.append(listener)

        def speak(listener=listener, answer=answer) -> None:
            with listener.accept()[0] as plain:
                plain.sendall(answer)
                plain.recv(4096)

        speaking = network.threads.submit(speak)
        with pytest.raises(TransportError, match=rf"member 'north' at .*({error})"):
            south.dial("north", *listener.getsockname())
        speaking.result(HANG_S)
    assert south.joined == frozenset()


@pytest.mark.parametrize(
    ("who", "answer"),
    [
        ("south", "refused this member: member 'south' is not expected in this run; compare the plans"),
        ("stranger", "it does not know this member's certificate; compare both members files"),
        ("expired", "this member's certificate has expired; renew it"),
    ],
)
def test_whoever_dials_unwanted_hears_why(network, circle, attempt, tmp_path, who, answer):
    north = network.server("north", allowed=["east"])
    end = network.end(circle.outsider(who, tmp_path / "outsider") if who == "stranger" else who)
    # A refusal is not retried.
    error = attempt(north, network.dial(end, "north", north, retry_for_s=60.0))
    assert_matches(error, f"member 'north' at .*{answer}")
    assert (north.rejected, north.joined, end.joined) == (1, frozenset(), frozenset())


def test_only_other_members_can_be_dialled(network):
    south, port = network.end("south"), network.server("north").port
    for name in ("south", "west"):
        with pytest.raises(IdentityError, match=f"'{name}'"):
            south.dial(name, "127.0.0.1", port)


def test_a_member_is_dialled_once(network, attempt):
    north, south, second = network.server("north"), network.end("south"), network.end("south")
    network.link(south, "south", "north", north)
    with pytest.raises(TransportError, match="member 'north' is connected already"):
        south.dial("north", "127.0.0.1", north.port)
    error = attempt(north, network.dial(second, "north", north))
    assert_matches(error, "member 'south' is connected already; stop its other process")
    south.send("north", b"the first")
    assert receive(north) == ("south", b"the first")


def test_a_dialled_member_that_hung_up_is_lost_and_may_be_dialled_again(network):
    north, south = network.server("north"), network.end("south")
    network.link(south, "south", "north", north)
    north.send("south", b"last words")
    north.drop("south", "enough")
    assert receive(south) == ("north", b"last words")
    assert loss(south).broken
    with pytest.raises(TransportError, match="'north' is not connected"):
        south.send("north", b"x")
    network.link(south, "south", "north", north)
    south.send("north", b"again")
    assert receive(north) == ("south", b"again")
    assert south.traffic == {"north": Traffic(4 + 10, 4 + 5, 1, 1)}


def test_a_frame_over_the_limit_costs_a_dialled_member_its_connection(network):
    north, south = network.server("north", frame_bytes=2000), network.end("south", frame_bytes=1000)
    network.link(south, "south", "north", north)
    north.send("south", bytes(1001))
    lost = loss(south)
    assert (lost.member, lost.broken) == ("north", False)
    assert "announced a frame of 1001 bytes, expected 1 to 1000" in lost.reason


def test_an_end_without_listener_hears_of_nobody_it_did_not_dial(network):
    south = network.end("south")
    assert (south.port, south.joined) == (0, frozenset())
    south.wait_for([], timeout=0)
    with pytest.raises(TransportError, match="does not expect north"):
        south.wait_for(["north"], timeout=HANG_S)
    with pytest.raises(TransportError, match=r"no frame from any member in 0\.05 s"):
        south.receive(0.05)
    with pytest.raises(TransportError, match="'north' is not connected"):
        south.send("north", b"x")


def test_closing_an_end_without_listener_delivers_what_waits(network):
    north, south = network.server("north"), network.end("south")
    network.link(south, "south", "north", north)
    south.send("north", pattern(12_000_000))
    closing = network.threads.submit(south.close)
    assert receive(north) == ("south", pattern(12_000_000))
    assert loss(north).member == "south"
    closing.result(HANG_S)
    south.close()
    with pytest.raises(TransportError, match="this hub is closed"):
        south.dial("north", "127.0.0.1", north.port)


def test_a_channel_given_up_lives_on_in_other_hands(network):
    hub = network.hub()
    (north,) = network.connect(hub, "north")
    stream = north.give_up()
    north.close()
    assert not north.is_open
    for refused in (north.give_up, lambda: north.send(b"x"), lambda: north.receive(0)):
        with pytest.raises(TransportError, match="closed; connect anew"):
            refused()
    stream.write(prefixed(b"in other hands"))
    stream.flush()
    assert receive(hub) == ("north", b"in other hands")
    stream.close()
    assert loss(hub).member == "north"


# Looking for frames without sleeping, longer than any wait of these tests: what they see, they see awake.


def test_a_hub_that_does_not_sleep_obeys_its_deadline(network):
    hub = network.hub(spin_s=2 * HANG_S)
    network.connect(hub, "north")
    for timeout in (0, 0.1):
        start = time.monotonic()
        with pytest.raises(TransportError, match=f"no frame from any member in {timeout} s"):
            hub.receive(timeout)
        assert time.monotonic() - start >= timeout


def test_a_hub_that_does_not_sleep_hears_all_members(network):
    hub = network.hub(spin_s=2 * HANG_S)
    north, south = network.connect(hub, "north", "south")
    # Nothing is there when the hub begins to look.
    hearing = network.threads.submit(lambda: [receive(hub) for _ in range(2 * len(SIZES))])
    for size in SIZES:
        north.send(pattern(size))
        south.send(pattern(size, 7))
    got = hearing.result(HANG_S)
    assert [frame for member, frame in got if member == "north"] == [pattern(size) for size in SIZES]
    assert [frame for member, frame in got if member == "south"] == [pattern(size, 7) for size in SIZES]
    hearing = network.threads.submit(receive, hub)
    (east,) = [network.dialling(hub, "east").result(HANG_S)]
    east.send(b"a pending handshake")
    assert hearing.result(HANG_S) == ("east", b"a pending handshake")
    hub.send("east", b"answer")
    assert bytes(east.receive(HANG_S)) == b"answer"


def test_a_hub_that_does_not_sleep_notices_a_lost_member(network):
    hub = network.hub(spin_s=2 * HANG_S)
    north, south = network.connect(hub, "north", "south")
    noticing = network.threads.submit(loss, hub)
    north.close()
    lost = noticing.result(HANG_S)
    assert (lost.member, lost.broken) == ("north", True)
    assert_serves(hub, south, "south")


def test_a_hub_that_does_not_sleep_drops_who_stalls(network, monkeypatch):
    hub = network.hub(spin_s=2 * HANG_S, send_s=0.3, handshake_s=HANG_S)
    (south,) = network.connect(hub, "south")
    network.raw(hub, "north")
    send_often(hub, "north", pattern(4_000_000), 8)
    noticing = network.threads.submit(loss, hub)
    assert "took nothing for 0.3 s" in noticing.result(HANG_S).reason
    clock = Clock()
    for module in (tls_hub, tls_handshakes):
        monkeypatch.setattr(module, "time", clock)
    silent = network.plain(hub)
    with pytest.raises(TransportError, match="no frame"):
        hub.receive(0.05)
    clock.forward(HANG_S)
    settle(hub, 1)
    assert silent.recv(1) == b""
    assert_serves(hub, south, "south")


# Never unprotected


def test_nothing_crosses_the_network_in_the_clear(network):
    """A relay between member and hub writes down every byte; none of what was said is among them."""
    hub = network.hub()
    listener = socket.create_server(("127.0.0.1", 0))
    network.open.append(listener)
    seen = bytearray()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(2**16):
                seen.extend(chunk)
                target.sendall(chunk)
            target.shutdown(socket.SHUT_WR)

    def relay() -> None:
        inside, outside = listener.accept()[0], network.plain(hub)
        outside.settimeout(None)
        network.open.append(inside)
        network.threads.submit(copy, inside, outside)
        network.threads.submit(copy, outside, inside)

    network.threads.submit(relay)
    port = listener.getsockname()[1]
    dialling = network.threads.submit(network._dial, network.circle.credentials("north"), port, {})
    hub.wait_for(["north"], timeout=HANG_S)
    north = dialling.result(HANG_S)
    north.send(b"SECRET-UP" * 1000)
    assert receive(hub) == ("north", b"SECRET-UP" * 1000)
    hub.send("north", b"SECRET-DOWN" * 1000)
    assert bytes(north.receive(HANG_S)) == b"SECRET-DOWN" * 1000
    assert len(seen) > 20_000
    assert b"SECRET" not in seen
    assert network.circle.certificates["north"][:100] not in seen


def test_no_setting_turns_protection_off():
    names = {
        name
        for function in (TlsHub.listen, TlsChannel.connect, TlsHub, TlsChannel, Credentials)
        for name in inspect.signature(function).parameters
    }
    assert not {name for name in names if any(word in name for word in ("secure", "plain", "tls", "ssl", "verify"))}
    assert all(
        parameter.default is inspect.Parameter.empty
        for parameter in inspect.signature(Credentials).parameters.values()
        if parameter.name
        not in (
            "protocols",
            "route",
            "former",
        )  # which version, which run, words of a refusal: none says who is trusted
    )


def test_half_a_tls_configuration_is_refused(circle):
    good = circle.credentials("north")
    broken = {
        "the members' certificates are missing": {"certificates": {}},
        "'north' is not in the members file": {
            "certificates": {name: circle.certificates[name] for name in ("hub", "south")}
        },
        "not the certificate of 'north'": {"certificate": circle.credentials("south").certificate},
        "does not fit": {"key": circle.credentials("south").key},
        "two members have the same certificate": {
            "certificates": {**circle.certificates, "other": circle.certificates["south"]}
        },
    }
    for message, change in broken.items():
        with pytest.raises(IdentityError, match=message):
            replace(good, **change)


def test_a_damaged_certificate_in_the_members_file_is_refused(circle):
    damaged = replace(circle.credentials("hub"), certificates={**circle.certificates, "east": b"noise"})
    with pytest.raises(IdentityError, match="damaged"):
        TlsHub.listen(damaged, "127.0.0.1", 0)


def test_a_member_cannot_take_anothers_name(network, circle):
    """South's certificate under north's name is refused at home; on the wire only the certificate counts."""
    with pytest.raises(IdentityError, match="not the certificate of 'north'"):
        replace(circle.credentials("south"), member="north")
    swapped = {**circle.certificates, "north": circle.certificates["south"]}
    del swapped["south"]
    liar = replace(circle.credentials("south"), member="north", certificates=swapped)
    hub = network.hub()
    dialling = network.dialling(hub, liar)
    hub.wait_for(["south"], timeout=HANG_S)
    dialling.result(HANG_S).send(b"I am north")
    assert receive(hub) == ("south", b"I am north")


def test_the_hub_expects_only_members(circle):
    with pytest.raises(IdentityError, match="expects nobody"):
        TlsHub.listen(circle.credentials("hub"), "127.0.0.1", 0, allowed=[])
    with pytest.raises(IdentityError, match="expects west"):
        TlsHub.listen(circle.credentials("hub"), "127.0.0.1", 0, allowed=["west", "north"])
    with pytest.raises(IdentityError, match="cannot be the hub"):
        circle.credentials("north").client_context("north")


def test_an_address_that_is_taken_is_named(network, circle):
    hub = network.hub()
    with pytest.raises(TransportError, match=f"cannot listen at 127.0.0.1:{hub.port}"):
        TlsHub.listen(circle.credentials("hub"), "127.0.0.1", hub.port)


# Who is waited for, where no door says it


def told_kinds(told: list[Notice], kind: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.member, each.waiting_for) for each in told if each.kind == kind]


def test_a_hub_without_a_door_tells_who_joined_and_whom_it_waits_for(network, circle, monkeypatch):
    monkeypatch.setattr(notices, "EVERY_S", 0.2)
    monkeypatch.setattr(tls_hub, "LOOK_S", 0.05)
    told: list[Notice] = []
    hub = TlsHub.listen(circle.credentials("hub"), "127.0.0.1", 0, notify=told.append, owed=lambda: ["south", "north"])
    network.open.append(hub)
    waiting = network.threads.submit(hub.wait_for, ["north", "south"], 20)
    network.dialling(hub, "north").result(10)
    settled_by = time.monotonic() + 20
    while not told_kinds(told, "waiting") and time.monotonic() < settled_by:
        time.sleep(0.01)
    network.dialling(hub, "south").result(10)
    waiting.result(10)
    assert told_kinds(told, "joined") == [("north", ("south",)), ("south", ())]
    assert ("", ("south",)) in told_kinds(told, "waiting")
    told.clear()
    with pytest.raises(TransportError, match="no frame from any member in 1 s"):
        hub.receive(1)
    assert set(told_kinds(told, "waiting")) == {("", ("north", "south"))}
    assert {each.limit_s for each in told} == {1}


def test_a_member_of_a_hub_without_a_door_tells_whom_it_waits_for(network, monkeypatch):
    monkeypatch.setattr(notices, "EVERY_S", 0.2)
    monkeypatch.setattr(tls_stream, "LOOK_S", 0.05)
    hub, told = network.hub(), []
    dialling = network.dialling(hub, "north", notify=told.append, owed=lambda: ["south"])
    hub.wait_for(["north"], timeout=10)
    north = dialling.result(10)
    with pytest.raises(TransportError, match="no frame from the hub in 1 s"):
        north.receive(1)
    assert set(told_kinds(told, "waiting")) == {("", ("south",))}
    assert {each.limit_s for each in told} == {1}
    network.threads.submit(north.send, b"still here").result(10)
    assert receive(hub) == ("north", b"still here")


def test_a_certificate_that_was_trusted_once_is_named_in_the_refusal(network, circle, attempt, tmp_path, caplog):
    """At the hub that is dialled, in its log and in what it says of who is missing; and at a member that dials such a hub."""
    old = circle.outsider("north", tmp_path / "old")
    former = {old.certificate: "of 'north', whose key was revoked in version 2 of the consortium's file (stolen)"}
    hub = network.hub(credentials=replace(circle.credentials("hub"), former=former))
    with caplog.at_level("WARNING"):
        attempt(hub, network.dialling(hub, old))
    assert "shows the certificate of 'north', whose key was revoked in version 2" in caplog.text
    assert "one showed the certificate of 'north', whose key was revoked" in hub.missing(["north"], 1.0)
    assert hub.joined == frozenset()
    renewed = circle.renewed_hub(tmp_path / "renewed")
    other = network.hub(credentials=renewed)
    member = replace(circle.credentials("north"), former={renewed.certificate: "that 'hub' had before"})
    error = attempt(other, network.dialling(other, member))
    assert "it shows the certificate that 'hub' had before" in str(error)
