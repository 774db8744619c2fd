"""What one call reads of a TLS connection: a record, or all that came."""

from __future__ import annotations

import socket

import pytest

from hansa.transport.tls_stream import TlsStream

RECORD = 2**14


@pytest.fixture
def ends(circle, threads):
    """Two ends of one connection after the handshake: the server's does not wait."""
    plain, other = socket.socketpair()
    server = TlsStream(plain, circle.credentials("hub").server_context(), server_side=True)
    client = TlsStream(other, circle.credentials("north").client_context("hub"))
    shaking = threads.submit(server.do_handshake)
    client.do_handshake()
    shaking.result()
    server.settimeout(0)
    yield server, client
    server.close()
    client.close()


def test_read_takes_one_record_and_read_on_all_that_are_here(ends):
    server, client = ends
    content = bytes(i % 251 for i in range(3 * RECORD + 100))
    client.write(b"first")
    client.write(content)
    client.flush()
    buffer = memoryview(bytearray(len(content) + 1))
    assert server.read(len(buffer), buffer) == 5
    assert server.read_on(len(buffer), buffer) == len(content)
    assert buffer[: len(content)] == content
    with pytest.raises(BlockingIOError):
        server.read_on(len(buffer), buffer)


def test_read_on_takes_no_more_than_asked_for(ends):
    server, client = ends
    content = bytes(i % 251 for i in range(2 * RECORD))
    client.write(content)
    client.flush()
    buffer = memoryview(bytearray(len(content)))
    assert server.read_on(RECORD + 10, buffer) == RECORD + 10
    assert server.pending()
    assert server.read_on(len(buffer), buffer[RECORD + 10 :]) == RECORD - 10
    assert buffer == content


def test_what_came_before_the_end_is_read_first(ends):
    server, client = ends
    client.write(b"last words")
    client.flush()
    client.hang_up()
    buffer = memoryview(bytearray(100))
    assert server.read_on(100, buffer) == 10
    assert server.read_on(100, buffer) == 0
