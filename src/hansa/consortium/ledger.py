"""Which people a party's rows have met in protected runs, with how many rows each, and how often.

The difference of two sums over the same rows is the part of whoever left, came or changed in between. So a party's rows meet one set
of people (by identity key, not by name), in one mode's roles, with one number of rows each; another is refused unless the party's
policy allows it. A ledger is a file of JSON lines that never leaves the party; beside it lies its key, under which columns are hashed:
an unkeyed hash of a label column would give the number of its ones to whoever reads the file and tries them all.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy
from hansa.errors import PlanError
from hansa.files import failed, read_whole
from hansa.plan import Plan
from hansa.secure.prg import fresh_key

KEY_BYTES = 32
_CHECK = b"hansa ledger"


class Met(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One party that the rows met: its name, its identity key in hex, and the rows that it claimed."""

    name: str
    identity: str
    rows: int
    evaluation_rows: int


class Spent(msgspec.Struct, frozen=True):
    """What a run may tell of rows: trees, and leaves of all of them together, as the plan bounds both before it runs."""

    trees: int
    leaves: int


def spent_under(plan: Plan) -> Spent:
    """Of one run of a plan; early stopping may tell less, and a run that broke off counts in full."""
    trees = plan.parameters.rounds * plan.parameters.trees_per_round
    return Spent(trees, trees * plan.parameters.most_leaves)


def split_under(plan: Plan) -> str:
    """What decides which fold a row is in, hashed, in hex; "" of a plan without folds."""
    if not plan.folds:
        return ""
    schema = {
        key: value for key, value in asdict(plan.schema).items() if key != "id" or value is not None
    }  # it came later
    return hashlib.sha256(msgspec.json.encode([plan.folds, plan.parameters.seed, schema])).hexdigest()


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of a ledger: one run.

    Attributes:
        columns: keyed hashes of the columns of this party's rows, sorted. mode: of the run. parties: everybody whose rows were
            summed, this party included, sorted by name. run: the run's id in hex. trees, leaves: `Spent`; 0 in lines of releases
            that did not count them. split: of one of a plan's folds, `split_under`; else "".
    """

    columns: tuple[str, ...]
    mode: str
    parties: tuple[Met, ...]
    run: str
    trees: int = 0
    leaves: int = 0
    split: str = ""


class _Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ledger's first line: its format, and what proves that the key beside it is its own."""

    ledger: int
    check: str


class Ledger:
    """A party's ledger, opened with its key; both are made, for this user's eyes only, where there is no ledger yet.

    Args:
        path: of the file. The key lies beside it, `.key` behind its name.

    Raises:
        PlanError: the file is not a ledger, or its key is missing or another's. OutputError: it cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._key_path = path.with_name(path.name + ".key")
        with self._locked():
            pass

    def columns(
        self, features: Iterable[npt.NDArray[np.float32]], *arrays: npt.NDArray[np.float32] | None
    ) -> tuple[str, ...]:
        """What the ledger knows rows by: a keyed hash of each column, in hex, sorted.

        A column is hashed by its sorted values, so that neither the order of the rows nor the choice of features in a later plan
        makes known rows look new. Rows added or taken away do (docs/explanation/what-leaks.md). Two tables with as many rows may
        share a column by chance (a flag that is never set, a label as often 1): they are then taken for the same, on the safe
        side.

        Args:
            features: one after another, float32 (n,) each; as an array of them is. arrays: the other columns, float32 (n,); None for
                one that is not there.
        """
        return tuple(sorted(column_hashes(self.key, features, *arrays)))

    def admit(self, entry: Entry, policy: Policy) -> None:
        """Write a run down before anything of it leaves; refuse people, counts or a number of runs that the policy does not allow.

        The check and the line are one step: of two processes at once the second sees the first.

        Raises:
            PlanError: rows that share a column with these met others, or as often as is allowed; or the ledger cannot be read.
        """
        with self._locked() as (file, known):
            self._check(known, entry.columns, entry.parties, policy, Spent(entry.trees, entry.leaves), entry.split)
            end = os.lseek(file, 0, os.SEEK_END)
            try:
                _write_all(file, msgspec.json.encode(entry) + b"\n")
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)  # a line cut off by a full disk would make the whole ledger unreadable
                raise

    def check(
        self, columns: tuple[str, ...], people: Mapping[str, str], policy: Policy, spent: Spent, split: str = ""
    ) -> None:
        """Refuse what `admit` would refuse whatever the others' numbers of rows; nothing is written.

        Args:
            columns: of this party's rows. people: the parties' identity keys in hex, by name. spent: by the run that is to come.
            split: `split_under` of its plan.

        Raises:
            PlanError: as `admit`.
        """
        with self._locked() as (_, known):
            self._check(known, columns, people, policy, spent, split)

    def _check(
        self,
        known: list[Entry],
        columns: tuple[str, ...],
        people: Mapping[str, str] | tuple[Met, ...],
        policy: Policy,
        spent: Spent,
        split: str,
    ) -> None:
        before = [old for old in known if not set(columns).isdisjoint(old.columns)]
        if not policy.allow_other_rosters:
            for old in before:
                change = _change(old, people) if isinstance(people, tuple) else _people_change(old, people)
                if change is not None:
                    raise PlanError(
                        f"these rows, or a column with the same values, were in a {old.mode} run with other people or counts: "
                        f"{change}. The difference of both sums would show the part of whoever left, came or changed; "
                        f"{self.path} keeps count (allow_other_rosters in this party's policy says otherwise)"
                    )
            # The first of 999 folds and that of 1000 may differ by one row, and so would the sums over all others.
            if split and any(old.split not in ("", split) for old in before):
                raise PlanError(
                    "these rows, or a column with the same values, were folded in another way before (another number of folds, seed or "
                    f"schema). The difference of both sums may be of a few rows; {self.path} keeps count (allow_other_rosters in this "
                    "party's policy says otherwise)",
                    rule="rows are folded in one way",
                    cure="propose the folds, seed and schema of the earlier cross-validation",
                )
        if policy.most_runs is not None and len(before) >= policy.most_runs:
            raise PlanError(
                f"these rows, or a column with the same values, were trained on {len(before)} times; this party's policy allows "
                f"{policy.most_runs} (most_runs; {self.path} keeps count)",
                rule="most_runs",
            )
        for key, most, then, now in (
            ("most_trees", policy.most_trees, sum(old.trees for old in before), spent.trees),
            ("most_leaves", policy.most_leaves, sum(old.leaves for old in before), spent.leaves),
        ):
            if most is not None and then + now > most:
                what = key.removeprefix("most_")
                raise PlanError(
                    f"these rows, or a column with the same values, were told of by {then} {what} so far, and this run may have {now} "
                    f"more; this party's policy allows {most} ({key}; {self.path} keeps count)",
                    rule=key,
                )

    @contextmanager
    def _locked(self) -> Iterator[tuple[int, list[Entry]]]:
        """The open file, held by this process alone, and what stands in it."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise failed(self.path, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.fchmod(file, 0o600)
            if os.fstat(file).st_size == 0:
                self._begin(file)
            yield file, self._read(file)
        except OSError as error:
            raise failed(self.path, error) from error
        finally:
            os.close(file)

    def _begin(self, file: int) -> None:
        """A new ledger: its key first, so that no ledger is without one."""
        key = bytes(fresh_key())
        try:
            beside = os.open(self._key_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError as error:
            raise PlanError(
                f"{self.path} is empty, and its key {self._key_path} is there: restore the ledger, which keeps rows from meeting "
                "others. If it never held a line, remove the key"
            ) from error
        try:
            _write_all(beside, key)
            os.fsync(beside)
        finally:
            os.close(beside)
        _write_all(file, msgspec.json.encode(_Head(2, _check_of(key))) + b"\n")
        os.fsync(file)

    def _read(self, file: int) -> list[Entry]:
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(file), "rb") as lines:
            head, *entries = lines.read().split(b"\n")
        try:
            if entries.pop() != b"":
                raise ValueError("its last line is cut off")
            if msgspec.json.decode(head, type=_Head) != _Head(2, _check_of(self.key)):
                raise ValueError(f"it was not made with the key {self._key_path}, or by another release")
            return [msgspec.json.decode(line, type=Entry) for line in entries]
        except (ValueError, IndexError, msgspec.DecodeError) as error:
            raise PlanError(
                f"{self.path}: not a ledger ({error}); restore it: it keeps rows from meeting other people"
            ) from error

    @property
    def key(self) -> bytes:
        """What columns are hashed under: it stays with this party. Raises PlanError where it cannot be read."""
        try:
            key = read_whole(self._key_path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PlanError(
                f"{self._key_path}: the ledger's key cannot be read ({reason}); restore it with the ledger"
            ) from error
        if len(key) != KEY_BYTES:
            raise PlanError(f"{self._key_path}: expected {KEY_BYTES} bytes, found {len(key)}; restore the ledger's key")
        return key


def _check_of(key: bytes) -> str:
    return hmac.new(key, _CHECK, hashlib.sha256).hexdigest()


def column_hashes(
    key: bytes, features: Iterable[npt.NDArray[np.float32]], *arrays: npt.NDArray[np.float32] | None
) -> set[str]:
    """`Ledger.columns` under a key, in no order."""
    others = [array for array in arrays if array is not None]
    return {_column_hash(key, column) for column in chain(features, others)}


def _column_hash(key: bytes, column: npt.NDArray[np.float32]) -> str:
    mac = hmac.new(key, b"hansa column\x00" + repr((column.dtype.str, column.shape)).encode(), hashlib.sha256)
    mac.update(np.sort(column).data)
    return mac.hexdigest()


def _people_change(old: Entry, people: Mapping[str, str]) -> str | None:
    """How the people of a run and those of an older one differ, in words; None where they do not."""
    before = {met.name: met.identity for met in old.parties}
    if before.keys() != people.keys():
        return f"then {', '.join(before)}; now {', '.join(people)}"
    changed = [name for name in before if before[name] != people[name]]
    return f"member {changed[0]!r} has another identity key than then" if changed else None


def _change(old: Entry, parties: tuple[Met, ...]) -> str | None:
    """The same, of people and the numbers of rows that they say they have."""
    change = _people_change(old, {met.name: met.identity for met in parties})
    if change is not None:
        return change
    before = {met.name: met for met in old.parties}
    for met in parties:
        if met != before[met.name]:
            then = f"{before[met.name].rows} and {before[met.name].evaluation_rows} held out"
            return (
                f"member {met.name!r} claimed {then} rows then, and {met.rows} and {met.evaluation_rows} held out now"
            )
    return None


def _write_all(file: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
