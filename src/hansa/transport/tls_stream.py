"""One TLS connection over a socket, by the OpenSSL that the `cryptography` package brings.

pyOpenSSL's connection is used rather than the standard `ssl` module's for three reasons, each of which is felt where records of
16 KiB come by the thousand: that OpenSSL is a recent one on every machine, whatever the system's (releases before 3.1 leave a
processor's vector AES idle); it reads from and writes to the socket itself, with no buffers in memory between; and its reading call
can be given the place in a frame's buffer where the bytes belong. The protocol, and every check of it, is OpenSSL's all the same.

A stream that does not wait may not be able to write all at once: the rest is kept (`unsent`) and goes out with later calls of
`flush`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from hansa.transport.frames import RECORD_BYTES
from hansa.transport.tcp import LOOK_S, Lookout

_CORK = getattr(socket, "TCP_CORK", None)
"""Linux: hold back what does not fill a segment."""

_LIBRARY: Any = getattr(SSL, "_lib", None)
_FFI: Any = getattr(SSL, "_ffi", None)
"""What pyOpenSSL calls OpenSSL by. It is no public name of its, so a release may lack it."""

_WANTS = (SSL.WantReadError, SSL.WantWriteError)

_VERIFICATION = {
    9: "certificate is not yet valid",
    10: "certificate has expired",
    18: "self-signed certificate that is not trusted",
    20: "unable to get local issuer certificate",
}
"""OpenSSL's numbers of what may be wrong with a certificate (X509_V_ERR_* in its x509_vfy.h)."""

_OF_DATES = (9, 10)
"""Those that a clock decides."""


OFFERED: WeakKeyDictionary[SSL.Connection, tuple[str, ...]] = WeakKeyDictionary()
"""Versions of the protocol that the other end of a connection offered, as `Credentials` noted them."""


class TlsError(OSError):
    """The other end broke TLS, or would not have this one.

    Attributes:
        reason: OpenSSL's words for it. verification: what is wrong with the other end's certificate, if that is it.
        of_dates: whether it is not valid yet, or no more. certificate: the one that was refused, DER, which anybody may show; or empty.
    """

    def __init__(
        self, reason: str, verification: str = "", *, of_dates: bool = False, certificate: bytes = b""
    ) -> None:
        super().__init__(f"{reason}: {verification}" if verification else reason)
        self.reason = reason
        self.verification = verification
        self.of_dates = of_dates
        self.certificate = certificate


def note_verification(connection: SSL.Connection, shown: crypto.X509, number: int, _: int, fine: int) -> bool:
    """The contexts' callback: OpenSSL's abort reason stands, and what was wrong is kept for the error's text."""
    if not fine:
        connection.set_app_data((number, crypto.dump_certificate(crypto.FILETYPE_ASN1, shown)))
    return bool(fine)


class TlsStream:
    """A TLS connection over a connected socket, which it owns.

    Args:
        plain: the socket. context: as `Credentials` makes them. server_side: which end this is.
        spin_s: seconds that a read may look for a frame before it sleeps. route: as `Credentials` has it, for an end that dials.

    Attributes:
        lookout: for whoever reads frames to begin and end. meanwhile: called at least every `LOOK_S` seconds of waiting.
    """

    def __init__(
        self,
        plain: socket.socket,
        context: SSL.Context,
        *,
        server_side: bool = False,
        spin_s: float = 0.0,
        route: str = "",
    ) -> None:
        self._plain = plain
        self._timeout = plain.gettimeout()
        self.lookout = Lookout(spin_s)
        self.meanwhile: Callable[[], None] = lambda: None
        plain.setblocking(False)  # waiting is done here
        self._tls = SSL.Connection(context, plain)
        if server_side:
            self._tls.set_accept_state()
        else:
            if route:
                self._tls.set_tlsext_host_name(route.encode("ascii"))
            self._tls.set_connect_state()
        self._readable, self._writable, self._hung_up = select.poll(), select.poll(), select.poll()
        self._readable.register(plain.fileno(), select.POLLIN)
        self._writable.register(plain.fileno(), select.POLLOUT)
        self._hung_up.register(plain.fileno(), getattr(select, "POLLRDHUP", 0))
        self._ended: SSL.Error | None = None
        self._kept: deque[bytes] = deque()
        self.unsent = 0
        """Bytes that the system has not taken yet."""

    @property
    def socket(self) -> socket.socket:
        """The connection below."""
        return self._plain

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._plain.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """As `socket.settimeout`; 0 never waits."""
        self._timeout = seconds

    def certificate(self) -> bytes | None:
        """The other end's certificate, DER, once the handshake is done."""
        certificate = self._tls.get_peer_certificate(as_cryptography=True)
        return None if certificate is None else certificate.public_bytes(Encoding.DER)

    @property
    def protocol(self) -> str:
        """The version of the protocol that both ends agreed on, once the handshake is done; empty where there is none."""
        return self._tls.get_alpn_proto_negotiated().decode("ascii", "backslashreplace")

    @property
    def offered(self) -> tuple[str, ...]:
        """The versions that the other end, which dialled, says it speaks."""
        return OFFERED.get(self._tls, ())

    def do_handshake(self) -> None:
        """Shake hands, as far as that goes without waiting where the stream does not wait.

        Raises:
            BlockingIOError: call again once there is something to read. OSError: it failed; the other end has been told why.
        """
        while True:
            try:
                self._tls.do_handshake()
            except _WANTS as error:
                self._wait_for(error)
            except SSL.Error as error:
                self._check_hung_up(error)
                raise ConnectionAbortedError("the connection was closed") from error
            else:
                return

    def read(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes of one record into `buffer`; 0 where the other end has hung up.

        Raises:
            BlockingIOError: nothing is there, and the stream does not wait. TimeoutError, OSError: as sockets do.
        """
        return self._read(size, buffer, several=False)

    def read_on(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes into `buffer`, of as many records as are here; otherwise as `read`."""
        return self._read(size, buffer, several=True)

    def pending(self) -> bool:
        """Whether bytes are here that waiting for the socket would not tell of."""
        return self._tls.pending() > 0

    def write(self, fragment: bytes | memoryview) -> None:
        """Encrypt and send bytes; a stream that does not wait keeps what the system does not take. Raises TimeoutError, OSError."""
        if self._kept or not self._sent(fragment):
            self._kept.append(bytes(fragment))
            self.unsent += len(fragment)

    def write_run(self, parts: Iterable[bytes | memoryview], size: int) -> None:
        """`write` each part of a run of `size` bytes; more than a record's leave in full segments, whatever the records."""
        if size <= RECORD_BYTES or _CORK is None:
            for part in parts:
                self.write(part)
            return
        self._plain.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
        for part in parts:
            self.write(part)
        self._plain.setsockopt(socket.IPPROTO_TCP, _CORK, 0)

    def flush(self) -> int:
        """Send what was kept, as much of it as the system takes now; returns the bytes taken. Raises TimeoutError, OSError."""
        before = self.unsent
        while self._kept and self._sent(self._kept[0]):
            self.unsent -= len(self._kept.popleft())
        return before - self.unsent

    def hang_up(self) -> None:
        """Close the connection so that the other end can still read what was sent last. Safe to call twice.

        Bytes left unread would turn the close into a reset, which may overtake an alert or a refusal.
        """
        with contextlib.suppress(OSError):
            self._plain.shutdown(socket.SHUT_WR)
            for _ in range(64):
                if not self._plain.recv(2**16):
                    break
        self.close()

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._plain.close()

    def _read(self, size: int, buffer: memoryview, *, several: bool) -> int:
        """Read one record once it is here, and those behind it that are, where `several` are wanted."""
        if self._timeout != 0 and self._ended is None and not self._tls.pending():
            self._wait(self._readable)  # asking OpenSSL for what is not there costs more than asking the system
        while self._ended is None:
            try:
                return self._take(size, buffer, several)
            except _WANTS as error:
                self._wait_for(error)
            except SSL.Error as error:
                self._ended = error.with_traceback(None)
        self._check_hung_up(self._ended)
        return 0

    def _take_directly(self, size: int, buffer: memoryview, several: bool) -> int:
        """Decrypt into the buffer, by the function that `recv_into` calls too. Raises SSL.Error where there is no record."""
        connection, ssl, read_record = self._tls, self._tls._ssl, _LIBRARY.SSL_read
        # Given back at once: a view that is lent out must not become garbage (CPython 3.11 crashes when it collects one).
        with _FFI.from_buffer(buffer) as at:
            size = min(size, len(at))  # OpenSSL writes where it is told to
            have: int = read_record(ssl, at, size)
            if have <= 0:
                connection._raise_ssl_error(ssl, have)
            # Once for each 16 KiB of a run: what stands here is felt.
            while several and have < size:
                taken = read_record(ssl, at + have, size - have)
                if taken <= 0:
                    with self._for_later():
                        connection._raise_ssl_error(ssl, taken)
                    break
                have += taken
        return have

    def _take_copies(self, size: int, buffer: memoryview, several: bool) -> int:
        """The same by pyOpenSSL's public call, which makes room and copies for each record."""
        have: int = self._tls.recv_into(buffer, min(size, RECORD_BYTES))
        with self._for_later():
            while several and have < size:
                have += self._tls.recv_into(buffer[have:], min(size - have, RECORD_BYTES))
        return have

    _take = _take_directly if _LIBRARY and _FFI else _take_copies

    @contextlib.contextmanager
    def _for_later(self) -> Iterator[None]:
        """An end that comes behind what was read is for the next read to tell."""
        try:
            yield
        except _WANTS:
            pass
        except SSL.Error as error:
            self._ended = error.with_traceback(None)

    def _sent(self, fragment: bytes | memoryview) -> bool:
        """Send all of it, or False where the stream does not wait: then the same bytes have to be sent next."""
        # OpenSSL reads no more once it failed to write: what the other end sent last would be lost.
        if self._hung_up.poll(0):
            raise BrokenPipeError("the other end has hung up")
        while True:
            try:
                self._give(fragment)
            except _WANTS as error:
                if self._timeout == 0:
                    return False
                self._wait_for(error)
            except SSL.Error as error:
                self._check_hung_up(error)
                raise BrokenPipeError("the other end has hung up") from error
            else:
                return True

    def _give_directly(self, fragment: bytes | memoryview) -> None:
        """Encrypt and send, by the function that `send` calls too. Raises SSL.Error where that cannot be done now."""
        connection, ssl = self._tls, self._tls._ssl
        with _FFI.from_buffer(fragment) as at:
            written = _LIBRARY.SSL_write(ssl, at, len(at))
            if written <= 0:
                connection._raise_ssl_error(ssl, written)

    def _give_publicly(self, fragment: bytes | memoryview) -> None:
        """The same by pyOpenSSL's public call."""
        self._tls.send(fragment)

    _give = _give_directly if _LIBRARY and _FFI else _give_publicly

    def _wait_for(self, want: SSL.Error) -> None:
        """Wait until OpenSSL can do what it wants to. Raises BlockingIOError, TimeoutError, and what `meanwhile` does."""
        if self._timeout == 0:
            raise BlockingIOError("nothing can be done yet")
        self._wait(self._readable if isinstance(want, SSL.WantReadError) else self._writable)

    def _wait(self, admission: select.poll) -> None:
        """Wait until the socket can be read from, or written to. Raises TimeoutError, and what `meanwhile` does."""
        if admission is self._readable and self.lookout.sees(admission, self._timeout):
            return
        give_up = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            left = LOOK_S if give_up is None else max(0.0, give_up - time.monotonic())
            if admission.poll(1000 * min(LOOK_S, left)):
                return
            self.meanwhile()
            if give_up is not None and time.monotonic() >= give_up:
                raise TimeoutError("timed out")

    def _check_hung_up(self, error: SSL.Error) -> None:
        """Raise OSError unless all that is wrong is that the other end has hung up."""
        if isinstance(error, SSL.SysCallError):
            if (number := error.args[0]) > 0:
                raise OSError(number, os.strerror(number)) from error
        elif not isinstance(error, SSL.ZeroReturnError):
            number, certificate = self._tls.get_app_data() or (0, b"")
            verification = _VERIFICATION.get(number, f"error {number}") if number else ""
            refused = TlsError(_reason(error), verification, of_dates=number in _OF_DATES, certificate=certificate)
            raise refused from error


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words for what went wrong."""
    reasons = [entry[-1] for entry in error.args[0]] if error.args else []
    return "; ".join(reasons) or "the connection has failed before"


class Until:
    """A stream that raises TimeoutError once a moment has passed, however the bytes trickle."""

    def __init__(self, stream: TlsStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, size: int, buffer: memoryview) -> int:
        self._set_timeout()
        return self._stream.read(size, buffer)

    def read_on(self, size: int, buffer: memoryview) -> int:
        self._set_timeout()
        return self._stream.read_on(size, buffer)

    def _set_timeout(self) -> None:
        # Timeout 0 would mean "do not block", which raises another error.
        self._stream.settimeout(max(1e-6, self._deadline - time.monotonic()))
