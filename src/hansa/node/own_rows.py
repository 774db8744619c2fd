"""A party's rows as its process has them: read here, with their codes in memory or on disk, or by the workers of an engine."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from hansa.consortium.ledger import Ledger
from hansa.data.columns import Columns, each
from hansa.data.files import open_table
from hansa.data.holdout import keyed_digest
from hansa.data.parts import parts_of
from hansa.data.query import Parts
from hansa.data.source import check_whole, no_rows
from hansa.data.streamed import open_rows
from hansa.engines.disk_codes import DiskFolder
from hansa.engines.ray_workers import RayWorkers
from hansa.engines.settings import RaySettings
from hansa.engines.shard import ShardSource
from hansa.engines.sharded_rows import ShardedRows
from hansa.errors import DataError, own_fault
from hansa.node.config import MemberFile
from hansa.node.functions import read_function_files
from hansa.roles.batches import told_of
from hansa.roles.summed.custom import NO_FUNCTION_FILES
from hansa.roles.summed.party_rows import HoldRows
from hansa.roles.summed.rows_in_memory import RowsInMemory


class OwnRows(Protocol):
    """What a run asks of the rows beside training.

    Attributes:
        n_rows: of the table. warnings: sentences for the party's own eyes.
        columns: the rows, where they are in this process. hold: who holds them from when the run begins.
    """

    @property
    def n_rows(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...

    @property
    def columns(self) -> Columns | None: ...

    @property
    def hold(self) -> HoldRows: ...

    def ledger_columns(self, ledger: Ledger) -> tuple[str, ...]:
        """What the ledger knows the rows by (`Ledger.columns`)."""

    def digest(self, key: bytes) -> bytes:
        """A keyed hash of the rows in any order, 32 bytes."""


@dataclass(frozen=True, eq=False)
class RowsHere:
    """Rows of this process."""

    columns: Columns
    warnings: tuple[str, ...]
    hold: HoldRows = RowsInMemory

    @property
    def n_rows(self) -> int:
        return self.columns.n_rows

    def ledger_columns(self, ledger: Ledger) -> tuple[str, ...]:
        rows = self.columns
        return ledger.columns(each(rows), *np.atleast_2d(rows.label), rows.weight, rows.base_margin)

    def digest(self, key: bytes) -> bytes:
        return keyed_digest(key, self.columns)


@dataclass(frozen=True, eq=False)
class RowsOfWorkers:
    """Rows of an engine's workers."""

    sharded: ShardedRows
    warnings: tuple[str, ...]
    columns: None = None

    @property
    def n_rows(self) -> int:
        return self.sharded.n_rows

    @property
    def hold(self) -> HoldRows:
        return lambda *_: self.sharded

    def ledger_columns(self, ledger: Ledger) -> tuple[str, ...]:
        return self.sharded.ledger_columns(ledger.key)

    def digest(self, key: bytes) -> bytes:
        return self.sharded.digest(key)


@contextmanager
def own_rows(member: MemberFile, *, describes: bool) -> Iterator[list[OwnRows]]:
    """A list of the party's rows alone, from which whoever goes on with them takes them out: memory is let go as early as can be."""
    with contextlib.ExitStack() as stack:
        with own_fault(member.identity.name):
            given = stack.enter_context(_opened(member, describes=describes))
        yield given


@contextmanager
def _opened(member: MemberFile, *, describes: bool) -> Iterator[list[OwnRows]]:
    """`own_rows`, whoever is at fault."""
    assert member.table is not None  # `summed.check_keys`
    engine = member.engine
    if not isinstance(engine, RaySettings):
        kind = member.plan.parameters.label_kind
        with contextlib.ExitStack() as stack:
            hold: HoldRows = RowsInMemory
            folder: DiskFolder | None = None
            if engine is not None and not describes:
                folder = stack.enter_context(contextlib.closing(DiskFolder(engine.folder, member.identity.name)))
                hold = partial(RowsInMemory, code=folder.code)
            rows = stack.enter_context(
                open_rows(member.table, member.schema, label_kind=kind, by_column=member.by_column)
            )
            if folder is not None:
                folder.check_room(rows.n_rows * len(member.schema.features))
            told = told_of(member.plan, rows.facts, describes=describes)
            given: list[OwnRows] = [RowsHere(rows, told, hold)]
            del rows
            yield given
        return
    assert isinstance(member.table, Path)  # `config` takes an engine for files alone
    files = _files_with_rows(member.table)
    functions = NO_FUNCTION_FILES
    if not describes and (member.plan.custom_objective or member.plan.custom_metric):
        member.policy.check_plan(member.plan)  # before workers run the files of functions
        functions = read_function_files(member.plan, member.custom_objective, member.custom_metric)
    n_workers = min(engine.workers, len(files))
    bounds = [len(files) * worker // n_workers for worker in range(n_workers + 1)]
    sources = [
        ShardSource(
            member.plan,
            member.identity.name,
            Parts(member.table, files[first:end]),
            member.schema,
            member.by_column,
            engine.threads,
            describes,
            functions,
        )
        for first, end in itertools.pairwise(bounds)
    ]
    workers = RayWorkers(engine, sources)
    try:
        sharded = ShardedRows(workers, member.identity.name)
        facts = sharded.facts()
        check_whole(str(member.table), member.schema, facts, sharded.own_levels)
        yield [RowsOfWorkers(sharded, told_of(member.plan, facts, describes=describes))]
    finally:
        workers.close()


def _files_with_rows(table: Path) -> tuple[Path, ...]:
    """The files of a folder or pattern that have rows: no worker is given none. Raises DataError where none has any."""
    files = parts_of(table.absolute())  # workers start in other folders
    assert files is not None
    with open_table(Parts(table, files)) as opened:
        ends = [*(part.first_row for part in opened.parts), opened.count_rows()]
        kept = tuple(file for file, (first, end) in zip(files, itertools.pairwise(ends), strict=True) if end > first)
        if not kept:
            raise DataError(str(no_rows(opened)))
    return kept
