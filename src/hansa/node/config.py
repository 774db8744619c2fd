"""A member's own file, read and checked.

A member's own file:

    plan = "plan.toml"                  # the same at every member; or a proposal that all have approved, "plan.json"
    members = "consortium.json"         # the same at every member: a consortium's file, which all signed, or a members file
    members_version = 3                 # optional: the version of the consortium's file that the run began with; default: its last
    identity = "north.identity"         # this member's folder of keys
    key_file = "north.key"              # optional: the file that opens encrypted keys; default: HANSA_PASSPHRASE, or a prompt
    hub = "127.0.0.1:7465"              # where the aggregator or hub listens (its own file) or is found (all others')
    proxy = "http://user@10.0.0.9:3128" # optional: dial through this HTTP proxy
    proxy_password_file = "proxy.pass"  # optional: its password
    table = "north.csv"                 # a party's rows; a folder or a pattern of Parquet files, too
    source = { query = "SELECT ...", files = { cells = "cells.csv" } }
                                        # in place of table: a query over this party's own files
    source = { database = "postgresql://host/db", query = "SELECT ...", password_file = "db.pass" }
                                        # or to its own database; password_file is optional
    by_column = true                    # optional: read Parquet files column by column, not into memory; default: large ones
    id = "cell"                         # optional: a column of the table that is not read and never leaves
    custom_objective = "focal.py"       # the file of the plan's custom objective, where it has one; the policy must allow its hash
    custom_metric = "cost.py"           # and of its custom metric
    start_model = "march.json"          # the model that the plan goes on from, where it names one
    model = "north-model.json"          # where a receiver puts the model
    record = "north-record.json"        # optional: what this member sent and got
    provenance = "north-provenance.json"
                                        # optional: a receiver's signed statement of which run made the model
    withdrawals = "withdrawn"           # optional: folder of members' signed withdrawals, which keep a plan from running
    model_signature = "north-model.sig" # optional, with provenance: an OpenSSF model signature; the key stands beside it
    state = "north.state"               # optional: folder that lets a run survive this process; default: this file's name with .state
    audit = "north.audit"               # optional: this member's log of all runs; default: the name of state with .audit
    transcript = "north-transcript"     # optional: folder for every frame that passed
    threads = 1                         # optional
    wait_s = 600                        # optional: seconds to wait for the others
    idle_limit_s = 86400                # optional: give up after so many seconds without a word; default: never
    reconnect_timeout_s = 60            # optional: seconds that a broken connection may take to be made anew
    memory_mb = 2000                    # a coopetitive server's, optional: what its shares may take; default: what is free
    listen = "0.0.0.0:7466"             # a collector's: where its parties find it; in their files that is hub
    servers = { north = "0.0.0.0:7466", south = "10.0.0.2:7466", west = "10.0.0.3:7466" }
                                        # with server_links = "direct": where this server listens, and where the others are found,
                                        # but for one that is the hub
    ledger = "north-ledger.jsonl"       # a party's, in the protected modes: which people its rows have met, and how often
    [policy]                            # optional: this member's own conditions (`consortium.policy.Policy`)
    least_mode = "secure-aggregation"   # refuse plans of a weaker mode

Paths are taken from the file's own folder.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hansa.consortium.approvals import Proposal, is_proposal, read_proposal, require_approved
from hansa.consortium.identity import Identity, load_identity
from hansa.consortium.key_files import Unlocking
from hansa.consortium.members import Members
from hansa.consortium.policy import Policy
from hansa.consortium.versions import read_pinned
from hansa.data.parts import PARQUET, parts_of
from hansa.data.query import DatabaseQuery, Query, fault_of_url
from hansa.data.schema import Schema
from hansa.declared import SECRET, decode
from hansa.engines.settings import DiskSettings, EngineDocument, RaySettings, engine_of
from hansa.errors import IdentityError, PlanError, in_words
from hansa.files import read_text, read_whole
from hansa.node.proposals import withdrawals
from hansa.plan import COOPETITIVE, Plan, read_plan
from hansa.protocol.messages import PROTOCOL_VERSION
from hansa.roles.summed.sum_masking import Signer
from hansa.toml import read_toml
from hansa.transport.credentials import Credentials
from hansa.transport.proxy import Proxy, read_proxy
from hansa.transport.resumable import RECONNECT_TIMEOUT_S
from hansa.transport.routing import route_of
from hansa.transport.tcp import OpenListener, listen

A_YEAR_S = 31_536_000
MOST_THREADS = 1024
MOST_MBIT = 34_000
MOST_MEMORY_MB = 1_000_000_000

WITHOUT_NUL = r"\A[^\0]+\Z"
MOST_PORT = 65_535

FilePath = Annotated[
    str, Meta(pattern=WITHOUT_NUL, description="a path, which is not empty and does not hold the character NUL")
]
Text = Annotated[str, Meta(min_length=1, description="a column's name, which is not empty")]
Address = Annotated[
    str, Meta(pattern=r"\A[^\0]+:[0-9]{1,5}\Z", description="address:port, such as 127.0.0.1:7465 or [::1]:7465")
]
ProxyUrl = Annotated[
    str, Meta(pattern=WITHOUT_NUL, description="http://host:port or http://user@host:port, without NUL", extra=SECRET)
]
DatabaseUrl = Annotated[
    str, Meta(pattern=WITHOUT_NUL, description="a URL such as postgresql://user@host:5432/database", extra=SECRET)
]
Threads = Annotated[int, Meta(ge=1, le=MOST_THREADS, description=f"a whole number above 0 and at most {MOST_THREADS}")]
Version = Annotated[int, Meta(ge=1, description="the number of a version of the consortium's file, from 1")]
Seconds = Annotated[float, Meta(gt=0, le=A_YEAR_S, description=f"a number above 0 and at most {A_YEAR_S}")]
SecondsOrNone = Annotated[float, Meta(ge=0, le=A_YEAR_S, description=f"a number of at least 0 and at most {A_YEAR_S}")]
Megabits = Annotated[float, Meta(gt=0, le=MOST_MBIT, description=f"a number above 0 and at most {MOST_MBIT}")]
Megabytes = Annotated[
    float, Meta(gt=0, le=MOST_MEMORY_MB, description=f"a number above 0 and at most {MOST_MEMORY_MB}")
]


class SourceDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table [source]."""

    query: str
    files: dict[str, FilePath] = {}
    database: DatabaseUrl | None = None
    password_file: FilePath | None = None


class MemberDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member's file as it is written: every key with its type and default. What they mean stands above."""

    plan: FilePath
    members: FilePath
    identity: FilePath
    hub: Address
    members_version: Version | None = None
    key_file: FilePath | None = None
    proxy: ProxyUrl | None = None
    proxy_password_file: FilePath | None = None
    table: FilePath | None = None
    source: SourceDocument | None = None
    by_column: bool | None = None
    engine: EngineDocument | None = None
    id: Text | None = None
    start_model: FilePath | None = None
    custom_objective: FilePath | None = None
    custom_metric: FilePath | None = None
    model: FilePath | None = None
    record: FilePath | None = None
    provenance: FilePath | None = None
    withdrawals: FilePath | None = None
    model_signature: FilePath | None = None
    state: FilePath | None = None
    audit: FilePath | None = None
    transcript: FilePath | None = None
    threads: Threads = 1
    wait_s: Seconds = 600.0
    idle_limit_s: Seconds | None = None
    reconnect_timeout_s: SecondsOrNone = float(RECONNECT_TIMEOUT_S)
    send_mbit: Megabits | None = None
    policy: Policy = Policy()
    ledger: FilePath | None = None
    memory_mb: Megabytes | None = None
    servers: dict[str, Address] | None = None
    listen: Address | None = None


PROTOCOLS = (f"hansa/{PROTOCOL_VERSION}",)
"""Versions of the protocol that this release speaks, the newest first; both ends of a connection take the first that both have."""

RENAMED = {"patience_s": "reconnect_timeout_s"}
"""Keys of files that were written before their names changed."""


@dataclass(frozen=True)
class MemberFile:
    """A member's own file, read and checked.

    Attributes:
        plan, members, identity: what the files it names hold. folder: of the identity's files.
        proposal: that the plan is of, with its approvals; None where the file holds a plan alone.
        plan_path, members_path: where plan and members stand.
        host, port: of the hub; of a party that has a collector, of that. listen: host and port where a collector listens, else None.
        proxy: to dial through, or None.
        table: where this party's rows are: a path, or a query (over its files, or to its database); None where the file gives
            neither table nor source.
        by_column: whether it is read column by column and not into memory; None for a large one of Parquet files.
        engine: what holds the rows, or their codes; None for this process.
        id: a column of it that is not read, or None.
        start_model: path of the model that the plan goes on from, or None. custom_objective: of the file with the plan's function, or
            None.
        model, record, provenance, model_signature, transcript, ledger: paths, None where the file does not give them.
        withdrawals: folder of signed statements by which members took approvals back, or None.
        state: the folder that lets a run survive this member's process, where the plan has it wait.
        audit: the file of this member's log (`consortium.audit_log`).
        policy: of a party.
        threads: compute threads. wait_s: seconds to wait for others. idle_limit_s: seconds without a word of the aggregator or hub
            after which a member that is no server gives up, or None for never. memory_limit: bytes for a server's shares, or None.
        reconnect_timeout_s: seconds that a broken connection may take to be made anew; 0 ends the run.
        most_bytes_per_s: what this member sends over one connection; 0 has no limit.
        open_listener: what connections of others come from, where this member listens.
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
    table: Path | Query | DatabaseQuery | None
    model: Path | None
    record: Path | None
    transcript: Path | None
    ledger: Path | None
    state: Path
    audit: Path
    policy: Policy
    threads: int
    wait_s: float
    reconnect_timeout_s: float
    memory_limit: int | None = None
    idle_limit_s: float | None = None
    servers: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    proxy: Proxy | None = None
    most_bytes_per_s: int = 0
    id: str | None = None
    start_model: Path | None = None
    proposal: Proposal | None = None
    provenance: Path | None = None
    model_signature: Path | None = None
    withdrawals: Path | None = None
    custom_objective: Path | None = None
    custom_metric: Path | None = None
    by_column: bool | None = None
    engine: RaySettings | DiskSettings | None = None
    open_listener: OpenListener = listen
    listen: tuple[str, int] | None = None

    @property
    def schema(self) -> Schema:
        """What this party's table is held to: the plan's schema, and the party's own column beside it."""
        schema = self.plan.schema
        if self.id is None or self.id in (*schema.ignore, schema.id):
            return schema
        return replace(schema, ignore=(*schema.ignore, self.id))

    @property
    def signer(self) -> Signer:
        """This member's signature, and the identities that the members file pins."""
        return Signer(self.identity.sign, {name: self.members[name].identity for name in self.plan.members})

    @property
    def credentials(self) -> Credentials:
        """What TLS needs."""
        return Credentials(
            self.identity.name,
            self.identity.certificate,
            self.identity.tls_key,
            self.members.certificates(),
            PROTOCOLS,
            "" if self.proposal is None else route_of(self.proposal.digest),
            self.members.former_certificates(),
        )


def read_member_file(path: Path, ask: Callable[[str], str] | None = None) -> MemberFile:
    """Read a member's file and all that it names; `ask` asks a person for the passphrase of encrypted keys, where there is one.

    Raises PlanError or IdentityError naming file and key.
    """
    content = read_toml(path, PlanError, "name the member's own file")
    document = decode(content, MemberDocument, str(path), PlanError, RENAMED)
    host, port = address_of(document.hub, "hub", path)

    def at(name: str | None) -> Path | None:
        return None if name is None else path.parent / name

    if document.send_mbit is not None and sys.platform != "linux":
        raise PlanError(f"{path}: send_mbit needs Linux, which alone can send evenly; leave it out")
    plan_path, members_path, folder = (
        path.parent / name for name in (document.plan, document.members, document.identity)
    )
    members = read_pinned(members_path, version=document.members_version)
    plan, proposal = read_agreed(plan_path, members)
    identity = load_identity(folder, Unlocking(at(document.key_file), ask))
    if document.model_signature is not None and document.provenance is None:
        raise PlanError(
            f"{path}: model_signature goes with provenance, which names the key that signs; add provenance, or leave it out"
        )
    if document.proxy is not None and identity.name == plan.hub:
        raise PlanError(f"{path}: proxy is for members that dial; {identity.name!r} only listens: leave it out")
    if document.id is not None and document.id in plan.schema.columns and document.id != plan.schema.id:
        raise PlanError(f"{path}: id is {document.id!r}, which the plan reads as a column of its schema; leave id out")
    trusted = {name for name, card in members.items() if members.revoked(card.identity) is None}
    missing = sorted(set(plan.members) - trusted)
    if missing:
        gone = [
            own
            for own in ({} if members.standing is None else members.standing.revoked).values()
            if own.member in missing
        ]
        if gone:
            raise IdentityError(
                f"{members_path}: the key of the plan's member {gone[0].member!r} was revoked in version {gone[0].version} "
                f"({gone[0].reason}); nothing runs with it",
                member=gone[0].member,
                rule="no key with a role was revoked",
            )
        raise IdentityError(
            f"{members_path}: the plan's member {missing[0]!r} is not in it; add its card at every member"
        )
    if members.standing is not None and identity.public not in members.standing.signers:
        raise IdentityError(
            f"{members_path}: this identity signed no version of it, so it may be somebody else's; compare fingerprints, and sign it "
            "by `hansa consortium sign`",
            rule="a member signed the consortium's file that it uses",
            cure="sign the consortium's file",
        )
    state = path.with_suffix(".state") if document.state is None else path.parent / document.state
    return MemberFile(
        path=path,
        plan=plan,
        proposal=proposal,
        plan_path=plan_path,
        members=members,
        members_path=members_path,
        identity=identity,
        folder=folder,
        host=host,
        port=port,
        table=_source(document, path),
        model=at(document.model),
        record=at(document.record),
        provenance=at(document.provenance),
        withdrawals=at(document.withdrawals),
        model_signature=at(document.model_signature),
        transcript=at(document.transcript),
        ledger=at(document.ledger),
        state=state,
        audit=state.with_suffix(".audit") if document.audit is None else path.parent / document.audit,
        policy=document.policy,
        threads=document.threads,
        wait_s=document.wait_s,
        reconnect_timeout_s=document.reconnect_timeout_s,
        memory_limit=None if document.memory_mb is None else int(document.memory_mb * 1e6),
        idle_limit_s=document.idle_limit_s,
        servers=_server_addresses(document.servers, plan, path),
        listen=_listening(document.listen, plan, identity.name, path),
        proxy=proxy_of(document.proxy, document.proxy_password_file, path),
        id=document.id,
        by_column=_by_column(document, plan, path),
        engine=_engine(document, plan, path),
        start_model=at(document.start_model),
        custom_objective=at(document.custom_objective),
        custom_metric=at(document.custom_metric),
        most_bytes_per_s=math.ceil((document.send_mbit or 0) * 1e6 / 8),
    )


def read_agreed(path: Path, members: Members | None = None) -> tuple[Plan, Proposal | None]:
    """The plan in a plan file, or in a proposal that members approve: there with every signature checked (`approvals.read_proposal`).

    Raises PlanError, IdentityError.
    """
    try:
        proposed = is_proposal(read_whole(path))
    except (OSError, ValueError):
        proposed = False  # `read_plan` says what is wrong
    if not proposed:
        return read_plan(path), None
    proposal = read_proposal(path, members)
    return proposal.plan, proposal


def check_approved(member: MemberFile) -> None:
    """Raise PlanError where a run has no business to begin: a proposal that is not approved by all, or a policy that asks for more."""
    if member.policy.signed_members_only and member.members.standing is None:
        raise PlanError(
            f"{member.path}: policy.signed_members_only asks for a consortium's file, which every member signed, and "
            f"{member.members_path} is none: `hansa consortium create` makes one",
            rule="signed_members_only",
            cure="name a consortium's file as members",
        )
    if member.proposal is not None:
        require_approved(member.proposal, str(member.plan_path))
        back = () if member.withdrawals is None else withdrawals(member.withdrawals, member.proposal)
        if back:
            raise PlanError(
                f"{member.plan_path}: {back[0].member!r} took its approval back ({back[0].reason}); nothing runs without it: "
                "propose the plan anew",
                member=back[0].member,
                rule="no member took its approval back",
                cure="propose the plan anew",
            )
    elif member.policy.approved_plans_only or member.plan.on_dropout == "continue":
        asks = (
            "policy.approved_plans_only asks"
            if member.policy.approved_plans_only
            else "members.on_dropout = 'continue' asks"
        )
        raise PlanError(
            f"{member.path}: {asks} for a plan that every member with a role has signed, and "
            f"{member.plan_path} is none: `hansa plan propose` makes one",
            rule="approved_plans_only",
            cure="name an approved proposal as plan",
        )


_NOT_READ = {"plan": "plan.toml", "members": "members.toml", "identity": "identity", "hub": "127.0.0.1:1"}
"""Required keys of a member's file, for one of which nothing but its rows is read."""


def read_rows_source(path: Path) -> tuple[Path | Query | DatabaseQuery, str | None]:
    """Where a member's file says its rows are, and which column is its `id`; it need not have its other keys, nor what they name.

    Raises PlanError, also where it names neither table nor source.
    """
    content = read_toml(path, PlanError, "name the member's own file")
    document = decode(_NOT_READ | content, MemberDocument, str(path), PlanError, RENAMED)
    source = _source(document, path)
    if source is None:
        raise PlanError(f"{path}: table is missing; name the file with this party's rows, or give a source")
    return source, document.id


def read_policy(path: Path) -> tuple[Policy, bool]:
    """The policy in a member's file, and whether it names rows; nothing else that it names need be there. Raises PlanError."""
    content = read_toml(path, PlanError, "name the member's own file")
    document = decode(content, MemberDocument, str(path), PlanError, RENAMED)
    return document.policy, document.table is not None or document.source is not None


def _source(document: MemberDocument, path: Path) -> Path | Query | DatabaseQuery | None:
    """Where the rows are. Raises PlanError where table and source are both given, or source names files and a database."""
    source = document.source
    if source is None:
        return None if document.table is None else path.parent / document.table
    if document.table is not None:
        raise PlanError(
            f"{path}: table and source are both given; say where the rows are once, and leave the other out"
        )
    where = f"{path}, source.query"
    if source.database is None:
        if source.password_file is not None:
            raise PlanError(
                f"{path}: source.password_file goes with source.database only; add database, or leave it out"
            )
        return Query(source.query, {name: path.parent / file for name, file in source.files.items()}, where)
    if source.files:
        raise PlanError(
            f"{path}: source.files and source.database are both given; a query reads this party's files or its database: leave one out"
        )
    fault = fault_of_url(source.database)
    if fault is not None:
        raise PlanError(f"{path}: source.database: {fault}")
    file = None if source.password_file is None else path.parent / source.password_file
    password = "" if file is None else read_password(file, "the database's password")
    return DatabaseQuery(source.database, source.query, password, file, where)


def _engine(document: MemberDocument, plan: Plan, path: Path) -> RaySettings | DiskSettings | None:
    """The engine that holds the rows. Raises PlanError where the plan, or the source, does not go with one."""
    if document.engine is None:
        return None
    if plan.mode == COOPETITIVE:
        raise PlanError(f"{path}: engine is for the modes with an aggregator; in {plan.mode} mode leave it out")
    try:
        engine = engine_of(document.engine, path.parent)
    except ValueError as error:
        raise PlanError(f"{path}: {error}") from error
    if isinstance(engine, DiskSettings):
        _check_disk(document, plan, path)
        return engine
    parts = None if document.table is None else parts_of(path.parent / document.table)
    if parts is None or len(parts) < engine.workers:
        found = "none" if parts is None else f"{len(parts)}"
        raise PlanError(
            f"{path}: engine.workers is {engine.workers}: expected as many Parquet files at least, in a folder or by a "
            f"pattern that table names, found {found}; write the rows into more files, or use fewer workers",
            cure="write the rows into as many Parquet files as there are workers",
        )
    return engine


def _check_disk(document: MemberDocument, plan: Plan, path: Path) -> None:
    """Refuse codes on disk where rows would be in memory. Raises PlanError."""
    kind = 'engine.kind = "disk"'
    if plan.start_model:
        raise PlanError(f"{path}: {kind} does not go with a plan that has start_model, whose trees need whole rows")
    if document.by_column is False:
        raise PlanError(f"{path}: {kind} reads the rows by column, and by_column is false; leave by_column out")
    table = None if document.table is None else path.parent / document.table
    if table is not None and not table.name.lower().endswith(PARQUET) and parts_of(table) is None:
        raise PlanError(
            f"{path}: {kind} needs rows in Parquet files, or a source, and table is {document.table!r}; write the table as Parquet",
            cure="write the table as Parquet",
        )


def _by_column(document: MemberDocument, plan: Plan, path: Path) -> bool | None:
    """Whether rows are read by column. Raises PlanError where the plan needs them in memory."""
    if document.by_column and plan.mode == COOPETITIVE:
        raise PlanError(f"{path}: by_column is for the modes with an aggregator; in {plan.mode} mode leave it out")
    if document.by_column and plan.start_model:
        raise PlanError(
            f"{path}: by_column does not go with a plan that has start_model, whose trees need whole rows; leave it out"
        )
    on_disk = document.engine is not None and document.engine.kind == "disk"
    return False if plan.start_model else on_disk or document.by_column


def _listening(given: str | None, plan: Plan, name: str, path: Path) -> tuple[str, int] | None:
    """Where a collector listens. Raises PlanError where it does not say, or another member says."""
    collects = name in dict(plan.collectors)
    if not collects and given is not None:
        raise PlanError(f"{path}: listen is for a collector of the plan, and {name!r} is none; leave it out")
    if collects and given is None:
        raise PlanError(
            f"{path}: listen is missing; {name!r} is a collector of the plan: say where its parties find it, such as "
            'listen = "0.0.0.0:7466"',
            cure='say where its parties find it, such as listen = "0.0.0.0:7466"',
        )
    return None if given is None else address_of(given, "listen", path)


def address_of(text: str, key: str, path: Path) -> tuple[str, int]:
    """Host and port of an `Address`."""
    host, _, port = text.rpartition(":")
    if int(port) > MOST_PORT:
        raise PlanError(f"{path}: {key} is {text!r:.100}; expected a port of at most {MOST_PORT}")
    return host.strip("[]"), int(port)


def proxy_of(proxy: str | None, password_file: str | None, path: Path) -> Proxy | None:
    """The proxy that a file names. Raises PlanError; never quotes a password."""
    if proxy is None:
        if password_file is not None:
            raise PlanError(f"{path}: proxy_password_file goes with proxy only; add proxy, or leave it out")
        return None
    password = ""
    if password_file is not None:
        password = read_password(path.parent / password_file, "the proxy's password")
    try:
        return read_proxy(proxy, password)
    except ValueError as error:
        raise PlanError(f"{path}: proxy: {error}") from error


def read_password(file: Path, what: str) -> str:
    """The password in a file that only its owner may read. Raises PlanError; never quotes it."""
    try:
        if file.stat().st_mode & 0o077:
            raise PlanError(f"{file}: others can read this password; run: chmod 600 {file}")
        return read_text(file).strip()
    except (OSError, ValueError) as error:
        raise PlanError(f"{file}: {what} cannot be read: {in_words(error)}") from error


def _server_addresses(given: Mapping[str, str] | None, plan: Plan, path: Path) -> dict[str, tuple[str, int]]:
    """Where the servers are, which a plan with direct links takes from every server's file, and no other plan."""
    if plan.coopetitive is None or plan.coopetitive.server_links != "direct":
        if given is not None:
            raise PlanError(f'{path}: servers goes with a plan of members.server_links = "direct" only; leave it out')
        return {}
    addresses = {name: address_of(text, f"servers.{name}", path) for name, text in (given or {}).items()}
    expected = [name for name in plan.servers if name != plan.hub]
    if addresses and set(addresses) != set(expected):
        hub = "" if len(expected) == len(plan.servers) else f" (that of {plan.hub} is the key hub)"
        raise PlanError(
            f"{path}: servers names {', '.join(sorted(addresses))}; expected an address for each of the plan's servers "
            f"{', '.join(expected)}{hub}"
        )
    return addresses
