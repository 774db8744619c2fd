"""A member's state folder: what makes a run survive the end of its process (`roles.summed.journal`), in SQLite.

The folder is the owner's alone (0700) and is held by one process. In it is one file for each plan, by the first digits of what all
members hold alike. It holds broadcasts, or the aggregator's sums and trees, and no row of any party. When the run is over it is
removed.

Each commit outlives the process, killed or not: it has reached the operating system (WAL). That a commit also outlives a loss of power
costs a flush of the disk. Checkpoints are flushed as often as that takes `FLUSH_SHARE` of the time at most. What a loss of power takes
away beyond that is noticed as any folder that was put back is (`roles.summed.checkpoints`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import os
import secrets
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from hansa.data.columns import Columns
from hansa.data.holdout import keyed_digest
from hansa.errors import OutputError, StateError, own_fault
from hansa.files import make_folder
from hansa.protocol.messages import Claim, Mark
from hansa.roles.key_setup import Signer
from hansa.roles.run import Roster
from hansa.roles.summed.checkpoints import SignedCheckpoint, start_of_chain
from hansa.roles.summed.journal import Broadcast
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.snapshots import KeptTrees, Setup, Snapshot, encode
from hansa.trees.ensemble import Tree
from hansa.trees.xgboost_json import from_json

FORMAT = 2
FLUSH_SHARE = 0.005
"""Of the time that flushing checkpoints to the disk may take, at each member: while one flushes, the others wait."""

WAL_PAGES = 4000
"""Pages of 4 KiB after which SQLite moves its log into the file, which flushes both."""

TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS broadcasts (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, frame BLOB NOT NULL, chain BLOB NOT NULL,
    checkpoint INTEGER);
CREATE TABLE IF NOT EXISTS shown (number INTEGER PRIMARY KEY, words BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS refused (number INTEGER NOT NULL, frame BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS snapshots (checkpoint INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS trees (number INTEGER PRIMARY KEY, content BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS received (party TEXT PRIMARY KEY) WITHOUT ROWID;
"""

OTHER_KINDS = """
SELECT 1 FROM meta WHERE typeof(name) != 'text' OR typeof(value) != 'blob'
UNION ALL SELECT 1 FROM broadcasts WHERE typeof(kind) != 'text' OR typeof(frame) != 'blob' OR typeof(chain) != 'blob'
    OR typeof(checkpoint) NOT IN ('integer', 'null')
UNION ALL SELECT 1 FROM shown WHERE typeof(words) != 'blob'
UNION ALL SELECT 1 FROM snapshots WHERE typeof(content) != 'blob'
UNION ALL SELECT 1 FROM trees WHERE typeof(content) != 'blob'
UNION ALL SELECT 1 FROM received WHERE typeof(party) != 'text'
LIMIT 1
"""
"""Finds a value that is not of its column's kind: SQLite keeps any value in any column, and a damaged file may hold others."""

CONTENT = ("meta", "broadcasts", "shown", "refused", "snapshots", "trees", "received")

ANSWER = "INSERT INTO broadcasts VALUES (?, ?, ?, ?, ?)"
SHOW = "INSERT OR REPLACE INTO shown VALUES (?, ?)"

T = TypeVar("T", bound=msgspec.Struct)


class KeptOutcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`Outcome`, with the row counts that were shown last."""

    model: bytes
    history: dict[str, list[float | None]]
    trees_grown: int
    exchanges: int
    without_value: dict[str, str]
    counts: bytes


def fingerprint(rows: Columns, signer: Signer, agreement: bytes, *, ordered: bool = False) -> bytes:
    """32 bytes that tell a party's rows, in any order or in theirs. Without this member's identity nobody can try out rows."""
    return keyed_digest(fingerprint_key(signer, agreement), rows, ordered=ordered)


def fingerprint_key(signer: Signer, agreement: bytes) -> bytes:
    """What `fingerprint` hashes under, 32 bytes."""
    return hashlib.sha256(signer.sign("hansa state rows v1", agreement)).digest()


class State:
    """What all members' states have in common. Use as a context; then the folder is held.

    Args:
        folder: made where it is not there. agreement: what all members hold alike (`roles.run.agreement`).
        member: whose it is.

    Raises:
        StateError: the folder is open to others, held by another process, another member's, or damaged.
        OutputError: it cannot be made or written.
    """

    def __init__(self, folder: Path, agreement: bytes, member: str) -> None:
        self.path = folder / f"{agreement.hex()[:16]}.sqlite"
        self._folder = folder
        self._agreement = agreement
        self._member = member
        self._flushed_at, self._flush_s = 0.0, 0.0
        with own_fault(member):
            make_folder(folder)
            self._held = self._hold()
            try:
                self._database = self._open()
            except BaseException:
                os.close(self._held)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the folder; what was kept stays. Safe to call twice."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def remove(self) -> None:
        """The run is over for this member: nothing of it stays."""
        with contextlib.suppress(sqlite3.Error):
            self._database.close()
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(self.path.name + suffix).unlink()
        with contextlib.suppress(OSError):
            self._folder.rmdir()  # states of other plans keep it
        self.close()

    def _hold(self) -> int:
        try:
            held = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"{self._folder}: cannot be opened as a folder ({error.strerror})") from error
        try:
            if stat.S_IMODE(os.fstat(held).st_mode) & 0o077:
                raise StateError(
                    f"{self._folder}: others can read this state folder; run: chmod 700 {self._folder}",
                    cure=f"chmod 700 {self._folder}",
                )
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(held)
            raise StateError(
                f"{self._folder}: another process uses this state folder; stop it, or name another folder as state"
            ) from error
        except StateError:
            os.close(held)
            raise
        return held

    def _open(self) -> sqlite3.Connection:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if stat.S_IMODE(self.path.stat().st_mode) & 0o077:
                raise StateError(f"{self.path}: others can read this file; run: chmod 600 {self.path}")
            database = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._failed(error) from error
        try:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(f"PRAGMA wal_autocheckpoint = {WAL_PAGES}")
            database.executescript(TABLES)
            self._database = database
            if database.execute(OTHER_KINDS).fetchone() is not None:
                raise StateError(
                    f"{self.path}: is damaged (a value is of another kind than its column); restore it, or have every member remove "
                    "its own and begin anew"
                )
            self._check_owner()
        except (
            sqlite3.DatabaseError,
            UnicodeDecodeError,
        ) as error:  # of a damaged file also SQLite's own sentence about it
            database.close()
            raise self._failed(error) from error
        except BaseException:
            database.close()
            raise
        return database

    def _check_owner(self) -> None:
        own = {"format": bytes([FORMAT]), "member": self._member.encode(), "agreement": self._agreement}
        for name, value in own.items():
            kept = self._get(name)
            if kept is None:
                self._put(name, value)
            elif kept != value:
                raise StateError(
                    f"{self.path}: is not a state of member {self._member!r} in this plan, by this release (its {name} differs); move "
                    "it away, or name another folder as state"
                )

    def _failed(self, error: Exception) -> OutputError | StateError:
        """The error for what the database or the system says."""
        text = str(error)
        damaged = isinstance(error, sqlite3.DatabaseError) and ("malformed" in text or "not a database" in text)
        if damaged or isinstance(error, UnicodeDecodeError):
            return StateError(
                f"{self.path}: is damaged ({text}); restore it, or have every member remove its own and begin anew"
            )
        return OutputError(
            f"{self.path}: the state of the run cannot be kept ({text}), so nothing more is answered; free space or mend the disk, "
            "then start again with the same command",
            retry=True,
            cure="free space or mend the disk, then start again with the same command",
        )

    # --- values ----------------------------------------------------------------------------------------------------------

    def _run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise self._failed(error) from error

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """What happens inside is kept as one, or not at all."""
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _flushing(self, *, always: bool = False) -> Iterator[None]:
        """As `_together`, and flushed to the disk: always, or where that does not cost too much."""
        now = time.monotonic()
        flush = always or (now - self._flushed_at) * FLUSH_SHARE >= self._flush_s
        if flush:
            self._run("PRAGMA synchronous = FULL")
        try:
            with self._together():
                yield
        finally:
            if flush:
                self._run("PRAGMA synchronous = NORMAL")
                self._flushed_at = time.monotonic()
                self._flush_s = self._flushed_at - now

    def _get(self, name: str) -> bytes | None:
        row = self._run("SELECT value FROM meta WHERE name = ?", name).fetchone()
        return None if row is None else bytes(row[0])

    def _put(self, name: str, value: bytes) -> None:
        self._run("INSERT OR REPLACE INTO meta VALUES (?, ?)", name, value)

    def _struct(self, name: str, kind: type[T]) -> T | None:
        content = self._get(name)
        return None if content is None else _decoded(content, kind)

    def _next_checkpoint(self) -> int:
        (last,) = self._run(
            "SELECT checkpoint FROM broadcasts WHERE checkpoint IS NOT NULL ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0,)
        return 1 + int(last)

    def _clear(self) -> None:
        for table in CONTENT:
            self._run(f"DELETE FROM {table}")
        self._check_owner()

    @property
    def epoch(self) -> int:
        """The last one that this member took part in."""
        return int.from_bytes(self._get("epoch") or b"", "little")

    @property
    def signed(self) -> SignedCheckpoint | None:
        """See `Journal`."""
        return self._struct("signed", SignedCheckpoint)

    @property
    def remaining(self) -> tuple[str, ...]:
        """See `Journal`."""
        return tuple((self._get("remaining") or b"").decode().split())

    @property
    def nonce(self) -> bytes:
        """What a member with rows, or of a coopetitive run, joins with, in every epoch."""
        return self._get("nonce") or b""

    def _hold_to(self, rows: bytes, how: str) -> None:
        """Keep the fingerprint of the rows that a run begins with, and a nonce; later refuse others. `how`: how they may differ."""
        try:
            kept = self._get("rows")
            if kept is None:
                with self._flushing():
                    self._put("nonce", secrets.token_bytes(32))
                    self._put("rows", rows)
            elif not hmac.compare_digest(kept, rows):
                raise StateError(
                    f"{self.path}: the rows of {self._member!r} are not those that the run began with{how}; give the same table, or "
                    "have every member remove its state folder and begin a new run",
                    cure="give the same table",
                )
        except BaseException:
            self.close()
            raise

    def take_epoch(self, epoch: int) -> None:
        """See `Journal`."""
        self._put("epoch", epoch.to_bytes(8, "little"))

    def begin_epoch(self, signed: SignedCheckpoint) -> None:
        """See `Journal`."""
        self._put("signed", encode(signed))


class PartyState(State):
    """A party's; see `PartyJournal`.

    Args:
        rows: `fingerprint` of the party's rows, which must be those that the run began with.
    """

    def __init__(self, folder: Path, agreement: bytes, member: str, rows: bytes) -> None:
        super().__init__(folder, agreement, member)
        self._hold_to(rows, "")

    @property
    def welcome(self) -> bytes:
        """See `PartyJournal`."""
        return self._get("welcome") or b""

    @property
    def claim(self) -> Claim | None:
        """See `Journal`."""
        run = self._get("run")
        if run is None:
            return None
        heads = self._run(
            "SELECT checkpoint, number, chain FROM broadcasts WHERE checkpoint IS NOT NULL ORDER BY number DESC LIMIT 2"
        ).fetchall()
        last = self._run("SELECT number, chain FROM broadcasts ORDER BY number DESC LIMIT 1").fetchone()
        start = start_of_chain(run)
        marks = [start, *(Mark(number, chain) for _, number, chain in reversed(heads))]
        return Claim(
            run,
            self.epoch,
            heads[0][0] if heads else 0,
            marks[-2] if heads else None,
            marks[-1],
            start if last is None else Mark(*last),
        )

    def begin(self, run: bytes, welcome: bytes) -> None:
        """See `PartyJournal`."""
        with self._together():
            self._put("run", run)
            self._put("welcome", welcome)

    def broadcast(self, number: int) -> tuple[str, bytes] | None:
        """See `PartyJournal`."""
        row = self._run("SELECT kind, frame FROM broadcasts WHERE number = ?", number).fetchone()
        return None if row is None else (row[0], row[1])

    def broadcasts(self, last: int) -> Iterator[tuple[bytes, bytes | None]]:
        """See `PartyJournal`."""
        yield from self._run(
            "SELECT frame, words FROM broadcasts LEFT JOIN shown USING (number) WHERE number <= ? ORDER BY number", last
        )

    def answer(self, mark: Mark, broadcast: Broadcast | None, shown: tuple[int, bytes] | None) -> None:
        """See `PartyJournal`."""
        if broadcast is None:
            if shown is not None:
                self._run(SHOW, *shown)
            return
        row = [mark.number, broadcast.kind, broadcast.frame, mark.chain, None]
        if shown is None and not broadcast.checkpoint:  # of every level: one statement is a commit of its own
            self._run(ANSWER, *row)
            return
        with self._flushing() if broadcast.checkpoint else self._together():
            if broadcast.checkpoint:
                row[-1] = self._next_checkpoint()
            if shown is not None:
                self._run(SHOW, *shown)
            self._run(ANSWER, *row)

    def leave_out(self, remaining: tuple[str, ...], number: int) -> None:
        """See `PartyJournal`."""
        with self._flushing(always=True):
            self._put("remaining", "\n".join(remaining).encode())
            self._run("DELETE FROM broadcasts WHERE number > ?", number)
            self._run("DELETE FROM shown WHERE number > ?", number)

    def refuse(self, number: int, frame: bytes) -> None:
        """See `PartyJournal`."""
        self._run("INSERT INTO refused VALUES (?, ?)", number, frame)

    def finish(self, model: bytes | None) -> None:
        """See `PartyJournal`."""
        with self._flushing():
            self._put("over", b"1")
            if model is not None:
                self._put("model", model)

    @property
    def over(self) -> bool:
        """Whether the run is over, and only the model is still to be put where it belongs."""
        return self._get("over") is not None

    @property
    def model(self) -> bytes | None:
        """The model of a run that is over, at a receiver."""
        return self._get("model")


class AggregatorState(State):
    """An aggregator's; see `AggregatorJournal`."""

    @property
    def claim(self) -> Claim | None:
        """See `Journal`."""
        run = self._get("run")
        if run is None:
            return None
        heads = self._run(
            "SELECT checkpoint, number, chain FROM broadcasts WHERE checkpoint IS NOT NULL ORDER BY number DESC LIMIT 2"
        ).fetchall()
        marks = [start_of_chain(run), *(Mark(number, chain) for _, number, chain in reversed(heads))]
        checkpoint = heads[0][0] if heads else 0
        return Claim(run, self.epoch, checkpoint, marks[-2] if heads else None, marks[-1], marks[-1])

    @property
    def roster(self) -> Roster:
        """See `AggregatorJournal`."""
        return _roster(self._get("roster") or b"")

    @property
    def setup(self) -> Setup:
        """See `AggregatorJournal`."""
        kept = self._struct("setup", Setup)
        if kept is None:
            raise StateError(f"{self.path}: lacks the set-up of the run; restore it")
        return kept

    def begin(self, run: bytes, roster: Roster) -> None:
        """See `AggregatorJournal`."""
        with self._together():
            self._clear()
            self._put("run", run)
            self._put("roster", msgspec.msgpack.encode(roster))

    def checkpoint(
        self, mark: Mark, broadcast: Broadcast, snapshot: Snapshot, setup: Setup | None, trees: Sequence[Tree]
    ) -> None:
        """See `AggregatorJournal`."""
        checkpoint = self._next_checkpoint()
        with self._flushing():
            row = (mark.number, broadcast.kind, broadcast.frame, mark.chain, checkpoint)
            self._run(ANSWER, *row)
            self._run("DELETE FROM broadcasts WHERE checkpoint < ?", checkpoint - 2)
            self._run("INSERT INTO snapshots VALUES (?, ?)", checkpoint, encode(snapshot))
            self._run("DELETE FROM snapshots WHERE checkpoint < ?", checkpoint - 2)
            if setup is not None:
                self._put("setup", encode(setup))
            if trees:
                self._run("INSERT INTO trees VALUES (?, ?)", checkpoint - 1, encode(KeptTrees.of(trees)))

    def keep_remaining(self, remaining: tuple[str, ...]) -> None:
        """See `AggregatorJournal`."""
        with self._flushing(always=True):
            self._put("remaining", "\n".join(remaining).encode())

    def forget_after(self, checkpoint: int) -> None:
        """See `AggregatorJournal`."""
        with self._together():
            self._run("DELETE FROM broadcasts WHERE checkpoint > ?", checkpoint)
            self._run("DELETE FROM snapshots WHERE checkpoint > ?", checkpoint)
            self._run("DELETE FROM trees WHERE number > ?", checkpoint - 1)

    def kept(self, checkpoint: int) -> tuple[Snapshot, list[Tree], tuple[str, bytes]]:
        """See `AggregatorJournal`."""
        last = self._run("SELECT kind, frame FROM broadcasts WHERE checkpoint = ?", checkpoint).fetchone()
        row = self._run("SELECT content FROM snapshots WHERE checkpoint = ?", checkpoint).fetchone()
        kept = [
            _decoded(content, KeptTrees).trees
            for (content,) in self._run("SELECT content FROM trees ORDER BY number").fetchall()
        ]
        if last is None or row is None or len(kept) != checkpoint - 1:
            raise StateError(
                f"{self.path}: lacks parts of checkpoint {checkpoint}; restore it, or have every member begin anew"
            )
        trees = [tree.tree() for own in kept for tree in own]
        return _decoded(row[0], Snapshot), trees, (last[0], last[1])

    def finish(self, outcome: Outcome, counts: bytes) -> None:
        """See `AggregatorJournal`."""
        kept = KeptOutcome(
            outcome.model,
            outcome.history,
            outcome.trees_grown,
            outcome.exchanges,
            outcome.without_value,
            counts,
        )
        with self._flushing():
            self._put("outcome", encode(kept))

    def received(self, party: str) -> None:
        """See `AggregatorJournal`."""
        self._run("INSERT OR IGNORE INTO received VALUES (?)", party)

    @property
    def outcome(self) -> tuple[Outcome, bytes, set[str]] | None:
        """See `AggregatorJournal`."""
        kept = self._struct("outcome", KeptOutcome)
        if kept is None:
            return None
        received = {party for (party,) in self._run("SELECT party FROM received")}
        outcome = Outcome(
            from_json(kept.model),
            kept.model,
            kept.history,
            kept.trees_grown,
            kept.exchanges,
            self.roster,
            kept.without_value,
        )
        return outcome, kept.counts, received


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.msgpack.decode(content, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:  # ValueError: not UTF-8
        raise StateError(f"a state folder holds what is no {kind.__name__}: {error}; restore it") from error


def _roster(content: bytes) -> Roster:
    try:
        return msgspec.msgpack.decode(content, type=Roster)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise StateError(f"a state folder holds what is no roster: {error}; restore it") from error
