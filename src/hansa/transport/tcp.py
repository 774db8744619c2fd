"""TCP below TLS: addresses, options, dialling, and for how long the other end has acknowledged nothing.

A connection can end without a word: a middlebox forgets it, an address changes, a cable is cut. Nothing then arrives, and the system
goes on sending again for a quarter of an hour. What is *acknowledged* tells it much sooner, and tells it apart from a process
that computes for long: its system acknowledges all the same. `TCP_USER_TIMEOUT` cannot tell these apart, as it also ends a
connection whose other end has no room for more, so `SilenceWatch` asks the system itself (`TCP_INFO`).
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Protocol

from hansa.errors import TransportError, in_words
from hansa.transport.notices import EVERY_S, Notice, Notify
from hansa.transport.proxy import Proxy, ProxyRefusal

SILENCE_S = 40.0
"""Seconds that the other end's system may acknowledge nothing before the connection counts as broken."""

STALLED_S = 3.0
"""Seconds of the same before it is told."""

LOOK_S = 1.0
"""Seconds between two looks while an end waits."""

FAST = 8.0
"""An answer within so many times the time that an end looks for one is worth to be looked for next time too."""

_LISTEN_BACKLOG = 512
_FIRST_RETRY_S, _LONGEST_RETRY_S = 0.05, 1.0
_ADDRESS_S = 10.0
"""Seconds for each address of a name but the last: one that swallows packets must not take the time of the one that answers."""

_KEEPALIVE_PROBES = 4
_MAX_PACING_RATE, _MOST_RATE = 47, 2**32 - 2
"""Linux's SO_MAX_PACING_RATE (asm-generic/socket.h), and the greatest rate that four bytes say: older systems read no more of it."""
_INFO_BYTES = 256
_ACKED = struct.Struct("=Q")
_WORD = struct.Struct("=I")
_PROBES_AT, _UNACKED_AT, _ACKED_AT, _WINDOW_AT = 3, 24, 120, 228
"""Where Linux's `struct tcp_info` (linux/tcp.h) holds tcpi_probes, tcpi_unacked, tcpi_bytes_acked and tcpi_snd_wnd."""


class LineSilent(ConnectionError):
    """Nothing that was sent was acknowledged for too long."""


def silence_for(reconnect_timeout_s: float) -> float:
    """Seconds of silence after which a connection counts as broken, so noticing takes two thirds of the reconnect timeout at most."""
    return max(1.0, min(SILENCE_S, 2 * reconnect_timeout_s / 3)) if reconnect_timeout_s else SILENCE_S


def place(host: str, port: int) -> str:
    """An address as people write it: an IPv6 address in brackets, an IPv4 address that came over an IPv6 socket as IPv4."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if isinstance(address, ipaddress.IPv6Address):
            return f"[{host}]:{port}" if address.ipv4_mapped is None else f"{address.ipv4_mapped}:{port}"
    return f"{host}:{port}"


def tune(plain: socket.socket, silence_s: float = SILENCE_S, most_bytes_per_s: int = 0) -> None:
    """Send frames at once, and have the system ask an end that says nothing whether it is there, within the same silence.

    `most_bytes_per_s` is what the system may send over it, evenly; 0 leaves that to the system. Raises OSError.
    """
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = max(1, math.floor(silence_s / 2))
    between = max(1, math.floor((silence_s - idle) / _KEEPALIVE_PROBES))
    if most_bytes_per_s:
        plain.setsockopt(socket.SOL_SOCKET, _MAX_PACING_RATE, _ACKED.pack(min(most_bytes_per_s, _MOST_RATE)))
    # Systems that have the second name lack the first.
    options = {"TCP_KEEPIDLE": idle, "TCP_KEEPALIVE": idle, "TCP_KEEPINTVL": between, "TCP_KEEPCNT": _KEEPALIVE_PROBES}
    for option, value in options.items():
        if hasattr(socket, option):
            plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class SilenceWatch:
    """Whether what was sent over a connection is acknowledged. Tells "stalled" when it is not, and "back" when it is again.

    An end without room for more acknowledges, and is not silent, however long it computes.

    Args:
        plain: the connection. limit_s: seconds of silence that it may last. member: at the other end. notify: who is told.
    """

    __slots__ = ("_info", "_limit_s", "_looked", "_mark", "_member", "_notify", "_plain", "_since", "_told")

    def __init__(self, plain: socket.socket, limit_s: float, member: str, notify: Notify) -> None:
        self._plain = plain
        self._limit_s = limit_s
        self._member = member
        self._notify = notify
        self._info = getattr(socket, "TCP_INFO", None)
        self._looked = time.monotonic()
        self._mark: int | None = None
        self._since = self._told = 0.0

    def look(self) -> None:
        """Look, at most once in `LOOK_S`. Raises LineSilent after `limit_s` of silence."""
        now = time.monotonic()
        if now - self._looked < LOOK_S or self._info is None:
            return
        self._looked = now
        mark = self._waits_for()
        if mark is None or mark != self._mark:
            if self._told:
                self._told = 0.0
                self._notify(
                    Notice("back", self._member, seconds=now - self._since, text="its line carries data again")
                )
            self._mark, self._since = mark, now
            return
        silence = now - self._since
        if silence >= self._limit_s:
            raise LineSilent(
                f"nothing that was sent to it was acknowledged for {silence:.0f} s; the line seems to be cut"
            )
        if silence >= STALLED_S and now - self._told >= EVERY_S:
            self._told = now
            self._notify(
                Notice(
                    "stalled", self._member, (self._member,), silence, self._limit_s, "what is sent is not acknowledged"
                )
            )

    def _waits_for(self) -> int | None:
        """How much was acknowledged where more is on its way, -1 where a question whether it is there has no answer, else None."""
        try:
            info = self._plain.getsockopt(socket.IPPROTO_TCP, self._info or 0, _INFO_BYTES)
        except OSError:
            return None  # whoever reads or writes next is told why
        if len(info) < _ACKED_AT + _ACKED.size:
            return None
        has_room = len(info) < _WINDOW_AT + _WORD.size or _WORD.unpack_from(info, _WINDOW_AT)[0] > 0
        if has_room and _WORD.unpack_from(info, _UNACKED_AT)[0]:
            acknowledged: int = _ACKED.unpack_from(info, _ACKED_AT)[0]
            return acknowledged
        # One may be on its way; an answer sets the count back to 0.
        return -1 if info[_PROBES_AT] > 1 else None


class Lookout:
    """Whether it is worth while to look for a frame again and again before sleeping: only where the last one came fast.

    Waking up costs more than a short wait; but over a slow line, where bytes trickle in, looking costs a core and gains nothing.

    Args:
        spin_s: seconds to look for each frame at most; 0 never does.
    """

    __slots__ = ("_began", "_fast", "_spin_s", "until")

    def __init__(self, spin_s: float) -> None:
        self._spin_s = spin_s
        self._fast = True
        self._began = self.until = 0.0

    def begin(self) -> None:
        """A wait for a frame begins."""
        self._began = time.perf_counter()
        self.until = self._began + self._spin_s if self._fast else 0.0

    def end(self) -> None:
        """The frame is here."""
        self.until = 0.0
        self._fast = time.perf_counter() - self._began <= FAST * self._spin_s

    def sees(self, admission: select.poll, most_s: float | None) -> list[tuple[int, int]]:
        """What `admission` tells of while it is worth looking, `most_s` seconds at most; other processes run in between."""
        now = time.perf_counter()
        if now >= self.until:
            return []
        until = self.until if most_s is None else min(self.until, now + most_s)
        while not (events := admission.poll(0)) and time.perf_counter() < until:
            os.sched_yield()
        return events


class Listener(Protocol):
    """What connections come from, as `socket.socket` has it: a port, or a service that hands them on."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection, and the address that it comes from. Raises BlockingIOError, OSError."""

    def fileno(self) -> int:
        """A descriptor that is readable once there is a connection."""

    def getsockname(self) -> Any:
        """The address and port that others dial."""

    def setblocking(self, flag: bool, /) -> None:
        """As `socket.setblocking`."""

    def close(self) -> None:
        """Take no more connections."""


OpenListener = Callable[[str, int], Listener]
"""(host, port) -> what connections to there come from. Raises TransportError."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an address, or at the first of a name's that is this machine's; "::" is IPv4 and IPv6.

    Raises:
        TransportError: there is no such address here, or it is taken.
    """
    failures = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, OverflowError, ValueError) as error:
        raise TransportError(
            f"cannot listen at {place(host, port)} ({in_words(error)}); choose another address or port"
        ) from error
    for family, _, _, _, address in sorted(found, key=lambda each: each[0] != socket.AF_INET):
        both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
        try:
            return socket.create_server(address, family=family, backlog=_LISTEN_BACKLOG, dualstack_ipv6=both)
        except (OSError, OverflowError) as error:
            failures.append(f"{place(str(address[0]), port)}: {in_words(error)}")
    raise TransportError(
        f"cannot listen at {place(host, port)} ({'; '.join(failures)}); choose another address or port"
    )


def dial(
    host: str,
    port: int,
    where: str,
    deadline: Callable[[], float],
    retry_for_s: float,
    *,
    proxy: Proxy | None = None,
    tell: Callable[[float], None] = lambda _: None,
) -> socket.socket:
    """A TCP connection, through the proxy where there is one; goes on dialling for `retry_for_s` seconds while nobody answers.

    Args:
        where: whom it is to, for errors. deadline: when an attempt that begins now is given up, by `time.monotonic`.
        tell: told every few seconds since when it has been dialling.

    Raises:
        TransportError: nobody answers; names every address that was tried, and what was wrong there.
    """
    began = told = time.monotonic()
    pause = _FIRST_RETRY_S
    while True:
        try:
            return _connected(host, port, where, deadline(), proxy)
        except ProxyRefusal:
            raise
        except (OSError, OverflowError, ValueError, TransportError) as error:
            now = time.monotonic()
            if now + pause >= began + retry_for_s:
                if isinstance(error, TransportError):
                    raise
                raise TransportError(
                    f"{where}: cannot be reached ({in_words(error)}); is it started, and the port open?"
                ) from error
            if now - told >= EVERY_S:
                told = now
                tell(now - began)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_RETRY_S)


def _connected(host: str, port: int, where: str, deadline: float, proxy: Proxy | None) -> socket.socket:
    """A connection to the first address that takes one. Raises OSError, ValueError; TransportError where the proxy says no."""
    name, at = (host, port) if proxy is None else (proxy.host, proxy.port)
    found = socket.getaddrinfo(name, at, type=socket.SOCK_STREAM)
    failures = []
    for index, (family, kind, number, _, address) in enumerate(found):
        left = deadline - time.monotonic()
        plain = socket.socket(family, kind, number)
        try:
            plain.settimeout(max(0.001, left if index == len(found) - 1 else min(left, _ADDRESS_S)))
            plain.connect(address)
            if proxy is not None:
                proxy.open(plain, host, port, where, deadline)
        except OSError as error:
            plain.close()
            through = "" if proxy is None else "the proxy "
            failures.append(f"{through}{place(str(address[0]), at)}: {in_words(error)}")
        except BaseException:
            plain.close()
            raise
        else:
            return plain
    raise ConnectionError("; ".join(failures))
