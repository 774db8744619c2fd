"""How far a run is and who is waited for, in words: for a terminal, a log and `--json`.

What is said of other members comes from the transport (`transport.notices`), what is said of the run from its roles.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from hansa.node.events import Event, Listening, Noticed, Paused, Stage
from hansa.roles.run import Binned, Progress, Registered, Resumed, TableDescribed, Trained, TreeGrown, Withheld
from hansa.transport.notices import Notice

REPEAT_S = 30.0
"""Seconds between two log lines that say the same again; a terminal and `--json` are told each time."""

LEVELS = {"away": logging.WARNING, "lost": logging.WARNING, "stalled": logging.WARNING}
"""Log levels of notices; the others are for information."""

ONGOING = ("waiting", "dialling", "listening", "away", "stalled")
"""Kinds that a transport says again and again while they last."""


class NoticeWriter:
    """Puts notices into words, and knows which of them are news for a log.

    Args:
        clock: seconds that only ever rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._joined: set[str] = set()
        self._listens = False
        self._logged: dict[tuple[str, str], tuple[tuple[str, ...], float]] = {}
        self._tree_at = float("-inf")

    def listens(self) -> None:
        """This member is the one that others dial: it is told of all that join, and counts them."""
        self._listens = True

    def sentence(self, notice: Notice) -> str:
        """A notice in words. Names and texts are as they came: whoever prints the sentence filters it."""
        who = notice.member or "the others"
        waiting = f"waiting for {', '.join(notice.waiting_for)}" if notice.waiting_for else ""
        because = f": {notice.text}" if notice.text else ""
        match notice.kind:
            case "joined":
                self._joined = (self._joined | {notice.member}) - set(notice.waiting_for)
                of = len(self._joined | set(notice.waiting_for))
                # Who dials is told only of those who join after it.
                return _joined(
                    f"{who} joined, {len(self._joined)} of {of}" if self._listens else f"{who} joined", waiting
                )
            case "left" | "lost":
                self._joined.discard(notice.member)
                return _joined(f"{who} {'left' if notice.kind == 'left' else 'is lost'}{because}", waiting)
            case "back":
                return _joined(f"{who} is back after {notice.seconds:.0f} s{because}", waiting)
            case "away":
                return f"{who} is away, {_spent(notice)}{because}"
            case "stalled":
                return f"data for {who} is on the way and not acknowledged, {_spent(notice)}{because}"
            case "dialling":
                return f"looking for {notice.member or 'the hub'}, {_spent(notice)}{because}"
            case _:
                return f"{waiting or f'waiting for {who}'}, {_spent(notice)}{because}"

    def is_news(self, notice: Notice | Noticed) -> bool:
        """Whether a log is to have this notice: what lasts is logged when it begins or changes, and every `REPEAT_S` seconds."""
        if notice.kind not in ONGOING:
            self._logged = {key: sentence for key, sentence in self._logged.items() if key[1] != notice.member}
            return True
        key, now = (notice.kind, notice.member), self._clock()
        names, moment = self._logged.get(key, ((), float("-inf")))
        if names == notice.waiting_for and now - moment < REPEAT_S:
            return False
        self._logged[key] = (notice.waiting_for, now)
        return True

    def stage(self, event: Event) -> str:
        """What a log is to say of an event of the run; nothing where that is no news, and for notices, which have a sentence."""
        rounds = f"{event.trees} of at most {event.rounds} rounds" if isinstance(event, Progress) else ""
        match event:
            case Stage():
                return event.text
            case Listening():
                return f"listening at {event.host}:{event.port}"
            case Registered():
                return "all members have joined; the run begins"
            case Paused():
                who = f" for {', '.join(event.waiting_for)}" if event.waiting_for else ""
                return f"the run pauses, and waits{who} for up to {event.limit_s:.0f} s: {event.text}"
            case Resumed():
                return f"all members are there again; the run goes on in epoch {event.epoch}, after {rounds}"
            case Binned():
                return f"the cuts are found; training begins, {rounds}"
            case TreeGrown() if self._clock() - self._tree_at >= REPEAT_S:
                self._tree_at = self._clock()
                return _joined(f"training, {rounds}", metrics_text(event.metrics))
            case TableDescribed():
                return "the pooled table is described; the run is over"
            case Withheld():
                value = f": {metrics_text(event.metrics)}" if event.metrics else ""
                return f"nobody gets the model, whose metric is not what the plan demands{value}"
            case Trained():
                return _joined(f"training is over after {rounds}", metrics_text(event.metrics))
            case _:
                return ""


def metrics_text(metrics: Mapping[str, float | None]) -> str:
    """Metrics of held-out rows, for one line; a dash where one has no value."""
    return "  ".join(f"{name} –" if value is None else f"{name} {value:.5f}" for name, value in metrics.items())


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _spent(notice: Notice) -> str:
    return f"{notice.seconds:.0f} s" + (" so far" if notice.limit_s is None else f" of {notice.limit_s:.0f}")
