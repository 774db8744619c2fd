"""What every request to a console passes first, and what every answer carries.

Refused before anything is read: a name of the host that is not this console's (a page elsewhere that has its own name point here), a
post that another site's page sent, more requests than a person makes, more bytes than a page takes. Answers forbid the browser whatever
these pages do not need: scripts, styles and connections of others, frames, and anything written into a page.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
"""Content-Security-Policy of every page of the console."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Cache-Control": "no-store",
    "Content-Security-Policy": POLICY,
}

MOST_BODY = 32 * 2**20
"""Bytes of a post: another member's log is the largest thing that somebody brings."""

MOST_SIGN_IN = 2**14
"""Bytes of a sign-in, which anybody may send."""

BURST, PER_SECOND = 200.0, 50.0
"""Requests of one address: at once, and in the long run."""

MOST_ADDRESSES = 10_000


@dataclass
class Pace:
    """How many requests each address has left; what it had comes back as time passes."""

    clock: Callable[[], float]
    _left: dict[str, tuple[float, float]] = field(default_factory=dict)

    def takes(self, address: str) -> bool:
        """Whether one more request of this address is served."""
        now = self.clock()
        left, at = self._left.pop(address, (BURST, now))
        left = min(BURST, left + (now - at) * PER_SECOND)
        self._left[address] = (max(0.0, left - 1), now)
        while len(self._left) > MOST_ADDRESSES:
            del self._left[next(iter(self._left))]
        return left >= 1


_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


class Guard:
    """Around the console's application.

    Args:
        app: what is guarded. hosts: names, without a port, by which this console is reached. tls: whether it is reached by TLS.
        clock: seconds that only grow.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str], tls: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._scheme = "https" if tls else "http"
        self._pace = Pace(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    if name not in headers:
                        headers[name] = value
                if self._scheme == "https":
                    headers["Strict-Transport-Security"] = "max-age=31536000"
                if "server" in headers:
                    del headers["server"]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            status, text = refusal
            await PlainTextResponse(text + "\n", status)(scope, receive, answer)
            return
        await self._app(scope, _limited(receive, _most(scope)), answer)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason where a request is not served."""
        headers = Headers(scope=scope)
        client = scope.get("client")
        hosts = headers.getlist("host")
        if len(hosts) != 1 or _name(hosts[0]) not in self._hosts:
            return 421, "this console has another name; use the address that it was started with"
        if not self._pace.takes(client[0] if client else ""):
            return 429, "too many requests; wait a moment"
        if scope["method"] not in ("GET", "HEAD", "POST"):
            return 405, "only GET, HEAD and POST are served"
        if scope["method"] != "POST":
            return None
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if (origin is not None and origin != f"{self._scheme}://{hosts[0]}") or site not in (None, "same-origin"):
            return 403, "this was sent from another site's page; nothing was done"
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _most(scope):
            return 413, f"more than {_most(scope)} bytes"
        return None


def _name(host: str) -> str:
    """A Host header without its port; an address of IPv6 keeps its brackets. Empty where it is none."""
    found = _HOST.fullmatch(host.lower())
    return "" if found is None else found[1]


def _most(scope: Scope) -> int:
    """Bytes that a post to this path may have."""
    return MOST_SIGN_IN if scope["path"].startswith("/sign-in") else MOST_BODY


def _limited(receive: Receive, most: int) -> Receive:
    """What receives at most so many bytes."""
    taken = 0

    async def take() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise HTTPException(413, f"more than {most} bytes")
        return message

    return take
