"""One member's process: reads its two files (the plan and its own), connects, plays its role, writes what it got.

A member's own file:

    plan = "plan.toml"                  # the same at every member
    members = "members.toml"            # the same at every member
    identity = "north.identity"         # this member's folder of keys
    hub = "127.0.0.1:7465"              # where the aggregator or hub listens (its own file) or is found (all others')
    proxy = "http://user@10.0.0.9:3128" # optional: dial through this HTTP proxy
    proxy_password_file = "proxy.pass"  # optional: its password
    table = "north.csv"                 # a party's rows
    model = "north-model.json"          # where a receiver puts the model
    record = "north-record.json"        # optional: what this member sent and got
    transcript = "north-transcript"     # optional: folder for every frame that passed
    threads = 1                         # optional
    wait_s = 600                        # optional: seconds to wait for the others
    idle_limit_s = 86400                # optional: give up after so many seconds without a word; default: never (see docs/reference.md)
    reconnect_timeout_s = 60                     # optional: seconds that a broken connection may take to be made anew
    memory_mb = 2000                    # a coopetitive server's, optional: what its shares may take; default: what is free
    servers = { north = "0.0.0.0:7466", south = "10.0.0.2:7466", west = "10.0.0.3:7466" }
                                        # with server_links = "direct": where this server listens, and where the others are found,
                                        # but for one that is the hub
    ledger = "north-ledger.jsonl"       # a party's, in the protected modes: which people its rows have met, and how often
    [policy]                            # optional: this member's own conditions (`consortium.policy.Policy`)
    least_mode = "secure-aggregation"   # refuse plans of a weaker mode

Paths are taken from the file's own folder.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import logging
import math
import re
import secrets
import sys
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansa.consortium.identity import CERTIFICATE_FILE, TLS_KEY_FILE, Identity, fingerprint, load_identity
from hansa.consortium.ledger import Entry, Ledger, Met
from hansa.consortium.members import Members, read_members
from hansa.consortium.policy import Policy, read_policy
from hansa.data.source import Rows, read_rows
from hansa.errors import IdentityError, PlanError, ProtocolError
from hansa.files import check_folder, check_outputs, read_text
from hansa.node import logs
from hansa.node.evidence import beside, keep_evidence
from hansa.node.in_process import warm_up, warm_up_shares
from hansa.node.model_file import check_ending, save_model
from hansa.node.records import RunRecord, file_sha256, keeping
from hansa.plan import COOPETITIVE, Plan, read_plan
from hansa.roles.batches import Admit, admit_all
from hansa.roles.run import Progress, Roster, run_hub, run_member
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import Signer
from hansa.transport.channel import Channel, Hub
from hansa.transport.credentials import Credentials
from hansa.transport.notices import Notify
from hansa.transport.proxy import Proxy, read_proxy
from hansa.transport.recording import RecordingChannel, RecordingHub
from hansa.transport.resumable import RECONNECT_TIMEOUT_S, ResumableChannel, ResumableHub
from hansa.transport.tls import HubLimits
from hansa.trees.worker_pool import WorkerPool

KEYS = (
    "plan",
    "members",
    "identity",
    "hub",
    "proxy",
    "proxy_password_file",
    "table",
    "model",
    "record",
    "transcript",
    "threads",
    "wait_s",
    "idle_limit_s",
    "reconnect_timeout_s",
    "send_mbit",
    "policy",
    "ledger",
    "memory_mb",
    "servers",
)
REQUIRED = ("plan", "members", "identity", "hub")

KINDS: dict[str, tuple[type, ...]] = {
    "threads": (int,),
    "wait_s": (int, float),
    "idle_limit_s": (int, float),
    "reconnect_timeout_s": (int, float),
    "send_mbit": (int, float),
    "memory_mb": (int, float),
    "policy": (dict,),
    "servers": (dict,),
}
"""Types of the values that are not text."""

A_YEAR_S = 31_536_000

MOST = {
    "threads": 1024,
    "wait_s": A_YEAR_S,
    "idle_limit_s": A_YEAR_S,
    "reconnect_timeout_s": A_YEAR_S,
    "send_mbit": 34_000,
    "memory_mb": 1_000_000_000,
}
"""The greatest values of the keys that are numbers; all are above 0 but `reconnect_timeout_s`, which may be 0."""

SPIN_S = 0.001
"""Seconds that the aggregator looks for a party's next frame before it sleeps: waking up costs more than most gaps between two."""

PARTY_SPIN_S = 0.003
"""Seconds that a party looks for the aggregator's next request before it sleeps: longer than most levels take there."""

ANSWER_S = 3600.0
"""Seconds that the aggregator waits for any party's next frame before it gives the run up."""

TREE_EVENT_S = 0.1
"""Seconds at least between two events that tell of trees: whoever reads them would wake up for each."""

PARTY_EVENT_S = 1.0
"""The same at a party, whose aggregator tells more."""

FRAMING = "names and positions of sums, lengths, keys with their signatures and confirmations, the model's hash"

CLEAR = {
    "federated": f"numbers of rows, every sum; {FRAMING}",
    "secure-aggregation": f"numbers of rows; {FRAMING}",
}
"""What a party sends without a mask, by mode."""

Event = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class MemberFile:
    """A member's own file, read and checked.

    Attributes:
        plan, members, identity: what the files it names hold. folder: of the identity's files.
        plan_path, members_path: where plan and members stand.
        host, port: of the hub. proxy: to dial through, or None.
        table, model, record, transcript, ledger: paths, None where the file does not give them.
        policy: of a party.
        threads: compute threads. wait_s: seconds to wait for others. idle_limit_s: seconds without a word of the aggregator or hub
            after which a member that is no server gives up, or None for never. memory_limit: bytes for a server's shares, or None.
        reconnect_timeout_s: seconds that a broken connection may take to be made anew; 0 ends the run.
        most_bytes_per_s: what this member sends over one connection; 0 has no limit.
        servers: host and port of every server, where they have connections of their own: this one's to listen at.
    """

    path: Path
    plan: Plan
    plan_path: Path
    members: Members
    members_path: Path
    identity: Identity
    folder: Path
    host: str
    port: int
    table: Path | None
    model: Path | None
    record: Path | None
    transcript: Path | None
    ledger: Path | None
    policy: Policy
    threads: int
    wait_s: float
    reconnect_timeout_s: float
    memory_limit: int | None = None
    idle_limit_s: float | None = None
    servers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    proxy: Proxy | None = None
    most_bytes_per_s: int = 0

    @property
    def signer(self) -> Signer:
        """This member's signature, and the identities that the members file pins."""
        return Signer(self.identity.sign, {name: self.members[name].identity for name in self.plan.members})

    @property
    def credentials(self) -> Credentials:
        """What TLS needs."""
        return Credentials(
            self.identity.name,
            self.folder / CERTIFICATE_FILE,
            self.folder / TLS_KEY_FILE,
            self.members.certificates(),
        )


def read_member_file(path: Path) -> MemberFile:
    """Read a member's file and all that it names. Raises PlanError or IdentityError naming file and key."""
    try:
        content = tomllib.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8 or TOML, too large, or a NUL in the path
        raise PlanError(f"{path}: cannot be read as TOML: {error}") from error
    for key in REQUIRED:
        if key not in content:
            raise PlanError(f"{path}: {key} is missing; add it (expected keys: {', '.join(KEYS)})")
    for key, value in content.items():
        kind = KINDS.get(key, (str,))
        if key not in KEYS or not isinstance(value, kind) or isinstance(value, bool) != (kind == (bool,)):
            raise PlanError(
                f"{path}: {key} = {value!r} is not known or of the wrong type; expected keys: {', '.join(KEYS)}"
            )
        if isinstance(value, str) and "\0" in value:
            raise PlanError(f"{path}: {key} = {value!r} holds the character NUL, which no path or address may have")
    for key, most in MOST.items():
        value = content.get(key, 1)
        # What is no number is between no two.
        if not 0 <= value <= most or (value == 0 and key != "reconnect_timeout_s"):
            least = "at least 0" if key == "reconnect_timeout_s" else "above 0"
            raise PlanError(f"{path}: {key} = {value!r}; expected a number {least} and at most {most}")
    host, port = _address(content["hub"], "hub", path)

    def at(key: str) -> Path | None:
        return path.parent / content[key] if key in content else None

    if "send_mbit" in content and sys.platform != "linux":
        raise PlanError(f"{path}: send_mbit needs Linux, which alone can send evenly; leave it out")
    folder = path.parent / content["identity"]
    plan = read_plan(path.parent / content["plan"])
    members = read_members(path.parent / content["members"])
    identity = load_identity(folder)
    if "proxy" in content and identity.name == plan.hub:
        raise PlanError(f"{path}: proxy is for members that dial; {identity.name!r} only listens: leave it out")
    missing = sorted(set(plan.members) - set(members))
    if missing:
        raise IdentityError(
            f"{path.parent / content['members']}: the plan's member {missing[0]!r} is not in it; add its card at every member"
        )
    return MemberFile(
        path=path,
        plan=plan,
        plan_path=path.parent / content["plan"],
        members=members,
        members_path=path.parent / content["members"],
        identity=identity,
        folder=folder,
        host=host,
        port=port,
        table=at("table"),
        model=at("model"),
        record=at("record"),
        transcript=at("transcript"),
        ledger=at("ledger"),
        policy=read_policy(content.get("policy", {}), str(path)),
        threads=content.get("threads", 1),
        wait_s=float(content.get("wait_s", 600)),
        reconnect_timeout_s=float(content.get("reconnect_timeout_s", RECONNECT_TIMEOUT_S)),
        memory_limit=int(content["memory_mb"] * 1e6) if "memory_mb" in content else None,
        idle_limit_s=float(content["idle_limit_s"]) if "idle_limit_s" in content else None,
        servers=_server_addresses(content.get("servers"), plan, path),
        proxy=_proxy(content, path),
        most_bytes_per_s=math.ceil(content.get("send_mbit", 0) * 1e6 / 8),
    )


def _address(text: Any, key: str, path: Path) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise PlanError(f"{path}: {key} = {text!r:.100}; expected address:port, such as 127.0.0.1:7465")
    return host.strip("[]"), int(port)


def _proxy(content: Mapping[str, Any], path: Path) -> Proxy | None:
    """The proxy that the file names. Raises PlanError; never quotes a password."""
    if "proxy" not in content:
        if "proxy_password_file" in content:
            raise PlanError(f"{path}: proxy_password_file goes with proxy only; add proxy, or leave it out")
        return None
    password = ""
    if "proxy_password_file" in content:
        file = path.parent / content["proxy_password_file"]
        try:
            if file.stat().st_mode & 0o077:
                raise PlanError(f"{file}: others can read this password; run: chmod 600 {file}")
            password = read_text(file).strip()
        except (OSError, ValueError) as error:
            raise PlanError(f"{file}: the proxy's password cannot be read: {error}") from error
    try:
        return read_proxy(content["proxy"], password)
    except ValueError as error:
        raise PlanError(f"{path}: proxy: {error}") from error


def _server_addresses(given: dict[str, Any] | None, plan: Plan, path: Path) -> dict[str, tuple[str, int]]:
    """Where the servers are, which a plan with direct links takes from every server's file, and no other plan."""
    if plan.coopetitive is None or plan.coopetitive.server_links != "direct":
        if given is not None:
            raise PlanError(f'{path}: servers goes with a plan of members.server_links = "direct" only; leave it out')
        return {}
    addresses = {name: _address(text, f"servers.{name}", path) for name, text in (given or {}).items()}
    expected = [name for name in plan.servers if name != plan.hub]
    if addresses and set(addresses) != set(expected):
        hub = "" if len(expected) == len(plan.servers) else f" (that of {plan.hub} is the key hub)"
        raise PlanError(
            f"{path}: servers names {', '.join(sorted(addresses))}; expected an address for each of the plan's servers "
            f"{', '.join(expected)}{hub}"
        )
    return addresses


def warn(sentences: Iterable[str]) -> None:
    """Log what is allowed but probably not meant."""
    for sentence in sentences:
        logs.note(logging.WARNING, sentence)


def check_files(member: MemberFile, ends: Iterable[str]) -> None:
    """Refuse outputs that could not be written at the end of the run. `ends` name the transcripts. Raises OutputError."""
    outputs = {key: getattr(member, key) for key in ("model", "record", "ledger")}
    inputs = {
        "table": member.table,
        "plan": member.plan_path,
        "members": member.members_path,
        "the member's own file": member.path,
    }
    check_outputs({f"{member.path}: {key}": path for key, path in outputs.items()}, inputs, keys=member.folder)
    if member.transcript is not None:
        what, names = f"{member.path}: transcript", [f"{end}.frames" for end in ends]
        check_folder(what, member.transcript, names, {**outputs, **inputs}, keys=member.folder)
    check_ending(f"{member.path}: model", member.model)


def about(member: MemberFile) -> dict[str, Any]:
    """What a record says before the run: who this is, and the digests that other members compare."""
    return {
        "member": member.identity.name,
        "plan": member.plan.digest().hex(),
        "plan_file": file_sha256(member.plan_path),
        "mode": member.plan.mode,
        "identity": fingerprint(member.identity.public),
        "members": member.members.digest().hex(),
    }


def put_model(member: MemberFile, model: bytes | None) -> None:
    """Write the model where this member's file says, where it has one and the file says so. Raises OutputError."""
    if model is None or member.model is None:
        return
    others = {path.parent for path in (member.record, member.path) if path is not None} - {member.model.parent}
    save_model(member.model, model, sorted(others), member.wait_s)


def run_aggregator_process(member: MemberFile, event: Event, notify: Notify) -> dict[str, Any]:
    """Listen, register the plan's parties, train. Returns the record, which is also written where the file says.

    `event` is called with {"event": "listening", "port": ...}, then with every step of the run's progress; `notify` with what
    happens to connections.
    """
    plan = member.plan
    _refuse_coopetitive(member)
    if member.identity.name != plan.aggregator:
        raise PlanError(
            f"{member.path}: identity {member.identity.name!r} is not the plan's aggregator {plan.aggregator!r}; "
            "run `hansa party` for a party"
        )
    check_files(member, [plan.aggregator])
    with keeping(member.record, {**about(member), "role": "aggregator"}) as record:
        return _aggregate(member, event, notify, record)


def _aggregate(member: MemberFile, event: Event, notify: Notify, record: RunRecord) -> dict[str, Any]:
    plan = member.plan
    inner = ResumableHub.listen(
        member.credentials,
        member.host,
        member.port,
        allowed=plan.parties,
        limits=HubLimits(spin_s=SPIN_S, most_bytes_per_s=member.most_bytes_per_s),
        reconnect_timeout_s=member.reconnect_timeout_s,
        notify=notify,
        owed=lambda: aggregator.waiting_for(),
    )
    hub: Hub = inner
    at: dict[str, float] = {}
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        at.setdefault(progress.stage, now)
        if progress.stage == "tree" and now < told_at + TREE_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, aggregator.run)
        event(progress.as_event())

    def counts() -> dict[str, int]:
        traffic = inner.traffic.values()
        up = sum(t.bytes_up for t in traffic)
        return {
            "bytes_up": up,
            "bytes_down": sum(t.bytes_down for t in traffic),
            "masked_bytes": aggregator.masked_bytes,
            "clear_bytes": up - aggregator.masked_bytes,
        }

    aggregator = Aggregator(
        plan,
        pool=WorkerPool(member.threads),
        report=report,
        identities=member.signer.identities,
        signer=member.signer,
    )
    try:
        if member.transcript is not None:
            hub = RecordingHub(inner, member.transcript, plan.aggregator)
        record.count(counts)
        prepare(plan)
        event({"event": "listening", "host": member.host, "port": inner.port})
        inner.wait_for(plan.parties, member.wait_s)
        run_hub(aggregator, hub, ANSWER_S)
    finally:
        hub.close()
    outcome = aggregator.outcome
    if outcome is None:  # run_hub returns only once the role is done
        raise PlanError("the run ended without a model")
    if plan.aggregator in plan.receivers:
        put_model(member, outcome.model)
    return record.end(
        "finished",
        trees=len(outcome.ensemble.trees),
        trees_grown=outcome.trees_grown,
        exchanges=outcome.exchanges,
        history=outcome.history,
        without_value=outcome.without_value,
        model_sha256=hashlib.sha256(outcome.model).hexdigest(),
        roster=[[name, rows, held] for name, _, rows, held, _ in outcome.roster],
        clear=CLEAR[plan.mode],
        seconds={"binning": at["binned"] - at["registered"], "training": at["trained"] - at["binned"]},
        traffic={name: {"bytes_up": t.bytes_up, "bytes_down": t.bytes_down} for name, t in sorted(hub.traffic.items())},
    )


def run_party_process(member: MemberFile, event: Event, notify: Notify) -> dict[str, Any]:
    """Connect to the hub, train, keep the model. Returns the record, which is also written where the file says.

    `event` is called with every step of the run's progress; `notify` with what happens to connections.
    """
    plan, name = member.plan, member.identity.name
    _refuse_coopetitive(member)
    if name not in plan.parties:
        raise PlanError(f"{member.path}: identity {name!r} is not among the plan's parties {', '.join(plan.parties)}")
    if member.table is None:
        raise PlanError(f"{member.path}: table is missing; name the file with this party's rows")
    if name in plan.receivers and member.model is None:
        raise PlanError(f"{member.path}: model is missing; this party receives the model: say where to put it")
    if plan.mode != "federated" and member.ledger is None:
        raise PlanError(
            f"{member.path}: ledger is missing; name a file that keeps count of which people these rows have met"
        )
    check_files(member, [name])
    with keeping(member.record, {**about(member), "role": "party"}) as record:
        rows = read_rows(member.table, plan.schema, label_kind=plan.parameters.label_kind)
        warn(rows.warnings)
        return _contribute(member, rows, event, notify, record)


def _contribute(member: MemberFile, rows: Rows, event: Event, notify: Notify, record: RunRecord) -> dict[str, Any]:
    plan, name = member.plan, member.identity.name
    admit = admission(member, rows)
    prepare(plan)
    told_at = 0.0

    def report(progress: Progress) -> None:
        nonlocal told_at
        now = time.perf_counter()
        if progress.stage == "tree" and now < told_at + PARTY_EVENT_S and progress.trees < progress.rounds:
            return
        told_at = now
        record.stage(progress.stage, progress.trees, party.run)
        event({"event": progress.stage, "member": name, "trees": progress.trees, "rounds": progress.rounds})

    def counts() -> dict[str, int]:
        traffic = inner.traffic
        return {
            "bytes_up": traffic.bytes_up,
            "bytes_down": traffic.bytes_down,
            "masked_bytes": party.masked_bytes,
            "clear_bytes": traffic.bytes_up - party.masked_bytes,
        }

    party = Party(
        plan,
        name,
        rows,
        nonce=secrets.token_bytes(32),
        pool=WorkerPool(member.threads),
        signer=member.signer,
        policy=member.policy,
        admit=admit,
        report=report,
    )
    inner = ResumableChannel.connect(
        member.credentials,
        plan.aggregator,
        member.host,
        member.port,
        reconnect_timeout_s=member.reconnect_timeout_s,
        retry_for_s=member.wait_s,
        spin_s=PARTY_SPIN_S,
        most_bytes_per_s=member.most_bytes_per_s,
        notify=notify,
        proxy=member.proxy,
    )
    channel: Channel = inner
    try:
        if member.transcript is not None:
            channel = RecordingChannel(inner, member.transcript, name)
        record.count(counts)
        run_member(party, channel, member.idle_limit_s)
    except ProtocolError:
        if member.record is not None and party.evidence is not None:
            kept = beside(member.record, party.run)
            keep_evidence(kept, party.evidence)
            logs.note(
                logging.WARNING, f"{kept}: what the aggregator signed last; `hansa evidence` holds it to the plan"
            )
        raise
    finally:
        channel.close()
    put_model(member, party.model)
    return record.end(
        "finished",
        rows=rows.n_rows,
        warnings=list(rows.warnings),
        model_sha256=None if party.model is None else hashlib.sha256(party.model).hexdigest(),
        clear=CLEAR[plan.mode],
    )


def admission(member: MemberFile, rows: Rows) -> Admit:
    """What writes a run down in the party's ledger before anything leaves, in the protected modes; in federated mode nothing.

    Raises PlanError where the member's file names no ledger, or one that cannot be read.
    """
    plan = member.plan
    if plan.mode == "federated":
        return admit_all
    if member.ledger is None:
        raise PlanError(
            f"{member.path}: ledger is missing; name a file that keeps count of which people these rows have met"
        )
    ledger = Ledger(member.ledger)
    columns = ledger.columns(rows.features, rows.label, rows.weight)

    def admit(run: bytes, roster: Roster) -> None:
        parties = tuple(
            Met(name, member.members[name].identity.hex(), training, held)
            for name, _, training, held, _ in roster
            if name in plan.parties
        )
        ledger.admit(Entry(columns, plan.mode, parties, run.hex()), member.policy)

    return admit


def prepare(plan: Plan) -> None:
    """Load the mode's kernels before anybody waits for this member, and spare the collector what stays for good."""
    if plan.mode == COOPETITIVE:
        warm_up_shares(plan.parameters)
    else:
        warm_up(plan.parameters)
    gc.freeze()
    # What is frozen would not be freed at the end, and extension modules (DuckDB's) report that as leaks.
    atexit.register(gc.unfreeze)


def _refuse_coopetitive(member: MemberFile) -> None:
    if member.plan.mode == COOPETITIVE:
        raise PlanError(
            f"{member.path}: a plan of mode {COOPETITIVE!r} has no aggregator: run `hansa hub` for its hub {member.plan.hub!r}, "
            "and `hansa party`, `hansa server` or `hansa receiver` for the others"
        )
