"""What it costs that a run survives its processes: the same run over TLS with state folders and without, in turn.

    python -m benchmarks.bench_survival [--repeats N] [--mode federated]
    python -m benchmarks.bench_survival --audit [--mode federated]

With `--audit`: what the audit log costs. It cannot be turned off, so every frame of a recorded run is counted and hashed anew, and two
checkpoints are written and flushed, as each member's process does; the seconds are held to those of the run's training.

Ratios within one run on one machine; anything else that works there meanwhile spoils them.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from benchmarks.contestants import Job, as_table, dealt, made_rows, plan_of
from hansa.consortium.audit_entries import MessagesCounted
from hansa.consortium.audit_log import AuditLog, now
from hansa.consortium.identity import create_identity
from hansa.node.auditing import FrameTally
from hansa.protocol import messages
from hansa.simulation.processes import train_in_processes
from hansa.transport.recording import RecordedFrame, read_transcript

PARTIES, ROWS, TREES = 3, 60_000, 100


def seconds(job: Job, on_dropout: str) -> float:
    """Of training, as the aggregator has it."""
    parties = dealt(made_rows(job.rows), job.parties)
    plan = replace(plan_of(job, parties), on_dropout=on_dropout)
    tables = {name: as_table(rows) for name, rows in parties.items()}
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        together = train_in_processes(Path(folder), plan, tables, threads=1, transcript=None, report=lambda _: None)
    return together.seconds.training


def audit_share(job: Job) -> list[tuple[str, int, float, float]]:
    """(end, frames, least seconds of its log, share of training) at each end of one run."""
    parties = dealt(made_rows(job.rows), job.parties)
    plan = plan_of(job, parties)
    tables = {name: as_table(rows) for name, rows in parties.items()}
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as folder:
        frames = Path(folder) / "frames"
        together = train_in_processes(Path(folder), plan, tables, threads=1, transcript=frames, report=lambda _: None)
        training = together.seconds.training
        found = []
        for path in sorted(frames.glob("*.frames")):
            recorded = list(read_transcript(path))
            seconds = min(_counted(recorded, Path(folder) / f"{path.stem}.{n}.bench", path.stem) for n in range(5))
            found.append((path.stem, len(recorded), seconds, seconds / training))
    return found


def _counted(recorded: list[RecordedFrame], path: Path, end: str) -> float:
    """Seconds that one member's log takes for the frames of a run."""
    identity = create_identity("member", days=1)
    start = time.perf_counter()
    log, tally = AuditLog(path, identity), FrameTally()
    for each in recorded:
        kind = messages.kind_of("bench", each.frame).__name__
        tally.note(each.member if each.direction == "up" else "hub", end, kind, each.frame)
    log.flush()
    log.append(MessagesCounted(at=now(), run="", epoch=0, counts=tally.take()))
    log.flush()
    return time.perf_counter() - start


def hash_speeds() -> list[tuple[str, float]]:
    """GB/s of the log's hash, and of SHA-256, on a frame of common size."""
    frame, found = bytes(400_000), []
    for name, digest in (("BLAKE3", blake3()), ("SHA-256", hashlib.sha256())):
        start = time.process_time()
        for _ in range(500):
            digest.update(frame)
        found.append((name, 500 * len(frame) / (time.process_time() - start) / 1e9))
    return found


def main() -> None:
    """Print a table."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--repeats", type=int, default=5)
    reader.add_argument("--mode", default="federated")
    reader.add_argument("--audit", action="store_true")
    given = reader.parse_args()
    job = Job(
        rows=ROWS,
        parties=PARTIES,
        trees=TREES,
        mode=given.mode,
        verify_counts="off" if given.mode == "federated" else "tree",
    )
    if given.audit:
        print(f"{PARTIES} parties, {ROWS} rows, {TREES} trees, {given.mode}: seconds of each member's audit log")
        for end, frames, spent, share in audit_share(job):
            print(f"  {end}: {frames} frames, {spent:.3f} s, {100 * share:.2f} % of training")
        print(f"  one core hashes with {', '.join(f'{name} {speed:.1f} GB/s' for name, speed in hash_speeds())}")
        return
    found: dict[str, list[float]] = {"abort": [], "wait": []}
    for _ in range(given.repeats):
        for on_dropout, times in found.items():
            times.append(seconds(job, on_dropout))
    least = {name: min(times) for name, times in found.items()}
    print(f"{PARTIES} parties, {ROWS} rows, {TREES} trees, {given.mode}: seconds of training")
    for name, times in found.items():
        print(f"  on_dropout = {name!r}: least {least[name]:.2f}, all {', '.join(f'{each:.2f}' for each in times)}")
    print(f"  with state folders / without: {least['wait'] / least['abort']:.3f}")


if __name__ == "__main__":
    main()
