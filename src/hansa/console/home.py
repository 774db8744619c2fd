"""Home: what waits for this member's people, who is there, and which runs are under way."""

from __future__ import annotations

import fcntl
import os

import msgspec

from hansa.console.member import Asked, Member, shown_run
from hansa.console.plans import waiting_plans
from hansa.service.store import ServiceRun

MOST_SHOWN = 50
"""Runs under way, and of other lists, on this page; the other pages have all."""


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that waits for a person here: what, and on which page."""

    text: str
    page: str


class Presence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another member, as the runs under way tell.

    Attributes:
        member: its name. state: "there", "waited for", or "not known" where no run under way has it. runs: names of those that tell.
    """

    member: str
    state: str
    runs: tuple[str, ...]


class HomeView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Home shows.

    Attributes:
        member: this one. serving: whether its service is running now. fault: why the service's file, or a members file, is not taken as
            it is now; empty where it is. tasks: what waits for a person. members: the others.
        under_way: runs that are not over, at most `MOST_SHOWN`. more: how many more there are. runs: how many there are in all.
    """

    member: str
    serving: bool
    fault: str
    tasks: tuple[Task, ...]
    members: tuple[Presence, ...]
    under_way: tuple[ServiceRun, ...]
    more: int
    runs: int


def home(member: Member, _: Asked) -> HomeView:
    """What Home shows now."""
    open_runs = member.store.runs(every=False)
    tasks = [Task(text=text, page=page) for text, page in waiting_plans(member)]
    tasks += [
        Task(text=f"{run.plan}: paused; it goes on when somebody resumes it", page=f"/runs/{run.run}")
        for run in open_runs
        if run.wanted == "pause"
    ]
    return HomeView(
        member=member.name,
        serving=is_serving(member),
        fault=member.fault,
        tasks=tuple(tasks[:MOST_SHOWN]),
        members=_presence(member, open_runs),
        under_way=tuple(map(shown_run, open_runs[:MOST_SHOWN])),
        more=max(0, len(open_runs) - MOST_SHOWN),
        runs=member.store.count(),
    )


def is_serving(member: Member) -> bool:
    """Whether a process serves this member's folder: it holds the lock there."""
    try:
        descriptor = os.open(member.service.state / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _presence(member: Member, open_runs: tuple[ServiceRun, ...]) -> tuple[Presence, ...]:
    """What runs under way tell of each other member. A run in which all have joined, and that waits for some, has the others there."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for consortium in member.service.consortia:
        for name in consortium.members:
            if name != consortium.identity.name:
                found.setdefault(name, (set(), set()))
    for run in open_runs:
        if run.state != "running":
            continue
        others = {name for c in member.service.consortia if c.name == run.consortium for name in c.members}
        for name in others & found.keys():
            there, waited = found[name]
            if name in run.waiting_for:
                waited.add(run.run)
            elif run.id:
                there.add(run.run)
    listed = []
    for name, (there, waited) in sorted(found.items()):
        state = "waited for" if waited else "there" if there else "not known"
        listed.append(Presence(member=name, state=state, runs=tuple(sorted(waited or there))))
    return tuple(listed)
