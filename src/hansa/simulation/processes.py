"""A run with one operating-system process per member, over mutual TLS on this machine: the same commands that people type."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from hansa.consortium.identity import create_identity, save_identity
from hansa.consortium.members import members_of, write_members
from hansa.errors import HansaError
from hansa.node.in_process import HOLDER_POLICY
from hansa.plan import Plan, write_plan
from hansa.simulation.tables import Table, write_party_table
from hansa.toml import write_toml

POLL_S = 0.2

FOLLOWS = ("RunStopped", "TransportError", "LinkLost", "MemberLost")
"""Kinds of errors that follow from another member's: it said why, or was gone."""


def write_consortium(
    folder: Path, plan: Plan, tables: Mapping[str, Table], threads: int, transcript: Path | None
) -> None:
    """Make identities, members file, plan and every party's table in `folder`."""
    identities = {name: create_identity(name, days=1) for name in plan.members}
    for name, identity in identities.items():
        save_identity(identity, folder / f"{name}.identity")
    write_members(folder / "members.toml", members_of([identity.card() for identity in identities.values()]))
    (folder / "plan.toml").write_text(write_plan(plan), encoding="utf-8")
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        write_party_table(path, table, plan.schema.label, plan.schema.weight)
    direct = plan.coopetitive is not None and plan.coopetitive.server_links == "direct"
    dialled = [server for server in plan.servers if direct and server != plan.hub]
    servers = dict(zip(dialled, _free_addresses(len(dialled)), strict=True))
    for name in plan.members:
        more: dict[str, Any] = {"threads": 1}
        if name in tables:
            more = {"threads": threads, "table": f"{name}.parquet", "ledger": f"{name}-ledger.jsonl"}
            more["policy"] = {name: getattr(HOLDER_POLICY, name) for name in ("allow_two_parties", "least_party_rows")}
        if name in servers:
            more["servers"] = servers
        _write_member_file(folder, name, 0, more, transcript)


def _write_member_file(folder: Path, name: str, port: int, more: Mapping[str, Any], transcript: Path | None) -> None:
    values: dict[str, Any] = {
        "plan": "plan.toml",
        "members": "members.toml",
        "identity": f"{name}.identity",
        "hub": f"127.0.0.1:{port}",
        "model": f"{name}-model.json",
        "record": f"{name}-record.json",
        **({"transcript": str(transcript.resolve())} if transcript else {}),
        **more,
    }
    (folder / f"{name}.toml").write_text(write_toml(values), encoding="utf-8")


def _free_addresses(count: int) -> list[str]:
    """Addresses on this machine that nobody listens at just now."""
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in taken]


class Processes:
    """The members' processes; left alone they are all stopped on exit, whatever happened."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._errors: dict[str, IO[str]] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self.events: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self._processes.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in self._errors.values():
            stream.close()

    def start(self, role: str, name: str, folder: Path) -> None:
        """Start `hansa ROLE NAME.toml --json`."""
        errors = (folder / f"{name}.log").open("w+", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "hansa", role, str(folder / f"{name}.toml"), "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        self._processes[name] = process
        self._errors[name] = errors
        threading.Thread(target=self._read, args=(name, process), daemon=True).start()

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            for line in process.stdout:
                event = json.loads(line)
                if event["event"] == "error":
                    self._told[name] = event
                elif event["event"] != "notice":
                    self.events.put((name, event))

    def next_event(self) -> tuple[str, dict[str, Any]]:
        """The next event of any process: (member, event). Raises HansaError where a process failed instead."""
        while True:
            try:
                return self.events.get(timeout=POLL_S)
            except queue.Empty:
                self._check()

    def _check(self) -> None:
        if not self._failed():
            return
        time.sleep(
            2 * POLL_S
        )  # others fail because of the first, maybe before it has ended: prefer the one that says why
        failed = self._failed()
        name = min(failed, key=lambda n: (self._told.get(n, {}).get("kind") in FOLLOWS, n))
        told = self._told.get(name)
        text = told["text"] if told is not None else self._text(name)
        raise HansaError(f"the process of member {name!r} ended with status {failed[name]}: {text}")

    def _failed(self) -> dict[str, int]:
        return {name: p.returncode for name, p in self._processes.items() if p.poll() not in (None, 0)}

    def _text(self, name: str) -> str:
        self._errors[name].seek(0)
        return self._errors[name].read().strip()[-2000:] or "no message"


def train_in_processes(
    folder: Path,
    plan: Plan,
    tables: Mapping[str, Table],
    *,
    threads: int,
    transcript: Path | None,
    report: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Any], bytes, float]:
    """Train with one process per member in `folder`.

    Returns:
        The aggregator's record (in coopetitive mode what S_0 says of the same, with all members' traffic), the model that the
        receivers hold, and the seconds until all had joined.

    Raises:
        HansaError: a process failed, or receivers hold different models.
    """
    started = time.perf_counter()
    write_consortium(folder, plan, tables, threads, transcript)
    startup = 0.0
    records: dict[str, dict[str, Any]] = {}
    with Processes() as processes:
        others = [name for name in plan.members if name != plan.hub]
        processes.start("aggregator" if plan.coopetitive is None else "hub", plan.hub, folder)
        while len(records) < 1 + len(others):
            member, event = processes.next_event()
            if event["event"] == "listening":
                for name in others:
                    path = folder / f"{name}.toml"
                    path.write_text(path.read_text().replace("127.0.0.1:0", f"127.0.0.1:{event['port']}"))
                    processes.start(command_of(plan, name), name, folder)
            elif event["event"] == "record":
                records[event["record"]["member"]] = event["record"]
            elif member == (plan.hub if plan.coopetitive is None else plan.servers[0]):
                if event["event"] == "registered":
                    startup = time.perf_counter() - started
                report(event)
    models = {(folder / f"{name}-model.json").read_bytes() for name in plan.receivers}
    if len(models) != 1:
        raise HansaError("the receivers hold different models; this must not happen: please report it")
    record = records[plan.hub] if plan.coopetitive is None else _joint_record(plan, records)
    return record, models.pop(), startup


def command_of(plan: Plan, name: str) -> str:
    """The command that runs a member other than the aggregator or hub."""
    if name in plan.parties:
        return "party"
    return "server" if name in plan.servers else "receiver"


def _joint_record(plan: Plan, records: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What an aggregator's record says, from those of S_0 and the hub: no member of a coopetitive run knows more."""
    first = records[plan.servers[0]]
    return {
        "exchanges": first["training_rounds"],
        "trees_grown": len(first["tree_seconds"]) * plan.parameters.outputs,
        "history": first["history"],
        "without_value": first["without_value"],
        "seconds": first["seconds"],
        # A server's connections to other servers are not the hub's to count.
        "traffic": {
            name: {key: record[key] for key in ("bytes_up", "bytes_down")}
            for name, record in sorted(records.items())
            if name in plan.participants
        },
        "servers": [records[server] for server in plan.servers],
    }
