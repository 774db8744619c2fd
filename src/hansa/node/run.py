"""One entry for a member of a run over the network, whatever its mode and roles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hansa.errors import PlanError
from hansa.node import shared, summed
from hansa.node.config import MemberFile, read_member_file
from hansa.node.files import Event
from hansa.plan import COOPETITIVE
from hansa.transport.notices import Notice, Notify


def run(described: MemberFile, event: Event, notify: Notify) -> dict[str, Any]:
    """Play every role that the plan gives this member; the record, which is also written where the file says.

    Args:
        described: the member's own file, read. event: called with the run's progress. notify: with what happens to connections.

    Raises HansaError and its kinds: the run was refused or stopped.
    """
    plan, name = described.plan, described.identity.name
    if plan.mode == COOPETITIVE:
        play = shared.run_hub_process if name == plan.hub else shared.run_member_process
        return play(described, event, notify)
    if name == plan.aggregator:
        return summed.run_aggregator_process(described, event, notify)
    if name in plan.parties:
        return summed.run_party_process(described, event, notify)
    raise PlanError(
        f"{described.path}: the plan gives {name!r} no role; its members are {', '.join(plan.members)}: name another identity or plan"
    )


def run_member_file(path: Path, on_event: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """`run` from a file; notices are events too, as `--json` has them, but without a sentence."""

    def notify(notice: Notice) -> None:
        on_event({"event": "notice", **asdict(notice)})

    return run(read_member_file(path), on_event, notify)
