"""What memory there is, and what a party's rows take of it where sums leave it; for `hansa check`, and for servers' shares."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import Literal

import msgspec

from hansa.data.columns import LARGE_CELLS
from hansa.data.streamed import BLOCK_ROWS
from hansa.plan import COOPETITIVE, Plan
from hansa.printable import size
from hansa.roles.summed.side_by_side import trees_at_once
from hansa.trees.losses import is_logistic
from hansa.trees.sparse_codes import SPARSE

MEMORY = Path("/proc/meminfo")
"""Where Linux says what memory it has; its sizes are in KiB."""

PROCESS_BYTES = 400e6
"""About what a party's process takes beside its rows, buffers of what it reads included (`benchmarks/bench_memory.py`)."""

DUCKDB_BYTES = 24
"""About what handing over a value of four bytes takes, its arrays and the copy of them included (measured)."""

CODES_OF_A_BYTE = 256

PLAIN_LABEL_KINDS = ("binary",)
"""Labels that are kept as one bit each where memory counts."""


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """About how many bytes a party's process takes at most.

    Attributes:
        in_memory: where its rows are read into memory. by_column: where they are read by column; None where they cannot be.
        on_disk: where, besides, their codes are on disk (`engine`); None as above. file: bytes of the files there then.
        chosen: how this table is read. free: what the machine can give, or None where it does not say.
    """

    in_memory: int
    by_column: int | None
    on_disk: int | None
    file: int | None
    chosen: Literal["in memory", "by column", "on disk"]
    free: int | None

    def lines(self) -> list[str]:
        """For people."""
        found = [f"Memory: this party's process takes at most about {size(self.in_memory)} with its rows in memory"]
        if self.by_column is not None:
            found[0] += f", {size(self.by_column)} where they are read by column"
        free = "" if self.free is None else f"; the machine can give {size(self.free)}"
        found[0] += f" (by_column in its file). This table is read {WAYS[self.chosen]}{free}."
        if self.on_disk is not None and self.file is not None:
            found.append(
                f'With its codes on disk (engine.kind = "disk" in its file) it takes about {size(self.on_disk)} of memory, and '
                f"files of {size(self.file)}."
            )
        return found


WAYS = {
    "in memory": "into memory",
    "by column": "by column",
    "on disk": "by column, with its codes on disk",
}
"""`Memory.chosen`, in a sentence."""


def memory_of(
    plan: Plan,
    n_rows: int,
    *,
    lacks: bool,
    parquet: bool,
    by_column: bool | None,
    on_disk: bool = False,
    threads: int = 1,
) -> Memory | None:
    """What training takes of a party with so many rows; None in coopetitive mode, whose owners hold their rows.

    Args:
        lacks: whether some row has no value of some feature. parquet: whether the rows are in Parquet files. by_column: as in the
            party's file. on_disk: whether its engine keeps codes on disk. threads: compute threads.
    """
    if plan.mode == COOPETITIVE:
        return None
    possible = parquet and not plan.start_model
    large = n_rows * len(plan.schema.features) >= LARGE_CELLS
    streamed = possible and (large if by_column is None else by_column)
    by_file = _bytes_of(plan, n_rows, lacks, True, streamed=True, on_disk=True) + _sums_of(plan, threads)
    return Memory(
        in_memory=_bytes_of(plan, n_rows, lacks, large, streamed=False),
        by_column=_bytes_of(plan, n_rows, lacks, True, streamed=True) if possible else None,
        on_disk=by_file if possible else None,
        file=n_rows * _file_bytes(plan, lacks) if possible else None,
        chosen="on disk" if on_disk else "by column" if streamed else "in memory",
        free=free_memory(),
    )


def _code_bytes(plan: Plan, lacks: bool) -> int:
    """Bytes of a code."""
    most = max([plan.parameters.max_bin + lacks, *(len(own) + 1 for own in plan.schema.categories)])
    return 1 if most <= CODES_OF_A_BYTE else 2


def _file_bytes(plan: Plan, lacks: bool) -> int:
    """Bytes a row of the files in an engine's folder: of its codes, and of packed gradients of trees side by side."""
    features, packed = len(plan.schema.features), _packed_bytes(plan)
    at_once = min(trees_at_once(plan, features, packed // 8, 1), plan.parameters.outputs)
    return features * _code_bytes(plan, lacks) + packed * at_once


def _packed_bytes(plan: Plan) -> int:
    """Bytes of a row's packed gradient and hessian."""
    return 8 if _narrow(plan) else 16


def _sums_of(plan: Plan, threads: int) -> int:
    """Bytes of the histograms that threads build over codes on disk: of a level's nodes, by each, and of the trees side by side."""
    parameters = plan.parameters
    nodes = 1 if parameters.grow_policy == "lossguide" else 2 ** max(parameters.max_depth - 2, 0)
    planes, cells = 1 if _narrow(plan) else 2, len(plan.schema.features) * parameters.max_bin
    return (threads + trees_at_once(plan, cells, planes, 1)) * nodes * planes * 8 * cells


def _narrow(plan: Plan) -> bool:
    """Whether gradients and hessians share a word."""
    parameters = plan.parameters
    return parameters.histogram_bits == 32 or (
        parameters.histogram_bits == "auto" and is_logistic(parameters.objective) and plan.schema.weight is None
    )


def _bytes_of(plan: Plan, n_rows: int, lacks: bool, large: bool, *, streamed: bool, on_disk: bool = False) -> int:
    """The largest of three steps: reading, coding, and training, in bytes a row, with what each keeps (`summed.rows_in_memory`)."""
    parameters, schema = plan.parameters, plan.schema
    features, outputs = len(schema.features), parameters.outputs
    of_code = _code_bytes(plan, lacks)
    sparse = 0 if on_disk or large else 4 * features / SPARSE + 8  # at most
    codes = 0 if on_disk else features * of_code * (1 if large else 2) + sparse
    ids = 8 * (schema.id is not None)
    columns = len(schema.labels) + (schema.weight is not None)
    hashes = 8 if parameters.subsample < 1 else 0
    held = plan.evaluation_fraction * 4 * (1 + columns) + (plan.evaluation_fraction > 0) / 8
    plain = large and parameters.label_kind in PLAIN_LABEL_KINDS
    kept = (1 / 8 if plain else 4) * len(schema.labels) + 4 * (schema.weight is not None)
    derivatives = 16 * outputs if not large or parameters.trees_per_round > 1 else 0
    leaves = 4 if parameters.quantiles else 0  # of which leaf a row is in, before the leaves have values
    starts = 4 * outputs if parameters.quantiles and parameters.num_parallel_tree > 1 else 0
    packed = 0 if on_disk else _packed_bytes(plan)
    at_once = trees_at_once(plan, features, _packed_bytes(plan) // 8, n_rows)  # or fewer, where features have many bins
    beside = (at_once - 1) * (2 + 4 * (parameters.num_parallel_tree > 1)) + (min(at_once, outputs) - 1) * packed
    training = codes + 4 * outputs + leaves + starts + packed + 2 + kept + held + hashes + derivatives + beside
    whole = 4 * columns + ids + 8 * (schema.weight is not None)  # weights too as the whole numbers that are summed
    one_column = 5 if on_disk else 6 if plan.evaluation_fraction == 0 else 12
    coding = codes + whole + hashes + held + (one_column if streamed else 4 * features)
    if not streamed:
        reading = 7.5 * features  # measured: DuckDB's arrays, and the copy of them
    else:  # a column, and the rows' hashes: by them rows are held out or drawn, and the state knows the table
        reading = 4 + max(9 if plan.evaluation_fraction else 8, hashes, DUCKDB_BYTES * (schema.id is not None))
    blocks = (DUCKDB_BYTES - 4) * min(n_rows, BLOCK_ROWS) if streamed else 0  # the column is counted already
    return math.ceil(PROCESS_BYTES + max(n_rows * training, blocks + n_rows * max(coding, whole + reading)))


def free_memory() -> int | None:
    """Bytes of memory that the system says it can give, caches that it would drop included; None where it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMORY.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
