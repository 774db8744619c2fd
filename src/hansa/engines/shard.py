"""A worker's shard of a party's rows, and the calls that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hansa.data.columns import Columns
from hansa.plan import Plan
from hansa.roles.summed.custom import Functions
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.trees.histogram import Layout
from hansa.trees.worker_pool import WorkerPool

TAKEN = frozenset(
    {
        "checksum", "count_bins", "count_cells", "count_levels", "count_magnitudes", "count_residuals", "draw", "follow", "join",
        "label_counts", "metrics", "move", "quantise", "recode", "set_leaves", "start", "start_round", "start_tree", "sum_labels",
        "unite",
    }
)  # fmt: skip
"""Methods of `party_rows.PartyRows` that a worker is asked for by name."""


class Shard:
    """Some rows of a party, as `sharded_rows.ShardedRows` asks for them.

    Args:
        plan, owner, functions, describes: as for `RowsInMemory`. rows: of this shard. threads: that compute here.
    """

    def __init__(
        self, plan: Plan, owner: str, rows: Columns, threads: int, functions: Functions, describes: bool
    ) -> None:
        self._rows = RowsInMemory(plan, owner, rows, WorkerPool(threads), functions, describes)

    def call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """The answer of the rows. Raises as they do; ValueError where no such call is taken."""
        own: dict[str, Callable[..., Any]] = {
            "sizes": self._sizes,
            "levels": self._levels,
            "built_histograms": self._built_histograms,
        }
        if method not in TAKEN and method not in own:
            raise ValueError(f"a shard takes no call {method!r}")
        called = own[method] if method in own else getattr(self._rows, method)
        return called(*arguments)

    def _sizes(self) -> tuple[int, int]:
        return self._rows.n_rows, self._rows.evaluation_rows

    def _levels(self) -> dict[str, tuple[str, ...]]:
        return dict(self._rows.own_levels)

    def _built_histograms(self, layout: Layout, positions: Int64, shape: tuple[int, ...]) -> Int64:
        out = np.empty(shape, np.int64)
        self._rows.histograms(layout, positions, out)
        return out
