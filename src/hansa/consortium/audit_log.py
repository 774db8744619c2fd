"""A member's audit log: a file that only grows, its Merkle tree (`pymerkle`), and checkpoints of it that members show each other.

The file holds lines (`audit_entries`) and is the owner's alone (0600). What is written at once ends in a signed head. It is flushed to
the disk before a checkpoint leaves, and only then: what nobody saw may be lost with the power, and then the log is what it was before.

A *checkpoint* is a log's name, size and root, signed for one session: the exchange among members of one run (`roles.auditing`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from pymerkle import ConsistencyProof, InmemoryTree, InvalidProof, verify_consistency

from hansa.consortium.audit_entries import (
    CheckpointJson,
    CheckpointsSeen,
    Entry,
    Head,
    IdentityReplaced,
    Line,
    LogBegun,
    Phase,
    read_line,
    written_line,
)
from hansa.consortium.identity import Identity, verify
from hansa.errors import IdentityError, OutputError, StateError, in_words
from hansa.files import failed, read_whole

HEAD_PURPOSE = "hansa log head v1"
SHOWN_PURPOSE = "hansa log shown v1"
PROVED_PURPOSE = "hansa log proved v1"
COUNTERSIGN_PURPOSE = "hansa logs countersigned v1"

MOST_LOG_BYTES = 2**30

E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True)
class Checkpoint:
    """A place in a log. log: its name, 32 bytes. size: entries. root: over them, 32 bytes."""

    def shown(self, signature: bytes) -> CheckpointJson:
        """As an entry has it, with its member's signature."""
        return CheckpointJson(self.log.hex(), self.size, self.root.hex(), signature.hex())

    log: bytes
    size: int
    root: bytes


@dataclass(frozen=True)
class Extension:
    """A consistency proof (RFC 9162, section 2.1.4): the log of `prior` entries is the beginning of one of `size`.

    rule, subset: how the hashes of `path` are combined, as `pymerkle` gives them; they follow from the sizes, and are checked.
    """

    prior: int
    size: int
    rule: tuple[int, ...]
    subset: tuple[int, ...]
    path: tuple[bytes, ...]

    def holds(self, before: Checkpoint, after: Checkpoint) -> bool:
        """Whether the proof shows that `after` extends `before`."""
        if any(len(each) != hashlib.sha256().digest_size for each in self.path):
            return False
        proof = ConsistencyProof(
            "sha256", True, self.size, self.prior, list(self.rule), list(self.subset), list(self.path)
        )
        try:
            verify_consistency(
                before.root, after.root, proof, prior_size=before.size, later_size=after.size, algorithm="sha256"
            )
        except (InvalidProof, ValueError):
            return False
        return True


def now() -> str:
    """The time as entries have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def signed_checkpoint(session: bytes, phase: Phase, member: str, checkpoint: Checkpoint) -> bytes:
    """What a member signs to show a checkpoint in a session."""
    return msgspec.json.encode(
        [session.hex(), phase, member, checkpoint.log.hex(), checkpoint.size, checkpoint.root.hex()]
    )


def signed_proofs(session: bytes, phase: Phase, member: str, proofs: Iterable[msgspec.Struct]) -> bytes:
    """What a member signs of the proofs that it shows beside a checkpoint."""
    return msgspec.json.encode([session.hex(), phase, member, list(proofs)])


def shown_digest(session: bytes, phase: Phase, shown: Mapping[str, CheckpointJson]) -> bytes:
    """What members countersign: the hash of all checkpoints that were shown."""
    content = msgspec.json.encode([session.hex(), phase, sorted(shown.items())])
    return hashlib.sha256(b"hansa logs shown\x00" + content).digest()


def head_bytes(log: bytes, size: int, root: bytes) -> bytes:
    """What a member signs at the end of a writing."""
    return msgspec.json.encode([log.hex(), size, root.hex()])


def new_tree() -> InmemoryTree:
    """A tree without entries; its leaves are `written_line`s."""
    return InmemoryTree(algorithm="sha256")


class AuditLog:
    """A member's own log, open for appending. Several processes of one member may have it open.

    Args:
        path: of the file; begun where it is not there. identity: the member's, which signs. had: whether this was a key of the member
            until it took another one (`Members.had`): its log goes on under the new one.

    Attributes:
        path: as given. name: of the log, 32 bytes.

    Raises:
        StateError: the file is damaged, another member's, or others can read it. OutputError: it cannot be written.
    """

    def __init__(self, path: Path, identity: Identity, had: Callable[[bytes], bool] = lambda _: False) -> None:
        self.path = path
        self._identity = identity
        self._had = had
        self._tree = new_tree()
        self._entries: list[Entry] = []
        self._key = b""
        self._end = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed(path, error) from error
        try:
            if stat.S_IMODE(os.fstat(self._file).st_mode) & 0o077:
                raise StateError(f"{path}: others can read this log; run: chmod 600 {path}", cure=f"chmod 600 {path}")
            with self._held():
                if not self._entries:
                    begun = LogBegun(
                        at=now(), member=identity.name, identity=identity.public.hex(), nonce=secrets.token_hex(32)
                    )
                    self._write([begun])
                else:
                    self._write(())
            self.name: bytes = self._tree.get_root(1)
        except BaseException:
            os.close(self._file)
            raise

    @property
    def checkpoint(self) -> Checkpoint:
        """Where the log stands."""
        size = self._tree.get_size()
        return Checkpoint(self.name, size, self._tree.get_root(size))

    def entries(self, kind: type[E]) -> Iterator[E]:
        """The entries of one kind, the first one first."""
        yield from (entry for entry in self._entries if isinstance(entry, kind))

    def append(self, *entries: Entry) -> None:
        """Write entries and a signed head over all. Raises OutputError, StateError."""
        with self._held():
            self._write(entries)

    def flush(self) -> Checkpoint:
        """Have all that was written reach the disk: from now on others may be shown the checkpoint that is returned."""
        with self._held():
            try:
                os.fsync(self._file)
            except OSError as error:
                raise failed(self.path, error) from error
        return self.checkpoint

    def extension(self, prior: int, size: int) -> Extension:
        """The proof that the first `prior` entries are the beginning of the first `size`; both are at least 1, prior at most size."""
        proof = self._tree.prove_consistency(prior, size)
        return Extension(prior, size, tuple(proof.rule), tuple(proof.subset), tuple(proof.path))

    def held(self) -> dict[str, CheckpointJson]:
        """The newest checkpoint that this member has of each other member's log."""
        found: dict[str, CheckpointJson] = {}
        for entry in self.entries(CheckpointsSeen):
            for member, shown in entry.shown.items():
                before = found.get(member)
                if member != self._identity.name and (
                    before is None or before.log != shown.log or before.size < shown.size
                ):
                    found[member] = shown
        return found

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """The file is this process's, and what others of this member wrote meanwhile is taken in."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                self._catch_up()
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise failed(self.path, error) from error

    def _write(self, entries: Iterable[Entry]) -> None:
        """Write entries and a signed head; nothing where there is nothing to write.

        First of all that this member's key is another one than the last, where it is: a run that began before its member took another
        key goes on beside those that began since.
        """
        lines: list[bytes] = []
        if self._entries and self._key != self._identity.public:
            entries = (IdentityReplaced(at=now(), identity=self._identity.public.hex()), *entries)
        for entry in entries:
            line = written_line(entry)
            self._add(entry, line)
            lines.append(line)
        if not lines:
            return
        size = self._tree.get_size()
        root = self._tree.get_root(size)
        signature = self._identity.sign(HEAD_PURPOSE, head_bytes(self._tree.get_root(1), size, root))
        lines.append(written_line(Head(size=size, root=root.hex(), signature=signature.hex())))
        content = b"".join(line + b"\n" for line in lines)
        written = 0
        while written < len(content):
            written += os.write(self._file, content[written:])
        self._end += len(content)

    def _catch_up(self) -> None:
        """Take in what stands behind what is known. What has no signed head behind it was cut off while it was written: it goes."""
        size = os.fstat(self._file).st_size
        if size == self._end:
            return
        if size < self._end or size > MOST_LOG_BYTES:
            raise StateError(f"{self.path}: the log became shorter, or is no log; restore it from a copy")
        content = os.pread(self._file, size - self._end, self._end)
        whole = 0
        pending: list[tuple[Entry, bytes]] = []
        last: tuple[int, Head] | None = None
        for number, raw, end in _lines(content):
            if end > len(content):
                break  # a line without its end, as a loss of power may leave it
            try:
                line = read_line(raw)
            except ValueError as error:
                raise damaged(self.path, number, str(error)) from error
            if isinstance(line, Head):
                self._take(pending)
                pending, whole, last = [], end, (number, line)
            else:
                pending.append((line, raw))
        self._end += whole
        if whole < len(content):
            os.ftruncate(self._file, self._end)
        if last is not None:
            self._check(*last)

    def _take(self, pending: list[tuple[Entry, bytes]]) -> None:
        for entry, raw in pending:
            self._add(entry, raw)

    def _add(self, entry: Entry, line: bytes) -> None:
        self._tree.append_entry(line)
        self._entries.append(entry)
        if isinstance(entry, LogBegun | IdentityReplaced):
            self._key = bytes.fromhex(entry.identity)

    def _check(self, number: int, head: Head) -> None:
        """The last head is over all before it, so earlier ones need no look here; `audit_checks.check_log` looks at all."""
        first = self._entries[0] if self._entries else None
        name, public = self._identity.name, self._identity.public
        shown = any(self.entries(CheckpointsSeen))
        if isinstance(first, LogBegun) and first.member == name and first.identity != public.hex() and not shown:
            # Of an identity with which no run ever began: nobody holds anything of this log.
            os.ftruncate(self._file, 0)
            self._tree, self._entries, self._key, self._end = new_tree(), [], b"", 0
            return
        key = self._key
        if not isinstance(first, LogBegun) or first.member != name or not (key == public or self._had(key)):
            raise StateError(
                f"{self.path}: is not the log of member {name!r} under this identity, or one that it had before by the members file; "
                "name another file as audit, or move it away to begin a new log, which the other members must then allow "
                "(policy.new_logs)",
                cure="name another file as audit",
            )
        check_head(head, self._tree, key, self.path, number)


def check_head(head: Head, tree: InmemoryTree, identity: bytes, path: Path, number: int) -> None:
    """Raise StateError where a head is not over the entries before it, or not signed by the log's member."""
    size = tree.get_size()
    if (head.size, head.root) != (size, tree.get_root(size).hex()):
        raise damaged(path, number, f"the signed head is over other entries than the {size} before it")
    try:
        verify(
            identity,
            HEAD_PURPOSE,
            head_bytes(tree.get_root(1), size, tree.get_root(size)),
            bytes.fromhex(head.signature),
        )
    except IdentityError as error:
        raise damaged(path, number, "the head's signature is not that of the log's member") from error


def _lines(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Number of each line from 1, its bytes, and where the next one begins."""
    start = 0
    number = 0
    while start < len(content):
        number += 1
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield number, content[start:end], end + 1
        start = end + 1


def damaged(path: Path, number: int, why: str, place: str = "line") -> StateError:
    """The error for a log that does not hold. number: of the line, or of what `place` says."""
    return StateError(
        f"{path}, {place} {number}: the log was altered or is damaged: {why}; restore it from a copy",
        rule="a log only grows",
        cure="restore the log from a copy",
    )


def read_log(path: Path) -> bytes:
    """The bytes of a log. Raises OutputError."""
    try:
        return read_whole(path, MOST_LOG_BYTES)
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: cannot be read ({in_words(error)}); name a member's log") from error


def lines_of(content: bytes, path: Path, before: int = 0) -> Iterator[tuple[int, Line, bytes]]:
    """Number, line and bytes of each line of a log behind its first `before`. Raises StateError, also where it ends inside a line."""
    if not content.endswith(b"\n"):
        raise damaged(path, before + content.count(b"\n") + 1, "it is cut off inside a line")
    for place, raw, _ in _lines(content):
        number = before + place
        try:
            yield number, read_line(raw), raw
        except ValueError as error:
            raise damaged(path, number, str(error)) from error
