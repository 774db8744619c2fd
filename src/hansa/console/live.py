"""Server-sent events: a part of a page, sent again whenever it changes.

Every open page looks once a second, and pages that show the same look together: what they show is made once for all of them. There
is no queue: a stream that is slow misses what was in between, and gets the newest. So memory does not grow with time or with events.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

LOOK_S = 1.0
"""Seconds between two looks."""

KEEP_ALIVE_S = 15.0
"""Seconds after which an empty line is sent where nothing changed, so that a line that is gone is noticed."""

MOST_STREAMS = 400
"""Open at once; more are refused, and their pages stay as they were when they were read."""


@dataclass
class _Shown:
    """A part of a page: its text, when it was made, how many streams show it, and the lock under which it is made."""

    text: str = ""
    at: float = float("-inf")
    streams: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Streams:
    """All open streams of a console.

    Args:
        look_s: seconds between two looks. clock: seconds that only grow.
    """

    def __init__(self, look_s: float = LOOK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._look_s = look_s
        self._clock = clock
        self._shown: dict[str, _Shown] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(shown.streams for shown in self._shown.values())

    @property
    def full(self) -> bool:
        """Whether no more are taken."""
        return self.count >= MOST_STREAMS

    async def stream(self, name: str, make: Callable[[], str], stands: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Events of one stream, until its session is over.

        Args:
            name: of what is shown; streams of one name show the same. make: makes its text. stands: whether the session is still one.
        """
        shown = self._shown.setdefault(name, _Shown())
        shown.streams += 1
        sent, spoke = "", self._clock()
        try:
            while await run_in_threadpool(stands):
                async with shown.lock:
                    if self._clock() - shown.at >= self._look_s:
                        shown.text = await run_in_threadpool(make)
                        shown.at = self._clock()
                if shown.text != sent:
                    sent, spoke = shown.text, self._clock()
                    yield _event(sent)
                elif self._clock() - spoke >= KEEP_ALIVE_S:
                    spoke = self._clock()
                    yield b": \n\n"
                await asyncio.sleep(self._look_s)
        finally:
            shown.streams -= 1
            if not shown.streams:
                self._shown.pop(name, None)


def _event(text: str) -> bytes:
    """An event with this text, as the standard writes it: each line by itself."""
    return "".join(f"data: {line}\n" for line in text.splitlines()).encode() + b"\n"
