"""What one call reads of a TLS connection, how it waits, and what becomes of bytes that the system does not take."""

from __future__ import annotations

import socket
import time

import pytest
from OpenSSL import SSL, crypto

from hansa.transport.tls_stream import TlsError, TlsStream

RECORD = 2**14
WAYS = {
    "directly": (TlsStream._take_directly, TlsStream._give_directly),
    "copies": (TlsStream._take_copies, TlsStream._give_publicly),
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Both ways of reading and writing: pyOpenSSL's own, and the faster one that goes past it."""
    take, give = WAYS[request.param]
    monkeypatch.setattr(TlsStream, "_take", take)
    monkeypatch.setattr(TlsStream, "_give", give)


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


def content_of(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


def test_the_installed_pyopenssl_lets_records_be_decrypted_into_the_buffer_and_written_from_it():
    assert TlsStream._take is TlsStream._take_directly
    assert TlsStream._give is TlsStream._give_directly


@pytest.mark.usefixtures("way")
def test_read_takes_one_record_and_read_on_all_that_are_here(ends):
    server, client = ends
    content = content_of(3 * RECORD + 100)
    client.write(b"first")
    client.write(content)
    buffer = memoryview(bytearray(len(content) + 1))
    assert server.read(len(buffer), buffer) == 5
    assert server.read_on(len(buffer), buffer) == len(content)
    assert buffer[: len(content)] == content
    with pytest.raises(BlockingIOError):
        server.read_on(len(buffer), buffer)


@pytest.mark.usefixtures("way")
def test_read_on_takes_no_more_than_asked_for(ends):
    server, client = ends
    content = content_of(2 * RECORD)
    client.write(content)
    buffer = memoryview(bytearray(len(content)))
    assert server.read_on(RECORD + 10, buffer) == RECORD + 10
    assert server.pending()
    assert server.read_on(len(buffer), buffer[RECORD + 10 :]) == RECORD - 10
    assert not server.pending()
    assert buffer == content


@pytest.mark.usefixtures("way")
def test_attack_no_more_is_written_than_the_buffer_holds(ends):
    """Whatever size is asked for: what lies behind the buffer in memory is somebody else's."""
    server, client = ends
    client.write(b"x" * 1000)
    whole = memoryview(bytearray(1000))
    assert server.read(1000, whole[:10]) == 10
    assert server.read_on(1000, whole[:500]) == 500
    assert whole == b"x" * 500 + bytes(500)


@pytest.mark.usefixtures("way")
def test_what_came_before_the_end_is_read_first(ends):
    server, client = ends
    client.write(b"last words")
    client.hang_up()
    buffer = memoryview(bytearray(100))
    assert server.read_on(100, buffer) == 10
    assert [server.read_on(100, buffer) for _ in range(2)] == [0, 0]


@pytest.mark.usefixtures("way")
def test_what_came_before_bytes_that_are_not_tls_is_read_first(ends):
    server, client = ends
    client.write(b"last words")
    client._plain.send(bytes(100))
    buffer = memoryview(bytearray(100))
    assert server.read_on(100, buffer) == 10
    for _ in range(2):
        with pytest.raises(TlsError, match="record"):
            server.read_on(100, buffer)


def test_what_the_system_does_not_take_is_kept_and_goes_out_in_order(ends, threads):
    server, client = ends
    content = content_of(RECORD)
    pieces = [bytes([number]) + content for number in range(200)]
    for piece in pieces:
        view = bytearray(piece)
        server.write(memoryview(view))
        view[:] = bytes(len(view))  # what is kept is a copy
    waited = server.unsent
    assert 0 < waited < sum(map(len, pieces))
    buffer = memoryview(bytearray(sum(map(len, pieces))))

    def read_all() -> None:
        have = 0
        while have < len(buffer):
            have += client.read_on(len(buffer) - have, buffer[have:])

    reading = threads.submit(read_all)
    taken = 0
    while server.unsent:
        taken += server.flush()
    reading.result()
    assert taken == waited
    assert buffer == b"".join(pieces)


def test_a_write_after_the_other_end_hung_up_leaves_its_last_words_readable(ends):
    server, client = ends
    client.write(b"last words")
    client.hang_up()
    with pytest.raises(BrokenPipeError):
        server.write(b"anything")
    buffer = memoryview(bytearray(100))
    assert server.read(100, buffer) == 10
    assert server.read(100, buffer) == 0


@pytest.mark.parametrize("spin_s", [0.0, 0.005, 60.0])
def test_a_read_waits_as_long_as_it_may(ends, threads, spin_s):
    server, client = ends
    client._spin_s = spin_s
    client.settimeout(0.05)
    buffer = memoryview(bytearray(100))
    with pytest.raises(TimeoutError) as caught:
        client.read(100, buffer)
    assert caught.value.errno is None
    client.settimeout(None)
    reading = threads.submit(client.read, 100, buffer)
    time.sleep(0.02)
    server.write(b"late")
    assert reading.result() == 4


def test_a_stalled_write_is_given_up(ends):
    server, client = ends
    client.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.write(bytes(2**24))
    assert server.pending() is False


def test_openssl_has_the_last_word_on_a_certificate(circle):
    from hansa.transport.tls_stream import note_verification

    certificate = circle.certificates["north"]
    shown = crypto.load_certificate(crypto.FILETYPE_ASN1, certificate)
    connection = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    assert note_verification(connection, shown, 0, 0, 1) is True
    assert connection.get_app_data() is None
    assert note_verification(connection, shown, 10, 0, 0) is False
    assert connection.get_app_data() == (10, certificate)
