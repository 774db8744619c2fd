"""The supervising process of a service: takes plans, gives each run a process of its own, and starts that again until the run is over.

It holds no rows, no keys of a run and no sums: those are in the runs' processes, which the command of a single run plays as well
(`node.run`). What ends one of them leaves the others. A process whose service is gone ends itself, so that two never play one run.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import msgspec
from msgspec.structs import replace as replaced

from hansa.consortium.approvals import read_proposal
from hansa.consortium.model_signature import check_signing
from hansa.errors import AGAIN, WITHHELD, HansaError, StateError, in_words
from hansa.files import make_folder, read_whole
from hansa.node import logs
from hansa.node.config import address_of
from hansa.node.events import Ended, Failed, Line, Noticed, Paused, line_of, read_line
from hansa.node.notices import NoticeWriter
from hansa.node.run import Command
from hansa.roles.run import Progress, Registered, Resumed
from hansa.service.config import Consortium, ServiceFile, read_service_file
from hansa.service.exchange import route_of_exchange
from hansa.service.inbox import LISTENING, arrivals, clear, members_of_run, write_member_file
from hansa.service.seen_members import keep_seen, require_going_on
from hansa.service.store import ServiceRun, Store
from hansa.service.tracing import Tracer
from hansa.transport.routing import Router, local_pair, route_of

TICK_S = 0.25
"""Seconds between two looks at the inbox and at what operators want."""

FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 1.0, 60.0
"""Between the end of a run's process and its next start; doubled with each that came no further."""

KEEP_S = 1.0
"""Seconds at least between two notes of one run's progress in the database."""

HELD = "paused by its operator; `hansa resume` has it go on"
"""The text of a run that stands still because its operator wants that."""

STOP_S = 30.0
"""Seconds that runs have to end when the service does; then they are killed."""

REVOKED_S = 2.0
"""Seconds that a run's process has to note that a key of its plan was revoked, and to tell the others; then it is killed."""

REVOKED_SIGNAL = signal.SIGUSR1
"""Tells a run's process to look whether a key of its plan was revoked."""

STALE_S = 10.0
"""Seconds without a round of the service's own loop after which it does not count as ready."""

REPEAT_S = 30.0
"""Seconds between two log lines that say that the database is away."""

MOST_EVENTS_BYTES = 8 * 2**20
"""Of a run's file of events; what is older goes into one other file, and is then dropped."""

EVENTS_FILE = "events.jsonl"
MODULE, EXCHANGE_MODULE = "hansa.cli.service_run", "hansa.cli.service_exchange"
"""What a run's process, and one that exchanges proposals, is started as."""


class RunChanged(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="run", forbid_unknown_fields=True):
    """A run of a service is in another state.

    Attributes:
        run, plan, state, text, waiting_for: as in `store.ServiceRun`. member: whose service.
    """

    run: str
    plan: str
    state: str
    text: str
    waiting_for: tuple[str, ...]
    member: str


class ServiceListens(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="service", forbid_unknown_fields=True
):
    """The service is there; member: whose. addresses: where others can connect, as host:port; none where it only dials."""

    member: str
    addresses: tuple[str, ...]


OnChange = Callable[[RunChanged | ServiceListens], None]


@dataclass
class _Child:
    """The process of one run.

    Attributes:
        run: as it is kept. process: it. channel: this end of the local socket for connections. out: its lines of JSON.
        progressed: whether it came further than joining. stopping: whether it was asked to end. ended: its last line.
        members_version: of the consortium's file that the process read; 0 where nobody signs it. read: the files' stamps then.
        anew: whether it was asked to end because members changed, and is started again at once. given_up: why the run is given up, and
            kill_at: until when its process may say so.
    """

    run: ServiceRun
    process: subprocess.Popen[bytes]
    channel: socket.socket
    out: IO[bytes]
    notices: NoticeWriter
    progressed: bool = False
    stopping: bool = False
    ended: Ended | Failed | None = None
    members_version: int = 0
    read: tuple[tuple[int, ...], ...] = ()
    anew: bool = False
    given_up: str = ""
    kill_at: float = float("inf")
    left: bytes = b""
    kept_at: float = 0.0


@dataclass
class _Carrier:
    """The process that exchanges one consortium's proposals; None between two starts.

    Attributes:
        setbacks: how often it ended so far. due: when it is started, by `time.monotonic`. route: by which others ask for it, where
            this member is the hub.
    """

    consortium: str
    route: str = ""
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    setbacks: int = 0
    due: float = 0.0


@dataclass
class Status:
    """What the health endpoint tells of the service; written by its loop alone.

    Attributes:
        member: whose service. runs: all. looked: when the loop went round last, by `time.monotonic`. fault: what is wrong now, or
            empty. handed, refused: connections of others so far. started: processes of runs.
    """

    member: str = ""
    runs: tuple[ServiceRun, ...] = ()
    looked: float = 0.0
    fault: str = ""
    handed: int = 0
    refused: int = 0
    started: int = 0

    @property
    def alive(self) -> bool:
        """Whether the loop goes round."""
        return time.monotonic() - self.looked < STALE_S


@dataclass
class Service:
    """A service, from its start to its end; use `serve`.

    Args:
        file: the service's own. command: which member it plays. change: told of runs whose state changes.
        log_format, log_level: of the runs' processes, which write to this one's standard error.
    """

    file: ServiceFile
    command: Command
    change: OnChange
    log_format: str
    log_level: str
    status: Status = field(default_factory=Status)
    _children: dict[str, _Child] = field(default_factory=dict)
    _setbacks: dict[str, int] = field(default_factory=dict)
    _routers: list[Router] = field(default_factory=list)
    _carriers: list[_Carrier] = field(default_factory=list)
    _unkept: dict[str, ServiceRun] = field(default_factory=dict)
    _told_at: float = float("-inf")
    _held: frozenset[str] = frozenset()
    _closing: bool = False
    _read: tuple[tuple[int, ...], ...] = ()
    _unread: str = ""

    def serve(self) -> None:
        """Go on until an exception passes, such as that of a signal; then all runs pause, and their processes end.

        Raises StateError where another process serves this folder; PlanError, OutputError, TransportError where it cannot begin.
        """
        if self.file.document.model_signatures:
            check_signing()
        self.status.member = self.file.consortia[0].identity.name
        make_folder(self.file.state)
        with contextlib.ExitStack() as opened:
            opened.enter_context(held(self.file.state))
            self._store = Store(self.file.name, self.file.state, self.file.database)
            opened.callback(self._store.close)
            self._selector = selectors.DefaultSelector()
            opened.callback(self._selector.close)
            self._tracer = Tracer(self.file.document.traces, self.status.member)
            opened.callback(self._tracer.close)
            self._known = {run.run: run for run in self._store.runs()}
            for consortium in self.file.consortia:
                keep_seen(consortium.members, self.file.seen_of(consortium))
            for host, port in self._addresses():
                self._routers.append(Router(host, port))
                opened.callback(self._routers[-1].close)
            opened.callback(self._end)
            for consortium in self.file.consortia:
                if consortium.exchange and consortium.withdrawals is not None:
                    make_folder(consortium.withdrawals)
                hub = consortium.exchange == consortium.identity.name
                if consortium.exchange and hub == (
                    self.command in LISTENING
                ):  # the other one of a member's two services does it
                    route = route_of_exchange(consortium) if hub else ""
                    self._carriers.append(_Carrier(consortium.name, route))
            listening = tuple(f"{host}:{port}" for host, port in (router.address for router in self._routers))
            where = f"listening at {', '.join(listening)}" if listening else "dialling only"
            logs.note(logging.INFO, f"the service of {self.status.member} is there, {where}")
            self._look()
            self.change(ServiceListens(member=self.status.member, addresses=listening))
            while True:
                self._look()
                self._carry()
                self._listen(TICK_S)
                self._reap()

    def _addresses(self) -> list[tuple[str, int]]:
        """Where this service listens: the hub at the consortia's address, a server with links of its own at its own; others nowhere."""
        found: dict[tuple[str, int], None] = {}
        for consortium in self.file.consortia:
            if self.command in LISTENING:
                found[address_of(consortium.hub, "hub", self.file.path)] = None
            own = (self.file.document.servers or {}).get(consortium.identity.name)
            if own is not None:
                found[address_of(own, f"servers.{consortium.identity.name}", self.file.path)] = None
        return list(found)

    # What is to be done

    def _look(self) -> None:
        """One round: plans that came, what operators want, runs whose turn it is. A database that is away is waited for."""
        try:
            self._keep_rest()
            self._take_changes()
            self._end_given_up()
            if not self._unread:
                self._take_plans()
            self._obey()
            if not self._unread:
                self._start_due()
            self.status.fault = self._unread
        except HansaError as error:
            if not error.retry:
                raise
            self.status.fault = str(error)
            if time.monotonic() - self._told_at >= REPEAT_S:
                self._told_at = time.monotonic()
                logs.note(logging.ERROR, str(error))
        self.status.looked = time.monotonic()
        self.status.runs = tuple(self._known.values())
        self.status.handed = sum(router.handed for router in self._routers)
        self.status.refused = sum(router.refused for router in self._routers)

    def _take_changes(self) -> None:
        """Take what was saved since: policies, this member's own keys, and members. As long as a file is wrong nothing new begins.

        What else was changed in the service's file counts at the next start.
        """
        found = self.file.stamps()  # before they are read: what is written meanwhile is read in the next round
        if found == self._read and not self._unread:
            return
        self._read = found
        try:
            new = {own.name: own for own in read_service_file(self.file.path, open_keys=False).consortia}
            if lost := [own.name for own in self.file.consortia if own.name not in new]:
                raise StateError(
                    f"it does not name the consortium {lost[0]!r} any more; put that back, or start the service again"
                )
            for own in self.file.consortia:
                require_going_on(new[own.name].members, own.members, own.members_path)
        except (OSError, HansaError) as error:
            self._refuse(f"a file was changed, and is not taken, so that no run begins: {in_words(error)}")
            return
        before = self.file
        if len(new) > len(before.consortia):
            logs.note(logging.WARNING, "the service's file has more consortia; those are taken at the next start")
        taken = {"policy", "members", "signed", "identity", "folder", "key_file"}
        consortia = tuple(
            replace(own, **{name: getattr(new[own.name], name) for name in taken}) for own in before.consortia
        )
        self.file = replace(before, consortia=consortia)
        for old, own in zip(before.consortia, consortia, strict=True):
            if own.policy != old.policy:
                logs.note(
                    logging.INFO,
                    "the policy was changed, and counts for plans that come and runs that start from now on",
                )
            if own.members != old.members or own.identity != old.identity:
                self._take_members(own)
        try:
            for own in consortia:
                keep_seen(own.members, self.file.seen_of(own))
        except (OSError, HansaError) as error:
            self._refuse(f"it cannot be noted which members file was taken, so that no run begins: {in_words(error)}")
            return
        if fault := _fault_of_keys(consortia):
            self._refuse(fault)
        elif self._unread:
            logs.note(logging.INFO, "the files can be taken again")
            self._unread = ""
            for carrier in self._carriers:
                carrier.due, carrier.setbacks = 0.0, 0

    def _refuse(self, fault: str) -> None:
        """No run begins for this reason, which is told once."""
        if fault != self._unread:
            logs.note(logging.ERROR, fault)
        self._unread = fault

    def _take_members(self, consortium: Consortium) -> None:
        """From now on these are a consortium's members: end what does not go with them any more."""
        standing = consortium.members.standing
        which = "its members file" if standing is None else f"version {standing.version} of {standing.name}"
        logs.note(logging.INFO, f"{which} is taken: {len(consortium.members)} members, for runs that begin from now on")
        for carrier in self._carriers:
            if carrier.consortium == consortium.name:
                carrier.route = route_of_exchange(consortium) if carrier.route else ""
                carrier.due, carrier.setbacks = 0.0, 0
                if carrier.process is not None:
                    carrier.process.terminate()
        for child in self._children.values():
            if child.run.consortium == consortium.name and not (child.stopping or child.given_up):
                self._hold_to(child, consortium)
        for run in list(self._known.values()):
            idle = run.consortium == consortium.name and not run.over and run.run not in self._children
            if idle and (fault := self._fault_of(run, consortium)):
                self._keep(replaced(run, state="failed", text=fault, waiting_for=()))

    def _hold_to(self, child: _Child, consortium: Consortium) -> None:
        """End a run's process where the run has no place among a consortium's members now, or must dial by other certificates."""
        if fault := self._fault_of(child.run, consortium):
            child.given_up, child.kill_at = fault, time.monotonic() + REVOKED_S
            child.process.send_signal(REVOKED_SIGNAL)
        elif not child.run.members_version and not child.progressed:
            child.anew = True
            child.process.terminate()

    def _fault_of(self, run: ServiceRun, consortium: Consortium) -> str:
        """Why a run cannot begin, or go on, among a consortium's members; empty where it can.

        One that began goes on with the members that it began with, unless a key of its plan was revoked since.
        """
        try:
            read_proposal(self.file.runs / run.folder / "plan.json", members_of_run(consortium, run))
        except HansaError as error:
            return str(error)
        return ""

    def _end_given_up(self) -> None:
        """Kill processes whose time to say why they end is over."""
        for child in self._children.values():
            if time.monotonic() >= child.kill_at:
                child.process.kill()

    def _take_plans(self) -> None:
        taken = frozenset(run.run for run in self._known.values() if run.state != "refused")
        for arrival in arrivals(self.file, self.command, taken):
            self._tell(self._store.put(arrival.run))  # first of all: the file is gone then
            clear(arrival, self.file)

    def _obey(self) -> None:
        """What operators wrote into the database."""
        open_runs = self._store.runs(every=False)
        self._held = frozenset(run.run for run in open_runs if run.wanted == "pause")
        for run in open_runs:
            known = self._known.get(run.run)
            if known is None or known.over or not run.wanted:
                continue
            child = self._children.get(run.run)
            if run.run in self._held:
                if child is None and known.state != "paused":
                    self._keep(replaced(known, state="paused", text=HELD, waiting_for=(), due=0.0))
                elif child is not None and not child.stopping:
                    child.stopping = True
                    child.process.terminate()
                continue
            if child is None:
                self._keep(replaced(known, state="stopped", text="stopped by its operator", waiting_for=()))
                self._forget_state(known)
            elif not child.stopping:
                child.stopping = True
                child.process.terminate()

    def _start_due(self) -> None:
        """Start runs whose turn it is, as many as may run at once: those that came further first, then the oldest proposals."""
        now = time.time()
        away = self._children.keys() | self._held
        waiting = [run for run in self._known.values() if not run.over and run.run not in away]
        due = sorted(
            (run for run in waiting if run.due <= now),
            key=lambda run: (self._setbacks.get(run.run, 0), run.created, run.run),
        )
        for run in due[: max(0, self.file.document.most_runs - len(self._children))]:
            self._start(run)

    # Processes

    def _start(self, run: ServiceRun) -> None:
        try:
            member = write_member_file(self.file, run)
        except HansaError as error:
            self._keep(replaced(run, state="failed", text=str(error)))
            return
        ours, theirs = local_pair()
        host, port = self._routers[0].address if self._routers else ("", 0)
        told = [
            str(theirs.fileno()),
            str(member),
            run.command,
            run.run,
            host,
            str(port),
            self.file.consortium(run.consortium).members.state(),
            self.log_format,
            self.log_level,
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE, *told],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C at a terminal reaches the service alone, which asks its runs to end
        )
        theirs.close()
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        child = _Child(run, process, ours, process.stdout, NoticeWriter())
        standing = self.file.consortium(run.consortium).members.standing
        child.members_version = 0 if standing is None else standing.version
        child.read = self._read
        if self.command in LISTENING:
            child.notices.listens()
        self._children[run.run] = child
        self._selector.register(process.stdout, selectors.EVENT_READ, child)
        self.status.started += 1
        self._tracer.begin(run)
        child.run = self._keep(replaced(run, state="running", attempts=run.attempts + 1, text="its process is started"))
        self._route()

    def _carry(self) -> None:
        """Start the processes that exchange proposals, and start again those that ended: as after a change of the members file."""
        for carrier in self._carriers:
            if carrier.process is not None and carrier.process.poll() is not None:
                assert carrier.channel is not None
                status = carrier.process.returncode
                carrier.channel.close()
                carrier.process = carrier.channel = None
                # Its own end says that the members file is another: that is no setback.
                carrier.setbacks = 0 if status == AGAIN else carrier.setbacks + 1
                carrier.due = time.monotonic() + min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * carrier.setbacks)
                self._route()
            if carrier.process is None and time.monotonic() >= carrier.due:
                ours, theirs = local_pair()
                host, port = self._routers[0].address if self._routers else ("", 0)
                told = [str(theirs.fileno()), str(self.file.path), carrier.consortium, host, str(port)]
                carrier.process = subprocess.Popen(
                    [sys.executable, "-m", EXCHANGE_MODULE, *told, self.log_format, self.log_level],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
                theirs.close()
                carrier.channel = ours
                self._route()

    def _route(self) -> None:
        """Tell the routers which processes there are."""
        routes = {route_of(bytes.fromhex(child.run.proposal)): child.channel for child in self._children.values()}
        for carrier in self._carriers:
            if carrier.route and carrier.channel is not None:
                routes[carrier.route] = carrier.channel
        for router in self._routers:
            router.serve(routes)

    def _listen(self, timeout_s: float) -> None:
        """Take in what the runs' processes tell, for a while."""
        give_up = time.monotonic() + timeout_s
        while (left := give_up - time.monotonic()) > 0:
            if not self._selector.get_map():
                time.sleep(left)
                return
            for key, _ in self._selector.select(left):
                child: _Child = key.data
                if not self._take_lines(child):
                    self._selector.unregister(child.out)
            if any(child.process.poll() is not None for child in self._children.values()):
                return

    def _take_lines(self, child: _Child) -> bool:
        """Whether more may come."""
        try:
            content = child.out.read(2**20)
        except OSError:
            return False
        if content is None:
            return True
        *lines, child.left = (child.left + content).split(b"\n")
        for line in lines:
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
                self._take(child, read_line(line))
        return bool(content)

    def _take(self, child: _Child, line: Line) -> None:
        """One event of a run."""
        run, news = child.run, True
        match line:
            case Ended() | Failed():
                child.ended = line
                return
            case Noticed():
                news = child.notices.is_news(line)
                run = replaced(run, text=line.sentence, waiting_for=line.waiting_for)
            case Paused():
                run = replaced(run, text=line.text, waiting_for=line.waiting_for)
            case Progress():
                child.progressed = True
                sentence = child.notices.stage(line)
                news = bool(sentence) or bool(line.metrics)
                run = replaced(
                    run, trees=line.trees, rounds=line.rounds, waiting_for=(), text=sentence or run.text, id=run.id
                )
                if isinstance(line, Registered | Resumed):
                    run = replaced(
                        run,
                        id=_id_of(self.file.runs / run.folder),
                        members_version=run.members_version or child.members_version,
                    )
                if isinstance(line, Resumed):
                    run = replaced(run, epoch=line.epoch)
            case _:
                pass
        child.run = run
        if news:
            self._tracer.event(run, type(line).__name__, run.text)
            self._write_event(run, line)
        if time.monotonic() - child.kept_at >= KEEP_S or isinstance(line, Registered | Resumed | Paused):
            child.kept_at = time.monotonic()
            child.run = self._keep(run)

    def _reap(self) -> None:
        """What became of processes that have ended."""
        for child in [each for each in self._children.values() if each.process.poll() is not None]:
            with contextlib.suppress(KeyError):
                self._selector.unregister(child.out)
            while self._take_lines(child):
                pass
            child.out.close()
            child.channel.close()
            del self._children[child.run.run]
            self._route()
            self._settle(child)

    def _settle(self, child: _Child) -> None:
        """The state of a run whose process has ended."""
        run, status = child.run, child.process.returncode
        now, again = time.time(), status == AGAIN or status < 0 or status > 128
        text = child.ended.text if isinstance(child.ended, Failed) else f"its process ended with status {status}"
        known = self._known.get(run.run, run)
        run = replaced(run, waiting_for=(), created=known.created)
        if isinstance(child.ended, Ended):  # however its process went then
            record = child.ended.record
            run = replaced(
                run,
                state="finished",
                text="the run is over",
                id=record.run or run.id,
                trees=record.trees or run.trees,
                model_sha256=_model_sha256(self.file.runs / run.folder),
            )
        elif status == WITHHELD:
            run = replaced(run, state="withheld", text=text)
        elif child.given_up:
            run = replaced(run, state="failed", text=child.given_up)
        elif child.stopping and self._closing:
            run = replaced(run, state="paused", text="the service ended; it goes on with the service")
        elif child.stopping and run.run in self._held:
            run = replaced(run, state="paused", text=HELD, due=0.0)
        elif child.stopping:
            run = replaced(run, state="stopped", text="stopped by its operator")
            self._forget_state(run)
        elif child.anew or (not child.progressed and child.read != self.file.stamps()):
            # Its process may have read half of a file that was being replaced.
            run = replaced(run, state="waiting", text="a file was changed; its process is started again", due=0.0)
        elif again:
            setbacks = 1 if child.progressed else self._setbacks.get(run.run, 0) + 1
            self._setbacks[run.run] = setbacks
            wait_s = min(LONGEST_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** (setbacks - 1))
            run = replaced(run, state="waiting", text=f"{text}; it is started again in {wait_s:g} s", due=now + wait_s)
        else:
            run = replaced(run, state="failed", text=text)
        if run.over:
            self._setbacks.pop(run.run, None)
        self._tracer.end(run)
        if child.ended is not None:
            self._write_event(run, child.ended)
        self._keep(run)

    def _end(self) -> None:
        """Ask all runs to end, wait for that, and note that they pause."""
        self._closing = True
        for carrier in self._carriers:
            if carrier.process is not None:
                carrier.process.terminate()
                carrier.process.wait()
        for child in self._children.values():
            child.stopping = True
            child.process.terminate()
        give_up = time.monotonic() + STOP_S
        while self._children:
            if time.monotonic() > give_up:
                for child in self._children.values():
                    child.process.send_signal(signal.SIGKILL)
            self._listen(TICK_S)
            self._reap()

    # What is kept

    def _keep(self, run: ServiceRun) -> ServiceRun:
        """Keep a run, and tell of it where its state is another. What a database that is away does not take is kept later."""
        self._tell(run)
        self._unkept[run.run] = run
        try:
            self._keep_rest()
        except HansaError as error:
            if not error.retry:
                raise
            self.status.fault = str(error)
        return self._known[run.run]

    def _keep_rest(self) -> None:
        """Keep what is not kept yet. Raises OutputError."""
        for name, run in list(self._unkept.items()):
            self._known[name] = self._store.put(run)
            del self._unkept[name]

    def _tell(self, run: ServiceRun) -> None:
        """From now on the run is known so; tell of it where its state is another."""
        before = self._known.get(run.run)
        self._known[run.run] = run
        if before is not None and before.state == run.state:
            return
        changed = RunChanged(
            run=run.run,
            plan=run.plan,
            state=run.state,
            text=run.text,
            waiting_for=run.waiting_for,
            member=self.status.member,
        )
        bad = run.state in ("failed", "refused")
        logs.note(logging.ERROR if bad else logging.INFO, f"{run.plan}: {run.state}: {run.text}", changed)
        self._write_event(run, changed)
        self.change(changed)

    def _write_event(self, run: ServiceRun, event: msgspec.Struct) -> None:
        """Add a line to the run's file of events, which `hansa watch` follows. A disk that is full loses the line."""
        if not run.folder:
            return
        path = self.file.runs / run.folder / EVENTS_FILE
        fields = {**json.loads(line_of(event)), "time": logs.moment(time.time()), "run": run.run}
        with contextlib.suppress(OSError):
            if path.exists() and path.stat().st_size > MOST_EVENTS_BYTES:
                path.replace(path.with_suffix(".old.jsonl"))
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "a", encoding="ascii") as file:
                file.write(json.dumps(fields) + "\n")

    def _forget_state(self, run: ServiceRun) -> None:
        """A run that is given up for good leaves nothing that it could go on from."""
        shutil.rmtree(self.file.runs / run.folder / "state", ignore_errors=True)


def _fault_of_keys(consortia: Iterable[Consortium]) -> str:
    """Whose members file has another card of this member than its folder of keys; empty where all are in order."""
    for own in consortia:
        if own.members.get(own.identity.name) != own.identity:
            return (
                f"{own.members_path}: has another card of {own.identity.name!r} than {own.folder}, or none, so that no run begins: "
                "name the folder of its present keys as identity in the service's file"
            )
    return ""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """The service's folder is this process's alone. Raises StateError."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if folder.stat().st_mode & 0o077:
            raise StateError(f"{folder}: others can read this folder of a service; run: chmod 700 {folder}")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StateError(f"{folder}: another process serves this folder; stop it first") from None
        yield
    finally:
        os.close(descriptor)


def _id_of(folder: Path) -> str:
    """The run's id, which its record has since all joined."""
    try:
        return str(json.loads(read_whole(folder / "record.json"))["run"] or "")
    except (OSError, ValueError, KeyError):
        return ""


def _model_sha256(folder: Path) -> str:
    """Of the model's file; empty where this member gets none."""
    import hashlib

    try:
        return hashlib.sha256(read_whole(folder / "model.json", 2**33)).hexdigest()
    except (OSError, ValueError):
        return ""
