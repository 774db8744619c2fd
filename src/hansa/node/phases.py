"""Where a compute server's time goes: processor seconds, bytes and rounds of a run, by phase."""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

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


class PhaseCost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one phase cost: processor seconds, seconds by the clock, bytes that were sent, rounds."""

    cpu_s: float
    wall_s: float
    bytes: int
    rounds: int


@dataclass(slots=True)
class _Sums:
    cpu_s: float = 0.0
    wall_s: float = 0.0
    bytes: int = 0
    rounds: int = 0


class PhaseTimes:
    """Adds up what each round cost this process since the round before: computing, sealing and the network.

    The processor's clock is read where the phase changes, since small rounds feel a reading; what passed between two
    readings is shared out by wall time.
    """

    def __init__(self) -> None:
        self._phases: dict[str, _Sums] = {}
        self._phase_of: dict[str, _Sums] = {}
        self._wall = 0.0
        self.clear()

    def note(self, step: str, sent: int) -> None:
        """A round is over: its step, and the bytes that it sent."""
        wall = time.perf_counter()
        entry = self._phase_of.get(step)
        if entry is None:
            entry = self._phase_of[step] = self._phases.setdefault(phase_of(step), _Sums())
        if entry is not self._entry:
            self._share_out(entry, wall)
        entry.wall_s += wall - self._wall
        entry.bytes += sent
        entry.rounds += 1
        self._wall = wall

    def clear(self) -> None:
        """Begin anew from here."""
        self._phases.clear()
        self._phase_of.clear()
        self._entry: _Sums | None = None
        self._clock = time.process_time()
        self._wall = self._since = time.perf_counter()

    def costs(self) -> dict[str, PhaseCost]:
        """By phase."""
        if self._entry is not None:
            self._share_out(self._entry, self._wall)
        return {
            phase: PhaseCost(cpu_s=sums.cpu_s, wall_s=sums.wall_s, bytes=sums.bytes, rounds=sums.rounds)
            for phase, sums in sorted(self._phases.items())
        }

    def _share_out(self, entry: _Sums, wall: float) -> None:
        """Give the processor time since the last reading to the phase so far and, for the round that ends at `wall`, to `entry`."""
        now = time.process_time()
        spent, passed = now - self._clock, wall - self._since
        own = spent * (wall - self._wall) / passed if passed > 0 else 0.0
        entry.cpu_s += own
        (self._entry or entry).cpu_s += spent - own
        self._entry, self._clock, self._since = entry, now, wall
