"""Memory of a hub's service under load: many parties, several runs at once, one after another, for minutes.

    python -m benchmarks.bench_service [--minutes 10] [--parties 32] [--runs 4] [--rounds 60] [--rows 400]

Each of the runs at once is a lane: its share of the parties takes part in one run after another, by proposals that all approve, over
mutual TLS through the service's one port. A lane's parties are threads of one process; the service and its runs' processes are what
is measured (resident memory, Linux). The figures are those of the service's process, which lives through all, and of the processes of
its runs, which come and go.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hansa.consortium.approvals import approve, propose, write_proposal
from hansa.consortium.identity import create_identity, load_identity, save_identity
from hansa.consortium.members import members_of, read_members, write_members
from hansa.node.config import read_member_file
from hansa.node.run import run
from hansa.plan import parse_plan
from hansa.toml import write_toml

HUB, PAGE = "hub", 4096
LOOK_S = 5.0
WARM_S = 60.0
"""Seconds after which memory is to grow no more."""

PLAN = """
name = "load-{lane}-{number}"
mode = "secure-aggregation"

[members]
aggregator = "hub"
parties = {parties}
receivers = ["{first}"]

[schema]
features = ["a", "b", "c", "d"]
label = "y"

[privacy]
min_party_rows = 1

[parameters]
objective = "binary:logistic"
rounds = {rounds}
max_depth = 4
max_bin = 32
"""


def names_of(lane: int, parties: int) -> list[str]:
    return [f"p{lane}-{number}" for number in range(parties)]


def make(folder: Path, lanes: int, parties: int, rows: int) -> None:
    """Identities, the members file, and every party's rows."""
    names = [HUB, *itertools.chain(*(names_of(lane, parties) for lane in range(lanes)))]
    identities = {name: create_identity(name, days=1) for name in names}
    for name, identity in identities.items():
        save_identity(identity, folder / f"{name}.identity")
    write_members(folder / "members.toml", members_of([identity.card() for identity in identities.values()]))
    for seed, name in enumerate(names[1:]):
        draw = np.random.Generator(np.random.PCG64(seed))
        table = draw.normal(size=(rows, 4)).round(3)
        label = (table.sum(axis=1) + draw.logistic(size=rows) > 0).astype(int)
        lines = [",".join(map(str, (*row, own))) for row, own in zip(table, label, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(["a,b,c,d,y", *lines]) + "\n")


def play_lane(folder: Path, lane: int, parties: int, rounds: int, port: int, until: float) -> None:
    """One run after another; prints a line for each that is over."""
    names = names_of(lane, parties)
    members = read_members(folder / "members.toml")
    for number in itertools.count():
        if time.time() > until:
            return
        text = PLAN.format(lane=lane, number=number, parties=json.dumps(names), first=names[0], rounds=rounds)
        proposal = propose(parse_plan(text), members, load_identity(folder / f"{HUB}.identity"))
        for name in names:
            proposal = approve(proposal, load_identity(folder / f"{name}.identity"))
        own = folder / f"lane-{lane}-{number}"
        own.mkdir()
        write_proposal(own / "plan.json", proposal)
        for name in names:
            values = {
                "plan": "plan.json",
                "members": str(folder / "members.toml"),
                "identity": str(folder / f"{name}.identity"),
                "hub": f"127.0.0.1:{port}",
                "table": str(folder / f"{name}.csv"),
                "ledger": f"{name}-ledger.jsonl",
                "audit": str(folder / f"{name}.audit"),  # of all its runs: members know it by its name
                "policy": {"least_party_rows": 1},
                **({"model": "model.json"} if name == names[0] else {}),
            }
            (own / f"{name}.toml").write_text(write_toml(values))
        shutil.copy(own / "plan.json", folder / "inbox" / f".{lane}-{number}")
        (folder / "inbox" / f".{lane}-{number}").rename(folder / "inbox" / f"{lane}-{number}.json")
        threads = [
            threading.Thread(target=run, args=(read_member_file(own / f"{name}.toml"), lambda _: None))
            for name in names
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if not (own / "model.json").exists():
            raise RuntimeError(f"run {number} of lane {lane} gave no model")
        shutil.rmtree(own)
        print(number, flush=True)


def resident(pid: int) -> int:
    """Bytes of memory that a process has; 0 where it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def looks(service: int, seconds: float) -> Iterator[tuple[float, int, int, int]]:
    """(seconds since the start, the service's bytes, its runs' processes, the bytes of the largest of them), every few seconds."""
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        found = [resident(pid) for pid in children(service)]
        yield now, resident(service), len(found), max(found, default=0)
        time.sleep(LOOK_S)


def main() -> None:
    """Print memory over time, and what it grew by after the first minute."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    reader.add_argument("--minutes", type=float, default=10.0)
    reader.add_argument("--parties", type=int, default=32)
    reader.add_argument("--runs", type=int, default=4)
    reader.add_argument("--rounds", type=int, default=60)
    reader.add_argument("--rows", type=int, default=400)
    reader.add_argument("--lane", nargs=4, help=argparse.SUPPRESS)
    given = reader.parse_args()
    share = given.parties // given.runs
    if given.lane:
        folder, lane, port, until = given.lane
        play_lane(Path(folder), int(lane), share, given.rounds, int(port), float(until))
        return
    with tempfile.TemporaryDirectory(prefix="hansa-bench-") as name:
        measure(Path(name), given, share)


def measure(folder: Path, given: argparse.Namespace, share: int) -> None:
    make(folder, given.runs, share, given.rows)
    (folder / "inbox").mkdir(mode=0o700)
    values = {"members": "members.toml", "identity": f"{HUB}.identity", "hub": "127.0.0.1:0", "plans": "inbox"}
    (folder / "hub.toml").write_text(write_toml({**values, "most_runs": given.runs}))
    service = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hansa",
            "aggregator",
            str(folder / "hub.toml"),
            "--service",
            "--json",
            "--log-level",
            "error",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    lanes = []
    try:
        assert service.stdout is not None
        port = json.loads(service.stdout.readline())["addresses"][0].rpartition(":")[2]
        threading.Thread(target=service.stdout.read, daemon=True).start()
        until = time.time() + 60 * given.minutes
        sizes = ["--parties", str(given.parties), "--runs", str(given.runs), "--rounds", str(given.rounds)]
        for lane in range(given.runs):
            told = [str(folder), str(lane), port, str(until)]
            command = [sys.executable, "-m", "benchmarks.bench_service", *sizes, "--lane", *told]
            lanes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        print(f"{given.parties} parties, {given.runs} runs at once of {given.rounds} rounds, {given.minutes:g} minutes")
        print(f"{'seconds':>8}{'service, MB':>13}{'processes':>11}{'the largest, MB':>17}")
        found = []
        for seconds, own, processes, largest in looks(service.pid, 60 * given.minutes):
            found.append((seconds, own, largest))
            if any(lane.poll() for lane in lanes):
                raise RuntimeError("a lane ended before its time")
            if len(found) % 6 == 1:
                print(f"{seconds:>8.0f}{own / 1e6:>13.1f}{processes:>11}{largest / 1e6:>17.1f}", flush=True)
        over = 0
        for lane in lanes:
            out, _ = lane.communicate()
            if lane.returncode:
                raise RuntimeError(f"a lane ended with status {lane.returncode}")
            over += len(out.splitlines())
        warm = [each for each in found if each[0] <= WARM_S]
        late = [each for each in found if each[0] > WARM_S] or found
        print(f"{over} runs are over")
        for what, place in (("the service", 1), ("the largest process of a run", 2)):
            before, after = max(each[place] for each in warm), max(each[place] for each in late)
            print(f"{what}: at most {before / 1e6:.1f} MB in the first minute, {after / 1e6:.1f} MB after it")
    finally:
        for process in (*lanes, service):
            if process.poll() is None:
                process.terminate()
        service.wait()


if __name__ == "__main__":
    main()
