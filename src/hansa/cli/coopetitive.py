"""Processes of a coopetitive run: the hub that relays, and every other member with whichever roles the plan gives it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from hansa.cli.member import ANSWER_S, MemberFile, label_kind, prepare, write_record
from hansa.cli.phases import Ledger
from hansa.data.source import Rows, read_rows
from hansa.errors import HansaError, PlanError
from hansa.plan import COOPETITIVE
from hansa.roles.direct import DirectChannel
from hansa.roles.member import Member, record_of
from hansa.roles.relay import RelayHub
from hansa.roles.run import Progress, run_hub, run_member
from hansa.transport.channel import Channel, Hub
from hansa.transport.recording import RecordingChannel, RecordingHub
from hansa.transport.tls import HubLimits, TlsChannel, TlsHub

Event = Callable[[dict[str, Any]], None]

RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of `ru_maxrss`."""

SPIN_S = 0.001
"""Seconds that a server with direct links looks for a round's letters before it sleeps: rounds are shorter than that nearby."""

BACKLOG_BYTES = 2**31
"""What may wait at the hub for one server: the other two send a round's numbers before either reads."""


def run_hub_process(member: MemberFile, event: Event) -> dict[str, Any]:
    """Listen, gather the plan's members, relay until all are through. Returns the record, also written where the file says.

    `event` is called with {"event": "listening", "port": ...}, then with the run's progress as far as the hub knows it.
    """
    plan = member.plan
    _check_mode(member)
    if member.identity.name != plan.hub:
        raise PlanError(f"{member.path}: identity {member.identity.name!r} is not the plan's hub {plan.hub!r}")
    guests = tuple(name for name in plan.members if name != plan.hub)
    limits = HubLimits(backlog_bytes=BACKLOG_BYTES)
    inner = TlsHub.listen(member.credentials, member.host, member.port, guests=guests, limits=limits)
    hub: Hub = inner
    if member.transcript is not None:
        hub = RecordingHub(inner, member.transcript, plan.hub)
    relay = RelayHub(plan, member.signer.identities, _reporter(plan.hub, event))
    started = time.perf_counter()
    try:
        event({"event": "listening", "member": plan.hub, "host": member.host, "port": inner.port})
        inner.wait_for(guests, member.wait_s)
        run_hub(relay, hub, ANSWER_S)
    finally:
        hub.close()
    record = {
        "member": plan.hub,
        "roles": ["hub"],
        "plan": plan.digest().hex(),
        "run": relay.run.hex(),
        "mode": plan.mode,
        "roster": [[name, rows, held] for name, _, rows, held in relay.roster],
        "relayed": [[*ends, count] for ends, count in sorted(relay.relayed.items())],
        "seconds": {"total": time.perf_counter() - started},
        "traffic": {
            name: {"bytes_up": t.bytes_up, "bytes_down": t.bytes_down} for name, t in sorted(hub.traffic.items())
        },
    }
    write_record(member, record)
    return record


def run_member_process(member: MemberFile, event: Event) -> dict[str, Any]:
    """Connect to the hub and play this member's roles. Returns the record, which is also written where the file says."""
    plan, name = member.plan, member.identity.name
    _check_mode(member)
    rows: Rows | None = None
    if name in plan.parties:
        if member.table is None:
            raise PlanError(f"{member.path}: table is missing; name the file with this party's rows")
        rows = read_rows(member.table, plan.schema, label_kind=label_kind(plan))
    elif member.table is not None:
        raise PlanError(f"{member.path}: table is given, and the plan does not name {name!r} a party; leave it out")
    if name in plan.receivers and member.model is None:
        raise PlanError(f"{member.path}: model is missing; this member receives the model: say where to put it")
    at: dict[str, float] = {}
    begun: dict[str, int] = {}
    tree_seconds: list[float] = []
    report = _reporter(name, event)
    ledger = Ledger()

    def note(progress: Progress) -> None:
        if progress.stage == "binned":
            begun["rounds"] = role.rounds
            ledger.clear()
        if progress.stage == "tree":
            tree_seconds.append(time.perf_counter() - at["binned"] - sum(tree_seconds))
            if progress.trees == 1 < progress.rounds:
                # The first tree is cheaper than the others, which the phases are to tell of.
                ledger.clear()
        at.setdefault(progress.stage, time.perf_counter())
        report(progress)

    role = Member(
        plan,
        name,
        rows,
        nonce=secrets.token_bytes(32),
        signer=member.signer,
        policy=member.policy,
        memory_limit=member.memory_limit or free_memory(),
        report=note,
        observe=ledger.note,
    )
    prepare(plan)
    if "server" in role.roles:
        _keep_freed_memory()
    inner = _connect(member, "server" in role.roles)
    channel: Channel = inner
    if member.transcript is not None:
        channel = RecordingChannel(inner, member.transcript, name)
    try:
        # Whoever only owns or receives waits while others compute: it is told the end.
        run_member(role, channel, member.wait_s if "server" in role.roles else None, role.waiting_for)
    finally:
        channel.close()
    if role.model is not None and member.model is not None:
        member.model.write_bytes(role.model)
    traffic = {"bytes_up": inner.traffic.bytes_up, "bytes_down": inner.traffic.bytes_down}
    record = record_of(role, plan, name, traffic)
    record["rows"] = 0 if rows is None else rows.n_rows
    record["model_sha256"] = None if role.model is None else hashlib.sha256(role.model).hexdigest()
    if "trained" in at:
        record["training_rounds"] = role.rounds - begun["rounds"]
        record["tree_seconds"] = tree_seconds
        record["phase_trees"] = max(1, len(tree_seconds) - 1)
        record["phases"] = ledger.as_json()
        record["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RUSAGE_UNIT
        record["seconds"] = {"binning": at["binned"] - at["gathered"], "training": at["trained"] - at["binned"]}
    write_record(member, record)
    return record


def _connect(member: MemberFile, serves: bool) -> TlsChannel | DirectChannel:
    """The connection to the hub; at a server whose plan says so, with connections to the other servers beside it."""
    plan, name, wait_s = member.plan, member.identity.name, member.wait_s
    if not serves or plan.coopetitive is None or plan.coopetitive.server_links != "direct":
        return TlsChannel.connect(member.credentials, plan.hub, member.host, member.port, retry_for_s=wait_s)
    if not member.servers:
        raise PlanError(
            f'{member.path}: servers is missing; the plan says members.server_links = "direct": say where {name!r} listens and '
            f'where the other servers are found, such as servers = {{ {plan.servers[0]} = "10.0.0.1:7466", ... }}'
        )
    limits = HubLimits(backlog_bytes=BACKLOG_BYTES, spin_s=SPIN_S)
    place = plan.servers.index(name)
    # A server listens for those behind it in the plan's order and dials those before it.
    before, behind = plan.servers[:place], plan.servers[place + 1 :]
    if behind:
        links = TlsHub.listen(member.credentials, *member.servers[name], guests=behind, limits=limits)
    else:
        links = TlsHub.without_listener(member.credentials, limits)
    try:
        links.dial(plan.hub, member.host, member.port, retry_for_s=wait_s)
        for peer in before:
            links.dial(peer, *member.servers[peer], retry_for_s=wait_s)
        if behind:
            links.wait_for(behind, wait_s)
    except HansaError:
        links.close()
        raise
    return DirectChannel(name, plan.hub, (*before, *behind), links, time.monotonic)


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Names of `mallopt` in glibc's malloc.h."""


def _keep_freed_memory() -> None:
    """Have the C library reuse large arrays' memory instead of returning it: every level needs the same again.

    Fresh pages cost a fifth of a server's time at a million rows. Where the C library is another, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 * 2**20)):
            mallopt(name, value)


def _check_mode(member: MemberFile) -> None:
    if member.plan.mode != COOPETITIVE:
        raise PlanError(
            f"{member.path}: the plan's mode is {member.plan.mode!r}, which has no hub or servers apart; "
            "run `hansa aggregator` or `hansa party`"
        )


def _reporter(name: str, event: Event) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        event({
            "event": progress.stage,
            "member": name,
            "trees": progress.trees,
            "rounds": progress.rounds,
            "metrics": progress.metrics,
        })  # fmt: skip

    return report


def free_memory() -> int | None:
    """Bytes of memory that the system says it has left; None where it does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
