"""Audit logs held to themselves, to a members file and to each other, offline.

`check_log` recomputes a log's tree from its bytes: a byte that was altered, removed, inserted or moved makes a line unreadable, a head
that is over other entries, or a signature that does not verify. What it cannot see is a log that its own member wrote anew from some
place on, or cut off at a head: for that there are the checkpoints that others hold. `compare_logs` has two members' logs and a run, and
finds that, and whatever else the two tell differently of the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hansa.consortium.audit_entries import (
    CheckpointCountersigned,
    CheckpointJson,
    CheckpointRefused,
    CheckpointsSeen,
    Entry,
    Head,
    IdentityReplaced,
    LogBegun,
    LogReplaced,
    MessagesCounted,
    ModelReleased,
    RunBegun,
    RunOver,
    RunRefused,
)
from hansa.consortium.audit_log import (
    COUNTERSIGN_PURPOSE,
    SHOWN_PURPOSE,
    Checkpoint,
    check_head,
    damaged,
    lines_of,
    new_tree,
    read_log,
    shown_digest,
    signed_checkpoint,
)
from hansa.consortium.identity import fingerprint, verify
from hansa.consortium.members import Members
from hansa.errors import IdentityError, PlanError


@dataclass(frozen=True)
class CheckedLog:
    """A log that holds: made by `check_log` alone.

    Attributes:
        path, member, identity: whose. name: of the log. entries: in order. root_of: size -> root over so many entries.
    """

    path: Path
    member: str
    identity: bytes
    name: bytes
    entries: tuple[Entry, ...]
    root_of: Callable[[int], bytes]


class LogReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa audit verify --json` prints of a log.

    Attributes:
        member, identity, log: whose log, under which key (as people compare it), and its name in hex. entries, root: how many, and over
            them. pinned: whether the identity was held to a members file. runs: ids, in order.
        countersigned: member -> the largest size of this log that it countersigned; with a members file only.
        refusals: how often a run was refused or stopped.
    """

    member: str
    identity: str
    log: str
    entries: int
    root: str
    pinned: bool
    runs: tuple[str, ...]
    countersigned: dict[str, int]
    refusals: int

    def lines(self) -> list[str]:
        """For people."""
        known = (
            "as the members file has it" if self.pinned else "not held to a members file: compare it, or give --members"
        )
        signed = ", ".join(f"{name} ({size})" for name, size in sorted(self.countersigned.items()))
        return [
            f"log {self.log} of member {self.member}: {self.entries} entries, none altered",
            f"identity {self.identity}: {known}",
            f"root {self.root}",
            f"{len(self.runs)} runs, {self.refusals} refused or stopped",
            f"countersigned by (entries): {signed or 'nobody that is known'}",
        ]


class Disagreement(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What two logs tell differently. what: of which thing. first, second: what each says; empty where it says nothing."""

    what: str
    first: str
    second: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa audit compare --json` prints: two members, the run, how much was held to each other, and where they disagree."""

    first: str
    second: str
    run: str
    epochs: tuple[int, ...]
    compared: int
    disagreements: tuple[Disagreement, ...]

    def lines(self) -> list[str]:
        """For people."""
        found = [f"run {self.run}: {self.first} and {self.second}, {self.compared} facts compared"]
        found += [
            f"  {each.what}: {self.first} says {each.first or 'nothing'}; {self.second} says {each.second or 'nothing'}"
            for each in self.disagreements
        ]
        agreed = "they disagree: one of them does not tell the truth" if self.disagreements else "they agree"
        return [*found, agreed]


def check_log(path: Path, members: Members | None = None) -> CheckedLog:
    """Read a log and recompute all of it.

    Args:
        members: as this reader pinned them; None takes the identity that the log itself names, which says nothing of who it is.

    Raises:
        StateError: the log was altered: names the line. IdentityError: it is signed by another identity than the members file has, or
            shows a signature of another member that does not verify.
    """
    return checked(read_log(path), path, members)


def checked(content: bytes, path: Path, members: Members | None = None) -> CheckedLog:
    """`check_log` of a log's bytes; `path` is for errors."""
    check = LogCheck(path, members)
    check.take(content)
    return check.log()


class LogCheck:
    """A log that is checked part by part, as it grows: what is taken goes on from what was taken before.

    It says nothing of bytes that were taken and are changed since: whoever keeps one has to know that they were not.

    Args:
        path: for errors. members: as `check_log` takes them.
    """

    def __init__(self, path: Path, members: Members | None = None) -> None:
        self._path, self._members = path, members
        self._tree = new_tree()
        self._entries: list[Entry] = []
        self._first: LogBegun | None = None
        self._keys: list[bytes] = []
        self._lines = 0
        self._seen: dict[tuple[str, str], dict[str, CheckpointJson]] = {}

    def take(self, content: bytes) -> None:
        """Check the lines that follow those before, up to a signed head. Raises as `check_log`; nothing can be taken after that."""
        path, tree, last, start, before = self._path, self._tree, None, len(self._entries), self._lines
        for number, line, raw in lines_of(content, path, before):
            last, self._lines = line, number
            if isinstance(line, Head):
                if self._first is None:
                    raise damaged(path, number, "a head comes before every entry")
                check_head(line, tree, self._keys[-1], path, number)
                continue
            if (self._first is None) != isinstance(line, LogBegun):
                raise damaged(path, number, "a log begins with its member, and says so once")
            if isinstance(line, LogBegun):
                self._first = line
            if isinstance(line, LogBegun | IdentityReplaced):
                self._keys.append(bytes.fromhex(line.identity))
            tree.append_entry(raw)
            self._entries.append(line)
        first, members, keys = self._first, self._members, self._keys
        if first is None or not isinstance(last, Head):
            raise damaged(path, before + content.count(b"\n"), "it does not end in a signed head")
        known = members is None or (first.member in members and all(members.had(first.member, key) for key in keys))
        if not known:
            raise IdentityError(
                f"{path}: says to be the log of {first.member!r}, under another identity than the members file has; "
                "compare fingerprints",
                member=first.member,
            )
        self._check_shown(self.log(), start)

    def log(self) -> CheckedLog:
        """What was taken so far. Raises StateError where that is nothing."""
        if self._first is None:
            raise damaged(self._path, 0, "it does not end in a signed head")
        tree = self._tree
        return CheckedLog(
            self._path, self._first.member, self._keys[-1], tree.get_root(1), tuple(self._entries), tree.get_root
        )

    def _check_shown(self, log: CheckedLog, start: int) -> None:
        """Every signature in the entries behind the first `start`; and what they say that this member showed must stand in the log."""
        known: dict[str, Sequence[bytes]] = {log.member: tuple(self._keys)}
        members, seen = self._members, self._seen
        if members is not None:
            known |= {name: members.keys_of(name) for name in members if name != log.member}
        for place, entry in enumerate(log.entries[start:], start + 1):
            where = f"{log.path}, entry {place}"
            if isinstance(entry, CheckpointsSeen):
                seen[entry.session, entry.phase] = entry.shown
                for name, shown in entry.shown.items():
                    _check_signed(where, known, name, entry, shown)
                own = entry.shown.get(log.member)
                if own is not None and not _stands(log, own, place):
                    raise damaged(
                        log.path, place, "the log says that it showed another past than the one that it holds", "entry"
                    )
            elif isinstance(entry, CheckpointRefused):
                _check_signed(where, known, entry.member, entry, entry.shown)
            elif isinstance(entry, CheckpointCountersigned):
                shown_then = seen.get((entry.session, entry.phase), {})
                digest = shown_digest(bytes.fromhex(entry.session), entry.phase, shown_then)
                if entry.digest != digest.hex():
                    raise damaged(
                        log.path, place, "it is said to be countersigned, and what was shown is another", "entry"
                    )
                for name, signature in entry.signatures.items():
                    if name in known:
                        _verify(where, known[name], name, COUNTERSIGN_PURPOSE, digest, signature)


def _check_signed(
    where: str,
    known: Mapping[str, Sequence[bytes]],
    name: str,
    entry: CheckpointsSeen | CheckpointRefused,
    shown: CheckpointJson,
) -> None:
    if name in known:
        checkpoint = Checkpoint(bytes.fromhex(shown.log), shown.size, bytes.fromhex(shown.root))
        signed = signed_checkpoint(bytes.fromhex(entry.session), entry.phase, name, checkpoint)
        _verify(where, known[name], name, SHOWN_PURPOSE, signed, shown.signature)


def _verify(where: str, keys: Sequence[bytes], name: str, purpose: str, content: bytes, signature: str) -> None:
    """One of the member's keys, the one that it has or one that it had, made the signature."""
    for key in keys:
        with contextlib.suppress(IdentityError):
            return verify(key, purpose, content, bytes.fromhex(signature))
    raise IdentityError(f"{where}: the signature of {name!r} does not verify under its identity", member=name)


def _stands(log: CheckedLog, shown: CheckpointJson, most: int) -> bool:
    """Whether a checkpoint is one of the log as far as its first `most` entries."""
    return shown.log == log.name.hex() and shown.size <= most and log.root_of(shown.size).hex() == shown.root


def report_of(log: CheckedLog, pinned: bool) -> LogReport:
    """What is told of a log that holds."""
    sizes: dict[tuple[str, str], int] = {}
    countersigned: dict[str, int] = {}
    for entry in log.entries:
        if isinstance(entry, CheckpointsSeen) and log.member in entry.shown:
            sizes[entry.session, entry.phase] = entry.shown[log.member].size
        elif isinstance(entry, CheckpointCountersigned) and pinned:
            size = sizes.get((entry.session, entry.phase), 0)
            for name in entry.signatures:
                if name != log.member:
                    countersigned[name] = max(size, countersigned.get(name, 0))
    size = len(log.entries)
    return LogReport(
        member=log.member,
        identity=fingerprint(log.identity),
        log=log.name.hex(),
        entries=size,
        root=log.root_of(size).hex(),
        pinned=pinned,
        runs=runs_of(log),
        countersigned=countersigned,
        refusals=sum(isinstance(entry, RunRefused) for entry in log.entries),
    )


def runs_of(log: CheckedLog) -> tuple[str, ...]:
    """The runs that began in a log, in order."""
    return tuple(dict.fromkeys(entry.run for entry in log.entries if isinstance(entry, RunBegun)))


def find_run(log: CheckedLog, run: str) -> str:
    """The id of the one run that begins with these digits. Raises PlanError."""
    found = [each for each in runs_of(log) if each.startswith(run.lower())]
    if len(found) != 1 or not run:
        raise PlanError(
            f"{log.path}: holds {len(found)} runs that begin with {run!r:.80}; `hansa audit show` lists the runs of a log"
        )
    return found[0]


def entries_of(log: CheckedLog, run: str) -> Iterator[tuple[int, Entry]]:
    """The entries of one run and their places from 1, with what members showed of their logs before and after it."""
    session = ""
    opening: list[tuple[int, Entry]] = []
    running = False
    for place, entry in enumerate(log.entries, 1):
        if isinstance(entry, CheckpointsSeen | CheckpointCountersigned | CheckpointRefused | LogReplaced):
            if isinstance(entry, CheckpointsSeen) and entry.phase == "opening":
                opening, running = [(place, entry)], False
            elif running and (isinstance(entry, LogReplaced) or entry.session == session):
                yield place, entry
            else:
                opening.append((place, entry))
        elif not isinstance(entry, LogBegun | IdentityReplaced) and entry.run == run:
            if not running:
                yield from opening
                session = next((e.session for _, e in opening if isinstance(e, CheckpointsSeen)), "")
                opening, running = [], True
            yield place, entry


def compare_logs(first: CheckedLog, second: CheckedLog, run: str) -> Comparison:
    """Hold what two members' logs say of one run to each other, and each log to the checkpoints that the other holds of it.

    Messages are compared in the last epoch that both finished: where a run breaks off, frames are under way that one end has sent and
    the other never received. Of any other epoch each log must say that it began alike.

    Raises PlanError: both are of one member, or one does not hold the run.
    """
    if first.member == second.member:
        raise PlanError(f"{second.path}: is a log of {second.member!r}, as {first.path} is; give two members' logs")
    whole = find_run(first, run)
    if find_run(second, run) != whole:
        raise PlanError(f"{second.path}: holds another run that begins with {run!r:.80}; give more digits")
    held = [
        *_held_against(second, first, lambda what, says, holds: Disagreement(what, says, holds)),
        *_held_against(first, second, lambda what, says, holds: Disagreement(what, holds, says)),
    ]
    return compare_entries(first, second.member, second.entries, whole, held)


def compare_entries(
    first: CheckedLog, other: str, entries: Sequence[Entry], run: str, held: Sequence[Disagreement]
) -> Comparison:
    """Hold what a log says of a run to what another member's entries say of it.

    Args:
        other, entries: the other member, and its entries of the run. run: the whole id. held: where one of the two logs is not what its
            member showed to the other.
    """
    finished = _finished(first.entries, run).keys() & _finished(entries, run).keys()
    facts = tuple(_facts(own, run, {first.member, other}, finished) for own in (first.entries, entries))
    # Not every member knows the model; who does must know the same.
    names = sorted({*facts[0], *facts[1]} - ({*MODEL_FACTS} - {*facts[0]}) - ({*MODEL_FACTS} - {*facts[1]}))
    disagreements = [
        Disagreement(name, facts[0].get(name, ""), facts[1].get(name, ""))
        for name in names
        if facts[0].get(name) != facts[1].get(name)
    ]
    epochs = tuple(sorted(_epochs(first.entries, run) & _epochs(entries, run)))
    return Comparison(
        first=first.member,
        second=other,
        run=run,
        epochs=epochs,
        compared=len(names),
        disagreements=(*disagreements, *held),
    )


def _epochs(entries: Sequence[Entry], run: str) -> set[int]:
    return {entry.epoch for entry in entries if isinstance(entry, RunBegun) and entry.run == run}


def _finished(entries: Sequence[Entry], run: str) -> dict[int, RunOver]:
    """The epochs of a run that ended as they should."""
    return {
        entry.epoch: entry
        for entry in entries
        if isinstance(entry, RunOver)
        and entry.run == run
        and entry.state in ("finished", "withheld")
        and entry.epoch >= 0
    }


MODEL_FACTS = ("model", "receivers of the model")


def _facts(entries: Sequence[Entry], run: str, pair: set[str], finished: Set[int]) -> dict[str, str]:
    """What a log says of a run that the other member's must say too, by name. finished: epochs whose messages are told."""
    facts: dict[str, str] = {}
    for entry in entries:
        if isinstance(entry, RunBegun) and entry.run == run:
            where = f"epoch {entry.epoch}: "
            for name in ("plan", "mode", "purpose", "hub", "proposal"):
                facts[where + name] = str(getattr(entry, name))
            facts[where + "approved by"] = ", ".join(entry.approved_by)
            facts |= {f"{where}identity of {name}": own for name, own in entry.members.items()}
            facts |= {f"{where}rows of {name}": f"{rows} and {held} held out" for name, rows, held in entry.roster}
        elif isinstance(entry, ModelReleased) and entry.run == run:
            facts["model"] = entry.model
            facts["receivers of the model"] = ", ".join(entry.receivers)
    for epoch, over in _finished(entries, run).items():
        if epoch not in finished:
            continue
        facts[f"epoch {epoch}: ended"] = over.state
        for name, digest in over.transcript.items():
            if {*name.split(">")} == pair:
                facts[f"epoch {epoch}: all frames {name}"] = digest
    counts: dict[tuple[int, str, str, str], list[int]] = {}
    for entry in entries:
        if isinstance(entry, MessagesCounted) and entry.run == run and entry.epoch in finished:
            for each in entry.counts:
                if {each.sender, each.receiver} == pair:
                    total = counts.setdefault((entry.epoch, each.sender, each.receiver, each.kind), [0, 0])
                    total[0] += each.messages
                    total[1] += each.bytes
    for (epoch, sender, receiver, kind), (messages, size) in counts.items():
        facts[f"epoch {epoch}: {kind} {sender}>{receiver}"] = f"{messages} messages, {size} bytes"
    return facts


def _held_against(
    holder: CheckedLog, log: CheckedLog, disagree: Callable[[str, str, str], Disagreement]
) -> Iterator[Disagreement]:
    """Where a log is not the one that its member showed to the other."""
    for place, entry in enumerate(holder.entries, 1):
        if not isinstance(entry, CheckpointsSeen | CheckpointRefused):
            continue
        shown = entry.shown.get(log.member) if isinstance(entry, CheckpointsSeen) else entry.shown
        if shown is None or (isinstance(entry, CheckpointRefused) and entry.member != log.member):
            continue
        if not _stands(log, shown, len(log.entries)):
            has = (
                f"its first {shown.size} entries have the root {log.root_of(shown.size).hex()}"
                if shown.size <= len(log.entries)
                else f"it has {len(log.entries)} entries"
            )
            yield disagree(
                f"the log of {log.member}, as it showed it ({holder.member}'s entry {place})",
                f"log {log.name.hex()}, {has}",
                f"log {shown.log}, {shown.size} entries with the root {shown.root}",
            )
