"""The whole in a real browser: two officers at two consoles approve a plan, watch it run, compare and report it, without a terminal.

Needs Chromium; without it these tests are skipped, and say so.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from benchmarks.bench_console import PICTURES
from starlette.routing import compile_path

import hansa
from hansa.console.accounts import account_of
from hansa.console.book import Book, Role
from hansa.consortium.approvals import propose, write_proposal
from hansa.consortium.identity import load_identity
from hansa.consortium.versions import read_pinned
from hansa.plan import parse_plan
from hansa.service.config import read_service_file
from hansa.service.store import ServiceRun, Store
from made_console import PASSWORD, RUN, Desk, put_many, put_model, send, write_log
from made_consortium import HUB, PLAN, make_consortium
from made_services import Services, approved, write_service
from waiting import HANG_S

CHROMIUM = shutil.which("chromium") or ""
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")

COLD_S = 3 * HANG_S
"""Seconds that a run may take, whose kernels may have to be compiled first."""

SEEN = PLAN.replace("rounds = 3", "rounds = 20").replace("[privacy]", "[evaluation]\nfraction = 0.25\n\n[privacy]")
"""A plan whose run tells metrics."""


class ConsoleProcess:
    """A console in a process of its own, as `hansa console` starts it."""

    def __init__(self, service_file: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hansa", "console", str(service_file), "--listen", "127.0.0.1:0", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=service_file.with_suffix(".console.log").open("wb"),
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, service_file.with_suffix(".console.log").read_text()
        ready = json.loads(line)
        self.address, self.link = ready["address"], ready["link"]

    def stop(self) -> int:
        self.process.terminate()
        self.process.communicate(timeout=HANG_S)
        return self.process.returncode


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Chromium, as Debian has it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


class Person:
    """Somebody at one console, in a browser of their own; what the browser complains of is kept.

    Attributes:
        page: of the browser. faults: violations of the Content-Security-Policy, errors of scripts, requests to other hosts.
    """

    def __init__(self, chromium: Any, address: str, **context: Any) -> None:
        self.address, self.faults = address, list[str]()
        self.context = chromium.new_context(accept_downloads=True, **context)
        self.context.set_default_timeout(HANG_S * 1000)
        self.page = self.context.new_page()
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:")):
            self.faults.append(f"asked {request.url}")

    def go(self, path: str) -> None:
        self.page.goto(self.address.rstrip("/") + path, wait_until="domcontentloaded")

    def sign_in(self, name: str) -> None:
        self.go("/")
        self.page.get_by_label("Name").fill(name)
        self.page.get_by_label("Password").fill(PASSWORD)
        self.page.get_by_role("button", name="Sign in", exact=True).click()
        self.page.get_by_role("heading", name="Home").wait_for()

    def has_authenticator(self) -> tuple[Any, str]:
        """Chromium's own authenticator in software, which verifies its person: a connection to it, and its name there."""
        tools = self.context.new_cdp_session(self.page)
        tools.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        made = tools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        return tools, made["authenticatorId"]

    def bring(self, file: Path) -> None:
        self.page.get_by_role("link", name="Plans").click()
        self.page.get_by_label("A proposal, a copy of it").set_input_files(file)
        self.page.get_by_role("button", name="Bring it").click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()
        self.page.get_by_role("status").first.wait_for()

    def save(self, link: str, path: Path) -> Path:
        with self.page.expect_download() as download:
            self.page.get_by_role("link", name=link).click()
        download.value.save_as(path)
        return path

    def sees(self, text: str) -> None:
        self.page.get_by_text(text).first.wait_for()


def accounts_of(service_file: Path, **roles: Role) -> None:
    """Accounts of a console."""
    book = Book(read_service_file(service_file, open_keys=False).state)
    for name, role in roles.items():
        book.put_account(account_of(name, role, PASSWORD))


def test_two_officers_approve_watch_compare_and_report_without_a_terminal(tmp_path: Path):
    folder = make_consortium(tmp_path, SEEN)
    proposal = folder / "proposal.json"
    identity = load_identity(folder / f"{HUB}.identity")
    write_proposal(proposal, propose(parse_plan(SEEN, "plan"), read_pinned(folder / "members.toml"), identity))
    services = Services(folder)
    consoles: dict[str, ConsoleProcess] = {}
    try:
        for name in ("aurora", "borealis"):
            services.start(name)
        for name in ("aurora", "borealis", HUB):
            accounts_of(services.file(name), officer="officer", viewer="viewer")
            consoles[name] = ConsoleProcess(services.file(name))
        with browser() as chromium:
            _whole(chromium, consoles, folder, proposal)
    finally:
        for console in consoles.values():
            console.stop()
        services.stop()


def _whole(chromium: Any, consoles: dict[str, ConsoleProcess], folder: Path, proposal: Path) -> None:
    aurora, borealis, hub = (Person(chromium, consoles[name].address) for name in ("aurora", "borealis", HUB))
    for person in (aurora, borealis, hub):
        person.sign_in("officer")

    # A plan that was changed is refused.
    changed = folder / "changed.json"
    changed.write_bytes(proposal.read_bytes().replace(b'"payload": "ey', b'"payload": "ez'))
    aurora.bring(changed)
    aurora.sees("Not done")
    aurora.faults.clear()  # the answer 422 stands in the browser's console

    # Both read and approve; the file goes from one to the other.
    aurora.bring(proposal)
    aurora.sees("Who learns what in mode federated")
    aurora.press("Approve")
    aurora.sees("is approved by aurora")
    signed = aurora.save("Save the proposal with its approvals", folder / "signed.json")
    borealis.bring(signed)
    borealis.press("Approve")
    borealis.sees("all have approved it")
    whole = borealis.save("Save the proposal with its approvals", folder / "whole.json")
    borealis.press("Give it to the service")
    for person in (aurora, hub):
        person.bring(whole)
        person.press("Give it to the service")

    # A viewer sees it, and can do nothing.
    viewer = Person(chromium, consoles["aurora"].address)
    viewer.sign_in("viewer")
    viewer.page.get_by_role("link", name="Plans").click()
    viewer.page.get_by_role("link", name="test", exact=True).click()
    viewer.sees("Who learns what")
    assert viewer.page.get_by_role("button").all_inner_texts() == ["Sign out"]

    # The run goes to its end on live pages: nobody loads a page anew.
    for person in (aurora, borealis):
        person.page.get_by_role("link", name="Runs").click()
        person.page.get_by_role("table").get_by_role("link").first.click()
        person.page.locator(".state.finished").wait_for(timeout=COLD_S * 1000)
        person.sees("20 of at most 20 rounds")
        person.sees("Model's SHA-256")
    hub.page.get_by_role("link", name="Runs").click()
    hub.page.get_by_role("table").get_by_role("link").first.click()
    hub.page.locator(".state.finished").wait_for(timeout=COLD_S * 1000)
    hub.sees("Metrics of held-out rows, tree by tree")

    # The model: where it comes from, and what it is on this member's own rows.
    aurora.page.get_by_role("link", name="Models").click()
    aurora.page.get_by_role("table").get_by_role("link").first.click()
    aurora.sees("aurora vouches for it")
    aurora.sees("What the model looks at")
    model = aurora.save("Save the model", folder / "aurora-model.json")
    assert hansa.Model.load(model).rounds == 20
    aurora.page.get_by_role("link", name="Hold it to my own rows").click()
    aurora.sees("Rows by label and predicted class")
    aurora.page.get_by_role("link", name="Data").click()
    aurora.page.get_by_role("link", name="aurora.csv").click()
    aurora.sees("No row is shown")

    # Records: a signed report of one is compared at the other.
    for person in (aurora, borealis):
        person.page.get_by_role("link", name="Records").click()
        person.press("Verify it now")
        person.sees("when it was checked last")
        person.page.get_by_role("table", name="").first.get_by_role("link").first.click()
        person.press("Make a signed report")
    report = borealis.save("save the file", folder / "borealis-report.html")
    aurora.page.get_by_label("Another member's report of this run").set_input_files(report)
    aurora.press("Compare")
    aurora.sees("aurora and borealis agree")
    aurora.page.get_by_role("link", name="Open it").click()
    aurora.sees("A run, as aurora recorded it")
    for person in (aurora, borealis, hub, viewer):
        assert person.faults == []


PATHS = (
    "/",
    "/consortium",
    "/plans",
    "/new-plan",
    "/drafts/cells",
    "/runs",
    "/records",
    "/actions",
    "/settings",
    "/account",
)
MOST_SERIOUS = ("critical", "serious")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConsoleProcess, list[str]]]:
    """A console over a folder with a thousand runs, a proposal and a draft; and every page that it has."""
    folder = make_consortium(tmp_path_factory.mktemp("filled"))
    file = write_service(folder, "aurora", 7465)
    paths = fill(folder, file)
    console = ConsoleProcess(file)
    yield console, paths
    console.stop()


def fill(folder: Path, file: Path) -> list[str]:
    """Put things into a member's folder that pages show; the pages."""
    accounts_of(file, officer="officer")
    service = read_service_file(file, open_keys=False)
    put_many(Store(service.name, service.state, service.database), map(shown_run, range(1000)))
    run = service.runs / f"{998:016x}"
    run.mkdir(parents=True)
    events = [
        {
            "event": "tree",
            "time": "2026-01-01T10:00:00.000Z",
            "trees": tree,
            "rounds": 40,
            "metrics": {"logloss": 0.7 / tree},
        }
        for tree in range(1, 13)
    ]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    desk = Desk(folder)
    client = desk.signed_in("officer", "officer")
    identity = load_identity(folder / f"{HUB}.identity")
    write_proposal(folder / "p.json", propose(parse_plan(PLAN, "plan"), read_pinned(folder / "members.toml"), identity))
    answer = send(client, "/plans/bring", (folder / "p.json").read_bytes())
    given = {"name": "cells", "source": "0", "label": "fault", "mode": "federated", "hub": HUB, "rounds": "50"}
    assert send(client, "/new-plan/write", objective="binary:logistic", **given).status_code == 303
    put_models(folder, desk)
    plan = answer.headers["location"]
    models = ("/models", "/models/m6", "/models/m6/rows", "/models/m6/alone", "/models/m6/against/m1")
    data = ("/data", "/data/1", plan.replace("/plans/", "/data/check/"))
    write_log(folder, "aurora", service.audit)
    desk.put(state="finished", id=RUN)
    return [*PATHS, f"/runs/{998:016x}", plan, *models, *data, "/records/a1b2"]


def test_every_page_is_looked_at(filled: tuple[ConsoleProcess, list[str]]):
    """By the next test; a report has a policy of its own, and the way of two officers opens one."""
    for route in {each.route for each in PICTURES.values()} - {"/records/{run}/report"}:
        pattern = compile_path(route)[0]
        assert any(pattern.match(path) for path in ("/sign-in", *filled[1])), f"no path is of {route}"


def put_models(folder: Path, desk: Desk) -> None:
    """Two runs that gave models."""
    parties = {name: pd.read_csv(folder / f"{name}.csv") for name in ("aurora", "borealis")}
    whole = approved(folder, PLAN + "\n[evaluation]\nfraction = 0.3\n")
    for rounds in (1, 6):
        path = folder / f"model{rounds}.json"
        hansa.fit(parties, label="fault", rounds=rounds, max_depth=2, alone=False, progress=False).model.save(path)
        run = ServiceRun(run=f"m{rounds}", plan="cells", mode="federated", trees=rounds, rounds=6)
        put_model(desk.member.store, desk.member.service, whole, path, run)


LOOKS = [
    pytest.param("light", 1280),
    *(
        pytest.param(scheme, width, marks=pytest.mark.slow)
        for scheme, width in (("dark", 1280), ("light", 390), ("dark", 390))
    ),
]


def shown_run(number: int) -> ServiceRun:
    """A run in the database: the last three are under way, some failed."""
    state = "running" if number > 996 else "failed" if number % 7 == 0 else "finished"
    return ServiceRun(
        run=f"{number:016x}",
        plan=f"cells-{number % 5}",
        mode="federated",
        state=state,
        folder=f"{number:016x}",
        id=f"{number:064x}",
        trees=40 if state == "finished" else 12,
        rounds=40,
        text="the run is over" if state == "finished" else "training, 12 of at most 40 rounds",
        waiting_for=("borealis",) if number == 999 else (),
        created=f"2026-01-{number // 100 + 1:02}T{number // 60 % 24:02}:{number % 60:02}:00.000Z",
        updated=f"2026-01-{number // 100 + 1:02}T{number // 60 % 24:02}:{number % 60:02}:30.000Z",
    )


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_every_page_is_small_usable_and_within_its_policy(
    filled: tuple[ConsoleProcess, list[str]], scheme: str, width: int
):
    from axe_playwright_python.sync_playwright import Axe

    console, paths = filled
    look = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    found: list[tuple[str, str]] = []
    with browser() as chromium:
        person = Person(chromium, console.address, **look)
        # axe-core is put into the pages from outside, which their own policy would not let in.
        outside = Person(chromium, console.address, bypass_csp=True, **look)
        outside.go("/sign-in")
        found += [("/sign-in", fault) for fault in findings(Axe().run(outside.page).response["violations"])]
        for each in (person, outside):
            each.sign_in("officer")
        for path in paths:
            person.go(path)
            size = person.page.evaluate(
                "performance.getEntriesByType('navigation')[0].decodedBodySize"
                " + performance.getEntriesByType('resource').reduce((sum, each) => sum + each.decodedBodySize, 0)"
            )
            assert size < 300_000, (path, size)
            wide = person.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, (path, "is wider than the window", wide)
            outside.go(path)
            found += [(path, fault) for fault in findings(Axe().run(outside.page).response["violations"])]
        assert person.faults == []
    assert found == []


def findings(violations: list[dict[str, Any]]) -> list[str]:
    """What axe-core finds that is serious."""
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
        for each in violations
        if each["impact"] in MOST_SERIOUS
        for node in each["nodes"][:2]
    ]


def test_a_page_is_used_by_keyboard_alone(filled: tuple[ConsoleProcess, list[str]]):
    console, _ = filled
    with browser() as chromium:
        person = Person(chromium, console.address)
        person.sign_in("officer")
        person.page.keyboard.press("Tab")
        assert person.page.evaluate("document.activeElement.textContent") == "Skip to the content"
        person.page.keyboard.press("Enter")
        assert person.page.evaluate("document.activeElement.id") == "content"
        person.go("/runs")
        names = []
        for _ in range(12):
            person.page.keyboard.press("Tab")
            names.append(person.page.evaluate("document.activeElement.textContent").strip())
        assert names[:10] == [
            "Skip to the content",
            "Home",
            "Consortium",
            "Plans",
            "Data",
            "Runs",
            "Models",
            "Records",
            "Settings",
            "officer (officer)",
        ]
        assert person.faults == []


def test_an_officer_signs_in_and_approves_by_a_passkey(tmp_path: Path):
    folder = make_consortium(tmp_path)
    file = write_service(folder, "aurora", 7465)
    accounts_of(file, officer="officer")
    identity = load_identity(folder / f"{HUB}.identity")
    proposal = folder / "proposal.json"
    write_proposal(proposal, propose(parse_plan(PLAN, "plan"), read_pinned(folder / "members.toml"), identity))
    console = ConsoleProcess(file)
    try:
        with browser() as chromium:
            _by_passkey(chromium, console.address.replace("127.0.0.1", "localhost"), proposal)
    finally:
        console.stop()


def _by_passkey(chromium: Any, address: str, proposal: Path) -> None:
    person = Person(chromium, address)
    tools, authenticator = person.has_authenticator()
    person.sign_in("officer")
    page = person.page
    page.get_by_role("link", name="officer (officer)").click()
    page.get_by_label("What to call it").fill("laptop")
    page.get_by_label("Your password").fill(PASSWORD)
    person.press("Add a passkey")
    person.sees("the passkey laptop is added")
    (kept,) = tools.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]
    assert (kept["isResidentCredential"], kept["rpId"]) == (True, "localhost")
    page.get_by_label("Your password").last.fill(PASSWORD)
    person.press("Switch the password off")
    person.sees("is switched off")
    page.get_by_role("button", name="Sign out").click()

    # Nobody types anything.
    page.get_by_role("button", name="Sign in with a passkey").click()
    page.get_by_role("heading", name="Home").wait_for()
    person.bring(proposal)
    person.press("Approve")
    person.sees("is approved by aurora")
    page.goto(f"{address}actions")
    person.sees("signed in from 127.0.0.1 by the passkey laptop")
    person.sees("(confirmed by the passkey laptop)")
    assert person.faults == []

    # Who is there is not verified to be the officer: nothing is sent.
    tools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": False})
    page.goto(f"{address}account")
    page.get_by_label("What to call it").fill("another")
    page.get_by_role("button", name="Add a passkey").click()
    page.get_by_role("alert").get_by_text("No passkey was shown").wait_for()
    tools.send("WebAuthn.setUserVerified", {"authenticatorId": authenticator, "isUserVerified": True})

    # A copy of the passkey, whose counter stayed behind.
    (kept,) = tools.send("WebAuthn.getCredentials", {"authenticatorId": authenticator})["credentials"]
    tools.send("WebAuthn.clearCredentials", {"authenticatorId": authenticator})
    copy = {**kept, "signCount": 1}
    tools.send("WebAuthn.addCredential", {"authenticatorId": authenticator, "credential": copy})
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("button", name="Sign in with a passkey").click()
    person.sees("did not grow: there may be a copy of it")
    page.goto(f"{address}account")
    page.get_by_role("heading", name="Sign in").wait_for()


def press_until(page: Any, name: str, key: str = "Tab") -> None:
    """Go from element to element by a key until the one of this name, or label, is reached."""
    for _ in range(MOST_STEPS):
        page.keyboard.press(key)
        if page.evaluate(NAME_OF_FOCUSED) == name:
            return
    raise AssertionError(f"no way by {key} to {name!r} on {page.url}")


MOST_STEPS = 80
NAME_OF_FOCUSED = """(() => {
    const own = document.activeElement;
    const label = own.labels && own.labels.length ? own.labels[0].innerText : own.innerText;
    return (label || "").trim();
})()"""


@pytest.mark.slow
def test_a_plan_is_written_proposed_read_and_rejected_by_keyboard_alone(tmp_path: Path):
    """Two officers, no pointer but to choose a file: what is wrong is said, and a rejection waits for the other one."""
    folder = make_consortium(tmp_path)
    files = {name: write_service(folder, name, 7465) for name in ("aurora", "borealis")}
    consoles: dict[str, ConsoleProcess] = {}
    try:
        for name, file in files.items():
            accounts_of(file, officer="officer")
            consoles[name] = ConsoleProcess(file)
        with browser() as chromium:
            _by_keyboard(chromium, {name: own.address for name, own in consoles.items()}, folder)
    finally:
        for console in consoles.values():
            console.stop()


def _by_keyboard(chromium: Any, addresses: dict[str, str], folder: Path) -> None:
    aurora, borealis = (Person(chromium, addresses[name]) for name in ("aurora", "borealis"))
    for person in (aurora, borealis):
        person.go("/")
        for label, typed in (("Name", "officer"), ("Password", PASSWORD)):
            press_until(person.page, label)
            person.page.keyboard.type(typed)
        person.page.keyboard.press("Enter")
        person.page.get_by_role("heading", name="Home").wait_for()

    page = aurora.page
    press_until(page, "Plans")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Plans").wait_for()
    press_until(page, "Write a new plan")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="New plan").wait_for()
    press_until(page, "Name of the plan")
    page.keyboard.type("two words")
    press_until(page, "Column to predict")
    page.keyboard.type("nothing")
    press_until(page, "Aggregator, or hub")
    page.keyboard.type(HUB)
    page.keyboard.press("Enter")
    # The browser itself says what a name may have, and the rest stays.
    press_until(page, "Name of the plan", "Shift+Tab")
    page.keyboard.type("cells")
    page.keyboard.press("Enter")
    aurora.sees("no column 'nothing'")
    aurora.sees("what you typed is still there")
    aurora.faults.clear()  # the answer 422 stands in the browser's console
    page.go_back()  # headless Chromium has no keys for it
    page.get_by_role("heading", name="New plan").wait_for()
    assert page.get_by_label("Name of the plan").input_value() == "cells"
    press_until(page, "Column to predict")
    page.keyboard.type("fault")
    page.keyboard.press("Enter")
    aurora.sees("is written; read it and change it")
    press_until(page, "Propose")
    page.keyboard.press("Enter")
    aurora.sees("is proposed by aurora")
    file = aurora.save("Save the proposal with its approvals", folder / "proposal.json")

    borealis.bring(file)
    borealis.sees("This member's policy, rule by rule")
    press_until(borealis.page, "Reason, for the others to read")
    borealis.page.keyboard.type("too many rounds")
    press_until(borealis.page, "Reject")
    borealis.page.keyboard.press("Enter")
    borealis.sees("rejected: too many rounds")
    rejection = borealis.save("Save the signed statement", folder / "rejection.json")
    aurora.bring(rejection)
    aurora.sees("borealis does not approve this plan")
    press_until(page, "Home")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Home").wait_for()
    press_until(page, "cells: borealis does not approve it; read why, and take it away")
    page.keyboard.press("Enter")
    aurora.sees("too many rounds")
    press_until(page, "Take it away here")
    page.keyboard.press("Enter")
    aurora.sees("cells is taken away here")
    assert aurora.faults == borealis.faults == []


FOCUS_SEEN = """(() => {
    const own = document.activeElement;
    if (own === document.body) return null;
    const style = getComputedStyle(own), box = own.getBoundingClientRect();
    return {
        what: own.outerHTML.slice(0, 120),
        seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.height > 0
            && box.left < innerWidth && box.right > 0,
    };
})()"""


@pytest.mark.slow
def test_whatever_is_reached_by_tab_is_seen_in_the_order_of_the_page(filled: tuple[ConsoleProcess, list[str]]):
    console, paths = filled
    with browser() as chromium:
        for width in (1280, 390):
            person = Person(
                chromium, console.address, viewport={"width": width, "height": 800}, reduced_motion="reduce"
            )
            person.sign_in("officer")
            for path in paths:
                person.go(path)
                person.page.evaluate("document.querySelectorAll('details').forEach(own => own.open = true)")
                wanted = person.page.evaluate(
                    "document.querySelectorAll('a[href], button, input:not([type=hidden]), select, textarea, summary').length"
                )
                reached = 0
                for _ in range(wanted + 100):
                    person.page.keyboard.press("Tab")
                    found = person.page.evaluate(FOCUS_SEEN)
                    if found is None:
                        break
                    assert found["seen"], (path, width, found["what"])
                    reached += 1
                # All of them, and regions that scroll.
                assert wanted <= reached < wanted + 100, (path, width, wanted, reached)
                assert person.page.locator('[tabindex]:not([tabindex="0"], #content)').count() == 0, path
            assert person.faults == []
