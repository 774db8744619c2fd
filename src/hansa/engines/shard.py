"""A worker's shard of a party's rows, and the calls that it takes."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hansa.consortium.ledger import column_hashes
from hansa.data.columns import Columns, each
from hansa.data.holdout import keyed_digest
from hansa.data.query import Parts
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.data.streamed import StreamedRows, open_rows
from hansa.plan import Plan
from hansa.roles.summed.custom import NO_FUNCTION_FILES, FunctionFiles, Functions
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.trees.histogram import Layout
from hansa.trees.worker_pool import WorkerPool


class Shard:
    """Some rows of a party, as `sharded_rows.ShardedRows` asks for them.

    Args:
        plan, owner, functions, describes: as for `RowsInMemory`. rows: of this shard. threads: that compute here.

    Attributes:
        taken: by name, the calls of `party_rows.PartyRows` that a worker is asked for, and a few beside.
    """

    def __init__(
        self, plan: Plan, owner: str, rows: Columns, threads: int, functions: Functions, describes: bool
    ) -> None:
        held = self._rows = RowsInMemory(plan, owner, rows, WorkerPool(threads), functions, describes)
        self.taken: dict[str, Callable[..., Any]] = {
            "built_histograms": self._built_histograms,
            "checksum": held.checksum,
            "count_bins": held.count_bins,
            "count_cells": held.count_cells,
            "count_levels": held.count_levels,
            "count_magnitudes": held.count_magnitudes,
            "count_residuals": held.count_residuals,
            "draw": held.draw,
            "follow": held.follow,
            "join": held.join,
            "label_counts": held.label_counts,
            "levels": self._levels,
            "metrics": held.metrics,
            "move": held.move,
            "quantise": held.quantise,
            "recode": held.recode,
            "set_leaves": held.set_leaves,
            "shap": held.shap,
            "sizes": self._sizes,
            "start": held.start,
            "start_round": held.start_round,
            "start_tree": held.start_tree,
            "sum_labels": held.sum_labels,
            "unite": held.unite,
        }

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The answer of the rows. Raises as they do; ValueError where no such call is taken."""
        if method not in self.taken:
            raise ValueError(f"a shard takes no call {method!r}")
        return self.taken[method](*arguments)

    def _sizes(self) -> tuple[int, int]:
        return self._rows.n_rows, self._rows.evaluation_rows

    def _levels(self) -> dict[str, tuple[str, ...]]:
        return dict(self._rows.own_levels)

    def _built_histograms(self, place: int, layout: Layout, positions: Int64, shape: tuple[int, ...]) -> Int64:
        out = np.empty(shape, np.int64)
        self._rows.histograms(place, layout, positions, out)
        return out


@dataclass(frozen=True)
class ShardSource:
    """Where a worker finds its rows, and what it does with them.

    Attributes:
        plan, owner, describes: as for `RowsInMemory`. parts: the files of this shard. schema: what they are held to.
        by_column: as for `streamed.open_rows`. threads: that compute at the worker.
        functions: of the plan's custom objective and metric, which the member's policy has allowed.
    """

    plan: Plan
    owner: str
    parts: Parts
    schema: Schema
    by_column: bool | None
    threads: int
    describes: bool
    functions: FunctionFiles = NO_FUNCTION_FILES

    def open(self, parts: Parts | None = None) -> contextlib.AbstractContextManager[Rows | StreamedRows]:
        """The rows of the shard, or of some of its files. Raises DataError."""
        kind = self.plan.parameters.label_kind
        return open_rows(parts or self.parts, self.schema, label_kind=kind, by_column=self.by_column, in_part=True)


class ShardWorker:
    """A worker that reads its own shard: a process of an engine.

    Args:
        source: of its rows. Raises DataError where they are not as the schema says, with file, row and column.
    """

    def __init__(self, source: ShardSource) -> None:
        self._source = source
        self._opened = contextlib.ExitStack()
        rows = self._opened.enter_context(source.open())
        self._facts = rows.facts
        self._shard = Shard(
            source.plan, source.owner, rows, source.threads, source.functions.functions(), source.describes
        )

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """As `Shard.call`, and what is asked before a run begins. Arrays that come from another process are copied: they are not to be
        written."""
        match method:
            case "facts":
                return self._facts
            case "ledger_columns":
                return self._ledger_columns(*arguments)
            case "digest":
                return self._digest(*arguments)
        return self._shard.call(method, copy.deepcopy(arguments))

    def _ledger_columns(self, key: bytes) -> set[str]:
        """The ledger's hashes of the columns of each file, so that they do not depend on how many workers there are."""
        found: set[str] = set()
        for file in self._source.parts.files:
            with self._source.open(Parts(self._source.parts.table, (file,))) as rows:
                found |= column_hashes(key, each(rows), *np.atleast_2d(rows.label), rows.weight, rows.base_margin)
        return found

    def _digest(self, key: bytes) -> bytes:
        """A keyed hash of the shard's rows, in any order (`holdout.keyed_digest`)."""
        with self._source.open() as rows:
            return keyed_digest(key, rows)
