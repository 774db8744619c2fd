"""What a console keeps beside the service's database: accounts, and everything that people did, in a file of SQLite of its own.

The file is the owner's alone (0600). It holds hashes of passwords and public keys of passkeys, no password, no other key and
no session. Actions are chained: each has
a SHA-256 over itself and the one before, so that an action which was altered or taken out is noticed by whoever reads the list. Who may
write the file can write the whole chain anew: what is signed (approvals, the audit log) does not depend on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from hansa.errors import OutputError, PlanError
from hansa.files import make_folder
from hansa.node.logs import moment
from hansa.service.config import CONSOLE_FILE

Role = Literal["viewer", "operator", "officer"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "officer")
"""What an account may do: read; also bring plans in, and pause, resume and stop runs; also sign for the member."""

FIRST = "0" * 64
"""What stands in place of the hash before the first action."""

MOST_TEXT = 2000
"""Characters of what is kept of one action."""


class Account(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may sign in.

    Attributes:
        name, role: as its owner types it, and what it may do. hashed: its password by Argon2; empty where that is switched off.
        changed: when it was set, UTC. passkeys: ids of its passkeys.
    """

    name: str
    role: Role
    hashed: str
    changed: str
    passkeys: tuple[str, ...] = ()


class Passkey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A passkey of an account: what is public of it.

    Attributes:
        id: by which a browser names it, base64url. account, name: whose it is, and what its owner calls it. key: its public key, COSE.
        counter: how often it signed, as it said last; 0 where it does not count. made, used: times in UTC; used is empty before.
    """

    id: str
    account: str
    name: str
    key: bytes
    counter: int
    made: str
    used: str


class Action(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What somebody did at this console, or was refused.

    Attributes:
        number: from 1. at: time, UTC. who: the account; "link" for the link of the start; empty where nobody was signed in.
        what: the action's name. about: the proposal, run or account that it was about. done: whether it was; else it was refused.
        text: how it went. digest: over this and the action before.
    """

    number: int
    at: str
    who: str
    what: str
    about: str
    done: bool
    text: str
    digest: str


_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, role TEXT NOT NULL, hashed TEXT NOT NULL, changed TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS actions (number INTEGER PRIMARY KEY, at TEXT NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL,
    about TEXT NOT NULL, done INTEGER NOT NULL, text TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS passkeys (id TEXT PRIMARY KEY, account TEXT NOT NULL, name TEXT NOT NULL, key BLOB NOT NULL,
    counter INTEGER NOT NULL, made TEXT NOT NULL, used TEXT NOT NULL);
"""

_ACCOUNTS = """
SELECT name, role, hashed, changed,
    (SELECT group_concat(id, ' ') FROM (SELECT id FROM passkeys WHERE account = accounts.name ORDER BY id)) FROM accounts
"""


class Book:
    """A console's file. Each method is one transaction; threads and processes may call them at once.

    Args:
        folder: where the file is, or is made. Raises OutputError.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self.path = folder / CONSOLE_FILE
        with contextlib.suppress(OSError):
            self.path.touch(mode=0o600)
        with self._open() as connection:
            connection.executescript(_TABLES)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
                yield connection
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: {error}; is its disk full, or the file damaged?") from error

    def accounts(self) -> tuple[Account, ...]:
        """All, by name."""
        with self._open() as connection:
            rows = connection.execute(f"{_ACCOUNTS} ORDER BY name").fetchall()
        return tuple(_account(row) for row in rows)

    def account(self, name: str) -> Account | None:
        """The one of this name."""
        with self._open() as connection:
            row = connection.execute(f"{_ACCOUNTS} WHERE name = ?", (name,)).fetchone()
        return None if row is None else _account(row)

    def put_account(self, account: Account) -> None:
        """Keep an account, new or changed; its passkeys stay as they are."""
        with self._open() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)",
                (account.name, account.role, account.hashed, account.changed),
            )

    def remove_account(self, name: str) -> None:
        """Forget an account and its passkeys. Raises PlanError where there is none."""
        with self._open() as connection:
            if not connection.execute("DELETE FROM accounts WHERE name = ?", (name,)).rowcount:
                raise PlanError(f"there is no account {name!r}; `hansa account list` lists them")
            connection.execute("DELETE FROM passkeys WHERE account = ?", (name,))

    def passkeys(self, account: str) -> tuple[Passkey, ...]:
        """Those of an account, the oldest first."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT * FROM passkeys WHERE account = ? ORDER BY made, id", (account,)
            ).fetchall()
        return tuple(_passkey(row) for row in rows)

    def passkey(self, id: str) -> Passkey | None:
        """The one of this id."""
        with self._open() as connection:
            row = connection.execute("SELECT * FROM passkeys WHERE id = ?", (id,)).fetchone()
        return None if row is None else _passkey(row)

    def put_passkey(self, passkey: Passkey) -> None:
        """Keep a new passkey. Raises PlanError where one of this id is there, of whatever account."""
        row = (
            passkey.id,
            passkey.account,
            passkey.name,
            passkey.key,
            passkey.counter,
            passkey.made,
            passkey.used,
        )
        with self._open() as connection:
            if not connection.execute("INSERT OR IGNORE INTO passkeys VALUES (?, ?, ?, ?, ?, ?, ?)", row).rowcount:
                raise PlanError("this passkey is kept here already")

    def use_passkey(self, id: str, counter: int, used: str) -> bool:
        """Note that a passkey was used; False where it is gone, or its counter did not grow. One that does not count always says 0."""
        with self._open() as connection:
            return bool(
                connection.execute(
                    "UPDATE passkeys SET counter = ?1, used = ?2 WHERE id = ?3 AND (counter < ?1 OR (counter = 0 AND ?1 = 0))",
                    (counter, used, id),
                ).rowcount
            )

    def remove_passkey(self, account: str, id: str) -> Passkey:
        """Forget a passkey of an account. Raises PlanError where it has none of this id."""
        with self._open() as connection:
            row = connection.execute("SELECT * FROM passkeys WHERE id = ? AND account = ?", (id, account)).fetchone()
            if row is None:
                raise PlanError(f"{account} has no such passkey; load the page again")
            connection.execute("DELETE FROM passkeys WHERE id = ?", (id,))
        return _passkey(row)

    def note(self, who: str, what: str, about: str, text: str, *, done: bool) -> None:
        """Write down what somebody did, or was refused."""
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")
            last = connection.execute("SELECT number, digest FROM actions ORDER BY number DESC LIMIT 1").fetchone()
            number, before = (1, FIRST) if last is None else (last[0] + 1, last[1])
            action = Action(
                number=number,
                at=moment(time.time()),
                who=who[:MOST_TEXT],
                what=what,
                about=about[:MOST_TEXT],
                done=done,
                text=text[:MOST_TEXT],
                digest="",
            )
            row = (action.number, action.at, action.who, action.what, action.about, int(done), action.text)
            connection.execute("INSERT INTO actions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*row, _chained(before, action)))

    def actions(self, first: int, most: int) -> tuple[Action, ...]:
        """At most so many, the newest first, behind the newest `first` ones."""
        query = "SELECT * FROM actions ORDER BY number DESC LIMIT ? OFFSET ?"
        with self._open() as connection:
            return tuple(_action(row) for row in connection.execute(query, (most, first)))

    def count_actions(self) -> int:
        """How many there are."""
        with self._open() as connection:
            return int(connection.execute("SELECT count(*) FROM actions").fetchone()[0])

    def broken_at(self) -> int:
        """The number of the first action that was altered, or before which one was taken out; 0 where there is none."""
        before, expected = FIRST, 1
        with self._open() as connection:
            for row in connection.execute("SELECT * FROM actions ORDER BY number"):
                action = _action(row)
                whole = msgspec.structs.replace(action, digest="")
                if action.number != expected or _chained(before, whole) != action.digest:
                    return expected
                before, expected = action.digest, expected + 1
        return 0


def _chained(before: str, action: Action) -> str:
    return hashlib.sha256(before.encode() + msgspec.json.encode(action)).hexdigest()


def _account(row: tuple[str, Role, str, str, str | None]) -> Account:
    name, role, hashed, changed, passkeys = row
    return Account(name=name, role=role, hashed=hashed, changed=changed, passkeys=tuple((passkeys or "").split()))


def _passkey(row: tuple[str, str, str, bytes, int, str, str]) -> Passkey:
    id, account, name, key, counter, made, used = row
    return Passkey(id=id, account=account, name=name, key=key, counter=counter, made=made, used=used)


def _action(row: tuple[int, str, str, str, str, int, str, str]) -> Action:
    number, at, who, what, about, done, text, digest = row
    return Action(number=number, at=at, who=who, what=what, about=about, done=bool(done), text=text, digest=digest)
