"""Through a proxy to the hub: HTTP CONNECT (RFC 9110, section 9.3.6), as in networks that let nothing else out.

The proxy passes on bytes. TLS runs inside, from this member to the hub, so the proxy reads nothing and can change nothing unnoticed.
What it answers are untrusted text: bounded, and of them only the status is believed.
"""

from __future__ import annotations

import base64
import socket
import time
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from hansa.errors import TransportError

ANSWER_BYTES = 2**14
"""Of an answer's head, at most."""

EXPECTED = 'expected http://host:port, such as "http://proxy.example:3128" or "http://user@proxy.example:3128"'


class ProxyRefusal(TransportError):
    """The proxy will not let this member through; dialling again is of no use until somebody changes something."""

    retry = False
    follows = False


@dataclass(frozen=True)
class Proxy:
    """Where the proxy is, and who this member is to it.

    Attributes:
        host, port: its address. user: name to give, empty for none. password: never shown.
    """

    host: str
    port: int
    user: str = ""
    password: str = field(default="", repr=False)

    def open(self, plain: socket.socket, host: str, port: int, where: str, deadline: float) -> None:
        """Have the proxy connect to the hub; after that the connection is to the hub.

        Args:
            plain: a fresh connection to the proxy. host, port: of the hub. where: the hub, for errors.
            deadline: by `time.monotonic`.

        Raises:
            ProxyRefusal: the proxy refuses this member, its name or its password.
            TransportError: the proxy cannot reach the hub, or is no HTTP proxy. OSError: the connection failed.
        """
        plain.settimeout(max(0.001, deadline - time.monotonic()))
        plain.sendall(self._request(host, port))
        status, reason = self._answer(plain, where, deadline)
        if 200 <= status < 300:
            return
        here = f"{where}: the proxy {self.host}:{self.port}"
        status_text = f"status {status}{f', {reason}' if reason else ''}"
        match status:
            case 407:
                cure = (
                    "does not take this user and password"
                    if self.user
                    else 'wants a user and a password: write proxy = "http://user@host:port" and proxy_password_file'
                )
                raise ProxyRefusal(f"{here} {cure} ({status_text})")
            case 401 | 403 | 405:
                raise ProxyRefusal(
                    f"{here} does not allow connections there ({status_text}); ask whoever runs it to allow CONNECT to it"
                )
            case _:
                raise TransportError(
                    f"{here} cannot connect there ({status_text}); is the hub started, and its port open to the proxy?"
                )

    def _request(self, host: str, port: int) -> bytes:
        name = host.encode("idna").decode("ascii")  # its UnicodeError is dealt with as that of looking a name up
        there = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        lines = [f"CONNECT {there} HTTP/1.1".encode("ascii"), f"Host: {there}".encode("ascii")]
        if self.user or self.password:
            login = base64.b64encode(f"{self.user}:{self.password}".encode())
            lines.append(b"Proxy-Authorization: Basic " + login)
        return b"\r\n".join([*lines, b"", b""])

    def _answer(self, plain: socket.socket, where: str, deadline: float) -> tuple[int, str]:
        """(status, printable reason) of the proxy's answer; no byte behind its head is read."""
        head = bytearray()
        here = f"{where}: the proxy {self.host}:{self.port}"
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            plain.settimeout(max(0.001, deadline - time.monotonic()))
            byte = plain.recv(1)  # what comes behind the head is the hub's
            if not byte:
                raise TransportError(f"{here} hung up after {len(head)} bytes of its answer; is it an HTTP proxy?")
            head += byte
            if len(head) > ANSWER_BYTES or not b"HTTP/1.".startswith(head[:7]):
                raise TransportError(f"{here} answered with something else than HTTP/1; is it an HTTP proxy?")
        words = head.split(b"\n", 1)[0].split(None, 2)
        if len(words) < 2 or len(words[1]) != 3 or not words[1].isdigit():
            raise TransportError(f"{here} answered without a status; is it an HTTP proxy?")
        reason = words[2].decode("ascii", "replace") if len(words) > 2 else ""
        return int(words[1]), "".join(c for c in reason if c.isprintable())[:60]


def read_proxy(text: str, password: str = "") -> Proxy:
    """The proxy that a member's file names as http://[user[:password]@]host:port.

    Args:
        password: where it stands in a file of its own, that is what it holds.

    Raises:
        ValueError: says what is wrong; never quotes the password.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(EXPECTED) from error
    if (
        not text.isprintable()
        or parts.scheme != "http"
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
    ):
        raise ValueError(EXPECTED)
    user, given = unquote(parts.username or ""), unquote(parts.password or "")
    if given and password:
        raise ValueError("the password stands in it and in proxy_password_file; take it out of one of them")
    if password and not user:
        raise ValueError("proxy_password_file needs a user's name: " + EXPECTED)
    if ":" in user or not (user + given + password).isprintable():
        raise ValueError("user and password hold no control characters, and the user's name no colon")
    return Proxy(host, port or 3128, user, given or password)
