"""A run with one operating-system process per member, over mutual TLS on this machine: the same commands that people type."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import runpy
import socket
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from hansa.consortium.identity import create_identity, save_identity
from hansa.consortium.members import members_of, write_members
from hansa.errors import HansaError, error_kinds
from hansa.node.events import Ended, Event, Failed, Listening, Noticed, OnEvent, read_line
from hansa.node.in_process import HOLDER_POLICY
from hansa.node.record import AggregatorRecord, Bytes, Record, SharedRecord, known
from hansa.node.run import command_of
from hansa.plan import Plan, write_plan
from hansa.roles.run import Registered
from hansa.simulation.summary import Timing, Together, values_alone
from hansa.simulation.tables import Table, write_party_table
from hansa.toml import write_toml

POLL_S = 0.2

HUB_TO_COME = '"127.0.0.1:0"'
"""Where a member's file says that its hub is found, before that one listens."""

PRELOADED = ("hansa.cli.main", "hansa.node.run", "numba.np.arraymath")
"""What every member's command imports. It is imported once, in the process that all members' processes are forked from."""


def write_consortium(
    folder: Path,
    plan: Plan,
    tables: Mapping[str, Table],
    threads: int,
    transcript: Path | None,
    metric_file: Path | None = None,
) -> None:
    """Make identities, members file, plan and every party's table in `folder`; `metric_file` has the plan's custom metric."""
    identities = {name: create_identity(name, days=1) for name in plan.members}
    for name, identity in identities.items():
        save_identity(identity, folder / f"{name}.identity")
    write_members(folder / "members.toml", members_of([identity.card() for identity in identities.values()]))
    (folder / "plan.toml").write_text(write_plan(plan), encoding="utf-8")
    for name, table in tables.items():
        path = folder / f"{name}.parquet"
        write_party_table(path, table, plan.schema.labels, plan.schema.weight, plan.schema.base_margin)
    direct = plan.coopetitive is not None and plan.coopetitive.server_links == "direct"
    dialled = [server for server in plan.servers if direct and server != plan.hub]
    servers = dict(zip(dialled, _free_addresses(len(dialled)), strict=True))
    collectors = dict(plan.collectors)
    for name in plan.members:
        more: dict[str, Any] = {"threads": threads if name in plan.servers else 1}
        if name in tables:
            more = {"threads": threads, "table": f"{name}.parquet", "ledger": f"{name}-ledger.jsonl"}
            policy = {name: getattr(HOLDER_POLICY, name) for name in ("allow_two_parties", "least_party_rows")}
            more["policy"] = {**policy, "functions": [sha256 for _, sha256 in plan.functions]}
            more |= {} if metric_file is None else {"custom_metric": str(metric_file.resolve())}
        if name in servers:
            more["servers"] = servers
        if name in collectors:
            more["listen"] = "127.0.0.1:0"
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


def preload() -> BaseContext:
    """Begin to import what every member needs, in a process of its own, and come back at once; how processes are started then.

    That process listens at a socket in the folder for temporary files. Where it cannot (a name beyond 107 bytes, no space), each
    member's process imports everything by itself.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED])
    try:
        forkserver.ensure_running()
    except OSError:
        return multiprocessing.get_context("spawn")
    return context


class Processes:
    """The members' processes; left alone they are all stopped on exit, whatever happened."""

    def __init__(self) -> None:
        self._processes: dict[str, BaseProcess] = {}
        self._errors: dict[str, Path] = {}
        self._told: dict[str, Failed] = {}
        self.events: queue.Queue[tuple[str, Event | Ended]] = queue.Queue()
        self._context = preload()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(5)
            if process.exitcode is None:
                process.kill()
                process.join()

    def start(self, command: str, name: str, folder: Path) -> None:
        """Start `hansa COMMAND NAME.toml --json`."""
        errors = self._errors[name] = folder / f"{name}.log"
        errors.touch()  # a process that ends before its first step has said nothing
        lines, writer = self._context.Pipe(duplex=False)
        arguments = ("hansa", command, str(folder / f"{name}.toml"), "--json")
        process = self._context.Process(  # type: ignore[attr-defined]
            target=_run_command, args=(arguments, writer, errors), name=name, daemon=True
        )
        process.start()
        self._processes[name] = process  # now there is something to end
        writer.close()
        threading.Thread(target=self._read, args=(name, process, lines), daemon=True).start()

    def _read(self, name: str, process: BaseProcess, reader: Connection) -> None:
        with reader, os.fdopen(os.dup(reader.fileno()), encoding="utf-8") as lines:
            for line in lines:
                try:
                    event = read_line(line)
                except msgspec.DecodeError as error:
                    text = f"wrote what is no line of `--json`: {error}; report this as a fault"
                    self._told[name] = Failed(kind="HansaError", text=text, retry=False)
                    process.kill()
                    return
                if isinstance(event, Failed):
                    self._told[name] = event
                elif not isinstance(event, Noticed):
                    self.events.put((name, event))

    def next_event(self) -> tuple[str, Event | Ended]:
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
        name = min(failed, key=lambda n: (self._follows(n), n))
        told = self._told.get(name)
        text = self._text(name) if told is None else told.text
        error = HansaError(f"the process of member {name!r} ended with status {failed[name]}: {text}", member=name)
        if told is not None:
            error.member, error.suspects = told.member, told.suspects
            error.run, error.rule, error.cure = told.run, told.rule, told.cure
        raise error

    def _follows(self, name: str) -> bool:
        """Whether a member's error only follows from what happened to another one."""
        told = self._told.get(name)
        return told is not None and error_kinds().get(told.kind, HansaError).follows

    def _failed(self) -> dict[str, int]:
        return {name: p.exitcode for name, p in self._processes.items() if p.exitcode not in (None, 0)}

    def _text(self, name: str) -> str:
        return self._errors[name].read_text(encoding="utf-8").strip()[-2000:] or "no message"


def _run_command(arguments: tuple[str, ...], output: Connection, errors: Path) -> None:
    """In a process of its own: what `python -m hansa` does with these arguments."""
    os.dup2(output.fileno(), sys.stdout.fileno())
    output.close()
    with errors.open("w", encoding="utf-8") as written:
        os.dup2(written.fileno(), sys.stderr.fileno())
    sys.argv = [*arguments]
    runpy.run_module("hansa", run_name="__main__", alter_sys=True)


def train_in_processes(
    folder: Path,
    plan: Plan,
    tables: Mapping[str, Table],
    *,
    threads: int,
    transcript: Path | None,
    report: OnEvent,
    metric_file: Path | None = None,
) -> Together:
    """Train with one process per member in `folder`. Progress is the aggregator's, in coopetitive mode that of S_0.

    `metric_file` has the plan's custom metric.

    Raises:
        HansaError: a process failed, or receivers hold different models.
    """
    started = time.perf_counter()
    write_consortium(folder, plan, tables, threads, transcript, metric_file)
    startup = 0.0
    records: dict[str, Record] = {}
    with Processes() as processes:
        others = [name for name in plan.members if name != plan.hub]
        collectors = dict(plan.collectors)
        below = {plan.hub: [name for name in others if plan.above(name) == plan.hub], **collectors}
        processes.start(command_of(plan, plan.hub), plan.hub, folder)
        while len(records) < 1 + len(others):
            member, event = processes.next_event()
            if isinstance(event, Listening):
                for name in below[event.member]:
                    path = folder / f"{name}.toml"
                    text = path.read_text().replace(f"hub = {HUB_TO_COME}", f'hub = "127.0.0.1:{event.port}"')
                    path.write_text(text)
                    processes.start(command_of(plan, name), name, folder)
            elif isinstance(event, Ended):
                records[event.record.member] = event.record
            elif member == (plan.hub if plan.coopetitive is None else plan.servers[0]):
                if isinstance(event, Registered):
                    startup = time.perf_counter() - started
                report(event)
    models = {(folder / f"{name}-model.json").read_bytes() for name in plan.receivers}
    if len(models) != 1:
        raise HansaError("the receivers hold different models; this must not happen: please report it")
    return _together(plan, records, models.pop(), startup)


def _together(plan: Plan, records: Mapping[str, Record], model: bytes, startup: float) -> Together:
    """What the aggregator's record says of the run; in coopetitive mode those of S_0 and of all members: none of them knows more."""
    own = records[plan.hub]
    if isinstance(own, AggregatorRecord):
        seconds = known(own.seconds)
        # The lines of parties that have a collector are not the aggregator's to count.
        behind = {
            name: Bytes(bytes_up=known(record.bytes_up), bytes_down=known(record.bytes_down))
            for name, record in records.items()
            if plan.above(name) != plan.hub
        }
        return Together(
            model=model,
            exchanges=known(own.exchanges),
            trees_grown=known(own.trees_grown),
            history=known(own.history),
            without_value=known(own.without_value),
            seconds=Timing(startup=startup, binning=known(seconds.binning), training=known(seconds.training)),
            traffic=known(own.traffic) | behind,
        )
    servers = tuple(record for name in plan.servers if isinstance(record := records[name], SharedRecord))
    first = servers[0]
    seconds = known(first.seconds)
    return Together(
        model=model,
        exchanges=known(first.training_rounds),
        trees_grown=len(known(first.tree_seconds)) * plan.parameters.outputs,
        history=values_alone(known(first.history)),
        without_value=known(first.without_value),
        seconds=Timing(startup=startup, binning=known(seconds.binning), training=known(seconds.training)),
        # A server's connections to other servers are not the hub's to count.
        traffic={
            name: Bytes(bytes_up=known(record.bytes_up), bytes_down=known(record.bytes_down))
            for name, record in sorted(records.items())
            if name in plan.participants
        },
        servers=servers,
    )
