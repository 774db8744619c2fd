"""The state folder of a member of a coopetitive run (`roles.shared.journal`), in SQLite as those of the other modes (`node.state`).

What a server keeps are its shares: of margins at its last two checkpoints, and of finished trees. Each record is sealed
(`secure.at_rest`) under a key that lies beside the database, in a file of its own (0600), and is zeroed before it is removed. The
others keep digests and the number of the epoch, and a receiver the model once it has it.

Parts of trees belong to the epoch that made them new. So a checkpoint has the parts of its own epoch: the first one that is written in
an epoch has the trees of all rounds, and those of the epoch before stay as long as the checkpoint before it does.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import struct
from pathlib import Path

import msgspec

from hansa.errors import StateError
from hansa.files import read_whole
from hansa.node.state import State
from hansa.protocol.messages import Claim, Mark
from hansa.roles.run import Roster
from hansa.roles.shared.checkpoints import JOINED, STARTED, start_of_chain
from hansa.secure.at_rest import StateSealer
from hansa.secure.prg import KEY_BYTES, fresh_key

TABLES = """
CREATE TABLE IF NOT EXISTS marks (checkpoint INTEGER PRIMARY KEY, chain BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS asked (step INTEGER PRIMARY KEY, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS margins (checkpoint INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, sealed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS rounds (number INTEGER, epoch INTEGER, sealed BLOB NOT NULL, PRIMARY KEY (number, epoch)) WITHOUT ROWID;
"""


class SharedState(State):
    """See `SharedJournal`.

    Args:
        folder, agreement, member: as for `State`.
        rows: `fingerprint` of the member's rows in their order, which must be those that the run began with; b"" of none.
    """

    def __init__(self, folder: Path, agreement: bytes, member: str, rows: bytes) -> None:
        super().__init__(folder, agreement, member)
        self._key_path = self.path.with_suffix(".key")
        self._sealer: StateSealer | None = None
        try:
            self._script(TABLES)
        except BaseException:
            self.close()
            raise
        self._hold_to(rows, ", in their order")

    def close(self) -> None:
        """See `State`."""
        if self._sealer is not None:
            self._sealer.erase()
            self._sealer = None
        super().close()

    def remove(self) -> None:
        """See `State`. The key goes first: what is left of records on the disk cannot be opened."""
        with contextlib.suppress(OSError):
            if self._key_path.exists():
                with self._key_path.open("r+b") as key:
                    key.write(bytes(KEY_BYTES))
                    key.flush()
                    os.fsync(key.fileno())
                self._key_path.unlink()
            self._key_path.with_suffix(".new").unlink(missing_ok=True)
        super().remove()

    def _script(self, statements: str) -> None:
        try:
            self._database.executescript(statements)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    # --- of every member -------------------------------------------------------------------------------------------------

    @property
    def roster(self) -> Roster:
        """See `SharedJournal`."""
        content = self._get("roster")
        if content is None:
            return ()
        try:
            return msgspec.msgpack.decode(content, type=Roster)
        except msgspec.DecodeError as error:
            raise StateError(f"{self.path}: holds what is no roster: {error}; restore it") from error

    @property
    def claim(self) -> Claim | None:
        """See `SharedJournal`."""
        run = self._get("run")
        if run is None:
            return None
        kept = self._run("SELECT checkpoint, chain FROM marks ORDER BY checkpoint DESC LIMIT 2").fetchall()
        marks = [start_of_chain(run), *(Mark(number, bytes(chain)) for number, chain in reversed(kept))]
        head = marks[-1]
        before = None if head.number == JOINED else marks[-2]
        settled = int.from_bytes(self._get("settled") or b"", "little")
        now = head if settled >= head.number else before or head
        return Claim(run, self.epoch, head.number, before, head, now)

    def begin(self, run: bytes, roster: Roster) -> None:
        """See `SharedJournal`."""
        with self._together():
            self._put("run", run)
            self._put("roster", msgspec.msgpack.encode(roster))

    def asked(self, step: int) -> bytes | None:
        """See `SharedJournal`."""
        row = self._run("SELECT digest FROM asked WHERE step = ?", step).fetchone()
        return None if row is None else bytes(row[0])

    def answer(self, step: int, digest: bytes) -> None:
        """See `SharedJournal`."""
        with self._flushing(always=True):
            self._run("INSERT INTO asked VALUES (?, ?)", step, digest)

    def start(self, mark: Mark, setup: bytes, now: float = 0.0) -> None:
        """See `SharedJournal`."""
        with self._flushing():
            self._run("INSERT OR REPLACE INTO marks VALUES (?, ?)", mark.number, mark.chain)
            if setup:
                self._put("setup", setup)
                self._put("began", struct.pack("<d", now))

    def finish(self, model: bytes) -> None:
        """See `SharedJournal`."""
        with self._flushing():
            self._put("model", model)

    @property
    def model(self) -> bytes | None:
        """See `SharedJournal`."""
        return self._get("model")

    def withhold(self) -> None:
        """See `SharedJournal`."""
        with self._flushing():
            self._put("withheld", b"1")

    @property
    def withheld(self) -> bool:
        """See `SharedJournal`."""
        return self._get("withheld") is not None

    # --- of a server -----------------------------------------------------------------------------------------------------

    @property
    def setup(self) -> bytes:
        """See `SharedJournal`."""
        return self._get("setup") or b""

    @property
    def began(self) -> float:
        """See `SharedJournal`."""
        content = self._get("began")
        return float(struct.unpack("<d", content)[0]) if content else 0.0

    def keep(self, epoch: int, mark: Mark, content: bytes, grown: dict[int, bytes]) -> None:
        """See `SharedJournal`."""
        sealer, checkpoint = self._sealing(), mark.number
        sealed = sealer.seal(epoch, checkpoint, "margins", content)
        trees = [(n, epoch, sealer.seal(epoch, n, "trees", own)) for n, own in grown.items()]
        with self._flushing(always=True):
            self._run("INSERT OR REPLACE INTO marks VALUES (?, ?)", checkpoint, mark.chain)
            self._run("INSERT OR REPLACE INTO margins VALUES (?, ?, ?)", checkpoint, epoch, sealed)
            for row in trees:
                self._run("INSERT OR REPLACE INTO rounds VALUES (?, ?, ?)", *row)
            last_two = "(SELECT checkpoint FROM marks ORDER BY checkpoint DESC LIMIT 2)"
            self._run(f"DELETE FROM margins WHERE checkpoint NOT IN {last_two}")
            self._run("DELETE FROM rounds WHERE epoch NOT IN (SELECT epoch FROM margins)")
            self._run(f"DELETE FROM marks WHERE checkpoint > ? AND checkpoint NOT IN {last_two}", STARTED)

    def settle(self, mark: Mark) -> None:
        """See `SharedJournal`."""
        with self._flushing(always=True):  # what is opened next is never opened of other shares of this round
            self._put("settled", mark.number.to_bytes(8, "little"))

    def kept(self, checkpoint: int) -> tuple[bytes, list[bytes]]:
        """See `SharedJournal`."""
        row = self._run("SELECT epoch, sealed FROM margins WHERE checkpoint = ?", checkpoint).fetchone()
        if row is None:
            raise StateError(f"{self.path}: lacks checkpoint {checkpoint}; restore it, or have every member begin anew")
        epoch, sealer = row[0], self._sealing()
        content = sealer.open(epoch, checkpoint, "margins", bytes(row[1]))
        rounds = self._run(
            "SELECT number, sealed FROM rounds WHERE epoch = ? AND number < ? ORDER BY number",
            epoch,
            checkpoint - STARTED,
        ).fetchall()
        if [number for number, _ in rounds] != list(range(len(rounds))):
            raise StateError(f"{self.path}: lacks trees of checkpoint {checkpoint}; restore it, or begin anew")
        return content, [sealer.open(epoch, number, "trees", bytes(sealed)) for number, sealed in rounds]

    def forget_after(self, checkpoint: int) -> None:
        """See `SharedJournal`."""
        with self._together():
            self._run("DELETE FROM marks WHERE checkpoint > ?", checkpoint)
            self._run("DELETE FROM margins WHERE checkpoint > ?", checkpoint)

    def _sealing(self) -> StateSealer:
        """The key of the folder, made when something secret is kept for the first time."""
        if self._sealer is None:
            key = self._key()
            self._sealer = StateSealer(key, self._agreement, self._get("run") or b"", self._member)
            key[:] = bytes(len(key))
        return self._sealer

    def _key(self) -> bytearray:
        try:
            if not self._key_path.exists():
                # Under another name first: a key that a full disk cut off would be one for good.
                new = self._key_path.with_suffix(".new")
                made = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
                with os.fdopen(made, "wb") as file:
                    file.write(fresh_key())
                    file.flush()
                    os.fsync(file.fileno())
                new.replace(self._key_path)
            if stat.S_IMODE(self._key_path.stat().st_mode) & 0o077:
                raise StateError(f"{self._key_path}: others can read this key; run: chmod 600 {self._key_path}")
            return bytearray(read_whole(self._key_path, KEY_BYTES))
        except ValueError as error:
            raise StateError(f"{self._key_path}: is no key of a state folder: {error}; restore it") from error
        except OSError as error:
            raise self._failed(error) from error
