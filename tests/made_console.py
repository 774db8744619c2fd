"""A console over a real service's folder, asked in this process or in its own, and what its tests do with it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from starlette.testclient import TestClient

from hansa.console.accounts import Sessions, account_of
from hansa.console.app import Console
from hansa.console.book import Book, Role
from hansa.console.live import Streams
from hansa.console.member import Member
from hansa.consortium.audit_entries import Counted, MessagesCounted, RunBegun, RunOver
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.identity import load_identity
from hansa.consortium.versions import read_pinned
from hansa.service.config import ServiceFile, read_service_file
from hansa.service.store import ServiceRun, Store
from made_consortium import HUB, PARTIES
from made_services import write_service

PASSWORD = "correct horse battery"
ADDRESS = "http://127.0.0.1:7490"
RUN = "ab" * 32
"""Of `write_log`."""


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A member's console in this process.

    Attributes:
        member: whose. console: its pages. clock: of its sessions.
    """

    def __init__(self, folder: Path, name: str = "aurora", **changes: Any) -> None:
        file = read_service_file(write_service(folder, name, 7465, **changes), open_keys=False)
        self.clock = Clock()
        self.member = Member(file, Store(file.name, file.state, file.database), Book(file.state))
        self.sessions = Sessions(self.member.book, self.clock)
        self.console = Console(
            self.member, self.sessions, {"127.0.0.1", "localhost"}, tls=False, port=7490, streams=Streams(look_s=0.01)
        )

    def client(self, address: str = ADDRESS) -> TestClient:
        """A browser that nobody has signed in with."""
        return TestClient(self.console.app, base_url=address, follow_redirects=False, raise_server_exceptions=False)

    def signed_in(self, role: Role = "officer", name: str = "", address: str = ADDRESS) -> TestClient:
        """A browser with an account of this role signed in."""
        who = name or f"{role}-1"
        if self.member.book.account(who) is None:
            self.member.book.put_account(account_of(who, role, PASSWORD))
        client = self.client(address)
        answer = client.post("/sign-in", data={"name": who, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        return client

    def put(self, **changes: Any) -> ServiceRun:
        """A run in the service's database."""
        return self.member.store.put(
            ServiceRun(**{"run": "a1b2", "plan": "cells", "mode": "federated", "rounds": 9, **changes})
        )

    def last(self) -> tuple[str, str, bool]:
        """Who did what last, and whether it was done."""
        (action,) = self.member.book.actions(0, 1)
        return action.who, action.what, action.done


def put_many(store: Store, runs: Iterable[ServiceRun]) -> None:
    """Many runs at once, with the times that they name."""
    rows = [
        {
            "service": store._service,
            "run": run.run,
            "created": run.created,
            "over": int(run.over),
            "content": msgspec.json.encode(run).decode(),
        }
        for run in runs
    ]
    with store._transaction() as connection:
        connection.execute(store._runs.insert(), rows)


def put_model(store: Store, service: ServiceFile, approved: Path, model: Path, run: ServiceRun) -> None:
    """A finished run that gave this member a model, with its plan and its learning curve; in the database and in its folder."""
    own = service.runs / run.run
    own.mkdir(parents=True, exist_ok=True)
    shutil.copy(approved, own / "plan.json")
    shutil.copy(model, own / "model.json")
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    store.put(msgspec.structs.replace(run, state="finished", folder=run.run, model_sha256=sha256))
    lines = (
        {"event": "tree", "trees": tree, "rounds": run.rounds, "metrics": {"logloss": 1 / tree}}
        for tree in range(1, run.trees + 1)
    )
    (own / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_log(folder: Path, name: str, path: Path, rows: int = 60) -> Path:
    """A log with one run in it, as a member of it keeps it."""
    identity, members = load_identity(folder / f"{name}.identity"), read_pinned(folder / "members.toml")
    log = AuditLog(path, identity)
    log.append(
        RunBegun(
            at=now(),
            run=RUN,
            epoch=0,
            plan="cd" * 32,
            mode="federated",
            purpose="train",
            hub=HUB,
            hansa="0",
            members={own: card.identity.hex() for own, card in members.items()},
            roster=(("aurora", rows, 0), ("borealis", 80, 0)),
            proposal="ef" * 32,
            approved_by=(HUB, *PARTIES),
        ),
        MessagesCounted(at=now(), run=RUN, epoch=0, counts=(Counted("aurora", HUB, "Sum", 3, 900),)),
        RunOver(at=now(), run=RUN, epoch=0, state="finished", transcript={}),
    )
    log.close()
    return path


def csrf(client: TestClient, page: str = "/") -> str:
    """The token that stands in the forms of a page."""
    found = re.search(r'name="csrf" value="([^"]+)"', client.get(page).text)
    assert found is not None
    return found[1]


def send(client: TestClient, path: str, file: bytes | None = None, **fields: Any) -> Any:
    """Send a form with its token, and with what its page shows now where it has that; the answer."""
    files = None if file is None else {"file": ("file", file)}
    return client.post(path, data={"csrf": csrf(client), "shown": shown(client, path), **fields}, files=files)


def shown(client: TestClient, path: str) -> str:
    """What the form of an action sends back of its page, as the page is now; empty where it has no such field, or nothing is there."""
    parts = path.split("/")
    if parts[1] == "drafts":
        return str(client.get(f"/api/drafts/{parts[2]}").json().get("shown", ""))
    lists = {"consortium": "consortia", "settings": "policies"}
    if parts[1] not in lists:
        return ""
    (found,) = client.get(f"/api/{parts[1]}").json()[lists[parts[1]]]
    return str(found["shown"])
