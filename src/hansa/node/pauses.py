"""When a member waits for others to come back, and when it gives up: between two epochs of a run that survives processes.

What may pass by itself (a line that broke, a member whose process ended) pauses the run; `wait_s` later the member gives up.
What somebody must mend first, such as a refusal, a wrong table or a full disk of this member's own, ends its process at once.
"""

from __future__ import annotations

import time

from hansa.errors import HansaError, RunStopped, SessionRefused, TransportError
from hansa.node.events import OnEvent, Paused

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between two attempts to begin an epoch."""


def passes(error: HansaError) -> bool:
    """Whether waiting for others can mend what happened: what may be tried again, and the hub's refusal of a new process while the one
    before it is not known to be gone.
    """
    return isinstance(error, SessionRefused) or (isinstance(error, TransportError | RunStopped) and error.retry)


class Pauses:
    """Counts how long a run has stood still at this member.

    Args:
        wait_s: seconds after which it gives up. member: this one. event: told of each pause.
    """

    def __init__(self, wait_s: float, member: str, event: OnEvent) -> None:
        self._wait_s = wait_s
        self._member = member
        self._event = event
        self._give_up = time.monotonic() + wait_s
        self._pause = FIRST_PAUSE_S
        self._waits = False

    @property
    def left_s(self) -> float:
        """Seconds left to wait."""
        return max(0.0, self._give_up - time.monotonic())

    def after(self, error: HansaError, *, began: bool) -> None:
        """Pause because of an error, for a moment; raises it where waiting is of no use, or has lasted too long.

        Args:
            began: whether an epoch had begun since the pause before.
        """
        if not passes(error):
            raise error
        if began:
            self._give_up, self._pause, self._waits = time.monotonic() + self._wait_s, FIRST_PAUSE_S, False
        if self.left_s <= 0:
            raise error
        if not self._waits:
            self._waits = True
            names = (error.member,) if error.member else error.suspects
            self._event(
                Paused(
                    member=self._member, waiting_for=names, limit_s=self._wait_s, text=str(error), run=error.run or ""
                )
            )
        time.sleep(min(self._pause, self.left_s))
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)
