"""Members that dial through an HTTP proxy of the tests' own, and proxies that refuse, fail or are none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from hansa.errors import TransportError
from hansa.transport.proxy import ProxyRefusal, read_proxy
from hansa.transport.tls import TlsChannel
from http_proxy import HttpProxy


@pytest.fixture
def proxies() -> Iterator[list[HttpProxy]]:
    made: list[HttpProxy] = []
    yield made
    for proxy in made:
        proxy.close()


def url(proxy: HttpProxy, login: str = "") -> str:
    return f"http://{login}{'@' if login else ''}127.0.0.1:{proxy.port}"


@pytest.mark.parametrize("login", ["", "ward:secret", "w%40rd:s%3Acret"])
def test_frames_pass_through_a_proxy_that_reads_nothing(network, proxies, login):
    proxies.append(proxy := HttpProxy(login.replace("%40", "@").replace("%3A", ":")))
    hub = network.hub()
    dialling = network.dialling(hub, "north", proxy=read_proxy(url(proxy, login)))
    hub.wait_for(["north"], timeout=10)
    north = dialling.result(10)
    north.send(b"known plaintext, up" * 99)
    assert bytes(hub.receive(10)[1]) == b"known plaintext, up" * 99
    hub.send("north", b"known plaintext, down" * 99)
    assert bytes(north.receive(10)) == b"known plaintext, down" * 99
    assert proxy.asked[0].startswith(f"CONNECT 127.0.0.1:{hub.port} HTTP/1.1\r\nHost: 127.0.0.1:{hub.port}\r\n")
    assert len(proxy.passed) > 2000
    assert b"known plaintext" not in proxy.passed


def test_an_end_with_several_connections_dials_through_a_proxy(network, proxies):
    proxies.append(proxy := HttpProxy())
    north, south = network.server("north"), network.end("south")
    dialling = network.dial(south, "north", north, proxy=read_proxy(url(proxy)))
    north.wait_for(["south"], timeout=10)
    dialling.result(10)
    assert len(proxy.asked) == 1


def dial(circle, port: int, proxy: HttpProxy | str, **options) -> None:
    text = proxy if isinstance(proxy, str) else url(proxy)
    TlsChannel.connect(circle.credentials("north"), "hub", "127.0.0.1", port, proxy=read_proxy(text), **options)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
            "wants a user and a password: write proxy = .*status 407",
        ),
        (b"HTTP/1.0 403 Forbidden\r\nX: y\r\n\r\n<html>", "does not allow connections there .status 403, Forbidden"),
        (b"HTTP/1.1 405 \r\n\r\n", "does not allow connections there .status 405"),
    ],
)
def test_a_refusal_of_the_proxy_is_said_at_once(circle, proxies, answer, said):
    proxies.append(proxy := HttpProxy(answer=answer))
    with pytest.raises(
        ProxyRefusal, match=rf"member 'hub' at 127\.0\.0\.1:7: the proxy 127\.0\.0\.1:{proxy.port} {said}"
    ):
        dial(circle, 7, proxy, retry_for_s=60)
    assert len(proxy.asked) == 1


def test_a_wrong_password_is_told_apart_from_none(circle, proxies):
    proxies.append(proxy := HttpProxy("ward:secret"))
    with pytest.raises(ProxyRefusal, match="does not take this user and password") as caught:
        dial(circle, 7, url(proxy, "ward:wrong"))
    assert "wrong" not in str(caught.value)


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"503 Service Unavailable", b"504 Gateway Timeout"])
def test_a_hub_that_the_proxy_cannot_reach_is_dialled_again(circle, proxies, status):
    proxies.append(proxy := HttpProxy(answer=b"HTTP/1.1 " + status + b"\r\n\r\n"))
    with pytest.raises(
        TransportError, match=rf"the proxy .* cannot connect there .status {status[:3].decode()}, .*is the hub started"
    ):
        dial(circle, 7, proxy, retry_for_s=0.3)
    assert len(proxy.asked) > 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "answered with something else than HTTP/1; is it an HTTP proxy"),
        (b"HTTP/1.1 200", "hung up after 12 bytes of its answer"),
        (b"HTTP/1.1 twohundred\r\n\r\n", "answered without a status"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "answered without a status"),
        (b"HTTP/1.1\r\n\r\n", "answered without a status"),
        (b"", "hung up after 0 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 9999, "answered with something else"),
    ],
)
def test_whoever_is_no_proxy_is_named(circle, proxies, answer, said):
    proxies.append(proxy := HttpProxy(answer=answer))
    with pytest.raises(TransportError, match=rf"the proxy 127\.0\.0\.1:{proxy.port} {said}"):
        dial(circle, 7, proxy)


def test_control_characters_in_a_proxys_answer_are_left_out(circle, proxies):
    proxies.append(proxy := HttpProxy(answer=b"HTTP/1.1 502 \x1b[31mred\x07\r\n\r\n"))
    with pytest.raises(TransportError, match="status 502") as caught:
        dial(circle, 7, proxy)
    assert str(caught.value).isprintable()


def test_a_proxy_that_says_nothing_is_given_up_in_time(circle):
    timed_out = pytest.raises(TransportError, match=r"the proxy 127\.0\.0\.1:\d+: timed out")
    with socket.create_server(("127.0.0.1", 0)) as mute, timed_out:
        dial(circle, 7, f"http://127.0.0.1:{mute.getsockname()[1]}", timeout_s=0.3)


def test_a_proxy_that_nobody_runs_is_named(circle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(
        TransportError, match=rf"cannot be reached \(the proxy 127\.0\.0\.1:{port}: Connection refused\)"
    ):
        dial(circle, 7, f"http://127.0.0.1:{port}")


def test_what_a_file_may_say_of_a_proxy():
    proxy = read_proxy("http://u%3Aser%40x@[2001:db8::1]:8080".replace("%3A", ""), "p:w")
    assert (proxy.host, proxy.port, proxy.user, proxy.password) == ("2001:db8::1", 8080, "user@x", "p:w")
    assert read_proxy("http://proxy.example").port == 3128
    assert "secret" not in repr(read_proxy("http://u:secret@h:1"))


@pytest.mark.parametrize(
    ("text", "password"),
    [
        ("", ""),
        ("proxy.example:3128", ""),
        ("https://proxy.example:3128", ""),
        ("socks5://proxy.example:3128", ""),
        ("http://", ""),
        ("http://h:99999", ""),
        ("http://h:port", ""),
        ("http://h:1/path", ""),
        ("http://h:1?x", ""),
        ("http://h:1\r\nX: y", ""),
        ("http://u:secret@h:1", "secret"),
        ("http://h:1", "secret"),
        ("http://u%3Av:secret@h:1", ""),
        ("http://u%0D%0AX:secret@h:1", ""),
        ("http://u@h:1", "secret\x00"),
    ],
)
def test_what_no_file_may_say_of_a_proxy(text, password):
    with pytest.raises(ValueError, match=r"expected http://|password") as caught:
        read_proxy(text, password)
    assert "secret" not in str(caught.value)
