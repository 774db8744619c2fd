"""How tests wait: for events, with one limit against hangs that no busy machine comes near, and with a clock that a test moves."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 120.0
"""Seconds after which a test that waits for something gives up. No test asserts that anything takes less."""


def until(happened: Callable[[], object], what: str = "it") -> None:
    """Wait for an event that another thread or process brings about."""
    give_up = time.monotonic() + HANG_S
    while not happened():
        assert time.monotonic() < give_up, f"{what} did not happen in {HANG_S:g} s"
        time.sleep(0.005)


class Clock:
    """Stands for a module's `time`: as the real one, but for the seconds that a test lets pass at once by `forward`.

    Attributes:
        slept: seconds of every pause that was asked for.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._ahead = 0.0

    def forward(self, seconds: float) -> None:
        self._ahead += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead

    def perf_counter(self) -> float:
        return time.perf_counter() + self._ahead

    def time(self) -> float:
        return time.time() + self._ahead

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        time.sleep(seconds)
