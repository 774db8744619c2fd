"""`hansa demo --console`: three operators and a hub as services on this machine, and each operator's console over its own state.

Services and consoles are processes of `hansa`, each over a folder of its own. What people do by hand, this does for them: it founds the
consortium, has every member approve the plans, and gives them to the services one after another.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from hansa.consortium.approvals import approve, propose, write_proposal
from hansa.consortium.identity import Identity, create_identity, save_identity
from hansa.consortium.versions import found, read_pinned, signed, write_consortium
from hansa.demo.cases import Case, case_settings, case_tables
from hansa.errors import HansaError
from hansa.files import make_folder
from hansa.node.in_process import HOLDER_POLICY
from hansa.node.warm_up import warm_up, warm_up_shares
from hansa.plan import Plan
from hansa.printable import printable
from hansa.service.config import ServiceFile, read_service_file
from hansa.service.inbox import submit
from hansa.service.proposals import keep_proposal
from hansa.service.store import OVER, Store
from hansa.simulation.run import make_plan, member_names, refusal_of_members, split_parties
from hansa.simulation.tables import Table, write_party_table
from hansa.toml import write_toml

HUB = "hub"
CONSORTIUM, CONSORTIUM_FILE, TABLE_FILE = "operators", "consortium.json", "cells.parquet"
DAYS = 7
"""For which keys and proposals are made; the folder is gone when the demo ends."""

LOOK_S = 0.25
"""Seconds between two looks at what the services did."""

END_S = 60.0
"""Seconds that a process has to end by itself; a service has its runs end first."""


class OpenConsole(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="console", forbid_unknown_fields=True
):
    """A member's console is there: whose, where, the link that signs in an operator, once, and the member's service's file."""

    member: str
    address: str
    link: str
    service: str


class PlanChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="plan", forbid_unknown_fields=True):
    """What became of a plan at one member: given to the services ("waiting"), or over. run: as the consoles name it."""

    plan: str
    mode: str
    member: str
    run: str
    state: str
    text: str


Tell = Callable[[OpenConsole | PlanChanged], None]


def show_case(case: Case, folder: Path, tell: Tell) -> None:
    """Train a case in each of its modes under consoles, one mode after another; then leave them open until an exception passes.

    Args:
        folder: empty; takes a folder for each member. tell: told of each console, and of each plan as it is given and over.

    Raises HansaError where a process ends that should not.
    """
    train, _ = case_tables(case, folder)
    tables = split_parties(train, member_names(sorted(set(train.party))))
    plans = [plan_of(case, mode, train, tables) for mode in case.modes]
    for plan in plans:
        warm_up(plan.parameters, False)
        if plan.coopetitive is not None:
            warm_up_shares(plan.parameters)
    with consoles(folder, tables, case.target) as members:
        for own in members.consoles:
            tell(own)
        proposals = [members.approved(plan) for plan in plans]
        for proposal, plan in zip(proposals, plans, strict=True):
            members.train(proposal, plan, tell)
        while True:
            members.check()
            time.sleep(LOOK_S)


def plan_of(case: Case, mode: str, train: Table, tables: Mapping[str, Table]) -> Plan:
    """The plan of one mode: the operators are its parties, and where sums are taken, or messages relayed, `HUB` does it."""
    settings = replace(case_settings(case, mode, train), server_links="hub", hub="")
    plan = make_plan(settings, train.names, tuple(tables))
    if refusal_of_members(plan, tables) is not None:
        plan = replace(plan, min_party_rows=0)
    name = f"{case.target.replace('_', '-')}-{mode}"
    return replace(plan, name=name, aggregator=HUB) if plan.coopetitive is None else replace(plan, name=name)


@dataclass
class Operators:
    """The members of the demo and their processes; use `consoles`.

    Attributes:
        identities: of all members, the hub's too. files: of their services. consoles: of the operators.
        folder: of all. processes, stores: by name.
    """

    folder: Path
    identities: Mapping[str, Identity]
    files: Mapping[str, ServiceFile]
    consoles: tuple[OpenConsole, ...]
    processes: Mapping[str, subprocess.Popen[str]]
    stores: Mapping[str, Store]

    def approved(self, plan: Plan) -> Path:
        """A proposal of a plan that all members have approved and keep; its file."""
        first, *others = sorted(plan.members)
        proposal = propose(plan, read_pinned(self.folder / CONSORTIUM_FILE), self.identities[first], DAYS)
        for name in others:
            proposal = approve(proposal, self.identities[name])
        for file in self.files.values():
            (consortium,) = file.consortia
            keep_proposal(file.proposals_of(consortium), consortium, proposal)
        path = self.folder / f"{plan.name}.json"
        write_proposal(path, proposal)
        return path

    def train(self, proposal: Path, plan: Plan, tell: Tell) -> None:
        """Give a plan to all its members' services, and wait until it is over at each. Raises HansaError where a process ended."""
        left = {}
        for name in plan.members:
            given = submit(self.files[name], proposal)
            left[name] = given.run
            tell(
                PlanChanged(
                    plan=plan.name, mode=plan.mode, member=name, run=given.run, state=given.state, text=given.text
                )
            )
        while left:
            self.check()
            time.sleep(LOOK_S)
            for name, run in list(left.items()):
                now = self.stores[name].named(run)
                if now is not None and now.state in OVER:
                    del left[name]
                    tell(
                        PlanChanged(
                            plan=plan.name, mode=plan.mode, member=name, run=run, state=now.state, text=now.text
                        )
                    )

    def check(self) -> None:
        """Raise HansaError where a service or a console is gone."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise _ended(name, process.returncode, self.folder)


@contextmanager
def consoles(folder: Path, tables: Mapping[str, Table], label: str) -> Iterator[Operators]:
    """Found the consortium of the tables' owners and a hub, and start their services and consoles; all end with the block.

    Raises HansaError where a process does not come up.
    """
    names = (HUB, *tables)
    identities = {name: create_identity(name, days=DAYS) for name in names}
    held = found(CONSORTIUM, [identity.card() for identity in identities.values()], identities[HUB])
    for name in tables:
        held = signed(held, identities[name])
    write_consortium(folder / CONSORTIUM_FILE, held)
    processes: dict[str, subprocess.Popen[str]] = {}
    files: dict[str, ServiceFile] = {}
    address = "127.0.0.1:0"
    with ExitStack() as stack:
        stack.callback(_end, processes)
        for name in names:
            own = folder / name
            make_folder(own)
            save_identity(identities[name], own / "keys")
            write_consortium(own / CONSORTIUM_FILE, held)
            if name in tables:
                write_party_table(own / TABLE_FILE, tables[name], (label,), None)
            path = _write_service(own, address, name in tables)
            command = "party" if name in tables else "aggregator"
            ready = _start(processes, name, folder, command, str(path), "--service", "--json")
            if name == HUB:
                (address,) = ready["addresses"]
                _write_service(own, address, False)
            files[name] = read_service_file(path, open_keys=False)
        opened = []
        for name in tables:
            options = (str(files[name].path), "--listen", "127.0.0.1:0", "--json")
            ready = _start(processes, f"{name}-console", folder, "console", *options)
            file = str(files[name].path)
            opened.append(OpenConsole(member=name, address=ready["address"], link=ready["link"], service=file))
        stores = {name: Store(file.name, file.state, file.database) for name, file in files.items()}
        for store in stores.values():
            stack.callback(store.close)
        yield Operators(folder, identities, files, tuple(opened), processes, stores)


def _write_service(folder: Path, hub: str, party: bool) -> Path:
    """The file of a member's service, with its table where it is a party."""
    values: dict[str, Any] = {
        "members": CONSORTIUM_FILE,
        "identity": "keys",
        "hub": hub,
        "state": "service",
        "policy": {"least_party_rows": HOLDER_POLICY.least_party_rows},
    }
    if party:
        values["sources"] = [{"table": TABLE_FILE}]
    path = folder / "service.toml"
    path.write_text(write_toml(values), encoding="utf-8")
    return path


def _start(
    processes: dict[str, subprocess.Popen[str]], name: str, folder: Path, command: str, *options: str
) -> Mapping[str, Any]:
    """Start `hansa COMMAND OPTIONS`, which prints a line of JSON once it is there; that line. Raises HansaError."""
    with (folder / f"{name}.log").open("wb") as log:
        process = processes[name] = subprocess.Popen(
            [sys.executable, "-m", "hansa", command, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise _ended(name, process.wait(), folder)
    # Nobody reads the lines after it; a full pipe would have the process stand still.
    threading.Thread(target=process.stdout.read, daemon=True).start()
    ready: Mapping[str, Any] = msgspec.json.decode(line)
    return ready


def _ended(name: str, status: int, folder: Path) -> HansaError:
    text = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()[-2000:]
    return HansaError(f"the process {name!r} ended with status {status}: {printable(text) or 'no message'}")


def _end(processes: Mapping[str, subprocess.Popen[str]]) -> None:
    """End all processes, the consoles first, and wait until they are gone."""
    for process in reversed([*processes.values()]):
        with suppress(ProcessLookupError):
            process.terminate()
    for process in processes.values():
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
