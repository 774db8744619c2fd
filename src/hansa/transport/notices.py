"""What a transport tells its own process about other members' connections: for people and logs, never for the protocol.

A role cannot tell transports apart, so nothing that a role does may depend on a notice. The hub's words about other members
are its own claim: whoever prints them filters them as any untrusted text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["listening", "dialling", "joined", "waiting", "away", "back", "lost", "left", "stalled"]


@dataclass(frozen=True)
class Notice:
    """One thing that happened to a connection, or that is still so.

    Attributes:
        kind: "listening" (the hub waits for members), "dialling" (a member looks for the hub), "joined", "waiting" (nothing new,
            said again every few seconds), "away" (a connection broke, or is silent too long), "back", "lost" (for good), "left"
            (closed), "stalled" (data is on the way and nobody acknowledges it).
        member: whom it is about; empty for "waiting" for several.
        waiting_for: names of all who are waited for after this, sorted.
        seconds: since it began: of an absence, of the wait.
        limit_s: when the wait ends in failure; None for never.
        text: the reason in plain words where there is one, else empty. May hold untrusted text.
    """

    kind: Kind
    member: str = ""
    waiting_for: tuple[str, ...] = ()
    seconds: float = 0.0
    limit_s: float | None = None
    text: str = ""


EVERY_S = 5.0
"""Seconds between two notices of what is still so."""

Notify = Callable[[Notice], None]


def silent(_: Notice) -> None:
    """Tells nobody."""


class Waiting:
    """How long an end has received nothing, told every `EVERY_S` seconds.

    Args:
        notify: who is told.
    """

    __slots__ = ("_notify", "_since", "_told")

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._since = self._told = time.monotonic()

    def over(self) -> None:
        """Something came."""
        self._since = self._told = time.monotonic()

    def told(self) -> None:
        """Somebody else told who is waited for."""
        self._told = time.monotonic()

    def go_on(self, names: Callable[[], Iterable[str]], limit_s: float | None) -> Notice | None:
        """Nothing came yet of `names()`; the notice of it, where it was time to tell it."""
        now = time.monotonic()
        if now - self._told < EVERY_S:
            return None
        self._told = now
        notice = Notice("waiting", waiting_for=tuple(sorted(names())), seconds=now - self._since, limit_s=limit_s)
        self._notify(notice)
        return notice
