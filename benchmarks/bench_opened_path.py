"""What the opened path of the search for cuts tells an owner that is a server and knows all rows but one.

    python -m benchmarks.bench_opened_path [--quick] [--json]

Coopetitive mode opens the path to every cut to the three servers. An owner among them takes its own rows off: what is left are bits
about the others' rows. Here all rows but one are its own, which is the worst case. It has a guess of what the last row may be: draws
of the distribution that all rows have. Of these it keeps those with which everything that was opened would have been the same. The
bits that it learns of the row are log2 of draws over draws kept; they are told beside those that the cuts alone tell, which are part
of the model: what is opened besides cannot be taken away without taking away cuts.

The search itself is the project's own, on counts in the clear: what it opens follows from pooled counts alone.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.machine import console, described, machine
from hansa.data.quantiles import SortedKeys
from hansa.oblivious.quantile_search import COMPARED, RIGHT, UNKNOWN, CutSearchOnShares, Step, count_probes

ROWS = (50, 200, 1000, 5000)
SETTINGS = ((32, 10), (32, 50), (256, 10), (8, 10))
"""max_bin and min_cell_rows."""

DRAWS, TRIALS = 150, 6
QUICK_ROWS, QUICK_DRAWS, QUICK_TRIALS = (50,), 20, 2

Outcome = tuple[Any, ...]


def opened(values: npt.NDArray[Any], max_bin: int, min_cell_rows: int) -> tuple[Outcome, Outcome]:
    """What the search for one feature's cuts opens, and the cuts.

    Args:
        values: float (rows,), of all owners. max_bin, min_cell_rows: as in the plan.
    """
    keys = SortedKeys.from_features(np.asarray(values, np.float32)[None])
    state = CutSearchOnShares(1, len(values), max_bin, min_cell_rows, (False,))
    while not state.done:
        counts = count_probes(keys, state.request()).astype(np.uint64)
        state = state._with_counts(np.stack([counts, np.zeros_like(counts)]))
        while True:
            if not len(state.paths):
                state, gaps = state._next_phase()
                if not gaps and state.phase > 1:
                    break
                live = [_rows(state, gap.high) - _rows(state, gap.low) > min_cell_rows for _, gap in gaps]
                state = state._with_gaps(gaps, live, [])
                if not len(state.paths):
                    continue
            step = state.step()
            if step is None:
                break
            state = state.descended(step, _bits(state, step))
    return state.found, tuple(state.cuts().of(0).tolist())


def _rows(state: CutSearchOnShares, key: int) -> int:
    return int(state.counts[0, 0, state._below(np.zeros(1, np.int64), np.array([key]))[0]])


def _bits(state: CutSearchOnShares, step: Step) -> npt.NDArray[np.bool_]:
    """`stop` and `right AND NOT stop` of the cells on every path, as a step opens them, from counts in the clear."""
    cells, rows = state._cells(step), state.counts[0, 0].astype(np.int64)
    left, middle, right = rows[cells.halves]
    small_left, small_right = (
        (end - start < state.min_cell_rows + 1)[cells.half] for start, end in ((left, middle), (middle, right))
    )
    low, middle, high = rows[cells.gaps]
    goes_right = cells.parts * (middle - low) < cells.rank * (high - low)
    stop = np.where(goes_right, small_right, small_left)
    bits = np.zeros((len(step.searches), len(step.kinds), 2), np.bool_)
    node, going, first = np.zeros(len(step.searches), np.int64), np.ones(len(step.searches), np.bool_), 0
    for level, kind in enumerate(step.kinds):
        number = np.full(kind.shape, -1)
        number[kind == COMPARED] = first + np.arange((kind == COMPARED).sum())
        first += int((kind == COMPARED).sum())
        every = np.arange(len(node))
        own, at = kind[every, node], number[every, node]
        stops = going & (own == COMPARED) & stop[at]
        rights = going & np.where(own == COMPARED, goes_right[at] & ~stop[at], own == RIGHT)
        bits[:, level, 0], bits[:, level, 1] = stops, rights
        going &= ~stops & (own != UNKNOWN)
        node = 2 * node + rights
    return bits


@dataclass(frozen=True)
class Learnt:
    """What was learnt of the one row, a feature: bits in the mean over trials, and most; of them those that the cuts alone tell."""

    rows: int
    max_bin: int
    min_cell_rows: int
    bits: float
    most: float
    by_cuts: float


def learnt(rows: int, max_bin: int, min_cell_rows: int, draws: int, trials: int, seed: int = 5) -> Learnt:
    """Measure one case. The rows' values are amounts of money: log-normal, to the cent."""
    rng = np.random.default_rng(seed)
    path, cuts = [], []
    for _ in range(trials):
        own = np.round(np.exp(3 + rng.normal(size=rows - 1)), 2)
        true, *guesses = np.round(np.exp(3 + rng.normal(size=1 + draws)), 2)
        everything, known = opened(np.append(own, true), max_bin, min_cell_rows)
        others = [opened(np.append(own, guess), max_bin, min_cell_rows) for guess in guesses]
        for bits, same in (
            (path, sum(other == everything for other, _ in others)),
            (cuts, sum(other == known for _, other in others)),
        ):
            bits.append(np.log2(draws / max(1, same)))
    return Learnt(rows, max_bin, min_cell_rows, float(np.mean(path)), float(np.max(path)), float(np.mean(cuts)))


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = QUICK_ROWS if options.quick else ROWS
    draws, trials = (QUICK_DRAWS, QUICK_TRIALS) if options.quick else (DRAWS, TRIALS)
    found = [learnt(rows, *settings, draws, trials) for settings in SETTINGS for rows in sizes]
    if options.json:
        print(json.dumps({"machine": machine(), "draws": draws, "cases": [vars(own) for own in found]}))
        return
    table = Table(
        title=f"bits learnt of the one unknown row, a feature, of {np.log2(draws):.1f} at most", title_justify="left"
    )
    for column in ("rows", "max_bin", "min_cell_rows", "mean", "most", "by the cuts alone, mean"):
        table.add_column(column, justify="right")
    for own in found:
        table.add_row(
            f"{own.rows:,}",
            str(own.max_bin),
            str(own.min_cell_rows),
            f"{own.bits:.2f}",
            f"{own.most:.2f}",
            f"{own.by_cuts:.2f}",
        )
    out = console(stderr=False)
    out.print(table)
    out.print(described())


if __name__ == "__main__":
    main()
