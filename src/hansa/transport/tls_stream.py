"""One TLS connection, encrypted and decrypted in memory: a system call carries many records, not one.

`ssl.SSLSocket` makes two system calls for each record of 16 KiB that it reads and one for each that it writes. Here `ssl.SSLObject`
works on buffers in memory, which a socket fills and empties some hundred KiB at a time. The protocol, and every check of it, is the
`ssl` module's all the same.

Of what `write` encrypts the system may not take all at once, where the socket does not wait: the rest is kept (`unsent`) and goes out
with later calls of `flush`.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable
from typing import cast

READ_BYTES = 2**18
"""Bytes asked of the system at once."""

FLUSH_BYTES = 2**18
"""Encrypted bytes above which `write` hands them to the system before it encrypts more: the other end decrypts some meanwhile."""

NOTHING = memoryview(b"")


class TlsStream:
    """A TLS connection over a connected socket, which it owns.

    Args:
        plain: the socket. context: as `Credentials` makes them. server_side: which end this is.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, *, server_side: bool = False) -> None:
        self._plain = plain
        self._timeout = plain.gettimeout()
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._decrypt = cast(Callable[[int, memoryview], int], self._tls.read)
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._sealed: deque[memoryview] = deque()
        self.unsent = 0
        """Encrypted bytes that the system has not taken yet."""

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._plain.fileno()

    def settimeout(self, seconds: float | None) -> None:
        """As `socket.settimeout`; 0 never waits."""
        if seconds != self._timeout:
            self._plain.settimeout(seconds)
            self._timeout = seconds

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session."""
        return bool(self._tls.session_reused)

    def certificate(self) -> bytes | None:
        """The other end's certificate, DER, once the handshake is done."""
        return self._tls.getpeercert(binary_form=True)

    def do_handshake(self) -> None:
        """Shake hands, as far as that goes without waiting where the socket does not wait.

        Raises:
            ssl.SSLWantReadError: call again once there is something to read. OSError: it failed; the other end has been told why.
        """
        try:
            while True:
                try:
                    self._tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    self._collect()
                    self.flush()
                    self._fill()
        finally:
            self._collect()
            # Where it failed the alert should reach the other end; that it cannot is no news.
            with contextlib.suppress(OSError):
                self.flush()

    def read(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes of one record into `buffer`; 0 where the other end has hung up.

        Raises:
            ssl.SSLWantReadError: nothing is there, and the socket does not wait. TimeoutError, OSError: as sockets do.
        """
        while True:
            if self._incoming.pending or self._tls.pending():
                try:
                    return self._decrypt(size, buffer)
                except ssl.SSLWantReadError:
                    self._answer()
                except ssl.SSLZeroReturnError:
                    return 0
            if not self._fill():
                return 0

    def read_on(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes into `buffer`, of as many records as are here; otherwise as `read`."""
        have = self.read(size, buffer)
        decrypt, incoming = self._decrypt, self._incoming
        # Once for each 16 KiB of a run: what stands here is felt.
        while 0 < have < size and (incoming.pending or self._tls.pending()):
            try:
                have += decrypt(size - have, buffer[have:])
            except ssl.SSLWantReadError:
                self._answer()
                break
            except ssl.SSLZeroReturnError:
                break
        return have

    def pending(self) -> bool:
        """Whether bytes are here that waiting for the socket would not tell of; not all of a record, maybe."""
        return bool(self._incoming.pending or self._tls.pending())

    def write(self, piece: bytes | memoryview) -> None:
        """Encrypt bytes; they leave with `flush`, or before where they are many."""
        self._tls.write(piece)
        if self._outgoing.pending >= FLUSH_BYTES:
            self._collect()
            self.flush()

    def flush(self) -> int:
        """Hand over what the system takes now, all of it where the socket waits; returns the bytes taken. Raises OSError."""
        self._collect()
        before = self.unsent
        while self._sealed:
            try:
                taken = self._plain.send(self._sealed[0])
            except BlockingIOError:
                break
            self.unsent -= taken
            if taken < len(self._sealed[0]):
                self._sealed[0] = self._sealed[0][taken:]
            else:
                self._sealed.popleft()
        return before - self.unsent

    def hang_up(self) -> None:
        """Close the connection so that the other end can still read what was sent last. Safe to call twice.

        Bytes left unread would turn the close into a reset, which may overtake an alert or a refusal.
        """
        with contextlib.suppress(OSError):
            self.settimeout(0)
            self._plain.shutdown(socket.SHUT_WR)
            for _ in range(64):
                if not self._plain.recv(2**16):
                    break
        self.close()

    def close(self) -> None:
        """Close the socket. Safe to call twice."""
        self._plain.close()

    def _answer(self) -> None:
        """Send what TLS itself has to say."""
        if self._outgoing.pending:
            self._collect()
            self.flush()

    def _collect(self) -> None:
        if self._outgoing.pending:
            sealed = memoryview(self._outgoing.read())
            self._sealed.append(sealed)
            self.unsent += len(sealed)

    def _fill(self) -> int:
        """Take what the system has; 0 where the other end has hung up. Raises ssl.SSLWantReadError, TimeoutError, OSError."""
        try:
            count = self._plain.recv_into(self._buffer)
        except BlockingIOError as error:
            raise ssl.SSLWantReadError("nothing to read yet") from error
        if count:
            self._incoming.write(self._buffer[:count])
        else:
            self._incoming.write_eof()
        return count
