"""A compute server's own work on a tree by 1, 2, ... threads: one server at a time, its messages replayed, phase by phase.

    python -m benchmarks.bench_server_threads [--rows N] [--features F] [--cuts C] [--depth D] [--threads T ...] [--repeats R]
                                              [--server I] [--assisted] [--quick] [--json]

Three servers train in one process first, and what each one received is kept. Then one of them does its part again alone, with the same
keys, so that nothing waits for a network or for another server: the seconds are those of its kernels. What it would send is compared
with what it sent, byte for byte. Numbers of threads take turns; a figure is the median of the repeats, with least and most beside it.

Other programs on the machine take cores, and then several threads are no faster than one by the clock. So the processor time of the
thread that runs the server stands beside: it does its own share of what is split, all of what is not, and looks for the others' end.
Where as many cores are free as there are threads, it is what the clock would say.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import time
from collections import defaultdict
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.bench_mpc import ALGORITHM, table
from benchmarks.machine import console, described, machine
from hansa.mpc.replicated import PairStreams, Program, RoundArrays, Server
from hansa.node.phases import phase_of
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.shared_rows import Block, RowShares, label_words, receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, Sampling, boost, start_margins
from hansa.roles.shared.server_threads import threads_of
from hansa.secure.keys import PairKey
from hansa.trees.worker_pool import WorkerPool
from lockstep import run_three

ROWS, QUICK_ROWS = 100_000, 20_000
TREES = 2
"""The first is cheaper, and is not timed."""

Seconds = dict[str, tuple[float, float]]
"""Phase -> by the clock, and of the processor that the server's own thread took."""

Keys = dict[tuple[int, int], bytes]


def server_of(index: int, secrets: Keys, threads: int = 1) -> Server:
    """A server that has drawn nothing yet."""
    keys = {p: PairKey(secrets[min(index, p), max(index, p)], f"s{index}", f"s{p}") for p in {0, 1, 2} - {index}}
    return Server(index, PairStreams(index, keys, ALGORITHM), threads_of(WorkerPool(threads)))


def trees_of(server: Server, candidates: Candidates, block: Block, settings: BoostingSettings) -> Program[None]:
    """The trees of one server."""
    labels = label_words([block])
    margins = start_margins(server, labels.shape[1], settings)
    for tree in range(TREES):
        _, margins, _ = yield from boost(server, candidates, [block], labels, margins, settings, Sampling(), tree, 0)


def kept(program: Program[None], received: list[RoundArrays], sent: Any) -> Program[None]:
    """A program whose rounds are kept."""
    step = next(program)
    while True:
        note_sent(step.send, sent)
        answer = yield step
        received.append(answer)
        try:
            step = program.send(answer)
        except StopIteration:
            return


def note_sent(send: Any, sent: Any) -> None:
    """Add what a round sends to a hash."""
    for peer in sorted(send):
        for array in send[peer]:
            sent.update(np.ascontiguousarray(array).view(np.uint8).data)


def replay(program: Program[None], received: list[RoundArrays]) -> tuple[Seconds, str]:
    """Run a program on kept messages; seconds of the trees after the first by phase, and a hash of what it sends."""
    seconds: Seconds = defaultdict(lambda: (0.0, 0.0))
    sent, first = hashlib.sha256(), len(received) // TREES
    began, cpu, step = time.perf_counter(), time.thread_time(), next(program)
    for number, answer in enumerate(received):
        if number >= first:
            phase = phase_of(step.step)
            wall, own = seconds[phase]
            seconds[phase] = wall + time.perf_counter() - began, own + time.thread_time() - cpu
        note_sent(step.send, sent)
        began, cpu = time.perf_counter(), time.thread_time()
        try:
            step = program.send(answer)
        except StopIteration:
            break
    return dict(seconds), sent.hexdigest()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds by threads and phase of one server. Asserts that all send the same."""
    candidates = Candidates(tuple(Feature(options.cuts) for _ in range(options.features)))
    codes, labels = table(options.rows, options.features, options.cuts)
    settings = BoostingSettings("binary:logistic", rounds=TREES, max_depth=options.depth)
    secrets = {pair: os.urandom(32) for pair in ((0, 1), (0, 2), (1, 2))}
    index = options.server
    owner = index if options.assisted else None
    messages: list[RowShares] = share_rows(candidates, codes, labels, ALGORITHM, owner)
    blocks = [receive_rows(candidates, i, messages[i], ALGORITHM, codes if i == owner else None) for i in range(3)]
    received: list[RoundArrays] = []
    sent = hashlib.sha256()
    programs = [trees_of(server_of(i, secrets), candidates, blocks[i], settings) for i in range(3)]
    programs[index] = kept(programs[index], received, sent)
    run_three(programs)
    block = blocks[index]
    del blocks, programs, messages
    runs: dict[int, list[Seconds]] = {count: [] for count in options.threads}
    for repeat in range(options.repeats + 1):
        for count in options.threads:
            seconds, same = replay(trees_of(server_of(index, secrets, count), candidates, block, settings), received)
            assert same == sent.hexdigest(), f"{count} threads must send the same"
            if repeat:  # the first warms up
                runs[count].append(seconds)
    return {
        "machine": machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "rows": options.rows,
        "features": options.features,
        "cuts": options.cuts,
        "depth": options.depth,
        "server": index,
        "assisted": options.assisted,
        "runs": {str(count): own for count, own in runs.items()},
    }


def all_of(run: Seconds, which: int) -> float:
    """Seconds of all phases: 0 by the clock, 1 of the processor."""
    return sum(own[which] for own in run.values())


def show(result: dict[str, Any]) -> None:
    """Print a table by the clock, and one of processor time."""
    counts = list(result["runs"])
    names = sorted({name for own in result["runs"].values() for run in own for name in run})
    out = console()
    out.print(
        f"S_{result['server']} alone, {result['rows']:,} rows x {result['features']} features x {result['cuts']} cuts, depth "
        f"{result['depth']}; load {result['load']:.1f} on {result['cores']} cores\n{described(result['machine'])}"
    )
    for which, title in enumerate(("by the clock", "of the processor, the server's own thread")):
        shown = Table(title=f"ms of a tree {title}: median (least to most)", title_justify="left")
        shown.add_column("phase")
        for count in counts:
            shown.add_column(f"{count} thread{'s' * (count != '1')}", justify="right")
            if count != counts[0]:
                shown.add_column("ratio", justify="right")
        for name in (*names, "all"):
            cells, before = [], 0.0
            for count in counts:
                runs = result["runs"][count]
                values = [all_of(run, which) if name == "all" else run.get(name, (0.0, 0.0))[which] for run in runs]
                middle = statistics.median(values)
                cells.append(f"{1e3 * middle:.0f} ({1e3 * min(values):.0f} to {1e3 * max(values):.0f})")
                if count != counts[0]:
                    cells.append(f"{before / middle:.2f}" if middle else "")
                before = before or middle
            shown.add_row(name, *cells)
        out.print(shown)
    out.print("all sent the same bytes")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--cuts", type=int, default=31)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--server", type=int, default=0, choices=range(3))
    parser.add_argument("--assisted", action="store_true", help="the server owns the rows")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS:,} rows: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    options.rows = options.rows or (QUICK_ROWS if options.quick else ROWS)
    result = measure(options)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
