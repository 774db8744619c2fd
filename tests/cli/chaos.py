"""`make chaos`: real processes over mutual TLS, killed, stopped, cut off and out of disk at times that a seed draws.

    python tests/cli/chaos.py [--schedules N] [--seed S] [--mode federated]

Prints a row for each schedule: what was done when, and how the run ended. Every run ends in the model of the undisturbed one, or in
refusals that name a cause; anything else is a fault, and the status is then 1.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cutting_line import CuttingLine
from made_consortium import HUB, PARTIES, PLAN, Consortium, Started, make_consortium, write_member

KINDS = ("kill", "kill two", "kill all", "stop", "delay", "cut", "full disk")
ROUNDS = 200
MOST_S = 4.0
"""Of training, within which things happen."""


class Chaos:
    """One run, and what is done to it."""

    def __init__(self, folder: Path, draw: np.random.Generator, mode: str) -> None:
        self.consortium = Consortium(folder)
        self.folder = folder
        self.draw = draw
        self.happened: list[str] = []
        self.more: dict[str, Any] = {"reconnect_timeout_s": 1.0, "wait_s": 60.0}
        hub, self.port = self.consortium.start_hub(**self.more)
        write_member(folder, HUB, self.port, **self.more)
        self.members: dict[str, Started] = {HUB: hub}
        self.lines = {name: CuttingLine(self.port) for name in PARTIES}
        for name in PARTIES:
            masked = {"ledger": f"{name}-ledger.jsonl", "policy": {"allow_two_parties": True, "least_party_rows": 0}}
            own = masked if mode != "federated" else {}
            write_member(folder, name, self.lines[name].port, **self.more, **own)
            self.start(name)

    def start(self, name: str) -> None:
        """Start a member with the command that it always has."""
        role = "aggregator" if name == HUB else "party"
        self.members[name] = self.consortium.start(role, self.folder / f"{name}.toml", "--json")

    def strike(self, kind: str, at: float) -> None:
        """Do one thing, and undo it."""
        everybody = (HUB, *PARTIES)
        count = {"kill two": 2, "kill all": len(everybody)}.get(kind, 1)
        names = [str(name) for name in self.draw.choice(everybody, count, replace=False)]
        if kind in ("cut", "full disk"):
            names = [str(self.draw.choice(PARTIES))]
        running = [name for name in names if self.members[name].process.poll() is None]
        self.happened.append(f"{at:.1f} s: {kind} {', '.join(running) or 'nobody: over'}")
        for name in running:
            process = self.members[name].process
            if kind == "delay":
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.5)
                process.send_signal(signal.SIGCONT)
            elif kind == "cut":
                self.lines[name].down = True
                self.lines[name].sever()
                time.sleep(2.0)  # longer than the reconnect timeout
                self.lines[name].down = False
            elif kind == "stop":
                process.send_signal(signal.SIGTERM)
                self.members[name].end()
            else:
                self.members[name].kill()
        if kind == "full disk" and running:
            self.fill(running[0])
        if kind not in ("delay", "cut"):
            for name in running:
                self.start(name)

    def fill(self, name: str) -> None:
        """Run a party that may write so little that its state does not fit; it must say so."""
        done = subprocess.run(
            [sys.executable, "-m", "hansa", "party", str(self.folder / f"{name}.toml"), "--json"],
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
        )
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ""
        self.happened.append(f"status {done.returncode}: {said[:90]}")

    def end_of(self, member: Started) -> tuple[int, str, str]:
        """Status and texts; a process that hangs is a fault, and is shown."""
        try:
            return member.end()
        except subprocess.TimeoutExpired:
            member.process.kill()
            _, out, err = member.process.communicate()
            return 1, out, err + "\nHANGS"

    def end(self) -> tuple[str, set[bytes]]:
        """How it ended, and the models that there are."""
        ends = {name: self.end_of(member) for name, member in self.members.items()}
        for line in self.lines.values():
            line.close()
        failed = [f"{name}: {text.strip().splitlines()[-1]}" for name, (status, _, text) in ends.items() if status]
        return "; ".join(failed), {path.read_bytes() for path in self.consortium.models()}


def consortium_in(folder: Path, mode: str) -> Path:
    """Identities, plan and tables."""
    plan = PLAN.replace("rounds = 3", f"rounds = {ROUNDS}").replace("federated", mode)
    if mode != "federated":
        plan = plan.replace("min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0")
    folder.mkdir(mode=0o700)
    return make_consortium(folder, plan)


def schedules(seed: int, count: int) -> list[list[tuple[float, str]]]:
    """What happens when, sorted by time; from the seed alone."""
    draw = np.random.Generator(np.random.PCG64(seed))
    return [
        sorted((float(draw.uniform(0, MOST_S)), str(draw.choice(KINDS))) for _ in range(int(draw.integers(1, 4))))
        for _ in range(count)
    ]


def run_one(folder: Path, seed: int, mode: str, schedule: list[tuple[float, str]]) -> tuple[list[str], str, set[bytes]]:
    """What happened, what failed, and the models."""
    run = Chaos(folder, np.random.Generator(np.random.PCG64(seed)), mode)
    try:
        if schedule:
            run.members[PARTIES[0]].event("registered")
        started = time.monotonic()
        for at, kind in schedule:
            time.sleep(max(0.0, started + at - time.monotonic()))
            run.strike(kind, at)
        failed, models = run.end()
        return run.happened, failed, models
    finally:
        run.consortium.stop()


def main() -> int:
    """Print the table; the status."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--schedules", type=int, default=8)
    reader.add_argument("--seed", type=int, default=1)
    reader.add_argument("--mode", default="federated", choices=["federated", "secure-aggregation"])
    given = reader.parse_args()
    faults = 0
    with tempfile.TemporaryDirectory(prefix="hansa-chaos-") as place:
        made = consortium_in(Path(place) / "made", given.mode)
        _, failed, expected = run_one(Path(shutil.copytree(made, Path(place) / "calm")), 0, given.mode, [])
        assert not failed, failed
        print(
            f"{given.mode}, seed {given.seed}: {ROUNDS} trees, {len(PARTIES)} parties and an aggregator, a process each"
        )
        for number, schedule in enumerate(schedules(given.seed, given.schedules), 1):
            folder = Path(shutil.copytree(made, Path(place) / str(number)))
            happened, failed, models = run_one(folder, given.seed + number, given.mode, schedule)
            same = models == expected and not failed
            faults += not same and (not failed or bool(models - expected))
            print(f"{number:3}  {'the same model' if same else failed or 'ANOTHER MODEL'}", flush=True)
            for what in happened:
                print(f"       {what}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
