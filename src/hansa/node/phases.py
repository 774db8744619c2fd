"""Where a compute server's time goes: processor seconds, bytes and rounds of a run, by phase."""

from __future__ import annotations

import time
from typing import Any

PHASES = (
    ("evaluation", "evaluation"),
    ("cuts", "cuts"),
    ("labels", "cuts"),
    ("gradients", "gradients"),
    ("residuals", "gradients"),
    ("columns", "histogram"),
    ("absolute", "scale of nodes"),
    ("counts", "histogram"),
    ("totals", "leaves"),
    ("score", "score"),
    ("tournament", "tournament"),
    ("route", "routing"),
    ("paths", "membership"),
    ("vectors", "membership"),
    ("margins", "margins"),
    ("range", "range"),
)
"""Part of a step's name -> the phase that it belongs to; steps of a tree that are not here make leaves."""


def phase_of(step: str) -> str:
    """The phase of a step, by the first part of its name that tells."""
    for part in step.replace(" + ", "/").split("/"):
        for key, phase in PHASES:
            if part == key:
                return phase
    return "leaves"


class PhaseTimes:
    """Adds up what each round cost this process since the round before: computing, sealing and the network.

    The processor's clock is read where the phase changes, since small rounds feel a reading; what passed between two
    readings is shared out by wall time.
    """

    def __init__(self) -> None:
        self._phases: dict[str, dict[str, Any]] = {}
        self._phase_of: dict[str, dict[str, Any]] = {}
        self._wall = 0.0
        self.clear()

    def note(self, step: str, sent: int) -> None:
        """A round is over: its step, and the bytes that it sent."""
        wall = time.perf_counter()
        entry = self._phase_of.get(step)
        if entry is None:
            empty = {"cpu_s": 0.0, "wall_s": 0.0, "bytes": 0, "rounds": 0}
            entry = self._phase_of[step] = self._phases.setdefault(phase_of(step), empty)
        if entry is not self._entry:
            self._share_out(entry, wall)
        entry["wall_s"] += wall - self._wall
        entry["bytes"] += sent
        entry["rounds"] += 1
        self._wall = wall

    def clear(self) -> None:
        """Begin anew from here."""
        self._phases.clear()
        self._phase_of.clear()
        self._entry: dict[str, Any] | None = None
        self._clock = time.process_time()
        self._wall = self._since = time.perf_counter()

    def as_json(self) -> dict[str, dict[str, Any]]:
        """By phase: cpu_s, wall_s, bytes, rounds."""
        if self._entry is not None:
            self._share_out(self._entry, self._wall)
        return {phase: dict(entry) for phase, entry in sorted(self._phases.items())}

    def _share_out(self, entry: dict[str, Any], wall: float) -> None:
        """Give the processor time since the last reading to the phase so far and, for the round that ends at `wall`, to `entry`."""
        now = time.process_time()
        spent, passed = now - self._clock, wall - self._since
        own = spent * (wall - self._wall) / passed if passed > 0 else 0.0
        entry["cpu_s"] += own
        (self._entry or entry)["cpu_s"] += spent - own
        self._entry, self._clock, self._since = entry, now, wall
