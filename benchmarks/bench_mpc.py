"""Time one oblivious tree with three server processes on this machine, phase by phase.

    python benchmarks/bench_mpc.py [--rows 100000] [--features 30] [--cuts 31] [--depth 6] [--trees 3]
    [--assisted] [--regenerate]

Servers talk over socket pairs, without TLS. CPU seconds, bytes and rounds are those of a server, for a tree
after the first (the first is cheaper). Beside them stands a bare uint32 product of the same size, timed in
the same run. Each process reads its shares from files, so that its memory is its own. Test data come from
numpy's generator; keys from the operating system.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import select
import socket
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.plain_product import product_seconds
from hansa.mpc.replicated import PairStreams, Program, Server
from hansa.mpc.ring import ShareArray
from hansa.node.phases import phase_of
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.shared_rows import RowShares, label_words, receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, Sampling, boost, memory_estimate, start_margins
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm
from lockstep import check_received

ALGORITHM = Algorithm.AES_256_CTR


class Peer:
    """One end of a socket pair; small messages fit its buffers, large ones are read while they are sent."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, 1 << 20)


def exchange(peers: dict[int, Peer], send: dict[int, list[memoryview]], receive: dict[int, list[memoryview]]) -> None:
    """Send and receive all of a round's bytes, whichever socket is ready."""
    while any(send.values()) or any(receive.values()):
        readers = [peers[p].connection for p, parts in receive.items() if parts]
        writers = [peers[p].connection for p, parts in send.items() if parts]
        ready_in, ready_out, _ = select.select(readers, writers, [])
        for p, parts in send.items():
            if parts and peers[p].connection in ready_out:
                sent = peers[p].connection.send(parts[0])
                parts[0] = parts[0][sent:]
                if not parts[0].nbytes:
                    parts.pop(0)
        for p, parts in receive.items():
            if parts and peers[p].connection in ready_in:
                got = peers[p].connection.recv_into(parts[0])
                if not got:
                    raise ConnectionError(f"server {p} has gone")
                parts[0] = parts[0][got:]
                if not parts[0].nbytes:
                    parts.pop(0)


def drive(program: Program[Any], peers: dict[int, Peer], ledger: dict[str, Any]) -> Any:
    """Run one server's program over sockets; CPU, bytes and rounds by phase go to the ledger."""
    received = None
    clock = time.process_time()
    while True:
        try:
            step = next(program) if received is None else program.send(received)
        except StopIteration as stop:
            return stop.value
        phase = phase_of(step.step)
        out = {
            p: [memoryview(np.ascontiguousarray(a)).cast("B") for a in arrays if a.nbytes]
            for p, arrays in step.send.items()
        }
        ledger[phase]["bytes"] += sum(part.nbytes for parts in out.values() for part in parts)
        arrays: dict[int, list[ShareArray]] = {
            p: [np.empty(s.shape, s.dtype) for s in shapes] for p, shapes in step.expect.items()
        }
        exchange(peers, out, {p: [memoryview(a).cast("B") for a in of if a.nbytes] for p, of in arrays.items()})
        for p, shapes in step.expect.items():
            check_received(step.step, p, shapes, arrays[p])
        received = arrays
        now = time.process_time()
        ledger[phase]["cpu"] += now - clock
        ledger[phase]["rounds"] += 1
        clock = now


def serve(
    index: int,
    peers: dict[int, socket.socket],
    secrets: dict[tuple[int, int], bytes],
    work: tuple[Any, ...],
    report: Any,
) -> None:
    """One server process: trees, then its ledger of the trees after the first."""
    candidates, messages, own_codes, settings, trees, folder, regenerate = work
    keys = {p: PairKey(secrets[min(index, p), max(index, p)], f"s{index}", f"s{p}") for p in peers}
    server = Server(index, PairStreams(index, keys, ALGORITHM))
    blocks = [
        receive_rows(candidates, index, read_parts(folder, number, m), ALGORITHM, c, regenerate)
        for number, (m, c) in enumerate(zip(messages, own_codes, strict=True))
    ]
    ends = {p: Peer(s) for p, s in peers.items()}
    labels = label_words(blocks)
    margins = start_margins(server, labels.shape[1], settings)
    ledger: dict[str, Any] = defaultdict(lambda: {"cpu": 0.0, "bytes": 0, "rounds": 0})
    walls = []
    for tree in range(trees + 1):
        if tree == 1:
            ledger.clear()
        start = time.perf_counter()
        program = boost(server, candidates, blocks, labels, margins, settings, Sampling(), tree, 0)
        _, margins, _ = drive(program, ends, ledger)
        walls.append(time.perf_counter() - start)
    report.put((index, dict(ledger), walls, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def table(rows: int, features: int, cuts: int) -> tuple[Any, Any]:
    """Codes and labels with a few effects."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, cuts + 1, (rows, features)).astype(np.uint16)
    c = codes / cuts
    score = 2 * c[:, 0] + (c[:, 1] > 0.6) - (codes[:, 2] % 3 == 0) * c[:, 0] + rng.normal(size=rows)
    return codes, (score > 1.2).astype(np.uint32)


def write_parts(folder: Path, number: int, message: RowShares) -> RowShares:
    """The parts of an owner's message that travel go to files; the message without them is left."""
    for half, parts in enumerate(message.parts):
        for place, part in enumerate(parts or ()):
            path = folder / f"{number}-{half}-{place}.npy"
            if not path.exists():
                np.save(path, part)
    return replace(message, parts=tuple(None if p is None else () for p in message.parts))


def read_parts(folder: Path, number: int, message: RowShares) -> RowShares:
    """The message whole again."""
    whole = [
        None if parts is None else tuple(np.load(folder / f"{number}-{half}-{place}.npy") for place in range(3))
        for half, parts in enumerate(message.parts)
    ]
    return replace(message, parts=(whole[0], whole[1]))


def run(args: argparse.Namespace) -> list[tuple[int, dict[str, Any], list[float], int]]:
    """Share the rows, start three processes, collect their ledgers."""
    candidates = Candidates(tuple(Feature(args.cuts) for _ in range(args.features)))
    codes, labels = table(args.rows, args.features, args.cuts)
    settings = BoostingSettings("binary:logistic", rounds=args.trees + 1, max_depth=args.depth)
    owners: list[int | None] = [0, 1, 2] if args.assisted else [None, None, None]
    slices = np.array_split(np.arange(args.rows), 3)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / str(i) for i in range(3)]
        for folder in folders:
            folder.mkdir()
        shared = []
        for number, (s, o) in enumerate(zip(slices, owners, strict=True)):
            messages = share_rows(candidates, codes[s], labels[s], ALGORITHM, o)
            shared.append([write_parts(folders[i], number, m) for i, m in enumerate(messages)])
            del messages
        return start(args, candidates, codes, shared, owners, slices, settings, folders)


def start(
    args: argparse.Namespace,
    candidates: Candidates,
    codes: Any,
    shared: list[list[RowShares]],
    owners: list[int | None],
    slices: list[Any],
    settings: BoostingSettings,
    folders: list[Path],
) -> list[tuple[int, dict[str, Any], list[float], int]]:
    """Three processes, one a server; their ledgers."""
    pairs = {pair: socket.socketpair() for pair in ((0, 1), (0, 2), (1, 2))}
    secrets = {pair: os.urandom(32) for pair in pairs}
    context = multiprocessing.get_context("fork")
    report = context.Queue()
    workers = []
    for i in range(3):
        ends = {(b if a == i else a): pairs[a, b][0 if a == i else 1] for a, b in pairs if i in (a, b)}
        own = [codes[s] if o == i else None for s, o in zip(slices, owners, strict=True)]
        work = (candidates, [m[i] for m in shared], own, settings, args.trees, folders[i], args.regenerate)
        workers.append(context.Process(target=serve, args=(i, ends, secrets, work, report)))
    for worker in workers:
        worker.start()
    results = sorted(report.get() for _ in workers)
    for worker in workers:
        worker.join()
    estimates = [
        memory_estimate(
            candidates,
            args.rows,
            settings,
            args.rows if args.assisted else 0,
            slices[i].stop - slices[i].start if args.assisted else 0,
            i if args.regenerate else None,
        )
        for i in range(3)
    ]
    print(f"estimate of memory a server: {' '.join(f'{e / 1e6:.0f}' for e in estimates)} MB")
    return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=30)
    parser.add_argument("--cuts", type=int, default=31)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--trees", type=int, default=3)
    parser.add_argument("--assisted", action="store_true")
    parser.add_argument("--regenerate", action="store_true", help="store no columns that a key stream gives")
    args = parser.parse_args()
    columns = args.features * args.cuts
    results = run(args)
    bare = product_seconds(args.rows, columns, 2**args.depth)
    speed = args.rows * columns * 2**args.depth / bare / 1e9
    print(f"bare product {args.rows} x {columns} x {2**args.depth}: {bare:.2f} s, {speed:.1f} Gmac/s")
    print(f"{'phase':16} {'CPU s':>22} {'MB sent':>22} {'rounds':>7}   a tree; S0 S1 S2")
    names = sorted({name for _, ledger, _, _ in results for name in ledger})
    total = np.zeros((3, 3))
    for name in names:
        rows = np.array(
            [[ledger.get(name, {}).get(key, 0) for key in ("cpu", "bytes", "rounds")] for _, ledger, _, _ in results]
        )
        rows = rows / args.trees
        total += rows
        print_row(name, rows)
    print_row("all", total)
    wall = np.median([walls[1:] for _, _, walls, _ in results])
    peaks = " ".join(f"{peak / 1e6:.0f}" for *_, peak in results)
    print(f"wall {wall:.2f} s a tree = {wall / bare:.2f} bare products; CPU {total[:, 0].max():.2f} s a server")
    print(f"peak resident {peaks} MB a server")


def print_row(name: str, rows: Any) -> None:
    """One line of the table."""
    cpu = " ".join(f"{x:7.3f}" for x in rows[:, 0])
    sent = " ".join(f"{x / 1e6:7.2f}" for x in rows[:, 1])
    print(f"{name:16} {cpu} {sent} {rows[0, 2]:7.0f}")


if __name__ == "__main__":
    main()
