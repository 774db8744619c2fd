"""A console's process: its socket, TLS where it is reached over a network, and the loop that serves its pages."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from hansa.console.accounts import Sessions
from hansa.console.app import Console
from hansa.console.book import Book
from hansa.console.member import Member
from hansa.errors import TransportError, in_words
from hansa.service.config import read_service_file
from hansa.service.store import Store

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
MOST_CONNECTIONS = 1000
"""Open at once; more are answered that the server is busy."""

CLOSE_S = 2
"""Seconds that requests have to end when the console does; streams of events never end by themselves."""


@dataclass(frozen=True)
class Listening:
    """A console that is about to serve.

    Attributes:
        console: its pages. socket: where it listens. address: for a browser. link: signs in an operator, once; or empty.
        accounts: how many there are. tls: certificate and key, or None.
    """

    console: Console
    socket: socket.socket
    address: str
    link: str
    accounts: int
    tls: tuple[Path, Path] | None


def listening(
    service_file: Path,
    host: str,
    port: int,
    names: Iterable[str],
    certificate: Path | None,
    key: Path | None,
    *,
    with_link: bool,
) -> Listening:
    """Read the member's files and listen.

    Args:
        host, port: where; port 0 takes a free one. names: more names by which browsers reach it. certificate, key: for TLS, both or
            neither. with_link: whether a link signs in an operator.

    Raises PlanError, IdentityError, OutputError; TransportError where the address is taken.
    """
    file = read_service_file(service_file, open_keys=False)
    book = Book(file.state)
    member = Member(file, Store(file.name, file.state, file.database), book)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise TransportError(
            f"--listen: cannot listen at {host}:{port} ({error.strerror or error}); choose another address or port"
        ) from error
    shown = f"[{host}]" if ":" in host else host
    place = bound.getsockname()[1]
    tls = (certificate, key) if certificate is not None and key is not None else None
    sessions = Sessions(book)
    console = Console(
        member, sessions, {*LOOPBACK_NAMES, shown, *(name.lower() for name in names)}, tls=tls is not None, port=place
    )
    address = f"{'https' if tls else 'http'}://{shown}:{place}/"
    link = f"{address}enter?token={sessions.new_link()}" if with_link else ""
    return Listening(console, bound, address, link, len(book.accounts()), tls)


def serve(made: Listening, there: Callable[[Listening], None]) -> None:
    """Serve until an exception passes, such as that of a signal. `there` is told once requests are answered.

    Raises TransportError where the certificate or its key cannot be used.
    """
    certificate, key = made.tls or (None, None)
    try:
        config = uvicorn.Config(
            made.console.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=CLOSE_S,
            h11_max_incomplete_event_size=2**16,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise TransportError(f"--tls-certificate, --tls-key: cannot be used: {in_words(error)}") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config, lambda: there(made))
    server.run(sockets=[made.socket])


class _Server(uvicorn.Server):
    """One that tells when it is there."""

    def __init__(self, config: uvicorn.Config, there: Callable[[], None]) -> None:
        super().__init__(config)
        self._there = there

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        self._there()
