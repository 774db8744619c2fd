"""One port for several runs: names in the first message of TLS, and connections that are handed on untouched."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from hansa.errors import OtherVersion, RunUnknown, TransportError
from hansa.transport import routing
from hansa.transport.credentials import Credentials
from hansa.transport.notices import Notice
from hansa.transport.resumable import ResumableChannel, ResumableHub
from hansa.transport.routing import HandedListener, NotYet, Router, local_pair, route_of, server_name
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from waiting import HANG_S, until

DIGEST = bytes(range(32))


def hello(name: str, protocols: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL sends first."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if protocols:
        context.set_alpn_protos([each.encode() for each in protocols])
    connection = SSL.Connection(context, None)
    if name:
        connection.set_tlsext_host_name(name.encode())
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(2**16)


@pytest.mark.parametrize("name", ["", "a.run.hansa", route_of(DIGEST), "x" * 200 + ".example"])
@pytest.mark.parametrize("protocols", [(), ("hansa/7", "hansa/8")], ids=str)
def test_the_name_is_found_where_openssl_puts_it(name: str, protocols: tuple[str, ...]):
    whole = hello(name, protocols)
    assert server_name(whole) == name
    assert server_name(whole + b"more") == name
    for size in range(len(whole)):
        with pytest.raises(NotYet):
            server_name(whole[:size])


def test_a_route_is_a_host_name_of_half_the_digest():
    assert route_of(DIGEST) == "000102030405060708090a0b0c0d0e0f.run.hansa"


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_name_or_refused(content: bytes):
    with contextlib.suppress(NotYet, ValueError):
        server_name(content)


@given(st.data())
def test_a_damaged_message_is_a_name_or_refused(data: st.DataObject):
    whole = bytearray(hello("a.run.hansa"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotYet, ValueError):
        server_name(bytes(whole))


def routed(circle, member: str, route: str) -> Credentials:
    plain = circle.credentials(member)
    return Credentials(plain.member, plain.certificate, plain.key, plain.certificates, (), route)


def test_two_runs_behind_one_port(circle):
    router = Router("127.0.0.1", 0)
    pairs = {name: local_pair() for name in ("one.run.hansa", "two.run.hansa")}
    hubs = {
        name: TlsHub.listen(
            circle.credentials("hub"), "", 0, open_listener=lambda *_, own=theirs: HandedListener(own, *router.address)
        )
        for name, (_, theirs) in pairs.items()
    }
    router.serve({name: ours for name, (ours, _) in pairs.items()})
    try:
        for name, hub in hubs.items():
            assert hub.port == router.address[1]
            got = []
            thread = threading.Thread(target=lambda hub=hub, got=got: got.append(bytes(hub.receive(HANG_S)[1])))
            thread.start()
            channel = TlsChannel.connect(routed(circle, "north", name), "hub", *router.address)
            channel.send(name.encode())
            thread.join(HANG_S)
            assert got == [name.encode()]
            channel.close()
        assert (router.handed, router.refused) == (2, 0)
    finally:
        for hub in hubs.values():
            hub.close()
        router.close()
        for pair in pairs.values():
            for end in pair:
                end.close()


@pytest.mark.parametrize("route", ["", "other.run.hansa"])
def test_a_run_that_the_service_does_not_know_is_refused_by_name_and_waited_for(circle, route: str, monkeypatch):
    monkeypatch.setattr("hansa.transport.tls.EVERY_S", 0.0)
    router = Router("127.0.0.1", 0)
    told: list[Notice] = []
    try:
        with pytest.raises(RunUnknown, match=r"'hub'.*does not take part in this run, or not yet"):
            TlsChannel.connect(
                routed(circle, "north", route), "hub", *router.address, retry_for_s=0.3, notify=told.append
            )
        assert router.refused > 1
        assert RunUnknown.retry
        assert told[0].waiting_for == ("hub",)
    finally:
        router.close()


def test_what_is_no_tls_is_answered_by_an_alert_and_a_slow_one_holds_nobody_up(circle):
    router = Router("127.0.0.1", 0)
    ours, theirs = local_pair()
    router.serve({"one.run.hansa": ours})
    try:
        slow = socket.create_connection(router.address)
        slow.sendall(hello("one.run.hansa")[:10])
        with socket.create_connection(router.address) as other:
            other.sendall(b"GET / HTTP/1.1\r\n\r\n")
            other.settimeout(HANG_S)
            assert other.recv(100) == bytes((21, 3, 3, 0, 2, 2, 112))
            assert other.recv(100) == b""
        slow.sendall(hello("one.run.hansa")[10:])
        theirs.settimeout(HANG_S)
        listener = HandedListener(theirs, *router.address)
        plain, address = listener.accept()
        assert address == slow.getsockname()
        plain.close()
        slow.close()
        until(lambda: router.handed == 1, "the count of what was handed on")
    finally:
        router.close()
        ours.close()
    with pytest.raises(OSError, match="service is gone"):
        listener.accept()
    theirs.close()


def speaking(circle, member: str, *protocols: str) -> Credentials:
    plain = circle.credentials(member)
    return Credentials(plain.member, plain.certificate, plain.key, plain.certificates, protocols)


@pytest.mark.parametrize(
    ("hub", "member", "text"),
    [
        (("hansa/8",), ("hansa/7",), "'north' speaks hansa/7, and this hub hansa/8"),
        (("hansa/8",), (), "'north' speaks no version that it names.* this hub hansa/8"),
        ((), ("hansa/7",), "speaks no version of the protocol that this member does .hansa/7."),
        (("hansa/8", "hansa/7"), ("hansa/7", "hansa/6"), ""),
    ],
)
@pytest.mark.parametrize("resumable", [False, True])
def test_versions_are_agreed_on_or_refused_by_name(circle, hub, member, text: str, resumable: bool):
    kinds = (ResumableHub, ResumableChannel) if resumable else (TlsHub, TlsChannel)
    listening = kinds[0].listen(speaking(circle, "hub", *hub), "127.0.0.1", 0, allowed=["north"])
    done = threading.Event()

    def serve() -> None:
        while not done.is_set():
            with contextlib.suppress(TransportError):
                listening.wait_for(["north"], 0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if not text:
            kinds[1].connect(speaking(circle, "north", *member), "hub", "127.0.0.1", listening.port).close()
            return
        with pytest.raises(TransportError, match=text) as refused:
            kinds[1].connect(speaking(circle, "north", *member), "hub", "127.0.0.1", listening.port)
        if member:
            assert isinstance(refused.value, OtherVersion)
            assert refused.value.retry, "once the older end is brought up to date, the run can begin"
    finally:
        done.set()
        thread.join()
        listening.close()


def test_more_slow_beginnings_than_may_wait_do_not_end_the_port(monkeypatch):
    """Anybody can send the first byte of a message and no more, many times over: the oldest is dropped while it is being waited for."""
    monkeypatch.setattr(routing, "_MOST_PENDING", 2)
    router = Router("127.0.0.1", 0)
    try:
        with contextlib.ExitStack() as slow:
            for _ in range(40):
                one = slow.enter_context(socket.create_connection(router.address, HANG_S))
                one.sendall(b"\x16")
                time.sleep(0.01)  # so that it is looked at, and paused
            with socket.create_connection(router.address, HANG_S) as last:
                last.settimeout(HANG_S)
                last.sendall(hello("nobody.run.hansa"))
                assert last.recv(100) == routing._UNRECOGNIZED
    finally:
        router.close()
