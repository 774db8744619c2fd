"""`make chaos`: real processes over mutual TLS, killed, stopped, cut off and out of disk at times that a seed draws.

    python tests/cli/chaos.py [--schedules N] [--seed S] [--mode federated]

Prints a row for each schedule: what was done when, and how the run ended. Every run ends in the model of the undisturbed one (on shares
in one of its quality), or in refusals that name a cause; anything else is a fault, and the status is then 1.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cutting_line import CuttingLine
from hansa.trees.ensemble import Ensemble
from hansa.trees.xgboost_json import from_json
from made_consortium import HUB, PARTIES, PLAN, Consortium, Started, cells, make_consortium, write_member
from sharing_hands import COMMANDS, N_ROWS, Hand
from sharing_hands import PARTIES as SHARING

KINDS = ("kill", "kill two", "kill all", "stop", "delay", "cut", "full disk")
ROUNDS = {"federated": 200, "secure-aggregation": 200, "coopetitive": 40}
MOST_S = {"federated": 4.0, "secure-aggregation": 4.0, "coopetitive": 12.0}
"""Of training, within which things happen."""

WAITS: dict[str, Any] = {"reconnect_timeout_s": 1.0, "wait_s": 300.0}


MOST_HANG_S = 900.0
"""That a run may take after the last thing that happened: on a slow machine, compiling its kernels, behind every wait."""


class WithAggregator:
    """Members of a mode with an aggregator; each party's line can be cut."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.consortium = Consortium(folder)
        self.folder = folder
        self.everybody = (HUB, *PARTIES)
        self.cuttable = PARTIES
        hub, port = self.consortium.start_hub(**WAITS)
        write_member(folder, HUB, port, **WAITS)
        self.members: dict[str, Started] = {HUB: hub}
        self.lines = {name: CuttingLine(port) for name in PARTIES}
        for name in PARTIES:
            masked = {"ledger": f"{name}-ledger.jsonl", "policy": {"allow_two_parties": True, "least_party_rows": 0}}
            own = masked if mode != "federated" else {}
            write_member(folder, name, self.lines[name].port, **WAITS, **own)
            self.start(name)

    def command(self, name: str) -> list[str]:
        """That starts a member, always the same one."""
        return ["aggregator" if name == HUB else "party", str(self.folder / f"{name}.toml"), "--json"]

    def start(self, name: str) -> None:
        """Start a member."""
        role, path, option = self.command(name)
        self.members[name] = self.consortium.start(role, Path(path), option)

    def wait_for_start(self) -> None:
        """Until training can be disturbed."""
        self.members[PARTIES[0]].event("registered")

    def stop(self) -> None:
        """Kill what still runs."""
        self.consortium.stop()

    def models(self) -> set[bytes]:
        """That were written."""
        return {path.read_bytes() for path in self.consortium.models()}

    def alike(self, models: set[bytes], expected: set[bytes]) -> bool:
        """The same bytes."""
        return models == expected


class OnShares:
    """Members of a coopetitive run: a hub, two servers that own rows, one that does not, an owner that receives, a receiver."""

    def __init__(self, folder: Path, _mode: str) -> None:
        self.folder = folder
        self.hand = Hand(folder, ROUNDS["coopetitive"], "hub", waits=True, made=True, more=HELD_OUT, **WAITS)
        self.everybody = tuple(COMMANDS)
        self.cuttable = tuple(name for name in COMMANDS if name != self.hand.hub)
        self.members: dict[str, Started] = {}
        self.start(self.hand.hub)
        self.hand.port = self.members[self.hand.hub].event("listening")["port"]
        self.lines = {name: CuttingLine(self.hand.port) for name in self.cuttable}
        self.hand.write(self.hand.hub, **WAITS)
        for name, line in self.lines.items():
            own = {"policy": {"least_party_rows": 0}} if name in SHARING else {}
            self.hand.write(name, **WAITS, **own, hub=f"127.0.0.1:{line.port}")
            self.start(name)

    def command(self, name: str) -> list[str]:
        """That starts a member, always the same one."""
        return [COMMANDS[name], str(self.folder / f"{name}.toml"), "--json"]

    def start(self, name: str) -> None:
        """Start a member."""
        role, path, option = self.command(name)
        self.members[name] = Started(role, Path(path), option)

    def wait_for_start(self) -> None:
        """Until training can be disturbed."""
        self.members["vault"].event("registered")

    def stop(self) -> None:
        """Kill what still runs."""
        for member in self.members.values():
            member.kill()

    def models(self) -> set[bytes]:
        """That were written."""
        return {path.read_bytes() for path in self.folder.glob("*-model.json")}

    def alike(self, models: set[bytes], expected: set[bytes]) -> bool:
        """One model, of as many trees and nearly the same log loss on all rows: leaves round at random, and ties fall either way."""
        if len(models) != 1:
            return False
        (one,), (other,) = ([from_json(model) for model in each] for each in (models, expected))
        return len(one.trees) == len(other.trees) and abs(log_loss(one) - log_loss(other)) < MOST_APART


HELD_OUT = """
eval_metric = "auc"

[evaluation]
fraction = 0.4
steps = [1, 10, 20, 40]
"""

MOST_APART = 0.02
"""Of log loss, between two runs of one plan: two undisturbed runs of it differ by less than a quarter of this."""


def log_loss(ensemble: Ensemble) -> float:
    """Of all parties' rows."""
    table = cells(N_ROWS, 5)
    features = np.stack([np.asarray(table[name], np.float32) for name in ("load", "rsrp", "alarms")])
    p, y = ensemble.predict(features).astype(np.float64), np.asarray(table["fault"])
    return float(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p))))


class Chaos:
    """One run, and what is done to it."""

    def __init__(self, run: WithAggregator | OnShares, draw: np.random.Generator) -> None:
        self.run = run
        self.draw = draw
        self.happened: list[str] = []
        self.over: set[str] = set()

    def strike(self, kind: str, at: float) -> None:
        """Do one thing, and undo it."""
        run, everybody = self.run, self.run.everybody
        count = {"kill two": 2, "kill all": len(everybody)}.get(kind, 1)
        names = [str(name) for name in self.draw.choice(everybody, count, replace=False)]
        if kind in ("cut", "full disk"):
            names = [str(self.draw.choice(run.cuttable))]
        running = [name for name in names if name not in self.over and run.members[name].process.poll() is None]
        self.happened.append(f"{at:.1f} s: {kind} {', '.join(running) or 'nobody: over'}")
        for name in running:
            process = run.members[name].process
            if kind == "delay":
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.5)
                process.send_signal(signal.SIGCONT)
            elif kind == "cut":
                run.lines[name].down = True
                run.lines[name].sever()
                time.sleep(2.0)  # longer than the reconnect timeout
                run.lines[name].down = False
            elif kind == "stop":
                process.send_signal(signal.SIGTERM)
                run.members[name].end()
            else:
                run.members[name].kill()
        if kind in ("delay", "cut"):
            return
        if kind == "full disk" and running and not self.ended(running[0]):
            self.fill(running[0])
        for name in running:
            if not self.ended(name):
                run.start(name)

    def ended(self, name: str) -> bool:
        """Whether a member's run was over when its process died: the same command would begin another run, which nobody joins."""
        record = self.run.folder / f"{name}-record.json"
        finished = record.exists() and json.loads(record.read_text())["state"] == "finished"
        if finished and name not in self.over:
            self.over.add(name)
            self.happened.append(f"the run of {name} was over")
        return name in self.over

    def fill(self, name: str) -> None:
        """Run a member that may write so little that its state does not fit; it must say so, or need no more."""
        size = FULL_BYTES[isinstance(self.run, OnShares)]
        process = subprocess.Popen(
            [sys.executable, "-m", "hansa", *self.run.command(name)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
        )
        try:
            _, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:  # who only receives or owns writes nothing for long
            process.kill()
            _, err = process.communicate()
        said = err.strip().splitlines()[-1] if err.strip() else ""
        self.happened.append(f"status {process.returncode}: {said[:90]}")

    def end_of(self, member: Started) -> tuple[int, str, str]:
        """Status and texts; a process that hangs is a fault, and is shown."""
        try:
            out, err = member.process.communicate(timeout=MOST_HANG_S)
            return member.process.returncode, out, err
        except subprocess.TimeoutExpired:
            member.process.kill()
            out, err = member.process.communicate()
            return 1, out, err + "\nHANGS"

    def end(self) -> tuple[dict[str, str], set[bytes]]:
        """What each member said last that did not end well, and the models that there are."""
        ends = {name: self.end_of(member) for name, member in self.run.members.items() if name not in self.over}
        for line in self.run.lines.values():
            line.close()
        failed = {
            name: ["nothing", *text.strip().splitlines()][-1] for name, (status, _, text) in ends.items() if status
        }
        return failed, self.run.models()


FULL_BYTES = (70_000, 120_000)
"""That a process on a full disk may write to one file, in the modes with an aggregator and on shares: enough for it to begin, and too
little for its state of the whole run."""


def consortium_in(folder: Path, mode: str) -> Path:
    """Identities, plan and tables."""
    folder.mkdir(mode=0o700)
    if mode == "coopetitive":
        Hand(folder, ROUNDS[mode], "hub", waits=True, more=HELD_OUT)
        plan = folder / "plan.toml"
        plan.write_text(plan.read_text().replace("min_cell_rows = 5", "min_cell_rows = 5\nmin_party_rows = 0"))
        return folder
    plan = PLAN.replace("rounds = 3", f"rounds = {ROUNDS[mode]}").replace("federated", mode)
    if mode != "federated":
        plan = plan.replace("min_cell_rows = 2", "min_cell_rows = 2\nmin_party_rows = 0")
    return make_consortium(folder, plan)


Schedule = list[tuple[float, str]]


def schedules(seed: int, count: int, mode: str) -> list[Schedule]:
    """What happens when, sorted by time; from the seed alone."""
    draw, most = np.random.Generator(np.random.PCG64(seed)), MOST_S[mode]
    return [
        sorted((float(draw.uniform(0, most)), str(draw.choice(KINDS))) for _ in range(int(draw.integers(1, 4))))
        for _ in range(count)
    ]


@dataclass(frozen=True)
class End:
    """How a run ended: what happened, what failed, the models, and whether it ran as it should."""

    happened: list[str]
    failed: dict[str, str]
    models: set[bytes]
    alike: bool


def run_one(folder: Path, seed: int, mode: str, schedule: Schedule, expected: set[bytes] | None = None) -> End:
    """One run; `expected`: the models of the undisturbed one."""
    run = OnShares(folder, mode) if mode == "coopetitive" else WithAggregator(folder, mode)
    chaos = Chaos(run, np.random.Generator(np.random.PCG64(seed)))
    try:
        if schedule:
            run.wait_for_start()
        started = time.monotonic()
        for at, kind in schedule:
            time.sleep(max(0.0, started + at - time.monotonic()))
            chaos.strike(kind, at)
        failed, models = chaos.end()
        alike = not models or expected is None or run.alike(models, expected)
        return End(chaos.happened, failed, models, alike)
    finally:
        run.stop()


def verdict(end: End) -> str:
    """How a schedule ended, in words; FAULT where it should not have."""
    if not end.alike:
        return "FAULT: another model"
    if any("HANGS" in said for said in end.failed.values()):
        return f"FAULT: hangs: {told(end.failed)}"
    if any(not said.startswith("hansa: ") for said in end.failed.values()):
        return f"FAULT: no refusal: {told(end.failed)}"
    if end.failed:
        return f"refused: {told(end.failed)}"
    return "the same model" if end.models else "FAULT: no model"


def told(failed: Mapping[str, str]) -> str:
    """What each member said last."""
    return "; ".join(f"{name}: {said}" for name, said in failed.items())


def main() -> int:
    """Print the table; the status."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--schedules", type=int, default=8)
    reader.add_argument("--seed", type=int, default=1)
    reader.add_argument("--first", type=int, default=1, help="number of the first schedule that is run")
    reader.add_argument("--mode", default="federated", choices=list(ROUNDS))
    given = reader.parse_args()
    count = {"the same model": 0, "refused": 0, "FAULT": 0}
    with tempfile.TemporaryDirectory(prefix="hansa-chaos-") as place:
        made = consortium_in(Path(place) / "made", given.mode)
        calm = run_one(Path(shutil.copytree(made, Path(place) / "calm")), 0, given.mode, [])
        assert not calm.failed, calm.failed
        print(f"{given.mode}, seed {given.seed}: {ROUNDS[given.mode]} rounds, a process for each member", flush=True)
        for number, schedule in enumerate(schedules(given.seed, given.schedules, given.mode), 1):
            if number < given.first:
                continue
            folder = Path(shutil.copytree(made, Path(place) / str(number)))
            end = run_one(folder, given.seed + number, given.mode, schedule, calm.models)
            said = verdict(end)
            count[said.split(":")[0]] += 1
            print(f"{number:3}  {said}", flush=True)
            for what in end.happened:
                print(f"       {what}", flush=True)
            if said == "the same model":
                shutil.rmtree(folder)
    print(f"{given.mode}: " + ", ".join(f"{what} {times}" for what, times in count.items()))
    return 1 if count["FAULT"] else 0


if __name__ == "__main__":
    sys.exit(main())
