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


class Ledger:
    """Adds up what each round cost this process since the round before: computing, sealing and the network."""

    def __init__(self) -> None:
        self._phases: dict[str, dict[str, Any]] = {}
        self._phase_of: dict[str, dict[str, Any]] = {}
        self._clock = time.process_time()
        self._wall = time.perf_counter()

    def note(self, step: str, sent: int) -> None:
        """A round is over: its step, and the bytes that it sent."""
        now, wall = time.process_time(), time.perf_counter()
        entry = self._phase_of.get(step)
        if entry is None:
            empty = {"cpu_s": 0.0, "wall_s": 0.0, "bytes": 0, "rounds": 0}
            entry = self._phase_of[step] = self._phases.setdefault(phase_of(step), empty)
        entry["cpu_s"] += now - self._clock
        entry["wall_s"] += wall - self._wall
        entry["bytes"] += sent
        entry["rounds"] += 1
        self._clock, self._wall = now, wall

    def clear(self) -> None:
        """Begin anew from here."""
        self._phases.clear()
        self._phase_of.clear()
        self._clock, self._wall = time.process_time(), time.perf_counter()

    def as_json(self) -> dict[str, dict[str, Any]]:
        """By phase: cpu_s, wall_s, bytes, rounds."""
        return {phase: dict(entry) for phase, entry in sorted(self._phases.items())}
