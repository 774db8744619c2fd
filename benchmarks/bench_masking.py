"""Speed of key streams and masks on one thread: `python benchmarks/bench_masking.py [--json]`.

Key streams in GB/s; milliseconds for one party to mask 2 MB (a tree's histograms) among 3, 10 and 32 parties,
as one vector and node by node, beside what the key streams alone would take.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.machine import console
from hansa.secure.keys import PairKey
from hansa.secure.masking import Label, Masker
from hansa.secure.prg import CHUNK_BYTES, Algorithm, KeyStream, fresh_key, preferred_algorithm

VECTOR_BYTES = 2 * 2**20
NODE_WORDS = 30 * 257 * 2
STREAM_BYTES = 64 * 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--repeats", type=int, default=15, help="runs of each measurement (default 15)")
    parser.add_argument("--quick", action="store_true", help="two runs of each: does it work?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats = 2
    result = {
        "preferred": preferred_algorithm().value,
        "streams": [
            measure_stream(*told, arguments.repeats) for told in itertools.product(Algorithm, (0, STREAM_BYTES))
        ],
        "masks": [measure_masks(p, ring, arguments.repeats) for p in (3, 10, 32) for ring in (32, 64)],
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
    else:
        show(result)


def measure_stream(algorithm: Algorithm, size: int, repeats: int) -> dict[str, Any]:
    """GB/s of one key stream into a reused buffer; `size` is what it is told of its length, 0 for nothing."""
    buffer = np.empty(CHUNK_BYTES // 8, np.uint64)

    def run() -> None:
        stream = KeyStream(fresh_key(), algorithm, size=size)
        for _ in range(STREAM_BYTES // CHUNK_BYTES):
            stream.words64(len(buffer), buffer)

    seconds = timed(run, repeats)
    gigabytes = {name: STREAM_BYTES / value / 1e9 for name, value in seconds.items()}
    return {
        "algorithm": algorithm.value,
        "told_bytes": size,
        "gb_per_s_best": gigabytes["min"],
        "gb_per_s_median": gigabytes["median"],
    }


def measure_masks(parties: int, ring: int, repeats: int) -> dict[str, Any]:
    """Milliseconds for one of `parties` to mask 2 MB, in one fragment and in fragments of a node's histogram."""
    dtype = np.dtype(np.uint32 if ring == 32 else np.uint64)
    values = np.zeros(VECTOR_BYTES // dtype.itemsize, dtype)
    peers = [f"party-{index:02}" for index in range(parties) if index != 1]
    masker = Masker("party-01", {peer: PairKey(fresh_key(), "party-01", peer) for peer in peers}, preferred_algorithm())
    steps = iter(range(10**9))

    def run(piece: int) -> None:
        label = Label(bytes(32), 0, 0, next(steps), "histogram", bytes(32), bytes(32), len(values) + 1, ring)  # type: ignore[arg-type]
        vector = masker.open(label)
        for start in range(0, len(values), piece):
            vector.mask_into(values[start : start + piece], values[start : start + piece])
        vector.finish()

    whole = timed(lambda: run(len(values)), repeats)
    nodes = timed(lambda: run(NODE_WORDS), repeats)
    masker.erase()
    return {
        "parties": parties,
        "ring": ring,
        "megabytes": VECTOR_BYTES / 1e6,
        "ms_whole_best": 1e3 * whole["min"],
        "ms_whole_median": 1e3 * whole["median"],
        "ms_by_node_best": 1e3 * nodes["min"],
        "ms_by_node_median": 1e3 * nodes["median"],
        "gb_per_s_masked": VECTOR_BYTES * (parties - 1) / whole["min"] / 1e9,
    }


def timed(run: Callable[[], None], repeats: int) -> dict[str, float]:
    """Least and median seconds of a run, after one to warm up."""
    run()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {"min": min(seconds), "median": statistics.median(seconds)}


def show(result: dict[str, Any]) -> None:
    """Print two tables."""
    streams = Table(
        "key stream",
        "told its length",
        "GB/s, best",
        "GB/s, median",
        title=f"one thread; this machine prefers {result['preferred']}",
    )
    for row in result["streams"]:
        told = "yes" if row["told_bytes"] else "no"
        streams.add_row(row["algorithm"], told, f"{row['gb_per_s_best']:.2f}", f"{row['gb_per_s_median']:.2f}")
    masks = Table(
        "parties", "ring", "ms whole, best", "median", "ms by node, best", "median", "GB/s of mask",
        title=f"one party masks {VECTOR_BYTES / 1e6:.1f} MB",
    )  # fmt: skip
    columns = ("ms_whole_best", "ms_whole_median", "ms_by_node_best", "ms_by_node_median", "gb_per_s_masked")
    for row in result["masks"]:
        masks.add_row(str(row["parties"]), str(row["ring"]), *(f"{row[column]:.2f}" for column in columns))
    out = console()
    out.print(streams)
    out.print(masks)


if __name__ == "__main__":
    main()
