"""A service's own file, and the member's files that follow from it, one for each run.

    identity = "north.identity"         # this member's folder of keys
    key_file = "north.key"              # optional: the file that opens encrypted keys; default: HANSA_PASSPHRASE
    members = "members.toml"            # the consortium
    withdrawals = "withdrawals"         # optional: folder of approvals that their members took back
    hub = "10.0.0.1:7465"               # where the hub's service listens (its own file) or is found (all others')
    exchange = "hub"                    # optional: the member whose service passes proposals on, at `hub`; default: nobody does
    state = "north.service"             # optional: folder of this service; default: this file's name with .service
    plans = "north-plans"               # optional: the inbox, where approved plans are put; default: the folder plans in `state`
    database = "postgresql://u@h/db"    # optional: where it keeps its runs; default: a file of SQLite in `state`
    database_password_file = "db.pass"  # optional: its password
    name = "north"                      # optional: of this service in its database; default: this file's name
    most_runs = 4                       # optional: at once
    health = "127.0.0.1:7480"           # optional: where it answers /healthz, /readyz and /metrics; default: nowhere
    console = "127.0.0.1:7490"          # optional: where it shows its console, beside it; default: nowhere
    traces = "http://127.0.0.1:4318/v1/traces"
                                        # optional: where spans go, by OTLP over HTTP; default: nowhere
    transcripts = true                  # optional: keep every frame of each run in its folder
    model_signatures = true             # optional: sign each model that this member receives (OpenSSF), beside its provenance
    ledger = "north-ledger.jsonl"       # optional; default: ledger.jsonl in `state`
    audit = "north.audit"               # optional: the log of all its runs; default: audit in `state`

    [[sources]]                         # a party's rows, by the names of plans; the first whose pattern fits is taken
    plans = ["sleeping-*"]              # optional; default: every plan
    table = "north.csv"                 # or source, by_column, id, start_model, custom_objective, custom_metric: as in
                                        # a member's file

    [policy]                            # as in a member's file

    [consortia.hospitals]               # in place of members: several consortia, each with its members file, and what differs of
    members = "hospitals.toml"          # identity, key_file, withdrawals, hub, exchange and policy

The other keys (proxy, proxy_password_file, threads, wait_s, idle_limit_s, reconnect_timeout_s, send_mbit, memory_mb, servers) are
those of a member's file. Paths are taken from the file's own folder.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hansa.consortium.identity import CARD_FILE, Card, load_identity
from hansa.consortium.key_files import Unlocking
from hansa.consortium.members import Members, read_members
from hansa.consortium.policy import Policy
from hansa.consortium.versions import Consortium as SignedFile
from hansa.consortium.versions import is_consortium, pinned_of, read_consortium
from hansa.declared import decode
from hansa.errors import IdentityError, PlanError
from hansa.node.config import (
    Address,
    DatabaseUrl,
    FilePath,
    Megabits,
    Megabytes,
    ProxyUrl,
    Seconds,
    SecondsOrNone,
    SourceDocument,
    Text,
    Threads,
    address_of,
    read_password,
)
from hansa.plan import COOPETITIVE, Plan
from hansa.service.seen_members import check_goes_on
from hansa.toml import read_toml, write_toml
from hansa.transport.resumable import RECONNECT_TIMEOUT_S

MOST_RUNS = 256
DEFAULT_RUNS = 4

CONSOLE_FILE = "console.sqlite"
"""In a service's folder: the console's accounts, and what people did there."""

SIGNATURE_FILE = "model.sig"
"""Beside a run's model, where the service signs models."""

Runs = Annotated[int, Meta(ge=1, le=MOST_RUNS, description=f"a whole number above 0 and at most {MOST_RUNS}")]
Name = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9._-]{1,64}\Z", description="1 to 64 of a-z, A-Z, 0-9, dots, dashes and underscores")
]
Url = Annotated[
    str,
    Meta(pattern=r"\Ahttps?://[^\s\0]+\Z", description="an address such as http://127.0.0.1:4318/v1/traces"),
]

MEMBER_KEYS = (
    "proxy",
    "proxy_password_file",
    "threads",
    "wait_s",
    "idle_limit_s",
    "reconnect_timeout_s",
    "send_mbit",
    "memory_mb",
    "servers",
)
"""Keys that every run's member file takes from the service's."""

BEGAN_KEYS = ("members_version", "identity", "key_file")
"""Keys of a run's member file that stay as they are once the run began."""

MEMBER_PATHS = ("proxy_password_file",)
SOURCE_KEYS = ("table", "source", "by_column", "id", "start_model", "custom_objective", "custom_metric")
SOURCE_PATHS = ("table", "start_model", "custom_objective", "custom_metric")


class SourcesDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of [[sources]]."""

    plans: tuple[Text, ...] = ("*",)
    table: FilePath | None = None
    source: SourceDocument | None = None
    by_column: bool | None = None
    id: Text | None = None
    start_model: FilePath | None = None
    custom_objective: FilePath | None = None
    custom_metric: FilePath | None = None


class ConsortiumDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of [consortia]."""

    members: FilePath
    identity: FilePath | None = None
    key_file: FilePath | None = None
    withdrawals: FilePath | None = None
    hub: Address | None = None
    exchange: Name | None = None
    policy: Policy | None = None


class ServiceDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service's file as it is written: every key with its type and default. What they mean stands above."""

    identity: FilePath | None = None
    key_file: FilePath | None = None
    withdrawals: FilePath | None = None
    members: FilePath | None = None
    hub: Address | None = None
    exchange: Name | None = None
    consortia: dict[Name, ConsortiumDocument] = {}
    sources: tuple[SourcesDocument, ...] = ()
    policy: Policy = Policy()
    state: FilePath | None = None
    plans: FilePath | None = None
    database: DatabaseUrl | None = None
    database_password_file: FilePath | None = None
    name: Name | None = None
    most_runs: Runs = DEFAULT_RUNS
    health: Address | None = None
    console: Address | None = None
    traces: Url | None = None
    transcripts: bool = False
    model_signatures: bool = False
    ledger: FilePath | None = None
    audit: FilePath | None = None
    proxy: ProxyUrl | None = None
    proxy_password_file: FilePath | None = None
    threads: Threads = 1
    wait_s: Seconds = 600.0
    idle_limit_s: Seconds | None = None
    reconnect_timeout_s: SecondsOrNone = float(RECONNECT_TIMEOUT_S)
    send_mbit: Megabits | None = None
    memory_mb: Megabytes | None = None
    servers: dict[str, Address] | None = None


@dataclass(frozen=True)
class Consortium:
    """One of a service's consortia.

    Attributes:
        name: in the service's file; empty where it has one alone. members_path, folder: of the members file and of the identity.
        members, identity: what they hold, of an identity its card. key_file: that opens the identity's keys, or None.
        signed: the consortium's file as it was read, with all its versions; None where nobody signs it.
        withdrawals: folder of approvals that were taken back, or None. hub: where the hub listens or is found.
        exchange: the member whose service passes proposals on; empty where members send files. policy: this member's conditions.
    """

    name: str
    members_path: Path
    members: Members
    folder: Path
    identity: Card
    key_file: Path | None
    withdrawals: Path | None
    hub: str
    exchange: str
    policy: Policy
    signed: SignedFile | None = None


@dataclass(frozen=True)
class ServicePlace:
    """Where a service keeps its runs: its name in the database, its folder, and the database's URL; empty for SQLite in the folder."""

    name: str
    state: Path
    database: str

    @property
    def runs(self) -> Path:
        """The folder with a folder for each run."""
        return self.state / "runs"


@dataclass(frozen=True)
class ServiceFile:
    """A service's own file, read and checked.

    Attributes:
        document: as it is written. name: of the service. consortia: at least one.
        state, plans, ledger, audit: the service's folder, its inbox, its ledger and the log of its runs.
        database: URL of the database of its runs, with its
            password; empty for a file of SQLite in `state`. health: host and port where it answers, or None.
    """

    path: Path
    document: ServiceDocument
    name: str
    consortia: tuple[Consortium, ...]
    state: Path
    plans: Path
    ledger: Path
    audit: Path
    database: str
    health: tuple[str, int] | None

    @property
    def runs(self) -> Path:
        """The folder with a folder for each run."""
        return self.state / "runs"

    def proposals_of(self, consortium: Consortium) -> Path:
        """The folder of one consortium's proposals: those that were brought, made here, or came over the hub."""
        return self.state / "proposals" / (consortium.name or "only")

    def change_of(self, consortium: Consortium) -> Path:
        """The file of one consortium's change of members or keys that is under way."""
        return self.state / "changes" / f"{consortium.name or 'only'}.json"

    def invitations_of(self, consortium: Consortium) -> Path:
        """The folder of invitations into one consortium that were made here."""
        return self.state / "invitations" / (consortium.name or "only")

    def seen_of(self, consortium: Consortium) -> Path:
        """The file that says which version of one consortium's file the service took last."""
        return _seen(self.state, consortium.name)

    def stamps(self) -> tuple[tuple[int, ...], ...]:
        """What tells that this file, or a members file that it names, is another since: times, sizes and numbers of the files."""
        found = []
        for path in (self.path, *(own.members_path for own in self.consortia)):
            try:
                stat = path.stat()
            except OSError:
                found.append((0, 0, 0))
            else:
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return tuple(found)

    def source_of(self, plan: Plan) -> SourcesDocument | None:
        """The first table of [[sources]] whose pattern fits a plan's name; None where there is none."""
        for source in self.document.sources:
            if any(fnmatch.fnmatchcase(plan.name, pattern) for pattern in source.plans):
                return source
        return None

    def audit_of(self, consortium: Consortium) -> Path:
        """The log of the runs of one consortium, which the members of no other one see the size of."""
        return self.audit.with_name(f"{self.audit.name}.{consortium.name}") if consortium.name else self.audit

    def consortium(self, name: str) -> Consortium:
        """The one of that name. Raises PlanError where the file has it no more."""
        for each in self.consortia:
            if each.name == name:
                return each
        raise PlanError(f"{self.path}: there is no consortium {name!r} any more, of which a run is; put it back")


def read_service_file(path: Path, *, open_keys: bool = True) -> ServiceFile:
    """Read a service's file, and the identities and members files that it names.

    Args:
        open_keys: whether this member's keys are opened, to see that they can be; else its cards alone are read.

    Raises PlanError, IdentityError.
    """
    document = _document(path)
    place = _place_in(document, path)
    state = place.state
    return ServiceFile(
        path=path,
        document=document,
        name=place.name,
        consortia=_consortia(document, path, state, open_keys),
        state=state,
        plans=state / "plans" if document.plans is None else (path.parent / document.plans).absolute(),
        ledger=state / "ledger.jsonl" if document.ledger is None else (path.parent / document.ledger).absolute(),
        audit=state / "audit" if document.audit is None else (path.parent / document.audit).absolute(),
        database=place.database,
        health=None if document.health is None else address_of(document.health, "health", path),
    )


def read_place(path: Path) -> ServicePlace:
    """Where a service keeps its runs: for looking at them and ending them, which a members file that is wrong does not prevent.

    Raises PlanError.
    """
    return _place_in(_document(path), path)


def _document(path: Path) -> ServiceDocument:
    return decode(read_toml(path, PlanError, "name the service's own file"), ServiceDocument, str(path), PlanError, {})


def _place_in(document: ServiceDocument, path: Path) -> ServicePlace:
    state = path.with_suffix(".service") if document.state is None else path.parent / document.state
    database = document.database or ""
    if document.database_password_file is not None:
        if not database:
            raise PlanError(f"{path}: database_password_file goes with database only; add database, or leave it out")
        password = read_password(path.parent / document.database_password_file, "the database's password")
        database = _with_password(database, password, path)
    return ServicePlace(document.name or path.stem, state.absolute(), database)


def _consortia(document: ServiceDocument, path: Path, state: Path, open_keys: bool) -> tuple[Consortium, ...]:
    tables: Mapping[str, ConsortiumDocument]
    if document.consortia:
        if document.members is not None:
            raise PlanError(f"{path}: members and consortia are both given; give each consortium its own members")
        tables = document.consortia
    elif document.members is None:
        raise PlanError(f"{path}: members is missing; name the members file, or give a table [consortia.NAME]")
    else:
        tables = {"": ConsortiumDocument(members=document.members)}

    def at(name: str | None) -> Path | None:
        return None if name is None else (path.parent / name).absolute()

    found = []
    for name, own in tables.items():
        where = f"{path}, consortia.{name}" if name else str(path)
        identity, hub = own.identity or document.identity, own.hub or document.hub
        if identity is None:
            raise PlanError(f"{where}: identity is missing; name this member's folder of keys")
        if hub is None:
            raise PlanError(f"{where}: hub is missing; say where the hub listens or is found")
        address_of(hub, "hub", path)
        members_path, folder = (path.parent / each for each in (own.members, identity))
        policy = document.policy if own.policy is None else own.policy
        key_file = at(own.key_file or document.key_file)
        signed = read_consortium(members_path) if is_consortium(members_path) else None
        members = read_members(members_path) if signed is None else pinned_of(signed, str(members_path))
        exchange = own.exchange or document.exchange or ""
        check_goes_on(members, members_path, _seen(state, name))
        if exchange and exchange not in members:
            raise PlanError(
                f"{where}: exchange names {exchange!r}, who is no member in {members_path}; name the member whose service is the hub"
            )
        withdrawals = at(own.withdrawals or document.withdrawals)
        if exchange and withdrawals is None:
            withdrawals = state / "withdrawals" / (name or "only")
        found.append(
            Consortium(
                name=name,
                members_path=members_path.absolute(),
                members=members,
                folder=folder,
                identity=load_identity(folder, Unlocking(key_file)).card() if open_keys else _card_in(folder),
                key_file=key_file,
                withdrawals=withdrawals,
                hub=hub,
                exchange=exchange,
                policy=policy,
                signed=signed,
            )
        )
    return tuple(found)


def _seen(state: Path, name: str) -> Path:
    return state / "members" / f"{name or 'only'}.json"


def _card_in(folder: Path) -> Card:
    """The card beside a member's keys. Raises IdentityError."""
    cards = tuple(read_members(folder / CARD_FILE).values())
    if len(cards) != 1:
        raise IdentityError(f"{folder / CARD_FILE}: holds {len(cards)} cards, expected this member's alone; restore it")
    return cards[0]


def _with_password(url: str, password: str, path: Path) -> str:
    from urllib.parse import quote, urlsplit, urlunsplit

    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if not at or ":" in user:
        raise PlanError(
            f"{path}: database_password_file needs a URL with an account and without a password, such as "
            "postgresql://user@host/database"
        )
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def member_text(
    service: ServiceFile, consortium: Consortium, plan: Plan, folder: Path, began: Mapping[str, Any] | None = None
) -> str:
    """The member's file of one run: TOML, all paths whole.

    Args:
        folder: of the run; it has the approved plan as plan.json, and takes what comes of the run. began: of a run that began, the keys
            in place of those that the service's file says now: by whom and with which keys the run goes on.

    Raises PlanError where the plan makes this member a party, and no source is for it.
    """
    if plan.collectors:
        raise PlanError(
            f"{service.path}: the plan {plan.name!r} has members.collectors, and a service dials the consortium's hub: run `hansa "
            "aggregator`, `hansa collector` and `hansa party` with files of their own, or agree on a plan without collectors",
            cure="run the plan's members by files of their own, or agree on a plan without collectors",
        )
    written = msgspec.to_builtins(service.document)
    base, name = service.path.parent.absolute(), consortium.identity.name
    values: dict[str, Any] = {
        "plan": str(folder / "plan.json"),
        "members": str(consortium.members_path),
        "identity": str(consortium.folder.absolute()),
        "hub": consortium.hub,
        "record": str(folder / "record.json"),
        "state": str(folder / "state"),
        "audit": str(service.audit_of(consortium)),
    }
    for key, place in (("key_file", consortium.key_file), ("withdrawals", consortium.withdrawals)):
        if place is not None:
            values[key] = str(place)
    if name in plan.receivers:
        values["model"] = str(folder / "model.json")
        if service.document.model_signatures:
            values["model_signature"] = str(folder / SIGNATURE_FILE)
    if name in plan.receivers or name == plan.aggregator:
        values["provenance"] = str(folder / "provenance.json")
    if service.document.transcripts:
        values["transcript"] = str(folder / "transcript")
    values |= {key: written[key] for key in MEMBER_KEYS if written[key] is not None}
    if plan.coopetitive is None or plan.coopetitive.server_links != "direct":
        values.pop("servers", None)
    if name == plan.hub:  # who listens dials nobody
        values = {key: value for key, value in values.items() if not key.startswith("proxy")}
    if name in plan.parties:
        source = service.source_of(plan)
        if source is None or (source.table is None and source.source is None):
            raise PlanError(
                f"{service.path}: no table of [[sources]] has rows for the plan {plan.name!r}, of which {name!r} is a party; add one",
                cure="add a table of [[sources]]",
            )
        own = msgspec.to_builtins(source)
        values |= {key: own[key] for key in SOURCE_KEYS if own[key] is not None}
        if plan.mode != "federated":
            values["ledger"] = str(service.ledger)
    elif plan.start_model and (source := service.source_of(plan)) is not None and source.start_model is not None:
        values["start_model"] = source.start_model
    if plan.mode != COOPETITIVE:
        values.pop("memory_mb", None)
    for key in (*MEMBER_PATHS, *SOURCE_PATHS):
        if key in values:
            values[key] = str(base / values[key])
    if "source" in values:
        values["source"] = _absolute_source(values["source"], base)
    if began is not None:
        values = {key: value for key, value in values.items() if key not in BEGAN_KEYS} | dict(began)
    policy = msgspec.to_builtins(consortium.policy)
    values["policy"] = {key: value for key, value in policy.items() if value is not None}
    return write_toml(values, "Made by the service from its own file, and made anew at each start of this run.")


def _absolute_source(source: Mapping[str, Any], base: Path) -> Mapping[str, Any]:
    kept = {key: value for key, value in source.items() if value not in (None, {})}
    if "files" in kept:
        kept["files"] = {name: str(base / file) for name, file in kept["files"].items()}
    if "password_file" in kept:
        kept["password_file"] = str(base / kept["password_file"])
    return kept
