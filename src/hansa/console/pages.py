"""The table of pages and actions: from it follow the routes, the JSON endpoints, the document that describes them, and the navigation.

A page is a path, a function that gives what it shows (a struct), and a template that shows it. Whoever adds a page writes these three
and a line here. What a page shows depends on the member's state and on the path alone, never on who asks: roles decide on actions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from hansa.console import consortium, data, drafts, home, models, plans, policy, records, runs
from hansa.console.actions import Done, Form, Offered
from hansa.console.book import Role
from hansa.console.member import Asked, Member
from hansa.service.plan_list import PlansView


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
    Page(
        "/consortium",
        "Consortium",
        consortium.consortium,
        consortium.ConsortiumView,
        "consortium.html.j2",
        "hansa consortium show",
        heading="Consortium",
    ),
    Page("/plans", "Plans", plans.plans, PlansView, "plans.html.j2", "hansa plan list --service", heading="Plans"),
    Page("/plans/{proposal}", "Plan", plans.plan, plans.PlanView, "plan.html.j2", "hansa plan review"),
    Page("/new-plan", "New plan", drafts.new_plan, drafts.NewPlanView, "new_plan.html.j2", "hansa plan new"),
    Page("/drafts/{draft}", "Draft", drafts.draft_page, drafts.DraftView, "draft.html.j2", "hansa plan show"),
    Page("/data", "Data", data.data, data.DataView, "data.html.j2", "hansa check", heading="Data"),
    Page("/data/{place}", "Source", data.source, data.SourceView, "source.html.j2", "hansa schema"),
    Page("/data/check/{proposal}", "Table and plan", data.check, data.TableFits, "fits.html.j2", "hansa check"),
    Page("/runs", "Runs", runs.runs, runs.RunsView, "runs.html.j2", "hansa runs --all", heading="Runs"),
    Page("/runs/{run}", "Run", runs.run, runs.RunView, "run.html.j2", "hansa watch", live="run_live.html.j2"),
    Page("/models", "Models", models.models, models.ModelsView, "models.html.j2", "hansa runs --all", heading="Models"),
    Page("/models/{run}", "Model", models.model, models.ModelView, "model.html.j2", "hansa verify"),
    Page(
        "/models/{run}/rows",
        "Model on own rows",
        models.on_rows,
        models.ModelOnRows,
        "on_rows.html.j2",
        "hansa evaluate",
    ),
    Page(
        "/models/{run}/alone",
        "Model and own model",
        models.alone,
        models.ModelAndOwn,
        "alone.html.j2",
        "hansa evaluate --alone",
    ),
    Page(
        "/models/{run}/against/{against}",
        "Two models",
        models.compared,
        models.ModelsCompared,
        "compared.html.j2",
        "hansa evaluate --against",
    ),
    Page(
        "/records",
        "Records",
        records.records,
        records.RecordsView,
        "records.html.j2",
        "hansa audit verify",
        heading="Records",
    ),
    Page(
        "/records/{run}", "Record of a run", records.record, records.RunRecordView, "record.html.j2", "hansa audit show"
    ),
    Page(
        "/actions",
        "What people did here",
        records.actions,
        records.ActionsView,
        "actions.html.j2",
        "hansa account actions",
    ),
    Page(
        "/settings",
        "Settings",
        policy.settings,
        policy.SettingsView,
        "settings.html.j2",
        "hansa plan review",
        heading="Settings",
    ),
)

ACTS = (
    Act("/plans/bring", "operator", plans.bring, "hansa plan join", file=True),
    Act("/plans/{proposal}/approve", "officer", plans.approve_plan, "hansa plan approve", fields=("passphrase",)),
    Act("/plans/{proposal}/reject", "officer", plans.reject_plan, "hansa plan reject", fields=("reason", "passphrase")),
    Act("/plans/{proposal}/give", "operator", plans.give, "hansa run"),
    Act("/plans/{proposal}/take-away", "operator", plans.take_away, ""),
    Act(
        "/new-plan/write",
        "operator",
        drafts.write_draft,
        "hansa plan new",
        fields=(
            "name",
            "consortium",
            "source",
            "label",
            "decimal",
            "mode",
            "hub",
            "servers",
            "parties",
            "receivers",
            "objective",
            "rounds",
        ),
    ),
    Act("/drafts/{draft}/save", "operator", drafts.save_draft, "", fields=("text", "shown")),
    Act(
        "/drafts/{draft}/propose",
        "officer",
        drafts.propose_draft,
        "hansa plan propose",
        fields=("consortium", "days", "shown", "passphrase"),
    ),
    Act("/drafts/{draft}/take-away", "operator", drafts.take_draft_away, ""),
    Act(
        "/consortium/invite",
        "officer",
        consortium.invite_member,
        "hansa consortium invite",
        fields=("consortium", "name", "days", "passphrase"),
    ),
    Act(
        "/consortium/add",
        "officer",
        consortium.add_member,
        "hansa consortium add",
        fields=("consortium", "passphrase"),
        file=True,
    ),
    Act(
        "/consortium/remove",
        "officer",
        consortium.remove_member,
        "hansa consortium remove",
        fields=("consortium", "member", "sure", "shown", "passphrase"),
    ),
    Act(
        "/consortium/revoke",
        "officer",
        consortium.revoke_key,
        "hansa consortium revoke",
        fields=("consortium", "member", "key", "reason", "sure", "shown", "passphrase"),
    ),
    Act(
        "/consortium/rotate",
        "officer",
        consortium.rotate_keys,
        "hansa consortium rotate",
        fields=("consortium", "folder", "sure", "shown", "passphrase"),
    ),
    Act(
        "/consortium/bring",
        "officer",
        consortium.bring_file,
        "hansa consortium merge",
        fields=("consortium",),
        file=True,
    ),
    Act(
        "/consortium/sign",
        "officer",
        consortium.sign_change,
        "hansa consortium sign",
        fields=("consortium", "sure", "shown", "passphrase"),
    ),
    Act("/consortium/drop", "officer", consortium.drop_change, "", fields=("consortium", "shown")),
    Act("/records/verify", "viewer", records.verify, "hansa audit verify", fields=("consortium",)),
    Act("/records/{run}/compare", "viewer", records.compare, "hansa audit compare", file=True),
    Act("/records/{run}/report", "officer", records.make_report, "hansa audit export", fields=("passphrase",)),
    Act("/settings/policy", "officer", policy.save, "", fields=("consortium", "shown", *policy.MEANINGS)),
    Act("/runs/{run}/pause", "operator", runs.pause, "hansa pause"),
    Act("/runs/{run}/resume", "operator", runs.resume, "hansa resume"),
    Act("/runs/{run}/stop", "operator", runs.stop, "hansa stop", fields=("sure",)),
)

DOWNLOADS = (
    Download(
        "/consortium/invitations/{member}", consortium.invitation_file, "application/json", "hansa consortium invite"
    ),
    Download("/consortium/{consortium}/file", consortium.consortium_file, "application/json", "hansa consortium merge"),
    Download("/records/{run}/report", records.report, "text/html", "hansa audit export"),
    Download("/records/{run}/report-file", records.report_file, "text/html", "hansa audit export"),
    Download("/models/{run}/file", models.model_file, "application/json", "hansa fetch-model"),
    Download("/models/{run}/provenance", models.provenance_file, "application/json", "hansa fetch-model"),
    Download("/models/{run}/signature", models.signature_file, "application/json", "hansa fetch-model"),
    Download("/models/{run}/signature-key", models.signature_key, "application/x-pem-file", "hansa fetch-model"),
    Download("/plans/{proposal}/file", plans.proposal_file, "application/json", "hansa plan approve"),
    Download("/plans/{proposal}/rejections/{member}", plans.rejection_file, "application/json", "hansa plan reject"),
)


def api_path(page: Page) -> str:
    """Where a page's JSON is."""
    return "/api/home" if page.path == "/" else f"/api{page.path}"


def live_path(page: Page) -> str:
    """Where the events of a page's live part are."""
    return "/live/home" if page.path == "/" else f"/live{page.path}"
