"""A member's own file, read and checked.

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
    idle_limit_s = 86400                # optional: give up after so many seconds without a word; default: never
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

import math
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansa.consortium.identity import CERTIFICATE_FILE, TLS_KEY_FILE, Identity, load_identity
from hansa.consortium.members import Members, read_members
from hansa.consortium.policy import Policy, read_policy
from hansa.errors import IdentityError, PlanError
from hansa.files import read_text
from hansa.plan import Plan, read_plan
from hansa.roles.summed.sum_masking import Signer
from hansa.transport.credentials import Credentials
from hansa.transport.proxy import Proxy, read_proxy
from hansa.transport.resumable import RECONNECT_TIMEOUT_S

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
