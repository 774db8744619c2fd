"""The table of pages and actions: from it follow the routes, the JSON endpoints, the document that describes them, and the navigation.

A page is a path, a function that gives what it shows (a struct), and a template that shows it. Whoever adds a page writes these three
and a line here. What a page shows depends on the member's state and on the path alone, never on who asks: roles decide on actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from hansa.console import home, plans, runs
from hansa.console.actions import Done, Form, Offered
from hansa.console.book import Role
from hansa.console.member import Asked, Member


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        path: of it, with `{name}` for what the view is asked for; its JSON is at /api + path. title: of it. shows: what `view`
            gives, a struct. template: in `templates`. live: the template of its part that is sent again as it changes, or empty.
        command: the command that prints the same. heading: its name in the navigation; empty where it is not in it.
    """

    path: str
    title: str
    view: Callable[[Member, Asked], msgspec.Struct]
    shows: type[msgspec.Struct]
    template: str
    command: str
    live: str = ""
    heading: str = ""

    @property
    def name(self) -> str:
        """What its routes and operations are called."""
        return self.template.partition(".")[0]


@dataclass(frozen=True)
class Act:
    """Something that a form asks for.

    Attributes:
        path: where the form is sent. role: who may. do: what does it. command: the command that does the same, if there is one.
        fields: names of the form's fields, beside `csrf` and those of the path. file: whether a file comes with it.
    """

    path: str
    role: Role
    do: Callable[[Member, Form], Done]
    command: str
    fields: tuple[str, ...] = ()
    file: bool = False

    @property
    def name(self) -> str:
        """What its route and its line in the list of actions are called."""
        return " ".join(part for part in self.path.split("/") if part and not part.startswith("{"))


@dataclass(frozen=True)
class Download:
    """A file that a page offers.

    Attributes:
        path: of it. offer: gives it. kind: of file. command: the command that writes the same.
    """

    path: str
    offer: Callable[[Member, Asked], Offered]
    kind: str
    command: str


PAGES = (
    Page("/", "Home", home.home, home.HomeView, "home.html.j2", "hansa runs", live="home_live.html.j2", heading="Home"),
    Page("/plans", "Plans", plans.plans, plans.PlansView, "plans.html.j2", "hansa plan list", heading="Plans"),
    Page("/plans/{proposal}", "Plan", plans.plan, plans.PlanView, "plan.html.j2", "hansa plan review"),
    Page("/runs", "Runs", runs.runs, runs.RunsView, "runs.html.j2", "hansa runs --all", heading="Runs"),
    Page("/runs/{run}", "Run", runs.run, runs.RunView, "run.html.j2", "hansa watch", live="run_live.html.j2"),
)

ACTS = (
    Act("/plans/bring", "operator", plans.bring, "hansa plan join", file=True),
    Act("/plans/{proposal}/approve", "officer", plans.approve_plan, "hansa plan approve", fields=("passphrase",)),
    Act("/plans/{proposal}/reject", "officer", plans.reject_plan, "hansa plan reject", fields=("reason", "passphrase")),
    Act("/plans/{proposal}/give", "operator", plans.give, "hansa run"),
    Act("/plans/{proposal}/take-away", "operator", plans.take_away, ""),
    Act("/runs/{run}/pause", "operator", runs.pause, "hansa pause"),
    Act("/runs/{run}/resume", "operator", runs.resume, "hansa resume"),
    Act("/runs/{run}/stop", "operator", runs.stop, "hansa stop", fields=("sure",)),
)

DOWNLOADS = (
    Download("/plans/{proposal}/file", plans.proposal_file, "application/json", "hansa plan approve"),
    Download("/plans/{proposal}/rejections/{member}", plans.rejection_file, "application/json", "hansa plan reject"),
)
