"""Drives three programs in one process, round by round: for tests, and for whoever needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hansa.errors import ProtocolError
from hansa.mpc.replicated import Program, Round, RoundArrays, Shape
from hansa.mpc.ring import ShareArray


@dataclass
class LockstepRecord:
    """What happened in a lockstep run.

    Attributes:
        rounds: how many rounds took place.
        sent: bytes that each server sent.
        sent_by_step: the same by the first two words of each step's name.
        views: where asked for, what each server received: (step, sender, array), in order.
    """

    rounds: int = 0
    sent: list[int] = field(default_factory=lambda: [0, 0, 0])
    sent_by_step: dict[str, list[int]] = field(default_factory=dict)
    views: list[list[tuple[str, int, ShareArray]]] = field(default_factory=lambda: [[], [], []])


def check_received(step: str, sender: int, shapes: Sequence[Shape], arrays: Sequence[ShareArray]) -> None:
    """Raise ProtocolError, naming server and step, unless the arrays are exactly what the step expects."""
    found = [(np.dtype(a.dtype), a.shape) for a in arrays]
    expected = [(np.dtype(s.dtype), tuple(s.shape)) for s in shapes]
    if found != expected:
        raise ProtocolError(
            f"server {sender}: step {step!r} takes arrays {expected} and got {found}; rule: sizes are public"
            " and known beforehand"
        )


def run_three(
    programs: Sequence[Program[Any]], record: LockstepRecord | None = None, keep_views: bool = False
) -> list[Any]:
    """Run the programs of S_0, S_1 and S_2 to their end; their results.

    Args:
        record: filled with rounds, bytes and, where `keep_views`, everything that each server received.

    Raises:
        ProtocolError: a message has another size than expected, comes unasked, or a server ends early.
    """
    record = record or LockstepRecord()
    results: list[Any] = [None] * 3
    rounds: dict[int, Round] = {}
    for index, program in enumerate(programs):
        _advance(index, program, None, rounds, results)
    while rounds:
        if len(rounds) < 3:
            raise ProtocolError(f"server(s) {sorted({0, 1, 2} - set(rounds))} ended while others go on")
        record.rounds += 1
        received = {index: _delivered(index, rounds, record, keep_views) for index in range(3)}
        rounds_now, rounds = rounds, {}
        for index in rounds_now:
            _advance(index, programs[index], received[index], rounds, results)
    return results


def _advance(
    index: int,
    program: Program[Any],
    received: RoundArrays | None,
    rounds: dict[int, Round],
    results: list[Any],
) -> None:
    try:
        rounds[index] = next(program) if received is None else program.send(received)
    except StopIteration as stop:
        results[index] = stop.value


def _delivered(index: int, rounds: dict[int, Round], record: LockstepRecord, keep_views: bool) -> RoundArrays:
    step = rounds[index]
    received: dict[int, Sequence[ShareArray]] = {}
    for sender in {0, 1, 2} - {index}:
        arrays = rounds[sender].send.get(index, [])
        shapes = step.expect.get(sender, [])
        check_received(step.step, sender, shapes, arrays)
        size = sum(array.nbytes for array in arrays)
        record.sent[sender] += size
        record.sent_by_step.setdefault(step.step, [0, 0, 0])[sender] += size
        # A copy, so that nobody's later writing reaches into another server.
        received[sender] = [array.copy() for array in arrays]
        if keep_views:
            record.views[index] += [(step.step, sender, array) for array in received[sender]]
    return received
