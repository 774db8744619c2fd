"""Addresses, and lines that carry nothing: who is cut, who is not, and what is told meanwhile."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator

import pytest

from hansa.errors import LinkLost, MemberLost, TransportError
from hansa.transport import tcp, tls, tls_handshakes
from hansa.transport.notices import Notice
from hansa.transport.tcp import LineSilent, Lookout, SilenceWatch, listen, place, silence_for
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from hansa.transport.tls_links import HubLimits
from waiting import HANG_S

HAS_IPV6 = socket.has_ipv6 and socket.has_dualstack_ipv6()


def answers(listener: socket.socket, host: str) -> bool:
    """Whether a connection to `host` reaches the listener."""
    listener.settimeout(10)
    try:
        with socket.create_connection((host, listener.getsockname()[1]), timeout=10), listener.accept()[0]:
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("localhost", ["localhost"]),
        ("0.0.0.0", ["127.0.0.1"]),
        pytest.param("::1", ["::1"], marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
        pytest.param("::", ["::1", "127.0.0.1", "localhost"], marks=pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")),
    ],
)
def test_a_listener_is_reached_by_every_address_that_it_stands_for(host, reached):
    with listen(host, 0) as listener:
        assert [answers(listener, each) for each in reached] == [True] * len(reached)


def looked_up(monkeypatch, *addresses: str) -> None:
    """Let the name `hub.example` have these addresses."""
    look_up = socket.getaddrinfo

    def found(host, port, **options):
        names = addresses if host == "hub.example" else (host,)
        return [each for name in names for each in look_up(name, port, **options)]

    monkeypatch.setattr(tcp.socket, "getaddrinfo", found)


@pytest.mark.skipif(not HAS_IPV6, reason="no IPv6")
@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("::1",), ("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
@pytest.mark.parametrize("at", ["127.0.0.1", "::1", "::", "hub.example"])
def test_a_name_is_dialled_at_whichever_of_its_addresses_answers(circle, threads, monkeypatch, addresses, at):
    looked_up(monkeypatch, *addresses)
    if at not in ("::", "hub.example", *addresses):
        with pytest.raises(TransportError) as caught:
            TlsChannel.connect(circle.credentials("north"), "hub", "hub.example", 9)
        assert all(f"{place(each, 9)}: Connection refused" in str(caught.value) for each in addresses)
        return
    hub = TlsHub.listen(circle.credentials("hub"), at, 0)
    dialling = threads.submit(TlsChannel.connect, circle.credentials("north"), "hub", "hub.example", hub.port)
    hub.wait_for(["north"], timeout=20)
    dialling.result(20).close()
    hub.close()


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "no\x00name", "nobody.invalid", "203.0.113.300"])
def test_what_is_no_address_is_an_error_that_names_it(circle, host):
    with pytest.raises(TransportError, match=r"^member 'hub' at .*cannot be reached"):
        TlsChannel.connect(circle.credentials("north"), "hub", host, 7)
    with pytest.raises(TransportError, match=r"^cannot listen at .*choose another address or port"):
        listen(host, 0)


def test_addresses_are_written_as_people_write_them():
    assert place("10.0.0.1", 7) == "10.0.0.1:7"
    assert place("::1", 7) == "[::1]:7"
    assert place("::ffff:10.0.0.1", 7) == "10.0.0.1:7"
    assert place("hub.example", 7) == "hub.example:7"


# Lines that carry nothing. Real ones, in namespaces, stand in `tests/network`.


class Line:
    """A TCP connection on loopback."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.near = socket.create_connection(listener.getsockname())
        self.far, _ = listener.accept()
        listener.close()
        self.told: list[Notice] = []

    def watch(self, limit_s: float) -> SilenceWatch:
        return SilenceWatch(self.near, limit_s, "north", self.told.append)

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


class Clock:
    """What `time.monotonic` says to `tcp`."""

    def __init__(self, monkeypatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(tcp.time, "monotonic", lambda: self.now)

    def look(self, watch: SilenceWatch, seconds: float) -> None:
        """Look once a second."""
        for _ in range(round(seconds)):
            self.now += 1.0
            watch.look()


def info(unacked: int = 0, acked: int = 0, window: int = 1, probes: int = 0) -> bytes:
    """What Linux says of a connection."""
    said = bytearray(256)
    said[3] = probes
    struct.pack_into("=I", said, 24, unacked)
    struct.pack_into("=Q", said, 120, acked)
    struct.pack_into("=I", said, 228, window)
    return bytes(said)


class Said:
    """A connection that says what a test wants."""

    def __init__(self, **said: int) -> None:
        self.info = info(**said)

    def getsockopt(self, *_: int) -> bytes:
        return self.info


def test_a_line_on_which_nothing_is_acknowledged_is_told_and_then_cut(monkeypatch):
    clock, told, line = Clock(monkeypatch), [], Said(unacked=3, acked=100)
    watch = SilenceWatch(line, 40.0, "north", told.append)  # type: ignore[arg-type]
    clock.look(watch, 40)
    assert [round(notice.seconds) for notice in told] == [3, 8, 13, 18, 23, 28, 33, 38]
    assert {(notice.kind, notice.member, notice.limit_s) for notice in told} == {("stalled", "north", 40.0)}
    with pytest.raises(LineSilent, match="nothing that was sent to it was acknowledged for 40 s"):
        clock.look(watch, 1)


def test_a_line_that_heals_by_itself_is_told_too(monkeypatch):
    clock, told, line = Clock(monkeypatch), [], Said(unacked=3, acked=100)
    watch = SilenceWatch(line, 40.0, "north", told.append)  # type: ignore[arg-type]
    clock.look(watch, 35)
    line.info = info(unacked=2, acked=101)
    clock.look(watch, 39)
    assert [notice.kind for notice in told[7:9]] == ["back", "stalled"]
    line.info = info()
    clock.look(watch, 100)
    assert told[-1].kind == "back"


@pytest.mark.parametrize(
    "said",
    [
        {"acked": 100},
        {"acked": 100, "window": 0},
        {"acked": 100, "window": 0, "unacked": 1},
        {"acked": 100, "window": 0, "probes": 1},
    ],
    ids=["nothing under way", "no room at the other end", "no room for what is under way", "a question under way"],
)
def test_an_end_that_computes_for_long_is_not_silent(monkeypatch, said):
    clock, told = Clock(monkeypatch), []
    clock.look(SilenceWatch(Said(**said), 40.0, "north", told.append), 10_000)  # type: ignore[arg-type]
    assert not told


def test_questions_without_an_answer_are_silence(monkeypatch):
    """No room at the other end, or nothing under way, and then its machine vanishes."""
    clock, told = Clock(monkeypatch), []
    watch = SilenceWatch(Said(window=0, probes=2), 40.0, "north", told.append)  # type: ignore[arg-type]
    with pytest.raises(LineSilent):
        clock.look(watch, 50)


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="the system does not say")
def test_a_real_connection_whose_reader_sleeps_is_not_silent(line):
    """Its buffers full, the reader's system acknowledges; the fields are where Linux's header puts them."""
    line.near.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += line.near.send(bytes(2**16))
    watch = line.watch(2.0)
    give_up = time.monotonic() + 4.5
    while time.monotonic() < give_up:
        watch.look()
        time.sleep(0.3)
    assert not line.told
    said = line.near.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    assert struct.unpack_from("=I", said, 228)[0] == 0
    assert 0 < struct.unpack_from("=Q", said, 120)[0] <= sent + 1


def test_the_silence_fits_into_the_reconnect_timeout():
    assert [silence_for(seconds) for seconds in (60.0, 600.0, 30.0, 3.0, 0.5, 0.0)] == [
        40.0,
        40.0,
        20.0,
        2.0,
        1.0,
        40.0,
    ]


@pytest.mark.parametrize("end", ["member", "hub"])
def test_both_ends_of_tls_cut_a_silent_line_while_they_wait(network, monkeypatch, end):
    """The watch of the end that waits is made to see a line on which nothing is acknowledged."""
    hub = network.hub(silence_s=0.2)
    (north,) = network.connect(hub, "north")
    monkeypatch.setattr(SilenceWatch, "_waits_for", lambda _: 1)
    monkeypatch.setattr(tcp, "LOOK_S", 0.05)
    if end == "hub":
        with pytest.raises(MemberLost, match="'north': nothing that was sent to it was acknowledged") as caught:
            hub.receive(20)
        assert caught.value.broken
    else:
        north._watch._limit_s = 0.2
        with pytest.raises(LinkLost, match="the hub is gone: nothing that was sent to it was acknowledged"):
            north.receive(20)


# Looking before sleeping


def test_an_end_looks_for_frames_only_where_the_last_one_came_fast(monkeypatch):
    lookout, now = Lookout(0.001), [0.0]
    monkeypatch.setattr(tcp.time, "perf_counter", lambda: now[0])

    def waited(seconds: float) -> bool:
        lookout.begin()
        looks = lookout.until > now[0]
        now[0] += seconds
        lookout.end()
        return looks

    assert [waited(s) for s in (0.0005, 0.005, 0.1, 0.1, 0.005, 0.005)] == [True, True, True, False, False, True]


def test_bytes_that_trickle_in_are_looked_for_no_longer_than_one_frame(monkeypatch):
    lookout, now, polls = Lookout(0.001), [0.0], []

    class Admission:
        def poll(self, milliseconds: float) -> list:
            polls.append(milliseconds)
            now[0] += 0.0003
            return [(7, select.POLLIN)]

    monkeypatch.setattr(tcp.time, "perf_counter", lambda: now[0])
    lookout.begin()
    for _ in range(100):
        lookout.sees(Admission(), None)  # type: ignore[arg-type]
        now[0] += 0.0001
    assert 0 < len(polls) < 4


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends evenly")
def test_every_connection_that_an_end_makes_or_takes_sends_no_faster_than_it_may(network, circle, monkeypatch):
    tuned: list[socket.socket] = []

    def noted(plain, silence_s, most_bytes_per_s):
        tuned.append(plain)
        tcp.tune(plain, silence_s, most_bytes_per_s)

    for module in (tls, tls_handshakes):
        monkeypatch.setattr(module, "tune", noted)
    hub = network.hub(most_bytes_per_s=1_000_000)
    dialled = network.dialling(hub, "north", most_bytes_per_s=2_000_000)
    hub.wait_for(["north"], HANG_S)
    dialled.result(HANG_S)
    other = TlsHub.without_listener(circle.credentials("south"), HubLimits(most_bytes_per_s=3_000_000))
    future = network.dial(other, "hub", hub)
    hub.wait_for(["south"], HANG_S)
    future.result(HANG_S)
    try:
        assert sorted(rate_of(plain) for plain in tuned) == [1_000_000, 1_000_000, 2_000_000, 3_000_000]
    finally:
        other.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux sends evenly")
def test_a_rate_beyond_what_the_system_knows_is_no_limit_and_none_is_the_systems_own(threads):
    with socket.create_server(("127.0.0.1", 0)) as admission:
        rates = []
        for given in (0, 1, 2**31, 2**40):
            with socket.create_connection(admission.getsockname()) as plain:
                tcp.tune(plain, most_bytes_per_s=given)
                rates.append(rate_of(plain))
    assert rates == [2**64 - 1, 1, 2**31, 2**32 - 2]


def rate_of(plain: socket.socket) -> int:
    """Bytes a second that the system sends over a connection at most."""
    return int.from_bytes(plain.getsockopt(socket.SOL_SOCKET, 47, 8), sys.byteorder)
